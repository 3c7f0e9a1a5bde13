//! Whether a Redis can take jobs: each kind that cannot is told, and what can is
//! left as it was.

use redis::AsyncCommands;
use sipbridge::core::private::Secret;
use sipbridge::queue::{Queue, QueueError, RedisFailure};

use crate::stage::{QUEUE, Server};

/// What the probe finds; whatever that is, nothing of it may stay.
async fn probe(server: &Server, login: &str) -> Result<(), QueueError> {
    let mut config = server.config("n");
    config.url = Secret::new(format!("redis://{login}127.0.0.1:{}/", server.port));
    Queue::probe(&config).await
}

fn failure(result: Result<(), QueueError>) -> RedisFailure {
    match result {
        Err(QueueError::Failed { failure, .. }) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redis_that_takes_jobs_is_left_as_it_was_and_no_worker_gets_the_probe() {
    let server = Server::started().await;
    let mut waiting = server.connect().await;
    let worker = tokio::spawn(async move {
        let taken: Option<(String, String)> = waiting.brpop(QUEUE, 2.0).await.unwrap();
        taken.map(|(_, job)| job)
    });
    for _ in 0..20 {
        probe(&server, "").await.unwrap();
    }
    let keys: Vec<String> = server.query("KEYS *").await;
    assert!(keys.is_empty(), "{keys:?}");
    let _: u64 = server.query(&format!("LPUSH {QUEUE} real")).await;
    assert_eq!(worker.await.unwrap().as_deref(), Some("real"));

    let _: u64 = server.query(&format!("LPUSH {QUEUE} one two")).await;
    probe(&server, "").await.unwrap();
    let jobs: Vec<String> = server.query(&format!("LRANGE {QUEUE} 0 -1")).await;
    assert_eq!(jobs, ["two", "one"]);
    let _: String = server.query(&format!("SET other{QUEUE} x")).await;
    let mut config = server.config("n");
    config.queue = format!("other{QUEUE}");
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(matches!(error, QueueError::NotAList { .. }), "{error}");
}

#[tokio::test]
async fn a_cluster_a_replica_and_a_full_memory_take_no_jobs() {
    let mut cluster = Server::absent();
    cluster.start(&["--cluster-enabled", "yes"]).await;
    let error = probe(&cluster, "").await.unwrap_err();
    assert!(matches!(error, QueueError::Unsuitable(_)), "{error}");
    assert!(error.to_string().contains("cluster"), "{error}");

    let master = Server::started().await;
    let port = master.port.to_string();
    let mut replica = Server::absent();
    replica.start(&["--replicaof", "127.0.0.1", &port]).await;
    assert_eq!(failure(probe(&replica, "").await), RedisFailure::ReadOnly);

    let mut full = Server::absent();
    let options = ["--maxmemory", "1", "--maxmemory-policy", "noeviction"];
    full.start(&options).await;
    assert_eq!(failure(probe(&full, "").await), RedisFailure::NoWrites);
}

#[tokio::test]
async fn a_user_without_the_rights_is_told_which_command_failed() {
    let server = Server::started().await;
    let user = |rules: &str| format!("ACL SETUSER bridge reset on >pw {rules}");
    for (rules, says) in [
        ("~* +@all -lpush", "lpush"),
        ("~* +@all -lrem", "lrem"),
        ("~other +@all", "permission"),
        ("~queue:* +@all", "permission"),
        ("~* +@all -eval", "eval"),
        ("~* -@all +info +type +eval", "lrem"),
    ] {
        let _: String = server.query(&user(rules)).await;
        let error = probe(&server, "bridge:pw@").await.unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains(says),
            "{rules}: {error}"
        );
        assert_eq!(failure(Err(error)), RedisFailure::Refused, "{rules}");
    }
    // Without INFO the try itself must show it.
    let _: String = server.query(&user("~* +@all -info")).await;
    probe(&server, "bridge:pw@").await.unwrap();
    let keys: Vec<String> = server.query("KEYS *").await;
    assert!(keys.is_empty(), "{keys:?}");
    assert_eq!(
        failure(probe(&server, "bridge:no@").await),
        RedisFailure::Denied
    );
}
