//! What a caller hears of TwiML: files and spoken texts, which are fetched and decoded first, and digits that are sent to him.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::voice_fetch::{Pending, VoiceHttp, Waited};
use crate::core::voice::{CommandId, FetchFailure, PromptSound};
use crate::media::wav;

/// The longest file (10 minutes), with room: media that never comes up plays nothing, and says nothing.
const PLAY_LIMIT: Duration = Duration::from_secs(640);

/// Mu-law at 8 kHz, or why there is none.
pub(in crate::bridge) type Sound = Result<Arc<[u8]>, String>;

/// The sound of one call that is under way: fetched, or heard.
pub(in crate::bridge) struct VoiceSound {
    loading: Pending<Sound>,
    /// The command whose sound is heard, and when that has taken too long.
    playing: Option<(CommandId, Instant)>,
    /// What was heard last: `loop` plays it again and again.
    last: Option<(PromptSound, Arc<[u8]>)>,
    /// What is fetched.
    wanted: Option<PromptSound>,
}

impl VoiceSound {
    /// Nothing is heard.
    pub(in crate::bridge) const fn nothing() -> Self {
        Self {
            loading: Pending::nothing(),
            playing: None,
            last: None,
            wanted: None,
        }
    }

    /// Gets a sound; [`VoiceSound::loaded`] brings it.
    pub(in crate::bridge) fn load(
        &mut self,
        id: CommandId,
        wanted: PromptSound,
        http: &dyn VoiceHttp,
    ) {
        let last = self.last.as_ref().filter(|(known, _)| *known == wanted);
        let sound: Waited<Sound> = match (last, &wanted) {
            (Some((_, sound)), _) => Box::pin(std::future::ready(Ok(sound.clone()))),
            (None, PromptSound::File { url, written_by }) => {
                let bytes = http.sound(url.clone(), *written_by);
                Box::pin(decoded(bytes, url.to_string()))
            }
            (None, PromptSound::Speech { text, voice, .. }) => {
                let bytes = http.speech(text.clone(), voice.clone());
                Box::pin(decoded(bytes, "--say-url".to_owned()))
            }
        };
        self.wanted = Some(wanted);
        self.loading.wait_for(id, sound);
    }

    /// The sound that is to be heard now; never, while none is fetched. Cancel-safe.
    pub(in crate::bridge) async fn loaded(&mut self) -> (CommandId, Sound) {
        let (id, sound) = self.loading.next().await;
        let wanted = self.wanted.take();
        if let Ok(sound) = &sound {
            self.last = wanted.map(|wanted| (wanted, sound.clone()));
        }
        (id, sound)
    }

    /// The sound of this command is heard from now on.
    pub(in crate::bridge) fn begin(&mut self, id: CommandId, now: Instant) {
        self.playing = Some((id, now + PLAY_LIMIT));
    }

    /// Nothing is fetched or heard any more; whether something was heard.
    pub(in crate::bridge) fn stop(&mut self) -> bool {
        self.loading.forget();
        self.wanted = None;
        self.playing.take().is_some()
    }

    /// All has been heard: whose sound it was.
    pub(in crate::bridge) fn end(&mut self) -> Option<CommandId> {
        self.playing.take().map(|(id, _)| id)
    }

    /// When [`VoiceSound::take_late`] has something.
    pub(in crate::bridge) fn poll_timeout(&self) -> Option<Instant> {
        self.playing.map(|(_, until)| until)
    }

    /// The command whose sound does not end.
    pub(in crate::bridge) fn take_late(&mut self, now: Instant) -> Option<CommandId> {
        let late = self.playing.take_if(|(_, until)| *until <= now);
        late.map(|(id, _)| id)
    }
}

async fn decoded(bytes: Waited<Result<Vec<u8>, FetchFailure>>, shown: String) -> Sound {
    let bytes = bytes.await.map_err(|failure| failure.to_string())?;
    // A minute at 48 kHz takes longer to read than calls of the same thread may wait.
    let decoding = tokio::task::spawn_blocking(move || wav::decode(Path::new(&shown), &bytes));
    match decoding.await {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(_) => Err("it could not be read".to_owned()),
    }
}
