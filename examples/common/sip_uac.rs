//! A SIP user agent client over UDP for tests, the example caller and the load
//! generator: RFC 3261 with digest, hold and resume by re-INVITE, UPDATE (RFC
//! 3311), INFO digits, REFER (RFC 3515) and session timers (RFC 4028).
//!
//! It shares no code with pjsip, so that it is a foreign peer, and it is
//! strict: whatever the other side does against the rules lands in
//! [`Uac::faults`]. One socket serves any number of calls.
//!
//! Leaves out: registering, incoming calls, reliable provisional responses,
//! TCP and TLS, refreshing a session by itself (call [`Call::refresh`]).

#[path = "sip_dialog.rs"]
mod dialog;
#[path = "sip_digest.rs"]
pub mod digest;
#[path = "sip_message.rs"]
pub mod message;
#[path = "sip_sdp.rs"]
mod sdp;
#[path = "sip_wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use rand::RngExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use dialog::{Dialog, refused};
pub use digest::Credentials;
pub use message::Message;
pub use sdp::{Direction, LocalMedia, OfferCodec, RemoteMedia};
pub use wire::UacError;
use wire::{Wire, resolve, token};

/// Events of one call that wait to be read.
const EVENTS_KEPT: usize = 64;

/// How a call is made.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// User part of From and Contact.
    pub from_user: String,
    /// URI of To; the target when absent.
    pub to: Option<String>,
    /// Where requests go instead of the target's host.
    pub proxy: Option<SocketAddr>,
    /// For 401 and 407.
    pub credentials: Option<Credentials>,
    /// Where we receive RTP.
    pub rtp_address: SocketAddr,
    /// What the offer holds, preferred first.
    pub codecs: Vec<OfferCodec>,
    /// `a=ptime` of the offer.
    pub ptime_ms: Option<u32>,
    /// Payload type of telephone-event in the offer.
    pub dtmf: Option<u8>,
    /// Direction of the offer.
    pub direction: Direction,
    /// A body of your own instead of the offer made from the above; an empty
    /// one makes an INVITE without offer.
    pub sdp: Option<String>,
    /// More headers for the INVITE.
    pub headers: Vec<(String, String)>,
    /// Session-Expires to ask for; none sends no timer headers.
    pub session_expires_s: Option<u32>,
    /// `refresher` to ask for: "uac" or "uas".
    pub refresher: Option<String>,
    /// Min-SE to announce with Session-Expires.
    pub min_se_s: u32,
    /// The result that NOTIFY reports after a REFER of the other side.
    pub refer_status: u16,
}

impl CallOptions {
    /// PCMU, PCMA and telephone-event, both ways, no timer.
    pub fn new(rtp_address: SocketAddr) -> Self {
        Self {
            from_user: "caller".into(),
            to: None,
            proxy: None,
            credentials: None,
            rtp_address,
            codecs: vec![OfferCodec::pcmu(), OfferCodec::pcma()],
            ptime_ms: Some(20),
            dtmf: Some(101),
            direction: Direction::SendRecv,
            sdp: None,
            headers: Vec::new(),
            session_expires_s: None,
            refresher: None,
            min_se_s: 90,
            refer_status: 200,
        }
    }

    fn media(&self) -> LocalMedia {
        LocalMedia {
            address: self.rtp_address,
            codecs: self.codecs.clone(),
            ptime_ms: self.ptime_ms,
            dtmf: self.dtmf,
            direction: self.direction,
            session_id: rand::rng().random_range(1..1_000_000_000),
            version: 1,
        }
    }
}

/// The 2xx to the INVITE.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its description; `None` when it had none or it was unreadable.
    pub media: Option<RemoteMedia>,
    /// The response itself.
    pub response: Message,
}

/// The final response that refused the INVITE.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Its status; 408 stands for no answer at all.
    pub status: u16,
    /// Its reason phrase.
    pub reason: String,
    /// Retry-After in seconds.
    pub retry_after_s: Option<u32>,
    /// The response; `None` when there was none.
    pub response: Option<Message>,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        match self.retry_after_s {
            Some(seconds) => write!(f, " (Retry-After: {seconds})"),
            None => Ok(()),
        }
    }
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum CallEvent {
    /// 1xx to the INVITE, 100 included.
    Provisional {
        status: u16,
        reason: String,
        media: Option<RemoteMedia>,
    },
    /// 2xx to the INVITE; it is acknowledged already.
    Answered(Box<Answer>),
    /// The INVITE was refused, cancelled (487) or not answered.
    Failed(Box<Rejection>),
    /// A re-INVITE of the other side, answered with 200.
    ReInvite { media: Option<RemoteMedia> },
    /// An UPDATE of the other side, answered with 200.
    Update { media: Option<RemoteMedia> },
    /// An INFO of the other side.
    Info { content_type: String, body: Vec<u8> },
    /// A REFER of the other side; NOTIFYs are sent by themselves.
    Refer { refer_to: String },
    /// The other side hung up.
    Bye { reason: Option<String> },
}

/// A user agent on one UDP socket. Clones share it.
#[derive(Clone)]
pub struct Uac {
    wire: Arc<Wire>,
    reader: Arc<Reader>,
}

