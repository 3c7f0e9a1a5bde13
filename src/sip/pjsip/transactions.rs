//! Transactions and dialogs: those that a callback is given, and ours, looked up
//! and locked.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use super::ffi::{self, pjsip_dialog, pjsip_rx_data, pjsip_transaction};
use super::plain::{boxed, zeroed};
use super::received::ReceivedMessage;
use super::sending::Sending;
use super::text;

/// A transaction that lives for `'a`, and whose lock the calling thread holds.
#[derive(Clone, Copy)]
pub struct Transaction<'a> {
    tsx: *mut pjsip_transaction,
    lives: PhantomData<&'a pjsip_transaction>,
}

impl<'a> Transaction<'a> {
    /// # Safety
    /// `tsx` must live for `'a`, with its lock held by the calling thread, as pjsip
    /// holds it while it calls back.
    pub const unsafe fn new(tsx: *mut pjsip_transaction) -> Self {
        Self {
            tsx,
            lives: PhantomData,
        }
    }

    /// Never kept: C writes to what it shows.
    fn get(&self) -> &pjsip_transaction {
        // SAFETY: it lives, and is locked by this thread, see `new`.
        unsafe { &*self.tsx }
    }

    /// Whether the other side made the request.
    pub fn is_server(self) -> bool {
        self.get().role == ffi::PJSIP_ROLE_UAS
    }

    /// Its method.
    pub fn method(self) -> ffi::pjsip_method_e {
        self.get().method.id
    }

    /// The name of its method.
    pub fn method_name(self) -> String {
        // SAFETY: the text lies in the memory of the transaction, or is static.
        unsafe { text::to_string(&self.get().method.name) }
    }

    /// Where it stands.
    pub fn state(self) -> ffi::pjsip_tsx_state_e {
        self.get().state
    }

    /// The last status that came or was sent.
    pub fn status(self) -> c_int {
        self.get().status_code
    }

    /// The dialog that it belongs to.
    pub fn dialog(self) -> Option<DialogRef<'a>> {
        // SAFETY: reads a field of the transaction, see `get`.
        let dialog = unsafe { ffi::pjsip_tsx_get_dlg(self.tsx) };
        // SAFETY: the dialog of a transaction lives as long as that names it.
        unsafe { DialogRef::new(dialog) }
    }

    /// Answers its request, with one header more; gives up where there is no memory.
    /// Only for one of the other side.
    pub fn answer(self, request: ReceivedMessage<'_>, status: c_int, header: Option<(&str, &str)>) {
        let (endpoint, text) = (self.get().endpt, ptr::null());
        let mut response = ptr::null_mut();
        let (rdata, out) = (request.as_ptr(), &raw mut response);
        // SAFETY: the request lives, see `Received`; the response is an out-parameter.
        let created =
            unsafe { ffi::pjsip_endpt_create_response(endpoint, rdata, status, text, out) };
        if created != ffi::PJ_SUCCESS {
            return;
        }
        // SAFETY: just made, and nobody else knows of it.
        let sending = unsafe { Sending::new(response) };
        if let (Some(message), Some((name, value))) = (sending.message(), header) {
            message.push_header(sending.pool(), name, value);
        }
        // SAFETY: the transaction lives, see `new`; it takes the response over.
        unsafe { ffi::pjsip_tsx_send_msg(self.tsx, response) };
    }
}

/// A change of a transaction's state, as an event of pjsip tells of it.
#[derive(Clone, Copy)]
pub struct StateChange<'a> {
    change: ffi::pjsip_event__bindgen_ty_1__bindgen_ty_2,
    lives: PhantomData<&'a ffi::pjsip_event>,
}

impl<'a> StateChange<'a> {
    /// `None` where the event tells of something else.
    ///
    /// # Safety
    /// `event` must be null or an event of pjsip that lives for `'a`, with the lock of
    /// its transaction held by the calling thread.
    pub unsafe fn of(event: *const ffi::pjsip_event) -> Option<Self> {
        // SAFETY: the caller's promise.
        let event = unsafe { event.as_ref() }?;
        if event.type_ != ffi::PJSIP_EVENT_TSX_STATE {
            return None;
        }
        // SAFETY: the type says that this member of the union is filled.
        let change = unsafe { event.body.tsx_state };
        Some(Self {
            change,
            lives: PhantomData,
        })
    }

    /// What led to it.
    pub const fn cause(self) -> ffi::pjsip_event_id_e {
        self.change.type_
    }

    /// The state that there was before.
    pub const fn state_before(self) -> c_int {
        self.change.prev_state
    }

    /// The message that led to it.
    pub fn received(self) -> Option<ReceivedMessage<'a>> {
        if self.change.type_ != ffi::PJSIP_EVENT_RX_MSG {
            return None;
        }
        // SAFETY: the type says that this member of the union is filled.
        let rdata = unsafe { self.change.src.rdata };
        // SAFETY: pjsip keeps the message while it tells of it, on the thread that
        // received it.
        (!rdata.is_null()).then(|| unsafe { ReceivedMessage::new(rdata) })
    }

    /// The transaction.
    pub fn transaction(self) -> Option<Transaction<'a>> {
        let tsx = self.change.tsx;
        // SAFETY: an event's transaction lives and is locked as long as the event.
        (!tsx.is_null()).then(|| unsafe { Transaction::new(tsx) })
    }
}

/// A dialog that lives for `'a`, with its lock held by the calling thread.
#[derive(Clone, Copy)]
pub struct DialogRef<'a> {
    dialog: *mut pjsip_dialog,
    lives: PhantomData<&'a pjsip_dialog>,
}

