//! The messages of RFC 4475, as they are, to the running program: each has the
//! answers that its section permits to a user agent that is no registrar and
//! does not know the user. After each OPTIONS is answered, at the end a call
//! works.
//!
//! Only where the answer goes is changed: the transport in Via, and ports other
//! than 5060, at which this side listens on an address of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::corpus;
use crate::world::{Transport, Wish, World};

/// How long an answer may take before it counts as silence.
const SILENCE: Duration = Duration::from_millis(700);

/// Understood, and then: nobody of that name here.
const UNKNOWN_USER: &[u16] = &[404];
/// Understood, and then: not what this program does.
const NO_SUCH_METHOD: &[u16] = &[405, 501];
/// An answer to nothing that was asked.
const NO_ANSWER: &[u16] = &[0];
/// What is no SIP message may be answered with 400 or be dropped.
const MALFORMED: &[u16] = &[0, 400];
/// The same, or it is understood all the same, and the user not known.
const MALFORMED_CALL: &[u16] = &[0, 400, 404];
/// The same for OPTIONS.
const MALFORMED_OPTIONS: &[u16] = &[0, 200, 400];

/// File, section, and answers that are right; 0 is silence.
const EXPECTED: &[(&str, &str, &[u16])] = &[
    // Its To has a tag, of a dialog that is not here (RFC 3261 12.2.2).
    ("wsinv", "3.1.1.1", &[481]),
    ("intmeth", "3.1.1.2", NO_SUCH_METHOD),
    ("esc01", "3.1.1.3", UNKNOWN_USER),
    ("escnull", "3.1.1.4", NO_SUCH_METHOD),
    ("esc02", "3.1.1.5", NO_SUCH_METHOD),
    ("lwsdisp", "3.1.1.6", &[200]),
    ("longreq", "3.1.1.7", UNKNOWN_USER),
    ("dblreq", "3.1.1.8", NO_SUCH_METHOD),
    ("semiuri", "3.1.1.9", &[200]),
    ("transports", "3.1.1.10", &[200]),
    ("mpart01", "3.1.1.11", &[405, 415]),
    ("unreason", "3.1.1.12", NO_ANSWER),
    ("noreason", "3.1.1.13", NO_ANSWER),
    ("badinv01", "3.1.2.1", MALFORMED),
    // Refused in either case: for its length, or for its user before that.
    ("clerr", "3.1.2.2", MALFORMED_CALL),
    ("ncl", "3.1.2.3", MALFORMED),
    ("scalar02", "3.1.2.4", MALFORMED),
    ("scalarlg", "3.1.2.5", NO_ANSWER),
    ("quotbal", "3.1.2.6", MALFORMED),
    ("ltgtruri", "3.1.2.7", MALFORMED),
    ("lwsruri", "3.1.2.8", MALFORMED_CALL),
    ("lwsstart", "3.1.2.9", MALFORMED_CALL),
    ("trws", "3.1.2.10", MALFORMED_OPTIONS),
    ("escruri", "3.1.2.11", MALFORMED_CALL),
    ("baddate", "3.1.2.12", MALFORMED_CALL),
    // A registrar would look at the Contact; the method is refused before.
    ("regbadct", "3.1.2.13", &[0, 400, 405]),
    ("badaspec", "3.1.2.14", MALFORMED_OPTIONS),
    ("baddn", "3.1.2.15", MALFORMED_OPTIONS),
    ("badvers", "3.1.2.16", &[0, 400, 505]),
    ("mismatch01", "3.1.2.17", MALFORMED),
    // The method is unknown, whichever of the two it is.
    ("mismatch02", "3.1.2.18", &[0, 400, 405, 501]),
    ("bigcode", "3.1.2.19", NO_ANSWER),
    ("badbranch", "3.2.1", MALFORMED_OPTIONS),
    ("insuf", "3.3.1", MALFORMED),
    ("unkscm", "3.3.2", &[0, 400, 416]),
    ("novelsc", "3.3.3", &[0, 400, 416]),
    ("unksm2", "3.3.4", NO_SUCH_METHOD),
    ("bext01", "3.3.5", &[420]),
    ("invut", "3.3.6", &[404, 415]),
    ("regaut01", "3.3.7", NO_SUCH_METHOD),
    ("multi01", "3.3.8", MALFORMED_CALL),
    ("mcl01", "3.3.9", MALFORMED),
    ("bcast", "3.3.10", NO_ANSWER),
    // Whoever is asked himself answers; only proxies must not pass it on.
    ("zeromf", "3.3.11", &[200, 483]),
    ("cparam01", "3.3.12", NO_SUCH_METHOD),
    ("cparam02", "3.3.13", NO_SUCH_METHOD),
    ("regescrt", "3.3.14", NO_SUCH_METHOD),
    ("sdp01", "3.3.15", &[404, 406]),
    ("inv2543", "3.4.1", UNKNOWN_USER),
    // No part of the RFC: cut off in its start line.
    ("test", "", MALFORMED),
];

