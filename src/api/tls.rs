//! TLS of the API's port: `--api-tls-cert` and `--api-tls-key`, read at the start.
//!
//! A handshake runs in the task of its connection, which counts as one that has asked nothing yet:
//! who dawdles holds up nobody, and makes room for those that come.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, version};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::server::ApiError;
use crate::files;

/// How long a handshake may take, the wait for its first byte included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest file of certificates; all public roots together have 250 kB.
const CERTIFICATES_MAX_BYTES: u64 = 4 << 20;
/// Largest file of a key; one of RSA with 16,384 bits has 13 kB.
const KEY_MAX_BYTES: u64 = 64 << 10;
/// What a TLS connection begins with: the type of a handshake record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Our certificate, and how connections are taken with it.
#[derive(Clone)]
pub struct ApiTls(TlsAcceptor);

/// What a connection turned out to be.
pub(super) enum Opened {
    /// The handshake is done.
    Tls(Box<TlsStream<TcpStream>>),
    /// It did not begin with one: plain HTTP most likely. Nothing of it was read.
    Plain(TcpStream),
}

impl ApiTls {
    /// Reads the certificate, with what leads to its root after it, and its key.
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the two do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, ApiError> {
        let chain = certificates("api-tls-cert", certificate)?;
        let refused = |reason: String| file_error("api-tls-key", key, reason);
        let text = files::read(key, KEY_MAX_BYTES).map_err(|error| refused(error.to_string()))?;
        let secret = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| refused("it holds no PEM key without a password".to_owned()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| ApiError::Client(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| refused(format!("it does not fit --api-tls-cert: {error}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands; `None` where the peer left, took too long, or would not.
    pub(super) async fn open(&self, stream: TcpStream) -> Option<Opened> {
        let opening = async {
            if !begins_with_handshake(&stream).await? {
                return Ok(Opened::Plain(stream));
            }
            let stream = self.0.accept(stream).await?;
            io::Result::Ok(Opened::Tls(Box::new(stream)))
        };
        match timeout(HANDSHAKE_TIMEOUT, opening).await {
            Ok(Ok(opened)) => Some(opened),
            Ok(Err(error)) => {
                debug!(%error, "a TLS handshake for the API failed");
                None
            }
            Err(_) => {
                debug!("a TLS handshake for the API took too long");
                None
            }
        }
    }
}

async fn begins_with_handshake(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [HANDSHAKE_RECORD]),
    }
}

/// The certificates in the PEM file of a flag; one at least.
///
/// # Errors
/// When it cannot be read, or holds none.
pub(super) fn certificates(
    flag: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let refused = |reason: String| file_error(flag, file, reason);
    let text =
        files::read(file, CERTIFICATES_MAX_BYTES).map_err(|error| refused(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| refused(error.to_string()))?;
    if found.is_empty() {
        return Err(refused("it holds no PEM certificate".to_owned()));
    }
    Ok(found)
}

pub(super) fn file_error(flag: &'static str, file: &Path, reason: String) -> ApiError {
    let file = PathBuf::from(file);
    ApiError::TlsFile { flag, file, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;

    fn refusal(certificate: &Path, key: &Path) -> String {
        let refused = ApiTls::read(certificate, key).err();
        refused.expect("a refusal").to_string()
    }

    #[test]
    fn what_is_no_certificate_with_its_key_is_refused_by_the_name_of_its_flag() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let names = ["bridge.example.com".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let certificate = file("cert.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let other = KeyPair::generate().expect("a key").serialize_pem();
        let (other, text) = (file("other.pem", &other), file("text", "no PEM"));
        assert!(ApiTls::read(&certificate, &key).is_ok());
        let huge = folder.path().join("huge");
        let made = std::fs::File::create(&huge).expect("a file");
        made.set_len(1 << 40).expect("a length");
        let none = Path::new("/none/such");
        for (certificate, key, flag, said) in [
            (&certificate, &other, "--api-tls-key", "does not fit"),
            (&certificate, &certificate, "--api-tls-key", "no PEM key"),
            (&certificate, &huge, "--api-tls-key", "larger than"),
            (&text, &key, "--api-tls-cert", "no PEM certificate"),
            (&key, &key, "--api-tls-cert", "no PEM certificate"),
            (&huge, &key, "--api-tls-cert", "larger than"),
            (&none.to_owned(), &key, "--api-tls-cert", "No such file"),
        ] {
            let refusal = refusal(certificate, key);
            assert!(
                refusal.contains(flag) && refusal.contains(said),
                "{refusal}"
            );
        }
    }
}
