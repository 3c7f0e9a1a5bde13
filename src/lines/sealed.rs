//! Lines whose passwords are still to be decrypted, in the order in which that
//! is done. Pure: who decrypts asks for the [`begin`](SealedLines::begin), and
//! brings back what it came to.
//!
//! A line may change or go while its password is being decrypted: what comes
//! back for a password that it no longer has is nobody's business.

use std::collections::{HashMap, VecDeque};

use super::credential_cache::Opened;
use super::credentials::Credential;
use super::load::ReadyLine;
use crate::core::ids::LineId;
use crate::core::key::MasterKey;
use crate::core::private::Secret;

/// A line whose password is still to be decrypted.
#[derive(Clone, Debug)]
pub struct SealedLine {
    /// The line as far as it is known: without its password.
    pub ready: ReadyLine,
    /// The password, encrypted.
    pub stored: Secret,
}

impl SealedLine {
    /// Decrypts its password, which takes about 20 ms of CPU.
    ///
    /// # Errors
    /// When it does not decrypt.
    pub fn open(&self, key: Option<&MasterKey>) -> Opened {
        Credential::open(key, self.ready.line.id.as_str(), Some(&self.stored))
    }

    /// The line with its password.
    #[must_use]
    pub fn unseal(self, credential: Credential) -> ReadyLine {
        let server_password = self.ready.route.server_password.clone();
        ReadyLine {
            password: credential.into_password().or(server_password),
            is_sealed: false,
            ..self.ready
        }
    }
}

/// A password to be decrypted.
#[derive(Clone, Debug)]
pub struct SealedPassword {
    /// Whose it is.
    pub line: LineId,
    /// The password, encrypted.
    pub stored: Secret,
}

/// The lines whose passwords are still to be decrypted, in the order of their latest calls.
#[derive(Debug, Default)]
pub struct SealedLines {
    lines: HashMap<LineId, Entry>,
    /// Ids of lines whose turn is to come; some of them may be gone.
    order: VecDeque<LineId>,
}

#[derive(Debug)]
struct Entry {
    line: SealedLine,
    /// Whether its password is being decrypted.
    is_begun: bool,
}

impl SealedLines {
    /// These are the lines from now on. New ones come last, in their order; those that were
    /// there with the same password keep their turn.
    pub fn replace(&mut self, lines: Vec<SealedLine>) {
        let mut before = std::mem::take(&mut self.lines);
        for line in lines {
            let id = line.ready.line.id.clone();
            let same = before.remove(&id);
            let same = same.filter(|entry| is_same(&entry.line.stored, &line.stored));
            if same.is_none() {
                self.order.push_back(id.clone());
            }
            let is_begun = same.is_some_and(|entry| entry.is_begun);
            self.lines.insert(id, Entry { line, is_begun });
        }
    }

    /// The password to be decrypted now, if there is one. Each is given out once.
    pub fn begin(&mut self) -> Option<SealedPassword> {
        loop {
            let line = self.order.pop_front()?;
            let entry = self.lines.get_mut(&line);
            if let Some(entry) = entry.filter(|entry| !entry.is_begun) {
                entry.is_begun = true;
                let stored = entry.line.stored.clone();
                return Some(SealedPassword { line, stored });
            }
        }
    }

    /// Takes out the line whose password was decrypted; `None` where it is gone,
    /// or has another by now.
    pub fn take(&mut self, password: &SealedPassword) -> Option<SealedLine> {
        let entry = self.lines.get(&password.line)?;
        if !is_same(&entry.line.stored, &password.stored) {
            return None;
        }
        Some(self.lines.remove(&password.line)?.line)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

fn is_same(one: &Secret, other: &Secret) -> bool {
    one.expose() == other.expose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::address::{HostPort, Transport};
    use crate::core::private::Private;
    use crate::lines::line::PhoneLine;
    use crate::lines::resolve::Route;

    fn line(id: &str, stored: &str) -> SealedLine {
        let username = Private::new("user");
        let domain = HostPort::parse("sip.example").expect("a host");
        let ready = ReadyLine {
            line: PhoneLine::bare(LineId::new(id), username.clone()),
            route: Route::to_domain(&domain, Transport::Udp, username),
            password: None,
            is_sealed: true,
        };
        let stored = Secret::new(stored.to_owned());
        SealedLine { ready, stored }
    }

    fn next(lines: &mut SealedLines) -> Option<(String, String)> {
        let SealedPassword { line, stored } = lines.begin()?;
        Some((line.as_str().to_owned(), stored.expose().to_owned()))
    }

    fn some(id: &str, stored: &str) -> Option<(String, String)> {
        Some((id.to_owned(), stored.to_owned()))
    }

    #[test]
    fn each_has_its_turn_once_in_the_order_in_which_they_came() {
        let mut lines = SealedLines::default();
        let all = ["c", "a", "b"].map(|id| line(id, "1"));
        lines.replace(all.to_vec());
        assert_eq!(next(&mut lines), some("c", "1"));
        // The database was read again meanwhile: nothing new.
        lines.replace(all.to_vec());
        assert_eq!(next(&mut lines), some("a", "1"));
        assert_eq!(next(&mut lines), some("b", "1"));
        assert_eq!(next(&mut lines), None);
        for id in ["a", "b", "c"] {
            let stored = Secret::new("1".into());
            let password = SealedPassword {
                line: LineId::new(id),
                stored,
            };
            assert!(lines.take(&password).is_some());
            assert!(lines.take(&password).is_none(), "once");
        }
        assert!(lines.is_empty());
    }

    #[test]
    fn what_was_decrypted_for_a_line_that_is_another_by_now_is_not_taken() {
        let mut lines = SealedLines::default();
        lines.replace(vec![line("changed", "1"), line("gone", "1")]);
        let [changed, gone] = [(); 2].map(|()| lines.begin().expect("two of them"));
        lines.replace(vec![line("changed", "2")]);
        assert!(lines.take(&changed).is_none());
        assert!(lines.take(&gone).is_none());
        let again = lines.begin().expect("with its new password");
        assert_eq!(again.stored.expose(), "2");
        let taken = lines.take(&again).expect("it is the one");
        let ready = taken.unseal(Credential::Decrypted(Secret::new("pw".into())));
        assert_eq!(ready.password.as_ref().map(Secret::expose), Some("pw"));
        assert!(!ready.is_sealed && lines.begin().is_none());
    }
}
