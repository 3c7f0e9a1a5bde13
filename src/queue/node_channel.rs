//! The channel `bridge:{node}:new_registration`: another bridge, or an application that
//! has added a line, says that there is something to look at. What it says does not
//! matter, and nothing depends on it: without it, things are seen with the next heartbeat.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use rand::RngExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::{debug, warn};

use super::connection::{COMMAND_TIMEOUT, bounded};
use super::error::RedisFailure;
use super::membership::{Membership, channel_name};
use super::shared::{Failed, Shared};

/// First and longest pause between two attempts to listen.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often the connection is tried, which Redis otherwise says nothing on.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Listens while it lives; see [`super::LeaseStore::channel`].
#[derive(Debug)]
pub struct NodeChannel {
    signal: Arc<Notify>,
    task: JoinHandle<()>,
}

impl NodeChannel {
    /// Listens from the moment on at which the node has its name: before that, who listens
    /// tells whether another bridge has it.
    pub(super) fn open(shared: &Arc<Shared>) -> Self {
        let signal = Arc::new(Notify::new());
        let task = tokio::spawn(listen(Arc::clone(shared), Arc::clone(&signal)));
        Self { signal, task }
    }

    /// Resolves when there may be something to look at: once for any number of messages,
    /// and each time that listening begins, as something may have been missed. Meant for
    /// one waiter. Cancel safe.
    pub async fn notified(&self) {
        self.signal.notified().await;
    }
}

impl Drop for NodeChannel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(shared: Arc<Shared>, signal: Arc<Notify>) {
    let mut pause = BACKOFF.0;
    let mut was_refused = false;
    loop {
        let mut membership = shared.membership.subscribe();
        let joined = membership.wait_for(|membership| *membership == Membership::Joined);
        if joined.await.is_err() {
            return;
        }
        let (failure, text) = match subscribe(&shared).await {
            Ok((sink, stream)) => {
                (pause, was_refused) = (BACKOFF.0, false);
                let _listening = Listening::begin(&shared);
                signal.notify_one();
                follow(sink, stream, &signal).await
            }
            Err(failed) => failed,
        };
        if failure == RedisFailure::Refused && !was_refused {
            was_refused = true;
            warn!(
                reason = text,
                "Redis does not let this bridge listen to others (SUBSCRIBE on bridge:*): lines move more slowly"
            );
        } else {
            debug!(%failure, reason = text, "not listening to other bridges");
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(jittered).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// While it lives, the node says with its heartbeats that it listens.
struct Listening<'a>(&'a Shared);

impl<'a> Listening<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.listens.store(true, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listens.store(false, Ordering::Relaxed);
    }
}

async fn subscribe(shared: &Shared) -> Result<(PubSubSink, PubSubStream), Failed> {
    let pubsub = bounded(COMMAND_TIMEOUT, shared.client.get_async_pubsub()).await?;
    let (mut sink, stream) = pubsub.split();
    let subscribing = sink.subscribe(channel_name(&shared.keys.node));
    bounded(COMMAND_TIMEOUT, subscribing).await?;
    Ok((sink, stream))
}

/// Signals what comes, until the connection breaks.
async fn follow(mut sink: PubSubSink, mut stream: PubSubStream, signal: &Notify) -> Failed {
    let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(_) => signal.notify_one(),
                None => return (RedisFailure::Unreachable, "the connection is gone".into()),
            },
            _ = ping.tick() => {
                let pinging = sink.ping::<redis::Value>();
                if let Err(failed) = bounded(COMMAND_TIMEOUT, pinging).await {
                    return failed;
                }
            }
        }
    }
}
