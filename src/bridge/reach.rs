//! Reaching a worker: the attempt's job and ticket, dialling, and what comes
//! of them. What is tried when is decided in `core::call`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::driver::Driver;
use super::place::Calling;
use crate::core::call::{Attempt, CallDecision};
use crate::core::ids::Token;
use crate::queue::{Job, Queue, QueueError};
use crate::sip::engine::{CallRefused, OutgoingLeg};
use crate::worker::{CloseReason, Ticket, WorkerError, WorkerSocket};

/// How long one attempt to dial a worker may take.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call waits for besides SIP, RTP and its worker.
#[derive(Default)]
pub(super) struct Pending {
    push: Option<Boxed<Result<(), QueueError>>>,
    /// Whether Redis may have heard of the push.
    push_begun: bool,
    taken: Option<Boxed<()>>,
    dial: Option<Boxed<Result<WorkerSocket, WorkerError>>>,
    ticket: Option<Ticket>,
    /// The incoming callback's answer.
    pub(super) decision: Option<Boxed<CallDecision>>,
    /// The job pushed last; it may still be in the queue.
    job: Option<Job>,
    /// The one before it, whose place it takes.
    before: Option<Job>,
    /// The leg to the fallback number, until the engine has placed it.
    pub(super) calling: Option<Calling>,
    pub(super) waits_for_play_out: bool,
}

/// What came of it.
pub(super) enum Done {
    Pushed(Result<(), QueueError>),
    Taken,
    CallDecision(CallDecision),
    Dialled(Result<Box<WorkerSocket>, WorkerError>),
    Attached(Box<WorkerSocket>),
    Called(Result<Box<OutgoingLeg>, CallRefused>),
}

