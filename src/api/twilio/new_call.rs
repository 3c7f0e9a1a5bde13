//! What `POST /Calls.json` takes: read field by field, and judged with Twilio's codes. What is asked for beyond that is refused by name.
//!
//! | code | where |
//! |---|---|
//! | 21201, 21211 | no `To`, one that is neither a number nor a SIP URI |
//! | 21213, 21212 | no `From`, one that is no line's number |
//! | 21205 | an address that cannot be used; neither `Url` nor `Twiml` |
//! | 12100 | `Twiml` that cannot be read |
//! | 21218 | any other parameter |
//! | 21215 | a number that the dial rules forbid: judged when the call is placed |

use std::collections::BTreeMap;
use std::time::Duration;

use super::call_options::{self, Recording, choice, words};
use super::error::{Code, TwilioError};
use super::form::Form;
use crate::bridge::place::{self, PlacedDetection, PlacedVoice};
use crate::core::callback::CallbackEvent;
use crate::core::dialling::destination::Destination;
use crate::core::ids::LineId;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::dial_string::DialString;
use crate::core::twiml::document::{HttpMethod, StatusCallback, Webhook};
use crate::core::twiml::{VoiceUrl, parse};
use crate::core::voice::Instructions;

/// Longest `Twiml`, in characters (Twilio's limit).
const TWIML_CHARS_MAX: usize = 4_000;
/// Longest `CallerId`, in bytes.
const CALLER_ID_BYTES_MAX: usize = 256;
/// How long the callee may ring when the request does not say, and at most, in seconds (Twilio's).
const RING_DEFAULT_S: u32 = 60;
const RING_MAX_S: u32 = 600;
/// Longest `TimeLimit`, in seconds (Twilio's).
const TIME_LIMIT_MAX_S: u32 = 86_400;

/// What there may be, for the audit log.
const PARAMETERS: [&str; 21] = [
    "To",
    "From",
    "Url",
    "Method",
    "Twiml",
    "FallbackUrl",
    "FallbackMethod",
    "StatusCallback",
    "StatusCallbackMethod",
    "StatusCallbackEvent",
    "Timeout",
    "TimeLimit",
    "SendDigits",
    "MachineDetection",
    "MachineDetectionTimeout",
    "MachineDetectionSpeechThreshold",
    "MachineDetectionSpeechEndThreshold",
    "MachineDetectionSilenceTimeout",
    "AsyncAmd",
    "AsyncAmdStatusCallback",
    "AsyncAmdStatusCallbackMethod",
];

/// The parameters that a request has.
pub(super) fn given(form: &Form) -> Vec<&'static str> {
    let is_given = |name: &&str| form.has(name);
    PARAMETERS.into_iter().filter(is_given).collect()
}

/// A call to be placed; `Line` is what stands for one of our lines. `Debug` shows no number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewCall<Line> {
    /// `To`: a number or a SIP URI, which the dial rules have not judged.
    pub(super) to: Private,
    /// The line whose number `From` is.
    pub(super) line: Line,
    /// `Url` with its `Method`, else `Twiml`: what is done with the call once it is answered.
    pub(super) instructions: Instructions,
    /// `FallbackUrl` and its method.
    pub(super) fallback: Option<Webhook>,
    /// `StatusCallback`, its method and events.
    pub(super) status_callback: Option<StatusCallback>,
    /// `Timeout`: how long the callee may ring.
    pub(super) ring_timeout: Duration,
    /// `TimeLimit`: how long the call may last.
    pub(super) time_limit: Option<Duration>,
    /// `SendDigits`: sent before the instructions are looked at.
    pub(super) first_digits: Option<DialString>,
    /// `CallerId`: who calls, as the callee sees it.
    pub(super) caller_id: Option<Private>,
    /// `MachineDetection` and what belongs to it.
    pub(super) detection: Option<PlacedDetection>,
    /// `Record` and what belongs to it.
    pub(super) recording: Option<Recording>,
}

