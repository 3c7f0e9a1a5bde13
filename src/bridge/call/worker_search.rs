//! The search for a worker: the attempt's job and ticket, dialling, and the
//! withdrawal of what is of no more use. What is tried when is decided in
//! `core::call`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::core::ids::{CallId, Token};
use crate::queue::{Job, Queue, QueueError};
use crate::worker::{AttachTable, Dialer, Ticket, WorkerError, WorkerSocket};

/// How long one attempt to dial a worker may take.
pub(super) const DIAL_LIMIT: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where the workers of all calls come from.
#[derive(Clone)]
pub(in crate::bridge) struct WorkerSources {
    /// Redis, in queue mode.
    pub(in crate::bridge) queue: Option<Queue>,
    /// Calls that wait for a worker to dial in.
    pub(in crate::bridge) waiting: AttachTable,
    /// Dials `--ws-target`, where given.
    pub(in crate::bridge) dialer: Option<Dialer>,
}

/// The search of one call. One attempt follows another; dropping it ends it,
/// but for the job, which [`WorkerSearch::stop`] withdraws.
pub(in crate::bridge) struct WorkerSearch {
    call: CallId,
    sources: WorkerSources,
    push: Option<Boxed<Result<(), QueueError>>>,
    /// Whether Redis may have heard of the push.
    push_begun: bool,
    taken: Option<Boxed<()>>,
    dial: Option<Boxed<Result<WorkerSocket, WorkerError>>>,
    ticket: Option<Ticket>,
    /// The job pushed last; it may still be in the queue.
    job: Option<Job>,
    /// The one before it, whose place it takes.
    before: Option<Job>,
}

/// Why there is no token for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum NoToken {
    /// There is no queue.
    NoQueue,
    /// A worker of the attempt before is attaching.
    ClaimHeld,
}

/// What came of an attempt.
pub(in crate::bridge) enum SearchEvent {
    /// The job is in the queue.
    Pushed,
    /// Redis dropped the connection in the moment of the push.
    PushInterrupted,
    /// The job is not in the queue.
    PushRefused,
    /// A worker has taken the job.
    Taken,
    /// A worker is there: its socket, and how it came.
    Found(Box<WorkerSocket>, String),
    /// The worker cannot be dialled.
    DialFailed,
}

enum Done {
    Attached(WorkerSocket),
    Pushed(Result<(), QueueError>),
    Dialled(Result<WorkerSocket, WorkerError>),
    Taken,
}

impl WorkerSearch {
    /// A call that looks for nobody yet.
    pub(in crate::bridge) fn new(sources: WorkerSources, call: CallId) -> Self {
        Self {
            call,
            sources,
            push: None,
            push_begun: false,
            taken: None,
            dial: None,
            ticket: None,
            job: None,
            before: None,
        }
    }

    /// The worker to dial for this call, whatever the others' is.
    pub(in crate::bridge) fn dial_instead(&mut self, dialer: Dialer) {
        self.sources.dialer = Some(dialer);
    }

    /// The token of the next job: from now on a worker may attach with it, and
    /// with none before it.
    pub(in crate::bridge) fn token(&mut self) -> Result<Token, NoToken> {
        if self.sources.queue.is_none() {
            return Err(NoToken::NoQueue);
        }
        let token = Token::random();
        if let Some(ticket) = &mut self.ticket {
            if ticket.renew(token.clone()).is_err() {
                debug!("a worker is attaching: the job is not pushed again yet");
                return Err(NoToken::ClaimHeld);
            }
        } else {
            let ticket = self
                .sources
                .waiting
                .expect(self.call.clone(), token.clone());
            self.ticket = Some(ticket);
        }
        Ok(token)
    }

    /// Pushes the job, in the place of the one before it.
    pub(in crate::bridge) fn push(&mut self, job: Job) {
        let Some(queue) = self.sources.queue.clone() else {
            return;
        };
        // A first job that comes twice was interrupted on its way, and whatever
        // of it arrived is removed: the next one keeps its turn behind the others.
        let is_first = job.attempt == 1 && !job.resumed;
        let before = self.job.replace(job.clone());
        let before = before.filter(|_| !is_first);
        self.before = before.clone();
        self.taken = None;
        self.push_begun = false;
        self.push = Some(Box::pin(push(queue, job, before)));
    }

    /// Dials the worker.
    pub(in crate::bridge) fn dial(&mut self) {
        let dialer = self.sources.dialer.clone();
        self.dial = Some(Box::pin(async move {
            match &dialer {
                Some(dialer) => dialer.dial(DIAL_LIMIT).await,
                None => Err(WorkerError::BadTarget("none is given")),
            }
        }));
    }

    /// A worker is attached: nobody else is looked for.
    pub(in crate::bridge) fn settle(&mut self) {
        self.taken = None;
        self.dial = None;
        if let (Some(queue), Some(job)) = (&self.sources.queue, &self.job) {
            // It is gone already, unless Redis has come back with old data.
            queue.remove(job);
        }
    }

