//! How nodes and leases are read from the answer to a heartbeat.

use super::*;

fn node(texts: &[&str]) -> Option<Node> {
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    read_node(&texts)
}

#[test]
fn a_node_is_read_as_it_was_written() {
    let info = NodeInfo {
        stage: NodeStage::Draining,
        capacity: 200,
        lines: 12,
        calls: 3,
        version: "1.2.3".into(),
        api_url: Some("http://10.0.0.5:8080".into()),
        stream_url: None,
        lines_digest: u64::MAX - 1,
    };
    let fields = fields(&info);
    let mut texts = vec!["a", "3000"];
    for (name, value) in &fields {
        texts.extend([*name, value.as_str()]);
    }
    texts.extend(["instance", "i", "beat_at", "2000", "settled_at", "33000"]);
    let read = node(&texts).unwrap();
    let expected = Node {
        id: NodeId::new("a"),
        instance: "i".into(),
        info,
        settles_in: Duration::from_secs(30),
        heartbeat_age: Duration::from_secs(1),
    };
    assert_eq!(read, expected);
}

#[test]
fn a_node_that_cannot_be_understood_is_the_least_that_it_could_be() {
    let long = "x".repeat(VALUE_MAX_BYTES + 1);
    let texts = [
        "a",
        "?",
        "capacity",
        "-3",
        "lines",
        "many",
        "calls",
        "4294967296",
        "version",
        &long,
        "settled_at",
        "1e9",
        "beat_at",
        "x",
        "lines_digest",
        "g",
        "state",
        "",
        "odd",
    ];
    for texts in [&texts[..], &texts[..2]] {
        let read = node(texts).unwrap();
        let info = &read.info;
        assert_eq!((info.capacity, info.lines, info.calls), (1, 0, 0));
        assert_eq!((info.stage, info.lines_digest), (NodeStage::Up, 0));
        assert_eq!(read.settles_in, Duration::ZERO);
        assert_eq!(read.heartbeat_age, Duration::ZERO);
        assert_eq!((&*info.version, &*read.instance), ("", ""));
    }
    let far = ["a", "1", "settled_at", "18446744073709551615"];
    assert_eq!(node(&far).unwrap().settles_in, SETTLES_WITHIN);
    assert_eq!(node(&["a", "1", "capacity", "0"]).unwrap().info.capacity, 1);
    assert_eq!(node(&["", "1"]), None);
    assert_eq!(node(&["a\u{1b}[2J", "1"]), None);
    assert_eq!(node(&[&"a".repeat(256), "1"]), None);
    assert_eq!(node(&["a"]), None);
}

#[test]
fn a_lease_that_cannot_be_understood_is_left_out() {
    let texts = ["l1", r#"{"node":"a","fence":1}"#, "l2", "{", "l3"];
    let texts = texts.map(|text| text.as_bytes().to_vec()).to_vec();
    let leases = read_leases(texts);
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].0, LineId::new("l1"));
}
