//! Keeps foreign session descriptions from pjsip: ahead of the transactions,
//! every body that pjsip would read as SDP is read in Rust, judged, and
//! replaced by one that `core::sdp` wrote. What cannot be taken is refused in a
//! request; in a response, or an ACK, the body is taken away, and the call
//! ends by the rules for an answer that never came.
//!
//! pjsip reads the SDP of INVITE, ACK, PRACK and UPDATE, and of the responses
//! to them, and nothing else (`pjsip_get_sdp_info`).

use std::ffi::{c_int, c_uint};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ffi::{self, pjsip_msg, pjsip_rx_data};
use super::modules::{Callbacks, Module};
use super::shared::{Shared, guarded};
use super::text;
use crate::core::log_limiter::LogLimiter;
use crate::core::sdp::judge::{LABELS, Place, Refusal, UNFORESEEN, judge};
use crate::core::sdp::parse::{Problem, parse};
use crate::core::sdp::render::render;
use crate::core::sdp::{BODY_MAX_BYTES, Served, body};

/// How often at most one line is logged for a reason.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// Most headers of a message: it has no more bytes.
const HEADERS_MAX: usize = 65_536;
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
    fn count(&self, refusal: &Refusal) -> Option<u64> {
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
    Callbacks {
        rx_request: Some(on_rx_request),
        rx_response: Some(on_rx_response),
        ..Callbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the request is dropped: nobody has judged its body.
    guarded("bodies_request", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request with From, To, Via and CSeq,
        // which no other thread touches during the call.
        unsafe { take_request(shared, rdata) }
    })
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("bodies_response", None, ffi::TRUE, |shared| {
        // SAFETY: as above, for a response.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let method = method_name(&(*(*rdata).msg_info.cseq).method);
            let is_refusal = (*message).line.status.code >= 300;
            if !carries_description(&method) || is_refusal {
                (*message).body = std::ptr::null_mut();
            } else if let Err(refusal) = replace(shared, rdata, Place::Answer) {
                drop_body(shared, rdata, &method, &refusal);
            }
        }
        ffi::FALSE
    })
}

/// The name of a method; pjsip takes them in any case.
///
/// # Safety
/// `method` must be of a parsed message.
unsafe fn method_name(method: &ffi::pjsip_method) -> String {
    // SAFETY: the caller's promise.
    unsafe { text::to_string(&method.name) }.to_ascii_uppercase()
}

/// Whether pjsip reads the SDP of a request of this method, and of its responses.
fn carries_description(method: &str) -> bool {
    matches!(method, "INVITE" | "ACK" | "PRACK" | "UPDATE")
}

/// # Safety
/// `rdata` must be a parsed request that nobody else touches.
unsafe fn take_request(shared: &Shared, rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        let method = method_name(&(*(*rdata).msg_info.msg).line.req.method);
        let is_first = (*(*rdata).msg_info.to).tag.slen <= 0;
        let place = match method.as_str() {
            "ACK" => Place::Answer,
            "INVITE" if is_first => Place::FirstOffer,
            _ => Place::LaterOffer,
        };
        let taken = if carries_description(&method) {
            replace(shared, rdata, place)
        } else {
            cut_to_length(rdata)
        };
        match taken {
            Ok(()) => ffi::FALSE,
            Err(refusal) if method == "ACK" => {
                drop_body(shared, rdata, &method, &refusal);
                ffi::FALSE
            }
            Err(refusal) => {
                if let Some(count) = shared.bodies.count(&refusal) {
                    let (peer, call_id) = text::sender(rdata);
                    let status = refusal.status();
                    tracing::info!(
                        %peer, %call_id, method, status, count, reason = %refusal,
                        "a request is refused for its body"
                    );
                }
                respond(rdata, &refusal);
                ffi::TRUE
            }
        }
    }
}

/// Takes a body away that cannot be refused.
///
/// # Safety
/// As for [`take_request`].
unsafe fn drop_body(shared: &Shared, rdata: *mut pjsip_rx_data, method: &str, refusal: &Refusal) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        (*(*rdata).msg_info.msg).body = std::ptr::null_mut();
        if let Some(count) = shared.bodies.count(refusal) {
            let (peer, call_id) = text::sender(rdata);
            tracing::info!(
                %peer, %call_id, method, count, reason = %refusal,
                "the body of a message is ignored"
            );
        }
    }
}

