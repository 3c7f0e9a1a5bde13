//! The words of a call's life: what it may do, what is asked of its driver,
//! what others are told, and its timers.

use std::time::{Duration, Instant};

use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::core::voice::StreamEnd;

/// When the INVITE is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerMode {
    /// 200 at once; the caller hears ringback or the greeting until a worker is there.
    Immediate,
    /// 180 until the worker's WebSocket is up, then 200.
    OnWorker,
}

/// How workers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerRoute {
    /// A job in Redis; the worker dials back.
    Queue,
    /// The bridge dials `--ws-target`.
    Dial,
    /// A job in Redis, and `--ws-target` where Redis is away.
    QueueThenDial,
}

/// One attempt to find a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first of a call.
    pub number: u32,
    /// Whether an earlier worker was lost in mid-call.
    pub resumed: bool,
    /// When the caller will have waited long enough.
    pub until: Option<Instant>,
}

/// How long and how often workers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchPolicy {
    /// How workers are reached.
    pub route: WorkerRoute,
    /// How long the caller waits for a worker.
    pub worker_timeout: Duration,
    /// How long a taken job may go undialled.
    pub claim_timeout: Duration,
    /// Most jobs for a caller who has no steady worker.
    pub max_attempts: u32,
}

/// What the call may do and for how long.
#[derive(Clone, Debug)]
pub struct CallPolicy {
    /// When to answer.
    pub answer: AnswerMode,
    /// How to reach a worker, and how long to try.
    pub search: SearchPolicy,
    /// Longest call, counted from the answer.
    pub max_duration: Option<Duration>,
    /// How long the caller's RTP may stop, hold aside.
    pub media_timeout: Option<Duration>,
    /// Where the caller is transferred when no worker comes.
    pub fallback_number: Option<Private>,
    /// How long the call rings before it is served, where the queue cannot be reached
    /// and another bridge may have the caller too: whoever has workers answers first.
    /// `None` where it is served at once, as is a call whose worker is dialled.
    pub ring_before_fallback: Option<Duration>,
}

/// What the caller hears while no worker's audio is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleSound {
    /// Silence: a worker is attached.
    Silence,
    /// The line's greeting, then ringback: no worker yet.
    Waiting,
    /// Hold audio: the worker is lost, another one is looked for.
    Hold,
    /// Ringback: the call is handed on.
    Ringback,
    /// The announcement that nobody can take the call, once.
    Announcement,
}

/// What the worker did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerInput {
    /// `hangup` or `stop`: play out, then BYE. The socket stays for the echoes.
    Hangup,
    /// The socket was closed normally: play out, then BYE.
    Closed,
    /// The socket dropped without a close, or its peer stopped reading.
    Lost,
    /// `transfer`: blind transfer by REFER.
    Transfer(Private),
}

/// Why the call goes another way than the first worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The job was taken, and nobody dialled within `--claim-timeout`.
    NotClaimed,
    /// The worker's socket dropped in mid-call.
    WorkerLost,
    /// No worker within `--worker-timeout`.
    WorkerTimeout,
    /// `--max-attempts` are used up.
    MaxAttempts,
    /// Redis is away, and there is no `--ws-target`.
    QueueAway,
    /// `--ws-target` cannot be dialled.
    DialFailed,
    /// The voice webhook gave no TwiML, nor did its fallback URL.
    WebhookFailed,
    /// The trunk refused REFER.
    TransferRefused,
    /// The fallback number did not answer, or refused.
    FallbackUnanswered,
    /// The line has no fallback number.
    NoFallbackNumber,
}

impl Reason {
    /// The name used in Redis and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotClaimed => "not-claimed",
            Self::WorkerLost => "worker-lost",
            Self::WorkerTimeout => "worker-timeout",
            Self::MaxAttempts => "max-attempts",
            Self::QueueAway => "queue-away",
            Self::DialFailed => "dial-failed",
            Self::WebhookFailed => "webhook-failed",
            Self::TransferRefused => "transfer-refused",
            Self::FallbackUnanswered => "fallback-unanswered",
            Self::NoFallbackNumber => "no-fallback-number",
        }
    }
}

