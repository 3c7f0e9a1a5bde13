//! The life of lines: a start and later readings of a database, on the SIP engine in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use sipbridge::config::{self, Config, Invocation};
use sipbridge::core::ids::LineId;
use sipbridge::core::key::MasterKey;
use sipbridge::core::private::Secret;
use sipbridge::fleet::snapshot::{CredentialCaches, LineSnapshot, StoredLines, snapshot_with};
use sipbridge::fleet::sounds::SoundLoader;
use sipbridge::fleet::status::RegistrationState;
use sipbridge::fleet::{
    CallLimiter, Limits, LineDirectory, LineHealth, LineReconciler, Reading, RegistrarHandle,
    SharedFleet,
};
use sipbridge::lines::{CredentialCache, LinesFile, Row, row::LINE_COLUMNS};
use sipbridge::media::sounds::Sounds;
use sipbridge::sip::engine::{EngineEvent, Registration, SharedEngine};
use tokio::sync::{mpsc, oneshot};

use crate::harness::until;
use crate::sim::{AdmitAll, SimEngine};

const KEY: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

fn config() -> Config {
    let arguments = [
        "sipbridge",
        "--sip-domain",
        "sip.example",
        "--ws-target",
        "ws://127.0.0.1:9/",
    ];
    let environment = |name: &str| (name == "ENCRYPTION_KEY").then(|| KEY.into());
    let read = config::read(arguments.map(Into::into), environment);
    let Ok(Invocation::Run(given)) = read else {
        panic!("these flags start the bridge");
    };
    config::validate(given).config
}

fn encrypted(line: &str) -> String {
    let key = MasterKey::parse(KEY).unwrap();
    key.encrypt(line, &Secret::new("pw".into()))
}

fn line(id: &str, number: &str) -> Value {
    json!({"id": id, "sipUsername": id, "phoneNumber": number, "sipPassword": "pw"})
}

fn stored(lines: &[Value]) -> StoredLines {
    let row = |line: &Value| Row::from_object(LINE_COLUMNS, line.as_object().unwrap());
    StoredLines {
        shown: "scenario".into(),
        lines: lines.iter().map(row).collect(),
        servers: Vec::new(),
        fallback: None,
    }
}

fn start(config: &Config, lines: &[Value]) -> LineSnapshot {
    let caches = CredentialCaches {
        lines: CredentialCache::deferring(),
        ..CredentialCaches::default()
    };
    snapshot_with(config, LinesFile::default(), Some(stored(lines)), caches)
}

/// Lines on an engine, with the tasks that keep them.
struct Lines {
    sim: Arc<SimEngine>,
    directory: LineDirectory,
    registrar: RegistrarHandle,
    readings: mpsc::Sender<Reading>,
}

impl Lines {
    async fn start(lines: &[Value]) -> Self {
        let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
        let (engine, config): (SharedEngine, _) = (sim.clone(), config());
        let fleet = SharedFleet::new(Limits {
            calls: 10,
            ..Limits::default()
        });
        let call_limiter = CallLimiter::new(&fleet);
        let registrar = RegistrarHandle::new(&fleet, None);
        let loader = SoundLoader::new(Sounds::built_in());
        let (reconciler, readings) =
            LineReconciler::new(&config, &fleet, &engine, &call_limiter, &registrar, loader);
        reconciler.start(start(&config, lines)).await.unwrap();
        tokio::spawn(reconciler.run());
        tokio::spawn({
            let registrar = registrar.clone();
            async move { registrar.run(engine).await }
        });
        tokio::spawn({
            let registrar = registrar.clone();
            async move {
                while let Some(event) = events.recv().await {
                    if let EngineEvent::Registration { line, state } = event {
                        registrar.handle_result(line, state);
                    }
                }
            }
        });
        Self {
            sim,
            directory: LineDirectory::new(&fleet),
            registrar,
            readings,
        }
    }

    /// The database is read again, and this is what it has.
    async fn read(&self, lines: &[Value]) {
        let (taken_in, done) = oneshot::channel();
        let stored = stored(lines);
        let reading = Reading { stored, taken_in };
        self.readings.send(reading).await.ok().unwrap();
        done.await.unwrap();
    }

