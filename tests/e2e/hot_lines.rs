//! Lines and servers that change while the bridge runs, with Kamailio as the
//! registrar: what was changed is registered, registered anew or unregistered
//! within 5 s, and no other line sends a REGISTER.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sipbridge::lines::Row;
use sipbridge::lines::row::{LINE_COLUMNS, SERVER_COLUMNS};
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, PASSWORD, Setup, encrypt, line};
use crate::harness::peers::{TrunkLine, local};
use crate::harness::postgres::Postgres;
use crate::harness::rtp::{Player, Rtp};
use crate::harness::sdp::Offer;
use crate::harness::{Api, Bridge, Caller, Job, Kamailio, Redis, SOON, Worker, sound, until};

const NUMBER_2: &str = "+33142000002";
const NUMBER_3: &str = "+33142000003";
const USERS: [&str; 3] = ["one", "two", "three"];

/// What a change may take, by the issue.
const LIMIT: Duration = Duration::from_secs(5);
/// For what waits behind calls and behind whatever else this machine does.
const LONG: Duration = Duration::from_secs(60);

fn trunk(variants: &[&'static str]) -> Kamailio {
    let lines: Vec<TrunkLine<'_>> = USERS
        .iter()
        .zip([NUMBER, NUMBER_2, NUMBER_3])
        .map(|(username, number)| TrunkLine {
            username,
            password: PASSWORD,
            number,
        })
        .collect();
    Kamailio::start(&lines, variants)
}

struct Stage {
    redis: Redis,
    path: PathBuf,
    _dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            redis: Redis::start(),
            path: dir.path().join("bridge.db"),
            _dir: dir,
        }
    }

    /// A connection of another process, so to say: not the bridge's own.
    async fn store(&self) -> Store {
        Store::open(&Location::Sqlite(self.path.clone()))
            .await
            .unwrap()
    }

    async fn bridge(&self, trunk: &Kamailio) -> Bridge {
        with_database(&self.redis, &sqlite_url(&self.path))
            .trunk(trunk.port)
            .start()
            .await
    }
}

fn with_database(redis: &Redis, url: &str) -> Setup {
    let mut setup = Setup::queue(redis).args(&["--database-url", url]);
    setup.lines.clear();
    setup
}

fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

/// A line as the database has it, at a trunk, with an encrypted password.
fn row(id: &str, user: &str, number: &str, trunk: &Kamailio) -> Row {
    let mut value = line(id, user, number);
    value["sipPassword"] = json!(encrypt(id, PASSWORD));
    value["sipDomain"] = json!(format!("127.0.0.1:{}", trunk.port));
    fields(value)
}

fn fields(value: Value) -> Row {
    Row::from_object(LINE_COLUMNS, value.as_object().unwrap())
}

async fn lines_in_health(bridge: &Bridge, field: &str) -> Value {
    let health: Value = serde_json::from_str(&bridge.health().await.body).unwrap();
    health["lines"][field].clone()
}

