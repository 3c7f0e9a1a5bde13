//! [`SimCallee`]: what a test does as the one whom the bridge calls.

use std::ops::Deref;

use super::SimCall;
use sipbridge::core::ids::LineId;
use sipbridge::core::private::Private;
use sipbridge::core::sip_header::SipHeader;
use sipbridge::sip::engine::EndedBy;

/// The callee's side of a call that the bridge placed. Everything that a
/// [`SimCall`] can do, and what only a callee does. `statuses` are what the
/// callee answered; its `hang_up` is a BYE, and 487 before the answer.
pub struct SimCallee {
    call: SimCall,
    line: LineId,
    destination: Private,
    headers: Vec<SipHeader>,
}

impl SimCallee {
    pub(super) const fn new(
        call: SimCall,
        line: LineId,
        destination: Private,
        headers: Vec<SipHeader>,
    ) -> Self {
        Self {
            call,
            line,
            destination,
            headers,
        }
    }

    /// The line that the bridge called from.
    #[must_use]
    pub const fn line(&self) -> &LineId {
        &self.line
    }

    /// Whom the bridge called, as it said it.
    #[must_use]
    pub const fn destination(&self) -> &Private {
        &self.destination
    }

    /// What the INVITE carries beside SIP's own headers.
    #[must_use]
    pub fn headers(&self) -> &[SipHeader] {
        &self.headers
    }

    /// The leg alone, for a test that treats caller and callee alike.
    #[must_use]
    pub fn into_call(self) -> SimCall {
        self.call
    }

    /// 180.
    pub fn ring(&self) {
        self.progress(180);
    }

    /// A provisional response; 183 brings early media.
    pub fn progress(&self, status: u16) {
        self.call.progress(status);
    }

    /// 200 with SDP: media, unless it is up already, and the dialog stands.
    pub fn answer(&self) {
        self.call.answer();
    }

    /// A final refusal: 486 busy, 603 declined, 404 …
    pub fn refuse(&self, status: u16) {
        self.call.end(EndedBy::Remote, status);
    }

    /// Nobody answers the INVITE at all.
    pub fn time_out(&self) {
        self.call.end(EndedBy::Failure, 408);
    }
}

impl Deref for SimCallee {
    type Target = SimCall;

    fn deref(&self) -> &SimCall {
        &self.call
    }
}
