//! A Redis that takes no jobs is told of before the first call.

use crate::harness::Redis;
use crate::harness::bridge::check;
use crate::harness::peers::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn check_fails_where_no_job_can_be_pushed() {
    let master = Redis::start();
    let port = master.port.to_string();
    for (options, told) in [
        (
            &["--cluster-enabled", "yes"][..],
            "a node of a Redis cluster",
        ),
        (&["--replicaof", "127.0.0.1", &port], "replica"),
        (
            &["--maxmemory", "1", "--maxmemory-policy", "noeviction"],
            "memory",
        ),
    ] {
        let mut redis = Redis::absent();
        redis
            .options
            .extend(options.iter().map(|&option| option.to_owned()));
        if options[0] == "--cluster-enabled" {
            // Its usual one may be anybody's outgoing connection.
            let bus = ["--cluster-port".to_owned(), free_port().to_string()];
            redis.options.extend(bus);
        }
        redis.come_up();
        let output = check(&["--redis-url", &redis.url()]).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains(told), "{told} is missing:\n{shown}");
    }
    let output = check(&["--redis-url", &master.url()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "one that takes jobs");
}
