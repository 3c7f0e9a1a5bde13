//! A request to a voice webhook: its fields, in Twilio's names, and its signature.

use std::fmt;
use std::time::{Duration, SystemTime};

use url::form_urlencoded::Serializer;

use crate::core::answering_machine::AnsweredBy;
use crate::core::call_object::{CallDirection, CallStatus};
use crate::core::header_name::capitals;
use crate::core::ids::{AccountSid, CallId, StreamId};
use crate::core::numbers::Country;
use crate::core::private::Private;
use crate::core::signature::Signer;
use crate::core::timestamp::{rfc2822, rfc3339_ms};
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, Webhook};

/// `ApiVersion`: the one that there is.
pub const API_VERSION: &str = "2010-04-01";

/// Names and values of a form, in their order. `Debug` shows the names alone: the values tell who calls.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FormFields(Vec<(String, String)>);

impl FormFields {
    /// Adds a field.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds those of another form.
    pub fn extend(&mut self, more: &Self) {
        self.0.extend_from_slice(&more.0);
    }

    /// All of them.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As `application/x-www-form-urlencoded`.
    #[must_use]
    pub fn encode(&self) -> String {
        Serializer::new(String::new())
            .extend_pairs(&self.0)
            .finish()
    }
}

impl fmt::Debug for FormFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// What every request about a call says of it.
#[derive(Clone, Debug)]
pub struct VoiceFacts {
    /// `CallSid`.
    pub call: CallId,
    /// `AccountSid`.
    pub account: AccountSid,
    /// `ParentCallSid`: the call whose `<Dial>` placed this one.
    pub parent: Option<CallId>,
    /// `Direction`.
    pub direction: CallDirection,
    /// `From` and `Caller`.
    pub from: Private,
    /// `To` and `Called`.
    pub to: Private,
    /// `ForwardedFrom`: who diverted the call, by its Diversion.
    pub forwarded_from: Option<Private>,
    /// `CallerName`: the caller's display name.
    pub caller_name: Option<Private>,
    /// `AnsweredBy`: who answered, once a detection has told.
    pub answered_by: Option<AnsweredBy>,
    /// `FromCountry`.
    pub from_country: Option<Country>,
    /// `ToCountry`.
    pub to_country: Option<Country>,
    /// `SipHeader_…`: headers of the INVITE, by their lower-case names. Those that begin with `X-` are told, and those that
    /// Twilio tells as well.
    pub sip_headers: Vec<(String, Private)>,
}

impl VoiceFacts {
    /// The fields of a request to a webhook. What is not known is left out.
    #[must_use]
    pub fn fields(&self, status: CallStatus) -> FormFields {
        let mut fields = FormFields::default();
        fields.push("AccountSid", self.account.as_str());
        fields.push("ApiVersion", API_VERSION);
        fields.push("CallSid", self.call.as_str());
        fields.push("CallStatus", twilio_status(status, self.direction));
        fields.push(
            "Direction",
            twilio_direction(self.direction, self.parent.is_some()),
        );
        if let Some(parent) = &self.parent {
            fields.push("ParentCallSid", parent.as_str());
        }
        if let Some(answered_by) = self.answered_by {
            fields.push("AnsweredBy", answered_by.as_str());
        }
        let numbers = [
            ("From", Some(&self.from)),
            ("Caller", Some(&self.from)),
            ("To", Some(&self.to)),
            ("Called", Some(&self.to)),
            ("ForwardedFrom", self.forwarded_from.as_ref()),
            ("CallerName", self.caller_name.as_ref()),
        ];
        for (name, value) in numbers {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                fields.push(name, value.expose());
            }
        }
        let countries = [
            ("FromCountry", self.from_country),
            ("ToCountry", self.to_country),
        ];
        for (name, country) in countries {
            if let Some(country) = country {
                fields.push(name, country.code());
            }
        }
        for (name, value) in &self.sip_headers {
            if let Some(name) = shown_header(name) {
                fields.push(format!("SipHeader_{name}"), value.expose());
            }
        }
        fields
    }
}