/// Stops reading when the last user agent and call are gone.
struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Uac {
    /// Opens the socket; port 0 lets the system choose. The address is used in
    /// Via and Contact, so it must be one that the other side can reach.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let wire = Wire::bind(address).await?;
        let reader = tokio::spawn(Arc::clone(&wire).receive());
        Ok(Self {
            wire,
            reader: Arc::new(Reader(reader)),
        })
    }

    /// The socket's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.local
    }

    /// What the other side did against the rules so far.
    pub fn faults(&self) -> Vec<String> {
        self.wire.faults()
    }

    /// Sends an INVITE to `target` (`sip:user@host:port`) and returns at once;
    /// what becomes of it comes as events.
    ///
    /// # Errors
    /// When the target cannot be resolved.
    pub async fn call(&self, target: &str, options: CallOptions) -> Result<Call, UacError> {
        let next_hop = match options.proxy {
            Some(proxy) => proxy,
            None => resolve(target).await?,
        };
        let (sender, events) = mpsc::channel(EVENTS_KEPT);
        let dialog = Dialog::new(&self.wire, target, next_hop, options.clone(), sender);
        let dialog = Arc::new(dialog);
        self.wire.add_dialog(&dialog);
        tokio::spawn(invite(Arc::clone(&self.wire), Arc::clone(&dialog), options));
        Ok(Call {
            uac: self.clone(),
            dialog,
            events,
        })
    }

    /// Sends OPTIONS outside of any dialog.
    ///
    /// # Errors
    /// When there is no final response.
    pub async fn options(&self, target: &str) -> Result<Message, UacError> {
        let mut request = Message::request("OPTIONS", target);
        request.push("Via", self.wire.via());
        request.push("Max-Forwards", "70");
        request.push(
            "From",
            format!("<sip:test@{}>;tag={}", self.local_addr(), token()),
        );
        request.push("To", format!("<{target}>"));
        request.push("Call-ID", token());
        request.push("CSeq", "1 OPTIONS");
        self.wire
            .transact(&request, resolve(target).await?, |_| {})
            .await
    }

    /// Sends any bytes to any address, for tests of bad input.
    ///
    /// # Errors
    /// When the socket refuses.
    pub async fn send_raw(&self, bytes: &[u8], to: SocketAddr) -> Result<(), UacError> {
        self.wire.send(bytes, to).await
    }
}

/// Runs the first INVITE to its end and tells the call's owner.
async fn invite(wire: Arc<Wire>, dialog: Arc<Dialog>, options: CallOptions) {
    let sdp = options
        .sdp
        .clone()
        .unwrap_or_else(|| dialog.media().to_sdp());
    let result = dialog
        .exchange(&wire, "INVITE", |request| {
            for (name, value) in &options.headers {
                request.push(name, value.as_str());
            }
            if !sdp.is_empty() {
                request.set_body("application/sdp", sdp.as_str());
            }
        })
        .await;
    let event = match result {
        Ok(response) if response.status() < 300 => {
            let media = response
                .text_body()
                .and_then(|sdp| dialog.take_remote(&wire, sdp));
            if let (Some(media), None) = (&media, &options.sdp) {
                check_answer(&wire, &options, media);
            }
            CallEvent::Answered(Box::new(Answer {
                status: response.status(),
                media,
                response,
            }))
        }
        Ok(response) => failed(response.status(), response.reason(), Some(&response)),
        Err(UacError::Timeout { .. }) => failed(408, "no answer", None),
        Err(error) => failed(408, &error.to_string(), None),
    };
    let over = matches!(event, CallEvent::Failed(_));
    dialog.emit(&wire, event);
    if over {
        dialog.set_over(&wire);
    }
}

fn failed(status: u16, reason: &str, response: Option<&Message>) -> CallEvent {
    let retry_after = response.and_then(|response| response.header("Retry-After"));
    let seconds = |value: &str| value.split([';', ' ', '(']).next()?.parse().ok();
    CallEvent::Failed(Box::new(Rejection {
        status,
        reason: reason.into(),
        retry_after_s: retry_after.and_then(seconds),
        response: response.cloned(),
    }))
}

fn check_answer(wire: &Wire, options: &CallOptions, media: &RemoteMedia) {
    let offered = options.codecs.iter().map(|codec| codec.payload_type);
    let offered: Vec<u8> = offered.chain(options.dtmf).collect();
    for payload_type in &media.payload_types {
        if !offered.contains(payload_type) {
            wire.fault(format!(
                "answer holds payload type {payload_type}, never offered"
            ));
        }
    }
}

/// One call. Dropping it does not hang up.
pub struct Call {
    uac: Uac,
    dialog: Arc<Dialog>,
    events: mpsc::Receiver<CallEvent>,
}

impl Call {
    /// SIP Call-ID.
    pub fn call_id(&self) -> &str {
        &self.dialog.call_id
    }

    /// The next event; `None` never comes while the call is held.
    pub async fn next_event(&mut self) -> Option<CallEvent> {
        self.events.recv().await
    }

