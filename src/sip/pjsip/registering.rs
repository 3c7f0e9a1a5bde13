//! Sends the REGISTERs that are wanted, one at a time for each account: pjsip
//! has one transaction for an account's registration, and refuses another.
//! What is wanted meanwhile is kept in [`Wishes`] and sent after the answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::ffi;
use super::shared::{ControlCommand, Shared};
use super::text;
use crate::core::registration_wish::{RegistrationWish, Wish};
use crate::sip::engine::{EngineEvent, Registration};

/// pjsip's "object is busy": a refresh of its own is under way.
const PJSIP_EBUSY: ffi::pj_status_t = 171_001;

/// What is wanted of each account, by pjsua's id.
#[derive(Default)]
pub struct Wishes(Mutex<HashMap<i32, RegistrationWish>>);

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, RegistrationWish>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A final answer came for an account; says what is to be sent next.
    pub fn answered(&self, account: i32) -> Option<Wish> {
        self.lock().get_mut(&account)?.answered()
    }

    /// An account is deleted, or its registration was forgotten by pjsua.
    pub fn forget(&self, account: i32) {
        self.lock().remove(&account);
    }

    /// How many accounts wait for an answer, or to be sent.
    pub fn open(&self) -> usize {
        let now = Instant::now();
        let wishes = self.lock();
        wishes.values().filter(|wish| wish.is_open(now)).count()
    }

    /// Whether an account waits for an answer, or to be sent.
    pub fn is_open(&self, account: i32) -> bool {
        let wishes = self.lock();
        let wish = wishes.get(&account);
        wish.is_some_and(|wish| wish.is_open(Instant::now()))
    }

    fn waiting(&self) -> Vec<i32> {
        let wishes = self.lock();
        wishes.keys().copied().collect()
    }
}

/// Asks for a REGISTER of an account, now or after the answer to the one that is
/// out. Run by the control thread.
///
/// # Errors
/// With pjsip's status when it cannot be sent.
pub fn request(shared: &Shared, account: i32, wish: Wish) -> Result<(), ffi::pj_status_t> {
    let due = {
        let mut wishes = shared.wishes.lock();
        wishes
            .entry(account)
            .or_default()
            .want(wish, Instant::now())
    };
    due.map_or(Ok(()), |wish| send(shared, account, wish))
}

/// Sends what waits for an account, where nothing is under way. Run by the
/// control thread.
pub fn go_on(shared: &Shared, account: i32) {
    let due = {
        let mut wishes = shared.wishes.lock();
        wishes
            .get_mut(&account)
            .and_then(|wish| wish.next(Instant::now()))
    };
    if let Some(wish) = due
        && let Err(status) = send(shared, account, wish)
    {
        tell_unsent(shared, account, wish, status);
    }
}

/// The same for all accounts: what a full queue kept from being sent at once.
pub fn go_on_all(shared: &Shared) {
    for account in shared.wishes.waiting() {
        go_on(shared, account);
    }
}

/// A final answer came: asks the control thread to go on where something waits,
/// and says what. Any thread.
pub fn answered(shared: &Shared, account: i32) -> Option<Wish> {
    let next = shared.wishes.answered(account)?;
    // Where its queue is full, the thread looks by itself twice a second.
    shared.with_run(|run| drop(run.orders.try_send(ControlCommand::Register(account))));
    Some(next)
}

fn send(shared: &Shared, account: i32, wish: Wish) -> Result<(), ffi::pj_status_t> {
    let renew = match wish {
        Wish::Register => ffi::TRUE,
        Wish::Unregister => ffi::FALSE,
    };
    // SAFETY: pjsua checks the id.
    match unsafe { ffi::pjsua_acc_set_registration(account, renew) } {
        ffi::PJ_SUCCESS => Ok(()),
        PJSIP_EBUSY => {
            if let Some(state) = shared.wishes.lock().get_mut(&account) {
                state.was_busy(wish);
            }
            Ok(())
        }
        status => {
            shared.wishes.answered(account);
            Err(status)
        }
    }
}

/// Tells the line of an account that a REGISTER could not be sent. An account
/// whose line is gone waits for no answer any more.
fn tell_unsent(shared: &Shared, account: i32, wish: Wish, status: ffi::pj_status_t) {
    let line = shared.change_lines(|lines| {
        let line = lines.by_account.get(&account).cloned()?;
        let current = lines.table.data(&line).map(|line| line.account);
        if current == Some(account) {
            return Some(line);
        }
        lines.by_account.remove(&account);
        None
    });
    if let Some(line) = line {
        let state = unsent(wish, status);
        shared.announce(EngineEvent::Registration { line, state });
    }
}

/// What a REGISTER that could not be sent means for the line.
pub fn unsent(wish: Wish, status: ffi::pj_status_t) -> Registration {
    match wish {
        Wish::Register => Registration::Failed {
            status: 503,
            text: text::status_text(status),
            retry_after: None,
        },
        // There was no registration to take back.
        Wish::Unregister => Registration::Unregistered,
    }
}
