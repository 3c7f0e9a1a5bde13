//! Whole conversations in virtual time.

use std::time::{Duration, Instant};

use super::stage_tests::{SECOND, Stage, webhook};
use super::terms::{
    FetchFailure, Instructions, PromptSound, StreamEnd, VoiceCommand, VoicePolicy, VoiceRole,
};
use super::{FETCH_LIMIT, FETCHES_IN_ROW_MAX, VoiceCall};
use crate::core::outward::WrittenBy;
use crate::core::twiml::dial_string::DialString;
use crate::core::twiml::{WARNINGS_MAX, parse};

const MS: Duration = Duration::from_millis(1);

/// An answered call that runs this document.
fn answered(inner: &str) -> (Stage, Vec<String>) {
    let mut stage = Stage::ringing().answers("/voice", inner);
    assert_eq!(stage.begin(), ["fetch /voice", "answer"]);
    let told = stage.established();
    (stage, told)
}

#[test]
fn a_bots_call_goes_to_its_worker_and_ends_with_it() {
    let inner = "<Connect><Stream url='wss://bot.example/media'/></Connect>";
    let (mut stage, told) = answered(inner);
    assert_eq!(told, ["stream wss://bot.example/media"]);
    assert_eq!(
        stage.call.poll_timeout(),
        None,
        "a worker talks as long as it likes"
    );
    assert_eq!(stage.stream_ended(StreamEnd::Closed), ["hang up"]);
    assert!(stage.call.is_over());
    assert_eq!(stage.ended(), [""; 0]);
}

#[test]
fn after_a_stream_its_action_is_asked_else_the_next_verb_follows() {
    let inner = "<Connect action='/after'><Stream url='wss://w/'/></Connect><Say>never</Say>";
    let mut stage = Stage::ringing()
        .answers("/voice", inner)
        .answers("/after", "<Say>Bye</Say>");
    stage.begin();
    stage.established();
    assert_eq!(
        stage.stream_ended(StreamEnd::Closed),
        ["fetch /after", "say Bye"]
    );
    assert_eq!(stage.played(SECOND), ["hang up"]);
    let (mut stage, _) = answered("<Connect><Stream url='wss://w/'/></Connect><Say>Bye</Say>");
    assert_eq!(stage.stream_ended(StreamEnd::Closed), ["say Bye"]);
}

#[test]
fn a_worker_that_is_lost_for_good_leaves_no_silence() {
    let lost = "warn: the worker of a <Stream> cannot be reached";
    let (mut stage, _) = answered("<Connect><Stream url='wss://w/'/></Connect>");
    assert_eq!(stage.stream_ended(StreamEnd::Lost), [lost, "fall back"]);
    let (mut stage, _) = answered("<Connect><Stream url='wss://w/'/></Connect><Say>Sorry</Say>");
    assert_eq!(stage.stream_ended(StreamEnd::Lost), [lost, "say Sorry"]);
}

#[test]
fn a_menu_asks_says_and_goes_on_by_the_key() {
    let menu = "<Gather numDigits='1' action='/chosen'><Say>Press 1 or 2</Say><Pause length='2'/><Play>/tune.wav</Play></Gather>\
                <Say>Nothing came</Say><Redirect>/voice</Redirect>";
    let mut stage = Stage::ringing()
        .answers("/voice", menu)
        .answers("/chosen", "<Say>Thank you</Say><Hangup/>");
    assert_eq!(stage.begin(), ["fetch /voice", "answer"]);
    assert_eq!(stage.established(), ["say Press 1 or 2"]);
    assert_eq!(stage.played(3 * SECOND), [""; 0]);
    assert_eq!(stage.deadline(2 * SECOND), ["play /tune.wav"]);
    assert_eq!(stage.played(SECOND), [""; 0]);
    // Nobody presses a key within 5 s: the next verb, and round again.
    assert_eq!(stage.deadline(5 * SECOND), ["say Nothing came"]);
    assert_eq!(stage.played(SECOND), ["fetch /voice", "say Press 1 or 2"]);
    // A key in the midst of the prompt: it stops at once.
    stage.now += SECOND;
    assert_eq!(
        stage.digits("2"),
        [
            "stop sound",
            "fetch /chosen Digits=2 FinishedOnKey=",
            "say Thank you"
        ]
    );
    assert_eq!(stage.played(SECOND), ["hang up"]);
}

