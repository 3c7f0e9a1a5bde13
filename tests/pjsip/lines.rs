//! Lines: which one a call belongs to, admission, registration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::sip::engine::{
    Account, Command, EngineEvent, Refusal, Registration, SipEngine, Transport,
};

use crate::peer::{Message, Peer, answer};
use crate::stage::{
    Stage, account, bye, established, line_token, media, next, refuse_with, registered_for,
    registration, stage, up,
};

#[test]
fn an_unknown_line_is_404_and_counted() {
    let stage = stage();
    let peer = stage.peer();
    let before = stage.engine.stats().unknown_line;
    let mut dialog = peer.invite(
        &stage.uri("nobody"),
        "<sip:nobody@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let refusal = dialog.response(404);
    dialog.ack_refusal(&refusal);
    assert_eq!(stage.engine.stats().unknown_line, before + 1);
}

#[test]
fn the_line_parameter_of_the_request_uri_names_the_line() {
    let mut stage = stage();
    stage.add_line(account("twin", "alice", None));
    let peer = stage.peer();
    // Both lines have this user: only the parameter can tell.
    let ambiguous = peer
        .invite(
            &stage.uri("alice"),
            "<sip:alice@example.test>",
            &peer.usual_sdp(),
            "",
        )
        .response(404);
    assert_eq!(ambiguous.status(), 404);
    let uri = format!(
        "{};line={}",
        stage.uri("alice"),
        line_token(&LineId::new("twin"))
    );
    let mut dialog = peer.invite(&uri, "<sip:whatever@example.test>", &peer.usual_sdp(), "");
    let mut call = stage.incoming();
    assert_eq!(call.line, LineId::new("twin"));
    stage.submit(Command::RemoveLine(LineId::new("twin")));
    stage.answer(&call, 200);
    dialog.establish();
    media(&mut call);
    established(&mut call);
    // The removed line's call runs on, re-INVITE included.
    assert_eq!(dialog.ask("INVITE", &peer.usual_sdp(), "").status(), 200);
    dialog.ack();
    bye(&mut dialog, &mut call);
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    assert_eq!(call.line, LineId::new("main"));
    bye(&mut dialog, &mut call);
}

#[test]
fn admission_refuses_with_its_status_and_retry_after() {
    let stage = stage();
    let peer = stage.peer();
    for status in [486, 503] {
        let retry_after = Some(Duration::from_secs(7));
        refuse_with(Refusal {
            status,
            retry_after,
        });
        let before = stage.engine.stats().refused;
        let mut dialog = peer.invite(
            &stage.uri("alice"),
            "<sip:alice@example.test>",
            &peer.usual_sdp(),
            "",
        );
        let refusal = dialog.response(status);
        dialog.ack_refusal(&refusal);
        assert_eq!(refusal.header("retry-after"), Some("7"));
        assert_eq!(stage.engine.stats().refused, before + 1);
    }
}

#[test]
fn a_line_registers_is_refreshed_on_demand_and_unregisters() {
    let mut stage = stage();
    let registrar = Peer::new(SocketAddr::from(([127, 0, 0, 1], 9)));
    let line = LineId::new("registering");
    stage.add_line(account(
        "registering",
        "bob smith",
        Some(registrar.address()),
    ));
    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", |message| message.method() == "REGISTER");
    assert!(
        request.start.contains("sip:example.test"),
        "{}",
        request.start
    );
    assert!(
        request
            .header("to")
            .expect("To")
            .contains("sip:bob%20smith@example.test")
    );
    assert_eq!(
        request.header("route"),
        None,
        "the outbound server is no Route header"
    );
    let contact = request.header("contact").expect("Contact").to_owned();
    assert!(
        contact.contains(&format!(";line={}", line_token(&line))),
        "{contact}"
    );
    assert!(contact.contains("bob%20smith@"), "{contact}");
    let uri = contact.split(['<', '>']).nth(1).expect("a URI").to_owned();
    answer(
        &registrar.sip,
        &request,
        200,
        &format!("Contact: <{uri}>;expires=120\r\n"),
    );
    let registered = registered_for(120);
    assert_eq!(registration(&mut stage, &line), registered);

    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", |message| message.method() == "REGISTER");
    answer(&registrar.sip, &request, 403, "");
    assert!(matches!(
        registration(&mut stage, &line),
        Registration::Failed { status: 403, .. }
    ));

    stage.submit(Command::Unregister(line.clone()));
    if let Some(request) = registrar.try_wait(Duration::from_millis(500), |message| {
        message.method() == "REGISTER"
    }) {
        assert!(
            request.header("expires") == Some("0")
                || request
                    .header("contact")
                    .is_some_and(|c| c.contains("expires=0"))
        );
        answer(&registrar.sip, &request, 200, "");
    }
    assert_eq!(registration(&mut stage, &line), Registration::Unregistered);
    stage.submit(Command::RemoveLine(line));
}

/// Not even the address that the registrar saw replaces what was given.
#[test]
fn a_contact_that_is_given_is_announced_with_user_and_line() {
    let mut stage = stage();
    let registrar = Peer::new(SocketAddr::from(([127, 0, 0, 1], 9)));
    let line = LineId::new("announced");
    let mut given = account("announced", "dave x", Some(registrar.address()));
    given.contact = Some("bridge.example:5077;transport=tcp".into());
    stage.add_line(given);
    let is_register = |message: &Message| message.method() == "REGISTER";
    let expected = format!(
        "<sip:dave%20x@bridge.example:5077;transport=tcp;line={}>",
        line_token(&line)
    );
    for _ in 0..2 {
        stage.submit(Command::Register(line.clone()));
        let mut request = registrar.wait("REGISTER", is_register);
        let contact = request.header("contact").expect("Contact").to_owned();
        assert!(contact.starts_with(&expected), "{contact}");
        let via = request.header("via").expect("Via");
        let via = via.replace(";rport", ";received=198.51.100.7;rport=7777");
        let headers = request.headers.iter_mut();
        headers
            .filter(|(name, _)| name == "via")
            .for_each(|(_, value)| value.clone_from(&via));
        let contact = format!("Contact: {expected};expires=120\r\n");
        answer(&registrar.sip, &request, 200, &contact);
        let registered = registered_for(120);
        assert_eq!(registration(&mut stage, &line), registered);
    }
    stage.submit(Command::RemoveLine(line));
    let last = registrar.try_wait(Duration::from_secs(1), is_register);
    if let Some(request) = last {
        answer(&registrar.sip, &request, 200, "");
    }
}

#[test]
fn a_contact_rewritten_behind_nat_keeps_user_and_line() {
    let mut stage = stage();
    let registrar = Peer::new(SocketAddr::from(([127, 0, 0, 1], 9)));
    let line = LineId::new("natted");
    stage.add_line(account("natted", "carol", Some(registrar.address())));
    stage.submit(Command::Register(line.clone()));
    let is_register = |message: &Message| message.method() == "REGISTER";
    let mut request = registrar.wait("REGISTER", is_register);
    let via = request
        .header("via")
        .expect("Via")
        .replace(";rport", ";received=198.51.100.7;rport=7777");
    request
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "via")
        .for_each(|(_, value)| value.clone_from(&via));
    let contact = request.header("contact").expect("Contact").to_owned();
    answer(
        &registrar.sip,
        &request,
        200,
        &format!("Contact: {contact};expires=120\r\n"),
    );
    let again = registrar.wait("REGISTER with the new Contact", |message| {
        is_register(message)
            && message
                .header("contact")
                .is_some_and(|contact| contact.contains("198.51.100.7:7777"))
    });
    let contacts: Vec<&str> = again
        .headers
        .iter()
        .filter(|(name, _)| name == "contact")
        .map(|(_, value)| value.as_str())
        .collect();
    let token = format!(";line={}", line_token(&line));
    assert!(
        contacts
            .iter()
            .any(|contact| contact.contains("carol@198.51.100.7:7777") && contact.contains(&token)),
        "{contacts:?}"
    );
    answer(
        &registrar.sip,
        &again,
        200,
        "Contact: <sip:carol@198.51.100.7:7777>;expires=120\r\n",
    );
    stage.submit(Command::RemoveLine(line));
    if let Some(request) =
        registrar.try_wait(Duration::from_secs(1), |message| is_register(message))
    {
        answer(&registrar.sip, &request, 200, "");
    }
}

