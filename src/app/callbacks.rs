//! Joins the callbacks with the calls that they tell of, and with the database
//! that keeps them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::bridge::call_store::StatusListener;
use crate::bridge::context::{IncomingAsk, VoiceHttp, Waited};
use crate::callbacks::client::ClientSettings;
use crate::callbacks::outbox_store::Answer;
use crate::callbacks::{
    self, CallbackError, CallbackTarget, Client, Incoming, OutboxStore, SpeechClient,
    SpeechSettings, SpoolError, StatusCallbacks, VoiceClient, WebhookDispatcher,
};
use crate::config::{CallbacksConfig, ServiceUrl, SpeechConfig};
use crate::core::call::CallDecision;
use crate::core::call_object::CallObject;
use crate::core::callback::{CallChange, CallbackReceiver, Kept, WebhookEvent};
use crate::core::outward::{Outward, WrittenBy};
use crate::core::private::{Private, Secret};
use crate::core::signature::Signer;
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{Document, VoiceUrl};
use crate::core::voice::webhook::FormFields;
use crate::core::voice::{FETCH_LIMIT, FetchFailure};
use crate::store::{Store, StoreError};

/// How long what can be delivered at the end may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Files of `<Play>` that are fetched at a time.
const SOUNDS_AT_ONCE: usize = 16;
/// Most status callbacks of streams and the like that are under way.
const NOTICES_MAX: usize = 1_024;

/// The callbacks, running.
pub struct Callbacks {
    /// Hears of calls.
    pub status: StatusCallbacks,
    /// Delivers.
    pub dispatcher: WebhookDispatcher,
    /// Asked before a call is taken, where there is a URL for it.
    pub ask: Option<Arc<dyn IncomingAsk>>,
}

/// What signs callbacks and upgrades, where there is a token.
#[must_use]
pub fn signer(config: &CallbacksConfig) -> Option<Signer> {
    config.auth_token.clone().map(Signer::new)
}

/// Starts delivering. Calls may have an address of their own, so that it runs
/// without any in the flags too.
///
/// # Errors
/// When an address is unusable, or TLS cannot be set up.
pub fn start(
    config: &CallbacksConfig,
    outward: Arc<Outward>,
    store: Option<&Store>,
    node: &str,
) -> Result<Callbacks, CallbackError> {
    let settings = ClientSettings {
        method: config.method,
        timeout: config.timeout,
        signer: signer(config),
    };
    let client = Client::new(settings, None, outward)?;
    let target = |url: &Option<ServiceUrl>| {
        let url = url.as_ref();
        url.map(|url| CallbackTarget::parse(url.expose()))
            .transpose()
    };
    let (common, incoming) = (target(&config.status_url)?, target(&config.incoming_url)?);
    log_receivers(config, &common, &incoming, store.is_some());
    let outbox_store = store.map(|store| -> Arc<dyn OutboxStore> {
        Arc::new(StoreSpool {
            store: store.clone(),
            node: node.into(),
        })
    });
    let (status, dispatcher) = callbacks::start(client.clone(), common, outbox_store);
    let ask = incoming.map(|target| -> Arc<dyn IncomingAsk> {
        Arc::new(Question(Incoming::new(client, target, &status)))
    });
    Ok(Callbacks {
        status,
        dispatcher,
        ask,
    })
}

fn log_receivers(
    config: &CallbacksConfig,
    common: &Option<CallbackTarget>,
    incoming: &Option<CallbackTarget>,
    is_kept: bool,
) {
    let signed = config.auth_token.is_some();
    if let Some(receiver) = common {
        info!(%receiver, signed, "status callbacks");
    }
    if let Some(receiver) = incoming {
        info!(%receiver, signed, "incoming callback");
    }
    if common.is_some() && !is_kept {
        warn!("status callbacks are kept in memory only and lost with the process: see --data-dir");
    }
}

/// Tells status callbacks of calls.
pub struct CallbackListener(pub StatusCallbacks);

impl StatusListener for CallbackListener {
    fn changed(&self, call: &CallObject, receiver: Option<&CallbackReceiver>) {
        self.0.changed(call, receiver);
    }

    fn tell(&self, event: WebhookEvent) {
        self.0.tell(event);
    }
}

struct Question(Incoming);

impl IncomingAsk for Question {
    fn ask(&self, call: CallObject) -> Pin<Box<dyn Future<Output = CallDecision> + Send>> {
        let incoming = self.0.clone();
        Box::pin(async move { incoming.ask(call).await })
    }
}

