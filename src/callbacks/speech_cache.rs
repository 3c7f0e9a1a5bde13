//! What was spoken, kept on disk by its hash: greetings are the same for every caller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use super::voice_sound::SOUND_BYTES_MAX;
use crate::files;

/// Most bytes that are kept; beyond, what was not heard for longest goes.
const KEPT_BYTES_MAX: u64 = 1 << 30;
/// Most files.
const KEPT_FILES_MAX: usize = 20_000;
const ENDING: &str = "wav";

/// A folder of files that were spoken. Clones share it. No failure of it is more than a text that is spoken again.
#[derive(Clone, Debug)]
pub(super) struct SpeechCache(Arc<PathBuf>);

impl SpeechCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(Arc::new(folder))
    }

    /// What is kept under this name.
    pub(super) async fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        let reading = spawn_blocking(move || read(&path).ok());
        reading.await.ok().flatten()
    }

    /// Keeps it under this name.
    pub(super) async fn put(&self, name: String, bytes: &[u8]) {
        let (folder, path) = (self.0.clone(), self.path(&name));
        let bytes = bytes.to_vec();
        let writing = spawn_blocking(move || {
            if let Err(error) = write(&folder, &path, &bytes) {
                warn!(folder = %folder.display(), %error, "what was spoken is not kept: see --say-cache");
            }
        });
        let _ = writing.await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension(ENDING)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = files::read(path, SOUND_BYTES_MAX as u64)?;
    // It was heard now: others go first.
    if let Ok(file) = fs::File::options().append(true).open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
    Ok(bytes.to_vec())
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    make_room(folder, bytes.len() as u64)?;
    // Nobody reads half a file, whoever else writes the same.
    let unique = format!("{:016x}.part", rand::random::<u64>());
    let part = folder.join(unique);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Removes what was not heard for longest, until so many bytes more may come. Other files of the folder are not ours.
fn make_room(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut kept = Vec::new();
    let mut total = bytes;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_none_or(|ending| ending != ENDING)
        {
            continue;
        }
        let Ok(about) = entry.metadata() else {
            continue;
        };
        let heard = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        total += about.len();
        kept.push((heard, about.len(), entry.path()));
    }
    kept.sort_unstable();
    let mut files = kept.len() + 1;
    for (_, bytes, path) in kept {
        if total <= KEPT_BYTES_MAX && files <= KEPT_FILES_MAX {
            break;
        }
        debug!(path = %path.display(), "a spoken text makes room");
        if fs::remove_file(&path).is_ok() {
            total -= bytes;
            files -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_was_spoken_is_kept_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = SpeechCache::new(folder.path().join("say"));
        assert_eq!(cache.get("a1").await, None);
        cache.put("a1".into(), b"RIFF").await;
        assert_eq!(cache.get("a1").await.as_deref(), Some(&b"RIFF"[..]));
        let names = fs::read_dir(folder.path().join("say")).unwrap().count();
        assert_eq!(names, 1, "no part is left");
        // A folder that cannot be made costs nothing but the cache.
        fs::write(folder.path().join("file"), "").unwrap();
        let cache = SpeechCache::new(folder.path().join("file"));
        cache.put("a1".into(), b"RIFF").await;
        assert_eq!(cache.get("a1").await, None);
    }

    #[test]
    fn what_was_not_heard_for_longest_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, age_s) in [("new.wav", 1), ("old.wav", 3), ("older.txt", 9)] {
            let path = folder.path().join(name);
            fs::write(&path, "x").unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(age_s)).unwrap();
        }
        make_room(folder.path(), KEPT_BYTES_MAX - 1).unwrap();
        let left = |name: &str| folder.path().join(name).exists();
        assert!(left("new.wav") && !left("old.wav") && left("older.txt"));
    }
}
