//! Callbacks that wait in the database, on SQLite and PostgreSQL.

use std::sync::Arc;
use std::time::SystemTime;

use sipbridge::core::callback::{CallChange, CallEnd, CallbackEvent, Kept, WebhookEvent};
use sipbridge::core::ids::CallId;
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::Secret;
use sipbridge::store::Store;

use crate::calls::{at, begun, ended, write};
use crate::stage::Stage;

const ALL: usize = 1_000;

fn notice(call: &CallId, sequence: u32, url: Option<&str>) -> Arc<WebhookEvent> {
    Arc::new(WebhookEvent {
        call: call.clone(),
        sequence,
        event: CallbackEvent::Ringing,
        url: url.map(|url| Secret::new(url.into())),
        body: format!(r#"{{"é":"'{sequence}"}}"#),
    })
}

async fn change(store: &Store, node: &str, changes: &[CallChange]) {
    store.change_callbacks(node, changes).await.unwrap();
}

fn sequences(notices: &[WebhookEvent]) -> Vec<(CallId, u32)> {
    let pair = |notice: &WebhookEvent| (notice.call.clone(), notice.sequence);
    notices.iter().map(pair).collect()
}

#[tokio::test]
async fn what_was_not_delivered_is_there_after_a_restart_in_order() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let [a, b, other] = [CallId::random(), CallId::random(), CallId::random()];
        let insert = |call: &CallId, sequence| CallChange::Insert(notice(call, sequence, None));
        change(
            &store,
            "node",
            &[
                insert(&a, 0),
                CallChange::Insert(notice(&b, 0, Some("http://u:p@own/"))),
            ],
        )
        .await;
        change(&store, "node", &[insert(&a, 1)]).await;
        // Twice, and one delivered in the same go.
        change(
            &store,
            "node",
            &[
                insert(&a, 1),
                insert(&a, 10),
                insert(&a, 2),
                CallChange::Delete(a.clone(), 10),
            ],
        )
        .await;
        change(&store, "other", &[insert(&other, 0)]).await;
        change(
            &store,
            "node",
            &[
                CallChange::Delete(a.clone(), 0),
                CallChange::Delete(a.clone(), 99),
            ],
        )
        .await;
        store.close().await;

        let store = stage.open().await;
        let Kept { waiting, owed } = store.callbacks("node", ALL).await.unwrap();
        // A file has one bridge, whatever it was called before.
        let strangers = usize::from(matches!(stage, Stage::Sqlite(_)));
        assert_eq!(owed.len(), 2 + strangers, "each of its calls goes on");
        let of_a: Vec<_> = sequences(&waiting)
            .into_iter()
            .filter(|(call, _)| *call == a)
            .collect();
        assert_eq!(of_a, [(a.clone(), 1), (a.clone(), 2)]);
        let own = waiting.iter().find(|notice| notice.call == b).unwrap();
        assert_eq!(
            own.url.as_ref().map(Secret::expose),
            Some("http://u:p@own/")
        );
        assert_eq!(
            (own.event, own.body.as_str()),
            (CallbackEvent::Ringing, r#"{"é":"'0"}"#)
        );
        assert_eq!(waiting.len(), 3 + strangers);
        assert_eq!(
            store.callbacks("node", 2).await.unwrap().waiting.len(),
            2,
            "bounded"
        );
        assert_eq!(
            store.callbacks("other", ALL).await.unwrap().waiting.len(),
            1 + 3 * strangers
        );
        store.close().await;
    }
}

#[tokio::test]
async fn what_is_owed_is_the_last_of_each_call_until_it_is_settled() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let [a, b] = [CallId::random(), CallId::random()];
        for sequence in 0..3 {
            change(
                &store,
                "node",
                &[CallChange::Insert(notice(
                    &a,
                    sequence,
                    Some("http://own/"),
                ))],
            )
            .await;
        }
        let last = Arc::new(WebhookEvent {
            event: CallbackEvent::Completed,
            ..(*notice(&b, 1, None)).clone()
        });
        let changes = [
            CallChange::Insert(notice(&b, 0, None)),
            CallChange::Insert(last),
        ];
        change(&store, "node", &changes).await;
        let kept = store.callbacks("node", ALL).await.unwrap();
        assert_eq!(kept.owed.len(), 1);
        let owed = &kept.owed[0];
        assert_eq!((&owed.last.call, owed.last.sequence), (&a, 2));
        assert_eq!(owed.last.body, r#"{"é":"'2"}"#);
        assert_eq!(owed.end, None, "there is no record");
        assert_eq!(kept.waiting.len(), 5);
        change(&store, "node", &[CallChange::Settle(a)]).await;
        assert!(store.callbacks("node", ALL).await.unwrap().owed.is_empty());
        store.close().await;
    }
}

