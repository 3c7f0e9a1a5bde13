//! The table of legs. A leg's slot is its pjsua call id; see [`Slots`] for how ids of
//! legs that are over stay dead.
//!
//! Nothing of pjsip is called while a lock of a slot is held, and no other lock is
//! taken.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::access::{CallSource, Unacknowledged};
use super::rtp_gate::RtpGate;
use super::slots::Slots;
use crate::core::ids::{LegId, LineId};
use crate::core::media_link::MediaFormat;
use crate::sip::engine::{LEG_QUEUE_EVENTS, LegEnd, LegEvent};
use crate::sip::rtp_channel::{RtpReceiver, RtpSender, Undelivered, rtp_channel};
use crate::sip::rtp_intake::{Judged, PayloadTypes, RtpIntake};
use crate::sip::source::Latch;

/// How long pjsua has to tell the outcome of a transfer whose last NOTIFY has
/// come. It tells it on the same thread, from the same message, or never.
const OUTCOME_GRACE: Duration = Duration::from_millis(250);

/// The receivers of one leg, for its driver.
pub type Receivers = (mpsc::Receiver<LegEvent>, RtpReceiver);

/// What became of an event for a leg's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emitted {
    /// In the leg's queue, or the leg is over and nobody waits for it.
    Done,
    /// The queue is full or the driver gone: the leg must be ended.
    DriverLost,
}

/// What became of one RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// With the leg's driver, or in its queue.
    Taken,
    /// Dropped: the driver's queue is full.
    Overflow,
    /// Dropped: from another source, or no RTP.
    Foreign,
    /// Dropped: its source sends more than any phone.
    Thinned {
        /// Whether it is the first such packet of the leg.
        first: bool,
    },
    /// Dropped: no such leg, or it has no media now.
    NoLeg,
    /// The driver is gone: the leg must be ended. Said once.
    DriverLost,
}

/// One RTP packet, judged and handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What became of it.
    pub outcome: Delivered,
    /// Its source is where we send from now on.
    pub follow: bool,
}

/// All slots.
pub struct CallTable {
    slots: Slots<Leg, Media>,
    /// Whether anybody's RTP may be latched ([`Latch::Any`]).
    latches_any: AtomicBool,
}

/// A leg from the creation of its media or its INVITE to its end.
struct Leg {
    /// Until the driver is told of the leg.
    receivers: Option<Receivers>,
    events: mpsc::Sender<LegEvent>,
    /// A place kept in the queue, so that the last event always fits.
    last_place: Option<mpsc::OwnedPermit<LegEvent>>,
    gate: Arc<RtpGate>,
    line: Option<LineId>,
    format: Option<MediaFormat>,
    /// Set when we end the leg, before pjsip is told.
    ending: Option<LegEnd>,
    transfer: Transfer,
    /// A re-INVITE of ours for hold or resume is under way.
    reinviting: bool,
    /// Who sent the INVITE, where it came in.
    caller: Option<CallSource>,
    /// Answered, and its ACK has not come.
    unacknowledged: Option<Unacknowledged>,
}

/// Where the transfer of a leg stands.
#[derive(Default)]
enum Transfer {
    /// There is none, or its outcome was told.
    #[default]
    None,
    /// REFER was sent.
    Pending,
    /// The other side ended the subscription then; nothing else will come.
    Ended(Instant),
}

/// What each RTP packet needs.
struct Media {
    /// `None` once nothing is let in any more.
    rtp: Option<RtpSender>,
    intake: RtpIntake,
}

impl CallTable {
    /// A table of `count` empty slots.
    pub fn new(count: usize) -> Self {
        Self {
            slots: Slots::new(count),
            latches_any: AtomicBool::new(false),
        }
    }

    /// Says whose RTP the legs that are opened from now on may latch.
    pub fn set_latch(&self, latch: Latch) {
        let any = latch == Latch::Any;
        self.latches_any.store(any, Ordering::Relaxed);
    }

