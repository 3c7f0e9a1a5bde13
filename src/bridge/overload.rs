//! Notices that the bridge is overloaded before callers hear it.
//!
//! Audio is late when a thread that carries it runs late: the pacer, which
//! sends to callers, or the runtime, whose tasks bring the workers' audio.
//! Both know when they should have run, so that nothing is measured per
//! packet. Not counted: a worker that reads slowly, or sends far ahead. That
//! is its own doing and says nothing of us; the gauges show it.
//!
//! Why these numbers. The usual jitter buffer of a listener holds two or three
//! frames. A packet that is later than two (40 ms, `--max-late-ms`) is at its
//! edge; beyond three the pacer gives rounds up, and it is heard. Three such
//! seconds of five are load: one stall, such as a stopped process or a snapshot
//! of the machine, is late in one second, in two at most. To refuse a call for
//! a hiccup that nobody hears would be the greater damage. Five calm seconds
//! end it: the refused try again in that time, and the bridge must not go to
//! and fro.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::audio_metrics::{AudioGauges, AudioMetrics};
use super::context::Context;
use crate::fleet::CallLimiter;
use crate::media::pacer::Pacer;

/// Seconds that are looked back on.
const WINDOW: usize = 5;
/// Late seconds among them that make an overload.
const LATE_SECONDS: usize = 3;
/// How often the runtime's lateness is probed, and how often all is judged.
const PROBE: Duration = Duration::from_millis(100);
const SAMPLE: Duration = Duration::from_secs(1);

/// How late one second was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// The latest tick of the pacer.
    pub pacer: Duration,
    /// The latest task of the runtime.
    pub runtime: Duration,
}

impl Lateness {
    fn worst(self) -> Duration {
        self.pacer.max(self.runtime)
    }
}

/// What a second changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverloadChange {
    /// Overloaded from now on.
    Began,
    /// Calm again.
    Ended,
}

/// Judges second by second. Pure.
#[derive(Debug)]
pub struct OverloadDetector {
    /// Later than this is late; `None`: nothing is.
    limit: Option<Duration>,
    /// The latest seconds, oldest first.
    window: VecDeque<Lateness>,
    overloaded: bool,
}

impl OverloadDetector {
    /// A judge that has seen nothing.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            window: VecDeque::with_capacity(WINDOW),
            overloaded: false,
        }
    }

    /// Takes one more second.
    pub fn handle_second(&mut self, lateness: Lateness) -> Option<OverloadChange> {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(lateness);
        let is_late = |second: &&Lateness| self.limit.is_some_and(|limit| second.worst() > limit);
        let late = self.window.iter().filter(is_late).count();
        let change = match self.overloaded {
            false if late >= LATE_SECONDS => OverloadChange::Began,
            true if late == 0 => OverloadChange::Ended,
            _ => return None,
        };
        self.overloaded = change == OverloadChange::Began;
        Some(change)
    }

    /// The worst of the last five seconds.
    #[must_use]
    pub fn lateness(&self) -> Lateness {
        let seconds = self.window.iter();
        seconds.fold(Lateness::default(), |worst, second| Lateness {
            pacer: worst.pacer.max(second.pacer),
            runtime: worst.runtime.max(second.runtime),
        })
    }
}

/// What the monitor saw last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// The worst of the last five seconds.
    pub lateness: Lateness,
    /// Rounds of 20 ms that the pacer skipped since the start.
    pub rounds_skipped: u64,
    /// Audio in the calls.
    pub audio: AudioGauges,
}

/// What the monitor looks at, and the door that it shuts.
pub struct OverloadInputs {
    pacer: Arc<Pacer>,
    gauges: Arc<AudioMetrics>,
    call_limiter: Arc<CallLimiter>,
}

impl OverloadInputs {
    /// Takes the handles of a running bridge.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            pacer: context.pacer.clone(),
            gauges: context.gauges.clone(),
            call_limiter: context.call_limiter.clone(),
        }
    }
}

/// The monitor's last readings, for whoever asks.
#[derive(Debug, Default)]
pub struct Monitor {
    readings: Mutex<Readings>,
}

