//! Which bridge got a request with an `Idempotency-Key` first: behind a load balancer the same request, sent again, comes to another.
//!
//! `cluster:idempotency:{digest}` holds the node id for a day; the digest is the SHA-256 of the key, which is a client's own text.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::leases::LeaseStore;
use super::script::Script;
use crate::core::cluster::NodeId;

/// How long a request waits for Redis at most.
const LOOK_MAX: Duration = Duration::from_millis(200);
/// As long as a bridge keeps its answers.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// KEYS: the string. ARGV: node, seconds to keep it. The answer is the node that is there.
const CLAIM: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])";

/// KEYS: the string. ARGV: node.
const FORGET: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return ''";

static SCRIPTS: LazyLock<[Script; 2]> =
    LazyLock::new(|| [CLAIM, FORGET].map(|code| Script::new(&[code])));

impl LeaseStore {
    /// Says that this node got a request, unless another has said so before: the first one. `None` where Redis does not
    /// say within 200 ms.
    pub async fn first_asked(&self, digest: &str) -> Option<NodeId> {
        let [claim, _] = &*SCRIPTS;
        let kept = KEPT.as_secs().to_string();
        let arguments = [self.node().as_str(), &kept];
        let found = self.ask(claim, digest, &arguments).await?;
        NodeId::parse(&found)
    }

    /// Takes it back: nothing came of the request, and any node may try again.
    pub async fn forget_asked(&self, digest: &str) {
        let [_, forget] = &*SCRIPTS;
        let _ = self.ask(forget, digest, &[self.node().as_str()]).await;
    }

    async fn ask(&self, script: &Script, digest: &str, arguments: &[&str]) -> Option<String> {
        let key = format!("cluster:idempotency:{digest}");
        let keys = [key.as_str()];
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        let asked = script.run(self.shared(), &keys, &arguments);
        match timeout(LOOK_MAX, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                debug!(%error, "an Idempotency-Key is known to this bridge alone");
                None
            }
            Err(_) => {
                debug!("Redis is slow: an Idempotency-Key is known to this bridge alone");
                None
            }
        }
    }
}