/// A header, by its lower-case name, as Twilio writes it; `None` for one that it does not tell.
fn shown_header(name: &str) -> Option<String> {
    const STANDARD: [&str; 3] = ["Diversion", "P-Asserted-Identity", "User-to-User"];
    let standard = STANDARD
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name));
    match standard {
        Some(known) => Some(known.to_owned()),
        None => name.starts_with("x-").then(|| capitals(name)),
    }
}

/// The name that Twilio has for a status. A call that was handed to another number is over for us.
#[must_use]
pub const fn twilio_status(status: CallStatus, direction: CallDirection) -> &'static str {
    match (status, direction) {
        (CallStatus::Initiated, CallDirection::Outbound) => "queued",
        (CallStatus::Initiated | CallStatus::Ringing, _) => "ringing",
        (CallStatus::Answered | CallStatus::Active, _) => "in-progress",
        (CallStatus::Completed | CallStatus::Transferred, _) => "completed",
        (CallStatus::Failed, _) => "failed",
        (CallStatus::Busy, _) => "busy",
        (CallStatus::NoAnswer, _) => "no-answer",
        (CallStatus::Cancelled, _) => "canceled",
    }
}

/// The name that Twilio has for a direction.
#[must_use]
pub const fn twilio_direction(direction: CallDirection, is_dialled: bool) -> &'static str {
    match direction {
        CallDirection::Inbound => "inbound",
        CallDirection::Outbound if is_dialled => "outbound-dial",
        CallDirection::Outbound => "outbound-api",
    }
}

/// How a call has come to stand, for its status callback.
#[derive(Clone, Copy, Debug)]
pub struct StatusChange {
    /// `CallStatus`.
    pub status: CallStatus,
    /// `SequenceNumber`: how many callbacks of the call there were before.
    pub sequence: u32,
    /// `Timestamp`: when it came to that.
    pub at: SystemTime,
    /// `CallDuration`: how long the two have talked; told once the call is over.
    pub talked: Duration,
    /// `SipResponseCode`: what ended it, where that is known; told once the call is over.
    pub sip_status: Option<u16>,
}

/// The fields of a call's status callback: those of each request, and how the call has come to stand.
#[must_use]
pub fn status_fields(facts: &VoiceFacts, change: &StatusChange) -> FormFields {
    let mut fields = facts.fields(change.status);
    fields.push("CallbackSource", "call-progress-events");
    fields.push("SequenceNumber", change.sequence.to_string());
    fields.push("Timestamp", rfc2822(change.at));
    if change.status.is_final() {
        fields.push("CallDuration", change.talked.as_secs().to_string());
        if let Some(status) = change.sip_status {
            fields.push("SipResponseCode", status.to_string());
        }
    }
    fields
}

/// The fields of `AsyncAmdStatusCallback`: who answered, and how long after the answer that was known.
#[must_use]
pub fn detection_fields(
    facts: &VoiceFacts,
    answered_by: AnsweredBy,
    after: Duration,
) -> FormFields {
    let mut fields = FormFields::default();
    fields.push("AccountSid", facts.account.as_str());
    fields.push("CallSid", facts.call.as_str());
    fields.push("AnsweredBy", answered_by.as_str());
    fields.push("MachineDetectionDuration", after.as_millis().to_string());
    fields
}

/// `StreamEvent` of a stream's status callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The worker's WebSocket is up.
    Started,
    /// The stream is over.
    Stopped,
    /// It could not be begun, or broke.
    Error,
}

impl StreamEvent {
    /// The name in `StreamEvent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "stream-started",
            Self::Stopped => "stream-stopped",
            Self::Error => "stream-error",
        }
    }
}

/// A stream, as its status callback names it.
#[derive(Clone, Copy, Debug)]
pub struct StreamFacts<'a> {
    /// `StreamSid`.
    pub stream: &'a StreamId,
    /// `StreamName`: that of `<Stream>`, else the `StreamSid`.
    pub name: Option<&'a str>,
}

