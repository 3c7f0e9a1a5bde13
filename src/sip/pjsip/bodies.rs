//! Keeps foreign session descriptions from pjsip: ahead of the transactions,
//! every body that pjsip would read as SDP is read in Rust, judged, and
//! replaced by one that `core::sdp` wrote. What cannot be taken is refused in a
//! request; in a response, or an ACK, the body is taken away, and the call
//! ends by the rules for an answer that never came.
//!
//! pjsip reads the SDP of INVITE, ACK, PRACK and UPDATE, and of the responses
//! to them, and nothing else (`pjsip_get_sdp_info`).

use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ffi::{self, pjsip_rx_data};
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::shared::{Shared, guarded};
use crate::core::log_limiter::LogLimiter;
use crate::core::sdp::judge::{LABELS, Place, SdpRefusal, UNFORESEEN, judge};
use crate::core::sdp::parse::{ParseProblem, parse};
use crate::core::sdp::render::render;
use crate::core::sdp::{BODY_MAX_BYTES, Served, body};

/// How often at most one line is logged for a reason.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// Who warns, in a Warning header.
const WARN_AGENT: &str = "sipbridge";

/// What was refused or taken away, by [`LABELS`], and what is served.
pub struct Bodies {
    counters: [AtomicU64; LABELS.len()],
    said: Mutex<[LogLimiter; LABELS.len()]>,
    served: Mutex<Served>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; LABELS.len()],
            said: Mutex::new([const { LogLimiter::new(SAID_EVERY) }; LABELS.len()]),
            served: Mutex::new(Served {
                ipv4: true,
                ipv6: false,
                ice: false,
            }),
        }
    }
}

impl Bodies {
    /// Says what is served from now on.
    pub fn serve(&self, served: Served) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn served(&self) -> Served {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bodies were not taken, by reason.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self
            .counters
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        LABELS.into_iter().zip(counts).collect()
    }

    /// Counts and logs an INVITE that was let through and that pjsip refused.
    pub fn count_unforeseen(&self, status: c_int, reason: &str) {
        if let Some(count) = self.count_label(UNFORESEEN) {
            tracing::info!(
                status,
                reason,
                count,
                "pjsip refused a call that was let through"
            );
        }
    }

    /// Counts; when it is time to log it, how many there were.
    fn count(&self, refusal: &SdpRefusal) -> Option<u64> {
        self.count_label(refusal.label())
    }

    fn count_label(&self, label: &str) -> Option<u64> {
        let at = LABELS.iter().position(|known| *known == label)?;
        self.counters[at].fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said[at].count(Instant::now())
    }
}

static MODULE: Module = Module::new(
    c"sipbridge-bodies",
    // Ahead of the transactions, which hand messages to the dialogs.
    -2,
    ModuleCallbacks {
        rx_request: Some(on_rx_request),
        rx_response: Some(on_rx_response),
        ..ModuleCallbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the request is dropped: nobody has judged its body.
    guarded("bodies_request", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request, which no other thread touches during
        // the call.
        let request = unsafe { ReceivedMessage::new(rdata) };
        take_request(shared, request)
    })
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("bodies_response", None, ffi::TRUE, |shared| {
        // SAFETY: as above, for a response.
        let response = unsafe { ReceivedMessage::new(rdata) };
        let method = response.method_name().to_ascii_uppercase();
        let is_refusal = response.message().status() >= 300;
        if !carries_description(&method) || is_refusal {
            response.message().drop_body();
        } else if let Err(refusal) = replace(shared, response, Place::Answer) {
            drop_body(shared, response, &method, &refusal);
        }
        ffi::FALSE
    })
}

/// Whether pjsip reads the SDP of a request of this method, and of its responses.
fn carries_description(method: &str) -> bool {
    matches!(method, "INVITE" | "ACK" | "PRACK" | "UPDATE")
}

fn take_request(shared: &Shared, request: ReceivedMessage<'_>) -> ffi::pj_bool_t {
    // pjsip takes the name of a method in any case.
    let method = request.message().method_name().to_ascii_uppercase();
    let place = match method.as_str() {
        "ACK" => Place::Answer,
        "INVITE" if !request.has_to_tag() => Place::FirstOffer,
        _ => Place::LaterOffer,
    };
    let taken = if carries_description(&method) {
        replace(shared, request, place)
    } else {
        cut_to_length(request)
    };
    match taken {
        Ok(()) => ffi::FALSE,
        Err(refusal) if method == "ACK" => {
            drop_body(shared, request, &method, &refusal);
            ffi::FALSE
        }
        Err(refusal) => {
            if let Some(count) = shared.bodies.count(&refusal) {
                let (peer, call_id) = request.sender();
                let status = refusal.status();
                tracing::info!(
                    %peer, %call_id, method, status, count, reason = %refusal,
                    "a request is refused for its body"
                );
            }
            respond(request, &refusal);
            ffi::TRUE
        }
    }
}

