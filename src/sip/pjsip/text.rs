//! C strings and headers to Rust and back. What comes from C is bounded and
//! made valid UTF-8; what goes to C is kept alive by an arena.

use std::ffi::{CStr, c_char, c_long, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use super::{ffi, uris};
use crate::sip::uri::UriParts;

/// Longest text taken from one C string.
const TEXT_MAX_BYTES: usize = 1_024;
/// Most of a body that is looked at.
const BODY_MAX_BYTES: usize = 256;
/// Most headers looked at in one message.
const HEADERS_SCANNED_MAX: usize = 256;

/// Strings lent to C for the time of a call. They are wiped when dropped:
/// passwords are among them.
#[derive(Default)]
pub struct PjStrings(Vec<Zeroizing<Vec<u8>>>);

impl PjStrings {
    /// Copies `text` with a NUL behind it; what follows a NUL inside is cut off.
    /// Valid as long as this arena.
    pub fn lend(&mut self, text: &str) -> ffi::pj_str_t {
        let clean = text.split('\0').next().unwrap_or_default();
        let mut bytes = Zeroizing::new(Vec::with_capacity(clean.len() + 1));
        bytes.extend_from_slice(clean.as_bytes());
        bytes.push(0);
        let lent = ffi::pj_str_t {
            ptr: bytes.as_mut_ptr().cast::<c_char>(),
            slen: c_long::try_from(clean.len()).unwrap_or(0),
        };
        self.0.push(bytes);
        lent
    }
}

/// A text that lives for ever, for C to read.
pub fn static_str(text: &'static str) -> ffi::pj_str_t {
    ffi::pj_str_t {
        ptr: text.as_ptr().cast_mut().cast(),
        slen: c_long::try_from(text.len()).unwrap_or(0),
    }
}

/// The text of a C string, at most `TEXT_MAX_BYTES` of it.
///
/// # Safety
/// `text` must be empty or point to `slen` readable bytes.
pub unsafe fn to_string(text: &ffi::pj_str_t) -> String {
    let length = usize::try_from(text.slen).unwrap_or(0).min(TEXT_MAX_BYTES);
    if text.ptr.is_null() || length == 0 {
        return String::new();
    }
    // SAFETY: the caller says that slen bytes are readable; length is no more.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr.cast::<u8>(), length) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// What pjsip says about a status code.
pub fn status_text(status: ffi::pj_status_t) -> String {
    let mut buffer = [0_u8; 160];
    // SAFETY: pj_strerror writes at most the given size and terminates it; the
    // table it reads is static.
    unsafe { ffi::pj_strerror(status, buffer.as_mut_ptr().cast(), buffer.len()) };
    CStr::from_bytes_until_nul(&buffer).map_or_else(
        |_| format!("status {status}"),
        |text| text.to_string_lossy().into_owned(),
    )
}

/// The parts of a parsed URI, or name-addr around one.
///
/// # Safety
/// `uri` must be null or a URI object of pjsip's parser.
pub unsafe fn uri_parts(uri: *mut c_void) -> UriParts {
    // SAFETY: the caller's promise is passed on.
    unsafe { uri_text(uri) }.map_or_else(UriParts::default, |text| UriParts::parse(&text))
}

/// # Safety
/// `uri` must be null or a URI object of pjsip's parser.
unsafe fn uri_text(uri: *mut c_void) -> Option<String> {
    if uri.is_null() {
        return None;
    }
    let mut buffer = [0_u8; TEXT_MAX_BYTES];
    // SAFETY: every URI object of pjsip begins with its function table
    // (pjsip_uri), a name-addr too; p_get_uri returns the inner object with
    // the same layout, p_print writes at most `size` bytes and returns how
    // many, or a negative number.
    let written = unsafe {
        let outer = uri.cast::<ffi::pjsip_uri>();
        let inner = match (*(*outer).vptr).p_get_uri {
            Some(get) => get(uri),
            None => uri,
        };
        let inner = inner.cast::<ffi::pjsip_uri>();
        if inner.is_null() {
            return None;
        }
        let print = (*(*inner).vptr).p_print?;
        print(
            ffi::PJSIP_URI_IN_REQ_URI,
            inner.cast(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let length = usize::try_from(written)
        .ok()
        .filter(|n| *n <= buffer.len())?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Looks at each header of a message, within reason.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn each_header(message: *mut ffi::pjsip_msg, mut take: impl FnMut(*mut ffi::pjsip_hdr)) {
    // SAFETY: the header list of a parsed message is a ring that ends at its
    // head, and every entry begins with type and name.
    unsafe {
        let head = &raw mut (*message).hdr;
        let mut at = (*head).next;
        for _ in 0..HEADERS_SCANNED_MAX {
            if at.cast::<c_void>() == head.cast::<c_void>() || at.is_null() {
                break;
            }
            take(at);
            at = (*at).next;
        }
    }
}

/// Retry-After of a response (RFC 3261 section 20.33).
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn retry_after(message: *mut ffi::pjsip_msg) -> Option<Duration> {
    let mut seconds = None;
    // SAFETY: the caller's promise is passed on; pjsip's parser makes a
    // pjsip_retry_after_hdr of every header of this type.
    unsafe {
        each_header(message, |at| {
            if (*at).type_ == ffi::PJSIP_H_RETRY_AFTER {
                seconds = Some((*at.cast::<ffi::pjsip_retry_after_hdr>()).ivalue);
            }
        });
    }
    let seconds = u64::try_from(seconds?).ok();
    seconds.map(Duration::from_secs)
}

/// Makes an empty header list of `head`.
///
/// # Safety
/// `head` must be valid for writes and stay where it is.
pub unsafe fn init_list(head: *mut ffi::pjsip_hdr) {
    // SAFETY: the caller's promise.
    unsafe {
        (*head).prev = head;
        (*head).next = head;
    }
}

/// Puts a header at the end of a header list.
///
/// # Safety
/// `head` must be the head of a list that stays where it is, `pool` alive as
/// long as the list is used.
pub unsafe fn push_header(
    head: *mut ffi::pjsip_hdr,
    pool: *mut ffi::pj_pool_t,
    name: &str,
    value: &str,
) {
    let mut lent = PjStrings::default();
    let name = lent.lend(name);
    let value = lent.lend(value);
    // SAFETY: the header is made in the pool, with copies of name and value;
    // the list is a ring, so its last entry is the one before the head.
    unsafe {
        let header = ffi::pjsip_generic_string_hdr_create(pool, &raw const name, &raw const value)
            .cast::<ffi::pjsip_hdr>();
        if !header.is_null() {
            let last = (*head).prev;
            (*header).prev = last;
            (*header).next = head;
            (*last).next = header;
            (*head).prev = header;
        }
    }
}

/// Puts a Retry-After header at the end of a header list.
///
/// # Safety
/// As for [`push_header`].
pub unsafe fn push_retry_after(
    head: *mut ffi::pjsip_hdr,
    pool: *mut ffi::pj_pool_t,
    after: Duration,
) {
    let seconds = after.as_secs().max(1).to_string();
    // SAFETY: the caller's promise is passed on.
    unsafe { push_header(head, pool, "Retry-After", &seconds) };
}

/// The first header of a message that is the wanted one.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call;
/// `wanted` gets its headers.
unsafe fn find_header(
    message: *mut ffi::pjsip_msg,
    wanted: impl Fn(&ffi::pjsip_hdr) -> bool,
) -> Option<*mut ffi::pjsip_hdr> {
    // SAFETY: the header list of a message is a ring that ends at its head.
    unsafe {
        let head = &raw mut (*message).hdr;
        let mut at = (*head).next;
        for _ in 0..HEADERS_SCANNED_MAX {
            if at.cast::<c_void>() == head.cast::<c_void>() || at.is_null() {
                return None;
            }
            if wanted(&*at) {
                return Some(at);
            }
            at = (*at).next;
        }
    }
    None
}

/// How many headers of a type a message has.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn count(message: *mut ffi::pjsip_msg, kind: ffi::pjsip_hdr_e) -> usize {
    let mut found = 0;
    // SAFETY: the caller's promise is passed on; every entry begins with its type.
    unsafe { each_header(message, |at| found += usize::from((*at).type_ == kind)) };
    found
}

/// The SIP URI of a message's first Contact; `None` for `*`, another scheme, or
/// where there is none.
///
/// # Safety
/// `message` must be a parsed message; the URI lives as long as the message.
pub unsafe fn contact_uri(message: *mut ffi::pjsip_msg) -> Option<*mut ffi::pjsip_sip_uri> {
    // SAFETY: the caller's promise is passed on. An entry of type CONTACT is a
    // pjsip_contact_hdr.
    unsafe {
        let header = find_header(message, |header| header.type_ == ffi::PJSIP_H_CONTACT)?;
        uris::sip_uri((*header.cast::<ffi::pjsip_contact_hdr>()).uri)
    }
}

/// Source and Call-ID of a message, for the log.
///
/// # Safety
/// `rdata` must be a parsed message.
pub unsafe fn sender(rdata: *mut ffi::pjsip_rx_data) -> (String, String) {
    // SAFETY: the caller's promise; Call-ID is there in every message that pjsip
    // lets through.
    unsafe {
        let peer = socket_address(&raw const (*rdata).pkt_info.src_addr);
        let peer = peer.map_or_else(String::new, |peer| peer.to_string());
        (peer, to_string(&(*(*rdata).msg_info.cid).id))
    }
}

/// Whether a URI is of the scheme `sips`.
///
/// # Safety
/// `uri` must be a SIP URI of a parsed message.
pub unsafe fn is_sips(uri: *mut ffi::pjsip_sip_uri) -> bool {
    // SAFETY: the caller's promise; every URI begins with its table.
    unsafe {
        let vptr = (*uri.cast::<ffi::pjsip_uri>()).vptr;
        (*vptr)
            .p_get_scheme
            .is_some_and(|scheme| to_string(&*scheme(uri.cast())).eq_ignore_ascii_case("sips"))
    }
}

/// A copy of a text in memory of a pool; `None` when there is none left.
///
/// # Safety
/// `pool` must be alive for as long as the copy is used.
pub unsafe fn in_pool(pool: *mut ffi::pj_pool_t, text: &str) -> Option<ffi::pj_str_t> {
    // SAFETY: the pool gives `len` bytes that nobody else has, or null.
    unsafe {
        let copy = ffi::pj_pool_alloc(pool, text.len()).cast::<c_char>();
        if copy.is_null() {
            return None;
        }
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), copy, text.len());
        Some(ffi::pj_str_t {
            ptr: copy,
            slen: c_long::try_from(text.len()).ok()?,
        })
    }
}

/// The value of the first header of this name, as pjsip prints it.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn printed(message: *mut ffi::pjsip_msg, name: &str) -> Option<String> {
    // SAFETY: the caller's promise is passed on. Every header prints itself
    // through its own table, into at most `size` bytes.
    unsafe {
        let is_wanted =
            |header: &ffi::pjsip_hdr| to_string(&header.name).eq_ignore_ascii_case(name);
        let header = find_header(message, is_wanted)?;
        let vptr = (*header).vptr.cast::<ffi::pjsip_hdr_vptr>();
        let mut buffer = [0_u8; TEXT_MAX_BYTES];
        let print = (*vptr).print_on?;
        let written = print(header.cast(), buffer.as_mut_ptr().cast(), buffer.len());
        let length = usize::try_from(written).unwrap_or(0).min(buffer.len());
        let text = String::from_utf8_lossy(&buffer[..length]);
        text.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    }
}

/// Whether a NOTIFY says that its subscription is over.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn ends_subscription(message: *mut ffi::pjsip_msg) -> bool {
    // SAFETY: the caller's promise is passed on.
    let state = unsafe { printed(message, "Subscription-State") };
    state.is_some_and(|state| state.to_ascii_lowercase().starts_with("terminated"))
}

/// Type and text of a message's body, where it has one: lower case, and at
/// most so many bytes of it.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
pub unsafe fn body(message: *mut ffi::pjsip_msg) -> Option<(String, String)> {
    // SAFETY: a body has `len` bytes at `data`, which live as long as the message.
    unsafe {
        let body = (*message).body;
        if body.is_null() || (*body).len == 0 || (*body).data.is_null() {
            return None;
        }
        let kind = &(*body).content_type;
        let kind = format!("{}/{}", to_string(&kind.type_), to_string(&kind.subtype));
        let length = usize::try_from((*body).len).unwrap_or(0);
        let length = length.min(BODY_MAX_BYTES);
        let bytes = std::slice::from_raw_parts((*body).data.cast::<u8>(), length);
        let text = String::from_utf8_lossy(bytes).into_owned();
        Some((kind.to_ascii_lowercase(), text))
    }
}

/// Whether a response answers an INVITE, by its CSeq.
///
/// # Safety
/// `message` must be a response that stays as it is during the call.
pub unsafe fn is_answer_to_invite(message: *mut ffi::pjsip_msg) -> bool {
    // SAFETY: the caller's promise is passed on; an entry of type CSEQ is a
    // pjsip_cseq_hdr.
    unsafe {
        find_header(message, |header| header.type_ == ffi::PJSIP_H_CSEQ).is_some_and(|cseq| {
            let method = (*cseq.cast::<ffi::pjsip_cseq_hdr>()).method.id;
            method == ffi::PJSIP_INVITE_METHOD
        })
    }
}

/// A socket address of C; `None` for another family, an unspecified address
/// or port 0.
///
/// # Safety
/// `address` must be null or point to a pj_sockaddr (or the sockaddr of its
/// own family, in full).
pub unsafe fn socket_address(address: *const ffi::pj_sockaddr) -> Option<SocketAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the family is the first field of every member of the union and
    // says which one is filled; addresses are in network order.
    let (ip, port) = unsafe {
        match i32::from((*address).addr.sa_family) {
            AF_INET => {
                let v4 = &raw const (*address).ipv4;
                let ip = Ipv4Addr::from(u32::from_be((*v4).sin_addr.s_addr));
                (IpAddr::V4(ip), (*v4).sin_port)
            }
            AF_INET6 => {
                let v6 = &raw const (*address).ipv6;
                let bytes: [u8; 16] = (&raw const (*v6).sin6_addr).cast::<[u8; 16]>().read();
                (IpAddr::V6(Ipv6Addr::from(bytes)), (*v6).sin6_port)
            }
            _ => return None,
        }
    };
    let port = u16::from_be(port);
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port))
}

