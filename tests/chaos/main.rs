//! Chaos: the real bridge, a real Redis, worker processes that are killed
//! with -9 and callers with real RTP, in scenarios drawn from a printed seed.
//! After each the books are closed: nobody cut off, nobody unheard, no job
//! delivered twice or left, nothing held. The last word is libtest's.
//!
//! ```text
//! cargo test --test chaos                      one round
//! cargo test --test chaos -- --rounds 20       up to the first failure
//! cargo test --test chaos -- bridge            scenarios with that in their name
//! cargo test --release --test chaos -- --soak 10
//! SEED=7 cargo test --test chaos               a round again
//! ```
//!
//! | module | what goes wrong |
//! |---|---|
//! | `workers_lost` | workers are killed, stopped, cut off from the network |
//! | `jobs` | jobs are taken and never dialled, tokens are raced for |
//! | `redis_lost` | Redis is killed, and comes back empty or with its data |
//! | `bridge_lost` | the bridge is killed, stopped for 500 ms, drained |
//! | `hangups` | callers hang up at every step |
//! | `network` | callers' packets are lost and overtaken |
//! | `soak` | nothing, thousands of times |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod books;
mod bridge_lost;
mod caller;
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with programs that use other parts of it"
)]
#[path = "../../examples/common/mod.rs"]
mod common;
mod hangups;
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with tests that use other parts of it"
)]
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod jobs;
mod network;
mod pool;
mod proxy;
mod record;
mod redis_lost;
mod soak;
mod stage;
mod stamp;
mod store;
mod worker;
mod workers_lost;

use std::pin::Pin;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use rand::RngExt;

/// One pass through the scenarios.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub seed: u64,
}

/// What a scenario that passed has to say.
pub struct Summary(pub String);

type Run = fn(Round) -> Pin<Box<dyn Future<Output = Summary>>>;

/// A scenario by its name.
struct Scenario {
    name: &'static str,
    /// Looks at milliseconds under load: runs alone.
    alone: bool,
    run: Run,
}

macro_rules! scenarios {
    ($($name:literal $alone:literal $run:path;)*) => {
        &[$(Scenario { name: $name, alone: $alone, run: |round| Box::pin($run(round)) }),*]
    };
}

/// Those that mostly wait run side by side, so many at once; the others after them.
const SCENARIOS: &[Scenario] = scenarios! {
    "worker_frozen" false workers_lost::frozen;
    "worker_swallowed" false workers_lost::swallowed;
    "job_never_dialled" false jobs::never_dialled;
    "token_raced" false jobs::raced;
    "redis_killed" false redis_lost::killed;
    "bridge_killed" false bridge_lost::killed;
    "bridge_drained" false bridge_lost::drained;
    "hangup_ringing" false hangups::ringing;
    "hangup_answered" false hangups::answered;
    "network_lossy" false network::lossy;
    "workers_killed" false workers_lost::killed;
    "bridge_stopped" true bridge_lost::stalled;
};

/// How many scenarios run at once: all those of a development build would keep
/// two slow cores from taking a job within its claim.
const SIDE_BY_SIDE: usize = if cfg!(debug_assertions) { 6 } else { 12 };

/// What was asked for.
#[derive(Default)]
struct Wish {
    rounds: Option<u32>,
    soak_minutes: Option<f64>,
    names: Vec<String>,
    list: bool,
}

impl Wish {
    /// Flags of libtest that mean nothing here are passed over.
    fn read(mut args: impl Iterator<Item = String>) -> Self {
        let mut wish = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rounds" => wish.rounds = args.next().and_then(|text| text.parse().ok()),
                "--soak" => wish.soak_minutes = args.next().and_then(|text| text.parse().ok()),
                "--test-threads" => drop(args.next()),
                "--list" => wish.list = true,
                flag if flag.starts_with('-') => {}
                _ => wish.names.push(arg),
            }
        }
        wish
    }

    fn wants(&self, scenario: &Scenario) -> bool {
        let named = |name: &String| scenario.name.contains(name.as_str());
        self.names.is_empty() || self.names.iter().any(named)
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "worker").is_some() {
        let orders = args.next().expect("orders");
        let orders = serde_json::from_str(&orders).expect("orders are JSON");
        runtime().block_on(worker::run(orders));
        return ExitCode::SUCCESS;
    }
    let wish = Wish::read(args);
    if wish.list {
        for scenario in SCENARIOS {
            println!("{}: test", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let (mut passed, mut failed) = (0, 0);
    if let Some(minutes) = wish.soak_minutes {
        println!("chaos: soak of {minutes} minutes, SEED={first}");
        let soak = thread::spawn(move || runtime().block_on(soak::run(minutes, first)));
        let good = soak.join().is_ok();
        (passed, failed) = (u32::from(good), u32::from(!good));
    } else {
        for number in 0..wish.rounds.unwrap_or(1) {
            let seed = first + u64::from(number);
            let (good, bad) = one_round(&wish, Round { seed });
            (passed, failed) = (passed + good, failed + bad);
            if failed > 0 {
                break;
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    ExitCode::from(u8::from(failed > 0))
}

/// Each scenario has threads of its own: one that blocks holds up no other.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Passes through all scenarios; how many passed and failed.
fn one_round(wish: &Wish, round: Round) -> (u32, u32) {
    let started = Instant::now();
    println!("chaos: a round, SEED={}", round.seed);
    let (alone, together): (Vec<_>, Vec<_>) = SCENARIOS
        .iter()
        .filter(|scenario| wish.wants(scenario))
        .partition(|scenario| scenario.alone);
    let mut results = Vec::new();
    for some in together.chunks(SIDE_BY_SIDE) {
        let running: Vec<_> = some
            .iter()
            .map(|&scenario| thread::spawn(move || play(scenario, round)))
            .collect();
        let ended = running.into_iter().map(|running| running.join());
        results.extend(ended.map(|good| good.unwrap_or(false)));
    }
    results.extend(alone.into_iter().map(|scenario| play(scenario, round)));
    println!("chaos: {} s", started.elapsed().as_secs());
    let (mut passed, mut failed) = (0, 0);
    for good in results {
        (passed, failed) = (passed + u32::from(good), failed + u32::from(!good));
    }
    (passed, failed)
}

/// Plays one scenario; whether it passed.
fn play(scenario: &'static Scenario, round: Round) -> bool {
    let started = Instant::now();
    let played = thread::Builder::new()
        .name(scenario.name.to_owned())
        .spawn(move || runtime().block_on((scenario.run)(round)));
    let played = played.unwrap().join();
    let seconds = started.elapsed().as_secs();
    match &played {
        Ok(Summary(text)) => println!("chaos: {}: {text} ({seconds} s)", scenario.name),
        // The panic itself is on standard error already.
        Err(_) => println!(
            "chaos: {}: FAILED after {seconds} s, SEED={}",
            scenario.name, round.seed
        ),
    }
    played.is_ok()
}