impl NewCall<LineId> {
    /// What the bridge is asked for.
    ///
    /// # Errors
    /// When something of it is not built.
    pub(super) fn order(self) -> Result<place::NewCall, TwilioError> {
        let missing = [("Record", self.recording.is_some())];
        if let Some((name, _)) = missing.iter().find(|(_, is_asked)| *is_asked) {
            let text = format!("{name} is not served by this bridge yet");
            return Err(TwilioError::new(Code::PARAMETER, text));
        }
        Ok(place::NewCall {
            line: self.line,
            to: self.to,
            custom_params: BTreeMap::new(),
            ws_target: None,
            callback_url: None,
            ring_timeout: self.ring_timeout,
            time_limit: self.time_limit,
            caller_id: self.caller_id,
            voice: Some(PlacedVoice {
                first: self.instructions,
                fallback: self.fallback,
                digits: self.first_digits,
                status_callback: self.status_callback,
                detection: self.detection,
            }),
        })
    }
}

impl<Line> NewCall<Line> {
    /// Reads a request; `line_of` has the line of a number.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn read(
        mut form: Form,
        line_of: impl FnOnce(&str) -> Option<Line>,
    ) -> Result<Self, TwilioError> {
        let call = Self::take(&mut form, line_of)?;
        form.finish()?;
        Ok(call)
    }

    fn take(
        form: &mut Form,
        line_of: impl FnOnce(&str) -> Option<Line>,
    ) -> Result<Self, TwilioError> {
        Ok(Self {
            to: to(form)?,
            line: line(form, line_of)?,
            instructions: instructions(form)?,
            fallback: webhook(form, "FallbackUrl", "FallbackMethod")?,
            status_callback: status_callback(form)?,
            ring_timeout: seconds(form, "Timeout", RING_MAX_S)
                .unwrap_or(Duration::from_secs(RING_DEFAULT_S.into())),
            time_limit: seconds(form, "TimeLimit", TIME_LIMIT_MAX_S),
            first_digits: form.parsed(
                "SendDigits",
                "must be at most 128 of 0-9 A-D * # w W",
                DialString::parse,
            ),
            caller_id: caller_id(form),
            detection: call_options::detection(form)?,
            recording: Recording::read(form)?,
        })
    }
}

fn to(form: &mut Form) -> Result<Private, TwilioError> {
    let to = form.lines("To").unwrap_or_default();
    let to = to.trim();
    if to.is_empty() {
        let text = "To is missing: the number or SIP URI to be called";
        return Err(TwilioError::new(Code::NO_TO, text));
    }
    match Destination::parse(to, &[]) {
        Ok(_) => Ok(Private::new(to)),
        Err(malformed) => Err(TwilioError::new(Code::BAD_TO, format!("To {malformed}"))),
    }
}

fn line<Line>(
    form: &mut Form,
    line_of: impl FnOnce(&str) -> Option<Line>,
) -> Result<Line, TwilioError> {
    let from = form.lines("From").unwrap_or_default();
    let from = from.trim();
    if from.is_empty() {
        let text = "From is missing: the number of a line of this bridge";
        return Err(TwilioError::new(Code::NO_FROM, text));
    }
    line_of(from).ok_or_else(|| {
        let text = "From is not the number of a line in use on this bridge";
        TwilioError::new(Code::FOREIGN_FROM, text)
    })
}

/// Where both are given, `Url` wins.
pub(super) fn instructions(form: &mut Form) -> Result<Instructions, TwilioError> {
    let twiml = form.lines("Twiml");
    if let Some(webhook) = webhook(form, "Url", "Method")? {
        return Ok(Instructions::Webhook(webhook));
    }
    let Some(twiml) = twiml else {
        let text = "Url and Twiml are missing: one of them says what is to be done with the call";
        return Err(TwilioError::new(Code::BAD_URL, text));
    };
    if twiml.chars().nth(TWIML_CHARS_MAX).is_some() {
        let text = format!("Twiml is longer than {TWIML_CHARS_MAX} characters");
        return Err(TwilioError::new(Code::PARAMETER, text));
    }
    match parse(twiml.as_bytes(), None, WrittenBy::Client) {
        Ok(document) => Ok(Instructions::Document(document)),
        Err(error) => Err(TwilioError::new(
            Code::of_twiml(&error),
            format!("Twiml: {error}"),
        )),
    }
}

