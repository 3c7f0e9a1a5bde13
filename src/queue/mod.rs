//! The Redis contract: jobs, state keys, events.
