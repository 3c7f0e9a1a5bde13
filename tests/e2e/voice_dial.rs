//! `<Dial>` from the real program: a second leg over the caller's line, joined with him, and what the
//! document is told of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::caller::{CALLER_NUMBER, Call};
use crate::harness::receiver::{Reply, Request};
use crate::harness::rtp::Player;
use crate::harness::sdp::Offer;
use crate::harness::{Api, Bridge, Callee, Caller, SOON, sound, until};
use crate::voice_webhook::{ACCOUNT, Bot, TOKEN, form, twilio, update, wav};

const SHOP: &str = "+33612345678";

/// A bot whose first document is this `<Dial>`, and whose `/dialled` is its action.
async fn bot_that_dials(dial: &str) -> Bot {
    let bot = Bot::start().await;
    bot.answers("/voice", dial);
    bot.answers("/dialled", "<Hangup/>");
    bot
}

/// Its line's trunk is this phone.
fn setup(bot: &Bot, phone: &Callee) -> Setup {
    bot.setup()
        .args(&["--account-sid", ACCOUNT])
        .line_field("sipDomain", json!(phone.local.to_string()))
}

/// What the action was told.
async fn dialled(bot: &Bot) -> HashMap<String, String> {
    form(&bot.http.receives("/dialled", 1).await[0])
}

/// A read of Twilio's API.
async fn read(bridge: &Bridge, path: &str) -> Value {
    let login = BASE64.encode(format!("{ACCOUNT}:{TOKEN}"));
    let path = format!("/2010-04-01/Accounts/{ACCOUNT}{path}");
    let headers = format!("Authorization: Basic {login}\r\n");
    let answer = Api::of(bridge).send("GET", &path, &headers, "").await;
    answer.expect(200)
}

async fn all_over(bridge: &Bridge) {
    until(SOON, "all legs are over", async || {
        bridge.health().await.json()["calls"]["active"] == 0
    })
    .await;
}

/// Both hear each other, bit for bit; the caller's side of it.
async fn talk(call: &Call, phone: &Callee, to_phone: SocketAddr) -> Player {
    let said = sound::numbered(0, 75);
    let answer = sound::numbered(500, 75);
    let (mut caller, mut callee) = (call.player(), phone.rtp.player(to_phone, 0));
    tokio::join!(caller.play(&said), callee.play(&answer));
    until(SOON, "both hear each other", async || {
        sound::contains_run(&phone.rtp.audio(), &said[15..], 15)
            && sound::contains_run(&call.rtp.audio(), &answer[15..], 15)
    })
    .await;
    caller
}

