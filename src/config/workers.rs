//! How workers get their calls: Redis and its queue, the worker to dial, and what
//! each call brings with it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::config_error::FlagProblem;
use super::reader::Reader;
use super::settings::{Dispatch, QueueSettings, WorkerConfig};
use super::url::ServiceUrl;
use crate::sip::header_names::HeaderNames;

/// `ws_target` is read before: other settings look at it.
pub(super) fn worker(reader: &mut Reader, ws_target: Option<ServiceUrl>) -> WorkerConfig {
    WorkerConfig {
        dispatch: dispatch(reader),
        ws_target,
        timeout: reader.seconds("worker-timeout", 0.1),
        claim_timeout: reader.seconds("claim-timeout", 0.1),
        max_attempts: max_attempts(reader),
        params: params(reader),
        sip_headers: sip_headers(reader),
    }
}

/// Jobs where there is a Redis for them, unless it is to coordinate alone.
fn dispatch(reader: &mut Reader) -> Dispatch {
    let is_given = |name| reader.given.explicit(name).is_some();
    let has_jobs = is_given("redis-url") && !is_given("voice-url");
    if !is_given("dispatch") {
        return if has_jobs {
            Dispatch::Queue
        } else {
            Dispatch::Push
        };
    }
    let dispatch = reader.choice(
        "dispatch",
        "queue or push",
        [Dispatch::Queue, Dispatch::Push],
    );
    let needed = match dispatch {
        Dispatch::Queue => "redis-url",
        Dispatch::Push if reader.given.explicit("voice-url").is_some() => "voice-url",
        Dispatch::Push => "ws-target",
    };
    if reader.given.explicit(needed).is_none() {
        reader.mistake("dispatch", FlagProblem::Needs(needed));
    }
    dispatch
}

fn max_attempts(reader: &mut Reader) -> u32 {
    let attempts = reader.whole("max-attempts", 1, 100);
    attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

fn sip_headers(reader: &mut Reader) -> HeaderNames {
    let given = reader.given.all("sip-headers");
    let names = given.iter().flat_map(|text| text.split(','));
    let names = HeaderNames::parse(names);
    names.unwrap_or_else(|error| {
        reader.mistake("sip-headers", error.into());
        HeaderNames::default()
    })
}

fn params(reader: &mut Reader) -> BTreeMap<String, String> {
    let mut params = BTreeMap::new();
    for text in reader.given.all("param").to_vec() {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                match params.entry(key.trim().to_owned()) {
                    Entry::Vacant(place) => drop(place.insert(value.to_owned())),
                    Entry::Occupied(place) => {
                        reader.mistake("param", FlagProblem::ParamTwice(place.key().clone()));
                    }
                }
            }
            _ => reader.mistake("param", FlagProblem::Param),
        }
    }
    params
}

/// Addresses of several servers, as other clients write them.
fn is_many_servers(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    let authority = url.split("://").nth(1).unwrap_or_default();
    let hosts = authority.split('/').next().unwrap_or_default();
    let hosts = hosts.rsplit('@').next().unwrap_or_default();
    ["sentinel", "cluster"]
        .iter()
        .any(|kind| scheme.contains(kind))
        || hosts.contains(',')
}

pub(super) fn queue(reader: &mut Reader) -> Option<QueueSettings> {
    if reader
        .given
        .explicit("redis-url")
        .is_some_and(is_many_servers)
    {
        reader.mistake("redis-url", FlagProblem::ManyRedis);
        return None;
    }
    let redis_url = reader.url(
        "redis-url",
        &["redis", "rediss"],
        "redis://127.0.0.1:6379/0",
    );
    let stream_url = reader.url("stream-url", &["ws", "wss"], "wss://bridge.example.com");
    let queue = reader.given.text("queue").unwrap_or_default().to_owned();
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if queue.is_empty() || queue.len() > 200 || queue.contains(odd) {
        reader.mistake("queue", FlagProblem::QueueName);
    }
    let stream_port = reader.port("stream-port").unwrap_or_default();
    let redis_ca = reader.file("redis-ca");
    let redis_url = redis_url?;
    if redis_ca.is_some() && !redis_url.to_string().starts_with("rediss://") {
        reader.warn("redis-ca", "has no effect without TLS: use rediss://");
    }
    Some(QueueSettings {
        redis_url,
        redis_ca,
        queue,
        stream_port,
        stream_url: stream_url.map(|url| url.expose().trim_end_matches('/').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    #[test]
    fn sentinel_and_cluster_are_refused_by_name() {
        for (url, is_many) in [
            ("redis://127.0.0.1:6379/0", false),
            ("rediss://user:a%2Cb@redis-cluster.example/0", false),
            ("redis+sentinel://h:26379/mymaster", true),
            ("redis-sentinel://h:26379", true),
            ("redis+cluster://h:7000", true),
            ("redis://a:7000,b:7000/0", true),
        ] {
            let mut reader = Reader::new(RawArgs::from_pairs(&[("redis-url", url)]));
            assert_eq!(queue(&mut reader).is_none(), is_many, "{url}");
            let mistakes: Vec<_> = reader.mistakes.iter().map(ToString::to_string).collect();
            let is_named = mistakes
                .iter()
                .any(|text| text.contains("Sentinel and cluster"));
            assert_eq!(is_named, is_many, "{mistakes:?}");
        }
    }

    #[test]
    fn headers_are_named_in_one_flag_or_in_many() {
        let read = |pairs: &[(&'static str, &str)]| {
            let mut reader = Reader::new(RawArgs::from_pairs(pairs));
            (sip_headers(&mut reader), reader.mistakes.len())
        };
        let one = read(&[("sip-headers", "X-A, Diversion")]);
        let many = read(&[("sip-headers", "X-A"), ("sip-headers", "Diversion")]);
        assert_eq!(one, many);
        assert_ne!(one.0, HeaderNames::default());
        assert_eq!(read(&[]), (HeaderNames::default(), 0));
        assert_eq!(
            read(&[("sip-headers", "From")]),
            (HeaderNames::default(), 1)
        );
    }
}
