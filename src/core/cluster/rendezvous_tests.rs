//! Shares by weight, the same everywhere, and what moves when a node comes or goes.

use std::collections::HashMap;
use std::time::Instant;

use super::*;

fn node(name: &str) -> NodeId {
    NodeId::new(name)
}

fn shares(nodes: &[(&str, u32)]) -> Shares {
    Shares::new(nodes.iter().map(|(name, capacity)| (node(name), *capacity)))
}

fn lines(count: usize) -> Vec<LineId> {
    (0..count)
        .map(|n| LineId::new(format!("line-{n}")))
        .collect()
}

fn best(shares: &Shares, line: &LineId) -> NodeId {
    shares.ranked(line)[0].clone()
}

fn counts(shares: &Shares, lines: &[LineId]) -> HashMap<NodeId, usize> {
    let mut counts = HashMap::new();
    for line in lines {
        *counts.entry(best(shares, line)).or_default() += 1;
    }
    counts
}

#[test]
fn the_result_is_the_same_in_every_version() {
    // A change of these numbers would move lines whenever two versions run side by side.
    assert_eq!(stable_hash(""), mix(0xcbf2_9ce4_8422_2325));
    assert_eq!(stable_hash("line-1"), 0x7ae3_8970_684c_3362);
    assert_eq!(lines_digest(&lines(3)), 0xf659_b35b_06bb_fa02);
    let shares = shares(&[("a", 100), ("b", 100), ("c", 50)]);
    let found: Vec<String> = lines(12)
        .iter()
        .map(|line| shares.ranked(line).iter().map(|id| id.as_str()).collect())
        .collect();
    assert_eq!(
        found.join(" "),
        "abc acb abc bac cba bac abc abc bac bca abc bca"
    );
}

#[test]
fn the_logarithm_is_one() {
    for x in [
        1e-300, 5.5e-17, 0.1, 0.5, 0.707, 0.708, 0.9, 0.999_999, 1.0, 1.5, 3.0,
    ] {
        let (ours, theirs) = (ln(x), f64::ln(x));
        assert!((ours - theirs).abs() <= 1e-14 * theirs.abs(), "{x}: {ours}");
    }
    assert!(score(u64::MAX, 1.0).is_finite() && score(0, 1.0) > 0.0);
}

#[test]
fn weights_are_respected() {
    let found = counts(
        &shares(&[("a", 100), ("b", 200), ("c", 100), ("d", 0)]),
        &lines(10_000),
    );
    for (name, share) in [("a", 2_500), ("b", 5_000), ("c", 2_500)] {
        let count = found[&node(name)];
        assert!(count.abs_diff(share) < share / 10, "{name}: {count}");
    }
    assert_eq!(found.get(&node("d")), None);
    let idle = shares(&[("b", 0), ("a", 0)]);
    assert_eq!(idle.ranked(&LineId::new("x")), [&node("a"), &node("b")]);
}

#[test]
fn only_the_share_of_a_node_moves_with_it() {
    let three = shares(&[("a", 10), ("b", 10), ("c", 10)]);
    let four = shares(&[("d", 10), ("c", 10), ("b", 10), ("a", 10)]);
    for line in lines(2_000) {
        let (before, after) = (best(&three, &line), best(&four, &line));
        assert!(before == after || after == node("d"), "{line}");
    }
}

#[test]
fn a_place_agrees_with_the_ranked_list() {
    let four = shares(&[("d", 10), ("c", 30), ("b", 20), ("a", 10)]);
    for line in lines(200) {
        let ranked = four.ranked(&line);
        for (rank, id) in ranked.iter().enumerate() {
            let place = four.place(stable_hash(line.as_str()), id);
            assert_eq!(
                (place.best.as_ref(), place.rank as usize),
                (Some(ranked[0]), rank)
            );
        }
        assert_eq!(
            four.place(stable_hash(line.as_str()), &node("x")).rank,
            4,
            "no share"
        );
    }
    assert_eq!(Shares::default().place(1, &node("a")), Place::default());
}

#[test]
fn a_digest_tells_sets_apart_whatever_their_order() {
    let three = lines(3);
    let turned: Vec<LineId> = three.iter().rev().cloned().collect();
    assert_eq!(lines_digest(&three), lines_digest(&turned));
    assert_ne!(lines_digest(&three), lines_digest(&lines(4)));
    assert_ne!(lines_digest(&[]), lines_digest(&lines(1)));
}

#[test]
fn ten_thousand_lines_over_sixteen_nodes_are_quick() {
    let names: Vec<String> = (0..16).map(|n| format!("node-{n}")).collect();
    let sixteen = Shares::new(names.iter().map(|name| (node(name), 100)));
    let hashes: Vec<u64> = lines(10_000)
        .iter()
        .map(|line| stable_hash(line.as_str()))
        .collect();
    let me = node("node-3");
    let begun = Instant::now();
    let mine = hashes
        .iter()
        .filter(|hash| sixteen.place(**hash, &me).rank == 0)
        .count();
    let took = begun.elapsed();
    println!("10,000 lines over 16 nodes: {took:?}");
    assert!((500..750).contains(&mine), "{mine}");
    // Generous: a debug build on a busy machine takes some 200 ms.
    assert!(took.as_secs() < 5, "{took:?}");
}
