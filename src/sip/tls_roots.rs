//! Which roots the certificates of SIP servers must come from. Without any,
//! nothing is trusted: a server is unverified only where the operator says so.

use std::path::Path;

/// Where systems keep the roots they trust.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// How servers are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRoots {
    /// By the certificates in this PEM file.
    File(String),
    /// Not at all, as `--tls-insecure` asks.
    Unverified,
}

/// Why no server can be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTlsRoots {
    /// The system has none.
    #[error(
        "no trusted roots are found for TLS towards SIP servers: install the package ca-certificates, name a PEM file with --tls-ca, or do without verification by --tls-insecure"
    )]
    Absent,
    /// A file that was named is none of certificates.
    #[error("{file} holds no PEM certificate, so that no SIP server could be verified by it")]
    NotPem {
        /// The file.
        file: String,
    },
}

/// Finds the roots: those of `given`, else the system's.
///
/// # Errors
/// When there are none and verification was not given up.
pub fn find(given: Option<&str>, insecure: bool) -> Result<TlsRoots, NoTlsRoots> {
    find_among(given, &SYSTEM_ROOTS, insecure)
}

fn find_among(
    given: Option<&str>,
    system: &[&str],
    insecure: bool,
) -> Result<TlsRoots, NoTlsRoots> {
    if insecure {
        return Ok(TlsRoots::Unverified);
    }
    if let Some(file) = given {
        let file = file.to_owned();
        return match holds_certificate(&file) {
            true => Ok(TlsRoots::File(file)),
            false => Err(NoTlsRoots::NotPem { file }),
        };
    }
    let found = system.iter().find(|file| holds_certificate(file));
    let found = found.map(|file| TlsRoots::File((*file).to_owned()));
    found.ok_or(NoTlsRoots::Absent)
}

fn holds_certificate(file: &str) -> bool {
    let text = std::fs::read(Path::new(file)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.contains("-----BEGIN CERTIFICATE-----")
        || text.contains("-----BEGIN TRUSTED CERTIFICATE-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_roots_nothing_is_trusted_unless_that_is_asked_for() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("ca.pem"), "x\n-----BEGIN CERTIFICATE-----\n").expect("written");
        std::fs::write(path("empty.pem"), "").expect("written");
        let (ca, empty) = (path("ca.pem"), path("empty.pem"));
        let file = |file: &str| Ok(TlsRoots::File(file.to_owned()));
        let not_pem = |file: &str| {
            Err(NoTlsRoots::NotPem {
                file: file.to_owned(),
            })
        };
        assert_eq!(find_among(Some(&ca), &[], false), file(&ca));
        assert_eq!(find_among(Some(&empty), &[&ca], false), not_pem(&empty));
        assert_eq!(
            find_among(Some("/nowhere"), &[&ca], false),
            not_pem("/nowhere")
        );
        assert_eq!(
            find_among(None, &["/nowhere", &empty, &ca], false),
            file(&ca)
        );
        assert_eq!(
            find_among(None, &["/nowhere", &empty], false),
            Err(NoTlsRoots::Absent)
        );
        assert_eq!(find_among(None, &[], true), Ok(TlsRoots::Unverified));
        assert_eq!(find_among(Some(&ca), &[], true), Ok(TlsRoots::Unverified));
    }
}
