//! Keeps the lines registered: asks the table which line is due, gives the engine the
//! command, and takes the results back in. Lines come and go while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::registration::{RegisterResult, RegistrationChange, RegistrationCounts};
use super::results::RegisterOutcomes;
use super::shared::SharedFleet;
use super::status::{self, LineRegistration};
use crate::core::ids::LineId;
use crate::queue::Queue;
use crate::sip::engine::{Command, Registration, SharedEngine};

/// Longest sleep without anything due.
const IDLE: Duration = Duration::from_secs(3_600);

/// The lines' registrations: known to the task that keeps them, to the intake
/// that brings results, and to whoever asks for their state.
#[derive(Clone)]
pub struct RegistrarHandle {
    fleet: SharedFleet,
    shared: Arc<Shared>,
}

struct Shared {
    changed: Notify,
    stopping: AtomicBool,
    /// Registrations that failed or were lost.
    failures: AtomicU64,
    queue: Option<Queue>,
    outcomes: RegisterOutcomes,
}

impl RegistrarHandle {
    /// The registrations of these lines; each change goes to the queue's state in Redis.
    #[must_use]
    pub fn new(fleet: &SharedFleet, queue: Option<Queue>) -> Self {
        let shared = Shared {
            changed: Notify::new(),
            stopping: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            queue,
            outcomes: RegisterOutcomes::default(),
        };
        Self {
            fleet: fleet.clone(),
            shared: Arc::new(shared),
        }
    }

    /// Takes a line that is new to the engine, or that it has with other
    /// values now: it registers at this server in its turn, once its password is there. One without a
    /// server does not register.
    pub(super) fn schedule(&self, line: &LineId, server: Option<&str>, is_sealed: bool) {
        let mut fleet = self.fleet.lock();
        match server {
            None => fleet.register_never(line),
            Some(_) if is_sealed => fleet.await_password(line),
            Some(server) => fleet.register(line, server, Instant::now().into_std()),
        }
        drop(fleet);
        self.shared.outcomes.note_lines();
        self.shared.changed.notify_one();
    }

    /// A line that is held no more. Taking it off its server is the engine's business.
    pub(super) fn note_removed(&self, line: &LineId, was_scheduled: bool) {
        self.publish_unregistered(line, was_scheduled);
        self.shared.outcomes.note_lines();
        self.shared.changed.notify_one();
    }

    fn publish_unregistered(&self, line: &LineId, was_scheduled: bool) {
        if let (true, Some(queue)) = (was_scheduled, &self.shared.queue) {
            queue.set_registered(line, false);
        }
    }

    /// Registers a line as soon as its turn comes, however long it was to
    /// wait, but for its password. False when there is no line of this id that registers.
    #[must_use]
    pub fn register_now(&self, line: &LineId) -> bool {
        let now = Instant::now().into_std();
        let known = self.fleet.lock().register_now(line, now);
        self.shared.changed.notify_one();
        known
    }

    /// The lease of a line is ours: it registers now, also where it is registered already. False when no such line
    /// is held.
    #[must_use]
    pub fn take_lease(&self, line: &LineId) -> bool {
        let now = Instant::now().into_std();
        let mut fleet = self.fleet.lock();
        let is_held = fleet.take_lease(line, now);
        if is_held {
            // One whose password is being decrypted registers by itself.
            let _ = fleet.register_now(line, now);
        }
        drop(fleet);
        self.shared.changed.notify_one();
        is_held
    }

    /// The lease of a line is ours no more: no REGISTER of it is begun.
    pub fn give_lease(&self, line: &LineId) {
        let was_scheduled = self.fleet.lock().give_lease(line);
        self.publish_unregistered(line, was_scheduled);
        self.shared.changed.notify_one();
    }

    /// Whether the SIP engine has a line, and answers for it.
    #[must_use]
    pub fn is_in_engine(&self, line: &LineId) -> bool {
        self.fleet.lock().is_in_engine(line)
    }

    /// The lines that this bridge could register.
    #[must_use]
    pub fn shareable(&self) -> Vec<LineId> {
        self.fleet.lock().shareable()
    }

