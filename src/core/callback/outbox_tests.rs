//! The order and the pauses of deliveries, in virtual time.

use super::*;
use crate::core::callback::CallbackEvent;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const FAILED: Sent = Sent::Failed(None);

fn notice(call: &CallId, sequence: u32) -> Arc<WebhookEvent> {
    Arc::new(WebhookEvent {
        call: call.clone(),
        sequence,
        event: CallbackEvent::Ringing,
        url: None,
        body: String::new(),
    })
}

fn sequence(notice: Option<Arc<WebhookEvent>>) -> Option<u32> {
    notice.map(|notice| notice.sequence)
}

#[test]
fn a_call_is_told_in_order_and_waits_for_no_other() {
    let (now, mut outbox) = (Instant::now(), Outbox::new(8));
    let [a, b] = [CallId::random(), CallId::random()];
    for number in 0..3 {
        outbox.push(now, notice(&a, number));
    }
    outbox.push(now, notice(&b, 7));
    assert_eq!(sequence(outbox.poll(now)), Some(0));
    assert_eq!(sequence(outbox.poll(now)), Some(7));
    assert_eq!(sequence(outbox.poll(now)), None, "1 waits for 0");
    outbox.handle_sent(now, &a, FAILED, 0.5);
    assert_eq!(
        outbox.handle_sent(now, &b, Sent::Delivered, 0.5),
        Fate::Delivered
    );
    assert_eq!(sequence(outbox.poll(now)), None, "0 is not delivered");
    assert!(outbox.is_idle() && outbox.len() == 3);
    let again = now + SECOND;
    assert_eq!(outbox.poll_timeout(), Some(again));
    for number in 0..3 {
        assert_eq!(sequence(outbox.poll(again)), Some(number));
        assert_eq!(sequence(outbox.poll(again)), None);
        outbox.handle_sent(again, &a, Sent::Delivered, 0.5);
    }
    assert!(outbox.is_empty() && outbox.poll_timeout().is_none());
}

#[test]
fn pauses_double_up_to_a_minute_and_an_hour_is_enough() {
    let (mut now, mut outbox) = (Instant::now(), Outbox::new(1));
    let (start, call) = (now, CallId::random());
    outbox.push(now, notice(&call, 0));
    outbox.push(now, notice(&call, 1));
    let mut pauses = Vec::new();
    let given_up = loop {
        assert_eq!(sequence(outbox.poll(now)), Some(0));
        match outbox.handle_sent(now, &call, FAILED, 0.5) {
            Fate::Again(pause) => {
                pauses.push(pause.as_secs());
                assert_eq!(outbox.poll_timeout(), Some(now + pause));
                assert!(
                    outbox
                        .poll(now + pause - Duration::from_millis(1))
                        .is_none()
                );
                now += pause;
            }
            fate => break fate,
        }
    };
    assert_eq!(given_up, Fate::GivenUp);
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    let after = now - start;
    assert!(
        (TRIED_FOR..TRIED_FOR + 61 * SECOND).contains(&after),
        "{after:?}"
    );
    // The next one is as old: it gets one try.
    assert_eq!(sequence(outbox.poll(now)), Some(1));
    assert_eq!(outbox.handle_sent(now, &call, FAILED, 0.5), Fate::GivenUp);
    assert!(outbox.is_empty());
}

