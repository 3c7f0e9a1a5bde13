//! From whom a call takes RTP (symmetric RTP, RFC 4961): from where the SDP
//! said, or else from the source of the first valid packet, which is then
//! latched. Everything else is dropped, so that nobody can speak into a call
//! by guessing its port.

use std::net::SocketAddr;

/// What to do with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// From the accepted source.
    Accept,
    /// From a source that becomes the accepted one now: send there too.
    AcceptAndFollow,
    /// From elsewhere, or not valid while no source is known.
    Drop,
}

/// The accepted source of one stream.
#[derive(Clone, Debug, Default)]
pub struct SourceRule {
    announced: Option<SocketAddr>,
    latched: Option<SocketAddr>,
}

impl SourceRule {
    /// Takes the address of the peer's latest SDP; `None` when it named none
    /// (0.0.0.0, port 0). A new address forgets the latch, the same keeps it.
    pub fn announce(&mut self, address: Option<SocketAddr>) {
        if address.is_some() && address != self.announced {
            self.announced = address;
            self.latched = None;
        }
    }

    /// Judges one packet. `valid` says whether it looks like RTP of this
    /// stream: version 2 and a negotiated payload type.
    pub fn judge(&mut self, from: SocketAddr, valid: bool) -> Verdict {
        if self.latched == Some(from) {
            return Verdict::Accept;
        }
        if !valid {
            return Verdict::Drop;
        }
        // What the SDP named wins over a latch: a stranger who was first
        // cannot keep the caller out.
        if self.announced == Some(from) {
            let followed_other = self.latched.replace(from).is_some();
            return if followed_other {
                Verdict::AcceptAndFollow
            } else {
                Verdict::Accept
            };
        }
        if self.latched.is_none() {
            self.latched = Some(from);
            return Verdict::AcceptAndFollow;
        }
        Verdict::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_announced_source_is_taken_and_others_are_not() {
        let mut rule = SourceRule::default();
        rule.announce(Some(at(1)));
        assert_eq!(rule.judge(at(1), true), Verdict::Accept);
        assert_eq!(rule.judge(at(2), true), Verdict::Drop);
        assert_eq!(rule.judge(at(1), false), Verdict::Accept);
    }

    #[test]
    fn behind_nat_the_first_valid_packet_is_latched() {
        let mut rule = SourceRule::default();
        rule.announce(Some(at(1)));
        assert_eq!(rule.judge(at(2), false), Verdict::Drop);
        assert_eq!(rule.judge(at(2), true), Verdict::AcceptAndFollow);
        assert_eq!(rule.judge(at(2), true), Verdict::Accept);
        assert_eq!(rule.judge(at(3), true), Verdict::Drop);
    }

    #[test]
    fn the_announced_source_takes_over_from_a_stranger() {
        let mut rule = SourceRule::default();
        rule.announce(Some(at(1)));
        assert_eq!(rule.judge(at(9), true), Verdict::AcceptAndFollow);
        assert_eq!(rule.judge(at(1), true), Verdict::AcceptAndFollow);
        assert_eq!(rule.judge(at(9), true), Verdict::Drop);
    }

    #[test]
    fn a_new_address_in_sdp_arms_the_latch_again() {
        let mut rule = SourceRule::default();
        rule.announce(Some(at(1)));
        assert_eq!(rule.judge(at(1), true), Verdict::Accept);
        rule.announce(Some(at(1)));
        assert_eq!(rule.judge(at(5), true), Verdict::Drop);
        rule.announce(None);
        assert_eq!(rule.judge(at(5), true), Verdict::Drop);
        rule.announce(Some(at(4)));
        assert_eq!(rule.judge(at(4), true), Verdict::Accept);
        assert_eq!(rule.judge(at(1), true), Verdict::Drop);
    }

    #[test]
    fn without_an_announced_address_the_first_packet_decides() {
        let mut rule = SourceRule::default();
        assert_eq!(rule.judge(at(7), true), Verdict::AcceptAndFollow);
        assert_eq!(rule.judge(at(8), true), Verdict::Drop);
    }
}
