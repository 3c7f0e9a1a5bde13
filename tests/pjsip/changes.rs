//! Lines that are replaced and removed while they register and have calls, and
//! transports that are opened for the first line that needs them.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::core::private::Secret;
use sipbridge::sip::engine::{Account, Command, EngineEvent, IncomingCall, SipEngine, Transport};

use crate::peer::{Dialog, Message, Peer, answer, connection};
use crate::stage::{Stage, account, bye, established, media, packet, stage, up};

fn registrar() -> Peer {
    Peer::new(SocketAddr::from(([127, 0, 0, 1], 9)))
}

fn is_register(message: &Message) -> bool {
    message.method() == "REGISTER"
}

fn is_farewell(message: &Message) -> bool {
    is_register(message) && message.header("expires") == Some("0")
}

fn is_binding(message: &Message) -> bool {
    is_register(message) && !is_farewell(message)
}

fn accept(registrar: &Peer, request: &Message) {
    let contact = request.header("contact").expect("Contact");
    let headers = match is_farewell(request) {
        true => String::new(),
        false => format!("Contact: {contact};expires=120\r\n"),
    };
    answer(&registrar.sip, request, 200, &headers);
}

fn registers(stage: &Stage, registrar: &Peer, line: &str) {
    stage.submit(Command::Register(LineId::new(line)));
    let request = registrar.wait("REGISTER", is_binding);
    accept(registrar, &request);
}

fn hot(registrar: &Peer, password: &str) -> Account {
    Account {
        password: Some(Secret::new(password.to_owned())),
        ..account("hot", "hot", Some(registrar.address()))
    }
}

