//! Passwords stay at home: whoever else asks for a digest gets none, and the
//! line's own server still does.

use std::net::Ipv4Addr;
use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::core::private::{Private, Secret};
use sipbridge::sip::engine::{Command, IncomingCall, LegEvent, SipEngine};

use crate::outgoing::{self, placed, reply, trunk};
use crate::peer::{Dialog, Message, Peer, answer, answer_with};
use crate::stage::{
    Stage, account, ended, established, line_token, media, next, registered_for, registration,
    stage,
};

/// Anybody but the carrier, on an address of his own.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Longer than pjsip takes to answer a challenge.
const NOTHING_MORE: Duration = Duration::from_millis(600);

const REALM: &str = "Carrier Realm";

fn challenge(header: &str, realm: &str) -> String {
    format!("{header}: Digest realm=\"{realm}\", nonce=\"n0nce\", algorithm=MD5, qop=\"auth\"\r\n")
}

fn digest(message: &Message) -> Option<&str> {
    message
        .header("authorization")
        .or_else(|| message.header("proxy-authorization"))
}

/// A line with a password, registered at `registrar`, which asked for a digest.
fn registered(stage: &mut Stage, registrar: &Peer, id: &str, user: &str) -> LineId {
    registered_with(
        stage,
        registrar,
        id,
        user,
        &challenge("WWW-Authenticate", REALM),
    )
}

fn registered_with(
    stage: &mut Stage,
    registrar: &Peer,
    id: &str,
    user: &str,
    challenges: &str,
) -> LineId {
    let line = LineId::new(id);
    let mut given = account(id, user, Some(registrar.address()));
    given.password = Some(Secret::new("hunter2".to_owned()));
    stage.add_line(given);
    stage.submit(Command::Register(line.clone()));
    let first = registrar.wait("REGISTER", |message| message.method() == "REGISTER");
    assert_eq!(digest(&first), None, "nobody asked");
    answer(&registrar.sip, &first, 401, challenges);
    let second = registrar.wait("REGISTER with a digest", |message| {
        digest(message).is_some()
    });
    let contact = second.header("contact").expect("Contact").to_owned();
    answer(
        &registrar.sip,
        &second,
        200,
        &format!("Contact: {contact};expires=300\r\n"),
    );
    assert_eq!(registration(stage, &line), registered_for(300));
    line
}

fn remove(stage: &mut Stage, registrar: &Peer, line: LineId) {
    stage.submit(Command::RemoveLine(line));
    let last = |message: &Message| message.method() == "REGISTER";
    if let Some(request) = registrar.try_wait(Duration::from_secs(2), last) {
        answer(&registrar.sip, &request, 200, "");
    }
}

/// A call of `caller` to the user `user`, answered.
fn call<'a>(stage: &mut Stage, caller: &'a Peer, user: &str) -> (Dialog<'a>, IncomingCall) {
    let to = format!("<sip:{user}@example.test>");
    let mut dialog = caller.invite(&stage.uri(user), &to, &caller.usual_sdp(), "");
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    dialog.establish();
    media(&mut call);
    established(&mut call);
    (dialog, call)
}

/// Challenges the request and says with what digest it came again.
fn challenged(peer: &Peer, method: &str, status: u16, realm: &str) -> (Message, Option<Message>) {
    let is_it = |message: &Message| message.method() == method;
    let request = peer.wait(method, is_it);
    assert_eq!(digest(&request), None, "nobody asked: {request:?}");
    let header = match status {
        401 => "WWW-Authenticate",
        _ => "Proxy-Authenticate",
    };
    answer(&peer.sip, &request, status, &challenge(header, realm));
    let again = peer.try_wait(NOTHING_MORE, |message| digest(message).is_some());
    (request, again)
}

