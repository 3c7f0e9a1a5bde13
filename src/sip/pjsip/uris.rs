//! URI objects of pjsip: which are SIP addresses.

use super::{ffi, text};

/// The SIP URI that a URI is, or holds as a name-addr; `None` for another scheme
/// or without a host.
///
/// # Safety
/// `uri` must be null or a URI object of pjsip's parser.
pub unsafe fn sip_uri(uri: *mut ffi::pjsip_uri) -> Option<*mut ffi::pjsip_sip_uri> {
    // SAFETY: the caller's promise. A URI object begins with its table, a
    // name-addr answers with the URI inside, and the scheme tells its struct.
    unsafe {
        if uri.is_null() {
            return None;
        }
        let inner = (*(*uri).vptr).p_get_uri?(uri.cast());
        let inner = inner.cast::<ffi::pjsip_uri>();
        if inner.is_null() {
            return None;
        }
        let scheme = text::to_string(&*(*(*inner).vptr).p_get_scheme?(inner.cast()));
        let is_sip = scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips");
        let uri = is_sip.then(|| inner.cast::<ffi::pjsip_sip_uri>())?;
        ((*uri).host.slen > 0).then_some(uri)
    }
}
