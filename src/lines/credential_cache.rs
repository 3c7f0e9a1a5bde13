//! Opened credentials, kept: one that has not changed is never derived again.
//! A derivation costs about 20 ms of CPU; new ones are derived in parallel, or
//! left to somebody who puts in here what they came to.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::credentials::{Credential, CredentialError, check_form, is_encrypted};
use crate::core::key::MasterKey;
use crate::core::private::Secret;

/// What a stored credential turned out to be, or why it cannot be used.
pub type Opened = Result<Credential, CredentialError>;

/// The credentials of lines, or of servers.
#[derive(Debug, Default)]
pub struct CredentialCache {
    kept: HashMap<String, Kept>,
    /// Whether derivations are left to others.
    is_deferring: bool,
}

#[derive(Debug)]
struct Kept {
    stored: Option<Secret>,
    opened: Opened,
}

impl CredentialCache {
    /// One that derives nothing by itself: what must be derived is put in.
    #[must_use]
    pub fn deferring() -> Self {
        Self {
            is_deferring: true,
            ..Self::default()
        }
    }

    /// Opens what is stored for each id, as far as it is not kept already, and
    /// forgets all other ids. A deferring cache leaves out what must be derived.
    pub fn open(&mut self, key: Option<&MasterKey>, wanted: &[(&str, Option<&Secret>)]) {
        let mut before = std::mem::take(&mut self.kept);
        let mut new = Vec::new();
        for &(id, stored) in wanted {
            match before.remove(id) {
                Some(kept) if is_same(kept.stored.as_ref(), stored) => {
                    self.kept.insert(id.to_owned(), kept);
                }
                _ => new.push((id, stored)),
            }
        }
        // Without a key, or of the wrong form, it is refused before the derivation.
        let is_derived = |s: &Secret| is_encrypted(s.expose()) && check_form(s.expose()).is_ok();
        let costs = |stored: Option<&Secret>| key.is_some() && stored.is_some_and(is_derived);
        let (mut expensive, cheap): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|&(_, stored)| costs(stored));
        if self.is_deferring {
            expensive.clear();
        }
        let open = |&(id, stored): &(&str, Option<&Secret>)| Credential::open(key, id, stored);
        let opened: Vec<Opened> = cheap.iter().map(open).collect();
        let derived = in_parallel(&expensive, open);
        let all = cheap.into_iter().zip(opened);
        for ((id, stored), opened) in all.chain(expensive.into_iter().zip(derived)) {
            let stored = stored.cloned();
            self.kept.insert(id.to_owned(), Kept { stored, opened });
        }
    }

    /// Keeps what a password came to.
    pub fn put(&mut self, id: &str, stored: Secret, opened: Opened) {
        let stored = Some(stored);
        self.kept.insert(id.to_owned(), Kept { stored, opened });
    }

    /// What was opened; `None` where that is left to others.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Opened> {
        self.kept.get(id).map(|kept| kept.opened.clone())
    }
}

fn is_same(one: Option<&Secret>, other: Option<&Secret>) -> bool {
    one.map(Secret::expose) == other.map(Secret::expose)
}

/// From now on this thread has the core only while nobody else wants it (SCHED_IDLE), or,
/// where it is to get on all the same, with what niceness 19 leaves it: a nicer thread keeps
/// the core for its 3 ms, which the callers hear. One that keeps its priority does the same
/// work.
fn step_back(policy: NormalThreadSchedulePolicy) {
    let policy = ThreadSchedulePolicy::Normal(policy);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
}

/// Does it beside calls, which come first: on a thread that steps back. Where nothing came
/// of that within 2 s, because other programs leave no core idle, it is begun once more with
/// niceness 19: an operator waits for it. Blocks meanwhile.
pub fn gently<R: Send + 'static>(work: impl Fn() -> R + Send + Sync + 'static) -> R {
    const PATIENCE: Duration = Duration::from_secs(2);
    let work = Arc::new(work);
    let (done, result) = sync_channel(2);
    let begin = |policy| {
        let (work, done) = (work.clone(), done.clone());
        thread::Builder::new().spawn(move || {
            step_back(policy);
            // Nobody waits for the second result of two.
            let _ = done.send(work());
        })
    };
    if begin(NormalThreadSchedulePolicy::Idle).is_ok()
        && let Ok(result) = result.recv_timeout(PATIENCE)
    {
        return result;
    }
    let begun = begin(NormalThreadSchedulePolicy::Other);
    drop(done);
    // A system without room for one more thread, or work that panics.
    let result = begun.ok().and_then(|_| result.recv().ok());
    result.unwrap_or_else(|| work())
}

