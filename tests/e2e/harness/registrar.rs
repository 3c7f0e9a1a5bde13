//! What a trunk says of the lines that register there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Kamailio, SOON, until};

impl Kamailio {
    /// How often a user has registered, and how often unregistered.
    pub fn registers(&self, user: &str) -> (usize, usize) {
        let log = self.log();
        let own: BTreeSet<&str> = of_user(&log, user).collect();
        let gone = own.iter().filter(|line| is_farewell(line)).count();
        (own.len() - gone, gone)
    }

    /// Whether the last that it heard of a user was no farewell.
    pub fn has_registered(&self, user: &str) -> bool {
        let log = self.log();
        of_user(&log, user)
            .last()
            .is_some_and(|line| !is_farewell(line))
    }

    /// Waits for so many REGISTERs and unregistrations of a user; how long it took.
    pub async fn sees(&self, user: &str, expected: (usize, usize)) -> Duration {
        let began = Instant::now();
        until(SOON, "REGISTERs at the trunk", async || {
            self.registers(user) == expected
        })
        .await;
        began.elapsed()
    }
}

/// What it logged of a user's REGISTERs, without the time.
fn of_user<'a>(log: &'a str, user: &str) -> impl Iterator<Item = &'a str> {
    let own = format!("trunk: {user} registered at ");
    log.lines()
        .filter_map(move |line| line.find(&own).map(|at| &line[at..]))
}

fn is_farewell(line: &str) -> bool {
    line.ends_with("expires 0")
}
