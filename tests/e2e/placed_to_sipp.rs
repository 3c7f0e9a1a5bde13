//! Calls placed through the call API to SIPp, a foreign phone: it answers and
//! is transferred, is busy, declines, or lets it ring. SIPp's exit code judges
//! what it got; the API tells what became of the call.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::Setup;
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::{Process, free_port, free_udp_range};
use crate::harness::{Api, Bridge, Redis, Worker, sound, until};

const CALLS: &str = "/api/calls";
/// Where the transfer goes to; the scenario of the transfer looks for it.
const DESTINATION: &str = "+33155667788";
/// How long a step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);

/// What every response of the phone carries, from the request it answers.
const ANSWERED: &str = "[last_Via:]\n[last_From:]\n[last_To:];tag=sipp[call_number]\n\
    [last_Call-ID:]\n[last_CSeq:]\nContact: <sip:phone@[local_ip]:[local_port]>\n";

/// As [`ANSWERED`], for a request whose To has the phone's tag.
const WITHIN: &str = "[last_Via:]\n[last_From:]\n[last_To:]\n[last_Call-ID:]\n[last_CSeq:]\n";

/// One codec: for two pjsip sends another INVITE, to settle on one.
const SDP: &str = "v=0\no=phone 1 1 IN IP4 [local_ip]\ns=-\nc=IN IP4 [media_ip]\nt=0 0\n\
    m=audio [media_port] RTP/AVP 0 101\na=rtpmap:0 PCMU/8000\n\
    a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\n";

/// Waits for a request; `actions` look into it.
fn expects(request: &str, actions: &str) -> String {
    format!("<recv request=\"{request}\"><action>{actions}</action></recv>\n")
}

/// Keeps what `pattern` finds in a header; without it the scenario fails.
fn keeps(header: &str, pattern: &str, variable: &str) -> String {
    format!(
        "<ereg regexp=\"{pattern}\" search_in=\"hdr\" header=\"{header}:\" \
         check_it=\"true\" assign_to=\"{variable}\"/>"
    )
}

/// Sends a message; with a request or a final response to an INVITE, again
/// until the answer comes.
fn sends(again: bool, head: &str, body: &str) -> String {
    let again = if again { " retrans=\"500\"" } else { "" };
    format!("<send{again}><![CDATA[\n{head}Content-Length: [len]\n\n{body}]]></send>\n")
}

/// The INVITE, and that it rings.
fn rings() -> String {
    // The CSeq is kept for a response that comes after another request.
    let invite = expects("INVITE", &keeps("CSeq", "[0-9]+", "invite"));
    invite + &sends(false, &format!("SIP/2.0 180 Ringing\n{ANSWERED}"), "")
}

/// A phone that does not take the call.
fn refuses(status: &str) -> String {
    let refusal = sends(true, &format!("SIP/2.0 {status}\n{ANSWERED}"), "");
    rings() + &refusal + &expects("ACK", "")
}

/// A phone that rings until the caller gives up.
fn rings_until_cancelled() -> String {
    let cancelled = sends(false, &format!("SIP/2.0 200 OK\n{ANSWERED}"), "");
    let ended = ANSWERED.replace("[last_CSeq:]", "CSeq: [$invite] INVITE");
    let ended = sends(
        true,
        &format!("SIP/2.0 487 Request Terminated\n{ended}"),
        "",
    );
    rings() + &expects("CANCEL", "") + &cancelled + &ended + &expects("ACK", "")
}

/// A phone that answers, does as REFER says, and tells so.
fn answers_and_is_transferred() -> String {
    let answer = format!("SIP/2.0 200 OK\n{ANSWERED}Content-Type: application/sdp\n");
    let refer = [
        keeps("Refer-To", &DESTINATION.replace('+', "[+]"), "destination"),
        keeps("From", ".*sip:.*", "bridge"),
        keeps("To", ".*sip:.*", "phone"),
        keeps("Contact", "sip:[^>]*", "target"),
    ];
    [
        rings(),
        sends(true, &answer, SDP),
        expects("ACK", ""),
        expects("REFER", &refer.concat()),
        sends(false, &format!("SIP/2.0 202 Accepted\n{WITHIN}"), ""),
        notifies(1, "active;expires=60", "SIP/2.0 100 Trying"),
        notifies(2, "terminated;reason=noresource", "SIP/2.0 200 OK"),
        expects("BYE", ""),
        sends(false, &format!("SIP/2.0 200 OK\n{WITHIN}"), ""),
    ]
    .concat()
}

/// Tells how far the transfer has come, and waits for the 200.
fn notifies(cseq: u32, state: &str, fragment: &str) -> String {
    let head = format!(
        "NOTIFY [$target] SIP/2.0\n\
         Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]\n\
         From: [$phone]\nTo: [$bridge]\nCall-ID: [call_id]\nCSeq: {cseq} NOTIFY\n\
         Max-Forwards: 70\nContact: <sip:phone@[local_ip]:[local_port]>\n\
         Event: refer\nSubscription-State: {state}\n\
         Content-Type: message/sipfrag;version=2.0\n"
    );
    sends(true, &head, &format!("{fragment}\n")) + "<recv response=\"200\"/>\n"
}

