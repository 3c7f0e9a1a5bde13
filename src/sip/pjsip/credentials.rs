//! Keeps the passwords of the lines at home: a module between the transports
//! and the transaction layer, which sees every response before pjsip answers
//! a challenge in it, and every request before it is printed.
//!
//! - Challenges (401, 407) that
//!   [`CredentialPolicy`](crate::core::credential_policy::CredentialPolicy) does not allow an answer
//!   to are taken out of the response, as are those of other schemes than
//!   Digest: pjsip finds nothing to answer, and the request has failed.
//! - A digest on its way to somebody else than the line's server is taken out
//!   of the request: pjsip may send one unasked once it was asked for.
//! - The 200 to REGISTER is left with our own Contact alone: pjsip looks at the
//!   first ten, and ours may be the eleventh.
//!
//! Where the server is: what DNS says, and what `CredentialPolicy` learned.
//!
//! An account is found by the `line` parameter of our Contact while there is no
//! dialog, and in a dialog by a mark that is put there when it begins: the
//! number of the account's policy, and whether the dialog is with its server.

use std::ffi::c_void;
use std::net::IpAddr;
use std::ptr;
use std::time::Instant;

use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::headers;
use super::modules::{Callbacks, Module};
use super::policies::{Mark, Policies};
use super::shared::{Shared, guarded};
use super::text;
use super::transactions;
use crate::core::credential_policy::{Challenge, Challenged, Withheld};

static MODULE: Module = Module::new(
    c"sipbridge-credentials",
    // Responses come here before the transactions (16), requests of ours before
    // they are printed (8).
    -4,
    Callbacks {
        rx_response: Some(on_rx_response),
        tx_request: Some(on_tx_request),
        ..Callbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Marks the dialog of an incoming call, once.
///
/// # Safety
/// `tsx` must be a live transaction of this call whose lock is held, as in
/// pjsua's callbacks.
pub unsafe fn mark_dialog(policies: &Policies, call: i32, tsx: *mut ffi::pjsip_transaction) {
    // SAFETY: the dialog of a transaction lives as long as that names it.
    unsafe {
        let dialog = ffi::pjsip_tsx_get_dlg(tsx);
        if (*tsx).role == ffi::PJSIP_ROLE_UAS
            && (*tsx).method.id == ffi::PJSIP_INVITE_METHOD
            && let Some(data) = mark_of(dialog)
            && (*data).is_null()
            && let Some(mark) = policies.take_mark(call)
        {
            *data = mark.to_data();
        }
    }
}

/// Where a dialog keeps our mark.
///
/// # Safety
/// `dialog` must be null or live.
unsafe fn mark_of(dialog: *mut ffi::pjsip_dialog) -> Option<*mut *mut c_void> {
    // SAFETY: the caller's promise; pjsip gives each module a place in every
    // dialog, at its id.
    unsafe {
        let index = MODULE.index()?;
        let data = dialog.as_mut()?.mod_data.get_mut(index)?;
        Some(ptr::from_mut(data))
    }
}

/// # Safety
/// `dialog` must be null or live.
unsafe fn read_mark(dialog: *mut ffi::pjsip_dialog) -> Option<Mark> {
    // SAFETY: the caller's promise; what is there is null or our number.
    unsafe { mark_of(dialog).and_then(|data| Mark::from_data(*data)) }
}

/// The `line` parameter of the first Contact of a message.
///
/// # Safety
/// `message` must be a parsed or complete message.
unsafe fn token_of(message: *mut ffi::pjsip_msg) -> Option<String> {
    // SAFETY: the caller's promise is passed on.
    unsafe { text::uri_parts(text::contact_uri(message)?.cast()).line }
}

unsafe extern "C" fn on_tx_request(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    // After a panic the request is not sent: it may carry a digest.
    guarded("tx_request", None, EPERM, |shared| {
        // SAFETY: pjsip passes the request that it is about to print, with the
        // address that it goes to.
        unsafe { inspect(shared, tdata) };
        ffi::PJ_SUCCESS
    })
}

/// pjlib's number of the system's "operation not permitted".
const EPERM: ffi::pj_status_t = 120_001;

/// # Safety
/// `tdata` must be a request about to be sent.
unsafe fn inspect(shared: &Shared, tdata: *mut pjsip_tx_data) {
    // SAFETY: the caller's promise; dialogs live while a request of theirs is
    // sent, since it is sent with the dialog's lock held or by a transaction of
    // it. A buffer that was printed already is printed again.
    unsafe {
        let message = (*tdata).msg;
        let Some(to) = text::socket_address(&raw const (*tdata).tp_info.dst_addr) else {
            return;
        };
        let dialog = ffi::pjsip_tdata_get_dlg(tdata);
        let allowed = if headers::has_to_tag(message) {
            read_mark(dialog).is_some_and(|mark| {
                mark.with_server && shared.policies.lock().is_server(mark.policy, to.ip())
            })
        } else {
            begin(shared, message, dialog, to.ip())
        };
        let is_digest = |header: *mut ffi::pjsip_hdr| {
            matches!(
                (*header).type_,
                ffi::PJSIP_H_AUTHORIZATION | ffi::PJSIP_H_PROXY_AUTHORIZATION
            )
        };
        if !allowed && headers::retain_headers(message, |header| !is_digest(header)) > 0 {
            ffi::pjsip_tx_data_invalidate_msg(tdata);
            withheld(shared, to.ip(), "", Withheld::ForeignAddress);
        }
    }
}

/// A request outside of a dialog: where a REGISTER or first INVITE goes is where
/// the server is, and the dialog that begins is with it.
///
/// # Safety
/// `message` must be a complete request, `dialog` null or live.
unsafe fn begin(
    shared: &Shared,
    message: *mut ffi::pjsip_msg,
    dialog: *mut ffi::pjsip_dialog,
    to: IpAddr,
) -> bool {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        let method = (*message).line.req.method.id;
        let is_register = method == ffi::PJSIP_REGISTER_METHOD;
        if !is_register && method != ffi::PJSIP_INVITE_METHOD {
            return false;
        }
        let mut table = shared.policies.lock();
        let token = token_of(message);
        let Some(number) = token.and_then(|token| table.by_token.get(&token).copied()) else {
            // The last REGISTER of a line that is gone.
            return is_register;
        };
        if !headers::unregisters(message)
            && let Some(policy) = table.policies.get_mut(&number)
        {
            policy.learned.learn_address(to, Instant::now());
        }
        if let Some(data) = mark_of(dialog) {
            let mark = Mark {
                policy: number,
                with_server: true,
            };
            *data = mark.to_data();
        }
        true
    }
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the response is dropped: it may hold a challenge.
    guarded("rx_response", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed response with CSeq, which no other
        // thread touches during the call.
        unsafe {
            let message = (*rdata).msg_info.msg;
            match (*message).line.status.code {
                401 | 407 => judge(shared, rdata),
                200..=299 => keep_own_contacts(shared, rdata),
                _ => {}
            }
        }
        ffi::FALSE
    })
}

