//! The outgoing audio of one leg: written by its driver, or by the leg that it is
//! joined with, and sent by the pacer.
//!
//! The lock here is for normal threads alone. The pacer owns its half
//! ([`PacedAudio`]) and never takes the lock ([`crate::core::media_session`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::core::handover::{Change, Handover};
use crate::core::media_link::{MediaLink, RtpSink};
use crate::core::media_session::downlink::Downlink;
use crate::core::media_session::downlink_handle::DownlinkHandle;
use crate::core::media_session::playout::Pushed;
use crate::core::opus::OpusError;
use crate::media::pacer::Paced;

/// What is queued under one lock: some 10 us.
const SLICE_BYTES: usize = 65_536;

type Sink = Option<Arc<dyn RtpSink>>;

/// The half that normal threads hold: the driver, and the media thread of a leg
/// that this one is joined with.
pub struct OutboundAudio {
    handle: Mutex<DownlinkHandle>,
    shared: Arc<Shared>,
}

/// What both halves see.
#[derive(Default)]
struct Shared {
    sink: Handover<Change<Sink>>,
    wake: Arc<Notify>,
    over: AtomicBool,
    failed: AtomicBool,
    unsent: AtomicU64,
}

impl OutboundAudio {
    /// A stream that sends nothing before [`OutboundAudio::connect`], and the
    /// pacer's half of it.
    #[must_use]
    pub fn new(handle: DownlinkHandle, downlink: Downlink) -> (Self, PacedAudio) {
        let shared = Arc::new(Shared::default());
        let paced = PacedAudio {
            downlink,
            sink: None,
            shared: shared.clone(),
        };
        let handle = Mutex::new(handle);
        (Self { handle, shared }, paced)
    }

    /// Media is up, or has changed: send here from now on.
    ///
    /// # Errors
    /// When the codec cannot be used.
    pub fn connect(&self, link: &MediaLink) -> Result<(), OpusError> {
        self.downlink().set_format(&link.format)?;
        self.set_sink(Some(link.sink.clone()));
        Ok(())
    }

    /// The queue, for a moment.
    pub fn downlink(&self) -> MutexGuard<'_, DownlinkHandle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues audio; megabytes at once as well, without holding the lock for long.
    pub fn push(&self, audio: &[u8]) -> Pushed {
        let mut all = Pushed::default();
        for slice in audio.chunks(SLICE_BYTES) {
            let pushed = self.downlink().push(slice);
            all.dropped_bytes += pushed.dropped_bytes;
            all.first_drop |= pushed.first_drop;
        }
        all
    }

    /// Returns when the pacer left something for the driver: echoes, the end of
    /// what it waits for, or a failure.
    pub async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// The call is over: no packet leaves any more.
    pub fn finish(&self) {
        self.shared.over.store(true, Ordering::Release);
        self.set_sink(None);
    }

    /// Whether it sends no more because of a fault of ours: its call must end.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Packets that the media transport refused.
    pub fn unsent(&self) -> u64 {
        self.shared.unsent.load(Ordering::Relaxed)
    }

    fn set_sink(&self, sink: Sink) {
        // The one before is dropped after the lock is released.
        let old = self.shared.sink.change(|change| change.set(sink));
        drop(old);
    }
}

/// The half that the pacer owns.
pub struct PacedAudio {
    downlink: Downlink,
    sink: Sink,
    shared: Arc<Shared>,
}

impl Paced for PacedAudio {
    fn tick(&mut self, now: Instant, skipped: u32) -> bool {
        let sink = &mut self.sink;
        self.shared.sink.try_take(|change| {
            change.exchange(sink);
        });
        let Some(sink) = sink else { return false };
        if skipped > 0 {
            self.downlink.skip(skipped);
        }
        let wakes_driver = self.downlink.handle_tick(now);
        if let Some(packet) = self.downlink.poll_transmit()
            && sink.send(packet).is_err()
        {
            self.shared.unsent.fetch_add(1, Ordering::Relaxed);
        }
        wakes_driver
    }

    fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }

    fn fail(&mut self) {
        self.shared.failed.store(true, Ordering::Release);
    }

    fn driver(&self) -> &Arc<Notify> {
        &self.shared.wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::context::provisional_format;
    use crate::core::g711::Gain;
    use crate::core::media_link::SinkError;
    use crate::core::media_session::downlink::IdleAudio;
    use crate::core::media_session::{MediaSession, SessionConfig};
    use std::sync::mpsc;
    use std::time::Duration;

    /// Counts the packets, and keeps the first byte of the last one's payload.
    #[derive(Default)]
    struct Wire {
        packets: AtomicU64,
        code: AtomicU64,
    }

    impl RtpSink for Wire {
        fn send(&self, packet: &[u8]) -> Result<(), SinkError> {
            self.packets.fetch_add(1, Ordering::Relaxed);
            self.code.store(packet[12].into(), Ordering::Relaxed);
            Ok(())
        }
    }

    fn leg() -> (OutboundAudio, PacedAudio, Arc<Wire>) {
        let session = MediaSession::new(SessionConfig {
            format: provisional_format(),
            rx_gain: Gain::default(),
            tx_gain: Gain::default(),
            sequence: 0,
            timestamp: 0,
            now: Instant::now(),
        });
        let session = session.unwrap();
        let (stream, paced) = OutboundAudio::new(session.handle, session.downlink);
        let wire = Arc::new(Wire::default());
        let link = MediaLink {
            format: provisional_format(),
            sink: wire.clone(),
        };
        stream.connect(&link).unwrap();
        (stream, paced, wire)
    }

    /// A driver may be at megabytes of audio and thousands of marks, or be preempted
    /// there, with every lock held that it ever takes: the pacer's tick is not longer.
    #[test]
    fn the_pacer_ticks_on_while_the_driver_holds_its_lock() {
        let (stream, mut paced, wire) = leg();
        stream.push(&vec![0x11; 300 * 160]);
        paced.tick(Instant::now(), 0);
        let mut handle = stream.downlink();
        let (report, reported) = mpsc::channel();
        let pacer = std::thread::spawn(move || {
            for _ in 0..200 {
                paced.tick(Instant::now(), 0);
            }
            report.send(()).unwrap();
            paced
        });
        // It works on a backlog all the while, and gives the lock back to nobody.
        let mut rounds = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while reported.try_recv().is_err() {
            handle.push(&vec![0x11; 1_000_000]);
            for _ in 0..100 {
                let _ = handle.mark("mark".into());
            }
            handle.set_idle_audio(IdleAudio::Loop(vec![0x11; 160].into()));
            if rounds % 8 == 7 {
                drop(handle.clear());
                handle.drain_echoes(&mut Vec::new());
            }
            rounds += 1;
            assert!(Instant::now() < deadline, "the pacer waits for the driver");
        }
        drop(handle);
        drop(pacer.join().unwrap());
        assert_eq!(wire.packets.load(Ordering::Relaxed), 201);
        assert_eq!(wire.code.load(Ordering::Relaxed), 0x11);
    }

    #[test]
    fn a_stream_that_is_over_is_forgotten_with_its_sink() {
        let (stream, mut paced, wire) = leg();
        paced.tick(Instant::now(), 0);
        stream.finish();
        assert!(paced.is_over());
        drop(stream);
        drop(paced);
        assert_eq!(Arc::strong_count(&wire), 1);
    }
}
