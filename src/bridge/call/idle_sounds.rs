//! What a caller hears while nothing is queued for him.

use std::sync::Arc;

use crate::core::call::IdleSound;
use crate::core::media_session::downlink::IdleAudio;
use crate::fleet::LineProfile;
use crate::media::sounds::Sounds;

/// The sounds of all calls.
#[derive(Clone)]
pub(in crate::bridge) struct IdleSounds {
    sounds: Sounds,
    /// Whether a waiting caller hears ringback; silence otherwise.
    ringback: bool,
}

impl IdleSounds {
    pub(in crate::bridge) const fn new(sounds: Sounds, ringback: bool) -> Self {
        Self { sounds, ringback }
    }

    /// What a caller of this line hears.
    pub(in crate::bridge) fn audio(&self, sound: IdleSound, line: &LineProfile) -> IdleAudio {
        if let (IdleSound::Waiting, Some(greeting)) = (sound, &line.greeting) {
            return IdleAudio::Once(greeting.clone());
        }
        match sound {
            IdleSound::Silence => IdleAudio::Silence,
            IdleSound::Hold => IdleAudio::Loop(self.hold()),
            IdleSound::Announcement => {
                let own = line.announcement.as_ref();
                IdleAudio::Once(own.unwrap_or(&self.sounds.unavailable).clone())
            }
            IdleSound::Waiting | IdleSound::Ringback if self.ringback => {
                IdleAudio::Loop(self.sounds.ringback.clone())
            }
            IdleSound::Waiting | IdleSound::Ringback => IdleAudio::Silence,
        }
    }

    /// What a side that is held hears.
    pub(in crate::bridge) fn hold(&self) -> Arc<[u8]> {
        self.sounds.hold.clone()
    }
}
