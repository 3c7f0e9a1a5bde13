//! Push mode: the bridge dials the worker at `--ws-target`, as Twilio does.
//! `ws://`, and `wss://` with rustls.
//!
//! Leaves out: proxies and client certificates.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, header};
use tokio_tungstenite::tungstenite::protocol::Role;
use url::{Host, Url};

use super::direct_writer::DirectWriter;
use super::error::WorkerError;
use super::socket::WorkerSocket;
use super::tcp;
use super::upgrade::{NoUpgrade, upgrade};
use crate::core::outward::Outward;
use crate::core::signature::{self, Signer};
use crate::files;

/// Dials one worker address, again and again. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    target: Arc<Target>,
    tls: Option<TlsConnector>,
    signer: Option<Signer>,
    /// Judges where it leads; `None` for the operator's own address.
    guard: Option<Arc<Outward>>,
}

/// A checked address.
struct Target {
    /// Without user information, for the request.
    url: String,
    host: Host<String>,
    port: u16,
    /// `host:port` as the Host field and messages show it.
    authority: String,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("host", &self.target.authority)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Checks the address. User and password in it are sent as basic
    /// authentication. `ca_file` holds PEM certificates trusted beside the
    /// public roots; only used for `wss://`.
    ///
    /// # Errors
    /// When the address or the CA file is unusable.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, WorkerError> {
        let (target, secure) = Target::parse(url)?;
        let tls = if secure {
            Some(tls_connector(ca_file)?)
        } else {
            None
        };
        Ok(Self {
            target: Arc::new(target),
            tls,
            signer: None,
            guard: None,
        })
    }

    /// The same, whose upgrades are signed.
    #[must_use]
    pub fn signed(self, signer: Option<Signer>) -> Self {
        Self { signer, ..self }
    }

    /// The same for an address that a client of ours wrote: it leads only where `outward`
    /// permits, and is signed only where the host is the operator's.
    ///
    /// # Errors
    /// When the address is an IP address that may not be reached; names are judged when
    /// they are resolved.
    pub fn guarded(
        self,
        outward: Arc<Outward>,
        signer: Option<&Signer>,
    ) -> Result<Self, WorkerError> {
        self.target.judge_literal(&outward)?;
        let is_own = outward.may_sign(&self.target.host.to_string());
        Ok(Self {
            signer: signer.filter(|_| is_own).cloned(),
            guard: Some(outward),
            ..self
        })
    }

    /// `host:port` of the worker, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.target.authority
    }

    /// Connects and opens the WebSocket, within `limit` as a whole.
    ///
    /// # Errors
    /// When the worker cannot be reached, refuses, or takes too long.
    pub async fn dial(&self, limit: Duration) -> Result<WorkerSocket, WorkerError> {
        match timeout(limit, self.open(limit)).await {
            Ok(result) => result,
            Err(_) => Err(WorkerError::DialTimeout {
                host: self.target.authority.clone(),
                after: limit,
            }),
        }
    }

    async fn open(&self, limit: Duration) -> Result<WorkerSocket, WorkerError> {
        let host = || self.target.authority.clone();
        let stream = self.target.connect(limit, self.guard.as_deref()).await?;
        let mut stream = match &self.tls {
            None => MaybeTlsStream::Plain(stream),
            Some(tls) => {
                let name = self.target.server_name()?;
                let stream = tls.connect(name, stream).await;
                MaybeTlsStream::Rustls(stream.map_err(|source| WorkerError::Tls {
                    host: host(),
                    source,
                })?)
            }
        };
        let writer = match &stream {
            MaybeTlsStream::Plain(stream) => DirectWriter::new(Some(stream), Role::Client),
            _ => DirectWriter::new(None, Role::Client),
        };
        let request = self.target.request(self.signer.as_ref())?;
        let host = host();
        let part = match upgrade(&mut stream, request).await {
            Ok(part) => part,
            Err(NoUpgrade::Status(status)) => return Err(WorkerError::Refused { host, status }),
            Err(NoUpgrade::Answer(reason)) => {
                let reason = reason.to_owned();
                return Err(WorkerError::Handshake { host, reason });
            }
            Err(NoUpgrade::Connection(reason)) => {
                return Err(WorkerError::Handshake { host, reason });
            }
        };
        Ok(WorkerSocket::new(stream, writer, Role::Client, part).await)
    }
}

