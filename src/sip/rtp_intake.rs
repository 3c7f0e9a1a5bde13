//! What one leg takes from the network: valid RTP of a negotiated payload type,
//! from its source, no more than a caller can mean.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::source::{Latch, SourceDecision, SourceRule};
use crate::core::rtp::RtpHeader;

/// The longest packet that can make its sender a source: what fits an Ethernet.
const MAX_PACKET_BYTES: usize = 1_500;
/// From each other in the long run: 200 packets a second, four times as many as
/// phones send.
const FLOOD_SPACING: Duration = Duration::from_millis(5);
/// So much may come at once, after a stall of the network or of this process:
/// 400 packets.
const FLOOD_BURST: Duration = Duration::from_secs(2);
/// Comfort noise (RFC 3389), and the type it had in RFC 1890.
const COMFORT_NOISE_TYPES: [u8; 2] = [13, 19];
/// PCMU and PCMA (RFC 3551): whoever agreed on one may send the other.
const G711_TYPES: [u8; 2] = [0, 8];

/// A set of RTP payload types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadTypes(u128);

impl PayloadTypes {
    /// With one more, of 7 bits.
    #[must_use]
    pub fn with(self, payload_type: u8) -> Self {
        Self(self.0 | 1 << (payload_type & 0x7f))
    }

    /// With all that G.711 callers send: PCMU, PCMA and comfort noise.
    #[must_use]
    pub fn with_g711(self) -> Self {
        let types = G711_TYPES.into_iter().chain(COMFORT_NOISE_TYPES);
        types.fold(self, Self::with)
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(self, payload_type: u8) -> bool {
        self.0 >> (payload_type & 0x7f) & 1 == 1
    }
}

/// What to do with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The leg's.
    Take,
    /// From another source, or no RTP.
    Foreign,
    /// One too many from its source. `first` of this leg?
    Thinned {
        /// Whether the leg had none before.
        first: bool,
    },
}

/// Judges each packet of one leg: its source, its form and its rate.
#[derive(Clone, Debug, Default)]
pub struct RtpIntake {
    source: SourceRule,
    types: PayloadTypes,
    flood: FloodGuard,
    thinned: bool,
}

impl RtpIntake {
    /// Takes nothing before the first SDP.
    #[must_use]
    pub fn new(latch: Latch) -> Self {
        Self {
            source: SourceRule::new(latch),
            ..Self::default()
        }
    }

    /// Takes the IP address that the peer's signalling comes from.
    pub fn note_peer(&mut self, address: IpAddr) {
        self.source.note_peer(address);
    }

    /// Takes what new SDP says: where RTP is to come from, `None` where it names
    /// no address, and in which payload types.
    pub fn expect(&mut self, now: Instant, from: Option<SocketAddr>, types: PayloadTypes) {
        self.source.announce(now, from);
        self.types = types;
    }

    /// Where to send, when it is not where the SDP says.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        self.source.destination()
    }

    /// Judges a packet, and says whether its source is where to send from now
    /// on. `from` is `None` where somebody else vouches for the source (ICE).
    pub fn judge(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        packet: &[u8],
    ) -> (Judged, bool) {
        let parsed = RtpHeader::parse(packet);
        let is_rtp = packet.len() >= crate::core::rtp::HEADER_BYTES && packet[0] >> 6 == 2;
        let valid = parsed.filter(|(header, payload)| {
            self.types.contains(header.payload_type)
                && !payload.is_empty()
                && packet.len() <= MAX_PACKET_BYTES
        });
        let header = valid.as_ref().map(|(header, _)| header);
        let decision = match from {
            _ if !is_rtp => SourceDecision::Drop,
            Some(from) => self.source.judge(now, from, header),
            None => SourceDecision::Accept,
        };
        if decision == SourceDecision::Drop {
            return (Judged::Foreign, false);
        }
        let follow = decision == SourceDecision::AcceptAndFollow;
        if self.flood.admits(now) {
            return (Judged::Take, follow);
        }
        let first = !std::mem::replace(&mut self.thinned, true);
        (Judged::Thinned { first }, follow)
    }
}

