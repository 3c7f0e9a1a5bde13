//! A place for one more call: at this bridge, and where its line has a `maxConcurrentCalls` and bridges share lines,
//! among the calls of all of them.

use crate::fleet::CallPermit;
use crate::queue::{LinePlace, Queue};
use crate::sip::engine::Refusal;

/// A call's place; dropping it gives it back.
pub(super) struct CallPlace {
    _permit: CallPermit,
    _of_line: Option<LinePlace>,
}

impl CallPlace {
    /// Of a call that has a place at this bridge. A line without a limit waits for nothing, others for Redis: 200 ms at
    /// most, after which the bridge's own count is what holds.
    ///
    /// # Errors
    /// 486 when the line has all its calls.
    pub(super) async fn take(permit: CallPermit, queue: Option<&Queue>) -> Result<Self, Refusal> {
        let limited = queue.zip(permit.line_limit());
        let of_line = match limited {
            Some((queue, most)) => match queue.take_place(permit.line(), most).await {
                Some(place) => Some(place),
                None => return Err(permit.refuse()),
            },
            None => None,
        };
        Ok(Self {
            _permit: permit,
            _of_line: of_line,
        })
    }
}
