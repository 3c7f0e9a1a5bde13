//! Call scenarios: the bridge's driver on the in-memory SIP engine, with real
//! workers over WebSocket, a real pacer, and a real, private Redis. The test is
//! the trunk, the caller and the worker. Every scenario ends with the same
//! check: no call, leg, ticket, job or task is left, and each call ended once.
//!
//! | module | proves |
//! |---|---|
//! | `agents` | the agent of a tenant: in the job and in `start`, its longest call; a database that hangs |
//! | `before_worker` | cancel, races for a token, Redis away, no worker in time |
//! | `streaming` | audio both ways, marks, clear, hold, digits, the last words |
//! | `cut_off` | a bridge whose lines another one may have: calls ring before they get the fallback |
//! | `dialling` | whom calls and transfers of the API may reach, and how often |
//! | `endings` | who ends a call and how: close, drop, transfer, limits, shutdown |
//! | `failover` | workers that never dial or are lost, and who comes next |
//! | `hostile` | garbage, floods, a full leg channel, an engine that takes nothing |
//! | `lines` | a start and later readings: which lines are held, which register |
//! | `on_hold` | hold and resume: who hears what, what waits, refused re-INVITEs |
//! | `placed` | calls that we place, and what is asked of a call from outside |
//! | `random` | any order of events, seeded |
//! | `ringing_again` | callers whose call was lost, and who ring again |
//! | `second_leg` | the fallback number, joined with the caller where REFER is refused |
//!
//! What it leaves out: SIP itself (`tests/pjsip`) and the binary (`tests/e2e`).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod agents;
mod before_worker;
mod caller;
mod cut_off;
mod dialling;
mod endings;
mod failover;
mod harness;
mod hostile;
mod lines;
mod on_hold;
mod placed;
mod random;
mod ringing_again;
mod second_leg;
#[path = "../sim/mod.rs"]
mod sim;
mod stage;
mod streaming;
