//! What one call brings with it: beside, or instead of, what the settings and
//! its line say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::voice::PlacedVoice;
use crate::core::agents::Agent;
use crate::core::callback::CallbackReceiver;
use crate::core::ids::CallId;
use crate::core::outward::Outward;
use crate::core::private::Private;
use crate::core::signature::Signer;
use crate::core::twiml::document::StatusCallback;
use crate::queue::{CallerHash, LostCall};
use crate::worker::{Dialer, WorkerError};

/// Dials workers whose addresses clients of ours wrote.
#[derive(Clone)]
pub(in crate::bridge) struct ForeignWorkers {
    /// Where such addresses may lead.
    outward: Arc<Outward>,
    /// Signs the upgrades.
    signer: Option<Signer>,
}

impl ForeignWorkers {
    pub(in crate::bridge) const fn new(outward: Arc<Outward>, signer: Option<Signer>) -> Self {
        Self { outward, signer }
    }

    /// Dials an address that the operator wrote: it may lead anywhere, and is signed.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(in crate::bridge) fn operators_dialer(&self, url: &str) -> Result<Dialer, WorkerError> {
        Ok(Dialer::new(url, None)?.signed(self.signer.clone()))
    }

    /// Dials this address.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(in crate::bridge) fn dialer(&self, url: &str) -> Result<Dialer, WorkerError> {
        Dialer::new(url, None)?.guarded(self.outward.clone(), self.signer.as_ref())
    }
}

/// The terms of one call; nothing special by default.
#[derive(Clone, Debug, Default)]
pub(in crate::bridge) struct CallTerms {
    /// For `customParameters`: they go before the line's and `--param`'s, and
    /// behind what the contract promises.
    pub(in crate::bridge) custom_params: BTreeMap<String, String>,
    /// The worker to dial for this call: push mode, whatever the bridge is in.
    pub(in crate::bridge) dialer: Option<Dialer>,
    /// Where this call's status callbacks go.
    pub(in crate::bridge) receiver: Option<CallbackReceiver>,
    /// What TwiML does with the call once it is answered, instead of a worker.
    pub(in crate::bridge) voice: Option<PlacedVoice>,
    /// The call whose `<Dial>` places this one.
    pub(in crate::bridge) parent: Option<CallId>,
    /// The number that is shown to the callee of a `<Dial>`, where that is not the line's.
    pub(in crate::bridge) caller_id: Option<Private>,
    /// Who is told in Twilio's form how a leg of `<Dial>` goes on.
    pub(in crate::bridge) status_callback: Option<StatusCallback>,
    /// How long it may last, where that is less than the bridge allows.
    pub(in crate::bridge) time_limit: Option<Duration>,
    /// Who calls, where he may be recognised when he rings again.
    pub(in crate::bridge) caller: Option<CallerHash>,
    /// The caller's call before, which was lost.
    pub(in crate::bridge) lost: Option<LostCall>,
    /// The agent of the line's tenant.
    pub(in crate::bridge) agent: Option<Arc<Agent>>,
}

impl CallTerms {
    /// Checks the worker's address.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(in crate::bridge) fn new(
        custom_params: BTreeMap<String, String>,
        ws_target: Option<&str>,
        receiver: Option<CallbackReceiver>,
        workers: &ForeignWorkers,
    ) -> Result<Self, WorkerError> {
        let dialer = ws_target.map(|url| workers.dialer(url)).transpose()?;
        Ok(Self {
            custom_params,
            dialer,
            receiver,
            ..Self::default()
        })
    }
}
