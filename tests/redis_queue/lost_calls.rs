//! Calls that were lost with their bridge or worker are remembered for a caller who
//! rings again, for five minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sipbridge::core::ids::{CallId, LineId, StreamId};
use sipbridge::core::private::Private;
use sipbridge::queue::{CallEvent, CallEventKind, CallMemory, CallerHash, LostCall, Queue};

use crate::crash::{Bridge, age, hasty};
use crate::proxy::{Mode, Proxy};
use crate::stage::{Server, ended, event, eventually, start_queue};

fn caller(number: &str) -> CallerHash {
    CallerHash::new(&Private::new(number)).unwrap()
}

fn remembered(call: &CallId, kind: CallEventKind, is_lost: bool) -> CallEvent {
    let parameters = [("callerPhone", "+33612345678"), ("order", "12")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let memory = CallMemory {
        caller: caller("+33612345678"),
        custom_parameters: BTreeMap::from(parameters).into(),
        is_lost,
    };
    CallEvent {
        memory: Some(memory),
        ..event(call, kind)
    }
}

fn attached() -> CallEventKind {
    CallEventKind::WorkerAttached {
        stream: StreamId::random(),
    }
}

/// A call that has a worker, as Redis knows it.
async fn talking(queue: &Queue, server: &Server) -> CallId {
    let call = CallId::random();
    queue.record(event(&call, CallEventKind::Ringing));
    queue.record(remembered(&call, CallEventKind::Answered, false));
    queue.record(remembered(&call, attached(), false));
    state_is(server, &call, "attached").await;
    call
}

async fn state_is(server: &Server, call: &CallId, state: &str) {
    eventually(state, async || {
        server.call(call, "state").await.as_deref() == Some(state)
    })
    .await;
}

async fn look(queue: &Queue) -> Option<LostCall> {
    queue
        .lost_call(&LineId::new("line-1"), &caller("+33612345678"))
        .await
}

fn lost(call: &CallId) -> Option<LostCall> {
    Some(LostCall {
        id: call.clone(),
        custom_parameters: [("order".to_owned(), "12".to_owned())].into(),
    })
}

async fn memory(server: &Server) -> (String, i64) {
    let keys: Vec<String> = server.query("KEYS call:lost:*").await;
    let [key] = keys.as_slice() else {
        panic!("one memory: {keys:?}");
    };
    let value: String = server.query(&format!("GET {key}")).await;
    for text in [key, &value] {
        assert!(!text.contains("612345678"), "a number in {text}");
    }
    (value, server.query(&format!("TTL {key}")).await)
}

#[tokio::test]
async fn a_call_lost_with_its_bridge_is_found_before_and_after_it_is_closed() {
    let server = Server::started().await;
    let dead = Bridge::start(&server.config("dead")).await;
    let call = talking(&dead.queue, &server).await;
    let mut config = hasty(&server, "b");
    config.dead_after = Duration::from_secs(2);
    let other = start_queue(&config).await;
    assert_eq!(look(&other).await, None, "it goes on");
    dead.crash();
    age(&server, "dead", Duration::from_secs(61)).await;
    assert_eq!(look(&other).await, lost(&call), "nobody has closed it yet");
    state_is(&server, &call, "ended").await;
    assert_eq!(look(&other).await, lost(&call));
    let (_, left) = memory(&server).await;
    assert!(
        (200..=239).contains(&left),
        "five minutes since the loss: {left}"
    );
    for field in ["caller", "customParameters"] {
        assert_eq!(server.call(&call, field).await, None, "{field}");
    }
    let elsewhere = LineId::new("line-2");
    assert_eq!(
        other.lost_call(&elsewhere, &caller("+33612345678")).await,
        None
    );
    let line = LineId::new("line-1");
    assert_eq!(other.lost_call(&line, &caller("+33612345679")).await, None);
}

#[tokio::test]
async fn a_bridge_that_comes_back_remembers_the_calls_of_its_earlier_life() {
    let server = Server::started().await;
    let bridge = Bridge::start(&server.config("n")).await;
    let call = talking(&bridge.queue, &server).await;
    bridge.crash();
    let bridge = Bridge::start(&server.config("n")).await;
    assert_eq!(look(&bridge.queue).await, lost(&call));
    let (_, left) = memory(&server).await;
    assert!((200..=300).contains(&left), "{left}");
    // A long time after the loss nobody is surprised any more.
    let later = talking(&bridge.queue, &server).await;
    bridge.crash();
    age(&server, "n", Duration::from_secs(301)).await;
    let bridge = Bridge::start(&server.config("n")).await;
    state_is(&server, &later, "ended").await;
    assert_eq!(look(&bridge.queue).await, None);
}

#[tokio::test]
async fn a_call_that_ends_without_its_worker_is_remembered_and_one_in_order_is_not() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let first = talking(&queue, &server).await;
    queue.record(remembered(&first, ended(), true));
    state_is(&server, &first, "ended").await;
    assert_eq!(look(&queue).await, lost(&first));
    let (_, left) = memory(&server).await;
    assert!((290..=300).contains(&left), "{left}");

    // The caller's next call is another story from when it has a worker.
    let second = talking(&queue, &server).await;
    assert_eq!(look(&queue).await, None);
    queue.record(remembered(&second, ended(), false));
    state_is(&server, &second, "ended").await;
    assert_eq!(look(&queue).await, None);
    let keys: Vec<String> = server.query("KEYS call:lost:*").await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn the_end_of_an_earlier_call_does_not_touch_the_memory_of_a_later_one() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let first = talking(&queue, &server).await;
    let second = talking(&queue, &server).await;
    queue.record(remembered(&second, ended(), true));
    state_is(&server, &second, "ended").await;
    queue.record(remembered(&first, ended(), false));
    state_is(&server, &first, "ended").await;
    assert_eq!(look(&queue).await, lost(&second));
}

#[tokio::test]
async fn a_redis_that_is_slow_or_away_or_holds_nonsense_remembers_nothing() {
    let mut server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    let call = talking(&queue, &server).await;
    queue.record(remembered(&call, ended(), true));
    state_is(&server, &call, "ended").await;
    assert!(look(&queue).await.is_some());
    proxy.set(Mode::Delay(Duration::from_millis(400)));
    let began = Instant::now();
    assert_eq!(look(&queue).await, None);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(390), "{took:?}");
    proxy.set(Mode::Pass);

    eventually("Redis is quick again", async || {
        look(&queue).await.is_some()
    })
    .await;
    let keys: Vec<String> = server.query("KEYS call:lost:*").await;
    let key = &keys[0];
    for nonsense in ["1", "[]", "{}", "{\"callId\":7}", "x"] {
        let _: String = server.query(&format!("SET {key} {nonsense}")).await;
        assert_eq!(look(&queue).await, None, "{nonsense}");
    }
    server.kill();
    let began = Instant::now();
    assert_eq!(look(&queue).await, None);
    assert!(began.elapsed() < Duration::from_millis(300));
}