/// A step of what a caller gets when no worker takes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackStep {
    /// The line's announcement, or the built-in one.
    Announcement,
    /// Blind transfer to the fallback number.
    Transfer,
    /// A call to the fallback number, joined with the caller's.
    Bridge,
    /// BYE.
    Hangup,
}

impl FallbackStep {
    /// All of them, from the top.
    pub const ALL: [Self; 4] = [
        Self::Announcement,
        Self::Transfer,
        Self::Bridge,
        Self::Hangup,
    ];

    /// The name used in Redis and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announcement => "announcement",
            Self::Transfer => "transfer",
            Self::Bridge => "bridge",
            Self::Hangup => "hangup",
        }
    }
}

/// What became of the call to the fallback number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalleeInput {
    /// It was answered.
    Answered,
    /// It was refused, never answered, or has ended.
    Ended,
}

/// A step in the life of the call that others are told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// `call.initiated`: we placed the call.
    Initiated,
    /// `call.ringing`
    Ringing,
    /// `call.queued`; why, where it is not the first attempt.
    Queued(Option<Reason>),
    /// `worker.attached`
    WorkerAttached,
    /// `worker.lost`
    WorkerLost,
    /// `call.answered`
    Answered,
    /// `call.fallback`: what the caller gets instead of a worker, and why.
    Fallback(FallbackStep, Reason),
    /// `call.transfer`: what the trunk says of a REFER, but for the fallback's.
    Transfer(u16),
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask whether this call is taken; answer with `handle_decision`.
    AskIncoming,
    /// Send this status to the INVITE: 180 or 200.
    Answer(u16),
    /// End the leg; the status is used where the INVITE has no final answer yet.
    Hangup(u16),
    /// Push the attempt's job; answer with `handle_job_pushed` and later
    /// `handle_job_taken`, with `handle_job_refused`, or with
    /// `handle_claim_held` where a worker of the attempt before is attaching.
    PushJob(Attempt),
    /// Nobody is looked for any more: take the job out of the queue again, dial
    /// no worker, and let none attach.
    StopSearch,
    /// Dial the worker; answer with `handle_attached` or `handle_dial_failed`.
    Dial(Attempt),
    /// Send `connected` and `start`, then the kept audio, then live audio.
    StartStream,
    /// Send `stop` where the socket still stands, and close it.
    StopStream,
    /// The worker is lost: forget its queued audio and its marks.
    DropStream,
    /// What the callee sent before his answer is for nobody.
    ForgetEarly,
    /// Play this while nothing is queued.
    IdleSound(IdleSound),
    /// The other side is held, or not any more: it hears hold audio in place of
    /// the worker's, which waits, and nothing of it reaches the worker.
    Held(bool),
    /// Tell the other side so by a re-INVITE; answer with `handle_held`.
    Reinvite {
        /// Whether it is to send nothing.
        hold: bool,
    },
    /// Report `handle_played_out` once queue (or announcement) is empty.
    PlayOut,
    /// Send REFER.
    Transfer(Private),
    /// Call this number from the line; answer with `handle_callee`.
    CallOut(Private),
    /// Join the caller with the answered callee.
    Join,
    /// End the call to the callee, whatever it has come to.
    DropCallee,
    /// The stream of TwiML ended by itself.
    StreamOver(StreamEnd),
    /// Tell Redis and the log.
    Report(Report),
    /// The call is over; nothing follows.
    Finished(Outcome),
}

/// The timers of a call. At most one of each runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Nobody answers: the callee, another phone of a call that we leave, or the other
    /// bridge that may have a call of ours.
    Ring,
    /// A re-INVITE of ours is not answered.
    Hold,
    /// The search for a worker has something to do.
    WorkerDispatch,
    /// `--max-call-duration`.
    Duration,
    /// The other side's RTP stopped.
    Media,
    /// The worker's last audio takes too long: media never came up.
    PlayOut,
    /// The present step of the fallback takes too long.
    Fallback,
    /// The trunk says nothing of a transfer.
    Transfer,
    /// The leg does not end although we asked for it.
    Ending,
}