/// The bridge died after it wrote the record and before the last callback.
#[tokio::test]
async fn what_is_owed_comes_with_the_end_that_the_record_has() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let [over, lost] = [begun("l", 0), begun("l", 1)];
        let over = ended(&over);
        let changes =
            [&over, &lost].map(|of| CallChange::Insert(notice(&of.call.facts.id, 1, None)));
        change(&store, "node", &changes).await;
        write(&store, [over.clone(), lost.clone()]).await;
        store.end_lost_calls("node", at(99_000)).await.unwrap();
        for _ in 0..2 {
            let owed = store.callbacks("node", ALL).await.unwrap().owed;
            assert_eq!(owed.len(), 2, "looking settles nothing");
            let end = |call: &CallId| {
                let owed = owed.iter().find(|owed| owed.last.call == *call);
                owed.unwrap().end.unwrap()
            };
            let expected = CallEnd {
                answered: over.call.state.answered,
                ended: over.call.state.ended.unwrap(),
                outcome: Outcome::CallerHungUp,
                sip_status: 200,
            };
            assert_eq!(end(&over.call.facts.id), expected);
            assert_eq!(end(&lost.call.facts.id), CallEnd::bridge_lost(at(99_000)));
        }
        store.close().await;
    }
}

#[tokio::test]
async fn changes_are_made_together_or_not_at_all() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let call = CallId::random();
        match stage {
            Stage::Postgres(_) => {
                stage.sql("ALTER TABLE callbacks ADD CHECK (event <> 'answered')")
            }
            Stage::Sqlite(_) => stage.sql(
                "CREATE TRIGGER no BEFORE INSERT ON callbacks WHEN NEW.event = 'answered' \
                 BEGIN SELECT RAISE(ABORT, 'no'); END",
            ),
        };
        let good = notice(&call, 0, None);
        let bad = Arc::new(WebhookEvent {
            event: CallbackEvent::Answered,
            sequence: 1,
            ..(*good).clone()
        });
        let changes = [CallChange::Insert(good), CallChange::Insert(bad)];
        let error = store.change_callbacks("node", &changes).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        assert!(
            store
                .callbacks("node", ALL)
                .await
                .unwrap()
                .waiting
                .is_empty()
        );
        store.close().await;
    }
}

#[tokio::test]
async fn a_hundred_rows_of_one_moment_come_in_the_order_of_their_calls() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let calls: Vec<CallId> = (0..25).map(|_| CallId::random()).collect();
        let changes: Vec<CallChange> = (0..4)
            .flat_map(|sequence| {
                let insert = move |call| CallChange::Insert(notice(call, sequence, None));
                calls.iter().map(insert)
            })
            .collect();
        let before = SystemTime::now();
        change(&store, "node", &changes).await;
        assert!(before.elapsed().unwrap().as_secs() < 10);
        let waiting = store.callbacks("node", ALL).await.unwrap().waiting;
        for call in &calls {
            let own: Vec<u32> = sequences(&waiting)
                .into_iter()
                .filter_map(|(other, sequence)| (other == *call).then_some(sequence))
                .collect();
            assert_eq!(own, [0, 1, 2, 3]);
        }
        store.close().await;
    }
}

#[tokio::test]
async fn who_answered_is_kept_beside_what_is_owed_of_the_calls_status() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let call = CallId::random();
        let detected = WebhookEvent {
            event: CallbackEvent::MachineDetected,
            sequence: u32::MAX,
            ..(*notice(&call, 0, Some("http://who/"))).clone()
        };
        let changes = [
            CallChange::Insert(notice(&call, 1, Some("http://status/"))),
            CallChange::Insert(Arc::new(detected)),
            CallChange::Delete(call.clone(), 1),
        ];
        change(&store, "node", &changes).await;
        let Kept { waiting, owed } = store.callbacks("node", ALL).await.unwrap();
        assert_eq!(sequences(&waiting), [(call.clone(), u32::MAX)]);
        assert_eq!(waiting[0].event, CallbackEvent::MachineDetected);
        assert_eq!(owed[0].last.sequence, 1, "the status, as before");
        assert_eq!(
            owed[0].last.url.as_ref().map(Secret::expose),
            Some("http://status/")
        );
        change(&store, "node", &[CallChange::Delete(call, u32::MAX)]).await;
        let Kept { waiting, owed } = store.callbacks("node", ALL).await.unwrap();
        assert_eq!((waiting.len(), owed.len()), (0, 1));
        store.close().await;
    }
}
