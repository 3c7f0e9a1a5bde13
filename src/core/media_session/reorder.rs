//! The order of the caller's RTP packets (RFC 3550 A.1): one in order passes at
//! once, a gap holds back what follows, briefly and bounded.
//!
//! Leaves out: what the timestamps mean (see `uplink`).

use std::time::{Duration, Instant};

use crate::core::rtp::RtpHeader;

/// Most packets that wait for a missing one.
pub const MAX_HELD_PACKETS: usize = 3;
/// Longest wait for a missing packet.
pub const MAX_HOLD: Duration = Duration::from_millis(60);

/// A jump forward beyond this is a new source (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A step back beyond this is a new source (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;
/// An old sequence number with a timestamp this far ahead is a restart.
const RESTART_TIMESTAMP: u32 = 10 * 48_000;

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Use it now. `lost` packets before it never came; `new_source` when its
    /// timestamps have nothing to do with those before.
    Now {
        /// Sequence numbers skipped.
        lost: u16,
        /// The first packet, or another SSRC, or a jump.
        new_source: bool,
    },
    /// It was copied and comes out of `poll_held` in its place.
    Held,
    /// Seen before.
    Duplicate,
    /// Its place was given up.
    Late,
}

/// A packet that waited, and how to take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPacket {
    /// Its header.
    pub header: RtpHeader,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Packets lost before it.
    pub lost: u16,
    /// As in `Placement::Now`.
    pub new_source: bool,
    arrived: Instant,
}

/// Counters of what came out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderStats {
    /// Sequence numbers given up.
    pub lost: u64,
    /// Seen before.
    pub duplicates: u64,
    /// After their place was given up.
    pub late: u64,
    /// Put into their place while later ones waited.
    pub reordered: u64,
    /// New sources after the first.
    pub resyncs: u64,
}

/// What has come from the current source (RFC 3550 A.3), for receiver reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reception {
    /// The source.
    pub ssrc: u32,
    /// Highest sequence number, extended by the wraps seen.
    pub highest: u32,
    /// Packets that should have come.
    pub expected: u32,
    /// Packets that were used.
    pub received: u32,
}

/// Puts packets in order. One in order passes at once. After a gap the next
/// ones are held, at most [`MAX_HELD_PACKETS`] and [`MAX_HOLD`]; then the gap
/// is given up.
///
/// A packet that does not fit the source (another SSRC, a jump of the sequence
/// number) is held too: the next packet that follows it makes it the new
/// source, the next one that fits the old source discards it, and after
/// `MAX_HOLD` it is believed.
#[derive(Debug, Default)]
pub struct Reorder {
    source: Option<Source>,
    /// Sorted by sequence number; all of the current source.
    held: Vec<HeldPacket>,
    candidate: Option<HeldPacket>,
    /// A confirmed candidate and its follower, on their way out.
    released: Vec<HeldPacket>,
    stats: OrderStats,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    next: u16,
    /// Bit n: `next - 1 - n` came.
    seen: u64,
    timestamp: u32,
    reception: Reception,
}

impl Source {
    fn starting_after(header: &RtpHeader) -> Self {
        Self {
            ssrc: header.ssrc,
            next: header.sequence.wrapping_add(1),
            seen: 1,
            timestamp: header.timestamp,
            reception: Reception {
                ssrc: header.ssrc,
                highest: u32::from(header.sequence),
                expected: 1,
                received: 1,
            },
        }
    }

    /// Whether the packet belongs to this source, by RFC 3550 A.1.
    fn fits(&self, header: &RtpHeader) -> bool {
        let ahead = header.sequence.wrapping_sub(self.next);
        let behind = self.next.wrapping_sub(header.sequence);
        let restarted = ahead > MAX_DROPOUT
            && header
                .timestamp
                .wrapping_sub(self.timestamp)
                .wrapping_add(RESTART_TIMESTAMP)
                > 2 * RESTART_TIMESTAMP;
        header.ssrc == self.ssrc && (ahead <= MAX_DROPOUT || behind <= MAX_MISORDER) && !restarted
    }

