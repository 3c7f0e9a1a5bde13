//! Looks every 100 ms whether the registrar has a line at two bridges at once, and takes notes.
//!
//! During a handover both are registered for a moment, so that callers always reach one: a line counts
//! whose lease, read just before, was in no handover.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::redis_server::Redis;
use crate::registrar::Registrar;
use crate::stage::{port_of, user_of_line};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Notes {
    /// SIP ports of the bridges that count.
    ports: HashSet<u16>,
    /// Lines that were at two of them.
    doubled: HashSet<String>,
    looks: usize,
}

/// A running watch; ends when dropped.
pub struct Watch {
    notes: Arc<Mutex<Notes>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub fn start(redis: &Arc<Redis>, registrar: &Arc<Registrar>) -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (redis, registrar) = (redis.clone(), registrar.clone());
        let shared = notes.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                look(&redis, &registrar, &shared).await;
            }
        });
        Self { notes, task }
    }

    /// A bridge at this SIP port counts from now on.
    pub fn count(&self, port: u16) {
        lock(&self.notes).ports.insert(port);
    }

    /// It counts no more: it is dead, or cannot know that others have its lines.
    pub fn leave_out(&self, port: u16) {
        lock(&self.notes).ports.remove(&port);
    }

    /// How many lines were at two bridges so far, and how often it looked.
    pub fn found(&self) -> (usize, usize) {
        let notes = lock(&self.notes);
        (notes.doubled.len(), notes.looks)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(redis: &Redis, registrar: &Registrar, notes: &Mutex<Notes>) {
    let Ok(leases) = redis.leases().await else {
        return;
    };
    let mut notes = lock(notes);
    let listed = registrar.notes();
    for line in leases.keys() {
        let Some(user) = user_of_line(line) else {
            continue;
        };
        let ports = listed.contacts(&user).filter_map(port_of);
        let ports: HashSet<u16> = ports.filter(|port| notes.ports.contains(port)).collect();
        if ports.len() > 1 {
            notes.doubled.insert(line.clone());
        }
    }
    notes.looks += 1;
}