    /// How many legs there are.
    pub fn live(&self) -> usize {
        self.slots.live()
    }

    /// The leg of a pjsua call, opened where there is none yet.
    pub fn ensure_open(&self, index: i32) -> Option<LegId> {
        self.slots.ensure_open(index, || self.new_leg())
    }

    fn new_leg(&self) -> (Leg, Media) {
        let (events, event_receiver) = mpsc::channel(LEG_QUEUE_EVENTS + 1);
        let (rtp, rtp_receiver) = rtp_channel();
        let leg = Leg {
            receivers: Some((event_receiver, rtp_receiver)),
            last_place: events.clone().try_reserve_owned().ok(),
            events,
            gate: Arc::new(RtpGate::default()),
            line: None,
            format: None,
            ending: None,
            transfer: Transfer::None,
            reinviting: false,
            caller: None,
            unacknowledged: None,
        };
        let latch = if self.latches_any.load(Ordering::Relaxed) {
            Latch::Any
        } else {
            Latch::Peer
        };
        let media = Media {
            rtp: Some(rtp),
            intake: RtpIntake::new(latch),
        };
        (leg, media)
    }

    /// The leg of a pjsua call, where there is one.
    pub fn current(&self, index: i32) -> Option<LegId> {
        self.slots.current(index)
    }

    /// Every leg that its driver knows of.
    pub fn announced(&self) -> Vec<LegId> {
        self.slots.which(|leg| leg.receivers.is_none())
    }

    /// Legs whose driver has gone away without a word.
    pub fn orphans(&self) -> Vec<LegId> {
        let is_left = |leg: &Leg| leg.receivers.is_none() && leg.events.is_closed();
        self.slots.which(is_left)
    }

    /// Every leg there is.
    pub fn all(&self) -> Vec<LegId> {
        self.slots.which(|_| true)
    }

    /// The lines that have legs.
    pub fn busy_lines(&self) -> HashSet<LineId> {
        let legs = self.all().into_iter();
        legs.filter_map(|leg| self.line(leg)).collect()
    }

    /// Binds a leg to its line and hands out its receivers, once.
    pub fn announce(&self, leg: LegId, line: LineId) -> Option<Receivers> {
        self.with(leg, |leg| {
            leg.line = Some(line);
            leg.receivers.take()
        })
        .flatten()
    }

    /// Notes who sent the INVITE of a leg.
    pub fn note_caller(&self, leg: LegId, caller: CallSource) {
        self.with(leg, |leg| leg.caller = Some(caller));
    }

    /// Who sent the INVITE of a leg.
    pub fn caller(&self, leg: LegId) -> Option<CallSource> {
        self.with(leg, |leg| leg.caller).flatten()
    }

    /// Notes that the leg is answered, or with `None`, that its ACK has come.
    pub fn note_unacknowledged(&self, leg: LegId, held: Option<Unacknowledged>) {
        // What was held before is let go of outside of the lock.
        drop(self.with(leg, |leg| std::mem::replace(&mut leg.unacknowledged, held)));
    }

    /// Closes a leg that its driver was never told of: its INVITE failed
    /// between media and call.
    pub fn abandon(&self, leg: LegId) {
        let unannounced = self.with(leg, |leg| leg.receivers.is_some());
        if unannounced == Some(true) {
            self.end(leg, None);
        }
    }

    /// Runs `act` on a leg, unless it is over.
    fn with<T>(&self, leg: LegId, act: impl FnOnce(&mut Leg) -> T) -> Option<T> {
        self.slots.with(leg, act)
    }

    /// Whether a leg is alive.
    pub fn is_alive(&self, leg: LegId) -> bool {
        self.with(leg, |_| ()).is_some()
    }

    /// The line of a leg.
    pub fn line(&self, leg: LegId) -> Option<LineId> {
        self.with(leg, |leg| leg.line.clone()).flatten()
    }