#[test]
fn gather_ends_by_number_key_and_time() {
    let gather = |attributes: &str| {
        let inner = format!("<Gather action='/g' timeout='3' {attributes}/><Say>next</Say>");
        let mut stage = Stage::ringing()
            .answers("/voice", &inner)
            .answers("/g", "hang");
        stage.begin();
        stage.established();
        stage
    };
    // The key is told, and is no digit.
    let mut stage = gather("");
    assert_eq!(stage.digits("12"), [""; 0]);
    assert_eq!(stage.digits("#"), ["fetch /g Digits=12 FinishedOnKey=#"]);
    // Each digit gives the next one its time.
    let mut stage = gather("numDigits='3'");
    stage.now += 2 * SECOND;
    assert_eq!(stage.digits("1"), [""; 0]);
    assert_eq!(
        stage.deadline(3 * SECOND),
        ["fetch /g Digits=1 FinishedOnKey="]
    );
    let mut stage = gather("numDigits='3'");
    assert_eq!(stage.digits("1*#"), ["fetch /g Digits=1* FinishedOnKey=#"]);
    let mut stage = gather("numDigits='3' finishOnKey=''");
    assert_eq!(stage.digits("1#*9"), ["fetch /g Digits=1#* FinishedOnKey="]);
    // Nothing but the key is nothing; unless the action wants to know.
    assert_eq!(gather("").digits("#"), ["say next"]);
    assert_eq!(gather("").deadline(3 * SECOND), ["say next"]);
    let mut stage = gather("actionOnEmptyResult='true'");
    assert_eq!(
        stage.deadline(3 * SECOND),
        ["fetch /g Digits= FinishedOnKey="]
    );
    // What is no key of a phone changes nothing.
    assert_eq!(gather("numDigits='1'").digits("x"), [""; 0]);
}

#[test]
fn say_and_play_are_repeated_and_pauses_kept() {
    let (mut stage, told) = answered("<Play loop='2'>/a.wav</Play><Pause length='4'/><Say>b</Say>");
    assert_eq!(told, ["play /a.wav"]);
    assert_eq!(stage.played(SECOND), ["play /a.wav"]);
    assert_eq!(stage.played(SECOND), [""; 0]);
    assert_eq!(stage.deadline(4 * SECOND), ["say b"]);
    assert_eq!(stage.played(SECOND), ["hang up"]);
    // Without end, until somebody says otherwise.
    let (mut stage, _) = answered("<Play loop='0'>/a.wav</Play><Say>never</Say>");
    for _ in 0..2_000 {
        assert_eq!(stage.played(SECOND), ["play /a.wav"]);
    }
    // What is empty or fails is not tried for ever.
    assert_eq!(stage.played(MS), ["say never"]);
    let (mut stage, _) = answered("<Play loop='0'>/a.wav</Play><Say>next</Say>");
    let failed = "warn: a sound could not be played, and is left out";
    assert_eq!(stage.sound_failed(), [failed, "say next"]);
}

#[test]
fn digits_are_sent_with_their_pauses() {
    let (mut stage, told) = answered("<Play digits='12ww#'/>");
    assert_eq!(told, ["send 12"]);
    assert_eq!(stage.played(440 * MS), [""; 0]);
    assert_eq!(stage.deadline(SECOND), ["send #"]);
    assert_eq!(stage.played(220 * MS), ["hang up"]);
}

