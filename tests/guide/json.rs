//! JSON blocks. What stands behind `json` on the fence says what the documents in the block are:
//!
//! - `worker-message`: read by the parser of workers' messages;
//! - `bridge-message`: compared with what the writer of such messages writes;
//! - `job`, `callback`, `incoming-call`: compared with what the code writes;
//! - `health`: compared with what `GET /health` answers;
//! - `lines`: read by the reader of lines files;
//! - `incoming-answer`: read by the reader of such answers;
//! - `request ID`: held to the schema that `/api/openapi.json` has for the body of that operation;
//! - `answer ID STATUS`: held to the schema of that answer;
//! - `any`: JSON, of no kind that the program knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Deserializer, Value, json};
use sipbridge::api::metrics::MetricCounters;
use sipbridge::api::{CallTotals, Health, LineCounts, RedisHealth};
use sipbridge::bridge::overload::Readings;
use sipbridge::core::call::CallDecision;
use sipbridge::core::call_facts::{CallFacts, CallState, CustomParams};
use sipbridge::core::call_object::{CallDirection, CallObject};
use sipbridge::core::callback::answer::read_answer;
use sipbridge::core::callback::event_body;
use sipbridge::core::ids::{AccountSid, CallId, LineId, StreamId};
use sipbridge::core::media_session::playout::MarkEcho;
use sipbridge::core::media_streams::{MessageWriter, parse_worker_message};
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::{Private, Secret};
use sipbridge::lines::file;
use sipbridge::queue::{Job, QueueStats};
use sipbridge::sip::engine::EngineStats;
use sipbridge::store::CallLogStats;

use crate::pages::{self, Block};

#[test]
fn every_json_block_is_what_it_says() {
    let mut seen = BTreeMap::new();
    for page in pages::all() {
        for block in page.blocks.iter().filter(|it| it.language() == "json") {
            let kind = block.info.trim_start_matches("json").trim();
            judge(block, kind);
            *seen.entry(kind.to_owned()).or_insert(0) += 1;
        }
    }
    for kind in ["worker-message", "bridge-message", "job", "lines"] {
        assert!(seen.contains_key(kind), "no block of kind {kind}");
    }
}

fn judge(block: &Block, kind: &str) {
    let place = &block.place;
    let documents: Vec<Value> = Deserializer::from_str(&block.text)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{place}: {error}"));
    assert!(!documents.is_empty(), "{place}: empty");
    for document in &documents {
        match kind {
            "worker-message" => worker_message(place, document),
            "bridge-message" => same(place, document, &bridge_message(place, document)),
            "job" => same(place, document, &job(document)),
            "callback" => same(place, document, &call_event(document, Some(0))),
            "incoming-call" => same(place, document, &call_event(document, None)),
            "health" => same(place, document, &health()),
            "lines" => lines(place, document),
            "incoming-answer" => incoming_answer(place, document),
            "any" => {}
            _ => api(place, kind, document),
        }
    }
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    let value = document.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no text at {pointer} in {document}"))
}

/// Both have the same fields with values of the same types; `customParameters`
/// and `customParams` may hold any strings. A null may stand for anything that is not known yet.
fn same(place: &str, documented: &Value, written: &Value) {
    match (documented, written) {
        (Value::Object(documented), Value::Object(written)) => {
            let keys = |object: &serde_json::Map<String, Value>| -> Vec<String> {
                object.keys().cloned().collect()
            };
            assert_eq!(keys(documented), keys(written), "{place}");
            for (key, value) in documented {
                if key.starts_with("customParam") {
                    let strings = value.as_object().unwrap().values().all(Value::is_string);
                    assert!(strings, "{place}: {key}");
                } else {
                    same(&format!("{place}: {key}"), value, &written[key]);
                }
            }
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, _)
        | (_, Value::Null) => {}
        _ => assert_eq!(documented, written, "{place}"),
    }
}

fn worker_message(place: &str, document: &Value) {
    let stream = StreamId::parse(text(document, "/streamSid")).expect("a stream's id");
    if let Err(reason) = parse_worker_message(&document.to_string(), &stream) {
        panic!("{place}: {reason}: {document}");
    }
}

