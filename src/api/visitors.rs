//! The connections of the API: a bounded number, of which those that ask
//! nothing make room for those that come.
//!
//! Whoever opens connections and sends half a request, or keeps answered ones open, holds no place
//! for long: when all are taken, the connection that has waited longest goes, once it has had a
//! moment to ask. One that is being answered stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// All connections.
#[derive(Debug)]
pub(super) struct Visitors {
    most: usize,
    /// How long a connection may wait in any case.
    grace: Duration,
    state: Mutex<State>,
    /// One has gone, or has got its answer.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with each event, and so tells what was earlier.
    next: u64,
    /// Those that wait for a request, by the time since when.
    waiting: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
    /// How many are being answered.
    busy: usize,
}

/// One connection; it is gone when dropped.
#[derive(Debug)]
pub(super) struct Visitor {
    all: Arc<Visitors>,
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    Waiting(u64),
    /// Holds what ends the connection, for when it waits again.
    Busy(oneshot::Sender<()>),
    Gone,
}

impl Visitors {
    pub(super) fn new(most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            grace,
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Returns when one more can come in: there is a place, or somebody who
    /// asks nothing and can go.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            let oldest = {
                let state = self.state();
                if state.waiting.len() + state.busy < self.most {
                    return;
                }
                state.waiting.values().next().map(|(since, _)| *since)
            };
            match oldest.map(|since| since + self.grace) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    // Whichever comes first.
                    let _ = timeout_at(due, freed).await;
                }
                None => freed.await,
            }
        }
    }

    /// A new connection, and what tells it to go.
    pub(super) fn enter(self: &Arc<Self>) -> (Arc<Visitor>, oneshot::Receiver<()>) {
        let (go, told) = oneshot::channel();
        let mut state = self.state();
        if state.waiting.len() + state.busy >= self.most {
            // Dropping the sender tells it, too.
            let _ = state.waiting.pop_first();
        }
        let since = state.wait(go);
        drop(state);
        let visitor = Visitor {
            all: self.clone(),
            place: Mutex::new(Place::Waiting(since)),
        };
        (Arc::new(visitor), told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, go: oneshot::Sender<()>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, (Instant::now(), go));
        self.next
    }
}

impl Visitor {
    /// A whole request head is there: it is being answered, until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        let mut place = self.place();
        if let Place::Waiting(since) = *place {
            let mut state = self.all.state();
            // It may have been told to go in this very moment.
            *place = match state.waiting.remove(&since) {
                Some((_, go)) => {
                    state.busy += 1;
                    Place::Busy(go)
                }
                None => Place::Gone,
            };
        }
        drop(place);
        Answering(self.clone())
    }

    /// Its answer takes its time on purpose: it may be told to go meanwhile.
    pub(super) fn wait(&self) {
        let mut place = self.place();
        if let Place::Busy(go) = std::mem::replace(&mut *place, Place::Gone) {
            let mut state = self.all.state();
            state.busy -= 1;
            *place = Place::Waiting(state.wait(go));
            drop(state);
            self.all.freed.notify_one();
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let place = std::mem::replace(&mut *self.place(), Place::Gone);
        let mut state = self.all.state();
        match place {
            Place::Waiting(since) => drop(state.waiting.remove(&since)),
            Place::Busy(_) => state.busy -= 1,
            Place::Gone => {}
        }
        drop(state);
        self.all.freed.notify_one();
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Visitor>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn who_asks_nothing_makes_room_and_who_is_answered_stays() {
        let all = Visitors::new(2, Duration::ZERO);
        let (first, mut first_told) = all.enter();
        let (second, mut second_told) = all.enter();
        let answering = first.begin();
        let (third, mut third_told) = all.enter();
        assert!(second_told.try_recv().is_err() && second_told.is_terminated());
        assert!(!first_told.is_terminated());
        drop(second);

        let other = third.begin();
        assert!(all.room().now_or_never().is_none(), "both are answered");
        drop(answering);
        assert!(all.room().now_or_never().is_some());
        let _fourth = all.enter();
        assert!(first_told.try_recv().is_err() && first_told.is_terminated());
        assert!(matches!(
            third_told.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        ));
        drop((other, third, first));
        assert_eq!(all.state().busy, 0);
    }
}
