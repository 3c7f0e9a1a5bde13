//! Tests of events and bodies.

use super::*;
use crate::core::answering_machine::AnsweredBy;
use crate::core::call_facts::{CallFacts, CallState};
use crate::core::call_object::CallDirection;
use crate::core::ids::AccountSid;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, StatusCallback};
use crate::core::voice::webhook::VoiceFacts;
use std::collections::BTreeMap;
use std::time::Duration;

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123)
}

pub(super) fn call() -> CallObject {
    CallObject {
        facts: Arc::new(CallFacts {
            started: start(),
            ..CallFacts::example()
        }),
        state: CallState {
            custom_params: BTreeMap::from([("a".into(), "b&c".into())]).into(),
            ..CallState::default()
        },
    }
}

#[test]
fn each_event_is_told_once_and_in_order() {
    use CallStatus as S;
    for (statuses, expected) in [
        (
            vec![
                S::Initiated,
                S::Ringing,
                S::Answered,
                S::Active,
                S::Completed,
            ],
            "initiated 0 ringing 1 answered 2 completed 3",
        ),
        // Answered at once; the worker was there first; its successor came.
        (
            vec![
                S::Initiated,
                S::Active,
                S::Answered,
                S::Active,
                S::Transferred,
            ],
            "initiated 0 answered 1 completed 2",
        ),
        (
            vec![S::Initiated, S::Busy, S::Failed],
            "initiated 0 completed 1",
        ),
        (
            vec![S::Initiated, S::Answered, S::Ringing],
            "initiated 0 answered 1",
        ),
    ] {
        let mut progress = CallbackProgress::default();
        let told: Vec<String> = statuses
            .into_iter()
            .filter_map(|status| progress.advance(status))
            .map(|(event, number)| format!("{} {number}", event.as_str()))
            .collect();
        assert_eq!(told.join(" "), expected);
    }
}

#[test]
fn a_notice_is_the_call_object_with_event_and_sequence() {
    let notice = WebhookEvent::new(&call(), (CallbackEvent::Ringing, 1), None, start());
    let body: Value = serde_json::from_str(&notice.body).expect("JSON");
    assert_eq!(
        (&body["event"], &body["sequence"]),
        (&json!("ringing"), &json!(1))
    );
    assert_eq!(body["from"], "+33612345678");
    assert!(!format!("{notice:?}").contains("33612345678"));
}

#[test]
fn a_lost_call_gets_its_last_callback() {
    let mut call = call();
    call.state.answered = Some(start());
    call.state.status = CallStatus::Active;
    let url = Some("http://own/");
    let own = url.map(|url| CallbackReceiver::Own(url.to_owned()));
    let before = WebhookEvent::new(&call, (CallbackEvent::Answered, 2), own.as_ref(), start());
    let lost = CallEnd::bridge_lost(start() + Duration::from_secs(90));
    let after = WebhookEvent::at_end(&before, &lost).expect("readable");
    assert_eq!((after.sequence, after.event), (3, CallbackEvent::Completed));
    assert_eq!(after.url.as_ref().map(Secret::expose), url);
    let body: Value = serde_json::from_str(&after.body).expect("JSON");
    assert_eq!(body["status"], "failed");
    assert_eq!(body["outcome"], "bridge-lost");
    assert_eq!(body["event"], "completed");
    assert_eq!(
        (&body["durationSec"], &body["sequence"]),
        (&json!(90), &json!(3))
    );
    assert_eq!(body["endedAt"], "2026-01-15T14:31:30.123Z");
    assert_eq!(body["customParams"], json!({"a": "b&c"}));
    let unreadable = WebhookEvent {
        body: "[]".into(),
        ..before
    };
    assert!(WebhookEvent::at_end(&unreadable, &lost).is_none());
}

#[test]
fn a_call_whose_end_was_not_told_is_told_as_its_record_says() {
    let before = WebhookEvent::new(&call(), (CallbackEvent::Ringing, 1), None, start());
    let told = |end: &CallEnd| -> Value {
        let after = WebhookEvent::at_end(&before, end).expect("readable");
        serde_json::from_str(&after.body).expect("JSON")
    };
    let end = CallEnd {
        answered: Some(start() + Duration::from_secs(5)),
        ended: start() + Duration::from_secs(65),
        outcome: Outcome::CallerHungUp,
        sip_status: 200,
    };
    let body = told(&end);
    assert_eq!(body["event"], "completed");
    assert_eq!(
        (&body["status"], &body["sequence"]),
        (&json!("completed"), &json!(2))
    );
    assert_eq!(
        (&body["outcome"], &body["sipStatus"]),
        (&json!("caller-hung-up"), &json!(200))
    );
    assert_eq!(body["answeredAt"], "2026-01-15T14:30:05.123Z");
    assert_eq!(body["endedAt"], "2026-01-15T14:31:05.123Z");
    assert_eq!(body["durationSec"], 60);
    let body = told(&CallEnd {
        answered: None,
        outcome: Outcome::Refused,
        sip_status: 486,
        ..end
    });
    assert_eq!(
        (&body["status"], &body["answeredAt"]),
        (&json!("busy"), &Value::Null)
    );
}

