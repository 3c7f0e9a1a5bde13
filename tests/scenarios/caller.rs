//! The caller of one scenario: speaks and hears RTP, bit for bit.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::sim::{LocalEnd, SimCall};
use sipbridge::core::rtp::{HEADER_BYTES, RtpHeader};
use tokio::task::JoinHandle;

use super::harness::{sound, until};

/// One caller. Derefs to the engine's side of the call.
pub struct Caller {
    call: SimCall,
    /// Packets said so far.
    said: AtomicU32,
    heard: Mutex<Vec<Vec<u8>>>,
}

impl std::ops::Deref for Caller {
    type Target = SimCall;

    fn deref(&self) -> &SimCall {
        &self.call
    }
}

impl Caller {
    pub fn new(call: SimCall) -> Self {
        Self {
            call,
            said: AtomicU32::new(0),
            heard: Mutex::default(),
        }
    }

    /// Says these frames at once, one packet each; a dropped one is a failure.
    pub fn say(&self, frames: &[Vec<u8>]) {
        for frame in frames {
            assert!(self.say_one(frame), "a packet of the caller was dropped");
        }
    }

    /// Says one frame; false when the engine dropped it.
    pub fn say_one(&self, frame: &[u8]) -> bool {
        let number = self.said.fetch_add(1, Ordering::Relaxed);
        let header = RtpHeader {
            payload_type: 0,
            sequence: number as u16,
            timestamp: number * 160,
            ssrc: 7,
            marker: number == 0,
        };
        let packet = [&header.to_bytes()[..], frame].concat();
        self.call.send_rtp(&packet, Instant::now())
    }

    /// Says frames as fast as it can until the leg is over; gives how many.
    pub fn flood(self) -> JoinHandle<(Self, u32)> {
        tokio::task::spawn_blocking(move || {
            let frame = sound::numbered_frame(1);
            while self.is_up() {
                self.say_one(&frame);
            }
            let said = self.said.load(Ordering::Relaxed);
            (self, said)
        })
    }

    /// Every RTP packet heard so far, whole.
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let mut heard = self.heard.lock().unwrap();
        heard.extend(self.call.take_sent());
        heard.clone()
    }

    /// All payloads heard so far, gaps or not.
    pub fn payloads(&self) -> Vec<u8> {
        let packets = self.packets();
        let payloads = packets.iter().map(|packet| &packet[HEADER_BYTES..]);
        payloads.flatten().copied().collect()
    }

    /// All audio heard so far, and the packets' sequence checked.
    pub fn audio(&self) -> Vec<u8> {
        let mut audio = Vec::new();
        let mut next = None;
        for packet in self.packets() {
            let (header, payload) = RtpHeader::parse(&packet).unwrap();
            assert!(
                next.is_none_or(|next| next == header.sequence),
                "every packet once and in order"
            );
            next = Some(header.sequence.wrapping_add(1));
            if header.payload_type == 0 {
                audio.extend_from_slice(payload);
            }
        }
        audio
    }

    /// Waits until this was heard without a break.
    pub async fn hears(&self, what: &str, part: &[u8]) {
        until(what, async || sound::contains(&self.audio(), part)).await;
    }

    /// Waits until the bridge answered with 200.
    pub async fn answered(&self) {
        until("200", async || self.statuses().contains(&200)).await;
    }

    /// Waits until the leg is over.
    pub async fn over(&self) {
        until("the end of the leg", async || !self.is_up()).await;
    }

    /// Waits until the bridge ends the leg; gives how.
    pub async fn ended_by_bridge(&self) -> LocalEnd {
        until("the bridge hangs up", async || self.local_end().is_some()).await;
        self.local_end().unwrap()
    }
}
