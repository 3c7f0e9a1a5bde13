//! `start-sipbridge.sh`: how it reads `.env`. The script runs `env` in place
//! of the bridge, which prints what it would have been given.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails there")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/start-sipbridge.sh");

/// Runs the script on a `.env` with this text.
fn start(text: &str, environment: &[(&str, &str)], program: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("env");
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    Command::new(SCRIPT)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("SIPBRIDGE_ENV_FILE", &file)
        .env("SIPBRIDGE_BINARY", program)
        .envs(environment.iter().copied())
        .output()
        .expect("the script starts")
}

fn shown(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn has_line(output: &Output, line: &str) -> bool {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .any(|l| l == line)
}

#[test]
fn values_are_taken_as_they_are_written() {
    let text = "\
# comment\r
SIP_DOMAIN=sip.example.com   # the carrier\r
export SIP_USERNAME='0033 9'
  SIP_PASSWORD=\"a#b $(touch /tmp/never) `id` \\n 'x'\"  # secret
TURN_PASSWORD=a#b=c
WS_TARGET=
NODE_ID=last";
    let output = start(text, &[], "/usr/bin/env", &[]);
    assert!(output.status.success(), "{}", shown(&output));
    for line in [
        "SIP_DOMAIN=sip.example.com",
        "SIP_USERNAME=0033 9",
        "SIP_PASSWORD=a#b $(touch /tmp/never) `id` \\n 'x'",
        "TURN_PASSWORD=a#b=c",
        "WS_TARGET=",
        "NODE_ID=last",
    ] {
        assert!(has_line(&output, line), "{line} in:\n{}", shown(&output));
    }
    assert!(!Path::new("/tmp/never").exists());
}

#[test]
fn the_environment_wins_unless_it_is_empty() {
    let environment = [("SIP_DOMAIN", "env.example"), ("NODE_ID", "")];
    let output = start(
        "SIP_DOMAIN=file.example\nNODE_ID=file",
        &environment,
        "/usr/bin/env",
        &[],
    );
    assert!(has_line(&output, "SIP_DOMAIN=env.example"));
    assert!(has_line(&output, "NODE_ID=file"));
}

#[test]
fn only_settings_of_the_bridge_are_taken() {
    let output = start(
        "LD_PRELOAD=/evil.so\nSIP_DOMIAN=hunter2",
        &[],
        "/usr/bin/env",
        &[],
    );
    assert!(output.status.success());
    let text = shown(&output);
    assert!(
        !text.contains("/evil.so") && !text.contains("hunter2"),
        "{text}"
    );
    assert!(text.contains("line 2: SIP_DOMIAN is not a setting of sipbridge, ignored"));
}

#[test]
fn a_broken_line_is_named_and_not_shown() {
    for text in [
        "SIP_PORT=1\nhunter2",
        "SIP_PORT=1\nSIP_PASSWORD=\"hunter2",
        "\nSIP_PASSWORD='x' hunter2",
    ] {
        let output = start(text, &[], "/usr/bin/env", &[]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(shown(&output).contains("line 2:"), "{}", shown(&output));
        assert!(!shown(&output).contains("hunter2"));
    }
}

#[test]
fn arguments_and_exit_code_pass_through_to_the_bridge() {
    let text = "SIP_DOMAIN=d.example\nSIP_USERNAME=u\nSIP_PORT=0\nAPI_PORT=0\nWS_TARGET=ws://h";
    let bridge = env!("CARGO_BIN_EXE_sipbridge");
    let good = start(text, &[], bridge, &["check", "--bind", "127.0.0.1"]);
    assert_eq!(good.status.code(), Some(0), "{}", shown(&good));
    let bad = start(text, &[], bridge, &["check", "--bind", "nowhere"]);
    assert_eq!(bad.status.code(), Some(1), "{}", shown(&bad));
}

#[test]
fn every_setting_of_the_example_is_accepted() {
    let example = include_str!("../.env.example").replace("\n#", "\n");
    let settings: String = example
        .lines()
        .filter(|line| {
            line.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
            })
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(settings.lines().count() > 40);
    let output = start(&settings, &[], "/usr/bin/env", &[]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        shown(&output)
    );
}
