//! The contract of a SIP engine: commands in, events out, media links.
//!
//! Commands go through a bounded queue to one control thread and never block
//! the caller. Events that concern the whole engine come on one bounded
//! channel; events and RTP of one leg come on channels of that leg, which its
//! driver owns. When a leg is over, both of its channels close.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::identity::Caller;
use super::rtp_channel::RtpReceiver;
use super::source::Latch;
use crate::core::access::contact_key::ContactKey;
use crate::core::access::{Accept, Cidr, REASONS};
pub use crate::core::address::Transport;
use crate::core::ids::{LegId, LineId};
use crate::core::media_link::MediaLink;
use crate::core::private::{Private, Secret};
use crate::core::register_gate::RegisterGate;
use crate::core::sip_header::SipHeader;
use crate::dns::Servers;

/// How many RTP packets wait for a leg's driver before the newest is dropped
/// and counted: 2.5 s of audio, enough for a stalled process to catch up.
pub const RTP_QUEUE_PACKETS: usize = 128;
/// How many events wait for a leg's driver; a driver that leaves more unread
/// is stuck and its leg is ended.
pub const LEG_QUEUE_EVENTS: usize = 64;
/// How many engine-wide events wait; an INVITE that finds it full gets 503.
pub const ENGINE_QUEUE_EVENTS: usize = 4_096;
/// How many commands wait for the control thread.
pub const COMMAND_QUEUE: usize = 8_192;

/// A phone line as the engine needs it.
#[derive(Clone, Debug)]
pub struct Account {
    /// The line.
    pub line: LineId,
    /// The domain of the line's address, `sip:username@domain`.
    pub domain: String,
    /// Registrar or outbound server, `host` or `host:port`; the domain when absent.
    pub server: Option<String>,
    /// Transport towards the server.
    pub transport: Transport,
    /// `host[:port]` and parameters that Contact announces instead of what the
    /// engine finds out: `sip.example.com:5070;transport=tcp`.
    pub contact: Option<String>,
    /// User part of the address of record, and user name for digest.
    pub username: String,
    /// Digest password; `None` when the trunk needs none.
    pub password: Option<Secret>,
    /// Other user parts that name this line in a request URI or To: its phone number.
    pub aliases: Vec<String>,
    /// Further forms of its phone number (E.164, national, `00`); they count where
    /// no line has such a user part as its own.
    pub number_forms: Vec<String>,
    /// Whether the line registers at all (`--no-register` turns it off).
    pub register: bool,
    /// Expiry asked for in REGISTER.
    pub expires: Duration,
    /// Networks from which its server calls, beside the server's own addresses.
    pub allow_from: Vec<Cidr>,
}

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Local address of SIP and RTP sockets.
    pub bind: IpAddr,
    /// Where names of SIP servers are looked up.
    pub servers: Servers,
    /// Local SIP port per transport to open; 0 lets the system choose.
    pub listen: Vec<(Transport, u16)>,
    /// Address that Contact and SDP announce instead of the local one.
    pub public_address: Option<IpAddr>,
    /// First and last RTP port, both included.
    pub rtp_ports: (u16, u16),
    /// Whose RTP a call may latch beside the address of its SDP.
    pub rtp_latch: Latch,
    /// STUN server `host:port`.
    pub stun_server: Option<String>,
    /// TURN server `host:port`, user and password.
    pub turn_server: Option<(String, String, Secret)>,
    /// Whether ICE is offered and answered.
    pub ice: bool,
    /// Most calls at once, up to 1,024.
    pub max_calls: u32,
    /// PEM files of our TLS certificate and key, for the TLS listener.
    pub tls_identity: Option<(String, String)>,
    /// PEM file of trusted roots, for TLS towards servers.
    pub tls_ca_file: Option<String>,
    /// Whether servers are not verified at all.
    pub tls_insecure: bool,
    /// `User-Agent` and `Server` header.
    pub user_agent: String,
    /// Who may call.
    pub access: Access,
    /// Until when REGISTERs may be sent.
    pub register_gate: RegisterGate,
}

/// Who may call an engine.
#[derive(Clone, Debug)]
pub struct Access {
    /// Whether unknown sources are heard.
    pub accept: Accept,
    /// Known networks, beside those of the lines.
    pub allow_from: Vec<Cidr>,
    /// Of the tokens in the lines' Contacts.
    pub contact_key: ContactKey,
    /// Most new calls a second; 0 for any number. One of several known sources
    /// gets half.
    pub calls_per_second: u32,
}

