//! The driver of one call: one tokio task that owns everything of the call
//! but the outgoing audio, which it shares with the pacer.
//!
//! It waits for whatever happens next, hands it to the state machine
//! ([`Call`]) or the uplink, and does what the state machine asks for.
//!
//! Teardown: the task ends with `Finished`; before that the stream is marked
//! over (the pacer forgets it), the job is withdrawn, the worker's socket is
//! closed in a task of its own, and the call's place is given back last.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::callee::{self, Callee};
use super::context::Context;
use super::reach::{Done, Pending};
use super::record::Record;
use super::registry::Place;
use super::stream::CallStream;
use super::uplink_port::UplinkPort;
use super::worker_side::{WorkerEvent, WorkerSide};
use crate::core::call::Call;
use crate::core::ids::LegId;
use crate::core::link::{MediaLink, RtpPacket, RtpTap};
use crate::core::outcome::Outcome;
use crate::core::playout::MarkEcho;
use crate::core::uplink::Uplink;
use crate::sip::engine::{Command, EndedBy, IncomingCall, LegEvent};
use crate::sip::rtp_channel::RtpReceiver;
use crate::worker::CloseReason;

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
    pub(super) record: Record,
    pub(super) stream: Arc<CallStream>,
    pub(super) port: Arc<UplinkPort>,
    pub(super) worker: WorkerSide,
    pub(super) pending: Pending,
    /// The leg to the fallback number, where the call has got so far.
    pub(super) callee: Option<Callee>,
    /// Media is up.
    pub(super) linked: bool,
    pub(super) finished: Option<Outcome>,
    events: mpsc::Receiver<LegEvent>,
    rtp: RtpReceiver,
    tick_at: Instant,
    alarm: Pin<Box<Sleep>>,
    pub(super) echoes: Vec<MarkEcho>,
    must_end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ending: bool,
}

/// What a driver waits for.
enum Happening {
    Leg(Option<LegEvent>),
    Rtp(RtpPacket),
    Worker(WorkerEvent),
    Pending(Done),
    Callee(Option<LegEvent>),
    Woken,
    Messages,
    Alarm,
    Shutdown,
}

