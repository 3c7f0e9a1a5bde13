//! Records of calls: written, overwritten, paged through.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sipbridge::core::answering_machine::AnsweredBy;
use sipbridge::core::audio_counters::AudioCounters;
use sipbridge::core::call_facts::{CallFacts, CallState};
use sipbridge::core::call_object::{CallDirection, CallObject};
use sipbridge::core::ids::{CallId, LineId, StreamId};
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::Private;
use sipbridge::store::call_log::CallLog;
use sipbridge::store::{AudioStats, CallQuery, CallRecord, CallSearch, Store};

use crate::stage::Stage;

pub fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis)
}

/// A call that came so many milliseconds after the others began.
pub fn begun(line: &str, millis: u64) -> CallRecord {
    CallRecord {
        call: CallObject {
            facts: Arc::new(CallFacts {
                id: CallId::random(),
                sip_call_id: Some("abc@peer".into()),
                line: LineId::new(line),
                restaurant: None,
                direction: CallDirection::Inbound,
                parent: None,
                from: Private::new("+33612345678"),
                to: Private::new("+33972360682"),
                started: at(millis),
            }),
            state: CallState::default(),
        },
        node: "node".into(),
        audio: None,
    }
}

/// The same record of a call of which other things are known.
pub fn but(mut record: CallRecord, change: impl FnOnce(&mut CallFacts)) -> CallRecord {
    change(Arc::make_mut(&mut record.call.facts));
    record
}

/// The same call at its end.
pub fn ended(record: &CallRecord) -> CallRecord {
    let started = record.call.facts.started;
    let mut state = CallState {
        answered: Some(started + Duration::from_millis(20)),
        sip_status: 200,
        attempt: 2,
        stream: Some(StreamId::random()),
        worker: Some("queue".into()),
        answered_by: Some(AnsweredBy::MachineEndBeep),
        ..CallState::default()
    };
    state.end(Outcome::CallerHungUp, started + Duration::from_secs(60));
    let record = but(record.clone(), |facts| facts.restaurant = Some("7".into()));
    CallRecord {
        call: CallObject {
            state,
            ..record.call
        },
        audio: Some(AudioStats {
            packets_received: 3_000,
            packets_lost: 30,
            packets_sent: 2_999,
            jitter: Duration::from_micros(1_500),
            mos: Some(3.81),
            counters: AudioCounters::from_json(r#"{"rtp_late": 2, "encode_errors": 7}"#),
        }),
        ..record
    }
}

pub async fn write(store: &Store, records: impl IntoIterator<Item = CallRecord>) {
    let (log, task) = CallLog::start(store.clone(), "node");
    let mut count = 0;
    for record in records {
        log.record(record);
        count += 1;
    }
    task.stop(Duration::from_secs(20)).await;
    assert_eq!((log.stats().written, log.stats().dropped), (count, 0));
}

#[tokio::test]
async fn a_record_is_overwritten_by_its_end_and_by_nothing_after() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let record = begun("l", 0);
        write(&store, [record.clone()]).await;
        assert_eq!(
            store.call(&record.call.facts.id).await.unwrap(),
            Some(record.clone())
        );
        let end = ended(&record);
        write(&store, [end.clone()]).await;
        assert_eq!(
            store.call(&record.call.facts.id).await.unwrap(),
            Some(end.clone())
        );
        write(&store, [record.clone()]).await;
        assert_eq!(store.call(&record.call.facts.id).await.unwrap(), Some(end));
        assert_eq!(store.call(&CallId::random()).await.unwrap(), None);
    }
}

/// PostgreSQL keeps the types of the first execution of a statement.
#[tokio::test]
async fn records_with_and_without_audio_follow_each_other() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let records: Vec<_> = (0..30).map(|n| begun("l", n)).collect();
        let both = records.iter().flat_map(|r| [r.clone(), ended(r)]);
        write(&store, both).await;
        let silent = records.iter().map(|record| {
            let mut end = ended(record);
            let audio = end.audio.as_mut().unwrap();
            (audio.mos, audio.counters) = (None, None);
            end
        });
        let silent: Vec<_> = silent.collect();
        write(&store, silent.clone()).await;
        let found = store.call(&records[7].call.facts.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(&silent[7]));
    }
}