/// Asked of the engine. None of them waits for the network.
#[derive(Debug)]
pub enum Command {
    /// Adds a line; it does not register before `Register`.
    AddLine(Box<Account>),
    /// Unregisters and removes a line. Its calls run on.
    RemoveLine(LineId),
    /// Sends REGISTER now. Refreshes are the engine's business, a failure is not retried by it.
    Register(LineId),
    /// Sends REGISTER with expiry 0.
    Unregister(LineId),
    /// Refreshes the line's registration no more, without a word to the registrar:
    /// another bridge is registered for the line, and an un-REGISTER would take its
    /// Contact away where a registrar keeps one. A REGISTER that is under way is waited
    /// for. The line stays and takes calls, and may register again. Answered by
    /// [`Registration::Unregistered`].
    Forget(LineId),
    /// Sends 180, 183 or 200 to the INVITE.
    Answer { leg: LegId, status: u16 },
    /// Refuses the INVITE with a final status, and Retry-After where given.
    Reject {
        leg: LegId,
        status: u16,
        retry_after: Option<Duration>,
    },
    /// Ends the leg: BYE when it is established, else `status` (487, 480, 603 …),
    /// or CANCEL where we are the caller.
    Hangup { leg: LegId, status: u16 },
    /// Answered when every command before it has been carried out.
    Flush(oneshot::Sender<()>),
    /// Blind transfer by REFER. The destination is a number or a SIP URI.
    Transfer { leg: LegId, destination: Private },
    /// Asks the other side by a re-INVITE to send nothing, or to send again.
    /// Answered by [`LegEvent::Held`], and [`LegEvent::Media`] where it is taken.
    Hold { leg: LegId, on: bool },
    /// Places a call.
    Call(Box<OutgoingCall>),
}

/// A call from a line to somebody else, through the line's account.
#[derive(Debug)]
pub struct OutgoingCall {
    /// Whose account, server and credentials are used.
    pub line: LineId,
    /// A number or a SIP URI.
    pub destination: Private,
    /// The number in From, where that is not the line's: digits, behind a plus or not.
    pub shown: Option<Private>,
    /// What its INVITE carries beside SIP's own headers: at most
    /// [`SIP_HEADERS_MAX`](crate::core::sip_header::SIP_HEADERS_MAX). Where one of them may not be sent, no call is placed.
    pub headers: Vec<SipHeader>,
    /// Answered when the INVITE has been handed to the stack, or why not. A
    /// leg whose receiver is gone is ended at once.
    pub reply: oneshot::Sender<Result<OutgoingLeg, CallRefused>>,
}

/// The leg of an outgoing call. Its media transport exists; nothing is
/// answered yet. Events: `Progress`, `Media` and `Established`, `Ended` with
/// the callee's final status where it refuses.
#[derive(Debug)]
pub struct OutgoingLeg {
    /// The leg, for commands.
    pub leg: LegId,
    /// SIP Call-ID, for the logs.
    pub sip_call_id: String,
    /// Events of this leg.
    pub events: mpsc::Receiver<LegEvent>,
    /// RTP of this leg, as it comes in.
    pub rtp: RtpReceiver,
}

/// Why an outgoing call was not placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallRefused {
    /// The engine has no such line.
    #[error("the line is not known to the SIP engine")]
    UnknownLine,
    /// No leg, port or descriptor is left.
    #[error("no room for one more call leg")]
    Full,
    /// The stack refused, for example because the destination is no URI.
    #[error("the call cannot be placed: {0}")]
    Failed(String),
}

/// An INVITE of a known line, admitted, and its media transport created. The
/// engine has sent 100 Trying and nothing else.
#[derive(Debug)]
pub struct IncomingCall {
    /// The leg, for commands.
    pub leg: LegId,
    /// The line it belongs to.
    pub line: LineId,
    /// SIP Call-ID, for the logs.
    pub sip_call_id: String,
    /// Who calls: the user part of From, or what the line's own server asserts.
    pub caller: Caller,
    /// User part of To.
    pub to: Private,
    /// Headers of the INVITE that may be handed on ([`super::header_names`]),
    /// lower-case names, bounded in count and size, without control characters.
    pub headers: BTreeMap<String, String>,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Events of this leg.
    pub events: mpsc::Receiver<LegEvent>,
    /// RTP of this leg, as it comes in.
    pub rtp: RtpReceiver,
}

/// What happened to one leg.
#[derive(Clone, Debug)]
pub enum LegEvent {
    /// A provisional response of the callee (180, 183); outgoing legs only.
    Progress(u16),
    /// The 200 was acknowledged: the dialog stands.
    Established,
    /// Media is up, or an offer/answer exchange changed it (hold, resume, new
    /// address, new codec). The stream goes on.
    Media(MediaLink),
    /// A DTMF digit by SIP INFO.
    Digit(char),
    /// Progress of a transfer: the status of its NOTIFY, or of the answer to
    /// REFER where that is a refusal or a timeout. Each transfer has one `last`,
    /// while the leg lives and the other side says anything at all: 500 where
    /// it ends the subscription without an outcome.
    Transfer { status: u16, last: bool },
    /// The answer to [`Command::Hold`]: 2xx, or the status for which all is as
    /// it was; 408 where there was none.
    Held { status: u16 },
    /// The leg is over. The last event.
    Ended(LegEnd),
}

