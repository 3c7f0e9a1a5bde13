//! Places a leg of `<Dial>`: a call of its own, under the same rules and caps as any that we place, whose
//! life is bound to the call that dialled it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, warn};

use super::call::call_terms::CallTerms;
use super::call::driver::Start;
use super::call::parent::ParentCall;
use super::drivers::Drivers;
use super::place::{WantedLeg, hang_up};
use crate::core::ids::CallId;
use crate::core::private::Private;
use crate::core::twiml::document::{Callee, DialTarget};
use crate::core::voice::DialLegEnd;
use crate::fleet::LineProfile;

/// A leg to be placed.
pub(super) struct TargetLeg {
    /// The line to call from: that of the call whose `<Dial>` it is.
    pub(super) line: Arc<LineProfile>,
    /// That call.
    pub(super) of: CallId,
    /// Whom to call, and how.
    pub(super) target: DialTarget,
    /// `callerId`: the number that is shown.
    pub(super) caller_id: Option<Private>,
    /// Who rings.
    pub(super) caller: Private,
    /// How long it may ring.
    pub(super) ring_timeout: Duration,
}

impl Drivers {
    /// Places a leg in a task of its own, and runs it to its end.
    pub(super) fn dial_leg(self: &Arc<Self>, leg: TargetLeg, parent: ParentCall) {
        let drivers = self.clone();
        let life = async move { drivers.live_leg(leg, parent).await };
        tokio::spawn(life.in_current_span());
    }

    async fn live_leg(&self, leg: TargetLeg, mut parent: ParentCall) {
        let line = leg.line;
        let (destination, headers) = match leg.target.callee {
            Callee::PhoneNumber(number) => (number, Vec::new()),
            Callee::Sip { uri, headers } => (uri, headers),
        };
        let wanted = WantedLeg {
            destination,
            headers,
            caller_id: leg.caller_id,
            caller: Some(leg.caller),
        };
        let dialled = tokio::select! {
            biased;
            dialled = self.outgoing.dial(&line, wanted) => dialled,
            // The only order before the leg is placed: it is not wanted any more.
            _ = parent.next() => return,
        };
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                warn!(%error, "<Dial>: a leg is not placed");
                return parent.ended(DialLegEnd::Failed);
            }
        };
        let terms = CallTerms {
            parent: Some(leg.of),
            caller_id: dialled.shown,
            status_callback: leg.target.status_callback,
            ..CallTerms::default()
        };
        let id = dialled.leg.leg;
        let (driver, span) = match self.dialled(line, &dialled.to, dialled.leg, terms, parent) {
            Ok(made) => made,
            Err(error) => {
                warn!(%error, "<Dial>: a leg cannot be set up");
                return hang_up(&self.engine, id);
            }
        };
        let ring_timeout = leg.ring_timeout;
        let start = Start::Dialled { ring_timeout };
        driver.live(start).instrument(span).await;
        drop(dialled.place);
    }
}
