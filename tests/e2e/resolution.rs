//! Which SIP server a line uses (`sipbridge::guide::phone_lines`), rule by rule, with a Kamailio
//! for each of them: where the line registers, that it registers nowhere else,
//! and what the API and `sipbridge lines` say of it. Every trunk would take
//! every line, so that a REGISTER to the wrong one shows.

use std::process::Command;

use serde_json::{Value, json};
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{KEY, NUMBER, PASSWORD, Setup, clean_command, encrypt};
use crate::harness::peers::{TrunkLine, local};
use crate::harness::{Api, Bridge, Caller, Job, Kamailio, Redis, SOON, until};

const LINES: &str = "/api/admin/telephony/phone-lines";
const SERVERS: &str = "/api/admin/telephony/sip-servers";
const FALLBACK: &str = "/api/admin/telephony/fallback";
const USERS: [&str; 7] = [
    "named",
    "domain",
    "bare",
    "lost",
    "broken",
    "own",
    "trunkwide",
];

/// A trunk for each rule, and the bridge between them.
struct Stage {
    named: Kamailio,
    fallback: Kamailio,
    domain: Kamailio,
    flags: Kamailio,
    dir: TempDir,
    redis: Redis,
}

impl Stage {
    fn new() -> Self {
        let trunk = || {
            let lines = USERS.map(|username| TrunkLine {
                username,
                password: PASSWORD,
                number: if username == "trunkwide" {
                    NUMBER
                } else {
                    username
                },
            });
            Kamailio::start(&lines, &[])
        };
        Self {
            named: trunk(),
            fallback: trunk(),
            domain: trunk(),
            flags: trunk(),
            dir: TempDir::new().unwrap(),
            redis: Redis::start(),
        }
    }

    /// Without a table the environment says where lines go.
    fn environment(&self) -> (&'static str, String) {
        ("SIP_DOMAIN", host(&self.flags))
    }

    async fn bridge(&self) -> Bridge {
        let (name, value) = self.environment();
        let mut setup = Setup::queue(&self.redis)
            .args(&["--data-dir", &self.dir.path().display().to_string()])
            .env(name, &value)
            .trunk(self.flags.port);
        setup.lines.clear();
        setup.start().await
    }

    /// What `sipbridge lines` says of a line.
    fn listed(&self, api: &Api, id: &str) -> String {
        let (name, value) = self.environment();
        let mut command: Command = clean_command();
        let output = command
            .args(["lines", "--ws-target", "ws://127.0.0.1:9/", "--data-dir"])
            .arg(self.dir.path())
            .args(["--bind", "127.0.0.1", "--api-port", &api.port().to_string()])
            .env("ENCRYPTION_KEY", KEY)
            .env(name, value)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let start = format!("{id:?} ");
        let line = text.lines().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("no {id} in:\n{text}"))
            .to_owned()
    }

    /// A line is where it should be, by the rule, for the API and `sipbridge lines`.
    async fn shows(&self, api: &Api, id: &str, trunk: &Kamailio, rule: &str) {
        let line = becomes(api, id, "registered").await;
        assert_eq!(line["server"], host(trunk), "{id}");
        assert_eq!(line["rule"], rule, "{id}");
        assert_eq!(line["lastError"], Value::Null, "{id}");
        assert!(line["expiresAt"].is_string(), "{line}");
        let listed = self.listed(api, id);
        let expected = format!(
            "usable: {} over udp, by {rule}; registered at node node-e2e until ",
            host(trunk)
        );
        assert!(listed.contains(&expected), "{listed}");
    }

    /// A line has no server, and both say why.
    async fn shows_none(&self, api: &Api, id: &str, reason: &str) {
        let line = becomes(api, id, "unusable").await;
        assert!(
            line["lastError"].as_str().unwrap().contains(reason),
            "{line}"
        );
        assert_eq!(line["server"], Value::Null);
        let listed = self.listed(api, id);
        assert!(
            listed.contains("unusable: ") && listed.contains(reason) && !listed.contains(';'),
            "{listed}"
        );
    }

    /// How often a user has unregistered at the named, the fallback, the
    /// domain's and the flags' trunk; `None` where it has never been.
    fn farewells(&self, user: &str) -> [Option<usize>; 4] {
        [&self.named, &self.fallback, &self.domain, &self.flags].map(|trunk| {
            let (kept, gone) = trunk.registers(user);
            (kept > 0).then_some(gone)
        })
    }
}

