//! A SIP caller over UDP (RFC 3261, UAC side): one call per socket, every step
//! in the hands of the test. Requests of the bridge are accepted by themselves
//! (REFER, where the test wants, refused with 405) and remembered. Where a proxy
//! rang several bridges, the first that answers has the call, and each other one
//! is hung up on (RFC 3261 section 13.2.2.4).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::rtp::{Player, Rtp};
use super::sdp::{Answer, Offer};
use super::sip::Message;
use super::{SOON, peers::local, soon, until};

/// The number that callers show.
pub const CALLER_NUMBER: &str = "+33612345678";

/// Requests that came from the other side, with the time.
type Requests = Arc<Mutex<Vec<(Instant, Message)>>>;

/// Makes calls; see [`Call`].
pub struct Caller;

impl Caller {
    /// Calls and expects 200; the call stands when this returns.
    pub async fn connect(peer: SocketAddr, number: &str) -> Call {
        Self::connect_with(peer, number, Offer::usual()).await
    }

    /// Calls a number whose line may just be on its way to pjsip, until it is there.
    pub async fn connect_once_known(peer: SocketAddr, number: &str) -> Call {
        let deadline = Instant::now() + SOON;
        loop {
            let mut call = Self::invite(peer, number, Offer::usual()).await;
            let response = call.final_response().await;
            if response.status() != Some(404) || Instant::now() > deadline {
                assert_eq!(response.status(), Some(200), "{}", response.start);
                return call;
            }
        }
    }

    /// As [`Caller::connect`], with an offer.
    pub async fn connect_with(peer: SocketAddr, number: &str, offer: Offer) -> Call {
        let mut call = Self::invite(peer, number, offer).await;
        call.answered().await;
        call
    }

    /// Sends an INVITE and waits for nothing.
    pub async fn invite(peer: SocketAddr, number: &str, offer: Offer) -> Call {
        Self::invite_uri(peer, &format!("sip:{number}@{peer}"), number, offer).await
    }

    /// Sends an INVITE whose To is of its own.
    pub async fn invite_uri(peer: SocketAddr, uri: &str, to_user: &str, offer: Offer) -> Call {
        Self::begin(peer, uri, to_user, offer, CALLER_NUMBER).await
    }

    /// Calls a number as this caller, and expects 200.
    pub async fn connect_as(peer: SocketAddr, from: &str, number: &str) -> Call {
        let uri = format!("sip:{number}@{peer}");
        let mut call = Self::begin(peer, &uri, number, Offer::usual(), from).await;
        call.answered().await;
        call
    }

    /// Calls with a From (`"name" <URI>`) and headers of the test's own, and expects 200.
    pub async fn connect_saying(peer: SocketAddr, from: &str, number: &str, headers: &str) -> Call {
        let uri = format!("sip:{number}@{peer}");
        let sip = UdpSocket::bind(local(0)).await.unwrap();
        let rtp = Rtp::open().await;
        let mut call = Self::prepare(sip, rtp, peer, &uri, number, Offer::usual(), from);
        let sdp = call.offer.write(call.rtp.local);
        call.send("INVITE", 1, headers, &sdp).await;
        call.answered().await;
        call
    }

    /// As [`Caller::invite`], on sockets of its own for SIP and RTP.
    pub async fn invite_from(
        (sip, rtp): (UdpSocket, UdpSocket),
        peer: SocketAddr,
        number: &str,
        offer: Offer,
    ) -> Call {
        let uri = format!("sip:{number}@{peer}");
        Self::begin_on(sip, Rtp::on(rtp), peer, &uri, number, offer, CALLER_NUMBER).await
    }

    /// Sends an INVITE to a URI from an address of its own.
    pub async fn invite_uri_from(ip: Ipv4Addr, peer: SocketAddr, uri: &str, number: &str) -> Call {
        let sip = UdpSocket::bind((ip, 0)).await.unwrap();
        let (rtp, offer) = (Rtp::open().await, Offer::usual());
        Self::begin_on(sip, rtp, peer, uri, number, offer, CALLER_NUMBER).await
    }

