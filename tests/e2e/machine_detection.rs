//! Who has answered a call that Twilio's API places, from the real program and from what a callee says.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::sip::Message;
use crate::harness::{Api, Bridge, Callee, SOON, sound, within};
use crate::voice_webhook::{ACCOUNT, Bot, assert_form_signed, ended, form, twilio};

/// What a callee says, a pause before it.
fn greeting(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answering_machine/greetings");
    let spoken = std::fs::read(folder.join(format!("{name}.ulaw"))).unwrap();
    [silence(400), spoken].concat()
}

fn silence(ms: usize) -> Vec<u8> {
    // Not digital silence: a line that is quiet.
    let hum = [0xfe, 0x7e, 0xff, 0x7e];
    hum.into_iter().cycle().take(8 * ms).collect()
}

/// Says this, then nothing, until the task is dropped.
fn say(phone: &Callee, invite: &Message, sound: Vec<u8>) -> tokio::task::JoinHandle<()> {
    let remote = crate::harness::sdp::Answer::read(&invite.body).media;
    let mut player = phone.rtp.player(remote, 0);
    tokio::spawn(async move {
        let frames = |sound: &[u8]| -> Vec<Vec<u8>> {
            sound.chunks_exact(160).map(<[u8]>::to_vec).collect()
        };
        player.play(&frames(&sound)).await;
        loop {
            player.play(&frames(&silence(1_000))).await;
        }
    })
}

async fn bridge(bot: &Bot, phone: &Callee) -> Bridge {
    let setup: Setup = bot.setup();
    setup
        .args(&["--account-sid", ACCOUNT, "--allow-callback", "127.0.0.0/8"])
        .line_field("sipDomain", json!(phone.local.to_string()))
        .line_field("phoneNumber", json!(NUMBER))
        .start()
        .await
}

/// Places a call with these parameters beside the usual ones.
async fn place(bot: &Bot, bridge: &Bridge, more: &[(&str, &str)]) -> String {
    let (url, status) = (bot.url("/answered"), bot.url("/status"));
    let mut order = vec![
        ("To", CALLER_NUMBER),
        ("From", NUMBER),
        ("Url", url.as_str()),
        ("StatusCallback", status.as_str()),
    ];
    order.extend(more);
    let placed = twilio(bridge, "/Calls.json", &order).await.expect(201);
    placed["sid"].as_str().unwrap().to_owned()
}

