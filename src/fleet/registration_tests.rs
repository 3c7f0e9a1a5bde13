//! The schedule stays whole whatever comes.

use super::*;
use crate::fleet::admission::Limits;
use crate::fleet::test_lines::{hold, ready};
use rand::SeedableRng;
use rand::rngs::StdRng;

const SEED: u64 = 7;

fn ok(seconds: u64) -> RegisterResult {
    RegisterResult::Registered {
        expires: Duration::from_secs(seconds),
    }
}

fn failure() -> RegisterResult {
    RegisterResult::Failed {
        status: 503,
        text: "text".into(),
        retry_after: None,
    }
}

/// Random operations: the schedule stays whole and never spins.
#[test]
fn any_order_of_events_keeps_one_timer_per_line() {
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut fleet, mut now) = (Fleet::new(Limits::default(), SEED), Instant::now());
    for step in 0..20_000 {
        let line = LineId::new(random.random_range(0..20).to_string());
        match random.random_range(0..8) {
            0 => {
                hold(&mut fleet, ready(line.as_str()));
                fleet.register(&line, &random.random_range(0..3).to_string(), now);
            }
            1 => drop(fleet.remove(&line)),
            2 => drop(fleet.handle_result(&line, ok(random.random_range(0..90)), now)),
            3 => drop(fleet.handle_result(&line, failure(), now)),
            4 => drop(fleet.handle_result(&line, RegisterResult::Unregistered, now)),
            5 => now += Duration::from_millis(random.random_range(0..9_000)),
            6 => drop(fleet.register_now(&line, now)),
            _ => {
                while fleet.poll_register(now).is_some() {}
                let later = fleet.poll_timeout().is_none_or(|at| at > now);
                assert!(later, "seed {SEED} step {step}: spins");
            }
        }
        assert_eq!(
            fleet.registering().len(),
            fleet.turns.timers(),
            "seed {SEED} step {step}"
        );
    }
}
