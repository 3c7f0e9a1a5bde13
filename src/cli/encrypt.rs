//! `sipbridge encrypt --line-id ID`: reads a password from standard input and
//! prints the form to store, and nothing else.

use std::io::{self, Read};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::{EXIT_FAILURE, EXIT_USAGE};
use crate::config::{self, RawArgs};
use crate::core::private::Secret;

/// Longest password taken, in bytes.
const PASSWORD_MAX_BYTES: usize = 1_024;

/// Why there is no password to encrypt.
#[derive(Debug, thiserror::Error)]
enum PasswordError {
    #[error("cannot read the password from standard input: {0}")]
    Unreadable(#[from] io::Error),
    #[error("the password on standard input is empty")]
    Empty,
    #[error("the password on standard input is longer than {PASSWORD_MAX_BYTES} bytes")]
    TooLong,
    #[error("the password on standard input is not UTF-8 text on one line")]
    NotOneLine,
}

/// Runs the subcommand; returns the exit code of the process.
pub fn main(line_id: &str, given: RawArgs) -> ExitCode {
    if line_id.is_empty() {
        eprintln!(
            "sipbridge: --line-id is empty: it must be the id of the line that uses the password"
        );
        return ExitCode::from(EXIT_USAGE);
    }
    let key = match config::encryption_key(given) {
        Ok(key) => key,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("sipbridge: {mistake}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match read_password(io::stdin().lock()) {
        Ok(password) => {
            println!("{}", key.encrypt(line_id, &password));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sipbridge: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Reads to the end of the input; one line end at its end does not count.
fn read_password(input: impl Read) -> Result<Secret, PasswordError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX_BYTES + 3));
    // Two more for the line end, one to see that there is too much.
    let most = PASSWORD_MAX_BYTES as u64 + 3;
    input.take(most).read_to_end(&mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| PasswordError::NotOneLine)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err(PasswordError::Empty),
        text if text.len() > PASSWORD_MAX_BYTES => Err(PasswordError::TooLong),
        text if text.contains(['\n', '\r', '\0']) => Err(PasswordError::NotOneLine),
        text => Ok(Secret::new(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<String, String> {
        read_password(input)
            .map(|password| password.expose().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_end_does_not_belong_to_the_password() {
        assert_eq!(read(b"pw"), Ok("pw".into()));
        assert_eq!(read(b"pw\n"), Ok("pw".into()));
        assert_eq!(read(b" p w \r\n"), Ok(" p w ".into()));
        let longest = vec![b'x'; PASSWORD_MAX_BYTES];
        assert!(read(&longest).is_ok());
    }

    #[test]
    fn what_is_no_password_is_refused() {
        for input in [
            &b""[..],
            b"\n",
            b"a\nb",
            b"a\n\n",
            b"\xff",
            &[b'x'; PASSWORD_MAX_BYTES + 1],
        ] {
            assert!(read(input).is_err(), "{input:?}");
        }
    }
}
