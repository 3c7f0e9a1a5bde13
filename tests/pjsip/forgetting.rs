//! A line that another bridge registers is forgotten without a word to the
//! registrar: no un-REGISTER, no refresh. It still takes calls, and may register
//! again.

use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::sip::engine::{Command, Registration};

use crate::peer::{Message, Peer, answer};
use crate::stage::{Stage, account, bye, established, media, registered_for, registration, stage};

/// pjsip refreshes a registration of 2 s after one.
const SHORT: u64 = 2;
/// By when a refresh would have come.
const REFRESHED_BY: Duration = Duration::from_millis(1_900);

fn is_register(message: &Message) -> bool {
    message.method() == "REGISTER"
}

fn accept(registrar: &Peer, request: &Message, expires: u64) {
    let contact = request.header("contact").expect("Contact");
    let contact = format!("Contact: {contact};expires={expires}\r\n");
    answer(&registrar.sip, request, 200, &contact);
}

/// A line whose REGISTER is on its way.
fn asked(stage: &mut Stage, registrar: &Peer, id: &str) -> (LineId, Message) {
    let line = LineId::new(id);
    stage.add_line(account(id, id, Some(registrar.address())));
    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", is_register);
    (line, request)
}

fn is_silent(registrar: &Peer) {
    let more = registrar.try_wait(REFRESHED_BY, is_register);
    assert!(more.is_none(), "{more:?}");
}

#[test]
fn a_forgotten_line_is_refreshed_no_more_takes_calls_and_may_register_again() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "given");
    accept(&registrar, &first, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    let refresh = registrar.wait("a refresh", is_register);
    accept(&registrar, &refresh, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));

    for _ in 0..2 {
        stage.submit(Command::Forget(line.clone()));
        assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    }
    is_silent(&registrar);

    let caller = stage.peer();
    let to = "<sip:given@example.test>";
    let mut dialog = caller.invite(&stage.uri("given"), to, &caller.usual_sdp(), "");
    let mut call = stage.incoming();
    assert_eq!(call.line, line);
    stage.answer(&call, 200);
    dialog.establish();
    media(&mut call);
    established(&mut call);
    bye(&mut dialog, &mut call);

    stage.submit(Command::Register(line.clone()));
    let again = registrar.wait("REGISTER", is_register);
    accept(&registrar, &again, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    let refresh = registrar.wait("a refresh", is_register);
    accept(&registrar, &refresh, 300);
    assert_eq!(registration(&mut stage, &line), registered_for(300));
    stage.submit(Command::Unregister(line.clone()));
    let last = registrar.wait("un-REGISTER", is_register);
    assert_eq!(last.header("expires"), Some("0"));
    answer(&registrar.sip, &last, 200, "");
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    stage.submit(Command::RemoveLine(line));
}

#[test]
fn a_register_under_way_is_waited_for_and_not_followed() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "leaving");
    stage.submit(Command::Forget(line.clone()));
    stage.flush();
    assert!(stage.events.try_recv().is_err(), "it is not over yet");
    accept(&registrar, &first, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    is_silent(&registrar);

    // One that fails was no registration.
    stage.submit(Command::Register(line.clone()));
    let second = registrar.wait("REGISTER", is_register);
    stage.submit(Command::Forget(line.clone()));
    stage.flush();
    answer(&registrar.sip, &second, 500, "");
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);

    // Nor is there anything to take back when the line goes.
    stage.submit(Command::RemoveLine(line));
    is_silent(&registrar);
}

#[test]
fn a_refresh_under_way_is_waited_for_too() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "refreshing");
    accept(&registrar, &first, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    let refresh = registrar.wait("a refresh", is_register);
    stage.submit(Command::Forget(line.clone()));
    stage.flush();
    assert!(stage.events.try_recv().is_err(), "it is not over yet");
    accept(&registrar, &refresh, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    is_silent(&registrar);
    stage.submit(Command::RemoveLine(line));
}

/// The last wish counts.
#[test]
fn a_line_that_is_given_back_while_a_register_is_under_way_stays_registered() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "returning");
    stage.submit(Command::Forget(line.clone()));
    stage.submit(Command::Register(line.clone()));
    stage.flush();
    accept(&registrar, &first, 300);
    assert_eq!(registration(&mut stage, &line), registered_for(300));
    let second = registrar.wait("REGISTER", is_register);
    accept(&registrar, &second, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));
    let refresh = registrar.wait("a refresh", is_register);
    accept(&registrar, &refresh, 300);
    assert_eq!(registration(&mut stage, &line), registered_for(300));
    stage.submit(Command::RemoveLine(line));
    let last = registrar.wait("un-REGISTER", is_register);
    answer(&registrar.sip, &last, 200, "");
}