#[test]
fn pauses_are_spread_and_a_receiver_may_ask_for_longer_ones() {
    let age = Duration::ZERO;
    let pause = |tries, asked, random| match fate(Sent::Failed(asked), tries, age, random) {
        Fate::Again(pause) => pause.as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!((pause(1, None, 0.0), pause(1, None, 1.0)), (800, 1_200));
    assert_eq!(pause(7, None, 1.0), 72_000);
    assert_eq!(pause(u32::MAX, None, 0.5), 60_000);
    assert_eq!(pause(1, Some(30 * SECOND), 0.5), 30_000);
    assert_eq!(pause(7, Some(SECOND), 0.5), 60_000, "not shorter ones");
    assert_eq!(pause(1, Some(86_400 * SECOND), 0.5), 3_600_000);
}

#[test]
fn what_is_refused_is_given_up_and_the_next_one_follows() {
    let (now, mut outbox) = (Instant::now(), Outbox::new(1));
    let call = CallId::random();
    outbox.push(now, notice(&call, 0));
    outbox.push(now, notice(&call, 1));
    outbox.poll(now);
    assert_eq!(
        outbox.handle_sent(now, &call, Sent::Refused, 0.5),
        Fate::GivenUp
    );
    assert_eq!(sequence(outbox.poll(now)), Some(1));
}

#[test]
fn a_receiver_that_never_answers_leaves_places_for_the_first_tries_of_others() {
    let (now, mut outbox) = (Instant::now(), Outbox::new(4));
    let stuck: Vec<CallId> = (0..10).map(|_| CallId::random()).collect();
    for call in &stuck {
        outbox.push(now, notice(call, 0));
    }
    for round in stuck.chunks(4) {
        let tried: Vec<_> = std::iter::from_fn(|| outbox.poll(now)).collect();
        assert_eq!(tried.len(), round.len(), "first tries take every place");
        for notice in tried {
            outbox.handle_sent(now, &notice.call, FAILED, 0.5);
        }
    }
    // All ten are due again: two leave, and a new call passes by the others.
    let again = now + SECOND;
    let tried: Vec<_> = std::iter::from_fn(|| outbox.poll(again)).collect();
    assert_eq!(tried.len(), 2);
    let fresh = CallId::random();
    outbox.push(again, notice(&fresh, 7));
    assert_eq!(sequence(outbox.poll(again)), Some(7));
    outbox.handle_sent(again, &fresh, Sent::Delivered, 0.5);
    assert!(outbox.poll(again).is_none() && !outbox.is_idle());
    // A place of theirs that becomes free is the next one's, and so to the end.
    for notice in tried {
        outbox.handle_sent(again, &notice.call, Sent::Delivered, 0.5);
    }
    let mut delivered = 2;
    while let Some(notice) = outbox.poll(again) {
        outbox.handle_sent(again, &notice.call, Sent::Delivered, 0.5);
        delivered += 1;
    }
    assert!(delivered == stuck.len() && outbox.is_empty());
}

#[test]
fn calls_that_wait_for_their_next_try_hold_up_nobody() {
    let (now, mut outbox) = (Instant::now(), Outbox::new(2));
    for _ in 0..100 {
        let call = CallId::random();
        outbox.push(now, notice(&call, 0));
        assert_eq!(sequence(outbox.poll(now)), Some(0));
        outbox.handle_sent(now, &call, FAILED, 0.5);
    }
    let call = CallId::random();
    outbox.push(now, notice(&call, 5));
    assert_eq!(sequence(outbox.poll(now)), Some(5));
}

proptest! {
    /// Whatever fails: each call's callbacks come out in order, none is lost
    /// or doubled, and never more than allowed are on their way.
    #[test]
    fn nothing_is_lost_and_order_holds(
        steps in proptest::collection::vec((0_usize..6, 0_u8..4), 1..400),
        most in 1_usize..5,
    ) {
        let mut now = Instant::now();
        let mut outbox = Outbox::new(most);
        let calls: Vec<CallId> = (0..6).map(|_| CallId::random()).collect();
        let (mut pushed, mut done) = ([0_u32; 6], [0_u32; 6]);
        let mut way: Vec<Arc<WebhookEvent>> = Vec::new();
        for (who, what) in steps {
            match what {
                0 | 1 => {
                    outbox.push(now, notice(&calls[who], pushed[who]));
                    pushed[who] += 1;
                }
                2 => now += SECOND,
                _ if !way.is_empty() => {
                    let notice = way.remove(who % way.len());
                    let sent = if who == 0 { FAILED } else { Sent::Delivered };
                    let fate = outbox.handle_sent(now, &notice.call, sent, 0.5);
                    if fate == Fate::Delivered {
                        let index = calls.iter().position(|call| *call == notice.call).unwrap();
                        prop_assert_eq!(notice.sequence, done[index]);
                        done[index] += 1;
                    }
                }
                _ => {}
            }
            while let Some(notice) = outbox.poll(now) {
                prop_assert!(way.iter().all(|other| other.call != notice.call));
                way.push(notice);
            }
            prop_assert!(way.len() <= most);
            let left: u32 = pushed.iter().sum::<u32>() - done.iter().sum::<u32>();
            prop_assert_eq!(outbox.len(), left as usize);
        }
        // Drained, everything has come out.
        for _ in 0..20_000 {
            for notice in std::mem::take(&mut way) {
                outbox.handle_sent(now, &notice.call, Sent::Delivered, 0.5);
            }
            while let Some(notice) = outbox.poll(now) {
                way.push(notice);
            }
            if outbox.is_empty() {
                break;
            }
            now += SECOND;
        }
        prop_assert!(outbox.is_empty());
    }
}
