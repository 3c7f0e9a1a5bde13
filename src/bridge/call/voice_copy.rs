//! One-way copies of a call's audio, `<Start><Stream>`: each has a task of its own, which opens its WebSocket and
//! writes what the call's audio threads leave in a ring. The call never waits for it: a copy that cannot be opened, does
//! not read or is lost ends, its status callback is told, and nothing else happens. Dropping its place stops it.
//!
//! What the other end sends is read and forgotten, so much of it in a second and no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info};

use super::keep_alive::KeepAlive;
use super::voice::VoiceTools;
use super::voice_stream::VoiceStream;
use super::worker_search::DIAL_LIMIT;
use crate::bridge::leg::copied_audio::{Copied, CopiedAudio, Piece};
use crate::bridge::leg::leg_media::LegMedia;
use crate::core::call_facts::CustomParams;
use crate::core::ids::StreamId;
use crate::core::media_streams::MessageWriter;
use crate::core::twiml::document::MediaStream;
use crate::core::voice::webhook::VoiceFacts;
use crate::core::voice::{COPIES_MAX, CommandId, StreamEnd};
use crate::media::pacer::FRAME;
use crate::worker::{CloseReason, Dialer, Ignored, Received, WorkerError, WorkerSocket};

/// What is read from the other end in 20 ms: 800 kB in a second. More of it waits in its own socket.
const READ_BYTES_PER_FRAME: i64 = 16 * 1024;
/// What a message costs beside its bytes: a flood of empty ones is none for us.
const MESSAGE_BYTES: i64 = 64;

/// Tasks of one call's copies, those among them that are about to stop: a document may begin and stop hundreds in a
/// moment, each with its ring.
const TASKS_MAX: usize = 2 * COPIES_MAX;

/// The copies of one call.
#[derive(Debug, Default)]
pub(in crate::bridge) struct VoiceCopies {
    places: [Option<Place>; COPIES_MAX],
    /// Each task has one too.
    alive: Arc<()>,
    /// Since the first copy: most calls have none.
    ends: Option<Ends>,
}

/// Which copies have ended by themselves, as their tasks tell.
#[derive(Debug)]
struct Ends {
    told: mpsc::Sender<CommandId>,
    heard: mpsc::Receiver<CommandId>,
}

impl Default for Ends {
    fn default() -> Self {
        let (told, heard) = mpsc::channel(2 * COPIES_MAX);
        Self { told, heard }
    }
}

/// One that runs.
#[derive(Debug)]
struct Place {
    id: CommandId,
    /// Its task ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

/// A copy that is to begin.
pub(in crate::bridge) struct NewCopy {
    pub(in crate::bridge) id: CommandId,
    pub(in crate::bridge) sid: StreamId,
    pub(in crate::bridge) stream: Box<MediaStream>,
    /// What its `start` says.
    pub(in crate::bridge) parameters: CustomParams,
    pub(in crate::bridge) facts: VoiceFacts,
    pub(in crate::bridge) tools: Arc<VoiceTools>,
}

impl NewCopy {
    /// Its address cannot be used, or may not be reached.
    pub(in crate::bridge) fn cannot_be_dialled(self, error: &WorkerError) {
        self.tools.copy_lost(&error.to_string());
        let stream = VoiceStream::new(self.id, self.stream);
        stream.failed(&self.sid, NOT_OPENED, &self.facts, &*self.tools.http);
    }
}

impl VoiceCopies {
    /// Begins a copy of what is said and heard from now on; false when there is no place for it, or not yet again.
    pub(in crate::bridge) fn start(
        &mut self,
        copy: NewCopy,
        dialer: Dialer,
        media: &LegMedia,
    ) -> bool {
        let free = self.places.iter().position(Option::is_none);
        let Some(number) = free.filter(|_| Arc::strong_count(&self.alive) <= TASKS_MAX) else {
            copy.tools.copy_lost("too many are begun in a moment");
            return false;
        };
        let (stop, stopped) = oneshot::channel();
        let id = copy.id;
        self.places[number] = Some(Place { id, _stop: stop });
        let audio = media.begin_copy(number, copy.stream.track);
        let task = CopyTask::new(copy, audio, stopped);
        let ended = self.ends.get_or_insert_default().told.clone();
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let _alive = alive;
            if task.live(dialer).await {
                // Where the call is over nobody asks.
                let _ = ended.send(id).await;
            }
        });
        true
    }

    /// A copy is over, or is to end now.
    pub(in crate::bridge) fn forget(&mut self, id: CommandId, media: &LegMedia) {
        for (number, place) in self.places.iter_mut().enumerate() {
            if place.take_if(|place| place.id == id).is_some() {
                media.end_copy(number);
            }
        }
    }

    /// The next copy that ended by itself; never, while all go on. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> CommandId {
        let ended = match &mut self.ends {
            Some(ends) => ends.heard.recv().await,
            None => None,
        };
        match ended {
            Some(id) => id,
            None => std::future::pending().await,
        }
    }
}

