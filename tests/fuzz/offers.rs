//! SDP that a caller sends: in the INVITE, in re-INVITE, UPDATE and PRACK of a call
//! that stands, and in the ACK that answers our own offer.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::attack::{Driver, Target};
use crate::corpus::{self, Input};
use crate::messages::Peers;
use crate::mutate::{self, pick};
use crate::peer::{Dialog, Peer};
use crate::world::{Transport, Wish, World};

pub const INVITE: Target = target("invite", |_, seed| Box::new(Offers::new(seed, "invite")));
pub const REINVITE: Target = target("reinvite", |_, seed| {
    Box::new(Offers::new(seed, "reinvite"))
});
pub const UPDATE: Target = target("update", |_, seed| Box::new(Offers::new(seed, "update")));
/// A call that stands has no response left to acknowledge: the body is read, and the
/// request refused.
pub const PRACK: Target = target("prack", |_, seed| Box::new(Offers::new(seed, "prack")));
pub const ACK: Target = target("ack", |_, seed| Box::new(Offers::new(seed, "ack")));

/// A call takes so many new offers.
const PER_CALL: u32 = 25;

const fn target(name: &'static str, driver: fn(&Wish, u64) -> Box<dyn Driver>) -> Target {
    Target {
        name,
        wish: || Wish {
            transport: Transport::Udp,
            args: Vec::new(),
            trunk: None,
        },
        driver,
    }
}

struct Offers {
    kind: &'static str,
    seeds: Vec<Vec<u8>>,
    peers: Peers,
    dialog: Option<Dialog>,
    dialog_age: u32,
}

impl Offers {
    fn new(seed: u64, kind: &'static str) -> Self {
        Self {
            kind,
            seeds: corpus::sdp(),
            peers: Peers::new(seed),
            dialog: None,
            dialog_age: 0,
        }
    }

    /// Offers within a call; one that is over is made anew.
    fn renegotiate(&mut self, world: &World, method: &str, body: &[u8]) {
        let worn = self.dialog_age >= PER_CALL;
        let peer = self.peers.take(world, self.dialog.is_none());
        if let Some(old) = self.dialog.take_if(|_| worn) {
            peer.bye(old);
        }
        if self.dialog.is_none() {
            self.dialog = peer.call();
            self.dialog_age = 0;
        }
        self.dialog_age += 1;
        let Some(dialog) = &mut self.dialog else {
            return;
        };
        // What was not understood had no answer: the call goes on.
        match peer.request(dialog, method, body) {
            Some(481) if method == "PRACK" => {}
            Some(408 | 481) => self.dialog = None,
            _ => {}
        }
    }
}

impl Driver for Offers {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let (seed, other) = (pick(random, &self.seeds), pick(random, &self.seeds));
        let body = mutate::sdp(random, seed, other);
        Input::new(self.kind, with_type(random, &body))
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        match input.kind.as_str() {
            "invite" => offer(self.peers.take(world, true), &input.bytes),
            "ack" => answer_in_ack(self.peers.take(world, true), &input.bytes),
            "prack" => self.renegotiate(world, "PRACK", &input.bytes),
            "reinvite" => self.renegotiate(world, "INVITE", &input.bytes),
            _ => self.renegotiate(world, "UPDATE", &input.bytes),
        }
    }

    fn seeds(&self) -> Vec<Input> {
        let seeds = self.seeds.iter();
        seeds
            .map(|body| Input::new(self.kind, typed("application/sdp", body)))
            .collect()
    }

    fn leave(&mut self, world: &mut World) {
        let peer = self.peers.take(world, false);
        if let Some(dialog) = self.dialog.take() {
            peer.bye(dialog);
        }
        peer.settle(Duration::from_millis(500));
    }
}

/// A call with that offer; what comes about is ended.
fn offer(peer: &mut Peer, body: &[u8]) {
    let (number, Some(answer)) = peer.invite(body) else {
        return;
    };
    if let Some(dialog) = peer.established(number, &answer) {
        peer.bye(dialog);
    }
}

/// A call without an offer, whose ACK holds that answer.
fn answer_in_ack(peer: &mut Peer, body: &[u8]) {
    let (number, Some(answer)) = peer.invite_well(b"\r\n") else {
        return;
    };
    let Some(dialog) = peer.dialog(number, &answer) else {
        return;
    };
    peer.acknowledge(&dialog, body);
    peer.settle(Duration::from_millis(3));
    peer.bye(dialog);
}

/// A body with a head: mostly SDP, now and then in parts or as something else.
pub fn with_type(random: &mut StdRng, body: &[u8]) -> Vec<u8> {
    match random.random_range(0..12) {
        0 => {
            let (head, body) = mutate::multipart(random, body, 0);
            [head, b"\r\n\r\n".to_vec(), body].concat()
        }
        1 => {
            let odd: [&str; 7] = [
                "APPLICATION/SDP",
                "application/sdp;charset=utf-16",
                "application/sdp ; a=\"b",
                "application/SDP;version=1",
                "text/plain",
                "application",
                "multipart/mixed",
            ];
            let kind = *pick(random, &odd);
            typed(kind, body)
        }
        _ => typed("application/sdp", body),
    }
}

pub fn typed(kind: &str, body: &[u8]) -> Vec<u8> {
    [format!("Content-Type: {kind}\r\n\r\n").as_bytes(), body].concat()
}
