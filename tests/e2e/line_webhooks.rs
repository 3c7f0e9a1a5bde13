//! Lines with a way of their own to their workers: a voice webhook, a worker that is dialled, a receiver of status
//! callbacks; from a file and by the API.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::sdp::Offer;
use crate::harness::worker::QUEUE;
use crate::harness::{Api, Caller, Redis, SOON, Worker, until};
use crate::voice_webhook::{Bot, assert_form_signed, form};

const LINES: &str = "/api/admin/telephony/phone-lines";

/// A stream to the bot's own port.
fn stream(bot: &Bot) -> String {
    format!(
        "<Connect><Stream url=\"ws://127.0.0.1:{}/media\"/></Connect>",
        bot.port
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_goes_its_own_way_and_the_rest_goes_by_the_flags() {
    let (flags, own, mut pushed) = (Bot::start().await, Bot::start().await, Bot::start().await);
    flags.answers("/voice", "<Reject/>");
    own.answers("/own", "<Reject reason=\"busy\"/>");
    let (second, third) = ("+33972360683", "+33972360684");
    let bridge = flags
        .setup()
        .line_field("voiceUrl", json!(own.url("/own?line=1")))
        .line_field("statusCallback", json!(own.url("/status")))
        .line(
            json!({"id": "line-2", "phoneNumber": second, "sipUsername": "u2",
            "wsTarget": format!("ws://127.0.0.1:{}/media", pushed.port)}),
        )
        .line(json!({"id": "line-3", "phoneNumber": third, "sipUsername": "u3"}))
        .start()
        .await;

    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    assert_eq!(call.final_response().await.status(), Some(486));
    let asked = own.http.receives("/own", 1).await.remove(0);
    assert_form_signed(&asked, &own.url("/own?line=1"));
    let fields = form(&asked);
    assert_eq!(fields["To"], NUMBER);

    // Told once, when the call is over: of the same call, in the same words.
    let told = own.http.receives("/status", 1).await.remove(0);
    assert_form_signed(&told, &own.url("/status"));
    let status = form(&told);
    for (name, value) in [
        ("CallSid", fields["CallSid"].as_str()),
        ("AccountSid", fields["AccountSid"].as_str()),
        ("From", CALLER_NUMBER),
        ("To", NUMBER),
        ("CallStatus", "busy"),
        ("Direction", "inbound"),
        ("CallbackSource", "call-progress-events"),
    ] {
        assert_eq!(status[name], value, "{name}");
    }

    let call = Caller::connect(bridge.sip(), second).await;
    let worker = pushed.streamed().await;
    let start = &worker.start()["start"];
    assert_eq!(start["customParameters"]["phoneLineId"], "line-2");
    worker.close();
    call.ended_by_bridge(SOON).await;

    let mut call = Caller::invite(bridge.sip(), third, Offer::usual()).await;
    assert_eq!(call.final_response().await.status(), Some(603));
    flags.http.receives("/voice", 1).await;
    assert_eq!(own.http.requests().len(), 2, "one question, one callback");
    assert_eq!(pushed.http.requests().len(), 0);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_with_its_own_way_pushes_no_job_and_the_others_do() {
    let redis = Redis::start();
    let (mut bot, mut pushed) = (Bot::start().await, Bot::start().await);
    bot.answers("/voice", &stream(&bot));
    let (second, third) = ("+33972360683", "+33972360684");
    let bridge = Setup::queue(&redis)
        .line_field("voiceUrl", json!(bot.url("/voice")))
        .line_field("statusCallback", json!(bot.url("/status")))
        .line_field("statusCallbackMethod", json!("GET"))
        .line(
            json!({"id": "line-2", "phoneNumber": second, "sipUsername": "u2",
            "wsTarget": format!("ws://127.0.0.1:{}/media", pushed.port)}),
        )
        .line(json!({"id": "line-3", "phoneNumber": third, "sipUsername": "u3"}))
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let worker = bot.streamed().await;
    worker.close();
    call.ended_by_bridge(SOON).await;
    let told = bot.http.receives("/status", 1).await.remove(0);
    assert_eq!(told.method, "GET");
    assert_eq!(told.query()["CallStatus"], "completed");
    assert_eq!(told.query()["CallSid"], worker.call_sid);

    let call = Caller::connect(bridge.sip(), second).await;
    let worker = pushed.streamed().await;
    worker.close();
    call.ended_by_bridge(SOON).await;
    assert_eq!(redis.query::<i64>(&["LLEN", QUEUE]).await, 0, "no job yet");

    let mut call = Caller::connect(bridge.sip(), third).await;
    let worker = Worker::serve(&redis).await;
    assert_eq!(
        worker.start()["start"]["customParameters"]["phoneLineId"],
        "line-3"
    );
    call.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_a_line_is_changed_by_the_api_and_counts_for_its_next_call() {
    let dir = TempDir::new().unwrap();
    let (flags, own) = (Bot::start().await, Bot::start().await);
    flags.answers("/voice", "<Reject/>");
    own.answers("/own", "<Reject reason=\"busy\"/>");
    let data = dir.path().display().to_string();
    let bridge = flags.setup().args(&["--data-dir", &data]).start().await;
    let api = Api::of(&bridge);
    let path = format!("{LINES}/{LINE}");
    let names = [
        "wsTarget",
        "voiceUrl",
        "voiceMethod",
        "voiceFallbackUrl",
        "voiceFallbackMethod",
        "statusCallback",
        "statusCallbackMethod",
    ];
    let before = api.get(&path).await.expect(200);
    assert!(names.iter().all(|name| before[name].is_null()), "{before}");

    let url = own.url("/own");
    let change = json!({"voiceUrl": url, "voiceMethod": "GET", "voiceFallbackUrl": url,
        "voiceFallbackMethod": "POST", "statusCallback": url, "statusCallbackMethod": "GET"});
    let changed = api.json("PATCH", &path, &change).await.expect(200);
    for (name, value) in change.as_object().unwrap() {
        assert_eq!(&changed[name], value, "{name}");
    }
    let refused = async |change: Value| api.json("PATCH", &path, &change).await.faulty();
    // Whichever comes second, and both at once.
    assert_eq!(refused(json!({"wsTarget": "ws://h"})).await, ["wsTarget"]);
    let both = json!({"wsTarget": "ws://h", "voiceUrl": "http://h"});
    assert_eq!(refused(both).await, ["wsTarget", "voiceUrl"]);
    let odd = json!({"voiceUrl": "ws://h", "voiceMethod": "PUT", "statusCallback": "h"});
    let mut faulty = refused(odd).await;
    faulty.sort();
    assert_eq!(faulty, ["statusCallback", "voiceMethod", "voiceUrl"]);

    until(SOON, "the line's own webhook is asked", async || {
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        call.final_response().await.status() == Some(486)
    })
    .await;
    assert_eq!(own.http.requests_for("/own")[0].method, "GET");
    let change = json!({"voiceUrl": null, "wsTarget": "ws://127.0.0.1:9/x"});
    let changed = api.json("PATCH", &path, &change).await.expect(200);
    assert_eq!(changed["wsTarget"], "ws://127.0.0.1:9/x");
    assert_eq!(changed["voiceUrl"], Value::Null);
    assert_eq!(refused(json!({"voiceUrl": "http://h"})).await, ["voiceUrl"]);
    let change = json!({"wsTarget": null});
    api.json("PATCH", &path, &change).await.expect(200);
    until(SOON, "the webhook of the flags is asked", async || {
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        call.final_response().await.status() == Some(603)
    })
    .await;
    bridge.shut_down().await;
}
