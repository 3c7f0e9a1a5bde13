//! How leases, and answers of scripts, are read.

use super::*;

fn read(text: &str) -> Option<Lease> {
    read_lease(text.as_bytes())
}

fn lease(stage: LeaseStage) -> Option<Lease> {
    Some(Lease {
        node: NodeId::new("a"),
        fence: Fence(7),
        stage,
    })
}

#[test]
fn a_lease_is_read_in_each_stage() {
    let from = NodeId::new("b");
    for (text, stage) in [
        (r#"{"node":"a","fence":7}"#, LeaseStage::Held),
        (
            r#"{"node":"a","fence":7,"offered":true}"#,
            LeaseStage::Offered,
        ),
        (
            r#"{"node":"a","fence":7,"from":"b"}"#,
            LeaseStage::Moving { from: from.clone() },
        ),
        (
            r#"{"node":"a","fence":7,"from":"b","confirmed":true,"shown":true}"#,
            LeaseStage::Confirmed {
                from: from.clone(),
                shown: true,
            },
        ),
        (
            r#"{"node":"a","fence":7,"from":"b","confirmed":true}"#,
            LeaseStage::Confirmed { from, shown: false },
        ),
        // What is known is taken, whatever else stands there.
        (
            r#"{"node":"a","fence":7,"from":3,"offered":"yes","since":[1]}"#,
            LeaseStage::Held,
        ),
    ] {
        assert_eq!(read(text), lease(stage), "{text}");
    }
}

#[test]
fn a_lease_that_cannot_be_understood_is_none() {
    let long = format!(r#"{{"node":"{}","fence":7}}"#, "a".repeat(256));
    let longer = format!(r#"{{"node":"a","fence":7,"x":"{}"}}"#, "a".repeat(1_024));
    for text in [
        "",
        "null",
        "7",
        "[]",
        "{",
        r#"{"node":"a"}"#,
        r#"{"fence":7}"#,
        r#"{"node":"","fence":7}"#,
        // It would go into the log as it is.
        r#"{"node":"a\nERROR b","fence":7}"#,
        r#"{"node":7,"fence":7}"#,
        r#"{"node":"a","fence":"7"}"#,
        r#"{"node":"a","fence":-7}"#,
        r#"{"node":"a","fence":7.5}"#,
        r#"{"node":"a","fence":4503599627370496}"#,
        &long,
        &longer,
        &"[".repeat(1_000),
    ] {
        assert_eq!(read(text), None, "{text}");
    }
    assert_eq!(read_lease(b"{\"node\":\"\xff\",\"fence\":7}"), None);
}

#[test]
fn an_answer_that_is_too_short_is_read_as_far_as_it_goes() {
    let lines = ["l1", "l2", "l3"].map(LineId::new);
    let text = |text: &str| text.as_bytes().to_vec();
    let answer = [
        text("ok"),
        text("1"),
        text(r#"{"node":"a","fence":7}"#),
        text("0"),
    ];
    let outcomes = read_outcomes(lines.iter(), &answer);
    assert_eq!(outcomes.len(), 2);
    assert_eq!(
        (outcomes[0].done, outcomes[0].lease.clone()),
        (true, lease(LeaseStage::Held))
    );
    assert_eq!((outcomes[1].done, outcomes[1].lease.clone()), (false, None));
    assert_eq!(read_outcomes(lines.iter(), &[]), []);
}