    /// No worker is dialled, or may take or attach, any more. A push under way is waited for
    /// first: a removal that overtakes it would leave a dead job behind.
    pub(in crate::bridge) fn stop(&mut self) {
        self.ticket = None;
        self.dial = None;
        self.taken = None;
        let push = self.push.take();
        let (Some(queue), Some(job)) = (self.sources.queue.clone(), self.job.take()) else {
            return;
        };
        match push {
            None => queue.remove(&job),
            // Dropped, so that no worker ever sees the dead call.
            Some(_) if !self.push_begun => {
                if let Some(before) = self.before.take() {
                    queue.remove(&before);
                }
            }
            Some(push) => drop(tokio::spawn(async move {
                // Whether it was pushed or not: afterwards it is not there.
                let _ = push.await;
                queue.remove(&job);
            })),
        }
    }

    /// The next result; never, while nothing is pending. Cancel-safe. A worker
    /// that has attached counts before what is heard of its job: that it was
    /// taken, or that nobody knows whether it was pushed.
    pub(in crate::bridge) async fn next(&mut self) -> SearchEvent {
        self.push_begun |= self.push.is_some();
        let done = tokio::select! {
            biased;
            socket = attached(&mut self.ticket) => Done::Attached(socket),
            result = or_never(&mut self.push) => Done::Pushed(result),
            result = or_never(&mut self.dial) => Done::Dialled(result),
            () = or_never(&mut self.taken) => Done::Taken,
        };
        self.handle(done)
    }

    fn handle(&mut self, done: Done) -> SearchEvent {
        match done {
            Done::Attached(socket) => SearchEvent::Found(Box::new(socket), "queue".into()),
            Done::Pushed(result) => {
                self.push = None;
                self.handle_pushed(result)
            }
            Done::Dialled(result) => {
                self.dial = None;
                self.handle_dialled(result)
            }
            Done::Taken => {
                self.taken = None;
                debug!("a worker has taken the job");
                SearchEvent::Taken
            }
        }
    }

    fn handle_pushed(&mut self, result: Result<(), QueueError>) -> SearchEvent {
        let queue = self.sources.queue.as_ref();
        match result {
            Ok(()) => {
                if let (Some(queue), Some(job)) = (queue, &self.job) {
                    self.taken = Some(Box::pin(queue.taken(job)));
                }
                SearchEvent::Pushed
            }
            Err(error) if queue.is_some_and(|queue| queue.is_interrupted(&error)) => {
                info!(%error, "Redis dropped the connection in the moment of the push: the job is pushed again");
                SearchEvent::PushInterrupted
            }
            Err(error) => {
                warn!(%error, "the job was not queued");
                SearchEvent::PushRefused
            }
        }
    }

    fn handle_dialled(&mut self, result: Result<WorkerSocket, WorkerError>) -> SearchEvent {
        match result {
            Ok(socket) => {
                // A worker with a job that Redis kept to itself comes too late.
                self.ticket = None;
                let dialer = self.sources.dialer.as_ref();
                let host = dialer.map(|dialer| dialer.host().to_owned());
                SearchEvent::Found(Box::new(socket), host.unwrap_or_default())
            }
            Err(error) => {
                warn!(%error, "the worker cannot be dialled");
                SearchEvent::DialFailed
            }
        }
    }
}

async fn or_never<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn attached(ticket: &mut Option<Ticket>) -> WorkerSocket {
    match ticket {
        Some(ticket) => ticket.attached().await,
        None => std::future::pending().await,
    }
}

/// The first job of a call waits behind the others; a later one goes before
/// them, in the place of the one before it.
async fn push(queue: Queue, job: Job, before: Option<Job>) -> Result<(), QueueError> {
    match before {
        Some(before) => queue.replace(&before, &job).await,
        None => queue.push(&job).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{StreamServer, attach_url};

    #[tokio::test]
    async fn a_worker_who_is_there_counts_before_a_push_whose_answer_was_lost() {
        let waiting = AttachTable::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let server = StreamServer::bind(any, waiting.clone()).await.unwrap();
        let (call, token) = (CallId::random(), Token::random());
        let sources = WorkerSources {
            queue: None,
            waiting: waiting.clone(),
            dialer: None,
        };
        let mut search = WorkerSearch::new(sources, call.clone());
        search.ticket = Some(waiting.expect(call.clone(), token.clone()));
        let base = format!("ws://{}", server.local_addr());
        let url = attach_url(&base, &call, &token);
        // On one thread: whoever answers the worker hands it over in the same go.
        let worker = tokio_tungstenite::connect_async(url.expose()).await;
        let _worker = worker.unwrap();
        let after = Duration::from_secs(1);
        search.push = Some(Box::pin(async move { Err(QueueError::TimedOut { after }) }));
        assert!(matches!(search.next().await, SearchEvent::Found(..)));
        assert!(matches!(search.next().await, SearchEvent::PushRefused));
    }
}
