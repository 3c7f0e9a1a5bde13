//! The headers of a message: walked through, read by their kind, thinned out.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::time::Duration;

use super::ffi::{self, pjsip_hdr, pjsip_hdr_e};
use super::text;
use super::uris::Uri;

/// Longest header that is printed.
const TEXT_MAX_BYTES: usize = 1_024;

/// One header of a message that lives for `'a`.
#[derive(Clone, Copy)]
pub struct Header<'a> {
    header: *mut pjsip_hdr,
    message: PhantomData<&'a pjsip_hdr>,
}

/// A struct that pjsip makes of every header of some types.
///
/// # Safety
/// Each header of one of `KINDS`, parsed or made by pjsip, must be of this struct.
unsafe trait OfKind {
    const KINDS: &[pjsip_hdr_e];
}

// SAFETY: sip_msg.c and sip_parser.c make no other struct of this type.
unsafe impl OfKind for ffi::pjsip_contact_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_CONTACT];
}

// SAFETY: as above, for both kinds of routes.
unsafe impl OfKind for ffi::pjsip_routing_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_ROUTE, ffi::PJSIP_H_RECORD_ROUTE];
}

// SAFETY: as above.
unsafe impl OfKind for ffi::pjsip_fromto_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_TO];
}

// SAFETY: as above.
unsafe impl OfKind for ffi::pjsip_expires_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_EXPIRES];
}

// SAFETY: as above.
unsafe impl OfKind for ffi::pjsip_retry_after_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_RETRY_AFTER];
}

// SAFETY: as above.
unsafe impl OfKind for ffi::pjsip_cseq_hdr {
    const KINDS: &[pjsip_hdr_e] = &[ffi::PJSIP_H_CSEQ];
}

// SAFETY: as above, for the challenges of a server and of a proxy.
unsafe impl OfKind for ffi::pjsip_www_authenticate_hdr {
    const KINDS: &[pjsip_hdr_e] = &[
        ffi::PJSIP_H_WWW_AUTHENTICATE,
        ffi::PJSIP_H_PROXY_AUTHENTICATE,
    ];
}

/// What a Contact says.
pub struct Contact<'a> {
    /// Whether it is `*`.
    pub is_star: bool,
    pub uri: Option<Uri<'a>>,
    /// Its `expires` parameter, in seconds.
    pub expires: Option<u32>,
}

/// A challenge for credentials.
pub struct ChallengeHeader {
    pub is_digest: bool,
    /// Empty unless it is one of Digest.
    pub realm: String,
}

impl<'a> Header<'a> {
    /// Never kept: other methods write to what it shows.
    fn get(&self) -> &pjsip_hdr {
        // SAFETY: made by `Headers` alone, of a message that lives for `'a` and that
        // no other thread touches; every entry of its list begins like this.
        unsafe { &*self.header }
    }

    /// The struct of its kind; `None` for another kind. Never kept, as `get`.
    fn of<T: OfKind>(&self) -> Option<&T> {
        let is_one = T::KINDS.contains(&self.kind());
        // SAFETY: as for `get`; that the type tells the struct is the trait's promise.
        is_one.then(|| unsafe { &*self.header.cast::<T>() })
    }

    /// Its type.
    pub fn kind(self) -> pjsip_hdr_e {
        self.get().type_
    }

    /// Its name.
    pub fn name(self) -> String {
        // SAFETY: the text lies in the memory of the message, or is static.
        unsafe { text::to_string(&self.get().name) }
    }

