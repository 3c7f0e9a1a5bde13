//! The leg of a caller whose call is Twilio's: a WebSocket that Twilio opens to us, in the place of SIP and RTP.
//!
//! The call's driver knows no difference. A task of the leg's own has the socket: the caller's audio becomes RTP for the same
//! tap, what the pacer sends goes through the socket, and what becomes of the socket are events of the leg. Twilio has answered
//! the caller before it opens the stream; the call counts as established once its driver has answered, too. Hanging up and transferring are asked of Twilio's REST API
//! ([`TwilioAccount`]); a call cannot be held.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::bridge::context::provisional_format;
use crate::callbacks::twilio_rest::TwilioAccount;
use crate::core::ids::{CallId, StreamId};
use crate::core::media_link::{MediaFormat, MediaLink, RtpSink, SinkError};
use crate::core::media_session::playout::FRAME_BYTES;
use crate::core::private::Private;
use crate::core::ring::{Consumer, Producer, ring};
use crate::core::rtp::RtpHeader;
use crate::core::twilio_stream::{
    RtpMaker, TwilioMessage, dial_document, parse_twilio_message, write_media,
};
use crate::sip::engine::{EndedBy, LEG_QUEUE_EVENTS, LegEnd, LegEvent, SubmitError};
use crate::sip::rtp_channel::{RtpReceiver, RtpSender, rtp_channel};
use crate::worker::{CloseReason, Received, Ticket, WorkerSocket};

/// How long Twilio may take from our TwiML to the `start` of its stream.
const STREAM_LIMIT: Duration = Duration::from_secs(15);
/// Commands that wait for the leg's task: more than a call ever gives.
const COMMANDS: usize = 16;
/// Frames that wait for the socket: two seconds. What comes then is dropped.
const FRAMES: usize = 100;

/// What the driver asks of the leg.
#[derive(Debug)]
enum LegCommand {
    Answer,
    HangUp,
    Transfer(Private),
    Hold,
}

/// The driver's end.
#[derive(Debug)]
pub(in crate::bridge) struct TwilioControl(mpsc::Sender<LegCommand>);

impl TwilioControl {
    pub(in crate::bridge) fn answer(&self) -> Result<(), SubmitError> {
        self.submit(LegCommand::Answer)
    }

    pub(in crate::bridge) fn hang_up(&self) -> Result<(), SubmitError> {
        self.submit(LegCommand::HangUp)
    }

    pub(in crate::bridge) fn transfer(&self, destination: Private) -> Result<(), SubmitError> {
        self.submit(LegCommand::Transfer(destination))
    }

    pub(in crate::bridge) fn hold(&self) -> Result<(), SubmitError> {
        self.submit(LegCommand::Hold)
    }

