//! The worker's end of one call: reads Media Streams messages, echoes each
//! frame at once, and in some calls plays the `clear` test: five seconds of a
//! pattern in one burst, a second later `clear`, a second later echo again.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::clock::Clock;
use crate::leg::Leg;
use crate::stamp::{FRAME_BYTES, Found, Kind, Stamp};
use crate::ws::{self, CLOSE, PING, PONG, TEXT};

const SECOND_NS: u64 = 1_000_000_000;
/// Time from one burst to the next in a call with the `clear` test.
const ROUND_NS: u64 = 4 * SECOND_NS;
/// Pattern in one burst: messages of one second each.
const BURST_MESSAGES: usize = 5;
const FRAMES_PER_MESSAGE: usize = 50;
/// Status 1000 of a close frame.
const NORMAL_CLOSE: [u8; 2] = 1_000_u16.to_be_bytes();
/// A bridge that never reads must not fill the memory.
const OUT_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// One round of the `clear` test.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// When `clear` was handed to the kernel.
    pub cleared_ns: u64,
    /// When the mark behind the burst came back; 0 when it did not.
    pub mark_back_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Echo,
    Playing { clear_at_ns: u64 },
    Quiet { until_ns: u64 },
}

/// One worker connection.
pub struct Worker {
    pub stream: TcpStream,
    /// Whether we dialled, and so must mask.
    client: bool,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// The call, known from its first frame.
    pub call: Option<u16>,
    started_ns: u64,
    prefix: String,
    mode: Mode,
    next_burst_ns: u64,
    pub rounds: Vec<Round>,
    /// Frames that were no stamp of ours: fillers, altered audio.
    pub silence: u64,
    pub altered: u64,
    pub foreign: u64,
    /// Messages that could not be read or could not be sent.
    pub errors: u64,
    /// Steps in `sequenceNumber` or `chunk` that were not 1.
    pub numbering_faults: u64,
    last_sequence: Option<u64>,
    /// Whether our close frame is out.
    closing: bool,
    pub closed: bool,
}

impl Worker {
    /// A connection after its handshake, with what came behind that.
    pub fn new(stream: TcpStream, client: bool, rest: Vec<u8>) -> Self {
        Self {
            stream,
            client,
            inbox: rest,
            outbox: Vec::new(),
            call: None,
            started_ns: 0,
            prefix: String::new(),
            mode: Mode::Echo,
            next_burst_ns: u64::MAX,
            rounds: Vec::new(),
            silence: 0,
            altered: 0,
            foreign: 0,
            errors: 0,
            numbering_faults: 0,
            last_sequence: None,
            closing: false,
            closed: false,
        }
    }

    /// Whether something waits for room in the socket.
    pub fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Plans the first burst of the `clear` test.
    pub fn plan_bursts(&mut self, first_ns: u64) {
        self.next_burst_ns = first_ns;
    }

    /// Reads once and handles every whole message.
    pub fn handle_readable(&mut self, clock: Clock, buffer: &mut [u8], legs: &mut [Option<Leg>]) {
        match self.stream.read(buffer) {
            Ok(0) => self.closed = true,
            Ok(length) => self.inbox.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.closed = true,
        }
        self.handle_inbox(clock, legs);
    }

    /// Handles what is in the inbox; also right after the handshake.
    pub fn handle_inbox(&mut self, clock: Clock, legs: &mut [Option<Leg>]) {
        let at_ns = clock.now_ns();
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut done = 0;
        let mut echoed = Vec::new();
        while let Some(frame) = ws::read_frame(&mut inbox, done) {
            done = frame.payload.end;
            let payload = &inbox[frame.payload];
            match frame.opcode {
                TEXT => self.handle_text(payload, at_ns, legs, &mut echoed),
                PING => ws::write_frame(&mut self.outbox, PONG, self.client, payload),
                CLOSE => {
                    if !self.closing {
                        ws::write_frame(&mut self.outbox, CLOSE, self.client, payload);
                    }
                    self.closed = true;
                }
                PONG => {}
                _ => self.errors += 1,
            }
        }
        inbox.drain(..done);
        self.inbox = inbox;
        if let (false, Some(leg)) = (echoed.is_empty(), self.leg(legs)) {
            let out_ns = clock.now_ns();
            for counter in echoed {
                leg.note_worker_out(counter, out_ns);
            }
        }
        self.flush();
    }

