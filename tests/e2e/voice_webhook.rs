//! Lines whose way to their workers is a voice webhook, from the real program: a bot that answers TwiML by
//! HTTP, its stream on the same port, digits, and what the caller gets where the bot is down.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use url::form_urlencoded;

use crate::harness::api::Answer;
use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::receiver::{Receiver, Reply, Request, python_signature};
use crate::harness::sdp::Offer;
use crate::harness::{
    Api, Bridge, Callee, Caller, Redis, SOON, Worker, http, sound, until, within,
};

pub const TOKEN: &str = "auth-t0ken-of-the-tests";
pub const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";

/// A bot: HTTP and WebSocket on one port, as frameworks serve them.
pub struct Bot {
    pub port: u16,
    pub http: Receiver,
    sockets: mpsc::UnboundedReceiver<TcpStream>,
    task: JoinHandle<()>,
}

impl Bot {
    pub async fn start() -> Self {
        let http = Receiver::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (upgrades, sockets) = mpsc::unbounded_channel();
        let behind = http.port;
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(route(stream, behind, upgrades.clone()));
            }
        });
        Self {
            port,
            http,
            sockets,
            task,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What a path answers: the inside of `<Response>`.
    pub fn answers(&self, path: &str, inner: &str) {
        let reply = Reply {
            body: format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response>{inner}</Response>"
            ),
            ..Reply::status(200).header("Content-Type: text/xml")
        };
        self.http.script(path, [reply]);
    }

    /// The worker's end of the next stream.
    pub async fn streamed(&mut self) -> Worker {
        let stream = within(SOON, "a stream", self.sockets.recv()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        Worker::greeted_over(socket).await
    }

    pub async fn bridge(&self) -> Bridge {
        self.setup().start().await
    }

    pub fn setup(&self) -> Setup {
        Setup::new()
            .args(&["--voice-url", &self.url("/voice?tenant=7")])
            .env("AUTH_TOKEN", TOKEN)
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An upgrade goes to the test, anything else to the receiver behind.
async fn route(mut stream: TcpStream, behind: u16, upgrades: mpsc::UnboundedSender<TcpStream>) {
    let mut head = [0; 2_048];
    loop {
        let count = stream.peek(&mut head).await.unwrap();
        let text = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
        if text.contains("\r\n\r\n") || count == 0 || count == head.len() {
            if text.contains("upgrade: websocket") {
                let _ = upgrades.send(stream);
                return;
            }
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut receiver = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut receiver).await;
}

pub fn form(request: &Request) -> HashMap<String, String> {
    let pairs = form_urlencoded::parse(request.body.as_bytes());
    pairs.into_owned().collect()
}

/// A form is signed over its exact URL and its sorted fields.
pub fn assert_form_signed(request: &Request, url: &str) {
    let mut fields: Vec<_> = form(request).into_iter().collect();
    fields.sort();
    let fields = fields.iter().map(|(name, value)| format!("{name}{value}"));
    let text = format!("{url}{}", fields.collect::<String>());
    assert_eq!(
        request.header("x-twilio-signature"),
        Some(python_signature(TOKEN, &text).as_str())
    );
}

/// The record of the call that the bridge shows last, once it is over.
pub async fn ended(bridge: &Bridge) -> Value {
    until(SOON, "the call is over", async || {
        !last_call(bridge).await["endedAt"].is_null()
    })
    .await;
    last_call(bridge).await
}

pub async fn last_call(bridge: &Bridge) -> Value {
    let listed = Api::of(bridge).get("/api/calls").await.expect(200);
    listed[0].clone()
}

pub async fn metrics(bridge: &Bridge) -> String {
    http::get(bridge.api_port, "/metrics").await.unwrap().body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_answers_with_a_stream_gets_the_caller() {
    let mut bot = Bot::start().await;
    // As most bots write it: wss, and the host that they were asked by.
    let inner = format!(
        "<Connect><Stream url=\"wss://127.0.0.1:{}/media?a=1\" statusCallback=\"/stream\">\
         <Parameter name=\"order\" value=\"42\"/><Parameter name=\"to\" value=\"the shop\"/></Stream></Connect>",
        bot.port
    );
    bot.answers("/voice", &inner);
    let bridge = bot
        .setup()
        .args(&["--param", "order=1", "--param", "tone=kind"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    call.answered().await;
    let mut worker = bot.streamed().await;

    let asked = bot.http.receives("/voice", 1).await.remove(0);
    assert_form_signed(&asked, &bot.url("/voice?tenant=7"));
    let host = format!("127.0.0.1:{}", bot.port);
    assert_eq!(asked.header("host"), Some(host.as_str()));
    let fields = form(&asked);
    for (name, value) in [
        ("CallSid", worker.call_sid.as_str()),
        ("From", CALLER_NUMBER),
        ("Caller", CALLER_NUMBER),
        ("To", NUMBER),
        ("CallStatus", "ringing"),
        ("Direction", "inbound"),
        ("ApiVersion", "2010-04-01"),
    ] {
        assert_eq!(fields[name], value, "{name}");
    }
    let start = &worker.start()["start"];
    assert_eq!(start["accountSid"], fields["AccountSid"]);
    let parameters = &start["customParameters"];
    assert_eq!(
        (&parameters["order"], &parameters["to"], &parameters["tone"]),
        (&json!("42"), &json!("the shop"), &json!("kind"))
    );
    assert_eq!(parameters["phoneLineId"], LINE);

    // Both ways, until the worker closes: the document is over then.
    let mut player = call.player();
    let said = sound::numbered(0, 50);
    player.play(&said).await;
    worker.hears(&said[20..30].concat(), SOON).await;
    let answer = sound::numbered(500, 20);
    worker.media(&answer.concat());
    worker.close();
    call.rtp.hears(&answer[5..15].concat(), SOON).await;
    call.ended_by_bridge(SOON).await;
    let told = bot.http.receives("/stream", 2).await;
    let events: Vec<_> = told
        .iter()
        .map(|told| form(told)["StreamEvent"].clone())
        .collect();
    assert_eq!(events, ["stream-started", "stream-stopped"]);
    assert_eq!(form(&told[0])["StreamSid"], worker.stream_sid);
    assert_eq!(ended(&bridge).await["outcome"], "worker-hung-up");
    assert!(bridge.output().contains("is dialled without TLS"));
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_verb_follows_a_worker_that_closes_and_a_second_stream_is_another_one() {
    let mut bot = Bot::start().await;
    let stream = format!("<Stream url=\"ws://127.0.0.1:{}/media\"/>", bot.port);
    bot.answers(
        "/voice",
        &format!("<Connect action=\"/after\">{stream}</Connect>"),
    );
    bot.answers(
        "/after",
        &format!("<Pause length=\"1\"/><Connect>{stream}</Connect>"),
    );
    let bridge = bot.bridge().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let first = bot.streamed().await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 25)).await;
    first.close();
    bot.http.receives("/after", 1).await;
    // To nobody.
    let unheard = sound::numbered(300, 25);
    player.play(&unheard).await;
    let mut second = bot.streamed().await;
    assert_ne!(first.stream_sid, second.stream_sid);
    assert_eq!(first.call_sid, second.call_sid);
    let heard = sound::numbered(600, 50);
    player.play(&heard).await;
    second.hears(&heard[20..30].concat(), SOON).await;
    let before = sound::position(&second.audio(), &unheard[5]);
    assert_eq!(
        before, None,
        "what was said between the streams is for nobody"
    );
    call.bye().await;
    second.listen_to_end().await;
    assert_eq!(ended(&bridge).await["outcome"], "caller-hung-up");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_rejected_is_refused_unanswered() {
    let bot = Bot::start().await;
    let bridge = bot.bridge().await;
    for (inner, status) in [("<Reject reason=\"busy\"/>", 486), ("<Reject/>", 603)] {
        bot.answers("/voice", inner);
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        call.provisional(180).await;
        assert_eq!(call.final_response().await.status(), Some(status));
        assert_eq!(ended(&bridge).await["outcome"], "refused");
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_down_is_followed_by_the_fallback_url_and_that_by_the_ladder() {
    let bot = Bot::start().await;
    bot.http.script("/voice", [Reply::status(500)]);
    bot.answers("/fallback", "<Reject reason=\"busy\"/>");
    let bridge = bot
        .setup()
        .args(&["--voice-fallback-url", &bot.url("/fallback")])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    assert_eq!(call.final_response().await.status(), Some(486));
    let asked = bot.http.receives("/fallback", 1).await.remove(0);
    let fields = form(&asked);
    assert_eq!(fields["ErrorCode"], "11200");
    assert_eq!(fields["ErrorUrl"], bot.url("/voice?tenant=7"));

    // Neither answers TwiML: the announcement, then BYE.
    bot.http.script("/fallback", [Reply::status(200)]);
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    call.ended_by_bridge(Duration::from_secs(40)).await;
    let record = ended(&bridge).await;
    assert_eq!(record["outcome"], "no-worker");
    assert!(
        metrics(&bridge)
            .await
            .contains("sipbridge_fallbacks_total{rung=\"announcement\"} 1")
    );
    assert!(call.rtp.heard().len() > 50, "the announcement");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_go_to_the_action_of_gather() {
    let bot = Bot::start().await;
    let gather = "<Gather numDigits=\"3\" action=\"/chosen\" timeout=\"20\"/>";
    bot.answers("/voice", gather);
    bot.answers("/chosen", "<Hangup/>");
    let bridge = bot.bridge().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 10)).await;
    for digit in [4, 0, 11] {
        player.press(digit, 101).await;
        player.play(&sound::numbered(10, 10)).await;
    }
    // `#` ended it.
    let asked = bot.http.receives("/chosen", 1).await.remove(0);
    assert_form_signed(&asked, &bot.url("/chosen"));
    let fields = form(&asked);
    assert_eq!(
        (fields["Digits"].as_str(), fields["FinishedOnKey"].as_str()),
        ("40", "#")
    );
    assert_eq!(fields["CallStatus"], "in-progress");
    call.ended_by_bridge(SOON).await;
    bridge.shut_down().await;
}

/// A WAV file of half a second that is text too: the receiver writes no other bytes.
pub fn wav(pattern: &[u8]) -> String {
    let data: Vec<u8> = pattern.iter().copied().cycle().take(0x0f40).collect();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend(0x0f66_u32.to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(18_u32.to_le_bytes());
    // mu-law, one channel, 8,000 Hz and bytes a second.
    bytes.extend([7, 0, 1, 0]);
    bytes.extend(8_000_u32.to_le_bytes());
    bytes.extend(8_000_u32.to_le_bytes());
    bytes.extend([1, 0, 8, 0, 0, 0]);
    bytes.extend(b"data");
    bytes.extend(0x0f40_u32.to_le_bytes());
    bytes.extend(data);
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_digits_are_played_and_a_pause_is_kept() {
    let bot = Bot::start().await;
    let pattern = [0x1f, 0x1f, 0x1f, 0x2f, 0x2f, 0x0f, 0x0f, 0x0f];
    let reply = Reply {
        body: wav(&pattern),
        ..Reply::status(200).header("Content-Type: audio/x-wav")
    };
    bot.http.script("/tune.wav", [reply]);
    bot.answers(
        "/voice",
        "<Play loop=\"2\">/tune.wav</Play><Play>/missing.wav</Play><Play digits=\"1w2\"/><Pause length=\"1\"/><Hangup/>",
    );
    bot.http.script("/missing.wav", [Reply::status(404)]);
    let bridge = bot.bridge().await;
    let began = std::time::Instant::now();
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let ended_at = call.ended_by_bridge(SOON).await;
    let whole = pattern.repeat(0x0f40 / pattern.len());
    let audio = call.rtp.audio();
    assert!(sound::contains(&audio, &whole), "the file is heard");
    assert_eq!(bot.http.requests_for("/tune.wav").len(), 1, "fetched once");
    let digits: Vec<_> = call
        .rtp
        .heard()
        .iter()
        .filter(|packet| packet.payload_type == 101)
        .map(|packet| packet.payload[0])
        .collect();
    assert!(digits.contains(&1) && digits.contains(&2), "{digits:?}");
    // Twice half a second, the digits with half a second between, a second.
    let lasted = ended_at - began;
    assert!(lasted > Duration::from_millis(2_500), "{lasted:?}");
    assert!(
        metrics(&bridge)
            .await
            .contains("sipbridge_twiml_warnings_total 1")
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_left_out_and_the_call_goes_on() {
    let bot = Bot::start().await;
    bot.answers(
        "/voice",
        "<Record/><Say>Hello</Say><Redirect>/after</Redirect>",
    );
    bot.answers("/after", "<Pause length=\"1\"/>");
    let bridge = bot.bridge().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    bot.http.receives("/after", 1).await;
    call.ended_by_bridge(SOON).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_while_the_bot_thinks_leaves_nothing_behind() {
    let bot = Bot::start().await;
    let slow = Reply::status(200).after(Duration::from_secs(5));
    bot.http.script("/voice", [slow]);
    let bridge = bot.bridge().await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    bot.http.receives("/voice", 1).await;
    call.cancel().await;
    assert_eq!(ended(&bridge).await["outcome"], "abandoned");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_api_places_is_the_bots_once_it_is_answered() {
    let mut bot = Bot::start().await;
    let stream = format!("<Stream url=\"ws://127.0.0.1:{}/media\"/>", bot.port);
    bot.answers("/voice", &format!("<Connect>{stream}</Connect>"));
    let phone = Callee::open().await;
    let bridge = bot
        .setup()
        .line_field("sipDomain", json!(phone.local.to_string()))
        .start()
        .await;
    let body = json!({"to": CALLER_NUMBER});
    let placed = Api::of(&bridge).post("/api/calls", &body).await.expect(201);
    let invite = phone.invited().await;
    assert_eq!(
        bot.http.requests_for("/voice").len(),
        0,
        "nobody is there yet"
    );
    phone.answer(&invite).await;
    let mut worker = bot.streamed().await;
    assert_eq!(placed["sid"], worker.call_sid);
    let fields = form(&bot.http.receives("/voice", 1).await[0]);
    for (name, value) in [
        ("Direction", "outbound-api"),
        ("CallStatus", "in-progress"),
        ("To", CALLER_NUMBER),
        ("From", NUMBER),
    ] {
        assert_eq!(fields[name], value, "{name}");
    }
    phone.bye(&invite).await;
    worker.listen_to_end().await;
    assert_eq!(ended(&bridge).await["outcome"], "callee-hung-up");
    bridge.shut_down().await;
}

/// Asks Twilio's API something of a call.
pub async fn update(bridge: &Bridge, sid: &str, form: &[(&str, &str)]) -> Answer {
    twilio(bridge, &format!("/Calls/{sid}.json"), form).await
}

/// Asks Twilio's API for something.
pub async fn twilio(bridge: &Bridge, path: &str, form: &[(&str, &str)]) -> Answer {
    let pairs = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let path = format!("/2010-04-01/Accounts/{ACCOUNT}{path}");
    let login = BASE64.encode(format!("{ACCOUNT}:{TOKEN}"));
    let headers = format!(
        "Authorization: Basic {login}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    );
    Api::of(bridge).send("POST", &path, &headers, &pairs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_api_takes_a_call_from_its_worker_and_gives_it_to_twiml() {
    let mut bot = Bot::start().await;
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--account-sid", ACCOUNT, "--allow-callback", "127.0.0.0/8"])
        .env("AUTH_TOKEN", TOKEN)
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut first = Worker::serve(&redis).await;
    let sid = first.call_sid.clone();
    let inner = format!(
        "<Connect><Stream url=\"ws://127.0.0.1:{}/media\"/></Connect>",
        bot.port
    );
    bot.answers("/new", &inner);
    let url = bot.url("/new");
    update(&bridge, &sid, &[("Url", &url)]).await.expect(200);
    first.next_of("stop").await;
    let mut second = bot.streamed().await;
    assert_eq!(second.call_sid, sid);
    assert_ne!(second.stream_sid, first.stream_sid);
    let asked = bot.http.receives("/new", 1).await.remove(0);
    assert_eq!(
        asked.header("x-twilio-signature"),
        None,
        "a client's address is not the operator's"
    );
    let twiml = "<Response>\n  <Pause length=\"1\"/>\n</Response>";
    update(&bridge, &sid, &[("Twiml", twiml)]).await.expect(200);
    second.next_of("stop").await;
    call.ended_by_bridge(SOON).await;
    assert_eq!(ended(&bridge).await["outcome"], "worker-hung-up");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_spoken_by_a_service_and_the_next_time_from_disk() {
    let bot = Bot::start().await;
    let speech = Receiver::start().await;
    let pattern = [0x1f, 0x2f, 0x3f, 0x4f, 0x0f, 0x0f, 0x1f, 0x1f];
    let spoken = Reply {
        body: wav(&pattern),
        ..Reply::status(200).header("Content-Type: audio/wav")
    };
    // Once: what comes later finds no service.
    speech.script("/v1/audio/speech", [spoken, Reply::status(500)]);
    bot.answers(
        "/voice",
        "<Say voice=\"nova\">Bonjour &amp; <b>bienvenue</b></Say>",
    );
    let folder = tempfile::tempdir().unwrap();
    let bridge = bot
        .setup()
        .args(&[
            "--say-url",
            &format!("http://127.0.0.1:{}", speech.port),
            "--say-cache",
            folder.path().to_str().unwrap(),
        ])
        .env("SAY_KEY", "say-k3y")
        .start()
        .await;
    for _ in 0..2 {
        let call = Caller::connect(bridge.sip(), NUMBER).await;
        let heard: Vec<u8> = pattern.iter().copied().cycle().take(320).collect();
        call.rtp.hears(&heard, SOON).await;
        call.ended_by_bridge(SOON).await;
    }
    let asked = speech.requests_for("/v1/audio/speech");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].header("authorization"), Some("Bearer say-k3y"));
    assert_eq!(
        asked[0].json(),
        json!({
            "model": "tts-1", "voice": "nova", "response_format": "wav",
            "input": "Bonjour & bienvenue",
        })
    );
    assert!(!bridge.output().contains("say-k3y"));
    assert!(!bridge.output().contains("bienvenue"));

    // A text that cannot be spoken is left out.
    bot.answers("/voice", "<Say>Another</Say><Pause length=\"1\"/>");
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    call.ended_by_bridge(SOON).await;
    assert!(
        metrics(&bridge)
            .await
            .contains("sipbridge_twiml_warnings_total 1")
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_twilios_api_places_does_what_its_url_says_and_tells_of_it() {
    let mut bot = Bot::start().await;
    let phone = Callee::open().await;
    let bridge = bot
        .setup()
        .args(&["--account-sid", ACCOUNT, "--allow-callback", "127.0.0.0/8"])
        .line_field("sipDomain", json!(phone.local.to_string()))
        .line_field("phoneNumber", json!(NUMBER))
        .start()
        .await;
    let stream = format!("<Stream url=\"ws://127.0.0.1:{}/media\"/>", bot.port);
    bot.answers("/answered", &format!("<Connect>{stream}</Connect>"));
    bot.http.script("/status", [Reply::status(200)]);
    let (url, status) = (bot.url("/answered"), bot.url("/status"));
    let order = [
        ("To", CALLER_NUMBER),
        ("From", NUMBER),
        ("Url", url.as_str()),
        ("StatusCallback", status.as_str()),
        ("StatusCallbackEvent", "initiated"),
        ("StatusCallbackEvent", "ringing answered"),
        ("StatusCallbackEvent", "completed"),
        ("SendDigits", "1w2"),
        ("Timeout", "20"),
    ];
    let placed = twilio(&bridge, "/Calls.json", &order).await.expect(201);
    assert_eq!(
        (&placed["status"], &placed["direction"]),
        (&json!("queued"), &json!("outbound-api"))
    );
    let invite = phone.invited().await;
    phone.respond(&invite, "180 Ringing").await;
    phone.answer(&invite).await;
    let worker = bot.streamed().await;
    assert_eq!(placed["sid"], worker.call_sid);
    let is_digit = |packet: &&crate::harness::rtp::Heard| packet.payload_type == 101;
    let heard = phone.rtp.heard();
    let digits: Vec<_> = heard
        .iter()
        .filter(is_digit)
        .map(|packet| packet.payload[0])
        .collect();
    assert!(digits.contains(&1) && digits.contains(&2), "{digits:?}");
    worker.close();
    let told = bot.http.receives("/status", 4).await;
    let told: Vec<_> = told.iter().map(form).collect();
    let said: Vec<_> = told
        .iter()
        .map(|fields| {
            (
                fields["CallStatus"].as_str(),
                fields["SequenceNumber"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("queued", "0"),
            ("ringing", "1"),
            ("in-progress", "2"),
            ("completed", "3")
        ]
    );
    for fields in &told {
        assert_eq!(fields["CallSid"], worker.call_sid);
        assert_eq!(fields["CallbackSource"], "call-progress-events");
    }
    assert!(told[3].contains_key("CallDuration") && !told[2].contains_key("CallDuration"));

    // A document of its own, and an end by TimeLimit.
    let order = [
        ("To", CALLER_NUMBER),
        ("From", NUMBER),
        ("Twiml", "<Response>\n<Pause length=\"60\"/></Response>"),
        ("TimeLimit", "1"),
    ];
    let placed = twilio(&bridge, "/Calls.json", &order).await.expect(201);
    let invite = phone.invited_to_another(&invite).await;
    phone.answer(&invite).await;
    let path = format!("/api/calls/{}", placed["sid"].as_str().unwrap());
    let api = Api::of(&bridge);
    until(SOON, "the limit", async || {
        api.get(&path).await.expect(200)["outcome"] == "duration-limit"
    })
    .await;

    for (form, code) in [
        (&[("From", NUMBER), ("Url", &*url)][..], 21201),
        (&[("To", CALLER_NUMBER), ("Url", &*url)], 21213),
        (
            &[("To", CALLER_NUMBER), ("From", "+1999"), ("Url", &*url)],
            21212,
        ),
        (&[("To", CALLER_NUMBER), ("From", NUMBER)], 21205),
        (
            &[
                ("To", CALLER_NUMBER),
                ("From", NUMBER),
                ("Twiml", "<Respons/>"),
            ],
            12100,
        ),
        (
            &[
                ("To", CALLER_NUMBER),
                ("From", NUMBER),
                ("Url", &*url),
                ("Record", "true"),
            ],
            21218,
        ),
    ] {
        let refused = twilio(&bridge, "/Calls.json", form).await.expect(400);
        assert_eq!(refused["code"], code, "{form:?}");
    }
    bridge.shut_down().await;
}
