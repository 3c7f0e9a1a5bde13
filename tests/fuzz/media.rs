//! What comes to the media ports: RTP, RTCP and STUN, from the caller and from
//! strangers, plain and where the call was agreed with SRTP or ICE.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::attack::{Driver, Target};
use crate::corpus::Input;
use crate::harness::peers::{free_port, local};
use crate::mutate::{self, pick};
use crate::peer::{Dialog, OFFER, Peer};
use crate::wire::{media_socket, source};
use crate::world::{Transport, Wish, World};

pub const RTP: Target = Target {
    name: "rtp",
    wish: plain,
    driver: |_, seed| Box::new(Media::new(seed, "rtp", None)),
};
pub const RTCP: Target = Target {
    name: "rtcp",
    wish: plain,
    driver: |_, seed| Box::new(Media::new(seed, "rtcp", None)),
};
/// Its bridge asks our STUN server, which turns ICE on.
pub const STUN: Target = Target {
    name: "stun",
    wish: || {
        let server = local(free_port());
        Wish {
            args: ["--stun-server".to_owned(), server.to_string()].to_vec(),
            ..plain()
        }
    },
    driver: |wish, seed| {
        let server = wish.args[1].parse().expect("an address");
        Box::new(Media::new(seed, "stun", Some(server)))
    },
};

fn plain() -> Wish {
    Wish {
        transport: Transport::Udp,
        args: Vec::new(),
        trunk: None,
    }
}

/// A call takes so many inputs.
const PER_CALL: u32 = 300;

const SRTP: &str =
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n";
const ICE: &str = "a=ice-ufrag:fuzz\r\na=ice-pwd:fuzzfuzzfuzzfuzzfuzzfuzz\r\n\
    a=candidate:1 1 UDP 2130706431 [media_ip] [media_port] typ host\r\n";

struct Media {
    kind: &'static str,
    peer: Option<Peer>,
    stranger: UdpSocket,
    dialog: Option<Dialog>,
    age: u32,
    calls: u64,
    seed: u64,
    server: Option<UdpSocket>,
}

impl Media {
    fn new(seed: u64, kind: &'static str, server: Option<SocketAddr>) -> Self {
        Self {
            kind,
            peer: None,
            stranger: media_socket(source(seed + 77)),
            dialog: None,
            age: 0,
            calls: 0,
            seed,
            server: server.map(serve_stun),
        }
    }

    /// A call that stands: plain, with SRTP, or with ICE, in turn.
    fn renew(&mut self, world: &World) {
        if let (Some(peer), Some(old)) = (&mut self.peer, self.dialog.take()) {
            peer.bye(old);
        }
        self.calls += 1;
        self.age = 0;
        let first = (self.seed % 1_000_000_000) << 32 | self.calls << 8;
        let mut peer = world.peer(Ipv4Addr::LOCALHOST, first);
        let offer = match self.calls % 2 {
            0 if self.server.is_some() => OFFER.to_owned() + ICE,
            0 => OFFER.replace("RTP/AVP", "RTP/SAVP") + SRTP,
            _ => OFFER.to_owned(),
        };
        let (number, answer) = peer.invite_well(offer.as_bytes());
        self.dialog = answer.and_then(|answer| peer.established(number, &answer));
        self.peer = Some(peer);
    }
}