    async fn begin(peer: SocketAddr, uri: &str, to_user: &str, offer: Offer, from: &str) -> Call {
        let sip = UdpSocket::bind(local(0)).await.unwrap();
        Self::begin_on(sip, Rtp::open().await, peer, uri, to_user, offer, from).await
    }

    async fn begin_on(
        sip: UdpSocket,
        rtp: Rtp,
        peer: SocketAddr,
        uri: &str,
        to_user: &str,
        offer: Offer,
        from: &str,
    ) -> Call {
        let call = Self::prepare(sip, rtp, peer, uri, to_user, offer, from);
        let sdp = call.offer.write(call.rtp.local);
        call.send("INVITE", 1, "", &sdp).await;
        call
    }

    /// A call whose INVITE has not been sent. `from` is a user, or a whole name-addr.
    fn prepare(
        sip: UdpSocket,
        rtp: Rtp,
        peer: SocketAddr,
        uri: &str,
        to_user: &str,
        offer: Offer,
        from: &str,
    ) -> Call {
        let socket = Arc::new(sip);
        let (sender, responses) = mpsc::unbounded_channel();
        let requests = Requests::default();
        let id: u64 = rand::rng().random();
        let no_refer = Arc::new(AtomicBool::new(false));
        let reading = read(socket.clone(), sender, requests.clone(), no_refer.clone());
        let from = if from.contains('<') {
            from.to_owned()
        } else {
            let local = socket.local_addr().unwrap();
            format!("\"Guest\" <sip:{from}@{local}>")
        };
        Call {
            reader: tokio::spawn(reading),
            no_refer,
            local: socket.local_addr().unwrap(),
            rtp,
            socket,
            peer,
            responses,
            requests,
            id: format!("{id:016x}"),
            from,
            to: format!("<sip:{to_user}@{peer}>"),
            uri: uri.to_owned(),
            target: uri.to_owned(),
            routes: Vec::new(),
            cseq: 1,
            offer,
            answer: None,
            provisional: Vec::new(),
        }
    }
}

/// One call, from INVITE to its end.
pub struct Call {
    pub rtp: Rtp,
    pub local: SocketAddr,
    pub id: String,
    /// Provisional statuses seen so far.
    pub provisional: Vec<u16>,
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
    peer: SocketAddr,
    responses: mpsc::UnboundedReceiver<Message>,
    requests: Requests,
    no_refer: Arc<AtomicBool>,
    from: String,
    to: String,
    /// Request URI of the INVITE.
    uri: String,
    /// Request URI within the dialog.
    target: String,
    routes: Vec<String>,
    cseq: u32,
    offer: Offer,
    answer: Option<Answer>,
}

impl Call {
    /// What the bridge answered to the last offer.
    pub fn answer(&self) -> &Answer {
        self.answer.as_ref().unwrap()
    }

    /// A player towards the bridge's media address.
    pub fn player(&self) -> Player {
        let answer = self.answer();
        self.rtp.player(answer.media, answer.formats[0])
    }

    /// Waits for the final response to the last INVITE and acknowledges it.
    pub async fn final_response(&mut self) -> Message {
        loop {
            let response = self.response().await;
            let status = response.status().unwrap();
            if status < 200 {
                self.provisional.push(status);
                continue;
            }
            self.to = response.header("To").unwrap().to_owned();
            if status < 300 {
                self.target = response.contact().unwrap();
                self.routes = response
                    .all("Record-Route")
                    .flat_map(|value| value.split(','))
                    .map(|route| route.trim().to_owned())
                    .collect();
                self.routes.reverse();
                self.answer = Some(Answer::read(&response.body));
            }
            self.acknowledge(status).await;
            return response;
        }
    }

    /// Waits for the final response to the INVITE and leaves it unacknowledged.
    pub async fn unacknowledged(&mut self) -> Message {
        loop {
            let response = self.response().await;
            if response.status().unwrap() >= 200 {
                self.to = response.header("To").unwrap().to_owned();
                return response;
            }
        }
    }

    /// Whether there is a response, of any kind.
    pub fn has_response(&mut self) -> bool {
        self.responses.try_recv().is_ok()
    }

