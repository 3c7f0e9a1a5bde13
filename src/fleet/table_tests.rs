//! The table: what is known, held and found.

use super::*;
use crate::core::private::Private;
use crate::fleet::test_lines::{hold, ready};
use proptest::prelude::*;

fn fleet() -> Fleet {
    Fleet::new(Limits::default(), 7)
}

#[test]
fn what_is_known_of_lines_is_told() {
    let mut fleet = fleet();
    let reason = "has no sipUsername".to_owned();
    let bad = LineHealth::Unusable { reason };
    let reason = "not active".to_owned();
    let paused = LineHealth::Skipped { reason };
    let [a, b] = ["a", "b"].map(LineId::new);
    fleet.judge([(a.clone(), bad.clone()), (b, paused)]);
    assert_eq!((fleet.health(&a), fleet.unusable()), (Some(bad), 1));
    assert_eq!(fleet.health(&LineId::new("c")), None);
    assert_eq!(fleet.ids(None, 1), std::slice::from_ref(&a));
    assert_eq!(fleet.ids(Some("a"), 9), [LineId::new("b")]);
    assert_eq!(fleet.ids(Some("b"), 9), []);
    fleet.forget_others(&HashSet::from([a.clone()]));
    assert_eq!(fleet.ids(None, 9), [a]);
}

#[test]
fn lines_are_found_by_their_present_number() {
    let mut fleet = fleet();
    let with_number = |number: &str| {
        let mut line = ready("7");
        line.line.phone_number = Some(Private::new(number));
        line
    };
    hold(&mut fleet, with_number("+33972360682"));
    assert_eq!(fleet.with_number("+33 9 72 36 06 82").len(), 1);
    hold(&mut fleet, with_number("+33972360683"));
    assert_eq!(fleet.with_number("+33972360682").len(), 0);
    assert_eq!(fleet.with_number("+33972360683").len(), 1);
    // The same number again.
    hold(&mut fleet, with_number("+33972360683"));
    assert_eq!(
        (fleet.with_number("+33972360683").len(), fleet.len()),
        (1, 1)
    );
    assert!(fleet.only().is_some());
    fleet.remove(&LineId::new("7"));
    assert_eq!(fleet.with_number("+33972360683").len(), 0);
    assert!(fleet.only().is_none() && fleet.lines.is_empty());
}

proptest! {
    /// What is done about the differences brings the lines held to those that are wanted.
    #[test]
    fn carried_out_the_changes_lead_to_what_is_wanted(
        before in proptest::collection::btree_map(0_u8..20, 0_u8..4, 0..20),
        now in proptest::collection::btree_map(0_u8..20, 0_u8..4, 0..20),
    ) {
        let make = |(id, kind): (&u8, &u8)| {
            let mut line = ready(&id.to_string());
            match kind {
                1 => line.route.domain = "other".into(),
                2 => line.line.phone_number = Some(Private::new("+331")),
                3 => line.line.greeting = Some("x".into()),
                _ => {}
            }
            line
        };
        let mut fleet = fleet();
        before.iter().map(make).for_each(|line| hold(&mut fleet, line));
        let wanted: Vec<ReadyLine> = now.iter().map(make).collect();
        let ids: HashSet<LineId> = wanted.iter().map(|line| line.line.id.clone()).collect();
        for id in fleet.held_besides(&ids) {
            fleet.remove(&id);
        }
        for line in &wanted {
            if fleet.change_of(line).is_some() {
                hold(&mut fleet, line.clone());
            }
        }
        prop_assert_eq!(fleet.len(), wanted.len());
        prop_assert!(wanted.iter().all(|line| fleet.change_of(line).is_none()));
        prop_assert!(fleet.held_besides(&ids).is_empty());
    }
}
