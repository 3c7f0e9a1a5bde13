//! The UDP side of the test user agent: one socket, client transactions with
//! the retransmissions of RFC 3261 section 17.1, and the sorting of what comes
//! in. Leaves out TCP and DNS beyond plain host names.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::dialog::Dialog;
use super::message::{Message, Start, host_port};

/// RFC 3261 timer T1.
pub const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// How long an INVITE that was answered provisionally may ring.
const RING_LIMIT: Duration = Duration::from_secs(180);
/// Responses kept for retransmitted requests.
const ANSWERED_KEPT: usize = 512;
/// Complaints kept; a broken peer must not fill the memory.
const FAULTS_KEPT: usize = 1_000;

/// Why a request got no final response.
#[derive(Debug, thiserror::Error)]
pub enum UacError {
    /// The socket refused.
    #[error("SIP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// 64 * T1 went by, or the call rang too long.
    #[error("{method}: no final response in time")]
    Timeout { method: String },
    /// The address in a URI cannot be used.
    #[error("cannot resolve {0}")]
    Address(String),
    /// A final response that refuses the request.
    #[error("{method} refused: {status} {reason}")]
    Refused {
        method: String,
        status: u16,
        reason: String,
    },
    /// The response broke a rule, in words.
    #[error("{0}")]
    Protocol(String),
    /// The call is over already.
    #[error("the call is over")]
    Over,
}

/// A lock that a panicking test cannot poison for the others.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random token for tags, branches and Call-IDs.
pub fn token() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}

/// Where a SIP URI is reached.
pub async fn resolve(uri: &str) -> Result<SocketAddr, UacError> {
    let bad = || UacError::Address(uri.into());
    let hostport = host_port(uri).ok_or_else(bad)?;
    let mut found = tokio::net::lookup_host(&hostport)
        .await
        .map_err(|_| bad())?;
    found.next().ok_or_else(bad)
}

/// One socket with its transactions and dialogs.
pub struct Wire {
    socket: UdpSocket,
    /// The address that Via and Contact name.
    pub local: SocketAddr,
    transactions: Mutex<HashMap<String, mpsc::Sender<Message>>>,
    dialogs: Mutex<HashMap<String, Arc<Dialog>>>,
    answered: Mutex<VecDeque<(String, Vec<u8>)>>,
    faults: Mutex<Vec<String>>,
}

/// Forgets a transaction when its future ends or is dropped.
struct Registered<'a>(&'a Wire, String);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.0.transactions).remove(&self.1);
    }
}