/// Where pjsip answers otherwise, harmless here: it reads the last of several
/// Content-Length, does not compare the method in CSeq, and answers OPTIONS
/// without a look at Require. A line is taken off when that is mended.
const GAPS: &[(&str, u16)] = &[("mcl01", 200), ("mismatch01", 200), ("bext01", 200)];

/// Plays all; panics with every answer that is not right.
pub async fn run() {
    let wish = Wish {
        transport: Transport::Udp,
        args: Vec::new(),
        trunk: None,
    };
    let mut world = World::start(&wish).await;
    tokio::task::block_in_place(|| {
        let socket = well_known_port();
        let messages = corpus::files("torture");
        let mut wrong = Vec::new();
        for (name, bytes) in &messages {
            let name = name.trim_end_matches(".dat");
            let (_, section, wanted) = EXPECTED
                .iter()
                .find(|(file, ..)| *file == name)
                .unwrap_or_else(|| panic!("{name}: nothing is expected of it"));
            let status = answer(&socket, &world, &answerable(bytes, &socket));
            let gap = GAPS.iter().find(|(file, _)| *file == name);
            let right = match gap {
                Some((_, today)) => status == *today,
                None => wanted.contains(&status),
            };
            if !right {
                wrong.push(format!("{name} ({section}): {status}, not of {wanted:?}"));
            }
            if let Some(fault) = world.look() {
                panic!("{name}: {fault}");
            }
        }
        let gaps: Vec<&str> = GAPS.iter().map(|(name, _)| *name).collect();
        println!(
            "fuzz: torture: {} messages, otherwise than RFC 4475: {}",
            messages.len(),
            gaps.join(", ")
        );
        assert_eq!(messages.len(), EXPECTED.len(), "each message is played");
        assert!(wrong.is_empty(), "RFC 4475: {wrong:#?}");
        if let Some(fault) = world.look_closely() {
            panic!("after all messages: {fault}");
        }
    });
}

/// Port 5060, where answers go when Via names no port, on an address of the
/// loopback network that nobody else uses.
fn well_known_port() -> UdpSocket {
    let free =
        (1..250).find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 44, 75, last), 5060)).ok());
    let socket = free.expect("port 5060 on a loopback address");
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    socket
}

/// The message with a Via that leads to this socket.
fn answerable(message: &[u8], socket: &UdpSocket) -> Vec<u8> {
    let local = socket.local_addr().unwrap();
    let mut out = message.to_vec();
    for (from, to) in [
        ("SIP/2.0/TCP", "SIP/2.0/UDP".to_owned()),
        ("SIP/2.0/TLS", "SIP/2.0/UDP".to_owned()),
        ("192.0.2.59:5050", "192.0.2.59:5060".to_owned()),
        ("127.0.0.1:5070;branch", format!("{local};branch")),
    ] {
        while let Some(at) = out.windows(from.len()).position(|it| it == from.as_bytes()) {
            out.splice(at..at + from.len(), to.bytes());
        }
    }
    out
}

/// Status of the final response, or 0.
fn answer(socket: &UdpSocket, world: &World, message: &[u8]) -> u16 {
    let mut buffer = [0; 65_536];
    while socket.recv(&mut buffer).is_ok() {}
    socket.send_to(message, world.bridge.sip()).unwrap();
    let deadline = Instant::now() + SILENCE;
    while Instant::now() < deadline {
        let Ok(count) = socket.recv(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..count]);
        let status = text
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        if let Some(status @ 200..) = status {
            return status;
        }
    }
    0
}
