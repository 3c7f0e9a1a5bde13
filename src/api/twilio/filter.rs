//! Which calls a list has: Twilio's parameters To, From, Status, ParentCallSid, StartTime and
//! EndTime, the last two also with `<` and `>`, which include their bound.

use std::time::{Duration, SystemTime};

use super::call::status;
use super::form::Form;
use crate::core::call_object::CallObject;
use crate::core::ids::CallId;
use crate::core::private::Private;
use crate::core::timestamp::{parse_day, parse_rfc3339};
use crate::store::CallSearch;

const DAY: Duration = Duration::from_secs(86_400);
const MOMENT: &str = "must be a day such as 2026-01-15 or a time such as 2026-01-15T14:30:00Z";
const STATUSES: [&str; 8] = [
    "queued",
    "ringing",
    "in-progress",
    "completed",
    "busy",
    "failed",
    "no-answer",
    "canceled",
];

/// From when to when, both included.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: Option<SystemTime>,
    until: Option<SystemTime>,
}

/// What a list is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct CallFilter {
    from: Option<Private>,
    to: Option<Private>,
    status: Option<String>,
    /// Calls that this call's `<Dial>` placed; `Some(None)`: of what is no call.
    parent: Option<Option<CallId>>,
    started: Span,
    ended: Span,
}

impl CallFilter {
    /// Reads the parameters.
    pub(super) fn read(form: &mut Form) -> Self {
        let filter = Self {
            from: form.filter("From").map(Private::new),
            to: form.filter("To").map(Private::new),
            status: form.filter("Status"),
            parent: form.filter("ParentCallSid").map(|sid| CallId::parse(&sid)),
            started: span(form, "StartTime"),
            ended: span(form, "EndTime"),
        };
        let is_known = |status: &String| STATUSES.contains(&status.as_str());
        if filter
            .status
            .as_ref()
            .is_some_and(|status| !is_known(status))
        {
            form.refuse("Status", "is none of a call's");
        }
        filter
    }

    /// Whether a call is one of them.
    pub(super) fn has(&self, call: &CallObject) -> bool {
        let (facts, state) = (&*call.facts, &call.state);
        let same = |wanted: &Option<Private>, number: &Private| {
            wanted.as_ref().is_none_or(|wanted| wanted == number)
        };
        let is_ended = self.ended.from.is_none() && self.ended.until.is_none();
        let of_parent = |wanted: &Option<CallId>| wanted.is_some() && *wanted == facts.parent;
        self.parent.as_ref().is_none_or(of_parent)
            && same(&self.from, &facts.from)
            && same(&self.to, &facts.to)
            && self
                .status
                .as_ref()
                .is_none_or(|wanted| wanted == status(call))
            && self.started.has(facts.started)
            && (is_ended || state.ended.is_some_and(|ended| self.ended.has(ended)))
    }

    /// The search that finds at least these among the records.
    pub(super) fn search(&self, before: Option<(SystemTime, CallId)>, limit: u32) -> CallSearch {
        CallSearch {
            from: self.from.clone(),
            to: self.to.clone(),
            since: self.started.from,
            // What ended by then began before.
            until: self.started.until.or(self.ended.until),
            ended_since: self.ended.from,
            ended_until: self.ended.until,
            parent: self.parent.clone().flatten(),
            is_over: self.is_over(),
            is_answered: self.is_answered(),
            before,
            limit,
        }
    }

    /// Whether calls of this status are over, where that is asked for.
    fn is_over(&self) -> Option<bool> {
        let status = self.status.as_deref()?;
        Some(!matches!(status, "queued" | "ringing" | "in-progress"))
    }

    /// Whether calls of this status were answered, where all of them were or none.
    fn is_answered(&self) -> Option<bool> {
        match self.status.as_deref()? {
            "in-progress" => Some(true),
            "queued" | "ringing" | "busy" | "no-answer" | "canceled" => Some(false),
            _ => None,
        }
    }

    /// Whether there can be any.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self.parent, Some(None))
    }
}

impl Span {
    fn has(&self, at: SystemTime) -> bool {
        self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at <= until)
    }
}

