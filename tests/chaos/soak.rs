//! Thousands of short calls, one after the other, and the bridge's memory: it
//! must not grow with them. Some calls lose their worker, some are cancelled,
//! some are for nobody.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::books::{Books, Terms};
use crate::caller::{Leave, Plan};
use crate::record::Record;
use crate::stage::{Stage, draw};

/// Calls at once.
const AT_ONCE: usize = 40;
/// Share of the calls after which memory may no longer grow. SIP keeps each
/// call's last transactions for 32 s: below five minutes this is too short.
const WARM_UP: f64 = 0.2;
/// Steepest growth, in bytes per call.
const SLOPE_MAX: f64 = 1_000.0;
/// Workers that are killed and replaced, so that calls change hands.
const KILL_EVERY: Duration = Duration::from_secs(5);

/// Resident memory after so many calls.
struct Sample {
    calls: usize,
    bytes: f64,
}

/// Cycles calls for so many minutes and prints one line of a table; panics
/// when anything grows.
pub async fn run(minutes: f64, seed: u64) {
    let args = ["--max-attempts", "50", "--worker-timeout", "10"];
    let mut stage = Stage::start(seed, &args).await;
    let orders = stage.echo();
    for _ in 0..3 {
        stage.pool.start(&orders).await;
    }
    let total = Duration::from_secs_f64(minutes * 60.0);
    let (mut done, started) = (0, Instant::now());
    let mut calls = tokio::task::JoinSet::new();
    let mut samples = Vec::new();
    let mut books = Books::default();
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    let mut killed = Instant::now();
    while started.elapsed() < total || !calls.is_empty() {
        while started.elapsed() < total && calls.len() < AT_ONCE {
            let plan = plan(&mut stage);
            let call = stage.call(plan);
            calls.spawn(call);
        }
        tokio::select! {
            ended = calls.join_next() => {
                if let Some(record) = ended {
                    let record: Record = record.unwrap().unwrap();
                    books.note_end(&record);
                    done += 1;
                }
            }
            _ = clock.tick() => {
                samples.push(Sample { calls: done, bytes: resident(stage.bridge.pid()) });
                if killed.elapsed() > KILL_EVERY && started.elapsed() < total {
                    killed = Instant::now();
                    let alive = stage.pool.alive();
                    stage.pool.kill(alive[stage.random.random_range(0..alive.len())]);
                    stage.pool.launch(&orders);
                }
            }
        }
    }
    stage.idle().await;
    let calls = done;
    for sample in samples.iter().step_by(10) {
        println!("{} calls, {:.1} MB", sample.calls, sample.bytes / 1e6);
    }
    let slope = slope(&samples, (calls as f64 * WARM_UP) as usize);
    let warm_bytes = samples
        .iter()
        .find(|sample| sample.calls as f64 >= calls as f64 * WARM_UP);
    let end_bytes = resident(stage.bridge.pid());
    println!("chaos: | calls | minutes | RSS after warm-up | RSS at the end | slope |");
    println!(
        "chaos: | {calls} | {:.1} | {:.1} MB | {:.1} MB | {slope:.0} bytes per call |",
        started.elapsed().as_secs_f64() / 60.0,
        warm_bytes.map_or(0.0, |sample| sample.bytes) / 1e6,
        end_bytes / 1e6,
    );
    // Compares descriptors, threads and ports with before the first call.
    books.look(&stage, &[], Terms::new()).await;
    stage.bridge.shut_down().await;
    books.judge();
    assert!(
        slope < SLOPE_MAX,
        "memory grows by {slope:.0} bytes per call"
    );
}

/// Most talk for a second or two; some leave at once, or before the answer.
fn plan(stage: &mut Stage) -> Plan {
    let random = &mut stage.random;
    Plan::new(match random.random_range(0..10) {
        0 => Leave::Cancel(draw(random, 0, 20)),
        1 => Leave::After(draw(random, 0, 100)),
        _ => Leave::After(draw(random, 1_000, 2_000)),
    })
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.unwrap().parse::<f64>().unwrap() * 1_024.0
}

/// Least-squares slope of memory over calls, from the end of the warm-up on.
fn slope(samples: &[Sample], warm_up: usize) -> f64 {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.calls >= warm_up)
        .map(|sample| (sample.calls as f64, sample.bytes))
        .collect();
    let count = points.len() as f64;
    let mean_calls = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_bytes = points.iter().map(|point| point.1).sum::<f64>() / count;
    let (mut product, mut square) = (0.0, 0.0);
    for (calls, bytes) in points {
        product += (calls - mean_calls) * (bytes - mean_bytes);
        square += (calls - mean_calls).powi(2);
    }
    if square > 0.0 { product / square } else { 0.0 }
}
