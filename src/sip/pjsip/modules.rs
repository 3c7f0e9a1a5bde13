//! Modules of pjsip: what each message is handed to, by priority; the order of
//! ours is in `stack`.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int};
use std::ptr;

use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};

/// Called with a received message; `pj_bool_t`, true where it goes no further.
pub type OnRx = unsafe extern "C" fn(*mut pjsip_rx_data) -> ffi::pj_bool_t;
/// Called with a message on its way out; a status, where it is sent on `PJ_SUCCESS`.
pub type OnTx = unsafe extern "C" fn(*mut pjsip_tx_data) -> ffi::pj_status_t;

/// What a module wants to see.
#[derive(Clone, Copy)]
pub struct ModuleCallbacks {
    pub rx_request: Option<OnRx>,
    pub rx_response: Option<OnRx>,
    pub tx_request: Option<OnTx>,
    pub tx_response: Option<OnTx>,
}

impl ModuleCallbacks {
    /// Nothing.
    pub const NONE: Self = Self {
        rx_request: None,
        rx_response: None,
        tx_request: None,
        tx_response: None,
    };
}

/// A module record that pjsip links into its list and writes to.
pub struct Module(UnsafeCell<ffi::pjsip_module>);

// SAFETY: it is handed to pjsip before its threads start; afterwards only pjsip
// writes to it, under its own lock, and its id does not change.
unsafe impl Sync for Module {}

impl Module {
    /// A module that is not registered yet. `priority` is counted from the
    /// transaction layer: below 0 a received message comes here before it.
    pub const fn new(name: &'static CStr, priority: c_int, callbacks: ModuleCallbacks) -> Self {
        Self(UnsafeCell::new(ffi::pjsip_module {
            prev: ptr::null_mut(),
            next: ptr::null_mut(),
            name: ffi::pj_str_t {
                ptr: name.as_ptr().cast_mut(),
                slen: name.count_bytes() as ffi::pj_ssize_t,
            },
            id: -1,
            priority: ffi::PJSIP_MOD_PRIORITY_TSX_LAYER as c_int + priority,
            load: None,
            start: None,
            stop: None,
            unload: None,
            on_rx_request: callbacks.rx_request,
            on_rx_response: callbacks.rx_response,
            on_tx_request: callbacks.tx_request,
            on_tx_response: callbacks.tx_response,
            on_tsx_state: None,
        }))
    }

    /// Puts the module into the stack, before it is started.
    pub fn register(&self) -> ffi::pj_status_t {
        // SAFETY: pjsua is initialised and has no threads yet, so that nobody else reads
        // the record; a module of an earlier run was unlinked when that endpoint was
        // destroyed.
        let module = unsafe { &mut *self.0.get() };
        module.id = -1;
        module.prev = ptr::null_mut();
        module.next = ptr::null_mut();
        // SAFETY: no precondition; pjsua is initialised.
        let endpoint = unsafe { ffi::pjsua_get_pjsip_endpt() };
        // SAFETY: the record is static, as pjsip asks, and in no list.
        unsafe { ffi::pjsip_endpt_register_module(endpoint, self.0.get()) }
    }

    /// Where dialogs and transactions keep the data of this module; `None` while
    /// it is not registered.
    pub fn index(&self) -> Option<usize> {
        // SAFETY: the record is static; only `register` writes its id, before
        // pjsip has threads.
        usize::try_from(unsafe { (*self.0.get()).id }).ok()
    }
}
