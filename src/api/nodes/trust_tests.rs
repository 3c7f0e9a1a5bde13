//! Certificates of other bridges: taken and refused, by the verifier alone and over a real handshake.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Leaf {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        Self { issuer }
    }

    fn issue(&self, names: &[&str]) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf {
            certificate: signed.der().clone(),
            pem: signed.pem(),
            key,
        }
    }
}

/// Files of a bridge: its roots and its own certificate.
struct Files {
    _folder: TempDir,
    roots: PathBuf,
    own: PathBuf,
}

impl Files {
    fn new(roots: &Authority, own: &Leaf) -> Self {
        let folder = TempDir::new().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let (roots, own) = (
            file("ca.pem", &roots.issuer.pem()),
            file("own.pem", &own.pem),
        );
        Self {
            _folder: folder,
            roots,
            own,
        }
    }

    fn trust(&self) -> TrustFiles<'_> {
        TrustFiles {
            roots: Some(&self.roots),
            own: Some(&self.own),
        }
    }
}

/// The status that a peer with this certificate answers with, or why it is not asked.
async fn ask(trust: TrustFiles<'_>, peer: &Leaf) -> Result<u16, Option<String>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(peer.key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![peer.certificate.clone()], key)
        .expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        let _ = stream.read(&mut [0; 1_024]).await;
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    });
    let client = super::super::client::http_client(trust).expect("a client");
    let asked = client.get(format!("https://{at}/"));
    let asked = asked.timeout(Duration::from_secs(10)).send().await;
    serving.await.expect("the peer's end");
    let answer = asked.map_err(|error| refused_certificate(&error))?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn a_peer_has_our_certificate_or_one_of_our_root_for_its_address_or_a_name_of_ours() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let own = ours.issue(&["bridge.example.com", "*.bridges.example.com"]);
    let files = Files::new(&ours, &own);
    for (names, is_taken) in [
        (&["127.0.0.1"][..], true),
        (&["10.0.0.9", "bridge.example.com"], true),
        (&["*.bridges.example.com"], true),
        (&["*.example.com"], true),
        (&["10.0.0.9"], false),
        (&["other.example.org"], false),
    ] {
        let answered = ask(files.trust(), &ours.issue(names)).await;
        assert_eq!(answered == Ok(204), is_taken, "{names:?}: {answered:?}");
        if let Err(why) = answered {
            let why = why.expect("a refused certificate");
            assert!(why.contains("not valid for name"), "{why}");
        }
        let answered = ask(files.trust(), &foreign.issue(names)).await;
        let why = answered.expect_err("a foreign root").expect("a refusal");
        assert!(why.contains("BadSignature"), "{why}");
    }
    assert_eq!(ask(files.trust(), &own).await, Ok(204));
    let public = TrustFiles::default();
    assert!(ask(public, &own).await.is_err(), "no public root");
}

#[tokio::test]
async fn a_certificate_that_all_bridges_have_needs_no_root() {
    let made = rcgen::generate_simple_self_signed(["bridge".to_owned()]).expect("a certificate");
    let own = Leaf {
        certificate: made.cert.der().clone(),
        pem: made.cert.pem(),
        key: made.signing_key,
    };
    let files = Files::new(&Authority::new(), &own);
    let trust = TrustFiles {
        roots: None,
        ..files.trust()
    };
    assert_eq!(ask(trust, &own).await, Ok(204));
    // With the same certificate, and another key.
    let forged = rcgen::generate_simple_self_signed(["bridge".to_owned()]).expect("another");
    let forged = Leaf {
        certificate: forged.cert.der().clone(),
        pem: String::new(),
        key: forged.signing_key,
    };
    assert!(ask(trust, &forged).await.is_err());
}

#[test]
fn roots_that_are_none_are_refused_by_the_name_of_the_flag() {
    let nowhere = TrustFiles {
        roots: Some(Path::new("/none/such")),
        own: None,
    };
    let refusal = nowhere.client_config().expect_err("no file").to_string();
    assert!(refusal.contains("--api-ca /none/such"), "{refusal}");
}
