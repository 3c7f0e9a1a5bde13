//! The control thread: starts the stack, issues every command to it, ends it.
//! pjlib's main thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::accounts::{self, ClosingAccount};
use super::calls;
use super::engine::PjsipError;
use super::hangups;
use super::registering;
use super::shared::{ControlCommand, Shared, shared};
use super::stack::{self, OpenPorts};
use super::{outgoing, resolver};
use crate::core::refused_lines::RefusedLines;
use crate::core::registration_wish::Wish;
use crate::sip::engine::{Account, Command, EngineConfig, EngineEvent};

/// How long the thread waits for an order before it beats again.
const BEAT: Duration = Duration::from_millis(500);

/// How long lines that are still registered may take to unregister at the end.
const UNREGISTER_MAX: Duration = Duration::from_secs(2);

/// Most refused lines that are tried again in one beat: commands wait meanwhile.
const RETRIES_AT_ONCE: usize = 32;

/// What the thread works with.
pub struct ControlThread {
    config: EngineConfig,
    orders: Receiver<ControlCommand>,
    stopping: Arc<AtomicBool>,
    ports: Arc<OpenPorts>,
    /// Accounts of removed lines that somebody may still need.
    closing: Vec<ClosingAccount>,
    /// Lines that could not be added.
    refused: RefusedLines<Account>,
}

impl ControlThread {
    pub fn new(
        config: EngineConfig,
        orders: Receiver<ControlCommand>,
        stopping: Arc<AtomicBool>,
        ports: Arc<OpenPorts>,
    ) -> Self {
        Self {
            config,
            orders,
            stopping,
            ports,
            closing: Vec::new(),
            refused: RefusedLines::default(),
        }
    }

    /// The thread's body. Says on `started` how the start went, then works
    /// until it is stopped.
    pub fn run(mut self, started: &SyncSender<Result<(), PjsipError>>) {
        let result = stack::start(&self.config, &self.ports);
        let failed = result.is_err();
        if started.send(result).is_err() || failed {
            return;
        }
        let shared = shared();
        let mut tidied = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            let beats = &shared.counters.control_beats;
            beats.fetch_add(1, Ordering::Relaxed);
            match self.orders.recv_timeout(BEAT) {
                Ok(order) => self.handle(shared, order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if tidied.elapsed() >= BEAT {
                self.tidy_up(shared);
                tidied = Instant::now();
            }
        }
        end(shared);
    }

    /// What nobody asks for: deletes retired accounts, tries refused lines again, ends calls that pjsua would
    /// not end before, legs that no driver holds any more, and transfers that ended without an outcome.
    fn tidy_up(&mut self, shared: &Shared) {
        resolver::tell_found(shared);
        registering::go_on_all(shared);
        let busy = if self.closing.is_empty() {
            HashSet::new()
        } else {
            shared.slots.busy_lines()
        };
        self.closing
            .retain_mut(|closing| !accounts::delete_unneeded(shared, closing, &busy));
        self.retry_refused(shared);
        hangups::retry(shared);
        for leg in shared.slots.orphans() {
            calls::abort(shared, leg, "its driver is gone");
        }
        for leg in shared.slots.unknown_transfers(Instant::now()) {
            calls::end_transfer(shared, leg, 500);
        }
    }

    fn handle(&mut self, shared: &Shared, order: ControlCommand) {
        match order {
            ControlCommand::Abort { leg, why } => calls::abort(shared, leg, why),
            ControlCommand::Register(account) => registering::go_on(shared, account),
            ControlCommand::TellResolved => resolver::tell_found(shared),
            ControlCommand::Command(command) => self.execute(shared, command),
        }
    }

    fn execute(&mut self, shared: &Shared, command: Command) {
        match command {
            Command::AddLine(account) => self.add_line(shared, *account),
            Command::RemoveLine(line) => {
                self.refused.forget(&line);
                self.closing.extend(accounts::retire(shared, &line));
            }
            Command::Register(line) => accounts::register(shared, &line, Wish::Register),
            Command::Unregister(line) => accounts::register(shared, &line, Wish::Unregister),
            Command::Forget(line) => accounts::register(shared, &line, Wish::Forget),
            Command::Answer { leg, status } => calls::answer(shared, leg, status),
            Command::Reject {
                leg,
                status,
                retry_after,
            } => calls::hang_up(shared, leg, status, retry_after),
            Command::Hangup { leg, status } => calls::hang_up(shared, leg, status, None),
            // Who no longer waits for it needs no answer.
            Command::Flush(done) => drop(done.send(())),
            Command::Transfer { leg, destination } => calls::transfer(shared, leg, &destination),
            Command::Hold { leg, on } => calls::hold(shared, leg, on),
            Command::Call(call) => outgoing::place(shared, *call),
        }
    }
}

impl ControlThread {
    fn retry_refused(&mut self, shared: &Shared) {
        let due = self.refused.due(RETRIES_AT_ONCE, Instant::now());
        let due: Vec<Account> = due.into_iter().cloned().collect();
        for account in due {
            self.add_line(shared, account);
        }
    }

    /// Adds a line, or keeps it to be tried again.
    fn add_line(&mut self, shared: &Shared, account: Account) {
        let line = account.line.clone();
        if let Err(reason) = self.try_to_add(shared, &account) {
            let retry_in = self.refused.refused(line.clone(), account, Instant::now());
            accounts::refuse(shared, line, reason, retry_in);
            return;
        }
        if self.refused.forget(&line) {
            let added = EngineEvent::LineAdded { line: line.clone() };
            if !shared.announce(added) && shared.has_listener() {
                // Unheard it would never register: said again after the next try.
                self.refused.refused(line, account, Instant::now());
            }
        }
    }

    /// Opens the transport that the line needs where it is not open yet.
    fn try_to_add(&mut self, shared: &Shared, account: &Account) -> Result<(), String> {
        let ready = accounts::check(account).and_then(|()| {
            stack::open_if_missing(&self.config, account.transport, &self.ports)
                .map_err(|error| error.to_string())
        });
        if let Err(reason) = ready {
            self.closing.extend(accounts::retire(shared, &account.line));
            return Err(reason);
        }
        accounts::add(shared, &self.config, account, &mut self.closing)
    }
}

/// Teardown. Order: no new calls, our calls end (which closes their sinks and
/// channels), lines that are still registered unregister, C stops and joins its threads, then what Rust keeps for
/// callbacks goes.
fn end(shared: &Shared) {
    shared.draining.store(true, Ordering::Release);
    for leg in shared.slots.announced() {
        calls::hang_up(shared, leg, 503, None);
    }
    let left = accounts::unregister_all(shared, Instant::now() + UNREGISTER_MAX);
    if left > 0 {
        tracing::warn!(
            lines = left,
            "no time was left to unregister these lines: their registrations expire by themselves"
        );
    }
    resolver::close(shared);
    // pjsua would send them all at once, and cannot where one is under way.
    stack::destroy(left > 0 || shared.wishes.open() > 0);
    for leg in shared.slots.all() {
        shared.slots.end(leg, None);
    }
    shared.change_lines(|lines| *lines = super::shared::Lines::default());
    shared.set_run(None);
}
