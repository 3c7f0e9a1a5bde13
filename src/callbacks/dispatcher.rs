//! The task that delivers status callbacks: what is sent when is decided in
//! `core::callback::outbox`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, warn};

use super::client::{Client, Reply};
use super::error::CallbackError;
use super::outbox_store::{OutboxStore, OutboxWriter};
use super::stats::{Counters, count};
use super::status::StatusCallbacks;
use super::target::CallbackTarget;
use crate::core::callback::outbox::{Fate, Outbox, Sent};
use crate::core::callback::{CallChange, CallEnd, Kept, Owed, TwilioForm, WebhookEvent};
use crate::core::ids::CallId;
use crate::core::log_limiter::LogLimiter;
use crate::core::outward::WrittenBy;

/// Callbacks on their way at once.
pub const SIDE_BY_SIDE: usize = 32;
/// Most callbacks that wait: an hour without a receiver at 40 calls a minute.
pub const WAITING_MAX: usize = 10_000;
/// How often the log says that something fails.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long what was kept may take to be read: later, new callbacks go first.
const KEPT_LIMIT: Duration = Duration::from_secs(10);

/// The task behind [`StatusCallbacks`].
pub struct WebhookDispatcher {
    task: JoinHandle<()>,
    writing: Option<JoinHandle<()>>,
    stopping: watch::Sender<bool>,
    counters: Arc<Counters>,
}

/// Starts delivering. `common` is where calls without an address of their own
/// are told; `store` keeps callbacks over a restart.
#[must_use]
pub fn start(
    client: Client,
    common: Option<CallbackTarget>,
    store: Option<Arc<dyn OutboxStore>>,
) -> (StatusCallbacks, WebhookDispatcher) {
    let (queue, received) = mpsc::channel(WAITING_MAX);
    let (stopping, stopped) = watch::channel(false);
    let counters = Arc::new(Counters::default());
    let most = u64::try_from(WAITING_MAX).unwrap_or(u64::MAX);
    let status = StatusCallbacks::new(queue, common.is_some(), counters.clone(), most);
    let (writer, writing) = OutboxWriter::start(store.clone(), counters.clone());
    let delivery = Delivery {
        client,
        common,
        writer,
        counters: counters.clone(),
        outbox: Outbox::new(SIDE_BY_SIDE),
        on_their_way: JoinSet::new(),
        failures: LogLimiter::new(TELL_EVERY),
        losses: LogLimiter::new(TELL_EVERY),
    };
    let dispatcher = WebhookDispatcher {
        task: tokio::spawn(delivery.run(store, received, stopped)),
        writing,
        stopping,
        counters,
    };
    (status, dispatcher)
}

impl WebhookDispatcher {
    /// Delivers what can be delivered at once, for so long at most; what is
    /// left stays in the store. For the end, when no call is left.
    pub async fn stop(mut self, limit: Duration) {
        let _ = self.stopping.send(true);
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
            // Its sender of changes is gone once this returns.
            let _ = (&mut self.task).await;
        }
        let is_kept = self.writing.is_some();
        if let Some(mut writing) = self.writing {
            if timeout(limit / 2, &mut writing).await.is_err() {
                writing.abort();
                warn!("the database did not take the last callbacks in time");
            }
        }
        let stats = self.counters.read();
        info!(
            delivered = stats.delivered,
            given_up = stats.given_up,
            "status callbacks"
        );
        match (stats.waiting, is_kept) {
            (0, _) => {}
            (waiting, true) => info!(waiting, "status callbacks are left for the next start"),
            (waiting, false) => warn!(waiting, "status callbacks are lost: there is no database"),
        }
    }
}

struct Delivery {
    client: Client,
    common: Option<CallbackTarget>,
    writer: OutboxWriter,
    counters: Arc<Counters>,
    outbox: Outbox,
    on_their_way: JoinSet<Tried>,
    failures: LogLimiter,
    losses: LogLimiter,
}

/// A try and what came of it.
struct Tried {
    notice: Arc<WebhookEvent>,
    result: Result<(), (Sent, CallbackError)>,
}

impl Delivery {
    async fn run(
        mut self,
        store: Option<Arc<dyn OutboxStore>>,
        mut received: mpsc::Receiver<Arc<WebhookEvent>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        if let Some(store) = store {
            self.take_kept(&*store).await;
        }
        loop {
            self.send_what_may_leave();
            let next = self
                .outbox
                .poll_timeout()
                .map(tokio::time::Instant::from_std);
            let is_stopping = *stopped.borrow();
            if is_stopping && received.is_empty() && self.outbox.is_idle() {
                return;
            }
            tokio::select! {
                Some(notice) = received.recv() => self.take(notice),
                Some(tried) = self.on_their_way.join_next() => self.settle(tried),
                () = until(next) => {}
                changed = stopped.changed(), if !is_stopping => {
                    if changed.is_err() {
                        return;
                    }
                    received.close();
                }
            }
        }
    }

