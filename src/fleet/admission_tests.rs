//! Admission with the table.

use super::*;
use crate::fleet::test_lines::{hold, ready};
use proptest::prelude::*;

fn line(number: usize) -> LineId {
    LineId::new(format!("line-{number}"))
}

/// A bridge of `calls` places, which holds `line-0` and so on.
fn gate(calls: u32, lines: usize) -> Fleet {
    let limits = Limits {
        calls,
        ..Limits::default()
    };
    let mut fleet = Fleet::new(limits, 7);
    (0..lines).for_each(|number| hold(&mut fleet, ready(line(number).as_str())));
    fleet
}

fn set_limit(gate: &mut Fleet, number: usize, most: Option<u32>) {
    let mut ready = ready(line(number).as_str());
    ready.line.max_concurrent_calls = most;
    hold(gate, ready);
}

/// As many calls as the line gets.
fn flood(gate: &mut Fleet, id: &LineId) -> u32 {
    std::iter::from_fn(|| gate.enter(id).ok())
        .count()
        .try_into()
        .unwrap()
}

/// How many of `count` INVITEs at once pass.
fn burst(gate: &mut Fleet, now: Instant, id: &LineId, count: u32) -> u32 {
    (0..count)
        .map(|_| u32::from(gate.admit(now, id).is_ok()))
        .sum()
}

#[test]
fn one_flooding_line_gets_two_thirds_and_two_get_40_percent_each() {
    let mut one = gate(900, 10);
    assert_eq!(flood(&mut one, &line(0)), 600);
    assert_eq!(one.enter(&line(0)).unwrap_err().status, 486);
    assert_eq!(one.refused_calls().line_share, 2);

    let mut two = gate(1_000, 10);
    let mut got = [0; 2];
    for turn in 0..2_000 {
        got[turn % 2] += u32::from(two.enter(&line(turn % 2)).is_ok());
    }
    assert_eq!(got, [400, 400]);
}

#[test]
fn a_line_alone_may_fill_the_bridge_and_so_may_one_with_a_limit_of_its_own() {
    assert_eq!(flood(&mut gate(30, 1), &line(0)), 30);
    let mut limited = gate(30, 2);
    set_limit(&mut limited, 0, Some(25));
    assert_eq!(flood(&mut limited, &line(0)), 25);
    assert_eq!(limited.refused_calls().line_busy, 1);
    assert_eq!(flood(&mut gate(1, 2), &line(0)), 1, "a bridge of one place");
}

#[test]
fn limits_change_and_lines_go_while_calls_are_inside() {
    let mut gate = gate(30, 2);
    set_limit(&mut gate, 0, Some(2));
    assert_eq!(flood(&mut gate, &line(0)), 2);
    set_limit(&mut gate, 0, Some(3));
    assert_eq!(flood(&mut gate, &line(0)), 1);
    gate.remove(&line(0));
    assert_eq!((gate.bridge.active, gate.lines.len()), (3, 2));
    (0..3).for_each(|_| gate.leave(&line(0)));
    assert_eq!((gate.bridge.active, gate.lines.len()), (0, 1));
    // A line that comes back before its calls are over stays.
    gate.enter(&line(1)).expect("a place");
    gate.remove(&line(1));
    set_limit(&mut gate, 1, None);
    gate.leave(&line(1));
    assert_eq!(gate.lines.len(), 1);
    assert_eq!(flood(&mut gate, &line(1)), 30, "alone it need not share");
}

#[test]
fn a_burst_of_one_second_passes_and_then_so_many_a_second() {
    let start = Instant::now();
    for rate in [1, 3, 7, 100, 1_000] {
        let mut gate = gate(10_000, 1);
        gate.bridge.limits.calls_per_second = rate;
        assert_eq!(
            burst(&mut gate, start, &line(0), 2 * rate),
            rate,
            "rate {rate}"
        );
        let refusal = gate.admit(start, &line(0)).unwrap_err();
        assert_eq!(refusal.status, 503);
        assert!((1..=2).contains(&refusal.retry_after.unwrap().as_secs()));
        // Two hundred tries in each of ten seconds.
        let later = (1..=2_000).filter(|step| {
            let now = start + Duration::from_millis(5) * *step;
            gate.admit(now, &line(0)).is_ok()
        });
        let passed = u32::try_from(later.count()).unwrap();
        assert!(
            passed.abs_diff((10 * rate).min(2_000)) <= 1,
            "{passed} at {rate}"
        );
    }
}

