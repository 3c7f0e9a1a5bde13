//! The caller's end of one call: RTP (RFC 3550) out with stamps, RTP in,
//! noted with its time of arrival. Only notes; `report` draws conclusions.

use std::net::{SocketAddr, UdpSocket};

use crate::clock::Clock;
use crate::stamp::{FRAME_BYTES, Found, Kind, Stamp};

const RTP_HEADER_BYTES: usize = 12;

/// The stations of one 20 ms frame, in ns of the run's clock; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// The caller handed it to the kernel.
    pub sent_ns: u64,
    /// The worker read it from its WebSocket.
    pub worker_in_ns: u64,
    /// The worker handed its echo to the kernel; 0 when it was not echoed.
    pub worker_out_ns: u64,
    /// The caller read the echo.
    pub back_ns: u64,
}

/// What was in an RTP packet to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An echo.
    Speech,
    /// The worker's pattern of that round.
    Pattern(u16),
    /// 160 equal bytes.
    Silence,
    /// Something else.
    Altered,
}

/// One RTP packet to the caller.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at_ns: u64,
    pub content: Content,
}

/// Things that should be 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Packets missing in the sequence numbers to the caller.
    pub sequence_gaps: u64,
    /// Packets to the caller with another SSRC or payload type, or no RTP.
    pub foreign_packets: u64,
    /// Timestamps that did not advance with the sequence number.
    pub timestamp_jumps: u64,
    /// Frames that reached the worker or the caller twice.
    pub duplicates: u64,
    /// Frames that overtook others.
    pub reordered: u64,
    /// Frames that were changed on the way.
    pub altered: u64,
    /// Frames of another call, or of another run on the same bridge.
    pub crossed: u64,
}

/// One call's RTP.
pub struct Leg {
    pub index: u16,
    pub socket: UdpSocket,
    pub frames: Vec<Frame>,
    pub arrivals: Vec<Arrival>,
    pub faults: Faults,
    /// The first packet to the caller that was none of ours, and when it came.
    pub first_altered: Option<(u64, Vec<u8>)>,
    /// When the INVITE went out and when it was answered.
    pub invited_ns: u64,
    pub answered_ns: u64,
    /// When the worker of this call got `start`; 0 when it never did.
    pub worker_started_ns: u64,
    /// Where RTP goes. Not connected: a peer on all interfaces may answer from
    /// another of its addresses.
    remote: SocketAddr,
    payload_type: u8,
    last_back: Option<u32>,
    last_in: Option<u32>,
    last_header: Option<(u32, u16, u32)>,
}

impl Leg {
    /// A leg that sends to the address of the bridge's answer.
    pub fn new(
        index: u16,
        socket: UdpSocket,
        remote: SocketAddr,
        payload_type: u8,
        frames_expected: usize,
    ) -> Self {
        Self {
            index,
            socket,
            frames: Vec::with_capacity(frames_expected),
            arrivals: Vec::with_capacity(frames_expected),
            faults: Faults::default(),
            first_altered: None,
            invited_ns: 0,
            answered_ns: 0,
            worker_started_ns: 0,
            remote,
            payload_type,
            last_back: None,
            last_in: None,
            last_header: None,
        }
    }

