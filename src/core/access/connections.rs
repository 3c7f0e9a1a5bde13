//! How many connections each source may have open to us, and how long one may
//! last that brings no whole message.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::AccessReason;

/// Most connections of a known source. A carrier that opens one for each of
/// its lines has room.
pub const KNOWN_MAX: usize = 1_024;
/// Most connections of an unknown source.
pub const STRANGER_MAX: usize = 4;
/// Most connections of all unknown sources together.
pub const STRANGERS_MAX: usize = 256;
/// How long a connection may take to bring its first whole message.
pub const MESSAGE_WITHIN: Duration = Duration::from_secs(10);

/// The open connections, by what the engine calls them.
#[derive(Debug, Default)]
pub struct Connections {
    open: HashMap<usize, Connection>,
    per_source: HashMap<IpAddr, usize>,
    strangers: usize,
}

#[derive(Debug)]
struct Connection {
    source: IpAddr,
    is_known: bool,
    /// Until when a message must have come; `None` once one has.
    message_by: Option<Instant>,
}

impl Connections {
    /// Enters a connection that was accepted.
    ///
    /// # Errors
    /// When its source has enough of them: it is entered all the same until
    /// [`Connections::close`], and is to be closed.
    pub fn open(
        &mut self,
        now: Instant,
        id: usize,
        source: IpAddr,
        is_known: bool,
    ) -> Result<(), AccessReason> {
        // What was never told to be gone is gone by now.
        self.close(id);
        let of_source = self.per_source.entry(source).or_default();
        *of_source += 1;
        let most = if is_known { KNOWN_MAX } else { STRANGER_MAX };
        let mut is_too_many = *of_source > most;
        if !is_known {
            self.strangers += 1;
            is_too_many |= self.strangers > STRANGERS_MAX;
        }
        let connection = Connection {
            source,
            is_known,
            message_by: Some(now + MESSAGE_WITHIN),
        };
        self.open.insert(id, connection);
        if is_too_many {
            return Err(AccessReason::Connections);
        }
        Ok(())
    }

    /// A whole message came over it.
    pub fn handle_message(&mut self, id: usize) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.message_by = None;
        }
    }

    /// It is gone. Whether it was there.
    pub fn close(&mut self, id: usize) -> bool {
        let Some(connection) = self.open.remove(&id) else {
            return false;
        };
        if !connection.is_known {
            self.strangers = self.strangers.saturating_sub(1);
        }
        if let Some(count) = self.per_source.get_mut(&connection.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&connection.source);
            }
        }
        true
    }

    /// Closes those that brought no whole message in time, and tells which.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<(usize, IpAddr)> {
        let is_overdue =
            |connection: &Connection| connection.message_by.is_some_and(|by| by <= now);
        let overdue = self
            .open
            .iter()
            .filter(|(_, connection)| is_overdue(connection));
        let overdue: Vec<_> = overdue
            .map(|(id, connection)| (*id, connection.source))
            .collect();
        for (id, _) in &overdue {
            self.close(*id);
        }
        overdue
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_source_has_so_many_and_leaves_room_for_others() {
        let mut connections = Connections::default();
        let now = Instant::now();
        let mut open = |id, from, known| connections.open(now, id, source(from), known);
        for id in 0..STRANGER_MAX {
            assert_eq!(open(id, 1, false), Ok(()));
        }
        assert_eq!(open(100, 1, false), Err(AccessReason::Connections));
        assert_eq!(open(101, 2, false), Ok(()));
        assert_eq!(open(102, 3, true), Ok(()));
        connections.close(100);
        connections.close(0);
        connections.close(0);
        assert_eq!(connections.open(now, 103, source(1), false), Ok(()));
    }

    #[test]
    fn strangers_together_leave_room_for_the_known() {
        let mut connections = Connections::default();
        let now = Instant::now();
        let mut open = |id: usize, known| {
            let from = source(u32::try_from(id).unwrap_or(0));
            connections.open(now, id, from, known)
        };
        let opened = (0..6_000).filter(|id| open(*id, false).is_ok());
        assert_eq!(opened.count(), STRANGERS_MAX);
        assert_eq!(open(7_000, true), Ok(()));
        (0..6_000).for_each(|id| assert!(connections.close(id)));
        assert_eq!((connections.len(), connections.strangers), (1, 0));
    }

    #[test]
    fn what_brings_no_message_in_time_is_told_once() {
        let mut connections = Connections::default();
        let now = Instant::now();
        let _ = connections.open(now, 1, source(1), false);
        let _ = connections.open(now, 2, source(2), true);
        connections.handle_message(2);
        let late = now + MESSAGE_WITHIN;
        assert!(
            connections
                .take_overdue(now + MESSAGE_WITHIN / 2)
                .is_empty()
        );
        assert_eq!(connections.take_overdue(late), [(1, source(1))]);
        assert!(connections.take_overdue(late).is_empty());
        assert!(!connections.close(1) && connections.close(2));
        assert!(connections.is_empty() && connections.per_source.is_empty());
    }
}
