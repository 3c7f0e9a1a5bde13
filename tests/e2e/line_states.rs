//! What became of each line, as `sipbridge lines` and the API of a bridge
//! without a database show it, with Kamailio as the registrar.

use std::net::TcpListener;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::{KEY, NUMBER, PASSWORD, RESTAURANT, Setup, clean_command, line};
use crate::harness::peers::{TrunkLine, free_port};
use crate::harness::{Api, Bridge, Kamailio, SOON, until};

const LINES: &str = "/api/admin/telephony/phone-lines";
const TOKEN: &str = "a-token-of-more-than-16-characters";
const PUSH: [&str; 2] = ["--ws-target", "ws://127.0.0.1:9/x"];

/// `sipbridge lines` with these flags beside its API: exit code and text.
fn lines(api_port: u16, flags: &[&str]) -> (Option<i32>, String) {
    let output = clean_command()
        .arg("lines")
        .args(PUSH)
        .args(["--bind", "127.0.0.1", "--api-port", &api_port.to_string()])
        .args(flags)
        .env("ENCRYPTION_KEY", KEY)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains(TOKEN) && !text.contains(PASSWORD), "{text}");
    (output.status.code(), text)
}

fn of<'a>(text: &'a str, id: &str) -> &'a str {
    let start = format!("{id:?} ");
    let line = text.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("no {id} in:\n{text}"))
}

/// The states are not told, which the last line says once; the rest is there.
fn assert_untold(text: &str, why: &str) {
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("states not shown: "), "{text}");
    assert!(last.contains(why), "{text}");
    assert_eq!(text.matches("states not shown").count(), 1);
    assert!(of(text, "a-good").ends_with(", by its sipDomain"), "{text}");
}

/// One that registers, one with a wrong password, and those that cannot be used.
fn all_kinds(trunk: &Kamailio) -> Setup {
    let mut setup = Setup::new().args(&PUSH).args(&["--api-token", TOKEN]);
    let mut bad = line("b-bad", "bad", "+33142000002");
    bad["sipPassword"] = json!("not-the-Password");
    setup.lines = vec![
        json!({"id": "e-odd", "sipUsername": 7, "isActive": "yes"}),
        json!({"id": "d-off", "isActive": false}),
        json!({"id": "c-lost", "sipUsername": "x", "sipServerId": "gone"}),
        bad,
        line("a-good", "good", NUMBER),
    ];
    setup.trunk(trunk.port)
}

async fn become_known(api: &Api) {
    for (id, state) in [("a-good", "registered"), ("b-bad", "failed")] {
        until(SOON, state, async || {
            api.get(&format!("{LINES}/{id}")).await.expect(200)["state"] == state
        })
        .await;
    }
}

