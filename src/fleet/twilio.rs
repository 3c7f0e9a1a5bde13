//! Lines that are Twilio's: SIP and registrations know nothing of them, Twilio's webhook brings their calls.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use super::line::LineProfile;
use super::shared::SharedFleet;
use super::table::Fleet;
use crate::core::ids::LineId;
use crate::core::key::MasterKey;
use crate::core::private::Secret;
use crate::core::signature::Signer;
use crate::lines::credentials::{Credential, CredentialError};

/// A line that is Twilio's.
#[derive(Debug)]
pub struct TwilioLine {
    /// What its calls go by.
    pub profile: Arc<LineProfile>,
    /// `maxConcurrentCalls`.
    pub(super) max_concurrent_calls: Option<u32>,
    /// Its auth token, as it is stored.
    pub(super) stored_token: Secret,
    /// The token, once somebody has needed it.
    pub(super) opened: OnceLock<Result<Secret, CredentialError>>,
}

impl TwilioLine {
    /// The line's auth token. The first time it may take 20 ms of CPU: call it off the async threads.
    ///
    /// # Errors
    /// When it does not decrypt.
    pub fn token(&self, key: Option<&MasterKey>) -> Result<Secret, CredentialError> {
        let open = || {
            let opened = Credential::open(key, self.profile.id.as_str(), Some(&self.stored_token));
            opened.map(|credential| credential.into_password().unwrap_or_default())
        };
        self.opened.get_or_init(open).clone()
    }

    /// What verifies requests that Twilio has signed with the line's token.
    ///
    /// # Errors
    /// As [`TwilioLine::token`].
    pub fn signer(&self, key: Option<&MasterKey>) -> Result<Signer, CredentialError> {
        self.token(key).map(Signer::new)
    }
}

impl Fleet {
    /// The line of this id, where it is Twilio's.
    #[must_use]
    pub fn twilio(&self, id: &LineId) -> Option<Arc<TwilioLine>> {
        self.lines.get(id)?.twilio.clone()
    }
}

impl SharedFleet {
    /// These are the lines that are Twilio's from now on. One whose token is as it was need not be decrypted again.
    pub(super) fn hold_twilio(&self, lines: Vec<TwilioLine>) {
        let ids: HashSet<LineId> = lines.iter().map(|line| line.profile.id.clone()).collect();
        let mut fleet = self.lock();
        for line in fleet.lines.values_mut() {
            let is_gone = |twilio: &Arc<TwilioLine>| !ids.contains(&twilio.profile.id);
            if line.twilio.as_ref().is_some_and(is_gone) {
                line.twilio = None;
            }
        }
        fleet.lines.retain(|_, line| !line.is_empty());
        for mut line in lines {
            let place = fleet.lines.entry(line.profile.id.clone()).or_default();
            if let Some(before) = &place.twilio
                && before.stored_token.expose() == line.stored_token.expose()
            {
                line.opened = before.opened.clone();
            }
            place.twilio = Some(Arc::new(line));
        }
    }
}
