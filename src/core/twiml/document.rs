//! The verbs of a document, typed, with Twilio's defaults filled in and every address absolute.
//!
//! Every address says who wrote it, as the document's own does: one call may run documents of the operator and of clients
//! by turns, and what is asked or dialled for a client must not lead into the operator's network.
//!
//! `Debug` shows no number, no text that is spoken, no parameter's value and no path of an address.

use std::time::Duration;

use super::dial_string::DialString;
use super::error::TwimlWarning;
use super::voice_url::VoiceUrl;
use crate::core::call_facts::CustomParams;
use crate::core::callback::CallbackEvent;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::sip_header::SipHeader;

/// A TwiML document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// What is to be done, in this order.
    pub verbs: Vec<Verb>,
    /// What of the document is not served, and was left out.
    pub warnings: Vec<TwimlWarning>,
}

/// One thing that is to be done with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `<Say>`, `<Play>`, `<Pause>`.
    Prompt(Prompt),
    /// `<Gather>`.
    Gather(Gather),
    /// `<Connect><Stream>`.
    Connect(Connect),
    /// `<Start><Stream>`.
    StartStream(MediaStream),
    /// `<Stop><Stream>`: the name of a stream that `<Start>` began.
    StopStream(String),
    /// `<Dial>`.
    Dial(Dial),
    /// `<Redirect>`.
    Redirect(Webhook),
    /// `<Reject>`.
    Reject(RejectReason),
    /// `<Hangup>`.
    Hangup,
}

/// How a webhook is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HttpMethod {
    /// The fields are a form in the body.
    #[default]
    Post,
    /// The fields are the end of the query.
    Get,
}

/// An address that is asked what is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where.
    pub url: VoiceUrl,
    /// How.
    pub method: HttpMethod,
    /// By whom: it says whether the address may lead inward, and whether the request is signed.
    pub written_by: WrittenBy,
}

/// An address that is told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCallback {
    /// Where and how.
    pub webhook: Webhook,
    /// Of which events; all that there are for a stream.
    pub events: Vec<CallbackEvent>,
}

/// What the caller hears. These also stand within `<Gather>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// `<Say>`.
    Say(Say),
    /// `<Play>`.
    Play(Play),
    /// `<Pause length>`.
    Pause(Duration),
}

/// How often a prompt is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// So often, at least once.
    Times(u32),
    /// Until the call goes on otherwise: `loop="0"`.
    Forever,
}

/// `<Say>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Say {
    /// Without SSML, with single blanks; not empty.
    pub text: Private,
    /// `voice`, as it is written.
    pub voice: Option<String>,
    /// `language`, as it is written.
    pub language: Option<String>,
    /// `loop`.
    pub repeat: Repeat,
}

/// `<Play>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// What.
    pub source: PlaySource,
    /// `loop`.
    pub repeat: Repeat,
}

/// What `<Play>` plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaySource {
    /// A file.
    File {
        /// Where it is.
        url: VoiceUrl,
        /// Who wrote that.
        written_by: WrittenBy,
    },
    /// Digits, `digits`.
    Digits(DialString),
}

/// `<Gather>`, digits alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// `action`: by default the document's own address; `None` where it has none.
    pub action: Option<Webhook>,
    /// `timeout`, 5 s: the longest wait for the next digit once the prompts are over.
    pub timeout: Duration,
    /// `numDigits`: it is over with so many.
    pub digits_max: Option<u32>,
    /// `finishOnKey`: it is over with this key; `None` where every key counts as a digit.
    pub finish_on_key: Option<char>,
    /// `actionOnEmptyResult`: whether the action is asked without a digit too.
    pub acts_on_empty: bool,
    /// What is heard meanwhile; a digit interrupts it.
    pub prompts: Vec<Prompt>,
}

/// `<Connect>` with its `<Stream>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// `action`: asked when the worker has closed the stream; else the next verb follows.
    pub action: Option<Webhook>,
    /// The worker's stream, both ways.
    pub stream: MediaStream,
}

/// `<Stream>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaStream {
    /// The worker's WebSocket.
    pub url: VoiceUrl,
    /// Who wrote that address.
    pub written_by: WrittenBy,
    /// `name`.
    pub name: Option<String>,
    /// `track`; a stream of `<Connect>` has the inbound one.
    pub track: Track,
    /// `statusCallback` and its method.
    pub status_callback: Option<StatusCallback>,
    /// `<Parameter>`.
    pub parameters: CustomParams,
}

/// Whose audio a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Track {
    /// The caller's.
    #[default]
    Inbound,
    /// What the caller hears.
    Outbound,
    /// Both, each as a track of its own.
    Both,
}

/// `<Dial>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// `action`: asked when the second leg is over; else the next verb follows.
    pub action: Option<Webhook>,
    /// `timeout`, 30 s: how long it rings.
    pub timeout: Duration,
    /// `timeLimit`, 4 hours: how long the two may talk.
    pub time_limit: Duration,
    /// `callerId`: who calls, as the callee sees it.
    pub caller_id: Option<Private>,
    /// `hangupOnStar`: whether `*` of the caller ends the second leg.
    pub hangup_on_star: bool,
    /// `answerOnBridge`: whether the caller is answered only when the callee is.
    pub answer_on_bridge: bool,
    /// Who is called, all together; none where none could be read.
    pub targets: Vec<DialTarget>,
}

/// One who is called by `<Dial>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialTarget {
    /// Who.
    pub callee: Callee,
    /// `url` and `method`: what the callee hears before the two are joined.
    pub document: Option<Webhook>,
    /// `sendDigits`: sent to the callee before the two are joined.
    pub send_digits: Option<DialString>,
    /// `statusCallback`, its method and events.
    pub status_callback: Option<StatusCallback>,
}

/// Who is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A phone number as it is written: the dial rules judge it.
    PhoneNumber(Private),
    /// `<Sip>`: a sip or sips URI without its headers, and those headers.
    Sip {
        /// Printable ASCII without blanks, quotes and angle brackets.
        uri: Private,
        /// Headers for the INVITE.
        headers: Vec<SipHeader>,
    },
}

/// `reason` of `<Reject>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RejectReason {
    /// The caller is declined.
    #[default]
    Rejected,
    /// The caller hears that the line is busy.
    Busy,
}

impl RejectReason {
    /// The SIP status that refuses the call.
    #[must_use]
    pub const fn sip_status(self) -> u16 {
        match self {
            Self::Rejected => 603,
            Self::Busy => 486,
        }
    }
}
