//! Lines for the room's own tests.

use std::sync::Arc;

use super::line::LineProfile;
use super::table::Fleet;
use crate::core::address::{HostPort, Transport};
use crate::core::ids::LineId;
use crate::core::private::{Private, Secret};
use crate::lines::ReadyLine;

/// A line with a password.
pub(super) fn ready(id: &str) -> ReadyLine {
    let username = Private::new("user");
    let domain = HostPort::parse("sip.example").expect("a host");
    ReadyLine {
        password: Some(Secret::new("pw".into())),
        ..ReadyLine::bare(LineId::new(id), &domain, Transport::Udp, username)
    }
}

/// A profile of that line.
pub(super) fn profile(ready: &ReadyLine) -> Arc<LineProfile> {
    Arc::new(LineProfile {
        phone_number: ready.line.phone_number.clone(),
        ..LineProfile::bare(ready.line.id.clone())
    })
}

/// Holds the line.
pub(super) fn hold(fleet: &mut Fleet, ready: ReadyLine) {
    let profile = profile(&ready);
    fleet.hold(ready, profile);
}