#[test]
fn without_a_service_that_speaks_say_is_left_out() {
    let mut stage = Stage::new(VoicePolicy::default()).answers(
        "/voice",
        "<Say loop='0'>a</Say><Gather><Say>b</Say></Gather><Play>/c.wav</Play>",
    );
    stage.begin();
    let warning = "warn: <Say> is left out: no --say-url is given";
    assert_eq!(stage.established(), [warning], "told once");
    assert_eq!(stage.deadline(5 * SECOND), ["play /c.wav"]);
}

#[test]
fn a_call_is_refused_unanswered_where_reject_comes_first() {
    for (inner, expected) in [
        ("<Reject/>", "refuse 603"),
        ("<Reject reason='busy'/><Say>never</Say>", "refuse 486"),
        ("", "hang up"),
    ] {
        let mut stage = Stage::ringing().answers("/voice", inner);
        assert_eq!(stage.begin(), ["fetch /voice", expected]);
        assert!(stage.call.is_over());
    }
    for inner in ["<Hangup/>", "<Pause length='0'/><Reject/>"] {
        let mut stage = Stage::ringing().answers("/voice", inner);
        assert_eq!(stage.begin(), ["fetch /voice", "answer"]);
        stage.established();
        if !stage.call.is_over() {
            assert_eq!(stage.deadline(Duration::ZERO), ["hang up"]);
        }
    }
}

#[test]
fn where_no_document_comes_the_fallback_url_is_asked_and_then_the_ladder() {
    let mut stage = Stage::ringing().answers("/fallback", "<Say>Sorry</Say>");
    let told = stage.begin();
    assert_eq!(
        told[1],
        "warn: no TwiML from https://bot.example: it answered HTTP status 404; the fallback URL is asked"
    );
    assert_eq!(
        told[2],
        "fetch /fallback ErrorCode=11200 ErrorUrl=https://bot.example/voice"
    );
    assert_eq!(told[3..], ["answer"]);
    assert_eq!(stage.established(), ["say Sorry"]);
    // Both fail: the ladder, in a call that still rings.
    let mut stage = Stage::ringing();
    let told = stage.begin();
    assert!(
        told[3].contains("the call gets the line's fallback"),
        "{told:?}"
    );
    assert_eq!(told[4..], ["fall back"]);
    assert!(stage.call.is_over());
    // There is none: the ladder at once.
    let told = Stage::new(VoicePolicy::default()).begin();
    assert_eq!(told.last().map(String::as_str), Some("fall back"));
}

#[test]
fn every_way_in_which_a_webhook_fails_has_twilios_number() {
    let twiml = parse(b"<response/>", None, WrittenBy::Operator).unwrap_err();
    for (failure, code) in [
        (FetchFailure::NoAnswer("connection refused".into()), "11205"),
        (FetchFailure::TooManyRedirects, "11215"),
        (FetchFailure::Status(500), "11200"),
        (FetchFailure::ContentType, "12300"),
        (FetchFailure::Twiml(twiml), "12100"),
    ] {
        let mut stage = Stage::ringing()
            .answers("/voice", "hang")
            .answers("/fallback", "hang");
        assert_eq!(stage.begin(), ["fetch /voice"]);
        stage.fetch_fails(failure);
        assert_eq!(stage.fields.get("ErrorCode"), Some(code));
    }
    let mut stage = Stage::ringing()
        .answers("/voice", "hang")
        .answers("/fallback", "<Reject/>");
    stage.begin();
    let told = stage.deadline(FETCH_LIMIT);
    assert!(told[0].contains("did not answer within 15 s"), "{told:?}");
    assert_eq!(told[2], "refuse 603");
}