async fn resource(bridge: &Bridge, sid: &str) -> Value {
    use base64::Engine;
    let login = base64::engine::general_purpose::STANDARD
        .encode(format!("{ACCOUNT}:{}", crate::voice_webhook::TOKEN));
    let path = format!("/2010-04-01/Accounts/{ACCOUNT}/Calls/{sid}.json");
    let headers = format!("Authorization: Basic {login}\r\n");
    let answer = Api::of(bridge).send("GET", &path, &headers, "").await;
    answer.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn twiml_waits_until_it_is_known_who_answered() {
    let bot = Bot::start().await;
    let phone = Callee::open().await;
    let data = tempfile::tempdir().unwrap();
    let bridge = bot
        .setup()
        .args(&["--account-sid", ACCOUNT, "--allow-callback", "127.0.0.0/8"])
        .args(&["--data-dir", data.path().to_str().unwrap()])
        .line_field("sipDomain", json!(phone.local.to_string()))
        .line_field("phoneNumber", json!(NUMBER))
        .start()
        .await;
    bot.answers("/answered", "<Pause length=\"1\"/><Hangup/>");

    // A person: "Hello", and silence.
    let sid = place(&bot, &bridge, &[("MachineDetection", "Enable")]).await;
    let person = phone.invited().await;
    phone.answer(&person).await;
    let began = std::time::Instant::now();
    let speaking = say(&phone, &person, greeting("person-hello"));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(bot.http.requests_for("/answered").is_empty(), "it waits");
    let asked = bot.http.receives("/answered", 1).await.remove(0);
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    let fields = form(&asked);
    assert_eq!(fields["AnsweredBy"], "human");
    assert_eq!(
        (fields["CallSid"].as_str(), fields["CallStatus"].as_str()),
        (sid.as_str(), "in-progress")
    );
    let told = bot.http.receives("/status", 1).await.remove(0);
    assert_eq!(form(&told)["AnsweredBy"], "human");
    assert_eq!(form(&told)["CallStatus"], "completed");
    speaking.abort();
    assert_eq!(resource(&bridge, &sid).await["answered_by"], "human");

    // A machine, to the end of its beep.
    let more = [
        ("MachineDetection", "DetectMessageEnd"),
        ("MachineDetectionTimeout", "20"),
    ];
    let machine_sid = place(&bot, &bridge, &more).await;
    let machine = phone.invited_to_another(&person).await;
    phone.answer(&machine).await;
    let beep = sound::ulaw_tone(1_000.0, Duration::from_millis(400));
    let message = [greeting("machine-mobile"), silence(600), beep].concat();
    let length = Duration::from_millis(message.len() as u64 / 8);
    let began = std::time::Instant::now();
    let speaking = say(&phone, &machine, message);
    let asked = within(SOON, "the machine's end", bot.http.receives("/answered", 2)).await;
    let waited = began.elapsed();
    assert!(waited >= length, "{waited:?} of {length:?}");
    assert_eq!(form(&asked[1])["AnsweredBy"], "machine_end_beep");
    let told = bot.http.receives("/status", 2).await.remove(1);
    assert_eq!(form(&told)["AnsweredBy"], "machine_end_beep");
    speaking.abort();

    // The record keeps it over a restart.
    bridge.shut_down().await;
    let bridge = bot
        .setup()
        .args(&["--account-sid", ACCOUNT])
        .args(&["--data-dir", data.path().to_str().unwrap()])
        .start()
        .await;
    let kept = resource(&bridge, &machine_sid).await;
    assert_eq!(kept["answered_by"], "machine_end_beep");
    assert_eq!(resource(&bridge, &sid).await["answered_by"], "human");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twiml_goes_on_at_once_and_another_address_is_told_who_answered() {
    let bot = Bot::start().await;
    let phone = Callee::open().await;
    let bridge = bridge(&bot, &phone).await;
    bot.answers(
        "/answered",
        "<Pause length=\"6\"/><Redirect>/next</Redirect>",
    );
    bot.answers("/next", "<Hangup/>");
    let who = bot.url("/who");
    // It is tried again.
    use crate::harness::receiver::Reply;
    bot.http
        .script("/who", [Reply::status(500), Reply::status(200)]);
    let more = [
        ("MachineDetection", "Enable"),
        ("AsyncAmd", "true"),
        ("AsyncAmdStatusCallback", who.as_str()),
        ("AsyncAmdStatusCallbackMethod", "POST"),
    ];
    let sid = place(&bot, &bridge, &more).await;
    let invite = phone.invited().await;
    phone.answer(&invite).await;
    let speaking = say(&phone, &invite, greeting("machine-carrier"));
    let asked = bot.http.receives("/answered", 1).await.remove(0);
    assert!(!form(&asked).contains_key("AnsweredBy"), "nobody knows yet");
    let told = bot.http.receives("/who", 2).await;
    for told in &told {
        assert_form_signed(told, &who);
        let fields = form(told);
        assert_eq!(fields.len(), 4, "{fields:?}");
        assert_eq!(fields["CallSid"], sid);
        assert_eq!(fields["AccountSid"], ACCOUNT);
        assert_eq!(fields["AnsweredBy"], "machine_start");
        let after_ms: u64 = fields["MachineDetectionDuration"].parse().unwrap();
        assert!((2_000..6_000).contains(&after_ms), "{after_ms}");
    }
    assert_eq!(
        resource(&bridge, &sid).await["answered_by"],
        "machine_start"
    );
    // What is asked later says it too.
    let next = bot.http.receives("/next", 1).await.remove(0);
    assert_eq!(form(&next)["AnsweredBy"], "machine_start");
    let told = bot.http.receives("/status", 1).await.remove(0);
    assert_eq!(form(&told)["AnsweredBy"], "machine_start");
    speaking.abort();
    ended(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_hangs_up_before_it_is_known_ends_the_call() {
    let bot = Bot::start().await;
    let phone = Callee::open().await;
    let bridge = bridge(&bot, &phone).await;
    bot.answers("/answered", "<Hangup/>");
    let sid = place(&bot, &bridge, &[("MachineDetection", "Enable")]).await;
    let invite = phone.invited().await;
    phone.answer(&invite).await;
    phone.bye(&invite).await;
    assert_eq!(ended(&bridge).await["outcome"], "callee-hung-up");
    let kept = resource(&bridge, &sid).await;
    assert_eq!(
        (&kept["status"], &kept["answered_by"]),
        (&json!("completed"), &json!(null))
    );

    // One that gets other instructions meanwhile goes on with those.
    place(&bot, &bridge, &[("MachineDetection", "Enable")]).await;
    let second = phone.invited_to_another(&invite).await;
    phone.answer(&second).await;
    let sid = crate::voice_webhook::last_call(&bridge).await["sid"]
        .as_str()
        .unwrap()
        .to_owned();
    let twiml = "<Response>\n<Pause length=\"4\"/></Response>";
    let path = format!("/Calls/{sid}.json");
    let speaking = say(&phone, &second, greeting("person-hello"));
    let _ = twilio(&bridge, &path, &[("Twiml", twiml)])
        .await
        .expect(200);
    ended(&bridge).await;
    assert_eq!(resource(&bridge, &sid).await["answered_by"], "human");
    assert!(
        bot.http.requests_for("/answered").is_empty(),
        "what it was to begin with is forgotten"
    );
    speaking.abort();
    bridge.shut_down().await;
}
