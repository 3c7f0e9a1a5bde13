//! A message on its way out.

use std::marker::PhantomData;
use std::net::SocketAddr;

use super::addresses::socket_address;
use super::ffi::{self, pjsip_tx_data};
use super::messages::Message;
use super::pools::Pool;
use super::transactions::DialogRef;

/// A message of ours that is whole, for as long as a callback or a transaction has it.
#[derive(Clone, Copy)]
pub struct Sending<'a> {
    tdata: *mut pjsip_tx_data,
    lives: PhantomData<&'a pjsip_tx_data>,
}

impl<'a> Sending<'a> {
    /// # Safety
    /// `tdata` must be a message of ours, whole, that lives for `'a` and that the
    /// calling thread has to itself for that time.
    pub const unsafe fn new(tdata: *mut pjsip_tx_data) -> Self {
        Self {
            tdata,
            lives: PhantomData,
        }
    }

    /// For C.
    pub const fn as_ptr(self) -> *mut pjsip_tx_data {
        self.tdata
    }

    /// Never kept: C writes to what it shows.
    fn get(&self) -> &pjsip_tx_data {
        // SAFETY: it lives, and no other thread writes to it, see `new`.
        unsafe { &*self.tdata }
    }

    /// The message itself; `None` where there is only a buffer.
    pub fn message(self) -> Option<Message<'a>> {
        let message = self.get().msg;
        // SAFETY: it lives in the same memory, under the same promise.
        (!message.is_null()).then(|| unsafe { Message::new(message) })
    }

    /// Its memory.
    pub fn pool(self) -> Pool<'a> {
        let pool = self.get().pool;
        // SAFETY: it lives as long as the message, for this thread.
        unsafe { Pool::new(pool) }
    }

    /// Where it goes.
    pub fn destination(self) -> Option<SocketAddr> {
        socket_address(&self.get().tp_info.dst_addr)
    }

    /// How many addresses its destination has.
    pub fn address_count(self) -> u32 {
        self.get().dest_info.addr.count
    }

    /// The dialog that it belongs to.
    pub fn dialog(self) -> Option<DialogRef<'a>> {
        // SAFETY: reads a field of the message, see `get`.
        let dialog = unsafe { ffi::pjsip_tdata_get_dlg(self.tdata) };
        // SAFETY: a dialog lives while a request of its own is sent, which happens
        // with the dialog's lock held or by a transaction of it.
        unsafe { DialogRef::new(dialog) }
    }

    /// Has it printed again, from what is in the message now.
    pub fn invalidate(self) {
        // SAFETY: as for `get`, which nobody holds now.
        unsafe { ffi::pjsip_tx_data_invalidate_msg(self.tdata) };
    }
}
