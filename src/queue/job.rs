//! One attempt to find a worker for a call, as [`crate::guide::call_queue`] writes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::core::agents::Agent;
use crate::core::call_facts::{CallFacts, CustomParams};
use crate::core::ids::{CallId, StreamId};
use crate::core::private::{Private, Secret};
use crate::core::timestamp::rfc3339_ms;

/// A job. Its JSON depends on nothing but its fields, so that it can be found
/// in the queue again.
#[derive(Clone, Debug)]
pub struct Job {
    /// The call.
    pub facts: Arc<CallFacts>,
    /// The stream that this attempt would open.
    pub stream: StreamId,
    /// Where the worker dials; holds the token.
    pub stream_url: Secret,
    /// When the job was made.
    pub created: SystemTime,
    /// When it is of no more use.
    pub expires: SystemTime,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Whether an earlier worker was lost in mid-call.
    pub resumed: bool,
    /// The call of the same caller that was lost a short time ago.
    pub resumed_from: Option<CallId>,
    /// What the worker gets in `start` too.
    pub custom_parameters: CustomParams,
    /// The agent of the line's tenant, as an object; the parameters hold it as a text.
    pub agent: Option<Arc<Agent>>,
}

/// The JSON, in the order of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobJson<'job> {
    version: u8,
    call_id: &'job str,
    stream_sid: &'job str,
    phone_line_id: &'job str,
    #[serde(skip_serializing_if = "Option::is_none")]
    restaurant_id: Option<&'job str>,
    bridge_node_id: &'job str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'job str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'job str>,
    direction: &'static str,
    audio_stream_url: &'job str,
    audio_stream_ws_url: &'job str,
    audio_ws_url: &'job str,
    timestamp: String,
    expires_at: String,
    attempt: u32,
    resumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_from: Option<&'job str>,
    custom_parameters: &'job BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'job Agent>,
}

impl Job {
    /// The JSON as it goes into the queue of `node`.
    #[must_use]
    pub fn payload(&self, node: &str) -> String {
        let facts = &*self.facts;
        let known = |number: &'_ Private| (!number.is_empty()).then(|| number.expose().to_owned());
        let (from, to) = (known(&facts.from), known(&facts.to));
        let url = self.stream_url.expose();
        let wire = JobJson {
            version: 1,
            call_id: facts.id.as_str(),
            stream_sid: self.stream.as_str(),
            phone_line_id: facts.line.as_str(),
            restaurant_id: facts.restaurant.as_deref(),
            bridge_node_id: node,
            from: from.as_deref(),
            to: to.as_deref(),
            direction: facts.direction.as_str(),
            audio_stream_url: url,
            audio_stream_ws_url: url,
            audio_ws_url: url,
            timestamp: rfc3339_ms(self.created),
            expires_at: rfc3339_ms(self.expires),
            attempt: self.attempt,
            resumed: self.resumed,
            resumed_from: self.resumed_from.as_ref().map(CallId::as_str),
            custom_parameters: &self.custom_parameters,
            agent: self.agent.as_deref(),
        };
        // Strings and numbers under string keys: nothing that JSON lacks.
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call_object::CallDirection;
    use crate::core::ids::LineId;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn job() -> Job {
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        Job {
            facts: Arc::new(CallFacts {
                id: CallId::parse("CA0123456789abcdef0123456789abcdef").unwrap(),
                sip_call_id: Some("x@y".into()),
                line: LineId::new("line-1"),
                restaurant: Some("r-7".into()),
                direction: CallDirection::Inbound,
                parent: None,
                from: Private::new("+33612345678"),
                to: Private::new("+33972360682"),
                started: created,
            }),
            stream: StreamId::parse("MZ0123456789abcdef0123456789abcdef").unwrap(),
            stream_url: Secret::new("ws://10.0.0.5:8081/media-stream/CA?token=t0k".into()),
            created,
            expires: created + Duration::from_secs(30),
            attempt: 1,
            resumed: false,
            resumed_from: None,
            custom_parameters: BTreeMap::from([("restaurantId".into(), "r-7".into())]).into(),
            agent: None,
        }
    }

    #[test]
    fn a_job_has_every_field_of_the_contract() {
        let value: Value = serde_json::from_str(&job().payload("node-a")).unwrap();
        let url = "ws://10.0.0.5:8081/media-stream/CA?token=t0k";
        assert_eq!(
            value,
            json!({
                "version": 1,
                "callId": "CA0123456789abcdef0123456789abcdef",
                "streamSid": "MZ0123456789abcdef0123456789abcdef",
                "phoneLineId": "line-1", "restaurantId": "r-7", "bridgeNodeId": "node-a",
                "from": "+33612345678", "to": "+33972360682", "direction": "inbound",
                "audioStreamUrl": url, "audioStreamWsUrl": url, "audioWsUrl": url,
                "timestamp": "2026-01-15T14:30:00.123Z",
                "expiresAt": "2026-01-15T14:30:30.123Z",
                "attempt": 1, "resumed": false,
                "customParameters": { "restaurantId": "r-7" }
            })
        );
    }

    #[test]
    fn an_agent_is_an_object_of_the_job() {
        let config = json!({"agent_name": "L\u{e9}a", "max_conversation_duration": 60});
        let config = crate::core::agents::read(config.as_object().unwrap().clone()).unwrap();
        let agent = Arc::new(Agent::new(config));
        let job = Job {
            agent: Some(agent.clone()),
            ..job()
        };
        let value: Value = serde_json::from_str(&job.payload("n")).unwrap();
        assert_eq!(value["agent"]["agent_name"], "L\u{e9}a");
        let text: Value = serde_json::from_str(agent.json()).unwrap();
        assert_eq!(value["agent"], text);
    }

    #[test]
    fn what_is_unknown_is_absent_not_null() {
        let mut job = job();
        let facts = Arc::make_mut(&mut job.facts);
        facts.restaurant = None;
        (facts.from, facts.to) = (Private::default(), Private::default());
        let text = job.payload("n");
        let value: Value = serde_json::from_str(&text).unwrap();
        for name in ["restaurantId", "from", "to"] {
            assert!(value.get(name).is_none(), "{name} in {text}");
        }
        assert!(!text.contains("null"));
    }

    #[test]
    fn a_caller_who_lost_a_call_is_recognised() {
        let mut job = job();
        let lost = CallId::random();
        job.resumed_from = Some(lost.clone());
        let value: Value = serde_json::from_str(&job.payload("n")).unwrap();
        assert_eq!(value["resumedFrom"], lost.as_str());
        assert_eq!(value["resumed"], false, "another call, not another worker");
    }

    #[test]
    fn debug_output_shows_neither_token_nor_numbers() {
        let shown = format!("{:?}", job());
        assert!(
            !shown.contains("t0k") && !shown.contains("3361234"),
            "{shown}"
        );
    }
}