impl Driver for Media {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let bytes = match self.kind {
            "rtp" => rtp(random),
            "rtcp" => rtcp(random),
            _ => stun(random),
        };
        let bytes = match random.random_range(0..4) {
            0 => mutate::bytes(random, &bytes),
            _ => bytes,
        };
        let to = match (self.kind, random.random_range(0..8)) {
            ("rtp", 0) | ("rtcp", 1..) => "rtcp",
            ("stun", 0) => "sip",
            ("stun", 1) => "rtcp",
            ("stun", 2) => "answer",
            (_, 7) => "stranger",
            _ => "rtp",
        };
        Input::new(to, bytes)
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        if self.dialog.is_none() || self.age >= PER_CALL {
            self.renew(world);
        }
        self.age += 1;
        let Some(peer) = &mut self.peer else { return };
        let rtp = self.dialog.as_ref().and_then(|dialog| dialog.rtp);
        let Some(rtp) = rtp else { return };
        let rtcp = SocketAddr::new(rtp.ip(), rtp.port().wrapping_add(1));
        let _ = match input.kind.as_str() {
            "rtcp" => peer.media.send_to(&input.bytes, rtcp),
            "stranger" => self.stranger.send_to(&input.bytes, rtp),
            "sip" => self.stranger.send_to(&input.bytes, world.bridge.sip()),
            "answer" => match &self.server {
                Some(server) => server.send_to(&input.bytes, rtp),
                None => Ok(0),
            },
            _ => peer.media.send_to(&input.bytes, rtp),
        };
        if self.age % 10 == 0 {
            // A datagram that the kernel drops tests nothing.
            std::thread::sleep(Duration::from_millis(1));
            let mut buffer = [0; 2_048];
            while peer.media.recv_from(&mut buffer).is_ok() && buffer[0] != 0xff {
                buffer[0] = 0xff;
            }
            peer.settle(Duration::from_micros(200));
        }
    }

    fn seeds(&self) -> Vec<Input> {
        let empty: [&[u8]; 3] = [b"", b"\x80", &[0xff; 1_500]];
        empty
            .iter()
            .map(|bytes| Input::new("rtp", bytes.to_vec()))
            .collect()
    }

    fn leave(&mut self, _: &mut World) {
        if let (Some(peer), Some(dialog)) = (&mut self.peer, self.dialog.take()) {
            peer.bye(dialog);
        }
        self.peer = None;
    }
}

/// A packet with a header that is right in most places.
fn rtp(random: &mut StdRng) -> Vec<u8> {
    let first = *pick(
        random,
        &[
            0x80, 0x80, 0x80, 0x90, 0xa0, 0xb0, 0x8f, 0x81, 0xbf, 0x00, 0x40, 0xc0,
        ],
    );
    let kind = *pick(
        random,
        &[
            0, 0, 0, 8, 13, 96, 101, 101, 101, 72, 76, 127, 0x80, 0xe5, 0xff,
        ],
    );
    let mut packet = vec![first, kind];
    packet.extend(edge(random).to_be_bytes()[2..].iter());
    packet.extend(edge(random).to_be_bytes());
    packet.extend(pick(random, &[7_u32, 7, 7, 0, u32::MAX, 0x2112_a442]).to_be_bytes());
    for _ in 0..(first & 0x0f).min(random.random_range(0..=15)) {
        packet.extend(edge(random).to_be_bytes());
    }
    if first & 0x10 != 0 {
        packet.extend(
            pick(
                random,
                &[0xbede_0001_u32, 0xbede_ffff, 0x1000_0001, 0, u32::MAX],
            )
            .to_be_bytes(),
        );
        packet.extend(pick(random, &[0x10ff_0000_u32, 0xf0f0_f0f0, 0]).to_be_bytes());
    }
    let length = *pick(
        random,
        &[160, 160, 160, 0, 1, 4, 80, 159, 161, 320, 480, 1_400, 8_000],
    );
    if kind & 0x7f == 101 {
        packet.push(*pick(random, &[0, 5, 9, 10, 11, 15, 16, 255]));
        packet.push(*pick(random, &[0x0a, 0x8a, 0xca, 0xff]));
        packet.extend(edge(random).to_be_bytes()[2..].iter());
    } else {
        packet.extend((0..length).map(|_| random.random::<u8>()));
    }
    if first & 0x20 != 0 {
        packet.push(*pick(random, &[0, 1, 4, 200, 255]));
    }
    packet
}

