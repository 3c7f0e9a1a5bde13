//! Lines from a database, and a record per call in it: the real bridge with
//! SQLite and with a private PostgreSQL.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::Secret;
use sipbridge::store::{CallQuery, CallRecord, Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{
    LINE, NUMBER, PASSWORD, RESTAURANT, Setup, USERNAME, clean_command, encrypt, line,
};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::{TrunkLine, local};
use crate::harness::postgres::Postgres;
use crate::harness::{Caller, Job, Kamailio, Redis, SOON, Worker, sound, until};

const UUID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// A bridge with a queue and this database, and no lines file.
fn with_database(redis: &Redis, url: &str) -> Setup {
    let mut setup = Setup::queue(redis).args(&["--database-url", url]);
    setup.lines.clear();
    setup
}

fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

async fn records(location: &Location) -> Vec<CallRecord> {
    let store = Store::look(location).await.unwrap().unwrap();
    let query = CallQuery {
        limit: 100,
        ..CallQuery::default()
    };
    let page = store.calls(&query).await.unwrap();
    store.close().await;
    page.calls
}

/// A whole call with a worker and a second of audio; the answer is its job.
async fn call(redis: &Redis, sip: std::net::SocketAddr) -> (Job, String) {
    let mut call = Caller::connect(sip, NUMBER).await;
    let job = Job::take(redis).await;
    let mut worker = Worker::attach(&job).await;
    call.player().play(&sound::numbered(0, 50)).await;
    worker.listen(Duration::from_millis(200)).await;
    call.bye().await;
    worker.listen_to_end().await;
    let stream = worker.stream_sid.clone();
    (job, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_imported_and_calls_leave_records() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let path = dir.path().join("bridge.db");
    let mut setup = with_database(&redis, &sqlite_url(&path));
    setup.lines.push(line(LINE, USERNAME, NUMBER));
    let before = SystemTime::now() - Duration::from_millis(1);
    let bridge = setup.start().await;
    let output = bridge.output();
    // A start that found a port in use has imported the line already.
    let imported = output.contains("new=1") || output.contains("unchanged=1");
    assert!(
        output.contains("lines file imported") && imported,
        "{output}"
    );
    let location = Location::Sqlite(path.clone());

    let caller = Caller::connect(bridge.sip(), NUMBER).await;
    let waiting = Job::take(&redis).await;
    until(SOON, "the record of a call in progress", async || {
        records(&location).await.len() == 1
    })
    .await;
    let running = records(&location).await.remove(0);
    let state = &running.call.state;
    assert_eq!(running.call.facts.id.as_str(), waiting.text("callId"));
    assert_eq!(
        (state.ended, state.outcome, running.audio),
        (None, None, None)
    );
    let mut caller = caller;
    caller.bye().await;

    let (job, stream) = call(&redis, bridge.sip()).await;
    bridge.shut_down().await;
    let found = records(&location).await;
    assert_eq!(found[0].call.state.outcome, Some(Outcome::Abandoned));
    let record = &found[1];
    let (facts, state) = (&record.call.facts, &record.call.state);
    assert_eq!(facts.id.as_str(), job.text("callId"));
    assert_eq!(state.outcome, Some(Outcome::CallerHungUp));
    assert_eq!(facts.line.as_str(), LINE);
    assert_eq!(facts.restaurant.as_deref(), Some(RESTAURANT));
    assert_eq!(
        (record.node.as_str(), facts.direction.as_str()),
        ("node-e2e", "inbound")
    );
    assert_eq!(facts.from.expose(), CALLER_NUMBER);
    assert_eq!(facts.to.expose(), NUMBER);
    assert_eq!(
        state.stream.as_ref().map(|id| id.as_str()),
        Some(stream.as_str())
    );
    assert_eq!((state.worker.as_deref(), state.attempt), (Some("queue"), 1));
    assert_eq!(state.sip_status, 200);
    let (answered, ended) = (state.answered.unwrap(), state.ended.unwrap());
    assert!(before <= facts.started && facts.started <= answered && answered < ended);
    let audio = record.audio.unwrap();
    assert_eq!((audio.packets_received, audio.packets_lost), (50, 0));
    let counters = audio.counters.expect("counters");
    let frames = counters.iter().find(|(name, ..)| *name == "rtp_invalid");
    assert_eq!(frames.map(|(.., value)| value), Some(0));
    assert!(
        audio.packets_sent > 20 && audio.mos.unwrap() > 3.5,
        "{audio:?}"
    );

    // Without the file, the line is still there.
    let bridge = with_database(&redis, &sqlite_url(&path)).start().await;
    call(&redis, bridge.sip()).await;
    bridge.shut_down().await;
    assert_eq!(records(&location).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_production_registers_at_the_fallback_server() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let trunk = Kamailio::start(
        &[TrunkLine {
            username: USERNAME,
            password: PASSWORD,
            number: NUMBER,
        }],
        &[],
    );
    let stored = encrypt(UUID, PASSWORD);
    postgres.sql(&format!(
        "CREATE TABLE phone_lines (id uuid PRIMARY KEY, restaurant_id uuid, phone_number varchar(20),
            provider varchar(10), sip_domain varchar(255), sip_username varchar(100),
            sip_password varchar(255), twilio_trunk_sid varchar(64), is_active boolean,
            created_at timestamptz DEFAULT now());
         INSERT INTO phone_lines VALUES ('{UUID}', '{UUID}', '{NUMBER}', 'sip', NULL,
            '{USERNAME}', '{stored}', NULL, true);
         INSERT INTO phone_lines VALUES ('6ba7b811-9dad-11d1-80b4-00c04fd430c8', NULL, '+331',
            'sip', NULL, 'gone', '{stored}', NULL, true)"
    ));
    let location = Location::Postgres {
        url: Secret::new(postgres.url()),
        shown: "postgres".into(),
    };
    let store = Store::open(&location).await.unwrap();
    let server = json!({"id": "trunk", "trunk_uri": format!("sip:127.0.0.1:{}", trunk.port),
        "contact_transport": "udp"});
    let columns = sipbridge::lines::row::SERVER_COLUMNS;
    let server = sipbridge::lines::Row::from_object(columns, server.as_object().unwrap());
    store.insert_server(&server).await.unwrap();
    store.set_fallback(Some("trunk")).await.unwrap();

    let bridge = with_database(&redis, &postgres.url())
        .env("RUST_LOG", "trace")
        .trunk(trunk.port)
        .start()
        .await;
    until(SOON, "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;
    // The other one has the password of another id, and keeps nobody back.
    let output = bridge.output();
    assert!(
        output.contains(
            "00c04fd430c8\": field \"sipPassword\": the encrypted password does not decrypt"
        ),
        "{output}"
    );
    let (job, _) = call(&redis, local(trunk.port)).await;
    assert_eq!(job.text("phoneLineId"), UUID);
    let output = bridge.output();
    for secret in [PASSWORD, &stored, NUMBER, CALLER_NUMBER] {
        assert!(
            !output.contains(secret),
            "a secret or a number is in the log"
        );
    }
    bridge.shut_down().await;
    let found = records(&location).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].call.facts.line.as_str(), UUID);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_killed_bridge_are_marked_at_its_next_start() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let data = dir.path().join("data");
    let setup = || {
        let setup = Setup::queue(&redis);
        setup.args(&["--data-dir", data.to_str().unwrap()])
    };
    let mut bridge = setup().start().await;
    let location = Location::Sqlite(data.join("sipbridge.db"));
    let _call = Caller::connect(bridge.sip(), NUMBER).await;
    Job::take(&redis).await;
    until(SOON, "its record", async || {
        records(&location).await.len() == 1
    })
    .await;
    bridge.process.signal("KILL");
    bridge.exit(SOON).await;
    // A container that is made anew has another name, and the same folder.
    let bridge = setup().args(&["--node-id", "node-anew"]).start().await;
    let found = records(&location).await;
    assert_eq!(found[0].call.state.outcome, Some(Outcome::BridgeLost));
    assert!(found[0].call.state.ended.is_some());
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_by_mistake_touches_nothing_of_the_first() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let data = dir.path().join("data");
    let setup = || {
        let setup = Setup::queue(&redis);
        setup.args(&["--data-dir", data.to_str().unwrap()])
    };
    let bridge = setup().start().await;
    let location = Location::Sqlite(data.join("sipbridge.db"));
    let mut caller = Caller::connect(bridge.sip(), NUMBER).await;
    Job::take(&redis).await;
    until(SOON, "its record", async || {
        records(&location).await.len() == 1
    })
    .await;
    let mut second = setup()
        .line(line("line-2", "trunkuser2", "+33155667788"))
        .args(&["--api-port", &bridge.api_port.to_string()])
        .spawn();
    assert_eq!(second.exit(SOON).await.code, Some(1));
    let output = second.output();
    assert!(output.contains("cannot listen for HTTP"), "{output}");
    let found = records(&location).await.remove(0);
    assert_eq!(
        (found.call.state.ended, found.call.state.outcome),
        (None, None),
        "it goes on"
    );
    let store = Store::look(&location).await.unwrap().unwrap();
    assert!(store.line("line-2").await.unwrap().is_none());
    store.close().await;
    caller.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_so_many_days_after_the_calls_end() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let path = dir.path().join("bridge.db");
    let location = Location::Sqlite(path.clone());
    Store::open(&location).await.unwrap().close().await;
    // 500 that ended 31 days ago, and one that ended 29 days ago.
    let sql = "WITH RECURSIVE n(day, i) AS (VALUES (29, 0) UNION ALL \
         SELECT 31, i + 1 FROM n WHERE i < 500) \
         INSERT INTO calls (call_id, node_id, line_id, direction, started_at, ended_at, attempts) \
         SELECT 'CA' || lower(hex(randomblob(16))), 'n', 'l', 'inbound', ended, ended, 1 FROM \
         (SELECT (CAST(strftime('%s', 'now') AS INTEGER) - day * 86400) * 1000 AS ended FROM n)";
    let mut sqlite = std::process::Command::new("sqlite3");
    let filled = sqlite.args(["-cmd", ".timeout 5000"]).arg(&path).arg(sql);
    assert!(filled.status().unwrap().success());
    let keeping = |days: &str| {
        let setup = with_database(&redis, &sqlite_url(&path)).env("KEEP_RECORDS", days);
        setup.start()
    };
    let bridge = keeping("0").await;
    bridge.shut_down().await;
    assert_eq!(records(&location).await.len(), 100, "a page of them");
    let bridge = keeping("30").await;
    until(SOON, "the old ones are deleted", async || {
        records(&location).await.len() == 1
    })
    .await;
    until(SOON, "the log says so", async || {
        let output = bridge.output();
        output.contains("old records of calls deleted") && output.contains("records=500")
    })
    .await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_up_no_call() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let setup = Setup::queue(&redis).args(&["--database-url", &postgres.url()]);
    let bridge = setup.start().await;
    postgres.signal("STOP");
    for _ in 0..3 {
        call(&redis, bridge.sip()).await;
    }
    postgres.signal("CONT");
    let location = Location::Postgres {
        url: Secret::new(postgres.url()),
        shown: "postgres".into(),
    };
    until(SOON, "three whole records", async || {
        let found = records(&location).await;
        found.len() == 3 && found.iter().all(|record| record.call.state.ended.is_some())
    })
    .await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_no_reason_not_to_start() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let url = sqlite_url(&dir.path().join("new.db"));
    let bridge = with_database(&redis, &url).start().await;
    assert!(
        bridge
            .output()
            .contains("the database holds no phone line that can be used")
    );
    // It can take no call yet, and says so.
    assert_eq!(bridge.health().await.status, 503);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_a_start_error() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let path = dir.path().join("text.db");
    std::fs::write(&path, "not a database, but plain text\n".repeat(100)).unwrap();
    for (url, expected) in [
        (
            sqlite_url(&path),
            "cannot be opened: file is not a database",
        ),
        (
            sqlite_url(&dir.path().join("no/x.db")),
            "cannot be opened: No such file",
        ),
        (
            "postgres://u:hunter2@127.0.0.1:1/x".into(),
            "database postgres://***@127.0.0.1:1/***: cannot be opened",
        ),
    ] {
        let mut bridge = with_database(&redis, &url).spawn();
        assert_eq!(bridge.exit(SOON).await.code, Some(1));
        let output = bridge.output();
        assert!(
            output.contains("not started") && output.contains(expected),
            "{output}"
        );
        assert!(!output.contains("hunter2"));
        let check = clean_command()
            .args(["check", "--database-url", &url])
            .output()
            .unwrap();
        let shown = String::from_utf8(check.stdout).unwrap();
        assert_eq!(check.status.code(), Some(1));
        assert!(shown.contains("error    database "), "{shown}");
        assert!(!shown.contains("hunter2"));
    }
}