/// Waits until a user has registered, and unregistered so often. Who comes from
/// another trunk may register twice, the second time after its farewell there:
/// that has the same Contact.
async fn settles(trunk: &Kamailio, user: &str, farewells: usize) {
    until(SOON, user, async || {
        let (kept, gone) = trunk.registers(user);
        kept > 0 && gone == farewells
    })
    .await;
}

fn host(trunk: &Kamailio) -> String {
    format!("127.0.0.1:{}", trunk.port)
}

async fn becomes(api: &Api, id: &str, state: &str) -> Value {
    let mut line = Value::Null;
    until(SOON, &format!("{id} {state}"), async || {
        line = api.get(&format!("{LINES}/{id}")).await.expect(200);
        line["state"] == state
    })
    .await;
    line
}

async fn set_fallback(api: &Api, id: Option<&str>) {
    let body = json!({"sip_server_id": id});
    api.json("PUT", FALLBACK, &body).await.expect(200);
}

/// Two servers, and a third whose password was encrypted for another id.
async fn add_servers(stage: &Stage, api: &Api) {
    for server in [
        json!({"id": "s-named", "trunk_uri": format!("sip:{}", host(&stage.named)),
            "contact_host": "pbx.example", "contact_port": 5999, "contact_transport": "tcp"}),
        json!({"id": "s-fallback", "trunk_uri": format!("sip:{}", host(&stage.fallback)),
            "username": "trunkwide", "password": PASSWORD}),
        json!({"id": "s-broken", "trunk_uri": format!("sip:{}", host(&stage.named)),
            "username": "broken"}),
    ] {
        api.post(SERVERS, &server).await.expect(201);
    }
    let store = stage.store().await;
    let foreign = json!({"password": encrypt("another", PASSWORD)});
    let foreign = sipbridge::lines::Row::from_object(
        sipbridge::lines::row::SERVER_COLUMNS,
        foreign.as_object().unwrap(),
    );
    store.update_server("s-broken", &foreign).await.unwrap();
    store.close().await;
}

impl Stage {
    /// The database as another program sees it.
    async fn store(&self) -> Store {
        let location = Location::Sqlite(self.dir.path().join("sipbridge.db"));
        Store::open(&location).await.unwrap()
    }
}

