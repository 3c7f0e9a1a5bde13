//! Messages of a worker over its WebSocket, and HTTP requests to the API and
//! to the port where workers dial in.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use tokio_tungstenite::tungstenite::Message;

use crate::attack::{Driver, Target};
use crate::corpus::Input;
use crate::harness::peers::local;
use crate::mutate::{self, pick};
use crate::peer::{Dialog, Peer};
use crate::worker::Handle;
use crate::world::{Transport, Wish, World};

pub const WORKER: Target = Target {
    name: "worker",
    wish,
    driver: |_, seed| {
        Box::new(Worker {
            seed,
            calls: 0,
            call: None,
        })
    },
};
pub const HTTP: Target = Target {
    name: "http",
    wish,
    driver: |_, _| Box::new(Http),
};

fn wish() -> Wish {
    Wish {
        transport: Transport::Udp,
        args: Vec::new(),
        trunk: None,
    }
}

const SID: &str = "[stream_sid]";
const WORDS: [&str; 12] = [
    "{\"event\":\"media\",\"streamSid\":\"[stream_sid]\",\"media\":{\"payload\":\"//////////8=\"}}",
    "{\"event\":\"media\",\"streamSid\":\"[stream_sid]\",\"media\":{\"payload\":\"fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+\",\"chunk\":\"1\",\"timestamp\":\"5\",\"track\":\"outbound\"}}",
    "{\"event\":\"mark\",\"streamSid\":\"[stream_sid]\",\"mark\":{\"name\":\"a\"}}",
    "{\"event\":\"clear\",\"streamSid\":\"[stream_sid]\"}",
    "{\"event\":\"dtmf\",\"streamSid\":\"[stream_sid]\",\"dtmf\":{\"digits\":\"12#*ABCDw\"}}",
    "{\"event\":\"transfer\",\"streamSid\":\"[stream_sid]\",\"transfer\":{\"to\":\"+33612345678\"}}",
    "{\"event\":\"transfer\",\"streamSid\":\"[stream_sid]\",\"transfer\":{\"to\":\"sip:a%20b@[::1]:99999;x=\\u0000\"}}",
    "{\"event\":\"hold\",\"streamSid\":\"[stream_sid]\"}",
    "{\"event\":\"unhold\",\"streamSid\":\"[stream_sid]\"}",
    "{\"event\":\"connected\",\"protocol\":\"Call\",\"version\":\"1.0.0\"}",
    "{\"event\":\"start\",\"sequenceNumber\":\"1\",\"start\":{\"customParameters\":{}}}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[{\"\\ud800\":1e999}]]]]]",
];

/// A call whose worker says anything; it is made again when it is over.
struct Worker {
    seed: u64,
    calls: u64,
    call: Option<(Peer, Dialog, Handle)>,
}

impl Worker {
    fn renew(&mut self, world: &World) {
        self.calls += 1;
        let first = (self.seed % 1_000_000_000) << 32 | self.calls << 8;
        let mut peer = world.peer(Ipv4Addr::LOCALHOST, first);
        let before = world.workers.latest().map(|it| it.stream_sid);
        let Some(dialog) = peer.call() else { return };
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            match world.workers.latest() {
                Some(worker) if Some(&worker.stream_sid) != before.as_ref() => {
                    self.call = Some((peer, dialog, worker));
                    return;
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        peer.bye(dialog);
    }
}

impl Driver for Worker {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let mut text = pick(random, &WORDS).as_bytes().to_vec();
        for _ in 0..random.random_range(0..4) {
            text = mutate::bytes(random, &text);
        }
        let kind = *pick(
            random,
            &[
                "text", "text", "text", "text", "text", "text", "binary", "ping",
            ],
        );
        Input::new(kind, text)
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        if self
            .call
            .as_ref()
            .is_none_or(|(.., worker)| worker.outbox.is_closed())
        {
            if let Some((mut peer, dialog, _)) = self.call.take() {
                peer.bye(dialog);
            }
            self.renew(world);
        }
        let Some((peer, _, worker)) = &mut self.call else {
            return;
        };
        let text = String::from_utf8_lossy(&input.bytes).replace(SID, &worker.stream_sid);
        let _ = worker.outbox.send(match input.kind.as_str() {
            "binary" => Message::binary(input.bytes.clone()),
            "ping" => Message::Ping(input.bytes[..input.bytes.len().min(125)].to_vec().into()),
            _ => Message::text(text),
        });
        peer.settle(Duration::from_millis(1));
    }

    fn seeds(&self) -> Vec<Input> {
        WORDS
            .iter()
            .map(|text| Input::new("text", text.as_bytes().to_vec()))
            .collect()
    }

    fn leave(&mut self, _: &mut World) {
        if let Some((mut peer, dialog, _)) = self.call.take() {
            peer.bye(dialog);
        }
    }
}

const REQUESTS: [&str; 9] = [
    "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /api/calls?limit=10&status=active HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n",
    "POST /api/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"to\":\"+331\",\"phoneLineId\":\"x\"}",
    "PUT /api/lines/line-1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n",
    "DELETE /api/calls/CA0123456789abcdef0123456789abcdef HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "GET /media-stream/CA0123?token=abc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

struct Http;

impl Driver for Http {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let (seed, other) = (pick(random, &REQUESTS), pick(random, &REQUESTS));
        let bytes = mutate::sip(random, seed.as_bytes(), other.as_bytes());
        let kind = *pick(random, &["api", "stream"]);
        Input::new(kind, bytes)
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        let port = match input.kind.as_str() {
            "stream" => world.bridge.stream_port,
            _ => world.bridge.api_port,
        };
        let Ok(mut stream) = TcpStream::connect(local(port)) else {
            return;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
        let _ = stream.write_all(&input.bytes);
        let _ = stream.read(&mut [0; 4_096]);
    }

    fn seeds(&self) -> Vec<Input> {
        let all = ["api", "stream"].into_iter();
        all.flat_map(|kind| {
            REQUESTS
                .iter()
                .map(move |it| Input::new(kind, it.as_bytes().to_vec()))
        })
        .collect()
    }

    fn leave(&mut self, _: &mut World) {}
}
