//! Keeps the lines registered: asks the schedule (`lines::registration`) what
//! is due, tells the engine, and takes the results back in. Lines come and go
//! while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::core::ids::LineId;
use crate::lines::registration::{Change, LineCounts, LineState, RegisterResult, Scheduler};
use crate::lines::words;
use crate::queue::Queue;
use crate::sip::engine::{Command, Registration, SharedEngine};

/// Longest sleep without anything due.
const IDLE: Duration = Duration::from_secs(3_600);

/// What a line's registration is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Waiting for its turn or for an answer.
    Registering,
    /// The registrar sends its calls here.
    Registered,
    /// The last try failed; there will be another.
    Failed,
    /// The SIP engine could not add it; the engine will try again.
    Refused,
    /// Lines do not register (`--no-register`).
    Off,
    /// It takes calls, and registers once its password is decrypted.
    Decrypting,
}

impl RegistrationState {
    /// As the API and the log name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Off => "off",
            Self::Decrypting => "decrypting",
        }
    }
}

/// A line's registration, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRegistration {
    /// What it is at.
    pub state: RegistrationState,
    /// When it ends unless refreshed.
    pub expires_at: Option<SystemTime>,
    /// When it is tried again, after a failure.
    pub next_try_at: Option<SystemTime>,
    /// Why the last try failed, in plain words.
    pub last_error: Option<String>,
}

/// The lines' registrations: known to the task that keeps them, to the intake
/// that brings results, and to whoever asks for their state.
#[derive(Clone)]
pub struct RegistrarHandle {
    shared: Arc<Shared>,
}

struct Shared {
    schedule: Mutex<Scheduler>,
    /// Lines that the engine could not add so far.
    refused: Mutex<BTreeMap<LineId, Refusal>>,
    /// Lines that do not register at all.
    off: Mutex<BTreeSet<LineId>>,
    /// Lines that do not register yet: their passwords are being decrypted.
    sealed: Mutex<BTreeSet<LineId>>,
    changed: Notify,
    stopping: AtomicBool,
    /// Registrations that failed or were lost.
    failures: AtomicU64,
    queue: Option<Queue>,
}

/// Why a line is not in the engine.
struct Refusal {
    reason: String,
    next_try: std::time::Instant,
    /// Where it registers once it is added; none for a line that does not.
    server: Option<String>,
}

