//! Worker to caller: the half of the downlink that normal threads hold. It takes
//! the worker's audio and marks and whatever else is to be sent, and gives back the
//! echoes. What it does, the pacer never waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::audio_queue::Chunk;
use super::clock::{MediaTime, TAPS_MAX, TapPlace};
use super::downlink::{DigitsRefused, DownlinkStats, IdleAudio};
use super::playout::{BYTES_PER_MS, Cleared, MarkEcho, MarkPlaced, PlayoutWriter, Pushed};
use super::stats::{Counters, SentAt};
use super::transcode::Encoder;
use crate::core::g711::Gain;
use crate::core::handover::{Change, Handover};
use crate::core::media_link::MediaFormat;
use crate::core::opus::OpusError;
use crate::core::telephone_event::{MAX_QUEUED_DIGITS, are_digits};

/// What both halves see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) changes: Handover<Changes>,
    counters: Counters,
    /// The number of the idle audio that is in use, times two, and one more while it
    /// is an `IdleAudio::Once` that has not been heard to its end.
    announcing: AtomicU64,
    /// Digits that were sent to their end, or forgotten.
    digits_done: AtomicU64,
    drain_awaited: AtomicBool,
}

/// What the handle has changed and the pacer's half has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) idle_audio: Change<IdleAudio>,
    /// How many were set so far.
    pub(super) idle_number: u64,
    pub(super) hold: Change<Option<Arc<[u8]>>>,
    pub(super) format: Change<MediaFormat>,
    pub(super) encoder: Change<Encoder>,
    pub(super) taps: [Change<TapPlace>; TAPS_MAX],
    /// Those that were queued before `digits` are forgotten.
    pub(super) forgets_digits: bool,
    pub(super) digits: String,
}

impl Shared {
    /// The state of the pacer's half after a tick. `idle_number` is that of its
    /// idle audio, which may be an announcement not heard to its end.
    pub(super) fn publish(
        &self,
        stats: &DownlinkStats,
        digits_done: u64,
        (idle_number, announcing): (u64, bool),
    ) {
        self.counters.publish(stats);
        self.digits_done.store(digits_done, Ordering::Release);
        let announcing = idle_number << 1 | u64::from(announcing);
        self.announcing.store(announcing, Ordering::Release);
    }

    pub(super) fn publish_time(&self, rtp_timestamp: u32, at: MediaTime) {
        self.counters.publish_time(SentAt { rtp_timestamp, at });
    }

    /// Whether the drain is awaited; asked when it is reached, it says so once.
    pub(super) fn take_drained(&self) -> bool {
        self.drain_awaited.load(Ordering::Acquire)
            && !self.changes.is_changed()
            && self.drain_awaited.swap(false, Ordering::AcqRel)
    }
}

/// The half of the downlink that normal threads hold, behind a lock of theirs.
#[derive(Debug)]
pub struct DownlinkHandle {
    playout: PlayoutWriter,
    shared: Arc<Shared>,
    gain: Gain,
    format: MediaFormat,
    /// How often the idle audio was set, and whether the last one announces.
    idle_number: u64,
    announces: bool,
    /// Digits that were accepted.
    digits_queued: u64,
    /// How many of them had been when they were dropped last.
    digits_dropped: u64,
    marks_refused: u64,
}

impl DownlinkHandle {
    pub(super) fn new(
        playout: PlayoutWriter,
        shared: Arc<Shared>,
        gain: Gain,
        format: MediaFormat,
    ) -> Self {
        Self {
            playout,
            shared,
            gain,
            format,
            idle_number: 0,
            announces: false,
            digits_queued: 0,
            digits_dropped: 0,
            marks_refused: 0,
        }
    }

    /// Media changed (re-INVITE): payload types, codec, SSRC, direction.
    /// Sequence, timestamp and what is queued go on.
    ///
    /// # Errors
    /// When the codec is Opus and libopus makes no encoder; nothing has changed.
    pub fn set_format(&mut self, format: &MediaFormat) -> Result<(), OpusError> {
        let other_codec = format.codec != self.format.codec;
        let encoder = other_codec.then(|| Encoder::new(format.codec, &self.gain));
        let encoder = encoder.transpose()?;
        self.format = *format;
        let old = self.shared.changes.change(|changes| {
            let _ = changes.format.set(*format);
            encoder.and_then(|encoder| changes.encoder.set(encoder))
        });
        drop(old);
        Ok(())
    }

    /// Queues worker audio.
    pub fn push(&mut self, audio: &[u8]) -> Pushed {
        self.playout.push(audio)
    }

    /// Places a mark behind the audio pushed so far.
    pub fn mark(&mut self, name: String) -> MarkPlaced {
        let placed = self.playout.mark(name);
        self.marks_refused += u64::from(placed == MarkPlaced::Refused);
        placed
    }

    /// Empties the queue; the echoes of all waiting marks are ready at once.
    pub fn clear(&mut self) -> Cleared {
        self.playout.clear()
    }