/// Who ended a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The other side: BYE, CANCEL, or as callee its refusal of our INVITE.
    Remote,
    /// A command of ours.
    Local,
    /// A failure: timeout, transport error, media error, panic in a callback.
    Failure,
}

/// How a leg ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegEnd {
    /// Who ended it.
    pub by: EndedBy,
    /// The SIP status that stands for it (200 for BYE, 487 for CANCEL, the
    /// callee's own for a refusal, 408 when it never answered).
    pub status: u16,
    /// Reason text, for the logs.
    pub reason: String,
}

/// State of a line's registration, as the last REGISTER left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// 200 OK; valid for so long, refreshed before.
    Registered {
        expires: Duration,
        /// Whether the 200 lists a Contact of this line that another bridge made: one
        /// with the line's token, but another host or port than ours.
        siblings_listed: bool,
    },
    /// Refused or unanswered. 408 and 503 stand for no answer and no transport.
    Failed {
        status: u16,
        text: String,
        /// Retry-After, where the answer had one.
        retry_after: Option<Duration>,
    },
    /// REGISTER with expiry 0 was answered, or timed out; or the registration is
    /// forgotten.
    Unregistered,
}

/// What happened to the engine as a whole.
#[derive(Debug)]
pub enum EngineEvent {
    /// A call came in.
    Incoming(Box<IncomingCall>),
    /// A line's registration changed.
    Registration { line: LineId, state: Registration },
    /// A line could not be added. The engine tries again by itself.
    LineRefused {
        line: LineId,
        reason: String,
        /// Until the next try.
        retry_in: Duration,
    },
    /// A line that was refused is added after all, and may register.
    LineAdded { line: LineId },
}

/// Why an INVITE is refused before it becomes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 486, 503 …
    pub status: u16,
    /// Sent as Retry-After.
    pub retry_after: Option<Duration>,
}

/// Asked by the engine, in a callback, whether a line may take one more call.
/// Must not block.
pub trait Admission: Send + Sync {
    /// Admits or refuses one INVITE for this line.
    ///
    /// # Errors
    /// The refusal to send.
    fn admit(&self, line: &LineId) -> Result<(), Refusal>;
}

/// A command that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The command queue is full: the control thread is stuck or overrun.
    #[error("SIP command queue is full")]
    Full,
    /// The engine is shut down.
    #[error("SIP engine is shut down")]
    Closed,
}

/// Counters of an engine, each only rising, but for `legs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Legs alive now.
    pub legs: u64,
    /// INVITEs refused with 404 because no line matched.
    pub unknown_line: u64,
    /// INVITEs refused by `Admission`, or for want of room: a full queue, no
    /// leg, RTP port, file descriptor or memory left.
    pub refused: u64,
    /// RTP packets dropped because the driver's queue was full.
    pub rtp_overflow: u64,
    /// RTP packets dropped because they came from another source.
    pub rtp_foreign: u64,
    /// RTP packets dropped because their source sent more than 200 a second.
    pub rtp_thinned: u64,
    /// Challenges (401, 407) that were not answered, since they were not the
    /// line's own server's.
    pub challenges_refused: u64,
    /// How often a line could not be added.
    pub lines_refused: u64,
    /// Hang-ups that the stack refused at first.
    pub hangups_refused: u64,
    /// Calls whose hang-up is still refused; tried again twice a second.
    pub hangups_pending: u64,
    /// Panics caught in callbacks.
    pub panics: u64,
    /// Bodies of SIP messages that were refused or ignored, by reason.
    pub bodies_refused: Vec<(&'static str, u64)>,
    /// What strangers sent and was dropped, and calls refused for their source,
    /// by reason, in the order of [`REASONS`].
    pub strangers: [u64; REASONS.len()],
}

/// A SIP engine.
pub trait SipEngine: Send + Sync {
    /// Puts a command into the queue of the control thread.
    ///
    /// # Errors
    /// When the queue is full or the engine is shut down.
    fn submit(&self, command: Command) -> Result<(), SubmitError>;

    /// The counters.
    fn stats(&self) -> EngineStats;

    /// The local port of a listener, once started.
    fn local_port(&self, transport: Transport) -> Option<u16>;

    /// Must be called once by each thread that calls `RtpSink::send`.
    fn register_thread(&self, name: &str);

    /// Hangs up what is left, unregisters, destroys the stack and joins its
    /// threads. Blocks; may hang, which is what the watchdog is for.
    fn shutdown(&self);
}

/// A shared engine.
pub type SharedEngine = Arc<dyn SipEngine>;