/// What the bridge would write in this message's place.
fn bridge_message(place: &str, document: &Value) -> Value {
    let id = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let stream = id("/streamSid").map_or_else(StreamId::random, |it| StreamId::parse(it).unwrap());
    let call = id("/start/callSid").or(id("/stop/callSid"));
    let call = call.map_or_else(CallId::random, |it| CallId::parse(it).unwrap());
    let account = id("/start/accountSid").or(id("/stop/accountSid"));
    let account = account.map_or_else(AccountSid::random, |it| AccountSid::parse(it).unwrap());
    let mut writer = MessageWriter::new(&stream, &call, &account);
    let mut out = Vec::new();
    match text(document, "/event") {
        "connected" => writer.write_connected(&mut out),
        "start" => {
            let parameters = document.pointer("/start/customParameters").unwrap();
            let parameters = serde_json::from_value(parameters.clone()).unwrap();
            writer.write_start(&parameters, &mut out);
        }
        "media" => {
            let payload = STANDARD.decode(text(document, "/media/payload")).unwrap();
            writer.write_media(0, &payload, &mut out);
        }
        "dtmf" => {
            let digit = text(document, "/dtmf/digit").chars().next().unwrap();
            writer.write_dtmf(digit, &mut out);
        }
        "mark" => {
            let echo = MarkEcho {
                name: text(document, "/mark/name").to_owned(),
                played_ms: document["mark"]["playedMs"].as_u64().unwrap(),
                cleared: document["mark"]["cleared"].as_bool().unwrap(),
            };
            writer.write_mark(&echo, &mut out);
        }
        "stop" => writer.write_stop(&mut out),
        other => panic!("{place}: the bridge sends no {other}"),
    }
    let mut written: Value = serde_json::from_slice(&out).unwrap();
    // The number depends on what came before.
    if let Some(number) = document.get("sequenceNumber") {
        text(document, "/sequenceNumber").parse::<u64>().unwrap();
        written["sequenceNumber"] = number.clone();
    }
    assert_eq!(document, &written, "{place}");
    written
}

fn job(document: &Value) -> Value {
    let now = SystemTime::now();
    let job = Job {
        facts: Arc::new(CallFacts {
            id: CallId::parse(text(document, "/callId")).expect("a call's id"),
            sip_call_id: None,
            line: LineId::new(text(document, "/phoneLineId")),
            restaurant: Some(text(document, "/restaurantId").to_owned()),
            direction: CallDirection::Inbound,
            parent: None,
            from: Private::new(text(document, "/from")),
            to: Private::new(text(document, "/to")),
            started: now,
        }),
        stream: StreamId::parse(text(document, "/streamSid")).expect("a stream's id"),
        stream_url: Secret::new(text(document, "/audioStreamUrl").to_owned()),
        created: now,
        expires: now,
        attempt: 1,
        resumed: false,
        resumed_from: None,
        custom_parameters: CustomParams::default(),
        agent: None,
    };
    let payload = job.payload(text(document, "/bridgeNodeId"));
    serde_json::from_str(&payload).unwrap()
}

/// What a receiver of callbacks gets.
fn call_event(document: &Value, sequence: Option<u32>) -> Value {
    let now = SystemTime::now();
    let facts = CallFacts {
        id: CallId::parse(text(document, "/sid")).expect("a call's id"),
        sip_call_id: None,
        line: LineId::new(text(document, "/phoneLineId")),
        restaurant: Some("r".to_owned()),
        direction: CallDirection::Inbound,
        parent: None,
        from: Private::new(text(document, "/from")),
        to: Private::new(text(document, "/to")),
        started: now,
    };
    let mut state = CallState {
        answered: Some(now),
        sip_status: 200,
        ..CallState::default()
    };
    state.end(Outcome::CallerHungUp, now);
    let call = CallObject {
        facts: Arc::new(facts),
        state,
    };
    event_body(&call, text(document, "/event"), sequence, now)
}

