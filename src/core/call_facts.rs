//! What is known of a call from its beginning and never changes, and what
//! changes while it lives.
//!
//! Both are written down once: the job, the event in Redis, the row in the
//! database, the call object of the API, the body of a callback and the log
//! hold or borrow them, and each renders its own form from them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use super::answering_machine::AnsweredBy;
use super::call_object::{CallDirection, CallStatus};
use super::ids::{CallId, LineId, StreamId};
use super::outcome::Outcome;
use super::private::Private;

/// What never changes in a call. Made when it begins and shared from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFacts {
    /// `callSid` of the stream and `callId` of the job.
    pub id: CallId,
    /// `Call-ID` of the caller's leg; `None` where a record has none.
    pub sip_call_id: Option<String>,
    /// The line it goes over.
    pub line: LineId,
    /// `restaurantId` of the line, where known.
    pub restaurant: Option<String>,
    /// Who called whom.
    pub direction: CallDirection,
    /// The call whose `<Dial>` placed this one.
    pub parent: Option<CallId>,
    /// Who called; empty where not known.
    pub from: Private,
    /// Who was called; empty where not known.
    pub to: Private,
    /// When it began.
    pub started: SystemTime,
}

#[cfg(test)]
impl CallFacts {
    /// A call that came in over line 7, for tests.
    pub(crate) fn example() -> Self {
        Self {
            id: CallId::random(),
            sip_call_id: None,
            line: LineId::new("7"),
            restaurant: None,
            direction: CallDirection::Inbound,
            parent: None,
            from: Private::new("+33612345678"),
            to: Private::new("+33972360682"),
            started: SystemTime::UNIX_EPOCH,
        }
    }
}

/// `customParameters` of a call, shared. `Debug` shows the names alone: the
/// values tell who calls.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomParams(Arc<BTreeMap<String, String>>);

impl CustomParams {
    /// Puts these beside the others, in place of those of the same name.
    pub fn extend(&mut self, more: impl IntoIterator<Item = (String, String)>) {
        Arc::make_mut(&mut self.0).extend(more);
    }
}

impl From<BTreeMap<String, String>> for CustomParams {
    fn from(parameters: BTreeMap<String, String>) -> Self {
        Self(Arc::new(parameters))
    }
}

impl Deref for CustomParams {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for CustomParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What changes in a call. The default is a call that has just begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallState {
    /// How far it has come.
    pub status: CallStatus,
    /// Whether we hold it.
    pub on_hold: bool,
    /// `customParameters` of the job and of `start`. The incoming callback may
    /// add to them; a record of the database has none.
    pub custom_params: CustomParams,
    /// When it was answered.
    pub answered: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The SIP status that ended it; 0 while it goes on.
    pub sip_status: u16,
    /// How many times a worker was sought, the present attempt included.
    pub attempt: u32,
    /// How the last worker came: `queue`, or the host that was dialled.
    pub worker: Option<String>,
    /// The last worker's stream.
    pub stream: Option<StreamId>,
    /// Who answered it, once a detection has told.
    pub answered_by: Option<AnsweredBy>,
}

impl Default for CallState {
    fn default() -> Self {
        Self {
            status: CallStatus::Initiated,
            on_hold: false,
            custom_params: CustomParams::default(),
            answered: None,
            ended: None,
            outcome: None,
            sip_status: 0,
            attempt: 1,
            worker: None,
            stream: None,
            answered_by: None,
        }
    }
}

impl CallState {
    /// The call has ended so.
    pub fn end(&mut self, outcome: Outcome, at: SystemTime) {
        self.status = CallStatus::at_end(outcome, self.answered.is_some(), self.sip_status);
        self.outcome = Some(outcome);
        self.ended = Some(at);
        self.on_hold = false;
    }

    /// The status of a call of which only times, outcome and SIP status were
    /// kept. One that ended in a way that this version does not know has none.
    #[must_use]
    pub const fn kept_status(&self) -> CallStatus {
        let answered = self.answered.is_some();
        match (self.ended, self.outcome) {
            (Some(_), Some(outcome)) => CallStatus::at_end(outcome, answered, self.sip_status),
            (Some(_), None) if answered => CallStatus::Completed,
            (Some(_), None) => CallStatus::Failed,
            (None, _) if answered => CallStatus::Answered,
            (None, _) => CallStatus::Initiated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_call_in_progress_has_no_end() {
        let started = SystemTime::UNIX_EPOCH;
        let mut state = CallState {
            answered: Some(started),
            sip_status: 200,
            ..CallState::default()
        };
        assert_eq!(state.kept_status(), CallStatus::Answered);
        state.answered = None;
        assert_eq!(state.kept_status(), CallStatus::Initiated);
        // Of a later version: its outcome is not known here.
        state.ended = Some(started);
        assert_eq!(state.kept_status(), CallStatus::Failed);
        state.answered = Some(started);
        assert_eq!(state.kept_status(), CallStatus::Completed);
        state.outcome = Some(Outcome::CalleeHungUp);
        assert_eq!(state.kept_status(), CallStatus::Completed);
    }

    #[test]
    fn debug_output_shows_the_names_of_parameters_alone() {
        let number = ("callerPhone".to_owned(), "+33612345678".to_owned());
        let state = CallState {
            custom_params: BTreeMap::from([number]).into(),
            ..CallState::default()
        };
        let shown = format!("{state:?}");
        assert!(
            shown.contains("callerPhone") && !shown.contains("336"),
            "{shown}"
        );
    }

    #[test]
    fn an_end_settles_the_status() {
        let mut state = CallState {
            on_hold: true,
            sip_status: 486,
            ..CallState::default()
        };
        state.end(Outcome::Refused, SystemTime::UNIX_EPOCH);
        assert_eq!(state.status, CallStatus::Busy);
        assert!(!state.on_hold && state.ended.is_some());
    }
}
