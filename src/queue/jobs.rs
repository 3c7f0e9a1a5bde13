//! The jobs that this bridge has in the queue, and who wants to know when a
//! worker takes one.
//!
//! # When a job counts as taken
//!
//! Redis tells nobody who took a job, so the background task asks for the
//! position of each watched job. "Not there" means taken, unless:
//!
//! - The push is still under way. Only a job whose push was acknowledged is
//!   asked for, so the question always comes after the push.
//! - The push failed, perhaps after it arrived. Such a job is no longer known
//!   here, is removed in the background, and its watch never resolves.
//! - We took it out ourselves. `remove` and `replace` forget the job before
//!   they send anything; an answer that is still on its way finds no watch.
//! - The connection was replaced. Questions are asked only on the connection
//!   that pushes use, one round at a time, and each round asks what was known
//!   when it began. A new connection may lead to a Redis that never had the job:
//!   restarted empty, or a replica that was promoted before it got it. No worker
//!   will ever get that job then, which is what the watcher needs to know.
//! - Redis does not answer, or answers with an error: then nothing is concluded.
//!   Before 6.0.6 it has no `LPOS` and always does so.
//!
//! A replica that was a master a moment ago still answers. It can show a job
//! that a worker has taken since, never hide one that waits: what it lacks, its
//! new master lacks too. The next write finds it out.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::shared::Shared;

/// Most jobs known; past that the one that expires first is forgotten. More
/// than there can be calls.
const MAX: usize = 4_096;
/// Most jobs asked for in one round: with long queues each question costs
/// Redis a walk through the list.
const ROUND: usize = 128;

/// The jobs that should be in the queue, by their JSON.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    known: HashMap<Arc<str>, Known>,
    watched: BTreeMap<u64, Arc<str>>,
    last_watch: u64,
    /// The last watch asked for; the next round begins after it.
    asked: u64,
    forgotten: u64,
}

#[derive(Debug)]
struct Known {
    expires: SystemTime,
    acknowledged: bool,
    watch: Option<(u64, oneshot::Sender<()>)>,
}

impl Jobs {
    /// A push begins.
    pub(super) fn insert(&mut self, payload: &str, expires: SystemTime, now: SystemTime) {
        if self.known.len() >= MAX {
            self.make_room(now);
        }
        let job = Known {
            expires,
            acknowledged: false,
            watch: None,
        };
        self.known.insert(payload.into(), job);
    }

    /// The push was acknowledged.
    pub(super) fn acknowledge(&mut self, payload: &str) {
        if let Some(job) = self.known.get_mut(payload) {
            job.acknowledged = true;
        }
    }

    /// The job is not, or will not be, in the queue. `false` when its push may
    /// still be under way.
    pub(super) fn forget(&mut self, payload: &str) -> bool {
        let Some(job) = self.known.remove(payload) else {
            return true;
        };
        if let Some((id, _)) = job.watch {
            self.watched.remove(&id);
        }
        job.acknowledged
    }

    /// Whether the job should be in the queue.
    pub(super) fn knows(&self, payload: &str) -> bool {
        self.known.contains_key(payload)
    }

    /// Watches a known job; a watch before it ends.
    fn watch(&mut self, payload: &str) -> Option<(u64, oneshot::Receiver<()>)> {
        let (payload, _) = self.known.get_key_value(payload)?;
        let payload = Arc::clone(payload);
        let job = self.known.get_mut(&payload)?;
        let (seen, taken) = oneshot::channel();
        self.last_watch += 1;
        if let Some((before, _)) = job.watch.replace((self.last_watch, seen)) {
            self.watched.remove(&before);
        }
        self.watched.insert(self.last_watch, payload);
        Some((self.last_watch, taken))
    }

    fn unwatch(&mut self, id: u64) {
        let payload = self.watched.remove(&id);
        if let Some(job) = payload.and_then(|payload| self.known.get_mut(&payload)) {
            job.watch = None;
        }
    }

    /// The watched jobs to ask for now, each in its turn.
    pub(super) fn round(&mut self) -> Vec<(u64, Arc<str>)> {
        let after = (Bound::Excluded(self.asked), Bound::Unbounded);
        let from_start = (Bound::Unbounded, Bound::Included(self.asked));
        let turn = self.watched.range(after);
        let turn = turn.chain(self.watched.range(from_start));
        let known = &self.known;
        let round: Vec<_> = turn
            .filter(|(_, payload)| known.get(*payload).is_some_and(|job| job.acknowledged))
            .take(ROUND)
            .map(|(id, payload)| (*id, Arc::clone(payload)))
            .collect();
        if let Some((id, _)) = round.last() {
            self.asked = *id;
        }
        round
    }

