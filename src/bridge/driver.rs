//! The driver of one call: one tokio task that owns everything of the call
//! but the outgoing audio, which it shares with the pacer.
//!
//! It waits for whatever happens next, hands it to the state machine
//! ([`Call`]) or the uplink, and does what the state machine asks for.
//!
//! Teardown: the task ends with `Finished`; before that the stream is marked
//! over (the pacer forgets it), the job is withdrawn, the worker's socket is
//! closed in a task of its own, and the call's place is given back last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Instrument, debug, error, info, warn};

use super::call_limiter::CallPermit;
use super::call_store::QueuedRequest;
use super::call_terms::CallTerms;
use super::callee::{self, Callee};
use super::context::{Context, LineProfile};
use super::inbound_audio::InboundAudio;
use super::leg_media::LegMedia;
use super::opening::incoming_call;
use super::publisher::{Publisher, span};
use super::reach::{Done, Pending};
use super::worker_side::{WorkerEvent, WorkerSide};
use crate::core::call::Call;
use crate::core::call_object::{CallDirection, CallObject};
use crate::core::ids::LegId;
use crate::core::link::{MediaLink, RtpPacket, RtpTap};
use crate::core::opus::OpusError;
use crate::core::outcome::Outcome;
use crate::core::playout::MarkEcho;
use crate::sip::engine::{Command, EndedBy, IncomingCall, LegEvent, OutgoingLeg};
use crate::sip::rtp_channel::RtpReceiver;
use crate::worker::{CloseReason, Dialer};

/// How often the uplink looks at the clock while RTP flows in order, and while
/// it does not.
const TICK_FLOWING: Duration = Duration::from_millis(200);
const TICK_SILENT: Duration = Duration::from_millis(20);
/// The caller counts as silent when nothing came for three frames.
const SILENT_AFTER: Duration = Duration::from_millis(60);

/// One call in progress.
pub(super) struct Driver {
    pub(super) context: Arc<Context>,
    pub(super) leg: LegId,
    pub(super) call: Call,
    pub(super) line: Arc<LineProfile>,
    pub(super) publisher: Publisher,
    pub(super) media: LegMedia,
    /// Dials the worker where it is not the queue's.
    pub(super) dialer: Option<Dialer>,
    /// Who placed the call named its worker, whose transfers are judged like his.
    pub(super) is_worker_foreign: bool,
    pub(super) worker: WorkerSide,
    pub(super) pending: Pending,
    /// The leg to the fallback number, where the call has got so far.
    pub(super) callee: Option<Callee>,
    pub(super) finished: Option<Outcome>,
    events: mpsc::Receiver<LegEvent>,
    rtp: RtpReceiver,
    asked: mpsc::Receiver<QueuedRequest>,
    tick_at: Instant,
    alarm: Pin<Box<Sleep>>,
    pub(super) echoes: Vec<MarkEcho>,
    must_end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ending: bool,
}

/// The leg that a driver takes over, whoever called.
pub(super) struct Leg {
    id: LegId,
    events: mpsc::Receiver<LegEvent>,
    rtp: RtpReceiver,
}

/// How a call begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// It came in.
    Incoming,
    /// We placed it, and its INVITE is out.
    Placed { ring_timeout: Duration },
}

/// What a driver waits for.
enum DriverEvent {
    Leg(Option<LegEvent>),
    Rtp(RtpPacket),
    Worker(WorkerEvent),
    Pending(Done),
    Callee(Option<LegEvent>),
    QueuedRequest(QueuedRequest),
    Woken,
    Messages,
    Alarm,
    Shutdown,
}