/// Writes an address over another one, in its family where IPv4 can be mapped
/// into it.
///
/// # Safety
/// `address` must hold a pj_sockaddr, in full.
pub unsafe fn set_socket_address(address: *mut ffi::pj_sockaddr, to: SocketAddr) {
    // SAFETY: the family is the first field of every member of the union, whose
    // plain fields are written; addresses are in network order.
    unsafe {
        let was_v6 = i32::from((*address).addr.sa_family) == AF_INET6;
        let ip = match to.ip() {
            IpAddr::V4(v4) if was_v6 => IpAddr::V6(v4.to_ipv6_mapped()),
            ip => ip,
        };
        address.write(std::mem::zeroed());
        match ip {
            IpAddr::V4(ip) => {
                let v4 = &raw mut (*address).ipv4;
                (*v4).sin_family = AF_INET as u16;
                (*v4).sin_port = to.port().to_be();
                (*v4).sin_addr.s_addr = u32::from(ip).to_be();
            }
            IpAddr::V6(ip) => {
                let v6 = &raw mut (*address).ipv6;
                (*v6).sin6_family = AF_INET6 as u16;
                (*v6).sin6_port = to.port().to_be();
                (&raw mut (*v6).sin6_addr)
                    .cast::<[u8; 16]>()
                    .write(ip.octets());
            }
        }
    }
}