impl RegistrarHandle {
    /// Takes these lines; they register once [`RegistrarHandle::run`] runs.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = LineId>, queue: Option<Queue>) -> Self {
        let mut schedule = Scheduler::new(rand::random());
        let now = std::time::Instant::now();
        for line in lines {
            schedule.add(line, "", now);
        }
        let shared = Shared {
            schedule: Mutex::new(schedule),
            refused: Mutex::default(),
            off: Mutex::default(),
            sealed: Mutex::default(),
            changed: Notify::new(),
            stopping: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            queue,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes a line that is new to the engine, or that it has with other
    /// values now: it registers at this server as soon as its turn comes.
    pub fn add(&self, line: &LineId, server: &str) {
        lock(&self.shared.refused).remove(line);
        lock(&self.shared.sealed).remove(line);
        self.schedule()
            .add(line.clone(), server, std::time::Instant::now());
        self.shared.changed.notify_one();
    }

    /// Takes a line whose password is still to be decrypted: it has no turn before
    /// it is added with it.
    pub fn add_sealed(&self, line: &LineId) {
        lock(&self.shared.refused).remove(line);
        lock(&self.shared.sealed).insert(line.clone());
    }

    /// Takes a line that does not register.
    pub fn add_off(&self, line: &LineId) {
        lock(&self.shared.refused).remove(line);
        lock(&self.shared.off).insert(line.clone());
    }

    /// Forgets a line. Taking it off its server is the engine's business.
    pub fn remove(&self, line: &LineId) {
        lock(&self.shared.refused).remove(line);
        lock(&self.shared.off).remove(line);
        lock(&self.shared.sealed).remove(line);
        let was_there = self.schedule().remove(line);
        if let (true, Some(queue)) = (was_there, &self.shared.queue) {
            queue.set_registered(line, false);
        }
        self.shared.changed.notify_one();
    }

    /// Registers a line as soon as its turn comes, however long it was to
    /// wait, but for its password. False when there is no line of this id that registers.
    #[must_use]
    pub fn register_now(&self, line: &LineId) -> bool {
        let known = self
            .schedule()
            .register_now(line, std::time::Instant::now());
        self.shared.changed.notify_one();
        known || lock(&self.shared.sealed).contains(line)
    }

    /// What is known of a line's registration; `None` for a line that is not held.
    #[must_use]
    pub fn status(&self, line: &LineId) -> Option<LineRegistration> {
        let plain = |state, last_error| LineRegistration {
            state,
            expires_at: None,
            next_try_at: None,
            last_error,
        };
        let (now, clock) = (std::time::Instant::now(), SystemTime::now());
        let wall = |at: std::time::Instant| clock + at.saturating_duration_since(now);
        if let Some(refusal) = lock(&self.shared.refused).get(line) {
            return Some(LineRegistration {
                next_try_at: Some(wall(refusal.next_try)),
                ..plain(RegistrationState::Refused, Some(refusal.reason.clone()))
            });
        }
        if lock(&self.shared.off).contains(line) {
            return Some(plain(RegistrationState::Off, None));
        }
        if lock(&self.shared.sealed).contains(line) {
            return Some(plain(RegistrationState::Decrypting, None));
        }
        let schedule = self.schedule();
        Some(match schedule.state(line, now)? {
            LineState::Registering => plain(RegistrationState::Registering, None),
            LineState::Registered { until } => LineRegistration {
                expires_at: Some(wall(until)),
                ..plain(RegistrationState::Registered, None)
            },
            LineState::Failed {
                status,
                text,
                next_try,
            } => {
                let server = schedule.registrar(line).unwrap_or_default();
                let words = words::failure(status, &text, server);
                LineRegistration {
                    next_try_at: Some(wall(next_try)),
                    ..plain(RegistrationState::Failed, Some(words))
                }
            }
        })
    }

    /// The lines that register, at this moment.
    #[must_use]
    pub fn lines(&self) -> Vec<LineId> {
        self.schedule().lines()
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
                let failed = Registration::Failed {
                    status: 503,
                    text,
                    retry_after: None,
                };
                self.handle_result(line, failed);
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
            Registration::Failed {
                status,
                text,
                retry_after,
            } => {
                let answer = format!("{status} {text}");
                let result = RegisterResult::Failed {
                    status,
                    text,
                    retry_after,
                };
                (result, answer)
            }
            Registration::Unregistered => (RegisterResult::Unregistered, String::new()),
        };
        let change = self
            .schedule()
            .handle_result(&line, result, std::time::Instant::now());
        if let Some(change) = change {
            self.log_change(&line, change, &answer);
        }
        self.shared.changed.notify_one();
    }

    /// A line that the engine could not add. It registers no more until it is
    /// added. One that was removed meanwhile stays forgotten.
    pub fn handle_refused(&self, line: LineId, reason: String, retry_in: Duration) {
        let scheduled = self.take_scheduled(&line);
        let mut refused = lock(&self.shared.refused);
        let before = refused.remove(&line);
        let waits = |lines: &Mutex<BTreeSet<LineId>>| lock(lines).contains(&line);
        let is_held = before.is_some() || waits(&self.shared.off) || waits(&self.shared.sealed);
        if scheduled.is_none() && !is_held {
            return;
        }
        let server = scheduled.or_else(|| before.and_then(|refusal| refusal.server));
        let refusal = Refusal {
            reason,
            next_try: std::time::Instant::now() + retry_in,
            server,
        };
        refused.insert(line, refusal);
    }

    /// A line that was refused and is in the engine now: it registers as soon as
    /// its turn comes, where it registers at all.
    pub fn handle_added(&self, line: &LineId) {
        let refusal = lock(&self.shared.refused).remove(line);
        let server = match refusal {
            Some(refusal) => refusal.server,
            // The line was taken on after the refusal was heard of.
            None => self.take_scheduled(line),
        };
        if let Some(server) = server {
            self.add(line, &server);
        }
    }

    /// Takes a line out of the schedule; its server, where it was there.
    fn take_scheduled(&self, line: &LineId) -> Option<String> {
        let mut schedule = self.schedule();
        let server = schedule.registrar(line)?.to_owned();
        schedule.remove(line);
        drop(schedule);
        if let Some(queue) = &self.shared.queue {
            queue.set_registered(line, false);
        }
        Some(server)
    }

    /// How many lines are in each state.
    #[must_use]
    pub fn counts(&self) -> LineCounts {
        self.schedule().counts(std::time::Instant::now())
    }

