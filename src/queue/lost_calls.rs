//! The memory of calls that were lost with their bridge or their worker: who rings the
//! same line again within 5 minutes is recognised, and his job says so.
//!
//! One key for each caller and line, `call:lost:{line}:{hash}`, which holds the call's
//! id and `customParameters`. The number itself stands nowhere in it: the hash is its
//! SHA-256, and the parameters that hold numbers are left out.
//!
//! - While a call has a worker, the key names its node too: such a call counts as lost
//!   from when that node's heartbeat has expired, before anybody has closed it.
//! - Whoever ends a lost call leaves the key without the node: its own driver where
//!   only the worker was lost, `calls` where the bridge is dead.
//! - A call that ends in order removes the key, where it is its own.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Cmd;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tracing::debug;

use super::client::Queue;
use super::event::KEPT_WHILE_OPEN;
use crate::core::call_facts::CustomParams;
use crate::core::ids::{CallId, LineId, hex};
use crate::core::private::Private;

/// How long a lost call is remembered.
pub(super) const LOST_KEPT: Duration = Duration::from_secs(300);
/// How long a new call waits for the memory at most.
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Fewest digits of a number that is somebody's.
const DIGITS_MIN: usize = 3;
/// Largest memory of a call that is kept, in bytes.
const VALUE_MAX_BYTES: usize = 16 * 1_024;
/// Parameters that every call has anew, and that hold numbers.
const NUMBERS: [&str; 2] = ["callerPhone", "to"];

/// Keeps a memory, or removes it, unless the one that there is belongs to another call.
///
/// A part of other scripts: `key`, `call` (empty for any), `value` (empty to remove it)
/// and `seconds` are theirs.
pub(super) const KEEP: &str = r"
local function keep(key, call, value, seconds)
  local kept = redis.call('GET', key)
  if kept and not string.find(kept, call, 1, true) then return end
  if value == '' then
    redis.call('DEL', key)
  else
    redis.call('SET', key, value, 'EX', seconds)
  end
end
";

/// Gives the memory, unless the call goes on at a node that lives.
///
/// KEYS: the memory.
const LOOK: &str = r"
local kept = redis.call('GET', KEYS[1])
if not kept then return false end
local read, call = pcall(cjson.decode, kept)
if not read or type(call) ~= 'table' then return false end
if type(call.node) == 'string'
  and redis.call('EXISTS', 'bridge:' .. call.node .. ':heartbeat') == 1 then
  return false
end
return kept";

/// Who calls, in a form that tells nobody the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerHash(String);

