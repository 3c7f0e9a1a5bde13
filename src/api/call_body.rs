//! A call as JSON: written from borrowed fields, without a tree in between,
//! because the list of all calls is asked for often.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::core::audio_counters::AudioCounters;
use crate::core::call_object::CallObject;
use crate::core::ids::CallId;
use crate::core::outcome::Outcome;
use crate::core::timestamp::rfc3339_ms;
use crate::store::{AudioStats, CallRecord};

/// A call; what is not known (yet) is null.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Call)]
pub struct CallBody<'a> {
    sid: &'a str,
    /// inbound or outbound.
    direction: &'static str,
    phone_line_id: &'a str,
    restaurant_id: Option<&'a str>,
    /// The call whose TwiML `<Dial>` placed this one.
    parent_sid: Option<&'a str>,
    from: &'a str,
    to: &'a str,
    /// initiated, ringing, answered (no worker yet), active; completed,
    /// failed, busy, no-answer, cancelled, transferred.
    status: &'static str,
    on_hold: bool,
    /// As the worker got them, but for `agent` and `resumed`; empty in a record of the database.
    custom_params: &'a BTreeMap<String, String>,
    created_at: String,
    answered_at: Option<String>,
    ended_at: Option<String>,
    /// Since the answer.
    duration_sec: u64,
    /// How it ended, more closely than `status`.
    outcome: Option<&'static str>,
    /// The SIP status that ended it.
    sip_status: Option<u16>,
    /// The bridge that has it, or had it.
    node: &'a str,
    /// More about a call that has come from the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<RecordBody<'a>>,
}

/// What the database keeps of a call beyond the call object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CallRecord)]
pub struct RecordBody<'a> {
    /// The bridge that had it.
    node_id: &'a str,
    sip_call_id: Option<&'a str>,
    /// How many times a worker was sought.
    attempts: u32,
    stream_sid: Option<&'a str>,
    /// How the last worker came: `queue`, or the host that was dialled.
    worker: Option<&'a str>,
    /// Once the call is over.
    audio: Option<AudioBody>,
}

/// Audio of a call that is over.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CallAudio)]
pub struct AudioBody {
    packets_received: u64,
    packets_lost: u64,
    packets_sent: u64,
    jitter_ms: f64,
    /// Estimated from loss and jitter; null when nothing came.
    mos: Option<f64>,
    /// Null in a record of an earlier version.
    counters: Option<CountersBody>,
}

/// What went wrong with the audio, by the names that `/metrics` has too.
#[derive(Debug)]
pub struct CountersBody(AudioCounters);

impl Serialize for CountersBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, _, value)| (name, value)))
    }
}

impl ToSchema for CountersBody {
    fn name() -> Cow<'static, str> {
        "CallAudioCounters".into()
    }
}

impl PartialSchema for CountersBody {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().description(Some(
            "What went wrong with the audio, by the names that /metrics has too.",
        ));
        let counters = AudioCounters::default();
        let object = counters.iter().fold(object, |object, (name, help, _)| {
            let count = ObjectBuilder::new().schema_type(Type::Integer);
            let count = count.minimum(Some(0)).description(Some(help));
            object.property(name, count).required(name)
        });
        object.into()
    }
}

/// Calls in progress, and those that ended within 30 s: the newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CallList)]
pub struct CallList<'a>(#[schema(inline = false)] pub Vec<CallBody<'a>>);

/// One page of records, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CallPage)]
pub struct CallPageBody<'a> {
    pub items: Vec<CallBody<'a>>,
    /// `after` of the next page; null on the last.
    pub next: Option<String>,
}

