//! The stall rule: how a live stream to the caller gets back to real time
//! after something was late, and why nothing else is ever shortened.
//!
//! # The rule
//! A worker's stream is **live** when what it has queued stayed within 200 ms
//! of itself over the last two seconds, and at least half a second of it has
//! been played. A worker that sends ahead of real time (speech synthesis in
//! bursts) has a queue that jumps and drains; it is never live, and loses
//! nothing.
//!
//! While a stream is live, each frame of silence that the caller hears in its
//! place is a **debt**: the audio that comes late would be behind for the rest
//! of the call. There are two kinds of incident:
//! - *ours*: the pacer was late and skipped frames, or digits were sent in
//!   place of audio;
//! - *theirs*: the queue ran dry because the worker or its network was late.
//!
//! At each tick with a debt, frames at the head of the queue that exceed the
//! **baseline** are dropped, one for each frame of debt. The baseline is the
//! most that was queued in the two seconds before the incident; in an
//! incident of theirs at least 60 ms, so that jitter gets the buffer it needs.
//! - Quiet frames may be dropped as long as the debt lives.
//! - Frames with sound may be dropped for one second after an incident of ours;
//!   and, where the stream broke off in mid-sound, once it has been going on for
//!   five seconds without a break of 400 ms. A sentence that a worker sends in
//!   real time is shorter: it ends, and its delay with it, so it is better late
//!   than clipped.
//!
//! A debt is forgiven when a second without audio shows that the stream had
//! ended; when more than the debt and 100 ms comes at once, for that is audio
//! ahead of real time; and ten seconds after the last incident.
//!
//! What is left (bursts after a network outage, incidents close together) goes
//! slowly: quiet frames of a live stream are dropped as far as its queue never
//! fell, in two seconds, below 60 ms and below what it kept queued in its
//! first two seconds, which is the lead that the worker wants, up to 200 ms.

use super::playout::FRAME_BYTES;
use crate::core::g711::is_quiet;

const FRAME: u32 = FRAME_BYTES as u32;
/// A live queue swings by no more.
const LIVE_SWING_BYTES: u32 = 10 * FRAME;
/// Ticks of audio before a stream can be live.
const LIVE_TICKS: u32 = 25;
/// Ticks of audio after which a stream is no single sentence.
const ENDLESS_TICKS: u32 = 250;
/// Ticks without audio that may be the pause between two sentences.
const BREAK_TICKS: u32 = 20;
/// What jitter may need.
const JITTER_BYTES: u32 = 3 * FRAME;
/// What may come beyond debt and baseline before it counts as a burst.
const BURST_BYTES: u32 = 5 * FRAME;
/// Ticks without audio after which a stream has ended.
const ENDED_TICKS: u32 = 50;
/// Ticks in which sound may be dropped after an incident of ours.
const FORCED_TICKS: u32 = 50;
/// Ticks until a debt is forgiven.
const FORGIVEN_TICKS: u32 = 500;

/// What may be dropped from the head of the queue at this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayDrop {
    /// Nothing.
    Nothing,
    /// At most so many frames, as long as each is quiet.
    Quiet(u32),
    /// So many frames, whatever is in them.
    Any(u32),
}

/// The state of the rule for one call.
#[derive(Clone, Debug, Default)]
pub struct CatchUp {
    depth: DepthWindow,
    /// The lead that the worker keeps; known after the first two seconds.
    lead_bytes: Option<u32>,
    /// Ticks of audio since the stream began.
    age: u32,
    /// Ticks of audio since its last break.
    unbroken: u32,
    /// Ticks without a full frame since the last one.
    dry: u32,
    /// The last full frame had sound in it.
    in_sound: bool,
    debt_bytes: u32,
    baseline_bytes: u32,
    /// The stream broke off in mid-sound.
    broke_off: bool,
    /// Ticks left in which sound may be dropped.
    forced: u32,
    /// Ticks until the debt is forgiven.
    forgiven_in: u32,
}

