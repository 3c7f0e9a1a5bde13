//! SIP messages over UDP, TCP and TLS: outside of calls, and within one.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::attack::{Driver, Target};
use crate::corpus::{self, Input};
use crate::mutate::{self, pick};
use crate::peer::{Dialog, Peer};
use crate::wire::source;
use crate::world::{Transport, Wish, World};

/// A source is used for so many inputs.
const PER_SOURCE: u64 = 60;
/// A call is used for so many inputs.
const PER_CALL: u32 = 25;

pub const UDP: Target = target("udp", || wish(Transport::Udp));
pub const TCP: Target = target("tcp", || wish(Transport::Tcp));
pub const TLS: Target = target("tls", || wish(Transport::Tls));

const fn target(name: &'static str, wish: fn() -> Wish) -> Target {
    Target {
        name,
        wish,
        driver: |_, seed| Box::new(Messages::new(seed)),
    }
}

fn wish(transport: Transport) -> Wish {
    Wish {
        transport,
        args: Vec::new(),
        trunk: None,
    }
}

struct Messages {
    alone: Vec<Vec<u8>>,
    within: Vec<Vec<u8>>,
    peers: Peers,
    dialog: Option<Dialog>,
    dialog_age: u32,
}

impl Messages {
    fn new(seed: u64) -> Self {
        let (within, alone) = corpus::sip()
            .into_iter()
            .partition(|it| corpus::is_within_call(it));
        Self {
            alone,
            within,
            peers: Peers::new(seed),
            dialog: None,
            dialog_age: 0,
        }
    }

    fn play_within(&mut self, world: &World, bytes: &[u8]) {
        // The call stays with the peer that made it.
        let fresh = self.dialog.is_some() && self.dialog_age < PER_CALL;
        let peer = self.peers.take(world, !fresh);
        if !fresh {
            if let Some(old) = self.dialog.take() {
                peer.bye(old);
            }
            self.dialog = peer.call();
            self.dialog_age = 0;
        }
        self.dialog_age += 1;
        peer.send(bytes, self.dialog.as_mut());
    }
}

impl Driver for Messages {
    fn draw(&mut self, random: &mut StdRng) -> Input {
        let within = random.random_range(0..5) < 2;
        let (kind, from) = match within {
            true => ("within", &self.within),
            false => ("alone", &self.alone),
        };
        let (seed, other) = (pick(random, from), pick(random, &self.alone));
        Input::new(kind, mutate::sip(random, seed, other))
    }

    fn play(&mut self, world: &mut World, input: &Input) {
        match input.kind.as_str() {
            "within" => self.play_within(world, &input.bytes),
            _ => self
                .peers
                .take(world, self.dialog.is_none())
                .send(&input.bytes, None),
        }
        // Half of the streams go on after a fault, half are cut off in it.
        let peer = self.peers.take(world, false);
        if input.bytes.len() % 2 == 0 && self.dialog.is_none() {
            peer.wire.reconnect();
        }
        peer.settle(Duration::from_millis(1));
    }

    fn seeds(&self) -> Vec<Input> {
        let alone = self.alone.iter().map(|it| Input::new("alone", it.clone()));
        let within = self
            .within
            .iter()
            .map(|it| Input::new("within", it.clone()));
        alone.chain(within).collect()
    }

    fn leave(&mut self, world: &mut World) {
        let peer = self.peers.take(world, false);
        if let Some(dialog) = self.dialog.take() {
            peer.bye(dialog);
        }
        peer.settle(Duration::from_millis(500));
    }
}

/// Peers on changing addresses, one at a time.
pub struct Peers {
    current: Option<Peer>,
    seed: u64,
    used: u64,
}

impl Peers {
    pub fn new(seed: u64) -> Self {
        Self {
            current: None,
            seed,
            used: 0,
        }
    }

    /// The peer; now and then another, where that is allowed.
    pub fn take(&mut self, world: &World, may_change: bool) -> &mut Peer {
        self.used += 1;
        let number = self.used / PER_SOURCE;
        if self.current.is_none() || (may_change && self.used % PER_SOURCE == 0) {
            if let Some(mut old) = self.current.take() {
                old.settle(Duration::from_millis(20));
            }
            // Numbers of calls differ from run to run of the same process.
            let first = (self.seed % 1_000_000_000) << 32 | number << 16;
            self.current = Some(world.peer(source(self.seed + number), first));
        }
        self.current.as_mut().unwrap()
    }
}