/// SIPp as the phone of one call.
struct Phone {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Phone {
    /// Starts it with these steps, and waits until it listens.
    async fn start(steps: &str) -> Self {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        // SIPp refuses a variable that nothing reads.
        let mut set = vec!["invite", "destination"];
        set.retain(|name| steps.contains(&format!("assign_to=\"{name}\"")));
        let scenario = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<scenario name=\"phone\">\n{steps}\
             <Reference variables=\"{}\"/>\n</scenario>\n",
            set.join(",")
        );
        std::fs::write(dir.path().join("phone.xml"), scenario).unwrap();
        let mut command = Command::new("sipp");
        command
            .args(["-sf", "phone.xml", "-m", "1", "-i", "127.0.0.1"])
            .args(["-nostdin", "-rtp_echo", "-p", &port.to_string()])
            .args(["-mp", &free_udp_range(6).to_string()])
            .args(["-timeout", "50s", "-timeout_error"])
            .args(["-recv_timeout", "15000", "-trace_err", "-trace_msg"])
            .args(["-error_file", "errors.log", "-message_file", "messages.log"])
            .current_dir(dir.path())
            .env("TERM", "dumb");
        let process = Process::start("sipp", command, &dir.path().join("screen.log"));
        let mut phone = Self { process, port, dir };
        until(LIMIT, "SIPp listens", async || phone.listens()).await;
        phone
    }

    /// Whether its port is bound: looked up, for to try it is to take it.
    fn listens(&mut self) -> bool {
        let runs = self.process.is_running();
        assert!(runs, "SIPp ended at once:\n{}", self.log("screen.log"));
        let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
        sockets.contains(&format!(" 0100007F:{:04X} ", self.port))
    }

    /// Waits for its end; panics with what it saw unless every step passed.
    async fn passes(&mut self) {
        let mut status: Option<ExitStatus> = None;
        until(LIMIT, "SIPp ends", async || {
            status = self.process.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let logs = ["errors.log", "messages.log"].map(|name| self.log(name));
        let status = status.unwrap();
        assert!(status.success(), "SIPp: {status}\n{}", logs.join("\n"));
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A bridge with a queue and a database, whose line calls SIPp.
struct Stage {
    phone: Phone,
    redis: Redis,
    bridge: Bridge,
    api: Api,
    _data: TempDir,
}

impl Stage {
    async fn new(steps: &str) -> Self {
        let (redis, data) = (Redis::start(), TempDir::new().unwrap());
        let phone = Phone::start(steps).await;
        let folder = data.path().display().to_string();
        let domain = format!("127.0.0.1:{}", phone.port);
        let setup = Setup::queue(&redis)
            .args(&["--data-dir", &folder])
            .line_field("sipDomain", json!(domain));
        let bridge = setup.start().await;
        let api = Api::of(&bridge);
        Self {
            phone,
            redis,
            bridge,
            api,
            _data: data,
        }
    }

    /// Places a call; the answer is its path.
    async fn place(&self, timeout_sec: u32) -> String {
        let body = json!({"to": CALLER_NUMBER, "timeoutSec": timeout_sec});
        let call = self.api.post(CALLS, &body).await.expect(201);
        format!("{CALLS}/{}", call["sid"].as_str().unwrap())
    }

    /// Waits for a status of a call; the answer is the call.
    async fn reaches(&self, path: &str, status: &str) -> Value {
        until(LIMIT, status, async || {
            self.api.get(path).await.expect(200)["status"] == status
        })
        .await;
        self.api.get(path).await.expect(200)
    }

    /// SIPp saw every step, and nothing is left.
    async fn ends(mut self) {
        self.phone.passes().await;
        until(LIMIT, "no call is left", async || {
            self.bridge.health().await.json()["calls"]["active"] == 0
        })
        .await;
        self.bridge.shut_down().await;
    }
}

/// Places a call that SIPp refuses so; its status then, and the SIP status.
async fn is_refused(refusal: &str, status: &str, sip_status: u16) {
    let stage = Stage::new(&refuses(refusal)).await;
    let path = stage.place(30).await;
    let call = stage.reaches(&path, status).await;
    assert_eq!(call["sipStatus"], sip_status);
    assert_eq!(call["answeredAt"], Value::Null);
    stage.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_sipp_answers_has_a_worker_and_is_transferred() {
    let stage = Stage::new(&answers_and_is_transferred()).await;
    let path = stage.place(30).await;
    let mut worker = Worker::serve(&stage.redis).await;
    let call = stage.reaches(&path, "active").await;
    assert_eq!(call["sid"], worker.start()["start"]["callSid"]);
    assert!(call["answeredAt"].is_string());
    // SIPp sends back what it hears.
    let speech = sound::numbered(0, 50).concat();
    worker.media(&speech);
    worker.hears(&speech, LIMIT).await;
    let transfer = json!({"destination": DESTINATION});
    let asked = stage.api.post(&format!("{path}/transfer"), &transfer).await;
    asked.expect(200);
    let call = stage.reaches(&path, "transferred").await;
    assert_eq!(call["outcome"], "transferred");
    stage.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_sipp_makes_the_call_busy() {
    is_refused("486 Busy Here", "busy", 486).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sipp_that_declines_makes_the_call_busy_and_its_answer_is_told() {
    is_refused("603 Decline", "busy", 603).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sipp_that_only_rings_is_cancelled_in_time() {
    let stage = Stage::new(&rings_until_cancelled()).await;
    let path = stage.place(2).await;
    let call = stage.reaches(&path, "no-answer").await;
    assert_eq!(call["outcome"], "no-answer");
    assert_eq!(call["answeredAt"], Value::Null);
    stage.ends().await;
}
