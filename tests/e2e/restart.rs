//! A bridge that is started again with many encrypted lines takes calls at once:
//! each line registers as soon as its own password is decrypted, those that had
//! calls last first.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use sipbridge::core::call_facts::{CallFacts, CallState};
use sipbridge::core::call_object::{CallDirection, CallObject};
use sipbridge::core::ids::{CallId, LineId};
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::Private;
use sipbridge::lines::Row;
use sipbridge::lines::row::LINE_COLUMNS;
use sipbridge::store::call_log::CallLog;
use sipbridge::store::{CallRecord, Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, PASSWORD, Setup, encrypt, line};
use crate::harness::scripted_trunk::{Manner, ScriptedTrunk};
use crate::harness::{Api, Bridge, Caller, Exit, Job, Redis, SOON, until};

const LINES: &str = "/api/admin/telephony/phone-lines";
/// What the first REGISTER may take.
const FIRST: Duration = Duration::from_secs(2);
/// It has the form of an encrypted password, takes as long, and does not decrypt.
const FOREIGN: &str = "AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA==:AAAA";

/// A line of the database, with this as its stored password.
fn row(id: &str, number: &str, stored: &str, trunk: &ScriptedTrunk) -> Row {
    let mut value = line(id, id, number);
    value["sipPassword"] = json!(stored);
    value["sipDomain"] = json!(trunk.address.to_string());
    Row::from_object(LINE_COLUMNS, value.as_object().unwrap())
}

/// A call that each line had, the last one's last.
async fn had_calls(store: &Store, lines: &[&str]) {
    let (log, task) = CallLog::start(store.clone(), "node-e2e");
    let now = SystemTime::now();
    for (age_h, line) in lines.iter().rev().enumerate() {
        let started = now - Duration::from_secs(3_600 * (age_h as u64 + 1));
        let facts = CallFacts {
            id: CallId::random(),
            sip_call_id: None,
            line: LineId::new(*line),
            restaurant: None,
            direction: CallDirection::Inbound,
            parent: None,
            from: Private::new("+33612345678"),
            to: Private::new(NUMBER),
            started,
        };
        let mut state = CallState::default();
        state.end(Outcome::CallerHungUp, started + Duration::from_secs(5));
        log.record(CallRecord {
            call: CallObject {
                facts: Arc::new(facts),
                state,
            },
            node: "node-e2e".into(),
            audio: None,
        });
    }
    task.stop(SOON).await;
}

/// The users that have registered so far, each once, in the order of their first
/// REGISTER; and when that of the first came.
fn registered(trunk: &ScriptedTrunk) -> (Vec<String>, Option<Instant>) {
    let seen = trunk.seen("REGISTER");
    let mut users = Vec::new();
    for request in &seen {
        let to = request.text.split("\r\nTo: ").nth(1).unwrap();
        let user = to.split("sip:").nth(1).unwrap();
        let user = user.split('@').next().unwrap().to_owned();
        if !users.contains(&user) {
            users.push(user);
        }
    }
    (users, seen.first().map(|first| first.at))
}

async fn lines_in_health(bridge: &Bridge, field: &str) -> u64 {
    let health: Value = serde_json::from_str(&bridge.health().await.body).unwrap();
    health["lines"][field].as_u64().unwrap()
}

async fn database(path: &Path, rows: &[Row]) -> (Store, String) {
    let location = Location::Sqlite(path.to_path_buf());
    let store = Store::open(&location).await.unwrap();
    store.import(rows).await.unwrap();
    (store, format!("sqlite://{}", path.display()))
}

fn with_database(redis: &Redis, url: &str, trunk: &ScriptedTrunk) -> Setup {
    let setup = Setup::queue(redis).args(&["--database-url", url]);
    let mut setup = setup.trunk(trunk.address.port());
    setup.lines.clear();
    setup
}