/// An address of the client's, and the method that goes with it.
///
/// # Errors
/// When it cannot be used.
pub(super) fn webhook(
    form: &mut Form,
    name: &str,
    method: &str,
) -> Result<Option<Webhook>, TwilioError> {
    let methods = [("POST", HttpMethod::Post), ("GET", HttpMethod::Get)];
    let method = choice(form, method, &methods).unwrap_or_default();
    let Some(text) = form.lines(name) else {
        return Ok(None);
    };
    // A URL's reader leaves out line ends and tabs.
    let is_one_line = !text.trim().contains(char::is_control);
    let url = VoiceUrl::parse_http(&text).filter(|_| is_one_line);
    let url = url.ok_or_else(|| {
        let text = format!("{name} must be an http:// or https:// URL with a host");
        TwilioError::new(Code::BAD_URL, text)
    })?;
    Ok(Some(Webhook {
        url,
        method,
        written_by: WrittenBy::Client,
    }))
}

fn status_callback(form: &mut Form) -> Result<Option<StatusCallback>, TwilioError> {
    let reason = "must be initiated, ringing, answered or completed";
    let mut events = words(form, "StatusCallbackEvent", reason, CallbackEvent::parse);
    if events.is_empty() {
        events.push(CallbackEvent::Completed);
    }
    let webhook = webhook(form, "StatusCallback", "StatusCallbackMethod")?;
    Ok(webhook.map(|webhook| StatusCallback { webhook, events }))
}

fn seconds(form: &mut Form, name: &str, max: u32) -> Option<Duration> {
    let reason = format!("must be a whole number from 1 to {max}");
    form.parsed(name, &reason, |text| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds: u32 = is_number.then(|| text.parse().ok()).flatten()?;
        let is_served = (1..=max).contains(&seconds);
        is_served.then(|| Duration::from_secs(seconds.into()))
    })
}

