//! The driver of one call: one tokio task that owns the call's parts.
//!
//! It only routes: it waits for whatever happens next to a part, hands it to
//! the state machine ([`Call`]), and gives what the state machine asks for to
//! the part that can do it ([`perform`]).
//!
//! Teardown: the task ends with `Finished`; before that the stream is marked
//! over (the pacer forgets it), the job is withdrawn, the worker's socket is
//! closed in a task of its own, and the call's place is given back last.

#[path = "perform.rs"]
mod perform;
#[path = "perform_copy.rs"]
mod perform_copy;
#[path = "perform_detection.rs"]
mod perform_detection;
#[path = "perform_dial.rs"]
mod perform_dial;
#[path = "perform_voice.rs"]
mod perform_voice;
#[path = "requests.rs"]
mod requests;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, error, info, warn};

use self::perform_dial::next_order;
use super::callee::FallbackLeg;
use super::destinations::Destinations;
use super::dialled::DialledLegs;
use super::idle_sounds::IdleSounds;
use super::incoming::{Question, Settled};
use super::parent::{LegNews, LegOrder, ParentCall};
use super::publisher::Publisher;
use super::signal::Signal;
use super::voice::{VoiceEvent, VoiceSide};
use super::worker_search::{SearchEvent, WorkerSearch};
use super::worker_session::WorkerSession;
use super::worker_side::WorkerEvent;
use crate::bridge::audio_metrics::AudioMetrics;
use crate::bridge::call_store::QueuedRequest;
use crate::bridge::drivers::Drivers;
use crate::bridge::leg::leg_media::LegMedia;
use crate::bridge::leg::sip_leg::Leg;
use crate::core::call::{Call, CalleeInput};
use crate::core::media_link::{MediaLink, RtpPacket, RtpTap};
use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::core::voice::{CommandId, VoiceRole};
use crate::fleet::LineProfile;
use crate::media::pacer::Pacer;
use crate::sip::engine::{EndedBy, LegEvent};
use crate::sip::rtp_channel::RtpReceiver;
use crate::worker::CloseReason;

/// How often the uplink looks at the clock while RTP flows in order, and while
/// it does not.
const TICK_FLOWING: Duration = Duration::from_millis(200);
const TICK_SILENT: Duration = Duration::from_millis(20);
/// The caller counts as silent when nothing came for three frames.
const SILENT_AFTER: Duration = Duration::from_millis(60);

/// One call in progress.
pub(in crate::bridge) struct Driver {
    call: Call,
    parts: Parts,
    /// What is heard to its end before the call goes on.
    awaited: Awaited,
    finished: Option<Outcome>,
    tick_at: Instant,
    alarm: Pin<Box<Sleep>>,
    ending: bool,
    /// What is still to be done about the last event.
    deferred: Option<Deferred>,
    /// Wakes the driver for anything but its worker.
    others: Signal,
    /// Whether the worker is looked at before all others.
    worker_first: bool,
}

