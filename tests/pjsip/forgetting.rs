//! A line that another bridge registers is forgotten without a word to the
//! registrar: no un-REGISTER, no refresh. It still takes calls, and may register
//! again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sipbridge::core::ids::LineId;
use sipbridge::sip::engine::{Command, EngineEvent, Registration, Transport};
use tokio::sync::mpsc;

use crate::peer::{Message, Peer, answer, connection};
use crate::stage::{
    accept, account, asked, bye, established, eventually, is_quiet, is_register, media,
    registered_for, registration, stage,
};

/// pjsip refreshes a registration of 2 s after one.
const SHORT: u64 = 2;
/// By when a refresh would have come.
const REFRESHED_BY: Duration = Duration::from_millis(1_900);

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
    assert!(is_quiet(&mut stage, &line), "it is not over yet");
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
    assert!(is_quiet(&mut stage, &line), "it is not over yet");
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

/// A registrar at the other end of one connection.
struct Connected {
    stream: TcpStream,
    from: SocketAddr,
    read: Vec<u8>,
}

impl Connected {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, from) = connection(listener);
        let read = Vec::new();
        Self { stream, from, read }
    }

    /// Takes the next REGISTER, which has no body, and accepts it.
    fn accept_register(&mut self) {
        let end = loop {
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = end {
                break at + 4;
            }
            let mut piece = [0; 4_096];
            let length = self.stream.read(&mut piece).expect("a REGISTER");
            assert!(length > 0, "the engine closed its connection");
            self.read.extend_from_slice(&piece[..length]);
        };
        let bytes: Vec<u8> = self.read.drain(..end).collect();
        let request = Message::parse(&bytes, self.from).expect("a message");
        assert!(is_register(&request), "{request:?}");
        let copied = ["via", "from", "to", "call-id", "cseq", "contact"];
        let copied =
            copied.map(|name| format!("{name}: {}\r\n", request.header(name).expect(name)));
        let text = format!(
            "SIP/2.0 200 OK\r\n{}Expires: 300\r\nContent-Length: 0\r\n\r\n",
            copied.concat()
        );
        self.stream.write_all(text.as_bytes()).expect("it is open");
    }
}

/// It is registered over no connection any more.
#[test]
fn a_lost_connection_is_no_news_of_a_forgotten_line() {
    let mut stage = stage();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (kept, given) = (LineId::new("kept"), LineId::new("given-away"));
    let mut registrar = None;
    for line in [&kept, &given] {
        let mut added = account(line.as_str(), line.as_str(), Some(address));
        added.transport = Transport::Tcp;
        stage.add_line(added);
        stage.submit(Command::Register(line.clone()));
        let connected = registrar.get_or_insert_with(|| Connected::accept(&listener));
        connected.accept_register();
        assert_eq!(registration(&mut stage, line), registered_for(300));
    }
    stage.submit(Command::Forget(given.clone()));
    assert_eq!(registration(&mut stage, &given), Registration::Unregistered);
    drop((registrar, listener));
    let mut told = Vec::new();
    let mut listen = |events: &mut mpsc::Receiver<EngineEvent>| {
        while let Ok(event) = events.try_recv() {
            if let EngineEvent::Registration { line, state } = event {
                assert!(matches!(state, Registration::Failed { status: 503, .. }));
                told.push(line);
            }
        }
        !told.is_empty()
    };
    eventually("the loss is told", || listen(&mut stage.events));
    // All lines are told at once.
    std::thread::sleep(Duration::from_millis(100));
    listen(&mut stage.events);
    assert_eq!(told, std::slice::from_ref(&kept));
    for line in [kept, given] {
        stage.submit(Command::RemoveLine(line));
    }
}

/// A process that stood still wakes with its refreshes due: another bridge may have the line by then.
#[test]
fn nothing_registers_before_the_leases_were_looked_at_again() {
    let mut stage = stage();
    let registrar = stage.peer();
    let (line, first) = asked(&mut stage, &registrar, "frozen");
    accept(&registrar, &first, SHORT);
    assert_eq!(registration(&mut stage, &line), registered_for(SHORT));

    stage.register_gate.open_until(Instant::now());
    let held_back = registration(&mut stage, &line);
    stage.submit(Command::Register(line.clone()));
    let held_back_too = registration(&mut stage, &line);
    let sent = registrar.try_wait(Duration::ZERO, is_register);
    stage
        .register_gate
        .open_until(Instant::now() + Duration::from_secs(3_600));
    assert!(sent.is_none(), "{sent:?}");
    for state in [held_back, held_back_too] {
        // Tried again soon: it is not the registrar's refusal.
        assert!(
            matches!(state, Registration::Failed { status: 503, .. }),
            "{state:?}"
        );
    }

    stage.submit(Command::Register(line.clone()));
    let again = registrar.wait("REGISTER", is_register);
    accept(&registrar, &again, 300);
    // pjsip tells of a REGISTER that it could not send once or twice.
    let states = std::iter::repeat_with(|| registration(&mut stage, &line));
    let mut states = states.skip_while(|state| matches!(state, Registration::Failed { .. }));
    assert_eq!(states.next(), Some(registered_for(300)));
    drop(states);
    stage.submit(Command::RemoveLine(line));
    let last = registrar.wait("un-REGISTER", is_register);
    answer(&registrar.sip, &last, 200, "");
}
