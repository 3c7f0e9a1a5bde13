//! Why a bridge does not start.

use crate::agents::VoicesError;
use crate::api::ApiError;
use crate::callbacks::CallbackError;
use crate::lines::FileError;
use crate::queue::QueueError;
use crate::sip::engine::SubmitError;
use crate::sip::pjsip::PjsipError;
use crate::store::StoreError;
use crate::worker::WorkerError;

/// Why the bridge could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lines file as a whole cannot be used.
    #[error(transparent)]
    LinesFile(#[from] FileError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of the database cannot be made.
    #[error("--data-dir {}: cannot be created: {source}", folder.display())]
    DataDir {
        /// The folder.
        folder: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing to hold.
    #[error(
        "no phone line can be used ({unusable} have mistakes, listed above); see --lines, --database-url and --sip-domain"
    )]
    NoLine {
        /// How many lines were left out.
        unusable: usize,
    },
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The workers' port or target cannot be used.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The API port cannot be used.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Callbacks cannot be sent.
    #[error(transparent)]
    Callbacks(#[from] CallbackError),
    /// The provider of voices cannot be asked.
    #[error(transparent)]
    Voices(#[from] VoicesError),
    /// SIP cannot be started.
    #[error(transparent)]
    Sip(#[from] PjsipError),
    /// The SIP engine takes no commands.
    #[error("lines cannot be added: {0}")]
    Command(#[from] SubmitError),
    /// The system gives no thread.
    #[error("the system gives no thread or signal handler: {0}")]
    Thread(std::io::Error),
}
