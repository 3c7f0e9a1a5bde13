//! The words of a call that is run by TwiML: what it may do, what is asked of its driver, what comes back, and what is
//! left out.

use std::fmt;

use super::webhook::FormFields;
use crate::core::ids::CallId;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::dial_string::DialString;
use crate::core::twiml::document::{Dial, MediaStream, Webhook};
use crate::core::twiml::{Document, TwimlError, TwimlWarning, VoiceUrl};

/// The SIP status of a call that is ended unanswered, where nothing more is known: declined.
pub(super) const DECLINED: u16 = 603;

/// What the call may do.
#[derive(Clone, Debug, Default)]
pub struct VoicePolicy {
    /// Asked where a document cannot be had: `voiceFallbackUrl`.
    pub fallback: Option<Webhook>,
    /// Whether there is a service that speaks `<Say>`.
    pub can_say: bool,
    /// Whose call it is.
    pub role: VoiceRole,
    /// Sent to the callee of a placed call before its first instructions are looked at: `SendDigits`.
    pub first_digits: Option<DialString>,
    /// A caller's call that was answered before TwiML got it, as one that a worker has had.
    pub is_answered: bool,
}

/// Whose call is run by TwiML.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VoiceRole {
    /// A caller's, who may still hear that it rings.
    #[default]
    Inbound,
    /// One that we placed, once it is answered.
    Outbound,
    /// That of a callee of `<Dial>`, answered and not joined yet: the document of `<Number url>`. It hears prompts
    /// and presses keys; where its document ends it is joined.
    DialledLeg,
}

/// What is to be done with a call, by its webhook or by a request of the REST API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// What this address answers.
    Webhook(Webhook),
    /// This document.
    Document(Document),
}

/// Stands in a command whose answer is awaited, and in that answer. An answer with another one is late: what it
/// belongs to was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandId(pub(super) u32);

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoiceCommand {
    /// Ask a webhook what to do; answer with `handle_fetched`.
    Fetch {
        /// For the answer.
        id: CommandId,
        /// The request.
        request: FetchRequest,
    },
    /// Tell a webhook how it ended. The call is over: what it answers is for nobody.
    Notify(FetchRequest),
    /// Refuse the call with this SIP status; nothing follows.
    Refuse(u16),
    /// Answer the call; answer with `handle_established`.
    Answer,
    /// Let the caller (the callee of a dialled leg's own document) hear this once; answer with `handle_played`.
    Play {
        /// For the answer.
        id: CommandId,
        /// What is heard.
        sound: PromptSound,
    },
    /// Send digits as RTP events; answer with `handle_played` when the last is sent.
    SendDigits {
        /// For the answer.
        id: CommandId,
        /// Which leg of the running `<Dial>` gets them; `None`: the call itself.
        leg: Option<usize>,
        /// 0-9 * # A-D.
        digits: Private,
    },
    /// Stop what is heard or sent at once; a digit that sounds is ended as digits are. No answer is awaited any more.
    StopSound,
    /// Give the call to the worker of this stream, by push mode with its failover; answer with `handle_stream_ended`.
    OpenStream {
        /// For the answer.
        id: CommandId,
        /// The stream.
        stream: Box<MediaStream>,
    },
    /// End the worker's stream. No answer is awaited any more.
    CloseStream,
    /// Begin a one-way copy of the call's audio; `handle_copy_ended` when it ends by itself.
    StartCopy {
        /// For its end.
        id: CommandId,
        /// The stream.
        stream: Box<MediaStream>,
    },
    /// End the copy that was begun by this command.
    StopCopy(CommandId),
    /// Call all targets at once, the number of each being its place; answer with `handle_leg` for each.
    Dial {
        /// For the answers.
        id: CommandId,
        /// Who, and how.
        dial: Box<Dial>,
    },
    /// Run this webhook's document on an answered leg; answer with [`DialLegEvent::DocumentOver`].
    RunLegDocument {
        /// The leg.
        leg: usize,
        /// Its webhook.
        webhook: Webhook,
    },
    /// Join the caller with this leg.
    JoinLeg(usize),
    /// End this leg, whatever it has come to.
    EndLeg(usize),
    /// End the call: BYE; nothing follows.
    HangUp {
        /// The SIP status that refuses a call which was not answered.
        unanswered: u16,
    },
    /// The document of a dialled leg is over: it may be joined; nothing follows.
    Finished,
    /// No document can be had: the line's ladder takes the call; nothing follows.
    FallBack,
    /// Tell the log, and count it.
    Warn(VoiceWarning),
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptSound {
    /// A file.
    File {
        /// Where it is.
        url: VoiceUrl,
        /// Who wrote that.
        written_by: WrittenBy,
    },
    /// A spoken text.
    Speech {
        /// The text.
        text: Private,
        /// `voice`, as the document writes it.
        voice: Option<String>,
        /// `language`, as the document writes it.
        language: Option<String>,
    },
}

/// A request to a webhook: what it has beside the fields that every request of the call has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Where and how.
    pub webhook: Webhook,
    /// What this request has beside: `Digits`, `DialCallStatus`, `ErrorCode` and so on.
    pub fields: FormFields,
}

