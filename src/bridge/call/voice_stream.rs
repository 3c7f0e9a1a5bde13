//! The worker of a `<Stream>`: where it is dialled, and who is told of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::info;

use super::call_terms::ForeignWorkers;
use super::voice_fetch::VoiceHttp;
use crate::core::ids::StreamId;
use crate::core::outward::WrittenBy;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::MediaStream;
use crate::core::voice::webhook::{StreamEvent, StreamFacts, VoiceFacts, stream_fields};
use crate::core::voice::{CommandId, StreamEnd};
use crate::worker::{Dialer, WorkerError};

/// Dials the workers that documents name.
pub(in crate::bridge) struct StreamDialers {
    workers: ForeignWorkers,
    /// The log was told that ws stands in for wss.
    has_told: AtomicBool,
}

impl StreamDialers {
    pub(in crate::bridge) const fn new(workers: ForeignWorkers) -> Self {
        Self {
            workers,
            has_told: AtomicBool::new(false),
        }
    }

    /// What dials the worker of this stream, whose document was asked for at `asked`.
    ///
    /// # Errors
    /// When its address cannot be used, or may not be reached.
    pub(in crate::bridge) fn dialer(
        &self,
        stream: &MediaStream,
        asked: Option<&VoiceUrl>,
    ) -> Result<Dialer, WorkerError> {
        let beside = asked.and_then(|asked| stream.url.stream_beside(asked));
        if let Some(beside) = &beside
            && !self.has_told.swap(true, Ordering::Relaxed)
        {
            let named = &stream.url;
            info!(%named, dialled = %beside, "a stream on its webhook's own host is dialled without TLS, as the webhook was asked");
        }
        let url = beside.as_ref().unwrap_or(&stream.url);
        match stream.written_by {
            WrittenBy::Operator => self.workers.operators_dialer(url.expose()),
            WrittenBy::Client => self.workers.dialer(url.expose()),
        }
    }
}

/// The stream of a `<Connect>` that runs.
pub(in crate::bridge) struct VoiceStream {
    pub(in crate::bridge) id: CommandId,
    stream: Box<MediaStream>,
    /// Its worker has been there, under this id.
    started: Option<StreamId>,
}

impl VoiceStream {
    pub(in crate::bridge) const fn new(id: CommandId, stream: Box<MediaStream>) -> Self {
        Self {
            id,
            stream,
            started: None,
        }
    }

    /// A worker is attached: tells of the first.
    pub(in crate::bridge) fn attached(
        &mut self,
        id: &StreamId,
        facts: &VoiceFacts,
        http: &dyn VoiceHttp,
    ) {
        if self.started.replace(id.clone()).is_none() {
            self.tell(id, StreamEvent::Started, None, facts, http);
        }
    }

    /// It is over. One that never came up has the id that its last worker would have had.
    pub(in crate::bridge) fn ended(
        &self,
        end: StreamEnd,
        last: &StreamId,
        facts: &VoiceFacts,
        http: &dyn VoiceHttp,
    ) {
        let id = self.started.as_ref().unwrap_or(last);
        match end {
            StreamEnd::Closed if self.started.is_some() => {
                self.tell(id, StreamEvent::Stopped, None, facts, http);
            }
            // It was replaced before it came up.
            StreamEnd::Closed => {}
            StreamEnd::Lost => self.failed(id, "the worker cannot be reached", facts, http),
        }
    }

    /// It could not be begun, or broke; why.
    pub(in crate::bridge) fn failed(
        &self,
        id: &StreamId,
        error: &str,
        facts: &VoiceFacts,
        http: &dyn VoiceHttp,
    ) {
        self.tell(id, StreamEvent::Error, Some(error), facts, http);
    }

    fn tell(
        &self,
        id: &StreamId,
        event: StreamEvent,
        error: Option<&str>,
        facts: &VoiceFacts,
        http: &dyn VoiceHttp,
    ) {
        let Some(callback) = &self.stream.status_callback else {
            return;
        };
        let stream = StreamFacts {
            stream: id,
            name: self.stream.name.as_deref(),
        };
        let fields = stream_fields(facts, stream, event, error, SystemTime::now());
        http.notify(callback.webhook.clone(), fields);
    }
}
