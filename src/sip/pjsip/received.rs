//! A message that came in, as pjsip lends it to a callback.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ptr;

use super::addresses::socket_address;
use super::ffi::{self, pjsip_rx_data};
use super::headers;
use super::messages::Message;
use super::plain::zeroed;
use super::pools::Pool;
use super::text;
use super::transports::TransportRef;
use super::uris::Uri;
use crate::sip::bindings::ContactAddress;

/// A message that pjsip's parser let through, for as long as a callback has it.
#[derive(Clone, Copy)]
pub struct ReceivedMessage<'a> {
    rdata: *mut pjsip_rx_data,
    lives: PhantomData<&'a pjsip_rx_data>,
}

impl<'a> ReceivedMessage<'a> {
    /// # Safety
    /// `rdata` must be a parsed message that lives for `'a` and that the calling
    /// thread has to itself for that time. pjsip's transport layer lets none through
    /// without Via, From, To, Call-ID and CSeq.
    pub const unsafe fn new(rdata: *mut pjsip_rx_data) -> Self {
        Self {
            rdata,
            lives: PhantomData,
        }
    }

    /// For C.
    pub const fn as_ptr(self) -> *mut pjsip_rx_data {
        self.rdata
    }

    /// Never kept: C writes to what it shows.
    fn get(&self) -> &pjsip_rx_data {
        // SAFETY: it lives, and no other thread writes to it, see `new`.
        unsafe { &*self.rdata }
    }

    /// The message itself.
    pub fn message(self) -> Message<'a> {
        let message = self.get().msg_info.msg;
        // SAFETY: it lives in the same memory, under the same promise.
        unsafe { Message::new(message) }
    }

    /// Where it came from.
    pub fn source(self) -> Option<SocketAddr> {
        socket_address(&self.get().pkt_info.src_addr)
    }

    /// Over what it came.
    pub fn transport(self) -> TransportRef<'a> {
        let transport = self.get().tp_info.transport;
        // SAFETY: a transport lives as long as what it hands on.
        unsafe { TransportRef::new(transport) }
    }

    /// Its memory.
    pub fn pool(self) -> Pool<'a> {
        let pool = self.get().tp_info.pool;
        // SAFETY: it lives as long as the message, for this thread.
        unsafe { Pool::new(pool) }
    }

    fn cseq(&self) -> &ffi::pjsip_cseq_hdr {
        // SAFETY: there in every message that pjsip lets through, see `new`.
        unsafe { &*self.get().msg_info.cseq }
    }

    fn to(&self) -> &ffi::pjsip_to_hdr {
        // SAFETY: as above.
        unsafe { &*self.get().msg_info.to }
    }

    fn from(&self) -> &ffi::pjsip_from_hdr {
        // SAFETY: as above.
        unsafe { &*self.get().msg_info.from }
    }

    fn via(&self) -> &ffi::pjsip_via_hdr {
        // SAFETY: as above.
        unsafe { &*self.get().msg_info.via }
    }

    fn id(&self) -> &ffi::pjsip_cid_hdr {
        // SAFETY: as above.
        unsafe { &*self.get().msg_info.cid }
    }

    /// Its Call-ID.
    pub fn call_id(self) -> String {
        // SAFETY: the text lies in the memory of the message.
        unsafe { text::to_string(&self.id().id) }
    }

    /// The method that its CSeq names, which a response has from its request.
    pub fn method(self) -> ffi::pjsip_method_e {
        self.cseq().method.id
    }

    /// The name of that method.
    pub fn method_name(self) -> String {
        // SAFETY: the text lies in the memory of the message, or is static.
        unsafe { text::to_string(&self.cseq().method.name) }
    }

    /// For C: that method.
    pub fn method_ptr(self) -> *const ffi::pjsip_method {
        &raw const self.cseq().method
    }

    /// Whether its To has a tag: it belongs to a dialog.
    pub fn has_to_tag(self) -> bool {
        self.to().tag.slen > 0
    }

    /// The URI in its To.
    pub fn to_uri(self) -> Option<Uri<'a>> {
        // SAFETY: made by the parser, in the memory of the message.
        unsafe { Uri::new(self.to().uri) }
    }

    /// The URI in its From.
    pub fn caller_uri(self) -> Option<Uri<'a>> {
        // SAFETY: made by the parser, in the memory of the message.
        unsafe { Uri::new(self.from().uri) }
    }

    /// Whether there is a dialog of its Call-ID and tags.
    pub fn is_of_dialog(self) -> bool {
        let (id, local, remote) = (&self.id().id, &self.to().tag, &self.from().tag);
        // SAFETY: three texts in the memory of the message, which are only read; the
        // dialog is not locked and not looked into.
        let dialog = unsafe { ffi::pjsip_ua_find_dialog(id, local, remote, ffi::FALSE) };
        !dialog.is_null()
    }

    /// The host that its topmost Via says it was sent by.
    pub fn via_host(self) -> String {
        // SAFETY: the text lies in the memory of the message.
        unsafe { text::to_string(&self.via().sent_by.host) }
    }

    /// Where our request came from, as the one who answered it saw that; `None` where
    /// its Via says nothing of it.
    pub fn seen_as(self) -> Option<ContactAddress> {
        let via = self.via();
        let port = u16::try_from(via.rport_param)
            .ok()
            .filter(|port| *port > 0)?;
        // SAFETY: the text lies in the memory of the message.
        let received = unsafe { text::to_string(&via.recvd_param) };
        let host = if received.is_empty() {
            self.via_host()
        } else {
            received
        };
        Some(ContactAddress::new(&host, port, false))
    }

    /// Takes `maddr` out of the topmost Via.
    pub fn clear_maddr(self) {
        let via = self.get().msg_info.via;
        // SAFETY: as for `via`, which nobody holds now.
        unsafe { (*via).maddr_param.slen = 0 };
    }

    /// The value of its Content-Length, where it has one.
    pub fn content_length(self) -> Option<usize> {
        // SAFETY: null or a header of this message.
        let header = unsafe { self.get().msg_info.clen.as_ref() }?;
        usize::try_from(header.len).ok()
    }

    /// Whether it has a Content-Type.
    pub fn has_content_type(self) -> bool {
        !self.get().msg_info.ctype.is_null()
    }

    /// Source and Call-ID, for the log.
    pub fn sender(self) -> (String, String) {
        let peer = self.source();
        let peer = peer.map_or_else(String::new, |peer| peer.to_string());
        (peer, self.call_id())
    }

    /// Answers a request that no transaction is spent on. Not for an ACK.
    pub fn respond(self, status: c_int, headers: &[(&str, &str)]) {
        let mut head: ffi::pjsip_hdr = zeroed();
        let list = &raw mut head;
        // SAFETY: the list stays where it is until the end of this function.
        unsafe { headers::init_list(list) };
        for (name, value) in headers {
            // SAFETY: as above; its headers live in the memory of the request.
            unsafe { headers::push_header(list, self.pool().as_ptr(), name, value) };
        }
        // SAFETY: no precondition; pjsua is there while its callbacks run.
        let endpoint = unsafe { ffi::pjsua_get_pjsip_endpt() };
        let (text, body) = (ptr::null(), ptr::null());
        // SAFETY: the request lives, see `new`; the list is copied into the response.
        unsafe {
            ffi::pjsip_endpt_respond_stateless(endpoint, self.rdata, status, text, list, body)
        };
    }
}
