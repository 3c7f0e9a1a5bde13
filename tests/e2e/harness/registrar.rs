//! What a trunk says of the lines that register there.

use std::time::{Duration, Instant};

use super::{Kamailio, SOON, until};

impl Kamailio {
    /// How often a user has registered, and how often unregistered.
    pub fn registers(&self, user: &str) -> (usize, usize) {
        let log = self.log();
        let own = format!("trunk: {user} registered at ");
        let own = log.lines().filter(|line| line.contains(&own));
        let (gone, kept): (Vec<_>, Vec<_>) = own.partition(|line| line.ends_with("expires 0"));
        (kept.len(), gone.len())
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