impl<'a> CallBody<'a> {
    /// A call of this bridge as it is.
    #[must_use]
    pub fn of(call: &'a CallObject, node: &'a str, now: SystemTime) -> Self {
        let (facts, state) = (&*call.facts, &call.state);
        Self {
            sid: facts.id.as_str(),
            direction: facts.direction.as_str(),
            phone_line_id: facts.line.as_str(),
            restaurant_id: facts.restaurant.as_deref(),
            parent_sid: facts.parent.as_ref().map(CallId::as_str),
            from: facts.from.expose(),
            to: facts.to.expose(),
            status: state.status.as_str(),
            on_hold: state.on_hold,
            custom_params: &state.custom_params,
            created_at: rfc3339_ms(facts.started),
            answered_at: state.answered.map(rfc3339_ms),
            ended_at: state.ended.map(rfc3339_ms),
            duration_sec: call.duration_s(now),
            outcome: state.outcome.map(Outcome::as_str),
            sip_status: Some(state.sip_status).filter(|status| *status > 0),
            node,
            record: None,
        }
    }

    /// A call of the database.
    #[must_use]
    pub fn of_record(record: &'a CallRecord, now: SystemTime) -> Self {
        let (facts, state) = (&*record.call.facts, &record.call.state);
        let more = RecordBody {
            node_id: &record.node,
            sip_call_id: facts.sip_call_id.as_deref(),
            attempts: state.attempt,
            stream_sid: state.stream.as_ref().map(|stream| stream.as_str()),
            worker: state.worker.as_deref(),
            audio: record.audio.map(AudioBody::from),
        };
        Self {
            record: Some(more),
            ..Self::of(&record.call, &record.node, now)
        }
    }
}

impl From<AudioStats> for AudioBody {
    fn from(audio: AudioStats) -> Self {
        Self {
            packets_received: audio.packets_received,
            packets_lost: audio.packets_lost,
            packets_sent: audio.packets_sent,
            jitter_ms: millis(audio.jitter),
            mos: audio.mos.filter(|mos| mos.is_finite()),
            counters: audio.counters.map(CountersBody),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call_facts::{CallFacts, CallState};
    use crate::core::call_object::CallDirection;
    use std::sync::Arc;

    fn record() -> CallRecord {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        let facts = CallFacts {
            sip_call_id: Some("x@y".into()),
            direction: CallDirection::Outbound,
            started: at,
            ..CallFacts::example()
        };
        let mut state = CallState {
            answered: Some(at + Duration::from_secs(2)),
            sip_status: 200,
            worker: Some("queue".into()),
            ..CallState::default()
        };
        state.end(Outcome::CalleeHungUp, at + Duration::from_secs(9));
        CallRecord {
            call: CallObject {
                facts: Arc::new(facts),
                state,
            },
            node: "n".into(),
            audio: Some(AudioStats {
                counters: AudioCounters::from_json(r#"{"encode_errors": 3}"#),
                ..AudioStats::default()
            }),
        }
    }

    #[test]
    fn it_is_the_call_object_of_the_callbacks_and_its_bridge() {
        let mut call = record().call;
        call.state.custom_params = BTreeMap::from([("a".into(), "b".into())]).into();
        for ended in [call.state.ended, None] {
            call.state.ended = ended;
            let now = call.facts.started + Duration::from_secs(30);
            let body = serde_json::to_value(CallBody::of(&call, "n", now)).expect("JSON");
            let mut expected = call.to_json(now);
            expected["node"] = "n".into();
            assert_eq!(body, expected);
        }
    }

    #[test]
    fn a_record_is_a_call_and_more() {
        let record = record();
        let body = CallBody::of_record(&record, record.call.facts.started);
        let body = serde_json::to_value(body).expect("JSON");
        assert_eq!(body["status"], "completed");
        assert_eq!(body["durationSec"], 7);
        assert_eq!(
            (&body["record"]["nodeId"], &body["node"]),
            (&"n".into(), &"n".into())
        );
        assert_eq!(body["record"]["audio"]["packetsLost"], 0);
        assert_eq!(body["record"]["audio"]["counters"]["encode_errors"], 3);
        assert_eq!(body["record"]["audio"]["counters"]["rtp_late"], 0);
    }
}