fn held(call: &mut IncomingCall) -> u16 {
    loop {
        match next(&mut call.events, "the end of a re-INVITE") {
            LegEvent::Held { status } => return status,
            LegEvent::Media(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn transferred(call: &mut IncomingCall) -> u16 {
    loop {
        match next(&mut call.events, "the end of a transfer") {
            LegEvent::Transfer { status, last: true } => return status,
            LegEvent::Transfer { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_caller_from_elsewhere_gets_no_digest_whatever_he_asks_for() {
    let mut stage = stage();
    let registrar = stage.peer();
    let line = registered(&mut stage, &registrar, "guarded", "guarded");
    let before = stage.engine.stats().challenges_refused;
    let mut asked = 0;
    for realm in [REALM, "example.test", "mallory"] {
        for status in [401, 407] {
            let stranger = Peer::on(STRANGER, registrar.engine);
            let (_dialog, mut leg) = call(&mut stage, &stranger, "guarded");
            stage.submit(Command::Hold {
                leg: leg.leg,
                on: true,
            });
            let (_, again) = challenged(&stranger, "INVITE", status, realm);
            assert!(again.is_none(), "{status} {realm}: {again:?}");
            assert_eq!(held(&mut leg), status);
            stage.submit(Command::Transfer {
                leg: leg.leg,
                destination: Private::new("+33800"),
            });
            let (_, again) = challenged(&stranger, "REFER", status, realm);
            assert!(again.is_none(), "{status} {realm}: {again:?}");
            assert_eq!(transferred(&mut leg), status);
            stage.submit(Command::Hangup {
                leg: leg.leg,
                status: 480,
            });
            let (_, again) = challenged(&stranger, "BYE", status, realm);
            assert!(again.is_none(), "{status} {realm}: {again:?}");
            ended(&mut leg);
            asked += 3;
        }
    }
    let refused = stage.engine.stats().challenges_refused - before;
    assert_eq!(refused, asked, "each is counted");
    remove(&mut stage, &registrar, line);
}

#[test]
fn the_server_gets_a_digest_in_its_own_call_for_its_own_realm() {
    let mut stage = stage();
    let registrar = stage.peer();
    let line = registered(&mut stage, &registrar, "trunked", "trunked");
    // The trunk calls from the registrar's address, from another port.
    let trunk = stage.peer();
    let (_dialog, mut leg) = call(&mut stage, &trunk, "trunked");
    stage.submit(Command::Hold {
        leg: leg.leg,
        on: true,
    });
    let (_, again) = challenged(&trunk, "INVITE", 401, REALM);
    let again = again.expect("a re-INVITE with a digest");
    assert!(digest(&again).is_some_and(|digest| digest.contains("username=\"trunked\"")));
    let sdp = trunk.usual_sdp().replace("a=sendrecv", "a=recvonly");
    answer_with(&trunk, &again, 200, &sdp);
    assert_eq!(held(&mut leg), 200);
    stage.submit(Command::Transfer {
        leg: leg.leg,
        destination: Private::new("+33800"),
    });
    let (_, again) = challenged(&trunk, "REFER", 407, REALM);
    answer(&trunk.sip, &again.expect("a REFER with a digest"), 603, "");
    assert_eq!(transferred(&mut leg), 603);
    // A realm that the registrar never used is a caller's behind the trunk.
    stage.submit(Command::Hangup {
        leg: leg.leg,
        status: 480,
    });
    let (_, again) = challenged(&trunk, "BYE", 401, "mallory");
    assert!(again.is_none(), "{again:?}");
    ended(&mut leg);
    remove(&mut stage, &registrar, line);
}

#[test]
fn a_call_of_ours_proves_itself_to_the_server_and_to_nobody_behind_it() {
    let mut stage = stage();
    let registrar = stage.peer();
    let line = registered(&mut stage, &registrar, "placing", "placing");
    let stranger = Peer::on(STRANGER, registrar.engine);
    for destination in [
        "+33800".to_owned(),
        format!("sip:mallory@{}", stranger.address()),
    ] {
        let mut placed =
            reply(outgoing::call(&stage, line.as_str(), &destination)).expect("placed");
        let (_, again) = challenged(&registrar, "INVITE", 407, REALM);
        let invite = again.expect("an INVITE with a digest");
        // The server leaves the rest to the callee, who is elsewhere.
        let extra = format!(
            "Contact: <sip:callee@{}>\r\nContent-Type: application/sdp\r\n",
            stranger.address()
        );
        crate::peer::respond(&registrar.sip, &invite, 200, &extra, &stranger.usual_sdp());
        let ack = stranger.wait("ACK", |message| message.method() == "ACK");
        assert_eq!(digest(&ack), None, "{ack:?}");
        stage.submit(Command::Hangup {
            leg: placed.leg,
            status: 480,
        });
        let (_, again) = challenged(&stranger, "BYE", 401, REALM);
        assert!(again.is_none(), "{again:?}");
        while !matches!(next(&mut placed.events, "end"), LegEvent::Ended(_)) {}
    }
    remove(&mut stage, &registrar, line);
}

/// Challenges of other schemes.
const OTHERS: [&str; 4] = [
    "Basic realm=\"x\"",
    "NTLM",
    "Bearer realm=\"x, Digest y\", scope=\"a b\"",
    "Negotiate YII==",
];

/// One header may hold several challenges (RFC 9110 section 11.6.1).
#[test]
#[cfg(pj_rx_filter)]
fn a_placed_call_finds_the_digest_among_others_in_one_header() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "joined");
    for (status, header) in [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")] {
        for other in OTHERS {
            for joined in [
                format!("{other}, Digest realm=\"trunk\", nonce=\"n\""),
                format!("Digest realm=\"trunk\", nonce=\"n\", {other}"),
            ] {
                let (mut leg, first) = placed(&stage, &peer, "joined");
                answer(
                    &peer.sip,
                    &first,
                    status,
                    &format!("{header}: {joined}\r\n"),
                );
                let second = peer.wait("an INVITE with a digest", |message| {
                    digest(message).is_some_and(|digest| digest.contains("realm=\"trunk\""))
                });
                assert_eq!(second.method(), "INVITE");
                answer(&peer.sip, &second, 486, "");
                assert_eq!(crate::outgoing::ended(&mut leg).status, 486, "{joined}");
            }
        }
    }
    remove(&mut stage, &peer, LineId::new("joined"));
}

#[test]
fn digest_is_found_in_all_its_forms() {
    let mut stage = stage();
    let md5 = challenge("WWW-Authenticate", REALM);
    let sha = md5.replace("algorithm=MD5", "algorithm=SHA-256");
    let mut forms = vec![
        ("two algorithms", format!("{sha}{md5}")),
        ("no qop", md5.replace(", qop=\"auth\"", "")),
        ("two qops", md5.replace("\"auth\"", "\"auth-int,auth\"")),
        ("a bare qop", md5.replace("\"auth\"", "auth")),
        ("stale at first", md5.replace("qop", "stale=true, qop")),
    ];
    if cfg!(pj_auth_any_scheme) {
        for other in OTHERS {
            forms.push(("before it", format!("WWW-Authenticate: {other}\r\n{md5}")));
            forms.push(("behind it", format!("{md5}WWW-Authenticate: {other}\r\n")));
        }
    }
    if cfg!(pj_rx_filter) {
        let bare = md5.trim_end().trim_start_matches("WWW-Authenticate: ");
        for other in OTHERS {
            for joined in [format!("{other}, {bare}"), format!("{bare} , {other}")] {
                forms.push((
                    "in one header",
                    format!("WWW-Authenticate: {joined},\r\n {other}\r\n"),
                ));
            }
        }
    }
    for (number, (what, challenges)) in forms.iter().enumerate() {
        println!("{what}: {challenges}");
        let registrar = stage.peer();
        let name = format!("form{number}");
        let line = registered_with(&mut stage, &registrar, &name, &name, challenges);
        remove(&mut stage, &registrar, line);
    }
}

/// pjsip looks at the first ten.
#[test]
fn our_expiry_is_ours_however_many_others_have_this_address() {
    let mut stage = stage();
    let registrar = stage.peer();
    let line = LineId::new("crowded");
    stage.add_line(account("crowded", "crowded", Some(registrar.address())));
    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", |message| message.method() == "REGISTER");
    let contact = request.header("contact").expect("Contact").to_owned();
    assert!(contact.contains(&line_token(&line)));
    let mut contacts = String::new();
    for other in 1..=30 {
        let uri = format!("sip:crowded@127.0.1.{other}:5060;line={other:016x}");
        contacts.push_str(&format!("Contact: <{uri}>;expires={}\r\n", 3_000 + other));
    }
    contacts.push_str(&format!("Contact: {contact};expires=77\r\n"));
    answer(&registrar.sip, &request, 200, &contacts);
    assert_eq!(registration(&mut stage, &line), registered_for(77));
    remove(&mut stage, &registrar, line);
}
