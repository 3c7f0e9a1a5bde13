//! Numbers in E.164 by the line's country: what a trunk writes into From, To
//! and the request URI, and what the job says.

use serde_json::json;

use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::{Caller, Job, Redis};

/// One call; the numbers of its job.
async fn numbers_of_call(
    redis: &Redis,
    setup_sip: std::net::SocketAddr,
    from: &str,
    to: &str,
) -> (String, String) {
    let mut call = Caller::connect_as(setup_sip, from, to).await;
    let job = Job::take(redis).await;
    assert_eq!(job.text("phoneLineId"), LINE);
    let parameters = &job.json["customParameters"];
    assert_eq!(parameters["callerPhone"], job.json["from"]);
    assert_eq!(parameters["to"], job.json["to"]);
    call.bye().await;
    (job.text("from").to_owned(), job.text("to").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_own_number_tells_its_country() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    for (from, to, told) in [
        ("0612345678", NUMBER, "+33612345678"),
        ("0033612345678", "0972360682", "+33612345678"),
        ("33612345678", "33972360682", "+33612345678"),
        ("+32470123456", "0033972360682", "+32470123456"),
        ("anonymous", "0972360682", "anonymous"),
        ("3639", "0972360682", "3639"),
    ] {
        let numbers = numbers_of_call(&redis, bridge.sip(), from, to).await;
        assert_eq!(numbers, (told.to_owned(), NUMBER.to_owned()), "{from}");
    }
    // Nobody's number, rather than one that a database refuses.
    let mut call = Caller::connect_as(bridge.sip(), "%00", NUMBER).await;
    assert_eq!(Job::take(&redis).await.json["from"], "anonymous");
    call.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_number_is_written_nationally_needs_the_flag() {
    let redis = Redis::start();
    let national = || Setup::queue(&redis).line_field("phoneNumber", json!("09 72 36 06 82"));
    let bridge = national().args(&["--country", "FR"]).start().await;
    for to in [NUMBER, "0972360682", "33972360682"] {
        let numbers = numbers_of_call(&redis, bridge.sip(), "0612345678", to).await;
        assert_eq!(numbers, ("+33612345678".into(), NUMBER.into()), "{to}");
    }
    bridge.shut_down().await;

    // Without it everything is told as it was received.
    let bridge = national().start().await;
    let user = crate::harness::bridge::USERNAME;
    let numbers = numbers_of_call(&redis, bridge.sip(), "0612345678", user).await;
    assert_eq!(numbers, ("0612345678".into(), "09 72 36 06 82".into()));
    bridge.shut_down().await;
}
