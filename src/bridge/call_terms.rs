//! What one call brings with it: beside, or instead of, what the settings and
//! its line say.

use std::collections::BTreeMap;

use super::context::Context;
use crate::worker::{Dialer, WorkerError};

/// The terms of one call; nothing special by default.
#[derive(Clone, Debug, Default)]
pub(super) struct CallTerms {
    /// For `customParameters`: they go before the line's and `--param`'s, and
    /// behind what the contract promises.
    pub(super) custom_params: BTreeMap<String, String>,
    /// The worker to dial for this call: push mode, whatever the bridge is in.
    pub(super) dialer: Option<Dialer>,
    /// Where this call's status callbacks go.
    pub(super) callback_url: Option<String>,
}

impl CallTerms {
    /// Checks the worker's address.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn new(
        custom_params: BTreeMap<String, String>,
        ws_target: Option<&str>,
        callback_url: Option<String>,
        context: &Context,
    ) -> Result<Self, WorkerError> {
        let dialer = ws_target
            .map(|url| context.foreign_dialer(url))
            .transpose()?;
        Ok(Self {
            custom_params,
            dialer,
            callback_url,
        })
    }
}
