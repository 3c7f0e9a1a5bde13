//! The incoming audio of one call: shared by the engine's media thread, which
//! brings RTP, and the call's driver.
//!
//! While the worker's direct writer is open, a packet leaves as a message on the media
//! thread itself, with no thread switch. Otherwise messages wait here for the
//! driver, in order, and go through the worker's socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::outbound_audio::OutboundAudio;
use crate::core::g711::MULAW_SILENCE;
use crate::core::media_link::RtpTap;
use crate::core::media_session::playout::FRAME_BYTES;
use crate::core::media_session::uplink::Uplink;
use crate::media::pacer::FRAME;
use crate::worker::DirectWriter;

/// Messages that wait for the driver; more means that it is stuck, and the
/// newest are dropped. Holds the longest backlog that an attach can bring.
const WAITING_MAX: usize = 8_192;

/// Messages that are encoded or taken out under one lock: some 50 us.
const SLICE_MESSAGES: usize = 32;

/// Digits that went to the other leg, kept for the driver: so many that nobody presses more before it looks.
const RELAYED_DIGITS_MAX: usize = 16;

/// Put before the audio from one leg to another: its packets come when the
/// network wants, and the other leg's leave every 20 ms.
static JITTER_BUFFER: [u8; 3 * FRAME_BYTES] = [MULAW_SILENCE; 3 * FRAME_BYTES];

/// The incoming audio of one call, shared by the media thread and the driver.
pub(in crate::bridge) struct InboundAudio {
    state: Mutex<InboundState>,
    wake: Notify,
}

/// What the port's lock guards.
pub(in crate::bridge) struct InboundState {
    pub(in crate::bridge) uplink: Uplink,
    pub(in crate::bridge) writer: Option<DirectWriter>,
    /// The leg that this one is joined with: it gets the audio.
    pub(in crate::bridge) relay: Option<Arc<OutboundAudio>>,
    /// The driver waits for digits, and takes them itself: TwiML has the call, and no worker.
    pub(in crate::bridge) wakes_for_digits: bool,
    /// What of that has gone to the leg that this one is joined with.
    relayed_digits: VecDeque<char>,
    waiting: VecDeque<Vec<u8>>,
    /// The driver is passing on what was kept. Until it is done, what comes stays
    /// in the uplink, behind that.
    is_catching_up: bool,
    /// Message under construction.
    scratch: Vec<u8>,
    /// Messages dropped because too many waited.
    pub(in crate::bridge) dropped: u64,
}

impl InboundAudio {
    pub(in crate::bridge) fn new(uplink: Uplink) -> Arc<Self> {
        let state = InboundState {
            uplink,
            writer: None,
            relay: None,
            wakes_for_digits: false,
            relayed_digits: VecDeque::new(),
            waiting: VecDeque::new(),
            is_catching_up: false,
            scratch: Vec::new(),
            dropped: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            wake: Notify::new(),
        })
    }

    /// For a moment; never across an await.
    pub(in crate::bridge) fn lock(&self) -> MutexGuard<'_, InboundState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when messages wait for the driver, or held packets for a tick.
    pub(in crate::bridge) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl RtpTap for InboundAudio {
    fn handle_rtp(&self, arrived: Instant, packet: &[u8]) {
        let mut state = self.lock();
        state.uplink.handle_rtp(arrived, packet);
        let has_more = state.send();
        // Held packets need the driver's ticks, closer than while RTP flows.
        let has_digit = state.wakes_for_digits && state.has_digit();
        let needs_driver =
            has_more || has_digit || !state.waiting.is_empty() || state.uplink.is_holding();
        drop(state);
        if needs_driver {
            self.wake.notify_one();
        }
    }
}

impl InboundState {
    /// Sends what the uplink has ready: by the direct writer, or to the driver behind
    /// what waits for it already. More than a slice is left to the driver, which is
    /// to be woken then.
    pub(in crate::bridge) fn send(&mut self) -> bool {
        if self.relay.is_some() {
            self.relay_all();
            return false;
        }
        if self.is_catching_up {
            return false;
        }
        for _ in 0..SLICE_MESSAGES {
            if !self.uplink.poll_message(&mut self.scratch) {
                return false;
            }
            self.dispatch();
        }
        self.is_catching_up = true;
        true
    }