fn caller_id(form: &mut Form) -> Option<Private> {
    let reason = format!("must be at most {CALLER_ID_BYTES_MAX} bytes");
    form.parsed("CallerId", &reason, |text| {
        let text = text.trim();
        (text.len() <= CALLER_ID_BYTES_MAX).then(|| Private::new(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "+33972360682";

    fn read(text: &str) -> Result<NewCall<&'static str>, TwilioError> {
        let form = Form::parse(text.as_bytes());
        NewCall::read(form, |number| (number == LINE).then_some("line"))
    }

    fn placed(text: &str) -> NewCall<&'static str> {
        let text = format!("To=%2B33612345678&From=%2B33972360682&{text}");
        read(&text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    /// Code and message of a refusal.
    fn refusal(text: &str) -> (u64, String) {
        let error = read(text).expect_err(text);
        assert_eq!(error.status(), 400);
        let body = serde_json::to_value(error).expect("JSON");
        let message = body["message"].as_str().expect("a text");
        (body["code"].as_u64().expect("a number"), message.to_owned())
    }

    fn hook(url: &str, method: HttpMethod) -> Webhook {
        Webhook {
            url: VoiceUrl::parse_http(url).expect("a URL"),
            method,
            written_by: WrittenBy::Client,
        }
    }

    #[test]
    fn a_call_has_twilios_defaults() {
        let call = placed("Url=https://bot.example/voice");
        assert_eq!(call.to.expose(), "+33612345678");
        let url = hook("https://bot.example/voice", HttpMethod::Post);
        let expected = NewCall {
            to: call.to.clone(),
            line: "line",
            instructions: Instructions::Webhook(url),
            fallback: None,
            status_callback: None,
            ring_timeout: Duration::from_secs(60),
            time_limit: None,
            first_digits: None,
            caller_id: None,
            detection: None,
            recording: None,
        };
        assert_eq!(call, expected);
        assert!(!format!("{call:?}").contains("336"), "{call:?}");
    }

    #[test]
    fn every_parameter_is_read() {
        let call = placed(
            "Url=http://bot/v%3Fa=1&Method=get&FallbackUrl=http://bot/f&FallbackMethod=GET\
             &StatusCallback=http://bot/s&StatusCallbackMethod=POST&StatusCallbackEvent=initiated\
             &StatusCallbackEvent=ringing+answered&StatusCallbackEvent=initiated&Timeout=600&TimeLimit=3600\
             &SendDigits=ww12%23&CallerId=%2B33111111111&Record=true&MachineDetection=Enable",
        );
        let url = hook("http://bot/v?a=1", HttpMethod::Get);
        assert_eq!(call.instructions, Instructions::Webhook(url));
        assert_eq!(call.fallback, Some(hook("http://bot/f", HttpMethod::Get)));
        let told = call.status_callback.expect("a callback");
        assert_eq!(told.webhook, hook("http://bot/s", HttpMethod::Post));
        use CallbackEvent::{Answered, Initiated, Ringing};
        assert_eq!(told.events, [Initiated, Ringing, Answered]);
        assert_eq!(call.ring_timeout, Duration::from_secs(600));
        assert_eq!(call.time_limit, Some(Duration::from_secs(3_600)));
        assert_eq!(call.first_digits, DialString::parse("ww12#"));
        let caller_id = call.caller_id.expect("a caller id");
        assert_eq!(caller_id.expose(), "+33111111111");
        assert!(call.recording.is_some() && call.detection.is_some());
        let told = placed("Url=http://bot/&StatusCallback=http://bot/s").status_callback;
        assert_eq!(told.expect("a callback").events, [CallbackEvent::Completed]);
    }

    #[test]
    fn twiml_of_several_lines_is_the_clients() {
        let call = placed(
            "Twiml=%3CResponse%3E%0A%09%3CRedirect%3Ehttp://bot/%3C/Redirect%3E%0D%0A%3C/Response%3E",
        );
        let Instructions::Document(document) = call.instructions else {
            panic!("no document");
        };
        use crate::core::twiml::Verb;
        let redirect = hook("http://bot/", HttpMethod::Post);
        assert_eq!(document.verbs, [Verb::Redirect(redirect)]);
        // With both, the address counts.
        let both = placed("Twiml=nonsense&Url=http://bot/");
        let url = hook("http://bot/", HttpMethod::Post);
        assert_eq!(both.instructions, Instructions::Webhook(url));
    }

    #[test]
    fn mistakes_have_twilios_codes() {
        let long = format!("To=1&From={LINE}&Twiml={}", "x".repeat(4_001));
        for (text, code) in [
            ("", 21201),
            ("To=&From=+33972360682&Url=http://bot/", 21201),
            ("To=client:alice&From=%2B33972360682&Url=http://bot/", 21211),
            ("To=1%0D%0A2&From=%2B33972360682&Url=http://bot/", 21211),
            ("To=1&Url=http://bot/", 21213),
            ("To=1&From=%2B33600000000&Url=http://bot/", 21212),
            ("To=1&From=%2B33972360682", 21205),
            ("To=1&From=%2B33972360682&Url=bot/voice", 21205),
            ("To=1&From=%2B33972360682&Url=ws://bot/", 21205),
            ("To=1&From=%2B33972360682&Url=http://bot/%0Ax", 21205),
            (
                "To=1&From=%2B33972360682&Url=http://b/&FallbackUrl=x",
                21205,
            ),
            (
                "To=1&From=%2B33972360682&Url=http://b/&StatusCallback=x",
                21205,
            ),
            ("To=1&From=%2B33972360682&Twiml=%3Cresponse/%3E", 12100),
            ("To=1&From=%2B33972360682&Twiml=Hello", 12100),
            (&long.replace('+', "%2B"), 21218),
        ] {
            assert_eq!(refusal(text).0, code, "{text}");
        }
        for parameter in [
            "Method=PUT",
            "Timeout=0",
            "Timeout=601",
            "Timeout=1.5",
            "TimeLimit=86401",
            "SendDigits=12x",
            "StatusCallbackEvent=over",
            "CallerId=a%00",
            "Record=maybe",
            "MachineDetection=maybe",
            "ApplicationSid=AP0",
            "Timeout=5&Timeout=6",
        ] {
            let text = format!("To=1&From=%2B33972360682&Url=http://bot/&{parameter}");
            let (code, message) = refusal(&text);
            let name = parameter.split('=').next().expect("a name");
            assert!(code == 21218 && message.starts_with(name), "{message}");
        }
        let (_, message) = refusal("To=1&From=%2B33972360682&Twiml=Hello");
        assert!(message.starts_with("Twiml: "), "{message}");
    }
}
