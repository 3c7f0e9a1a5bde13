//! One thing after the other, each from bridges that have found their lines to the rows of the report.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::Result;
use crate::calls::{Public, Talks};
use crate::proxy::Mode;
use crate::report::Report;
use crate::stage::Stage;

/// How long the commands of idle bridges are counted.
const IDLE: Duration = Duration::from_secs(30);

/// `--lease-ttl` where nothing else is said.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// Limits of the issue.
const COMMANDS_MAX_PER_S: f64 = 20.0;
const KILLED_MAX_S: f64 = 15.0;
const ELSE_MAX_S: f64 = 20.0;
const MOVED_MAX_PERCENT: f64 = 2.0;

/// How a bridge is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL.
    Kill,
    /// SIGSTOP; it comes back with SIGCONT.
    Freeze,
    /// Nothing passes between it and Redis.
    CutOff,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::Freeze => "SIGSTOP",
            Self::CutOff => "Redis link cut",
        })
    }
}

/// Commands that bridges send to Redis while nothing happens.
pub async fn idle(stage: &Stage, report: &mut Report) -> Result<()> {
    let commands = stage.redis.commands(IDLE).await?;
    let per_s = |count: usize| count as f64 / IDLE.as_secs_f64() / stage.members.len() as f64;
    report.at_most(
        format!(
            "Redis commands per node and second, {} lines idle",
            stage.lines
        ),
        per_s(commands.sent),
        COMMANDS_MAX_PER_S,
        "",
    );
    report.at_most(
        "the same with those that its scripts run",
        per_s(commands.sent + commands.by_scripts),
        COMMANDS_MAX_PER_S,
        "",
    );
    Ok(())
}

/// Bridges that die by turns: how long their lines are without one.
pub async fn deaths(stage: &mut Stage, death: Death, report: &mut Report) -> Result<()> {
    stage.watch();
    let (mut seconds, mut harmed, mut calls) = (Vec::new(), 0, 0);
    let mut lines_max = 0;
    for round in 0..stage.args().rounds {
        let victim = round % stage.members.len();
        let talks = Talks::begin(&others(stage, victim), stage.args().calls).await?;
        // The time since its last heartbeat counts: any is as likely as another.
        let beat = LEASE_TTL / 3;
        sleep(rand::rng().random_range(Duration::ZERO..beat)).await;
        stage.leave_out(victim);
        die(stage, victim, death)?;
        let (took, lines) = stage.taken_over(victim).await?;
        eprintln!(
            "{death}, round {}: {lines} lines, {:.2} s",
            round + 1,
            took.as_secs_f64()
        );
        seconds.push(took.as_secs_f64());
        lines_max = lines_max.max(lines);
        let ended = talks.end().await?;
        (harmed, calls) = (harmed + ended.0, calls + ended.1);
        come_back(stage, victim, death).await?;
        stage.settle().await?;
        stage.count_again(victim);
    }
    let limit = match death {
        Death::Kill => KILLED_MAX_S,
        Death::Freeze | Death::CutOff => ELSE_MAX_S,
    };
    let what = format!(
        "{death} of one of {}: the last of its up to {lines_max} lines answers again, median",
        stage.members.len()
    );
    report.median(what, seconds, limit);
    report.none(
        format!("calls on other nodes harmed by {death}"),
        &[harmed],
        format!("of {calls}"),
    );
    report_doubled(stage, &death.to_string(), report);
    Ok(())
}

fn report_doubled(stage: &Stage, meanwhile: &str, report: &mut Report) {
    let (doubled, looks) = stage.doubled();
    report.none(
        format!("lines on two nodes at once, {meanwhile}"),
        &[doubled],
        format!("in {looks} looks"),
    );
}

fn others(stage: &Stage, victim: usize) -> Vec<SocketAddr> {
    let members = stage.members.iter().enumerate();
    let others = members.filter(|(index, _)| *index != victim);
    others.map(|(_, member)| member.sip()).collect()
}

fn die(stage: &Stage, victim: usize, death: Death) -> Result<()> {
    let member = &stage.members[victim];
    match death {
        Death::Kill => member.signal(Signal::KILL),
        Death::Freeze => member.signal(Signal::STOP),
        Death::CutOff => {
            member.link.set(Mode::Swallow);
            Ok(())
        }
    }
}

async fn come_back(stage: &mut Stage, victim: usize, death: Death) -> Result<()> {
    match death {
        Death::Kill => stage.start_again(victim).await,
        Death::Freeze => stage.members[victim].signal(Signal::CONT),
        Death::CutOff => {
            stage.members[victim].link.turn_to(stage.redis.port).await;
            Ok(())
        }
    }
}

/// All bridges are restarted one after the other, while the public rings.
pub async fn rolling(stage: &mut Stage, report: &mut Report) -> Result<()> {
    stage.watch();
    let public = Public::start(&stage.registrar, stage.lines);
    for index in 0..stage.members.len() {
        stage.restart(index).await?;
        stage.settle().await?;
    }
    let found = public.end().await?;
    report.none(
        format!(
            "rolling restart of {} nodes, {} lines, a call each 100 ms: refused/unanswered/cut",
            stage.members.len(),
            stage.lines
        ),
        &[found.refused, found.unanswered, found.cut],
        format!("of {} calls", found.calls),
    );
    report_doubled(stage, "rolling restart", report);
    Ok(())
}

/// One more bridge joins: what moves.
pub async fn join(stage: &mut Stage, report: &mut Report) -> Result<()> {
    stage.watch();
    let before = stage.redis.leases().await?;
    let joined = format!("bridge-{}", stage.members.len());
    stage.join().await?;
    stage.settle().await?;
    let after = stage.redis.leases().await?;
    let (moved, elsewhere) = moves(&before, &after, &joined);
    let share = stage.lines / stage.members.len();
    let beyond = moved.saturating_sub(share) as f64 * 100.0 / stage.lines as f64;
    let number = stage.members.len();
    let what = format!(
        "node {number} joins: of {} lines moved beyond its share of {share}",
        stage.lines
    );
    report.at_most(what, beyond, MOVED_MAX_PERCENT, "%");
    report.none(
        "lines that moved, and not to it",
        &[elsewhere],
        format!("of {moved}"),
    );
    report_doubled(stage, "a node joins", report);
    Ok(())
}

/// How many lines have another holder, and how many of them not the one that joined.
fn moves(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    joined: &str,
) -> (usize, usize) {
    let moved: Vec<&String> = after
        .iter()
        .filter(|(line, node)| before.get(*line) != Some(*node))
        .map(|(_, node)| node)
        .collect();
    let elsewhere = moved.iter().filter(|node| node.as_str() != joined).count();
    (moved.len(), elsewhere)
}