#[test]
fn one_line_uses_half_of_the_rate_and_leaves_the_rest_to_others() {
    let now = Instant::now();
    let mut gate = gate(10_000, 5);
    gate.bridge.limits.calls_per_second = 100;
    assert_eq!(burst(&mut gate, now, &line(0), 500), 50);
    assert_eq!(gate.admit(now, &line(0)).unwrap_err().status, 486);
    assert_eq!(burst(&mut gate, now, &line(1), 20), 20);
    assert_eq!(gate.refused_calls().line_rate, 451);
    // The slowest of rates still lets a line have its first call.
    gate.bridge.limits.calls_per_second = 1;
    assert_eq!(burst(&mut gate, now + 9 * SECOND, &line(2), 3), 1);
}

#[test]
fn an_overloaded_bridge_takes_nothing_until_it_is_told_otherwise() {
    let mut gate = gate(10, 1);
    gate.set_overloaded(true);
    let refusal = gate.enter(&line(0)).unwrap_err();
    assert_eq!(
        (refusal.status, refusal.retry_after),
        (503, Some(RETRY_OVERLOADED))
    );
    gate.set_overloaded(false);
    assert!(gate.enter(&line(0)).is_ok());
    assert_eq!((gate.taken(), gate.refused_calls().sum()), (1, 1));
}

proptest! {
    /// Whatever came and went before: while lines flood, a quiet line's
    /// first call finds a place, and what a line may not have is there.
    #[test]
    fn no_flood_takes_the_last_place(
        calls in 3_u32..200,
        steps in proptest::collection::vec((0_usize..3, any::<bool>()), 0..600),
    ) {
        let mut gate = gate(calls, 8);
        let mut held = [0_u32; 3];
        for (who, comes) in steps {
            if !comes && held[who] > 0 {
                gate.leave(&line(who));
                held[who] -= 1;
            } else if gate.enter(&line(who)).is_ok() {
                held[who] += 1;
                let free = calls - held.iter().sum::<u32>();
                prop_assert!(held[who] == 1 || held[who] <= 2 * free);
            }
        }
        // As long as one line alone floods, the last place is never its own.
        for (who, held) in held.into_iter().enumerate().skip(1) {
            (0..held).for_each(|_| gate.leave(&line(who)));
        }
        flood(&mut gate, &line(0));
        prop_assert!(gate.enter(&line(7)).is_ok());
        prop_assert_eq!(gate.bridge.active, gate.lines.values().map(|line| line.calls.active).sum::<u32>());
    }

    /// Any number of flooding lines in turn leave a place for one more, as
    /// long as there are three places for each of them and one.
    #[test]
    fn floods_in_turn_leave_room(floods in 1_usize..20, spare in 0_u32..50) {
        let calls = 3 * u32::try_from(floods).unwrap() + 1 + spare;
        let mut gate = gate(calls, 40);
        let mut refused = 0;
        while refused < floods {
            refused = (0..floods).filter(|who| gate.enter(&line(*who)).is_err()).count();
        }
        prop_assert!(gate.enter(&line(39)).is_ok());
    }

    /// A bucket never gives more than its rate and one burst.
    #[test]
    fn never_more_than_the_rate(
        rate in 1_u32..200,
        gaps_us in proptest::collection::vec(0_u64..60_000, 1..800),
    ) {
        let start = Instant::now();
        let (mut now, mut passed) = (start, 0_u32);
        let mut gate = gate(10_000, 1);
        gate.bridge.limits.calls_per_second = rate;
        for gap_us in gaps_us {
            now += Duration::from_micros(gap_us);
            passed += u32::from(gate.admit(now, &line(0)).is_ok());
        }
        let most = f64::from(rate) * (1.0 + (now - start).as_secs_f64());
        prop_assert!(f64::from(passed) <= most + 1e-3, "{} of {}", passed, most);
    }
}
