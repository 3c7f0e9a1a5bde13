//! From whom a call takes RTP, and where its own RTP goes (symmetric RTP,
//! RFC 4961). Everything else is dropped, so that nobody can speak into a call,
//! or have its audio sent to himself, by guessing its port.
//!
//! # Who may
//! - The address of the peer's SDP: always, and over whoever came before.
//! - Another port of that IP address, and any port of the address that the
//!   signalling comes from: behind a NAT the SDP names an address that nobody
//!   can reach, and RTP comes from a port that nobody could foresee. The first
//!   valid packet is latched.
//! - Anybody else only with [`Latch::Any`], and only until one of the above comes.
//!
//! # Who takes over
//! A latched source keeps its place. Another one that may send gets it
//! - after new SDP, with its first packet;
//! - when the old one has been silent for [`FOLLOW_AFTER`] and the new one goes on
//!   with its stream (a NAT has given the caller another port); the old one gets
//!   its place back if it was not gone after all;
//! - when the old one has been silent for [`RELEARN_AFTER`], with another stream.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::core::rtp::RtpHeader;

/// Silence of a source after which the same stream may come from elsewhere:
/// ten packets, more than jitter, less than a syllable.
pub const FOLLOW_AFTER: Duration = Duration::from_millis(200);
/// Silence of a source after which another stream may take its place.
pub const RELEARN_AFTER: Duration = Duration::from_secs(2);
/// How long after new SDP packets to the former address may still be under way.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// A step of the sequence number beyond this is another stream (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A step back beyond this is another stream (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;
/// The fastest RTP clock that is negotiated.
const FASTEST_CLOCK_HZ: u64 = 48_000;
/// How far a timestamp may be from where the clock says that it is.
const TIMESTAMP_SLACK: Duration = Duration::from_secs(10);

/// Who may be latched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latch {
    /// The SDP's address and the one that the signalling comes from.
    #[default]
    Peer,
    /// Anybody who is first: for callers whose RTP comes from neither, behind
    /// proxies that leave the SDP as it is.
    Any,
}

/// What to do with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDecision {
    /// From the accepted source.
    Accept,
    /// From a source that becomes the accepted one now: send there too.
    AcceptAndFollow,
    /// From elsewhere, or not valid while no source is known.
    Drop,
}

/// By what right a packet's sender may be a source; the higher one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    None,
    /// The IP address of the SDP or of the signalling.
    Peer,
    /// Address and port of the SDP.
    Announced,
}

/// A source, and how far its stream has come.
#[derive(Clone, Copy, Debug)]
struct Source {
    address: SocketAddr,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    heard: Instant,
}

/// The accepted source of one stream.
#[derive(Clone, Debug, Default)]
pub struct SourceRule {
    latch: Latch,
    announced: Option<SocketAddr>,
    peer: Option<IpAddr>,
    current: Option<Source>,
    /// When the SDP changed: who may send is taken at once, as long as the source
    /// of before does not just go on.
    armed: Option<Instant>,
    /// Whom the current source has replaced, because he was silent.
    displaced: Option<(SocketAddr, u32)>,
    /// The source before the latest SDP, and when that came.
    former: Option<(SocketAddr, Instant)>,
}

impl SourceRule {
    /// A rule that knows nobody yet.
    #[must_use]
    pub fn new(latch: Latch) -> Self {
        Self {
            latch,
            ..Self::default()
        }
    }

    /// Takes the IP address that the peer's signalling comes from.
    pub fn note_peer(&mut self, address: IpAddr) {
        self.peer = Some(address.to_canonical());
    }

    /// Takes the address of the peer's latest SDP; `None` when it named none
    /// (0.0.0.0, port 0), which is a hold and changes nothing.
    pub fn announce(&mut self, now: Instant, address: Option<SocketAddr>) {
        let address = address.map(canonical);
        if address.is_none() || address == self.announced {
            return;
        }
        let before = std::mem::replace(&mut self.announced, address);
        self.armed = Some(now);
        self.displaced = None;
        let Some(current) = self.current else { return };
        let ip = |address: Option<SocketAddr>| address.map(|address| address.ip());
        // An SDP of a caller behind a NAT was of no use before, and the next one
        // of the same host is of none either: what was found out stays.
        let is_behind_nat = Some(current.address) != before && ip(before) == ip(address);
        if !is_behind_nat {
            self.former = Some((current.address, now));
            self.current = None;
        }
    }

