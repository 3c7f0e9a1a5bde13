//! Which bridge got a request with an `Idempotency-Key` first: behind a load balancer the same request, sent again, comes to another.
//!
//! `cluster:idempotency:{digest}` holds node id and instance for a day: a bridge that crashed and started again under its name knows
//! nothing of the request. The digest is the SHA-256 of the key, which is a client's own text.

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

/// KEYS: the string. ARGV: node and instance, seconds to keep it. The answer is who is there.
const CLAIM: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])";

/// KEYS: the string. ARGV: node and instance.
const FORGET: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return ''";

static SCRIPTS: LazyLock<[Script; 2]> =
    LazyLock::new(|| [CLAIM, FORGET].map(|code| Script::new(&[code])));

/// Another bridge than this one, or another life of it, that got a request first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAsked {
    /// The bridge.
    pub node: NodeId,
    /// Its life.
    pub instance: String,
}

impl LeaseStore {
    /// Says that this bridge got a request, unless another has said so before: that one. `None` where this is the first, or
    /// Redis does not say within 200 ms.
    pub async fn asked_before(&self, digest: &str) -> Option<FirstAsked> {
        let [claim, _] = &*SCRIPTS;
        let (me, kept) = (self.me(), KEPT.as_secs().to_string());
        let found = self.ask(claim, digest, &[&me, &kept]).await?;
        let (node, instance) = found.split_once(' ').filter(|_| found != me)?;
        Some(FirstAsked {
            node: NodeId::parse(node)?,
            instance: instance.to_owned(),
        })
    }

    fn me(&self) -> String {
        format!("{} {}", self.node(), self.instance())
    }

    /// Takes it back: nothing came of the request, and any node may try again.
    pub async fn forget_asked(&self, digest: &str) {
        let [_, forget] = &*SCRIPTS;
        let _ = self.ask(forget, digest, &[&self.me()]).await;
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