#[test]
fn query_parameters_leave_out_what_is_not_known() {
    let notice = WebhookEvent::new(&call(), (CallbackEvent::Initiated, 0), None, start());
    let parameters = query_parameters(&notice.body);
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(get("to"), Some("+33972360682"));
    assert_eq!(get("sequence"), Some("0"));
    assert_eq!(get("onHold"), Some("false"));
    assert_eq!(get("customParams"), Some(r#"{"a":"b&c"}"#));
    assert_eq!((get("answeredAt"), get("outcome")), (None, None));
}

fn twilio_receiver(written_by: WrittenBy, method: HttpMethod) -> CallbackReceiver {
    let facts = VoiceFacts {
        call: call().facts.id.clone(),
        account: AccountSid::of_node("node"),
        parent: None,
        direction: CallDirection::Outbound,
        from: Private::new("+33972360682"),
        to: Private::new("+33612345678"),
        forwarded_from: None,
        caller_name: None,
        answered_by: None,
        from_country: None,
        to_country: None,
        sip_headers: Vec::new(),
    };
    let webhook = Webhook {
        url: VoiceUrl::parse_http("http://bot/status").expect("a URL"),
        method,
        written_by,
    };
    let events = vec![CallbackEvent::Ringing, CallbackEvent::Completed];
    let callback = StatusCallback { webhook, events };
    CallbackReceiver::Twilio(Box::new(TwilioReceiver { callback, facts }))
}

#[test]
fn a_receiver_of_twilios_gets_a_form_of_what_it_wants() {
    let receiver = twilio_receiver(WrittenBy::Client, HttpMethod::Get);
    assert!(receiver.wants(CallbackEvent::Ringing) && !receiver.wants(CallbackEvent::Answered));
    assert!(CallbackReceiver::Own("http://own/".into()).wants(CallbackEvent::Answered));
    let mut ringing = call();
    ringing.state.status = CallStatus::Ringing;
    ringing.state.answered_by = Some(AnsweredBy::MachineStart);
    let step = (CallbackEvent::Ringing, 1);
    let notice = WebhookEvent::new(&ringing, step, Some(&receiver), start());
    assert_eq!(
        notice.url.as_ref().map(Secret::expose),
        Some("http://bot/status")
    );
    let form = TwilioForm::of(&notice.body).expect("a form");
    assert_eq!(
        (form.method, form.written_by),
        (Method::Get, WrittenBy::Client)
    );
    for (name, value) in [
        ("CallStatus", "ringing"),
        ("SequenceNumber", "1"),
        ("CallbackSource", "call-progress-events"),
        ("Direction", "outbound-api"),
        ("To", "+33612345678"),
        ("AnsweredBy", "machine_start"),
    ] {
        assert_eq!(form.fields.get(name), Some(value), "{name}");
    }
    assert_eq!(form.fields.get("CallDuration"), None);
    let plain = WebhookEvent::new(&ringing, step, None, start());
    assert_eq!(TwilioForm::of(&plain.body), None);

    // Its bridge dies: the next start makes the last one.
    let lost = CallEnd {
        answered: Some(start()),
        ended: start() + Duration::from_secs(7),
        outcome: Outcome::CallerHungUp,
        sip_status: 200,
    };
    let last = WebhookEvent::at_end(&notice, &lost).expect("readable");
    let form = TwilioForm::of(&last.body).expect("a form");
    for (name, value) in [
        ("CallStatus", "completed"),
        ("SequenceNumber", "2"),
        ("CallDuration", "7"),
        ("SipResponseCode", "200"),
    ] {
        assert_eq!(form.fields.get(name), Some(value), "{name}");
        let times = form.fields.pairs().iter().filter(|(own, _)| own == name);
        assert_eq!(times.count(), 1, "{name}");
    }
}

#[test]
fn who_answered_is_told_outside_the_count_of_the_others() {
    let webhook = Webhook {
        url: VoiceUrl::parse_http("http://bot/who").expect("a URL"),
        method: HttpMethod::Post,
        written_by: WrittenBy::Client,
    };
    let mut fields = FormFields::default();
    fields.push("AnsweredBy", "human");
    let call = call().facts.id.clone();
    let told = WebhookEvent::machine_detection(call, &webhook, &fields);
    assert_eq!(
        told.url.as_ref().map(Secret::expose),
        Some("http://bot/who")
    );
    let form = TwilioForm::of(&told.body).expect("a form");
    assert_eq!(
        (form.method, form.written_by),
        (Method::Post, WrittenBy::Client)
    );
    assert_eq!(form.fields, fields);
    assert!(told.sequence > 1_000_000, "no status has this number");
    // It is kept by its name, which nobody can ask for.
    let name = told.event.as_str();
    assert_eq!(CallbackEvent::parse_kept(name), Some(told.event));
    assert_eq!(CallbackEvent::parse(name), None);
    assert_eq!(
        CallbackEvent::parse_kept("ringing"),
        Some(CallbackEvent::Ringing)
    );
}
