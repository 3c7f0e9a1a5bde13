//! Records of calls from the newest to the oldest, by who, whom, when and how they stand; deleting one.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::calls::{COLUMNS, CallRecord, PAGE_MAX, millis, read};
use super::connection::Store;
use super::error::StoreError;
use crate::core::ids::CallId;
use crate::core::private::Private;

/// How often a record is looked for whose end is not written yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Which records, newest first.
#[derive(Clone, Debug, Default)]
pub struct CallSearch {
    /// Who called, as it is kept.
    pub from: Option<Private>,
    /// Who was called, as it is kept.
    pub to: Option<Private>,
    /// Calls that began at this time or later.
    pub since: Option<SystemTime>,
    /// Calls that began at this time or before.
    pub until: Option<SystemTime>,
    /// Calls that ended at this time or later.
    pub ended_since: Option<SystemTime>,
    /// Calls that ended at this time or before.
    pub ended_until: Option<SystemTime>,
    /// Only calls that this call's `<Dial>` placed.
    pub parent: Option<CallId>,
    /// Only calls that are over, or only those that are not.
    pub is_over: Option<bool>,
    /// Only calls that were answered, or only those that were not.
    pub is_answered: Option<bool>,
    /// Only what began before this call, which began then.
    pub before: Option<(SystemTime, CallId)>,
    /// Most records, 1 to [`PAGE_MAX`].
    pub limit: u32,
}

/// A value of a statement.
enum Bound {
    Text(String),
    Number(i64),
}

/// The conditions of a search, and their values.
#[derive(Default)]
struct Conditions {
    wheres: Vec<String>,
    bounds: Vec<Bound>,
}

impl Conditions {
    /// `condition` goes before the place of the value.
    fn add(&mut self, condition: &str, bound: Option<Bound>) {
        if let Some(bound) = bound {
            self.bounds.push(bound);
            let place = self.bounds.len();
            self.wheres.push(format!("{condition} ${place}"));
        }
    }

    fn add_null(&mut self, column: &str, is_there: Option<bool>) {
        if let Some(is_there) = is_there {
            let not = if is_there { "NOT " } else { "" };
            self.wheres.push(format!("{column} IS {not}NULL"));
        }
    }
}

impl CallSearch {
    /// The statement and its values.
    fn statement(&self) -> (String, Vec<Bound>) {
        // The calls in progress are few among millions, and have an index of their own. A sum keeps SQLite from reading all calls
        // in the order of the other one.
        let started = match self.is_over {
            Some(false) => "(started_at + 0)",
            _ => "started_at",
        };
        let text = |value: &Private| Bound::Text(value.expose().to_owned());
        let time = |at: SystemTime| Bound::Number(millis(at));
        let mut conditions = Conditions::default();
        conditions.add("from_number =", self.from.as_ref().map(text));
        conditions.add("to_number =", self.to.as_ref().map(text));
        let parent = self
            .parent
            .as_ref()
            .map(|id| Bound::Text(id.as_str().to_owned()));
        conditions.add("parent_call_id =", parent);
        conditions.add(&format!("{started} >="), self.since.map(time));
        conditions.add(&format!("{started} <="), self.until.map(time));
        conditions.add("ended_at >=", self.ended_since.map(time));
        conditions.add("ended_at <=", self.ended_until.map(time));
        conditions.add_null("ended_at", self.is_over);
        conditions.add_null("answered_at", self.is_answered);
        let Conditions {
            mut wheres,
            mut bounds,
        } = conditions;
        if let Some((at, call)) = &self.before {
            let place = bounds.len() + 1;
            wheres.push(format!("({started}, call_id) < (${place}, ${})", place + 1));
            bounds.extend([time(*at), Bound::Text(call.as_str().to_owned())]);
        }
        let filter = match wheres.is_empty() {
            true => String::new(),
            false => format!("WHERE {} ", wheres.join(" AND ")),
        };
        let sql = format!(
            "SELECT {} FROM calls {filter}ORDER BY {started} DESC, call_id DESC LIMIT {}",
            COLUMNS.join(", "),
            self.limit.clamp(1, PAGE_MAX)
        );
        (sql, bounds)
    }
}

impl Store {
    /// The newest records that are searched for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search_calls(&self, search: &CallSearch) -> Result<Vec<CallRecord>, StoreError> {
        const WHAT: &str = "searching call records";
        let (sql, bounds) = search.statement();
        let mut select = sqlx::query(&sql);
        for bound in bounds {
            select = match bound {
                Bound::Text(text) => select.bind(text),
                Bound::Number(number) => select.bind(number),
            };
        }
        let rows = select.fetch_all(&self.pool).await;
        let rows = rows.map_err(StoreError::query(WHAT))?;
        let records: Result<Vec<_>, _> = rows.iter().map(read).collect();
        records.map_err(StoreError::query(WHAT))
    }

    /// Deletes the record of a call that ended a moment ago, once its end is written: a record that is deleted sooner
    /// would be written anew. The answer is whether that was within `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_ended_call(
        &self,
        id: &CallId,
        limit: Duration,
    ) -> Result<bool, StoreError> {
        let until = Instant::now() + limit;
        while !self.delete_call(id).await? {
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(true)
    }

    /// Deletes the record of a call that is over; the answer is whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_call(&self, id: &CallId) -> Result<bool, StoreError> {
        let delete = "DELETE FROM calls WHERE call_id = $1 AND ended_at IS NOT NULL";
        let done = sqlx::query(delete)
            .bind(id.as_str().to_owned())
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("deleting a call record"))?;
        Ok(done.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_has_its_own_place() {
        let at = SystemTime::UNIX_EPOCH;
        let search = CallSearch {
            from: Some(Private::new("1")),
            to: Some(Private::new("2")),
            since: Some(at),
            until: Some(at),
            ended_since: Some(at),
            ended_until: Some(at),
            parent: Some(CallId::random()),
            is_over: Some(true),
            is_answered: Some(false),
            before: Some((at, CallId::random())),
            limit: 0,
        };
        let (sql, bounds) = search.statement();
        let filter = sql.split_once(" WHERE ").map(|(_, filter)| filter);
        assert_eq!(
            filter,
            Some(
                "from_number = $1 AND to_number = $2 AND parent_call_id = $3 AND started_at >= $4 AND started_at <= $5 \
                 AND ended_at >= $6 AND ended_at <= $7 AND ended_at IS NOT NULL AND answered_at IS NULL \
                 AND (started_at, call_id) < ($8, $9) ORDER BY started_at DESC, call_id DESC LIMIT 1"
            )
        );
        assert_eq!(bounds.len(), 9);
        let (all, bounds) = CallSearch::default().statement();
        assert!(!all.contains("WHERE") && bounds.is_empty(), "{all}");
    }
}
