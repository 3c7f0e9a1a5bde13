//! The incoming audio of one call: shared by the engine's media thread, which
//! brings RTP, and the call's driver.
//!
//! While the worker's lane is open, a packet leaves as a message on the media
//! thread itself, with no thread switch. Otherwise messages wait here for the
//! driver, in order, and go through the worker's socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::core::link::RtpTap;
use crate::core::uplink::Uplink;
use crate::worker::Lane;

/// Messages that wait for the driver; more means that it is stuck, and the
/// newest are dropped. Holds the longest backlog that an attach can bring.
const WAITING_MAX: usize = 8_192;

/// See the module.
pub(super) struct UplinkPort {
    state: Mutex<UplinkState>,
    wake: Notify,
}

/// What the port's lock guards.
pub(super) struct UplinkState {
    pub(super) uplink: Uplink,
    pub(super) lane: Option<Lane>,
    waiting: Vec<Vec<u8>>,
    /// Message under construction.
    scratch: Vec<u8>,
    /// Messages dropped because too many waited.
    pub(super) dropped: u64,
}

impl UplinkPort {
    pub(super) fn new(uplink: Uplink) -> Arc<Self> {
        let state = UplinkState {
            uplink,
            lane: None,
            waiting: Vec::new(),
            scratch: Vec::new(),
            dropped: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            wake: Notify::new(),
        })
    }

    /// For a moment; never across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, UplinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when messages wait for the driver.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl RtpTap for UplinkPort {
    fn handle_rtp(&self, arrived: Instant, packet: &[u8]) {
        let mut state = self.lock();
        state.uplink.handle_rtp(arrived, packet);
        state.send();
        let waiting = !state.waiting.is_empty();
        drop(state);
        if waiting {
            self.wake.notify_one();
        }
    }
}

impl UplinkState {
    /// Sends what the uplink has ready: by the lane, or to the driver behind
    /// what waits for it already.
    pub(super) fn send(&mut self) {
        while self.uplink.poll_message(&mut self.scratch) {
            self.dispatch();
        }
    }

    /// Sends or keeps a message that is not the uplink's own, in its turn.
    pub(super) fn post(&mut self, message: Vec<u8>) {
        self.send();
        self.scratch = message;
        self.dispatch();
    }

    /// What waits for the driver, in order. It must be queued on the socket,
    /// which shuts the lane, before the port's lock is given back.
    pub(super) fn waiting(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.send();
        self.waiting.drain(..)
    }

    fn dispatch(&mut self) {
        let lane = self.lane.as_ref().filter(|_| self.waiting.is_empty());
        if lane.is_some_and(|lane| lane.try_send(&self.scratch)) {
            self.scratch.clear();
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push(std::mem::take(&mut self.scratch));
        } else {
            self.dropped += 1;
            self.scratch.clear();
        }
    }
}