/// A call to a line that has not registered is taken, and the API says what it waits for.
async fn is_called_while_it_is_sealed(bridge: &Bridge, redis: &Redis, id: &str, number: &str) {
    assert!(lines_in_health(bridge, "decrypting").await > 0);
    let line = Api::of(bridge)
        .get(&format!("{LINES}/{id}"))
        .await
        .expect(200);
    assert_eq!(line["state"], "decrypting");
    let mut call = Caller::connect(bridge.sip(), number).await;
    assert_eq!(Job::take(redis).await.text("phoneLineId"), id);
    call.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_register_one_by_one_those_called_last_first_and_take_calls_before() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let trunk = ScriptedTrunk::udp("127.0.0.1:0", Manner::Answers).await;
    let number = |index: u32| format!("+3314200{index:04}");
    let mut rows: Vec<Row> = (0..300)
        .map(|index| row(&format!("many-{index}"), &number(index), FOREIGN, &trunk))
        .collect();
    for id in ["older", "latest"] {
        rows.push(row(id, NUMBER, &encrypt(id, PASSWORD), &trunk));
    }
    let (store, url) = database(&dir.path().join("bridge.db"), &rows).await;
    // One whose password does not decrypt is among those that come first.
    had_calls(&store, &["older", "many-7", "latest"]).await;

    let bridge = with_database(&redis, &url, &trunk).start().await;
    let up = Instant::now();
    is_called_while_it_is_sealed(&bridge, &redis, "many-299", &number(299)).await;
    until(SOON, "both that can are registered", async || {
        lines_in_health(&bridge, "registered").await == 2
    })
    .await;
    let (users, first) = registered(&trunk);
    assert_eq!(users, ["latest", "older"]);
    let after = first.unwrap().saturating_duration_since(up);
    assert!(after < FIRST, "{after:?}");
    let problem = "line \"many-7\": field \"sipPassword\": the encrypted password does not decrypt";
    assert!(bridge.output().contains(problem));
    let bad = Api::of(&bridge)
        .get(&format!("{LINES}/many-7"))
        .await
        .expect(200);
    assert_eq!(bad["state"], "unusable");
    assert!(lines_in_health(&bridge, "unusable").await > 0);
    // Told to stop while there is much to decrypt.
    assert!(lines_in_health(&bridge, "decrypting").await > 50);
    let told = Instant::now();
    bridge.shut_down().await;
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(registered(&trunk).0.len(), 2, "the others never registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_added_later_take_calls_before_their_passwords_are_decrypted() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let trunk = ScriptedTrunk::udp("127.0.0.1:0", Manner::Answers).await;
    let first = [row("first", NUMBER, PASSWORD, &trunk)];
    let (store, url) = database(&dir.path().join("bridge.db"), &first).await;
    let bridge = with_database(&redis, &url, &trunk).start().await;
    let number = |index: u32| format!("+3314200{index:04}");
    let mut rows: Vec<Row> = (0..15)
        .map(|index| row(&format!("many-{index}"), &number(index), FOREIGN, &trunk))
        .collect();
    let stored = encrypt("z-added", PASSWORD);
    rows.push(row("z-added", &number(15), &stored, &trunk));
    store.import(&rows).await.unwrap();
    let added = format!("{LINES}/z-added");
    until(SOON, "they are taken up", async || {
        Api::of(&bridge).get(&added).await.expect(200)["state"] != "pending"
    })
    .await;
    is_called_while_it_is_sealed(&bridge, &redis, "z-added", &number(15)).await;
    until(Duration::from_secs(60), "it registers", async || {
        registered(&trunk).0 == ["first", "z-added"]
    })
    .await;
    until(SOON, "the others are reported", async || {
        lines_in_health(&bridge, "unusable").await == 15
    })
    .await;
    assert_eq!(lines_in_health(&bridge, "registered").await, 2);
    assert_eq!(lines_in_health(&bridge, "decrypting").await, 0);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_password_decrypts_the_bridge_is_not_started() {
    let mut setup = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/media"]);
    setup.lines = vec![
        line("one", "one", NUMBER),
        line("two", "two", "+33142000002"),
        line("three", "three", "+33142000003"),
    ];
    for line in &mut setup.lines {
        line["sipPassword"] = json!(FOREIGN);
    }
    let mut bridge = setup.spawn();
    let exit = bridge.exit(Duration::from_secs(30)).await;
    assert_eq!(exit, Exit { code: Some(1) });
    let output = bridge.output();
    assert!(
        output.contains("not started: no phone line can be used (3 have mistakes, listed above)"),
        "{output}"
    );
    for id in ["one", "two", "three"] {
        assert!(output.contains(&format!(
            "line \"{id}\": field \"sipPassword\": the encrypted password does not decrypt"
        )));
    }
}
