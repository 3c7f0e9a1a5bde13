//! One REGISTER of a line at a time: what is wanted meanwhile waits for the
//! answer, and is told when it is done.

use std::time::Duration;

use sipbridge::sip::engine::{Command, Registration, SipEngine};

use crate::peer::{Message, answer};
use crate::stage::{Stage, accept, asked, is_quiet, is_register, registration, stage, take_log};

/// Longer than anything takes on loopback that is not waited for.
const QUIET: Duration = Duration::from_millis(400);

fn expires(request: &Message) -> Option<&str> {
    request.header("expires")
}

#[test]
fn an_unregister_waits_for_the_register_before_it_and_is_told_when_done() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "changing");
    stage.submit(Command::Unregister(line.clone()));
    let other = |message: &Message| is_register(message) && expires(message) == Some("0");
    assert!(registrar.try_wait(QUIET, other).is_none(), "one at a time");
    assert!(is_quiet(&mut stage, &line), "nothing is done yet");
    accept(&registrar, &first, 300);
    let last = registrar.wait("un-REGISTER", other);
    assert!(matches!(
        registration(&mut stage, &line),
        Registration::Registered { .. }
    ));
    answer(&registrar.sip, &last, 200, "");
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    stage.submit(Command::RemoveLine(line));
}

#[test]
fn register_now_while_one_is_out_is_no_failure_and_is_sent_next() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "hasty");
    for _ in 0..3 {
        stage.submit(Command::Register(line.clone()));
    }
    stage.flush();
    answer(&registrar.sip, &first, 500, "");
    let second = registrar.wait("the next REGISTER", |message| {
        is_register(message) && message.header("call-id").is_some() && {
            message.header("cseq") != first.header("cseq")
        }
    });
    accept(&registrar, &second, 300);
    assert!(
        matches!(
            registration(&mut stage, &line),
            Registration::Registered { .. }
        ),
        "the failure of the first says nothing"
    );
    assert!(registrar.try_wait(QUIET, is_register).is_none(), "one wish");
    stage.submit(Command::RemoveLine(line));
    let last = registrar.wait("un-REGISTER", is_register);
    answer(&registrar.sip, &last, 200, "");
}

/// The 200 comes after the shutdown has begun: the line is not left registered.
#[test]
fn a_register_under_way_at_the_shutdown_is_taken_back() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (_line, first) = asked(&mut stage, &registrar, "dying");
    take_log();
    // Nobody listens any more, as in the program.
    stage.events.close();
    let engine = stage.engine.clone();
    let down = std::thread::spawn(move || engine.shutdown());
    std::thread::sleep(QUIET);
    accept(&registrar, &first, 300);
    let last = registrar.wait("un-REGISTER", |message| {
        is_register(message) && expires(message) == Some("0")
    });
    answer(&registrar.sip, &last, 200, "");
    down.join().expect("it ends");
    let log = take_log();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(!log.contains("queue is full"), "{log}");
    *stage = Stage::start();
}

/// 2 s at 100 a second, whatever the number of lines; the rest is told.
#[test]
fn lines_left_at_the_shutdown_are_unregistered_in_turn() {
    let mut stage = stage();
    let registrar = stage.peer();
    for number in 0..20 {
        let (line, request) = asked(&mut stage, &registrar, &format!("many{number}"));
        accept(&registrar, &request, 300);
        registration(&mut stage, &line);
    }
    let engine = stage.engine.clone();
    let began = std::time::Instant::now();
    let down = std::thread::spawn(move || engine.shutdown());
    let mut arrived = Vec::new();
    while arrived.len() < 20 {
        let request = registrar.wait("un-REGISTER", is_register);
        assert_eq!(expires(&request), Some("0"));
        answer(&registrar.sip, &request, 200, "");
        let call = request.header("call-id").map(str::to_owned);
        if !arrived.contains(&call) {
            arrived.push(call);
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(190), "no burst");
    down.join().expect("it ends");
    *stage = Stage::start();
}