/// What a driver is made of. Each part does one thing; the driver alone knows
/// them all.
pub(in crate::bridge) struct Parts {
    /// What others are told.
    pub(in crate::bridge) publisher: Publisher,
    /// The SIP leg.
    pub(in crate::bridge) leg: Leg,
    /// RTP from before the tap.
    pub(in crate::bridge) early: RtpReceiver,
    /// The leg's audio.
    pub(in crate::bridge) media: LegMedia,
    /// Looks for a worker.
    pub(in crate::bridge) search: WorkerSearch,
    /// The stream with the worker.
    pub(in crate::bridge) session: WorkerSession,
    /// The leg to the fallback number.
    pub(in crate::bridge) fallback: FallbackLeg,
    /// What TwiML does with the call.
    pub(in crate::bridge) voice: VoiceSide,
    /// The legs of its `<Dial>`.
    pub(in crate::bridge) dialled: DialledLegs,
    /// Places them.
    pub(in crate::bridge) drivers: Weak<Drivers>,
    /// The call whose `<Dial>` placed this one.
    pub(in crate::bridge) parent: Option<ParentCall>,
    /// Whether the call is taken at all.
    pub(in crate::bridge) question: Question,
    /// What the API asks of the call.
    pub(in crate::bridge) requests: mpsc::Receiver<QueuedRequest>,
    /// Whom the call may be transferred to.
    pub(in crate::bridge) destinations: Destinations,
    /// The line that was called, or that we call from.
    pub(in crate::bridge) line: Arc<LineProfile>,
    pub(in crate::bridge) sounds: IdleSounds,
    pub(in crate::bridge) pacer: Arc<Pacer>,
    pub(in crate::bridge) gauges: Arc<AudioMetrics>,
    /// Returns when all calls must end.
    pub(in crate::bridge) must_end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How a call begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::bridge) enum Start {
    /// It came in.
    Incoming,
    /// It came in, and its line's voice webhook says what is done with it.
    Scripted,
    /// It came in, and somebody is asked whether it is taken.
    Asked,
    /// We placed it, and its INVITE is out.
    Placed { ring_timeout: Duration },
    /// The same, for another call's `<Dial>`.
    Dialled { ring_timeout: Duration },
}

/// What is waited for until all that is queued has been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// The worker's last audio, or the announcement.
    PlayOut,
    /// What TwiML plays.
    VoiceSound,
    /// The digits that a leg of `<Dial>` is sent.
    LegDigits(CommandId),
}

/// What may have to wait for Redis, where a line's dials are counted over all bridges: for 200 ms at most. Nothing else of the call
/// is looked at before it is done, so that what the worker says after a transfer comes after it.
enum Deferred {
    Request(QueuedRequest),
    /// The worker wants the call transferred.
    WorkerTransfer(Private),
}

/// What a driver waits for.
enum DriverEvent {
    Leg(Option<LegEvent>),
    Rtp(RtpPacket),
    Worker(WorkerEvent),
    Search(SearchEvent),
    Answer(Settled),
    Callee(CalleeInput),
    Voice(VoiceEvent),
    Dialled(CommandId, usize, LegNews),
    Order(LegOrder),
    QueuedRequest(QueuedRequest),
    Woken,
    Messages,
    Alarm,
    Shutdown,
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

impl Driver {
    /// The driver of a call that has these parts and goes by these rules.
    pub(in crate::bridge) fn new(call: Call, parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            call,
            parts,
            awaited: Awaited::Nothing,
            finished: None,
            tick_at: now + TICK_SILENT,
            alarm: Box::pin(sleep_until(now)),
            ending: false,
            deferred: None,
            others: Signal::new(),
            worker_first: false,
        }
    }

    /// The driver of a leg of another call's `<Dial>`.
    pub(in crate::bridge) fn dialled_by(mut self, parent: ParentCall) -> Self {
        self.parts.parent = Some(parent);
        self
    }

    /// The whole life of the call.
    pub(in crate::bridge) async fn live(mut self, start: Start) {
        let media = &self.parts.media;
        let _watched = self.parts.gauges.watch(&media.stream, &media.port);
        self.parts.publisher.begun();
        let now = Instant::now().into_std();
        match start {
            Start::Asked => self.call.handle_question(),
            Start::Incoming => self.call.handle_start(now),
            Start::Scripted => {
                self.call.handle_voice_start();
                self.parts.voice.begin(now, VoiceRole::Inbound);
            }
            Start::Placed { ring_timeout } => self.begin_placed(now, ring_timeout),
            Start::Dialled { ring_timeout } => self.begin_dialled(now, ring_timeout),
        }
        self.drive().await;
    }