/// Replaces a body by our own rendering of what it says.
///
/// # Safety
/// As for [`take_request`].
unsafe fn replace(shared: &Shared, rdata: *mut pjsip_rx_data, place: Place) -> Result<(), Refusal> {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        let message = (*rdata).msg_info.msg;
        let Some((boundary, bytes)) = raw_body(rdata)? else {
            (*message).body = std::ptr::null_mut();
            return Ok(());
        };
        let kind = &(*(*message).body).content_type;
        let kind = format!(
            "{}/{}",
            text::to_string(&kind.type_),
            text::to_string(&kind.subtype)
        );
        let disposition = text::printed(message, "Content-Disposition");
        let encoding =
            text::printed(message, "Content-Encoding").or_else(|| text::printed(message, "e"));
        let headers = body::Headers {
            kind: &kind,
            boundary: boundary.as_deref(),
            disposition: disposition.as_deref(),
            encoding: encoding.as_deref(),
        };
        let Some(found) = body::find(headers, bytes)? else {
            (*message).body = std::ptr::null_mut();
            return Ok(());
        };
        let description = judge(parse(found)?, place, shared.bodies.served())?;
        put_body(rdata, &render(&description));
        Ok(())
    }
}

/// The boundary of a multipart body, and the bytes of a body.
type RawBody<'a> = (Option<String>, &'a [u8]);

/// The bytes of a body, as many as Content-Length says, and the boundary of a
/// multipart one.
///
/// # Safety
/// As for [`take_request`]; the bytes live as long as `rdata`.
unsafe fn raw_body<'a>(rdata: *mut pjsip_rx_data) -> Result<Option<RawBody<'a>>, Refusal> {
    // SAFETY: a multipart body is told by its type and by the function that
    // its parser gave it; another has `len` bytes at `data`. Both point into
    // the packet or the pool of `rdata`.
    unsafe {
        let declared = declared_bytes(rdata);
        let body = (*(*rdata).msg_info.msg).body;
        if body.is_null() {
            let has_type = !(*rdata).msg_info.ctype.is_null();
            // pjsip makes no body of a multipart one that it cannot read.
            return match declared {
                Some(bytes) if bytes > 0 && has_type => Err(Refusal::Multipart),
                _ => Ok(None),
            };
        }
        let (boundary, data) = if is_multipart(body) {
            let mut boundary: ffi::pj_str_t = std::mem::zeroed();
            let mut raw: ffi::pj_str_t = std::mem::zeroed();
            let status = ffi::pjsip_multipart_get_raw(body, &raw mut boundary, &raw mut raw);
            if status != ffi::PJ_SUCCESS {
                return Err(Refusal::Multipart);
            }
            (Some(text::to_string(&boundary)), raw)
        } else {
            let data = ffi::pj_str_t {
                ptr: (*body).data.cast(),
                slen: (*body).len.into(),
            };
            (None, data)
        };
        let length = usize::try_from(data.slen).unwrap_or(0);
        if data.ptr.is_null() || length == 0 {
            return Ok(None);
        }
        let bytes = std::slice::from_raw_parts(data.ptr.cast::<u8>(), length);
        let bytes = within(bytes, declared)?;
        Ok((!bytes.is_empty()).then_some((boundary, bytes)))
    }
}

/// # Safety
/// `body` must be a body that pjsip's parser made.
unsafe fn is_multipart(body: *mut ffi::pjsip_msg_body) -> bool {
    // SAFETY: the caller's promise.
    unsafe { text::to_string(&(*body).content_type.type_).eq_ignore_ascii_case("multipart") }
}

/// The value of Content-Length.
///
/// # Safety
/// As for [`take_request`].
unsafe fn declared_bytes(rdata: *mut pjsip_rx_data) -> Option<usize> {
    // SAFETY: the caller's promise; the header is null or parsed.
    unsafe {
        let header = (*rdata).msg_info.clen;
        (!header.is_null())
            .then(|| (*header).len)
            .and_then(|length| usize::try_from(length).ok())
    }
}

/// The bytes that belong to the body: what follows in a datagram is ignored, and
/// a body that is cut off is refused (RFC 3261 section 18.3).
fn within(bytes: &[u8], declared: Option<usize>) -> Result<&[u8], Refusal> {
    if bytes.len() > BODY_MAX_BYTES {
        return Err(Problem::TooLong.into());
    }
    match declared {
        None => Ok(bytes),
        Some(length) => bytes.get(..length).ok_or(Refusal::Truncated),
    }
}