/// One to some RTCP packets in a datagram.
fn rtcp(random: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.random_range(1..5) {
        let count = *pick(random, &[0_u8, 1, 1, 2, 15, 31]);
        let kind = *pick(
            random,
            &[200_u8, 201, 202, 203, 204, 205, 206, 207, 208, 192, 0, 255],
        );
        let words = random.random_range(0..12_u16) * 2;
        let told = match random.random_range(0..4) {
            0 => *pick(random, &[0, 1, words + 1, 0x7fff, u16::MAX]),
            _ => words + 1,
        };
        out.push(*pick(random, &[0x80_u8, 0x80, 0xa0, 0x40]) | count);
        out.push(kind);
        out.extend(told.to_be_bytes());
        out.extend(pick(random, &[7_u32, 0, u32::MAX]).to_be_bytes());
        for _ in 0..words {
            out.extend(match random.random_range(0..3) {
                0 => random.random::<u32>().to_be_bytes(),
                1 => edge(random).to_be_bytes(),
                // SDES items and BYE reasons: type, length, text.
                _ => [
                    *pick(random, &[1_u8, 8, 0]),
                    *pick(random, &[0_u8, 2, 255]),
                    b'a',
                    0,
                ],
            });
        }
    }
    out
}

/// A STUN message with attributes that are right in most places.
fn stun(random: &mut StdRng) -> Vec<u8> {
    let kind = *pick(
        random,
        &[
            0x0001_u16, 0x0101, 0x0111, 0x0011, 0x0003, 0x0103, 0x0016, 0x0017, 0x3fff,
        ],
    );
    let mut body = Vec::new();
    for _ in 0..random.random_range(0..10) {
        let attribute = *pick(
            random,
            &[
                0x0001_u16, 0x0006, 0x0008, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012, 0x0013, 0x0014,
                0x0015, 0x0016, 0x0019, 0x0020, 0x0022, 0x0024, 0x0025, 0x8022, 0x8023, 0x8028,
                0x8029, 0x802a, 0xffff,
            ],
        );
        let length = *pick(random, &[0_u16, 1, 4, 8, 8, 20, 20, 60, 400, 513, 764]);
        let told = match random.random_range(0..6) {
            0 => *pick(random, &[0, length + 1, length + 4, 0x7fff, u16::MAX]),
            _ => length,
        };
        body.extend(attribute.to_be_bytes());
        body.extend(told.to_be_bytes());
        let value: Vec<u8> = match random.random_range(0..3) {
            0 => b"fuzz:"
                .iter()
                .copied()
                .cycle()
                .take(length.into())
                .collect(),
            1 => [0_u8, 1, 0x21, 0x12]
                .iter()
                .copied()
                .cycle()
                .take(length.into())
                .collect(),
            _ => (0..length).map(|_| random.random()).collect(),
        };
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let told = match random.random_range(0..6) {
        0 => *pick(random, &[0, 4, u16::MAX, 3]),
        _ => u16::try_from(body.len()).unwrap(),
    };
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(told.to_be_bytes());
    out.extend(pick(random, &[0x2112_a442_u32, 0x2112_a442, 0x2112_a442, 0]).to_be_bytes());
    out.extend((0..12).map(|_| random.random::<u8>()));
    out.extend(body);
    out
}

fn edge(random: &mut StdRng) -> u32 {
    match random.random_range(0..3) {
        0 => random.random(),
        1 => random.random_range(0..1_000),
        _ => *pick(
            random,
            &[0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0xffff, 0x8000],
        ),
    }
}

/// A STUN server that tells everybody his own address (RFC 8489), on a thread
/// that ends with the program.
fn serve_stun(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    let answering = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        loop {
            let Ok((count, from)) = answering.recv_from(&mut buffer) else {
                continue;
            };
            let SocketAddr::V4(seen) = from else { continue };
            if count < 20 || buffer[..2] != [0, 1] {
                continue;
            }
            let mut out = vec![1, 1, 0, 12];
            out.extend(&buffer[4..20]);
            out.extend([0, 0x20, 0, 8, 0, 1]);
            out.extend((seen.port() ^ 0x2112).to_be_bytes());
            out.extend((u32::from(*seen.ip()) ^ 0x2112_a442).to_be_bytes());
            let _ = answering.send_to(&out, from);
        }
    });
    socket
}
