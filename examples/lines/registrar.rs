//! A small registrar on one UDP socket (RFC 3261 section 10.3) that takes
//! notes: when each REGISTER came, which Contacts each line has, until when,
//! and what was done against the rules. With a password it asks for digest
//! first (401), and a line must then answer rightly. It keeps the last Contact
//! of a line, or all of them.
//!
//! Leaves out: several Contacts in one REGISTER, Path, everything but REGISTER.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sip_uac::digest::{self, Credentials};
use crate::sip_uac::message::{Message, parameter, uri_of};

const REALM: &str = "lines";
const DATAGRAM_MAX_BYTES: usize = 8_192;
/// Faults that are told in full.
const FAULTS_MAX: usize = 20;

/// How many Contacts of a line it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// The last one.
    One,
    /// All, until they expire or are removed.
    All,
}

/// A line's place in the registrar.
pub struct Binding {
    /// URI of its Contact.
    pub contact: String,
    until: Instant,
}

/// What was seen so far.
#[derive(Default)]
pub struct Notes {
    /// Arrivals of REGISTERs that asked for a binding, answers to 401 included.
    pub arrivals: Vec<Instant>,
    /// By user part of To, the last one that was registered or refreshed last.
    pub bindings: HashMap<String, Vec<Binding>>,
    /// First registrations, refreshes, removals.
    pub registered: u64,
    pub refreshed: u64,
    pub removed: u64,
    /// 401s sent.
    pub challenged: u64,
    /// The same REGISTER again: an answer came too late for its sender.
    pub repeated: u64,
    /// Refreshes after the expiry.
    pub late: u64,
    /// What was done against the rules.
    pub faults: Vec<String>,
    /// Call-ID and CSeq of each line's last REGISTER.
    last: HashMap<String, (String, u32)>,
}

impl Notes {
    /// The Contacts of a line that have not expired, the last one that was registered or refreshed last.
    pub fn contacts(&self, user: &str) -> impl Iterator<Item = &str> {
        let now = Instant::now();
        let bindings = self.bindings.get(user).into_iter().flatten();
        let live = bindings.filter(move |binding| binding.until > now);
        live.map(|binding| binding.contact.as_str())
    }

    /// Most REGISTERs within any one second.
    pub fn peak_per_s(&self) -> usize {
        let within = |(index, first): (usize, &Instant)| {
            let end = *first + Duration::from_secs(1);
            self.arrivals[index..].partition_point(|at| *at < end)
        };
        let counts = self.arrivals.iter().enumerate().map(within);
        counts.max().unwrap_or(0)
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        }
    }
}

/// A running registrar; its thread ends with the process.
pub struct Registrar {
    /// Where it listens.
    pub address: SocketAddr,
    notes: Arc<Mutex<Notes>>,
}

impl Registrar {
    /// Listens on a port that the system chooses.
    ///
    /// # Errors
    /// When there is no socket or thread.
    pub fn start(password: Option<String>, keeps: Keeps) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        let notes = Arc::new(Mutex::new(Notes::default()));
        let thread = RegistrarThread {
            socket,
            password,
            keeps,
            notes: Arc::clone(&notes),
        };
        std::thread::Builder::new()
            .name("registrar".into())
            .spawn(move || thread.serve())?;
        Ok(Self { address, notes })
    }

    /// What was seen so far.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

struct RegistrarThread {
    socket: UdpSocket,
    password: Option<String>,
    keeps: Keeps,
    notes: Arc<Mutex<Notes>>,
}

impl RegistrarThread {
    fn serve(self) {
        let mut buffer = [0; DATAGRAM_MAX_BYTES];
        while let Ok((size, from)) = self.socket.recv_from(&mut buffer) {
            let arrived = Instant::now();
            let mut notes = lock(&self.notes);
            let answer = match Message::parse(&buffer[..size]) {
                Ok(request) if matches!(request.cseq(), Some((_, "REGISTER"))) => {
                    self.judge(&mut notes, &request, arrived)
                }
                // Keep-alives and answers.
                _ => continue,
            };
            drop(notes);
            if let Some(answer) = answer {
                // A lost datagram is sent again by the other side.
                let _ = self.socket.send_to(&answer.to_bytes(), from);
            }
        }
    }