    /// Sends the next frame.
    pub fn send(&mut self, clock: Clock) {
        let counter = self.frames.len() as u32;
        let stamp = Stamp {
            kind: Kind::Speech,
            call: self.index,
            counter,
        };
        let mut packet = [0; RTP_HEADER_BYTES + FRAME_BYTES];
        packet[0] = 0x80;
        packet[1] = self.payload_type | if counter == 0 { 0x80 } else { 0 };
        packet[2..4].copy_from_slice(&(counter as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&counter.wrapping_mul(FRAME_BYTES as u32).to_be_bytes());
        packet[8..12].copy_from_slice(&(0x5B00_0000 | u32::from(self.index)).to_be_bytes());
        packet[RTP_HEADER_BYTES..].copy_from_slice(&stamp.write());
        let sent_ns = clock.now_ns();
        self.frames.push(Frame {
            sent_ns,
            ..Frame::default()
        });
        // A refused datagram is a lost frame and shows as one.
        let _ = self.socket.send_to(&packet, self.remote);
    }

    /// Reads one datagram.
    pub fn handle_readable(&mut self, clock: Clock, buffer: &mut [u8]) {
        let Ok(length) = self.socket.recv(buffer) else {
            return;
        };
        let at_ns = clock.now_ns();
        let Some(packet) = buffer.get(..length) else {
            return;
        };
        // RTCP that found this port because its own is odd (RFC 5761).
        if packet.len() >= 2 && (192..=223).contains(&packet[1]) {
            return;
        }
        if !self.check_header(packet) {
            self.faults.foreign_packets += 1;
            return;
        }
        let content = match Stamp::read(&packet[RTP_HEADER_BYTES..]) {
            Found::Intact(stamp) if stamp.call == self.index => self.note_back(stamp, at_ns),
            Found::Intact(_) | Found::Foreign => {
                self.faults.crossed += 1;
                return;
            }
            Found::Silence => Content::Silence,
            // Ringback, until the worker is there.
            Found::Altered if self.last_back.is_none() => Content::Altered,
            Found::Altered => {
                self.faults.altered += 1;
                let payload = &packet[RTP_HEADER_BYTES..];
                self.first_altered
                    .get_or_insert_with(|| (at_ns, payload.to_vec()));
                Content::Altered
            }
        };
        self.arrivals.push(Arrival { at_ns, content });
    }

    fn note_back(&mut self, stamp: Stamp, at_ns: u64) -> Content {
        if stamp.kind == Kind::Pattern {
            return Content::Pattern((stamp.counter >> 16) as u16);
        }
        let Some(frame) = self.frames.get_mut(stamp.counter as usize) else {
            self.faults.crossed += 1;
            return Content::Speech;
        };
        if frame.back_ns != 0 {
            self.faults.duplicates += 1;
            return Content::Speech;
        }
        frame.back_ns = at_ns;
        self.faults.reordered += u64::from(self.last_back > Some(stamp.counter));
        self.last_back = Some(stamp.counter);
        Content::Speech
    }

    /// The worker has read a frame of this call.
    pub fn note_worker_in(&mut self, counter: u32, at_ns: u64) {
        let Some(frame) = self.frames.get_mut(counter as usize) else {
            self.faults.crossed += 1;
            return;
        };
        if frame.worker_in_ns != 0 {
            self.faults.duplicates += 1;
            return;
        }
        frame.worker_in_ns = at_ns;
        self.faults.reordered += u64::from(self.last_in > Some(counter));
        self.last_in = Some(counter);
    }

    /// The worker is about to send the echo of a frame.
    pub fn note_worker_out(&mut self, counter: u32, at_ns: u64) {
        if let Some(frame) = self.frames.get_mut(counter as usize) {
            frame.worker_out_ns = at_ns;
        }
    }

    /// Checks one RTP header against the one before; false when the packet
    /// is none of this stream.
    fn check_header(&mut self, packet: &[u8]) -> bool {
        let Some((header, _)) = packet.split_at_checked(RTP_HEADER_BYTES) else {
            return false;
        };
        if header[0] != 0x80 || header[1] & 0x7F != self.payload_type {
            return false;
        }
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let (timestamp, ssrc) = (word(4), word(8));
        if let Some((known_ssrc, known_sequence, known_timestamp)) = self.last_header {
            if ssrc != known_ssrc {
                return false;
            }
            let steps = sequence.wrapping_sub(known_sequence);
            self.faults.sequence_gaps += u64::from(steps.wrapping_sub(1));
            let expected = known_timestamp.wrapping_add(u32::from(steps) * FRAME_BYTES as u32);
            self.faults.timestamp_jumps += u64::from(timestamp != expected);
        }
        self.last_header = Some((ssrc, sequence, timestamp));
        true
    }
}