/// Runs one call to its end.
pub(super) async fn run(context: Arc<Context>, incoming: Box<IncomingCall>, place: Place) {
    let Some(line) = context.lines.get(&incoming.line) else {
        error!(line = %incoming.line, "the engine gave a call of a line that is not known");
        return refuse(&context, incoming.leg);
    };
    let record = Record::new(&context, line, &incoming);
    let span = info_span!(
        "call",
        call_id = %record.call_id,
        line = %record.line.id,
        sip_call_id = %incoming.sip_call_id,
    );
    async {
        let leg = incoming.leg;
        match Driver::new(context.clone(), *incoming, record) {
            Ok(driver) => {
                let _watched = context.gauges.watch(&driver.stream, &driver.port);
                driver.drive().await;
            }
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

/// Both in turn, by chance: neither may starve the other, and polling the
/// worker is also what sends to it.
async fn caller_or_worker(port: &UplinkPort, worker: &mut WorkerSide) -> Happening {
    tokio::select! {
        () = port.woken() => Happening::Messages,
        event = worker.next() => Happening::Worker(event),
    }
}

impl Driver {
    fn new(
        context: Arc<Context>,
        incoming: IncomingCall,
        record: Record,
    ) -> Result<Self, crate::core::opus::OpusError> {
        let format = super::context::provisional_format();
        let stream = Arc::new(CallStream::new(context.new_downlink(&format)?));
        let uplink = Uplink::new(&format, context.settings.rx_gain.clone())?;
        let port = UplinkPort::new(uplink);
        incoming.rtp.tap(port.clone());
        let now = Instant::now();
        Ok(Self {
            leg: incoming.leg,
            call: Call::new(context.policy(&record.line)),
            worker: WorkerSide::new(),
            pending: Pending::default(),
            callee: None,
            linked: false,
            finished: None,
            events: incoming.events,
            rtp: incoming.rtp,
            tick_at: now + TICK_SILENT,
            alarm: Box::pin(sleep_until(now)),
            echoes: Vec::new(),
            must_end: Box::pin({
                let context = context.clone();
                async move { context.shutdown.calls_must_end().await }
            }),
            ending: false,
            context,
            record,
            stream,
            port,
        })
    }

    async fn drive(mut self) {
        info!(from = %self.record.from, "incoming call");
        self.record.begun(&self.context);
        self.call.handle_start(Instant::now().into_std());
        loop {
            while let Some(output) = self.call.poll_output() {
                self.perform(output);
            }
            if let Some(outcome) = self.finished {
                return self.finish(outcome);
            }
            self.set_alarm();
            let happening = self.next().await;
            self.handle(happening);
        }
    }

    /// Waits for the next thing to happen. Nothing is lost when another
    /// branch wins: every branch is cancel-safe. The two that somebody outside
    /// can flood come last, so that they starve nothing.
    async fn next(&mut self) -> Happening {
        tokio::select! {
            biased;
            event = self.events.recv() => Happening::Leg(event),
            () = &mut self.must_end, if !self.ending => Happening::Shutdown,
            () = &mut self.alarm => Happening::Alarm,
            () = self.stream.woken() => Happening::Woken,
            done = self.pending.next() => Happening::Pending(done),
            event = callee::next_event(&mut self.callee) => Happening::Callee(event),
            Some(packet) = self.rtp.recv() => Happening::Rtp(packet),
            happening = caller_or_worker(&self.port, &mut self.worker) => happening,
        }
    }

    fn handle(&mut self, happening: Happening) {
        let now = Instant::now();
        match happening {
            Happening::Leg(Some(event)) => self.handle_leg(now, event),
            Happening::Leg(None) => self.call.handle_leg_ended(false),
            Happening::Rtp(packet) => self.port.handle_rtp(packet.arrived, &packet.bytes),
            Happening::Worker(event) => self.handle_worker(now, event),
            Happening::Pending(done) => self.handle_done(now, done),
            Happening::Callee(event) => self.handle_callee(now, event),
            Happening::Woken => self.handle_woken(now),
            Happening::Messages => {
                self.forward();
                if self.port.lock().uplink.is_holding() {
                    self.tick_at = self.tick_at.min(now + TICK_SILENT);
                }
            }
            Happening::Alarm => self.handle_alarm(now),
            Happening::Shutdown => {
                self.ending = true;
                self.call.handle_shutdown(now.into_std());
            }
        }
    }

    fn handle_leg(&mut self, now: Instant, event: LegEvent) {
        match event {
            LegEvent::Established => {
                self.record.answered(now);
                self.call.handle_established(now.into_std());
            }
            // Only legs that we called make progress.
            LegEvent::Progress(_) => {}
            LegEvent::Media(link) => self.handle_media(now, &link),
            LegEvent::Digit(digit) => {
                self.port.lock().uplink.handle_digit(now.into_std(), digit);
                self.forward();
            }
            LegEvent::Transfer { status, last } => {
                info!(status, last, "transfer");
                self.call.handle_transfer(now.into_std(), status, last);
            }
            LegEvent::Ended(end) => {
                info!(status = end.status, reason = %end.reason, by = ?end.by, "leg ended");
                self.record.sip_status = end.status;
                // The caller's last words came before it.
                self.take_early();
                self.call.handle_leg_ended(end.by == EndedBy::Remote);
            }
        }
    }

    /// Media is up or changed; the stream goes on.
    fn handle_media(&mut self, now: Instant, link: &MediaLink) {
        debug!(format = ?link.format, "media");
        let connected = self.stream.connect(link);
        if let Err(error) =
            connected.and_then(|()| self.port.lock().uplink.set_format(&link.format))
        {
            warn!(%error, "the negotiated codec cannot be used, the call is ended");
            return self.call.handle_leg_failed(now.into_std());
        }
        if !self.linked {
            self.linked = true;
            self.context.pacer.add(self.stream.clone());
            self.tick_at = now + TICK_FLOWING;
        }
        self.call
            .handle_media(now.into_std(), link.format.direction);
    }

    /// Packets from before the tap.
    fn take_early(&mut self) {
        while let Ok(packet) = self.rtp.try_recv() {
            self.port.handle_rtp(packet.arrived, &packet.bytes);
        }
        self.forward();
    }

    /// Gives the worker what waits for it in the port. The socket shuts the
    /// lane before the port's lock is given back, so that nothing overtakes.
    pub(super) fn forward(&mut self) {
        for message in self.port.lock().waiting() {
            self.worker.queue(message);
        }
    }

    fn handle_woken(&mut self, now: Instant) {
        self.send_echoes();
        let drained = self.pending.waits_for_play_out && self.stream.downlink().is_drained();
        if drained {
            self.pending.waits_for_play_out = false;
            self.call.handle_played_out(now.into_std());
        }
    }

    fn handle_alarm(&mut self, now: Instant) {
        // After a stall, packets may be older than the time that is up.
        if let Some(last) = self.port.lock().uplink.last_rtp() {
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
        let mut state = self.port.lock();
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
        let tick = self.linked.then_some(self.tick_at);
        let ping = self.worker.poll_timeout();
        let next = [call, tick, ping].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        if self.alarm.deadline() != next {
            self.alarm.as_mut().reset(next);
        }
    }

    fn finish(mut self, outcome: Outcome) {
        self.stream.finish();
        self.record
            .ended(&self.context, outcome, &self.port, &self.stream);
        self.worker.close(self.close_reason());
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
