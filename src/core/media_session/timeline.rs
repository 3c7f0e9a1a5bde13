//! The clocks of the uplink: where an RTP timestamp belongs in the stream, how far
//! the wall clock is, and how much the packets jitter. What they are for is
//! told in `uplink`.

use std::time::{Duration, Instant};

use super::playout::{BYTES_PER_MS, FRAME_BYTES};
use super::replay_buffer::KEPT_MS;

/// Ticks without RTP after which silence is sent.
const PAUSE: Duration = Duration::from_millis(300);
/// A longer time between two ticks counts as this.
const MAX_TICK: Duration = Duration::from_millis(100);
/// After so many packets on time nothing is left to take back.
const SETTLED_PACKETS: u32 = 50;

/// Where packets belong, and how far the wall clock is.
#[derive(Debug, Default)]
pub struct Timeline {
    /// When position 0 was, by the wall clock.
    zero: Option<Instant>,
    /// An RTP timestamp and its position.
    anchor: Option<(u32, u64)>,
    /// Samples in the last packet.
    pub packet_samples: u32,
    last_tick: Option<Instant>,
    /// Ticks observed since the last packet.
    idle: Duration,
    /// Silence put in by ticks since the last packet: a pause, presumably.
    presumed: u64,
    /// Silence put in where there was no pause, not yet taken back.
    overfill: u64,
    /// Packets since the stream was last ahead of the wall clock.
    on_time: u32,
}

impl Timeline {
    /// Timestamps from here on have nothing to do with those before.
    pub fn forget_source(&mut self) {
        self.anchor = None;
    }

    /// This timestamp belongs to this position.
    pub fn anchor(&mut self, timestamp: u32, position: u64) {
        self.anchor = Some((timestamp, position));
    }

    /// The position of an RTP timestamp; `None` with no source, or before its anchor.
    pub fn place(&self, timestamp: u32, clock_per_sample: u32) -> Option<u64> {
        let (anchor, position) = self.anchor?;
        let ahead = timestamp.wrapping_sub(anchor);
        // Half of the circle is ahead, the other half behind.
        (ahead < 1 << 31).then(|| position + u64::from(ahead / clock_per_sample))
    }

    /// A packet tells how much of the presumed pause was none: what it overlaps.
    pub fn settle_presumed(&mut self, place: u64, end: u64) {
        let overlap = end.saturating_sub(place);
        let none = overlap.min(std::mem::take(&mut self.presumed));
        if none > 0 {
            self.overfill += none;
            self.on_time = 0;
        }
    }

    /// Whether there is silence to take back.
    pub fn has_surplus(&self) -> bool {
        self.overfill > 0
    }

    /// A packet was put in and ends at `end`; whether to leave it out again,
    /// because it is quiet and the stream is ahead of the wall clock.
    pub fn trim_overfill(&mut self, now: Instant, end: u64, samples: u32, quiet: bool) -> bool {
        let samples = u64::from(samples);
        if end < self.wall(now) + 2 * samples {
            self.on_time += 1;
            if self.on_time == SETTLED_PACKETS {
                self.overfill = 0;
            }
            return false;
        }
        self.on_time = 0;
        let taken_back = quiet && self.overfill >= samples;
        self.overfill -= if taken_back { samples } else { 0 };
        taken_back
    }

    /// When position 0 was; `None` before anything has come.
    pub fn zero(&self) -> Option<Instant> {
        self.zero
    }

    /// The position where the stream should be.
    pub fn wall(&self, now: Instant) -> u64 {
        self.zero.map_or(0, |zero| {
            let passed = now.saturating_duration_since(zero).as_micros();
            u64::try_from(passed).unwrap_or(0) * BYTES_PER_MS / 1_000
        })
    }

    /// A packet goes in at `end`: the stream is alive.
    pub fn handle_audio(&mut self, now: Instant, end: u64) {
        self.idle = Duration::ZERO;
        if end == 0 {
            self.zero = Some(now);
        }
    }

    /// Whether the last tick is too long ago.
    pub fn is_stalled(&self, now: Instant) -> bool {
        let since = |last| now.saturating_duration_since(last);
        self.last_tick.is_some_and(|last| since(last) > MAX_TICK)
    }

    /// A tick; gives the position up to which a pause is to be filled.
    pub fn handle_tick(&mut self, now: Instant, end: u64) -> u64 {
        let last = self.last_tick.replace(now).unwrap_or(now);
        self.idle += now.saturating_duration_since(last).min(MAX_TICK);
        self.zero.get_or_insert(now);
        if self.idle < PAUSE {
            return end;
        }
        let behind = self.wall(now).saturating_sub(end);
        let kept = KEPT_MS * BYTES_PER_MS;
        if behind > kept
            && let Some(zero) = &mut self.zero
        {
            // The process slept: hours of silence are of no use to anybody.
            *zero += Duration::from_millis((behind - kept) / BYTES_PER_MS);
        }
        let frame = FRAME_BYTES as u64;
        let pause = behind.min(kept) / frame * frame;
        self.presumed += pause;
        end + pause
    }
}

/// Interarrival jitter (RFC 3550 A.8).
#[derive(Debug, Default)]
pub struct Jitter {
    base: Option<Instant>,
    transit: Option<u32>,
    /// In RTP clock units, times 16.
    scaled: u64,
}

impl Jitter {
    /// A packet of the stream came in.
    pub fn handle(&mut self, arrived: Instant, timestamp: u32, clock_hz: u32) {
        let base = *self.base.get_or_insert(arrived);
        let passed = arrived.saturating_duration_since(base).as_micros();
        let clock = passed * u128::from(clock_hz) / 1_000_000;
        let transit = (clock as u32).wrapping_sub(timestamp);
        if let Some(last) = self.transit.replace(transit) {
            let difference = transit.wrapping_sub(last) as i32;
            self.scaled += u64::from(difference.unsigned_abs());
            self.scaled -= (self.scaled + 8) / 16;
        }
    }

    /// In RTP clock units, as reports carry it.
    pub fn clock_units(&self) -> u32 {
        u32::try_from(self.scaled / 16).unwrap_or(u32::MAX)
    }

    /// As a time.
    pub fn duration(&self, clock_hz: u32) -> Duration {
        Duration::from_micros(self.scaled / 16 * 1_000_000 / u64::from(clock_hz))
    }
}
