//! What is wanted of one account at its registrar, and what is on its way
//! there. A SIP stack sends one REGISTER of an account at a time, refreshes of its
//! own among them; what is wanted meanwhile waits for the answer, and only the last
//! wish counts.

use std::time::{Duration, Instant};

/// A REGISTER without an answer is over by itself (64 * T1, RFC 3261 timer F);
/// a little later the next may be tried, whatever became of it.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// What is to become of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Register, or refresh.
    Register,
    /// Take the registration back: expiry 0.
    Unregister,
    /// Refresh it no more, without a word to the registrar: another bridge registers
    /// the line now, and an un-REGISTER could take its Contact away.
    Forget,
}

/// The state of one account.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegistrationWish {
    in_flight_since: Option<Instant>,
    waiting: Option<Wish>,
    is_forgotten: bool,
}

impl RegistrationWish {
    /// Something is wanted: given back where it is to be sent now, kept until
    /// the answer to what is under way otherwise.
    pub fn want(&mut self, wish: Wish, now: Instant) -> Option<Wish> {
        self.waiting = Some(wish);
        self.next(now)
    }

    /// What is to be sent now, where something waits and nothing is under way.
    pub fn next(&mut self, now: Instant) -> Option<Wish> {
        let is_out = |since: Instant| now.saturating_duration_since(since) < ANSWER_MAX;
        if self.in_flight_since.is_some_and(is_out) {
            return None;
        }
        let wish = self.waiting.take()?;
        self.is_forgotten = match wish {
            Wish::Register => false,
            Wish::Unregister => self.is_forgotten,
            Wish::Forget => true,
        };
        // Nothing is sent to forget, and no answer comes.
        self.in_flight_since = (wish != Wish::Forget).then_some(now);
        Some(wish)
    }

    /// The stack is about to send a REGISTER for the first time, one that was asked
    /// for or a refresh of its own. Whether it may: a registration that is forgotten is
    /// not refreshed.
    pub fn may_send(&mut self, now: Instant) -> bool {
        if self.is_forgotten {
            return false;
        }
        let is_out = |since: &Instant| now.saturating_duration_since(*since) < ANSWER_MAX;
        self.in_flight_since = self.in_flight_since.filter(is_out).or(Some(now));
        true
    }

    /// The stack was busy with a REGISTER of its own, a refresh: the wish waits
    /// for the answer to that, unless there is a later one.
    pub fn was_busy(&mut self, wish: Wish) {
        self.waiting.get_or_insert(wish);
    }

    /// Whether the registration is forgotten: it is none any more.
    #[must_use]
    pub const fn is_forgotten(&self) -> bool {
        self.is_forgotten
    }

    /// Nothing is under way any more: an answer came, or it was never sent.
    /// Says what waits.
    pub fn answered(&mut self) -> Option<Wish> {
        self.in_flight_since = None;
        self.waiting
    }

    /// Whether anything is under way or waits.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        let is_out = |since: Instant| now.saturating_duration_since(since) < ANSWER_MAX;
        self.waiting.is_some() || self.in_flight_since.is_some_and(is_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Wish::{Forget, Register, Unregister};

    #[test]
    fn one_at_a_time_and_the_last_wish_counts() {
        let now = Instant::now();
        let mut wish = RegistrationWish::default();
        assert_eq!(wish.want(Register, now), Some(Register));
        assert_eq!(wish.want(Register, now), None);
        assert_eq!(wish.want(Unregister, now), None);
        assert!(wish.is_open(now));
        assert_eq!(wish.answered(), Some(Unregister));
        assert_eq!(wish.next(now), Some(Unregister));
        assert_eq!(wish.next(now), None, "it is under way");
        assert_eq!(wish.answered(), None);
        assert!(!wish.is_open(now));
    }

    #[test]
    fn a_refresh_of_the_stack_itself_is_waited_for() {
        let now = Instant::now();
        let mut wish = RegistrationWish::default();
        assert_eq!(wish.want(Register, now), Some(Register));
        wish.was_busy(Register);
        assert_eq!(wish.next(now), None);
        assert_eq!(wish.want(Unregister, now), None);
        wish.was_busy(Register);
        assert_eq!(wish.answered(), Some(Unregister), "the later wish stays");
    }

    #[test]
    fn what_is_forgotten_waits_for_the_answer_and_is_refreshed_no_more() {
        let now = Instant::now();
        let mut wish = RegistrationWish::default();
        assert_eq!(wish.want(Register, now), Some(Register));
        assert!(wish.may_send(now));
        assert_eq!(wish.want(Forget, now), None, "a REGISTER is under way");
        assert_eq!(wish.answered(), Some(Forget));
        assert_eq!(wish.next(now), Some(Forget));
        assert!(!wish.is_open(now), "no answer comes to it");
        assert!(!wish.may_send(now) && wish.is_forgotten());
        assert_eq!(wish.want(Unregister, now), Some(Unregister));
        assert_eq!(wish.answered(), None);
        assert!(!wish.may_send(now), "there was nothing to take back");
        assert_eq!(wish.want(Register, now), Some(Register));
        assert!(wish.may_send(now) && !wish.is_forgotten());
    }

    #[test]
    fn a_refresh_that_the_stack_sends_by_itself_is_under_way() {
        let now = Instant::now();
        let mut wish = RegistrationWish::default();
        assert!(wish.may_send(now));
        assert!(wish.is_open(now));
        assert_eq!(wish.want(Forget, now), None);
        let later = now + ANSWER_MAX;
        assert!(wish.may_send(later - Duration::from_secs(1)), "the same");
        assert_eq!(wish.next(later), Some(Forget), "its answer never came");
    }

    #[test]
    fn an_answer_that_never_comes_blocks_nothing_for_ever() {
        let now = Instant::now();
        let mut wish = RegistrationWish::default();
        assert_eq!(wish.want(Register, now), Some(Register));
        assert_eq!(wish.want(Unregister, now), None);
        assert_eq!(wish.next(now + ANSWER_MAX), Some(Unregister));
    }
}
