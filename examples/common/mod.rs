//! What the example programs share. Tests may take single files by `#[path]`.

pub mod audio;
pub mod rtp;
pub mod sip_uac;
pub mod worker_client;
pub mod worker_jobs;
pub mod worker_server;
pub mod worker_stream;