    /// What REGISTERs came to.
    #[must_use]
    pub fn outcomes(&self) -> &RegisterOutcomes {
        &self.shared.outcomes
    }

    /// What is known of a line's registration; `None` for a line that is not held.
    #[must_use]
    pub fn status(&self, line: &LineId) -> Option<LineRegistration> {
        status::of_line(&self.fleet.lock(), line, Instant::now().into_std())
    }

    /// The lines that register, at this moment.
    #[must_use]
    pub fn lines(&self) -> Vec<LineId> {
        self.fleet.lock().registering()
    }

    /// Sends REGISTER for what is due, for ever. Dropping the future stops it.
    pub async fn run(&self, engine: SharedEngine) {
        loop {
            self.register_due(&engine);
            let next = self.fleet.lock().poll_timeout().map(Instant::from_std);
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.shared.changed.notified() => {}
            }
        }
    }

    fn register_due(&self, engine: &SharedEngine) {
        loop {
            let due = self.fleet.lock().poll_register(Instant::now().into_std());
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
        self.shared.outcomes.put(&line, &state);
        let (result, answer) = match state {
            Registration::Registered { expires, .. } => {
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
        let now = Instant::now().into_std();
        let change = self.fleet.lock().handle_result(&line, result, now);
        if let Some(change) = change {
            self.log_change(&line, change, &answer);
        }
        self.shared.changed.notify_one();
    }

    /// A line that the engine could not add. It registers no more until it is
    /// added. One that was removed meanwhile stays forgotten.
    pub fn handle_refused(&self, line: &LineId, reason: String, retry_in: Duration) {
        let next_try = Instant::now().into_std() + retry_in;
        let was_scheduled = self.fleet.lock().handle_refused(line, reason, next_try);
        self.publish_unregistered(line, was_scheduled);
        self.shared.outcomes.note_lines();
    }

    /// A line that was refused and is in the engine now: it registers as soon as
    /// its turn comes, where it registers at all.
    pub fn handle_added(&self, line: &LineId) {
        let now = Instant::now().into_std();
        let was_scheduled = self.fleet.lock().handle_added(line, now);
        self.publish_unregistered(line, was_scheduled);
        self.shared.outcomes.note_lines();
        self.shared.changed.notify_one();
    }

    /// How many lines are in each state.
    #[must_use]
    pub fn counts(&self) -> RegistrationCounts {
        self.fleet.lock().counts(Instant::now().into_std())
    }

    /// How many registrations failed or were lost since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    fn log_change(&self, line: &LineId, change: RegistrationChange, answer: &str) {
        let stopping = self.is_stopping();
        if !stopping
            && matches!(
                change,
                RegistrationChange::Failed { .. } | RegistrationChange::Lost { .. }
            )
        {
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
        }
        match change {
            RegistrationChange::Failed { .. } | RegistrationChange::Lost { .. } if stopping => {
                debug!(%line, "unregistered")
            }
            RegistrationChange::Registered => info!(%line, "registered"),
            RegistrationChange::Refreshed => return,
            RegistrationChange::Failed { failures, retry_in } => {
                let retry_in_s = retry_in.as_secs();
                warn!(%line, answer, failures, retry_in_s, "registration failed");
            }
            RegistrationChange::Lost { retry_in } => {
                warn!(%line, retry_in_s = retry_in.as_secs(), "registration lost");
            }
        }
        if let Some(queue) = &self.shared.queue {
            queue.set_registered(line, change == RegistrationChange::Registered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::admission::Limits;
    use crate::fleet::status::RegistrationState;
    use crate::fleet::test_lines::{profile, ready};

    const RETRY_IN: Duration = Duration::from_secs(2);

    /// A registrar of lines that are held, and that nobody scheduled yet.
    fn registrar(ids: &[&str]) -> RegistrarHandle {
        let fleet = SharedFleet::new(Limits::default());
        for id in ids {
            let ready = ready(id);
            let profile = profile(&ready);
            fleet.hold(ready, profile);
        }
        RegistrarHandle::new(&fleet, None)
    }

    const SERVER: Option<&str> = Some("sip.example.com");

    fn state(registrar: &RegistrarHandle, line: &LineId) -> Option<RegistrationState> {
        registrar.status(line).map(|status| status.state)
    }

    #[test]
    fn a_refused_line_says_when_it_is_tried_and_registers_once_it_is_added() {
        let line = LineId::new("7");
        let registrar = registrar(&["7"]);
        registrar.schedule(&line, SERVER, false);
        for reason in ["no certificate", "no room"] {
            registrar.handle_refused(&line, reason.into(), RETRY_IN);
            let status = registrar.status(&line).expect("it is held");
            assert_eq!(status.state, RegistrationState::Refused);
            assert_eq!(status.last_error.as_deref(), Some(reason));
            let now = std::time::SystemTime::now();
            assert!(status.next_try_at.is_some_and(|at| at > now));
            assert_eq!(
                (registrar.counts().refused, registrar.lines().len()),
                (1, 0)
            );
        }
        registrar.handle_added(&line);
        assert_eq!(
            state(&registrar, &line),
            Some(RegistrationState::Registering)
        );
        assert_eq!(registrar.counts().refused, 0);
        let fleet = registrar.fleet.lock();
        let (_, server) = fleet
            .registration(&line, Instant::now().into_std())
            .unwrap();
        assert_eq!(server, "sip.example.com");
    }

    #[test]
    fn a_refused_line_that_does_not_register_is_off_again_once_it_is_added() {
        let line = LineId::new("7");
        let registrar = registrar(&["7"]);
        registrar.schedule(&line, None, false);
        registrar.handle_refused(&line, "no room".into(), RETRY_IN);
        assert_eq!(state(&registrar, &line), Some(RegistrationState::Refused));
        registrar.handle_added(&line);
        assert_eq!(state(&registrar, &line), Some(RegistrationState::Off));
    }

    #[test]
    fn a_sealed_line_has_no_turn_before_its_password_is_there() {
        let [sealed, open] = ["sealed", "open"].map(LineId::new);
        let registrar = registrar(&["sealed", "open"]);
        registrar.schedule(&sealed, SERVER, true);
        registrar.schedule(&open, SERVER, false);
        let turn = |registrar: &RegistrarHandle, after_s: u64| {
            let now = Instant::now().into_std() + Duration::from_secs(after_s);
            registrar.fleet.lock().poll_register(now)
        };
        assert_eq!(turn(&registrar, 1), Some(open));
        assert_eq!(turn(&registrar, 2), None);
        assert_eq!(
            state(&registrar, &sealed),
            Some(RegistrationState::Decrypting)
        );
        // The engine could not add it, and then could: it still has no password.
        registrar.handle_refused(&sealed, "no room".into(), RETRY_IN);
        assert_eq!(state(&registrar, &sealed), Some(RegistrationState::Refused));
        registrar.handle_added(&sealed);
        assert_eq!(
            (turn(&registrar, 3), registrar.counts().decrypting),
            (None, 1)
        );
        assert!(registrar.register_now(&sealed), "it is on its way");
        assert_eq!(turn(&registrar, 3), None);
        registrar.schedule(&sealed, SERVER, false);
        assert_eq!(
            state(&registrar, &sealed),
            Some(RegistrationState::Registering)
        );
        assert_eq!(turn(&registrar, 4), Some(sealed));
        assert_eq!(registrar.counts().decrypting, 0);
    }

    #[test]
    fn late_news_of_a_removed_line_do_not_bring_it_back() {
        let line = LineId::new("7");
        let registrar = registrar(&["7"]);
        registrar.schedule(&line, SERVER, false);
        let was_scheduled = registrar.fleet.lock().remove(&line);
        registrar.note_removed(&line, was_scheduled);
        registrar.handle_refused(&line, "no room".into(), RETRY_IN);
        registrar.handle_added(&line);
        assert_eq!(
            (state(&registrar, &line), registrar.counts().refused),
            (None, 0)
        );
    }
}
