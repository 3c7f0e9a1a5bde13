//! One-way copies of the call's audio: `<Start><Stream>` and `<Stop><Stream>`.

use super::super::voice_copy::NewCopy;
use super::Driver;
use crate::core::ids::StreamId;
use crate::core::twiml::document::MediaStream;
use crate::core::voice::CommandId;

impl Driver {
    /// A copy begins with what is said and heard now, though its socket is opened only then.
    pub(super) fn start_copy(&mut self, id: CommandId, stream: Box<MediaStream>) {
        let parts = &mut self.parts;
        let tools = parts.voice.tools.clone();
        let dialer = tools.dialers.dialer(&stream, parts.voice.asked());
        let copy = NewCopy {
            id,
            sid: StreamId::random(),
            parameters: parts.publisher.copy_parameters(&stream.parameters),
            stream,
            facts: parts.voice.facts.clone(),
            tools,
        };
        let is_begun = match dialer {
            Ok(dialer) => parts.voice.copies.start(copy, dialer, &parts.media),
            Err(error) => {
                copy.cannot_be_dialled(&error);
                false
            }
        };
        if !is_begun {
            self.with_voice(|voice| voice.handle_copy_ended(id));
        }
    }

    pub(super) fn stop_copy(&mut self, id: CommandId) {
        let parts = &mut self.parts;
        parts.voice.copies.forget(id, &parts.media);
    }

    /// A copy ended by itself.
    pub(super) fn copy_ended(&mut self, id: CommandId) {
        self.stop_copy(id);
        self.with_voice(|voice| voice.handle_copy_ended(id));
    }
}
