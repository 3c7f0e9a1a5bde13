//! The record of a call, and pages of records.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::connection::Store;
use super::error::StoreError;
use crate::core::answering_machine::AnsweredBy;
use crate::core::audio_counters::AudioCounters;
use crate::core::call_facts::{CallFacts, CallState};
use crate::core::call_object::{CallDirection, CallObject};
use crate::core::ids::{CallId, LineId, StreamId};
use crate::core::outcome::Outcome;
use crate::core::private::Private;

/// Most records of one page.
pub const PAGE_MAX: u32 = 1_000;
/// Of so many records the last calls of lines are found: an index has them in order.
const RECENT_CALLS: u32 = 20_000;

/// What is kept of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRecord {
    /// The call, but for its custom parameters, which are not kept.
    pub call: CallObject,
    /// The bridge that had it.
    pub node: String,
    /// The audio, once the call is over.
    pub audio: Option<AudioStats>,
}

/// Audio of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AudioStats {
    /// RTP packets that came.
    pub packets_received: u64,
    /// RTP packets that never came, or too late.
    pub packets_lost: u64,
    /// RTP packets sent.
    pub packets_sent: u64,
    /// Interarrival jitter (RFC 3550) at the end.
    pub jitter: Duration,
    /// Estimated MOS of what came; `None` when nothing did.
    pub mos: Option<f64>,
    /// What went wrong with it; `None` in a record of an earlier version, and
    /// where a fault of the bridge ended the call.
    pub counters: Option<AudioCounters>,
}

