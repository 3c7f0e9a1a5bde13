//! A phone over UDP that the bridge calls (RFC 3261, UAS side): the test says
//! what it answers. Requests within the call are accepted by themselves and
//! remembered; retransmissions are answered like the first.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::rtp::Rtp;
use super::sdp::{Answer, Offer};
use super::sip::Message;
use super::{SOON, peers::local, until};

const TAG: &str = "callee-tag";

type Received = Arc<Mutex<Vec<Message>>>;

/// One phone; see the methods.
pub struct Callee {
    pub rtp: Rtp,
    pub local: SocketAddr,
    socket: Arc<UdpSocket>,
    received: Received,
    peer: Arc<Mutex<Option<SocketAddr>>>,
    cseq: AtomicU32,
    reader: JoinHandle<()>,
}

impl Callee {
    pub async fn open() -> Self {
        let socket = Arc::new(UdpSocket::bind(local(0)).await.unwrap());
        let received = Received::default();
        let peer = Arc::new(Mutex::new(None));
        Self {
            rtp: Rtp::open().await,
            local: socket.local_addr().unwrap(),
            reader: tokio::spawn(read(socket.clone(), received.clone(), peer.clone())),
            socket,
            received,
            peer,
            cseq: AtomicU32::new(1),
        }
    }

    /// Waits for the INVITE.
    pub async fn invited(&self) -> Message {
        self.request("INVITE").await
    }

    /// Waits for a request.
    pub async fn request(&self, method: &str) -> Message {
        until(SOON, method, async || !self.requests(method).is_empty()).await;
        self.requests(method).remove(0)
    }

    /// All requests of a method, retransmissions among them.
    pub fn requests(&self, method: &str) -> Vec<Message> {
        let received = self.received.lock().unwrap();
        let of_method = received.iter().filter(|it| it.method() == Some(method));
        of_method.cloned().collect()
    }

    /// Answers the INVITE without a body.
    pub async fn respond(&self, invite: &Message, status: &str) {
        self.send(&tagged(invite, status, self.local, "")).await;
    }

    /// Answers 200; the media address of the bridge is what comes back.
    pub async fn answer(&self, invite: &Message) -> Answer {
        self.answer_as(invite, "sendrecv").await
    }

    /// As [`Callee::answer`], with a direction of media.
    pub async fn answer_as(&self, invite: &Message, direction: &'static str) -> Answer {
        // One codec: for two pjsip sends another INVITE, to settle on one.
        let mut offer = Offer::of(&[0, 101]);
        offer.direction = direction;
        offer.version = invite.cseq().0;
        let sdp = offer.write(self.rtp.local);
        self.send(&tagged(invite, "200 OK", self.local, &sdp)).await;
        until(SOON, "ACK", async || {
            let acks = self.requests("ACK");
            acks.iter().any(|ack| ack.cseq().0 == invite.cseq().0)
        })
        .await;
        Answer::read(&invite.body)
    }

    /// Waits for the INVITE of another call than that one.
    pub async fn invited_to_another(&self, before: &Message) -> Message {
        let another = || {
            let mut invites = self.requests("INVITE").into_iter();
            invites.find(|it| it.header("call-id") != before.header("call-id"))
        };
        until(SOON, "INVITE of another call", async || another().is_some()).await;
        another().unwrap()
    }

    /// Waits for an INVITE within the call, after so many different ones.
    pub async fn invited_again(&self, after: &Message) -> Message {
        let later = || {
            let mut invites = self.requests("INVITE").into_iter();
            invites.rfind(|it| it.cseq().0 > after.cseq().0)
        };
        until(SOON, "INVITE within the call", async || later().is_some()).await;
        later().unwrap()
    }

    /// Ends the call.
    pub async fn bye(&self, invite: &Message) {
        self.within_dialog(invite, "BYE", "", "").await;
    }

    /// Tells how far a REFER has come.
    pub async fn notify(&self, invite: &Message, fragment: &str) {
        let ended = fragment.starts_with("SIP/2.0 1");
        let state = if ended {
            "active;expires=60"
        } else {
            "terminated;reason=noresource"
        };
        let headers = format!(
            "Event: refer\r\nSubscription-State: {state}\r\nContent-Type: message/sipfrag;version=2.0\r\n"
        );
        self.within_dialog(invite, "NOTIFY", &headers, fragment)
            .await;
    }

    async fn within_dialog(&self, invite: &Message, method: &str, headers: &str, body: &str) {
        let cseq = self.cseq.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};rport;branch=z9hG4bKcallee{cseq}\r\n\
             From: {from};tag={TAG}\r\nTo: {to}\r\nCall-ID: {id}\r\nCSeq: {cseq} {method}\r\n\
             Max-Forwards: 70\r\nContact: <sip:callee@{local}>\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}",
            target = invite.contact().unwrap(),
            local = self.local,
            from = invite.header("To").unwrap(),
            to = invite.header("From").unwrap(),
            id = invite.header("Call-ID").unwrap(),
            length = body.len(),
        );
        self.send(&text).await;
    }

    async fn send(&self, text: &str) {
        let peer = self.peer.lock().unwrap().expect("somebody called");
        self.socket.send_to(text.as_bytes(), peer).await.unwrap();
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A response with our tag and Contact.
fn tagged(request: &Message, status: &str, local: SocketAddr, sdp: &str) -> String {
    let mut text = request.respond(status);
    let to = request.header("To").unwrap();
    if !to.contains("tag=") {
        text = text.replace(&format!("to: {to}\r\n"), &format!("to: {to};tag={TAG}\r\n"));
    }
    let head = text.replace("Content-Length: 0\r\n\r\n", "");
    let kind = match sdp {
        "" => "",
        _ => "Content-Type: application/sdp\r\n",
    };
    let length = sdp.len();
    format!("{head}Contact: <sip:callee@{local}>\r\n{kind}Content-Length: {length}\r\n\r\n{sdp}")
}

async fn read(socket: Arc<UdpSocket>, received: Received, peer: Arc<Mutex<Option<SocketAddr>>>) {
    let local = socket.local_addr().unwrap();
    let mut buffer = vec![0; 65_536];
    while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
        let Some(message) = Message::parse(&buffer[..count]) else {
            continue;
        };
        let Some(method) = message.method().map(str::to_owned) else {
            continue;
        };
        peer.lock().unwrap().replace(from);
        let status = match method.as_str() {
            "ACK" | "INVITE" => None,
            "REFER" => Some("202 Accepted"),
            _ => Some("200 OK"),
        };
        if let Some(status) = status {
            let response = tagged(&message, status, local, "");
            let _ = socket.send_to(response.as_bytes(), from).await;
        }
        // CANCEL ends the INVITE as well.
        let invite = {
            let mut received = received.lock().unwrap();
            let is_its = |it: &&Message| {
                it.method() == Some("INVITE") && it.header("call-id") == message.header("call-id")
            };
            let invite = received.iter().find(is_its);
            let invite = invite.filter(|_| method == "CANCEL").cloned();
            received.push(message);
            invite
        };
        if let Some(invite) = invite {
            let ended = tagged(&invite, "487 Request Terminated", local, "");
            let _ = socket.send_to(ended.as_bytes(), from).await;
        }
    }
}