    /// An event that is there already.
    pub fn try_event(&mut self) -> Option<CallEvent> {
        self.events.try_recv().ok()
    }

    /// Waits for the final response to the INVITE; passes over provisional ones.
    ///
    /// # Errors
    /// The refusal.
    pub async fn wait_answer(&mut self) -> Result<Answer, Rejection> {
        while let Some(event) = self.events.recv().await {
            match event {
                CallEvent::Answered(answer) => return Ok(*answer),
                CallEvent::Failed(rejection) => return Err(*rejection),
                _ => {}
            }
        }
        Err(Rejection {
            status: 408,
            reason: "user agent is gone".into(),
            retry_after_s: None,
            response: None,
        })
    }

    /// Waits for a provisional response with that status.
    ///
    /// # Errors
    /// The event that came instead: a final one.
    pub async fn wait_provisional(
        &mut self,
        wanted: u16,
    ) -> Result<Option<RemoteMedia>, CallEvent> {
        while let Some(event) = self.events.recv().await {
            match event {
                CallEvent::Provisional { status, media, .. } if status == wanted => {
                    return Ok(media);
                }
                CallEvent::Answered(_) | CallEvent::Failed(_) => return Err(event),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Waits until the other side hangs up; its Reason header where given.
    pub async fn wait_bye(&mut self) -> Option<String> {
        while let Some(event) = self.events.recv().await {
            if let CallEvent::Bye { reason } = event {
                return reason;
            }
        }
        None
    }

    /// Where the other side wants RTP, as its last description said.
    pub fn remote_rtp(&self) -> Option<SocketAddr> {
        self.dialog.remote().map(|media| media.address)
    }

    /// The other side's last description.
    pub fn remote_media(&self) -> Option<RemoteMedia> {
        self.dialog.remote()
    }

    /// Whether the call is over, by either side.
    pub fn is_over(&self) -> bool {
        self.dialog.is_over()
    }

    /// Cancels the INVITE; the 487 comes as `Failed`. An answer that crosses
    /// it comes as `Answered`, and the call must then be hung up.
    ///
    /// # Errors
    /// When the CANCEL is refused or not answered.
    pub async fn cancel(&self) -> Result<(), UacError> {
        self.dialog.cancel(&self.uac.wire).await
    }

    /// Sends BYE and waits for its answer.
    ///
    /// # Errors
    /// When the BYE is refused or not answered, or the call is over already.
    pub async fn hangup(&self) -> Result<(), UacError> {
        if self.dialog.is_over() {
            return Err(UacError::Over);
        }
        self.dialog.set_over(&self.uac.wire);
        self.request("BYE", |_| {}).await.map(|_| ())
    }

    /// re-INVITE with another direction: `SendOnly` or `Inactive` hold,
    /// `SendRecv` resumes. Returns the answer's description.
    ///
    /// # Errors
    /// When it is refused, not answered, or answered without a description.
    pub async fn reinvite(&self, direction: Direction) -> Result<RemoteMedia, UacError> {
        self.offer("INVITE", |media| media.direction = direction)
            .await
    }

    /// UPDATE with another direction.
    ///
    /// # Errors
    /// As [`Call::reinvite`].
    pub async fn update(&self, direction: Direction) -> Result<RemoteMedia, UacError> {
        self.offer("UPDATE", |media| media.direction = direction)
            .await
    }

    /// re-INVITE with a changed description: another address, other codecs.
    ///
    /// # Errors
    /// As [`Call::reinvite`].
    pub async fn reinvite_with(
        &self,
        change: impl FnOnce(&mut LocalMedia),
    ) -> Result<RemoteMedia, UacError> {
        self.offer("INVITE", change).await
    }

    /// UPDATE without a description: refreshes the session timer.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn refresh(&self) -> Result<Message, UacError> {
        self.request("UPDATE", |_| {}).await
    }

    /// One digit by INFO, as `application/dtmf-relay`.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn info_dtmf(&self, digit: char, duration_ms: u32) -> Result<(), UacError> {
        let body = format!("Signal={digit}\r\nDuration={duration_ms}\r\n");
        self.request("INFO", |request| {
            request.set_body("application/dtmf-relay", body.as_str());
        })
        .await
        .map(|_| ())
    }

    /// Any request in the dialog; the 2xx to it.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn request(
        &self,
        method: &str,
        fill: impl Fn(&mut Message),
    ) -> Result<Message, UacError> {
        let response = self.dialog.exchange(&self.uac.wire, method, fill).await?;
        refused(method, &response)?;
        Ok(response)
    }

    async fn offer(
        &self,
        method: &str,
        change: impl FnOnce(&mut LocalMedia),
    ) -> Result<RemoteMedia, UacError> {
        let sdp = self.dialog.next_media(change).to_sdp();
        let response = self
            .request(method, |request| {
                request.set_body("application/sdp", sdp.as_str());
            })
            .await?;
        let answer = response.text_body();
        answer
            .and_then(|sdp| self.dialog.take_remote(&self.uac.wire, sdp))
            .ok_or_else(|| UacError::Protocol(format!("{method}: 200 without an answer")))
    }
}