/// Leaves our own Contacts in the 200 to a REGISTER, where there are any.
///
/// # Safety
/// `rdata` must be a parsed response that nobody else reads at the moment.
unsafe fn keep_own_contacts(shared: &Shared, rdata: *mut pjsip_rx_data) {
    // SAFETY: the caller's promise; an entry of type CONTACT is a
    // pjsip_contact_hdr.
    unsafe {
        if (*(*rdata).msg_info.cseq).method.id != ffi::PJSIP_REGISTER_METHOD {
            return;
        }
        let message = (*rdata).msg_info.msg;
        let Some(request) = Request::of(rdata) else {
            return;
        };
        let Some(token) = request.token else {
            return;
        };
        if let Some(from) = text::socket_address(&raw const (*rdata).pkt_info.src_addr)
            && request.kind == Some(Challenged::Register)
        {
            let mut table = shared.policies.lock();
            let number = table.by_token.get(&token).copied();
            if let Some(policy) = number.and_then(|number| table.policies.get_mut(&number)) {
                policy.learned.learn_address(from.ip(), Instant::now());
            }
        }
        let is_contact = |header: *mut ffi::pjsip_hdr| (*header).type_ == ffi::PJSIP_H_CONTACT;
        let is_ours = |header: *mut ffi::pjsip_hdr| {
            let contact = header.cast::<ffi::pjsip_contact_hdr>();
            (*contact).star == 0
                && text::uri_parts((*contact).uri.cast()).line.as_deref() == Some(token.as_str())
        };
        if headers::any_header(message, |header| is_contact(header) && is_ours(header)) {
            headers::retain_headers(message, |header| !is_contact(header) || is_ours(header));
        }
    }
}