impl Pending {
    /// The next result; never, while nothing is pending. Cancel-safe. A worker
    /// that has attached counts before what is heard of its job: that it was
    /// taken, or that nobody knows whether it was pushed.
    pub(super) async fn next(&mut self) -> Done {
        self.push_begun |= self.push.is_some();
        let done = tokio::select! {
            biased;
            socket = attached(&mut self.ticket) => Done::Attached(Box::new(socket)),
            result = or_never(&mut self.push) => Done::Pushed(result),
            result = or_never(&mut self.dial) => Done::Dialled(result.map(Box::new)),
            () = or_never(&mut self.taken) => Done::Taken,
            decision = or_never(&mut self.decision) => Done::CallDecision(decision),
            result = called(&mut self.calling) => Done::Called(result.map(Box::new)),
        };
        match &done {
            Done::Pushed(_) => self.push = None,
            Done::Dialled(_) => self.dial = None,
            Done::Taken => self.taken = None,
            Done::CallDecision(_) => self.decision = None,
            Done::Called(_) => self.calling = None,
            Done::Attached(_) => {}
        }
        done
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

async fn called(calling: &mut Option<Calling>) -> Result<OutgoingLeg, CallRefused> {
    match calling {
        Some(calling) => calling.placed().await,
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

impl Driver {
    pub(super) fn push_job(&mut self, attempt: Attempt) {
        let now = std::time::Instant::now();
        let Some(queue) = self.context.queue.clone() else {
            return self.call.handle_job_refused(now);
        };
        let token = Token::random();
        if let Some(ticket) = &mut self.pending.ticket {
            if ticket.renew(token.clone()).is_err() {
                debug!("a worker is attaching: the job is not pushed again yet");
                return self.call.handle_claim_held(now);
            }
        } else {
            let call = self.publisher.facts().id.clone();
            self.pending.ticket = Some(self.context.workers.expect(call, token.clone()));
        }
        self.publisher.begin(attempt);
        let job = self.publisher.job(&token);
        let before = self.pending.job.replace(job.clone());
        // A first job that comes twice was interrupted on its way, and whatever
        // of it arrived is removed: the next one keeps its turn behind the others.
        let is_first = attempt.number == 1 && !attempt.resumed;
        let before = before.filter(|_| !is_first);
        self.pending.before = before.clone();
        self.pending.taken = None;
        self.pending.push_begun = false;
        self.pending.push = Some(Box::pin(push(queue, job, before)));
    }

    /// No worker is dialled, or may take or attach, any more. A push under way is waited for
    /// first: a removal that overtakes it would leave a dead job behind.
    pub(super) fn stop_search(&mut self) {
        self.pending.ticket = None;
        self.pending.dial = None;
        self.pending.taken = None;
        let push = self.pending.push.take();
        let (Some(queue), Some(job)) = (self.context.queue.clone(), self.pending.job.take()) else {
            return;
        };
        match push {
            None => queue.remove(&job),
            // Dropped, so that no worker ever sees the dead call.
            Some(_) if !self.pending.push_begun => {
                if let Some(before) = self.pending.before.take() {
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

    pub(super) fn dial(&mut self, attempt: Attempt) {
        self.publisher.begin(attempt);
        let dialer = self.dialer.clone();
        self.pending.dial = Some(Box::pin(async move {
            match &dialer {
                Some(dialer) => dialer.dial(DIAL_LIMIT).await,
                None => Err(WorkerError::BadTarget("none is given")),
            }
        }));
    }

    pub(super) fn handle_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Pushed(Ok(())) => self.handle_pushed(),
            Done::Pushed(Err(error)) => self.handle_push_failed(now, &error),
            Done::Taken => {
                debug!("a worker has taken the job");
                self.call.handle_job_taken(now.into_std());
            }
            Done::CallDecision(decision) => self.handle_decision(now, decision),
            Done::Attached(socket) => self.attach(now, *socket, "queue".into()),
            Done::Dialled(Ok(socket)) => {
                // Whoever has a job that Redis kept to itself comes too late.
                self.pending.ticket = None;
                let dialer = self.dialer.as_ref();
                let host = dialer.map(|dialer| dialer.host().to_owned());
                self.attach(now, *socket, host.unwrap_or_default());
            }
            Done::Dialled(Err(error)) => {
                warn!(%error, "the worker cannot be dialled");
                self.call.handle_dial_failed(now.into_std());
            }
            Done::Called(result) => self.handle_called(now, result),
        }
    }

    fn handle_push_failed(&mut self, now: Instant, error: &QueueError) {
        let queue = self.context.queue.as_ref();
        if queue.is_some_and(|queue| queue.is_interrupted(error)) {
            info!(%error, "Redis dropped the connection in the moment of the push: the job is pushed again");
            return self.call.handle_job_interrupted(now.into_std());
        }
        warn!(%error, "the job was not queued");
        self.call.handle_job_refused(now.into_std());
    }

    fn handle_pushed(&mut self) {
        let pending = &mut self.pending;
        if let (Some(queue), Some(job)) = (&self.context.queue, &pending.job) {
            pending.taken = Some(Box::pin(queue.taken(job)));
        }
        self.call.handle_job_pushed();
    }

    fn attach(&mut self, now: Instant, socket: WorkerSocket, worker: String) {
        if !self.call.handle_attached(now.into_std()) {
            tokio::spawn(socket.close(CloseReason::CallOver));
            return;
        }
        self.publisher.attached(worker);
        self.pending.taken = None;
        self.pending.dial = None;
        if let (Some(queue), Some(job)) = (&self.context.queue, &self.pending.job) {
            // It is gone already, unless Redis has come back with old data.
            queue.remove(job);
        }
        self.worker.attach(socket, self.publisher.stream().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::CallId;
    use crate::worker::{AttachTable, StreamServer, attach_url};

    #[tokio::test]
    async fn a_worker_who_is_there_counts_before_a_push_whose_answer_was_lost() {
        let workers = AttachTable::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let server = StreamServer::bind(any, workers.clone()).await.unwrap();
        let (call, token) = (CallId::random(), Token::random());
        let mut pending = Pending {
            ticket: Some(workers.expect(call.clone(), token.clone())),
            ..Pending::default()
        };
        let base = format!("ws://{}", server.local_addr());
        let url = attach_url(&base, &call, &token);
        // On one thread: whoever answers the worker hands it over in the same go.
        let worker = tokio_tungstenite::connect_async(url.expose()).await;
        let _worker = worker.unwrap();
        let after = Duration::from_secs(1);
        pending.push = Some(Box::pin(async move { Err(QueueError::TimedOut { after }) }));
        assert!(matches!(pending.next().await, Done::Attached(_)));
        assert!(matches!(pending.next().await, Done::Pushed(Err(_))));
    }
}
