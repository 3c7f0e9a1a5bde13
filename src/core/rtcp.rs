//! RTCP sender and receiver reports (RFC 3550 6.4) with the CNAME that every
//! compound packet needs, and what the caller's reports say about our stream.
//!
//! NTP times are the caller's affair: 32.32 fixed point, passed in. Leaves out:
//! when a report is due (6.2), SDES items but CNAME, APP, extended reports.

use std::time::Duration;

use super::reorder::Reception;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const CNAME: u8 = 1;
const BLOCK_BYTES: usize = 24;
const SENDER_INFO_BYTES: usize = 20;

/// What we have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// NTP time of the report, 32.32 fixed point.
    pub ntp: u64,
    /// The same instant on our RTP clock.
    pub rtp_timestamp: u32,
    /// RTP packets sent.
    pub packets: u32,
    /// Payload bytes sent.
    pub octets: u32,
}

/// How a source is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source it is about.
    pub ssrc: u32,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the beginning; negative where duplicates outnumber losses. 24 bits.
    pub lost: i32,
    /// Highest sequence number, extended by the wraps.
    pub highest: u32,
    /// In RTP clock units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report; 0 for none.
    pub last_report: u32,
    /// Time since that report came, in 1/65536 s.
    pub since_report: u32,
}

impl ReportBlock {
    /// The round trip, from when (middle 32 bits of NTP) this block came in;
    /// `None` when it answers no report of ours.
    #[must_use]
    pub fn round_trip(&self, arrived_ntp: u32) -> Option<Duration> {
        let ticks = arrived_ntp
            .wrapping_sub(self.last_report)
            .wrapping_sub(self.since_report);
        // Beyond half the circle the clocks disagree; that is no round trip.
        let valid = self.last_report != 0 && ticks < 1 << 31;
        valid.then(|| Duration::from_secs_f64(f64::from(ticks) / 65_536.0))
    }

    fn to_bytes(self) -> [u8; BLOCK_BYTES] {
        let lost = self.lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        let words = [
            self.ssrc,
            u32::from(self.fraction_lost) << 24 | lost,
            self.highest,
            self.jitter,
            self.last_report,
            self.since_report,
        ];
        let mut bytes = [0; BLOCK_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| word_at(bytes, 4 * index);
        let losses = word(1)?;
        Some(Self {
            ssrc: word(0)?,
            fraction_lost: (losses >> 24) as u8,
            // Shifted up and back to carry the sign of 24 bits.
            lost: (losses << 8) as i32 >> 8,
            highest: word(2)?,
            jitter: word(3)?,
            last_report: word(4)?,
            since_report: word(5)?,
        })
    }
}

/// Makes report blocks about the caller's stream, each covering the time since
/// the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reporter {
    before: Option<Reception>,
    /// Middle 32 bits of NTP of the caller's last sender report, and of when it came.
    last_report: Option<(u32, u32)>,
}

impl Reporter {
    /// A sender report of the caller came in.
    pub fn handle_sender(&mut self, info: &SenderInfo, arrived_ntp: u64) {
        self.last_report = Some((middle(info.ntp), middle(arrived_ntp)));
    }

    /// The block to send now.
    pub fn report(&mut self, counts: Reception, jitter: u32, now_ntp: u64) -> ReportBlock {
        let before = self.before.replace(counts);
        let before = before.filter(|before| before.ssrc == counts.ssrc);
        let (expected, received) = before.map_or((counts.expected, counts.received), |before| {
            (
                counts.expected.wrapping_sub(before.expected),
                counts.received.wrapping_sub(before.received),
            )
        });
        let lost = u64::from(expected.saturating_sub(received)) * 256;
        let (last_report, since_report) = self.last_report.map_or((0, 0), |(sent, arrived)| {
            (sent, middle(now_ntp).wrapping_sub(arrived))
        });
        ReportBlock {
            ssrc: counts.ssrc,
            fraction_lost: (lost / u64::from(expected.max(1))).min(255) as u8,
            lost: counts.expected.wrapping_sub(counts.received) as i32,
            highest: counts.highest,
            jitter,
            last_report,
            since_report,
        }
    }
}

