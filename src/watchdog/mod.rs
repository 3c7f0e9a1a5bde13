//! Liveness of the threads that must never hang, and the hard exit when one
//! does.
//!
//! One thread of its own, which shares no lock with the rest: beats, the
//! shutdown deadline and the stage are atomics, and it writes to its own copy
//! of standard error. It counts its own ticks instead of the clock, so a
//! process that was stopped and continued is not taken for a hung one.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Exit code when the shutdown hangs.
pub const EXIT_SHUTDOWN_HUNG: i32 = 70;
/// Exit code when a thread stops beating while running; the supervisor restarts us.
pub const EXIT_THREAD_HUNG: i32 = 71;

const TICK: Duration = Duration::from_millis(250);
/// Ticks without a beat after which a thread counts as hung: 10 s.
const SILENT_TICKS: u32 = 40;
/// How long the last words may take where standard error is blocked.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A beating thread.
pub struct Pulse {
    /// What it is, for the operator.
    pub name: &'static str,
    /// Reads a number that the thread changes at least once a second.
    pub beat: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Not shutting down.
    Running,
    /// Waiting for calls to end.
    Calls,
    /// Writing the last state to Redis.
    Queue,
    /// Destroying pjsip: unregistering lines, joining its threads.
    Sip,
    /// Joining the media threads.
    Media,
    /// Everything is down, the process is about to end.
    Done,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Running,
        Self::Calls,
        Self::Queue,
        Self::Sip,
        Self::Media,
        Self::Done,
    ];

    const fn what(self) -> &'static str {
        match self {
            Self::Running => "before it began",
            Self::Calls => "while calls were being ended",
            Self::Queue => "while the last state was written to Redis",
            Self::Sip => "inside pjsip, while the SIP stack was being destroyed",
            Self::Media => "while the media threads were being joined",
            Self::Done => "after everything was down",
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Ticks left until the hard exit; 0: no shutdown is under way.
    shutdown_ticks: AtomicU64,
    stage: AtomicU8,
}

/// Ends the process in spite of everything: `_exit`, no destructor runs.
pub type HardExit = fn(i32) -> !;

/// The handle by which the rest talks to the watchdog.
#[derive(Clone, Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no copy of standard error.
    pub fn start(pulses: Vec<Pulse>, hard_exit: HardExit) -> std::io::Result<Self> {
        let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
        let shared = Arc::new(Shared::default());
        let watched = Watched {
            silent: vec![(0, 0); pulses.len()],
            pulses,
            shared: shared.clone(),
        };
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watched.run(stderr, hard_exit))?;
        Ok(Self { shared })
    }

    /// The shutdown begins; past this deadline the process ends with 70.
    pub fn shutdown_within(&self, limit: Duration) {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis()).max(1);
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        self.shared.shutdown_ticks.store(ticks, Ordering::Release);
    }

    /// Notes how far the shutdown has come, for the last words.
    pub fn stage(&self, stage: Stage) {
        self.shared.stage.store(stage as u8, Ordering::Release);
    }
}

struct Watched {
    pulses: Vec<Pulse>,
    /// Last beat seen, and for how many ticks it has not changed.
    silent: Vec<(u64, u32)>,
    shared: Arc<Shared>,
}

impl Watched {
    fn run(mut self, stderr: File, hard_exit: HardExit) {
        loop {
            thread::sleep(TICK);
            if let Some((code, words)) = self.tick() {
                say(stderr, words);
                hard_exit(code);
            }
        }
    }

    /// One look at everything; the answer is exit code and last words.
    fn tick(&mut self) -> Option<(i32, String)> {
        match self.shared.shutdown_ticks.load(Ordering::Acquire) {
            0 => self.hung_thread(),
            1 => Some(self.hung_shutdown()),
            left => {
                self.shared
                    .shutdown_ticks
                    .store(left - 1, Ordering::Release);
                None
            }
        }
    }

    fn hung_shutdown(&self) -> (i32, String) {
        let stage = usize::from(self.shared.stage.load(Ordering::Acquire));
        let what = Stage::ALL
            .get(stage)
            .copied()
            .unwrap_or(Stage::Running)
            .what();
        let words = format!(
            "sipbridge: watchdog: the shutdown hung {what}; ending the process with code {EXIT_SHUTDOWN_HUNG}\n"
        );
        (EXIT_SHUTDOWN_HUNG, words)
    }

    fn hung_thread(&mut self) -> Option<(i32, String)> {
        for (pulse, (last, ticks)) in self.pulses.iter().zip(&mut self.silent) {
            let beat = (pulse.beat)();
            *ticks = if beat == *last { *ticks + 1 } else { 0 };
            *last = beat;
            if *ticks >= SILENT_TICKS {
                let silent_s = SILENT_TICKS / 4;
                let words = format!(
                    "sipbridge: watchdog: the {} has not moved for {silent_s} s; ending the process with code {EXIT_THREAD_HUNG} so that the supervisor restarts it\n",
                    pulse.name
                );
                return Some((EXIT_THREAD_HUNG, words));
            }
        }
        None
    }
}

/// Writes from a thread of its own: a blocked standard error must not stop
/// the exit.
fn say(mut stderr: File, words: String) {
    let (done, written) = std::sync::mpsc::sync_channel(1);
    let writer = thread::Builder::new().spawn(move || {
        // Nobody is left to tell about a failed write.
        let _ = stderr.write_all(words.as_bytes());
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(beat: &Arc<AtomicU64>) -> Watched {
        Watched {
            pulses: vec![Pulse {
                name: "pacer thread",
                beat: Box::new({
                    let beat = beat.clone();
                    move || beat.load(Ordering::Relaxed)
                }),
            }],
            silent: vec![(0, 0)],
            shared: Arc::default(),
        }
    }

    #[test]
    fn a_thread_that_stops_beating_is_named_with_71() {
        let beat = Arc::new(AtomicU64::new(1));
        let mut watched = watched(&beat);
        for tick in 0..100 {
            beat.fetch_add(tick % 2, Ordering::Relaxed);
            assert!(watched.tick().is_none());
        }
        let hung = (0..=SILENT_TICKS).find_map(|_| watched.tick());
        let (code, words) = hung.expect("noticed");
        assert_eq!(code, EXIT_THREAD_HUNG);
        assert!(words.contains("pacer thread"), "{words}");
    }

    #[test]
    fn a_shutdown_past_its_deadline_ends_with_70_and_says_where() {
        let mut watched = watched(&Arc::default());
        let handle = Watchdog {
            shared: watched.shared.clone(),
        };
        handle.shutdown_within(Duration::from_secs(1));
        handle.stage(Stage::Sip);
        assert!((0..3).all(|_| watched.tick().is_none()));
        let (code, words) = watched.tick().expect("noticed");
        assert_eq!(code, EXIT_SHUTDOWN_HUNG);
        assert!(words.contains("pjsip"), "{words}");
    }
}