/// Which records, oldest first.
#[derive(Clone, Debug, Default)]
pub struct CallQuery {
    /// Calls that came at this time or later.
    pub since: Option<SystemTime>,
    /// Calls of this line only.
    pub line: Option<LineId>,
    /// Only what comes after this record, by [`CallPage::next`].
    pub after: Option<(SystemTime, CallId)>,
    /// Most records, 1 to [`PAGE_MAX`].
    pub limit: u32,
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct CallPage {
    /// The records, oldest first.
    pub calls: Vec<CallRecord>,
    /// For the next page's [`CallQuery::after`]; `None` on the last one.
    pub next: Option<(SystemTime, CallId)>,
}

pub(super) const COLUMNS: [&str; 24] = [
    "call_id",
    "sip_call_id",
    "node_id",
    "line_id",
    "restaurant_id",
    "direction",
    "from_number",
    "to_number",
    "started_at",
    "answered_at",
    "ended_at",
    "outcome",
    "attempts",
    "stream_id",
    "worker",
    "sip_status",
    "packets_received",
    "packets_lost",
    "packets_sent",
    "jitter_ms",
    "mos",
    "audio_counters",
    "answered_by",
    "parent_call_id",
];

/// Inserts, or overwrites what was written when the call came: each record
/// holds all that is known, so that a lost one is made up for by the next.
/// One that has ended stays so.
fn upsert() -> String {
    // sqlx's `Any` binds a null f64 as an f32, and PostgreSQL keeps the types
    // of a statement's first execution: decimals travel as text.
    let place = |(index, name): (usize, &&str)| match *name {
        "jitter_ms" | "mos" => {
            format!("CAST(CAST(${} AS TEXT) AS DOUBLE PRECISION)", index + 1)
        }
        _ => format!("${}", index + 1),
    };
    let places: Vec<String> = COLUMNS.iter().enumerate().map(place).collect();
    let sets: Vec<String> = COLUMNS[1..]
        .iter()
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    format!(
        "INSERT INTO calls ({}) VALUES ({}) ON CONFLICT (call_id) DO UPDATE SET {} \
         WHERE excluded.ended_at IS NOT NULL OR calls.ended_at IS NULL",
        COLUMNS.join(", "),
        places.join(", "),
        sets.join(", ")
    )
}

pub(super) async fn write(
    connection: &mut AnyConnection,
    record: &CallRecord,
) -> Result<(), sqlx::Error> {
    let (facts, state, audio) = (&*record.call.facts, &record.call.state, record.audio);
    let count = |count: Option<u64>| count.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    // 0 until the leg has ended.
    let sip_status = Some(state.sip_status).filter(|&status| status > 0);
    sqlx::query(&upsert())
        .bind(facts.id.as_str().to_owned())
        .bind(facts.sip_call_id.as_deref().map(storable))
        .bind(record.node.clone())
        .bind(facts.line.as_str().to_owned())
        .bind(facts.restaurant.clone())
        .bind(facts.direction.as_str())
        .bind(storable(facts.from.expose()))
        .bind(storable(facts.to.expose()))
        .bind(millis(facts.started))
        .bind(state.answered.map(millis))
        .bind(state.ended.map(millis))
        .bind(state.outcome.map(Outcome::as_str))
        .bind(i64::from(state.attempt))
        .bind(state.stream.as_ref().map(|id| id.as_str().to_owned()))
        .bind(state.worker.clone())
        .bind(sip_status.map(i64::from))
        .bind(count(audio.map(|audio| audio.packets_received)))
        .bind(count(audio.map(|audio| audio.packets_lost)))
        .bind(count(audio.map(|audio| audio.packets_sent)))
        .bind(audio.map(|audio| (audio.jitter.as_secs_f64() * 1_000.0).to_string()))
        .bind(audio.and_then(|audio| audio.mos).map(|mos| mos.to_string()))
        .bind(
            audio
                .and_then(|audio| audio.counters)
                .map(|counters| counters.to_json()),
        )
        .bind(state.answered_by.map(AnsweredBy::as_str))
        .bind(facts.parent.as_ref().map(|id| id.as_str().to_owned()))
        .execute(connection)
        .await
        .map(drop)
}

/// What a caller wrote, without the one character that PostgreSQL does not
/// take: a record must not be lost for it.
fn storable(text: &str) -> String {
    text.replace('\0', "")
}

impl Store {
    /// One page of records, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn calls(&self, query: &CallQuery) -> Result<CallPage, StoreError> {
        let limit = query.limit.clamp(1, PAGE_MAX);
        let mut wheres = vec!["started_at >= $1"];
        let since = query.since.map_or(i64::MIN, millis);
        if query.line.is_some() {
            wheres.push("line_id = $2");
        }
        if query.after.is_some() {
            wheres.push(match query.line {
                Some(_) => "(started_at, call_id) > ($3, $4)",
                None => "(started_at, call_id) > ($2, $3)",
            });
        }
        // One more than asked for tells whether there is a next page.
        let sql = format!(
            "SELECT {} FROM calls WHERE {} ORDER BY started_at, call_id LIMIT {}",
            COLUMNS.join(", "),
            wheres.join(" AND "),
            limit + 1
        );
        let mut select = sqlx::query(&sql).bind(since);
        if let Some(line) = &query.line {
            select = select.bind(line.as_str().to_owned());
        }
        if let Some((time, call)) = &query.after {
            select = select.bind(millis(*time)).bind(call.as_str().to_owned());
        }
        const WHAT: &str = "reading call records";
        let rows = select.fetch_all(&self.pool).await;
        let rows = rows.map_err(StoreError::query(WHAT))?;
        let records: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let mut calls = records.map_err(StoreError::query(WHAT))?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = calls.len() > wanted;
        calls.truncate(wanted);
        let last = calls.last().filter(|_| has_more);
        let next = last.map(|last| (last.call.facts.started, last.call.facts.id.clone()));
        Ok(CallPage { calls, next })
    }

