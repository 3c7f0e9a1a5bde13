//! What is other than before, line by line. Pure.
//!
//! A line that is as it was is in none of the lists: nobody touches it.

use std::collections::{HashMap, HashSet};

use super::line::PhoneLine;
use super::load::ReadyLine;
use crate::core::ids::LineId;
use crate::core::private::Secret;

/// What has to be done so that the lines held are those there are now.
#[derive(Debug, Default)]
pub struct Changes {
    /// Lines that were not held, or that must register anew: where or as whom
    /// they register is other than before.
    pub register: Vec<ReadyLine>,
    /// Lines whose calls are found by another number; they stay registered.
    pub renumber: Vec<ReadyLine>,
    /// Lines whose calls go by other values; SIP is not concerned.
    pub adjust: Vec<ReadyLine>,
    /// Lines that are held no more.
    pub remove: Vec<LineId>,
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let changed = [&self.register, &self.renumber, &self.adjust];
        changed.iter().all(|lines| lines.is_empty()) && self.remove.is_empty()
    }
}

/// Compares what is held with what there is. A line that is held with its password, and
/// sealed now, stays as it is until its new password is decrypted.
#[must_use]
pub fn compare(held: &HashMap<LineId, ReadyLine>, now: Vec<ReadyLine>) -> Changes {
    let mut changes = Changes::default();
    let mut gone: HashSet<&LineId> = held.keys().collect();
    for line in now {
        gone.remove(&line.line.id);
        let before = held.get(&line.line.id);
        if line.is_sealed && before.is_some_and(|before| !before.is_sealed) {
            continue;
        }
        let kind = match before {
            None => &mut changes.register,
            Some(before) if !registers_alike(before, &line) => &mut changes.register,
            Some(before) if before.line.phone_number != line.line.phone_number => {
                &mut changes.renumber
            }
            Some(before) if !is_called_alike(&before.line, &line.line) => &mut changes.adjust,
            Some(_) => continue,
        };
        kind.push(line);
    }
    changes.remove = gone.into_iter().cloned().collect();
    changes.remove.sort_unstable();
    changes
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::address::{HostPort, Transport};
    use crate::core::private::Private;
    use crate::lines::server::ContactOverride;
    use crate::lines::{Route, ServerRule};
    use proptest::prelude::*;

    fn line(id: &str) -> ReadyLine {
        let username = Private::new("user");
        let domain = HostPort::parse("sip.example").expect("a host");
        ReadyLine {
            line: PhoneLine::bare(LineId::new(id), username.clone()),
            route: Route::to_domain(&domain, Transport::Udp, username),
            password: Some(Secret::new("pw".into())),
            is_sealed: false,
        }
    }

    fn held(lines: Vec<ReadyLine>) -> HashMap<LineId, ReadyLine> {
        let pair = |line: ReadyLine| (line.line.id.clone(), line);
        lines.into_iter().map(pair).collect()
    }

    /// What becomes of line "a" after a change, with "b" beside it unchanged.
    fn after(change: impl FnOnce(&mut ReadyLine)) -> &'static str {
        let mut changed = line("a");
        change(&mut changed);
        let before = held(vec![line("a"), line("b")]);
        let changes = compare(&before, vec![changed, line("b")]);
        assert!(changes.remove.is_empty());
        let lists = [
            ("register", &changes.register),
            ("renumber", &changes.renumber),
            ("adjust", &changes.adjust),
        ];
        let mut touched = lists.iter().filter(|(_, lines)| !lines.is_empty());
        let kind = touched.next().map_or("nothing", |(kind, lines)| {
            assert_eq!((lines.len(), lines[0].line.id.as_str()), (1, "a"));
            kind
        });
        assert!(touched.next().is_none());
        kind
    }

    #[test]
    fn each_field_touches_what_it_concerns_and_no_more() {
        assert_eq!(after(|_| ()), "nothing");
        assert_eq!(after(|a| a.password = None), "register");
        assert_eq!(
            after(|a| a.password = Some(Secret::new("other".into()))),
            "register"
        );
        assert_eq!(after(|a| a.route.username = Private::new("x")), "register");
        assert_eq!(after(|a| a.route.domain = "x".into()), "register");
        assert_eq!(after(|a| a.route.server = Some("x".into())), "register");
        assert_eq!(after(|a| a.route.transport = Transport::Tcp), "register");
        let contact = ContactOverride {
            port: Some(5070),
            ..ContactOverride::default()
        };
        assert_eq!(after(|a| a.route.contact = contact), "register");
        // The same server by another rule is the same server.
        assert_eq!(after(|a| a.route.rule = ServerRule::OwnDomain), "nothing");
        assert_eq!(
            after(|a| a.line.phone_number = Some(Private::new("+331"))),
            "renumber"
        );
        assert_eq!(after(|a| a.line.greeting = Some("x.wav".into())), "adjust");
        assert_eq!(after(|a| a.line.announcement = Some("x".into())), "adjust");
        assert_eq!(after(|a| a.line.restaurant_id = Some("7".into())), "adjust");
        assert_eq!(after(|a| a.line.max_concurrent_calls = Some(2)), "adjust");
        assert_eq!(
            after(|a| a.line.fallback_number = Some(Private::new("+331"))),
            "adjust"
        );
        assert_eq!(
            after(|a| drop(a.line.custom_parameters.insert("k".into(), "v".into()))),
            "adjust"
        );
    }

    fn sealed(id: &str) -> ReadyLine {
        ReadyLine {
            password: None,
            is_sealed: true,
            ..line(id)
        }
    }

    #[test]
    fn lines_come_and_go() {
        let before = held(["a", "b"].map(line).into());
        let changes = compare(&before, vec![line("b"), line("d")]);
        assert_eq!(changes.remove, [LineId::new("a")]);
        assert_eq!(changes.register.len(), 1);
        assert_eq!(changes.register[0].line.id, LineId::new("d"));
        assert!(!changes.is_empty());
        assert!(compare(&before, before.values().cloned().collect()).is_empty());
    }

    #[test]
    fn a_sealed_line_is_held_at_once_unless_it_is_held_with_its_old_password() {
        let before = held(vec![line("open"), sealed("sealed"), sealed("moved")]);
        let mut moved = sealed("moved");
        moved.route.domain = "other".into();
        let now = vec![sealed("open"), sealed("sealed"), moved, sealed("new")];
        let changes = compare(&before, now);
        let registering = changes.register.iter().map(|line| line.line.id.as_str());
        assert_eq!(registering.collect::<Vec<_>>(), ["moved", "new"]);
        assert!(changes.remove.is_empty() && changes.adjust.is_empty());
        // Its password is there, or it needs none.
        for opened in [
            line("sealed"),
            ReadyLine {
                password: None,
                ..line("sealed")
            },
        ] {
            let changes = compare(&held(vec![sealed("sealed")]), vec![opened]);
            assert_eq!(changes.register.len(), 1);
        }
    }

    proptest! {
        /// What is done brings the lines held to those there are.
        #[test]
        fn carried_out_it_leads_to_what_there_is(
            before in proptest::collection::btree_map(0_u8..20, 0_u8..4, 0..20),
            now in proptest::collection::btree_map(0_u8..20, 0_u8..4, 0..20),
        ) {
            let make = |(id, kind): (&u8, &u8)| {
                let mut line = line(&id.to_string());
                match kind {
                    1 => line.route.domain = "other".into(),
                    2 => line.line.phone_number = Some(Private::new("+331")),
                    3 => line.line.greeting = Some("x".into()),
                    _ => {}
                }
                line
            };
            let mut held = held(before.iter().map(make).collect());
            let wanted: Vec<ReadyLine> = now.iter().map(make).collect();
            let changes = compare(&held, wanted.clone());
            for id in &changes.remove {
                prop_assert!(held.remove(id).is_some());
            }
            let lists = [changes.register, changes.renumber, changes.adjust];
            for line in lists.into_iter().flatten() {
                held.insert(line.line.id.clone(), line);
            }
            prop_assert_eq!(held.len(), wanted.len());
            prop_assert!(compare(&held, wanted).is_empty());
        }
    }
}