impl CatchUp {
    /// Whether the worker's stream is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.age >= LIVE_TICKS && self.depth.peak() - self.depth.low() <= LIVE_SWING_BYTES
    }

    /// The pacer skipped so many frames, or something else was sent in their place.
    pub fn handle_skip(&mut self, frames: u32) {
        if self.debt_bytes == 0 && !self.is_live() {
            return;
        }
        self.incur(frames.saturating_mul(FRAME), FRAME);
        self.forced = FORCED_TICKS;
    }

    /// A tick begins with so much queued; what may be dropped before its frame
    /// is taken.
    #[must_use]
    pub fn poll_drop(&mut self, queued_bytes: usize) -> MayDrop {
        if self.debt_bytes == 0 {
            return self.poll_surplus();
        }
        let excess = saturated(queued_bytes).saturating_sub(self.baseline_bytes);
        self.forgiven_in = self.forgiven_in.saturating_sub(1);
        self.forced = self.forced.saturating_sub(1);
        if self.forgiven_in == 0 || excess > self.debt_bytes.saturating_add(BURST_BYTES) {
            self.debt_bytes = 0;
            return MayDrop::Nothing;
        }
        match excess.min(self.debt_bytes) / FRAME {
            0 => MayDrop::Nothing,
            frames if self.forced > 0 => MayDrop::Any(frames),
            frames if self.broke_off && self.unbroken >= ENDLESS_TICKS => MayDrop::Any(frames),
            frames => MayDrop::Quiet(frames),
        }
    }

    /// So many frames were dropped.
    pub fn handle_dropped(&mut self, frames: u32) {
        let bytes = frames * FRAME;
        self.debt_bytes = self.debt_bytes.saturating_sub(bytes);
        self.depth.lower(bytes);
    }

    /// The frame of this tick was taken with so many bytes of audio in it,
    /// from a queue that held `queued_bytes` before. Gives whether a live
    /// stream was late.
    pub fn handle_taken(
        &mut self,
        taken: usize,
        queued_bytes: usize,
        frame: &[u8; FRAME_BYTES],
    ) -> bool {
        let live = self.is_live();
        self.depth.record(saturated(queued_bytes));
        if taken == FRAME_BYTES {
            self.age = self.age.saturating_add(1);
            self.unbroken = self.unbroken.saturating_add(1);
            self.dry = 0;
            // Only a frame that leaves the queue dry can be the last before a break.
            self.in_sound = queued_bytes < 2 * FRAME_BYTES && !is_quiet(frame);
            return false;
        }
        self.dry = self.dry.saturating_add(1);
        if self.dry > ENDED_TICKS {
            *self = Self::default();
            return false;
        }
        if self.dry == BREAK_TICKS {
            self.unbroken = 0;
        }
        let late = self.debt_bytes > 0 || live;
        if late {
            if self.dry == 1 {
                self.broke_off = self.in_sound;
            }
            self.incur(FRAME - saturated(taken), JITTER_BYTES);
        }
        late
    }

    /// The queue was emptied by the worker: what comes next owes nothing.
    pub fn handle_clear(&mut self) {
        *self = Self::default();
    }

    fn incur(&mut self, bytes: u32, least_baseline: u32) {
        if self.debt_bytes == 0 {
            self.baseline_bytes = self.depth.peak().max(least_baseline);
        }
        self.debt_bytes = self.debt_bytes.saturating_add(bytes);
        self.forgiven_in = FORGIVEN_TICKS;
    }

    /// What a live stream holds without ever needing it.
    fn poll_surplus(&mut self) -> MayDrop {
        if !self.depth.is_full() {
            return MayDrop::Nothing;
        }
        let low = self.depth.low();
        let lead = *self.lead_bytes.get_or_insert(low.min(LIVE_SWING_BYTES));
        match low.saturating_sub(lead.max(JITTER_BYTES)) / FRAME {
            frames if frames > 0 && self.is_live() => MayDrop::Quiet(frames),
            _ => MayDrop::Nothing,
        }
    }
}

fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Slots of the window, and ticks in each: together 2.08 s.
const SLOTS: usize = 8;
const SLOT_TICKS: u32 = 13;

/// The most and the least that was queued, before a frame was taken, over the
/// last two seconds.
#[derive(Clone, Debug, Default)]
struct DepthWindow {
    /// (least, most) of each slot; the oldest is overwritten next.
    slots: [(u32, u32); SLOTS],
    ticks: u32,
}

impl DepthWindow {
    fn record(&mut self, depth: u32) {
        let slot = &mut self.slots[(self.ticks / SLOT_TICKS) as usize % SLOTS];
        if self.ticks % SLOT_TICKS == 0 {
            *slot = (depth, depth);
        }
        *slot = (slot.0.min(depth), slot.1.max(depth));
        self.ticks += 1;
        if self.ticks == 2 * SLOTS as u32 * SLOT_TICKS {
            self.ticks /= 2;
        }
    }

    fn is_full(&self) -> bool {
        self.ticks >= SLOTS as u32 * SLOT_TICKS
    }

    fn used(&self) -> &[(u32, u32)] {
        let used = self.ticks.div_ceil(SLOT_TICKS) as usize;
        &self.slots[..used.min(SLOTS)]
    }

