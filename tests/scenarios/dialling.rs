//! Whom calls and transfers of the API may reach, and how often. The line is
//! French, `--allow-dial` is not given.

use serde_json::json;
use sipbridge::bridge::call_store::{CallRequest, RequestError};
use sipbridge::bridge::place::{NewCall, PlaceError};
use sipbridge::core::dialling::NotAllowed;
use sipbridge::core::private::Private;

use super::harness::until;
use super::placed::{new_call, talking};
use super::stage::{Setup, Stage};

fn call_to(to: &str) -> NewCall {
    NewCall {
        to: Private::new(to),
        ..new_call()
    }
}

/// What was refused so far, by reason.
fn refused(stage: &Stage) -> Vec<(&'static str, u64)> {
    let refused = stage.context.dialling.refused();
    refused.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_is_not_dialled_and_takes_no_place() {
    let stage = Setup::queue().start().await;
    for to in [
        "+32470123456",
        "0892123456",
        "112",
        "sip:0612345678@elsewhere.test",
        "0612345678\r\nX: y",
    ] {
        let refused = stage.placer.place(call_to(to)).await.unwrap_err();
        assert!(matches!(refused, PlaceError::NotAllowed(_)), "{refused}");
        assert!(!refused.to_string().contains(to), "{refused}");
    }
    assert!(stage.sim.take_outgoing().is_empty());
    assert_eq!(stage.context.call_limiter.taken(), 0);
    let by_reason = [
        ("malformed", 1),
        ("no_number", 1),
        ("abroad", 1),
        ("premium_rate", 1),
        ("uri", 1),
    ];
    assert_eq!(refused(&stage), by_reason);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_judged_is_dialled_and_told_in_e164() {
    let stage = Setup::queue().start().await;
    for (to, dialled) in [
        ("06 12 34 56 78", "0612345678"),
        ("sip:33612345678@sim.test", "+33612345678"),
    ] {
        let object = stage.place(call_to(to)).await.unwrap();
        assert_eq!(object.facts.to.expose(), "+33612345678");
        let callee = stage.sim.take_outgoing().pop().unwrap();
        assert_eq!(callee.destination().expose(), dialled);
        callee.refuse(486);
    }
    assert_eq!(stage.context.dialling.dialled(), 2);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_dials_so_often_in_an_hour_transfers_included() {
    let mut setup = Setup::queue();
    setup.dials_per_hour = Some(2);
    let stage = setup.start().await;
    let (sid, callee, worker) = talking(&stage).await;
    let transfer = |to: &str| {
        let request = CallRequest::Transfer(Private::new(to));
        let calls = stage.context.calls.clone();
        let sid = sid.clone();
        async move { calls.ask(&sid, request).await }
    };
    let abroad = transfer("+32470123456").await;
    let is_abroad = matches!(
        abroad,
        Err(RequestError::NotAllowed(NotAllowed::Abroad { .. }))
    );
    assert!(is_abroad, "{abroad:?}");
    assert_eq!(transfer("01 44 55 66 77").await, Ok(()));
    let number = [Private::new("0144556677")];
    until("REFER", async || callee.transfers() == number).await;
    // The other side refuses: one more is possible, but for the cap.
    callee.transfer_progress(603, true);
    until("the cap", async || {
        let third = transfer("0144556677").await;
        matches!(
            third,
            Err(RequestError::NotAllowed(NotAllowed::Cap { most: 2, .. }))
        )
    })
    .await;
    let capped = stage.placer.place(new_call()).await.unwrap_err();
    let text = capped.to_string();
    assert!(text.contains("the next is possible in 3"), "{text}");
    assert_eq!(stage.context.dialling.dialled(), 2);
    callee.hang_up();
    drop(worker);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_of_workers_are_judged_where_the_operator_wants_it() {
    for (judges, reached) in [
        (false, &["+33892123456", "+33144556677"][..]),
        (true, &["+33144556677"]),
    ] {
        let mut setup = Setup::queue();
        setup.judges_transfers = judges;
        let stage = setup.start().await;
        let (_, callee, worker) = talking(&stage).await;
        for (done, to) in ["+33892123456", "+33144556677"].into_iter().enumerate() {
            worker.send(&json!({"event": "transfer", "streamSid": worker.stream_sid,
                "transfer": {"destination": to}}));
            until("judged or under way", async || {
                callee.transfers().len() + refused(&stage).len() > done
            })
            .await;
            // Refused by the other side: the next may follow.
            callee.transfer_progress(603, true);
        }
        let reached: Vec<_> = reached.iter().map(|to| Private::new(*to)).collect();
        assert_eq!(callee.transfers(), reached);
        let premium: &[_] = if judges { &[("premium_rate", 1)] } else { &[] };
        assert_eq!(refused(&stage), premium);
        callee.hang_up();
        drop(worker);
        stage.finish().await;
    }
}
