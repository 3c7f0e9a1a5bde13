//! The headers of a message as a list: looked through, thinned out. Unlike the
//! readers in `text` these look at every header, however many there are.

use super::ffi;

/// Whether any header of a message is a wanted one.
///
/// # Safety
/// `message` must be a message that stays as it is during the call.
pub unsafe fn any_header(
    message: *mut ffi::pjsip_msg,
    mut wanted: impl FnMut(*mut ffi::pjsip_hdr) -> bool,
) -> bool {
    // SAFETY: the header list of a message is a ring that ends at its head.
    unsafe {
        let head = (&raw mut (*message).hdr).cast::<ffi::pjsip_hdr>();
        let mut at = (*head).next;
        while at != head {
            if wanted(at) {
                return true;
            }
            at = (*at).next;
        }
    }
    false
}

/// Takes every header out of a message that is not to stay; returns how many.
/// All headers are looked at, however many there are.
///
/// # Safety
/// `message` must be a message that nobody else uses at the moment, and none of
/// the headers taken out may be pointed to from elsewhere.
pub unsafe fn retain_headers(
    message: *mut ffi::pjsip_msg,
    mut keep: impl FnMut(*mut ffi::pjsip_hdr) -> bool,
) -> usize {
    let mut taken = 0;
    // SAFETY: the header list of a message is a ring that ends at its head; an
    // entry is unlinked by joining its neighbours, its memory is the pool's.
    unsafe {
        let head = (&raw mut (*message).hdr).cast::<ffi::pjsip_hdr>();
        let mut at = (*head).next;
        while at != head {
            let next = (*at).next;
            if !keep(at) {
                (*(*at).prev).next = next;
                (*next).prev = (*at).prev;
                taken += 1;
            }
            at = next;
        }
    }
    taken
}

/// Whether the To header of a message has a tag: it belongs to a dialog.
///
/// # Safety
/// `message` must be a message that stays as it is during the call.
pub unsafe fn has_to_tag(message: *mut ffi::pjsip_msg) -> bool {
    // SAFETY: the caller's promise; an entry of type TO is a pjsip_to_hdr.
    unsafe {
        any_header(message, |header| {
            (*header).type_ == ffi::PJSIP_H_TO && (*header.cast::<ffi::pjsip_to_hdr>()).tag.slen > 0
        })
    }
}

/// Whether a REGISTER takes a registration back: expiry 0 for all of it.
///
/// # Safety
/// `message` must be a message that stays as it is during the call.
pub unsafe fn unregisters(message: *mut ffi::pjsip_msg) -> bool {
    // SAFETY: the caller's promise; an entry of type EXPIRES is a
    // pjsip_expires_hdr.
    unsafe {
        any_header(message, |header| {
            (*header).type_ == ffi::PJSIP_H_EXPIRES
                && (*header.cast::<ffi::pjsip_expires_hdr>()).ivalue == 0
        })
    }
}