/// The fields of a stream's status callback; `error` says why, where that is known.
#[must_use]
pub fn stream_fields(
    facts: &VoiceFacts,
    stream: StreamFacts<'_>,
    event: StreamEvent,
    error: Option<&str>,
    at: SystemTime,
) -> FormFields {
    let mut fields = FormFields::default();
    fields.push("AccountSid", facts.account.as_str());
    fields.push("CallSid", facts.call.as_str());
    fields.push("StreamSid", stream.stream.as_str());
    fields.push("StreamName", stream.name.unwrap_or(stream.stream.as_str()));
    fields.push("StreamEvent", event.as_str());
    if let Some(error) = error {
        fields.push("StreamError", error);
    }
    fields.push("Timestamp", rfc3339_ms(at));
    fields
}

/// A request to a webhook as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceRequest {
    /// Where; with the fields in the query for GET.
    pub url: VoiceUrl,
    /// The form for POST.
    pub form: Option<FormFields>,
    /// `X-Twilio-Signature`, where requests are signed.
    pub signature: Option<String>,
}

impl VoiceRequest {
    /// Writes and signs a request.
    #[must_use]
    pub fn new(webhook: &Webhook, fields: FormFields, signer: Option<&Signer>) -> Self {
        match webhook.method {
            HttpMethod::Post => Self::post(webhook.url.clone(), fields, signer),
            HttpMethod::Get => Self::get(webhook.url.with_query(fields.pairs()), signer),
        }
    }

    /// The request that follows a redirect of this HTTP status, signed anew: as browsers do, 307 and 308 repeat the form, and
    /// others ask for exactly the address that they name (RFC 9110, section 15.4).
    #[must_use]
    pub fn redirected(self, status: u16, to: VoiceUrl, signer: Option<&Signer>) -> Self {
        match self.form.filter(|_| matches!(status, 307 | 308)) {
            Some(form) => Self::post(to, form, signer),
            None => Self::get(to, signer),
        }
    }

    fn post(url: VoiceUrl, form: FormFields, signer: Option<&Signer>) -> Self {
        let pairs = form.pairs().iter();
        let pairs: Vec<_> = pairs.map(|(name, value)| (&**name, &**value)).collect();
        Self {
            signature: signer.map(|signer| signer.sign_form(&url.without_login(), &pairs)),
            url,
            form: Some(form),
        }
    }

