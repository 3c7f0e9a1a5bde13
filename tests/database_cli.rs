//! `sipbridge check` and `sipbridge lines` with a database: what they show,
//! and that they change nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sipbridge::core::private::Secret;
use sipbridge::lines::row::{LINE_COLUMNS, SERVER_COLUMNS};
use sipbridge::lines::{MasterKey, Row};
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn run(command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_sipbridge"))
        .arg(command)
        .args(["--bind", "127.0.0.1", "--sip-port", "0", "--api-port", "0"])
        .args(["--ws-target", "ws://127.0.0.1:9/"])
        .args(arguments)
        .env_clear()
        .env("ENCRYPTION_KEY", KEY)
        .output()
        .unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).unwrap())
}

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

fn row(columns: &[sipbridge::lines::row::Column], value: &Value) -> Row {
    Row::from_object(columns, value.as_object().unwrap())
}

/// A database with a line for each way to a server, and one for each way to none.
async fn fill(path: &Path, fallback: Option<&str>) {
    let key = MasterKey::parse(KEY).unwrap();
    let stored = |id: &str| key.encrypt(id, &Secret::new("hunter2".into()));
    let store = Store::open(&Location::Sqlite(path.into())).await.unwrap();
    for server in [
        json!({"id": "ovh", "trunk_uri": "sip:ovh.example:5070;transport=tcp"}),
        json!({"id": "spare", "trunk_uri": "sip:spare.example", "username": "shared", "password": stored("spare")}),
        json!({"id": "broken", "trunk_uri": "http://x"}),
        json!({"id": "moved", "trunk_uri": "sip:a.example", "username": "shared", "password": stored("other")}),
    ] {
        store
            .insert_server(&row(SERVER_COLUMNS, &server))
            .await
            .unwrap();
    }
    for line in [
        json!({"id": "a-named", "phoneNumber": "+33972360682", "sipUsername": "1", "sipServerId": "ovh", "sipDomain": "own.example"}),
        json!({"id": "b-bare", "sipUsername": "2", "sipPassword": stored("b-bare")}),
        json!({"id": "c-domain", "sipUsername": "3", "sipDomain": "own.example"}),
        json!({"id": "d-gone", "phoneNumber": "+33142888888", "sipUsername": "4", "sipServerId": "gone", "sipDomain": "own.example"}),
        json!({"id": "e-broken", "sipUsername": "5", "sipServerId": "broken"}),
        json!({"id": "f-moved", "sipServerId": "moved"}),
        json!({"id": "f-own", "sipUsername": "6", "sipServerId": "moved"}),
        json!({"id": "g-odd", "sipUsername": "7", "maxConcurrentCalls": "many"}),
        json!({"id": "h-off", "isActive": false}),
        json!({"id": "i-twilio", "provider": "twilio"}),
    ] {
        store.insert_line(&row(LINE_COLUMNS, &line)).await.unwrap();
    }
    store.set_fallback(fallback).await.unwrap();
    store.close().await;
}

/// The lines of `sipbridge lines` by id.
fn listed<'a>(text: &'a str, id: &str) -> &'a str {
    let quoted = format!("\"{id}\" ");
    let line = text.lines().find(|line| line.starts_with(&quoted));
    line.unwrap_or_else(|| panic!("no {id} in:\n{text}"))
}

