//! Who rings again after his call was lost: his job says which one that was, and
//! brings what it had.

use std::time::Duration;

use sipbridge::sip::header_names::HeaderNames;

use super::harness::{Job, Worker, until};
use super::stage::{FROM, Setup, Stage};

const OTHER: &str = "+33698765432";

async fn start() -> Stage {
    let setup = Setup::queue().with(|settings| {
        settings.sip_headers = HeaderNames::parse(["x-order", "x-table"]).unwrap();
        settings.params = [("menu".to_owned(), "summer".to_owned())].into();
        settings.worker_timeout = Duration::from_millis(500);
    });
    setup.start().await
}

/// Waits until Redis has heard that so many calls are over.
async fn ended(stage: &Stage, calls: usize) {
    until("the calls are over", async || {
        let events = stage.events().await;
        events.iter().filter(|it| it.name == "call.ended").count() == calls
    })
    .await;
}

/// The job of a call of this caller that is given up at once.
async fn job_of(stage: &Stage, from: &str, headers: &[(&str, &str)]) -> Job {
    let caller = stage.call_from(from, headers);
    let job = Job::take(stage.redis()).await;
    caller.hang_up();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_worker_was_lost_is_recognised_until_he_has_had_another() {
    let stage = start().await;
    let caller = stage.call_from(FROM, &[("x-order", "12"), ("x-table", "4")]);
    let worker = Worker::serve(stage.redis()).await;
    let lost = worker.call_sid.clone();
    drop(worker);
    until("the worker is missed", async || stage.jobs().await == 1).await;
    caller.hang_up();
    ended(&stage, 1).await;

    // Somebody else, and somebody who does not say who he is.
    for other in [OTHER, "anonymous"] {
        let job = job_of(&stage, other, &[]).await;
        assert!(job.json.get("resumedFrom").is_none(), "{}", job.json);
        assert!(job.json["customParameters"].get("x-order").is_none());
    }
    // Twice: nobody took the first of these two.
    for _ in 0..2 {
        let job = job_of(&stage, FROM, &[("x-table", "5")]).await;
        assert_eq!(job.text("resumedFrom"), lost);
        assert_ne!(job.text("callId"), lost);
        assert_eq!(job.json["attempt"], 1);
        assert_eq!(job.json["resumed"], false);
        let parameters = &job.json["customParameters"];
        assert_eq!(parameters["x-order"], "12");
        assert_eq!(parameters["x-table"], "5", "what is new counts");
        assert_eq!(parameters["menu"], "summer");
        assert_eq!(parameters["callerPhone"], FROM);
    }
    ended(&stage, 5).await;

    let caller = stage.call_from(FROM, &[]);
    let mut worker = Worker::serve(stage.redis()).await;
    let start = &worker.start()["start"];
    assert_eq!(start["customParameters"]["x-order"], "12");
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    ended(&stage, 6).await;
    let job = job_of(&stage, FROM, &[]).await;
    assert!(job.json.get("resumedFrom").is_none(), "{}", job.json);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_goes_on_or_has_ended_in_order_is_not_resumed() {
    let stage = start().await;
    let caller = stage.call();
    let mut worker = Worker::serve(stage.redis()).await;
    let second = job_of(&stage, FROM, &[]).await;
    assert!(second.json.get("resumedFrom").is_none(), "it goes on");
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    ended(&stage, 2).await;
    let third = job_of(&stage, FROM, &[]).await;
    assert!(third.json.get("resumedFrom").is_none(), "it is over");
    stage.finish().await;
}