/// Does the same with every item, on all cores; the results are in the order
/// of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], of_one: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(items.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return done;
            };
            done.push((index, of_one(item)));
        }
    };
    let mut results: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut results = Vec::with_capacity(items.len());
        for thread in threads {
            match thread.join() {
                Ok(done) => results.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::time::Instant;

    #[test]
    fn work_that_gets_no_core_is_done_all_the_same() {
        let never = Arc::new(Barrier::new(2));
        let met = never.clone();
        let attempts = AtomicUsize::new(0);
        let done_by = gently(move || {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            // The first thread is held up; whoever waits for it is not.
            if attempt == 0 {
                never.wait();
            }
            attempt
        });
        assert_eq!(done_by, 1);
        met.wait();
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn password(cache: &CredentialCache, id: &str) -> Option<String> {
        let password = cache.get(id)?.ok()?.into_password()?;
        Some(password.expose().to_owned())
    }

    #[test]
    fn what_is_unchanged_is_not_derived_again() {
        let key = MasterKey::parse(&"0f".repeat(32)).expect("valid");
        let ids: Vec<String> = (0..8).map(|id| id.to_string()).collect();
        let stored: Vec<Secret> = ids
            .iter()
            .map(|id| secret(&key.encrypt(id, &secret(id))))
            .collect();
        let all: Vec<(&str, Option<&Secret>)> = ids
            .iter()
            .zip(&stored)
            .map(|(id, stored)| (id.as_str(), Some(stored)))
            .collect();
        let mut cache = CredentialCache::default();
        let time = |cache: &mut CredentialCache, wanted: &[_]| {
            let started = Instant::now();
            cache.open(Some(&key), wanted);
            started.elapsed()
        };
        let first = time(&mut cache, &all);
        let again = time(&mut cache, &all);
        assert!(again < first / 4, "{again:?} after {first:?}");
        assert!(
            ids.iter()
                .all(|id| password(&cache, id).as_ref() == Some(id))
        );

        // Another password, one that is gone, and one that does not open.
        let changed = secret("plain now");
        let mut wanted = all.clone();
        wanted[0].1 = Some(&changed);
        wanted[1].1 = Some(&stored[2]);
        wanted.truncate(4);
        cache.open(Some(&key), &wanted);
        assert_eq!(password(&cache, "0").as_deref(), Some("plain now"));
        assert_eq!(
            cache.get("1").expect("kept").err(),
            Some(CredentialError::Authentication)
        );
        assert!(cache.get("7").is_none(), "forgotten");
        assert!(again < Duration::from_secs(1));
    }

    #[test]
    fn a_deferring_one_derives_nothing_and_keeps_what_is_put_in() {
        let key = MasterKey::parse(&"0f".repeat(32)).expect("valid");
        let stored = secret(&key.encrypt("x", &secret("pw")));
        let (plain, malformed) = (secret("plain"), secret("AAAA:BBBB:CCCC"));
        let wanted = [
            ("x", Some(&stored)),
            ("plain", Some(&plain)),
            ("malformed", Some(&malformed)),
            ("none", None),
        ];
        let mut cache = CredentialCache::deferring();
        for _ in 0..2 {
            cache.open(Some(&key), &wanted);
            assert!(cache.get("x").is_none(), "left to others");
        }
        assert_eq!(password(&cache, "plain").as_deref(), Some("plain"));
        assert!(matches!(cache.get("none"), Some(Ok(Credential::Absent))));
        // What costs nothing to find out is told at once.
        assert!(matches!(cache.get("malformed"), Some(Err(_))));
        cache.put("x", stored.clone(), Ok(Credential::Decrypted(secret("pw"))));
        cache.open(Some(&key), &wanted);
        assert_eq!(password(&cache, "x").as_deref(), Some("pw"));
        cache.open(None, &[("x", Some(&malformed))]);
        assert_eq!(
            cache.get("x").expect("no key").err(),
            Some(CredentialError::NoKey)
        );
    }
}