#[test]
fn documents_that_lead_to_each_other_at_once_end_at_the_ladder() {
    let mut stage = Stage::ringing().answers("/voice", "<Redirect>/voice</Redirect>");
    stage.begin();
    let told = stage.established();
    assert_eq!(told.len() as u32, FETCHES_IN_ROW_MAX - 1 + 2, "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("fall back"));
    // Also where every other one fails.
    let mut stage = Stage::ringing().answers("/fallback", "<Redirect>/voice</Redirect>");
    stage.begin();
    let told = stage.established();
    assert_eq!(told.last().map(String::as_str), Some("fall back"));
    // With time between them they go on for hours: hold music.
    let hold = "<Pause length='1'/><Redirect>/voice</Redirect>";
    let (mut stage, _) = answered(hold);
    for _ in 0..500 {
        assert_eq!(stage.deadline(SECOND), ["fetch /voice"]);
    }
    // A tune that is over sooner is heard; a click is not.
    let tune = "<Play>/tune.wav</Play><Redirect>/voice</Redirect>";
    let (mut stage, _) = answered(tune);
    for _ in 0..500 {
        let told = stage.played(600 * MS);
        assert_eq!(told, ["fetch /voice", "play /tune.wav"]);
    }
    for _ in 1..FETCHES_IN_ROW_MAX {
        stage.played(50 * MS);
    }
    let told = stage.played(50 * MS);
    assert_eq!(told.last().map(String::as_str), Some("fall back"));
    // With keys between them too.
    let quick = "<Gather numDigits='1' action='/voice'/>";
    let (mut stage, _) = answered(quick);
    for _ in 0..500 {
        assert_eq!(stage.digits("1"), ["fetch /voice Digits=1 FinishedOnKey="]);
    }
}

#[test]
fn the_rest_api_interrupts_whatever_runs() {
    for (inner, stopped) in [
        ("<Say>long</Say>", Some("stop sound")),
        ("<Gather><Say>long</Say></Gather>", Some("stop sound")),
        ("<Gather/>", None),
        ("<Pause length='60'/>", None),
        (
            "<Connect><Stream url='wss://w/'/></Connect>",
            Some("close stream"),
        ),
        ("<Dial>+331</Dial>", Some("end leg 0")),
    ] {
        let (mut stage, _) = answered(&format!("{inner}<Say>never</Say>"));
        let late = stage.awaited();
        let (is_taken, told) = stage.replace("<Say>new</Say>");
        let expected: Vec<_> = stopped.into_iter().chain(["say new"]).collect();
        assert!(is_taken);
        assert_eq!(told, expected, "{inner}");
        // What was interrupted answers late.
        if let Some(late) = late {
            stage.call.handle_played(stage.now, late, true);
            stage
                .call
                .handle_stream_ended(stage.now, late, StreamEnd::Closed);
            assert_eq!(stage.digits(""), [""; 0]);
        }
        assert_eq!(stage.played(SECOND), ["hang up"]);
        assert_eq!(stage.replace("<Say>too late</Say>"), (false, vec![]));
    }
}

#[test]
fn the_rest_api_replaces_a_webhook_that_hangs_and_a_call_that_rings() {
    let mut stage = Stage::ringing().answers("/voice", "hang");
    stage.begin();
    let (_, told) = stage.replace("<Reject/>");
    assert_eq!(told, ["refuse 603"]);
    // Between our 200 and its ACK.
    let mut stage = Stage::ringing().answers("/voice", "<Say>old</Say>");
    assert_eq!(stage.begin(), ["fetch /voice", "answer"]);
    assert_eq!(stage.replace("<Say>new</Say>"), (true, vec![]));
    assert_eq!(stage.established(), ["say new"]);
}

#[test]
fn somebody_who_hangs_up_ends_everything() {
    for inner in [
        "<Say>long</Say>",
        "<Gather/>",
        "<Pause/>",
        "<Connect><Stream url='wss://w/'/></Connect>",
    ] {
        let (mut stage, _) = answered(inner);
        stage.ended();
        assert!(
            stage.call.is_over() && stage.call.poll_timeout().is_none(),
            "{inner}"
        );
        let (mut stage, _) = answered(inner);
        stage.call.handle_hangup_request(stage.now);
        let told = stage.digits("");
        assert_eq!(told.last().map(String::as_str), Some("hang up"), "{inner}");
        assert_eq!(stage.ended(), [""; 0]);
    }
}

#[test]
fn copies_run_beside_whatever_goes_on_up_to_four() {
    let copy = |name: &str| {
        format!("<Start><Stream url='wss://c/' name='{name}' track='both_tracks'/></Start>")
    };
    let inner = format!(
        "{}{}<Stop><Stream name='b'/></Stop><Start><Stream url='wss://c/'/><Stream url='wss://c/'/></Start>{}{}<Stop><Stream name='x'/></Stop><Say>Hi</Say>",
        copy("a"),
        copy("a"),
        copy("c"),
        copy("d"),
    );
    let (mut stage, told) = answered(&inner);
    assert_eq!(
        told,
        [
            "copy Both",
            "warn: a <Stream> of <Start> is left out: another one has its name",
            "warn: a <Stream> of <Stop> does not run",
            "copy Inbound",
            "copy Inbound",
            "copy Both",
            "warn: a <Stream> of <Start> is left out: the call has 4 already",
            "warn: a <Stream> of <Stop> does not run",
            "say Hi",
        ]
    );
    // They outlive the document; one that is stopped makes room.
    let (_, told) = stage.replace(&format!(
        "<Stop><Stream name='c'/></Stop>{}<Say>Ho</Say>",
        copy("d")
    ));
    assert_eq!(told, ["stop sound", "stop copy", "copy Both", "say Ho"]);
}

#[test]
fn a_copy_that_ended_by_itself_makes_room() {
    let copies = "<Start><Stream url='wss://c/'/></Start>".repeat(4);
    let (mut stage, _) = answered(&format!("{copies}<Pause/>"));
    let last = stage.awaited().unwrap();
    stage.call.handle_copy_ended(last);
    let (_, told) = stage.replace("<Start><Stream url='wss://c/'/></Start><Pause/>");
    assert_eq!(told, ["copy Inbound"]);
}

#[test]
fn a_placed_call_is_answered_already() {
    let mut stage = Stage::new(VoicePolicy {
        fallback: Some(webhook("/fallback")),
        can_say: true,
        role: VoiceRole::Outbound,
        ..VoicePolicy::default()
    })
    .answers("/voice", "<Say>Hello</Say>");
    assert_eq!(stage.begin(), ["fetch /voice", "say Hello"]);
}

#[test]
fn a_call_that_a_worker_has_had_is_answered_already() {
    let mut stage = Stage::new(VoicePolicy {
        can_say: true,
        is_answered: true,
        ..VoicePolicy::default()
    });
    let (is_taken, told) = stage.replace("<Say>Hello</Say>");
    assert!(is_taken);
    assert_eq!(told, ["say Hello"]);
    assert!(stage.replace("<Reject/>").1.contains(&"hang up".into()));
}

#[test]
fn a_document_cannot_fill_the_log() {
    let (mut stage, _) = answered("<Pause/>");
    let names = "<Stream name='x'/>".repeat(1_000);
    let (_, told) = stage.replace(&format!("<Stop>{names}</Stop><Pause/>"));
    assert_eq!(told.len(), WARNINGS_MAX, "{told:?}");
}

#[test]
fn a_dialled_leg_hears_its_document_and_is_then_joined() {
    let leg = || {
        Stage::new(VoicePolicy {
            can_say: true,
            role: VoiceRole::DialledLeg,
            ..VoicePolicy::default()
        })
    };
    let mut stage = leg().answers("/voice", "<Dial>+331</Dial><Say>A call for you</Say>");
    let told = stage.begin();
    assert!(told[1].contains("is left out: only Say"), "{told:?}");
    assert_eq!(told[2..], ["say A call for you"]);
    assert_eq!(stage.played(SECOND), ["finished"]);
    assert_eq!(
        leg().answers("/voice", "<Hangup/>").begin()[1..],
        ["hang up"]
    );
    let told = leg().begin();
    assert_eq!(
        told.last().map(String::as_str),
        Some("finished"),
        "it has no ladder"
    );
}

#[test]
fn what_is_not_served_is_told_once_the_document_is_there() {
    let (_, told) = answered_with_warning("<Record/><Say>Hi</Say>");
    assert_eq!(
        told,
        [
            "fetch /voice",
            "warn: <Record> at line 1, column 11 is not served",
            "answer"
        ]
    );
}

fn answered_with_warning(inner: &str) -> (Stage, Vec<String>) {
    let mut stage = Stage::ringing().answers("/voice", inner);
    let told = stage.begin();
    (stage, told)
}

/// The next address that the call asks, and who wrote it.
fn asked(call: &mut VoiceCall) -> Option<(String, WrittenBy)> {
    while let Some(command) = call.poll_command() {
        if let VoiceCommand::Fetch { request, .. } = command {
            let webhook = request.webhook;
            return Some((webhook.url.expose().to_owned(), webhook.written_by));
        }
    }
    None
}

#[test]
fn each_request_says_who_wrote_its_address() {
    let now = Instant::now();
    let mut call = VoiceCall::new(VoicePolicy {
        fallback: Some(webhook("/fallback")),
        is_answered: true,
        ..VoicePolicy::default()
    });
    let inward = "http://169.254.169.254/latest/meta-data";
    let text = format!(
        "<Response><Play>{inward}</Play><Connect action='{inward}'><Stream url='wss://10.0.0.5/'/></Connect></Response>"
    );
    let document = parse(text.as_bytes(), None, WrittenBy::Client).unwrap();
    call.handle_instructions(now, Instructions::Document(document));
    let Some(VoiceCommand::Play { id, sound }) = call.poll_command() else {
        panic!("nothing plays");
    };
    let by_client = WrittenBy::Client;
    assert!(matches!(sound, PromptSound::File { written_by, .. } if written_by == by_client));
    call.handle_played(now + SECOND, id, true);
    let Some(VoiceCommand::OpenStream { id, stream }) = call.poll_command() else {
        panic!("no stream");
    };
    assert_eq!(stream.written_by, by_client);
    call.handle_stream_ended(now + SECOND, id, StreamEnd::Closed);
    assert_eq!(asked(&mut call), Some((inward.to_owned(), by_client)));
    // It cannot be had: the fallback is the operator's, whoever named what failed.
    call.handle_timeout(now + SECOND + FETCH_LIMIT);
    let fallback = "https://bot.example/fallback".to_owned();
    assert_eq!(asked(&mut call), Some((fallback, WrittenBy::Operator)));
}

#[test]
fn digits_of_a_placed_call_come_before_its_document() {
    let placed = || {
        Stage::new(VoicePolicy {
            role: VoiceRole::Outbound,
            first_digits: DialString::parse("12w#"),
            ..VoicePolicy::default()
        })
        .answers("/voice", "<Play>/a.wav</Play>")
    };
    let mut stage = placed();
    assert_eq!(stage.begin(), ["send 12"]);
    assert_eq!(stage.played(440 * MS), [""; 0]);
    assert_eq!(stage.deadline(500 * MS), ["send #"]);
    assert_eq!(
        stage.played(220 * MS),
        ["fetch /voice", "play /a.wav"],
        "they are sent once"
    );
    assert_eq!(
        stage.replace("<Play digits='9'/>").1,
        ["stop sound", "send 9"]
    );
    // A phone that takes none; the REST API meanwhile; a callee who hangs up.
    let mut stage = placed();
    stage.begin();
    let told = stage.sound_failed();
    assert_eq!(told[1..], ["fetch /voice", "play /a.wav"]);
    let mut stage = placed();
    stage.begin();
    let told = stage.replace("<Play digits='9'/>").1;
    assert_eq!(told, ["stop sound", "send 9"]);
    let mut stage = placed();
    stage.begin();
    assert_eq!(stage.ended(), ["stop sound"]);
}
