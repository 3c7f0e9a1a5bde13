//! Memory pools of pjsip.

use std::ffi::{c_char, c_long};
use std::marker::PhantomData;

use super::ffi::{self, pj_pool_t};

/// A pool that lives for `'a`, and that no other thread takes from meanwhile.
#[derive(Clone, Copy)]
pub struct Pool<'a> {
    pool: *mut pj_pool_t,
    lives: PhantomData<&'a pj_pool_t>,
}

impl Pool<'_> {
    /// # Safety
    /// `pool` must be a pool that lives for `'a`, and of a message or call that the
    /// calling thread has to itself for that time.
    pub const unsafe fn new(pool: *mut pj_pool_t) -> Self {
        Self {
            pool,
            lives: PhantomData,
        }
    }

    /// For C.
    pub const fn as_ptr(self) -> *mut pj_pool_t {
        self.pool
    }

    /// A copy of a text in memory of the pool, which lives as long as the pool;
    /// `None` when there is none left.
    pub fn text(self, text: &str) -> Option<ffi::pj_str_t> {
        let slen = c_long::try_from(text.len()).ok()?;
        // SAFETY: the pool lives, see `new`; it gives as many bytes that nobody else
        // has, or null.
        let copy = unsafe { ffi::pj_pool_alloc(self.pool, text.len()) }.cast::<c_char>();
        if copy.is_null() {
            return None;
        }
        // SAFETY: as many bytes were just given, and nobody else knows of them.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), copy, text.len()) };
        Some(ffi::pj_str_t { ptr: copy, slen })
    }
}