    /// The gate of a leg's RTP sink.
    pub fn gate(&self, leg: LegId) -> Option<Arc<RtpGate>> {
        self.with(leg, |leg| Arc::clone(&leg.gate))
    }

    /// The format last told to the driver; replaced by `format` where given.
    pub fn format(&self, leg: LegId, format: Option<MediaFormat>) -> Option<MediaFormat> {
        self.with(leg, |leg| match format {
            Some(format) => leg.format.replace(format),
            None => leg.format,
        })
        .flatten()
    }

    /// Puts an event into the leg's queue.
    pub fn emit(&self, leg: LegId, event: LegEvent) -> Emitted {
        match self.with(leg, |leg| leg.events.try_send(event)) {
            None | Some(Ok(())) => Emitted::Done,
            Some(Err(_)) => Emitted::DriverLost,
        }
    }

    /// Notes that a transfer began.
    pub fn begin_transfer(&self, leg: LegId) {
        self.with(leg, |leg| leg.transfer = Transfer::Pending);
    }

    /// Notes that the other side will send no more about a transfer.
    pub fn transfer_notified(&self, leg: LegId, now: Instant) {
        self.with(leg, |leg| {
            if matches!(leg.transfer, Transfer::Pending) {
                leg.transfer = Transfer::Ended(now);
            }
        });
    }

    /// Ends a transfer; `false` when there is none whose outcome is unknown.
    pub fn end_transfer(&self, leg: LegId) -> bool {
        let was = self.with(leg, |leg| std::mem::take(&mut leg.transfer));
        matches!(was, Some(Transfer::Pending | Transfer::Ended(_)))
    }

    /// Notes that a re-INVITE of ours is sent.
    pub fn begin_hold(&self, leg: LegId) {
        self.with(leg, |leg| leg.reinviting = true);
    }

    /// Ends a re-INVITE of ours; `false` when there is none.
    pub fn end_hold(&self, leg: LegId) -> bool {
        let was = self.with(leg, |leg| std::mem::take(&mut leg.reinviting));
        was == Some(true)
    }

    /// Whether a transfer is under way.
    pub fn is_transferring(&self, leg: LegId) -> bool {
        self.with(leg, |leg| !matches!(leg.transfer, Transfer::None)) == Some(true)
    }

    /// Legs whose transfer ended without a word on how.
    pub fn unknown_transfers(&self, now: Instant) -> Vec<LegId> {
        let mut legs = self.announced();
        legs.retain(|leg| {
            let ended = self.with(*leg, |leg| match leg.transfer {
                Transfer::Ended(at) => now.saturating_duration_since(at) >= OUTCOME_GRACE,
                Transfer::None | Transfer::Pending => false,
            });
            ended == Some(true)
        });
        legs
    }

    /// Notes that we end the leg, and as what. The first note counts.
    pub fn note_ending(&self, leg: LegId, end: LegEnd) {
        self.with(leg, |leg| leg.ending.get_or_insert(end).status);
    }

    /// Ends a leg: its last event goes out, both channels and the gate close.
    /// What [`note_ending`](Self::note_ending) said goes before `end`.
    pub fn end(&self, leg: LegId, end: Option<LegEnd>) {
        let Some(ended) = self.slots.take(leg) else {
            return;
        };
        self.deafen(leg);
        ended.gate.close();
        if let (Some(place), Some(end)) = (ended.last_place, ended.ending.or(end)) {
            place.send(LegEvent::Ended(end));
        }
    }

    /// Says from where and in which payload types RTP is to come.
    pub fn expect_rtp(&self, leg: LegId, from: Option<SocketAddr>, types: PayloadTypes) {
        self.with_media(leg, |media| {
            media.intake.expect(Instant::now(), from, types)
        });
    }

    /// Says where the signalling of the other side comes from.
    pub fn note_peer(&self, leg: LegId, address: IpAddr) {
        self.with_media(leg, |media| media.intake.note_peer(address));
    }