    /// Whether the driver must pass on what was kept before the stream can end.
    pub(in crate::bridge) fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }

    /// From now on this leg's audio and digits go to another leg, beginning
    /// with what comes now.
    pub(in crate::bridge) fn join(&mut self, other: &Arc<OutboundAudio>) {
        self.uplink.go_live();
        self.relayed_digits.clear();
        let _ = other.downlink().push(&JITTER_BUFFER);
        self.relay = Some(other.clone());
    }

    /// Another leg's pacer sends it; a leg that negotiated no digits gets none.
    fn relay_all(&mut self) {
        let Some(relay) = &self.relay else { return };
        while let Some(digit) = self.uplink.poll_digit() {
            let _ = relay.downlink().send_digits(digit.encode_utf8(&mut [0; 4]));
            if self.wakes_for_digits && self.relayed_digits.len() < RELAYED_DIGITS_MAX {
                self.relayed_digits.push_back(digit);
            }
        }
        while let Some(frame) = self.uplink.poll_frame() {
            let _ = relay.downlink().push(frame);
        }
    }

    fn has_digit(&self) -> bool {
        !self.relayed_digits.is_empty() || (self.relay.is_none() && self.uplink.has_digit())
    }

    /// The next digit for a driver that takes them itself: of a leg that is joined, one that the other leg has got too.
    pub(in crate::bridge) fn poll_digit(&mut self) -> Option<char> {
        match &self.relay {
            Some(_) => self.relayed_digits.pop_front(),
            None => self.uplink.poll_digit(),
        }
    }

    /// Sends or keeps a message that is not the uplink's own, in its turn.
    pub(in crate::bridge) fn post(&mut self, message: Vec<u8>) {
        self.send();
        self.scratch = message;
        self.dispatch();
    }

    /// A worker is attached, with what was kept for it: the driver passes that on.
    /// To be called before the port's lock is given back.
    pub(in crate::bridge) fn catch_up(&mut self) {
        self.is_catching_up = true;
    }

    /// Puts what waits for the driver next into the empty `slice`, in order. It
    /// must be in the socket before the next slice is asked for: only a slice that
    /// stays empty opens the direct writer again.
    pub(in crate::bridge) fn take_slice(&mut self, slice: &mut Vec<Vec<u8>>) {
        if self.relay.is_some() {
            self.send();
        }
        while slice.len() < SLICE_MESSAGES
            && let Some(message) = self.next_message()
        {
            slice.push(message);
        }
        self.is_catching_up = !slice.is_empty();
    }

    fn next_message(&mut self) -> Option<Vec<u8>> {
        if let Some(message) = self.waiting.pop_front() {
            return Some(message);
        }
        let polled = self.relay.is_none() && self.uplink.poll_message(&mut self.scratch);
        polled.then(|| std::mem::take(&mut self.scratch))
    }

    /// The worker is gone: gives what waits for it, to be dropped after the lock is
    /// released.
    #[must_use = "to be dropped after the lock is released"]
    pub(in crate::bridge) fn forget_waiting(&mut self) -> VecDeque<Vec<u8>> {
        self.is_catching_up = false;
        std::mem::take(&mut self.waiting)
    }

    /// How long audio has been waiting for its worker: in the socket, or here
    /// for the driver, where a message is a frame.
    pub(in crate::bridge) fn waits_for(&self) -> Duration {
        let here = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let in_socket = self
            .writer
            .as_ref()
            .map(DirectWriter::busy_for)
            .unwrap_or_default();
        in_socket.max(FRAME.saturating_mul(here))
    }

    fn dispatch(&mut self) {
        let writer = self.writer.as_ref().filter(|_| self.waiting.is_empty());
        if writer.is_some_and(|writer| writer.try_send(&self.scratch)) {
            self.scratch.clear();
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(std::mem::take(&mut self.scratch));
        } else {
            self.dropped += 1;
            self.scratch.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::context::provisional_format;
    use crate::core::g711::Gain;
    use crate::core::ids::{AccountSid, CallId, StreamId};
    use crate::core::media_session::clock::MediaClock;
    use crate::core::media_session::uplink::PreparedFormat;
    use crate::core::media_streams::MessageWriter;
    use crate::core::rtp::RtpHeader;
    use futures_util::FutureExt;

    #[test]
    fn a_held_packet_wakes_the_driver_whose_ticks_release_it() {
        let port = port();
        let woken_by = |sequence: u16| {
            port.handle_rtp(Instant::now(), &packet(sequence));
            port.woken().now_or_never().is_some()
        };
        assert!(!woken_by(1) && !woken_by(2), "no worker, nothing held");
        assert!(woken_by(4), "3 is missing");
        assert!(!woken_by(3), "all in order again");
    }

    fn port() -> Arc<InboundAudio> {
        let prepared = PreparedFormat::new(&provisional_format(), &Gain::from_factor(1.0));
        let clock = MediaClock::starting_at(Instant::now());
        InboundAudio::new(Uplink::new(prepared.unwrap(), clock))
    }

    fn packet(sequence: u16) -> Vec<u8> {
        let header = RtpHeader {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp: u32::from(sequence) * 160,
            ssrc: 7,
        };
        [&header.to_bytes()[..], &[0xff; 160]].concat()
    }

    fn writer() -> MessageWriter {
        let (stream, call) = (StreamId::random(), CallId::random());
        MessageWriter::new(&stream, &call, &AccountSid::of_node("test"))
    }

    /// The number of a message in its stream.
    fn number(message: &[u8]) -> u64 {
        let json: serde_json::Value = serde_json::from_slice(message).unwrap();
        json["sequenceNumber"].as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_kept_is_passed_on_in_slices_and_what_comes_meanwhile_follows() {
        const KEPT: u16 = 1_000;
        const LIVE: u16 = 500;
        let port = port();
        let mut arrived = Instant::now();
        for sequence in 0..KEPT {
            arrived += FRAME;
            port.handle_rtp(arrived, &packet(sequence));
        }
        {
            let mut state = port.lock();
            state.uplink.attach(writer());
            state.catch_up();
        }
        // The media thread goes on meanwhile.
        let feeding = port.clone();
        let media = std::thread::spawn(move || {
            for sequence in KEPT..KEPT + LIVE {
                arrived += FRAME;
                feeding.handle_rtp(arrived, &packet(sequence));
                std::thread::yield_now();
            }
        });
        let (mut numbers, mut slice) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        let all = usize::from(KEPT + LIVE);
        while numbers.len() < all {
            port.lock().take_slice(&mut slice);
            assert!(slice.len() <= SLICE_MESSAGES);
            numbers.extend(slice.drain(..).map(|message| number(&message)));
            assert!(Instant::now() < deadline, "{} came", numbers.len());
        }
        media.join().unwrap();
        let first = numbers[0];
        let wanted: Vec<u64> = (first..).take(all).collect();
        assert_eq!(numbers, wanted, "in order, without a gap");
        port.lock().take_slice(&mut slice);
        assert!(slice.is_empty());
    }

    #[test]
    fn what_a_long_gap_leaves_is_not_encoded_in_one_go_by_the_media_thread() {
        const LOST: u16 = 200;
        let port = port();
        port.lock().uplink.attach(writer());
        let start = Instant::now();
        port.handle_rtp(start, &packet(0));
        // The network is back after four seconds, and the gap is filled up to now.
        for sequence in LOST + 1..LOST + 5 {
            port.handle_rtp(start + FRAME * u32::from(LOST), &packet(sequence));
        }
        assert!(port.woken().now_or_never().is_some());
        assert!(port.lock().waiting.len() <= SLICE_MESSAGES + 1);
        let (mut numbers, mut slice) = (Vec::new(), Vec::new());
        while {
            port.lock().take_slice(&mut slice);
            !slice.is_empty()
        } {
            numbers.extend(slice.drain(..).map(|message| number(&message)));
        }
        let wanted: Vec<u64> = (numbers[0]..).take(usize::from(LOST) + 4).collect();
        assert_eq!(numbers, wanted, "in order, without a gap");
    }

    #[test]
    fn while_the_driver_catches_up_the_media_thread_encodes_nothing() {
        let port = port();
        port.lock().uplink.attach(writer());
        port.lock().catch_up();
        port.handle_rtp(Instant::now(), &packet(1));
        assert!(port.lock().waiting.is_empty());
        let mut slice = Vec::new();
        port.lock().take_slice(&mut slice);
        assert_eq!(slice.len(), 1);
        slice.clear();
        port.lock().take_slice(&mut slice);
        port.handle_rtp(Instant::now(), &packet(2));
        assert_eq!(port.lock().waiting.len(), 1, "the media thread again");
    }
}
