//! What a leg has sent and received, at one place and against one clock: for the
//! log, the record, the metrics, and for RTCP.
//!
//! A sender report needs [`LegStats::sent`] and [`LegStats::sent_at`], a receiver
//! report [`LegStats::reception`]; both are of the moment [`LegStats::at`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::clock::MediaTime;
use super::downlink::DownlinkStats;
use super::downlink_handle::DownlinkHandle;
use super::reorder::Reception;
use super::uplink::{Uplink, UplinkStats};

/// Both directions of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegStats {
    /// When this was read.
    pub at: MediaTime,
    /// From the other side to us.
    pub received: UplinkStats,
    /// What has come from its current source, and the jitter in RTP clock units.
    pub reception: Option<(Reception, u32)>,
    /// From us to the other side.
    pub sent: DownlinkStats,
    /// The SSRC of what we send.
    pub ssrc: u32,
    /// When the latest packet was due.
    pub sent_at: Option<SentAt>,
}

impl LegStats {
    /// Reads both halves. Locks of theirs are the caller's business: the uplink's
    /// first, as where two legs are joined.
    #[must_use]
    pub fn of(now: Instant, uplink: &Uplink, downlink: &DownlinkHandle) -> Self {
        Self {
            at: uplink.clock().at(now),
            received: uplink.stats(),
            reception: uplink.reception(),
            sent: downlink.stats(),
            ssrc: downlink.ssrc(),
            sent_at: downlink.sent_at(),
        }
    }
}

/// One moment by the clock of the RTP stream and by that of the leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentAt {
    /// The RTP timestamp of the frame.
    pub rtp_timestamp: u32,
    /// When it was due; the upper half of its 64 bits is lost after 149 hours.
    pub at: MediaTime,
}

/// The counters of the pacer's half of a downlink, which writes them; anybody may
/// read them, without a lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    packets: AtomicU64,
    payload_bytes: AtomicU64,
    worker_frames: AtomicU64,
    underruns: AtomicU64,
    trimmed_frames: AtomicU64,
    skipped_frames: AtomicU64,
    encode_errors: AtomicU64,
    /// RTP timestamp and media time of the latest tick, 32 bits of each, so that
    /// they are always of the same one.
    sent_at: AtomicU64,
}

impl Counters {
    pub(super) fn publish(&self, stats: &DownlinkStats) {
        let set = |counter: &AtomicU64, value| counter.store(value, Ordering::Relaxed);
        set(&self.packets, stats.packets);
        set(&self.payload_bytes, stats.payload_bytes);
        set(&self.worker_frames, stats.worker_frames);
        set(&self.underruns, stats.underruns);
        set(&self.trimmed_frames, stats.trimmed_frames);
        set(&self.skipped_frames, stats.skipped_frames);
        set(&self.encode_errors, stats.encode_errors);
    }

    /// All but what the handle counts itself.
    pub(super) fn read(&self) -> DownlinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DownlinkStats {
            packets: get(&self.packets),
            payload_bytes: get(&self.payload_bytes),
            worker_frames: get(&self.worker_frames),
            underruns: get(&self.underruns),
            trimmed_frames: get(&self.trimmed_frames),
            skipped_frames: get(&self.skipped_frames),
            encode_errors: get(&self.encode_errors),
            ..DownlinkStats::default()
        }
    }

    pub(super) fn publish_time(&self, sent: SentAt) {
        let packed = u64::from(sent.rtp_timestamp) << 32 | sent.at.samples & 0xFFFF_FFFF;
        self.sent_at.store(packed, Ordering::Relaxed);
    }

    /// `None` before the first tick.
    pub(super) fn sent_at(&self) -> Option<SentAt> {
        let packed = self.sent_at.load(Ordering::Relaxed);
        (packed > 0).then_some(SentAt {
            rtp_timestamp: (packed >> 32) as u32,
            at: MediaTime {
                samples: packed & 0xFFFF_FFFF,
            },
        })
    }
}