    /// Where to send, when it is not where the SDP says.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        self.current.map(|source| source.address)
    }

    /// Judges one packet. `header` is that of a valid RTP packet of this stream:
    /// complete, of a negotiated payload type; `None` for any other.
    pub fn judge(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: Option<&RtpHeader>,
    ) -> SourceDecision {
        let from = canonical(from);
        if let Some(current) = &mut self.current
            && current.address == from
        {
            if let Some(header) = header {
                *current = Source::new(now, from, header);
            }
            self.armed = self.armed.filter(|since| is_recent(now, *since));
            return SourceDecision::Accept;
        }
        let Some(header) = header else {
            return SourceDecision::Drop;
        };
        if self.is_under_way(now, from) {
            return SourceDecision::Accept;
        }
        if !self.may_take_over(now, from, header) {
            return SourceDecision::Drop;
        }
        self.switch_to(Source::new(now, from, header))
    }

    /// Sent to the former address before the latest SDP was known.
    fn is_under_way(&self, now: Instant, from: SocketAddr) -> bool {
        let former = self.former.filter(|_| self.current.is_none());
        former.is_some_and(|(address, since)| {
            address == from && self.right_of(from) != Right::Announced && is_recent(now, since)
        })
    }

    fn may_take_over(&self, now: Instant, from: SocketAddr, header: &RtpHeader) -> bool {
        let right = self.right_of(from);
        let Some(current) = &self.current else {
            return right > Right::None || self.latch == Latch::Any;
        };
        let goes_on = current.goes_on_with(now, header);
        let same_host = from.ip() == current.address.ip();
        if right == Right::None && !same_host && !(self.latch == Latch::Any && goes_on) {
            return false;
        }
        let held_by = self.right_of(current.address);
        if right > held_by || (self.armed.is_some() && right == held_by) {
            return true;
        }
        let silent = now.saturating_duration_since(current.heard);
        self.displaced == Some((from, header.ssrc))
            || (goes_on && silent >= FOLLOW_AFTER)
            || (right > Right::None && silent >= RELEARN_AFTER)
    }

    fn switch_to(&mut self, source: Source) -> SourceDecision {
        let won_back = self.displaced == Some((source.address, source.ssrc));
        let right = self.right_of(source.address);
        let only_silent = |replaced: &Source| {
            self.armed.is_none() && !won_back && right <= self.right_of(replaced.address)
        };
        self.displaced = self
            .current
            .filter(only_silent)
            .map(|replaced| (replaced.address, replaced.ssrc));
        let replaced = self.current.replace(source);
        self.armed = None;
        self.former = None;
        if replaced.is_none() && self.announced == Some(source.address) {
            return SourceDecision::Accept;
        }
        SourceDecision::AcceptAndFollow
    }

    fn right_of(&self, from: SocketAddr) -> Right {
        if self.announced == Some(from) {
            return Right::Announced;
        }
        let announced = self.announced.map(|announced| announced.ip());
        if [announced, self.peer].contains(&Some(from.ip())) {
            Right::Peer
        } else {
            Right::None
        }
    }
}

impl Source {
    fn new(now: Instant, address: SocketAddr, header: &RtpHeader) -> Self {
        Self {
            address,
            ssrc: header.ssrc,
            sequence: header.sequence,
            timestamp: header.timestamp,
            heard: now,
        }
    }

    /// Whether a packet is of the same stream, as far as its numbers tell.
    fn goes_on_with(&self, now: Instant, header: &RtpHeader) -> bool {
        let ahead = header.sequence.wrapping_sub(self.sequence);
        let behind = self.sequence.wrapping_sub(header.sequence);
        let clock = |time: Duration| {
            let units = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            units.saturating_mul(FASTEST_CLOCK_HZ / 1_000)
        };
        let slack = clock(TIMESTAMP_SLACK);
        let passed = clock(now.saturating_duration_since(self.heard));
        let step = u64::from(header.timestamp.wrapping_sub(self.timestamp));
        let back = u64::from(self.timestamp.wrapping_sub(header.timestamp));
        header.ssrc == self.ssrc
            && (ahead <= MAX_DROPOUT || behind <= MAX_MISORDER)
            && (step <= passed.saturating_add(slack) || back <= slack)
    }
}

/// Whether packets may still be under way that were sent before that.
fn is_recent(now: Instant, since: Instant) -> bool {
    now.saturating_duration_since(since) < UNDER_WAY
}

/// An IPv4 address that came through an IPv6 socket is the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