impl DialogRef<'_> {
    /// `None` for null.
    ///
    /// # Safety
    /// `dialog` must be null, or live for `'a` with its lock held by the calling
    /// thread.
    pub unsafe fn new(dialog: *mut pjsip_dialog) -> Option<Self> {
        (!dialog.is_null()).then_some(Self {
            dialog,
            lives: PhantomData,
        })
    }

    /// What a module keeps there; `None` where it has no place.
    pub fn data(self, module: usize) -> Option<*mut c_void> {
        // SAFETY: it lives, and is locked by this thread, see `new`.
        let places = unsafe { &(*self.dialog).mod_data };
        places.get(module).copied()
    }

    /// Keeps something of a module there.
    pub fn set_data(self, module: usize, data: *mut c_void) {
        // SAFETY: it lives, and is locked by this thread, see `new`.
        let places = unsafe { &mut (*self.dialog).mod_data };
        if let Some(place) = places.get_mut(module) {
            *place = data;
        }
    }
}

/// What `read` makes of the transaction of a response, which is locked
/// meanwhile; `None` where the response belongs to none. The calling thread must
/// hold no lock that a holder of the transaction's may wait for.
pub fn of_response<T>(
    response: ReceivedMessage<'_>,
    read: impl FnOnce(&mut Locked) -> T,
) -> Option<T> {
    let mut key: ffi::pj_str_t = zeroed();
    let (pool, method) = (response.pool().as_ptr(), response.method_ptr());
    let (role, rdata) = (ffi::PJSIP_ROLE_UAC, response.as_ptr());
    // SAFETY: the response lives, with Via and CSeq, see `Received`; the key is made
    // in its memory.
    let made = unsafe { ffi::pjsip_tsx_create_key(pool, &raw mut key, role, method, rdata) };
    if made != ffi::PJ_SUCCESS {
        return None;
    }
    // SAFETY: the key was just made, and lives as long as the response.
    unsafe { Locked::by_key(&key) }.map(|mut tsx| read(&mut tsx))
}

/// The transaction of a request of ours, where it has one; for locks see
/// [`of_response`], but that the transaction's own may be held.
pub fn of_request(request: Sending<'_>) -> Option<Locked> {
    let message = request.message()?.as_ptr();
    // SAFETY: the message lives, see `Sending`; null or a header of it.
    let via = unsafe { ffi::pjsip_msg_find_hdr(message, ffi::PJSIP_H_VIA, ptr::null()) };
    let via = via.cast::<ffi::pjsip_via_hdr>();
    // SAFETY: as above; the type tells the struct.
    let branch = unsafe { &via.as_ref()?.branch_param };
    // SAFETY: the text lies in the memory of the message.
    let branch = unsafe { text::to_string(branch) };
    // Another branch would make a key of headers that are not here.
    if !branch.starts_with("z9hG4bK") {
        return None;
    }
    // SAFETY: the message lives, and has a request line.
    let line = unsafe { &raw const (*message).line };
    let method = line.cast::<ffi::pjsip_request_line>();
    // SAFETY: as above; the members of a union begin at the same place.
    let method = unsafe { &raw const (*method).method };
    let mut response: Box<pjsip_rx_data> = boxed();
    response.msg_info.via = via;
    let mut key: ffi::pj_str_t = zeroed();
    let (pool, role) = (request.pool().as_ptr(), ffi::PJSIP_ROLE_UAC);
    // SAFETY: of the response only its Via is read, and the key made of the branch in
    // it; the key lives in the memory of the request.
    let made = unsafe {
        ffi::pjsip_tsx_create_key(pool, &raw mut key, role, method, &raw const *response)
    };
    if made != ffi::PJ_SUCCESS {
        return None;
    }
    // SAFETY: the key was just made, and lives as long as the request.
    unsafe { Locked::by_key(&key) }
}

/// A transaction that is locked, and held by a reference; both are given back when
/// this is dropped, also by a panic.
pub struct Locked(NonNull<pjsip_transaction>);

impl Locked {
    /// The transaction of this key. The calling thread must hold no lock that a holder
    /// of the transaction's may wait for, but for the transaction's own.
    ///
    /// # Safety
    /// `key` must be a text whose bytes are there.
    unsafe fn by_key(key: &ffi::pj_str_t) -> Option<Self> {
        // SAFETY: the caller's promise. The look-up adds a reference, so that the
        // transaction and its lock live until `drop`.
        let tsx = NonNull::new(unsafe { ffi::pjsip_tsx_layer_find_tsx2(key, ffi::TRUE) })?;
        // SAFETY: the reference that the look-up took; written once, when it is made.
        let lock = unsafe { (*tsx.as_ptr()).grp_lock };
        // SAFETY: the lock lives as long as its transaction.
        unsafe { ffi::pj_grp_lock_acquire(lock) };
        Some(Self(tsx))
    }

    /// As any transaction.
    pub const fn handle(&self) -> Transaction<'_> {
        Transaction {
            tsx: self.0.as_ptr(),
            lives: PhantomData,
        }
    }

    /// The message that it sent last.
    pub fn sent(&self) -> Option<Sending<'_>> {
        // SAFETY: a transaction holds a reference to what it sent last, and nobody
        // changes that but who has its lock.
        (!self.last_tx.is_null()).then(|| unsafe { Sending::new(self.last_tx) })
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
        let lock = self.grp_lock;
        // SAFETY: taken in `by_key`.
        unsafe { ffi::pj_grp_lock_release(lock) };
        // SAFETY: the reference that `by_key` took; nothing is touched after it.
        unsafe { ffi::pj_grp_lock_dec_ref(lock) };
    }
}
