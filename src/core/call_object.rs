//! The call object: one call as clients of the call API and receivers of
//! callbacks see it.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::call_facts::{CallFacts, CallState};
use super::ids::CallId;
use super::outcome::Outcome;
use super::timestamp::rfc3339_ms;

/// Who called whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallDirection {
    /// Somebody called one of our lines.
    Inbound,
    /// We called somebody from one of our lines.
    Outbound,
}

impl CallDirection {
    /// The name used in jobs, records and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// The direction of that name; a name that is not known counts as inbound.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        if name == Self::Outbound.as_str() {
            Self::Outbound
        } else {
            Self::Inbound
        }
    }
}

/// How far a call has come. The last six are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallStatus {
    /// The INVITE is out, or in.
    Initiated,
    /// The other side, or our caller, hears that it rings.
    Ringing,
    /// The dialog stands; no worker yet.
    Answered,
    /// A worker is attached.
    Active,
    /// It was answered, and has ended.
    Completed,
    /// SIP or media failed.
    Failed,
    /// The callee was busy, or declined.
    Busy,
    /// Nobody answered in time.
    NoAnswer,
    /// Who called gave up before the answer.
    Cancelled,
    /// It was handed to another number.
    Transferred,
}

impl CallStatus {
    /// The name used in the API and in callbacks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Cancelled => "cancelled",
            Self::Transferred => "transferred",
        }
    }

    /// Whether the call is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Initiated | Self::Ringing | Self::Answered | Self::Active
        )
    }

    /// What a call that has ended comes to. Declined (603) counts as busy: the
    /// callee is there and does not want the call.
    #[must_use]
    pub const fn at_end(outcome: Outcome, answered: bool, sip_status: u16) -> Self {
        match (outcome, answered) {
            (Outcome::Transferred, _) => Self::Transferred,
            (Outcome::Failed | Outcome::BridgeLost, true) => Self::Failed,
            (_, true) => Self::Completed,
            // The last two between our 200 and its ACK.
            (Outcome::Abandoned | Outcome::Cancelled, false) => Self::Cancelled,
            (Outcome::CallerHungUp, false) => Self::Cancelled,
            (Outcome::WorkerHungUp, false) => Self::Completed,
            (Outcome::NoWorker | Outcome::NoAnswer, false) => Self::NoAnswer,
            (_, false) => match sip_status {
                486 | 600 | 603 => Self::Busy,
                408 | 480 => Self::NoAnswer,
                _ => Self::Failed,
            },
        }
    }
}

/// One call: what it is, and how it stands. `Debug` shows no number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallObject {
    /// What never changes.
    pub facts: Arc<CallFacts>,
    /// How it stands.
    pub state: CallState,
}

impl CallObject {
    /// Whole seconds from the answer to the end, or to `now`.
    #[must_use]
    pub fn duration_s(&self, now: SystemTime) -> u64 {
        let Some(answered) = self.state.answered else {
            return 0;
        };
        let until = self.state.ended.unwrap_or(now);
        until.duration_since(answered).unwrap_or_default().as_secs()
    }

    /// As the API and callbacks write it; what is not known yet is null.
    #[must_use]
    pub fn to_json(&self, now: SystemTime) -> Value {
        let (facts, state) = (&*self.facts, &self.state);
        let time = |at: Option<SystemTime>| at.map(rfc3339_ms);
        json!({
            "sid": facts.id.as_str(),
            "direction": facts.direction.as_str(),
            "phoneLineId": facts.line.as_str(),
            "restaurantId": facts.restaurant,
            "parentSid": facts.parent.as_ref().map(CallId::as_str),
            "from": facts.from.expose(),
            "to": facts.to.expose(),
            "status": state.status.as_str(),
            "onHold": state.on_hold,
            "customParams": *state.custom_params,
            "createdAt": rfc3339_ms(facts.started),
            "answeredAt": time(state.answered),
            "endedAt": time(state.ended),
            "durationSec": self.duration_s(now),
            "outcome": state.outcome.map(Outcome::as_str),
            "sipStatus": Some(state.sip_status).filter(|status| *status > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::private::Private;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn a_call_ends_as_what_it_was() {
        use CallStatus as S;
        use Outcome as O;
        for (outcome, answered, sip_status, expected) in [
            (O::CallerHungUp, true, 200, S::Completed),
            (O::NoWorker, true, 200, S::Completed),
            (O::NoWorker, false, 480, S::NoAnswer),
            (O::Failed, true, 500, S::Failed),
            (O::Abandoned, false, 487, S::Cancelled),
            (O::Cancelled, false, 487, S::Cancelled),
            (O::NoAnswer, false, 487, S::NoAnswer),
            (O::Refused, false, 486, S::Busy),
            (O::Refused, false, 603, S::Busy),
            (O::Refused, false, 480, S::NoAnswer),
            (O::Refused, false, 404, S::Failed),
            (O::Transferred, true, 200, S::Transferred),
        ] {
            let status = S::at_end(outcome, answered, sip_status);
            assert_eq!(status, expected, "{outcome} {answered} {sip_status}");
            assert!(status.is_final());
        }
    }

    #[test]
    fn the_object_has_every_field() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        let call = CallObject {
            facts: Arc::new(CallFacts {
                direction: CallDirection::Outbound,
                from: Private::new("+33972360682"),
                to: Private::new("+33612345678"),
                started: at,
                ..CallFacts::example()
            }),
            state: CallState {
                status: CallStatus::Active,
                custom_params: BTreeMap::from([("a".into(), "b".into())]).into(),
                answered: Some(at + Duration::from_secs(5)),
                ..CallState::default()
            },
        };
        let json = call.to_json(at + Duration::from_millis(8_900));
        assert_eq!(json["createdAt"], "2026-01-15T14:30:00.123Z");
        assert_eq!(json["answeredAt"], "2026-01-15T14:30:05.123Z");
        assert_eq!(
            (&json["durationSec"], &json["endedAt"]),
            (&json!(3), &Value::Null)
        );
        assert_eq!(json["status"], "active");
        assert_eq!(json["customParams"], json!({"a": "b"}));
    }
}