/// What the status callback says of a copy that could not be begun, or broke.
const NOT_OPENED: &str = "its WebSocket cannot be opened";
const DOES_NOT_READ: &str = "its WebSocket does not take the audio in time";
const SOCKET_LOST: &str = "its WebSocket was lost";

/// How a copy ended.
enum CopyEnd {
    /// By `<Stop>`, or with the call.
    Stopped,
    /// The other end closed it.
    Closed,
    /// It broke: what the callback says, and what the log does.
    Broken(&'static str, String),
}

/// The task of one copy.
struct CopyTask {
    sid: StreamId,
    callback: VoiceStream,
    parameters: CustomParams,
    facts: VoiceFacts,
    tools: Arc<VoiceTools>,
    audio: CopiedAudio,
    writer: MessageWriter,
    /// Comes, or is dropped, when the copy is to end.
    stopped: oneshot::Receiver<()>,
}

impl CopyTask {
    fn new(copy: NewCopy, audio: CopiedAudio, stopped: oneshot::Receiver<()>) -> Self {
        let writer = MessageWriter::new(&copy.sid, &copy.facts.call, &copy.facts.account);
        let writer = writer.of_tracks(copy.stream.track);
        Self {
            sid: copy.sid,
            callback: VoiceStream::new(copy.id, copy.stream),
            parameters: copy.parameters,
            facts: copy.facts,
            tools: copy.tools,
            audio,
            writer,
            stopped,
        }
    }

    /// The whole life of the copy; whether it ended by itself.
    async fn live(mut self, dialer: Dialer) -> bool {
        let dialled = tokio::select! {
            biased;
            _ = &mut self.stopped => None,
            dialled = dialer.dial(DIAL_LIMIT) => Some(dialled),
        };
        let end = match dialled {
            // Nobody has seen anything of it.
            None => return false,
            Some(Ok(socket)) => self.copy_to(socket).await,
            Some(Err(error)) => CopyEnd::Broken(NOT_OPENED, error.to_string()),
        };
        let (sid, lost) = (&self.sid, self.audio.lost());
        debug!(%sid, lost, "a copy of the call's audio is over");
        let (facts, http) = (&self.facts, &*self.tools.http);
        match &end {
            CopyEnd::Stopped | CopyEnd::Closed => {
                self.callback.ended(StreamEnd::Closed, sid, facts, http);
            }
            CopyEnd::Broken(told, why) => {
                self.tools.copy_lost(why);
                self.callback.failed(sid, told, facts, http);
            }
        }
        !matches!(end, CopyEnd::Stopped)
    }

