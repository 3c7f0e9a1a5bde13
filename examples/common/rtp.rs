//! An RTP socket (RFC 3550) for tests and the example caller: sends frames on
//! absolute 20 ms deadlines, receives with sequence number, timestamp and time
//! of arrival, sends digits (RFC 4733). Leaves out RTCP, SRTP and jitter
//! buffering.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// Bytes and samples of one 20 ms frame of G.711.
pub const FRAME_BYTES: usize = 160;
/// Time of one frame.
pub const FRAME_TIME: Duration = Duration::from_millis(20);
const HEADER_BYTES: usize = 12;
const DATAGRAM_BYTES: usize = 2_048;

/// A received packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload_type: u8,
    pub marker: bool,
    pub payload: Vec<u8>,
    /// When it was read.
    pub arrived: Instant,
    /// Who sent it.
    pub from: SocketAddr,
}

/// A UDP socket for RTP. Clones share it.
#[derive(Clone)]
pub struct RtpSocket(Arc<UdpSocket>);

impl RtpSocket {
    /// Opens a socket on a free port.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(ip: IpAddr) -> io::Result<Self> {
        Ok(Self(Arc::new(UdpSocket::bind((ip, 0)).await?)))
    }

    /// The socket's address, for the SDP.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next RTP packet; passes over RTCP and anything unreadable.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn receive(&self) -> io::Result<Packet> {
        let mut datagram = [0; DATAGRAM_BYTES];
        loop {
            let (length, from) = match self.0.recv_from(&mut datagram).await {
                Ok(received) => received,
                // ICMP says that an earlier packet found nobody.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            if let Some(packet) = parse(&datagram[..length], from) {
                return Ok(packet);
            }
        }
    }

    /// Packets within that time, in order of arrival.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn receive_for(&self, time: Duration) -> io::Result<Vec<Packet>> {
        let end = Instant::now() + time;
        let mut packets = Vec::new();
        while let Ok(packet) = tokio::time::timeout_at(end, self.receive()).await {
            packets.push(packet?);
        }
        Ok(packets)
    }

    /// A stream from this socket.
    pub fn stream_to(&self, remote: SocketAddr, payload_type: u8) -> RtpStream {
        let mut random = rand::rng();
        RtpStream {
            socket: self.clone(),
            remote,
            payload_type,
            ssrc: random.random(),
            sequence: random.random(),
            timestamp: random.random(),
            marker: true,
            due: None,
        }
    }

    /// Sends any bytes to any address.
    ///
    /// # Errors
    /// When the socket refuses.
    pub async fn send_raw(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(bytes, to).await.map(|_| ())
    }
}

/// Reads one datagram; `None` for RTCP (RFC 5761) and what is no RTP.
fn parse(datagram: &[u8], from: SocketAddr) -> Option<Packet> {
    let (header, rest) = datagram.split_at_checked(HEADER_BYTES)?;
    if header[0] >> 6 != 2 || (192..=223).contains(&header[1]) {
        return None;
    }
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let mut payload = rest.get(usize::from(header[0] & 0x0F) * 4..)?;
    if header[0] & 0x10 != 0 {
        let words = u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]);
        payload = payload.get(4 + usize::from(words) * 4..)?;
    }
    if header[0] & 0x20 != 0 {
        let padding = usize::from(*payload.last()?);
        payload = &payload[..payload.len().checked_sub(padding)?];
    }
    Some(Packet {
        sequence: u16::from_be_bytes([header[2], header[3]]),
        timestamp: word(4),
        ssrc: word(8),
        payload_type: header[1] & 0x7F,
        marker: header[1] & 0x80 != 0,
        payload: payload.to_vec(),
        arrived: Instant::now(),
        from,
    })
}

/// An outgoing stream: one SSRC, rising sequence numbers and timestamps.
pub struct RtpStream {
    socket: RtpSocket,
    remote: SocketAddr,
    payload_type: u8,
    /// Its SSRC.
    pub ssrc: u32,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    due: Option<Instant>,
}

impl RtpStream {
    /// Waits for the next deadline, 20 ms after the last one whenever that was
    /// met, and sends one frame.
    ///
    /// # Errors
    /// When the socket refuses.
    pub async fn send_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        self.wait().await;
        self.send_now(payload).await
    }

    /// Sends many frames of 160 bytes, each on its deadline.
    ///
    /// # Errors
    /// When the socket refuses.
    pub async fn send_audio(&mut self, audio: &[u8]) -> io::Result<()> {
        for frame in audio.chunks(FRAME_BYTES) {
            self.send_frame(frame).await?;
        }
        Ok(())
    }

    /// Sends one frame at once.
    ///
    /// # Errors
    /// When the socket refuses.
    pub async fn send_now(&mut self, payload: &[u8]) -> io::Result<()> {
        let (payload_type, marker) = (self.payload_type, self.marker);
        self.marker = false;
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(payload.len() as u32);
        self.send(payload_type, marker, timestamp, payload).await
    }

    /// Lets a frame go missing: its number and its time pass.
    pub fn lose_frame(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(FRAME_BYTES as u32);
        self.due = self.due.map(|due| due + FRAME_TIME);
    }

    /// Sends one digit (0-9, *, #, A-D) of 100 ms as RFC 4733 events: every 20
    /// ms, the end three times.
    ///
    /// # Errors
    /// When the socket refuses, or `InvalidInput` for what is no digit.
    pub async fn send_digit(&mut self, event_type: u8, digit: char) -> io::Result<()> {
        let event = "0123456789*#ABCD".find(digit.to_ascii_uppercase());
        let event = event.ok_or(io::ErrorKind::InvalidInput)? as u8;
        let started = self.timestamp;
        for step in 1..=5_u16 {
            self.wait().await;
            let duration = (step * FRAME_BYTES as u16).to_be_bytes();
            let (end, copies) = if step == 5 { (0x80, 3) } else { (0, 1) };
            for _ in 0..copies {
                let payload = [event, end | 10, duration[0], duration[1]];
                self.send(event_type, step == 1, started, &payload).await?;
            }
            self.timestamp = self.timestamp.wrapping_add(FRAME_BYTES as u32);
        }
        Ok(())
    }

    async fn wait(&mut self) {
        let due = self.due.unwrap_or_else(Instant::now);
        sleep_until(due).await;
        self.due = Some(due + FRAME_TIME);
    }

    async fn send(
        &mut self,
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut packet = Vec::with_capacity(HEADER_BYTES + payload.len());
        packet.extend([0x80, payload_type | if marker { 0x80 } else { 0 }]);
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send_raw(&packet, self.remote).await
    }
}