/// Why there is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// No connection, or it broke.
    #[error("no answer came: {0}")]
    NoAnswer(String),
    /// No whole answer within the time for it.
    #[error("it did not answer within {} s", super::FETCH_LIMIT.as_secs())]
    TimedOut,
    /// It led on and on.
    #[error("it redirects too often")]
    TooManyRedirects,
    /// A status that is not 2xx.
    #[error("it answered HTTP status {0}")]
    Status(u16),
    /// Neither XML nor HTML by its own account.
    #[error("its Content-Type is neither XML nor text/html")]
    ContentType,
    /// No TwiML.
    #[error(transparent)]
    Twiml(#[from] TwimlError),
}

impl FetchFailure {
    /// Twilio's number for it: `ErrorCode`.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::NoAnswer(_) => 11_205,
            Self::TimedOut | Self::Status(_) => 11_200,
            Self::TooManyRedirects => 11_215,
            Self::ContentType => 12_300,
            Self::Twiml(error) => error.code(),
        }
    }
}

/// How a worker's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The worker closed it.
    Closed,
    /// No worker was reached, or it was lost and its failover found none.
    Lost,
}

/// How far a leg of `<Dial>` has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialLegEvent {
    /// The dial rules permit it, and its INVITE is on its way.
    Placed(CallId),
    /// It was answered.
    Answered,
    /// The document that it was to hear is over.
    DocumentOver,
    /// It is over.
    Ended(DialLegEnd),
}

/// How a leg of `<Dial>` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialLegEnd {
    /// It was answered, and hung up.
    HungUp,
    /// Busy, or declined.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// The dial rules forbid it, or SIP failed.
    Failed,
}

/// `DialCallStatus`: how a `<Dial>` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialStatus {
    /// The two talked.
    Completed,
    /// Somebody was busy, and nobody answered.
    Busy,
    /// Nobody answered in time, or who answered was not joined.
    NoAnswer,
    /// Nobody could be called.
    Failed,
    /// The call ended while it rang.
    Canceled,
}

impl DialStatus {
    /// The SIP status for a caller who was not answered, where his call ends with the `<Dial>`.
    #[must_use]
    pub const fn sip_status(self) -> u16 {
        match self {
            Self::Busy => 486,
            Self::NoAnswer => 480,
            Self::Completed | Self::Failed | Self::Canceled => DECLINED,
        }
    }

    /// The name in `DialCallStatus`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// Something that did not go as the TwiML says. The call goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoiceWarning {
    /// Something of a document is not served.
    Document(TwimlWarning),
    /// A document could not be had.
    FetchFailed {
        /// Where.
        url: VoiceUrl,
        /// Why.
        failure: FetchFailure,
        /// Whether the fallback URL is asked; else the line's ladder takes the call.
        has_fallback: bool,
    },
    /// Documents lead to each other without anything between them.
    TooManyFetches,
    /// `<Say>` without a service that speaks.
    CannotSay,
    /// A sound could not be played.
    SoundFailed,
    /// No worker was reached, or none any more.
    StreamLost,
    /// A `<Start>` beyond [`super::COPIES_MAX`].
    TooManyCopies,
    /// A `<Start>` whose name another running stream has.
    CopyNameTaken,
    /// A `<Stop>` of a stream that does not run.
    NoSuchCopy,
    /// A verb that a dialled leg has no use for.
    NotForLegs,
}

impl fmt::Display for VoiceWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(warning) => warning.fmt(f),
            Self::FetchFailed {
                url,
                failure,
                has_fallback,
            } => {
                let next = if *has_fallback {
                    "the fallback URL is asked"
                } else {
                    "the call gets the line's fallback"
                };
                write!(f, "no TwiML from {url}: {failure}; {next}")
            }
            Self::TooManyFetches => write!(
                f,
                "{} documents in a row led to another one at once; the call gets the line's fallback",
                super::FETCHES_IN_ROW_MAX
            ),
            Self::CannotSay => f.write_str("<Say> is left out: no --say-url is given"),
            Self::SoundFailed => f.write_str("a sound could not be played, and is left out"),
            Self::StreamLost => f.write_str("the worker of a <Stream> cannot be reached"),
            Self::TooManyCopies => write!(
                f,
                "a <Stream> of <Start> is left out: the call has {} already",
                super::COPIES_MAX
            ),
            Self::CopyNameTaken => {
                f.write_str("a <Stream> of <Start> is left out: another one has its name")
            }
            Self::NoSuchCopy => f.write_str("a <Stream> of <Stop> does not run"),
            Self::NotForLegs => f.write_str(
                "a verb of the url of <Number> is left out: only Say, Play, Pause, Gather, Redirect and Hangup are served there",
            ),
        }
    }
}
