//! SIP INFO inside a call: digits, and what else trunks put into it. All of it
//! is read and answered here: pjsua knows fewer forms, and reads a body in C.

use super::ffi;
use super::shared::Shared;
use super::text;
use crate::core::ids::LegId;
use crate::core::info_digits;
use crate::sip::engine::LegEvent;

/// What we take, for the answer to what we do not.
pub const ACCEPT: &str = "application/dtmf-relay, application/dtmf";

/// Takes an INFO; gives the status to answer it with.
///
/// # Safety
/// `rdata` must be a parsed request.
pub unsafe fn take(shared: &Shared, leg: Option<LegId>, rdata: *mut ffi::pjsip_rx_data) -> u16 {
    // SAFETY: the caller's promise is passed on.
    let Some((content_type, content)) = (unsafe { text::body((*rdata).msg_info.msg) }) else {
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