/// Lets 200 packets a second through in the long run, and short bursts.
#[derive(Clone, Debug, Default)]
struct FloodGuard {
    /// When everything let through so far would have come at the long-run rate.
    paid_until: Option<Instant>,
}

impl FloodGuard {
    fn admits(&mut self, now: Instant) -> bool {
        let from = self.paid_until.map_or(now, |until| until.max(now));
        let admitted = from.saturating_duration_since(now) < FLOOD_BURST;
        if admitted {
            self.paid_until = Some(from + FLOOD_SPACING);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: ([u8; 4], u16) = ([192, 0, 2, 1], 4_000);

    fn intake(now: Instant) -> RtpIntake {
        let mut intake = RtpIntake::new(Latch::Peer);
        let types = PayloadTypes::default().with_g711().with(101);
        intake.expect(now, Some(CALLER.into()), types);
        intake
    }

    /// 20 ms of PCMU with another first byte.
    fn packet(first: u8) -> Vec<u8> {
        let mut packet = vec![first, 0];
        packet.resize(172, 0x7f);
        packet
    }

    fn judge(intake: &mut RtpIntake, packet: &[u8]) -> Judged {
        let from = Some(SocketAddr::from(CALLER));
        intake.judge(Instant::now(), from, packet).0
    }

    #[test]
    fn only_whole_rtp_of_a_negotiated_type_makes_a_source() {
        let mut extension = packet(0x90);
        extension[14..16].copy_from_slice(&[0xff, 0xff]);
        let mut padding = packet(0xb0);
        padding[171] = 0xff;
        let mut other_type = packet(0x80);
        other_type[1] = 97;
        let mut huge = packet(0x80);
        huge.resize(MAX_PACKET_BYTES + 1, 0);
        let bad = [
            packet(0x8f)[..40].to_vec(),
            extension,
            padding,
            other_type,
            huge,
            packet(0x00),
            packet(0x80)[..12].to_vec(),
            vec![0x80; 8],
            Vec::new(),
        ];
        let mut intake = intake(Instant::now());
        for packet in &bad {
            assert_eq!(judge(&mut intake, packet), Judged::Foreign, "{packet:?}");
            assert_eq!(intake.destination(), None);
        }
        assert_eq!(judge(&mut intake, &packet(0x80)), Judged::Take);
        assert_eq!(intake.destination(), Some(CALLER.into()));
        assert_eq!(judge(&mut intake, &packet(0x00)), Judged::Foreign, "no RTP");
    }

    #[test]
    fn every_type_of_g711_and_the_event_is_taken_first() {
        for payload_type in [0, 8, 13, 101, 0x80 | 8] {
            let mut first = packet(0x80);
            first[1] = payload_type;
            let mut intake = intake(Instant::now());
            assert_eq!(judge(&mut intake, &first), Judged::Take, "{payload_type}");
        }
    }

    #[test]
    fn a_flood_is_thinned_and_a_burst_is_not() {
        let start = Instant::now();
        let count = |per_second: u32, seconds: u32| {
            let mut intake = intake(start);
            let mut firsts = 0;
            let taken = (0..per_second * seconds).filter(|at| {
                let now = start + Duration::from_secs(1) * *at / per_second;
                let from = Some(SocketAddr::from(CALLER));
                let judged = intake.judge(now, from, &packet(0x80)).0;
                firsts += u32::from(judged == Judged::Thinned { first: true });
                judged == Judged::Take
            });
            (taken.count(), firsts)
        };
        assert_eq!(count(200, 60), (12_000, 0));
        let (taken, firsts) = count(1_000, 60);
        assert!((12_000..=12_401).contains(&taken), "{taken}");
        assert_eq!(firsts, 1);
        let mut stalled = FloodGuard::default();
        assert_eq!((0..500).filter(|_| stalled.admits(start)).count(), 400);
    }
}
