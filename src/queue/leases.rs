//! Who holds which line, for bridges that share lines: the hash `cluster:leases`.
//!
//! [`LeaseStore`] runs the scripts and says what came of it; what to ask for is decided
//! elsewhere. It uses the connection that the [`super::Queue`] has, waits a second for an
//! answer at most, and fails at once while Redis is away. An error says nothing of what
//! was done: the next [`LeaseStore::beat`] tells.
//!
//! What stands in Redis is foreign input: a lease that cannot be understood counts as one
//! that nobody holds.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::error::{QueueError, RedisFailure};
use super::event::LineMoved;
use super::lease_scripts::SCRIPTS;
use super::membership::{self, Membership};
use super::node_channel::NodeChannel;
use super::nodes::{self, Beat, Revision};
use super::script::{Script, understood};
use super::shared::{RedisState, Shared};
use super::state::node_key;
use crate::core::cluster::{Fence, Lease, LeaseStage, NodeId, NodeInfo};
use crate::core::ids::LineId;

/// Most lines of one script run; longer lists are split.
pub const BATCH: usize = 500;
/// Most leases that there may be.
pub const LEASES_MAX: usize = 100_000;
/// The leases: line id -> JSON.
pub(super) const LEASES: &str = "cluster:leases";
/// The last fence given.
pub(super) const FENCE: &str = "cluster:fence";
/// When a lease changed last, in microseconds of Redis' clock.
pub(super) const REVISION: &str = "cluster:revision";
/// Longest lease that is read, in bytes.
const LEASE_MAX_BYTES: usize = 1_024;
/// Where fences end: below it numbers are exact in every language.
const FENCES_MAX: u64 = 1 << 52;

/// What came of a request for one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseOutcome {
    /// The line.
    pub line: LineId,
    /// Whether it is as was asked for; it may have been so before.
    pub done: bool,
    /// Its lease now; `None` when nobody holds it.
    pub lease: Option<Lease>,
}

/// The handle to leases and nodes; see [`super::Queue::lease_store`]. Cheap to clone.
#[derive(Clone)]
pub struct LeaseStore {
    shared: Arc<Shared>,
    node: NodeId,
    instance: Arc<str>,
}

