//! URI objects of pjsip: what they say, and which are SIP addresses.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::net::SocketAddr;

use super::ffi::{self, pjsip_sip_uri, pjsip_uri};
use super::pools::Pool;
use super::text;
use crate::sip::bindings::ContactAddress;
use crate::sip::uri::UriParts;

/// Longest text that a URI is printed to.
const TEXT_MAX_BYTES: usize = 1_024;

/// A URI, or a name-addr around one, of a message that lives for `'a`.
#[derive(Clone, Copy)]
pub struct Uri<'a> {
    uri: *mut pjsip_uri,
    message: PhantomData<&'a pjsip_uri>,
}

impl<'a> Uri<'a> {
    /// `None` for null.
    ///
    /// # Safety
    /// `uri` must be null or a URI object of pjsip's parser, of a message that lives
    /// for `'a` and that the calling thread has to itself for that time.
    pub unsafe fn new(uri: *mut pjsip_uri) -> Option<Self> {
        (!uri.is_null()).then_some(Self {
            uri,
            message: PhantomData,
        })
    }

    /// Its functions, which each kind of URI has of its own.
    fn table(&self) -> &'static ffi::pjsip_uri_vptr {
        // SAFETY: the object lives, see `new`; each kind begins with its table.
        let table = unsafe { (*self.uri).vptr };
        // SAFETY: pjsip's tables are static and constant.
        unsafe { &*table }
    }

    const fn as_ptr(self) -> *mut c_void {
        self.uri.cast()
    }

    /// The URI inside of a name-addr; any other is the URI itself.
    fn inner(self) -> Option<Self> {
        let Some(get) = self.table().p_get_uri else {
            return Some(self);
        };
        // SAFETY: the object's own function, which only reads it.
        let inner = unsafe { get(self.as_ptr()) }.cast::<pjsip_uri>();
        // SAFETY: it gives the object itself, or one that lives inside of it.
        unsafe { Self::new(inner) }
    }

    fn scheme(self) -> Option<String> {
        let get = self.table().p_get_scheme?;
        // SAFETY: the object's own function, which only reads it.
        let scheme = unsafe { get(self.as_ptr()) };
        // SAFETY: it gives null or a string that lives as long as the object.
        let scheme = unsafe { scheme.as_ref() }?;
        // SAFETY: as above.
        Some(unsafe { text::to_string(scheme) })
    }

    /// Its parts, as pjsip prints it in a request line.
    pub fn parts(self) -> UriParts {
        let printed = self.printed();
        printed.map_or_else(UriParts::default, |text| UriParts::parse(&text))
    }

    fn printed(self) -> Option<String> {
        let mut buffer = [0_u8; TEXT_MAX_BYTES];
        let inner = self.inner()?;
        let print = inner.table().p_print?;
        let (out, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the object's own function, which writes at most `room` bytes and
        // returns how many, or a negative number.
        let written = unsafe { print(ffi::PJSIP_URI_IN_REQ_URI, inner.as_ptr(), out, room) };
        let length = usize::try_from(written).ok().filter(|n| *n <= room)?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The SIP URI that it is, or holds as a name-addr; `None` for another scheme
    /// or without a host.
    pub fn sip(self) -> Option<SipUri<'a>> {
        let inner = self.inner()?;
        let scheme = inner.scheme()?;
        let is_secure = scheme.eq_ignore_ascii_case("sips");
        let is_sip = is_secure || scheme.eq_ignore_ascii_case("sip");
        let uri = SipUri {
            uri: is_sip.then(|| inner.uri.cast())?,
            is_secure,
            message: PhantomData,
        };
        (uri.get().host.slen > 0).then_some(uri)
    }
}

/// A URI of the scheme `sip` or `sips`.
#[derive(Clone, Copy)]
pub struct SipUri<'a> {
    uri: *mut pjsip_sip_uri,
    is_secure: bool,
    message: PhantomData<&'a pjsip_sip_uri>,
}

impl<'a> SipUri<'a> {
    /// Never kept: the setters write to what it shows.
    fn get(&self) -> &pjsip_sip_uri {
        // SAFETY: the scheme tells the struct, see `Uri::sip`; it lives for `'a`, and
        // no other thread writes to it.
        unsafe { &*self.uri }
    }

    /// As any URI.
    pub const fn uri(self) -> Uri<'a> {
        Uri {
            uri: self.uri.cast(),
            message: PhantomData,
        }
    }

    /// Whether it is of the scheme `sips`.
    pub const fn is_secure(self) -> bool {
        self.is_secure
    }

    /// Its host.
    pub fn host(self) -> String {
        // SAFETY: the text lies in the memory of the message.
        unsafe { text::to_string(&self.get().host) }
    }

    /// Where it leads, as a Contact.
    pub fn address(self) -> ContactAddress {
        // SAFETY: the text lies in the memory of the message.
        let transport = unsafe { text::to_string(&self.get().transport_param) };
        let is_tls = self.is_secure || transport.eq_ignore_ascii_case("tls");
        let port = u16::try_from(self.get().port).unwrap_or(0);
        ContactAddress::new(&self.host(), port, is_tls)
    }

    /// Whether it names a transport.
    pub fn has_transport(self) -> bool {
        self.get().transport_param.slen > 0
    }

    /// Has it name a transport; `pool` is that of its message.
    pub fn set_transport(self, name: &str, pool: Pool<'a>) {
        if let Some(name) = pool.text(name) {
            // SAFETY: as for `get`, which nobody holds now.
            unsafe { (*self.uri).transport_param = name };
        }
    }

    /// Has it lead to another address; `pool` is that of its message.
    pub fn point(self, to: SocketAddr, pool: Pool<'a>) {
        if let Some(host) = pool.text(&to.ip().to_string()) {
            // SAFETY: as for `get`, which nobody holds now.
            unsafe { (*self.uri).host = host };
            // SAFETY: as above.
            unsafe { (*self.uri).port = c_int::from(to.port()) };
        }
    }
}