    /// The answer to a REGISTER; none to one that cannot be read.
    fn judge(&self, notes: &mut Notes, request: &Message, arrived: Instant) -> Option<Message> {
        let user = user_of(uri_of(request.header("To")?))?.to_owned();
        let contact = request.header("Contact").unwrap_or_default().to_owned();
        let expires_s: u64 = parameter(&contact, "expires")
            .or_else(|| request.header("Expires"))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(3_600);
        if expires_s > 0 {
            notes.arrivals.push(arrived);
        }
        let this = (request.header("Call-ID")?.to_owned(), request.cseq()?.0);
        if notes.last.insert(user.clone(), this.clone()) == Some(this) {
            notes.repeated += 1;
        }
        if let Some(password) = &self.password
            && !is_authorised(notes, request, &user, password)
        {
            notes.challenged += 1;
            let mut challenge = Message::response(request, 401, "Unauthorized");
            let nonce = format!("{:032x}", rand::random::<u128>());
            challenge.push(
                "WWW-Authenticate",
                format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", qop=\"auth\", algorithm=MD5"),
            );
            return Some(challenge);
        }
        let uri = uri_of(&contact).to_owned();
        self.bind(notes, &user, &uri, expires_s, arrived);
        let mut answer = Message::response(request, 200, "OK");
        for binding in notes.bindings.get(&user).into_iter().flatten() {
            let left_s = (binding.until - arrived).as_secs();
            answer.push("Contact", format!("<{}>;expires={left_s}", binding.contact));
        }
        answer.push("Expires", expires_s.to_string());
        Some(answer)
    }

    fn bind(&self, notes: &mut Notes, user: &str, uri: &str, expires_s: u64, now: Instant) {
        let mut bindings = notes.bindings.remove(user).unwrap_or_default();
        if expires_s == 0 {
            notes.removed += 1;
            bindings.retain(|binding| binding.until > now && binding.contact != uri);
        } else {
            self.note(notes, user, &bindings, uri, now);
            let is_kept = |binding: &Binding| binding.until > now && binding.contact != uri;
            bindings.retain(|binding| self.keeps == Keeps::All && is_kept(binding));
            bindings.push(Binding {
                contact: uri.to_owned(),
                until: now + Duration::from_secs(expires_s),
            });
        }
        if !bindings.is_empty() {
            notes.bindings.insert(user.to_owned(), bindings);
        }
    }

    /// Whether a REGISTER is the first of a line or refreshes it, and in time.
    fn note(&self, notes: &mut Notes, user: &str, before: &[Binding], uri: &str, now: Instant) {
        let Some(last) = before.last() else {
            notes.registered += 1;
            return;
        };
        notes.refreshed += 1;
        notes.late += u64::from(last.until < now);
        if self.keeps == Keeps::One && last.contact != uri {
            notes.fault(format!("{user} changed its Contact"));
        }
    }
}

/// Whether a REGISTER carries the right answer to a challenge of ours.
fn is_authorised(notes: &mut Notes, request: &Message, user: &str, password: &str) -> bool {
    let Some(given) = request.header("Authorization") else {
        return false;
    };
    let credentials = Credentials {
        username: user.to_owned(),
        password: password.to_owned(),
    };
    let field = |name: &str| digest_field(given, name).unwrap_or_default();
    let challenge = format!(
        "Digest realm=\"{REALM}\", nonce=\"{}\", qop=\"auth\"",
        field("nonce")
    );
    // A refresh counts nc up where it uses its nonce again; the answer is
    // computed for nc=1, so it is challenged anew.
    if field("nc") != "00000001" {
        return false;
    }
    let right = digest::answer(
        &challenge,
        &credentials,
        "REGISTER",
        field("uri"),
        field("cnonce"),
    );
    let is_right = right
        .is_some_and(|right| digest_field(&right, "response") == digest_field(given, "response"));
    if !is_right {
        notes.fault(format!("{user} answered the challenge wrongly"));
    }
    is_right
}

/// A field of a Digest header; none of those asked for holds a comma.
fn digest_field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let list = header.trim().strip_prefix("Digest ")?;
    list.split(',').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

fn user_of(uri: &str) -> Option<&str> {
    Some(uri.strip_prefix("sip:")?.split_once('@')?.0)
}
