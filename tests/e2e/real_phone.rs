//! Baresip, a softphone that nobody here wrote, calls a line through Kamailio:
//! each side hears the other's tone, and the phone hangs up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, PASSWORD, Setup, USERNAME};
use crate::harness::peers::{Process, TrunkLine};
use crate::harness::{Kamailio, Redis, Worker, sound, until};

const PHONE_HZ: f64 = 440.0;
const WORKER_HZ: f64 = 1_000.0;
/// How long the phone stays in the call.
const CALL_SECONDS: &str = "4";

/// A softphone without a sound card: its microphone is a WAV file, and what it
/// hears is written to another one.
struct Baresip {
    process: Process,
    dir: TempDir,
}

impl Baresip {
    /// Calls a number at a trunk and hangs up after [`CALL_SECONDS`].
    fn call(number: &str, trunk_port: u16) -> Self {
        let dir = TempDir::new().unwrap();
        let folder = dir.path();
        sound::write_tones(&folder.join("tone.wav"), 8_000, &[PHONE_HZ; 8]);
        let config = format!(
            "sip_listen 127.0.0.1:0\naudio_source aufile,{0}/tone.wav\naudio_player aubridge,heard\n\
             module_path {1}\nmodule g711.so\nmodule aufile.so\nmodule aubridge.so\nmodule sndfile.so\n\
             module_tmp account.so\nmodule_app menu.so\nsnd_path {0}\n",
            folder.display(),
            modules().display(),
        );
        let account = format!("<sip:guest@127.0.0.1:{trunk_port}>;regint=0\n");
        for (name, text) in [
            ("config", config.as_str()),
            ("accounts", &account),
            ("contacts", ""),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let mut command = Command::new("baresip");
        command.arg("-f").arg(folder);
        command.args(["-e", &format!("/dial sip:{number}@127.0.0.1:{trunk_port}")]);
        command.args(["-t", CALL_SECONDS]);
        Self {
            process: Process::start("baresip", command, &folder.join("baresip.log")),
            dir,
        }
    }

    /// What it heard, as mu-law, once it has ended.
    async fn heard(mut self) -> Vec<u8> {
        until(Duration::from_secs(15), "the phone ends", async || {
            !self.process.is_running()
        })
        .await;
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let decoded = files
            .map(|file| file.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with("-dec.wav"));
        let path = decoded.unwrap_or_else(|| panic!("the phone heard nothing: {}", self.log()));
        let mut reader = hound::WavReader::open(path).unwrap();
        let samples = reader.samples::<i16>();
        samples
            .map(|sample| sound::linear_to_ulaw(i32::from(sample.unwrap())))
            .collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("baresip.log")).unwrap_or_default()
    }
}

/// Where Debian keeps its modules: below /usr/lib, or in a folder of the
/// machine's kind there.
fn modules() -> PathBuf {
    let usual = Path::new("/usr/lib/baresip/modules");
    let machine = format!(
        "/usr/lib/{}-linux-gnu/baresip/modules",
        std::env::consts::ARCH
    );
    if usual.exists() {
        usual.to_owned()
    } else {
        machine.into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_softphone_through_kamailio_talks_and_hears() {
    let redis = Redis::start();
    let line = TrunkLine {
        username: USERNAME,
        password: PASSWORD,
        number: NUMBER,
    };
    let trunk = Kamailio::start(&[line], &[]);
    let setup = Setup::queue(&redis).trunk(trunk.port);
    let bridge = setup.args(&["--ringback", "off"]).start().await;
    until(Duration::from_secs(15), "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;

    // Made before the call: it takes a second without optimisation.
    let tone = sound::ulaw_tone(WORKER_HZ, Duration::from_secs(6));
    let phone = Baresip::call(NUMBER, trunk.port);
    let mut worker = Worker::serve(&redis).await;
    worker.media(&tone);
    worker.listen_to_end().await;

    // A second in the middle of each: the first packets may be silence.
    let second_of = |audio: &[u8]| audio[8_000..16_000].to_vec();
    let at_worker = sound::share_of_tone(&second_of(&worker.audio()), PHONE_HZ);
    assert!(at_worker > 0.98, "the worker hears {at_worker} of the tone");
    let at_phone = sound::share_of_tone(&second_of(&phone.heard().await), WORKER_HZ);
    assert!(at_phone > 0.98, "the phone hears {at_phone} of the tone");
    bridge.shut_down().await;
}
