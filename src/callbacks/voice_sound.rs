//! Files that `<Play>` names: fetched as documents are, by the same connections and rules.

use tokio::time::timeout;

use super::voice_client::{REDIRECTS_MAX, VoiceClient, failure, redirect_of};
use crate::core::outward::WrittenBy;
use crate::core::twiml::VoiceUrl;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::voice::webhook::{FormFields, VoiceRequest};
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
        match timeout(FETCH_LIMIT, self.follow_sound(url, written_by)).await {
            Ok(result) => result,
            Err(_) => Err(FetchFailure::TimedOut),
        }
    }

    async fn follow_sound(
        &self,
        url: &VoiceUrl,
        written_by: WrittenBy,
    ) -> Result<Vec<u8>, FetchFailure> {
        let webhook = Webhook {
            url: url.clone(),
            method: HttpMethod::Get,
            written_by,
        };
        let signer = self.signer_for(url, written_by);
        let mut request = VoiceRequest::new(&webhook, FormFields::default(), signer);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(&request, written_by).await?;
            let status = response.status();
            match redirect_of(&response, &request.url) {
                Some(to) => {
                    let signer = self.signer_for(&to, written_by);
                    request = request.redirected(status.as_u16(), to, signer);
                }
                None if !status.is_success() => {
                    return Err(FetchFailure::Status(status.as_u16()));
                }
                None => return read(response).await,
            }
        }
        Err(FetchFailure::TooManyRedirects)
    }
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, FetchFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if body.len() + chunk.len() > SOUND_BYTES_MAX {
            let most = SOUND_BYTES_MAX >> 20;
            let reason = format!("it is larger than {most} MB");
            return Err(FetchFailure::NoAnswer(reason));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
