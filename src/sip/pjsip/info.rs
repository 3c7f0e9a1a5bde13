//! SIP INFO inside a call: digits, and what else trunks put into it. All of it
//! is read and answered here: pjsua knows fewer forms, and reads a body in C.

use super::received::ReceivedMessage;
use super::shared::Shared;
use crate::core::ids::LegId;
use crate::core::info_digits;
use crate::sip::engine::LegEvent;

/// What we take, for the answer to what we do not.
pub const ACCEPT: &str = "application/dtmf-relay, application/dtmf";

/// Takes an INFO; gives the status to answer it with.
pub fn take(shared: &Shared, leg: Option<LegId>, request: ReceivedMessage<'_>) -> u16 {
    let Some((content_type, content)) = request.message().body_text() else {
        // A keep-alive of older trunks (RFC 2976).
        return 200;
    };
    if !info_digits::is_digits_type(&content_type) {
        return 415;
    }
    let Some(digits) = info_digits::read(&content) else {
        return 400;
    };
    if let Some(leg) = leg {
        for digit in digits.chars() {
            shared.emit(leg, LegEvent::Digit(digit));
        }
    }
    200
}
