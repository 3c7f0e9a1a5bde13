//! What becomes of lines that several bridges share: starts a private Redis, a registrar with digest
//! authentication and several bridges, and measures one thing after the other:
//!
//! | | |
//! |---|---|
//! | `--idle` | commands that each bridge sends to Redis while nothing happens |
//! | `--kill` | a bridge is killed with -9: until the last of its lines is registered by another |
//! | `--freeze` | the same by SIGSTOP, then SIGCONT |
//! | `--cut-off` | the same where nothing passes between it and Redis any more |
//! | `--rolling` | all bridges are restarted one after the other, with a call to some line each 100 ms |
//! | `--join` | one more bridge joins: how many lines move |
//!
//! Without any of these flags all are measured. Where a bridge dies the others have calls with audio, which must
//! not be harmed; and every 100 ms the registrar is asked for lines that are at two bridges at once.
//!
//! ```text
//! cargo build --release --examples --bins
//! cargo run --release --example cluster                    # all, 15 minutes
//! cargo run --release --example cluster -- --kill --rounds 1
//! ```
//!
//! Loopback only; needs `redis-server`. A bridge that lived for less than a minute and comes back gets its share only
//! after a minute, so that a round of `--kill` takes up to that. Exit code 0: every limit was kept.

mod calls;
mod redis_server;
mod report;
mod scenarios;
mod stage;
mod watch;

#[expect(dead_code, reason = "shared with the program that measures one bridge")]
#[path = "../lines/bridge.rs"]
mod bridge;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with tests of the queue, where a broken expectation is a failure"
)]
#[path = "../../tests/redis_queue/proxy.rs"]
mod proxy;
#[expect(dead_code, reason = "shared with the program that measures one bridge")]
#[path = "../lines/registrar.rs"]
mod registrar;
#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/rtp.rs"]
mod rtp;
#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/sip_uac.rs"]
mod sip_uac;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use report::Report;
use scenarios::Death;
use stage::Stage;

/// Measures what becomes of lines that several bridges share.
#[derive(Clone, Parser)]
pub struct Args {
    /// The bridge's program.
    #[arg(long, default_value = "target/release/sipbridge")]
    bridge: PathBuf,
    /// How many lines the bridges share where one dies, or joins.
    #[arg(long, default_value_t = 1_000)]
    lines: usize,
    /// How many while nothing happens.
    #[arg(long, default_value_t = 2_000)]
    idle_lines: usize,
    /// How many while all bridges are restarted.
    #[arg(long, default_value_t = 300)]
    rolling_lines: usize,
    /// How many bridges.
    #[arg(long, default_value_t = 3)]
    bridges: usize,
    /// How often a bridge dies, of each death.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Calls in progress on each other bridge while one dies.
    #[arg(long, default_value_t = 5)]
    calls: usize,
    /// The registrar keeps all Contacts of a line, not only the last one.
    #[arg(long)]
    all_contacts: bool,
    /// Redis while nothing happens.
    #[arg(long)]
    idle: bool,
    /// A bridge is killed.
    #[arg(long)]
    kill: bool,
    /// A bridge stands still.
    #[arg(long)]
    freeze: bool,
    /// A bridge is cut off from Redis.
    #[arg(long)]
    cut_off: bool,
    /// All bridges are restarted.
    #[arg(long)]
    rolling: bool,
    /// A bridge joins.
    #[arg(long)]
    join: bool,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

impl Args {
    fn is_all(&self) -> bool {
        !(self.idle || self.kill || self.freeze || self.cut_off || self.rolling || self.join)
    }

    /// The deaths that are asked for.
    fn deaths(&self) -> Vec<Death> {
        let asked = [
            (self.kill, Death::Kill),
            (self.freeze, Death::Freeze),
            (self.cut_off, Death::CutOff),
        ];
        let is_wanted = |(is_asked, _): &(bool, Death)| *is_asked || self.is_all();
        let asked = asked.into_iter().filter(is_wanted);
        asked.map(|(_, death)| death).collect()
    }
}

async fn run(args: &Args, report: &mut Report) -> Result<()> {
    let all = args.is_all();
    if all || args.idle {
        let stage = Stage::start(args, args.idle_lines).await?;
        scenarios::idle(&stage, report).await?;
    }
    if all || args.rolling {
        let mut stage = Stage::start(args, args.rolling_lines).await?;
        scenarios::rolling(&mut stage, report).await?;
    }
    if all || args.join {
        let mut stage = Stage::start(args, args.lines).await?;
        scenarios::join(&mut stage, report).await?;
    }
    let deaths = args.deaths();
    if !deaths.is_empty() {
        let mut stage = Stage::start(args, args.lines).await?;
        for death in deaths {
            scenarios::deaths(&mut stage, death, report).await?;
        }
    }
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut report = Report::default();
    let ran = run(&args, &mut report).await;
    report.print();
    if let Err(error) = &ran {
        eprintln!("cluster: {error}");
    }
    ExitCode::from(u8::from(ran.is_err() || !report.is_good()))
}
