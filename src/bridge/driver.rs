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

use super::context::Context;
use super::perform::Pending;
use super::record::Record;
use super::registry::Place;
use super::stream::CallStream;
use super::worker_side::{WorkerEvent, WorkerSide};
use crate::core::call::Call;
use crate::core::ids::LegId;
use crate::core::link::{MediaLink, RtpPacket};
use crate::core::outcome::Outcome;
use crate::core::playout::MarkEcho;
use crate::core::uplink::Uplink;
use crate::sip::engine::{Command, EndedBy, IncomingCall, LegEvent, RTP_QUEUE_PACKETS};
use crate::worker::CloseReason;

/// Packets handled in a row before other inputs get their turn.
const RTP_BATCH: usize = 32;
/// How often the uplink looks at the clock while RTP flows, and while it does not.
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
    pub(super) uplink: Uplink,
    pub(super) worker: WorkerSide,
    pub(super) pending: Pending,
    /// Media is up.
    pub(super) linked: bool,
    pub(super) finished: Option<Outcome>,
    events: mpsc::Receiver<LegEvent>,
    rtp: mpsc::Receiver<RtpPacket>,
    tick_at: Instant,
    alarm: Pin<Box<Sleep>>,
    /// Message under construction.
    scratch: Vec<u8>,
    pub(super) echoes: Vec<MarkEcho>,
    must_end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ending: bool,
}

/// What a driver waits for.
enum Happening {
    Leg(Option<LegEvent>),
    Rtp(RtpPacket),
    Worker(WorkerEvent),
    Pending(super::perform::Done),
    Woken,
    Alarm,
    Shutdown,
}

/// Runs one call to its end.
pub(super) async fn run(context: Arc<Context>, incoming: Box<IncomingCall>, place: Place) {
    let Some(line) = context.lines.get(&incoming.line).cloned() else {
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
            Ok(driver) => driver.drive().await,
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
async fn caller_or_worker(
    rtp: &mut mpsc::Receiver<RtpPacket>,
    worker: &mut WorkerSide,
) -> Happening {
    tokio::select! {
        Some(packet) = rtp.recv() => Happening::Rtp(packet),
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
        let now = Instant::now();
        Ok(Self {
            leg: incoming.leg,
            call: Call::new(context.policy(&record.line)),
            worker: WorkerSide::new(),
            pending: Pending::default(),
            linked: false,
            finished: None,
            events: incoming.events,
            rtp: incoming.rtp,
            tick_at: now + TICK_SILENT,
            alarm: Box::pin(sleep_until(now)),
            scratch: Vec::new(),
            echoes: Vec::new(),
            must_end: Box::pin({
                let context = context.clone();
                async move { context.shutdown.calls_must_end().await }
            }),
            ending: false,
            context,
            record,
            stream,
            uplink,
        })
    }

    async fn drive(mut self) {
        info!(from = %self.record.from, "incoming call");
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
            happening = caller_or_worker(&mut self.rtp, &mut self.worker) => happening,
        }
    }

    fn handle(&mut self, happening: Happening) {
        let now = Instant::now();
        match happening {
            Happening::Leg(Some(event)) => self.handle_leg(now, event),
            Happening::Leg(None) => self.call.handle_leg_ended(false),
            Happening::Rtp(packet) => self.handle_rtp(&packet),
            Happening::Worker(event) => self.handle_worker(now, event),
            Happening::Pending(done) => self.handle_done(now, done),
            Happening::Woken => self.handle_woken(now),
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
            LegEvent::Media(link) => self.handle_media(now, &link),
            LegEvent::Digit(digit) => {
                self.uplink.handle_digit(now.into_std(), digit);
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
                self.take_waiting(RTP_QUEUE_PACKETS);
                self.call.handle_leg_ended(end.by == EndedBy::Remote);
            }
        }
    }

    /// Media is up or changed; the stream goes on.
    fn handle_media(&mut self, now: Instant, link: &MediaLink) {
        debug!(format = ?link.format, "media");
        let connected = self.stream.connect(link);
        if let Err(error) = connected.and_then(|()| self.uplink.set_format(&link.format)) {
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

    /// The hot path: a packet of the caller becomes a message at once, and so
    /// do those that wait behind it; they leave in one write.
    fn handle_rtp(&mut self, packet: &RtpPacket) {
        self.take_packet(packet);
        self.take_waiting(RTP_BATCH - 1);
    }

    fn take_waiting(&mut self, most: usize) {
        for _ in 0..most {
            match self.rtp.try_recv() {
                Ok(packet) => self.take_packet(&packet),
                Err(_) => break,
            }
        }
        self.forward();
    }

    fn take_packet(&mut self, packet: &RtpPacket) {
        self.uplink.handle_rtp(packet.arrived, &packet.bytes);
        self.call.handle_rtp(packet.arrived);
    }

    /// Gives the worker what the uplink has ready.
    pub(super) fn forward(&mut self) {
        while self.uplink.poll_message(&mut self.scratch) {
            let message = std::mem::replace(&mut self.scratch, Vec::with_capacity(384));
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
        // After a stall they are older than the time that is up.
        self.take_waiting(RTP_QUEUE_PACKETS);
        if self.tick_at <= now {
            self.uplink.handle_tick(now.into_std());
            let last = self.uplink.last_rtp().map(Instant::from_std);
            let flowing = last.is_some_and(|last| now < last + SILENT_AFTER);
            self.tick_at = now + if flowing { TICK_FLOWING } else { TICK_SILENT };
            self.forward();
        }
        self.worker.handle_time(now);
        self.call.handle_timeout(now.into_std());
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
            .ended(&self.context, outcome, &self.uplink, &self.stream);
        self.worker.close(CloseReason::CallOver);
    }
}