#[tokio::test]
async fn records_of_a_version_without_counters_stay_as_they_were() {
    for stage in Stage::both() {
        let record = ended(&begun("l", 0));
        let store = stage.open().await;
        write(&store, [record.clone()]).await;
        store.close().await;
        let counters = stage.sql("SELECT audio_counters FROM calls");
        assert_eq!(counters, r#"{"encode_errors":7,"rtp_late":2}"#);
        stage.sql(
            "ALTER TABLE calls DROP COLUMN audio_counters; \
             DELETE FROM _sqlx_migrations WHERE version = 6",
        );
        let store = stage.open().await;
        let mut expected = record.clone();
        expected.audio.as_mut().unwrap().counters = None;
        assert_eq!(
            store.call(&record.call.facts.id).await.unwrap(),
            Some(expected)
        );
        write(&store, [record.clone()]).await;
        assert_eq!(
            store.call(&record.call.facts.id).await.unwrap(),
            Some(record)
        );
    }
}

#[tokio::test]
async fn pages_hold_every_call_once_in_order() {
    for stage in Stage::both() {
        let store = stage.open().await;
        // Many at the same millisecond: the page ends among them.
        let records: Vec<_> = (0..50)
            .map(|n| begun(if n % 5 == 0 { "five" } else { "one" }, n / 8))
            .collect();
        write(&store, records.iter().rev().cloned()).await;
        let mut expected: Vec<_> = records
            .iter()
            .map(|r| (r.call.facts.started, r.call.facts.id.clone()))
            .collect();
        expected.sort();
        for limit in [1, 7, 50, 2_000] {
            let mut found = Vec::new();
            let mut query = CallQuery {
                limit,
                ..CallQuery::default()
            };
            loop {
                let page = store.calls(&query).await.unwrap();
                assert!(page.calls.len() <= limit as usize);
                let facts = page.calls.iter().map(|r| &r.call.facts);
                found.extend(facts.map(|facts| (facts.started, facts.id.clone())));
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
            assert_eq!(found, expected, "pages of {limit}");
        }
        let line = Some(LineId::new("five"));
        let mut query = CallQuery {
            line,
            limit: 4,
            since: Some(at(2)),
            ..CallQuery::default()
        };
        let one = store.calls(&query).await.unwrap();
        query.after = one.next;
        let two = store.calls(&query).await.unwrap();
        let all: Vec<_> = one.calls.iter().chain(&two.calls).collect();
        // 20, 25, 30, 35, 40, 45.
        assert_eq!((all.len(), two.calls.len(), two.next), (6, 2, None));
        assert!(
            all.iter()
                .map(|r| &r.call.facts)
                .all(|facts| facts.line.as_str() == "five" && facts.started >= at(2))
        );
    }
}

#[tokio::test]
async fn calls_of_a_bridge_that_died_are_marked_and_no_others() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let (lost, done) = (begun("l", 0), ended(&begun("l", 1)));
        let others = CallRecord {
            node: "other".into(),
            ..begun("l", 2)
        };
        write(&store, [lost.clone(), done.clone(), others.clone()]).await;
        let marked = store.end_lost_calls("node", at(99)).await.unwrap();
        let is_sqlite = matches!(stage, Stage::Sqlite(_));
        assert_eq!(marked, 1 + u64::from(is_sqlite));
        let found = store.call(&lost.call.facts.id).await.unwrap().unwrap();
        assert_eq!(
            (found.call.state.outcome, found.call.state.ended),
            (Some(Outcome::BridgeLost), Some(at(99)))
        );
        assert_eq!(store.call(&done.call.facts.id).await.unwrap(), Some(done));
        let found = store.call(&others.call.facts.id).await.unwrap().unwrap();
        // A file has one bridge, whatever it was called before.
        assert_eq!(found.call.state.ended, is_sqlite.then_some(at(99)));
    }
}

#[tokio::test]
async fn what_a_caller_wrote_never_costs_the_record() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let record = but(begun("l", 0), |facts| {
            facts.sip_call_id = Some("a\0b@c".into());
            facts.from = Private::new("\0");
            facts.to = Private::new("+33\0972360682");
        });
        write(&store, [record.clone()]).await;
        let found = store.call(&record.call.facts.id).await.unwrap().unwrap();
        let found = found.call.facts;
        assert_eq!(found.sip_call_id.as_deref(), Some("ab@c"));
        assert_eq!(
            (found.from.expose(), found.to.expose()),
            ("", "+33972360682")
        );
    }
}

