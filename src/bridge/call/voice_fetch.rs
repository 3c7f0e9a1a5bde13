//! What a call that TwiML has asks of others by HTTP: documents of webhooks, files that are played, and those who
//! are told.

use std::future::Future;
use std::pin::Pin;

use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{Document, VoiceUrl};
use crate::core::voice::webhook::FormFields;
use crate::core::voice::{CommandId, FetchFailure};

/// An answer that is waited for.
pub type Waited<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Asks webhooks, and fetches files. A document comes within [`crate::core::voice::FETCH_LIMIT`], a file within twice that.
pub trait VoiceHttp: Send + Sync {
    /// Asks what is to be done.
    fn fetch(&self, webhook: Webhook, fields: FormFields)
    -> Waited<Result<Document, FetchFailure>>;

    /// Tells a webhook, in a task of its own. What it answers is for nobody.
    fn notify(&self, webhook: Webhook, fields: FormFields);

    /// Whether there is a service that speaks.
    fn can_speak(&self) -> bool;

    /// A WAV file of a text; `voice` is as TwiML writes it.
    fn speech(&self, text: Private, voice: Option<String>)
    -> Waited<Result<Vec<u8>, FetchFailure>>;

    /// The bytes of a file of sound.
    fn sound(&self, url: VoiceUrl, written_by: WrittenBy) -> Waited<Result<Vec<u8>, FetchFailure>>;
}

/// What one call waits for: at most one thing of a kind, and a new one takes the place of the one before.
pub(in crate::bridge) struct Pending<T>(Option<(CommandId, Waited<T>)>);

impl<T> Pending<T> {
    /// Nothing is waited for.
    pub(in crate::bridge) const fn nothing() -> Self {
        Self(None)
    }

    /// Waits for the answer to a command, and for no other any more.
    pub(in crate::bridge) fn wait_for(&mut self, id: CommandId, answer: Waited<T>) {
        self.0 = Some((id, answer));
    }

    /// What is waited for has lost its use.
    pub(in crate::bridge) fn forget(&mut self) {
        self.0 = None;
    }

    /// The answer, once; never, while nothing is waited for. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> (CommandId, T) {
        let (id, answer) = match &mut self.0 {
            Some((id, answer)) => (*id, answer.as_mut().await),
            None => std::future::pending().await,
        };
        self.0 = None;
        (id, answer)
    }
}