impl Target {
    fn parse(text: &str) -> Result<(Self, bool), WorkerError> {
        let bad = WorkerError::BadTarget;
        let mut url = Url::parse(text).map_err(|_| bad("it is no URL"))?;
        let secure = match url.scheme() {
            "ws" => false,
            "wss" => true,
            _ => return Err(bad("its scheme is neither ws nor wss")),
        };
        let host = url.host().ok_or(bad("it has no host"))?.to_owned();
        let port = url.port_or_known_default().ok_or(bad("it has no port"))?;
        let authorization = basic_authorization(&url);
        // Neither can fail on a URL with a host.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);
        let target = Self {
            authority: format!("{host}:{port}"),
            url: url.into(),
            host,
            port,
            authorization,
        };
        Ok((target, secure))
    }

    fn server_name(&self) -> Result<ServerName<'static>, WorkerError> {
        Ok(match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone())
                .map_err(|_| WorkerError::BadTarget("its host is no DNS name"))?,
            Host::Ipv4(addr) => ServerName::from(IpAddr::from(*addr)),
            Host::Ipv6(addr) => ServerName::from(IpAddr::from(*addr)),
        })
    }

    fn request(&self, signer: Option<&Signer>) -> Result<Request<()>, WorkerError> {
        let mut request = Request::get(&self.url)
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(
                header::USER_AGENT,
                concat!("sipbridge/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(signer) = signer {
            request = request.header(signature::HEADER, signer.sign_url(&self.url));
        }
        request
            .body(())
            .map_err(|_| WorkerError::BadTarget("it cannot be written as an HTTP request"))
    }

    /// Tries each address of the host in turn, so that a dead one leaves time
    /// for the others.
    async fn connect(
        &self,
        limit: Duration,
        guard: Option<&Outward>,
    ) -> Result<TcpStream, WorkerError> {
        let deadline = Instant::now() + limit;
        let mut addrs = self.resolve().await?;
        if let Some(outward) = guard {
            addrs = self.permitted(addrs, outward)?;
        }
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        while let Some(addr) = addrs.pop() {
            let others = u32::try_from(addrs.len()).unwrap_or(u32::MAX - 1);
            let share = deadline.saturating_duration_since(Instant::now()) / (others + 1);
            match timeout(share, connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(WorkerError::Connect {
            host: self.authority.clone(),
            source: failure,
        })
    }

    /// What of the addresses a client's own target may lead to.
    fn permitted(
        &self,
        addrs: Vec<SocketAddr>,
        outward: &Outward,
    ) -> Result<Vec<SocketAddr>, WorkerError> {
        let (may, not): (Vec<_>, Vec<_>) = addrs
            .into_iter()
            .partition(|addr| outward.may_reach(addr.ip()));
        match (may.is_empty(), not.last()) {
            (true, Some(addr)) => Err(self.not_permitted(addr.ip())),
            _ => Ok(may),
        }
    }

    fn judge_literal(&self, outward: &Outward) -> Result<(), WorkerError> {
        let address: IpAddr = match self.host {
            Host::Ipv4(address) => address.into(),
            Host::Ipv6(address) => address.into(),
            Host::Domain(_) => return Ok(()),
        };
        if outward.may_reach(address) {
            return Ok(());
        }
        Err(self.not_permitted(address))
    }

    fn not_permitted(&self, address: IpAddr) -> WorkerError {
        WorkerError::NotPermitted {
            host: self.authority.clone(),
            address,
        }
    }

    /// The addresses of the host, the best last.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, WorkerError> {
        let name = match &self.host {
            Host::Ipv4(addr) => return Ok(vec![(*addr, self.port).into()]),
            Host::Ipv6(addr) => return Ok(vec![(*addr, self.port).into()]),
            Host::Domain(name) => name,
        };
        let found = lookup_host((name.as_str(), self.port)).await;
        let found = found.map_err(|source| WorkerError::Resolve {
            host: name.clone(),
            source,
        })?;
        let mut addrs: Vec<SocketAddr> = found.collect();
        addrs.reverse();
        Ok(addrs)
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    tcp::tune(&socket)?;
    socket.connect(addr).await
}

/// `Authorization: Basic` from the URL's user information.
fn basic_authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| -> Vec<u8> {
        // A form decoder without its '+' and '&' rules is a percent decoder.
        let text = text.replace('+', "%2B").replace('&', "%26");
        url::form_urlencoded::parse(format!("v={text}").as_bytes())
            .next()
            .map_or_else(Vec::new, |(_, value)| value.into_owned().into_bytes())
    };
    let mut pair = decode(url.username());
    pair.push(b':');
    pair.extend(decode(url.password().unwrap_or("")));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn tls_connector(ca_file: Option<&Path>) -> Result<TlsConnector, WorkerError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        add_roots(&mut roots, path).map_err(|reason| WorkerError::CaFile {
            path: path.to_owned(),
            reason,
        })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| WorkerError::BadTarget("TLS is not available in this build"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Largest file of certificates; all public roots together have 250 kB.
const CA_FILE_MAX_BYTES: u64 = 4 << 20;

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let before = roots.len();
    let text = files::read(path, CA_FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before {
        return Err("it holds no certificate".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::private::Secret;

    #[test]
    fn only_websocket_addresses_are_taken() {
        for (text, said) in [
            ("worker:9000", "scheme"),
            ("http://worker/", "scheme"),
            ("ws://", "no URL"),
            ("", "no URL"),
        ] {
            let message = Dialer::new(text, None).unwrap_err().to_string();
            assert!(message.contains(said), "{text}: {message}");
        }
        assert_eq!(Dialer::new("ws://w/x", None).unwrap().host(), "w:80");
        assert_eq!(
            Dialer::new("wss://[::1]/", None).unwrap().host(),
            "[::1]:443"
        );
    }

    #[test]
    fn credentials_go_into_a_header_and_are_shown_nowhere() {
        let dialer = Dialer::new("ws://us%40er:se+cret@worker:9000/x?key=k1#f", None).unwrap();
        let request = dialer.target.request(None).unwrap();
        assert_eq!(request.uri(), "ws://worker:9000/x?key=k1");
        let sent = request.headers()[header::AUTHORIZATION].to_str().unwrap();
        let decoded = STANDARD
            .decode(sent.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(decoded, b"us@er:se+cret");
        let shown = format!("{dialer:?} {request:?}");
        assert!(
            !shown.contains("se+cret") && !shown.contains(sent),
            "{shown}"
        );
    }

    #[test]
    fn an_upgrade_is_signed_over_the_address_without_its_login() {
        let signer = Signer::new(Secret::new("12345".into()));
        let dialer = Dialer::new("wss://u:p@worker.example.com/media?x=1#f", None).unwrap();
        let unsigned = dialer.target.request(None).unwrap();
        assert!(!unsigned.headers().contains_key(signature::HEADER));
        let request = dialer.target.request(Some(&signer)).unwrap();
        // Computed with Python's hmac.
        let expected = "wlp1vt1Dwrbhh42sxnMmeU89g8I=";
        assert_eq!(request.headers()[signature::HEADER], expected);
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Dialer::new("wss://worker/", Some(file.path())).unwrap_err();
        assert!(
            error.to_string().contains("holds no certificate"),
            "{error}"
        );
        let error = Dialer::new("wss://worker/", Some(Path::new("/no/file"))).unwrap_err();
        assert!(error.to_string().contains("/no/file"), "{error}");
    }
}