    /// Where the leg's RTP goes when that is not where the SDP says.
    pub fn rtp_destination(&self, leg: LegId) -> Option<SocketAddr> {
        self.with_media(leg, |media| media.intake.destination())
            .flatten()
    }

    /// Lets no more RTP into a leg: what takes it has failed.
    pub fn deafen(&self, leg: LegId) {
        self.with_media(leg, |media| media.rtp = None);
    }

    /// Hands one RTP packet to the leg's driver. `from` is `None` where ICE
    /// vouches for the source.
    pub fn deliver(
        &self,
        leg: LegId,
        bytes: &[u8],
        from: Option<SocketAddr>,
        arrived: Instant,
    ) -> Delivery {
        let judged = self.with_media(leg, |media| {
            let rtp = media.rtp.clone()?;
            let (judged, follow) = media.intake.judge(arrived, from, bytes);
            Some((rtp, judged, follow))
        });
        // The tap takes locks of its own: none is held here any more.
        let (outcome, follow) = match judged.flatten() {
            None => (Delivered::NoLeg, false),
            Some((_, Judged::Foreign, _)) => (Delivered::Foreign, false),
            Some((_, Judged::Thinned { first }, follow)) => (Delivered::Thinned { first }, follow),
            Some((rtp, Judged::Take, follow)) => {
                (self.hand_over(leg, &rtp, arrived, bytes), follow)
            }
        };
        Delivery { outcome, follow }
    }

    fn hand_over(&self, leg: LegId, rtp: &RtpSender, arrived: Instant, bytes: &[u8]) -> Delivered {
        match rtp.deliver(arrived, bytes) {
            Ok(()) => Delivered::Taken,
            Err(Undelivered::Full) => Delivered::Overflow,
            Err(Undelivered::Closed) => {
                self.deafen(leg);
                Delivered::DriverLost
            }
        }
    }

    /// Runs `act` on the media of a leg, unless it is over.
    fn with_media<T>(&self, leg: LegId, act: impl FnOnce(&mut Media) -> T) -> Option<T> {
        self.slots.with_media(leg, act)
    }
}

/// A leg as C's user data.
pub fn to_key(leg: LegId) -> u64 {
    u64::from(leg.generation) << 32 | u64::from(leg.index)
}

