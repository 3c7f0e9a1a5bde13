//! One bridge for an SQLite file: a lock on a file beside it, which the system
//! takes back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Held for as long as the file is open.
pub(super) fn claim(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::other(format!(
            "another bridge uses it (and holds {}); an SQLite file is for one bridge",
            Path::new(&name).display()
        ))),
        Err(error) => Err(error.into()),
    }
}
