//! The 200 to a REGISTER lists what other bridges registered for the same line:
//! that is told, and nobody else's expiry is taken for ours.

use sipbridge::core::ids::LineId;
use sipbridge::sip::engine::{Command, Registration};

use crate::peer::{Peer, answer};
use crate::stage::{Stage, account, is_register, line_token, registered_for, registration, stage};

fn registered_beside_a_sibling(seconds: u64) -> Registration {
    let Registration::Registered { expires, .. } = registered_for(seconds) else {
        unreachable!()
    };
    Registration::Registered {
        expires,
        siblings_listed: true,
    }
}

/// A Contact header as a registrar lists it.
fn listed(uri: &str, expires: u32) -> String {
    format!("Contact: <{uri}>;expires={expires}\r\n")
}

/// Registers once; the registrar lists what `list` makes of our own URI.
fn register(
    stage: &mut Stage,
    registrar: &Peer,
    line: &LineId,
    list: impl FnOnce(&str) -> String,
) -> Registration {
    stage.submit(Command::Register(line.clone()));
    let request = registrar.wait("REGISTER", is_register);
    let contact = request.header("contact").expect("Contact");
    let own = contact.split(['<', '>']).nth(1).expect("a URI").to_owned();
    answer(&registrar.sip, &request, 200, &list(&own));
    registration(stage, line)
}

#[test]
fn another_bridges_contact_is_told_and_its_expiry_is_not_ours() {
    let mut stage = stage();
    let registrar = stage.peer();
    let line = LineId::new("shared");
    stage.add_line(account("shared", "shared", Some(registrar.address())));
    let token = line_token(&line);
    let stranger = "sip:shared@192.0.2.9:5060;line=0123";
    let sibling = format!("sip:shared@192.0.2.7:5060;line={token}");
    let mut check = |expected: Registration, list: &dyn Fn(&str) -> String| {
        assert_eq!(register(&mut stage, &registrar, &line, list), expected);
    };

    check(registered_for(120), &|own| {
        listed(stranger, 20) + &listed(own, 120)
    });
    check(registered_beside_a_sibling(120), &|own| {
        listed(&sibling, 20) + &listed(own, 120)
    });
    // The list may be long: pjsip keeps ten of it.
    check(registered_beside_a_sibling(120), &|own| {
        let strangers = (0..30).map(|_| listed(stranger, 20)).collect::<String>();
        strangers + &listed(own, 120) + &listed(&sibling, 200)
    });
    check(registered_for(120), &|own| listed(own, 120));
    check(registered_for(120), &|own| {
        listed(&sibling, 0) + &listed(own, 120)
    });

    // It writes ours anew, and the other one stands first.
    let rewritten = format!("sip:shared@203.0.113.5:1024;line={token}");
    check(registered_beside_a_sibling(130), &|_| {
        listed(&sibling, 20) + &listed(&rewritten, 130)
    });
    check(registered_for(140), &|_| listed(&rewritten, 140));

    stage.submit(Command::RemoveLine(line));
    let last = registrar.wait("un-REGISTER", is_register);
    answer(&registrar.sip, &last, 200, "");
}
