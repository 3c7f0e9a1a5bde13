//! How RTP of one leg gets from the engine to the call's driver: through a
//! bounded queue at first, and straight into the driver's tap once it has one.
//! The tap spares a thread switch for every packet.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::mpsc;

use super::engine::RTP_QUEUE_PACKETS;
use crate::core::media_link::{RtpPacket, RtpTap};

type TapCell = Arc<OnceLock<Arc<dyn RtpTap>>>;

/// The engine's end.
#[derive(Clone)]
pub struct RtpSender {
    queue: mpsc::Sender<RtpPacket>,
    tap: TapCell,
}

/// The driver's end. Dropping it tells the engine that nobody listens.
pub struct RtpReceiver {
    queue: mpsc::Receiver<RtpPacket>,
    tap: TapCell,
}

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The driver does not keep up.
    #[error("the driver's queue is full")]
    Full,
    /// The driver is gone.
    #[error("the driver is gone")]
    Closed,
}

/// A channel for one leg.
#[must_use]
pub fn rtp_channel() -> (RtpSender, RtpReceiver) {
    let (sender, receiver) = mpsc::channel(RTP_QUEUE_PACKETS);
    let tap = TapCell::default();
    let sender = RtpSender {
        queue: sender,
        tap: tap.clone(),
    };
    (
        sender,
        RtpReceiver {
            queue: receiver,
            tap,
        },
    )
}

impl RtpSender {
    /// Delivers one packet. Hold no lock that the tap could want.
    ///
    /// # Errors
    /// When the driver's queue is full, or the driver is gone.
    pub fn deliver(&self, arrived: Instant, packet: &[u8]) -> Result<(), Undelivered> {
        if self.queue.is_closed() {
            return Err(Undelivered::Closed);
        }
        if let Some(tap) = self.tap.get() {
            tap.handle_rtp(arrived, packet);
            return Ok(());
        }
        let packet = RtpPacket {
            arrived,
            bytes: packet.into(),
        };
        self.queue.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Undelivered::Full,
            mpsc::error::TrySendError::Closed(_) => Undelivered::Closed,
        })
    }
}

impl RtpReceiver {
    /// From now on packets go into the tap, on the engine's thread. What is
    /// in the queue already stays there. Only the first call counts.
    pub fn tap(&self, tap: Arc<dyn RtpTap>) {
        let _ = self.tap.set(tap);
    }

    /// The next packet of the queue; `None` when the leg is over.
    pub async fn recv(&mut self) -> Option<RtpPacket> {
        self.queue.recv().await
    }

    /// The next packet of the queue, without waiting.
    ///
    /// # Errors
    /// When the queue is empty, or the leg is over.
    pub fn try_recv(&mut self) -> Result<RtpPacket, mpsc::error::TryRecvError> {
        self.queue.try_recv()
    }
}

impl std::fmt::Debug for RtpReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtpReceiver")
            .field("tapped", &self.tap.get().is_some())
            .finish()
    }
}
