//! From flags to settings: defaults, every mistake at once, what is refused,
//! and that nothing secret is shown.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use sipbridge::config::flags::{FLAGS, FlagKind};
use sipbridge::config::{
    AnswerMode, Checked, Config, ConfigError, Dispatch, FlagProblem, LogFormat, RawArgs, validate,
};
use sipbridge::core::address::Transport;
use sipbridge::core::callback::Method;

const LEAST: [(&str, &str); 3] = [
    ("sip-domain", "sip.example.com"),
    ("sip-username", "0033"),
    ("redis-url", "redis://127.0.0.1"),
];

fn with(pairs: &[(&'static str, &str)]) -> Checked {
    validate(RawArgs::from_pairs(&[&LEAST[..], pairs].concat()))
}

fn mistakes(pairs: &[(&'static str, &str)]) -> Vec<ConfigError> {
    with(pairs).mistakes
}

fn good(pairs: &[(&'static str, &str)]) -> Config {
    let checked = with(pairs);
    assert_eq!(checked.mistakes, []);
    checked.config
}

#[test]
fn the_defaults_are_what_help_says() {
    let config = good(&[]);
    assert_eq!(
        (config.sip.port, config.sip.transport),
        (5060, Transport::Udp)
    );
    assert_eq!(config.sip.expires, Duration::from_secs(300));
    assert!(config.sip.register && !config.network.ice);
    assert_eq!(config.network.rtp_ports, (10_000, 20_000));
    assert_eq!(config.network.bind, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    assert_eq!(
        (config.api_port, config.api_bind),
        (8080, Ipv4Addr::LOCALHOST.into())
    );
    assert_eq!((config.audio.rx_gain, config.audio.tx_gain), (1.0, 1.0));
    assert_eq!(config.calls.max_calls, 1_000);
    assert_eq!(config.calls.max_per_second, 100);
    assert_eq!(config.calls.max_late, Some(Duration::from_millis(40)));
    assert_eq!(config.calls.max_duration, Some(Duration::from_secs(14_400)));
    assert_eq!(config.calls.rtp_timeout, Some(Duration::from_secs(120)));
    assert_eq!(config.calls.answer, AnswerMode::Immediate);
    assert_eq!(config.worker.timeout, Duration::from_secs(30));
    assert_eq!(config.drain_timeout, Duration::from_secs(300));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    let queue = config.queue.expect("Redis is given");
    assert_eq!(
        (queue.queue.as_str(), queue.stream_port),
        ("queue:incoming_calls", 8081)
    );
    assert_eq!(
        (config.log_format, config.log_filter.as_str()),
        (LogFormat::Text, "info")
    );
    assert!(!config.node_id.is_empty());
}

#[test]
fn every_default_of_the_table_is_valid_when_given() {
    for flag in FLAGS {
        if let (Some(default), FlagKind::Value(_)) = (flag.default, flag.kind) {
            assert_eq!(mistakes(&[(flag.name, default)]), [], "--{}", flag.name);
        }
    }
}

#[test]
fn all_mistakes_come_at_once_with_flag_and_variable() {
    let found = mistakes(&[
        ("sip-port", "70000"),
        ("rx-gain", "nan"),
        ("rtp-ports", "20000-10000"),
        ("encryption-key", "cafe"),
        ("answer", "never"),
        ("no-ice", "perhaps"),
        ("api-bind", "localhost"),
        ("param", "=x"),
        ("node-id", "a b"),
        ("worker-timeout", "5s"),
        ("log-level", "inof"),
        ("stun-server", "stun:host"),
        ("lines", "/none/such"),
        ("ws-target", "http://host"),
    ]);
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 14, "{shown:#?}");
    assert!(shown.contains(&"--sip-port (SIP_PORT) must be a whole number from 0 to 65535".into()));
    assert!(
        shown.contains(&"--lines (LINES_FILE) cannot be read: there is no such file".into()),
        "{shown:#?}"
    );
    assert!(shown.iter().all(|text| !text.contains("cafe")));
}

#[test]
fn what_is_not_built_is_refused_and_never_ignored() {
    for (name, value) in [("no-auto-answer", "yes"), ("vad", "yes")] {
        let found = mistakes(&[(name, value)]);
        assert!(
            matches!(&found[..], [ConfigError { flag, problem: FlagProblem::NotBuilt(_) }] if *flag == name),
            "--{name}: {found:?}"
        );
    }
    assert_eq!(mistakes(&[("vad", "no"), ("no-auto-answer", "0")]), []);
}

#[test]
fn echo_cancelling_is_accepted_with_a_warning() {
    let checked = with(&[("no-ec", "yes"), ("ec-tail-ms", "200")]);
    assert_eq!(checked.mistakes, []);
    let warned: Vec<_> = checked
        .warnings
        .iter()
        .map(|warning| warning.flag)
        .collect();
    assert_eq!(warned, ["no-ec", "ec-tail-ms"]);
}

#[test]
fn roots_for_a_redis_without_tls_have_no_effect() {
    let ca = ("redis-ca", "/proc/version");
    let warned = |url| {
        let line = [("sip-domain", "d.example"), ("sip-username", "u")];
        let given = [&line[..], &[("redis-url", url), ca]].concat();
        let checked = validate(RawArgs::from_pairs(&given));
        assert_eq!(checked.mistakes, []);
        assert!(checked.config.queue.unwrap().redis_ca.is_some());
        checked.warnings.iter().any(|w| w.flag == "redis-ca")
    };
    assert!(warned("redis://127.0.0.1"));
    assert!(!warned("rediss://127.0.0.1"));
}

#[test]
fn a_bridge_needs_a_worker_and_a_line() {
    let found = validate(RawArgs::from_pairs(&[])).mistakes;
    let flags: Vec<_> = found.iter().map(|mistake| mistake.flag).collect();
    assert_eq!(flags, ["sip-username", "redis-url"]);
    let found = validate(RawArgs::from_pairs(&[
        ("sip-username", "u"),
        ("ws-target", "ws://h"),
    ]))
    .mistakes;
    assert_eq!(
        found,
        [ConfigError::new(
            "sip-username",
            FlagProblem::Needs("sip-domain")
        )]
    );
}

#[test]
fn flags_that_belong_together_are_asked_for() {
    for (given, flag, needs) in [
        (("turn-password", "x"), "turn-password", "turn-server"),
        (("turn-server", "t"), "turn-server", "turn-username"),
        (("tls-cert", "/proc/version"), "tls-cert", "tls-key"),
        (
            ("api-tls-cert", "/proc/version"),
            "api-tls-cert",
            "api-tls-key",
        ),
        (
            ("api-tls-key", "/proc/version"),
            "api-tls-key",
            "api-tls-cert",
        ),
    ] {
        assert_eq!(
            mistakes(&[given]),
            [ConfigError::new(flag, FlagProblem::Needs(needs))]
        );
    }
    let orphan = validate(RawArgs::from_pairs(&[
        ("lines", "/proc/version"),
        ("ws-target", "ws://h"),
        ("sip-password", "x"),
    ]));
    let needs = FlagProblem::Needs("sip-username");
    assert_eq!(orphan.mistakes, [ConfigError::new("sip-password", needs)]);
}

#[test]
fn a_dispatch_needs_what_it_dispatches_with() {
    let (redis, target) = (("redis-url", "redis://h"), ("ws-target", "ws://h"));
    for (given, dispatch) in [
        (&[redis][..], Dispatch::Queue),
        (&[redis, target], Dispatch::Queue),
        (&[target], Dispatch::Push),
        (&[redis, target, ("dispatch", "push")], Dispatch::Push),
    ] {
        let all = [&[("lines", "/proc/version")], given].concat();
        let checked = validate(RawArgs::from_pairs(&all));
        assert_eq!(checked.mistakes, [], "{given:?}");
        assert_eq!(checked.config.worker.dispatch, dispatch, "{given:?}");
    }
    for (given, dispatch, needs) in [(redis, "push", "ws-target"), (target, "queue", "redis-url")] {
        let all = [("lines", "/proc/version"), given, ("dispatch", dispatch)];
        let needs = FlagProblem::Needs(needs);
        let mistakes = validate(RawArgs::from_pairs(&all)).mistakes;
        assert_eq!(mistakes, [ConfigError::new("dispatch", needs)]);
    }
}

#[test]
fn ice_needs_a_server_and_can_be_turned_off() {
    assert!(!good(&[]).network.ice);
    assert!(good(&[("stun-server", "s.example")]).network.ice);
    assert!(
        !good(&[("stun-server", "s.example"), ("no-ice", "yes")])
            .network
            .ice
    );
}

#[test]
fn calls_fit_into_the_rtp_ports() {
    assert_eq!(
        good(&[("rtp-ports", "30001-30020")]).network.rtp_ports,
        (30_002, 30_020)
    );
    assert_eq!(good(&[("rtp-ports", "30000-30019")]).calls.max_calls, 10);
    assert_eq!(
        mistakes(&[("rtp-ports", "30000-30019"), ("max-concurrent-calls", "11")]),
        [ConfigError::new(
            "max-concurrent-calls",
            FlagProblem::NoRoom {
                calls: 11,
                room: 10
            }
        )]
    );
    assert_eq!(
        mistakes(&[("rtp-ports", "65535-65535")]),
        [ConfigError::new("rtp-ports", FlagProblem::NoPorts)]
    );
}

#[test]
fn listeners_do_not_share_ports() {
    assert_eq!(
        mistakes(&[("api-port", "8081")]),
        [ConfigError::new(
            "stream-port",
            FlagProblem::SamePort("api-port")
        )]
    );
    assert_eq!(
        mistakes(&[("sip-port", "10500")]),
        [ConfigError::new("sip-port", FlagProblem::InRtpPorts)]
    );
    assert_eq!(mistakes(&[("sip-port", "8080")]), []);
    assert_eq!(
        mistakes(&[("sip-port", "8080"), ("sip-transport", "tcp")]),
        [ConfigError::new(
            "sip-port",
            FlagProblem::SamePort("api-port")
        )]
    );
    assert_eq!(mistakes(&[("api-port", "0"), ("stream-port", "0")]), []);
    assert_eq!(good(&[("sip-transport", "TLS")]).sip.port, 5061);
}

#[test]
fn zero_turns_a_limit_off() {
    let config = good(&[("max-call-duration", "0"), ("rtp-timeout", "0")]);
    assert_eq!(
        (config.calls.max_duration, config.calls.rtp_timeout),
        (None, None)
    );
    assert_eq!(
        good(&[("rtp-timeout", "0.25")]).calls.rtp_timeout,
        Some(Duration::from_millis(250))
    );
}

#[test]
fn nothing_secret_is_in_debug_output() {
    let checked = with(&[
        ("sip-password", "hunter2-sip"),
        ("turn-server", "t"),
        ("turn-username", "u"),
        ("turn-password", "hunter2-turn"),
        ("encryption-key", &"c0ffee00".repeat(8)),
        ("ws-target", "wss://bob:hunter2-ws@host/?token=hunter2"),
    ]);
    let shown = format!("{checked:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("c0ffee"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_texts_give_settings_and_shown_mistakes_hold_no_value(
        choices in proptest::collection::vec((0..FLAGS.len(), "[0-9./:-]{0,9}|\\PC{0,12}|Xsecret[a-z]{3}"), 0..6)
    ) {
        let pairs: Vec<_> = choices.iter()
            .filter(|(index, _)| FLAGS[*index].name != "param")
            .map(|(index, text)| (FLAGS[*index].name, text.as_str()))
            .collect();
        for mistake in mistakes(&pairs) {
            prop_assert!(!mistake.to_string().contains("Xsecret"));
        }
    }
}

#[test]
fn callbacks_are_posted_within_5_seconds_and_their_addresses_are_checked() {
    let callbacks = good(&[]).callbacks;
    assert_eq!(callbacks.method, Method::Post);
    assert_eq!(callbacks.timeout, Duration::from_secs(5));
    assert!(callbacks.status_url.is_none() && callbacks.incoming_url.is_none());
    assert!(callbacks.auth_token.is_none());

    let config = good(&[
        (
            "status-callback-url",
            "https://bob:hunter2@h/calls?key=hunter2",
        ),
        ("incoming-callback-url", "http://127.0.0.1:81/hunter2"),
        ("callback-method", "get"),
        ("callback-timeout", "0.5"),
        ("auth-token", "hunter2"),
    ]);
    let shown = format!("{:?}", config.callbacks);
    assert!(shown.contains("https://***@h/***?***") && !shown.contains("hunter2"));
    assert_eq!(config.callbacks.method, Method::Get);
    assert_eq!(config.callbacks.timeout, Duration::from_millis(500));

    for (flag, value) in [
        ("status-callback-url", "ws://h/"),
        ("status-callback-url", "h:80"),
        ("status-callback-url", "https://bob:12/hunter2@host"),
        ("status-callback-url", ""),
        ("incoming-callback-url", "/path"),
        ("callback-method", "PUT"),
        ("callback-timeout", "0"),
        ("callback-timeout", "5s"),
        ("callback-timeout", "61"),
        ("auth-token", ""),
    ] {
        let found = mistakes(&[(flag, value)]);
        assert_eq!(found.len(), 1, "{flag} {value}: {found:?}");
        assert_eq!(found[0].flag, flag);
        assert!(!found[0].to_string().contains("hunter2"));
    }
}
