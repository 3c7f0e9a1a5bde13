//! Who may use Redis, and how it is known to be the right one.

use redis::{AsyncCommands, Client};
use sipbridge::core::private::Secret;
use sipbridge::queue::{Queue, QueueError, RedisFailure};

use crate::stage::{BRIDGE_RIGHTS, QUEUE, Server, connected, job, start_queue};

#[tokio::test]
async fn a_password_is_needed_and_a_database_is_chosen() {
    let mut server = Server::absent();
    server.start(&["--requirepass", "s3cret"]).await;
    let mut config = server.config("n");
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Denied,
                ..
            }
        ),
        "{error}"
    );
    config.url = Secret::new(format!("redis://:wrong@127.0.0.1:{}/3", server.port));
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Denied,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.to_string().contains("wrong@"), "{error}");

    let url = format!("redis://:s3cret@127.0.0.1:{}/3", server.port);
    config.url = Secret::new(url.clone());
    Queue::probe(&config).await.unwrap();
    let queue = Queue::start(&config).unwrap();
    assert!(!format!("{queue:?} {config:?}").contains("s3cret"));
    connected(&queue).await;
    queue.push(&job()).await.unwrap();
    let client = Client::open(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    assert_eq!(redis.llen::<_, usize>(QUEUE).await.unwrap(), 1);

    let () = redis.set("taken", "x").await.unwrap();
    config.queue = "taken".into();
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(matches!(error, QueueError::NotAList { .. }), "{error}");
}

#[tokio::test]
async fn redis_with_tls_is_used_when_its_certificate_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let plain = Server::absent();
    let mut server = Server::absent();
    let tls_port = plain.port.to_string();
    server
        .start(&[
            "--tls-port",
            &tls_port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &certificate,
            "--tls-auth-clients",
            "no",
        ])
        .await;
    let mut config = server.config("n");
    config.url = Secret::new(format!("rediss://localhost:{tls_port}/"));
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Unreachable,
                ..
            }
        ),
        "{error}"
    );
    config.ca_file = Some(certificate.into());
    let queue = Queue::start(&config).unwrap();
    connected(&queue).await;
    queue.push(&job()).await.unwrap();
    config.ca_file = Some("/no/file".into());
    let error = Queue::start(&config).unwrap_err();
    assert!(matches!(error, QueueError::CaFile { .. }), "{error}");
}

#[tokio::test]
async fn a_user_with_the_rights_of_a_bridge_is_enough() {
    let mut server = Server::absent();
    let mut options = vec!["--requirepass", "s3cret", "--user", "bridge", "on", ">pa55"];
    options.extend(BRIDGE_RIGHTS);
    server.start(&options).await;
    let mut config = server.config("n");
    config.url = Secret::new(format!("redis://bridge:pa55@127.0.0.1:{}/3", server.port));
    let queue = start_queue(&config).await;
    queue.push(&job()).await.unwrap();
    let url = format!("redis://:s3cret@127.0.0.1:{}/", server.port);
    let client = Client::open(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let elsewhere: Vec<String> = redis.keys("*").await.unwrap();
    assert_eq!(elsewhere, Vec::<String>::new(), "database 0 is untouched");
    let () = redis::cmd("SELECT")
        .arg(3)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(redis.llen::<_, usize>(QUEUE).await.unwrap(), 1);
    assert!(redis.exists::<_, bool>("bridge:n:heartbeat").await.unwrap());

    config.url = Secret::new(format!("redis://bridge:wrong@127.0.0.1:{}/3", server.port));
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Denied,
                ..
            }
        ),
        "{error}"
    );
}