    fn submit(&self, command: LegCommand) -> Result<(), SubmitError> {
        match self.0.try_send(command) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(SubmitError::Full),
            // A leg that is over has said so: that event is on its way, and says how.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

/// What a driver needs of the leg.
pub(in crate::bridge) struct TwilioLeg {
    pub(in crate::bridge) control: TwilioControl,
    pub(in crate::bridge) events: mpsc::Receiver<LegEvent>,
    pub(in crate::bridge) rtp: RtpReceiver,
}

/// The leg of this call, and its task; `ticket` brings Twilio's socket.
pub(in crate::bridge) fn twilio_leg(
    call: CallId,
    ticket: Ticket,
    rest: TwilioAccount,
) -> (TwilioLeg, impl Future<Output = ()> + Send) {
    let (events_in, events) = mpsc::channel(LEG_QUEUE_EVENTS);
    let (control, commands) = mpsc::channel(COMMANDS);
    let (rtp_in, rtp) = rtp_channel();
    let task = LegTask {
        call,
        rest,
        events: events_in,
        commands,
        rtp: rtp_in,
        maker: RtpMaker::new(rand::random(), rand::random(), rand::random()),
        transferring: None,
        is_transferred: false,
        is_answered: false,
        is_open: false,
    };
    let leg = TwilioLeg {
        control: TwilioControl(control),
        events,
        rtp,
    };
    (leg, task.run(ticket))
}

struct LegTask {
    call: CallId,
    rest: TwilioAccount,
    events: mpsc::Sender<LegEvent>,
    commands: mpsc::Receiver<LegCommand>,
    rtp: RtpSender,
    maker: RtpMaker,
    /// A transfer that Twilio is asked for; its answer is an HTTP status.
    transferring: Option<Pin<Box<dyn Future<Output = u16> + Send>>>,
    /// Twilio does something else with the call: it is not ours to be ended.
    is_transferred: bool,
    /// The driver has answered, and the stream has begun: both make the call established.
    is_answered: bool,
    is_open: bool,
}

/// A stream that has begun.
struct Streaming {
    socket: WorkerSocket,
    stream: StreamId,
    sink: Arc<FrameSink>,
    frames: Consumer<Frame>,
}

/// Why a leg ends.
struct Over {
    by: EndedBy,
    reason: &'static str,
}

const HUNG_UP: Over = Over {
    by: EndedBy::Local,
    reason: "we ended it",
};
const STOPPED: Over = Over {
    by: EndedBy::Remote,
    reason: "Twilio stopped the stream",
};

impl LegTask {
    async fn run(mut self, ticket: Ticket) {
        let (over, socket) = match timeout(STREAM_LIMIT, self.begin(ticket)).await {
            Ok(Ok(mut streaming)) => {
                let over = self.stream(&mut streaming).await;
                (over, Some(streaming.socket))
            }
            Ok(Err(over)) => (over, None),
            Err(_) => {
                warn!(call = %self.call, "Twilio opened no stream within 15 s");
                let reason = "Twilio opened no stream";
                let by = EndedBy::Failure;
                (Over { by, reason }, None)
            }
        };
        let end = LegEnd {
            by: over.by,
            status: 200,
            reason: over.reason.to_owned(),
        };
        let _ = self.events.try_send(LegEvent::Ended(end));
        if let Some(socket) = socket {
            socket.close(CloseReason::CallOver).await;
        }
    }

    /// Waits for the socket and its `start`; a call may be hung up before.
    async fn begin(&mut self, mut ticket: Ticket) -> Result<Streaming, Over> {
        let mut socket = loop {
            tokio::select! {
                socket = ticket.attached() => break socket,
                command = self.commands.recv() => self.obey(command).await?,
            }
        };
        let stream = loop {
            tokio::select! {
                received = socket.recv() => match self.read(received)? {
                    Some(TwilioMessage::Start { stream, call }) if call == self.call => break stream,
                    Some(TwilioMessage::Start { .. }) => {
                        warn!(call = %self.call, "the stream of another call came with this one's token");
                        return Err(STOPPED);
                    }
                    _ => {}
                },
                command = self.commands.recv() => self.obey(command).await?,
            }
        };
        let (sink, frames) = FrameSink::new();
        let link = MediaLink {
            format: MediaFormat {
                ssrc: rand::random(),
                ..provisional_format()
            },
            sink: sink.clone(),
        };
        info!(%stream, "Twilio's stream begins");
        self.tell(LegEvent::Media(link))?;
        self.is_open = true;
        if self.is_answered {
            self.tell(LegEvent::Established)?;
        }
        Ok(Streaming {
            socket,
            stream,
            sink,
            frames,
        })
    }

    /// The stream's life.
    async fn stream(&mut self, streaming: &mut Streaming) -> Over {
        let Streaming {
            socket,
            stream,
            sink,
            frames,
        } = streaming;
        loop {
            let done = tokio::select! {
                status = answered(&mut self.transferring) => {
                    self.transferring = None;
                    self.is_transferred |= (200..300).contains(&status);
                    self.tell(LegEvent::Transfer { status, last: true })
                }
                received = socket.recv() => self.read(received).and_then(|message| self.take(message)),
                () = sink.wake.notified() => {
                    while let Some(frame) = frames.pop() {
                        // Twilio that reads nothing for seconds is as good as gone; its socket says so.
                        let _ = socket.queue_text(write_media(stream, &frame));
                    }
                    Ok(())
                }
                command = self.commands.recv() => self.obey(command).await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    /// A message, where what came is one that can be used.
    fn read(&self, received: Received) -> Result<Option<TwilioMessage>, Over> {
        match received {
            Received::Text(text) => match parse_twilio_message(&text) {
                Ok(message) => Ok(Some(message)),
                Err(why) => {
                    debug!(%why, "a message of Twilio's is ignored");
                    Ok(None)
                }
            },
            Received::Ignored(_) => Ok(None),
            Received::Closed { .. } => Err(STOPPED),
            Received::Lost(error) => {
                warn!(%error, "Twilio's stream is lost");
                let reason = "Twilio's stream is lost";
                let by = EndedBy::Failure;
                Err(Over { by, reason })
            }
        }
    }

    fn take(&mut self, message: Option<TwilioMessage>) -> Result<(), Over> {
        match message {
            Some(TwilioMessage::Media { at_ms, audio }) => {
                let (rtp, arrived) = (&self.rtp, Instant::now());
                self.maker.packets(at_ms, &audio, |packet| {
                    // A driver that is gone ends the leg by its commands.
                    let _ = rtp.deliver(arrived, packet);
                });
                Ok(())
            }
            Some(TwilioMessage::Digit(digit)) => self.tell(LegEvent::Digit(digit)),
            Some(TwilioMessage::Stop) => Err(STOPPED),
            Some(TwilioMessage::Start { .. } | TwilioMessage::Other) | None => Ok(()),
        }
    }

    async fn obey(&mut self, command: Option<LegCommand>) -> Result<(), Over> {
        match command {
            Some(LegCommand::Answer) if std::mem::replace(&mut self.is_answered, true) => Ok(()),
            Some(LegCommand::Answer) if self.is_open => self.tell(LegEvent::Established),
            Some(LegCommand::Answer) => Ok(()),
            // The end of the stream is all there is to it.
            Some(LegCommand::HangUp) | None if self.is_transferred => Err(HUNG_UP),
            // A driver that is gone without a word has failed.
            Some(LegCommand::HangUp) | None => {
                if !self.rest.end(&self.call).await {
                    warn!("Twilio did not take the hang-up: the end of its stream is the call's");
                }
                Err(HUNG_UP)
            }
            Some(LegCommand::Transfer(to)) => {
                let twiml = dial_document(to.expose());
                let (rest, call) = (self.rest.clone(), self.call.clone());
                let asked = Box::pin(async move { rest.replace(&call, &twiml).await });
                if self.transferring.replace(asked).is_some() {
                    // The one before has no answer any more.
                    self.tell(LegEvent::Transfer {
                        status: 487,
                        last: true,
                    })?;
                }
                Ok(())
            }
            Some(LegCommand::Hold) => self.tell(LegEvent::Held { status: 501 }),
        }
    }

    fn tell(&self, event: LegEvent) -> Result<(), Over> {
        self.events.try_send(event).map_err(|_| Over {
            by: EndedBy::Failure,
            reason: "the call takes no more events",
        })
    }
}

/// The answer to what Twilio is asked; never, where it is asked nothing.
async fn answered(asked: &mut Option<Pin<Box<dyn Future<Output = u16> + Send>>>) -> u16 {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

/// 20 ms of mu-law.
type Frame = [u8; FRAME_BYTES];

/// Takes the pacer's packets for the leg's task. The pacer alone sends, so that its lock is never waited for.
struct FrameSink {
    frames: Mutex<Producer<Frame>>,
    wake: Notify,
}

impl FrameSink {
    fn new() -> (Arc<Self>, Consumer<Frame>) {
        let (producer, frames) = ring(FRAMES);
        let sink = Self {
            frames: Mutex::new(producer),
            wake: Notify::new(),
        };
        (Arc::new(sink), frames)
    }
}

impl RtpSink for FrameSink {
    fn send(&self, packet: &[u8]) -> Result<(), SinkError> {
        let (_, payload) = RtpHeader::parse(packet).ok_or(SinkError::Refused(0))?;
        let frame = Frame::try_from(payload).map_err(|_| SinkError::Refused(0))?;
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = frames.push(frame).map_err(|_| SinkError::Refused(0));
        drop(frames);
        self.wake.notify_one();
        pushed
    }
}