impl CallerHash {
    /// That of a number that the caller does not withhold; `None` for what is no
    /// number, which many callers may have alike.
    #[must_use]
    pub fn new(number: &Private) -> Option<Self> {
        let number = number.expose();
        let digits = number.chars().filter(char::is_ascii_digit);
        let is_number = digits.clone().count() >= DIGITS_MIN && !digits.clone().all(|c| c == '0');
        is_number.then(|| {
            let digest = Sha256::digest(number.as_bytes());
            Self(hex(&digest))
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept of a call for the caller who rings again.
#[derive(Clone, Debug)]
pub struct CallMemory {
    /// Who calls.
    pub caller: CallerHash,
    /// What the next worker is to know.
    pub custom_parameters: CustomParams,
    /// Whether the call ends without the worker that it had.
    pub is_lost: bool,
}

/// A call that was lost, and whose caller rings again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostCall {
    /// Its id.
    pub id: CallId,
    /// `customParameters` that it had, without numbers.
    pub custom_parameters: BTreeMap<String, String>,
}

/// The value of the key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    call_id: String,
    custom_parameters: BTreeMap<String, String>,
    /// Where the call goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

impl Memory {
    /// The value; `None` where it would be too large.
    fn render(&self) -> Option<String> {
        let value = serde_json::to_string(self).ok()?;
        (value.len() <= VALUE_MAX_BYTES).then_some(value)
    }
}

/// What a script does to a memory.
pub(super) struct Change {
    pub(super) key: String,
    /// Empty: the call has ended in order.
    pub(super) value: String,
    pub(super) seconds: u64,
}

impl CallMemory {
    /// The parameters that are kept, as JSON.
    pub(super) fn parameters(&self) -> String {
        serde_json::to_string(&self.kept()).unwrap_or_default()
    }

    fn kept(&self) -> BTreeMap<String, String> {
        let kept = self.custom_parameters.iter();
        kept.filter(|(name, _)| !NUMBERS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn change(&self, line: &LineId, call: &CallId, node: Option<&str>, kept: Duration) -> Change {
        let memory = Memory {
            call_id: call.to_string(),
            custom_parameters: self.kept(),
            node: node.map(str::to_owned),
        };
        Change {
            key: key(line.as_str(), self.caller.as_str()),
            value: memory.render().unwrap_or_default(),
            seconds: kept.as_secs(),
        }
    }

    /// The call has a worker, at this node.
    pub(super) fn attached(&self, line: &LineId, call: &CallId, node: &str) -> Change {
        self.change(line, call, Some(node), KEPT_WHILE_OPEN)
    }

    /// The call is over.
    pub(super) fn ended(&self, line: &LineId, call: &CallId) -> Change {
        let mut change = self.change(line, call, None, LOST_KEPT);
        if !self.is_lost {
            change.value.clear();
        }
        change
    }
}

/// What becomes of the memory of a call that somebody else closes. `lost_for`: how long
/// ago its bridge died; `None` where it was not lost.
pub(super) fn closed(
    call: &str,
    line: &str,
    caller: &str,
    parameters: &str,
    lost_for: Option<Duration>,
) -> Change {
    let left = lost_for.map_or(Duration::ZERO, |lost_for| {
        LOST_KEPT.saturating_sub(lost_for)
    });
    let memory = Memory {
        call_id: call.to_owned(),
        custom_parameters: serde_json::from_str(parameters).unwrap_or_default(),
        node: None,
    };
    let value = memory.render().filter(|_| left.as_secs() > 0);
    Change {
        key: key(line, caller),
        value: value.unwrap_or_default(),
        seconds: left.as_secs(),
    }
}

fn key(line: &str, caller: &str) -> String {
    format!("call:lost:{line}:{caller}")
}

impl Queue {
    /// The call that this caller of this line lost a short time ago. Waits for Redis
    /// for 200 ms at most; whatever fails, there is none.
    pub async fn lost_call(&self, line: &LineId, caller: &CallerHash) -> Option<LostCall> {
        let (mut connection, _) = self.shared.connection().ok()?;
        let mut command = Cmd::new();
        command.arg("EVAL").arg(LOOK).arg(1);
        command.arg(key(line.as_str(), caller.as_str()));
        let look = command.query_async::<Option<String>>(&mut connection);
        let value = match timeout(LOOK_MAX, look).await {
            Ok(Ok(value)) => value?,
            Ok(Err(error)) => {
                debug!(%error, "whether the caller's last call was lost is not known");
                return None;
            }
            Err(_) => {
                debug!("whether the caller's last call was lost is not known: Redis is slow");
                return None;
            }
        };
        let memory: Memory = serde_json::from_str(&value).ok()?;
        Some(LostCall {
            id: CallId::parse(&memory.call_id)?,
            custom_parameters: memory.custom_parameters,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(is_lost: bool) -> CallMemory {
        let parameters = [("callerPhone", "+33612345678"), ("menu", "summer")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        CallMemory {
            caller: CallerHash::new(&Private::new("+33612345678")).unwrap(),
            custom_parameters: BTreeMap::from(parameters).into(),
            is_lost,
        }
    }

    #[test]
    fn only_a_number_is_somebodys() {
        for nobody in ["", "anonymous", "Unavailable", "12", "0000000000"] {
            assert_eq!(CallerHash::new(&Private::new(nobody)), None, "{nobody}");
        }
        let hash = |number: &str| CallerHash::new(&Private::new(number));
        let one = hash("+33612345678").unwrap();
        assert_eq!(one.as_str().len(), 64);
        assert_eq!(hash("+33612345678"), Some(one.clone()));
        assert_ne!(hash("+33612345679"), Some(one));
        assert!(hash("103").is_some(), "an extension");
    }

    #[test]
    fn a_memory_holds_no_number_and_is_bounded() {
        let (line, call) = (LineId::new("line-1"), CallId::random());
        let change = memory(true).ended(&line, &call);
        assert!(
            change.key.starts_with("call:lost:line-1:"),
            "{}",
            change.key
        );
        for text in [&change.key, &change.value] {
            assert!(!text.contains("336"), "{text}");
        }
        assert!(change.value.contains(call.as_str()) && change.value.contains("summer"));
        assert_eq!(change.seconds, 300);
        assert_eq!(memory(false).ended(&line, &call).value, "");
        let mut large = memory(true);
        let long = ("x".to_owned(), "y".repeat(VALUE_MAX_BYTES));
        large.custom_parameters.extend([long]);
        assert_eq!(large.ended(&line, &call).value, "");
    }

    #[test]
    fn five_minutes_are_counted_from_the_loss() {
        let change = |seconds| {
            let lost_for = Some(Duration::from_secs(seconds));
            closed("CA1", "line-1", "abc", r#"{"menu":"summer"}"#, lost_for)
        };
        assert_eq!(change(60).seconds, 240);
        assert!(change(60).value.contains("summer"));
        assert_eq!(change(300).value, "");
        assert_eq!(closed("CA1", "line-1", "abc", "{}", None).value, "");
        // What cannot be read is left out.
        let broken = closed("CA1", "l", "abc", "[", Some(Duration::ZERO));
        assert!(broken.value.contains("CA1"));
    }
}
