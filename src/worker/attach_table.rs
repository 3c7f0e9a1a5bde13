//! Which call waits for a worker, and with which token. Joins the listener,
//! where workers come in, with the drivers, which hold a [`Ticket`] each.
//!
//! A token belongs to one attempt and works once: the claim is made under one
//! lock, so of two workers that race for it exactly one wins.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::received::CloseReason;
use super::socket::WorkerSocket;
use crate::core::ids::{CallId, Token};

/// How many calls that are over are remembered, for 410 instead of 404.
const OVER_MAX: usize = 10_000;
/// How long they are remembered.
const OVER_KEPT: Duration = Duration::from_secs(600);

/// Why a worker may not attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachDenied {
    /// No such call.
    Unknown,
    /// The token is not the one of the call's present attempt.
    WrongToken,
    /// The token has been used.
    Attached,
    /// The call has ended.
    Over,
}

/// A worker is attaching or attached, so the attempt cannot be replaced;
/// [`Ticket::attached`] will return its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has taken this attempt already")]
pub struct AlreadyClaimed;

/// All calls that wait for a worker, have one, or have just ended.
#[derive(Clone, Default)]
pub struct AttachTable {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    live: HashMap<CallId, Entry>,
    over: HashSet<CallId>,
    over_since: VecDeque<(Instant, CallId)>,
}

struct Entry {
    token: Token,
    claimed: bool,
    handover: mpsc::Sender<WorkerSocket>,
}

impl AttachTable {
    /// Makes a call known. Each call id is expected once.
    #[must_use]
    pub fn expect(&self, call: CallId, token: Token) -> Ticket {
        let (handover, sockets) = mpsc::channel(1);
        let entry = Entry {
            token,
            claimed: false,
            handover,
        };
        self.table().live.insert(call.clone(), entry);
        Ticket {
            attach_table: self.clone(),
            call,
            sockets,
            taken: false,
        }
    }

    /// Whether a call is known, or was a short time ago.
    #[must_use]
    pub fn knows(&self, call: &CallId) -> bool {
        let table = self.table();
        table.live.contains_key(call) || table.over.contains(call)
    }

