//! A line's own way to its worker, and who is told how its calls went: `wsTarget`, `voiceUrl`, `statusCallback` and
//! what belongs to them.
//!
//! A line has one way: one of these two, or what the flags say for all lines that name none.

use std::fmt;

use serde_json::{Map, Value};

use super::entry::Reader;
use super::line::{FieldIssue, FieldProblem};
use super::row::CLIENT_URLS;
use crate::core::outward::WrittenBy;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::voice::VoiceLine;

/// The fields that name addresses of webhooks.
pub const WEBHOOK_URLS: [&str; 3] = [VOICE_URL, VOICE_FALLBACK_URL, STATUS_CALLBACK];

const WS_TARGET: &str = "wsTarget";
const VOICE_URL: &str = "voiceUrl";
const VOICE_FALLBACK_URL: &str = "voiceFallbackUrl";
const STATUS_CALLBACK: &str = "statusCallback";

/// The way of a line that does not go by the flags. `Debug` and `Display` show scheme and host alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineWay {
    /// `wsTarget`: its worker is dialled there.
    WsTarget(VoiceUrl),
    /// `voiceUrl`: a bot is asked there.
    Voice(VoiceLine),
}

impl LineWay {
    /// The address to dial, where a worker is dialled.
    #[must_use]
    pub const fn ws_target(&self) -> Option<&VoiceUrl> {
        match self {
            Self::WsTarget(url) => Some(url),
            Self::Voice(_) => None,
        }
    }

    /// The voice webhook, where a bot is asked.
    #[must_use]
    pub const fn voice(&self) -> Option<&VoiceLine> {
        match self {
            Self::WsTarget(_) => None,
            Self::Voice(voice) => Some(voice),
        }
    }
}

impl fmt::Display for LineWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WsTarget(url) => write!(f, "{WS_TARGET} {url}"),
            Self::Voice(voice) => write!(f, "{VOICE_URL} {}", voice.webhook.url),
        }
    }
}

/// Which addresses of a line a client wrote.
#[must_use]
pub fn client_urls(object: &Map<String, Value>) -> Vec<String> {
    let urls = object.get(CLIENT_URLS.1).and_then(Value::as_array);
    let urls = urls.into_iter().flatten().filter_map(Value::as_str);
    urls.map(str::to_owned).collect()
}

/// What a line names and what has no effect as it is.
pub(super) fn without_effect(object: &Map<String, Value>) -> Option<FieldIssue> {
    let is_given = |field: &str| {
        let text = object.get(field).and_then(Value::as_str);
        text.is_some_and(|text| !text.is_empty())
    };
    (is_given(VOICE_FALLBACK_URL) && !is_given(VOICE_URL)).then(|| FieldIssue {
        field: VOICE_FALLBACK_URL.into(),
        problem: FieldProblem::NoEffect(VOICE_URL),
    })
}