impl Wire {
    /// Opens the socket.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(address).await?;
        let local = socket.local_addr()?;
        Ok(Arc::new(Self {
            socket,
            local,
            transactions: Mutex::default(),
            dialogs: Mutex::default(),
            answered: Mutex::default(),
            faults: Mutex::default(),
        }))
    }

    /// Notes that the other side broke a rule.
    pub fn fault(&self, text: impl Into<String>) {
        let mut faults = lock(&self.faults);
        if faults.len() < FAULTS_KEPT {
            faults.push(text.into());
        }
    }

    /// What the other side broke so far.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }

    pub fn add_dialog(&self, dialog: &Arc<Dialog>) {
        lock(&self.dialogs).insert(dialog.call_id.clone(), Arc::clone(dialog));
    }

    pub fn remove_dialog(&self, call_id: &str) {
        lock(&self.dialogs).remove(call_id);
    }

    /// Sends one datagram.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr) -> Result<(), UacError> {
        self.socket.send_to(bytes, to).await?;
        Ok(())
    }

    /// A Via of ours with a fresh branch.
    pub fn via(&self) -> String {
        format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", self.local, token())
    }

    /// Sends a request until it is answered finally (RFC 3261 figures 5 and
    /// 6). The ACK is the caller's business.
    pub async fn transact(
        &self,
        request: &Message,
        to: SocketAddr,
        mut provisional: impl FnMut(Message),
    ) -> Result<Message, UacError> {
        let Start::Request { method, .. } = &request.start else {
            return Err(UacError::Protocol("not a request".into()));
        };
        let (sender, mut responses) = mpsc::channel(16);
        let key = transaction_key(request);
        lock(&self.transactions).insert(key.clone(), sender);
        let _registered = Registered(self, key);

        let bytes = request.to_bytes();
        let invite = method == "INVITE";
        let started = Instant::now();
        let (mut due, mut interval, mut proceeding) = (started, T1, false);
        loop {
            let silent = invite && proceeding;
            if !silent && Instant::now() >= due {
                self.send(&bytes, to).await?;
                due += interval;
                interval = if invite {
                    interval * 2
                } else {
                    T2.min(interval * 2)
                };
            }
            let limit = started + if silent { RING_LIMIT } else { T1 * 64 };
            let wake = if silent { limit } else { limit.min(due) };
            match timeout_at(wake, responses.recv()).await {
                Ok(Some(response)) if response.status() < 200 => {
                    proceeding = true;
                    provisional(response);
                }
                Ok(Some(response)) => return Ok(response),
                Ok(None) => return Err(UacError::Over),
                Err(_) if Instant::now() >= limit => {
                    let method = method.clone();
                    return Err(UacError::Timeout { method });
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the socket for ever.
    pub async fn receive(self: Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        loop {
            // An ICMP error of an earlier send surfaces here and ends nothing.
            let Ok((length, from)) = self.socket.recv_from(&mut buffer).await else {
                continue;
            };
            // Keep-alives of RFC 5626 are no messages.
            if buffer[..length].iter().all(|byte| b"\r\n\0".contains(byte)) {
                continue;
            }
            match Message::parse(&buffer[..length]) {
                Ok(message) => self.handle(message, from).await,
                Err(reason) => self.fault(format!("unreadable datagram: {reason}")),
            }
        }
    }

    async fn handle(self: &Arc<Self>, message: Message, from: SocketAddr) {
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            if message.header(name).is_none() {
                return self.fault(format!("message without {name}"));
            }
        }
        match message.start {
            Start::Response { .. } => self.handle_response(message).await,
            Start::Request { .. } => self.handle_request(message, from).await,
        }
    }

    async fn handle_response(&self, response: Message) {
        let waiting = lock(&self.transactions)
            .get(&transaction_key(&response))
            .cloned();
        if let Some(transaction) = waiting {
            // A full queue is 16 responses to one request; the peer repeats.
            let _ = transaction.try_send(response);
            return;
        }
        let Some((number, "INVITE")) = response.cseq() else {
            return;
        };
        let dialog = response.header("Call-ID").and_then(|id| self.dialog(id));
        if let Some((ack, to)) = dialog.and_then(|dialog| dialog.ack_again(self, number, &response))
        {
            let _ = self.send(&ack, to).await;
        }
    }

    async fn handle_request(self: &Arc<Self>, request: Message, from: SocketAddr) {
        let key = transaction_key(&request);
        let repeated = lock(&self.answered)
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = repeated {
            let _ = self.send(&bytes, from).await;
            return;
        }
        let Start::Request { method, .. } = &request.start else {
            return;
        };
        let dialog = request.header("Call-ID").and_then(|id| self.dialog(id));
        match (dialog, method.as_str()) {
            (Some(dialog), _) if request.tag("To").is_some() => {
                dialog.handle_request(self, &request, from).await;
            }
            (_, "ACK") => {}
            (_, "OPTIONS") => {
                self.respond(&request, from, 200, "OK", |_| {}).await;
            }
            (_, "INVITE") => {
                self.respond(&request, from, 480, "Temporarily Unavailable", |_| {})
                    .await;
            }
            _ => {
                self.respond(&request, from, 481, "Call Does Not Exist", |_| {})
                    .await;
            }
        }
    }

    fn dialog(&self, call_id: &str) -> Option<Arc<Dialog>> {
        lock(&self.dialogs).get(call_id).cloned()
    }

    /// Answers a request and remembers the answer for its retransmissions.
    /// Returns the datagram sent.
    pub async fn respond(
        &self,
        request: &Message,
        from: SocketAddr,
        status: u16,
        reason: &str,
        fill: impl FnOnce(&mut Message),
    ) -> Vec<u8> {
        let mut response = Message::response(request, status, reason);
        if response.tag("To").is_none() {
            let to = response.header("To").unwrap_or_default().to_owned();
            response.set("To", format!("{to};tag={}", token()));
        }
        if let Some((_, via)) = response.headers.first_mut() {
            *via = via.replacen(
                ";rport",
                &format!(";received={};rport={}", from.ip(), from.port()),
                1,
            );
        }
        response.push("Allow", super::dialog::ALLOW);
        response.push("Supported", "timer");
        fill(&mut response);
        let bytes = response.to_bytes();
        {
            let mut answered = lock(&self.answered);
            if answered.len() == ANSWERED_KEPT {
                answered.pop_front();
            }
            answered.push_back((transaction_key(request), bytes.clone()));
        }
        let _ = self.send(&bytes, from).await;
        bytes
    }
}

/// Branch and CSeq method name a transaction (RFC 3261 section 17.1.3).
fn transaction_key(message: &Message) -> String {
    let method = match (&message.start, message.cseq()) {
        (Start::Request { method, .. }, _) => method,
        (_, Some((_, method))) => method,
        _ => "",
    };
    format!("{} {method}", message.branch().unwrap_or_default())
}
