//! pjsip's log lines into `tracing`, target `pjsip`.
//!
//! Its level 0 (it cannot go on) is ERROR, 1 and 2 are WARN, 3 and 4 DEBUG (they
//! name every step of every call), 5 and 6 TRACE. Users in URIs are phone numbers and are
//! taken out at every level. SIP messages themselves are never logged.
//!
//! Most of its errors and warnings are about what somebody sent, with which an operator
//! has nothing to do. So none is an error here, and they are told seldom, each kind by itself, and of a text of many lines only the first: the rest is the message.

use std::borrow::Cow;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

use super::ffi;
use crate::core::log_limiter::SeldomKinds;

/// How often a kind of error or warning is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Kinds that are told apart; pjsip has a few hundred, of which few happen.
const KINDS_MAX: usize = 64;
/// What tells one kind from another, and the most that is told of a text.
const KIND_CHARS_MAX: usize = 160;
const TEXT_CHARS_MAX: usize = 400;

static TOLD: LazyLock<Mutex<SeldomKinds>> =
    LazyLock::new(|| Mutex::new(SeldomKinds::new(TELL_EVERY, KINDS_MAX)));

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
        0
    }
}

/// Takes over pjlib's own logging, which would write to standard output. To be
/// called before pjlib is initialised.
pub fn take_over() {
    // SAFETY: sets a plain global of pjlib; no thread of it runs yet.
    unsafe { ffi::pj_log_set_log_func(Some(write)) };
    // SAFETY: as above.
    unsafe { ffi::pj_log_set_decor(ffi::PJ_LOG_HAS_SENDER) };
    // SAFETY: as above.
    unsafe { ffi::pj_log_set_level(c_int::try_from(enabled_level()).unwrap_or(0)) };
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
        0..=2 => tell_seldom(level, &text),
        3 | 4 => tracing::debug!(target: "pjsip", "{text}"),
        _ => tracing::trace!(target: "pjsip", "{text}"),
    }
}

/// An error or a warning, if it is time to tell this kind again.
fn tell_seldom(level: c_int, text: &str) {
    let line = text.lines().next().unwrap_or_default();
    let line: String = line.chars().take(TEXT_CHARS_MAX).collect();
    let (count, overdue) = {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let count = told.count(now, &kind_of(&line));
        (count, told.overdue(now))
    };
    for (kind, count) in overdue {
        let kind = kind
            .as_deref()
            .unwrap_or("errors and warnings of other kinds");
        tracing::warn!(target: "pjsip", "{count} more of this kind: {kind}");
    }
    let Some(count) = count else { return };
    let since = match count {
        0 | 1 => String::new(),
        _ => format!(" ({} more of this kind since the last one told)", count - 1),
    };
    if level == 0 {
        tracing::error!(target: "pjsip", "{line}{since}");
    } else {
        tracing::warn!(target: "pjsip", "{line}{since}");
    }
}

/// A text without what differs from one time to the next: words with a digit (numbers,
/// addresses, pointers) and what stands in quotes.
fn kind_of(line: &str) -> String {
    let mut kind = String::new();
    let mut is_quoted = false;
    for word in line.split_whitespace() {
        let begins = word.starts_with(['"', '\'']);
        let ends = word
            .trim_end_matches(['.', ',', ':'])
            .ends_with(['"', '\'']);
        let was_quoted = is_quoted;
        is_quoted = if begins { !ends } else { is_quoted && !ends };
        if was_quoted || begins || word.contains(|c: char| c.is_ascii_digit()) {
            if !kind.ends_with("# ") {
                kind.push_str("# ");
            }
        } else {
            kind.push_str(word);
            kind.push(' ');
        }
    }
    kind.trim_end().chars().take(KIND_CHARS_MAX).collect()
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

    #[test]
    fn what_differs_makes_no_kind() {
        let text = |bytes: u32, header: &str| {
            format!(
                "sip_transport.c  Error processing {bytes} bytes packet from UDP 127.0.0.1:{bytes} : PJSIP syntax error exception when parsing '{header}' header on line {bytes} col 1:"
            )
        };
        assert_eq!(kind_of(&text(7, "Via")), kind_of(&text(80_000, "From x y")));
        assert_eq!(
            kind_of(&text(7, "Via")),
            "sip_transport.c Error processing # bytes packet from UDP # : PJSIP syntax error exception when parsing # header on line # col #"
        );
        assert_ne!(kind_of("a: no memory"), kind_of("a: no socket"));
        assert!(kind_of(&"word ".repeat(1_000)).len() <= KIND_CHARS_MAX);
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
