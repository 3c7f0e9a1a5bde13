//! Lines whose passwords are still to be decrypted, in the order of their latest calls.
//! Who decrypts asks which is next ([`Fleet::begin_decrypting`]), and brings back what
//! it came to ([`Fleet::take_sealed`]).
//!
//! A line may change or go while its password is being decrypted: what comes
//! back for a password that it no longer has is dropped.

use std::collections::HashSet;

use super::table::Fleet;
use crate::core::ids::LineId;
use crate::core::private::Secret;
use crate::lines::SealedLine;
use crate::lines::credential_cache::Opened;

/// A password to be decrypted.
#[derive(Clone, Debug)]
pub struct SealedPassword {
    /// Whose it is.
    pub line: LineId,
    /// The password, encrypted.
    pub stored: Secret,
}

/// A line as it is wanted, without its password.
#[derive(Debug)]
pub(super) struct Sealed {
    line: SealedLine,
    /// Whether its password is being decrypted.
    is_begun: bool,
}

impl Fleet {
    /// No password is to be decrypted from now on but those of these lines.
    pub fn unseal_others(&mut self, wanted: &HashSet<LineId>) {
        for (id, line) in &mut self.lines {
            if !wanted.contains(id) && line.sealed.take().is_some() {
                self.sealed -= 1;
            }
        }
    }

    /// The passwords of these lines are to be decrypted. New ones come
    /// last, in their order; those that were there with the same password keep their turn.
    pub fn seal(&mut self, lines: impl IntoIterator<Item = SealedLine>) {
        for wanted in lines {
            let id = wanted.ready.line.id.clone();
            let line = self.lines.entry(id.clone()).or_default();
            let before = line.sealed.take();
            self.sealed += usize::from(before.is_none());
            let same = before.filter(|sealed| is_same(&sealed.line.stored, &wanted.stored));
            if same.is_none() {
                self.sealed_order.push_back(id);
            }
            line.sealed = Some(Box::new(Sealed {
                line: wanted,
                is_begun: same.is_some_and(|sealed| sealed.is_begun),
            }));
        }
    }

    /// The password to be decrypted now, if there is one. Each is given out once.
    pub fn begin_decrypting(&mut self) -> Option<SealedPassword> {
        loop {
            let line = self.sealed_order.pop_front()?;
            let sealed = self.lines.get_mut(&line);
            let sealed = sealed.and_then(|line| line.sealed.as_mut());
            if let Some(sealed) = sealed.filter(|sealed| !sealed.is_begun) {
                sealed.is_begun = true;
                let stored = sealed.line.stored.clone();
                return Some(SealedPassword { line, stored });
            }
        }
    }

    /// Takes out the line whose password was decrypted, and keeps what it came to; `None`
    /// where the line is gone, or has another password by now.
    pub fn take_sealed(
        &mut self,
        password: &SealedPassword,
        opened: &Opened,
    ) -> Option<SealedLine> {
        let line = self.lines.get_mut(&password.line)?;
        let is_wanted = |sealed: &mut Box<Sealed>| is_same(&sealed.line.stored, &password.stored);
        let sealed = line.sealed.take_if(is_wanted)?;
        line.password = Some((password.stored.clone(), opened.clone()));
        self.sealed -= 1;
        Some(sealed.line)
    }

    /// Whether passwords are still to be decrypted.
    #[must_use]
    pub const fn is_decrypting(&self) -> bool {
        self.sealed > 0
    }

    /// Keeps what a line's password was decrypted to.
    pub fn keep_password(&mut self, line: LineId, stored: Secret, opened: Opened) {
        self.lines.entry(line).or_default().password = Some((stored, opened));
    }

    /// The lines whose passwords were decrypted, in no order.
    #[must_use]
    pub fn with_password(&self) -> Vec<LineId> {
        let lines = self.lines.iter();
        let lines = lines.filter(|(_, line)| line.password.is_some());
        lines.map(|(id, _)| id.clone()).collect()
    }