/// Takes a body away that cannot be refused.
fn drop_body(shared: &Shared, received: ReceivedMessage<'_>, method: &str, refusal: &SdpRefusal) {
    received.message().drop_body();
    if let Some(count) = shared.bodies.count(refusal) {
        let (peer, call_id) = received.sender();
        tracing::info!(
            %peer, %call_id, method, count, reason = %refusal,
            "the body of a message is ignored"
        );
    }
}

/// Replaces a body by our own rendering of what it says.
fn replace(shared: &Shared, received: ReceivedMessage<'_>, place: Place) -> Result<(), SdpRefusal> {
    let message = received.message();
    let raw = raw_body(received)?;
    let (Some((boundary, bytes)), Some(body)) = (raw, message.body()) else {
        message.drop_body();
        return Ok(());
    };
    let kind = body.kind();
    let disposition = message.printed("Content-Disposition");
    let encoding = message.printed("Content-Encoding");
    let encoding = encoding.or_else(|| message.printed("e"));
    let headers = body::Headers {
        kind: &kind,
        boundary: boundary.as_deref(),
        disposition: disposition.as_deref(),
        encoding: encoding.as_deref(),
    };
    let Some(found) = body::find(headers, bytes)? else {
        message.drop_body();
        return Ok(());
    };
    let description = judge(parse(found)?, place, shared.bodies.served())?;
    let kind = ("application", "sdp");
    message.set_body(received.pool(), kind, &render(&description));
    Ok(())
}

/// The boundary of a multipart body, and the bytes of a body.
type RawBody<'a> = (Option<String>, &'a [u8]);

/// The bytes of a body, as many as Content-Length says, and the boundary of a
/// multipart one.
fn raw_body(received: ReceivedMessage<'_>) -> Result<Option<RawBody<'_>>, SdpRefusal> {
    let declared = received.content_length();
    let Some(body) = received.message().body() else {
        // pjsip makes no body of a multipart one that it cannot read.
        return match declared {
            Some(bytes) if bytes > 0 && received.has_content_type() => Err(SdpRefusal::Multipart),
            _ => Ok(None),
        };
    };
    let (boundary, bytes) = if body.is_multipart() {
        let (boundary, bytes) = body.multipart().ok_or(SdpRefusal::Multipart)?;
        (Some(boundary), bytes)
    } else {
        (None, body.bytes().unwrap_or_default())
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = within(bytes, declared)?;
    Ok((!bytes.is_empty()).then_some((boundary, bytes)))
}

/// The bytes that belong to the body: what follows in a datagram is ignored, and
/// a body that is cut off is refused (RFC 3261 section 18.3).
fn within(bytes: &[u8], declared: Option<usize>) -> Result<&[u8], SdpRefusal> {
    if bytes.len() > BODY_MAX_BYTES {
        return Err(ParseProblem::TooLong.into());
    }
    match declared {
        None => Ok(bytes),
        Some(length) => bytes.get(..length).ok_or(SdpRefusal::Truncated),
    }
}

/// Cuts a body that pjsip does not read as SDP to its Content-Length.
fn cut_to_length(received: ReceivedMessage<'_>) -> Result<(), SdpRefusal> {
    let Some(body) = received.message().body() else {
        return Ok(());
    };
    match raw_body(received)? {
        None => received.message().drop_body(),
        Some((None, bytes)) => body.cut(bytes.len()),
        // A multipart body has no length of its own, and nobody reads one in such a
        // request.
        Some((Some(_), _)) => {}
    }
    Ok(())
}

/// Answers a request with the status of a refusal, and says why. Not for an ACK.
fn respond(request: ReceivedMessage<'_>, refusal: &SdpRefusal) {
    let warning = format!("{} {WARN_AGENT} \"{refusal}\"", refusal.warning());
    let mut headers = vec![("Warning", warning.as_str())];
    match refusal {
        SdpRefusal::Encoded => headers.push(("Accept-Encoding", "identity")),
        SdpRefusal::Kind => headers.push(("Accept", "application/sdp")),
        _ => {}
    }
    request.respond(c_int::from(refusal.status()), &headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_it_says() {
        assert_eq!(within(b"abcd", None), Ok(&b"abcd"[..]));
        assert_eq!(within(b"abcd", Some(4)), Ok(&b"abcd"[..]));
        assert_eq!(within(b"abcd\r\n\r\n", Some(4)), Ok(&b"abcd"[..]));
        assert_eq!(within(b"abcd", Some(0)), Ok(&b""[..]));
        assert_eq!(within(b"abcd", Some(5)), Err(SdpRefusal::Truncated));
    }

    #[test]
    fn what_is_refused_is_counted_and_said_once_a_second() {
        let bodies = Bodies::default();
        assert_eq!(bodies.count(&SdpRefusal::Codec), Some(1));
        assert_eq!(bodies.count(&SdpRefusal::Codec), None);
        assert_eq!(bodies.count(&SdpRefusal::Keys), Some(1));
        let counts = bodies.counts();
        assert!(counts.contains(&("codec", 2)) && counts.contains(&("keys", 1)));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
