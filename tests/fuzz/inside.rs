//! Fuzzing without the network: what reads foreign bytes is called in this very
//! process, some hundred thousand times in the time that a bridge takes a few
//! thousand messages. Nothing panics, no input takes long, nothing is kept, and
//! what is written is read again as the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::corpus::{self, Input};
use crate::mutate::pick;

/// What reads foreign bytes.
pub struct Reader {
    pub name: &'static str,
    /// Good input, and odd input that was found before.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes another input of one, or of two.
    pub mutate: fn(&mut StdRng, &[u8], &[u8]) -> Vec<u8>,
    /// Reads it; panics where something is wrong.
    pub read: fn(&[u8]),
}

/// Longest that one input may take. The slowest are three key derivations, a second
/// each where all readers share two cores; a quadratic reader takes minutes.
const LONGEST: Duration = Duration::from_secs(15);
/// Most memory that all readers together may still hold at the end.
const KEPT_MAX_MB: u64 = 128;
/// Inputs that were taken without a fault and are mutated further.
const POOL_MAX: usize = 256;

/// Reads for so long; what was done, or the first fault, whose input is kept.
pub fn attack(reader: &Reader, seed: u64, time: Duration) -> Result<String, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut pool = (reader.seeds)();
    assert!(!pool.is_empty(), "{} has no seeds", reader.name);
    let kept = corpus::crashes(reader.name).into_iter();
    let kept = kept.flat_map(|(_, inputs)| inputs.into_iter().map(|input| input.bytes));
    let mut queue: Vec<Vec<u8>> = kept.chain(pool.iter().cloned()).collect();
    let (before, started) = (resident_mb(), Instant::now());
    let (mut inputs, mut slowest) = (0_u64, Duration::ZERO);
    while started.elapsed() < time || !queue.is_empty() {
        let input = queue.pop().unwrap_or_else(|| {
            let (one, other) = (pick(&mut random, &pool), pick(&mut random, &pool));
            (reader.mutate)(&mut random, one, other)
        });
        inputs += 1;
        let took = fault_of(reader, &input).map_err(|fault| {
            let input = [Input::new(reader.name, input.clone())];
            let file = corpus::keep(reader.name, seed, &input);
            format!(
                "{fault}\n-- after {inputs} inputs; it is kept in {}",
                file.display()
            )
        })?;
        slowest = slowest.max(took);
        // Further from the good ones by each turn, and back to them by another.
        if pool.len() < POOL_MAX && inputs % 64 == 0 {
            pool.push(input);
        }
    }
    let grown = resident_mb().saturating_sub(before);
    if grown > KEPT_MAX_MB {
        return Err(format!("{grown} MB are still held after {inputs} inputs"));
    }
    let slowest = slowest.as_millis();
    Ok(format!("{inputs} inputs, the slowest {slowest} ms"))
}

/// Reads one input: how long it took, or what is wrong.
pub fn fault_of(reader: &Reader, input: &[u8]) -> Result<Duration, String> {
    let started = Instant::now();
    // A panic's message goes to standard error, as of any test.
    let read = catch_unwind(AssertUnwindSafe(|| (reader.read)(input)));
    let took = started.elapsed();
    match read {
        Err(_) => Err("it panicked".to_owned()),
        Ok(()) if took > LONGEST => Err(format!("it took {took:?}")),
        Ok(()) => Ok(took),
    }
}

/// Resident memory of this process.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) / 1_024
}