    /// What a Contact says.
    pub fn contact(self) -> Option<Contact<'a>> {
        let contact: &ffi::pjsip_contact_hdr = self.of()?;
        Some(Contact {
            is_star: contact.star != 0,
            // SAFETY: made by the parser, in the memory of the message.
            uri: unsafe { Uri::new(contact.uri) },
            // pjsip has the highest number stand for none.
            expires: Some(contact.expires).filter(|expires| *expires != u32::MAX),
        })
    }

    /// Where a Route or Record-Route leads.
    pub fn route(self) -> Option<Uri<'a>> {
        let route: &ffi::pjsip_routing_hdr = self.of()?;
        // SAFETY: made by the parser, in the memory of the message.
        unsafe { Uri::new(route.name_addr.uri) }
    }

    /// Whether it is a To with a tag.
    pub fn is_tagged_to(self) -> bool {
        self.of::<ffi::pjsip_fromto_hdr>()
            .is_some_and(|to| to.tag.slen > 0)
    }

    /// The seconds of an Expires.
    pub fn expires(self) -> Option<u32> {
        let header: &ffi::pjsip_expires_hdr = self.of()?;
        Some(header.ivalue)
    }

    /// Whether it is an Expires of 0.
    pub fn expires_now(self) -> bool {
        self.expires() == Some(0)
    }

    /// The seconds of a Retry-After.
    pub fn retry_after(self) -> Option<c_int> {
        let header: &ffi::pjsip_retry_after_hdr = self.of()?;
        Some(header.ivalue)
    }

    /// The method of a CSeq.
    pub fn cseq_method(self) -> Option<ffi::pjsip_method_e> {
        let cseq: &ffi::pjsip_cseq_hdr = self.of()?;
        Some(cseq.method.id)
    }

    /// A challenge of a 401 or 407.
    pub fn challenge(self) -> Option<ChallengeHeader> {
        let header: &ffi::pjsip_www_authenticate_hdr = self.of()?;
        // SAFETY: the text lies in the memory of the message.
        let scheme = unsafe { text::to_string(&header.scheme) };
        let is_digest = scheme.eq_ignore_ascii_case("digest");
        let realm = is_digest.then(|| {
            // SAFETY: the scheme says that this member of the union is filled.
            let digest = unsafe { &header.challenge.digest };
            // SAFETY: the text lies in the memory of the message.
            unsafe { text::to_string(&digest.realm) }
        });
        Some(ChallengeHeader {
            is_digest,
            realm: realm.unwrap_or_default(),
        })
    }

    /// The value of a header of a name that pjsip has no parser for.
    ///
    /// # Safety
    /// There must be none: of those the parser makes a generic string header, of
    /// others of the type OTHER it makes structs of their own.
    pub unsafe fn generic_value(self) -> String {
        let header = self.header.cast::<ffi::pjsip_generic_string_hdr>();
        // SAFETY: the caller's promise tells the struct; else as for `get`.
        let value = unsafe { &(*header).hvalue };
        // SAFETY: the text lies in the memory of the message.
        unsafe { text::to_string(value) }
    }

    /// Its value as pjsip prints it, within reason.
    pub fn printed(self) -> Option<String> {
        let table = self.get().vptr;
        // SAFETY: pjsip's tables are static and constant.
        let print = unsafe { (*table).print_on }?;
        let mut buffer = [0_u8; TEXT_MAX_BYTES];
        let (out, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the header's own function, which writes at most `room` bytes and
        // returns how many, or a negative number.
        let written = unsafe { print(self.header.cast(), out, room) };
        let length = usize::try_from(written).unwrap_or(0).min(room);
        let text = String::from_utf8_lossy(&buffer[..length]);
        text.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    }

    /// Gives a Content-Type the type of a body, without parameters.
    pub fn set_type(self, of: &ffi::pjsip_media_type) {
        if self.kind() != ffi::PJSIP_H_CONTENT_TYPE {
            return;
        }
        let header = self.header.cast::<ffi::pjsip_ctype_hdr>();
        // SAFETY: the type tells the struct; else as for `get`, which nobody holds.
        let media = unsafe { &mut (*header).media };
        media.type_ = of.type_;
        media.subtype = of.subtype;
        // An empty list points to itself.
        let parameters = &raw mut media.param;
        media.param.prev = parameters;
        media.param.next = parameters;
    }

    /// Takes it out of its list; its memory stays the pool's.
    fn unlink(self) {
        let (before, after) = (self.get().prev, self.get().next);
        // SAFETY: neighbours in the ring of the message, see `get`.
        unsafe { (*before).next = after };
        // SAFETY: as above.
        unsafe { (*after).prev = before };
    }
}

/// The headers of a message, one by one, however many there are.
pub struct HeaderList<'a> {
    /// Where the ring ends.
    head: *mut pjsip_hdr,
    next: *mut pjsip_hdr,
    message: PhantomData<&'a pjsip_hdr>,
}

impl<'a> HeaderList<'a> {
    /// # Safety
    /// `head` must be the header list of a message that lives for `'a` and that the
    /// calling thread has to itself for that time: a ring that ends at its head.
    pub unsafe fn new(head: *mut pjsip_hdr) -> Self {
        Self {
            head,
            // SAFETY: the caller's promise.
            next: unsafe { (*head).next },
            message: PhantomData,
        }
    }

    /// Takes out what is not to stay; returns how many.
    ///
    /// # Safety
    /// None of the headers taken out may be pointed to from elsewhere.
    pub unsafe fn retain(self, mut keep: impl FnMut(Header<'a>) -> bool) -> usize {
        let mut taken = 0;
        for header in self {
            if !keep(header) {
                header.unlink();
                taken += 1;
            }
        }
        taken
    }
}

impl<'a> Iterator for HeaderList<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        if self.next.is_null() || self.next == self.head {
            return None;
        }
        let header = Header {
            header: self.next,
            message: PhantomData,
        };
        self.next = header.get().next;
        Some(header)
    }
}

/// The value of a Retry-After header: whole seconds, at least one.
pub fn retry_after_value(after: Duration) -> String {
    after.as_secs().max(1).to_string()
}

/// Makes an empty header list of `head`.
///
/// # Safety
/// `head` must be valid for writes and stay where it is.
pub unsafe fn init_list(head: *mut pjsip_hdr) {
    // SAFETY: the caller's promise; nobody else knows of the list yet.
    let list = unsafe { &mut *head };
    list.prev = head;
    list.next = head;
}

/// Puts a header at the end of a header list.
///
/// # Safety
/// `head` must be the head of a list that stays where it is and that no other
/// thread touches, `pool` alive as long as the list is used.
pub unsafe fn push_header(
    head: *mut pjsip_hdr,
    pool: *mut ffi::pj_pool_t,
    name: &str,
    value: &str,
) {
    let mut lent = text::PjStrings::default();
    let name = lent.lend(name);
    let value = lent.lend(value);
    // SAFETY: the header is made in the pool, with copies of name and value.
    let header =
        unsafe { ffi::pjsip_generic_string_hdr_create(pool, &raw const name, &raw const value) };
    let header = header.cast::<pjsip_hdr>();
    if header.is_null() {
        return;
    }
    // SAFETY: the caller's promise; a ring's last entry is the one before the head.
    let last = unsafe { (*head).prev };
    // SAFETY: just made, and in nobody's list.
    let new = unsafe { &mut *header };
    new.prev = last;
    new.next = head;
    // SAFETY: an entry of the list, or its head.
    unsafe { (*last).next = header };
    // SAFETY: the caller's promise.
    unsafe { (*head).prev = header };
}
