//! One target: its inputs are drawn and played, and the bridge looked at after
//! each batch. What makes it fall is shrunk on fresh processes and kept.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::corpus::{self, Input};
use crate::world::{Wish, World};

/// Between two looks at the process.
const BATCH: Duration = Duration::from_millis(1_500);
/// Between two whole calls.
const CALL_EVERY: Duration = Duration::from_secs(12);
/// Latest inputs that are kept in case they are a fault's cause.
const RECENT: usize = 400;

/// What draws and plays the inputs of one target.
pub trait Driver {
    /// The next input; depends on nothing but the random numbers.
    fn draw(&mut self, random: &mut StdRng) -> Input;
    /// Does it to the bridge.
    fn play(&mut self, world: &mut World, input: &Input);
    /// Seeds that are played as they are before anything else.
    fn seeds(&self) -> Vec<Input>;
    /// Lets go of the bridge.
    fn leave(&mut self, world: &mut World);
}

pub struct Target {
    pub name: &'static str,
    pub wish: fn() -> Wish,
    pub driver: fn(&Wish, u64) -> Box<dyn Driver>,
}

/// Attacks for so long; what was done, or what was found.
pub async fn attack(target: &Target, seed: u64, time: Duration) -> Result<String, String> {
    let wish = (target.wish)();
    let mut world = World::start(&wish).await;
    let mut driver = (target.driver)(&wish, seed);
    let mut recent: Vec<Input> = Vec::new();
    let mut random = StdRng::seed_from_u64(seed);
    let mut counts = (0_u64, 0_u64);
    let found = tokio::task::block_in_place(|| {
        if let Some(fault) = world.remember() {
            return Some(format!("before any input: {fault}"));
        }
        let known = driver.seeds().into_iter();
        // Twice each: some faults only show on the second.
        let known: Vec<Input> = known.flat_map(|it| [it.clone(), it]).collect();
        let kept = corpus::crashes(target.name)
            .into_iter()
            .flat_map(|(_, inputs)| inputs);
        let mut queue = kept.chain(known).collect::<Vec<_>>().into_iter();
        let started = Instant::now();
        let (mut looked, mut called) = (started, started);
        loop {
            let input = match queue.next() {
                Some(input) => input,
                // The seeds are all played, however long that takes.
                None if started.elapsed() > time => break,
                None => driver.draw(&mut random),
            };
            driver.play(&mut world, &input);
            counts.0 += 1;
            if recent.len() == RECENT {
                recent.drain(..RECENT / 4);
            }
            recent.push(input);
            let fault = if called.elapsed() > CALL_EVERY {
                counts.1 += 1;
                let fault = world.look_closely();
                (looked, called) = (Instant::now(), Instant::now());
                fault
            } else if looked.elapsed() > BATCH {
                let fault = world.look();
                looked = Instant::now();
                fault
            } else {
                None
            };
            if fault.is_some() {
                return fault;
            }
        }
        driver.leave(&mut world);
        let grown = world.grown_mb();
        let fault = world.look_closely().or_else(|| world.left());
        if fault.is_none() {
            println!(
                "fuzz: {}: {} inputs, {} whole calls, {grown} MB more at the end",
                target.name,
                counts.0,
                counts.1 + 1
            );
        }
        fault
    });
    drop(driver);
    drop(world);
    match found {
        None => Ok(format!("{} inputs", counts.0)),
        Some(fault) => {
            let smallest = shrink(target, &wish, seed, &recent).await;
            let file = corpus::keep(target.name, seed, smallest.as_ref().unwrap_or(&recent));
            let shrunk = smallest
                .map_or("not seen again in a replay: all recent".to_owned(), |it| {
                    format!("{}", it.len())
                });
            Err(format!(
                "{fault}\n-- after {} inputs; {shrunk} inputs kept in {}",
                counts.0,
                file.display()
            ))
        }
    }
}

/// The shortest end of the inputs that makes a fresh process fall.
async fn shrink(target: &Target, wish: &Wish, seed: u64, recent: &[Input]) -> Option<Vec<Input>> {
    let mut length = 1;
    loop {
        let from = recent.len().saturating_sub(length);
        let mut inputs = recent[from..].to_vec();
        if length <= 4 {
            inputs.extend_from_within(..);
        }
        if replay(target, wish, seed, &inputs).await.is_some() {
            return Some(fewer(target, wish, seed, inputs).await);
        }
        if from == 0 {
            return None;
        }
        length *= 4;
    }
}

/// Takes out parts as long as the fault stays, within some tries.
async fn fewer(target: &Target, wish: &Wish, seed: u64, mut inputs: Vec<Input>) -> Vec<Input> {
    let mut part = inputs.len() / 2;
    let mut tries = 24;
    while part > 0 && tries > 0 {
        let mut at = 0;
        while at < inputs.len() && inputs.len() > 1 && tries > 0 {
            tries -= 1;
            let mut without = inputs.clone();
            without.drain(at..(at + part).min(without.len()));
            match replay(target, wish, seed, &without).await {
                Some(_) if !without.is_empty() => inputs = without,
                _ => at += part,
            }
        }
        part /= 2;
    }
    inputs
}

/// Plays inputs to a fresh process; what is wrong with it then.
pub async fn replay(target: &Target, wish: &Wish, seed: u64, inputs: &[Input]) -> Option<String> {
    let mut world = World::start(wish).await;
    let mut driver = (target.driver)(wish, seed);
    tokio::task::block_in_place(|| {
        for input in inputs {
            driver.play(&mut world, input);
        }
        let fault = world.look();
        if fault.is_none() {
            driver.leave(&mut world);
        }
        fault.or_else(|| world.look_closely())
    })
}