impl Reader<'_> {
    /// The line's own way to its worker.
    pub(super) fn way(&mut self) -> Option<LineWay> {
        let ws_target = self.text(WS_TARGET).and_then(|text| {
            let url = VoiceUrl::resolve_ws(None, &text);
            self.unless_none(WS_TARGET, url, "ws:// or wss://")
        });
        let webhook = self.webhook(VOICE_URL, "voiceMethod");
        let fallback = self.webhook(VOICE_FALLBACK_URL, "voiceFallbackMethod");
        match (ws_target, webhook) {
            (Some(_), Some(_)) => {
                // Of both: a change that names one of them is refused whichever it is.
                self.report(WS_TARGET, FieldProblem::OtherWay(VOICE_URL));
                self.report(VOICE_URL, FieldProblem::OtherWay(WS_TARGET));
                None
            }
            (Some(url), None) => Some(LineWay::WsTarget(url)),
            (None, Some(webhook)) => Some(LineWay::Voice(VoiceLine { webhook, fallback })),
            (None, None) => None,
        }
    }

    /// An address that is asked, or told; POST where no method is named.
    pub(super) fn webhook(&mut self, url: &str, method: &str) -> Option<Webhook> {
        let method = self.method(method);
        let text = self.text(url)?;
        let parsed = VoiceUrl::parse_http(&text);
        Some(Webhook {
            url: self.unless_none(url, parsed, "http:// or https://")?,
            method: method?,
            written_by: match self.is_clients(&text) {
                true => WrittenBy::Client,
                false => WrittenBy::Operator,
            },
        })
    }

    fn method(&mut self, field: &str) -> Option<HttpMethod> {
        let name = self.text(field).map(|name| name.to_ascii_uppercase());
        match name.as_deref() {
            None | Some("POST") => Some(HttpMethod::Post),
            Some("GET") => Some(HttpMethod::Get),
            Some(_) => {
                self.report(field, FieldProblem::Method);
                None
            }
        }
    }

    fn unless_none(
        &mut self,
        field: &str,
        url: Option<VoiceUrl>,
        schemes: &'static str,
    ) -> Option<VoiceUrl> {
        if url.is_none() {
            self.report(field, FieldProblem::Url(schemes));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::PhoneLine;
    use crate::lines::entry::{LineEntry, read_entry};
    use serde_json::json;

    fn read(mut value: Value) -> (LineEntry, Vec<FieldIssue>) {
        value["id"] = json!(1);
        match value {
            Value::Object(object) => read_entry(object),
            other => panic!("not an object: {other}"),
        }
    }

    fn line(value: Value) -> PhoneLine {
        match read(value).0 {
            LineEntry::Line(line) => *line,
            other => panic!("{other:?}"),
        }
    }

    fn issues(value: Value) -> Vec<String> {
        match read(value).0 {
            LineEntry::Mistaken(_, issues) => issues.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_has_one_way_or_that_of_the_flags() {
        assert_eq!(line(json!({"voiceUrl": "", "wsTarget": null})).way, None);
        let pushed = line(json!({"wsTarget": "wss://u:secret@Bot.example/media?k=1"}));
        let way = pushed.way.expect("a way");
        let url = way.ws_target().expect("an address");
        assert_eq!(url.expose(), "wss://u:secret@bot.example/media?k=1");
        assert_eq!(format!("{way}"), "wsTarget wss://bot.example");
        assert!(!format!("{way:?}").contains("secret"));
        let asked = line(
            json!({"voiceUrl": "http://10.0.0.5:8000/voice", "voiceMethod": "get",
            "voiceFallbackUrl": "https://bot.example/f"}),
        );
        let way = asked.way.expect("a way");
        assert_eq!(format!("{way}"), "voiceUrl http://10.0.0.5:8000");
        let voice = way.voice().expect("a webhook");
        assert_eq!(voice.webhook.method, HttpMethod::Get);
        assert_eq!(voice.webhook.written_by, WrittenBy::Operator);
        let fallback = voice.fallback.as_ref().expect("a fallback");
        assert_eq!(fallback.method, HttpMethod::Post);
        let both = issues(json!({"wsTarget": "ws://h", "voiceUrl": "http://h"}));
        assert_eq!(
            both,
            [
                "field \"wsTarget\" is a second way to the line's worker beside voiceUrl: a line has one of the two",
                "field \"voiceUrl\" is a second way to the line's worker beside wsTarget: a line has one of the two",
            ]
        );
    }

    #[test]
    fn a_receiver_goes_with_any_way() {
        let told = line(
            json!({"wsTarget": "ws://h", "statusCallback": "https://h/s",
            "statusCallbackMethod": "GET"}),
        );
        let callback = told.status_callback.expect("a receiver");
        assert_eq!(callback.url.expose(), "https://h/s");
        assert_eq!(callback.method, HttpMethod::Get);
    }

    #[test]
    fn an_address_that_a_client_wrote_is_the_clients_until_another_stands_there() {
        let client = "https://client.example/v";
        let written_by = |url: &str| {
            let object = json!({"voiceUrl": url, "voiceFallbackUrl": "http://10.0.0.5/f",
                "statusCallback": client, "clientUrls": [client, 7]});
            let line = line(object);
            let voice = line
                .way
                .expect("a way")
                .voice()
                .cloned()
                .expect("a webhook");
            let fallback = voice.fallback.expect("a fallback").written_by;
            let told = line.status_callback.expect("a receiver").written_by;
            (voice.webhook.written_by, fallback, told)
        };
        let (operator, by_client) = (WrittenBy::Operator, WrittenBy::Client);
        assert_eq!(written_by(client), (by_client, operator, by_client));
        let other = "http://10.0.0.5/v";
        assert_eq!(written_by(other), (operator, operator, by_client));
    }

    #[test]
    fn every_mistake_is_reported_and_what_has_no_effect_warned_of() {
        let found = issues(json!({"wsTarget": "http://h", "voiceUrl": "ws://h",
            "voiceMethod": "PUT", "voiceFallbackUrl": "/relative", "statusCallback": 7}));
        assert_eq!(
            found,
            [
                "field \"wsTarget\" must be a URL that begins with ws:// or wss://",
                "field \"voiceMethod\" must be POST or GET",
                "field \"voiceUrl\" must be a URL that begins with http:// or https://",
                "field \"voiceFallbackUrl\" must be a URL that begins with http:// or https://",
                "field \"statusCallback\" must be a string, is a number",
            ]
        );
        let (entry, warnings) = read(json!({"voiceFallbackUrl": "https://h/f"}));
        assert!(matches!(entry, LineEntry::Line(_)));
        assert_eq!(
            warnings[0].to_string(),
            "field \"voiceFallbackUrl\" has no effect without voiceUrl"
        );
    }
}
