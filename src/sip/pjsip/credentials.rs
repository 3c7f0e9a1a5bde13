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
//!   first ten, and ours may be the eleventh; and where a registrar rewrites Contacts,
//!   it may take that of another bridge for ours.
//!
//! A refresh of a registration that is forgotten is stopped here (`registering`).
//!
//! Where the server is: what DNS says, and what `CredentialPolicy` learned.
//!
//! An account is found by the `line` parameter of our Contact while there is no
//! dialog, and in a dialog by a mark that is put there when it begins: the
//! number of the account's policy, and whether the dialog is with its server.

use std::net::IpAddr;
use std::time::Instant;

use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::headers::Header;
use super::messages::Message;
use super::modules::{Module, ModuleCallbacks};
use super::policies::{Mark, Policies};
use super::received::ReceivedMessage;
use super::registering;
use super::sending::Sending;
use super::shared::{Shared, guarded};
use super::transactions::{self, DialogRef, Locked, Transaction};
use super::uris::SipUri;
use crate::core::credential_policy::{Challenge, Challenged, CredentialWithheld};
use crate::sip::bindings::{AskedBinding, ContactAddress, ListedContact};

static MODULE: Module = Module::new(
    c"sipbridge-credentials",
    // Responses come here before the transactions (16), requests of ours before
    // they are printed (8).
    -4,
    ModuleCallbacks {
        rx_response: Some(on_rx_response),
        tx_request: Some(on_tx_request),
        ..ModuleCallbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Marks the dialog of an incoming call, once.
pub fn mark_dialog(policies: &Policies, call: i32, tsx: Transaction<'_>) {
    if tsx.is_server()
        && tsx.method() == ffi::PJSIP_INVITE_METHOD
        && let (Some(dialog), Some(place)) = (tsx.dialog(), MODULE.index())
        && dialog.data(place).is_some_and(<*mut _>::is_null)
        && let Some(mark) = policies.take_mark(call)
    {
        dialog.set_data(place, mark.to_data());
    }
}

fn read_mark(dialog: Option<DialogRef<'_>>) -> Option<Mark> {
    Mark::from_data(dialog?.data(MODULE.index()?)?)
}

/// The `line` parameter of the first Contact of a message.
fn token_of(message: Message<'_>) -> Option<String> {
    message.contact_uri()?.uri().parts().line
}

unsafe extern "C" fn on_tx_request(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    // After a panic the request is not sent: it may carry a digest.
    guarded("tx_request", None, registering::NOT_SENT, |shared| {
        // SAFETY: pjsip passes the request that it is about to print, with the address
        // that it goes to; no other thread touches it during the call.
        let request = unsafe { Sending::new(tdata) };
        let Some(message) = request.message() else {
            return ffi::PJ_SUCCESS;
        };
        if !registering::may_send(shared, request, message) {
            return registering::NOT_SENT;
        }
        inspect(shared, request, message);
        ffi::PJ_SUCCESS
    })
}

/// `message` is that of the request, which is about to be sent.
fn inspect(shared: &Shared, request: Sending<'_>, message: Message<'_>) {
    let Some(to) = request.destination() else {
        return;
    };
    let dialog = request.dialog();
    let allowed = if message.has_to_tag() {
        read_mark(dialog).is_some_and(|mark| {
            mark.with_server && shared.policies.lock().is_server(mark.policy, to.ip())
        })
    } else {
        begin(shared, message, dialog, to.ip())
    };
    if allowed {
        return;
    }
    let keep = |header: Header<'_>| {
        !matches!(
            header.kind(),
            ffi::PJSIP_H_AUTHORIZATION | ffi::PJSIP_H_PROXY_AUTHORIZATION
        )
    };
    // SAFETY: pjsip keeps no pointer to the credentials of a request: it makes them
    // anew each time.
    if unsafe { message.headers().retain(keep) } > 0 {
        // A buffer that was printed already is printed again.
        request.invalidate();
        withheld(shared, to.ip(), "", CredentialWithheld::ForeignAddress);
    }
}

/// A request outside of a dialog: where a REGISTER or first INVITE goes is where
/// the server is, and the dialog that begins is with it.
fn begin(shared: &Shared, message: Message<'_>, dialog: Option<DialogRef<'_>>, to: IpAddr) -> bool {
    let is_register = message.method() == Some(ffi::PJSIP_REGISTER_METHOD);
    if !is_register && message.method() != Some(ffi::PJSIP_INVITE_METHOD) {
        return false;
    }
    let mut table = shared.policies.lock();
    let token = token_of(message);
    let Some(number) = token.and_then(|token| table.by_token.get(&token).copied()) else {
        // The last REGISTER of a line that is gone.
        return is_register;
    };
    if !message.unregisters()
        && let Some(policy) = table.policies.get_mut(&number)
    {
        policy.learned.learn_address(to, Instant::now());
    }
    if let (Some(dialog), Some(place)) = (dialog, MODULE.index()) {
        let mark = Mark {
            policy: number,
            with_server: true,
        };
        dialog.set_data(place, mark.to_data());
    }
    true
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the response is dropped: it may hold a challenge.
    guarded("rx_response", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed response, which no other thread touches during
        // the call.
        let response = unsafe { ReceivedMessage::new(rdata) };
        match response.message().status() {
            401 | 407 => judge(shared, response),
            200..=299 => keep_own_contact(shared, response),
            _ => {}
        }
        ffi::FALSE
    })
}

