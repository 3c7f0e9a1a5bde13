//! What `POST /api/calls` takes: read field by field, every mistake reported
//! at once, and the line that the call goes out from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::{FieldError, Problem};
use crate::config::ServiceUrl;
use crate::core::ids::LineId;
use crate::core::private::Private;
use crate::fleet::LineDirectory;
use crate::fleet::LineProfile;

/// Longest number or SIP URI.
pub const DESTINATION_MAX_BYTES: usize = 256;
const URL_MAX_BYTES: usize = 2_048;
const PARAMS_MAX: usize = 64;
const PARAM_KEY_MAX_BYTES: usize = 128;
const PARAM_VALUE_MAX_BYTES: usize = 2_048;
/// How long the callee may ring when the request does not say.
const RING_DEFAULT_S: u64 = 30;
const RING_MAX_S: u64 = 600;
const FIELDS: [&str; 7] = [
    "to",
    "from",
    "customParams",
    "wsTarget",
    "callbackUrl",
    "timeoutSec",
    "phoneLineId",
];

/// A call to be placed.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub struct CallInput {
    /// Whom to call: a number, or a SIP URI.
    to: String,
    /// The number of the line to call from; with `phoneLineId` it must be that line's.
    from: Option<String>,
    /// For the worker's `customParameters`: at most 64.
    custom_params: Option<BTreeMap<String, String>>,
    /// The worker to dial, ws:// or wss://, instead of the queue or `--ws-target`.
    ws_target: Option<String>,
    /// Where status callbacks of this call go, http:// or https://.
    callback_url: Option<String>,
    /// How long the callee may ring, 1 to 600; 30 when absent.
    timeout_sec: Option<u32>,
    /// The line to call from; may be absent when `from` says it, or there is only one.
    phone_line_id: Option<String>,
}

/// A request that has no mistakes in itself.
#[derive(Debug)]
pub struct CallOrder {
    pub to: Private,
    pub from: Option<Private>,
    pub line: Option<String>,
    pub custom_params: BTreeMap<String, String>,
    pub ws_target: Option<String>,
    pub callback_url: Option<String>,
    pub ring_timeout: Duration,
}

impl CallOrder {
    /// Reads a request.
    ///
    /// # Errors
    /// With every mistake.
    pub fn read(object: Map<String, Value>) -> Result<Self, Problem> {
        let mut reader = Reader {
            object,
            errors: Vec::new(),
        };
        let order = reader.order();
        if reader.errors.is_empty() {
            return Ok(order);
        }
        Err(Problem::invalid(reader.errors))
    }

    /// The fields that were given, for the audit.
    #[must_use]
    pub fn fields(object: &Map<String, Value>) -> Vec<&'static str> {
        let given = FIELDS.into_iter();
        given.filter(|name| object.contains_key(*name)).collect()
    }

    /// The line to call from: by its id, else by its number, else the only one.
    ///
    /// # Errors
    /// When there is none, or not only one.
    pub fn choose(&self, lines: &LineDirectory) -> Result<Arc<LineProfile>, Problem> {
        let by_number = self.from.as_ref();
        let by_number = by_number.map(|from| lines.with_number(from.expose()));
        if let Some(id) = &self.line {
            let line = lines.get(&LineId::new(id.as_str())).ok_or_else(|| {
                let reason = "is not the id of a line in use on this bridge";
                Problem::field("phoneLineId", reason)
            })?;
            if by_number.is_some_and(|found| found.iter().all(|one| one.id != line.id)) {
                let reason = "is not the phoneNumber of this line";
                return Err(Problem::field("from", reason));
            }
            return Ok(line);
        }
        match by_number.as_deref() {
            Some([line]) => Ok(line.clone()),
            Some([]) => {
                let reason = "is not the phoneNumber of a line in use on this bridge";
                Err(Problem::field("from", reason))
            }
            None if lines.is_empty() => {
                Err(Problem::field("phoneLineId", "this bridge has no line"))
            }
            // Several have the number, or there is no number to tell them apart.
            _ => lines.only().ok_or_else(|| {
                let reason = "is required: several lines could place this call";
                Problem::field("phoneLineId", reason)
            }),
        }
    }
}

/// What is wrong with a number or SIP URI, as far as it can be told here.
#[must_use]
pub fn destination_mistake(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("is empty");
    }
    if text.len() > DESTINATION_MAX_BYTES {
        return Some("is longer than 256 bytes");
    }
    let breaks = |c: char| c.is_control() || matches!(c, '<' | '>' | '"' | '\\');
    if text.contains(breaks) {
        return Some("holds a character that no number and no SIP URI has");
    }
    None
}

