//! What lives as long as one call. The driver owns all the other parts, and routes between them
//! and the state machine of `core::call`.
//!
//! | file | what it holds |
//! |---|---|
//! | `driver` | the task of one call: waits for what happens next, and routes it |
//! | `perform` | gives what the state machine asks for to the part that can do it |
//! | `requests` | does what the API asks of the call |
//! | `signal` | which part of a driver was woken |
//! | `opening` | the facts of a call that begins |
//! | `call_terms` | what one call brings with it: its own worker, parameters, callback |
//! | `publisher` | how others are told of the call: job, events, record, API, log |
//! | `incoming` | the question before a call is taken, and what its answer changes |
//! | `worker_search` | reaching a worker: jobs, tickets, dialling |
//! | `worker_session` | the stream with the worker, and what its messages do |
//! | `worker_side`, `keep_alive` | the attached worker: its socket, its messages, its pings |
//! | `destinations` | whom the call may be transferred to |
//! | `idle_sounds` | what a caller hears while nothing is queued |
//! | `voice`, `perform_voice` | what TwiML does with the call |
//! | `voice_fetch`, `voice_sound`, `voice_stream` | what it asks for by HTTP, what it plays, its worker |
//! | `voice_copy`, `perform_copy` | one-way copies of the call's audio |
//! | `voice_detection`, `perform_detection` | who has answered a call that we placed |
//! | `dialled`, `perform_dial` | the legs of a `<Dial>`, each a call of its own |
//! | `parent` | a leg of `<Dial>`: the call that dialled it |
//! | `callee` | the second leg: the fallback number, joined with the caller |

pub(super) mod call_terms;
pub(super) mod callee;
pub(super) mod destinations;
pub(super) mod dialled;
pub(super) mod driver;
pub(super) mod idle_sounds;
pub(super) mod incoming;
mod keep_alive;
pub(super) mod opening;
pub(super) mod parent;
pub(super) mod publisher;
mod signal;
pub(super) mod voice;
mod voice_copy;
pub(super) mod voice_detection;
pub(super) mod voice_fetch;
mod voice_sound;
pub(super) mod voice_stream;
pub(super) mod worker_search;
pub(super) mod worker_session;
mod worker_side;