    /// The worker is lost: forgets its audio and its marks. Digits go on.
    pub fn abandon(&mut self) -> Cleared {
        self.playout.abandon()
    }

    /// Moves the ready echoes, in order, to the end of `echoes`.
    pub fn drain_echoes(&mut self, echoes: &mut Vec<MarkEcho>) {
        self.playout.drain_echoes(echoes);
    }

    /// Sends digits by RFC 4733. They take the place of audio while they last;
    /// worker audio waits for them.
    ///
    /// # Errors
    /// When they cannot be sent; none of them is.
    pub fn send_digits(&mut self, digits: &str) -> Result<(), DigitsRefused> {
        if self.format.send_event_type.is_none() {
            return Err(DigitsRefused::NotNegotiated);
        }
        if !are_digits(digits) {
            return Err(DigitsRefused::Invalid);
        }
        if self.kept_digits() + digits.len() as u64 > MAX_QUEUED_DIGITS as u64 {
            return Err(DigitsRefused::Full);
        }
        self.digits_queued += digits.len() as u64;
        let shared = &self.shared;
        shared.changes.change(|changes| changes.digits += digits);
        Ok(())
    }

    /// Takes back the digits that were not sent yet. One that sounds is ended as digits are.
    pub fn drop_digits(&mut self) {
        let untaken = self.shared.changes.change(|changes| {
            changes.forgets_digits = true;
            let untaken = changes.digits.len();
            changes.digits.clear();
            untaken
        });
        self.digits_queued -= untaken as u64;
        self.digits_dropped = self.digits_queued;
    }

    /// What is heard while no worker audio is queued, from its beginning.
    pub fn set_idle_audio(&mut self, idle_audio: IdleAudio) {
        self.announces = matches!(&idle_audio, IdleAudio::Once(audio) if !audio.is_empty());
        self.idle_number += 1;
        let (number, changes) = (self.idle_number, &self.shared.changes);
        let old = changes.change(|changes| {
            changes.idle_number = number;
            changes.idle_audio.set(idle_audio)
        });
        drop(old);
    }

    /// The other side is held, and hears this again and again; the worker's
    /// audio and marks wait. `None`: it is back.
    pub fn set_hold(&mut self, audio: Option<Arc<[u8]>>) {
        let changes = &self.shared.changes;
        drop(changes.change(|changes| changes.hold.set(audio)));
    }

    /// Puts a tap into one of the [`TAPS_MAX`] places, or takes it away: from the next tick on it sees each frame that
    /// is sent. One that was taken away is freed with the next change of its place.
    pub fn set_tap(&mut self, place: usize, tap: TapPlace) {
        let old = self.shared.changes.change(|changes| {
            let change = changes.taps.get_mut(place);
            change.and_then(|change| change.set(tap))
        });
        drop(old);
    }

    /// Whether everything queued (audio, marks, digits, an `IdleAudio::Once`) has
    /// been played to its last sample.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.playout.is_idle() && self.waiting_digits() == 0 && !self.is_announcing()
    }

    /// Asks for one wake-up of the driver at the next tick that finds it drained.
    pub fn notify_drained(&mut self) {
        self.shared.drain_awaited.store(true, Ordering::Release);
    }

    /// Worker audio queued, in ms.
    #[must_use]
    pub fn queued_ms(&self) -> u64 {
        self.playout.queued_bytes() as u64 / BYTES_PER_MS
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> DownlinkStats {
        DownlinkStats {
            overflow_bytes: self.playout.overflow_bytes(),
            marks_refused: self.marks_refused,
            ..self.shared.counters.read()
        }
    }

    /// When the latest packet was due, by both clocks; `None` before the first tick.
    #[must_use]
    pub fn sent_at(&self) -> Option<SentAt> {
        self.shared.counters.sent_at()
    }

    /// The SSRC of what is sent.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.format.ssrc
    }

    /// Memory of audio that was played out, to be freed without a lock held.
    #[must_use]
    pub fn take_spent(&mut self) -> Vec<Arc<Chunk>> {
        self.playout.take_spent()
    }

    /// As a thread does that was preempted while it makes a change.
    #[cfg(test)]
    pub(super) fn hold_changes(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.shared.changes.lock()
    }

    fn is_announcing(&self) -> bool {
        let announcing = self.shared.announcing.load(Ordering::Acquire);
        if announcing >> 1 == self.idle_number {
            announcing & 1 == 1
        } else {
            // It has not been taken yet.
            self.announces
        }
    }

    /// Digits that are still to be sent: of the dropped ones, which the pacer may not have forgotten yet, one at most.
    fn kept_digits(&self) -> u64 {
        let done = self.shared.digits_done.load(Ordering::Acquire);
        let dropped = self.digits_dropped.saturating_sub(1);
        self.digits_queued - done.max(dropped)
    }

    fn waiting_digits(&self) -> u64 {
        self.digits_queued - self.shared.digits_done.load(Ordering::Acquire)
    }
}
