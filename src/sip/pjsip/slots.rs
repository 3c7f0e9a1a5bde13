//! Slots that are given out again: what C knows of a leg is a slot and a
//! generation, which rises each time the slot is given out, so that whatever comes
//! late for an older leg finds another generation and does nothing.
//!
//! Two locks per slot: `call` for what changes per event, `media` for what each RTP
//! packet needs. Of the two only `call` is held while the other is taken, where a
//! leg is opened. `tests/loom` runs this file through every order of its threads.

use crate::core::ids::LegId;
use crate::core::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError};

/// Slots for legs of a call part `C` and a media part `M`.
pub struct Slots<C, M> {
    slots: Box<[Slot<C, M>]>,
    live: AtomicUsize,
}

struct Slot<C, M> {
    call: Mutex<Part<C>>,
    media: Mutex<Part<M>>,
}

struct Part<T> {
    generation: u32,
    leg: Option<T>,
}

impl<T> Part<T> {
    const EMPTY: Self = Self {
        generation: 0,
        leg: None,
    };
}

impl<C, M> Slots<C, M> {
    /// As many empty slots.
    pub fn new(count: usize) -> Self {
        let empty = |_| Slot {
            call: Mutex::new(Part::EMPTY),
            media: Mutex::new(Part::EMPTY),
        };
        Self {
            slots: (0..count).map(empty).collect(),
            live: AtomicUsize::new(0),
        }
    }

    /// How many legs there are.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// The leg of a slot, made where there is none; `None` where there is no such
    /// slot.
    pub fn ensure_open(&self, index: i32, make: impl FnOnce() -> (C, M)) -> Option<LegId> {
        let (index, slot) = self.slot(index)?;
        let mut call = lock(&slot.call);
        if call.leg.is_some() {
            let generation = call.generation;
            return Some(LegId { index, generation });
        }
        let (leg, media) = make();
        let generation = call.generation.wrapping_add(1).max(1);
        *call = Part {
            generation,
            leg: Some(leg),
        };
        // Before anybody can know the leg, so that nothing told of its media is lost.
        *lock(&slot.media) = Part {
            generation,
            leg: Some(media),
        };
        // Before anybody can end the leg: the count never falls below nothing.
        self.live.fetch_add(1, Ordering::Relaxed);
        Some(LegId { index, generation })
    }

    /// The leg of a slot, where there is one.
    pub fn current(&self, index: i32) -> Option<LegId> {
        let (index, slot) = self.slot(index)?;
        let call = lock(&slot.call);
        let generation = call.generation;
        call.leg.as_ref().map(|_| LegId { index, generation })
    }

    /// The legs that `is_wanted` says so of.
    pub fn which(&self, is_wanted: impl Fn(&C) -> bool) -> Vec<LegId> {
        let slots = (0_u32..).zip(self.slots.iter());
        let legs = slots.filter_map(|(index, slot)| {
            let call = lock(&slot.call);
            let generation = call.generation;
            let leg = call.leg.as_ref().filter(|leg| is_wanted(leg));
            leg.map(|_| LegId { index, generation })
        });
        legs.collect()
    }

    /// Runs `act` on a leg, unless it is over.
    pub fn with<T>(&self, leg: LegId, act: impl FnOnce(&mut C) -> T) -> Option<T> {
        let mut call = lock(&self.of(leg)?.call);
        if call.generation != leg.generation {
            return None;
        }
        call.leg.as_mut().map(act)
    }

    /// Runs `act` on the media of a leg, unless it has none any more.
    pub fn with_media<T>(&self, leg: LegId, act: impl FnOnce(&mut M) -> T) -> Option<T> {
        let mut media = lock(&self.of(leg)?.media);
        if media.generation != leg.generation {
            return None;
        }
        media.leg.as_mut().map(act)
    }

    /// Takes a leg out, once: from now on it is over for whoever still holds its id.
    /// Its media stay until the slot is given out again.
    pub fn take(&self, leg: LegId) -> Option<C> {
        let mut call = lock(&self.of(leg)?.call);
        if call.generation != leg.generation {
            return None;
        }
        let ended = call.leg.take()?;
        drop(call);
        self.live.fetch_sub(1, Ordering::Relaxed);
        Some(ended)
    }

    fn of(&self, leg: LegId) -> Option<&Slot<C, M>> {
        self.slots.get(usize::try_from(leg.index).ok()?)
    }

    fn slot(&self, index: i32) -> Option<(u32, &Slot<C, M>)> {
        let index = u32::try_from(index).ok()?;
        let slot = self.slots.get(usize::try_from(index).ok()?)?;
        Some((index, slot))
    }
}

/// A panic elsewhere while a slot was locked leaves plain values behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