/// What asks voice webhooks. `outward` judges addresses that clients wrote.
///
/// # Errors
/// When TLS cannot be set up.
pub fn voice_http(
    signer: Option<Signer>,
    outward: Arc<Outward>,
    speech: Option<&SpeechConfig>,
) -> Result<Arc<dyn VoiceHttp>, CallbackError> {
    let speech = speech.map(speech_settings).map(SpeechClient::new);
    Ok(Arc::new(VoiceWebhooks {
        client: VoiceClient::new(signer, None, outward)?,
        speech: speech.transpose()?,
        loading: Arc::new(Semaphore::new(SOUNDS_AT_ONCE)),
        telling: Arc::new(Semaphore::new(NOTICES_MAX)),
    }))
}

fn speech_settings(config: &SpeechConfig) -> SpeechSettings {
    SpeechSettings {
        url: Secret::new(config.url.expose().to_owned()),
        key: config.key.clone(),
        model: config.model.clone(),
        voice: config.voice.clone(),
        folder: config.folder.clone(),
    }
}

struct VoiceWebhooks {
    client: VoiceClient,
    /// Speaks, where there is a service for it.
    speech: Option<SpeechClient>,
    /// Files are fetched by so few at a time, whose memory is bounded with them.
    loading: Arc<Semaphore>,
    /// Those who are told; one beyond that is not.
    telling: Arc<Semaphore>,
}

impl VoiceHttp for VoiceWebhooks {
    fn fetch(
        &self,
        webhook: Webhook,
        fields: FormFields,
    ) -> Waited<Result<Document, FetchFailure>> {
        let client = self.client.clone();
        Box::pin(async move { client.fetch(&webhook, fields).await })
    }

    fn notify(&self, webhook: Webhook, fields: FormFields) {
        let Ok(place) = self.telling.clone().try_acquire_owned() else {
            warn!(url = %webhook.url, "too many wait to be told: one is not");
            return;
        };
        let client = self.client.clone();
        tokio::spawn(async move {
            let told = client.fetch(&webhook, fields).await;
            // What it answers need be no TwiML.
            if let Err(error @ (FetchFailure::NoAnswer(_) | FetchFailure::TimedOut)) = told {
                info!(url = %webhook.url, %error, "who was to be told of a call does not answer");
            }
            drop(place);
        });
    }

    fn can_speak(&self) -> bool {
        self.speech.is_some()
    }

    fn speech(
        &self,
        text: Private,
        voice: Option<String>,
    ) -> Waited<Result<Vec<u8>, FetchFailure>> {
        let (speech, loading) = (self.speech.clone(), self.loading.clone());
        Box::pin(async move {
            let Some(speech) = speech else {
                return Err(FetchFailure::NoAnswer("there is no --say-url".into()));
            };
            let _place = place(&loading).await?;
            speech.speak(text.expose(), voice.as_deref()).await
        })
    }

    fn sound(&self, url: VoiceUrl, written_by: WrittenBy) -> Waited<Result<Vec<u8>, FetchFailure>> {
        let (client, loading) = (self.client.clone(), self.loading.clone());
        Box::pin(async move {
            let _place = place(&loading).await?;
            client.sound(&url, written_by).await
        })
    }
}

/// A place among those that fetch. Whoever waits for that long hears nothing.
async fn place(loading: &Semaphore) -> Result<SemaphorePermit<'_>, FetchFailure> {
    let place = timeout(FETCH_LIMIT, loading.acquire()).await;
    // It is never closed.
    place
        .ok()
        .and_then(Result::ok)
        .ok_or(FetchFailure::TimedOut)
}

struct StoreSpool {
    store: Store,
    node: Arc<str>,
}

impl OutboxStore for StoreSpool {
    fn kept(&self, most: usize) -> Answer<Kept> {
        let (store, node) = (self.store.clone(), self.node.clone());
        Box::pin(async move { store.callbacks(&node, most).await.map_err(explain) })
    }

    fn apply(&self, changes: Vec<CallChange>) -> Answer<()> {
        let (store, node) = (self.store.clone(), self.node.clone());
        Box::pin(async move {
            let changed = store.change_callbacks(&node, &changes).await;
            changed.map_err(explain)
        })
    }
}

fn explain(error: StoreError) -> SpoolError {
    SpoolError {
        transient: error.is_transient(),
        reason: error.to_string(),
    }
}
