//! RTP on its way through us, on pjsip's media threads. They have no timer to
//! beat by; what can be seen is that one went in and does not come out. Each
//! thread is looked at by itself: one that hangs takes its share of the calls
//! with it, however well the others are.
//!
//! The table is of fixed size and has no lock, because the watchdog reads it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More threads than this share places.
const THREADS_MAX: usize = 64;

static PASSAGES: InFlight = InFlight::new();

thread_local! {
    static PLACE: usize = PASSAGES.next_place();
}

/// Counts `work` of the calling thread in and out; it must not unwind.
pub fn pass(work: impl FnOnce()) {
    // A thread on its way out has no place any more and needs none.
    match PLACE.try_with(|place| *place) {
        Ok(place) => PASSAGES.pass(place, work),
        Err(_) => work(),
    }
}

/// Another number at each look, unless a packet is stuck in one of the threads.
pub fn beat() -> u64 {
    PASSAGES.beat()
}

struct InFlight {
    threads: [ThreadInFlight; THREADS_MAX],
    taken: AtomicUsize,
    looks: AtomicU64,
}

/// On a cache line of its own: its thread writes it twice for each packet.
#[repr(align(64))]
struct ThreadInFlight {
    begun: AtomicU64,
    done: AtomicU64,
    /// `begun` at the latest look.
    seen: AtomicU64,
}

impl InFlight {
    const fn new() -> Self {
        Self {
            threads: [const { ThreadInFlight::new() }; THREADS_MAX],
            taken: AtomicUsize::new(0),
            looks: AtomicU64::new(0),
        }
    }

    fn next_place(&self) -> usize {
        self.taken.fetch_add(1, Ordering::Relaxed) % THREADS_MAX
    }

    fn pass(&self, place: usize, work: impl FnOnce()) {
        let Some(thread) = self.threads.get(place) else {
            return work();
        };
        thread.begun.fetch_add(1, Ordering::Relaxed);
        work();
        thread.done.fetch_add(1, Ordering::Relaxed);
    }

    fn beat(&self) -> u64 {
        // Every thread is looked at, also behind one that is stuck.
        let stuck = self.threads.iter().filter(|thread| thread.is_stuck());
        let moves = u64::from(stuck.count() == 0);
        self.looks.fetch_add(moves, Ordering::Relaxed) + moves
    }
}

impl ThreadInFlight {
    const fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether what is inside was inside at the latest look already.
    fn is_stuck(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let is_inside = self.done.load(Ordering::Relaxed) != begun;
        let seen = self.seen.swap(begun, Ordering::Relaxed);
        is_inside && seen == begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_until_a_packet_is_stuck_in_any_thread() {
        let passages = InFlight::new();
        let idle = [passages.beat(), passages.beat(), passages.beat()];
        assert!(idle[0] != idle[1] && idle[1] != idle[2]);
        let (stuck, busy) = (passages.next_place(), passages.next_place());
        passages.pass(stuck, || {
            let first = passages.beat();
            for _ in 0..50 {
                // Another thread still brings packets out.
                passages.pass(busy, || {});
                assert_eq!(passages.beat(), first);
            }
        });
        assert_ne!(passages.beat(), passages.beat());
    }

    #[test]
    fn a_thread_that_is_inside_at_every_look_but_moves_is_well() {
        let passages = InFlight::new();
        let mut last = passages.beat();
        for _ in 0..50 {
            passages.pass(0, || {
                let beat = passages.beat();
                assert_ne!(beat, last);
                last = beat;
            });
        }
    }
}