    async fn drive(mut self) {
        loop {
            if self.parts.voice.call.is_some() {
                self.take_digits(Instant::now());
            }
            self.perform_outputs();
            if let Some(unexpected) = self.call.take_unexpected() {
                let (input, phase) = (unexpected.input, unexpected.phase);
                debug!(input, phase, "the call has no use for this any more");
                self.parts.gauges.counters.unexpected_input();
            }
            if let Some(outcome) = self.finished {
                return self.finish(outcome);
            }
            self.set_alarm();
            let event = self.next().await;
            self.handle(event);
            if let Some(deferred) = self.deferred.take() {
                self.handle_deferred(deferred).await;
            }
        }
    }

    /// Waits for the next thing to happen. The worker's audio is played meanwhile, and wakes nothing else of
    /// the driver: it is what comes most. Nothing is lost when something else wins: every
    /// branch is cancel-safe. The two that somebody outside can flood come last, so that they starve nothing, and
    /// the worker and all others have the first look in turn: polling the worker is also what sends to it.
    async fn next(&mut self) -> DriverEvent {
        let plays = self.call.is_streaming();
        let parts = &mut self.parts;
        let session = &mut parts.session;
        let (stream, port) = (&*parts.media.stream, &*parts.media.port);
        let others = async {
            tokio::select! {
                biased;
                event = parts.leg.next() => DriverEvent::Leg(event),
                () = &mut parts.must_end, if !self.ending => DriverEvent::Shutdown,
                () = &mut self.alarm => DriverEvent::Alarm,
                () = stream.woken() => DriverEvent::Woken,
                event = parts.search.next() => DriverEvent::Search(event),
                settled = parts.question.next() => DriverEvent::Answer(settled),
                event = parts.voice.next() => DriverEvent::Voice(event),
                Some(asked) = parts.requests.recv() => DriverEvent::QueuedRequest(asked),
                input = parts.fallback.next() => DriverEvent::Callee(input),
                (id, leg, news) = parts.dialled.next() => DriverEvent::Dialled(id, leg, news),
                order = next_order(&mut parts.parent) => DriverEvent::Order(order),
                Some(packet) = parts.early.recv() => DriverEvent::Rtp(packet),
                () = port.woken() => DriverEvent::Messages,
            }
        };
        let (mut others, signal) = (pin!(others), &self.others);
        signal.set();
        let mut worker_first = std::mem::take(&mut self.worker_first);
        let event = poll_fn(|cx| {
            signal.register(cx.waker());
            if !std::mem::take(&mut worker_first)
                && let Poll::Ready(event) = signal.poll(others.as_mut())
            {
                return Poll::Ready(event);
            }
            if let Poll::Ready(event) = session.poll_event(cx, stream, plays) {
                return Poll::Ready(DriverEvent::Worker(event));
            }
            signal.poll(others.as_mut())
        })
        .await;
        self.worker_first = !matches!(event, DriverEvent::Worker(_));
        event
    }