/// Appends a compound packet: a sender report (or a receiver report where
/// nothing was sent), then the CNAME, cut at 255 bytes.
pub fn write_report(
    ssrc: u32,
    sent: Option<&SenderInfo>,
    block: Option<&ReportBlock>,
    cname: &str,
    out: &mut Vec<u8>,
) {
    let kind = sent.map_or(RECEIVER_REPORT, |_| SENDER_REPORT);
    let start = begin(u8::from(block.is_some()), kind, ssrc, out);
    if let Some(info) = sent {
        out.extend_from_slice(&info.ntp.to_be_bytes());
        for word in [info.rtp_timestamp, info.packets, info.octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    if let Some(block) = block {
        out.extend_from_slice(&block.to_bytes());
    }
    finish(start, out);
    let start = begin(1, SOURCE_DESCRIPTION, ssrc, out);
    let name = &cname.as_bytes()[..cname.len().min(255)];
    out.extend_from_slice(&[CNAME, name.len() as u8]);
    out.extend_from_slice(name);
    // At least one zero ends the items, up to the next word.
    let end = start + (out.len() - start + 1).next_multiple_of(4);
    out.resize(end, 0);
    finish(start, out);
}

/// Begins a packet of so many entries; gives its start.
fn begin(count: u8, kind: u8, ssrc: u32, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count, kind, 0, 0]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    start
}

/// Writes the length of the packet that began at `start`.
fn finish(start: usize, out: &mut [u8]) {
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

/// What a compound packet says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Its sender report, with the sender's SSRC.
    pub sender: Option<(u32, SenderInfo)>,
    /// Its report blocks; at most 31 for each report.
    pub blocks: Vec<ReportBlock>,
    /// Whether a source says goodbye.
    pub goodbye: bool,
}

/// Reads a compound packet as far as it is well formed; `None` when it does not
/// begin with an RTCP report.
#[must_use]
pub fn parse(mut packet: &[u8]) -> Option<Reports> {
    let mut reports = Reports::default();
    let first = packet.get(1)?;
    if packet[0] >> 6 != 2 || !matches!(*first, SENDER_REPORT | RECEIVER_REPORT) {
        return None;
    }
    while let Some(([flags, kind, high, low], _)) = packet.split_first_chunk::<4>() {
        let length = 4 + 4 * usize::from(u16::from_be_bytes([*high, *low]));
        let Some((body, rest)) = packet.split_at_checked(length) else {
            break;
        };
        let body = &body[4..];
        match *kind {
            SENDER_REPORT => {
                reports.sender = parse_sender(body);
                let blocks = body.get(4 + SENDER_INFO_BYTES..).unwrap_or_default();
                parse_blocks(flags & 0x1F, blocks, &mut reports.blocks);
            }
            RECEIVER_REPORT => {
                let blocks = body.get(4..).unwrap_or_default();
                parse_blocks(flags & 0x1F, blocks, &mut reports.blocks);
            }
            GOODBYE => reports.goodbye = true,
            _ => {}
        }
        packet = rest;
    }
    Some(reports)
}

fn parse_sender(body: &[u8]) -> Option<(u32, SenderInfo)> {
    let (high, low) = (word_at(body, 4)?, word_at(body, 8)?);
    let info = SenderInfo {
        ntp: u64::from(high) << 32 | u64::from(low),
        rtp_timestamp: word_at(body, 12)?,
        packets: word_at(body, 16)?,
        octets: word_at(body, 20)?,
    };
    Some((word_at(body, 0)?, info))
}

fn parse_blocks(count: u8, bytes: &[u8], blocks: &mut Vec<ReportBlock>) {
    let blocks_here = bytes.chunks_exact(BLOCK_BYTES).take(usize::from(count));
    blocks.extend(blocks_here.filter_map(ReportBlock::parse));
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}

/// The middle 32 bits of an NTP time.
fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1 << 32;

    fn counts(expected: u32, received: u32) -> Reception {
        Reception {
            ssrc: 9,
            highest: 1_000 + expected,
            expected,
            received,
        }
    }

    #[test]
    fn losses_are_counted_since_the_report_before_and_in_all() {
        let mut reporter = Reporter::default();
        let first = reporter.report(counts(100, 75), 8, 0);
        assert_eq!((first.fraction_lost, first.lost, first.jitter), (64, 25, 8));
        let second = reporter.report(counts(200, 175), 8, 0);
        assert_eq!((second.fraction_lost, second.lost), (0, 25));
        let all = Reporter::default().report(counts(256, 0), 0, 0);
        assert_eq!(all.fraction_lost, 255);
    }

    #[test]
    fn the_round_trip_is_what_the_network_took() {
        let (sent, mut caller) = (5_000 * SECOND, Reporter::default());
        let info = SenderInfo {
            ntp: sent,
            ..SenderInfo::default()
        };
        // 30 ms there, 2 s until the caller reports, 30 ms back.
        let there = sent + SECOND * 30 / 1_000;
        caller.handle_sender(&info, there);
        let block = caller.report(counts(1, 1), 0, there + 2 * SECOND);
        let back = middle(there + 2 * SECOND + SECOND * 30 / 1_000);
        let took = block.round_trip(back).unwrap();
        assert!((59..=61).contains(&took.as_millis()), "{took:?}");
        assert_eq!(ReportBlock::default().round_trip(back), None);
    }

    #[test]
    fn a_goodbye_is_seen_and_other_packets_refused() {
        let mut packet = Vec::new();
        write_report(1, None, None, "a", &mut packet);
        assert_eq!(parse(&packet), Some(Reports::default()));
        packet.extend_from_slice(&[0x81, GOODBYE, 0, 1, 0, 0, 0, 1]);
        assert!(parse(&packet).unwrap().goodbye);
        assert_eq!(parse(&packet[8..]), None);
        assert_eq!(parse(&[]), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), report: bool) {
            if report && bytes.len() > 4 {
                bytes[..3].copy_from_slice(&[0x9F, SENDER_REPORT, 0]);
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_back(
            ssrc: u32, ntp: u64, numbers: [u32; 7], fraction_lost: u8,
            lost in -0x80_0000..0x7F_FFFF, sends: bool, cname in ".{0,300}",
        ) {
            let [rtp_timestamp, packets, octets, highest, jitter, last_report, since_report] = numbers;
            let info = SenderInfo { ntp, rtp_timestamp, packets, octets };
            let block = ReportBlock {
                ssrc: !ssrc, fraction_lost, lost, highest, jitter, last_report, since_report,
            };
            let mut packet = Vec::new();
            write_report(ssrc, sends.then_some(&info), Some(&block), &cname, &mut packet);
            prop_assert_eq!(packet.len() % 4, 0);
            let sender = sends.then_some((ssrc, info));
            let wanted = Reports { sender, blocks: vec![block], goodbye: false };
            prop_assert_eq!(parse(&packet), Some(wanted));
        }
    }
}
