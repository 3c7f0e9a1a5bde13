//! Which certificates of other bridges' APIs are taken.
//!
//! Bridges know each other by IP address, which a certificate seldom names. So one is taken that
//!
//! - is this bridge's own (`--api-tls-cert`): all may have the same, also one that nobody has signed; or
//! - comes from a root (`--api-ca`, else the public ones) and names the address that is asked, or
//!   one of the names that our own certificate has.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

use crate::api::server::ApiError;
use crate::api::tls::{certificates, file_error};
use crate::config::Config;

/// Most names of our own certificate that are tried.
const NAMES_MAX: usize = 16;

/// The files by which certificates of other bridges are judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrustFiles<'a> {
    /// `--api-ca`.
    pub roots: Option<&'a Path>,
    /// `--api-tls-cert`.
    pub own: Option<&'a Path>,
}

impl<'a> TrustFiles<'a> {
    /// Those of the flags.
    #[must_use]
    pub fn of(config: &'a Config) -> Self {
        Self {
            roots: config.api_ca.as_deref(),
            own: config.api_tls.as_ref().map(|(own, _)| own.as_path()),
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// When one cannot be read, or holds no certificate.
    pub fn client_config(self) -> Result<ClientConfig, ApiError> {
        let failed = |error: &dyn std::error::Error| ApiError::Client(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let by_roots =
            WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone())
                .build()
                .map_err(|error| failed(&error))?;
        let own = self.own()?;
        let names = own.as_ref().map(names).unwrap_or_default();
        let verifier = BridgeVerifier {
            by_roots,
            own,
            names,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(config)
    }

    fn roots(self) -> Result<RootCertStore, ApiError> {
        let mut roots = RootCertStore::empty();
        let Some(file) = self.roots else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(roots);
        };
        for certificate in certificates("api-ca", file)? {
            let added = roots.add(certificate);
            added.map_err(|error| file_error("api-ca", file, error.to_string()))?;
        }
        Ok(roots)
    }

    fn own(self) -> Result<Option<CertificateDer<'static>>, ApiError> {
        let file = self.own.map(|file| certificates("api-tls-cert", file));
        Ok(file.transpose()?.and_then(|chain| chain.into_iter().next()))
    }
}

/// The names that a certificate has; a name that it covers for each wildcard.
fn names(certificate: &CertificateDer<'static>) -> Vec<ServerName<'static>> {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let names = parsed
        .valid_dns_names()
        .map(|name| match name.strip_prefix("*.") {
            Some(above) => format!("bridge.{above}"),
            None => name.to_owned(),
        });
    let names = names.filter_map(|name| ServerName::try_from(name).ok());
    names.take(NAMES_MAX).collect()
}

#[derive(Debug)]
struct BridgeVerifier {
    by_roots: Arc<WebPkiServerVerifier>,
    own: Option<CertificateDer<'static>>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for BridgeVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // That the peer has its key, as we have, is shown by the signature of the handshake.
        if self.own.as_ref() == Some(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let verify = |name: &ServerName<'_>| {
            self.by_roots
                .verify_server_cert(certificate, intermediates, name, ocsp, now)
        };
        let mut verified = verify(asked);
        for name in &self.names {
            match &verified {
                Err(error) if is_of_another_name(error) => verified = verify(name),
                _ => break,
            }
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_roots
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_roots
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_roots.supported_verify_schemes()
    }
}

const fn is_of_another_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

/// Why a peer's certificate was not taken, where that is why a request failed.
#[must_use]
pub fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why.to_string());
        }
        // The source of an `io::Error` is not what it holds, but what that comes from.
        let held = error.downcast_ref::<std::io::Error>();
        cause = match held.and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
