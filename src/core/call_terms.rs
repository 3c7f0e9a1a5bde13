//! The words of a call's life: what it may do, what is asked of its driver,
//! what others are told, and its timers. The machine itself is in `call`.

use std::time::Duration;

use super::outcome::Outcome;
use super::private::Private;

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
pub enum Route {
    /// A job in Redis; the worker dials back.
    Queue,
    /// The bridge dials `--ws-target`.
    Dial,
    /// A job in Redis, and `--ws-target` where Redis is away.
    QueueThenDial,
}

/// What the call may do and for how long.
#[derive(Clone, Debug)]
pub struct CallPolicy {
    /// When to answer.
    pub answer: AnswerMode,
    /// How to reach a worker.
    pub route: Route,
    /// How long the caller waits for a worker before the fallback.
    pub worker_timeout: Duration,
    /// Longest call, counted from the answer.
    pub max_duration: Option<Duration>,
    /// How long the caller's RTP may stop, hold aside.
    pub media_timeout: Option<Duration>,
    /// Where the caller is transferred when no worker comes.
    pub fallback_number: Option<Private>,
}

/// What the caller hears while no worker's audio is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comfort {
    /// Silence: a worker is attached.
    Silence,
    /// The line's greeting, then ringback: no worker yet.
    Waiting,
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

/// A step in the life of the call that others are told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// `call.ringing`
    Ringing,
    /// `call.queued`
    Queued,
    /// `worker.attached`
    WorkerAttached,
    /// `worker.lost`
    WorkerLost,
    /// `call.answered`
    Answered,
    /// `call.fallback`: no worker; the caller gets the fallback.
    Fallback,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this status to the INVITE: 180 or 200.
    Answer(u16),
    /// End the leg; the status is used where the INVITE has no final answer yet.
    Hangup(u16),
    /// Push the job; answer with `handle_job_pushed` or `handle_job_refused`.
    PushJob,
    /// Take the job out of the queue again, and let no worker attach any more.
    WithdrawJob,
    /// Dial the worker; answer with `handle_attached` or `handle_dial_failed`.
    Dial,
    /// Send `connected` and `start`, then the kept audio, then live audio.
    StartStream,
    /// Send `stop` where the socket still stands, and close it.
    StopStream,
    /// Play this while nothing is queued.
    Comfort(Comfort),
    /// Report `handle_played_out` once queue (or announcement) is empty.
    PlayOut,
    /// Send REFER.
    Transfer(Private),
    /// Tell Redis and the log.
    Report(Report),
    /// The call is over; nothing follows.
    Finished(Outcome),
}

/// The timers of a call. At most one of each runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// No worker came.
    Worker,
    /// Dial again.
    Redial,
    /// `--max-call-duration`.
    Duration,
    /// The caller's RTP stopped.
    Media,
    /// The worker's last audio takes too long: media never came up.
    PlayOut,
    /// The announcement or the transfer takes too long.
    Fallback,
    /// The leg does not end although we asked for it.
    Ending,
}