/// A leg from C's user data.
pub fn from_key(key: u64) -> LegId {
    let [index, generation] =
        [key & 0xffff_ffff, key >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    LegId { index, generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::engine::EndedBy;
    use crate::sip::engine::RTP_QUEUE_PACKETS;

    fn rtp(payload_type: u8) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type];
        packet.resize(172, 0);
        packet
    }

    fn from(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn end(by: EndedBy) -> LegEnd {
        LegEnd {
            by,
            status: 200,
            reason: String::new(),
        }
    }

    #[test]
    fn an_ended_leg_is_dead_for_whoever_still_holds_its_id() {
        let slots = CallTable::new(2);
        let first = slots.ensure_open(1).unwrap();
        assert_eq!(slots.ensure_open(1), Some(first));
        let (mut events, mut packets) = slots.announce(first, LineId::new("a")).unwrap();
        assert_eq!(slots.live(), 1);
        slots.end(first, Some(end(EndedBy::Remote)));
        let second = slots.ensure_open(1).unwrap();
        assert_ne!(first, second);
        assert_eq!(
            slots.deliver(first, &rtp(0), None, Instant::now()).outcome,
            Delivered::NoLeg
        );
        assert_eq!(slots.emit(first, LegEvent::Established), Emitted::Done);
        slots.end(first, Some(end(EndedBy::Failure)));
        assert_eq!(slots.current(1), Some(second));
        assert!(matches!(events.try_recv(), Ok(LegEvent::Ended(end)) if end.by == EndedBy::Remote));
        assert!(matches!(
            events.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        assert!(matches!(
            packets.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        assert_eq!(from_key(to_key(second)), second);
    }

    #[test]
    fn the_last_event_fits_into_a_full_queue_and_ours_goes_first() {
        let slots = CallTable::new(1);
        let leg = slots.ensure_open(0).unwrap();
        let (mut events, _rtp) = slots.announce(leg, LineId::new("a")).unwrap();
        for _ in 0..LEG_QUEUE_EVENTS {
            assert_eq!(slots.emit(leg, LegEvent::Digit('1')), Emitted::Done);
        }
        assert_eq!(slots.emit(leg, LegEvent::Digit('2')), Emitted::DriverLost);
        slots.note_ending(leg, end(EndedBy::Local));
        slots.end(leg, Some(end(EndedBy::Remote)));
        let mut last = None;
        while let Ok(event) = events.try_recv() {
            last = Some(event);
        }
        assert!(matches!(last, Some(LegEvent::Ended(end)) if end.by == EndedBy::Local));
    }

    #[test]
    fn rtp_is_taken_from_its_source_until_the_queue_is_full() {
        let slots = CallTable::new(1);
        let leg = slots.ensure_open(0).unwrap();
        let (events, mut packets) = slots.announce(leg, LineId::new("a")).unwrap();
        let types = PayloadTypes::default().with_g711().with(101);
        slots.expect_rtp(leg, from(1), types);
        let now = Instant::now();
        let deliver = |bytes: &[u8], port| slots.deliver(leg, bytes, from(port), now).outcome;
        assert_eq!(deliver(&rtp(97), 1), Delivered::Foreign);
        assert_eq!(deliver(&rtp(0)[..11], 1), Delivered::Foreign);
        assert_eq!(deliver(&[0; 40], 1), Delivered::Foreign);
        assert_eq!(deliver(&rtp(101), 1), Delivered::Taken);
        assert_eq!(deliver(&rtp(0), 2), Delivered::Foreign);
        for _ in 1..RTP_QUEUE_PACKETS {
            assert_eq!(deliver(&rtp(0), 1), Delivered::Taken);
        }
        assert_eq!(deliver(&rtp(0), 1), Delivered::Overflow);
        assert_eq!(packets.try_recv().unwrap().bytes[1], 101);
        drop(packets);
        assert!(slots.orphans().is_empty());
        drop(events);
        assert_eq!(slots.orphans(), [leg]);
        assert_eq!(deliver(&rtp(0), 1), Delivered::DriverLost);
        assert_eq!(deliver(&rtp(0), 1), Delivered::NoLeg);
    }

    #[test]
    fn a_source_is_followed_even_when_its_packet_finds_no_room() {
        let slots = CallTable::new(1);
        let leg = slots.ensure_open(0).unwrap();
        let _receivers = slots.announce(leg, LineId::new("a")).unwrap();
        slots.expect_rtp(leg, from(1), PayloadTypes::default().with_g711());
        let now = Instant::now();
        for _ in 0..RTP_QUEUE_PACKETS {
            assert!(!slots.deliver(leg, &rtp(0), from(1), now).follow);
        }
        let later = now + Duration::from_millis(200);
        let moved = slots.deliver(leg, &rtp(0), from(2), later);
        assert_eq!(moved.outcome, Delivered::Overflow);
        assert!(moved.follow);
        assert_eq!(slots.rtp_destination(leg), from(2));
        slots.deafen(leg);
        let deaf = slots.deliver(leg, &rtp(0), from(2), later);
        assert_eq!(deaf.outcome, Delivered::NoLeg);
    }

    #[test]
    fn a_leg_nobody_was_told_of_is_abandoned_silently() {
        let slots = CallTable::new(1);
        let leg = slots.ensure_open(0).unwrap();
        slots.abandon(leg);
        assert_eq!((slots.live(), slots.current(0)), (0, None));
        let leg = slots.ensure_open(0).unwrap();
        let _receivers = slots.announce(leg, LineId::new("a")).unwrap();
        slots.abandon(leg);
        assert_eq!(slots.announced(), [leg]);
    }
}
