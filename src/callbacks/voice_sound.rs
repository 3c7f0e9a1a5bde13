//! Files that `<Play>` names: fetched as documents are, by the same connections and rules.

use reqwest::Response;
use tokio::time::timeout;

use super::voice_client::{VoiceClient, body_of};
use crate::core::outward::WrittenBy;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::voice::webhook::FormFields;
use crate::core::voice::{FETCH_LIMIT, FetchFailure};

/// Largest file: ten minutes at 16 kHz and 16 bit have 19 MB.
pub const SOUND_BYTES_MAX: usize = 20 << 20;

impl VoiceClient {
    /// The bytes of a file of sound. Takes [`FETCH_LIMIT`] at most, redirects included.
    ///
    /// # Errors
    /// When the file cannot be had, or is too large.
    pub async fn sound(
        &self,
        url: &VoiceUrl,
        written_by: WrittenBy,
    ) -> Result<Vec<u8>, FetchFailure> {
        let webhook = Webhook {
            url: url.clone(),
            method: HttpMethod::Get,
            written_by,
        };
        let whole = async {
            let (response, _) = self.follow(&webhook, FormFields::default()).await?;
            sound_of(response).await
        };
        match timeout(FETCH_LIMIT, whole).await {
            Ok(result) => result,
            Err(_) => Err(FetchFailure::TimedOut),
        }
    }
}

/// The bytes of a file of sound, up to [`SOUND_BYTES_MAX`].
pub(super) async fn sound_of(response: Response) -> Result<Vec<u8>, FetchFailure> {
    let body = body_of(response, SOUND_BYTES_MAX).await?;
    body.ok_or_else(|| {
        let most = SOUND_BYTES_MAX >> 20;
        FetchFailure::NoAnswer(format!("it is larger than {most} MB"))
    })
}
