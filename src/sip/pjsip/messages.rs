//! Messages of pjsip, read and changed. What a function of `unsafe` is asked to
//! promise is said once, where a handle is made; its methods are safe.

use std::ffi::{c_int, c_uint};
use std::marker::PhantomData;
use std::time::Duration;

use super::ffi::{self, pjsip_msg, pjsip_msg_body};
use super::headers::{Header, HeaderList};
use super::text;
use super::uris::{SipUri, Uri};

/// Most of a body that is looked at as a text.
const BODY_TEXT_MAX_BYTES: usize = 256;
/// Most headers looked at for one that says something.
const HEADERS_SCANNED_MAX: usize = 256;

/// A message that lives for `'a`.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    message: *mut pjsip_msg,
    lives: PhantomData<&'a pjsip_msg>,
}

impl<'a> Message<'a> {
    /// # Safety
    /// `message` must be a message that pjsip's parser let through, or a complete one
    /// of ours, that lives for `'a` and that the calling thread has to itself for
    /// that time.
    pub const unsafe fn new(message: *mut pjsip_msg) -> Self {
        Self {
            message,
            lives: PhantomData,
        }
    }

    /// Never kept: other methods write to what it shows.
    fn get(&self) -> &pjsip_msg {
        // SAFETY: it lives, and no other thread writes to it, see `new`.
        unsafe { &*self.message }
    }

    /// For C.
    pub const fn as_ptr(self) -> *mut pjsip_msg {
        self.message
    }

    /// The status of a response; 0 for a request.
    pub fn status(self) -> c_int {
        if self.get().type_ != ffi::PJSIP_RESPONSE_MSG {
            return 0;
        }
        // SAFETY: the type of the message says that this member is filled.
        unsafe { self.get().line.status }.code
    }

    /// Has a response say another status, with its usual reason.
    pub fn set_status(self, status: c_int) {
        // SAFETY: no precondition.
        let reason = unsafe { ffi::pjsip_get_status_text(status) };
        // SAFETY: pjsip gives a text of a static table for any number.
        let reason = unsafe { *reason };
        // SAFETY: as for `get`, which nobody holds now.
        let line = unsafe { &mut (*self.message).line };
        line.status = ffi::pjsip_status_line {
            code: status,
            reason,
        };
    }

    /// The first line of a request; `None` for a response.
    fn request_line(self) -> Option<ffi::pjsip_request_line> {
        let is_request = self.get().type_ == ffi::PJSIP_REQUEST_MSG;
        // SAFETY: the type of the message says that this member is filled.
        is_request.then(|| unsafe { self.get().line.req })
    }

    /// The method of a request.
    pub fn method(self) -> Option<ffi::pjsip_method_e> {
        self.request_line().map(|line| line.method.id)
    }

    /// The name of a request's method.
    pub fn method_name(self) -> String {
        let name = self.request_line().map(|line| {
            // SAFETY: the text lies in the memory of the message, or is static.
            unsafe { text::to_string(&line.method.name) }
        });
        name.unwrap_or_default()
    }