    /// How many lines are not in the engine, since it could not add them.
    #[must_use]
    pub fn refused(&self) -> usize {
        lock(&self.shared.refused).len()
    }

    /// How many lines of the engine wait for their passwords.
    #[must_use]
    pub fn sealed(&self) -> usize {
        let refused = lock(&self.shared.refused);
        let sealed = lock(&self.shared.sealed);
        sealed
            .iter()
            .filter(|line| !refused.contains_key(line))
            .count()
    }

    /// How many registrations failed or were lost since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    fn log_change(&self, line: &LineId, change: Change, answer: &str) {
        let stopping = self.is_stopping();
        if !stopping && matches!(change, Change::Failed { .. } | Change::Lost { .. }) {
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_IN: Duration = Duration::from_secs(2);

    fn state(registrar: &RegistrarHandle, line: &LineId) -> Option<RegistrationState> {
        registrar.status(line).map(|status| status.state)
    }

    #[test]
    fn a_refused_line_says_when_it_is_tried_and_registers_once_it_is_added() {
        let line = LineId::new("7");
        let registrar = RegistrarHandle::new([], None);
        registrar.add(&line, "sip.example.com");
        for reason in ["no certificate", "no room"] {
            registrar.handle_refused(line.clone(), reason.into(), RETRY_IN);
            let status = registrar.status(&line).expect("it is held");
            assert_eq!(status.state, RegistrationState::Refused);
            assert_eq!(status.last_error.as_deref(), Some(reason));
            assert!(status.next_try_at.is_some_and(|at| at > SystemTime::now()));
            assert_eq!((registrar.refused(), registrar.lines().len()), (1, 0));
        }
        registrar.handle_added(&line);
        assert_eq!(
            state(&registrar, &line),
            Some(RegistrationState::Registering)
        );
        assert_eq!(registrar.refused(), 0);
        assert_eq!(
            registrar.schedule().registrar(&line),
            Some("sip.example.com")
        );
    }

    #[test]
    fn a_refused_line_that_does_not_register_is_off_again_once_it_is_added() {
        let line = LineId::new("7");
        let registrar = RegistrarHandle::new([], None);
        registrar.add_off(&line);
        registrar.handle_refused(line.clone(), "no room".into(), RETRY_IN);
        assert_eq!(state(&registrar, &line), Some(RegistrationState::Refused));
        registrar.handle_added(&line);
        assert_eq!(state(&registrar, &line), Some(RegistrationState::Off));
    }

    #[test]
    fn a_sealed_line_has_no_turn_before_its_password_is_there() {
        let [sealed, open] = ["sealed", "open"].map(LineId::new);
        let registrar = RegistrarHandle::new([], None);
        registrar.add_sealed(&sealed);
        registrar.add(&open, "sip.example.com");
        let turn = |registrar: &RegistrarHandle, after_s: u64| {
            let now = std::time::Instant::now() + Duration::from_secs(after_s);
            registrar.schedule().poll(now)
        };
        assert_eq!(turn(&registrar, 1), Some(open));
        assert_eq!(turn(&registrar, 2), None);
        assert_eq!(
            state(&registrar, &sealed),
            Some(RegistrationState::Decrypting)
        );
        // The engine could not add it, and then could: it still has no password.
        registrar.handle_refused(sealed.clone(), "no room".into(), RETRY_IN);
        assert_eq!(state(&registrar, &sealed), Some(RegistrationState::Refused));
        registrar.handle_added(&sealed);
        assert_eq!((turn(&registrar, 3), registrar.sealed()), (None, 1));
        assert!(registrar.register_now(&sealed), "it is on its way");
        assert_eq!(turn(&registrar, 3), None);
        registrar.add(&sealed, "sip.example.com");
        assert_eq!(
            state(&registrar, &sealed),
            Some(RegistrationState::Registering)
        );
        assert_eq!((turn(&registrar, 4), registrar.sealed()), (Some(sealed), 0));
    }

    #[test]
    fn late_news_of_a_removed_line_do_not_bring_it_back() {
        let line = LineId::new("7");
        let registrar = RegistrarHandle::new([], None);
        registrar.add(&line, "sip.example.com");
        registrar.remove(&line);
        registrar.handle_refused(line.clone(), "no room".into(), RETRY_IN);
        registrar.handle_added(&line);
        assert_eq!((state(&registrar, &line), registrar.refused()), (None, 0));
    }
}