    /// Writes the copy to its socket until either ends; then the socket is closed, in a task of its own.
    async fn copy_to(&mut self, mut socket: WorkerSocket) -> CopyEnd {
        let (facts, http) = (&self.facts, &*self.tools.http);
        self.callback.attached(&self.sid, facts, http);
        info!(sid = %self.sid, "a copy of the call's audio begins");
        let end = match self.greet(&mut socket) {
            Ok(()) => self.go_on(&mut socket).await,
            Err(end) => end,
        };
        let reason = match end {
            CopyEnd::Closed => return end,
            CopyEnd::Broken(..) => CloseReason::Stalled,
            CopyEnd::Stopped => {
                // What was said up to now goes before it; where the other end does not read, it goes without.
                let _ = self.write_pieces(&mut socket).and_then(|()| {
                    let mut stop = Vec::new();
                    self.writer.write_stop(&mut stop);
                    queue(&mut socket, stop)
                });
                CloseReason::CallOver
            }
        };
        tokio::spawn(socket.close(reason));
        end
    }

    fn greet(&mut self, socket: &mut WorkerSocket) -> Result<(), CopyEnd> {
        let (mut connected, mut start) = (Vec::new(), Vec::new());
        self.writer.write_connected(&mut connected);
        self.writer.write_start(&self.parameters, &mut start);
        queue(socket, connected)?;
        queue(socket, start)
    }

    async fn go_on(&mut self, socket: &mut WorkerSocket) -> CopyEnd {
        let mut keep_alive = KeepAlive::new(Instant::now());
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut may_read = READ_BYTES_PER_FRAME;
        loop {
            tokio::select! {
                biased;
                _ = &mut self.stopped => return CopyEnd::Stopped,
                now = frames.tick() => {
                    may_read = (may_read + READ_BYTES_PER_FRAME).min(READ_BYTES_PER_FRAME);
                    if let Err(end) = self.write_pieces(socket) {
                        return end;
                    }
                    socket.flush_now();
                    if let Some(silent) = keep_alive.handle_time(now, socket) {
                        return dead(silent);
                    }
                }
                received = socket.recv(), if may_read > 0 => match received {
                    Received::Text(text) => may_read -= cost(text.len()),
                    Received::Ignored(Ignored::Binary { size_bytes }) => may_read -= cost(size_bytes),
                    Received::Closed { normal: true, .. } => return CopyEnd::Closed,
                    Received::Closed { code, .. } => {
                        let why = format!("its WebSocket was closed with code {code}");
                        return CopyEnd::Broken(SOCKET_LOST, why);
                    }
                    Received::Lost(error) => {
                        return CopyEnd::Broken(SOCKET_LOST, error.to_string());
                    }
                },
            }
        }
    }

    /// Queues all that the audio threads have left.
    fn write_pieces(&mut self, socket: &mut WorkerSocket) -> Result<(), CopyEnd> {
        while let Some(Copied {
            track,
            at_ms,
            piece,
        }) = self.audio.poll_next()
        {
            let mut message = Vec::new();
            match piece {
                Piece::Frame(frame) => {
                    self.writer.write_track(track, at_ms, &frame, &mut message);
                }
                Piece::Digit(digit) => self.writer.write_dtmf(digit, &mut message),
            }
            queue(socket, message)?;
        }
        Ok(())
    }
}

fn queue(socket: &mut WorkerSocket, message: Vec<u8>) -> Result<(), CopyEnd> {
    let broken = |why: String| CopyEnd::Broken(DOES_NOT_READ, why);
    // The writers produce JSON, which is UTF-8.
    let text = String::from_utf8(message).map_err(|error| broken(error.to_string()))?;
    let queued = socket.queue_text(text);
    queued.map_err(|backlog| broken(backlog.to_string()))
}

fn dead(silent: Duration) -> CopyEnd {
    let why = format!("nothing heard for {} s", silent.as_secs());
    CopyEnd::Broken(SOCKET_LOST, why)
}

fn cost(text_bytes: usize) -> i64 {
    i64::try_from(text_bytes).map_or(i64::MAX / 2, |bytes| bytes + MESSAGE_BYTES)
}

#[cfg(test)]
#[path = "voice_copy_tests.rs"]
mod tests;