    /// Waits for a provisional status.
    pub async fn provisional(&mut self, wanted: u16) {
        loop {
            let status = self.response().await.status().unwrap();
            assert!(status < 200, "{status} instead of {wanted}");
            self.provisional.push(status);
            if status == wanted {
                return;
            }
        }
    }

    /// Expects 200 to the INVITE.
    pub async fn answered(&mut self) {
        let response = self.final_response().await;
        assert_eq!(response.status(), Some(200), "{}", response.start);
    }

    /// Sends a request within the dialog and returns its final response.
    pub async fn request(&mut self, method: &str, headers: &str, body: &str) -> Message {
        self.cseq += 1;
        self.send(method, self.cseq, headers, body).await;
        loop {
            let response = self.response().await;
            if response.cseq().0 == self.cseq && response.status().unwrap() >= 200 {
                return response;
            }
        }
    }

    /// Sends the first INVITE once more, byte for byte.
    pub async fn repeat_invite(&self) {
        let sdp = self.offer.write(self.rtp.local);
        self.send("INVITE", 1, "", &sdp).await;
    }

    /// Offers again with a direction; returns the answer. The To tag must stay.
    pub async fn reinvite(&mut self, direction: &'static str) -> Answer {
        let tag_before = self.to.clone();
        self.offer.direction = direction;
        self.offer.version += 1;
        self.cseq += 1;
        let sdp = self.offer.write(self.rtp.local);
        self.send("INVITE", self.cseq, "", &sdp).await;
        self.answered().await;
        assert_eq!(self.to, tag_before, "the dialog kept its tags");
        self.answer().clone()
    }

    /// CANCELs the INVITE: 200 to the CANCEL, 487 to the INVITE.
    pub async fn cancel(&mut self) {
        self.send("CANCEL", 1, "", "").await;
        let (mut cancelled, mut ended) = (false, false);
        while !(cancelled && ended) {
            let response = self.response().await;
            match (response.cseq().1, response.status().unwrap()) {
                ("CANCEL", 200) => cancelled = true,
                ("INVITE", 487) => {
                    self.to = response.header("To").unwrap().to_owned();
                    self.acknowledge(487).await;
                    ended = true;
                }
                (_, 100..200) => {}
                (method, status) => panic!("{status} to {method} after CANCEL"),
            }
        }
    }

    /// Ends the call.
    pub async fn bye(&mut self) {
        let response = self.request("BYE", "", "").await;
        assert_eq!(response.status(), Some(200), "{}", response.start);
    }

    /// Whether the other side has ended the call, and when.
    pub fn ended_at(&self) -> Option<Instant> {
        let requests = self.requests.lock().unwrap();
        let bye = requests
            .iter()
            .find(|(_, request)| request.method() == Some("BYE"));
        bye.map(|(at, _)| *at)
    }

    /// Waits for the other side's BYE.
    pub async fn ended_by_bridge(&self, limit: Duration) -> Instant {
        until(limit, "BYE from the bridge", async || {
            self.ended_at().is_some()
        })
        .await;
        self.ended_at().unwrap()
    }

    /// From now on REFER is refused, as by a trunk that does not know it.
    pub fn refuse_refer(&self) {
        self.no_refer.store(true, Ordering::Relaxed);
    }