fn trunk() -> Kamailio {
    let known = ["good", "bad"].map(|username| TrunkLine {
        username,
        password: PASSWORD,
        number: NUMBER,
    });
    Kamailio::start(&known, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_api_shows_what_the_bridge_knows() {
    let trunk = trunk();
    let bridge = all_kinds(&trunk).start().await;
    let api = Api::of(&bridge).with_token(TOKEN);
    become_known(&api).await;
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let page = api
            .get(&format!("{LINES}?limit=2{after}"))
            .await
            .expect(200);
        let page_items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&page_items.len()));
        items.extend(page_items.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let told: Vec<_> = items
        .iter()
        .map(|line| ["id", "state"].map(|field| line[field].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ["a-good", "registered"],
            ["b-bad", "failed"],
            ["c-lost", "unusable"],
            ["d-off", "left-out"],
            ["e-odd", "unusable"],
        ]
    );
    let good = &items[0];
    assert_eq!(good["phoneNumber"], NUMBER);
    assert_eq!(good["restaurantId"], RESTAURANT);
    assert_eq!(good["server"], format!("127.0.0.1:{}", trunk.port));
    assert_eq!(good["rule"], "its sipDomain");
    assert!(good["expiresAt"].is_string());
    for unknown in ["hasPassword", "sipUsername", "lastError", "createdAt"] {
        assert_eq!(good[unknown], Value::Null, "{unknown}");
    }
    assert!(items[1]["nextTryAt"].is_string());
    for (line, why) in [
        (1, "refused the user name or password"),
        (2, "sipServerId \"gone\" is not a known SIP server"),
        (3, "not active"),
        (4, "field \"isActive\" must be"),
        (4, "; field \"sipUsername\" must be"),
    ] {
        let error = items[line]["lastError"].as_str().unwrap();
        assert!(error.contains(why), "{error}");
    }
    api.get(&format!("{LINES}/x"))
        .await
        .problem(404, "not-found");
    api.get(&format!("{LINES}?limit=0")).await.faulty();
    let health: Value = serde_json::from_str(&bridge.health().await.body).unwrap();
    assert_eq!(health["lines"]["unusable"], 2, "each counts once");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_tells_the_states_that_the_running_bridge_knows() {
    let (trunk, dir) = (trunk(), TempDir::new().unwrap());
    let bridge = all_kinds(&trunk).start().await;
    let port = bridge.api_port;
    let file = dir.path().join("lines.json");
    std::fs::copy(bridge.lines_file(), &file).unwrap();
    let file = file.to_str().unwrap();
    become_known(&Api::of(&bridge).with_token(TOKEN)).await;

    let flags = ["--lines", file, "--api-token", TOKEN];
    let (code, text) = lines(port, &flags);
    assert_eq!(code, Some(1), "as ever when a line is unusable");
    let server = format!(
        "usable: 127.0.0.1:{} over udp, by its sipDomain",
        trunk.port
    );
    for (id, state) in [
        ("a-good", "registered until "),
        (
            "b-bad",
            "failed: the server refused the user name or password",
        ),
    ] {
        let shown = of(&text, id);
        assert!(shown.contains(&format!("{server}; {state}")), "{text}");
        assert!(shown.ends_with(" UTC"), "{text}");
    }
    assert!(of(&text, "b-bad").contains("; next try at "), "{text}");
    assert!(
        of(&text, "c-lost").ends_with("is not a known SIP server"),
        "{text}"
    );
    assert!(
        of(&text, "d-off").ends_with("left out: not active"),
        "{text}"
    );
    assert!(!text.contains("states not shown"), "{text}");

    // What changed in the file since the start is told apart: of these two the
    // bridge knows one not at all, and the other as it was.
    let mut changed: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for line in changed.as_array_mut().unwrap() {
        match line["id"].as_str().unwrap() {
            "a-good" => line["id"] = json!("new"),
            "b-bad" => line["isActive"] = json!(false),
            _ => {}
        }
    }
    let edited = dir.path().join("edited.json");
    std::fs::write(&edited, changed.to_string()).unwrap();
    let edited = ["--lines", edited.to_str().unwrap(), "--api-token", TOKEN];
    let (_, text) = lines(port, &edited);
    assert!(
        of(&text, "new").ends_with("; the running bridge does not have it"),
        "{text}"
    );
    let as_it_was = "left out: not active; in the running bridge as it was: failed: ";
    assert!(of(&text, "b-bad").contains(as_it_was), "{text}");

    let wrong = [
        "--lines",
        file,
        "--api-token",
        "another-token-of-17-and-more",
    ];
    let (code, text) = lines(port, &wrong);
    assert_eq!(code, Some(1));
    assert_untold(&text, &format!("127.0.0.1:{port} refuses the token"));
    assert_untold(&lines(port, &["--lines", file]).1, "refuses the token");

    bridge.shut_down().await;
    let (code, text) = lines(port, &flags);
    assert_eq!(code, Some(1));
    assert_untold(&text, &format!("no bridge answers at 127.0.0.1:{port}"));
}

#[test]
fn a_bridge_that_hangs_or_is_none_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("lines.json");
    let line = json!([{"id": "a-good", "sipUsername": "u", "sipDomain": "a.example"}]);
    std::fs::write(&file, line.to_string()).unwrap();
    let flags = ["--lines", file.to_str().unwrap()];
    let (code, text) = lines(free_port(), &flags);
    assert_eq!(code, Some(0), "a line that can be used");
    assert_untold(&text, "no bridge answers");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let (code, text) = lines(silent.local_addr().unwrap().port(), &flags);
    assert_eq!(code, Some(0));
    assert_untold(&text, "does not answer within 2 s");
    assert!(began.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_are_read_and_the_line_of_the_flags_too() {
    let flags = ["--sip-domain", "127.0.0.1", "--sip-username", "flags"];
    let mut setup = Setup::new().args(&PUSH).args(&flags);
    setup.lines = (0..510)
        .map(|n| line(&format!("l{n}"), &format!("u{n}"), &format!("+33142{n:06}")))
        .collect();
    let bridge = setup.start().await;
    let file = bridge.lines_file().display().to_string();
    assert_all_off(&bridge, &["--lines", &file], &flags, 511);
    bridge.shut_down().await;

    // With a database, where that line is on no page.
    let dir = TempDir::new().unwrap();
    let data = ["--data-dir", dir.path().to_str().unwrap()];
    let mut setup = Setup::new().args(&PUSH).args(&flags).args(&data);
    setup.lines.truncate(1);
    let bridge = setup.start().await;
    assert_all_off(&bridge, &data, &flags, 2);
    bridge.shut_down().await;
}

fn assert_all_off(bridge: &Bridge, source: &[&str], flags: &[&str], expected: usize) {
    let (code, text) = lines(bridge.api_port, &[source, flags].concat());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().all(|line| line.ends_with("; off")), "{text}");
    assert_eq!(text.lines().count(), expected);
    assert!(of(&text, "default").contains("by --sip-domain"), "{text}");
}