#[tokio::test]
async fn lines_shows_the_server_of_each_line_and_by_which_rule() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.db");
    fill(&path, None).await;
    let (code, text) = run(
        "lines",
        &[
            "--database-url",
            &url(&path),
            "--sip-domain",
            "flags.example",
        ],
    );
    assert_eq!(code, Some(1), "{text}");
    for (id, expected) in [
        (
            "a-named",
            "\"a-named\" …82 usable: ovh.example:5070 over tcp, by its sipServerId \"ovh\"",
        ),
        (
            "b-bare",
            "\"b-bare\" - usable: flags.example over udp, by --sip-domain",
        ),
        (
            "c-domain",
            "\"c-domain\" - usable: own.example over udp, by its sipDomain",
        ),
        (
            "d-gone",
            "\"d-gone\" …88 unusable: sipServerId \"gone\" is not a known SIP server",
        ),
        (
            "e-broken",
            "\"e-broken\" - unusable: SIP server \"broken\" cannot be used: field \"trunk_uri\" must be like",
        ),
        (
            "f-moved",
            "\"f-moved\" - unusable: SIP server \"moved\" cannot be used: the encrypted password does not decrypt",
        ),
        (
            "f-own",
            "\"f-own\" - usable: a.example over udp, by its sipServerId \"moved\"",
        ),
        (
            "g-odd",
            "\"g-odd\" - unusable: field \"maxConcurrentCalls\" must be a whole number, is a string",
        ),
        ("h-off", "\"h-off\" - left out: not active"),
        ("i-twilio", "\"i-twilio\" - left out: of provider twilio"),
    ] {
        assert!(listed(&text, id).starts_with(expected), "{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("33972360682"));

    let store = Store::open(&Location::Sqlite(path.clone())).await.unwrap();
    store.set_fallback(Some("spare")).await.unwrap();
    let (_, text) = run(
        "lines",
        &[
            "--database-url",
            &url(&path),
            "--sip-domain",
            "flags.example",
        ],
    );
    let by_fallback = "usable: spare.example over udp, by the fallback server \"spare\"";
    assert!(listed(&text, "b-bare").ends_with(by_fallback), "{text}");
    assert!(listed(&text, "c-domain").ends_with(by_fallback), "{text}");
    assert!(
        listed(&text, "a-named").ends_with("by its sipServerId \"ovh\""),
        "{text}"
    );
    store.set_fallback(Some("nowhere")).await.unwrap();
    let (_, text) = run(
        "lines",
        &[
            "--database-url",
            &url(&path),
            "--sip-domain",
            "flags.example",
        ],
    );
    let no_fallback = "unusable: the global fallback SIP server \"nowhere\" is not known";
    assert!(listed(&text, "b-bare").ends_with(no_fallback), "{text}");
}

#[tokio::test]
async fn a_lines_file_is_shown_as_it_would_be_imported_and_is_not() {
    let dir = TempDir::new().unwrap();
    let (path, file) = (dir.path().join("x.db"), dir.path().join("lines.json"));
    fill(&path, None).await;
    std::fs::write(
        &file,
        r#"[{"id":"a-named","sipServerId":"spare"},{"id":"z-new","sipUsername":"9","sipDomain":"z.example"}]"#,
    )
    .unwrap();
    let flags = [
        "--database-url",
        &url(&path),
        "--lines",
        file.to_str().unwrap(),
    ];
    for command in ["lines", "check"] {
        let (_, text) = run(command, &flags);
        assert!(
            text.contains("spare.example") && text.contains("z.example"),
            "{text}"
        );
    }
    let store = Store::look(&Location::Sqlite(path)).await.unwrap().unwrap();
    assert!(store.line("z-new").await.unwrap().is_none());
    assert_eq!(
        store
            .line("a-named")
            .await
            .unwrap()
            .unwrap()
            .get("sip_server_id"),
        Some("ovh")
    );
}

#[tokio::test]
async fn check_says_what_the_start_would_do_and_does_not_do_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.db");
    let (code, text) = run("check", &["--database-url", &url(&path)]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("x.db: will be created"), "{text}");
    assert!(!path.exists());
    let data = dir.path().join("data");
    let (code, text) = run("check", &["--data-dir", data.to_str().unwrap()]);
    assert!(
        code == Some(0) && text.contains("data/sipbridge.db: will be created"),
        "{text}"
    );
    let missing = dir.path().join("no/data");
    let (code, text) = run("check", &["--data-dir", missing.to_str().unwrap()]);
    assert!(code == Some(1) && text.contains("No such file"), "{text}");

    std::fs::write(&path, "").unwrap();
    let (code, text) = run("check", &["--database-url", &url(&path)]);
    assert!(
        code == Some(0)
            && text.contains(&format!(
                "opens; the start will run {} migration(s) on it",
                sipbridge::store::migrations::COUNT
            )),
        "{text}"
    );
    fill(&path, None).await;
    let (code, text) = run("check", &["--database-url", &url(&path)]);
    assert_eq!(code, Some(1));
    for part in [
        "ok       database ",
        "x.db: opens\n",
        "ok       line \"a-named\": at ovh.example:5070 by tcp, no password",
        "lines left out: 1 inactive, 1 of provider twilio",
        "error    line \"g-odd\": field \"maxConcurrentCalls\"",
        "error    line \"d-gone\": sipServerId \"gone\" is not a known SIP server",
    ] {
        assert!(text.contains(part), "{part} is missing from:\n{text}");
    }
}

#[test]
fn a_bad_address_is_refused_without_showing_it() {
    for url in [
        "sqlite://relative.db",
        "sqlite:///",
        "mysql://h/x",
        "postgres://u:hun/ter2@h/x",
    ] {
        let (code, text) = run("check", &["--database-url", url]);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("--database-url (DATABASE_URL) must"),
            "{text}"
        );
        assert!(!text.contains("ter2"));
    }
    let (_, text) = run(
        "check",
        &["--database-url", "postgres://h:1/x", "--data-dir", "/tmp"],
    );
    assert!(
        text.contains("--data-dir (DATA_DIR) has no effect beside --database-url"),
        "{text}"
    );
}