    /// Whom a request is for.
    pub fn request_uri(self) -> Option<Uri<'a>> {
        // SAFETY: made by the parser, in the memory of the message.
        unsafe { Uri::new(self.request_line()?.uri) }
    }

    /// Its headers, however many there are.
    pub fn headers(self) -> HeaderList<'a> {
        // SAFETY: as for `get`. The address of the list, not what is in it: a list's
        // entries lead back to it.
        let head = unsafe { &raw mut (*self.message).hdr };
        // SAFETY: the list of a whole message, which lives as `new` says.
        unsafe { HeaderList::new(head) }
    }

    /// The first header that is the wanted one, within reason.
    fn find(self, mut wanted: impl FnMut(Header<'a>) -> bool) -> Option<Header<'a>> {
        let mut headers = self.headers().take(HEADERS_SCANNED_MAX);
        headers.find(|header| wanted(*header))
    }

    /// How many headers of a type it has, within reason.
    pub fn count(self, kind: ffi::pjsip_hdr_e) -> usize {
        let headers = self.headers().take(HEADERS_SCANNED_MAX);
        headers.filter(|header| header.kind() == kind).count()
    }

    /// The value of the first header of this name, as pjsip prints it.
    pub fn printed(self, name: &str) -> Option<String> {
        self.find(|header| header.name().eq_ignore_ascii_case(name))?
            .printed()
    }

    /// The SIP URI of the first Contact; `None` for `*`, another scheme, or
    /// where there is none.
    pub fn contact_uri(self) -> Option<SipUri<'a>> {
        let contact = self.find(|header| header.kind() == ffi::PJSIP_H_CONTACT)?;
        contact.contact()?.uri?.sip()
    }

    /// Retry-After of a response (RFC 3261 section 20.33); of several the last.
    pub fn retry_after(self) -> Option<Duration> {
        let headers = self.headers().take(HEADERS_SCANNED_MAX);
        let seconds = headers.filter_map(Header::retry_after).last()?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    /// Whether the To header has a tag: the message belongs to a dialog.
    pub fn has_to_tag(self) -> bool {
        self.headers().any(Header::is_tagged_to)
    }

    /// The seconds of its first Expires.
    pub fn expires(self) -> Option<u32> {
        self.headers().find_map(Header::expires)
    }

    /// Whether a REGISTER takes a registration back: expiry 0 for all of it.
    pub fn unregisters(self) -> bool {
        self.headers().any(Header::expires_now)
    }

    /// Whether a NOTIFY says that its subscription is over.
    pub fn ends_subscription(self) -> bool {
        let state = self.printed("Subscription-State");
        state.is_some_and(|state| state.to_ascii_lowercase().starts_with("terminated"))
    }

    /// Whether a response answers an INVITE, by its CSeq.
    pub fn is_answer_to_invite(self) -> bool {
        let cseq = self.find(|header| header.kind() == ffi::PJSIP_H_CSEQ);
        cseq.and_then(Header::cseq_method) == Some(ffi::PJSIP_INVITE_METHOD)
    }

    /// Puts a header behind the others; `pool` is that of the message.
    pub fn push_header(self, pool: super::pools::Pool<'a>, name: &str, value: &str) {
        // SAFETY: as for `headers`.
        let head = unsafe { &raw mut (*self.message).hdr };
        // SAFETY: the list of a whole message that the calling thread has to itself;
        // the pool lives as long as that.
        unsafe { super::headers::push_header(head, pool.as_ptr(), name, value) };
    }

    /// Its body, where it has one.
    pub fn body(self) -> Option<Body<'a>> {
        let body = self.get().body;
        (!body.is_null()).then_some(Body {
            body,
            message: PhantomData,
        })
    }

    /// Takes its body away.
    pub fn drop_body(self) {
        // SAFETY: as for `get`, which nobody holds now; the memory is the pool's.
        unsafe { (*self.message).body = std::ptr::null_mut() };
    }

    /// Gives it a copy of a text as its body, and every Content-Type header its type;
    /// none where there is no memory left. `pool` is that of the message.
    pub fn set_body(self, pool: super::pools::Pool<'a>, kind: (&str, &str), content: &str) {
        let mut lent = text::PjStrings::default();
        let (kind, subtype) = (lent.lend(kind.0), lent.lend(kind.1));
        let content = lent.lend(content);
        let (kind, subtype, content) = (&raw const kind, &raw const subtype, &raw const content);
        // SAFETY: made in the pool, with copies of the three texts, or null.
        let body = unsafe { ffi::pjsip_msg_body_create(pool.as_ptr(), kind, subtype, content) };
        // SAFETY: as for `get`, which nobody holds now.
        unsafe { (*self.message).body = body };
        // SAFETY: null or just made, and alive as long as the pool.
        if let Some(body) = unsafe { body.as_ref() } {
            for header in self.headers() {
                header.set_type(&body.content_type);
            }
        }
    }

    /// Type and text of its body, where it has one: lower case, and the first bytes
    /// of it.
    pub fn body_text(self) -> Option<(String, String)> {
        let body = self.body()?;
        let bytes = body.bytes()?;
        let bytes = &bytes[..bytes.len().min(BODY_TEXT_MAX_BYTES)];
        let text = String::from_utf8_lossy(bytes).into_owned();
        Some((body.kind().to_ascii_lowercase(), text))
    }
}

/// The body of a message that lives for `'a`.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    body: *mut pjsip_msg_body,
    message: PhantomData<&'a pjsip_msg_body>,
}

impl<'a> Body<'a> {
    /// Never kept: `cut` writes to what it shows.
    fn get(&self) -> &pjsip_msg_body {
        // SAFETY: the body of a message that lives and that no other thread touches.
        unsafe { &*self.body }
    }

    /// Its type and subtype.
    pub fn kind(self) -> String {
        let kind = &self.get().content_type;
        // SAFETY: the texts lie in the memory of the message.
        let subtype = unsafe { text::to_string(&kind.subtype) };
        format!("{}/{subtype}", self.main_type())
    }

    fn main_type(self) -> String {
        // SAFETY: the text lies in the memory of the message.
        unsafe { text::to_string(&self.get().content_type.type_) }
    }

    /// Whether it has parts: `multipart/…`.
    pub fn is_multipart(self) -> bool {
        self.main_type().eq_ignore_ascii_case("multipart")
    }

    /// The bytes of one without parts; `None` where there are none.
    pub fn bytes(self) -> Option<&'a [u8]> {
        let (data, length) = (self.get().data, usize::try_from(self.get().len).ok()?);
        if data.is_null() || length == 0 {
            return None;
        }
        // SAFETY: a body has `len` bytes at `data`, in the packet or the memory of the
        // message; nobody writes to them.
        Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) })
    }

    /// The boundary and all bytes of one with parts; `None` where pjsip does not
    /// have them any more.
    pub fn multipart(self) -> Option<(String, &'a [u8])> {
        let [mut boundary, mut raw]: [ffi::pj_str_t; 2] = [super::plain::zeroed(); 2];
        // SAFETY: `is_multipart` tells a body that the parser of such bodies made: it
        // has what this function asks for, or the function says that it has not.
        let status =
            unsafe { ffi::pjsip_multipart_get_raw(self.body, &raw mut boundary, &raw mut raw) };
        if status != ffi::PJ_SUCCESS {
            return None;
        }
        // SAFETY: the text lies in the memory of the message.
        let boundary = unsafe { text::to_string(&boundary) };
        let length = usize::try_from(raw.slen).unwrap_or(0);
        if raw.ptr.is_null() || length == 0 {
            return Some((boundary, &[]));
        }
        // SAFETY: pjsip names `slen` bytes of the packet, which live as long as the
        // message; nobody writes to them.
        let bytes = unsafe { std::slice::from_raw_parts(raw.ptr.cast::<u8>(), length) };
        Some((boundary, bytes))
    }

    /// Makes one without parts as short as this.
    pub fn cut(self, length: usize) {
        let length = c_uint::try_from(length).unwrap_or(0).min(self.get().len);
        // SAFETY: as for `get`, which nobody holds now; no longer than it was.
        unsafe { (*self.body).len = length };
    }
}