#[test]
fn a_line_that_makes_no_sense_is_refused() {
    let mut stage = stage();
    let mut bad = account("bad", "x", None);
    bad.domain = "not a host".into();
    stage.submit(Command::AddLine(Box::new(bad)));
    // A line of the scenario before may still be telling that it is unregistered.
    let reason = loop {
        match next(&mut stage.events, "refusal") {
            EngineEvent::LineRefused { line, reason, .. } if line.as_str() == "bad" => {
                break reason;
            }
            _ => {}
        }
    };
    assert_eq!(reason, "its domain is no host name");
    stage.submit(Command::RemoveLine(LineId::new("bad")));
}

fn secure(id: &str) -> Account {
    let mut line = account(id, "erin", None);
    line.transport = Transport::Tls;
    line
}

/// The refusals of a line and, at last, that it was added.
fn refusals_until_added(stage: &mut Stage, id: &str) -> u32 {
    let mut refusals = 0;
    loop {
        match next(&mut stage.events, "news of the line") {
            EngineEvent::LineRefused { line, .. } if line.as_str() == id => refusals += 1,
            EngineEvent::LineAdded { line } if line.as_str() == id => return refusals,
            EngineEvent::LineRefused { line, .. } | EngineEvent::LineAdded { line } => {
                panic!("{line}")
            }
            _ => {}
        }
    }
}

#[test]
fn a_refused_line_is_tried_again_until_it_can_be_added() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let roots = folder.path().join("roots.pem");
    let mut stage = stage();
    stage.engine.shutdown();
    let file = roots.display().to_string();
    *stage = Stage::start_with(Ipv4Addr::LOCALHOST.into(), None, None, Some(file));
    let before = stage.engine.stats().lines_refused;
    // Nothing is there yet to verify its server by.
    for id in ["removed", "kept"] {
        stage.submit(Command::AddLine(Box::new(secure(id))));
        match next(&mut stage.events, "refusal") {
            EngineEvent::LineRefused { line, retry_in, .. } => {
                assert_eq!((line.as_str(), retry_in.as_secs()), (id, 2));
            }
            other => panic!("{other:?}"),
        }
    }
    stage.submit(Command::RemoveLine(LineId::new("removed")));
    assert_eq!(stage.engine.stats().lines_refused, before + 2);
    assert_eq!(stage.engine.local_port(Transport::Tls), None);

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(&roots, made.cert.pem()).expect("written");
    assert_eq!(refusals_until_added(&mut stage, "kept"), 0);
    assert!(stage.engine.local_port(Transport::Tls).is_some());

    stage.engine.shutdown();
    *stage = Stage::start();
}
