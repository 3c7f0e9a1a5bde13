//! The WAV files that lines name as greeting or announcement. Each is read
//! and resampled once and shared, however many lines name it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::lines::PhoneLine;
use crate::media::sounds::Sounds;
use crate::media::wav;

/// Raw mu-law, or why there is none; the reason names the file.
type Loaded = Result<Arc<[u8]>, Arc<str>>;

/// A line's file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line:?}: field \"{field}\": {reason}; the line starts {instead}")]
pub struct SoundProblem {
    line: String,
    field: &'static str,
    reason: Arc<str>,
    instead: &'static str,
}

/// What callers of one line hear instead of the built-in sounds.
#[derive(Clone, Debug, Default)]
pub struct LineSounds {
    /// Its greeting, followed by ringback.
    pub greeting: Option<Arc<[u8]>>,
    /// Its announcement.
    pub announcement: Option<Arc<[u8]>>,
    /// What it goes without.
    pub problems: Vec<SoundProblem>,
}

/// Loads lines' sounds. Blocks on the disk.
#[derive(Debug)]
pub struct SoundLoader {
    sounds: Sounds,
    files: HashMap<String, Loaded>,
    /// Greetings with the ringback that follows them.
    greetings: HashMap<String, Arc<[u8]>>,
}

impl SoundLoader {
    /// A loader for greetings that go on with this ringback.
    #[must_use]
    pub fn new(sounds: Sounds) -> Self {
        Self {
            sounds,
            files: HashMap::new(),
            greetings: HashMap::new(),
        }
    }

    /// Forgets what no line uses any more, and what could not be read: it may
    /// be there by now.
    pub fn tidy(&mut self) {
        self.greetings
            .retain(|_, sound| Arc::strong_count(sound) > 1);
        let greetings = &self.greetings;
        self.files.retain(|path, loaded| {
            let used = |sound: &Arc<[u8]>| Arc::strong_count(sound) > 1;
            greetings.contains_key(path) || loaded.as_ref().is_ok_and(used)
        });
    }

    /// The sounds of a line.
    pub fn load(&mut self, line: &PhoneLine) -> LineSounds {
        let mut loaded = LineSounds::default();
        let problem = |field, reason, instead| SoundProblem {
            line: line.id.as_str().to_owned(),
            field,
            reason,
            instead,
        };
        match self.optional(line.greeting.as_deref(), Self::greeting) {
            Ok(greeting) => loaded.greeting = greeting,
            Err(reason) => loaded
                .problems
                .push(problem("greeting", reason, "without it")),
        }
        match self.optional(line.announcement.as_deref(), Self::file) {
            Ok(announcement) => loaded.announcement = announcement,
            Err(reason) => {
                let instead = "with the built-in one";
                loaded
                    .problems
                    .push(problem("announcement", reason, instead));
            }
        }
        loaded
    }

    fn optional(
        &mut self,
        path: Option<&str>,
        load: fn(&mut Self, &str) -> Loaded,
    ) -> Result<Option<Arc<[u8]>>, Arc<str>> {
        path.map(|path| load(self, path)).transpose()
    }

    fn file(&mut self, path: &str) -> Loaded {
        if let Some(loaded) = self.files.get(path) {
            return loaded.clone();
        }
        let loaded = wav::load(Path::new(path)).map_err(|error| error.to_string().into());
        self.files.insert(path.to_owned(), loaded.clone());
        loaded
    }

    fn greeting(&mut self, path: &str) -> Loaded {
        if let Some(greeting) = self.greetings.get(path) {
            return Ok(greeting.clone());
        }
        let file = self.file(path)?;
        let greeting = self.sounds.greeting(&file);
        self.greetings.insert(path.to_owned(), greeting.clone());
        Ok(greeting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::LineId;
    use crate::core::private::Private;

    fn line(id: &str, greeting: &str, announcement: &str) -> PhoneLine {
        PhoneLine {
            greeting: Some(greeting.into()),
            announcement: Some(announcement.into()),
            ..PhoneLine::bare(LineId::new(id), Private::new("user"))
        }
    }

    #[test]
    fn a_file_that_many_lines_name_is_loaded_once_and_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        wav::save(&path, &[0x12; 160]).unwrap();
        let path = path.to_str().unwrap();
        let mut loader = SoundLoader::new(Sounds::built_in());
        let first = loader.load(&line("a", path, path));
        // Whoever reads it again now finds nothing.
        std::fs::remove_file(path).unwrap();
        let second = loader.load(&line("b", path, path));
        assert_eq!(
            (&first.problems[..], &second.problems[..]),
            (&[][..], &[][..])
        );
        let (greeting, announcement) = (first.greeting.unwrap(), first.announcement.unwrap());
        assert!(Arc::ptr_eq(&greeting, &second.greeting.unwrap()));
        assert!(Arc::ptr_eq(&announcement, &second.announcement.unwrap()));
        assert_eq!(*announcement, [0x12; 160]);
        loader.tidy();
        assert!(loader.load(&line("c", path, path)).problems.is_empty());
        assert_eq!(greeting[..160], announcement[..]);
        assert!(greeting.len() > 160, "ringback follows");
        drop((greeting, announcement, first.problems));
    }

    #[test]
    fn what_cannot_be_read_is_told_of_each_line() {
        let mut loader = SoundLoader::new(Sounds::built_in());
        for id in ["a", "b"] {
            let loaded = loader.load(&line(id, "/no/greeting.wav", "/no/sorry.wav"));
            assert!(loaded.greeting.is_none() && loaded.announcement.is_none());
            let told: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
            let [greeting, sorry] = &told[..] else {
                panic!("{told:?}");
            };
            let start = format!("line \"{id}\": field \"greeting\": /no/greeting.wav: ");
            assert!(greeting.starts_with(&start), "{greeting}");
            assert!(greeting.ends_with("; the line starts without it"));
            let start = format!("line \"{id}\": field \"announcement\": /no/sorry.wav: ");
            assert!(sorry.starts_with(&start), "{sorry}");
            assert!(sorry.ends_with("; the line starts with the built-in one"));
        }
    }
}
