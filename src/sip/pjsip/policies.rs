//! The credential policy of each account, and what a dialog is marked with so
//! that its policy is found again: see `credentials`, which asks.

use std::collections::HashMap;
use std::ffi::c_void;
use std::net::IpAddr;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::core::credential_policy::{Challenge, CredentialPolicy, CredentialWithheld};
use crate::dns::Watched;
use crate::sip::engine::Account;
use crate::sip::uri::UriParts;

/// The policies of all accounts.
#[derive(Default)]
pub struct Policies(Mutex<Table>);

#[derive(Default)]
pub(super) struct Table {
    last_number: usize,
    pub(super) policies: HashMap<usize, Policy>,
    by_account: HashMap<i32, usize>,
    /// The newest account of each line.
    pub(super) by_token: HashMap<String, usize>,
    /// Incoming calls whose dialog has no mark yet, by pjsua's call id.
    incoming: HashMap<i32, Mark>,
}

/// The policy of one account, and where its server is by DNS.
pub(super) struct Policy {
    account: i32,
    pub(super) learned: CredentialPolicy,
    /// Whether the last 200 to a REGISTER listed a Contact of another bridge.
    pub(super) siblings_listed: bool,
    located: Option<Watched>,
}

impl Policy {
    fn is_server(&self, address: IpAddr) -> bool {
        let located = self.located.as_ref();
        located.is_some_and(|server| server.contains(address))
            || self.learned.is_server(address, Instant::now())
    }

    pub(super) fn judge(&mut self, challenge: &Challenge<'_>) -> Result<(), CredentialWithheld> {
        let now = Instant::now();
        for address in [challenge.sent_to, challenge.came_from] {
            if self.is_server(address) {
                self.learned.learn_address(address, now);
            }
        }
        self.learned.judge(challenge, now)
    }
}

/// What a dialog is marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) policy: usize,
    pub(super) with_server: bool,
}

impl Mark {
    /// As a value that C keeps; never null.
    pub(super) fn to_data(self) -> *mut c_void {
        ptr::without_provenance_mut(self.policy << 1 | usize::from(self.with_server))
    }

    pub(super) fn from_data(data: *mut c_void) -> Option<Self> {
        let bits = data.addr();
        (bits != 0).then_some(Self {
            policy: bits >> 1,
            with_server: bits & 1 == 1,
        })
    }
}

impl Policies {
    /// A new account, in place of any with the same id; the token of its line's
    /// Contact, and its server.
    pub fn enrol(&self, id: i32, account: &Account, token: String, located: Option<Watched>) {
        let server = account.server.as_deref().unwrap_or(&account.domain);
        let host = UriParts::parse(&format!("sip:{server}")).host;
        let policy = Policy {
            account: id,
            learned: CredentialPolicy::new(&[&account.domain, &host], Instant::now()),
            siblings_listed: false,
            located,
        };
        let mut table = self.lock();
        table.forget(id);
        table.last_number += 1;
        let number = table.last_number;
        table.policies.insert(number, policy);
        table.by_account.insert(id, number);
        table.by_token.insert(token, number);
    }

    /// An account is deleted. Its dialogs are over.
    pub fn forget(&self, id: i32) {
        self.lock().forget(id);
    }

    /// The newest account of the line with this token.
    pub fn account_of(&self, token: &str) -> Option<i32> {
        let table = self.lock();
        let newest = table.by_token.get(token)?;
        table.policies.get(newest).map(|policy| policy.account)
    }

    /// Whether the last 200 to a REGISTER of an account listed a Contact of its line
    /// that another bridge made.
    pub fn siblings_listed(&self, id: i32) -> bool {
        let table = self.lock();
        let policy = table.by_account.get(&id);
        let policy = policy.and_then(|number| table.policies.get(number));
        policy.is_some_and(|policy| policy.siblings_listed)
    }

    /// A call came in for an account; its dialog gets its mark later.
    pub fn expect_dialog(&self, call: i32, account: i32, peer: IpAddr) {
        let mut table = self.lock();
        table.incoming.remove(&call);
        let Some(policy) = table.by_account.get(&account).copied() else {
            return;
        };
        let with_server = table.is_server(policy, peer);
        let mark = Mark {
            policy,
            with_server,
        };
        table.incoming.insert(call, mark);
    }

    /// Takes the mark for the dialog of an incoming call, once.
    pub(super) fn take_mark(&self, call: i32) -> Option<Mark> {
        self.lock().incoming.remove(&call)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, id: i32) {
        if let Some(number) = self.by_account.remove(&id) {
            self.policies.remove(&number);
            self.by_token.retain(|_, newest| *newest != number);
            self.incoming.retain(|_, mark| mark.policy != number);
        }
    }

    pub(super) fn is_server(&self, policy: usize, address: IpAddr) -> bool {
        let policy = self.policies.get(&policy);
        policy.is_some_and(|policy| policy.is_server(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_as_a_number_in_c() {
        for (policy, with_server) in [(1, false), (1, true), (70_000, true)] {
            let mark = Mark {
                policy,
                with_server,
            };
            assert_eq!(Mark::from_data(mark.to_data()), Some(mark));
        }
        assert_eq!(Mark::from_data(ptr::null_mut()), None);
    }
}
