//! Runs SIPp, a foreign SIP caller, against an address; its exit code judges.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::peers::free_port;
use super::within;

/// A run of SIPp to come.
pub struct Sipp {
    scenario: String,
    args: Vec<String>,
    dir: TempDir,
}

impl Sipp {
    /// Runs `tests/real/sipp/<scenario>.xml`, one call to `number`.
    pub fn new(scenario: &str, number: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            args: vec!["-s".into(), number.into()],
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Puts `speech.ul`, raw mu-law, where the scenario finds it.
    pub fn speech(self, audio: &[u8]) -> Self {
        std::fs::write(self.dir.path().join("speech.ul"), audio).unwrap();
        self
    }

    /// Runs it; panics with what went wrong unless every step passed. A port
    /// that was free a moment ago may be another test's by now: SIPp says so
    /// before its first call, and is started again on others.
    pub async fn pass(self, peer: SocketAddr) {
        for attempt in 1.. {
            let output = self.run(peer).await;
            let told = traces(self.dir.path());
            if output.status.success() {
                return;
            }
            assert!(
                told.contains("Address already in use") && attempt < 4,
                "SIPp scenario {} failed ({}):\n{told}",
                self.scenario,
                output.status,
            );
            remove_traces(self.dir.path());
        }
    }

    async fn run(&self, peer: SocketAddr) -> Output {
        let mut command = Command::new("sipp");
        let file = format!(
            "{}/tests/real/sipp/{}.xml",
            env!("CARGO_MANIFEST_DIR"),
            self.scenario
        );
        command
            .arg(peer.to_string())
            .args(["-sf", &file, "-m", "1", "-i", "127.0.0.1", "-nostdin"])
            .args(["-p", &free_port().to_string()])
            .args(["-mp", &super::peers::free_udp_range(6).to_string()])
            .args(["-timeout", "25s", "-timeout_error", "-recv_timeout", "8000"])
            .args(["-trace_err", "-trace_msg"])
            .args(&self.args)
            .current_dir(self.dir.path())
            .env("TERM", "dumb")
            .stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output());
        within(Duration::from_secs(40), "SIPp ends", run)
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("sipp: {error}; run vendor/packages.sh test"))
    }
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    files.sort();
    files
}

fn remove_traces(dir: &Path) {
    for file in logs(dir) {
        std::fs::remove_file(file).unwrap();
    }
}

/// SIPp's own account: errors first, then every message.
fn traces(dir: &Path) -> String {
    logs(dir)
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
