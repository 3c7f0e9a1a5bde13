//! The transaction of ours that a response belongs to.

use super::ffi::{self, pjsip_rx_data, pjsip_transaction};

/// What `read` makes of the transaction of a response, which is locked
/// meanwhile; `None` where the response belongs to none.
///
/// # Safety
/// `rdata` must be a parsed response with Via and CSeq; the calling thread must
/// hold no lock that a holder of the transaction's may wait for.
pub unsafe fn of_response<T>(
    rdata: *mut pjsip_rx_data,
    read: impl FnOnce(&mut pjsip_transaction) -> T,
) -> Option<T> {
    // SAFETY: the key is made in the response's pool. The transaction is held by
    // the reference that the look-up adds, until it is given back.
    unsafe {
        let mut key: ffi::pj_str_t = std::mem::zeroed();
        let made = ffi::pjsip_tsx_create_key(
            (*rdata).tp_info.pool,
            &raw mut key,
            ffi::PJSIP_ROLE_UAC,
            &raw const (*(*rdata).msg_info.cseq).method,
            rdata,
        );
        if made != ffi::PJ_SUCCESS {
            return None;
        }
        let tsx = ffi::pjsip_tsx_layer_find_tsx2(&raw const key, ffi::TRUE).as_mut()?;
        let lock = tsx.grp_lock;
        ffi::pj_grp_lock_acquire(lock);
        let result = read(tsx);
        ffi::pj_grp_lock_release(lock);
        ffi::pj_grp_lock_dec_ref(lock);
        Some(result)
    }
}