    fn get(url: VoiceUrl, signer: Option<&Signer>) -> Self {
        Self {
            signature: signer.map(|signer| signer.sign_url(&url.without_login())),
            url,
            form: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outward::WrittenBy;
    use crate::core::private::Secret;

    fn facts() -> VoiceFacts {
        VoiceFacts {
            call: CallId::parse("CA0123456789abcdef0123456789abcdef").unwrap(),
            account: AccountSid::of_node("node"),
            parent: None,
            direction: CallDirection::Inbound,
            from: Private::new("+33612345678"),
            to: Private::new("+33972360682"),
            forwarded_from: None,
            caller_name: Some(Private::new("Anne & Bob")),
            answered_by: None,
            from_country: Country::parse("fr"),
            to_country: None,
            sip_headers: vec![
                ("x-room".into(), Private::new("12 b")),
                ("user-to-user".into(), Private::new("0a")),
                ("via".into(), Private::new("x")),
            ],
        }
    }

    fn webhook(text: &str, method: HttpMethod) -> Webhook {
        let url = VoiceUrl::parse_http(text).unwrap();
        Webhook {
            url,
            method,
            written_by: WrittenBy::Operator,
        }
    }

    #[test]
    fn fields_have_twilios_names_and_what_is_unknown_is_left_out() {
        let fields = facts().fields(CallStatus::Ringing);
        let names: Vec<_> = fields.pairs().iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            names,
            [
                "AccountSid",
                "ApiVersion",
                "CallSid",
                "CallStatus",
                "Direction",
                "From",
                "Caller",
                "To",
                "Called",
                "CallerName",
                "FromCountry",
                "SipHeader_X-Room",
                "SipHeader_User-to-User",
            ]
        );
        for (name, value) in [
            ("ApiVersion", "2010-04-01"),
            ("CallStatus", "ringing"),
            ("Direction", "inbound"),
            ("Caller", "+33612345678"),
            ("Called", "+33972360682"),
            ("FromCountry", "FR"),
            ("SipHeader_X-Room", "12 b"),
        ] {
            assert_eq!(fields.get(name), Some(value), "{name}");
        }
        assert!(!format!("{fields:?}").contains("336"), "{fields:?}");
        let outbound = VoiceFacts {
            direction: CallDirection::Outbound,
            from: Private::default(),
            ..facts()
        };
        let fields = outbound.fields(CallStatus::Active);
        assert_eq!(fields.get("Direction"), Some("outbound-api"));
        assert_eq!(fields.get("CallStatus"), Some("in-progress"));
        let just_begun = |facts: VoiceFacts| {
            let fields = facts.fields(CallStatus::Initiated);
            fields.get("CallStatus").map(str::to_owned)
        };
        assert_eq!(just_begun(outbound).as_deref(), Some("queued"));
        assert_eq!(just_begun(facts()).as_deref(), Some("ringing"));
        assert_eq!(fields.get("From"), None);
    }

    #[test]
    fn a_form_is_encoded_as_browsers_do() {
        let mut fields = FormFields::default();
        fields.push("From", "+336");
        fields.push("CallerName", "Anne & Bob é");
        assert_eq!(
            fields.encode(),
            "From=%2B336&CallerName=Anne+%26+Bob+%C3%A9"
        );
    }

    /// The example of Twilio's documentation, computed there.
    #[test]
    fn a_post_is_signed_over_its_url_and_form() {
        let mut fields = FormFields::default();
        for (name, value) in [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ] {
            fields.push(name, value);
        }
        let signer = Signer::new(Secret::new("12345".into()));
        let with_login = "https://user:word@mycompany.com/myapp.php?foo=1&bar=2";
        let webhook = webhook(with_login, HttpMethod::Post);
        let request = VoiceRequest::new(&webhook, fields.clone(), Some(&signer));
        let signature = request.signature.as_deref();
        assert_eq!(signature, Some("RSOYDt4T1cUTdK1PDd93/VVr8B8="));
        assert_eq!(request.url.expose(), with_login);
        assert_eq!(request.form, Some(fields.clone()));
        assert_eq!(VoiceRequest::new(&webhook, fields, None).signature, None);
    }

    #[test]
    fn a_get_is_signed_with_its_fields_in_the_query() {
        let mut fields = FormFields::default();
        fields.push("Digits", "1#");
        let signer = Signer::new(Secret::new("12345".into()));
        let webhook = webhook("http://bot/voice?a=1", HttpMethod::Get);
        let request = VoiceRequest::new(&webhook, fields, Some(&signer));
        assert_eq!(request.url.expose(), "http://bot/voice?a=1&Digits=1%23");
        assert_eq!(request.form, None);
        assert_eq!(
            request.signature,
            Some(signer.sign_url(request.url.expose()))
        );
    }

    #[test]
    fn a_redirect_is_followed_as_browsers_do_and_signed_anew() {
        let signer = Signer::new(Secret::new("12345".into()));
        let mut fields = FormFields::default();
        fields.push("CallSid", "CA1");
        let to = VoiceUrl::parse_http("http://bot/next").unwrap();
        for (status, is_repeated) in [
            (301, false),
            (302, false),
            (303, false),
            (307, true),
            (308, true),
        ] {
            let first = webhook("http://bot/voice", HttpMethod::Post);
            let first = VoiceRequest::new(&first, fields.clone(), Some(&signer));
            let next = first.redirected(status, to.clone(), Some(&signer));
            assert_eq!(next.url, to);
            assert_eq!(next.form, is_repeated.then(|| fields.clone()), "{status}");
            let expected = match is_repeated {
                true => signer.sign_form("http://bot/next", &[("CallSid", "CA1")]),
                false => signer.sign_url("http://bot/next"),
            };
            assert_eq!(next.signature, Some(expected));
        }
        let first = webhook("http://bot/voice", HttpMethod::Get);
        let next = VoiceRequest::new(&first, fields, None).redirected(307, to.clone(), None);
        assert_eq!((next.url, next.form, next.signature), (to, None, None));
    }

    #[test]
    fn a_detection_says_who_it_was_and_when() {
        let after = Duration::from_millis(2_480);
        let fields = detection_fields(&facts(), AnsweredBy::MachineEndBeep, after);
        let said: Vec<_> = fields.pairs().iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            said,
            [
                "AccountSid",
                "CallSid",
                "AnsweredBy",
                "MachineDetectionDuration"
            ]
        );
        assert_eq!(fields.get("AnsweredBy"), Some("machine_end_beep"));
        assert_eq!(fields.get("MachineDetectionDuration"), Some("2480"));
    }