/// Cuts a body that pjsip does not read as SDP to its Content-Length.
///
/// # Safety
/// As for [`take_request`].
unsafe fn cut_to_length(rdata: *mut pjsip_rx_data) -> Result<(), Refusal> {
    // SAFETY: the caller's promise; a multipart body has no length of its own,
    // and nobody reads one in such a request.
    unsafe {
        let message = (*rdata).msg_info.msg;
        let body = (*message).body;
        if body.is_null() {
            return Ok(());
        }
        match raw_body(rdata)? {
            None => (*message).body = std::ptr::null_mut(),
            Some((None, bytes)) => {
                (*body).len = c_uint::try_from(bytes.len()).unwrap_or(0);
            }
            Some((Some(_), _)) => {}
        }
    }
    Ok(())
}

/// Gives the message a body of ours, and every Content-Type header its type.
///
/// # Safety
/// As for [`take_request`].
unsafe fn put_body(rdata: *mut pjsip_rx_data, description: &str) {
    let mut lent = text::PjStrings::default();
    let kind = lent.lend("application");
    let subtype = lent.lend("sdp");
    let description = lent.lend(description);
    // SAFETY: the caller's promise; the body is made in the pool of `rdata`,
    // with copies of the three texts.
    unsafe {
        let pool = (*rdata).tp_info.pool;
        let body = ffi::pjsip_msg_body_create(
            pool,
            &raw const kind,
            &raw const subtype,
            &raw const description,
        );
        (*(*rdata).msg_info.msg).body = body;
        if !body.is_null() {
            set_types((*rdata).msg_info.msg, body);
        }
    }
}

/// # Safety
/// `message` must be a parsed message that nobody else touches, `body` one
/// whose texts live as long.
unsafe fn set_types(message: *mut pjsip_msg, body: *mut ffi::pjsip_msg_body) {
    // SAFETY: the header list is a ring that ends at its head; an entry of this
    // type is a pjsip_ctype_hdr; a list without parameters points to itself.
    unsafe {
        let head = &raw mut (*message).hdr;
        let mut at = (*head).next;
        for _ in 0..HEADERS_MAX {
            if at.is_null() || at.cast::<u8>() == head.cast::<u8>() {
                return;
            }
            if (*at).type_ == ffi::PJSIP_H_CONTENT_TYPE {
                let media = &raw mut (*at.cast::<ffi::pjsip_ctype_hdr>()).media;
                (*media).type_ = (*body).content_type.type_;
                (*media).subtype = (*body).content_type.subtype;
                let parameters = &raw mut (*media).param;
                (*parameters).prev = parameters;
                (*parameters).next = parameters;
            }
            at = (*at).next;
        }
    }
}

/// Answers a request with the status of a refusal, and says why.
///
/// # Safety
/// As for [`take_request`]; it must not be an ACK.
unsafe fn respond(rdata: *mut pjsip_rx_data, refusal: &Refusal) {
    let warning = format!("{} {WARN_AGENT} \"{refusal}\"", refusal.warning());
    // SAFETY: the list stays where it is, its headers live in the pool of the
    // request; both outlive the call, which copies them.
    unsafe {
        let pool = (*rdata).tp_info.pool;
        let mut head: ffi::pjsip_hdr = std::mem::zeroed();
        let list = &raw mut head;
        text::init_list(list);
        text::push_header(list, pool, "Warning", &warning);
        match refusal {
            Refusal::Encoded => text::push_header(list, pool, "Accept-Encoding", "identity"),
            Refusal::Kind => text::push_header(list, pool, "Accept", "application/sdp"),
            _ => {}
        }
        ffi::pjsip_endpt_respond_stateless(
            ffi::pjsua_get_pjsip_endpt(),
            rdata,
            c_int::from(refusal.status()),
            std::ptr::null(),
            list,
            std::ptr::null(),
        );
    }
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
        assert_eq!(within(b"abcd", Some(5)), Err(Refusal::Truncated));
    }

    #[test]
    fn what_is_refused_is_counted_and_said_once_a_second() {
        let bodies = Bodies::default();
        assert_eq!(bodies.count(&Refusal::Codec), Some(1));
        assert_eq!(bodies.count(&Refusal::Codec), None);
        assert_eq!(bodies.count(&Refusal::Keys), Some(1));
        let counts = bodies.counts();
        assert!(counts.contains(&("codec", 2)) && counts.contains(&("keys", 1)));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
