//! One dialog of the test user agent: its state and the requests it sends (RFC
//! 3261 section 12, UPDATE of RFC 3311, timers of RFC 4028). How it answers the
//! other side's requests is in `sip_peer.rs`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};

use super::digest;
use super::message::{Message, Start, uri_of};
use super::sdp::{LocalMedia, RemoteMedia};
use super::wire::{T1, UacError, Wire, lock, resolve, token};

#[path = "sip_peer.rs"]
mod peer;
use super::{CallEvent, CallOptions};

/// The methods we answer.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REFER, NOTIFY";

/// One call's dialog, shared by the call's handle and the socket's reader.
pub struct Dialog {
    pub call_id: String,
    options: CallOptions,
    local_tag: String,
    from: String,
    to: String,
    events: mpsc::Sender<CallEvent>,
    proceeding: watch::Sender<bool>,
    state: Mutex<State>,
}

/// What changes while the call lives.
struct State {
    remote_tag: Option<String>,
    remote_target: String,
    routes: Vec<String>,
    next_hop: SocketAddr,
    cseq: u32,
    media: LocalMedia,
    remote: Option<RemoteMedia>,
    session_expires_s: Option<u32>,
    invite: Option<(Message, SocketAddr)>,
    acks: HashMap<u32, (Vec<u8>, SocketAddr)>,
    unacknowledged: Option<u32>,
    over: bool,
}

impl Dialog {
    /// A dialog that has sent nothing yet.
    pub fn new(
        wire: &Wire,
        target: &str,
        next_hop: SocketAddr,
        options: CallOptions,
        events: mpsc::Sender<CallEvent>,
    ) -> Self {
        let local_tag = token();
        let from = format!("<sip:{}@{}>;tag={local_tag}", options.from_user, wire.local);
        let to = options.to.clone().unwrap_or_else(|| target.into());
        let media = options.media();
        Self {
            call_id: format!("{}@{}", token(), wire.local.ip()),
            local_tag,
            from,
            to: format!("<{to}>"),
            events,
            proceeding: watch::Sender::new(false),
            state: Mutex::new(State {
                remote_tag: None,
                remote_target: target.into(),
                routes: Vec::new(),
                next_hop,
                cseq: 0,
                media,
                remote: None,
                session_expires_s: options.session_expires_s,
                invite: None,
                acks: HashMap::new(),
                unacknowledged: None,
                over: false,
            }),
            options,
        }
    }

    /// The last description of the other side.
    pub fn remote(&self) -> Option<RemoteMedia> {
        lock(&self.state).remote.clone()
    }

    /// Whether a BYE was sent or received, or the INVITE failed.
    pub fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    /// Ends the dialog's life here; late retransmissions still find it until
    /// the socket forgets it.
    pub fn set_over(self: &Arc<Self>, wire: &Arc<Wire>) {
        lock(&self.state).over = true;
        let (wire, dialog) = (Arc::downgrade(wire), Arc::clone(self));
        tokio::spawn(async move {
            tokio::time::sleep(T1 * 64).await;
            if let Some(wire) = wire.upgrade() {
                wire.remove_dialog(&dialog.call_id);
            }
        });
    }

    /// Hands an event to the owner of the call.
    pub fn emit(&self, wire: &Wire, event: CallEvent) {
        if self.events.try_send(event).is_err() && !self.is_over() {
            wire.fault(format!("{}: events not read", self.call_id));
        }
    }

    /// Our description with another direction, one version up.
    pub fn next_media(&self, change: impl FnOnce(&mut LocalMedia)) -> LocalMedia {
        let mut state = lock(&self.state);
        change(&mut state.media);
        state.media.version += 1;
        state.media.clone()
    }

    /// Our description as it stands.
    pub fn media(&self) -> LocalMedia {
        lock(&self.state).media.clone()
    }

    /// Sends a request in the dialog, answers challenges and 422, and
    /// acknowledges INVITEs. Returns the final response, whatever it is.
    pub async fn exchange(
        &self,
        wire: &Wire,
        method: &str,
        fill: impl Fn(&mut Message),
    ) -> Result<Message, UacError> {
        let mut authorization: Option<(&str, String)> = None;
        let mut retries = 0;
        loop {
            let (mut request, to) = self.request(wire, method);
            fill(&mut request);
            if let Some((name, value)) = &authorization {
                request.push(name, value.as_str());
            }
            if method == "INVITE" {
                lock(&self.state).invite = Some((request.clone(), to));
            }
            let response = wire
                .transact(&request, to, |response| {
                    self.on_provisional(wire, &response)
                })
                .await?;
            self.check_response(wire, &request, &response);
            if method == "INVITE" {
                self.acknowledge(wire, &request, to, &response).await?;
            }
            retries += 1;
            match response.status() {
                401 | 407 if authorization.is_none() && retries < 4 => {
                    authorization = self.authorization(method, &request, &response);
                    if authorization.is_none() {
                        return Ok(response);
                    }
                }
                422 if retries < 4 => {
                    let least = response.header("Min-SE").and_then(|s| s.parse().ok());
                    let Some(least) = least else {
                        return Ok(response);
                    };
                    lock(&self.state).session_expires_s = Some(least);
                }
                _ => return Ok(response),
            }
        }
    }