/// Leaves our own Contact in the 200 to a REGISTER, where it is listed, and notes
/// whether another bridge's is listed beside it.
fn keep_own_contact(shared: &Shared, response: ReceivedMessage<'_>) {
    if response.method() != ffi::PJSIP_REGISTER_METHOD {
        return;
    }
    let Some(request) = Request::of(response) else {
        return;
    };
    let (Some(token), Some(announced)) = (request.token, request.contact) else {
        return;
    };
    let asked = AskedBinding {
        announced,
        seen: response.seen_as(),
        expires: request.expires,
    };
    let headers = || response.message().headers();
    let of_line: Vec<_> = headers()
        .filter_map(|header| listed(header, &token))
        .collect();
    let own = asked.find(&of_line);
    if request.kind == Some(Challenged::Register) {
        let mut table = shared.policies.lock();
        let number = table.by_token.get(&token).copied();
        if let Some(policy) = number.and_then(|number| table.policies.get_mut(&number)) {
            policy.siblings_listed = own.is_some_and(|own| own.siblings_listed);
            if let Some(from) = response.source() {
                policy.learned.learn_address(from.ip(), Instant::now());
            }
        }
    }
    let Some(own) = own else {
        return;
    };
    let mut number = 0;
    let keep = |header: Header<'_>| {
        if header.kind() != ffi::PJSIP_H_CONTACT {
            return true;
        }
        let is_of_line = listed(header, &token).is_some();
        number += usize::from(is_of_line);
        is_of_line && number == own.index + 1
    };
    // SAFETY: pjsip keeps no pointer to a Contact of what it receives.
    unsafe { headers().retain(keep) };
}

/// What a Contact with the token of a line says.
fn listed(header: Header<'_>, token: &str) -> Option<ListedContact> {
    let contact = header.contact().filter(|contact| !contact.is_star)?;
    let uri = contact.uri?.sip()?;
    let is_of_line = uri.uri().parts().line.as_deref() == Some(token);
    is_of_line.then(|| ListedContact {
        address: uri.address(),
        expires: contact.expires,
    })
}

/// The request of ours that a response answers.
struct Request {
    kind: Option<Challenged>,
    mark: Option<Mark>,
    token: Option<String>,
    /// Where its first Contact leads.
    contact: Option<ContactAddress>,
    /// The expiry that it asks for, in seconds.
    expires: Option<u32>,
    sent_to: Option<IpAddr>,
}

impl Request {
    fn of(response: ReceivedMessage<'_>) -> Option<Self> {
        // No other lock is held here, as in the transaction layer right after.
        transactions::of_response(response, |tsx| Self::read(tsx)).flatten()
    }

    fn read(tsx: &Locked) -> Option<Self> {
        let sent = tsx.sent()?;
        let message = sent.message()?;
        let mark = read_mark(tsx.handle().dialog());
        let method = message.method();
        let kind = if message.has_to_tag() {
            let with_server = mark.is_some_and(|mark| mark.with_server);
            Some(Challenged::InDialog { with_server })
        } else if method == Some(ffi::PJSIP_REGISTER_METHOD) {
            Some(if message.unregisters() {
                Challenged::Unregister
            } else {
                Challenged::Register
            })
        } else {
            (method == Some(ffi::PJSIP_INVITE_METHOD)).then_some(Challenged::Invite)
        };
        Some(Self {
            kind,
            mark,
            token: token_of(message),
            contact: message.contact_uri().map(SipUri::address),
            expires: message.expires(),
            sent_to: sent.destination().map(|address| address.ip()),
        })
    }
}

/// Takes out of a 401 or 407 what must not or cannot be answered.
fn judge(shared: &Shared, response: ReceivedMessage<'_>) {
    let from = response.source();
    let request = Request::of(response);
    let keep = |header: Header<'_>| {
        let Some(challenge) = header.challenge() else {
            return true;
        };
        if !challenge.is_digest {
            return false;
        }
        let (Some(request), Some(from)) = (&request, from) else {
            return false;
        };
        let decision = decision(shared, request, from.ip(), &challenge.realm);
        if let Err(why) = decision {
            withheld(shared, from.ip(), &challenge.realm, why);
        }
        decision.is_ok()
    };
    // SAFETY: pjsip keeps no pointer to a challenge before its transaction has it.
    unsafe { response.message().headers().retain(keep) };
}

fn decision(
    shared: &Shared,
    request: &Request,
    came_from: IpAddr,
    realm: &str,
) -> Result<(), CredentialWithheld> {
    let mut table = shared.policies.lock();
    let (Some(to), Some(sent_to)) = (request.kind, request.sent_to) else {
        return Err(CredentialWithheld::ForeignAddress);
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
            Err(CredentialWithheld::ForeignDialog)
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

fn withheld(shared: &Shared, address: IpAddr, realm: &str, why: CredentialWithheld) {
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