    /// What was left of the last run goes first.
    async fn take_kept(&mut self, store: &dyn OutboxStore) {
        let kept = match timeout(KEPT_LIMIT, store.kept(WAITING_MAX)).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                warn!(%error, "callbacks of the last run cannot be read and wait for the next start");
                return;
            }
            Err(_) => {
                warn!("callbacks of the last run are not read in time and wait for the next start");
                return;
            }
        };
        let Kept { waiting, owed } = kept;
        if waiting.is_empty() && owed.is_empty() {
            return;
        }
        info!(
            callbacks = waiting.len(),
            ends_owed = owed.len(),
            "status callbacks of the last run are sent first"
        );
        let now = Instant::now();
        for notice in waiting {
            self.counters.waiting.fetch_add(1, Relaxed);
            self.outbox.push(now, Arc::new(notice));
        }
        for Owed { last, end } in owed {
            let end = end.unwrap_or_else(|| CallEnd::bridge_lost(SystemTime::now()));
            if let Some(notice) = WebhookEvent::at_end(&last, &end) {
                self.counters.waiting.fetch_add(1, Relaxed);
                self.take(Arc::new(notice));
            } else {
                self.writer.leave(CallChange::Settle(last.call));
            }
        }
    }

    /// A new one: kept, and queued behind the others of its call.
    fn take(&mut self, notice: Arc<WebhookEvent>) {
        self.writer.leave(CallChange::Insert(notice.clone()));
        self.outbox.push(Instant::now(), notice);
    }

    fn send_what_may_leave(&mut self) {
        while let Some(notice) = self.outbox.poll(Instant::now()) {
            // The receiver for all calls gets the call object.
            let own = notice.url.as_ref();
            let form = own.and_then(|_| TwilioForm::of(&notice.body));
            let is_own = form
                .as_ref()
                .is_some_and(|form| form.written_by == WrittenBy::Operator);
            let target = match &notice.url {
                Some(url) if is_own => CallbackTarget::parse(url.expose()).ok(),
                Some(url) => CallbackTarget::parse_foreign(url.expose()).ok(),
                None => self.common.clone(),
            };
            let client = self.client.clone();
            self.on_their_way.spawn(async move {
                let result = match target {
                    Some(target) => deliver(&client, &target, form.as_ref(), &notice).await,
                    None => Err((Sent::Refused, CallbackError::BadTarget("there is none"))),
                };
                Tried { notice, result }
            });
        }
    }

    fn settle(&mut self, tried: Result<Tried, tokio::task::JoinError>) {
        // Only a panic would lose one; it stays in the store.
        let Ok(Tried { notice, result }) = tried else {
            return;
        };
        let now = Instant::now();
        let (sent, error) = match result {
            Ok(()) => (Sent::Delivered, None),
            Err((sent, error)) => (sent, Some(error)),
        };
        let (call, event) = (&notice.call, notice.event.as_str());
        let fate = self.outbox.handle_sent(now, call, sent, rand::random());
        match (fate, error) {
            (Fate::Again(pause), error) => {
                count(&self.counters.retried);
                self.tell_failure(now, call, event, error, pause);
                return;
            }
            (Fate::Delivered, _) => {
                count(&self.counters.delivered);
                debug!(%call, event, "status callback delivered");
            }
            (Fate::GivenUp, error) => {
                count(&self.counters.given_up);
                if let Some(times) = self.losses.count(now) {
                    let error = error.map(|error| error.to_string()).unwrap_or_default();
                    warn!(%call, event, error, times, "status callback given up");
                }
            }
        }
        self.counters.waiting.fetch_sub(1, Relaxed);
        self.writer
            .leave(CallChange::Delete(call.clone(), notice.sequence));
    }

    fn tell_failure(
        &mut self,
        now: Instant,
        call: &CallId,
        event: &str,
        error: Option<CallbackError>,
        pause: Duration,
    ) {
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        let again_s = pause.as_secs();
        match self.failures.count(now) {
            Some(times) => warn!(%call, event, error, again_s, times, "status callback failed"),
            None => debug!(%call, event, error, again_s, "status callback failed"),
        }
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn deliver(
    client: &Client,
    target: &CallbackTarget,
    form: Option<&TwilioForm>,
    notice: &WebhookEvent,
) -> Result<(), (Sent, CallbackError)> {
    let sent = match form {
        Some(form) => client.send_form(target, form).await,
        None => client.send(target, &notice.body).await,
    };
    let Reply {
        status,
        retry_after,
        ..
    } = sent.map_err(|error| match error {
        CallbackError::BadTarget(_) | CallbackError::NotPermitted { .. } => (Sent::Refused, error),
        _ => (Sent::Failed(None), error),
    })?;
    let result = match status {
        200..300 => return Ok(()),
        429 => Sent::Failed(retry_after),
        503 => Sent::Failed(retry_after),
        408 | 500.. => Sent::Failed(None),
        _ => Sent::Refused,
    };
    let host = target.to_string();
    Err((result, CallbackError::Status { host, status }))
}
