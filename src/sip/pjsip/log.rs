//! pjsip's log lines into `tracing`, target `pjsip`.
//!
//! Its levels 1 and 2 are ERROR and WARN, 3 and 4 DEBUG (they name every step
//! of every call), 5 and 6 TRACE. Users in URIs are phone numbers and are
//! taken out at every level. SIP messages themselves are never logged.

use std::borrow::Cow;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::Level;

use super::ffi;

/// Errors that are no error here. A port that is taken is tried again with the
/// next one; when no port or descriptor is left, `Shared::tell_full` says so, not
/// for each call.
const TOLD_OTHERWISE: [&str; 8] = [
    "socket bind() at",
    "socket() error",
    "RTP/RTCP ports combination",
    "Error creating media transport",
    "Error initializing media channel",
    "Unable to create RTP/RTCP socket",
    "Unable to create ICE media transport",
    "Error making call",
];

/// The pjsip level that matches what `tracing` has enabled, so that a line
/// nobody reads is never formatted.
pub fn enabled_level() -> u32 {
    if tracing::enabled!(target: "pjsip", Level::TRACE) {
        5
    } else if tracing::enabled!(target: "pjsip", Level::DEBUG) {
        4
    } else if tracing::enabled!(target: "pjsip", Level::WARN) {
        2
    } else {
        u32::from(tracing::enabled!(target: "pjsip", Level::ERROR))
    }
}

/// Takes over pjlib's own logging, which would write to standard output. To be
/// called before pjlib is initialised.
pub fn take_over() {
    // SAFETY: these set plain globals of pjlib; no thread of it runs yet.
    unsafe {
        ffi::pj_log_set_log_func(Some(write));
        ffi::pj_log_set_decor(ffi::PJ_LOG_HAS_SENDER);
        ffi::pj_log_set_level(c_int::try_from(enabled_level()).unwrap_or(0));
    }
}

/// Called by pjsip for each line.
pub unsafe extern "C" fn write(level: c_int, data: *const c_char, length: c_int) {
    let length = usize::try_from(length).unwrap_or(0).min(4_000);
    if data.is_null() || length == 0 {
        return;
    }
    // SAFETY: pjsip passes `length` readable bytes that live during the call.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
    // A panic in a subscriber must not unwind into C; nothing is left half done.
    let _ = catch_unwind(AssertUnwindSafe(|| forward(level, bytes)));
}

fn forward(level: c_int, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let text = without_users(text.trim());
    match level {
        1 if TOLD_OTHERWISE.iter().any(|told| text.contains(told)) => {
            tracing::debug!(target: "pjsip", "{text}");
        }
        0 | 1 => tracing::error!(target: "pjsip", "{text}"),
        2 => tracing::warn!(target: "pjsip", "{text}"),
        3 | 4 => tracing::debug!(target: "pjsip", "{text}"),
        _ => tracing::trace!(target: "pjsip", "{text}"),
    }
}

/// Replaces the user part of every SIP or tel URI.
fn without_users(text: &str) -> Cow<'_, str> {
    if !["sip:", "sips:", "tel:"]
        .iter()
        .any(|scheme| text.contains(scheme))
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, scheme, after)) = next_scheme(rest) {
        out.push_str(before);
        out.push_str(scheme);
        let end = after
            .find(|c: char| c.is_whitespace() || "<>\";,".contains(c))
            .unwrap_or(after.len());
        let uri = &after[..end];
        match (scheme, uri.rfind('@')) {
            ("tel:", _) => out.push('…'),
            (_, Some(at)) => {
                out.push('…');
                out.push_str(&uri[at..]);
            }
            (_, None) => out.push_str(uri),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn next_scheme(text: &str) -> Option<(&str, &str, &str)> {
    let (at, scheme) = ["sip:", "sips:", "tel:"]
        .iter()
        .filter_map(|scheme| text.find(scheme).map(|at| (at, *scheme)))
        .min_by_key(|(at, _)| *at)?;
    let behind = at + scheme.len();
    Some((&text[..at], &text[at..behind], &text[behind..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_are_taken_out_of_uris() {
        assert_eq!(
            without_users(
                "Call from \"x\" <sip:+33612345678@host:5060>;tag=1 to sips:a@b, tel:+331 x"
            ),
            "Call from \"x\" <sip:…@host:5060>;tag=1 to sips:…@b, tel:… x"
        );
        assert_eq!(without_users("sip:host only"), "sip:host only");
        assert_eq!(without_users("no uri"), "no uri");
    }

    proptest! {
        #[test]
        fn no_user_ever_gets_through(before in "[a-z :<@]{0,9}", user in "[0-9+]{8,15}", after in ".{0,20}") {
            let text = format!("{before}sip:{user}@h{after}");
            let cleaned = without_users(&text).into_owned();
            prop_assert!(!cleaned.contains(&user) || after.contains(&user) || before.contains(&user));
        }
    }
}