    /// A job asked for was not in the queue.
    pub(super) fn taken(&mut self, id: u64) {
        let payload = self.watched.remove(&id);
        let job = payload.and_then(|payload| self.known.remove(&payload));
        if let Some((_, seen)) = job.and_then(|job| job.watch) {
            // Nobody listens any more: then nobody needs to know.
            let _ = seen.send(());
        }
    }

    /// How many have been forgotten for want of room.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn make_room(&mut self, now: SystemTime) {
        self.known
            .retain(|_, job| job.watch.is_some() || now < job.expires);
        if self.known.len() < MAX {
            return;
        }
        let first = self.known.iter().min_by_key(|(_, job)| job.expires);
        if let Some(payload) = first.map(|(payload, _)| Arc::clone(payload)) {
            self.forget(&payload);
            self.forgotten += 1;
        }
    }
}

/// Resolves when a job is seen to be out of the queue though the bridge did
/// not take it out; see [`super::Queue::taken`].
#[must_use = "dropping it ends the watch"]
pub struct Taken {
    shared: Arc<Shared>,
    watch: Option<(u64, oneshot::Receiver<()>)>,
}

impl Taken {
    pub(super) fn new(shared: &Arc<Shared>, payload: &str) -> Self {
        let watch = shared.jobs().watch(payload);
        Self {
            shared: Arc::clone(shared),
            watch,
        }
    }
}

impl Future for Taken {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some((_, taken)) = &mut self.watch else {
            return Poll::Pending;
        };
        let Poll::Ready(seen) = Pin::new(taken).poll(context) else {
            return Poll::Pending;
        };
        self.watch = None;
        match seen {
            Ok(()) => Poll::Ready(()),
            // Forgotten: the bridge itself took the job out.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some((id, _)) = self.watch.take() {
            self.shared.jobs().unwatch(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const LATER: Duration = Duration::from_secs(30);

    fn pushed(jobs: &mut Jobs, payload: &str) {
        jobs.insert(payload, NOW + LATER, NOW);
        jobs.acknowledge(payload);
    }

    #[test]
    fn only_an_acknowledged_job_is_asked_for() {
        let mut jobs = Jobs::default();
        jobs.insert("a", NOW + LATER, NOW);
        let (id, mut taken) = jobs.watch("a").unwrap();
        assert!(jobs.round().is_empty());
        jobs.acknowledge("a");
        assert_eq!(jobs.round(), [(id, "a".into())]);
        jobs.taken(id);
        assert_eq!(taken.try_recv(), Ok(()));
        assert!(jobs.round().is_empty() && !jobs.knows("a"));
    }

    #[test]
    fn what_the_bridge_removes_is_never_reported_as_taken() {
        let mut jobs = Jobs::default();
        pushed(&mut jobs, "a");
        let (id, mut taken) = jobs.watch("a").unwrap();
        assert_eq!(jobs.round().len(), 1);
        assert!(jobs.forget("a"), "its push was acknowledged");
        // The answer of the round comes after that.
        jobs.taken(id);
        assert_eq!(taken.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(jobs.watch("a").is_none());
        jobs.insert("b", NOW + LATER, NOW);
        assert!(!jobs.forget("b"), "its push may be under way");
    }

    #[test]
    fn every_watched_job_has_its_turn() {
        let mut jobs = Jobs::default();
        let mut watches = Vec::new();
        for number in 0..300 {
            let payload = format!("job {number}");
            pushed(&mut jobs, &payload);
            watches.push(jobs.watch(&payload).unwrap());
        }
        let mut asked = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let round = jobs.round();
            assert_eq!(round.len(), ROUND);
            asked.extend(round.into_iter().map(|(id, _)| id));
        }
        assert_eq!(asked.len(), 300);
        for (id, _) in watches {
            jobs.unwatch(id);
        }
        assert!(jobs.round().is_empty());
    }

    #[test]
    fn with_too_many_the_expired_go_then_the_one_that_expires_first() {
        let mut jobs = Jobs::default();
        for number in 0..MAX as u64 {
            jobs.insert(&number.to_string(), NOW + Duration::from_secs(number), NOW);
        }
        jobs.insert("new", NOW + LATER, NOW + Duration::from_secs(2));
        assert!(!jobs.knows("2") && jobs.knows("3"));
        assert_eq!(jobs.forgotten(), 0);
        jobs.insert("x", NOW + LATER, NOW);
        jobs.insert("y", NOW + LATER, NOW);
        jobs.insert("z", NOW + LATER, NOW);
        assert_eq!((jobs.knows("3"), jobs.forgotten()), (false, 1));
    }
}
