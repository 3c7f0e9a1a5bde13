//! Files that flags, lines and servers name: read whole, from regular files
//! only, bounded in size and in time.
//!
//! Whoever edits a line may name any path. A FIFO would hold whoever opens it, a device may never
//! end, and a network file system whose server is gone answers nothing at all.

use std::fmt;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// How long a file may take to be read.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Files that are being read at once, those included that never come.
const READERS_MAX: usize = 16;

static READERS: AtomicUsize = AtomicUsize::new(0);

/// Opens a regular file for reading. Never waits for a writer, as opening a
/// FIFO would, and does not open devices.
///
/// # Errors
/// When there is none, it may not be read, or it is of another kind.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening some devices does something already.
    must_be_regular(std::fs::metadata(path)?.file_type())?;
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    // And of what was opened: the path may have come to name another.
    must_be_regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Reads a whole file of at most `max_bytes`; it is wiped from memory after
/// use, since it may hold secrets. Waits a few seconds at most.
///
/// # Errors
/// As [`open`]; when it is larger ([`ErrorKind::FileTooLarge`]); when it takes too
/// long ([`ErrorKind::TimedOut`]).
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    read_within(READ_LIMIT, move |path| read_now(path, max_bytes), path)
}

/// Reads in a thread of its own, that is left to itself when it takes too long.
fn read_within<T: Send + 'static>(
    limit: Duration,
    read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    path: &Path,
) -> io::Result<T> {
    let reader = Reader::enter()?;
    let (done, result) = sync_channel(1);
    let path = path.to_owned();
    thread::Builder::new().name("file".into()).spawn(move || {
        let read = read(&path);
        drop(reader);
        // Nobody listens any more when it took too long.
        let _ = done.send(read);
    })?;
    match result.recv_timeout(limit) {
        Ok(read) => read,
        Err(RecvTimeoutError::Timeout) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("not read within {} s", limit.as_secs()),
        )),
        Err(RecvTimeoutError::Disconnected) => Err(ErrorKind::Other.into()),
    }
}

fn read_now(path: &Path, max_bytes: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > max_bytes {
        return Err(too_large(max_bytes));
    }
    // With the capacity set, no copy is left behind by growing.
    let capacity = usize::try_from(size).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity + 1));
    // It may grow meanwhile.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(max_bytes));
    }
    Ok(bytes)
}

fn too_large(max_bytes: u64) -> io::Error {
    let text = match max_bytes >> 20 {
        0 => format!("is larger than {max_bytes} bytes"),
        mib => format!("is larger than {mib} MiB"),
    };
    io::Error::new(ErrorKind::FileTooLarge, text)
}

fn must_be_regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, NotRegular(kind)))
}

/// What a path names instead of a regular file.
#[derive(Debug)]
struct NotRegular(FileType);

impl fmt::Display for NotRegular {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0 {
            kind if kind.is_fifo() => "a FIFO",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        };
        write!(f, "is {what}, not a regular file")
    }
}

impl std::error::Error for NotRegular {}

/// One of the few that read.
struct Reader;

impl Reader {
    fn enter() -> io::Result<Self> {
        if READERS.fetch_add(1, Ordering::AcqRel) < READERS_MAX {
            return Ok(Self);
        }
        READERS.fetch_sub(1, Ordering::AcqRel);
        Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "other files are still being read",
        ))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};
    use std::time::Instant;

    const MAX_BYTES: u64 = 1_000;

    fn refused(path: &Path) -> String {
        let began = Instant::now();
        let error = read(path, MAX_BYTES).unwrap_err().to_string();
        assert!(began.elapsed() < Duration::from_secs(2), "{error}");
        error
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("good"), b"text").unwrap();
        std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
        assert_eq!(**read(&path("good"), 4).unwrap(), *b"text");
        assert_eq!(**read(&path("link"), 4).unwrap(), *b"text");
        let error = read(&path("good"), 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);

        mknodat(CWD, path("fifo"), Kind::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refused(&path("fifo")).contains("a FIFO"));
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert!(refused(&path("socket")).contains("a socket"));
        assert!(refused(Path::new("/dev/zero")).contains("a device"));
        assert!(refused(folder.path()).contains("directory"));
        assert!(refused(&path("none")).contains("No such file"));
        let huge = File::create(path("huge")).unwrap();
        huge.set_len(1 << 40).unwrap();
        assert!(refused(&path("huge")).contains("larger than 1000 bytes"));
    }

    #[test]
    fn a_file_that_never_comes_is_given_up() {
        let (_never, wait) = sync_channel::<()>(1);
        let stuck = move |_: &Path| wait.recv().map_err(io::Error::other);
        let limit = Duration::from_millis(20);
        let error = read_within(limit, stuck, Path::new("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