fn health() -> Value {
    let health = Health {
        node_id: "node".to_owned(),
        uptime: Duration::from_secs(1),
        draining: false,
        lines: LineCounts::default(),
        calls_active: 0,
        calls_max: 1,
        totals: CallTotals::default(),
        overloaded: false,
        readings: Readings::default(),
        engine: EngineStats::default(),
        cluster: None,
        redis: Some(RedisHealth {
            connected: true,
            since: Duration::from_secs(1),
            failure: None,
            lost: QueueStats::default(),
        }),
        has_ws_target: false,
        counters: MetricCounters {
            records: Some(CallLogStats::default()),
            ..MetricCounters::default()
        },
    };
    health.body()
}

fn lines(place: &str, document: &Value) {
    let text = document.to_string();
    let read = file::parse(Path::new(place), text.as_bytes()).unwrap();
    let issues = read.mistakes.iter().chain(&read.warnings);
    let issues: Vec<String> = issues.map(ToString::to_string).collect();
    assert!(issues.is_empty(), "{place}: {issues:?}");
    assert!(!read.lines.is_empty(), "{place}: no line");
}

fn incoming_answer(place: &str, document: &Value) {
    let answer = read_answer(document.to_string().as_bytes());
    let answer = answer.unwrap_or_else(|error| panic!("{place}: {error}"));
    let known = [
        "action",
        "statusCode",
        "customParams",
        "wsTarget",
        "callbackUrl",
    ];
    let mut names = document.as_object().unwrap().keys();
    assert!(names.all(|name| known.contains(&name.as_str())), "{place}");
    match answer {
        CallDecision::Accept(accepted) => {
            let count = |name: &str| document[name].as_object().map_or(0, serde_json::Map::len);
            assert_eq!(
                accepted.custom_params.len(),
                count("customParams"),
                "{place}"
            );
        }
        CallDecision::Reject(status) => {
            assert_eq!(
                document["statusCode"].as_u64(),
                Some(status.into()),
                "{place}"
            );
        }
        CallDecision::Ignore => {}
    }
}

/// `request ID` or `answer ID STATUS`, with the `operationId` of the API.
fn api(place: &str, kind: &str, document: &Value) {
    let openapi = sipbridge::api::openapi::document().to_json().unwrap();
    let openapi: Value = serde_json::from_str(&openapi).unwrap();
    let words: Vec<&str> = kind.split(' ').collect();
    let paths = openapi["paths"].as_object().unwrap().values();
    let mut operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let mut find = |id: &str| {
        let found = operations.find(|operation| operation["operationId"] == id);
        found.unwrap_or_else(|| panic!("{place}: there is no operation {id}"))
    };
    let content = match words[..] {
        ["request", id] => &find(id)["requestBody"]["content"],
        ["answer", id, status] => &find(id)["responses"][status]["content"],
        _ => panic!("{place}: {kind:?} is no kind of JSON"),
    };
    let schema = content
        .as_object()
        .and_then(|kinds| kinds.values().next())
        .map(|kind| &kind["schema"])
        .unwrap_or_else(|| panic!("{place}: {kind} has no body"));
    let root = json!({"allOf": [schema], "components": openapi["components"]});
    let validator = jsonschema::validator_for(&root).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{place}: {errors:?}");
    let known = properties(&openapi, schema);
    for name in document.as_object().into_iter().flat_map(|it| it.keys()) {
        assert!(
            known.contains(name),
            "{place}: {name} is no field of {kind}"
        );
    }
}

/// The fields that a schema knows, by its parts too.
fn properties(openapi: &Value, schema: &Value) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        return properties(openapi, openapi.pointer(pointer).unwrap());
    }
    let own = schema["properties"].as_object();
    let own = own.into_iter().flat_map(|it| it.keys().cloned());
    let parts = ["allOf", "oneOf", "anyOf"];
    let parts = parts.iter().filter_map(|name| schema[name].as_array());
    let parts = parts.flatten().flat_map(|part| properties(openapi, part));
    own.chain(parts).collect()
}