/// Runs one call to its end.
pub(super) async fn run(context: Arc<Context>, incoming: Box<IncomingCall>, place: CallPermit) {
    let Some(line) = context.lines.get(&incoming.line) else {
        // The line was removed in this very moment.
        warn!(line = %incoming.line, "a call of a line that is gone is refused");
        return refuse(&context, incoming.leg);
    };
    let terms = CallTerms::default();
    let call = incoming_call(&context.settings, &line, &incoming, &terms);
    let span = span(&call.facts);
    async {
        let leg = incoming.leg;
        match Driver::new(context.clone(), Leg::from(*incoming), (line, call), terms) {
            Ok(driver) => driver.live(Start::Incoming).await,
            Err(error) => {
                warn!(%error, "the call cannot be set up and is refused");
                refuse(&context, leg);
            }
        }
        drop(place);
    }
    .instrument(span)
    .await;
}

fn refuse(context: &Context, leg: LegId) {
    if let Err(error) = context.engine.submit(Command::Reject {
        leg,
        status: 500,
        retry_after: None,
    }) {
        warn!(%error, "the refusal was not sent");
    }
}

impl From<IncomingCall> for Leg {
    fn from(call: IncomingCall) -> Self {
        Self {
            id: call.leg,
            events: call.events,
            rtp: call.rtp,
        }
    }
}

impl From<OutgoingLeg> for Leg {
    fn from(leg: OutgoingLeg) -> Self {
        Self {
            id: leg.leg,
            events: leg.events,
            rtp: leg.rtp,
        }
    }
}

/// A driver that is dropped before its end has panicked: its record is closed,
/// and its job taken out, so that no call stays open for ever in Redis.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.finished.is_none() && catch_unwind(AssertUnwindSafe(|| self.abandon())).is_err() {
            error!("what a failed call left behind could not be closed");
        }
    }
}

/// Both in turn, by chance: neither may starve the other, and polling the
/// worker is also what sends to it.
async fn caller_or_worker(port: &InboundAudio, worker: &mut WorkerSide) -> DriverEvent {
    tokio::select! {
        () = port.woken() => DriverEvent::Messages,
        event = worker.next() => DriverEvent::Worker(event),
    }
}

impl Driver {
    pub(super) fn new(
        context: Arc<Context>,
        leg: Leg,
        (line, call): (Arc<LineProfile>, CallObject),
        terms: CallTerms,
    ) -> Result<Self, OpusError> {
        let media = LegMedia::new(&context, &leg.rtp)?;
        let policy = context.policy(&line, &terms);
        let is_asked = context.ask.is_some() && call.facts.direction == CallDirection::Inbound;
        let url = terms.callback_url;
        let (handle, asked) = if is_asked {
            context.calls.open_untold(call.clone(), url)
        } else {
            context.calls.open(call.clone(), url)
        };
        let own_dialer = terms.dialer;
        let now = Instant::now();
        Ok(Self {
            leg: leg.id,
            call: Call::new(policy),
            media,
            publisher: Publisher::new(&context, call, handle),
            line,
            is_worker_foreign: own_dialer.is_some(),
            dialer: own_dialer.or_else(|| context.dialer.clone()),
            worker: WorkerSide::new(),
            pending: Pending::default(),
            callee: None,
            finished: None,
            events: leg.events,
            rtp: leg.rtp,
            asked,
            tick_at: now + TICK_SILENT,
            alarm: Box::pin(sleep_until(now)),
            echoes: Vec::new(),
            must_end: Box::pin({
                let context = context.clone();
                async move { context.shutdown.calls_must_end().await }
            }),
            ending: false,
            context,
        })
    }

    /// The whole life of the call.
    pub(super) async fn live(mut self, start: Start) {
        let context = self.context.clone();
        let _watched = context.gauges.watch(&self.media.stream, &self.media.port);
        self.publisher.begun();
        let now = Instant::now().into_std();
        match start {
            Start::Incoming if context.ask.is_some() => self.call.handle_question(),
            Start::Incoming => self.call.handle_start(now),
            Start::Placed { ring_timeout } => self.call.handle_placed(now, ring_timeout),
        }
        self.drive().await;
    }

