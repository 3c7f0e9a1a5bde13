//! Files that lines name: whatever a path leads to, the lines that do not
//! name it change as ever, and the bridge ends in order.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::bridge::{KEY, NUMBER, Setup, clean_command, line};
use crate::harness::{Api, Caller, Redis, SOON, Worker, until};

const LINES: &str = "/api/admin/telephony/phone-lines";

/// What a line may name by mistake or malice, and what is said of it.
fn bad_files(folder: &Path) -> Vec<(String, &'static str)> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let huge = std::fs::File::create(path("huge.wav")).unwrap();
    huge.set_len(1 << 40).unwrap();
    vec![
        (path("fifo"), "a FIFO"),
        ("/dev/zero".to_owned(), "a device"),
        (path("folder"), "directory"),
        (path("huge.wav"), "larger than"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_as_a_greeting_stops_no_change_and_no_end() {
    let redis = Redis::start();
    let folder = TempDir::new().unwrap();
    let bad = bad_files(folder.path());
    let data = folder.path().join("data");
    let mut setup = Setup::queue(&redis).args(&["--data-dir", data.to_str().unwrap()]);
    // At the start, too.
    let mut with_fifo = line("line-fifo", "u2", "+33142000002");
    with_fifo["greeting"] = json!(bad[0].0);
    setup = setup.line(with_fifo);
    let bridge = setup.start().await;
    let api = Api::of(&bridge);
    for (index, (file, said)) in bad.iter().enumerate() {
        let id = format!("line-{index}-bad");
        let number = format!("+3314200001{index}");
        let body = json!({"id": id, "sipUsername": id, "phoneNumber": number,
            "sipDomain": "127.0.0.1", "greeting": file});
        api.post(LINES, &body).await.expect(201);
        until(SOON, said, async || {
            let output = bridge.output();
            let mut lines = output.lines();
            lines.any(|text| text.contains(&id) && text.contains(said))
        })
        .await;
        // The line takes calls, without its greeting.
        let mut call = Caller::connect_once_known(bridge.sip(), &number).await;
        let mut worker = Worker::serve(&redis).await;
        call.bye().await;
        worker.listen_to_end().await;
    }
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    call.bye().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_of_a_flag_is_a_mistake_and_not_a_wait() {
    let folder = TempDir::new().unwrap();
    let fifo = bad_files(folder.path()).remove(0).0;
    for flag in [
        "--lines",
        "--tls-ca",
        "--redis-ca",
        "--api-tls-cert",
        "--api-tls-key",
        "--api-ca",
    ] {
        let mut command = clean_command();
        command.args(["check", "--sip-username", "u", "--sip-domain", "127.0.0.1"]);
        command.args([flag, &fifo]).env("ENCRYPTION_KEY", KEY);
        let checked = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = crate::harness::soon(flag, checked).await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("FIFO"), "{flag}: {text}");
        assert_eq!(output.status.code(), Some(1), "{flag}: {text}");
    }
}