    fn request(&self, wire: &Wire, method: &str) -> (Message, SocketAddr) {
        let mut state = lock(&self.state);
        state.cseq += 1;
        let cseq = state.cseq;
        (self.build(wire, &state, method, cseq), state.next_hop)
    }

    fn build(&self, wire: &Wire, state: &State, method: &str, cseq: u32) -> Message {
        let mut request = Message::request(method, &state.remote_target);
        request.push("Via", wire.via());
        request.push("Max-Forwards", "70");
        for route in &state.routes {
            request.push("Route", route.as_str());
        }
        request.push("From", self.from.as_str());
        request.push("To", self.to_header(state));
        request.push("Call-ID", self.call_id.as_str());
        request.push("CSeq", format!("{cseq} {method}"));
        request.push("User-Agent", "sipbridge-test-uac");
        if method == "ACK" {
            return request;
        }
        request.push(
            "Contact",
            format!("<sip:{}@{}>", self.options.from_user, wire.local),
        );
        request.push("Allow", ALLOW);
        if let (Some(seconds), "INVITE" | "UPDATE") = (state.session_expires_s, method) {
            request.push("Supported", "timer");
            let refresher = self.options.refresher.as_deref();
            let refresher = refresher.map_or(String::new(), |who| format!(";refresher={who}"));
            request.push("Session-Expires", format!("{seconds}{refresher}"));
            request.push("Min-SE", self.options.min_se_s.min(seconds).to_string());
        }
        request
    }

    fn to_header(&self, state: &State) -> String {
        match &state.remote_tag {
            Some(tag) => format!("{};tag={tag}", self.to),
            None => self.to.clone(),
        }
    }

    fn authorization(
        &self,
        method: &str,
        request: &Message,
        response: &Message,
    ) -> Option<(&'static str, String)> {
        let (challenge, name) = match response.status() {
            401 => ("WWW-Authenticate", "Authorization"),
            _ => ("Proxy-Authenticate", "Proxy-Authorization"),
        };
        let Start::Request { uri, .. } = &request.start else {
            return None;
        };
        let credentials = self.options.credentials.as_ref()?;
        response.all(challenge).find_map(|challenge| {
            let value = digest::answer(challenge, credentials, method, uri, &token())?;
            Some((name, value))
        })
    }

    fn on_provisional(&self, wire: &Wire, response: &Message) {
        self.proceeding.send_replace(true);
        let media = response
            .text_body()
            .and_then(|sdp| self.take_remote(wire, sdp));
        if response
            .cseq()
            .is_some_and(|(_, method)| method == "INVITE")
            && !self.established()
        {
            self.emit(
                wire,
                CallEvent::Provisional {
                    status: response.status(),
                    reason: response.reason().into(),
                    media,
                },
            );
        }
    }

    fn established(&self) -> bool {
        lock(&self.state).remote_tag.is_some()
    }

    /// What a response must keep to whatever its status.
    fn check_response(&self, wire: &Wire, request: &Message, response: &Message) {
        let status = response.status();
        if response.tag("From") != Some(&self.local_tag) {
            wire.fault(format!("{status}: From tag changed"));
        }
        if response.tag("To").is_none() {
            wire.fault(format!("{status}: no To tag"));
        }
        if let (Some(known), Some(given)) = (&lock(&self.state).remote_tag, response.tag("To"))
            && known != given
        {
            wire.fault(format!("{status}: second To tag"));
        }
        if response.cseq() != request.cseq() {
            wire.fault(format!("{status}: CSeq differs from the request's"));
        }
        let creates_dialog = matches!(request.cseq(), Some((_, "INVITE" | "UPDATE")));
        if creates_dialog && (200..300).contains(&status) && response.header("Contact").is_none() {
            wire.fault(format!("{status}: no Contact"));
        }
    }

    /// Sends the ACK and keeps it for retransmitted responses. A 2xx also
    /// settles the dialog: tag, target, routes.
    async fn acknowledge(
        &self,
        wire: &Wire,
        request: &Message,
        to: SocketAddr,
        response: &Message,
    ) -> Result<(), UacError> {
        let cseq = request.cseq().map_or(0, |(number, _)| number);
        let (ack, to) = if (200..300).contains(&response.status()) {
            self.settle(response).await?;
            // An INVITE without offer gets it in the 2xx; the ACK answers.
            let offer = response.text_body().filter(|_| request.body.is_empty());
            let answer = offer
                .and_then(|sdp| self.take_remote(wire, sdp))
                .map(|offer| self.answer_to(&offer));
            let mut state = lock(&self.state);
            state.invite = None;
            let mut ack = self.build(wire, &state, "ACK", cseq);
            if let Some(answer) = answer {
                ack.set_body("application/sdp", answer);
            }
            (ack.to_bytes(), state.next_hop)
        } else {
            (refusal_ack(request, response).to_bytes(), to)
        };
        lock(&self.state).acks.insert(cseq, (ack.clone(), to));
        wire.send(&ack, to).await
    }

