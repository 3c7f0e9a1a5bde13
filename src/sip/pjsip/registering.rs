//! Sends the REGISTERs that are wanted, one at a time for each account: pjsip
//! has one transaction for an account's registration, and refuses another.
//! What is wanted meanwhile is kept in [`Wishes`] and sent after the answer. pjsip
//! refreshes by itself: those REGISTERs are seen on their way out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::accounts;
use super::ffi;
use super::messages::Message;
use super::sending::Sending;
use super::shared::{ControlCommand, Shared};
use super::text;
use super::transactions;
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

    /// Whether the registration of an account is forgotten.
    pub fn is_forgotten(&self, account: i32) -> bool {
        let wishes = self.lock();
        let wish = wishes.get(&account);
        wish.is_some_and(RegistrationWish::is_forgotten)
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
        tell(shared, account, unsent(wish, status));
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
        Wish::Forget => {
            if let Err(status) = accounts::forget_registration(account) {
                // Its refresh is refused when it is due, and pjsip gives up then.
                tracing::warn!(reason = %text::status_text(status), "pjsip keeps a registration");
            }
            tell(shared, account, Registration::Unregistered);
            return Ok(());
        }
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

/// What pjsip says of a request that [`may_send`] refuses: pjlib's number of the system's "operation not permitted".
pub const NOT_SENT: ffi::pj_status_t = 120_001;

/// Whether a request may go out: any but a refresh of a registration that is
/// forgotten, and a REGISTER of a process that stood still and has not asked Redis yet.
/// A REGISTER is under way from here on until its answer. Any thread.
pub fn may_send(shared: &Shared, request: Sending<'_>, message: Message<'_>) -> bool {
    let is_register = message.method() == Some(ffi::PJSIP_REGISTER_METHOD);
    if !is_register || message.unregisters() {
        return true;
    }
    let token = message.contact_uri().and_then(|uri| uri.uri().parts().line);
    let Some(account) = token.and_then(|token| shared.policies.account_of(&token)) else {
        return true;
    };
    // One that is sent again may be of an account that the line had before.
    let is_sent_again =
        transactions::of_request(request).is_some_and(|tsx| tsx.retransmit_count > 0);
    if is_sent_again {
        return true;
    }
    let now = Instant::now();
    if shared.with_run(|run| run.register_gate.is_open(now)) == Some(false) {
        return false;
    }
    let mut wishes = shared.wishes.lock();
    wishes.entry(account).or_default().may_send(now)
}

/// Tells the line of an account what became of what was wanted. An account
/// whose line is gone waits for no answer any more.
fn tell(shared: &Shared, account: i32, state: Registration) {
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
        Wish::Unregister | Wish::Forget => Registration::Unregistered,
    }
}
