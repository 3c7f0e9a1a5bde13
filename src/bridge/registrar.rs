//! Keeps the lines registered: asks the schedule (`lines::registration`) what
//! is due, tells the engine, and takes the results back in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::core::ids::LineId;
use crate::lines::registration::{Change, LineCounts, RegisterResult, Scheduler};
use crate::queue::Queue;
use crate::sip::engine::{Command, Registration, SharedEngine};

/// Longest sleep without anything due.
const IDLE: Duration = Duration::from_secs(3_600);

/// The lines' registrations: known to the task that keeps them, to the intake
/// that brings results, and to whoever asks for their state.
#[derive(Clone)]
pub struct RegistrarHandle {
    shared: Arc<Shared>,
}

struct Shared {
    schedule: Mutex<Scheduler>,
    /// Lines that the engine would not add, and why.
    refused: Mutex<BTreeMap<LineId, String>>,
    changed: Notify,
    stopping: AtomicBool,
    queue: Option<Queue>,
}

impl RegistrarHandle {
    /// Takes these lines; they register once [`RegistrarHandle::run`] runs.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = LineId>, queue: Option<Queue>) -> Self {
        let mut schedule = Scheduler::new(rand::random());
        let now = std::time::Instant::now();
        for line in lines {
            schedule.add(line, now);
        }
        let shared = Shared {
            schedule: Mutex::new(schedule),
            refused: Mutex::default(),
            changed: Notify::new(),
            stopping: AtomicBool::new(false),
            queue,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Sends REGISTER for what is due, for ever. Dropping the future stops it.
    pub async fn run(&self, engine: SharedEngine) {
        loop {
            self.register_due(&engine);
            let next = self.schedule().poll_timeout().map(Instant::from_std);
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.shared.changed.notified() => {}
            }
        }
    }

    fn register_due(&self, engine: &SharedEngine) {
        loop {
            let due = self.schedule().poll(std::time::Instant::now());
            let Some(line) = due else { return };
            debug!(%line, "registering");
            if let Err(error) = engine.submit(Command::Register(line.clone())) {
                warn!(%line, %error, "REGISTER not sent");
                let text = error.to_string();
                self.handle_result(line, Registration::Failed { status: 503, text });
            }
        }
    }

    /// The lines unregister on purpose from now on: no news to anybody.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Whether [`RegistrarHandle::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Takes in what a REGISTER came to.
    pub fn handle_result(&self, line: LineId, state: Registration) {
        let (result, answer) = match state {
            Registration::Registered { expires } => {
                (RegisterResult::Registered { expires }, String::new())
            }
            Registration::Failed { status, text } => {
                let answer = format!("{status} {text}");
                (
                    RegisterResult::Failed {
                        status,
                        text,
                        retry_after: None,
                    },
                    answer,
                )
            }
            Registration::Unregistered => (RegisterResult::Unregistered, String::new()),
        };
        let change = self
            .schedule()
            .handle_result(&line, result, std::time::Instant::now());
        if let Some(change) = change {
            self.tell(&line, change, &answer);
        }
        self.shared.changed.notify_one();
    }

    /// A line that the engine would not add.
    pub fn handle_refused(&self, line: LineId, reason: String) {
        self.schedule().remove(&line);
        lock(&self.shared.refused).insert(line, reason);
    }

    /// How many lines are in each state.
    #[must_use]
    pub fn counts(&self) -> LineCounts {
        self.schedule().counts(std::time::Instant::now())
    }

    /// How many lines the engine would not add.
    #[must_use]
    pub fn refused(&self) -> usize {
        lock(&self.shared.refused).len()
    }

    fn tell(&self, line: &LineId, change: Change, answer: &str) {
        let stopping = self.is_stopping();
        match change {
            Change::Failed { .. } | Change::Lost { .. } if stopping => {
                debug!(%line, "unregistered")
            }
            Change::Registered => info!(%line, "registered"),
            Change::Refreshed => return,
            Change::Failed { failures, retry_in } => {
                let retry_in_s = retry_in.as_secs();
                warn!(%line, answer, failures, retry_in_s, "registration failed");
            }
            Change::Lost { retry_in } => {
                warn!(%line, retry_in_s = retry_in.as_secs(), "registration lost");
            }
        }
        if let Some(queue) = &self.shared.queue {
            queue.set_registered(line, change == Change::Registered);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Scheduler> {
        lock(&self.shared.schedule)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