    async fn settle(&self, response: &Message) -> Result<(), UacError> {
        let target = response
            .header("Contact")
            .map(|value| uri_of(value).to_owned());
        let mut routes: Vec<String> = response
            .all("Record-Route")
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .collect();
        routes.reverse();
        let hop = match (routes.first(), &target, self.options.proxy) {
            (Some(route), _, _) => Some(resolve(uri_of(route)).await?),
            (None, Some(target), None) => Some(resolve(target).await?),
            _ => None,
        };
        let mut state = lock(&self.state);
        if state.remote_tag.is_none() {
            state.remote_tag = response.tag("To").map(Into::into);
            state.routes = routes;
        }
        state.remote_target = target.unwrap_or_else(|| state.remote_target.clone());
        state.next_hop = hop.unwrap_or(state.next_hop);
        if let Some(value) = response.header("Session-Expires") {
            let seconds = value.split(';').next().and_then(|s| s.trim().parse().ok());
            state.session_expires_s = seconds;
        }
        Ok(())
    }

    /// Our answer: the offer's direction mirrored, of our codecs those offered.
    fn answer_to(&self, offer: &RemoteMedia) -> String {
        let mut media = self.next_media(|media| media.direction = offer.direction.mirrored());
        let offered = |codec: u8| offer.payload_types.contains(&codec);
        media.codecs.retain(|codec| offered(codec.payload_type));
        media.dtmf = media.dtmf.filter(|dtmf| offered(*dtmf));
        media.to_sdp()
    }

    /// The ACK for a repeated final response to an INVITE.
    pub fn ack_again(
        &self,
        wire: &Wire,
        cseq: u32,
        response: &Message,
    ) -> Option<(Vec<u8>, SocketAddr)> {
        let state = lock(&self.state);
        if state.remote_tag.is_some() && response.tag("To") != state.remote_tag.as_deref() {
            wire.fault(format!("{}: second To tag", response.status()));
        }
        state.acks.get(&cseq).cloned()
    }

    /// CANCEL for the INVITE in flight, once it was answered provisionally
    /// (RFC 3261 section 9.1).
    pub async fn cancel(&self, wire: &Wire) -> Result<(), UacError> {
        let mut proceeding = self.proceeding.subscribe();
        // The sender lives as long as self.
        let _ = proceeding.wait_for(|proceeding| *proceeding).await;
        let (invite, to) = lock(&self.state).invite.clone().ok_or(UacError::Over)?;
        let Start::Request { uri, .. } = &invite.start else {
            return Err(UacError::Over);
        };
        let mut cancel = Message::request("CANCEL", uri);
        copy(
            &invite,
            &mut cancel,
            &["Via", "Max-Forwards", "Route", "From", "To", "Call-ID"],
        );
        let cseq = invite.cseq().map_or(0, |(number, _)| number);
        cancel.push("CSeq", format!("{cseq} CANCEL"));
        let response = wire.transact(&cancel, to, |_| {}).await?;
        refused("CANCEL", &response)
    }

    /// Reads a description of the other side and keeps it. Complains about
    /// payload types that were never offered and about a version that stood
    /// still while the text changed.
    pub fn take_remote(&self, wire: &Wire, sdp: &str) -> Option<RemoteMedia> {
        let media = match RemoteMedia::parse(sdp) {
            Ok(media) => media,
            Err(reason) => {
                wire.fault(format!("SDP: {reason}"));
                return None;
            }
        };
        let mut state = lock(&self.state);
        if let Some(known) = &state.remote
            && known.origin.0 == media.origin.0
            && known.origin.1 == media.origin.1
            && known.direction != media.direction
        {
            wire.fault("SDP changed and kept its version");
        }
        state.remote = Some(media.clone());
        Some(media)
    }
}

/// `Err` for a response that is not 2xx.
pub fn refused(method: &str, response: &Message) -> Result<(), UacError> {
    if (200..300).contains(&response.status()) {
        return Ok(());
    }
    Err(UacError::Refused {
        method: method.into(),
        status: response.status(),
        reason: response.reason().into(),
    })
}

fn copy(from: &Message, to: &mut Message, names: &[&str]) {
    for name in names {
        for value in from.all(name) {
            to.push(name, value);
        }
    }
}

/// The ACK of a refused INVITE: same branch, To of the response (RFC 3261
/// section 17.1.1.3).
fn refusal_ack(request: &Message, response: &Message) -> Message {
    let uri = match &request.start {
        Start::Request { uri, .. } => uri.as_str(),
        Start::Response { .. } => "",
    };
    let mut ack = Message::request("ACK", uri);
    copy(request, &mut ack, &["Via", "Max-Forwards", "Route", "From"]);
    copy(response, &mut ack, &["To"]);
    copy(request, &mut ack, &["Call-ID"]);
    let cseq = request.cseq().map_or(0, |(number, _)| number);
    ack.push("CSeq", format!("{cseq} ACK"));
    ack
}