/// The request of ours that a response answers.
struct Request {
    kind: Option<Challenged>,
    mark: Option<Mark>,
    token: Option<String>,
    sent_to: Option<IpAddr>,
}

impl Request {
    /// # Safety
    /// `rdata` must be a parsed response.
    unsafe fn of(rdata: *mut pjsip_rx_data) -> Option<Self> {
        // SAFETY: the caller's promise; no other lock is held here, as in the
        // transaction layer right after.
        unsafe { transactions::of_response(rdata, |tsx| Self::read(tsx)).flatten() }
    }

    /// # Safety
    /// `tsx` must be live and locked.
    unsafe fn read(tsx: *mut ffi::pjsip_transaction) -> Option<Self> {
        // SAFETY: the caller's promise; a transaction of ours holds the request
        // that it sent last, and names its dialog while that lives.
        unsafe {
            let sent = (*tsx).last_tx.as_ref()?;
            let message = sent.msg;
            let mark = read_mark(ffi::pjsip_tsx_get_dlg(tsx));
            let method = (*message).line.req.method.id;
            let kind = if headers::has_to_tag(message) {
                let with_server = mark.is_some_and(|mark| mark.with_server);
                Some(Challenged::InDialog { with_server })
            } else if method == ffi::PJSIP_REGISTER_METHOD {
                Some(if headers::unregisters(message) {
                    Challenged::Unregister
                } else {
                    Challenged::Register
                })
            } else {
                (method == ffi::PJSIP_INVITE_METHOD).then_some(Challenged::Invite)
            };
            let sent_to = text::socket_address(&raw const sent.tp_info.dst_addr);
            Some(Self {
                kind,
                mark,
                token: token_of(message),
                sent_to: sent_to.map(|address| address.ip()),
            })
        }
    }
}

/// Takes out of a 401 or 407 what must not or cannot be answered.
///
/// # Safety
/// `rdata` must be a parsed response that nobody else reads at the moment.
unsafe fn judge(shared: &Shared, rdata: *mut pjsip_rx_data) {
    // SAFETY: the caller's promise; an entry of these types is a
    // pjsip_www_authenticate_hdr, whose challenge is one of Digest where its
    // scheme says so.
    unsafe {
        let from = text::socket_address(&raw const (*rdata).pkt_info.src_addr);
        let request = Request::of(rdata);
        headers::retain_headers((*rdata).msg_info.msg, |header| {
            if !matches!(
                (*header).type_,
                ffi::PJSIP_H_WWW_AUTHENTICATE | ffi::PJSIP_H_PROXY_AUTHENTICATE
            ) {
                return true;
            }
            let challenge = header.cast::<ffi::pjsip_www_authenticate_hdr>();
            if !text::to_string(&(*challenge).scheme).eq_ignore_ascii_case("digest") {
                return false;
            }
            let realm = text::to_string(&(*challenge).challenge.digest.realm);
            let (Some(request), Some(from)) = (&request, from) else {
                return false;
            };
            let decision = decision(shared, request, from.ip(), &realm);
            if let Err(why) = decision {
                withheld(shared, from.ip(), &realm, why);
            }
            decision.is_ok()
        });
    }
}

fn decision(
    shared: &Shared,
    request: &Request,
    came_from: IpAddr,
    realm: &str,
) -> Result<(), Withheld> {
    let mut table = shared.policies.lock();
    let (Some(to), Some(sent_to)) = (request.kind, request.sent_to) else {
        return Err(Withheld::ForeignAddress);
    };
    let by_token = || table.by_token.get(request.token.as_ref()?).copied();
    let number = match to {
        Challenged::InDialog { .. } => request.mark.map(|mark| mark.policy),
        _ => by_token(),
    };
    let Some(policy) = number.and_then(|number| table.policies.get_mut(&number)) else {
        // The last REGISTER of a line that is gone went to its own server.
        let is_last = to == Challenged::Unregister;
        return if is_last {
            Ok(())
        } else {
            Err(Withheld::ForeignDialog)
        };
    };
    let challenge = Challenge {
        to,
        sent_to,
        came_from,
        realm,
    };
    policy.judge(&challenge)
}

fn withheld(shared: &Shared, address: IpAddr, realm: &str, why: Withheld) {
    shared
        .counters
        .challenges_refused
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if let Some(times) = shared.tell_seldom("withheld") {
        tracing::warn!(
            %address, realm, times,
            "no password is proven to this address: {why}; where it is your carrier's, \
             let the line's server name or register at it"
        );
    }
}