struct Reader {
    object: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Reader {
    fn order(&mut self) -> CallOrder {
        let unknown: Vec<String> = self
            .object
            .keys()
            .filter(|name| !FIELDS.contains(&name.as_str()))
            .map(|name| name.chars().take(64).collect())
            .collect();
        for name in unknown {
            self.report(name, "is not a known field");
        }
        CallOrder {
            to: self.to(),
            from: self.text("from", DESTINATION_MAX_BYTES).map(Private::new),
            line: self.line(),
            custom_params: self.params(),
            ws_target: self.url("wsTarget", &["ws", "wss"], "must be a ws:// or wss:// URL"),
            callback_url: self.url(
                "callbackUrl",
                &["http", "https"],
                "must be an http:// or https:// URL",
            ),
            ring_timeout: self.timeout(),
        }
    }

    fn report(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.errors.push(FieldError::new(field, reason));
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str, max_bytes: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.len() > max_bytes => {
                self.report(name, format!("is longer than {max_bytes} bytes"));
                None
            }
            Value::String(text) => Some(text),
            _ => {
                self.report(name, "must be a string");
                None
            }
        }
    }

    fn to(&mut self) -> Private {
        let before = self.errors.len();
        let Some(to) = self.text("to", DESTINATION_MAX_BYTES) else {
            if self.errors.len() == before {
                self.report("to", "is required and missing");
            }
            return Private::default();
        };
        if let Some(reason) = destination_mistake(&to) {
            self.report("to", reason);
        }
        Private::new(to.trim())
    }

    /// Databases count ids, documents spell them.
    fn line(&mut self) -> Option<String> {
        if let Some(Value::Number(number)) = self.object.get("phoneLineId") {
            return Some(number.to_string());
        }
        self.text("phoneLineId", DESTINATION_MAX_BYTES)
    }

