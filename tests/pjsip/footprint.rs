//! What idle lines and calls cost in memory, against the limits of the manual's chapter `numbers`.

use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::sip::engine::{Command, EngineEvent, Registration, SipEngine};

use crate::peer::{Peer, answer};
use crate::stage::{account, bye, next, registered_for, stage, up};

const LINES: usize = 500;
const LINE_MAX_KIB: usize = 50;
const CALLS: usize = 24;
const CALL_MAX_KIB: usize = 300;

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

#[test]
fn a_registered_line_and_a_call_cost_what_they_may() {
    let mut stage = stage();
    let registrar = Peer::new(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
    let before = resident_kib();
    std::thread::scope(|scope| {
        // Ends by itself when nothing comes, whatever becomes of the scenario.
        scope.spawn(|| {
            let is_register = |message: &crate::peer::Message| message.method() == "REGISTER";
            while let Some(request) = registrar.try_wait(Duration::from_secs(2), is_register) {
                let contact = request.header("contact").unwrap_or_default().to_owned();
                let extra = format!("Contact: {contact};expires=300\r\n");
                answer(&registrar.sip, &request, 200, &extra);
            }
        });
        for serial in 0..LINES {
            let id = format!("idle-{serial}");
            stage.submit(Command::AddLine(Box::new(account(
                &id,
                &id,
                Some(registrar.address()),
            ))));
            stage.submit(Command::Register(LineId::new(id)));
        }
        for _ in 0..LINES {
            let event = next(&mut stage.events, "registration");
            let registered = registered_for(300);
            assert!(
                matches!(&event, EngineEvent::Registration { state, .. } if *state == registered),
                "{event:?}"
            );
        }
        let per_line = resident_kib().saturating_sub(before) / LINES;
        println!("resident before {before} KiB, per registered line {per_line} KiB");
        assert!(
            per_line < LINE_MAX_KIB,
            "{per_line} KiB per registered line"
        );
        for serial in 0..LINES {
            stage.submit(Command::RemoveLine(LineId::new(format!("idle-{serial}"))));
        }
        for _ in 0..LINES {
            while !matches!(
                next(&mut stage.events, "unregistration"),
                EngineEvent::Registration {
                    state: Registration::Unregistered,
                    ..
                }
            ) {}
        }
    });

    let before = resident_kib();
    let peers: Vec<Peer> = (0..CALLS).map(|_| stage.peer()).collect();
    let mut calls: Vec<_> = peers
        .iter()
        .map(|peer| up(&mut stage, peer, &peer.usual_sdp()))
        .collect();
    let per_call = resident_kib().saturating_sub(before) / CALLS;
    println!("resident before {before} KiB, per call {per_call} KiB");
    assert!(per_call < CALL_MAX_KIB, "{per_call} KiB per call");
    for (dialog, call, ..) in &mut calls {
        bye(dialog, call);
    }
    assert_eq!(stage.engine.stats().legs, 0);
}
