//! C data that is zeroed before C fills it.

use super::ffi;

/// A struct or union of C of which all bytes zero is a value.
///
/// # Safety
/// Only for types without references, `NonNull`, enums of Rust or anything else
/// that is never zero.
pub unsafe trait Plain: Sized {}

/// All bytes zero.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: the trait says that this is a value of the type.
    unsafe { std::mem::zeroed() }
}

/// All bytes zero, at a place of its own: some of these are tens of kilobytes.
pub fn boxed<T: Plain>() -> Box<T> {
    Box::new(zeroed())
}

/// Marks types of the generated bindings.
macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: generated from C: integers, arrays of them, pointers, `Option`s of
        // functions, and structs and unions of these.
        unsafe impl Plain for ffi::$name {}
    )*};
}

plain! {
    pj_sockaddr
    pj_str_t
    pjmedia_transport
    pjsip_hdr
    pjsip_rx_data
    pjsip_server_addresses
    pjsua_acc_config
    pjsua_acc_info
    pjsua_call_info
    pjsua_call_setting
    pjsua_codec_info
    pjsua_config
    pjsua_logging_config
    pjsua_media_config
    pjsua_msg_data
    pjsua_stream_info
    pjsua_transport_config
    pjsua_transport_info
}