    /// Every request of a method that came in.
    pub fn requests(&self, method: &str) -> Vec<Message> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|(_, request)| request.method() == Some(method))
            .map(|(_, request)| request.clone())
            .collect()
    }

    async fn response(&mut self) -> Message {
        soon("a SIP response", self.responses.recv()).await.unwrap()
    }

    /// ACK: of its own for 2xx, within the transaction for the rest.
    async fn acknowledge(&self, status: u16) {
        let cseq = self.cseq;
        if status < 300 {
            self.send("ACK", cseq, "", "").await;
        } else {
            let text = self.text("ACK", &self.uri, cseq, &self.branch("INVITE", cseq), "", "");
            self.socket
                .send_to(text.as_bytes(), self.peer)
                .await
                .unwrap();
        }
    }

    fn branch(&self, method: &str, cseq: u32) -> String {
        // CANCEL shares the branch of the INVITE that it ends.
        let method = if method == "CANCEL" { "INVITE" } else { method };
        format!("z9hG4bK{}{method}{cseq}", self.id)
    }

    async fn send(&self, method: &str, cseq: u32, headers: &str, body: &str) {
        let uri = if method == "CANCEL" {
            &self.uri
        } else {
            &self.target
        };
        let text = self.text(method, uri, cseq, &self.branch(method, cseq), headers, body);
        self.socket
            .send_to(text.as_bytes(), self.peer)
            .await
            .unwrap();
    }

    fn text(
        &self,
        method: &str,
        uri: &str,
        cseq: u32,
        branch: &str,
        headers: &str,
        body: &str,
    ) -> String {
        let mut text = format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};rport;branch={branch}\r\n\
             From: {from};tag=t{id}\r\n\
             To: {to}\r\nCall-ID: {id}@test\r\nCSeq: {cseq} {method}\r\n\
             Max-Forwards: 70\r\nContact: <sip:caller@{local}>\r\n",
            local = self.local,
            id = self.id,
            from = self.from,
            to = self.to,
        );
        for route in &self.routes {
            text += &format!("Route: {route}\r\n");
        }
        text += headers;
        if body.starts_with("v=0") {
            text += "Content-Type: application/sdp\r\n";
        }
        text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// CSeq of the BYE to a bridge that answered after another one had.
const BYE_TO_OTHERS: u32 = 9_000;

/// Sorts what comes in: requests are accepted and kept, responses passed on.
async fn read(
    socket: Arc<UdpSocket>,
    responses: mpsc::UnboundedSender<Message>,
    requests: Requests,
    no_refer: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    let mut answered_by: Option<String> = None;
    while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
        let Some(message) = Message::parse(&buffer[..count]) else {
            continue;
        };
        match message.method() {
            None if message.cseq().0 == BYE_TO_OTHERS => {}
            None if is_of_another(&message, &mut answered_by) => {
                for method in ["ACK", "BYE"] {
                    let text = to_another(&message, method, socket.local_addr().unwrap());
                    let _ = socket.send_to(text.as_bytes(), from).await;
                }
            }
            None => {
                let _ = responses.send(message);
            }
            Some("ACK") => {}
            Some(method) => {
                let refused = method == "REFER" && no_refer.load(Ordering::Relaxed);
                let status = if refused {
                    "405 Method Not Allowed"
                } else {
                    "200 OK"
                };
                let response = message.respond(status);
                let _ = socket.send_to(response.as_bytes(), from).await;
                requests.lock().unwrap().push((Instant::now(), message));
            }
        }
    }
}

/// Whether a response is the 200 to our INVITE of another bridge than the one that answered first.
fn is_of_another(response: &Message, answered_by: &mut Option<String>) -> bool {
    let is_answer = response.cseq().1 == "INVITE" && response.status() == Some(200);
    let tag = response.header("To").and_then(|to| to.split("tag=").nth(1));
    let Some(tag) = tag.filter(|_| is_answer) else {
        return false;
    };
    answered_by.get_or_insert_with(|| tag.to_owned()) != tag
}

/// A request within the dialog that this 200 began.
fn to_another(answer: &Message, method: &str, local: SocketAddr) -> String {
    let header = |name: &str| answer.header(name).unwrap();
    let number = match method {
        "ACK" => answer.cseq().0,
        _ => BYE_TO_OTHERS,
    };
    let routes: Vec<&str> = answer.all("Record-Route").collect();
    let routes: String = routes
        .iter()
        .rev()
        .map(|route| format!("Route: {route}\r\n"))
        .collect();
    format!(
        "{method} {target} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};rport;branch=z9hG4bK{id:016x}\r\n\
         From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {number} {method}\r\n\
         Max-Forwards: 70\r\n{routes}Content-Length: 0\r\n\r\n",
        target = answer.contact().unwrap(),
        id = rand::rng().random::<u64>(),
        from = header("From"),
        to = header("To"),
        call_id = header("Call-ID"),
    )
}
