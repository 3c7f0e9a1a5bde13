//! End to end: the real `sipbridge` binary between a SIP caller, a real Redis
//! and a worker, on loopback. Each test starts its own private parts.
//!
//! | module | proves |
//! |---|---|
//! | `callbacks` | status callbacks, the incoming callback, signed upgrades |
//! | `connections` | TCP and TLS to registrars: closed, dead, not to be trusted |
//! | `cluster` | bridges that share lines: takeover, handover, a rolling restart |
//! | `cluster_failures` | the same when a bridge is cut off, Redis comes back empty, a bridge comes and goes |
//! | `cluster_trunk` | the same with Kamailio as the registrar that rings one contact, or all of them |
//! | `contract` | job, message order and every field; tokens; state keys |
//! | `audio` | bit-exact G.711 both ways, marks, clear, playout before BYE |
//! | `pacing` | 50 packets a second, stalls leave no delay |
//! | `behind_nat` | a phone in a network of its own behind a NAT |
//! | `delayed` | a worker 20 ms away, below TCP |
//! | `media` | foreign RTP, hold, media timeout, RFC 4733 |
//! | `line_webhooks` | lines with their own way to their workers, and receivers of their calls' ends |
//! | `line_states` | what became of each line, for `sipbridge lines` and the API |
//! | `leaks` | calls leave no descriptor and no thread behind |
//! | `memcheck` | whole calls under valgrind: no memory is misused, none is lost |
//! | `limits` | busy lines, a full bridge, calls a second, fair shares, a flood of INVITEs |
//! | `locating` | where requests go by DNS, and when a server is away |
//! | `metrics` | what Prometheus reads, and that it moves with calls |
//! | `named_files` | FIFOs, devices, folders and huge files where lines and flags name a file |
//! | `numbers` | E.164 by the line's country, and the line found in every form of its number |
//! | `outward` | addresses that clients write lead into no private network, and are not signed for |
//! | `overload` | late audio shuts the door; file descriptors run out |
//! | `fallback` | announcement, REFER, a joined call, BYE |
//! | `life` | on-worker, LREM, push mode, Redis away |
//! | `sipp` | SIPp as a foreign caller, scenario by scenario |
//! | `drain` | SIGTERM takes no call away |
//! | `trunk` | Kamailio as a foreign registrar and proxy |
//! | `bad_input` | malformed SIP, RTP, WebSocket and files |
//! | `examples` | the example workers in Python |
//! | `guide` | the curl lines of the manual, from an empty database to a transferred call |
//! | `real_phone` | a softphone of others through Kamailio |
//! | `redis_tls` | Redis over TLS with a private CA, a password and a database |
//! | `unsuitable_redis` | `check` fails for a Redis that takes no jobs |
//! | `resolution` | which SIP server a line uses, rule by rule |
//! | `secrets` | no secret in any output, at the highest log level |
//! | `restart` | many encrypted lines: calls at once, registered one by one, the last called first |
//! | `hot_lines` | lines and servers change while the bridge runs |
//! | `other_tables` | tables that other programs made: ids of every type, rows that are refused |
//! | `log_output` | a log that nobody reads, and one that strangers write to |
//! | `slow_clients` | the API under connections that ask nothing, wrong tokens, requests that come twice |
//! | `store` | lines from a database, a record per call |
//! | `strangers` | only trunks may talk to us: silence, tokens, floods, connections |
//! | `access` | the API: token, browsers, bounds, audit |
//! | `api_tls` | the API over HTTPS, slow handshakes, bridges that verify each other |
//! | `agents` | agents of tenants, and voices of a stand-in for their provider |
//! | `admin_api` | SIP servers, lines, the fallback server |
//! | `cluster_api` | one API over several bridges, limits over all of them |
//! | `calls_api` | calls listed, placed, ended, transferred, held |
//! | `twilio_figures` | what all that costs: measured, and run by nobody else |
//! | `twilio_host` | bots that ask api.twilio.com, which is the bridge by the hosts file: Twilio's libraries, Pipecat |
//! | `twilio_lines` | numbers that stay at Twilio: its webhook, its stream as the caller's leg, its REST API |
//! | `twilio_api` | Twilio's REST API, by hand and by Twilio's library |
//! | `twilio_numbers` | its numbers, changed |
//! | `privacy` | withheld numbers, asserted ones, and headers for the worker |
//! | `placed_to_sipp` | calls placed to SIPp as a foreign phone: answered, busy, declined, not answered |
//! | `openapi` | the document of the API, held to what it answers |
//! | `shutdown` | signals, exit codes, real hangs, nothing left |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod access;
mod admin_api;
mod agents;
mod api_tls;
mod audio;
mod bad_input;
mod behind_nat;
mod callbacks;
mod calls_api;
mod cluster;
mod cluster_api;
mod cluster_failures;
mod cluster_trunk;
mod connections;
mod contract;
mod delayed;
mod drain;
mod examples;
mod fallback;
mod guide;
mod harness;
mod hot_lines;
mod leaks;
mod life;
mod limits;
mod line_states;
mod line_webhooks;
mod locating;
mod log_output;
mod machine_detection;
mod media;
mod memcheck;
mod metrics;
#[expect(dead_code, reason = "other tests have it fall silent")]
#[path = "../lib/name_server.rs"]
mod name_server;
mod named_files;
mod numbers;
mod openapi;
mod other_tables;
mod outward;
mod overload;
mod pacing;
mod placed_to_sipp;
mod privacy;
mod real_phone;
#[expect(dead_code, reason = "tests of the queue make it slow and deaf, too")]
#[path = "../redis_queue/proxy.rs"]
mod redis_proxy;
mod redis_tls;
mod resolution;
mod restart;
mod secrets;
mod shutdown;
mod sipp;
mod slow_clients;
mod store;
mod strangers;
mod trunk;
mod twilio_api;
mod twilio_bots;
mod twilio_figures;
mod twilio_host;
mod twilio_lines;
mod twilio_numbers;
mod unsuitable_redis;
mod voice_copies;
mod voice_dial;
mod voice_webhook;
