//! Redis over TLS, as it is rented: its own CA, a password, a database number.

use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, Setup, check};
use crate::harness::peers::free_port;
use crate::harness::worker::QUEUE;
use crate::harness::{Caller, Redis, SOON, until};

/// A Redis that can be had over TLS; the address, and the file of its CA.
fn start(folder: &TempDir) -> (Redis, String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let tls_port = free_port();
    let mut redis = Redis::absent();
    let options = [
        ("--tls-port", tls_port.to_string()),
        ("--tls-cert-file", certificate.clone()),
        ("--tls-key-file", key),
        ("--tls-ca-cert-file", certificate.clone()),
        ("--tls-auth-clients", "no".into()),
        ("--user", "bridge on >pa55 ~* +@all".into()),
    ];
    for (name, value) in options {
        redis.options.push(name.into());
        redis.options.extend(value.split(' ').map(str::to_owned));
    }
    redis.come_up();
    let url = format!("rediss://bridge:pa55@localhost:{tls_port}/3");
    (redis, url, certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_over_tls_into_the_database_of_the_url() {
    let folder = TempDir::new().unwrap();
    let (redis, url, certificate) = start(&folder);
    let bridge = Setup::new()
        .args(&["--redis-url", &url, "--redis-ca", &certificate])
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut connection = redis.connect().await;
    let () = redis::cmd("SELECT")
        .arg(3)
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut jobs = redis::cmd("LLEN");
    jobs.arg(QUEUE);
    until(SOON, "the job is in database 3", async || {
        let mut connection = connection.clone();
        jobs.query_async::<usize>(&mut connection).await.unwrap() == 1
    })
    .await;
    let elsewhere: Vec<String> = redis.query(&["KEYS", "*"]).await;
    assert_eq!(elsewhere, Vec::<String>::new());
    call.bye().await;
    bridge.shut_down().await;
}

#[test]
fn check_uses_the_given_roots_and_names_a_file_that_is_none() {
    let folder = TempDir::new().unwrap();
    let (_redis, url, certificate) = start(&folder);
    let none = folder.path().join("none.pem");
    std::fs::write(&none, "no certificate").unwrap();
    let none = none.display().to_string();
    for (ca, expected, code) in [
        (Some(&certificate), " answers", 0),
        (None, "cannot be reached", 1),
        (Some(&none), "cannot read CA certificates from", 1),
    ] {
        let mut more = vec!["--redis-url", url.as_str()];
        more.extend(ca.into_iter().flat_map(|ca| ["--redis-ca", ca.as_str()]));
        let output = check(&more).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(!shown.contains("pa55"));
    }
}