    /// How many calls are known and not over.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.table().live.len()
    }

    /// Uses up a token. The claim is given back when it is dropped undelivered.
    pub(super) fn claim(&self, call: &CallId, offered: &str) -> Result<Claim, AttachDenied> {
        let mut table = self.table();
        let Some(entry) = table.live.get_mut(call) else {
            return Err(if table.over.contains(call) {
                AttachDenied::Over
            } else {
                AttachDenied::Unknown
            });
        };
        if !entry.token.matches(offered) {
            return Err(AttachDenied::WrongToken);
        }
        if entry.claimed {
            return Err(AttachDenied::Attached);
        }
        entry.claimed = true;
        Ok(Claim {
            attach_table: self.clone(),
            call: call.clone(),
            open: true,
        })
    }

    fn finish(&self, call: &CallId, now: Instant) {
        let mut table = self.table();
        table.live.remove(call);
        if table.over.insert(call.clone()) {
            table.over_since.push_back((now, call.clone()));
        }
        while let Some((since, _)) = table.over_since.front() {
            if table.over_since.len() <= OVER_MAX && now.duration_since(*since) < OVER_KEPT {
                break;
            }
            if let Some((_, oldest)) = table.over_since.pop_front() {
                table.over.remove(&oldest);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing below panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token taken by a worker whose handshake is being answered.
pub(super) struct Claim {
    attach_table: AttachTable,
    call: CallId,
    open: bool,
}

impl Claim {
    /// Hands the worker to the call's driver. Returns it when the call has
    /// ended meanwhile.
    pub(super) fn deliver(mut self, socket: WorkerSocket) -> Result<(), Box<WorkerSocket>> {
        self.open = false;
        let handover = match self.attach_table.table().live.get(&self.call) {
            Some(entry) => entry.handover.clone(),
            None => return Err(Box::new(socket)),
        };
        handover.try_send(socket).map_err(|error| {
            let (mpsc::error::TrySendError::Full(socket)
            | mpsc::error::TrySendError::Closed(socket)) = error;
            Box::new(socket)
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // The worker never learned that it had won: the token is still good.
        if let Some(entry) = self.attach_table.table().live.get_mut(&self.call) {
            entry.claimed = false;
        }
    }
}

/// A call's place in the [`AttachTable`], held by its driver. Dropping it makes
/// the call over.
pub struct Ticket {
    attach_table: AttachTable,
    call: CallId,
    sockets: mpsc::Receiver<WorkerSocket>,
    /// Whether the socket of the present attempt has been handed out.
    taken: bool,
}

impl Ticket {
    /// Waits for the worker of the present attempt. Cancel-safe.
    pub async fn attached(&mut self) -> WorkerSocket {
        match self.sockets.recv().await {
            Some(socket) => {
                self.taken = true;
                socket
            }
            // The table holds the sender for as long as this ticket lives.
            None => std::future::pending().await,
        }
    }

    /// Starts another attempt: the old token is worth nothing from now on.
    ///
    /// # Errors
    /// When a worker has taken the present attempt and [`Self::attached`] has
    /// not returned it yet.
    pub fn renew(&mut self, token: Token) -> Result<(), AlreadyClaimed> {
        let mut table = self.attach_table.table();
        if let Some(entry) = table.live.get_mut(&self.call) {
            if entry.claimed && !self.taken {
                return Err(AlreadyClaimed);
            }
            entry.token = token;
            entry.claimed = false;
            self.taken = false;
        }
        Ok(())
    }

    /// Whether a worker has taken the present attempt.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.attach_table
            .table()
            .live
            .get(&self.call)
            .is_some_and(|entry| entry.claimed)
    }

    /// The call is over: workers that still come get 410.
    pub fn finish(self) {}
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.attach_table.finish(&self.call, Instant::now());
        self.sockets.close();
        // A worker that attached a moment too late is told, not just cut off.
        if let (Ok(socket), Ok(runtime)) = (
            self.sockets.try_recv(),
            tokio::runtime::Handle::try_current(),
        ) {
            runtime.spawn(socket.close(CloseReason::CallOver));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(attach_table: &AttachTable, call: &CallId, token: &str) -> Option<AttachDenied> {
        attach_table.claim(call, token).err()
    }

    #[test]
    fn a_token_works_once_and_only_for_its_call() {
        let attach_table = AttachTable::default();
        let (call, token) = (CallId::random(), Token::random());
        let _ticket = attach_table.expect(call.clone(), token.clone());
        assert_eq!(
            denied(&attach_table, &CallId::random(), token.expose()),
            Some(AttachDenied::Unknown)
        );
        assert_eq!(
            denied(&attach_table, &call, "guess"),
            Some(AttachDenied::WrongToken)
        );
        let claim = attach_table.claim(&call, token.expose());
        assert!(claim.is_ok());
        assert_eq!(
            denied(&attach_table, &call, token.expose()),
            Some(AttachDenied::Attached)
        );
        assert_eq!(
            denied(&attach_table, &call, "guess"),
            Some(AttachDenied::WrongToken)
        );
    }

    #[test]
    fn an_undelivered_claim_gives_the_token_back() {
        let attach_table = AttachTable::default();
        let (call, token) = (CallId::random(), Token::random());
        let _ticket = attach_table.expect(call.clone(), token.clone());
        drop(attach_table.claim(&call, token.expose()));
        assert_eq!(denied(&attach_table, &call, token.expose()), None);
    }

    #[test]
    fn a_new_attempt_replaces_the_token_unless_a_worker_is_on_its_way() {
        let attach_table = AttachTable::default();
        let (call, first, second) = (CallId::random(), Token::random(), Token::random());
        let mut ticket = attach_table.expect(call.clone(), first.clone());
        assert_eq!(ticket.renew(second.clone()), Ok(()));
        assert_eq!(
            denied(&attach_table, &call, first.expose()),
            Some(AttachDenied::WrongToken)
        );
        let claim = attach_table.claim(&call, second.expose());
        assert!(ticket.is_claimed());
        assert_eq!(ticket.renew(Token::random()), Err(AlreadyClaimed));
        drop(claim);
        assert_eq!(ticket.renew(Token::random()), Ok(()));
    }

    #[test]
    fn an_ended_call_is_remembered_and_the_memory_is_bounded() {
        let attach_table = AttachTable::default();
        let (call, token) = (CallId::random(), Token::random());
        attach_table.expect(call.clone(), token.clone()).finish();
        assert_eq!(
            denied(&attach_table, &call, token.expose()),
            Some(AttachDenied::Over)
        );
        assert_eq!(attach_table.calls(), 0);

        let now = Instant::now();
        for _ in 0..OVER_MAX {
            attach_table.finish(&CallId::random(), now);
        }
        assert_eq!(attach_table.table().over.len(), OVER_MAX);
        assert_eq!(attach_table.table().over_since.len(), OVER_MAX);
        assert_eq!(
            denied(&attach_table, &call, ""),
            Some(AttachDenied::Unknown)
        );

        let last = CallId::random();
        attach_table.finish(&last, now + OVER_KEPT);
        assert_eq!(attach_table.table().over.len(), 1);
        assert_eq!(denied(&attach_table, &last, ""), Some(AttachDenied::Over));
    }
}
