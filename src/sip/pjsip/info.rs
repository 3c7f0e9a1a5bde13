//! SIP INFO inside a call: digits, and what else trunks put into it.
//!
//! pjsua answers `application/dtmf-relay` itself, after it has called
//! `on_call_tsx_state` and before it goes on to the next message, and takes
//! the first character of the signal for the digit. Some gateways write event
//! numbers there, 10 for `*` and 11 for `#`; what we read is kept for the
//! callback that follows on the same thread. All other INFO is answered here.

use std::cell::Cell;
use std::ffi::{c_int, c_uint};

use super::ffi;
use super::shared::Shared;
use super::text;
use crate::core::ids::LegId;
use crate::sip::engine::LegEvent;

/// Most of a body that is looked at.
const BODY_MAX_BYTES: usize = 256;

thread_local! {
    /// The digit of the dtmf-relay body that pjsua is about to report.
    static RELAYED: Cell<Option<char>> = const { Cell::new(None) };
}

/// Takes an INFO and answers it, unless pjsua does.
///
/// # Safety
/// `tsx` must be the live transaction of the parsed request `rdata`.
pub unsafe fn take(
    shared: &Shared,
    leg: Option<LegId>,
    tsx: *mut ffi::pjsip_transaction,
    rdata: *mut ffi::pjsip_rx_data,
) {
    // SAFETY: the caller's promise; the response is an out-parameter, and
    // sending it gives it away.
    unsafe {
        let Some(status) = answer_to(shared, leg, rdata) else {
            return;
        };
        let mut response = std::ptr::null_mut();
        let created = ffi::pjsip_endpt_create_response(
            (*tsx).endpt,
            rdata,
            status,
            std::ptr::null(),
            &raw mut response,
        );
        if created == ffi::PJ_SUCCESS {
            ffi::pjsip_tsx_send_msg(tsx, response);
        }
    }
}

/// The status for an INFO, `None` where pjsua answers.
///
/// # Safety
/// `rdata` must be a parsed request.
unsafe fn answer_to(
    shared: &Shared,
    leg: Option<LegId>,
    rdata: *mut ffi::pjsip_rx_data,
) -> Option<c_int> {
    RELAYED.set(None);
    // SAFETY: the caller's promise is passed on.
    let Some((content_type, content)) = (unsafe { body(rdata) }) else {
        // A keep-alive of older trunks (RFC 2976).
        return Some(200);
    };
    match content_type.as_str() {
        "application/dtmf-relay" => {
            RELAYED.set(signal(&content));
            None
        }
        "application/media_control+xml" | "application/trickle-ice-sdpfrag" => None,
        "application/dtmf" => {
            let Some(digit) = content.trim().chars().next().and_then(as_digit) else {
                return Some(400);
            };
            if let Some(leg) = leg {
                shared.emit(leg, LegEvent::Digit(digit));
            }
            Some(200)
        }
        _ => Some(415),
    }
}

/// # Safety
/// `rdata` must be a parsed request.
unsafe fn body(rdata: *mut ffi::pjsip_rx_data) -> Option<(String, String)> {
    // SAFETY: a body has `len` bytes at `data`, which live as long as rdata.
    unsafe {
        let body = (*(*rdata).msg_info.msg).body;
        if body.is_null() || (*body).len == 0 || (*body).data.is_null() {
            return None;
        }
        let kind = &(*body).content_type;
        let content_type = format!(
            "{}/{}",
            text::to_string(&kind.type_),
            text::to_string(&kind.subtype)
        );
        let length = usize::try_from((*body).len)
            .unwrap_or(0)
            .min(BODY_MAX_BYTES);
        let bytes = std::slice::from_raw_parts((*body).data.cast::<u8>(), length);
        Some((
            content_type.to_ascii_lowercase(),
            String::from_utf8_lossy(bytes).into_owned(),
        ))
    }
}

/// The digit that pjsua reports now: as we read it, else as it did.
pub fn relayed(digit: c_uint) -> Option<char> {
    let read = char::from_u32(digit).and_then(as_digit);
    RELAYED.take().or(read)
}

/// The digit of a dtmf-relay body: `Signal=5`, also as the number of its event
/// (RFC 4733: 10 to 15 are `*`, `#`, A to D).
fn signal(content: &str) -> Option<char> {
    let value = content.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("signal")
            .then(|| value.trim())
    })?;
    let mut chars = value.chars();
    match (chars.next(), chars.next()) {
        (Some(digit), None) => as_digit(digit),
        _ => {
            let event = value.parse::<usize>().ok()?.checked_sub(10)?;
            "*#ABCD".chars().nth(event)
        }
    }
}

fn as_digit(digit: char) -> Option<char> {
    let digit = digit.to_ascii_uppercase();
    (digit.is_ascii_digit() || "*#ABCD".contains(digit)).then_some(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_digit_or_the_number_of_its_event() {
        for (content, digit) in [
            ("Signal=5\r\nDuration=160\r\n", Some('5')),
            ("signal = d\r\n", Some('D')),
            ("Duration=100\nSignal= #", Some('#')),
            ("Signal=10\r\n", Some('*')),
            ("Signal=11\r\n", Some('#')),
            ("Signal=15\r\n", Some('D')),
            ("Signal=16\r\n", None),
            ("Signal=\r\n", None),
            ("Signal=x\r\n", None),
            ("nothing", None),
        ] {
            assert_eq!(signal(content), digit, "{content:?}");
        }
    }

    #[test]
    fn what_we_read_goes_before_what_pjsua_read_and_counts_once() {
        RELAYED.set(Some('*'));
        assert_eq!(relayed(u32::from('1')), Some('*'));
        assert_eq!(relayed(u32::from('1')), Some('1'));
        assert_eq!(relayed(u32::from('x')), None);
    }
}