#[tokio::test]
async fn old_records_are_deleted_a_few_at_a_time() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let old: Vec<_> = (0..5).map(|n| ended(&begun("l", n))).collect();
        // One that began before the limit and ended after it, one that goes on.
        let mut long = ended(&begun("l", 0));
        long.call.state.ended = Some(at(200_000));
        let young = ended(&begun("l", 100_000));
        let kept = [long, begun("l", 0), young];
        write(&store, old.into_iter().chain(kept.clone())).await;
        let before = at(100_000);
        assert_eq!(store.forget_calls(before, 3).await.unwrap(), 3);
        assert_eq!(store.forget_calls(before, 3).await.unwrap(), 2);
        assert_eq!(store.forget_calls(before, 3).await.unwrap(), 0);
        for record in kept {
            assert_eq!(
                store.call(&record.call.facts.id).await.unwrap(),
                Some(record)
            );
        }
        // No call goes on for a week.
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!(store.forget_calls(at(0) + week, 9).await.unwrap(), 2);
        assert_eq!(store.forget_calls(at(1) + week, 9).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn pages_are_read_by_an_index() {
    let stage = Stage::sqlite();
    stage.open().await;
    let plan = |sql: &str| {
        stage.sql(&format!("EXPLAIN QUERY PLAN SELECT * FROM calls WHERE {sql} ORDER BY started_at, call_id LIMIT 9"))
    };
    let by_time = plan("started_at >= 5");
    assert!(
        by_time.contains("calls_by_time") && !by_time.contains("TEMP B-TREE"),
        "{by_time}"
    );
    let by_line = plan("started_at >= 5 AND line_id = 'x'");
    assert!(
        by_line.contains("calls_by_line") && !by_line.contains("TEMP B-TREE"),
        "{by_line}"
    );
    // As a search for calls in progress asks: the few there are, put in order.
    let in_progress = stage.sql(
        "EXPLAIN QUERY PLAN SELECT * FROM calls WHERE (started_at + 0) >= 5 AND ended_at IS NULL \
         ORDER BY (started_at + 0) DESC, call_id DESC LIMIT 9",
    );
    assert!(in_progress.contains("calls_in_progress"), "{in_progress}");
}

#[tokio::test]
async fn the_last_call_of_each_line_is_known() {
    for stage in Stage::both() {
        let store = stage.open().await;
        assert!(store.last_calls().await.unwrap().is_empty());
        let records = [("a", 1), ("b", 5), ("a", 9), ("c", 2)];
        write(&store, records.map(|(line, millis)| begun(line, millis))).await;
        let expected = [("a", 9), ("b", 5), ("c", 2)];
        let expected = expected.map(|(line, millis)| (LineId::new(line), at(millis)));
        assert_eq!(store.last_calls().await.unwrap(), expected.into());
    }
}

#[tokio::test]
async fn records_are_searched_by_how_they_stand() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let records: Vec<_> = (0..6).map(|n| begun("l", n * 1_000)).collect();
        let mut missed = records[2].clone();
        missed.call.state.end(Outcome::NoAnswer, at(9_000));
        let mut talking = records[3].clone();
        talking.call.state.answered = Some(at(3_500));
        let others = [ended(&records[1]), missed, talking];
        write(&store, records.iter().cloned().chain(others)).await;
        let found = async |search: CallSearch| {
            let search = CallSearch { limit: 9, ..search };
            let found = store.search_calls(&search).await.unwrap();
            let place = |found: &CallRecord| {
                let is_it = |record: &CallRecord| record.call.facts.id == found.call.facts.id;
                records.iter().position(is_it).unwrap()
            };
            found.iter().map(place).collect::<Vec<_>>()
        };
        let any = CallSearch::default;
        assert_eq!(found(any()).await, [5, 4, 3, 2, 1, 0]);
        for (is_over, is_answered, expected) in [
            (Some(false), None, vec![5, 4, 3, 0]),
            (Some(false), Some(true), vec![3]),
            (Some(true), None, vec![2, 1]),
            (Some(true), Some(false), vec![2]),
            (None, Some(true), vec![3, 1]),
        ] {
            let search = CallSearch {
                is_over,
                is_answered,
                ..any()
            };
            assert_eq!(found(search).await, expected);
        }
        let place = |n: usize| Some((at(n as u64 * 1_000), records[n].call.facts.id.clone()));
        let in_progress = CallSearch {
            is_over: Some(false),
            since: Some(at(3_000)),
            before: place(5),
            ..any()
        };
        assert_eq!(found(in_progress).await, [4, 3]);
        // The second ended a minute after it began, the third at nine seconds.
        let by_end = CallSearch {
            ended_since: Some(at(9_000)),
            ended_until: Some(at(60_000)),
            from: Some(Private::new("+33612345678")),
            before: place(5),
            ..any()
        };
        assert_eq!(found(by_end).await, [2]);
    }
}

#[tokio::test]
async fn a_record_is_deleted_for_good_once_its_end_is_written() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let record = begun("l", 0);
        let id = &record.call.facts.id;
        write(&store, [record.clone()]).await;
        let moment = Duration::from_millis(120);
        assert!(!store.delete_ended_call(id, moment).await.unwrap());
        assert!(store.call(id).await.unwrap().is_some(), "it goes on");
        let since = Instant::now();
        let end = async {
            tokio::time::sleep(moment).await;
            write(&store, [ended(&record)]).await;
        };
        let limit = Duration::from_secs(20);
        let (is_gone, ()) = tokio::join!(store.delete_ended_call(id, limit), end);
        assert!(is_gone.unwrap() && since.elapsed() >= moment);
        assert_eq!(store.call(id).await.unwrap(), None);
        let again = store.delete_ended_call(id, Duration::ZERO).await;
        assert!(!again.unwrap());
    }
}
