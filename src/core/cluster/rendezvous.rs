//! Weighted rendezvous hashing: which node should hold which line.
//!
//! Each node has a score for each line, from a hash of both names and from the node's weight; the line belongs to
//! the node with the highest one. A node that joins takes only what it now scores highest for, and one that leaves
//! gives away only what it had: no other line moves. A node with twice the weight gets twice the lines.
//!
//! All nodes must come to the same result, whatever their version and machine. So the hash is written out here, and so is
//! the logarithm: a mathematics library may round it differently from one machine to the next, while the four basic
//! operations are exact everywhere (IEEE 754).

use std::cmp::Ordering;

use super::{LineId, NodeId};

/// The stable 64-bit hash of a name: FNV-1a, then mixed so that each bit depends on all.
#[must_use]
pub fn stable_hash(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// Mixes a number so that each bit of the result depends on each bit of it (the finaliser of `MurmurHash3`).
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// A digest of a set of line ids, in whatever order and without duplicates. Nodes compare it to see whether they
/// could hold the same lines.
pub fn lines_digest<'a>(lines: impl IntoIterator<Item = &'a LineId>) -> u64 {
    let (sum, count) = lines
        .into_iter()
        .fold((0_u64, 0_u64), |(sum, count), line| {
            (sum.wrapping_add(stable_hash(line.as_str())), count + 1)
        });
    mix(sum ^ mix(count))
}

/// The nodes that share the lines, each with what is computed once for all lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    nodes: Vec<Share>,
}

#[derive(Clone, Debug, PartialEq)]
struct Share {
    id: NodeId,
    hash: u64,
    weight: f64,
}

/// Where one node stands among the candidates for a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Who should hold the line; `None` where nobody has a share.
    pub best: Option<NodeId>,
    /// How many nodes come before the one that was asked for: 0 where it is the best. A node without a
    /// share comes after all that have one.
    pub rank: u32,
}

impl Shares {
    /// Takes the nodes that share the lines, each once, with its capacity in calls. One with capacity 0 comes after all others.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let nodes = nodes.into_iter().map(|(id, capacity)| Share {
            hash: stable_hash(id.as_str()),
            weight: f64::from(capacity),
            id,
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// Whether a node has a share.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        self.nodes.iter().any(|share| share.id == *node)
    }

    /// Whether nobody has a share.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All candidates for a line, the one that should hold it first.
    #[must_use]
    pub fn ranked(&self, line: &LineId) -> Vec<&NodeId> {
        let line = stable_hash(line.as_str());
        let mut scored: Vec<_> = self.nodes.iter().map(|share| share.scored(line)).collect();
        scored.sort_by(|a, b| compare(*b, *a));
        scored.into_iter().map(|(_, id)| id).collect()
    }

    /// Who should hold the line of this [`stable_hash`], and how far from that `me` is. Sorts and allocates nothing.
    #[must_use]
    pub fn place(&self, line: u64, me: &NodeId) -> Place {
        let own = self.nodes.iter().find(|share| share.id == *me);
        let own = own.map(|share| share.scored(line));
        let mut best: Option<(f64, &NodeId)> = None;
        let mut rank = 0;
        for candidate in self.nodes.iter().map(|share| share.scored(line)) {
            if best.is_none_or(|best| compare(candidate, best) == Ordering::Greater) {
                best = Some(candidate);
            }
            if own.is_none_or(|own| compare(candidate, own) == Ordering::Greater) {
                rank += 1;
            }
        }
        Place {
            best: best.map(|(_, id)| id.clone()),
            rank,
        }
    }
}

impl Share {
    fn scored(&self, line: u64) -> (f64, &NodeId) {
        (score(mix(self.hash ^ line), self.weight), &self.id)
    }
}

/// By score; where two are the same, by name.
fn compare(a: (f64, &NodeId), b: (f64, &NodeId)) -> Ordering {
    a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1))
}

/// `-weight / ln(u)`, where u is the hash as a number between 0 and 1.
fn score(hash: u64, weight: f64) -> f64 {
    // 53 bits are what a f64 holds exactly. The half keeps u away from 0 and 1.
    #[expect(clippy::cast_precision_loss, reason = "it has 53 bits")]
    let numerator = (hash >> 11) as f64 + 0.5;
    // The sum may have been rounded up to 2^53.
    let uniform = (numerator / 9_007_199_254_740_992.0).min(1.0 - f64::EPSILON / 2.0);
    -weight / ln(uniform)
}

/// The natural logarithm of a normal positive number, by basic operations only: the same everywhere.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    // x = mantissa * 2^exponent, with the mantissa in [1, 2).
    let biased = i32::try_from((bits >> 52) & 0x7ff).unwrap_or_default();
    let mut exponent = f64::from(biased - 1023);
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    // The series is short where the mantissa is near 1.
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    // ln(m) = 2 * (s + s^3/3 + s^5/5 ...) with s = (m-1)/(m+1), |s| < 0.172.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
#[path = "rendezvous_tests.rs"]
mod tests;