    fn url(
        &mut self,
        name: &str,
        schemes: &'static [&'static str],
        reason: &str,
    ) -> Option<String> {
        let text = self.text(name, URL_MAX_BYTES)?;
        if ServiceUrl::parse(&text, schemes).is_none() {
            self.report(name, reason);
            return None;
        }
        Some(text)
    }

    fn timeout(&mut self) -> Duration {
        let given = self.take("timeoutSec");
        let seconds = match given {
            None => RING_DEFAULT_S,
            Some(value) => value
                .as_u64()
                .filter(|seconds| (1..=RING_MAX_S).contains(seconds))
                .unwrap_or_else(|| {
                    let reason = format!("must be a whole number from 1 to {RING_MAX_S}");
                    self.report("timeoutSec", reason);
                    RING_DEFAULT_S
                }),
        };
        Duration::from_secs(seconds)
    }

    fn params(&mut self) -> BTreeMap<String, String> {
        let given = match self.take("customParams") {
            None => return BTreeMap::new(),
            Some(Value::Object(given)) => given,
            Some(_) => {
                self.report("customParams", "must be an object of strings");
                return BTreeMap::new();
            }
        };
        if given.len() > PARAMS_MAX {
            self.report(
                "customParams",
                format!("has more than {PARAMS_MAX} entries"),
            );
        }
        let mut params = BTreeMap::new();
        for (key, value) in given {
            match value {
                Value::String(text)
                    if text.len() <= PARAM_VALUE_MAX_BYTES
                        && (1..=PARAM_KEY_MAX_BYTES).contains(&key.len()) =>
                {
                    params.insert(key, text);
                }
                _ => {
                    let short: String = key.chars().take(64).collect();
                    let reason = format!(
                        "must be a string of at most {PARAM_VALUE_MAX_BYTES} bytes under a name of 1 to {PARAM_KEY_MAX_BYTES} bytes"
                    );
                    self.report(format!("customParams.{short}"), reason);
                }
            }
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::address::{HostPort, Transport};
    use crate::fleet::{Limits, SharedFleet};
    use crate::lines::ReadyLine;
    use serde_json::json;

    fn read(value: Value) -> Result<CallOrder, Value> {
        let object = value.as_object().expect("object").clone();
        CallOrder::read(object)
            .map_err(|problem| serde_json::to_value(problem).expect("JSON")["errors"].clone())
    }

    fn line(id: &str, number: Option<&str>) -> Arc<LineProfile> {
        Arc::new(LineProfile {
            phone_number: number.map(Private::new),
            ..LineProfile::bare(LineId::new(id))
        })
    }

    fn chosen(request: Value, lines: &[Arc<LineProfile>]) -> Result<String, String> {
        let order = read(request).expect("no mistakes");
        let fleet = SharedFleet::new(Limits::default());
        let domain = HostPort::parse("sip.example").expect("a host");
        for line in lines {
            let (id, username) = (line.id.clone(), Private::new("user"));
            let ready = ReadyLine::bare(id, &domain, Transport::Udp, username);
            fleet.hold(ready, line.clone());
        }
        match order.choose(&LineDirectory::new(&fleet)) {
            Ok(line) => Ok(line.id.to_string()),
            Err(problem) => {
                let body = serde_json::to_value(problem).expect("JSON");
                Err(body["errors"][0]["field"].as_str().unwrap_or("").to_owned())
            }
        }
    }

    #[test]
    fn a_whole_request_is_read() {
        let order = read(json!({
            "to": " +33612345678 ", "from": "+33 9", "customParams": {"a": "b"},
            "wsTarget": "ws://h/x", "callbackUrl": "https://h/x", "timeoutSec": 45, "phoneLineId": 7,
        }))
        .expect("valid");
        assert_eq!(order.to.expose(), "+33612345678");
        assert_eq!(order.line.as_deref(), Some("7"));
        assert_eq!(order.ring_timeout, Duration::from_secs(45));
        assert_eq!(order.custom_params["a"], "b");
        let short = read(json!({"to": "sip:a@b", "from": null})).expect("valid");
        assert_eq!(short.ring_timeout, Duration::from_secs(30));
        assert!(short.from.is_none() && short.line.is_none());
    }

    #[test]
    fn every_mistake_is_told() {
        let many: Map<String, Value> = (0..65).map(|n| (n.to_string(), json!(""))).collect();
        let errors = read(json!({
            "from": 33, "customParams": many, "wsTarget": "http://h", "callbackUrl": "x",
            "timeoutSec": 0, "phoneLineId": [], "To": "1",
        }))
        .expect_err("mistakes");
        let fields: Vec<_> = errors
            .as_array()
            .expect("a list")
            .iter()
            .map(|error| error["field"].as_str().expect("a name"))
            .collect();
        assert_eq!(
            fields,
            [
                "To",
                "to",
                "from",
                "phoneLineId",
                "customParams",
                "wsTarget",
                "callbackUrl",
                "timeoutSec"
            ]
        );
        for to in ["", "  ", "a\u{0}b", "<sip:a@b>", &"1".repeat(257)] {
            assert!(read(json!({"to": to})).is_err(), "{to}");
        }
        let odd = read(json!({"to": "1", "customParams": {"a": 1}})).expect_err("a number");
        assert_eq!(odd[0]["field"], "customParams.a");
    }

    #[test]
    fn the_line_is_the_one_that_is_named_or_the_only_one() {
        let one = [line("7", Some("+33 9 72"))];
        let two = [line("7", Some("+33 9 72")), line("8", None)];
        let ok = |id: &str| Ok(id.to_owned());
        let at_fault = |field: &str| Err(field.to_owned());
        assert_eq!(chosen(json!({"to": "1"}), &one), ok("7"));
        assert_eq!(chosen(json!({"to": "1"}), &two), at_fault("phoneLineId"));
        assert_eq!(chosen(json!({"to": "1"}), &[]), at_fault("phoneLineId"));
        assert_eq!(chosen(json!({"to": "1", "from": "+33972"}), &two), ok("7"));
        assert_eq!(
            chosen(json!({"to": "1", "from": "+33"}), &two),
            at_fault("from")
        );
        assert_eq!(
            chosen(json!({"to": "1", "phoneLineId": "8"}), &two),
            ok("8")
        );
        let unknown = json!({"to": "1", "phoneLineId": "9"});
        assert_eq!(chosen(unknown, &two), at_fault("phoneLineId"));
        let other = json!({"to": "1", "phoneLineId": "8", "from": "+33972"});
        assert_eq!(chosen(other, &two), at_fault("from"));
        let twins = [line("7", Some("+331")), line("8", Some("+331"))];
        let both = json!({"to": "1", "from": "+331"});
        assert_eq!(chosen(both, &twins), at_fault("phoneLineId"));
    }
}
