//! Whom one call may be transferred to.

use std::sync::Arc;

use crate::bridge::dialling::Dialling;
use crate::core::dialling::NotAllowed;
use crate::core::private::Private;
use crate::fleet::LineProfile;

/// The dial rules as they apply to one call.
pub(in crate::bridge) struct Destinations {
    dialling: Arc<Dialling>,
    line: Arc<LineProfile>,
    /// The client who placed the call named its worker, or a client's TwiML did: his transfers are
    /// judged like the client's.
    is_worker_foreign: bool,
}

impl Destinations {
    pub(in crate::bridge) const fn new(
        dialling: Arc<Dialling>,
        line: Arc<LineProfile>,
        is_worker_foreign: bool,
    ) -> Self {
        Self {
            dialling,
            line,
            is_worker_foreign,
        }
    }

    /// The call gets another worker: whether a client named him.
    pub(in crate::bridge) const fn worker_changes(&mut self, is_foreign: bool) {
        self.is_worker_foreign = is_foreign;
    }

    /// Whether what the worker asks for must be allowed first.
    pub(in crate::bridge) fn judges_workers(&self) -> bool {
        self.dialling.judges(self.is_worker_foreign)
    }

    /// What to dial for this destination; counted as one dial.
    ///
    /// # Errors
    /// Why it may not be dialled.
    pub(in crate::bridge) async fn allow(&self, to: &Private) -> Result<Private, NotAllowed> {
        self.dialling.allow(&self.line, to).await
    }
}
