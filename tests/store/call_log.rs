//! The queue of records: nothing waits for the database, and what is lost is
//! counted.

use std::time::{Duration, Instant};

use sipbridge::core::private::Private;
use sipbridge::store::call_log::CallLog;
use sipbridge::store::{CallQuery, Store};

use crate::calls::{begun, but, ended};
use crate::stage::{Stage, until};

async fn count(store: &Store) -> usize {
    let query = CallQuery {
        limit: 1_000,
        ..CallQuery::default()
    };
    store.calls(&query).await.unwrap().calls.len()
}

#[tokio::test]
async fn a_database_that_hangs_holds_up_nothing_and_loses_what_has_no_room() {
    let stage = Stage::postgres();
    let store = stage.open().await;
    let (log, task) = CallLog::with_room(store.clone(), "node", 100);
    log.record(begun("first", 0));
    until("it is written", async || log.stats().written == 1).await;

    let Stage::Postgres(postgres) = &stage else {
        panic!("PostgreSQL")
    };
    postgres.signal("STOP");
    let before = Instant::now();
    // 64 at most are in the writer's hands, 100 in the queue.
    for n in 0..300 {
        log.record(begun("then", n));
    }
    assert!(before.elapsed() < Duration::from_secs(1), "nobody waits");
    let dropped = log.stats().dropped;
    assert!((136..=200).contains(&dropped), "{dropped} dropped");
    postgres.signal("CONT");
    task.stop(Duration::from_secs(20)).await;
    let stats = log.stats();
    assert_eq!(
        (stats.written + stats.dropped, stats.dropped),
        (301, dropped)
    );
    assert_eq!(count(&store).await as u64, stats.written);
}

#[tokio::test]
async fn records_wait_for_a_database_that_fails_for_a_while() {
    let stage = Stage::postgres();
    let store = stage.open().await;
    let (log, task) = CallLog::start(store.clone(), "node");
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lines'";
    let Stage::Postgres(postgres) = &stage else {
        panic!("PostgreSQL")
    };
    postgres.sql_in("postgres", "ALTER DATABASE lines ALLOW_CONNECTIONS false");
    postgres.sql_in("postgres", end_all);
    for n in 0..10 {
        log.record(begun("l", n));
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        (log.stats().written, log.stats().dropped),
        (0, 0),
        "they wait"
    );
    postgres.sql_in("postgres", "ALTER DATABASE lines ALLOW_CONNECTIONS true");
    until("they are written", async || log.stats().written == 10).await;
    task.stop(Duration::from_secs(5)).await;
    assert_eq!(count(&store).await, 10);
}

#[tokio::test]
async fn a_record_that_is_refused_takes_no_other_with_it() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let (log, task) = CallLog::start(store.clone(), "node");
        match stage {
            Stage::Postgres(_) => stage.sql("ALTER TABLE calls ADD CHECK (from_number <> 'bad')"),
            Stage::Sqlite(_) => stage.sql(
                "CREATE TRIGGER no BEFORE INSERT ON calls WHEN NEW.from_number = 'bad' \
                 BEGIN SELECT RAISE(ABORT, 'bad'); END",
            ),
        };
        for n in 0..20 {
            let from = Private::new(if n == 7 { "bad" } else { "good" });
            log.record(but(begun("l", n), |facts| facts.from = from));
        }
        task.stop(Duration::from_secs(20)).await;
        assert_eq!((log.stats().written, log.stats().dropped), (19, 1));
        assert_eq!(count(&store).await, 19);
    }
}

/// One record is refused, and while the others are written one by one the
/// database has to roll back another for a reason that passes.
#[tokio::test]
async fn a_failure_that_passes_costs_no_record_beside_one_that_is_refused() {
    let stage = Stage::postgres();
    let store = stage.open().await;
    let (log, task) = CallLog::start(store.clone(), "node");
    // A sequence is not rolled back: it counts the tries.
    stage.sql(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.from_number = 'bad' THEN RAISE check_violation; END IF;
             IF NEW.from_number = 'shaky' AND nextval('tries') < 3
                 THEN RAISE serialization_failure; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER judge BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION judge()",
    );
    for (n, from) in ["good", "bad", "shaky", "good"].into_iter().enumerate() {
        let from = Private::new(from);
        log.record(but(begun("l", n as u64), |facts| facts.from = from));
    }
    task.stop(Duration::from_secs(20)).await;
    assert_eq!((log.stats().written, log.stats().dropped), (3, 1));
    assert_eq!(count(&store).await, 3);
    assert_eq!(stage.sql("SELECT last_value FROM tries"), "3");
}

#[tokio::test]
async fn what_waits_at_the_end_is_written_and_what_comes_later_is_counted() {
    let stage = Stage::sqlite();
    let store = stage.open().await;
    let (log, task) = CallLog::start(store.clone(), "node");
    for n in 0..1_000 {
        log.record(ended(&begun("l", n)));
    }
    task.stop(Duration::from_secs(20)).await;
    log.record(begun("late", 0));
    assert_eq!((log.stats().written, log.stats().dropped), (1_000, 1));
    assert_eq!(count(&store).await, 1_000);
}