/// Bytes of an address, by its family.
pub fn socket_address_len(address: &ffi::pj_sockaddr) -> std::ffi::c_uint {
    // SAFETY: the family is the first field of every member of the union.
    let is_v6 = i32::from(unsafe { address.addr.sa_family }) == AF_INET6;
    let bytes = if is_v6 {
        size_of::<ffi::pj_sockaddr_in6>()
    } else {
        size_of::<ffi::pj_sockaddr_in>()
    };
    std::ffi::c_uint::try_from(bytes).unwrap_or(0)
}

// Linux values; pjlib uses the system's own.
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_text_comes_back_and_stops_at_a_nul() {
        let mut lent = PjStrings::default();
        let one = lent.lend("sip:a@b");
        let two = lent.lend("x\0y");
        // SAFETY: the arena is alive.
        unsafe {
            assert_eq!(to_string(&one), "sip:a@b");
            assert_eq!(to_string(&two), "x");
        }
    }

    #[test]
    fn a_socket_address_of_c_is_read_in_network_order() {
        // SAFETY: all-zero is a valid value of this plain C union.
        let mut address: ffi::pj_sockaddr = unsafe { std::mem::zeroed() };
        assert_eq!(unsafe { socket_address(&raw const address) }, None);
        address.ipv4.sin_family = 2;
        address.ipv4.sin_port = 5060_u16.to_be();
        address.ipv4.sin_addr.s_addr = u32::from(Ipv4Addr::new(10, 0, 0, 7)).to_be();
        // SAFETY: the union was filled as IPv4 above.
        let read = unsafe { socket_address(&raw const address) };
        assert_eq!(read, Some(SocketAddr::from(([10, 0, 0, 7], 5060))));
    }
}