impl fmt::Debug for LeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseStore")
            .field("node", &self.node)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl LeaseStore {
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        Some(Self {
            shared: Arc::clone(shared),
            node: NodeId::new(shared.keys.node.as_str()),
            instance: Arc::clone(shared.instance.as_ref()?),
        })
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// This life of it: random.
    #[must_use]
    pub const fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// Resolves once the node's name is this instance's and Redis is connected. The first
    /// connection decides: at once where nobody has it, or a bridge that crashed; after one
    /// lease ttl at most where that is uncertain.
    ///
    /// # Errors
    /// [`QueueError::Conflict`] when another bridge runs under the name: this one must
    /// not start. [`QueueError::NotPermitted`] when the Redis user lacks rights.
    /// [`QueueError::Disconnected`] when Redis is away: the name is taken once
    /// it is there, or a conflict found by [`Self::beat`].
    pub async fn join(&self) -> Result<(), QueueError> {
        let mut membership = self.shared.membership.subscribe();
        let mut status = self.shared.status.subscribe();
        loop {
            match &*membership.borrow_and_update() {
                Membership::Conflict => return Err(self.conflict()),
                Membership::NotPermitted(text) => {
                    let text = text.clone();
                    return Err(QueueError::NotPermitted { text });
                }
                Membership::Unknown | Membership::Joined => {}
            }
            match &*status.borrow_and_update() {
                // The name comes before the connection.
                RedisState::Connected { .. } => return Ok(()),
                RedisState::Disconnected {
                    failure: RedisFailure::Connecting,
                    ..
                } => {}
                RedisState::Disconnected { failure, .. } => {
                    let failure = *failure;
                    return Err(QueueError::Disconnected { failure });
                }
            }
            // Both senders live as long as `shared`.
            tokio::select! {
                _ = membership.changed() => {}
                _ = status.changed() => {}
            }
        }
    }

    /// Says that the node lives, to be called every third of the lease ttl, and asks how
    /// the cluster is. The leases come along when they are other than in the answer that
    /// `seen` is of.
    ///
    /// # Errors
    /// [`QueueError::Conflict`] when another instance has the node's name; nothing was
    /// written then, and the queue stays disconnected. Else when Redis is away or
    /// refuses.
    pub async fn beat(&self, info: &NodeInfo, seen: Option<Revision>) -> Result<Beat, QueueError> {
        let answer = nodes::beat(&self.shared, &self.instance, info, seen).await;
        self.note_conflict(answer)
    }

    /// Whether a node's heartbeat is there.
    ///
    /// # Errors
    /// When Redis is away or refuses.
    pub async fn is_alive(&self, node: &NodeId) -> Result<bool, QueueError> {
        let mut command = redis::cmd("EXISTS");
        command.arg(node_key(node.as_str(), "heartbeat"));
        self.shared.query(&command).await
    }

    /// Takes lines that nobody holds, whose holder is dead or has offered them. One taken
    /// from a holder that lives is moving ([`LeaseStage::Moving`]) until confirmed. A line
    /// that the node holds already stays as it is, and is granted.
    ///
    /// # Errors
    /// When Redis is away or refuses; see the module.
    pub async fn claim(&self, lines: &[LineId]) -> Result<Vec<LeaseOutcome>, QueueError> {
        self.run_each(&SCRIPTS.claim, lines, &[]).await
    }

    /// Takes the lines that the node is registered for, after Redis has forgotten who
    /// holds them; each with the fence that it had. Refused where a living node holds the
    /// line by a higher fence. No fence that was given before is given again.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn reclaim(
        &self,
        lines: &[(LineId, Fence)],
    ) -> Result<Vec<LeaseOutcome>, QueueError> {
        // Each batch raises the last fence; the first by the highest of all.
        let mut lines = lines.to_vec();
        lines.sort_by_key(|(_, fence)| std::cmp::Reverse(*fence));
        let value = |(line, fence): &(LineId, Fence)| (line.clone(), fence.0.to_string());
        let lines: Vec<_> = lines.iter().map(value).collect();
        self.run_with(&SCRIPTS.reclaim, &lines).await
    }

    /// Offers lines that the node holds, and tells those nodes that should take them.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn offer(
        &self,
        lines: &[LineId],
        tell: &[NodeId],
    ) -> Result<Vec<LeaseOutcome>, QueueError> {
        self.run_each(&SCRIPTS.offer, lines, tell).await
    }

    /// Takes the offer of lines back. Of lines that were moving to this node: gives them
    /// back to the holder before.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn withdraw(&self, lines: &[LineId]) -> Result<Vec<LeaseOutcome>, QueueError> {
        self.run_each(&SCRIPTS.withdraw, lines, &[]).await
    }

    /// Says that the node is registered for lines that were moving to it, so that the
    /// holders before let go; each with whether the registrar still lists the contact of
    /// that one. Of a line that was taken from a dead holder, that one lets go when it
    /// turns out to live.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn confirm(&self, lines: &[(LineId, bool)]) -> Result<Vec<LeaseOutcome>, QueueError> {
        let value = |(line, shown): &(LineId, bool)| (line.clone(), u8::from(*shown).to_string());
        let lines: Vec<_> = lines.iter().map(value).collect();
        self.run_with(&SCRIPTS.confirm, &lines).await
    }

    /// Says that this node, the holder before, has let go of lines that moved away; each with whether it
    /// was registered for it after that, so that the holder is to register anew. The fence of such a line rises.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn done(&self, lines: &[(LineId, bool)]) -> Result<Vec<LeaseOutcome>, QueueError> {
        let value = |(line, renew): &(LineId, bool)| (line.clone(), u8::from(*renew).to_string());
        let lines: Vec<_> = lines.iter().map(value).collect();
        self.run_with(&SCRIPTS.done, &lines).await
    }

    /// Gives lines up and tells those nodes: nobody holds them then. One that was moving
    /// to this node goes back to the holder before, if that one lives.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn release(
        &self,
        lines: &[LineId],
        tell: &[NodeId],
    ) -> Result<Vec<LeaseOutcome>, QueueError> {
        self.run_each(&SCRIPTS.release, lines, tell).await
    }

    /// Writes `line.moved` events to the stream, in as many round trips as batches.
    ///
    /// # Errors
    /// When Redis is away or refuses: then some are not written, and are not kept.
    pub async fn record_moves(&self, moves: &[LineMoved]) -> Result<(), QueueError> {
        let now = SystemTime::now();
        for batch in moves.chunks(BATCH) {
            let mut pipeline = redis::pipe();
            for moved in batch {
                pipeline
                    .add_command(moved.command(&self.shared.keys.node, now))
                    .ignore();
            }
            let written = self
                .shared
                .attempt(async |connection| pipeline.exec_async(connection).await);
            written.await?.map_err(|error| understood(&error))?;
        }
        Ok(())
    }

    /// Listens to what other bridges tell this one.
    #[must_use]
    pub fn channel(&self) -> NodeChannel {
        NodeChannel::open(&self.shared)
    }

    async fn run_each(
        &self,
        script: &Script,
        lines: &[LineId],
        tell: &[NodeId],
    ) -> Result<Vec<LeaseOutcome>, QueueError> {
        let mut outcomes = Vec::with_capacity(lines.len());
        for batch in lines.chunks(BATCH) {
            let arguments = batch.iter().map(|line| line.as_str().as_bytes()).collect();
            let answer = self.run(script, arguments, tell).await?;
            outcomes.extend(read_outcomes(batch.iter(), &answer));
        }
        Ok(outcomes)
    }

    async fn run_with(
        &self,
        script: &Script,
        lines: &[(LineId, String)],
    ) -> Result<Vec<LeaseOutcome>, QueueError> {
        let mut outcomes = Vec::with_capacity(lines.len());
        for batch in lines.chunks(BATCH) {
            let arguments = batch
                .iter()
                .flat_map(|(line, value)| [line.as_str().as_bytes(), value.as_bytes()])
                .collect();
            let answer = self.run(script, arguments, &[]).await?;
            outcomes.extend(read_outcomes(batch.iter().map(|(line, _)| line), &answer));
        }
        Ok(outcomes)
    }

    async fn run(
        &self,
        script: &Script,
        lines: Vec<&[u8]>,
        tell: &[NodeId],
    ) -> Result<Vec<Vec<u8>>, QueueError> {
        let own = |what| node_key(self.node.as_str(), what);
        let (heartbeat, info) = (own("heartbeat"), own("info"));
        let keys = [LEASES, FENCE, REVISION, &heartbeat, &info];
        let told = tell.len().to_string();
        let mut arguments = vec![
            self.node.as_str().as_bytes(),
            self.instance.as_bytes(),
            told.as_bytes(),
        ];
        arguments.extend(tell.iter().map(|node| node.as_str().as_bytes()));
        arguments.extend(lines);
        let answer = script.run(&self.shared, &keys, &arguments).await;
        let answer: Vec<Vec<u8>> = answer?;
        if answer.first().is_some_and(|word| word == b"conflict") {
            return self.note_conflict(Err(self.conflict()));
        }
        Ok(answer)
    }

    fn conflict(&self) -> QueueError {
        membership::conflict(&self.shared)
    }

    /// Takes the connection out of use when another instance has the name.
    fn note_conflict<T>(&self, answer: Result<T, QueueError>) -> Result<T, QueueError> {
        if matches!(answer, Err(QueueError::Conflict { .. })) {
            self.shared.set_conflict();
        }
        answer
    }
}