    #[test]
    fn a_status_callback_says_which_it_is_and_how_the_call_ended() {
        let mut change = StatusChange {
            status: CallStatus::Ringing,
            sequence: 1,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_487_400),
            talked: Duration::from_millis(61_900),
            sip_status: Some(200),
        };
        let fields = status_fields(&facts(), &change);
        for (name, value) in [
            ("CallSid", Some("CA0123456789abcdef0123456789abcdef")),
            ("CallStatus", Some("ringing")),
            ("CallbackSource", Some("call-progress-events")),
            ("SequenceNumber", Some("1")),
            ("Timestamp", Some("Thu, 15 Jan 2026 14:30:00 +0000")),
            ("CallDuration", None),
            ("SipResponseCode", None),
            ("ParentCallSid", None),
            ("AnsweredBy", None),
        ] {
            assert_eq!(fields.get(name), value, "{name}");
        }
        change.status = CallStatus::Completed;
        let child = VoiceFacts {
            parent: CallId::parse("CAfedcba9876543210fedcba9876543210"),
            answered_by: Some(AnsweredBy::MachineStart),
            ..facts()
        };
        let fields = status_fields(&child, &change);
        for (name, value) in [
            ("CallStatus", "completed"),
            ("CallDuration", "61"),
            ("SipResponseCode", "200"),
            ("ParentCallSid", "CAfedcba9876543210fedcba9876543210"),
            ("AnsweredBy", "machine_start"),
        ] {
            assert_eq!(fields.get(name), Some(value), "{name}");
        }
        // Of a call that was lost nobody knows it.
        change.sip_status = None;
        assert_eq!(status_fields(&child, &change).get("SipResponseCode"), None);
    }

    #[test]
    fn a_streams_callback_names_the_stream() {
        let stream = StreamId::parse("MZ0123456789abcdef0123456789abcdef").unwrap();
        let named = |name| StreamFacts {
            stream: &stream,
            name,
        };
        let at = SystemTime::UNIX_EPOCH;
        let started = stream_fields(&facts(), named(None), StreamEvent::Started, None, at);
        assert_eq!(started.get("StreamName"), Some(stream.as_str()));
        assert_eq!(started.get("StreamEvent"), Some("stream-started"));
        assert_eq!(started.get("StreamError"), None);
        assert_eq!(started.get("Timestamp"), Some("1970-01-01T00:00:00.000Z"));
        let why = Some("handshake refused");
        let failed = stream_fields(&facts(), named(Some("bot")), StreamEvent::Error, why, at);
        assert_eq!(failed.get("StreamName"), Some("bot"));
        assert_eq!(failed.get("StreamError"), why);
    }
}