    /// Takes a packet at or after `next`; gives how many are skipped.
    fn advance(&mut self, header: &RtpHeader) -> u16 {
        let lost = header.sequence.wrapping_sub(self.next);
        self.seen = self.seen.checked_shl(u32::from(lost) + 1).unwrap_or(0) | 1;
        self.next = header.sequence.wrapping_add(1);
        self.timestamp = header.timestamp;
        let step = u32::from(lost) + 1;
        let counts = &mut self.reception;
        counts.highest = counts.highest.wrapping_add(step);
        counts.expected = counts.expected.wrapping_add(step);
        counts.received = counts.received.wrapping_add(1);
        lost
    }

    fn has_seen(&self, sequence: u16) -> bool {
        let back = u32::from(self.next.wrapping_sub(sequence).wrapping_sub(1));
        self.seen.checked_shr(back).unwrap_or(0) & 1 == 1
    }
}

impl Reorder {
    /// Judges one packet. After any answer take what `poll_held` gives.
    pub fn handle(&mut self, now: Instant, header: &RtpHeader, payload: &[u8]) -> Placement {
        let Some(source) = &mut self.source else {
            self.source = Some(Source::starting_after(header));
            return Placement::Now {
                lost: 0,
                new_source: true,
            };
        };
        if !source.fits(header) {
            return self.handle_stranger(now, header, payload);
        }
        self.candidate = None;
        let ahead = header.sequence.wrapping_sub(source.next);
        if ahead == 0 {
            source.advance(header);
            self.stats.reordered += u64::from(!self.held.is_empty());
            return Placement::Now {
                lost: 0,
                new_source: false,
            };
        }
        if ahead <= MAX_DROPOUT {
            return self.hold(now, header, payload);
        }
        if source.has_seen(header.sequence) {
            self.stats.duplicates += 1;
            return Placement::Duplicate;
        }
        self.stats.late += 1;
        Placement::Late
    }

    /// The next held packet whose turn has come; `None` when all others must
    /// go on waiting.
    pub fn poll_held(&mut self, now: Instant) -> Option<HeldPacket> {
        if !self.released.is_empty() {
            return Some(self.released.remove(0));
        }
        if let Some(packet) = self.poll_gap(now) {
            return Some(packet);
        }
        let believed = self.candidate.as_ref()?.arrived;
        if now.saturating_duration_since(believed) < MAX_HOLD {
            return None;
        }
        let candidate = self.candidate.take()?;
        self.switch_to(&candidate.header);
        Some(candidate)
    }

    /// Whether `poll_held` must be asked again as time passes.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty() || self.candidate.is_some()
    }

    /// What has come from the current source; `None` before the first packet.
    #[must_use]
    pub fn reception(&self) -> Option<Reception> {
        self.source.map(|source| source.reception)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> OrderStats {
        self.stats
    }

    fn poll_gap(&mut self, now: Instant) -> Option<HeldPacket> {
        let source = self.source.as_mut()?;
        let first = self.held.first()?;
        let in_order = first.header.sequence == source.next;
        let oldest = self.held.iter().map(|held| held.arrived).min()?;
        let overdue = now.saturating_duration_since(oldest) >= MAX_HOLD;
        if !in_order && !overdue && self.held.len() <= MAX_HELD_PACKETS {
            return None;
        }
        let mut packet = self.held.remove(0);
        packet.lost = source.advance(&packet.header);
        self.stats.lost += u64::from(packet.lost);
        Some(packet)
    }

    fn hold(&mut self, now: Instant, header: &RtpHeader, payload: &[u8]) -> Placement {
        let Some(source) = self.source else {
            return Placement::Late;
        };
        let distance = |sequence: u16| sequence.wrapping_sub(source.next);
        let place = self
            .held
            .partition_point(|held| distance(held.header.sequence) < distance(header.sequence));
        let twin = self.held.get(place);
        if twin.is_some_and(|held| held.header.sequence == header.sequence) {
            self.stats.duplicates += 1;
            return Placement::Duplicate;
        }
        self.held
            .insert(place, HeldPacket::new(now, header, payload, false));
        Placement::Held
    }

    fn handle_stranger(&mut self, now: Instant, header: &RtpHeader, payload: &[u8]) -> Placement {
        let packet = HeldPacket::new(now, header, payload, true);
        let Some(candidate) = self.candidate.take() else {
            self.candidate = Some(packet);
            return Placement::Held;
        };
        let next = candidate.header.sequence.wrapping_add(1);
        if candidate.header.ssrc != header.ssrc || next != header.sequence {
            let again = candidate.header == *header;
            self.stats.duplicates += u64::from(again);
            self.stats.late += u64::from(!again);
            self.candidate = Some(packet);
            return Placement::Held;
        }
        self.release_held();
        self.switch_to(&candidate.header);
        if let Some(source) = &mut self.source {
            source.advance(header);
        }
        self.released.push(candidate);
        self.released.push(HeldPacket {
            new_source: false,
            ..packet
        });
        Placement::Held
    }

    /// What the old source left behind a gap comes before the new one.
    fn release_held(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        for mut packet in self.held.drain(..) {
            packet.lost = source.advance(&packet.header);
            self.stats.lost += u64::from(packet.lost);
            self.released.push(packet);
        }
    }

    fn switch_to(&mut self, header: &RtpHeader) {
        self.source = Some(Source::starting_after(header));
        self.stats.resyncs += 1;
    }
}

