//! Callbacks that wait to be delivered: in order within a call, different
//! calls side by side, tried again with growing pauses.
//!
//! At most so many are on their way at once. A call whose callback waits for
//! its next try takes none of these places, first tries go before later ones,
//! and later ones get half of the places at most: a receiver that takes
//! requests and never answers holds up nobody else's calls.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WebhookEvent;
use crate::core::ids::CallId;

/// The first pause; each one after it is twice as long.
const PAUSE_MIN_S: u64 = 1;
const PAUSE_MAX_S: u64 = 60;
/// How long a callback is tried.
pub const TRIED_FOR: Duration = Duration::from_secs(3_600);
/// Pauses are spread by as much either way, or a receiver that comes back
/// would get everything at once.
const SPREAD: f64 = 0.2;

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The receiver has it.
    Delivered,
    /// The receiver does not want it, now or later.
    Refused,
    /// It may work later; not before that time, where the receiver said one.
    Failed(Option<Duration>),
}

/// What becomes of the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is delivered.
    Delivered,
    /// It is tried again after this pause.
    Again(Duration),
    /// It is not tried any more.
    GivenUp,
}

/// The callbacks that wait to be delivered, in order per call, with their retries.
#[derive(Debug)]
pub struct Outbox {
    lanes: HashMap<CallId, CallQueue>,
    /// Calls whose first callback may leave, in the order in which that became so.
    fresh: VecDeque<CallId>,
    /// The same, where it was tried before.
    again: VecDeque<CallId>,
    /// Calls whose first callback waits for its next try.
    paused: BTreeSet<(Instant, CallId)>,
    on_their_way: usize,
    /// Of these, the ones that were tried before.
    retries: usize,
    most: usize,
    count: usize,
}

/// The callbacks of one call, the oldest first.
#[derive(Debug, Default)]
struct CallQueue {
    waiting: VecDeque<(Arc<WebhookEvent>, Instant)>,
    /// Tries of the first.
    tries: u32,
}

impl Outbox {
    /// Nothing waits; `most` may be on their way at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            paused: BTreeSet::new(),
            on_their_way: 0,
            retries: 0,
            most,
            count: 0,
        }
    }

    /// How many are not delivered yet.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether all are delivered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether none is on its way or could leave now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.on_their_way == 0 && self.fresh.is_empty() && self.again.is_empty()
    }

    /// One more.
    pub fn push(&mut self, now: Instant, notice: Arc<WebhookEvent>) {
        let call = notice.call.clone();
        let lane = self.lanes.entry(call.clone()).or_default();
        lane.waiting.push_back((notice, now));
        self.count += 1;
        if lane.waiting.len() == 1 {
            self.fresh.push_back(call);
        }
    }

    /// The next one to send; answer with [`Outbox::handle_sent`].
    pub fn poll(&mut self, now: Instant) -> Option<Arc<WebhookEvent>> {
        while let Some((at, call)) = self.paused.pop_first() {
            if at > now {
                self.paused.insert((at, call));
                break;
            }
            self.again.push_back(call);
        }
        let call = self.next_to_leave()?;
        let lane = self.lanes.get_mut(&call)?;
        self.on_their_way += 1;
        self.retries += usize::from(lane.tries > 0);
        lane.tries = lane.tries.saturating_add(1);
        lane.waiting.front().map(|(notice, _)| notice.clone())
    }

    fn next_to_leave(&mut self) -> Option<CallId> {
        if self.on_their_way >= self.most {
            return None;
        }
        let retries_most = self.most.div_ceil(2);
        match self.fresh.pop_front() {
            None if self.retries < retries_most => self.again.pop_front(),
            fresh => fresh,
        }
    }

    /// When [`Outbox::poll`] may have another, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let is_full = self.on_their_way >= self.most;
        let next = self.paused.first().map(|(at, _)| *at);
        next.filter(|_| !is_full)
    }

    /// What came of the callback of this call that was on its way. `random`
    /// is from 0 to 1.
    pub fn handle_sent(&mut self, now: Instant, call: &CallId, sent: Sent, random: f64) -> Fate {
        self.on_their_way = self.on_their_way.saturating_sub(1);
        let Some(lane) = self.lanes.get_mut(call) else {
            return Fate::GivenUp;
        };
        self.retries = self.retries.saturating_sub(usize::from(lane.tries > 1));
        let since = lane.waiting.front().map_or(now, |(_, since)| *since);
        let fate = fate(sent, lane.tries, now.duration_since(since), random);
        if let Fate::Again(pause) = fate {
            self.paused.insert((now + pause, call.clone()));
            return fate;
        }
        lane.waiting.pop_front();
        lane.tries = 0;
        self.count = self.count.saturating_sub(1);
        if lane.waiting.is_empty() {
            self.lanes.remove(call);
        } else {
            self.fresh.push_back(call.clone());
        }
        fate
    }
}

fn fate(sent: Sent, tries: u32, age: Duration, random: f64) -> Fate {
    match sent {
        Sent::Delivered => Fate::Delivered,
        Sent::Refused => Fate::GivenUp,
        Sent::Failed(_) if age >= TRIED_FOR => Fate::GivenUp,
        Sent::Failed(asked) => {
            let doubled = PAUSE_MIN_S.checked_shl(tries.saturating_sub(1));
            let pause_s = doubled.unwrap_or(PAUSE_MAX_S).min(PAUSE_MAX_S);
            let factor = 1.0 - SPREAD + 2.0 * SPREAD * random.clamp(0.0, 1.0);
            let pause = Duration::from_secs(pause_s).mul_f64(factor);
            Fate::Again(pause.max(asked.unwrap_or_default().min(TRIED_FOR)))
        }
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