    fn leg<'a>(&self, legs: &'a mut [Option<Leg>]) -> Option<&'a mut Leg> {
        legs.get_mut(usize::from(self.call?))?.as_mut()
    }

    fn handle_text(
        &mut self,
        message: &[u8],
        at_ns: u64,
        legs: &mut [Option<Leg>],
        echoed: &mut Vec<u32>,
    ) {
        let Ok(text) = std::str::from_utf8(message) else {
            self.errors += 1;
            return;
        };
        // Messages are compact on all bridges known; a slower parser reads the rest.
        match between(text, "\"payload\":\"") {
            Some(payload) => self.handle_media(text, payload, at_ns, legs, echoed),
            None => self.handle_other(text, at_ns),
        }
    }

    fn handle_media(
        &mut self,
        text: &str,
        payload: &str,
        at_ns: u64,
        legs: &mut [Option<Leg>],
        echoed: &mut Vec<u32>,
    ) {
        self.check_sequence(text);
        let mut audio = [0; 2_048];
        let Ok(length) = STANDARD.decode_slice(payload, &mut audio) else {
            self.errors += 1;
            return;
        };
        let whole = length == FRAME_BYTES;
        for frame in audio[..length].chunks(FRAME_BYTES) {
            match Stamp::read(frame) {
                Found::Intact(stamp) => {
                    self.call.get_or_insert(stamp.call);
                    let started_ns = self.started_ns;
                    let Some(leg) = self.leg(legs).filter(|leg| leg.index == stamp.call) else {
                        self.errors += 1;
                        continue;
                    };
                    leg.worker_started_ns = started_ns;
                    leg.note_worker_in(stamp.counter, at_ns);
                    if whole && self.mode == Mode::Echo {
                        echoed.push(stamp.counter);
                    }
                }
                Found::Foreign => self.foreign += 1,
                Found::Silence => self.silence += 1,
                Found::Altered => self.altered += 1,
            }
        }
        if whole && self.mode == Mode::Echo {
            self.write_media(payload);
        }
    }

    fn check_sequence(&mut self, text: &str) {
        let number = between(text, "\"sequenceNumber\":\"").and_then(|number| number.parse().ok());
        if let (Some(last), Some(number)) = (self.last_sequence, number) {
            self.numbering_faults += u64::from(number != last + 1);
        }
        self.last_sequence = number;
    }

    fn handle_other(&mut self, text: &str, at_ns: u64) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(text) else {
            self.errors += 1;
            return;
        };
        match message["event"].as_str() {
            Some("start") => {
                let sid = message["streamSid"].as_str();
                let sid = sid
                    .or(message["start"]["streamSid"].as_str())
                    .unwrap_or_default();
                self.prefix = format!("\"streamSid\":\"{sid}\"");
                self.started_ns = at_ns;
                self.last_sequence =
                    between(text, "\"sequenceNumber\":\"").and_then(|n| n.parse().ok());
            }
            Some("mark") => {
                self.check_sequence(text);
                if let Some(round) = self.rounds.last_mut() {
                    round.mark_back_ns = at_ns;
                }
            }
            // The bridge answers it, and that ends the connection.
            Some("stop") => {
                self.closing = true;
                ws::write_frame(&mut self.outbox, CLOSE, self.client, &NORMAL_CLOSE);
            }
            _ => {}
        }
    }

    fn write_media(&mut self, payload: &str) {
        let message = format!(
            "{{\"event\":\"media\",{},\"media\":{{\"payload\":\"{payload}\"}}}}",
            self.prefix
        );
        self.write_text(&message);
    }

    fn write_text(&mut self, message: &str) {
        if self.outbox.len() > OUT_LIMIT_BYTES {
            self.errors += 1;
            return;
        }
        ws::write_frame(&mut self.outbox, TEXT, self.client, message.as_bytes());
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        match self.stream.write(&self.outbox) {
            Ok(length) => {
                self.outbox.drain(..length);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.closed = true,
        }
    }

    /// Moves the `clear` test on; `last_ns` is when no new round may end.
    pub fn handle_tick(&mut self, clock: Clock, last_ns: u64) {
        let now_ns = clock.now_ns();
        match self.mode {
            Mode::Echo if now_ns >= self.next_burst_ns && now_ns + ROUND_NS <= last_ns => {
                self.next_burst_ns = now_ns + ROUND_NS;
                self.mode = Mode::Playing {
                    clear_at_ns: now_ns + SECOND_NS,
                };
                self.write_burst();
            }
            Mode::Playing { clear_at_ns } if now_ns >= clear_at_ns => {
                let until_ns = now_ns + SECOND_NS;
                self.mode = Mode::Quiet { until_ns };
                self.write_text(&format!("{{\"event\":\"clear\",{}}}", self.prefix));
                self.rounds.push(Round {
                    cleared_ns: clock.now_ns(),
                    mark_back_ns: 0,
                });
            }
            Mode::Quiet { until_ns } if now_ns >= until_ns => self.mode = Mode::Echo,
            _ => return,
        }
        self.flush();
    }

    fn write_burst(&mut self) {
        let round = self.rounds.len() as u32;
        let call = self.call.unwrap_or(u16::MAX);
        for message in 0..BURST_MESSAGES {
            let frames = (0..FRAMES_PER_MESSAGE).flat_map(|frame| {
                let counter = round << 16 | (message * FRAMES_PER_MESSAGE + frame) as u32;
                let kind = Kind::Pattern;
                Stamp {
                    kind,
                    call,
                    counter,
                }
                .write()
            });
            let audio: Vec<u8> = frames.collect();
            self.write_media(&STANDARD.encode(audio));
        }
        let mark = format!(
            "{{\"event\":\"mark\",{},\"mark\":{{\"name\":\"burst-{round}\"}}}}",
            self.prefix
        );
        self.write_text(&mark);
    }
}

/// The text between a key and the next quote.
fn between<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = &text[text.find(key)? + key.len()..];
    Some(&rest[..rest.find('"')?])
}
