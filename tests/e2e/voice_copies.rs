//! One-way copies of a call's audio, from the real program: `<Start><Stream>` and `<Stop><Stream>` beside what the
//! call does.

use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};

use crate::harness::bridge::NUMBER;
use crate::harness::receiver::Reply;
use crate::harness::worker::payload;
use crate::harness::{Callee, Caller, SOON, Worker, sound, until, within};
use crate::voice_webhook::{Bot, ended, form, metrics};

/// The audio of one track, as far as it was heard.
fn track(copy: &Worker, name: &str) -> Vec<u8> {
    let media = copy.all("media").into_iter();
    let of_track = media.filter(|heard| heard.json["media"]["track"] == name);
    of_track.flat_map(|heard| payload(&heard.json)).collect()
}

/// Listens until the track holds `part` without a break.
async fn hears(copy: &mut Worker, name: &str, part: &[u8]) {
    let hearing = async {
        while !sound::contains(&track(copy, name), part) {
            // All that comes in a while: each look is at everything.
            copy.listen(Duration::from_millis(200)).await;
        }
    };
    within(SOON, "the copy hears it", hearing).await;
}

/// Listens until the track holds a second of these frames without a break.
async fn hears_run(copy: &mut Worker, name: &str, frames: &[Vec<u8>]) {
    let hearing = async {
        while !sound::contains_run(&track(copy, name), frames, 50) {
            copy.listen(Duration::from_millis(500)).await;
        }
    };
    within(SOON, "the copy hears it", hearing).await;
}

/// Listens until there is a message of this event.
async fn gets(copy: &mut Worker, event: &str) {
    let waiting = async {
        while copy.all(event).is_empty() {
            copy.listen(Duration::from_millis(50)).await;
        }
    };
    within(SOON, event, waiting).await;
}

