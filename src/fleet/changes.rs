//! How a line that is wanted differs from the one that is held. Pure.
//!
//! Nobody touches a line that is as it was.

use crate::core::private::Secret;
use crate::lines::{PhoneLine, ReadyLine};

/// What has to be done so that the line that is held is the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineChange {
    /// It registers, for the first time or anew: it was not held, or where or as whom
    /// it registers is other than before.
    Register,
    /// Its calls are found by another number; it stays registered.
    Renumber,
    /// Its calls go by other values; SIP is not concerned.
    Adjust,
}

/// Compares a line that is wanted with the one that is held; `None` where nothing has to be
/// done. A line that is held with its password, and sealed now, stays as it is until its
/// new password is decrypted.
#[must_use]
pub fn change_of(held: Option<&ReadyLine>, wanted: &ReadyLine) -> Option<LineChange> {
    let Some(held) = held else {
        return Some(LineChange::Register);
    };
    if wanted.is_sealed && !held.is_sealed {
        None
    } else if !registers_alike(held, wanted) {
        Some(LineChange::Register)
    } else if held.line.phone_number != wanted.line.phone_number {
        Some(LineChange::Renumber)
    } else if !is_called_alike(&held.line, &wanted.line) {
        Some(LineChange::Adjust)
    } else {
        None
    }
}

/// Whether a REGISTER would be the same.
fn registers_alike(one: &ReadyLine, other: &ReadyLine) -> bool {
    fn password(line: &ReadyLine) -> Option<&str> {
        line.password.as_ref().map(Secret::expose)
    }
    let (a, b) = (&one.route, &other.route);
    (&a.domain, &a.server, a.transport) == (&b.domain, &b.server, b.transport)
        && (&a.username, &a.contact) == (&b.username, &b.contact)
        && (one.is_sealed, password(one)) == (other.is_sealed, password(other))
}

/// Whether calls would go by the same values.
fn is_called_alike(one: &PhoneLine, other: &PhoneLine) -> bool {
    one.restaurant_id == other.restaurant_id
        && one.max_concurrent_calls == other.max_concurrent_calls
        && one.greeting == other.greeting
        && one.announcement == other.announcement
        && one.fallback_number == other.fallback_number
        && one.custom_parameters == other.custom_parameters
        && one.way == other.way
        && one.sip_headers == other.sip_headers
        && one.friendly_name == other.friendly_name
        && one.status_callback == other.status_callback
}

#[cfg(test)]
mod tests {
    use super::LineChange::{Adjust, Register, Renumber};
    use super::*;
    use crate::core::address::Transport;
    use crate::core::outward::WrittenBy;
    use crate::core::private::Private;
    use crate::core::twiml::VoiceUrl;
    use crate::core::twiml::document::{HttpMethod, Webhook};
    use crate::core::voice::VoiceLine;
    use crate::fleet::test_lines::ready;
    use crate::lines::server::ContactOverride;
    use crate::lines::{LineWay, ServerRule};

    /// What becomes of line "a" after a change.
    fn after(change: impl FnOnce(&mut ReadyLine)) -> Option<LineChange> {
        let mut changed = ready("a");
        change(&mut changed);
        change_of(Some(&ready("a")), &changed)
    }

    #[test]
    fn each_field_touches_what_it_concerns_and_no_more() {
        assert_eq!(after(|_| ()), None);
        assert_eq!(after(|a| a.password = None), Some(Register));
        assert_eq!(
            after(|a| a.password = Some(Secret::new("other".into()))),
            Some(Register)
        );
        assert_eq!(
            after(|a| a.route.username = Private::new("x")),
            Some(Register)
        );
        assert_eq!(after(|a| a.route.domain = "x".into()), Some(Register));
        assert_eq!(after(|a| a.route.server = Some("x".into())), Some(Register));
        assert_eq!(
            after(|a| a.route.transport = Transport::Tcp),
            Some(Register)
        );
        let contact = ContactOverride {
            port: Some(5070),
            ..ContactOverride::default()
        };
        assert_eq!(after(|a| a.route.contact = contact), Some(Register));
        // The same server by another rule is the same server.
        assert_eq!(after(|a| a.route.rule = ServerRule::OwnDomain), None);
        assert_eq!(
            after(|a| a.line.phone_number = Some(Private::new("+331"))),
            Some(Renumber)
        );
        assert_eq!(
            after(|a| a.line.greeting = Some("x.wav".into())),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.announcement = Some("x".into())),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.restaurant_id = Some("7".into())),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.max_concurrent_calls = Some(2)),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.fallback_number = Some(Private::new("+331"))),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| drop(a.line.custom_parameters.insert("k".into(), "v".into()))),
            Some(Adjust)
        );
    }

    #[test]
    fn another_way_to_its_worker_leaves_the_line_registered() {
        let url = VoiceUrl::parse_http("http://bot/voice").expect("an address");
        let webhook = Webhook {
            url,
            method: HttpMethod::Post,
            written_by: WrittenBy::Operator,
        };
        let way = LineWay::Voice(VoiceLine {
            webhook: webhook.clone(),
            fallback: None,
        });
        assert_eq!(after(|a| a.line.way = Some(way)), Some(Adjust));
        assert_eq!(
            after(|a| drop(a.line.sip_headers.insert("a".into(), "X-A".into()))),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.friendly_name = Some("Desk".into())),
            Some(Adjust)
        );
        assert_eq!(
            after(|a| a.line.status_callback = Some(webhook)),
            Some(Adjust)
        );
    }

    fn sealed() -> ReadyLine {
        ReadyLine {
            password: None,
            is_sealed: true,
            ..ready("a")
        }
    }

    #[test]
    fn a_sealed_line_is_held_at_once_unless_it_is_held_with_its_old_password() {
        assert_eq!(change_of(None, &sealed()), Some(Register));
        assert_eq!(change_of(Some(&ready("a")), &sealed()), None);
        assert_eq!(change_of(Some(&sealed()), &sealed()), None);
        let mut moved = sealed();
        moved.route.domain = "other".into();
        assert_eq!(change_of(Some(&sealed()), &moved), Some(Register));
        // Its password is there, or it needs none.
        let without = ReadyLine {
            password: None,
            ..ready("a")
        };
        for opened in [ready("a"), without] {
            assert_eq!(change_of(Some(&sealed()), &opened), Some(Register));
        }
    }
}