    async fn drive(mut self) {
        loop {
            self.perform_outputs();
            if let Some(unexpected) = self.call.take_unexpected() {
                let (input, phase) = (unexpected.input, unexpected.phase);
                debug!(input, phase, "the call has no use for this any more");
                self.context.gauges.counters.unexpected_input();
            }
            if let Some(outcome) = self.finished {
                return self.finish(outcome);
            }
            self.set_alarm();
            let event = self.next().await;
            self.handle(event);
        }
    }

    /// Does all that the state machine asks for.
    pub(super) fn perform_outputs(&mut self) {
        while let Some(output) = self.call.poll_output() {
            self.perform(output);
        }
    }

    /// Waits for the next thing to happen. Nothing is lost when another
    /// branch wins: every branch is cancel-safe. The two that somebody outside
    /// can flood come last, so that they starve nothing.
    async fn next(&mut self) -> DriverEvent {
        tokio::select! {
            biased;
            event = self.events.recv() => DriverEvent::Leg(event),
            () = &mut self.must_end, if !self.ending => DriverEvent::Shutdown,
            () = &mut self.alarm => DriverEvent::Alarm,
            () = self.media.stream.woken() => DriverEvent::Woken,
            done = self.pending.next() => DriverEvent::Pending(done),
            Some(asked) = self.asked.recv() => DriverEvent::QueuedRequest(asked),
            event = callee::next_event(&mut self.callee) => DriverEvent::Callee(event),
            Some(packet) = self.rtp.recv() => DriverEvent::Rtp(packet),
            event = caller_or_worker(&self.media.port, &mut self.worker) => event,
        }
    }

    fn handle(&mut self, event: DriverEvent) {
        let now = Instant::now();
        match event {
            DriverEvent::Leg(Some(event)) => self.handle_leg(now, event),
            DriverEvent::Leg(None) => self.call.handle_leg_ended(false),
            DriverEvent::Rtp(packet) => self.media.port.handle_rtp(packet.arrived, &packet.bytes),
            DriverEvent::Worker(event) => self.handle_worker(now, event),
            DriverEvent::Pending(done) => self.handle_done(now, done),
            DriverEvent::Callee(event) => self.handle_callee(now, event),
            DriverEvent::QueuedRequest(asked) => self.handle_asked(now, asked),
            DriverEvent::Woken => self.handle_woken(now),
            DriverEvent::Messages => {
                self.forward();
                if self.media.port.lock().uplink.is_holding() {
                    self.tick_at = self.tick_at.min(now + TICK_SILENT);
                }
            }
            DriverEvent::Alarm => self.handle_alarm(now),
            DriverEvent::Shutdown => {
                self.ending = true;
                self.call.handle_shutdown(now.into_std());
            }
        }
    }

    fn handle_leg(&mut self, now: Instant, event: LegEvent) {
        match event {
            LegEvent::Established => {
                self.publisher.answered(now);
                self.call.handle_established(now.into_std());
            }
            LegEvent::Progress(status) => self.call.handle_progress(status),
            LegEvent::Media(link) => self.handle_media(now, &link),
            LegEvent::Digit(digit) => {
                self.media
                    .port
                    .lock()
                    .uplink
                    .handle_digit(now.into_std(), digit);
                self.forward();
            }
            LegEvent::Transfer { status, last } => {
                info!(status, last, "transfer");
                self.call.handle_transfer(now.into_std(), status, last);
            }
            LegEvent::Held { status } => {
                info!(status, "the other side's answer to hold or resume");
                self.call.handle_held(now.into_std(), status);
            }
            LegEvent::Ended(end) => {
                info!(status = end.status, reason = %end.reason, by = ?end.by, "leg ended");
                self.publisher.leg_ended(end.status);
                // The caller's last words came before it.
                self.take_early();
                self.call.handle_leg_ended(end.by == EndedBy::Remote);
            }
        }
    }

    /// Media is up or changed; the stream goes on.
    fn handle_media(&mut self, now: Instant, link: &MediaLink) {
        debug!(format = ?link.format, "media");
        match self.media.connect(&self.context.pacer, link) {
            Ok(true) => self.tick_at = now + TICK_FLOWING,
            Ok(false) => {}
            Err(error) => {
                warn!(%error, "the negotiated codec cannot be used, the call is ended");
                return self.call.handle_leg_failed(now.into_std());
            }
        }
        self.call
            .handle_media(now.into_std(), link.format.direction);
    }