    fn held(&self) -> Vec<String> {
        let lines = self.sim.lines();
        lines.iter().map(ToString::to_string).collect()
    }

    async fn registers(&self, wanted: &[&str]) {
        let mut seen = BTreeSet::new();
        until("their REGISTERs", async || {
            seen.extend(self.sim.take_registers().iter().map(ToString::to_string));
            seen.iter().eq(wanted)
        })
        .await;
    }

    async fn is(&self, line: &str, wanted: RegistrationState) {
        let line = LineId::new(line);
        until("its state", async || {
            let status = self.registrar.status(&line);
            status.is_some_and(|status| status.state == wanted)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_is_the_first_reading_and_only_what_changed_is_touched_later() {
    let [a, b] = [line("a", "+33972360681"), line("b", "+33972360682")];
    let lines = Lines::start(&[a.clone(), b.clone()]).await;
    assert_eq!(lines.held(), ["a", "b"]);
    lines.registers(&["a", "b"]).await;
    // Nothing is other than before.
    lines.read(&[a.clone(), b.clone()]).await;
    // One is renumbered, one goes, one comes.
    let renumbered = line("b", "+33972360683");
    lines.read(&[renumbered.clone(), line("c", "")]).await;
    assert_eq!(lines.held(), ["b", "c"]);
    lines.registers(&["c"]).await;
    assert!(lines.directory.with_number("+33972360682").is_empty());
    assert_eq!(lines.directory.with_number("0972360683").len(), 1);
    assert_eq!(lines.directory.with_number("+33972360683").len(), 1);
    assert_eq!(lines.registrar.status(&LineId::new("a")), None);
    // One that is paused is known and not held.
    let mut paused = renumbered.clone();
    paused["isActive"] = false.into();
    lines.read(&[paused, line("c", "")]).await;
    assert_eq!(lines.held(), ["c"]);
    let health = lines.directory.health(&LineId::new("b"));
    assert!(matches!(health, Some(LineHealth::Skipped { .. })));
    // And registers once it is wanted again.
    lines.read(&[renumbered, line("c", "")]).await;
    lines.registers(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_loses_its_registration_gets_it_again() {
    let lines = Lines::start(&[line("a", "")]).await;
    lines.is("a", RegistrationState::Registered).await;
    lines.registers(&["a"]).await;
    let refused = Registration::Failed {
        status: 503,
        text: "Busy".into(),
        retry_after: None,
    };
    let id = LineId::new("a");
    lines.sim.answer_register(&id, refused);
    lines
        .sim
        .report_registration(&id, Registration::Unregistered);
    lines.is("a", RegistrationState::Failed).await;
    let accepted = Registration::Registered {
        expires: std::time::Duration::from_secs(300),
        siblings_listed: false,
    };
    lines.sim.answer_register(&id, accepted);
    assert!(lines.registrar.register_now(&id));
    lines.is("a", RegistrationState::Registered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_line_is_held_at_once_and_a_new_password_changes_it_when_it_is_decrypted() {
    let sealed = |password: String| {
        let mut line = line("a", "");
        line["sipPassword"] = password.into();
        line
    };
    let password = encrypted("a");
    let lines = Lines::start(&[sealed(password.clone())]).await;
    assert_eq!(lines.held(), ["a"]);
    lines.registers(&["a"]).await;
    // The same password is not decrypted again, and a reading touches nothing.
    lines.read(&[sealed(password.clone())]).await;
    assert!(lines.sim.take_registers().is_empty());
    // One of another line does not decrypt: the line is held no more, and says why.
    lines.read(&[sealed(encrypted("other"))]).await;
    until("it is held no more", async || lines.held().is_empty()).await;
    let health = lines.directory.health(&LineId::new("a"));
    assert!(matches!(health, Some(LineHealth::Unusable { .. })));
    lines.read(&[sealed(password)]).await;
    lines.registers(&["a"]).await;
    assert_eq!(lines.held(), ["a"]);
}
