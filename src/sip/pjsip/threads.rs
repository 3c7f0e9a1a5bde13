//! Threads and the process, as pjlib sees them.

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ffi;

/// The start of the stack that threads register in: a registration is good for
/// one. 0 while there is no pjlib to register with.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// How often the stack was started.
static STARTS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static REGISTERED_IN: Cell<u64> = const { Cell::new(0) };
}

/// To be called after pjlib is initialised, by the thread that did it.
pub fn begin_epoch() {
    let epoch = STARTS.fetch_add(1, Ordering::AcqRel) + 1;
    EPOCH.store(epoch, Ordering::Release);
    REGISTERED_IN.with(|registered| registered.set(epoch));
}

/// To be called before pjlib is shut down: no thread registers any more.
pub fn end_epoch() {
    EPOCH.store(0, Ordering::Release);
}

/// Makes the calling thread known to pjlib, once per start of the stack.
pub fn register(name: &str) {
    let epoch = EPOCH.load(Ordering::Acquire);
    if epoch == 0 || REGISTERED_IN.with(|registered| registered.replace(epoch)) == epoch {
        return;
    }
    // Leaked on purpose: pjlib keeps the descriptor in a thread-local of its
    // own until the thread is gone and offers no way to take it back. It is
    // 512 bytes for each of the few threads that send RTP.
    let descriptor = Box::leak(Box::<ffi::pj_thread_desc>::new([0; 64]));
    let name = CString::new(name.replace('\0', "")).unwrap_or_default();
    let mut thread = ptr::null_mut();
    // SAFETY: pjlib is initialised (epoch > 0); the descriptor is zeroed, of
    // pjlib's own size and never freed; the name is copied by pjlib.
    let status =
        unsafe { ffi::pj_thread_register(name.as_ptr(), descriptor.as_mut_ptr(), &raw mut thread) };
    if status != ffi::PJ_SUCCESS {
        tracing::error!(status, "pjlib refused to register a thread");
    }
}

unsafe extern "C" {
    fn _exit(code: std::ffi::c_int) -> !;
}

/// Ends the process at once: no destructors, no exit handlers. For the
/// watchdog, when something hangs that an orderly exit would wait for.
pub fn hard_exit(code: i32) -> ! {
    // SAFETY: _exit takes any code, has no precondition and does not return.
    unsafe { _exit(code) }
}
