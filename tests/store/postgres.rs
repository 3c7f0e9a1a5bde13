//! A private PostgreSQL: a cluster in a temporary folder, reached by a socket
//! in it, ended by its process id when dropped.
//!
//! PostgreSQL refuses to run as root: where the tests do, it runs as the user
//! `postgres` of Debian's package. The folder lies in /tmp itself, because
//! that user cannot enter the one of a test run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The unprivileged user of Debian's package.
const USER: &str = "postgres";

pub struct Postgres {
    server: Child,
    folder: TempDir,
}

impl Postgres {
    /// A fresh cluster with a database `lines` in it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("sipbridge-pg")
            .tempdir_in("/tmp")
            .unwrap();
        if is_root() {
            run(Command::new("chown").arg(USER).arg(folder.path()));
        }
        let data = folder.path().join("data");
        run(command("initdb")
            .args(["-A", "trust", "-U", USER, "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(folder.path()));
        let log = File::create(folder.path().join("log")).unwrap();
        let server = command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let postgres = Self { server, folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !postgres.psql("postgres", "SELECT 1").0 {
            assert!(
                Instant::now() < deadline,
                "PostgreSQL does not answer:\n{}",
                std::fs::read_to_string(postgres.folder.path().join("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        postgres.sql_in("postgres", "CREATE DATABASE lines");
        postgres
    }

    /// The URL of a database.
    pub fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{USER}@localhost/{database}?host={}",
            self.folder.path().display()
        )
    }

    /// The URL of `lines`.
    pub fn url(&self) -> String {
        self.url_of("lines")
    }

    /// Runs SQL on `lines` with psql; the answer is what it prints, a row a line.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("lines", sql)
    }

    /// As [`Postgres::sql`], on another database.
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        let (ok, text) = self.psql(database, sql);
        assert!(ok, "{sql}: {text}");
        text.trim().to_owned()
    }

    fn psql(&self, database: &str, sql: &str) -> (bool, String) {
        let output = Command::new("psql")
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                USER,
                "-h",
            ])
            .arg(self.folder.path())
            .args(["-d", database, "-c", sql])
            .output()
            .expect("psql must be installed; tests/run.sh installs it");
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Stops or continues it, by `STOP` and `CONT`: all of its processes.
    pub fn signal(&self, signal: &str) {
        let pid = self.server.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &pid.to_string()]);
        run(kill.args(children.split_whitespace()));
    }
}

impl Drop for Postgres {
    /// Fast shutdown; what does not end is killed.
    fn drop(&mut self) {
        let pid = self.server.id().to_string();
        let _ = Command::new("kill").args(["-s", "INT", &pid]).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.server.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.server.kill();
                let _ = self.server.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program of PostgreSQL, as the user it may run as.
fn command(name: &str) -> Command {
    let program = program(name);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"])
        .arg(program);
    command
}

/// Debian keeps them off the path, one folder per version.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(name).into())
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run vendor/packages.sh test"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