    /// What a line's password is as it is stored, and what it was decrypted to.
    #[must_use]
    pub fn password(&self, line: &LineId) -> Option<&(Secret, Opened)> {
        self.lines.get(line)?.password.as_ref()
    }
}

fn is_same(one: &Secret, other: &Secret) -> bool {
    one.expose() == other.expose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::admission::Limits;
    use crate::fleet::test_lines::ready;
    use crate::lines::ReadyLine;
    use crate::lines::credentials::Credential;

    fn fleet() -> Fleet {
        Fleet::new(Limits::default(), 7)
    }

    fn line(id: &str, stored: &str) -> SealedLine {
        let ready = ReadyLine {
            password: None,
            is_sealed: true,
            ..ready(id)
        };
        let stored = Secret::new(stored.to_owned());
        SealedLine { ready, stored }
    }

    fn opened() -> Opened {
        Ok(Credential::Decrypted(Secret::new("pw".into())))
    }

    fn next(lines: &mut Fleet) -> Option<(String, String)> {
        let SealedPassword { line, stored } = lines.begin_decrypting()?;
        Some((line.as_str().to_owned(), stored.expose().to_owned()))
    }

    fn some(id: &str, stored: &str) -> Option<(String, String)> {
        Some((id.to_owned(), stored.to_owned()))
    }

    #[test]
    fn each_has_its_turn_once_in_the_order_in_which_they_came() {
        let mut lines = fleet();
        let all = ["c", "a", "b"].map(|id| line(id, "1"));
        lines.seal(all.to_vec());
        assert_eq!(next(&mut lines), some("c", "1"));
        // The database was read again meanwhile: nothing new.
        lines.seal(all.to_vec());
        assert_eq!(next(&mut lines), some("a", "1"));
        assert_eq!(next(&mut lines), some("b", "1"));
        assert_eq!(next(&mut lines), None);
        for id in ["a", "b", "c"] {
            let stored = Secret::new("1".into());
            let password = SealedPassword {
                line: LineId::new(id),
                stored,
            };
            assert!(lines.take_sealed(&password, &opened()).is_some());
            assert!(lines.take_sealed(&password, &opened()).is_none(), "once");
        }
        assert!(!lines.is_decrypting());
        assert!(lines.password(&LineId::new("a")).is_some(), "kept");
    }

    #[test]
    fn a_password_that_is_known_before_its_line_stays_known() {
        let mut lines = fleet();
        let (id, stored) = (LineId::new("first"), Secret::new("1".into()));
        lines.keep_password(id.clone(), stored, opened());
        lines.seal(vec![line("other", "2")]);
        assert!(lines.password(&id).is_some());
        lines.forget_others(&HashSet::new());
        assert!(lines.password(&id).is_none(), "no such line");
    }

    #[test]
    fn what_was_decrypted_for_a_line_that_is_another_by_now_is_not_taken() {
        let mut lines = fleet();
        lines.seal(vec![line("changed", "1"), line("gone", "1")]);
        let [changed, gone] = [(); 2].map(|()| lines.begin_decrypting().expect("two of them"));
        lines.unseal_others(&HashSet::from([LineId::new("changed")]));
        lines.seal(vec![line("changed", "2")]);
        assert!(lines.take_sealed(&changed, &opened()).is_none());
        assert!(lines.take_sealed(&gone, &opened()).is_none());
        let again = lines.begin_decrypting().expect("with its new password");
        assert_eq!(again.stored.expose(), "2");
        let taken = lines.take_sealed(&again, &opened()).expect("it is the one");
        let ready = taken.unseal(Credential::Decrypted(Secret::new("pw".into())));
        assert_eq!(ready.password.as_ref().map(Secret::expose), Some("pw"));
        assert!(!ready.is_sealed && lines.begin_decrypting().is_none());
    }
}