    /// Packets from before the tap.
    fn take_early(&mut self) {
        while let Ok(packet) = self.rtp.try_recv() {
            self.media.port.handle_rtp(packet.arrived, &packet.bytes);
        }
        self.forward();
    }

    /// Gives the worker what waits for it in the port, a slice at a time: the
    /// media thread of many calls must not wait while half a minute of audio is
    /// encoded. The direct writer stays shut until the last slice is in the socket, so
    /// that nothing overtakes.
    pub(super) fn forward(&mut self) {
        let mut slice = Vec::new();
        loop {
            self.media.port.lock().take_slice(&mut slice);
            if slice.is_empty() {
                return;
            }
            for message in slice.drain(..) {
                self.worker.queue(message);
            }
        }
    }

    fn handle_woken(&mut self, now: Instant) {
        if self.media.stream.has_failed() {
            return self.call.handle_leg_failed(now.into_std());
        }
        self.send_echoes();
        if !self.pending.waits_for_play_out {
            return;
        }
        let mut downlink = self.media.stream.downlink();
        let drained = downlink.is_drained();
        if !drained {
            // Digits came between the wake-up and this look.
            downlink.notify_drained();
        }
        drop(downlink);
        if drained {
            self.pending.waits_for_play_out = false;
            self.call.handle_played_out(now.into_std());
        }
    }

    fn handle_alarm(&mut self, now: Instant) {
        // After a stall, packets may be older than the time that is up.
        if let Some(last) = self.media.port.lock().uplink.last_rtp() {
            self.call.handle_rtp(last);
        }
        if self.tick_at <= now {
            self.tick_at = now + self.tick(now);
            self.forward();
        }
        self.worker.handle_time(now);
        self.call.handle_timeout(now.into_std());
    }

    /// Lets the uplink see that time passes; the answer is when to do so again.
    fn tick(&mut self, now: Instant) -> Duration {
        if let Some(callee) = &self.callee {
            callee.tick(now);
        }
        let mut state = self.media.port.lock();
        state.uplink.handle_tick(now.into_std());
        let Some(last) = state.uplink.last_rtp() else {
            return TICK_SILENT;
        };
        let flowing = now.into_std() < last + SILENT_AFTER && !state.uplink.is_holding();
        if flowing && self.callee.is_none() {
            TICK_FLOWING
        } else {
            TICK_SILENT
        }
    }

    /// One timer for everything; touched only when the deadline moves.
    fn set_alarm(&mut self) {
        let call = self
            .call
            .poll_timeout()
            .map(|(at, _)| Instant::from_std(at));
        let tick = self.media.is_linked().then_some(self.tick_at);
        let ping = self.worker.poll_timeout();
        let next = [call, tick, ping].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        if self.alarm.deadline() != next {
            self.alarm.as_mut().reset(next);
        }
    }

    fn finish(mut self, outcome: Outcome) {
        self.media.stream.finish();
        self.publisher.ended(outcome, &self.media);
        self.worker.close(self.close_reason());
    }

    /// Closes what a driver has left behind that did not come to an end.
    fn abandon(&mut self) {
        self.finished = Some(Outcome::Failed);
        self.media.stream.finish();
        self.publisher.abandoned();
        self.worker.close(CloseReason::Failed);
        self.stop_search();
        let (leg, status) = (self.leg, 500);
        if let Err(error) = self.context.engine.submit(Command::Hangup { leg, status }) {
            warn!(%error, "the failed call was not hung up");
        }
    }

    /// Why the worker's socket is closed with its call.
    pub(super) fn close_reason(&self) -> CloseReason {
        if self.ending {
            CloseReason::Shutdown
        } else {
            CloseReason::CallOver
        }
    }
}