/// Reads what a script answers for lines: a word, then two texts for each.
fn read_outcomes<'a>(
    lines: impl Iterator<Item = &'a LineId>,
    answer: &[Vec<u8>],
) -> Vec<LeaseOutcome> {
    let texts = answer.get(1..).unwrap_or_default();
    let outcome = |(line, texts): (&LineId, &[Vec<u8>])| LeaseOutcome {
        line: line.clone(),
        done: texts.first().is_some_and(|text| text == b"1"),
        lease: texts.get(1).and_then(|text| read_lease(text)),
    };
    lines.zip(texts.chunks(2)).map(outcome).collect()
}

/// Reads a lease as it stands in Redis; `None` for one that cannot be understood.
pub(super) fn read_lease(text: &[u8]) -> Option<Lease> {
    if text.is_empty() || text.len() > LEASE_MAX_BYTES {
        return None;
    }
    let value: Value = serde_json::from_slice(text).ok()?;
    let name = |field: &str| NodeId::parse(value.get(field)?.as_str()?);
    let is = |field: &str| value.get(field) == Some(&Value::Bool(true));
    let stage = match name("from") {
        Some(from) if is("confirmed") => LeaseStage::Confirmed {
            from,
            shown: is("shown"),
        },
        Some(from) => LeaseStage::Moving { from },
        None if is("offered") => LeaseStage::Offered,
        None => LeaseStage::Held,
    };
    let fence = value.get("fence")?.as_u64()?;
    Some(Lease {
        node: name("node")?,
        fence: (fence < FENCES_MAX).then_some(Fence(fence))?,
        stage,
    })
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