    /// When each line had its last call, as far as the latest `RECENT_CALLS` tell.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_calls(&self) -> Result<HashMap<LineId, SystemTime>, StoreError> {
        const WHAT: &str = "reading the last call of each line";
        let sql = format!(
            "SELECT line_id, MAX(started_at) AS last FROM (SELECT line_id, started_at FROM calls \
             ORDER BY started_at DESC, call_id DESC LIMIT {RECENT_CALLS}) AS recent GROUP BY line_id"
        );
        let rows = sqlx::query(&sql).fetch_all(&self.pool).await;
        let rows = rows.map_err(StoreError::query(WHAT))?;
        let last = |row: &AnyRow| {
            let line = LineId::new(row.try_get::<String, _>("line_id")?);
            Ok((line, at(row.try_get("last")?)))
        };
        let last: Result<_, sqlx::Error> = rows.iter().map(last).collect();
        last.map_err(StoreError::query(WHAT))
    }

    /// One record.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn call(&self, id: &CallId) -> Result<Option<CallRecord>, StoreError> {
        const WHAT: &str = "reading a call record";
        let sql = format!(
            "SELECT {} FROM calls WHERE call_id = $1",
            COLUMNS.join(", ")
        );
        let row = sqlx::query(&sql)
            .bind(id.as_str().to_owned())
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query(WHAT))?;
        let record = row.as_ref().map(read).transpose();
        record.map_err(StoreError::query(WHAT))
    }

    /// Marks the calls that this bridge had when it died; the answer is how
    /// many. For the start only, before there are new ones. An SQLite file has
    /// one bridge: there, calls of one of another name are marked too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_lost_calls(&self, node: &str, now: SystemTime) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE calls SET ended_at = $2, outcome = $3 WHERE {} AND ended_at IS NULL",
            self.is_ours()
        );
        let done = sqlx::query(&sql)
            .bind(node.to_owned())
            .bind(millis(now))
            .bind(Outcome::BridgeLost.as_str())
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("marking calls of a bridge that died"))?;
        Ok(done.rows_affected())
    }
}

pub(super) fn read(row: &AnyRow) -> Result<CallRecord, sqlx::Error> {
    let text = |name: &str| row.try_get::<Option<String>, _>(name);
    let time = |name: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(name)?.map(at));
    let count = |name: &str| -> Result<Option<u64>, sqlx::Error> {
        let count: Option<i64> = row.try_get(name)?;
        Ok(count.and_then(|n| u64::try_from(n).ok()))
    };
    let private = |name: &str| Ok::<_, sqlx::Error>(Private::new(text(name)?.unwrap_or_default()));
    let bad = |name: &str| sqlx::Error::ColumnDecode {
        index: name.into(),
        source: "not an id of a call".into(),
    };
    let jitter: Option<f64> = row.try_get("jitter_ms")?;
    let mos: Option<f64> = row.try_get("mos")?;
    let audio = match count("packets_received")? {
        Some(packets_received) => Some(AudioStats {
            packets_received,
            packets_lost: count("packets_lost")?.unwrap_or_default(),
            packets_sent: count("packets_sent")?.unwrap_or_default(),
            jitter: Duration::try_from_secs_f64(jitter.unwrap_or_default() / 1_000.0)
                .unwrap_or_default(),
            mos,
            counters: text("audio_counters")?.and_then(|text| AudioCounters::from_json(&text)),
        }),
        None => None,
    };
    let call: String = row.try_get("call_id")?;
    let facts = CallFacts {
        id: CallId::parse(&call).ok_or_else(|| bad("call_id"))?,
        sip_call_id: text("sip_call_id")?,
        line: LineId::new(row.try_get::<String, _>("line_id")?),
        restaurant: text("restaurant_id")?,
        direction: CallDirection::parse(&row.try_get::<String, _>("direction")?),
        parent: text("parent_call_id")?.and_then(|id| CallId::parse(&id)),
        from: private("from_number")?,
        to: private("to_number")?,
        started: at(row.try_get("started_at")?),
    };
    let mut state = CallState {
        answered: time("answered_at")?,
        ended: time("ended_at")?,
        // A later version may know others.
        outcome: text("outcome")?.as_deref().and_then(Outcome::parse),
        sip_status: small(count("sip_status")?),
        attempt: small(count("attempts")?),
        stream: text("stream_id")?.and_then(|id| StreamId::parse(&id)),
        worker: text("worker")?,
        answered_by: text("answered_by")?.as_deref().and_then(AnsweredBy::parse),
        ..CallState::default()
    };
    state.status = state.kept_status();
    Ok(CallRecord {
        call: CallObject {
            facts: Arc::new(facts),
            state,
        },
        node: row.try_get("node_id")?,
        audio,
    })
}

/// A count that a column of 64 bits holds; 0 for one that is not there.
fn small<T: TryFrom<u64> + Default>(count: Option<u64>) -> T {
    count.and_then(|n| T::try_from(n).ok()).unwrap_or_default()
}

/// Milliseconds since 1970; the clock of no bridge is before that.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn at(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