impl Monitor {
    /// At most a second old.
    #[must_use]
    pub fn readings(&self) -> Readings {
        *self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches, and opens and shuts the door, for ever.
    pub async fn run(self: Arc<Self>, watched: OverloadInputs, limit: Option<Duration>) {
        let mut judge = OverloadDetector::new(limit);
        // What was late before, such as the start, counts for nothing.
        let _ = watched.pacer.take_late_max_us();
        loop {
            let runtime = latest_probe().await;
            let pacer = Duration::from_micros(watched.pacer.take_late_max_us());
            let change = judge.handle_second(Lateness { pacer, runtime });
            let readings = Readings {
                lateness: judge.lateness(),
                rounds_skipped: watched.pacer.skipped_rounds(),
                audio: watched.gauges.read(),
            };
            *self.readings.lock().unwrap_or_else(PoisonError::into_inner) = readings;
            if let Some(change) = change {
                watched
                    .call_limiter
                    .set_overloaded(change == OverloadChange::Began);
                log_change(change, &readings, watched.call_limiter.active());
            }
        }
    }
}

/// Runs about a second; the answer is how late the runtime was at the worst.
async fn latest_probe() -> Duration {
    let end = Instant::now() + SAMPLE;
    let mut latest = Duration::ZERO;
    loop {
        let due = Instant::now() + PROBE;
        sleep_until(due).await;
        let now = Instant::now();
        latest = latest.max(now - due);
        if now >= end {
            return latest;
        }
    }
}

fn log_change(change: OverloadChange, readings: &Readings, calls: u32) {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let Readings {
        lateness,
        rounds_skipped,
        audio,
    } = readings;
    let (pacer_late_max_ms, runtime_late_max_ms) = (ms(lateness.pacer), ms(lateness.runtime));
    let (to_workers_max_ms, to_callers_max_ms) =
        (ms(audio.to_workers_max), ms(audio.to_callers_max));
    match change {
        OverloadChange::Began => warn!(
            calls,
            pacer_late_max_ms,
            runtime_late_max_ms,
            rounds_skipped,
            to_workers_max_ms,
            to_callers_max_ms,
            "overloaded: audio is late again and again; new calls are refused until it is not"
        ),
        OverloadChange::Ended => info!(
            calls,
            pacer_late_max_ms,
            runtime_late_max_ms,
            rounds_skipped,
            to_workers_max_ms,
            to_callers_max_ms,
            "no longer overloaded: new calls are taken"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(40);

    /// A second in which the pacer was so late.
    fn second(ms: u64) -> Lateness {
        Lateness {
            pacer: Duration::from_millis(ms),
            runtime: Duration::ZERO,
        }
    }

    fn run(judge: &mut OverloadDetector, seconds_ms: &[u64]) -> Vec<(usize, OverloadChange)> {
        let seconds = seconds_ms.iter().enumerate();
        seconds
            .filter_map(|(at, ms)| Some((at, judge.handle_second(second(*ms))?)))
            .collect()
    }

    #[test]
    fn one_stall_is_no_overload_and_neither_are_two() {
        let mut judge = OverloadDetector::new(Some(LIMIT));
        assert_eq!(run(&mut judge, &[1, 500, 500, 1, 1, 1, 500, 1, 0, 0]), []);
        assert_eq!(
            run(&mut judge, &[40; 20]),
            [],
            "the limit itself is not late"
        );
    }

    #[test]
    fn three_late_seconds_of_five_begin_it_and_five_calm_ones_end_it() {
        let mut judge = OverloadDetector::new(Some(LIMIT));
        let seconds = [41, 1, 60, 1, 50, 1, 1, 1, 1, 41, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(
            run(&mut judge, &seconds),
            [(4, OverloadChange::Began), (14, OverloadChange::Ended)]
        );
        assert_eq!(run(&mut judge, &[90, 90, 90]), [(2, OverloadChange::Began)]);
    }

    #[test]
    fn either_thread_counts_and_the_worst_is_told() {
        let mut judge = OverloadDetector::new(Some(LIMIT));
        let late = |pacer, runtime| Lateness {
            pacer: Duration::from_millis(pacer),
            runtime: Duration::from_millis(runtime),
        };
        assert_eq!(judge.handle_second(late(50, 0)), None);
        assert_eq!(judge.handle_second(late(0, 70)), None);
        assert_eq!(
            judge.handle_second(late(0, 60)),
            Some(OverloadChange::Began)
        );
        assert_eq!(judge.lateness(), late(50, 70));
        run(&mut judge, &[0; WINDOW]);
        assert_eq!(judge.lateness(), Lateness::default());
    }

    #[test]
    fn without_a_limit_nothing_is_late() {
        assert_eq!(run(&mut OverloadDetector::new(None), &[10_000; 20]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_sees_a_runtime_that_is_held_up() {
        let started = Instant::now();
        let probe = tokio::spawn(latest_probe());
        tokio::time::sleep(Duration::from_millis(250)).await;
        tokio::time::advance(Duration::from_millis(340)).await;
        let late = probe.await.unwrap();
        assert!(late >= Duration::from_millis(200), "{late:?}");
        assert!(started.elapsed() < SAMPLE + Duration::from_millis(500));
    }
}
