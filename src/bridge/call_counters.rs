//! Counts what became of calls and of the search for workers, for metrics.
//! One addition for each step of a call, none for a packet.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::call::{FallbackStep, Report};
use crate::core::call_object::CallDirection;
use crate::core::outcome::Outcome;

const DIRECTIONS: [CallDirection; 2] = [CallDirection::Inbound, CallDirection::Outbound];

/// The counters.
#[derive(Debug, Default)]
pub struct CallCounters {
    ended: [[AtomicU64; Outcome::ALL.len()]; DIRECTIONS.len()],
    searches: AtomicU64,
    attempts: AtomicU64,
    attached: AtomicU64,
    lost: AtomicU64,
    ignored: AtomicU64,
    odd_audio: AtomicU64,
    fallbacks: [AtomicU64; FallbackStep::ALL.len()],
    unexpected_inputs: AtomicU64,
    voice_warnings: AtomicU64,
}

/// What they say. Each only rises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TallyStats {
    /// Calls that ended, by direction and outcome.
    pub ended: Vec<(CallDirection, Outcome, u64)>,
    /// Calls for which a worker was looked for.
    pub searches: u64,
    /// Tries to reach a worker: jobs and dials.
    pub attempts: u64,
    /// Workers attached.
    pub attached: u64,
    /// Workers lost during a call, each followed by another attempt or the fallback.
    pub lost: u64,
    /// Messages of workers that were ignored: none of ours, or not possible.
    pub ignored: u64,
    /// Messages with audio in another base64 than the standard's, which is played.
    pub odd_audio: u64,
    /// Callers who came to each step of the fallback.
    pub fallbacks: Vec<(FallbackStep, u64)>,
    /// What came to a call whose phase had no use for it: races, mostly.
    pub unexpected_inputs: u64,
    /// What of TwiML was left out, failed or could not be had.
    pub voice_warnings: u64,
}

impl CallCounters {
    /// A step of a call.
    pub(super) fn step(&self, report: Report) {
        let count = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        match report {
            Report::WorkerAttached => count(&self.attached),
            Report::WorkerLost => count(&self.lost),
            Report::Fallback(step, _) => {
                let at = FallbackStep::ALL.iter().position(|known| *known == step);
                if let Some(counter) = at.and_then(|at| self.fallbacks.get(at)) {
                    count(counter);
                }
            }
            Report::Initiated
            | Report::Ringing
            | Report::Queued(_)
            | Report::Answered
            | Report::Transfer(_) => {}
        }
    }

    /// A job is pushed or a worker dialled; whether it is the call's first.
    pub(super) fn attempt(&self, is_first: bool) {
        if is_first {
            self.searches.fetch_add(1, Ordering::Relaxed);
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// A call had no use for something that came.
    pub(super) fn unexpected_input(&self) {
        self.unexpected_inputs.fetch_add(1, Ordering::Relaxed);
    }

    /// Something of TwiML did not go as it says.
    pub(super) fn voice_warning(&self) {
        self.voice_warnings.fetch_add(1, Ordering::Relaxed);
    }

    /// A message of a worker is ignored.
    pub(super) fn ignored(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }

    /// Audio of a worker came in odd base64.
    pub(super) fn odd_audio(&self) {
        self.odd_audio.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of a call.
    pub(super) fn ended(&self, direction: CallDirection, outcome: Outcome) {
        let direction = DIRECTIONS.iter().position(|known| *known == direction);
        let outcome = Outcome::ALL.iter().position(|known| *known == outcome);
        let counter = direction
            .zip(outcome)
            .and_then(|(direction, outcome)| self.ended.get(direction)?.get(outcome));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counters.
    #[must_use]
    pub fn read(&self) -> TallyStats {
        let ended = DIRECTIONS.into_iter().zip(&self.ended);
        let ended = ended.flat_map(|(direction, counters)| {
            let counters = Outcome::ALL.into_iter().zip(counters);
            counters
                .map(move |(outcome, count)| (direction, outcome, count.load(Ordering::Relaxed)))
        });
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TallyStats {
            ended: ended.collect(),
            searches: read(&self.searches),
            attempts: read(&self.attempts),
            attached: read(&self.attached),
            lost: read(&self.lost),
            unexpected_inputs: read(&self.unexpected_inputs),
            voice_warnings: read(&self.voice_warnings),
            ignored: read(&self.ignored),
            odd_audio: read(&self.odd_audio),
            fallbacks: FallbackStep::ALL
                .into_iter()
                .zip(self.fallbacks.iter().map(read))
                .collect(),
        }
    }
}