fn statuses(told: &[Request]) -> Vec<String> {
    let told = told.iter().map(|told| form(told)["CallStatus"].clone());
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callee_is_a_call_of_its_own_that_hears_the_caller_and_is_told_of() {
    let bot = bot_that_dials(&format!(
        "<Dial action=\"/dialled\"><Number statusCallback=\"/leg\" \
         statusCallbackEvent=\"initiated ringing answered completed\">{SHOP}</Number></Dial>"
    ))
    .await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    assert!(invite.start.contains(SHOP), "{}", invite.start);
    phone.respond(&invite, "180 Ringing").await;
    until(SOON, "the caller hears that it rings", async || {
        !sound::is_silence(&call.rtp.audio())
    })
    .await;
    let media = phone.answer(&invite).await.media;
    let mut player = talk(&call, &phone, media).await;
    // RFC 4733 digits go from leg to leg, too.
    player.press(5, 101).await;
    until(SOON, "the digit", async || {
        phone
            .rtp
            .heard()
            .iter()
            .any(|heard| heard.payload_type == 101)
    })
    .await;

    let parent = form(&bot.http.receives("/voice", 1).await[0])["CallSid"].clone();
    let children = read(&bridge, &format!("/Calls.json?ParentCallSid={parent}")).await;
    let child = &children["calls"][0];
    assert_eq!(children["calls"].as_array().map(Vec::len), Some(1));
    assert_eq!(child["parent_call_sid"], parent);
    assert_eq!(
        (&child["direction"], &child["status"], &child["from"]),
        (
            &json!("outbound-dial"),
            &json!("in-progress"),
            &json!(NUMBER)
        )
    );
    let sid = child["sid"].as_str().unwrap().to_owned();
    let shown = Api::of(&bridge).get(&format!("/api/calls/{sid}")).await;
    assert_eq!(shown.expect(200)["parentSid"], parent);

    tokio::time::sleep(Duration::from_millis(1_100)).await;
    phone.bye(&invite).await;
    let told = dialled(&bot).await;
    assert_eq!(told["DialCallStatus"], "completed");
    assert_eq!(told["DialCallSid"], sid);
    assert!(told["DialCallDuration"].parse::<u32>().unwrap() >= 1);
    call.ended_by_bridge(SOON).await;
    let told = bot.http.receives("/leg", 4).await;
    assert_eq!(
        statuses(&told),
        ["queued", "ringing", "in-progress", "completed"]
    );
    assert!(
        told.iter()
            .all(|told| form(told)["ParentCallSid"] == parent)
    );
    all_over(&bridge).await;
    let ended = Api::of(&bridge).get(&format!("/api/calls/{sid}")).await;
    assert_eq!(ended.expect(200)["outcome"], "callee-hung-up");
    drop(call);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_does_not_take_the_call_is_told_to_the_action() {
    for (status, told) in [
        ("486 Busy Here", "busy"),
        ("603 Decline", "busy"),
        ("480 Temporarily Unavailable", "no-answer"),
        ("503 Service Unavailable", "failed"),
    ] {
        let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{SHOP}</Dial>")).await;
        let phone = Callee::open().await;
        let bridge = setup(&bot, &phone).start().await;
        let call = Caller::connect(bridge.sip(), NUMBER).await;
        let invite = phone.invited().await;
        phone.respond(&invite, status).await;
        assert_eq!(dialled(&bot).await["DialCallStatus"], told, "{status}");
        call.ended_by_bridge(SOON).await;
        all_over(&bridge).await;
        bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_lets_it_ring_too_long_is_called_no_more_and_the_document_goes_on() {
    let bot = bot_that_dials(&format!(
        "<Dial timeout=\"1\">{SHOP}</Dial><Redirect>/dialled</Redirect>"
    ))
    .await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    phone.respond(&invite, "180 Ringing").await;
    phone.request("CANCEL").await;
    bot.http.receives("/dialled", 1).await;
    call.ended_by_bridge(SOON).await;
    all_over(&bridge).await;
    let listed = Api::of(&bridge).get("/api/calls").await.expect(200);
    let calls = listed.as_array().unwrap();
    let leg = calls.iter().find(|call| !call["parentSid"].is_null());
    assert_eq!(leg.unwrap()["status"], "no-answer");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_after_a_dial_is_not_cut_by_the_news_of_its_leg() {
    let tune = [0x1f, 0x1f, 0x1f, 0x2f, 0x2f, 0x0f, 0x0f, 0x0f];
    // Heard before, so that it is there at once the second time.
    let bot = bot_that_dials(&format!(
        "<Play>/tune.wav</Play><Dial timeout=\"1\">{SHOP}</Dial><Play>/tune.wav</Play>"
    ))
    .await;
    let reply = Reply {
        body: wav(&tune),
        ..Reply::status(200).header("Content-Type: audio/x-wav")
    };
    bot.http.script("/tune.wav", [reply]);
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    phone.respond(&invite, "180 Ringing").await;
    call.ended_by_bridge(SOON).await;
    let heard = call.rtp.audio();
    let whole = tune.repeat(0x0f40 / tune.len());
    let first = sound::position(&heard, &whole).expect("before the dial");
    let after = &heard[first + whole.len()..];
    assert!(sound::contains(after, &whole), "after the dial");
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_dial_rules_do_not_permit_is_not_called() {
    let premium = "+33899123456";
    let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{premium}</Dial>")).await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    assert_eq!(dialled(&bot).await["DialCallStatus"], "failed");
    call.ended_by_bridge(SOON).await;
    assert!(phone.requests("INVITE").is_empty());
    assert!(bridge.output().contains("a leg is not placed"));
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callee_may_be_shown_the_caller_and_nobody_else() {
    let foreign = "+33699999999";
    let dial = |number: &str, target: &str| {
        format!("<Dial action=\"/dialled\" callerId=\"{number}\">{target}</Dial>")
    };
    let phone = Callee::open().await;
    let sip = format!(
        "<Sip>sip:{SHOP}@{}?X-Order=42&amp;Route=evil</Sip>",
        phone.local
    );
    let bot = bot_that_dials(&dial(CALLER_NUMBER, &sip)).await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    let from = invite.header("From").unwrap();
    assert!(from.contains(&format!("sip:{CALLER_NUMBER}@")), "{from}");
    assert_eq!(invite.header("X-Order"), Some("42"));
    assert_eq!(
        invite.header("Route").filter(|it| it.contains("evil")),
        None
    );
    phone.respond(&invite, "486 Busy Here").await;
    assert_eq!(dialled(&bot).await["DialCallStatus"], "busy");
    call.ended_by_bridge(SOON).await;

    bot.answers("/voice", &dial(foreign, SHOP));
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let told = bot.http.receives("/dialled", 2).await.remove(1);
    assert_eq!(form(&told)["DialCallStatus"], "failed");
    call.ended_by_bridge(SOON).await;
    let order = [
        ("To", SHOP),
        ("From", NUMBER),
        ("CallerId", foreign),
        ("Twiml", "<Response/>"),
    ];
    let refused = twilio(&bridge, "/Calls.json", &order).await;
    assert_eq!(refused.expect(400)["code"], 21218);
    assert_eq!(phone.requests("INVITE").len(), 1);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ring_together_and_the_first_to_answer_is_joined() {
    let other = "+33687654321";
    let targets = format!("<Number>{SHOP}</Number><Number>{other}</Number>");
    let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{targets}</Dial>")).await;
    // The trunk that both INVITEs go to.
    let trunk = Callee::open().await;
    let bridge = setup(&bot, &trunk).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let first = trunk.invited().await;
    let second = trunk.invited_to_another(&first).await;
    let of = |number: &str| {
        if first.start.contains(number) {
            &first
        } else {
            &second
        }
    };
    let (left, taken) = (of(SHOP), of(other));
    trunk.respond(left, "180 Ringing").await;
    let media = trunk.answer(taken).await.media;
    let cancel = trunk.request("CANCEL").await;
    assert_eq!(cancel.header("Call-ID"), left.header("Call-ID"));
    talk(&call, &trunk, media).await;
    // Whoever rang ends the call: so does its leg.
    call.bye().await;
    let bye = trunk.request("BYE").await;
    assert_eq!(bye.header("Call-ID"), taken.header("Call-ID"));
    assert_eq!(dialled(&bot).await["DialCallStatus"], "completed");
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_answer_on_bridge_the_caller_pays_nothing_before_the_callee_answers() {
    let bot = bot_that_dials(&format!("<Dial answerOnBridge=\"true\">{SHOP}</Dial>")).await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    // Busy: the caller hears it from his own phone.
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    let refused = phone.invited().await;
    phone.respond(&refused, "486 Busy Here").await;
    assert_eq!(call.final_response().await.status(), Some(486));

    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let invite = phone.invited_to_another(&refused).await;
    call.provisional(180).await;
    phone.respond(&invite, "180 Ringing").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!call.has_response(), "he is not answered yet");
    let (_, media) = tokio::join!(call.answered(), phone.answer(&invite));
    talk(&call, &phone, media.media).await;
    phone.bye(&invite).await;
    call.ended_by_bridge(SOON).await;
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_takes_the_leg_with_him() {
    let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{SHOP}</Dial>")).await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    phone.respond(&invite, "180 Ringing").await;
    call.bye().await;
    phone.request("CANCEL").await;
    assert_eq!(dialled(&bot).await["DialCallStatus"], "canceled");
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_ends_the_callee_and_the_document_goes_on() {
    let bot = bot_that_dials(&format!(
        "<Dial action=\"/dialled\" hangupOnStar=\"true\">{SHOP}</Dial>"
    ))
    .await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    let media = phone.answer(&invite).await.media;
    let mut player = talk(&call, &phone, media).await;
    player.press(4, 101).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(phone.requests("BYE").is_empty(), "4 is no star");
    player.press(10, 101).await;
    phone.request("BYE").await;
    assert_eq!(dialled(&bot).await["DialCallStatus"], "completed");
    call.ended_by_bridge(SOON).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_hears_its_own_document_and_gets_its_digits_before_it_is_joined() {
    let bot = bot_that_dials(&format!(
        "<Dial action=\"/dialled\"><Number url=\"/whisper\" sendDigits=\"7\">{SHOP}</Number></Dial>"
    ))
    .await;
    bot.answers("/whisper", "<Play digits=\"3\"/>");
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    let media = phone.answer(&invite).await.media;
    let asked = form(&bot.http.receives("/whisper", 1).await[0]);
    assert_eq!(asked["Direction"], "outbound-dial");
    let parent = form(&bot.http.receives("/voice", 1).await[0])["CallSid"].clone();
    assert_eq!(asked["ParentCallSid"], parent);
    let digits = || {
        let heard = phone.rtp.heard();
        let events = heard.iter().filter(|heard| heard.payload_type == 101);
        let mut digits: Vec<u8> = events.map(|heard| heard.payload[0]).collect();
        digits.dedup();
        digits
    };
    until(SOON, "both digits", async || digits() == [3, 7]).await;
    talk(&call, &phone, media).await;
    phone.bye(&invite).await;
    assert_eq!(dialled(&bot).await["DialCallStatus"], "completed");
    call.ended_by_bridge(SOON).await;
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twiml_of_the_api_takes_the_caller_from_his_callee() {
    let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{SHOP}</Dial>")).await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    let media = phone.answer(&invite).await.media;
    talk(&call, &phone, media).await;
    let parent = form(&bot.http.receives("/voice", 1).await[0])["CallSid"].clone();
    let twiml = "<Response><Pause length=\"1\"/></Response>";
    let answer = update(&bridge, &parent, &[("Twiml", twiml)]).await;
    answer.expect(200);
    phone.request("BYE").await;
    call.ended_by_bridge(SOON).await;
    assert!(bot.http.requests_for("/dialled").is_empty());
    all_over(&bridge).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_gets_twiml_of_its_own_leaves_the_caller_to_the_next_verb() {
    let bot = bot_that_dials(&format!("<Dial action=\"/dialled\">{SHOP}</Dial>")).await;
    let phone = Callee::open().await;
    let bridge = setup(&bot, &phone).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let invite = phone.invited().await;
    let media = phone.answer(&invite).await.media;
    talk(&call, &phone, media).await;
    let children = read(&bridge, &format!("/Calls.json?To=%2B{}", &SHOP[1..])).await;
    let child = children["calls"][0]["sid"].as_str().unwrap().to_owned();
    let twiml = "<Response><Pause length=\"2\"/></Response>";
    let answer = update(&bridge, &child, &[("Twiml", twiml)]).await;
    answer.expect(200);
    assert_eq!(dialled(&bot).await["DialCallStatus"], "completed");
    call.ended_by_bridge(SOON).await;
    assert!(phone.requests("BYE").is_empty(), "its own document runs");
    phone.request("BYE").await;
    all_over(&bridge).await;
    bridge.shut_down().await;
}
