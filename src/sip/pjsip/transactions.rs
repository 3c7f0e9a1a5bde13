//! Transactions of ours, looked up and locked.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

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
    // SAFETY: the caller's promise; the key is made in the response's pool.
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
        Locked::by_key(&key).map(|mut tsx| read(&mut tsx))
    }
}

/// A transaction that is locked, and held by a reference; both are given back when
/// this is dropped, also by a panic.
pub struct Locked(NonNull<pjsip_transaction>);

impl Locked {
    /// The transaction of this key.
    ///
    /// # Safety
    /// The calling thread must hold no lock that a holder of the transaction's may
    /// wait for, but for the transaction's own.
    pub unsafe fn by_key(key: &ffi::pj_str_t) -> Option<Self> {
        // SAFETY: the look-up adds a reference, so that the transaction and its lock
        // live until `drop`.
        unsafe {
            let tsx = NonNull::new(ffi::pjsip_tsx_layer_find_tsx2(key, ffi::TRUE))?;
            ffi::pj_grp_lock_acquire(tsx.as_ref().grp_lock);
            Some(Self(tsx))
        }
    }
}

impl Deref for Locked {
    type Target = pjsip_transaction;

    fn deref(&self) -> &pjsip_transaction {
        // SAFETY: held and locked, see `by_key`.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut pjsip_transaction {
        // SAFETY: held and locked, see `by_key`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: taken in `by_key`; the lock outlives its last reference.
        unsafe {
            let lock = self.0.as_ref().grp_lock;
            ffi::pj_grp_lock_release(lock);
            ffi::pj_grp_lock_dec_ref(lock);
        }
    }
}
