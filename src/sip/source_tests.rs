//! The rule on a clock of its own: who is latched, who takes over, what a new
//! SDP changes.

use super::*;

/// A rule on a clock of its own.
struct Bench {
    rule: SourceRule,
    now: Instant,
    sequence: u16,
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// The caller names `private`, which is of no use, and signals from the same
/// address that its RTP comes from.
const PRIVATE: &str = "10.0.0.5:4000";
const PUBLIC: &str = "198.51.100.7:61000";
const STRANGER: &str = "203.0.113.66:5000";

impl Bench {
    fn new(latch: Latch, announced: &str, peer: &str) -> Self {
        let mut rule = SourceRule::new(latch);
        let now = Instant::now();
        rule.note_peer(peer.parse().unwrap());
        rule.announce(now, announced.parse().ok());
        Self {
            rule,
            now,
            sequence: 100,
        }
    }

    fn behind_nat() -> Self {
        Self::new(Latch::Peer, PRIVATE, "198.51.100.7")
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn announce(&mut self, address: &str) {
        self.rule.announce(self.now, address.parse().ok());
    }

    /// The next packet of stream 7.
    fn rtp(&mut self, from: &str) -> SourceDecision {
        self.sequence += 1;
        self.rtp_of(from, 7, self.sequence)
    }

    fn rtp_of(&mut self, from: &str, ssrc: u32, sequence: u16) -> SourceDecision {
        let header = RtpHeader {
            ssrc,
            sequence,
            timestamp: u32::from(sequence) * 160,
            ..RtpHeader::default()
        };
        self.rule.judge(self.now, at(from), Some(&header))
    }

    fn junk(&mut self, from: &str) -> SourceDecision {
        self.rule.judge(self.now, at(from), None)
    }

    /// A second of speech.
    fn talk(&mut self, from: &str) {
        for _ in 0..50 {
            self.wait_ms(20);
            assert_ne!(self.rtp(from), SourceDecision::Drop);
        }
    }

    fn destination(&self) -> Option<SocketAddr> {
        self.rule.destination()
    }
}

#[test]
fn the_announced_source_is_taken_and_strangers_are_not() {
    let mut bench = Bench::new(Latch::Peer, "192.0.2.1:4000", "192.0.2.9");
    assert_eq!(
        bench.rtp(STRANGER),
        SourceDecision::Drop,
        "the first packet of all"
    );
    assert_eq!(bench.junk("192.0.2.1:4000"), SourceDecision::Drop);
    assert_eq!(bench.rtp("192.0.2.1:4000"), SourceDecision::Accept);
    assert_eq!(bench.rtp(STRANGER), SourceDecision::Drop);
    assert_eq!(
        bench.junk("192.0.2.1:4000"),
        SourceDecision::Accept,
        "counted below"
    );
}

#[test]
fn behind_nat_the_signalling_address_is_latched_and_no_stranger_ever() {
    let mut bench = Bench::behind_nat();
    for _ in 0..10 {
        assert_eq!(bench.rtp(STRANGER), SourceDecision::Drop);
    }
    assert_eq!(bench.junk(PUBLIC), SourceDecision::Drop);
    assert_eq!(bench.rtp(PUBLIC), SourceDecision::AcceptAndFollow);
    assert_eq!(bench.rtp(PUBLIC), SourceDecision::Accept);
    bench.wait_ms(60_000);
    for _ in 0..10 {
        assert_eq!(
            bench.rtp(STRANGER),
            SourceDecision::Drop,
            "after a minute of silence"
        );
    }
    assert_eq!(bench.destination(), Some(at(PUBLIC)));
}

#[test]
fn with_any_a_stranger_is_latched_until_the_caller_comes() {
    let mut bench = Bench::new(Latch::Any, PRIVATE, "198.51.100.7");
    assert_eq!(
        bench.rtp_of(STRANGER, 66, 1),
        SourceDecision::AcceptAndFollow
    );
    assert_eq!(
        bench.rtp_of("203.0.113.67:5000", 67, 1),
        SourceDecision::Drop
    );
    assert_eq!(
        bench.rtp(PUBLIC),
        SourceDecision::AcceptAndFollow,
        "the signalling"
    );
    assert_eq!(bench.rtp_of(STRANGER, 66, 2), SourceDecision::Drop);
    assert_eq!(
        bench.rtp(PRIVATE),
        SourceDecision::AcceptAndFollow,
        "the SDP"
    );
    bench.wait_ms(60_000);
    assert_eq!(bench.rtp_of(STRANGER, 66, 3), SourceDecision::Drop);
}

#[test]
fn the_announced_source_wins_over_another_of_the_peer() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    assert_eq!(bench.rtp_of(PRIVATE, 9, 1), SourceDecision::AcceptAndFollow);
    assert_eq!(bench.rtp(PUBLIC), SourceDecision::Drop);
}

#[test]
fn a_nat_that_gives_another_port_is_followed_after_a_short_silence() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    let moved = "198.51.100.7:61999";
    bench.wait_ms(100);
    assert_eq!(
        bench.rtp(moved),
        SourceDecision::Drop,
        "the old one may only jitter"
    );
    bench.wait_ms(100);
    assert_eq!(
        bench.rtp_of(moved, 8, 1),
        SourceDecision::Drop,
        "another stream"
    );
    assert_eq!(
        bench.rtp_of(moved, 7, 20_000),
        SourceDecision::Drop,
        "not its numbers"
    );
    assert_eq!(bench.rtp(moved), SourceDecision::AcceptAndFollow);
    assert_eq!(bench.destination(), Some(at(moved)));
    bench.talk(moved);
}