    fn peak(&self) -> u32 {
        self.used().iter().map(|slot| slot.1).max().unwrap_or(0)
    }

    fn low(&self) -> u32 {
        self.used().iter().map(|slot| slot.0).min().unwrap_or(0)
    }

    /// The whole past moves down with the queue, lest a drop look like a drain.
    fn lower(&mut self, bytes: u32) {
        for slot in &mut self.slots {
            *slot = (slot.0.saturating_sub(bytes), slot.1.saturating_sub(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOUD: [u8; FRAME_BYTES] = [0x90; FRAME_BYTES];

    /// Plays so many ticks from a queue that holds `queued` frames before each.
    fn play(rule: &mut CatchUp, ticks: usize, queued: usize) {
        for _ in 0..ticks {
            let taken = FRAME_BYTES.min(queued * FRAME_BYTES);
            rule.handle_taken(taken, queued * FRAME_BYTES, &LOUD);
        }
    }

    #[test]
    fn a_debt_of_ours_is_paid_by_any_frame_for_one_second() {
        let mut rule = CatchUp::default();
        play(&mut rule, 100, 1);
        rule.handle_skip(25);
        assert_eq!(rule.poll_drop(FRAME_BYTES), MayDrop::Nothing);
        assert_eq!(rule.poll_drop(26 * FRAME_BYTES), MayDrop::Any(25));
        rule.handle_dropped(20);
        assert_eq!(rule.poll_drop(6 * FRAME_BYTES), MayDrop::Any(5));
        for _ in 0..FORCED_TICKS {
            let _ = rule.poll_drop(6 * FRAME_BYTES);
        }
        assert_eq!(rule.poll_drop(6 * FRAME_BYTES), MayDrop::Quiet(5));
        assert_eq!(
            rule.poll_drop(60 * FRAME_BYTES),
            MayDrop::Nothing,
            "a burst"
        );
        assert_eq!(
            rule.poll_drop(6 * FRAME_BYTES),
            MayDrop::Nothing,
            "forgiven"
        );
    }

    #[test]
    fn a_debt_of_theirs_is_paid_by_sound_only_in_an_endless_stream() {
        for (ticks, wanted) in [(240, MayDrop::Quiet(7)), (260, MayDrop::Any(7))] {
            let mut rule = CatchUp::default();
            play(&mut rule, ticks, 1);
            play(&mut rule, 10, 0);
            assert_eq!(rule.poll_drop(10 * FRAME_BYTES), wanted);
        }
    }

    #[test]
    fn a_draining_queue_owes_nothing() {
        let mut rule = CatchUp::default();
        for queued in (1..=500).rev() {
            play(&mut rule, 1, queued);
            assert!(!rule.is_live());
        }
        play(&mut rule, 1, 0);
        rule.handle_skip(25);
        assert_eq!(rule.poll_drop(20 * FRAME_BYTES), MayDrop::Nothing);
    }

    #[test]
    fn an_end_of_one_second_forgives() {
        let mut rule = CatchUp::default();
        play(&mut rule, 300, 1);
        play(&mut rule, 51, 0);
        assert_eq!(rule.poll_drop(10 * FRAME_BYTES), MayDrop::Nothing);
    }

    #[test]
    fn surplus_goes_with_quiet_frames_and_the_lead_stays() {
        let mut rule = CatchUp::default();
        play(&mut rule, 110, 6);
        assert_eq!(rule.poll_drop(6 * FRAME_BYTES), MayDrop::Nothing);
        play(&mut rule, 110, 30);
        assert_eq!(rule.poll_drop(30 * FRAME_BYTES), MayDrop::Quiet(24));
        rule.handle_dropped(24);
        assert_eq!(rule.poll_drop(6 * FRAME_BYTES), MayDrop::Nothing);
        assert!(rule.is_live());
    }

    proptest! {
        #[test]
        fn the_window_knows_the_last_two_seconds(
            depths in proptest::collection::vec(0..100_u32, 1..600)
        ) {
            let mut window = DepthWindow::default();
            for (index, depth) in depths.iter().enumerate() {
                window.record(*depth);
                let slot = SLOT_TICKS as usize;
                let first = (index / slot + 1).saturating_sub(SLOTS) * slot;
                let last = &depths[first..=index];
                prop_assert_eq!(Some(&window.peak()), last.iter().max());
                prop_assert_eq!(Some(&window.low()), last.iter().min());
                prop_assert_eq!(window.is_full(), index + 1 >= SLOTS * slot);
            }
        }
    }
}
