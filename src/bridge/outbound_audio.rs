//! The outgoing audio of one call: written by its driver, sent by the pacer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::core::link::{MediaLink, RtpSink};
use crate::core::media_session::downlink::{Downlink, MAX_PACKET_BYTES};
use crate::core::opus::OpusError;
use crate::media::pacer::Paced;

/// Shared by the driver and the pacer thread of one call.
pub struct OutboundAudio {
    /// Held for microseconds by either side; never across a send or an await.
    downlink: Mutex<Downlink>,
    sink: Mutex<Option<Arc<dyn RtpSink>>>,
    wake: Notify,
    over: AtomicBool,
    failed: AtomicBool,
    unsent: AtomicU64,
}

impl OutboundAudio {
    /// A stream that sends nothing before [`OutboundAudio::connect`].
    #[must_use]
    pub fn new(downlink: Downlink) -> Self {
        Self {
            downlink: Mutex::new(downlink),
            sink: Mutex::new(None),
            wake: Notify::new(),
            over: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            unsent: AtomicU64::new(0),
        }
    }

    /// Media is up, or has changed: send here from now on.
    ///
    /// # Errors
    /// When the codec cannot be used.
    pub fn connect(&self, link: &MediaLink) -> Result<(), OpusError> {
        self.downlink().set_format(&link.format)?;
        *lock(&self.sink) = Some(link.sink.clone());
        Ok(())
    }

    /// The queue, for a moment.
    pub fn downlink(&self) -> MutexGuard<'_, Downlink> {
        lock(&self.downlink)
    }

    /// Returns when the pacer left something for the driver: echoes, the end of
    /// what it waits for, or a failure.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The call is over: no packet leaves any more.
    pub fn finish(&self) {
        self.over.store(true, Ordering::Release);
        *lock(&self.sink) = None;
    }

    /// Whether it sends no more because of a fault of ours: its call must end.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Packets that the media transport refused.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }
}

impl Paced for OutboundAudio {
    fn tick(&self, skipped: u32) {
        let Some(sink) = lock(&self.sink).clone() else {
            return;
        };
        let mut packet = [0; MAX_PACKET_BYTES];
        let tick = {
            let mut downlink = self.downlink();
            if skipped > 0 {
                downlink.skip(skipped);
            }
            downlink.poll_tick(&mut packet)
        };
        if tick.packet_bytes > 0 && sink.send(&packet[..tick.packet_bytes]).is_err() {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
        if tick.wake_driver {
            self.wake.notify_one();
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
