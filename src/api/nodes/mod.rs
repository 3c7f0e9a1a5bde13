//! The other bridges that lines are shared with: what is asked of them over their API.
//!
//! Whoever asks one bridge is answered for all: calls of others are listed with ours, and a request for a call or a line that
//! another bridge has is passed on to that one. Each request to a bridge names it ([`asked::NODE`]), so that it is never
//! passed on a second time, and a bridge that is reached by another's address says so.
//!
//! | file | what it holds |
//! |---|---|
//! | [`client`] | [`NodeClient`]: one request to a bridge, bounded in time and size |
//! | [`asked`] | [`Asked`]: a request as it came, and whether another bridge passed it on |
//! | [`pass_on`] | requests for calls of other bridges |
//! | [`trust`] | [`TrustFiles`]: which certificates of other bridges are taken |
//! | [`repeated`] | a call that is placed again with the same `Idempotency-Key`, at another bridge |
//!
//! The names and addresses of bridges stand in Redis, which is foreign input: only an IP address with a port is asked, and
//! redirects are not followed. All bridges have one API token, which goes to those addresses: without TLS who may write to
//! Redis could have it sent to himself, see [`crate::guide::security`].

pub mod asked;
pub mod client;
pub mod pass_on;
pub mod repeated;
pub mod trust;

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout};

use crate::cluster::ClusterHandle;
use crate::core::cluster::{Node, NodeId};
use crate::core::ids::LineId;
use crate::queue::LeaseStore;

pub use asked::Asked;
pub use client::{NodeAnswer, NodeClient, NodeError, NodeRequest};
pub use trust::TrustFiles;

/// How long all that is asked of other bridges for one request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long Redis may take to say whether a silent bridge is alive.
const ALIVE_LIMIT: Duration = Duration::from_millis(200);
/// Bridges that are asked at once.
const SIDE_BY_SIDE: usize = 32;

/// The bridges that lines are shared with, and the way to ask them.
pub struct Nodes {
    cluster: ClusterHandle,
    leases: LeaseStore,
    client: NodeClient,
}

impl Nodes {
    /// Those of this cluster.
    #[must_use]
    pub const fn new(cluster: ClusterHandle, leases: LeaseStore, client: NodeClient) -> Self {
        Self {
            cluster,
            leases,
            client,
        }
    }

    /// The cluster as this bridge sees it.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterHandle {
        &self.cluster
    }

    /// The other bridges that are alive, but for those that have only taken their names: they have no call and no line yet,
    /// and have said nothing of themselves.
    #[must_use]
    pub fn others(&self) -> Vec<Node> {
        let mut nodes = self.cluster.nodes();
        let has_begun = |node: &Node| !node.info.version.is_empty() || node.info.api_url.is_some();
        nodes.retain(|node| node.id != *self.cluster.node() && has_begun(node));
        nodes
    }

    /// The other bridge of this name, where it is alive.
    #[must_use]
    pub fn other(&self, id: &str) -> Option<Node> {
        let mut others = self.others().into_iter();
        others.find(|node| node.id.as_str() == id)
    }

    /// The other bridge that is registered for a line, where it is alive.
    #[must_use]
    pub fn holder(&self, line: &LineId) -> Option<Node> {
        self.other(self.cluster.holder(line)?.as_str())
    }

    /// Asks one bridge.
    ///
    /// # Errors
    /// When it does not answer within 2 s, or is not the one that it is taken for.
    pub async fn ask(&self, node: &Node, request: &NodeRequest) -> Result<NodeAnswer, NodeError> {
        let by = Instant::now() + ANSWER_LIMIT;
        self.client.ask(node, request, by).await
    }

    /// Asks these bridges side by side; their answers in the order in which they come, within 2 s. A bridge that
    /// has ended meanwhile is left out.
    pub(super) fn ask_each<'a>(
        &'a self,
        nodes: &'a [Node],
        request: &'a NodeRequest,
    ) -> impl Stream<Item = Result<NodeAnswer, NodeError>> + 'a {
        let by = Instant::now() + ANSWER_LIMIT;
        let asked = stream::iter(nodes).map(move |node| async move {
            match self.client.ask(node, request, by).await {
                Ok(answer) => Some(Ok(answer)),
                Err(error) => self.is_alive(&node.id).await.then_some(Err(error)),
            }
        });
        asked
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(std::future::ready)
    }

    /// Whether a bridge that does not answer is alive, as far as Redis tells: the last view of the cluster may be a
    /// third of `--lease-ttl` old.
    async fn is_alive(&self, node: &NodeId) -> bool {
        let asked = timeout(ALIVE_LIMIT, self.leases.is_alive(node)).await;
        !matches!(asked, Ok(Ok(false)))
    }
}