#[test]
fn whoever_took_over_gives_back_to_one_that_was_not_gone() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    bench.wait_ms(300);
    let other = "198.51.100.7:6";
    assert_eq!(bench.rtp(other), SourceDecision::AcceptAndFollow);
    bench.wait_ms(20);
    assert_eq!(bench.rtp(PUBLIC), SourceDecision::AcceptAndFollow);
    bench.wait_ms(20);
    assert_eq!(bench.rtp(other), SourceDecision::Drop, "once is enough");
}

#[test]
fn another_stream_of_the_peer_is_taken_after_a_longer_silence() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    bench.wait_ms(1_900);
    assert_eq!(bench.rtp_of("198.51.100.7:7", 8, 1), SourceDecision::Drop);
    bench.wait_ms(100);
    let taken = bench.rtp_of("198.51.100.7:7", 8, 2);
    assert_eq!(taken, SourceDecision::AcceptAndFollow);
}

#[test]
fn holds_and_new_ports_behind_a_nat_keep_what_was_found_out() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    for announced in [
        PRIVATE,
        "0.0.0.0",
        PRIVATE,
        "10.0.0.5:4002",
        "10.0.0.5:4004",
    ] {
        bench.announce(announced);
        assert_eq!(bench.destination(), Some(at(PUBLIC)), "{announced}");
        assert_eq!(bench.rtp(PUBLIC), SourceDecision::Accept, "{announced}");
        assert_eq!(bench.rtp(STRANGER), SourceDecision::Drop, "{announced}");
    }
    // The new port came through another one of the NAT, with another stream.
    let taken = bench.rtp_of("198.51.100.7:61002", 8, 9_000);
    assert_eq!(taken, SourceDecision::AcceptAndFollow);
    assert_eq!(bench.rtp(PUBLIC), SourceDecision::Drop);
}

#[test]
fn a_source_that_goes_on_after_new_sdp_keeps_its_place() {
    let mut bench = Bench::behind_nat();
    bench.talk(PUBLIC);
    bench.announce("10.0.0.5:4002");
    bench.talk(PUBLIC);
    assert_eq!(bench.rtp_of("198.51.100.7:6", 8, 1), SourceDecision::Drop);
}

#[test]
fn another_address_in_the_sdp_is_sent_to_at_once() {
    let mut bench = Bench::new(Latch::Peer, "192.0.2.1:4000", "192.0.2.1");
    bench.talk("192.0.2.1:4000");
    bench.announce("192.0.2.1:4002");
    assert_eq!(bench.destination(), None, "where the SDP says");
    assert_eq!(
        bench.rtp("192.0.2.1:4000"),
        SourceDecision::Accept,
        "under way"
    );
    assert_eq!(bench.destination(), None, "and not latched again for it");
    assert_eq!(bench.rtp("192.0.2.1:4002"), SourceDecision::Accept);
    assert_eq!(bench.rtp("192.0.2.1:4000"), SourceDecision::Drop);

    bench.announce("192.0.2.1:4004");
    bench.wait_ms(1_000);
    let stays = bench.rtp("192.0.2.1:4002");
    assert_eq!(
        stays,
        SourceDecision::AcceptAndFollow,
        "it was not under way"
    );
}

#[test]
fn mapped_addresses_are_what_they_map() {
    let mut bench = Bench::new(Latch::Peer, "192.0.2.1:4000", "::ffff:192.0.2.2");
    assert_eq!(bench.rtp("[::ffff:192.0.2.1]:4000"), SourceDecision::Accept);
    bench.wait_ms(200);
    let moved = bench.rtp("192.0.2.2:1");
    assert_eq!(
        moved,
        SourceDecision::AcceptAndFollow,
        "the signalling's address"
    );
}

#[test]
fn where_no_address_is_known_nobody_is_latched() {
    let header = RtpHeader::default();
    let mut rule = SourceRule::default();
    let now = Instant::now();
    let decision = rule.judge(now, at(STRANGER), Some(&header));
    assert_eq!(decision, SourceDecision::Drop);
}