    fn handle(&mut self, event: DriverEvent) {
        let now = Instant::now();
        match event {
            DriverEvent::Leg(Some(event)) => self.handle_leg(now, event),
            DriverEvent::Leg(None) => self.call.handle_leg_ended(false),
            DriverEvent::Rtp(packet) => {
                let port = &self.parts.media.port;
                port.handle_rtp(packet.arrived, &packet.bytes);
            }
            DriverEvent::Worker(event) => self.handle_worker(now, event),
            DriverEvent::Search(event) => self.handle_search(now, event),
            DriverEvent::Answer(settled) => self.handle_answer(now, settled),
            DriverEvent::Voice(event) => self.handle_voice(now, event),
            DriverEvent::Dialled(id, leg, news) => {
                self.handle_dialled(now.into_std(), id, leg, news);
            }
            DriverEvent::Order(order) => self.handle_order(now.into_std(), order),
            DriverEvent::Callee(input) => self.call.handle_callee(now.into_std(), input),
            DriverEvent::QueuedRequest(asked) => self.deferred = Some(Deferred::Request(asked)),
            DriverEvent::Woken => self.handle_woken(now),
            DriverEvent::Messages => {
                self.forward();
                if self.parts.media.port.lock().uplink.is_holding() {
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

    async fn handle_deferred(&mut self, deferred: Deferred) {
        let now = Instant::now();
        match deferred {
            Deferred::Request(asked) => self.handle_asked(now, asked).await,
            Deferred::WorkerTransfer(to) => self.transfer_for_worker(now, to).await,
        }
    }

    fn handle_leg(&mut self, now: Instant, event: LegEvent) {
        match event {
            LegEvent::Established => {
                self.parts.publisher.answered(now);
                self.call.handle_established(now.into_std());
                self.voice_established(now.into_std());
            }
            LegEvent::Progress(status) => self.call.handle_progress(status),
            LegEvent::Media(link) => self.handle_media(now, &link),
            LegEvent::Digit(digit) => {
                let mut state = self.parts.media.port.lock();
                state.uplink.handle_digit(now.into_std(), digit);
                drop(state);
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
                self.parts.publisher.leg_ended(end.status);
                // The caller's last words came before it.
                self.take_early();
                self.call.handle_leg_ended(end.by == EndedBy::Remote);
            }
        }
    }

    /// Media is up or changed; the stream goes on.
    fn handle_media(&mut self, now: Instant, link: &MediaLink) {
        debug!(format = ?link.format, "media");
        match self.parts.media.connect(&self.parts.pacer, link) {
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
        while let Ok(packet) = self.parts.early.try_recv() {
            let port = &self.parts.media.port;
            port.handle_rtp(packet.arrived, &packet.bytes);
        }
        self.forward();
    }

    /// Gives the worker what waits for it.
    fn forward(&mut self) {
        self.parts.session.forward(&self.parts.media);
    }

    fn handle_alarm(&mut self, now: Instant) {
        // After a stall, packets may be older than the time that is up.
        if let Some(last) = self.parts.media.port.lock().uplink.last_rtp() {
            self.call.handle_rtp(last);
        }
        if self.tick_at <= now {
            self.tick_at = now + self.tick(now);
            self.forward();
        }
        self.parts.session.handle_time(now);
        self.call.handle_timeout(now.into_std());
        self.parts.voice.handle_timeout(now.into_std());
    }

    /// Lets the uplink see that time passes; the answer is when to do so again.
    fn tick(&mut self, now: Instant) -> Duration {
        self.parts.fallback.tick(now);
        let mut state = self.parts.media.port.lock();
        state.uplink.handle_tick(now.into_std());
        let Some(last) = state.uplink.last_rtp() else {
            return TICK_SILENT;
        };
        let flowing = now.into_std() < last + SILENT_AFTER && !state.uplink.is_holding();
        let is_joined = state.relay.is_some();
        if flowing && !is_joined && !self.parts.fallback.is_up() {
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
        let voice = self.parts.voice.poll_timeout().map(Instant::from_std);
        let tick = self.parts.media.is_linked().then_some(self.tick_at);
        let ping = self.parts.session.poll_timeout();
        let next = [call, voice, tick, ping].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        if self.alarm.deadline() != next {
            self.alarm.as_mut().reset(next);
        }
    }

    fn finish(mut self, outcome: Outcome) {
        let reason = self.close_reason();
        self.parts.media.stream.finish();
        self.parts.publisher.ended(outcome, &self.parts.media);
        self.tell_parent_end();
        self.parts.session.close(reason);
    }

    /// Closes what a driver has left behind that did not come to an end.
    fn abandon(&mut self) {
        self.finished = Some(Outcome::Failed);
        self.parts.media.stream.finish();
        self.parts.publisher.abandoned();
        self.parts.session.close(CloseReason::Failed);
        self.parts.search.stop();
        if let Err(error) = self.parts.leg.hang_up(500) {
            warn!(%error, "the failed call was not hung up");
        }
    }

    /// Why the worker's socket is closed with its call.
    fn close_reason(&self) -> CloseReason {
        if self.ending {
            CloseReason::Shutdown
        } else {
            CloseReason::CallOver
        }
    }
}