fn span(form: &mut Form, name: &str) -> Span {
    let mut moment = |name: &str| {
        let text = form.filter(name)?;
        let moment = parse_day(&text).or_else(|| parse_rfc3339(&text));
        if moment.is_none() {
            form.refuse(name, MOMENT);
        }
        Some((moment?, text.len() == 10))
    };
    let after = moment(&format!("{name}>")).map(|(at, _)| at);
    let before = moment(&format!("{name}<")).map(|(at, _)| at);
    match moment(name) {
        Some((at, is_day)) => Span {
            from: Some(at),
            until: Some(if is_day {
                at + DAY - Duration::from_millis(1)
            } else {
                at
            }),
        },
        None => Span {
            from: after,
            until: before,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call_facts::{CallFacts, CallState};
    use crate::core::outcome::Outcome;
    use std::sync::Arc;

    /// Began on 2026-01-15 at 14:30, answered, over a minute later.
    fn call() -> CallObject {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        let mut state = CallState {
            answered: Some(started),
            ..CallState::default()
        };
        state.end(Outcome::CallerHungUp, started + Duration::from_secs(60));
        let facts = CallFacts {
            parent: CallId::parse("CAfedcba9876543210fedcba9876543210"),
            started,
            ..CallFacts::example()
        };
        CallObject {
            facts: Arc::new(facts),
            state,
        }
    }

    fn has(query: &str) -> Option<bool> {
        let mut form = Form::parse(query.as_bytes());
        let filter = CallFilter::read(&mut form);
        form.finish().ok().map(|()| filter.has(&call()))
    }

    #[test]
    fn a_list_has_what_it_is_asked_for() {
        for (query, expected) in [
            ("", true),
            ("From=%2B33612345678", true),
            ("From=%2B33612345679", false),
            ("To=%2B33972360682&Status=completed", true),
            ("Status=in-progress", false),
            ("ParentCallSid=CA0", false),
            ("ParentCallSid=CAfedcba9876543210fedcba9876543210", true),
            ("ParentCallSid=CAfedcba9876543210fedcba9876543211", false),
            ("StartTime=2026-01-15", true),
            ("StartTime=2026-01-14", false),
            ("StartTime%3E=2026-01-15", true),
            ("StartTime%3E=2026-01-16", false),
            ("StartTime<=2026-01-15", false),
            ("StartTime<=2026-01-15T14:31:00Z", true),
            ("EndTime>=2026-01-15T14:31:00Z", true),
            ("EndTime>=2026-01-15T14:32:00Z", false),
            ("EndTime<=2026-01-15T14:31:00Z", false),
        ] {
            assert_eq!(has(query), Some(expected), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for query in ["Status=over", "StartTime=yesterday", "EndTime>=1", "Fro=1"] {
            assert_eq!(has(query), None, "{query}");
        }
    }

    /// Every way in which a record can stand.
    fn records() -> Vec<CallObject> {
        let started = call().facts.started;
        let mut records = Vec::new();
        for answered in [None, Some(started)] {
            for sip_status in [0, 200, 408, 486, 500] {
                let outcomes = Outcome::ALL.into_iter().map(Some);
                for outcome in outcomes.chain([None]) {
                    let mut state = CallState {
                        answered,
                        sip_status,
                        outcome,
                        ended: outcome.map(|_| started),
                        ..CallState::default()
                    };
                    state.status = state.kept_status();
                    let facts = call().facts;
                    records.push(CallObject { facts, state });
                }
            }
        }
        records
    }

    #[test]
    fn what_the_database_leaves_out_is_none_of_them() {
        for status in STATUSES {
            let mut form = Form::parse(format!("Status={status}").as_bytes());
            let filter = CallFilter::read(&mut form);
            let search = filter.search(None, 1);
            for record in records().iter().filter(|record| filter.has(record)) {
                let state = &record.state;
                let fits =
                    |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
                assert!(fits(search.is_over, state.ended.is_some()), "{record:?}");
                assert!(
                    fits(search.is_answered, state.answered.is_some()),
                    "{record:?}"
                );
            }
        }
        let mut form = Form::parse(b"EndTime>=2026-01-15&EndTime<=2026-01-16");
        let search = CallFilter::read(&mut form).search(None, 1);
        assert_eq!(search.ended_since, parse_day("2026-01-15"));
        assert_eq!(search.ended_until, parse_day("2026-01-16"));
    }

    #[test]
    fn the_next_pages_address_repeats_the_filters() {
        let mut form = Form::parse(b"Status=busy&StartTime%3E=2026-01-15&From=1");
        let filter = CallFilter::read(&mut form);
        let names: Vec<_> = form
            .filters()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["From", "Status", "StartTime>"]);
        let search = filter.search(None, 7);
        assert_eq!(search.since, parse_day("2026-01-15"));
        assert_eq!((search.until, search.limit), (None, 7));
    }
}
