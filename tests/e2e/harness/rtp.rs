//! The caller's RTP: a socket, what was heard on it, and a paced player
//! (RFC 3550).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::peers::local;
use super::sound::FRAME;
use super::until;

/// A packet as it came in.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: Vec<u8>,
}

impl Heard {
    fn parse(at: Instant, bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..12)?;
        (header[0] >> 6 == 2).then(|| Self {
            at,
            payload_type: header[1] & 0x7f,
            sequence: u16::from_be_bytes([header[2], header[3]]),
            timestamp: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ssrc: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            payload: bytes[12..].to_vec(),
        })
    }
}

/// One end of an RTP stream.
pub struct Rtp {
    socket: Arc<UdpSocket>,
    heard: Arc<Mutex<Vec<Heard>>>,
    reader: JoinHandle<()>,
    pub local: SocketAddr,
}

impl Rtp {
    pub async fn open() -> Self {
        Self::on(UdpSocket::bind(local(0)).await.unwrap())
    }

    /// The same on a socket of its own.
    pub fn on(socket: UdpSocket) -> Self {
        let socket = Arc::new(socket);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(listen(socket.clone(), heard.clone()));
        Self {
            local: socket.local_addr().unwrap(),
            socket,
            heard,
            reader,
        }
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// All audio payload heard so far, in order of arrival.
    pub fn audio(&self) -> Vec<u8> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter(|packet| matches!(packet.payload_type, 0 | 8))
            .flat_map(|packet| packet.payload.iter().copied())
            .collect()
    }

    /// The numbered frames among what was heard, with the time of each.
    pub fn numbers(&self) -> Vec<(u32, Instant)> {
        let heard = self.heard.lock().unwrap();
        let numbered = heard.iter().filter_map(|packet| {
            super::sound::number_of(&packet.payload).map(|number| (number, packet.at))
        });
        numbered.collect()
    }

    /// Waits until the audio heard holds `part` without a break.
    pub async fn hears(&self, part: &[u8], limit: Duration) {
        until(limit, "the caller hears the expected audio", async || {
            super::sound::contains(&self.audio(), part)
        })
        .await;
    }

    /// A player towards `remote`.
    pub fn player(&self, remote: SocketAddr, payload_type: u8) -> Player {
        Player {
            socket: self.socket.clone(),
            remote,
            payload_type,
            sequence: 65_530,
            timestamp: u32::MAX - 1_000,
            ssrc: 0x0042_4242,
        }
    }
}

impl Drop for Rtp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn listen(socket: Arc<UdpSocket>, heard: Arc<Mutex<Vec<Heard>>>) {
    let mut buffer = [0; 2_048];
    while let Ok((count, _)) = socket.recv_from(&mut buffer).await {
        if let Some(packet) = Heard::parse(Instant::now(), &buffer[..count]) {
            heard.lock().unwrap().push(packet);
        }
    }
}

/// Sends RTP; sequence number and timestamp wrap early on purpose.
pub struct Player {
    socket: Arc<UdpSocket>,
    pub remote: SocketAddr,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
}

impl Player {
    /// Sends one packet now, and steps on by its audio.
    pub async fn send(&mut self, payload: &[u8]) {
        self.send_as(self.payload_type, false, self.timestamp, payload)
            .await;
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self
            .timestamp
            .wrapping_add(u32::try_from(payload.len()).unwrap());
    }

    /// Sends one packet with everything given; steps on nothing.
    pub async fn send_as(&self, payload_type: u8, marker: bool, timestamp: u32, payload: &[u8]) {
        let mut packet = vec![0x80, payload_type | u8::from(marker) << 7];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(payload);
        self.socket.send_to(&packet, self.remote).await.unwrap();
    }

    /// Plays frames, one every 20 ms; returns when each was sent.
    pub async fn play(&mut self, frames: &[Vec<u8>]) -> Vec<Instant> {
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        let mut sent = Vec::with_capacity(frames.len());
        for frame in frames {
            clock.tick().await;
            sent.push(Instant::now());
            self.send(frame).await;
        }
        sent
    }

    /// A DTMF digit by RFC 4733: marked start, updates, its end three times.
    /// `event` is 0 to 15.
    pub async fn press(&mut self, event: u8, event_type: u8) {
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        for step in 1..=8_u16 {
            clock.tick().await;
            let is_end = step > 5;
            let duration = 160 * step.min(5);
            let [high, low] = duration.to_be_bytes();
            let payload = [event, u8::from(is_end) << 7 | 10, high, low];
            self.send_as(event_type, step == 1, self.timestamp, &payload)
                .await;
            self.sequence = self.sequence.wrapping_add(1);
        }
        let frame = u32::try_from(FRAME).unwrap();
        self.timestamp = self.timestamp.wrapping_add(8 * frame);
    }
}