/// A line for each rule; `shared` and `broken` have no user name of their own.
async fn add_lines(stage: &Stage, api: &Api) {
    let own = host(&stage.domain);
    for mut line in [
        json!({"id": "named", "sipServerId": "s-named", "sipDomain": own}),
        json!({"id": "domain", "sipDomain": own}),
        json!({"id": "bare"}),
        json!({"id": "own", "sipServerId": "s-broken"}),
        json!({"id": "lost", "sipDomain": own}),
    ] {
        line["sipUsername"] = line["id"].clone();
        line["sipPassword"] = json!(PASSWORD);
        api.post(LINES, &line).await.expect(201);
    }
    for line in [
        json!({"id": "shared"}),
        json!({"id": "broken", "sipServerId": "s-broken", "sipDomain": own}),
    ] {
        api.post(LINES, &line).await.expect(201);
    }
    // The API would not name a server that is not there; a database may.
    becomes(api, "lost", "registered").await;
    let store = stage.store().await;
    let gone = json!({"sipServerId": "gone"});
    let gone = sipbridge::lines::Row::from_object(
        sipbridge::lines::row::LINE_COLUMNS,
        gone.as_object().unwrap(),
    );
    store.update_line("lost", &gone).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_registers_a_line_at_its_server_and_nowhere_else() {
    let stage = Stage::new();
    let bridge = stage.bridge().await;
    let api = Api::of(&bridge);
    add_servers(&stage, &api).await;
    add_lines(&stage, &api).await;

    // 1. Its sipServerId, whatever its domain; with the Contact of that server.
    let by_id = "its sipServerId \"s-named\"";
    stage.shows(&api, "named", &stage.named, by_id).await;
    let log = stage.named.log();
    let contact = log.lines().find(|line| line.contains("named registered"));
    let contact = contact.unwrap();
    assert!(
        contact.contains("@pbx.example:5999;transport=tcp"),
        "{contact}"
    );

    // The server's own password does not open: that is nothing to who has his own.
    let by_broken = "its sipServerId \"s-broken\"";
    stage.shows(&api, "own", &stage.named, by_broken).await;

    // 3. Without a fallback server: its own domain, else SIP_DOMAIN.
    stage
        .shows(&api, "domain", &stage.domain, "its sipDomain")
        .await;
    stage
        .shows(&api, "bare", &stage.flags, "--sip-domain")
        .await;

    // None: reported, and registered nowhere, though it has a domain of its own.
    let unknown = "sipServerId \"gone\" is not a known SIP server";
    stage.shows_none(&api, "lost", unknown).await;
    stage.domain.sees("lost", (1, 1)).await;
    stage
        .shows_none(&api, "broken", "SIP server \"s-broken\" cannot be used")
        .await;
    stage.shows_none(&api, "shared", "has no sipUsername").await;

    // 2. A fallback server takes those that name none.
    set_fallback(&api, Some("s-fallback")).await;
    let by_fallback = "the fallback server \"s-fallback\"";
    for user in ["domain", "bare", "trunkwide"] {
        settles(&stage.fallback, user, 0).await;
    }
    for id in ["domain", "bare", "shared"] {
        stage.shows(&api, id, &stage.fallback, by_fallback).await;
    }
    // The line without a user name registered as the server's, and is still told from others.
    let mut call = Caller::connect(local(stage.fallback.port), NUMBER).await;
    assert_eq!(Job::take(&stage.redis).await.text("phoneLineId"), "shared");
    call.bye().await;

    // A fallback server that is not there: nowhere at all, not back to the domain.
    let store = stage.store().await;
    store.set_fallback(Some("gone")).await.unwrap();
    store.close().await;
    for user in ["domain", "bare", "trunkwide"] {
        settles(&stage.fallback, user, 1).await;
    }
    let no_fallback = "the global fallback SIP server \"gone\" is not known";
    for id in ["domain", "bare", "shared"] {
        stage.shows_none(&api, id, no_fallback).await;
    }
    let (never, stays, left) = (None, Some(0), Some(1));
    assert_eq!(stage.farewells("domain"), [never, left, left, never]);
    assert_eq!(stage.farewells("bare"), [never, left, never, left]);

    // And without one again: where they were before.
    set_fallback(&api, None).await;
    stage
        .shows(&api, "domain", &stage.domain, "its sipDomain")
        .await;
    stage
        .shows(&api, "bare", &stage.flags, "--sip-domain")
        .await;
    stage.shows_none(&api, "shared", "has no sipUsername").await;

    // All that while nobody touched the line with a server of its own, and
    // nobody went to a trunk that was not theirs.
    assert_eq!(stage.named.registers("named"), (1, 0));
    assert_eq!(stage.farewells("named"), [stays, never, never, never]);
    assert_eq!(stage.farewells("domain"), [never, left, left, never]);
    assert_eq!(stage.farewells("bare"), [never, left, never, left]);
    assert_eq!(stage.farewells("trunkwide"), [never, left, never, never]);
    assert_eq!(stage.farewells("lost"), [never, never, left, never]);
    assert_eq!(stage.farewells("broken"), [never; 4]);
    bridge.shut_down().await;
}