async fn refused(trunk: &Kamailio, number: &str) -> Option<u16> {
    let mut call = Caller::invite(local(trunk.port), number, Offer::usual()).await;
    call.final_response().await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_added_changed_paused_and_removed_and_others_are_left_alone() {
    let (stage, trunk) = (Stage::new(), trunk(&[]));
    let store = stage.store().await;
    let one = row("line-1", "one", NUMBER, &trunk);
    store.insert_line(&one).await.unwrap();
    let bridge = stage.bridge(&trunk).await;
    trunk.sees("one", (1, 0)).await;

    // Added by somebody else: called within 5 s.
    let two = row("line-2", "two", NUMBER_2, &trunk);
    store.insert_line(&two).await.unwrap();
    assert!(trunk.sees("two", (1, 0)).await < LIMIT);
    let mut call = Caller::connect(local(trunk.port), NUMBER_2).await;
    assert_eq!(Job::take(&stage.redis).await.text("phoneLineId"), "line-2");
    call.bye().await;
    assert_eq!(lines_in_health(&bridge, "registered").await, 2);

    // A password that is refused, and one that is right again.
    let wrong = fields(json!({"sipPassword": encrypt("line-2", "wrong")}));
    store.update_line("line-2", &wrong).await.unwrap();
    // Its password is decrypted behind calls (SCHED_IDLE): beside builds that takes its time.
    until(LONG, "the refusal", async || {
        trunk.log().contains("REGISTER of two refused")
    })
    .await;
    until(SOON, "it counts as failed", async || {
        lines_in_health(&bridge, "failed").await == 1
    })
    .await;
    let right = fields(json!({"sipPassword": encrypt("line-2", PASSWORD)}));
    store.update_line("line-2", &right).await.unwrap();
    assert!(trunk.sees("two", (2, 0)).await < LIMIT);

    // A password that cannot be opened: unregistered, and reported with the reason.
    let foreign = fields(json!({"sipPassword": encrypt("line-1", PASSWORD)}));
    store.update_line("line-2", &foreign).await.unwrap();
    assert!(trunk.sees("two", (2, 1)).await < LIMIT);
    until(SOON, "the reason", async || {
        bridge
            .output()
            .contains("line \"line-2\": field \"sipPassword\": the encrypted password does not")
    })
    .await;
    assert_eq!(lines_in_health(&bridge, "unusable").await, 1);
    assert_eq!(refused(&trunk, NUMBER_2).await, Some(404));
    store.update_line("line-2", &right).await.unwrap();
    assert!(trunk.sees("two", (3, 1)).await < LIMIT);
    assert_eq!(lines_in_health(&bridge, "unusable").await, 0);

    // Paused, and active again.
    let paused = fields(json!({"isActive": false}));
    store.update_line("line-2", &paused).await.unwrap();
    assert!(trunk.sees("two", (3, 2)).await < LIMIT);
    let active = fields(json!({"isActive": true}));
    store.update_line("line-2", &active).await.unwrap();
    assert!(trunk.sees("two", (4, 2)).await < LIMIT);

    // What does not concern SIP is there for the next call, without a REGISTER.
    let parameters = fields(
        json!({"customParameters": {"menu": "b"}, "maxConcurrentCalls": 1,
        "restaurantId": "other"}),
    );
    store.update_line("line-2", &parameters).await.unwrap();
    until(SOON, "the new values", async || {
        bridge.output().contains("registers=false")
    })
    .await;
    let mut call = Caller::connect(local(trunk.port), NUMBER_2).await;
    let job = Job::take(&stage.redis).await;
    assert_eq!(job.text("restaurantId"), "other");
    assert_eq!(refused(&trunk, NUMBER_2).await, Some(486));
    call.bye().await;

    // Another number: its calls are found by it, and nobody registers.
    store.delete_line("line-2").await.unwrap();
    assert!(trunk.sees("two", (4, 3)).await < LIMIT);
    assert_eq!(trunk.registers("one"), (1, 0), "line 1 was never touched");
    bridge.shut_down().await;
    // Those that are held at the end are unregistered, and no others.
    assert_eq!(trunk.registers("one"), (1, 1));
    assert_eq!(trunk.registers("two"), (4, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_while_its_line_is_changed_and_removed() {
    let (stage, trunk) = (Stage::new(), trunk(&[]));
    let store = stage.store().await;
    let one = row("line-1", "one", NUMBER, &trunk);
    store.insert_line(&one).await.unwrap();
    let bridge = stage.bridge(&trunk).await;
    trunk.sees("one", (1, 0)).await;

    let mut call = Caller::connect(local(trunk.port), NUMBER).await;
    let mut worker = Worker::serve(&stage.redis).await;
    // One stream: a second one with the same SSRC would count as late.
    let mut player = call.player();
    // Another address of the same trunk: the account is replaced, and registers
    // once more after the farewell of the old one, which has the same Contact.
    let moved = fields(json!({"sipDomain": format!("localhost:{}", trunk.port)}));
    store.update_line("line-1", &moved).await.unwrap();
    assert!(trunk.sees("one", (3, 1)).await < LIMIT);
    both_hear(&call.rtp, &mut player, &mut worker, 0).await;
    // Another password: the account gets it without a farewell.
    let wrong = fields(json!({"sipPassword": encrypt("line-1", "wrong")}));
    store.update_line("line-1", &wrong).await.unwrap();
    until(SOON, "the refusal", async || {
        trunk.log().contains("REGISTER of one refused")
    })
    .await;
    both_hear(&call.rtp, &mut player, &mut worker, 1).await;
    let right = fields(json!({"sipPassword": PASSWORD}));
    store.update_line("line-1", &right).await.unwrap();
    assert!(trunk.sees("one", (4, 1)).await < LIMIT);
    both_hear(&call.rtp, &mut player, &mut worker, 2).await;
    store.delete_line("line-1").await.unwrap();
    assert!(trunk.sees("one", (4, 2)).await < LIMIT);
    both_hear(&call.rtp, &mut player, &mut worker, 5).await;
    assert_eq!(refused(&trunk, NUMBER).await, Some(404));
    let direct = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let mut direct = direct;
    assert_eq!(direct.final_response().await.status(), Some(404));
    // Still there a while later, when retired accounts are deleted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    both_hear(&call.rtp, &mut player, &mut worker, 8).await;
    call.bye().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_comes_back_before_its_farewell_is_through_stays_registered() {
    let (stage, trunk) = (Stage::new(), trunk(&["SLOW_FAREWELL"]));
    let store = stage.store().await;
    let one = row("line-1", "one", NUMBER, &trunk);
    store.insert_line(&one).await.unwrap();
    let bridge = stage.bridge(&trunk).await;
    trunk.sees("one", (1, 0)).await;
    let api = Api::of(&bridge);
    let line = "/api/admin/telephony/phone-lines/line-1";
    for is_active in [false, true] {
        let change = json!({"isActive": is_active});
        api.json("PATCH", line, &change).await.expect(200);
        until(SOON, "the bridge has it", async || {
            let state = api.get(line).await.expect(200)["state"].clone();
            (state == "left-out") != is_active
        })
        .await;
    }
    // The farewell takes away what was announced meanwhile, and is answered:
    // then the line registers once more.
    until(SOON, "registered to stay", async || {
        let (kept, gone) = trunk.registers("one");
        kept >= 2 && gone == 1 && trunk.has_registered("one")
    })
    .await;
    let mut call = Caller::connect(local(trunk.port), NUMBER).await;
    call.bye().await;
    bridge.shut_down().await;
}

/// Speech that was not heard before, bit for bit, both ways.
async fn both_hear(caller: &Rtp, player: &mut Player, worker: &mut Worker, number: u32) {
    let question = sound::numbered(100 * number, 40);
    let reply = sound::numbered(100 * number + 50, 40).concat();
    worker.media(&reply);
    player.play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    caller.hears(&reply, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_changes_moves_its_lines_and_no_others() {
    let stage = Stage::new();
    let (first, second) = (trunk(&[]), trunk(&["WITH_TLS"]));
    let store = stage.store().await;
    let server = |uri: String| {
        let value = json!({"id": "s", "trunk_uri": uri});
        Row::from_object(SERVER_COLUMNS, value.as_object().unwrap())
    };
    let to_first = server(format!("sip:127.0.0.1:{}", first.port));
    store.insert_server(&to_first).await.unwrap();
    store
        .insert_line(&row("line-1", "one", NUMBER, &first))
        .await
        .unwrap();
    for (id, user, number) in [("line-2", "two", NUMBER_2), ("line-3", "three", NUMBER_3)] {
        let mut value = line(id, user, number);
        value["sipServerId"] = json!("s");
        store.insert_line(&fields(value)).await.unwrap();
    }
    let bridge = with_database(&stage.redis, &sqlite_url(&stage.path))
        .args(&["--tls-ca", &second.certificate()])
        .trunk(first.port)
        .start()
        .await;
    for user in USERS {
        first.sees(user, (1, 0)).await;
    }
    // The bridge has opened UDP only so far.
    for (uri, kind) in [
        (
            format!("sip:127.0.0.1:{};transport=tcp", second.port),
            "TCP",
        ),
        (format!("sips:127.0.0.1:{}", second.tls_port), "TLS"),
    ] {
        let before = second.registers("two");
        store.update_server("s", &server(uri)).await.unwrap();
        for user in ["two", "three"] {
            let kept = (before.0 + 1, if before.0 == 0 { 0 } else { 1 });
            assert!(second.sees(user, kept).await < LIMIT, "{kind}");
        }
        let mut call = Caller::connect(local(second.port), NUMBER_2).await;
        assert_eq!(Job::take(&stage.redis).await.text("phoneLineId"), "line-2");
        call.bye().await;
    }
    for user in ["two", "three"] {
        assert_eq!(first.registers(user), (1, 1));
    }
    assert_eq!(first.registers("one"), (1, 0), "line 1 has its own server");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_wakes_the_bridge_long_before_it_would_ask() {
    let (redis, postgres, trunk) = (Redis::start(), Postgres::start(), trunk(&[]));
    let bridge = with_database(&redis, &postgres.url())
        .trunk(trunk.port)
        .start()
        .await;
    until(SOON, "it listens", async || {
        bridge.output().contains("listening for changes of lines")
    })
    .await;
    let insert = |id: &str, user: &str| {
        postgres.sql(&format!(
            "INSERT INTO phone_lines (id, sip_domain, sip_username, sip_password)
             VALUES ('{id}', '127.0.0.1:{}', '{user}', '{PASSWORD}')",
            trunk.port
        ));
    };
    let mut taken = Vec::new();
    for user in USERS {
        insert(user, user);
        taken.push(trunk.sees(user, (1, 0)).await);
    }
    // Asking every 3 s would take half of that each time, on average.
    let sum: Duration = taken.iter().sum();
    assert!(sum < Duration::from_secs(3), "{taken:?}");
    postgres.sql("DELETE FROM phone_lines WHERE id = 'two'");
    assert!(trunk.sees("two", (1, 1)).await < LIMIT);

    // Nobody tells: it is found by asking.
    postgres.sql(
        "ALTER TABLE phone_lines DISABLE TRIGGER ALL;
         DELETE FROM phone_lines WHERE id = 'three'",
    );
    assert!(trunk.sees("three", (1, 1)).await < LIMIT);

    // A database that hangs changes nothing, and what it has next is done.
    postgres.signal("STOP");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(trunk.registers("one"), (1, 0));
    postgres.signal("CONT");
    insert("back", "two");
    trunk.sees("two", (2, 1)).await;
    assert_eq!(trunk.registers("one"), (1, 0));
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_lines_at_once_come_and_go() {
    let (stage, trunk) = (Stage::new(), trunk(&[]));
    let store = stage.store().await;
    store
        .insert_line(&row("line-1", "one", NUMBER, &trunk))
        .await
        .unwrap();
    let bridge = stage.bridge(&trunk).await;
    trunk.sees("one", (1, 0)).await;
    // All of them register as one user: the trunk knows no more.
    let stored = PASSWORD;
    let many: Vec<Row> = (0..300)
        .map(|number| {
            fields(json!({"id": format!("many-{number}"), "sipUsername": "two",
                "sipPassword": stored, "sipDomain": format!("127.0.0.1:{}", trunk.port)}))
        })
        .collect();
    store.import(&many).await.unwrap();
    until(
        Duration::from_secs(40),
        "all of them are answered",
        async || {
            lines_in_health(&bridge, "registering").await == 0
                && lines_in_health(&bridge, "registered").await.as_u64() > Some(4)
        },
    )
    .await;
    for row in &many {
        store.delete_line(row.id().unwrap()).await.unwrap();
    }
    until(SOON, "they are gone", async || {
        lines_in_health(&bridge, "registered").await == 1
            && lines_in_health(&bridge, "failed").await == 0
    })
    .await;
    assert_eq!(trunk.registers("one"), (1, 0));
    let mut call = Caller::connect(local(trunk.port), NUMBER).await;
    call.bye().await;
    bridge.shut_down().await;
}