/// `sequenceNumber` rises over both tracks, `chunk` and `timestamp` with each.
fn assert_numbered(copy: &Worker) {
    for (index, heard) in copy.heard[1..].iter().enumerate() {
        assert_eq!(heard.json["sequenceNumber"], (index + 1).to_string());
        assert_eq!(heard.json["streamSid"], copy.stream_sid);
    }
    for name in ["inbound", "outbound"] {
        let media = copy.all("media").into_iter();
        let mut last_ms = None;
        for (index, heard) in media
            .filter(|heard| heard.json["media"]["track"] == name)
            .enumerate()
        {
            let media = &heard.json["media"];
            assert_eq!(media["chunk"], (index + 1).to_string(), "{name}");
            let at_ms: u64 = media["timestamp"].as_str().unwrap().parse().unwrap();
            let expected = last_ms.map_or(at_ms, |last| last + 20);
            // The pacer may give up frames on a machine that is busy.
            assert!(at_ms >= expected, "{name}: {at_ms} after {last_ms:?}");
            last_ms = Some(at_ms);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_both_sides_of_a_call_bit_for_bit_across_its_verbs() {
    let mut bot = Bot::start().await;
    let ears = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inner = format!(
        "<Start><Stream name=\"ears\" track=\"both_tracks\" url=\"ws://{}/ears\" statusCallback=\"/copied\">\
         <Parameter name=\"purpose\" value=\"coaching\"/></Stream></Start>\
         <Connect action=\"/after\"><Stream url=\"ws://127.0.0.1:{}/media\"/></Connect>",
        ears.local_addr().unwrap(),
        bot.port
    );
    bot.answers("/voice", &inner);
    let stop = "<Pause length=\"1\"/><Stop><Stream name=\"ears\"/></Stop><Pause length=\"30\"/>";
    bot.answers("/after", stop);
    let bridge = bot.bridge().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut copy = Worker::accept(&ears).await;
    let mut worker = bot.streamed().await;
    assert_eq!(copy.call_sid, worker.call_sid);
    assert_ne!(copy.stream_sid, worker.stream_sid);
    let start = &copy.start()["start"];
    assert_eq!(start["tracks"], json!(["inbound", "outbound"]));
    assert_eq!(start["customParameters"]["purpose"], "coaching");
    assert_eq!(
        worker.start()["start"]["customParameters"]["purpose"],
        json!(null)
    );

    // What the caller says and what he hears, at the same time; and a key.
    let (said, answered) = (sound::numbered(0, 100), sound::numbered(500, 100));
    worker.media(&answered.concat());
    // One-way: this is heard by nobody.
    copy.media(&sound::numbered(900, 50).concat());
    copy.send(&json!({"event": "hangup", "streamSid": copy.stream_sid}));
    let mut player = call.player();
    player.play(&said).await;
    player.press(7, 101).await;
    hears(&mut copy, "inbound", &said[5..].concat()).await;
    hears(&mut copy, "outbound", &answered.concat()).await;
    gets(&mut copy, "dtmf").await;
    assert_eq!(copy.all("dtmf")[0].json["dtmf"]["digit"], "7");
    call.rtp.hears(&answered.concat(), SOON).await;
    worker.hears(&said[5..].concat(), SOON).await;
    worker.assert_numbered();

    // The worker closes; the copy goes on until it is stopped by its name.
    worker.close();
    bot.http.receives("/after", 1).await;
    let later = sound::numbered(1_000, 25);
    player.play(&later).await;
    hears(&mut copy, "inbound", &later[5..20].concat()).await;
    gets(&mut copy, "stop").await;
    copy.listen_to_end().await;
    assert_eq!(copy.close_code(), Some(1000));
    assert_numbered(&copy);
    let outbound = track(&copy, "outbound");
    assert!(!sound::contains(&outbound, &sound::numbered_frame(901)));
    let told = bot.http.receives("/copied", 2).await;
    let told: Vec<_> = told.iter().map(form).collect();
    assert_eq!(told[0]["StreamEvent"], "stream-started");
    assert_eq!(told[1]["StreamEvent"], "stream-stopped");
    for fields in &told {
        assert_eq!(fields["StreamSid"], copy.stream_sid);
        assert_eq!(fields["StreamName"], "ears");
        assert_eq!(fields["CallSid"], copy.call_sid);
    }
    call.bye().await;
    assert_eq!(ended(&bridge).await["outcome"], "caller-hung-up");
    bridge.shut_down().await;
}

/// A listener whose sockets take next to nothing that is not read.
fn small_listener() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(8).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_hangs_or_fails_harms_nothing_and_is_told_of() {
    let mut bot = Bot::start().await;
    // One is accepted and never read; one is never upgraded; of one the port is closed.
    let deaf = small_listener();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [deaf_at, mute_at, closed_at] =
        [&deaf, &mute, &closed].map(|listener| listener.local_addr().unwrap());
    drop(closed);
    let copy = |name: &str, at| {
        format!(
            "<Stream name=\"{name}\" track=\"both_tracks\" url=\"ws://{at}/\" statusCallback=\"/{name}\"/>"
        )
    };
    let inner = format!(
        "<Start>{}{}{}</Start><Connect><Stream url=\"ws://127.0.0.1:{}/media\"/></Connect>",
        copy("deaf", deaf_at),
        copy("mute", mute_at),
        copy("closed", closed_at),
        bot.port
    );
    bot.answers("/voice", &inner);
    let bridge = bot.bridge().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let (stream, _) = within(SOON, "the deaf copy", deaf.accept()).await.unwrap();
    // Nothing is read of it after the handshake.
    let hanging = tokio_tungstenite::accept_async(stream).await.unwrap();
    let (_unanswered, _) = within(SOON, "the mute copy", mute.accept()).await.unwrap();
    let mut worker = bot.streamed().await;
    let failed = bot.http.receives("/closed", 1).await.remove(0);
    assert_eq!(form(&failed)["StreamEvent"], "stream-error");
    assert!(form(&failed).contains_key("StreamError"));

    let (said, answered) = (sound::numbered(0, 300), sound::numbered(500, 300));
    worker.media(&answered.concat());
    call.player().play(&said).await;
    worker.hears(&said[5..].concat(), SOON).await;
    worker.assert_numbered();
    call.rtp.hears(&answered.concat(), SOON).await;
    // The one that was not upgraded within 5 s is given up.
    let failed = bot.http.receives("/mute", 1).await.remove(0);
    assert_eq!(form(&failed)["StreamEvent"], "stream-error");
    // So is the one that does not read, some 5 s after its socket is full.
    let told = bot.http.receives("/deaf", 2).await;
    let events: Vec<_> = told.iter().map(form).collect();
    assert_eq!(events[0]["StreamEvent"], "stream-started");
    assert_eq!(events[1]["StreamEvent"], "stream-error");
    until(SOON, "all three are counted", async || {
        metrics(&bridge)
            .await
            .contains("sipbridge_twiml_warnings_total 3")
    })
    .await;
    let began = std::time::Instant::now();
    call.bye().await;
    worker.listen_to_end().await;
    assert_eq!(ended(&bridge).await["outcome"], "caller-hung-up");
    let lasted = began.elapsed();
    assert!(lasted < Duration::from_secs(2), "{lasted:?}");
    drop(hanging);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_four_copies_and_the_fifth_is_refused_with_a_warning() {
    let mut bot = Bot::start().await;
    let ears = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", ears.local_addr().unwrap());
    let tracks = [
        "inbound_track",
        "outbound_track",
        "both_tracks",
        "inbound_track",
        "both_tracks",
    ];
    let copies = tracks.map(|track| format!("<Stream url=\"{url}\" track=\"{track}\"/>"));
    let inner = format!(
        "<Start>{}</Start><Connect><Stream url=\"ws://127.0.0.1:{}/media\"/></Connect>",
        copies.concat(),
        bot.port
    );
    bot.answers("/voice", &inner);
    let bridge = bot.bridge().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut copies = Vec::new();
    for _ in 0..4 {
        copies.push(Worker::accept(&ears).await);
    }
    let worker = bot.streamed().await;
    let (said, answered) = (sound::numbered(0, 60), sound::numbered(500, 60));
    worker.media(&answered.concat());
    call.player().play(&said).await;
    let mut listed = Vec::new();
    for copy in &mut copies {
        let tracks = copy.start()["start"]["tracks"].clone();
        for (name, sound) in [
            ("inbound", said[10..50].concat()),
            ("outbound", answered.concat()),
        ] {
            let carries = tracks.as_array().unwrap().contains(&json!(name));
            if carries {
                hears(copy, name, &sound).await;
            } else {
                assert_eq!(track(copy, name), Vec::<u8>::new());
            }
        }
        listed.push(tracks.to_string());
    }
    listed.sort();
    assert_eq!(
        listed,
        [
            "[\"inbound\",\"outbound\"]",
            "[\"inbound\"]",
            "[\"inbound\"]",
            "[\"outbound\"]"
        ]
    );
    let warnings = metrics(&bridge).await;
    assert!(warnings.contains("sipbridge_twiml_warnings_total 1"));
    assert!(bridge.output().contains("the call has 4 already"));
    // The end of the call ends them all.
    call.bye().await;
    for copy in &mut copies {
        gets(copy, "stop").await;
        copy.listen_to_end().await;
        assert_numbered(copy);
    }
    let unheard = tokio::time::timeout(Duration::from_millis(200), ears.accept());
    assert!(unheard.await.is_err(), "a fifth was dialled");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_where_the_caller_is_joined_with_somebody_who_was_called() {
    let bot = Bot::start().await;
    let phone = Callee::open().await;
    let ears = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The next document is missing: the ladder takes the call, and with it the copy.
    let inner = format!(
        "<Start><Stream track=\"both_tracks\" url=\"ws://{}/\"/></Start><Redirect>/missing</Redirect>",
        ears.local_addr().unwrap()
    );
    bot.answers("/voice", &inner);
    bot.http.script("/missing", [Reply::status(404)]);
    let bridge = bot
        .setup()
        .line_field("sipDomain", json!(phone.local.to_string()))
        .line_field("fallbackNumber", json!("+33144556677"))
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.refuse_refer();
    let mut copy = Worker::accept(&ears).await;
    let invite = phone.invited().await;
    let remote = phone.answer(&invite).await.media;
    // What each side says, until the other one hears it.
    let (said, answered) = (sound::numbered(0, 500), sound::numbered(1_000, 500));
    let mut callers = call.player();
    let mut phones = phone.rtp.player(remote, 0);
    let talking = async { tokio::join!(callers.play(&said), phones.play(&answered)) };
    let hearing = async {
        hears_run(&mut copy, "inbound", &said).await;
        until(SOON, "the caller hears it", async || {
            sound::contains_run(&call.rtp.audio(), &answered, 50)
        })
        .await;
        hears_run(&mut copy, "outbound", &answered).await;
    };
    tokio::join!(talking, hearing);
    let inbound = track(&copy, "inbound");
    assert!(!sound::contains(&inbound, &answered[200]));
    call.bye().await;
    gets(&mut copy, "stop").await;
    assert_numbered(&copy);
    phone.request("BYE").await;
    bridge.shut_down().await;
}