impl HeldPacket {
    fn new(arrived: Instant, header: &RtpHeader, payload: &[u8], new_source: bool) -> Self {
        Self {
            header: *header,
            payload: payload.to_vec(),
            lost: 0,
            new_source,
            arrived,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(sequence: u16) -> RtpHeader {
        RtpHeader {
            sequence,
            timestamp: u32::from(sequence) * 160,
            ssrc: 7,
            ..RtpHeader::default()
        }
    }

    /// Feeds sequence numbers 20 ms apart; gives what came out.
    fn order(sequences: &[u16]) -> (Vec<u16>, OrderStats) {
        order_headers(&sequences.iter().map(|s| header(*s)).collect::<Vec<_>>())
    }

    fn order_headers(headers: &[RtpHeader]) -> (Vec<u16>, OrderStats) {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        let mut now = Instant::now();
        for header in headers {
            if let Placement::Now { .. } = reorder.handle(now, header, &[]) {
                out.push(header.sequence);
            }
            while let Some(held) = reorder.poll_held(now) {
                out.push(held.header.sequence);
            }
            now += Duration::from_millis(20);
        }
        now += MAX_HOLD;
        while let Some(held) = reorder.poll_held(now) {
            out.push(held.header.sequence);
        }
        assert!(!reorder.is_holding());
        (out, reorder.stats())
    }

    #[test]
    fn in_order_and_around_the_wrap() {
        let (out, stats) = order(&[65_534, 65_535, 0, 1]);
        assert_eq!(out, [65_534, 65_535, 0, 1]);
        assert_eq!(stats, OrderStats::default());
    }

    #[test]
    fn reception_counts_wraps_and_losses() {
        let (mut reorder, now) = (Reorder::default(), Instant::now());
        assert_eq!(reorder.reception(), None);
        for sequence in [65_534, 65_535, 1, 2, 3, 4, 5] {
            reorder.handle(now, &header(sequence), &[]);
            while reorder.poll_held(now).is_some() {}
        }
        let wanted = Reception {
            ssrc: 7,
            highest: 65_536 + 5,
            expected: 8,
            received: 7,
        };
        assert_eq!(reorder.reception(), Some(wanted));
    }

    #[test]
    fn swapped_packets_are_put_right() {
        let (out, stats) = order(&[1, 3, 2, 4, 7, 6, 5, 8]);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((stats.reordered, stats.lost), (2, 0));
    }

    #[test]
    fn a_gap_is_given_up_after_three_packets_and_the_late_one_dropped() {
        let now = Instant::now();
        let mut reorder = Reorder::default();
        reorder.handle(now, &header(1), &[]);
        for sequence in [3, 4, 5] {
            assert_eq!(reorder.handle(now, &header(sequence), &[]), Placement::Held);
            assert_eq!(reorder.poll_held(now), None);
        }
        reorder.handle(now, &header(6), &[]);
        let first = reorder.poll_held(now).unwrap();
        assert_eq!((first.header.sequence, first.lost), (3, 1));
        assert_eq!(reorder.poll_held(now).unwrap().lost, 0);
        assert_eq!(reorder.handle(now, &header(2), &[]), Placement::Late);
        assert_eq!(reorder.stats().lost, 1);
    }

    #[test]
    fn a_gap_is_given_up_after_60_ms() {
        let now = Instant::now();
        let mut reorder = Reorder::default();
        reorder.handle(now, &header(1), &[]);
        reorder.handle(now, &header(3), &[]);
        assert_eq!(reorder.poll_held(now + MAX_HOLD / 2), None);
        assert_eq!(reorder.poll_held(now + MAX_HOLD).unwrap().lost, 1);
    }

    #[test]
    fn duplicates_are_dropped_also_while_held() {
        let (out, stats) = order(&[1, 1, 2, 4, 4, 3, 3, 4, 5]);
        assert_eq!(out, [1, 2, 3, 4, 5]);
        assert_eq!((stats.duplicates, stats.late), (4, 0));
    }

    #[test]
    fn a_new_source_loses_nothing_and_a_stray_packet_changes_nothing() {
        let other = |sequence| RtpHeader {
            ssrc: 8,
            ..header(sequence)
        };
        let switch = [header(1), header(2), other(900), other(901), other(902)];
        let (out, stats) = order_headers(&switch);
        assert_eq!((out, stats.resyncs), (vec![1, 2, 900, 901, 902], 1));
        let stray = [header(1), other(900), header(2), other(901), header(3)];
        let (out, stats) = order_headers(&stray);
        assert_eq!((out, stats.resyncs), (vec![1, 2, 3], 0));
        let last = [header(1), other(900)];
        assert_eq!(order_headers(&last).0, [1, 900]);
    }

    #[test]
    fn a_jump_of_the_sequence_is_a_new_source() {
        let (out, stats) = order(&[1, 2, 30_000, 30_001, 30_002]);
        assert_eq!(
            (out, stats.resyncs),
            (vec![1, 2, 30_000, 30_001, 30_002], 1)
        );
        let mut restart = [header(50), header(51), header(10), header(11)];
        restart[2].timestamp += 3_000_000;
        restart[3].timestamp += 3_000_160;
        assert_eq!(order_headers(&restart).0, [50, 51, 10, 11]);
    }

    proptest! {
        /// Whatever comes in, nothing comes out twice or out of order, and
        /// everything is accounted for.
        #[test]
        fn order_and_accounts_hold(
            start: u16, steps in proptest::collection::vec((-6..8_i16, 0..40_u64), 1..200)
        ) {
            let (mut reorder, mut now) = (Reorder::default(), Instant::now());
            let (mut out, mut next, mut fed) = (Vec::new(), start, 0_u64);
            for (offset, wait_ms) in steps {
                let sequence = next.wrapping_add_signed(offset);
                next = next.wrapping_add(1);
                fed += 1;
                let header = RtpHeader { sequence, ssrc: 7, ..RtpHeader::default() };
                if let Placement::Now { .. } = reorder.handle(now, &header, &[]) {
                    out.push(sequence);
                }
                while let Some(held) = reorder.poll_held(now) {
                    out.push(held.header.sequence);
                }
                now += Duration::from_millis(wait_ms);
                prop_assert!(reorder.held.len() <= MAX_HELD_PACKETS);
            }
            while let Some(held) = reorder.poll_held(now + MAX_HOLD) {
                out.push(held.header.sequence);
            }
            let rising = out.windows(2).all(|pair| (1..1_000).contains(&pair[1].wrapping_sub(pair[0])));
            prop_assert!(rising, "{:?}", out);
            let stats = reorder.stats();
            prop_assert_eq!(out.len() as u64 + stats.duplicates + stats.late, fed);
            let span = u64::from(out[out.len() - 1].wrapping_sub(out[0])) + 1;
            prop_assert_eq!(out.len() as u64 + stats.lost, span);
        }
    }
}