fn call<'a>(stage: &mut Stage, peer: &'a Peer) -> (Dialog<'a>, IncomingCall, SocketAddr) {
    let mut dialog = peer.invite(
        &stage.uri("hot"),
        "<sip:hot@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.establish();
    media(&mut call);
    established(&mut call);
    (dialog, call, ok.rtp_address().expect("audio"))
}

fn speaks(peer: &Peer, bridge: SocketAddr, call: &mut IncomingCall, sequence: u16) {
    let sent = Peer::rtp_packet(0, sequence, 7);
    peer.rtp.send_to(&sent, bridge).expect("sent");
    let heard = packet(call);
    assert_eq!(*heard.bytes, *sent);
}

#[test]
fn a_line_is_replaced_while_its_call_goes_on() {
    let mut stage = stage();
    let (first, second, peer) = (registrar(), registrar(), stage.peer());
    stage.add_line(hot(&first, "one"));
    registers(&stage, &first, "hot");
    let (mut dialog, mut leg, bridge) = call(&mut stage, &peer);
    speaks(&peer, bridge, &mut leg, 1);

    // Another password: not a word to the registrar before the next REGISTER.
    stage.add_line(hot(&first, "two"));
    let word = first.try_wait(Duration::from_millis(700), is_register);
    assert!(word.is_none(), "{word:?}");
    registers(&stage, &first, "hot");
    speaks(&peer, bridge, &mut leg, 2);

    // Another server: goodbye to the old one.
    stage.add_line(hot(&second, "two"));
    let farewell = first.wait("the farewell", is_farewell);
    accept(&first, &farewell);
    registers(&stage, &second, "hot");
    // It is the same Contact: where both lead to one registrar it may be gone.
    let again = second.wait("the same once more", is_binding);
    accept(&second, &again);
    speaks(&peer, bridge, &mut leg, 3);
    assert_eq!(dialog.ask("INVITE", &peer.usual_sdp(), "").status(), 200);
    dialog.ack();

    stage.submit(Command::RemoveLine(LineId::new("hot")));
    let farewell = second.wait("the farewell", is_farewell);
    accept(&second, &farewell);
    // Accounts that nobody needs are deleted by now; the call still has its own.
    std::thread::sleep(Duration::from_millis(1_200));
    speaks(&peer, bridge, &mut leg, 4);
    let uri = stage.uri("hot");
    let refused = peer
        .invite(&uri, "<sip:hot@example.test>", &peer.usual_sdp(), "")
        .response(404);
    assert_eq!(refused.status(), 404);
    bye(&mut dialog, &mut leg);
}

#[test]
fn a_line_that_gets_a_password_keeps_its_account() {
    let mut stage = stage();
    let registrar = registrar();
    let without_password = Account {
        password: None,
        ..hot(&registrar, "")
    };
    stage.add_line(without_password);
    registers(&stage, &registrar, "hot");
    let peer = stage.peer();
    let (mut dialog, mut leg, bridge) = call(&mut stage, &peer);
    stage.add_line(hot(&registrar, "secret"));
    stage.submit(Command::Register(LineId::new("hot")));
    // Another account would have to follow the farewell of this one.
    let request = registrar.wait("REGISTER", is_register);
    assert!(is_binding(&request));
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=MD5\r\n";
    answer(&registrar.sip, &request, 401, challenge);
    let request = registrar.wait("REGISTER with digest", is_register);
    assert!(is_binding(&request) && request.header("authorization").is_some());
    accept(&registrar, &request);
    speaks(&peer, bridge, &mut leg, 1);
    bye(&mut dialog, &mut leg);
    stage.submit(Command::RemoveLine(LineId::new("hot")));
    let farewell = registrar.wait("the farewell", is_farewell);
    accept(&registrar, &farewell);
}

#[test]
fn a_line_that_is_removed_while_it_registers_says_goodbye_afterwards() {
    let mut stage = stage();
    let registrar = registrar();
    stage.add_line(hot(&registrar, "one"));
    stage.submit(Command::Register(LineId::new("hot")));
    let request = registrar.wait("REGISTER", is_binding);
    stage.submit(Command::RemoveLine(LineId::new("hot")));
    // Longer than the engine takes to delete an account that nobody needs.
    std::thread::sleep(Duration::from_millis(1_300));
    accept(&registrar, &request);
    let farewell = registrar.wait("the farewell", is_farewell);
    accept(&registrar, &farewell);
}

#[test]
fn a_transport_is_opened_for_the_first_line_that_needs_it() {
    let mut stage = stage();
    assert_eq!(stage.engine.local_port(Transport::Tls), None);
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let mut line = account("secure", "erin", Some(address));
    line.transport = Transport::Tls;
    stage.add_line(line);
    assert!(stage.engine.local_port(Transport::Tls).is_some());
    stage.submit(Command::Register(LineId::new("secure")));
    let (mut connection, _) = connection(&server);
    let mut first = [0];
    connection.read_exact(&mut first).expect("a byte");
    assert_eq!(first, [0x16], "a TLS handshake");
    stage.submit(Command::RemoveLine(LineId::new("secure")));
}

#[test]
fn lines_that_a_dead_server_does_not_let_go_make_room_for_what_replaces_them() {
    const LINES: u32 = 2_700;
    let mut stage = stage();
    // It never answers: no farewell is over before SIP gives up.
    let dead = registrar();
    let id = |number: u32| LineId::new(format!("many-{number}"));
    let line = |number: u32, server: &Peer| {
        let user = format!("u{number}");
        account(id(number).as_str(), &user, Some(server.address()))
    };
    for number in 0..LINES {
        stage.submit(Command::AddLine(Box::new(line(number, &dead))));
        stage.submit(Command::Register(id(number)));
    }
    // The engine has places for 5,120 accounts.
    let alive = registrar();
    for number in 0..LINES {
        stage.submit(Command::AddLine(Box::new(line(number, &alive))));
    }
    // However long so many accounts take: on a busy machine that is many seconds.
    stage.flush();
    stage.add_line(account("last", "last", None));
    while let Ok(event) = stage.events.try_recv() {
        if let EngineEvent::LineRefused { line, reason, .. } = event {
            panic!("{line}: {reason}");
        }
    }
    for number in [0, LINES - 1] {
        stage.submit(Command::Register(id(number)));
        let request = alive.wait("REGISTER", is_binding);
        accept(&alive, &request);
    }
    for number in 0..LINES {
        stage.submit(Command::RemoveLine(id(number)));
    }
    stage.submit(Command::RemoveLine(LineId::new("last")));
    stage.flush();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
}
