//! The HTTP server: hyper with its limits set, over TLS where that is wanted; the routes are in `router`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::access::Peer;
use super::problem::{Problem, ProblemKind};
use super::tls::{ApiTls, Opened};
use super::visitors::{Visitor, Visitors};
use crate::core::log_limiter::LogLimiter;

/// How long a client may take to send its request head; also how long an idle
/// connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request head.
const HEAD_MAX_BYTES: usize = 8 * 1024;
/// How long one connection may last.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// Connections at once. One more makes the one go that has waited longest; when all
/// are being answered, it waits in the system's backlog.
const CONNECTIONS_MAX: usize = 128;
/// How long each of them may wait with its request before it makes room.
const GRACE: Duration = Duration::from_millis(20);
/// How long a graceful stop waits for answers under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after `accept` fails, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// At most one warning about it in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

type Connection<S> = http1::Connection<TokioIo<S>, Routes>;

/// The routes, for one connection.
struct Routes {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    visitor: Arc<Visitor>,
}

impl Service<Request<Incoming>> for Routes {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let answering = self.visitor.begin();
        request.extensions_mut().insert(Peer {
            address: self.peer,
            visitor: Some(self.visitor.clone()),
        });
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(answering);
            answer
        })
    }
}

/// The API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address could not be listened on.
    #[error(
        "cannot listen for HTTP on {addr}: {source}; choose another --api-port or stop the program that holds it"
    )]
    Listen {
        /// Where it was to listen.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of `--api-tls-cert`, `--api-tls-key` or `--api-ca` is of no use.
    #[error("--{flag} {file}: {reason}", file = file.display())]
    TlsFile {
        /// The flag that names it, without dashes.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Other bridges cannot be asked.
    #[error("no client for the APIs of other bridges can be made: {0}")]
    Client(String),
}

/// The port, taken but not answered on yet: who asks while the bridge is
/// still starting waits for the answer.
pub struct ApiListener {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<ApiTls>,
}

impl ApiListener {
    /// Takes the port.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(addr: SocketAddr) -> Result<Self, ApiError> {
        let failed = |source| ApiError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            local,
            tls: None,
        })
    }

    /// The same with HTTPS in the place of HTTP.
    #[must_use]
    pub fn over(self, tls: ApiTls) -> Self {
        let tls = Some(tls);
        Self { tls, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Answers from now on.
    #[must_use]
    pub fn serve(self, router: Router) -> ApiServer {
        let (stop, stopping) = watch::channel(false);
        let local = self.local;
        let task = tokio::spawn(serve(self, router, stopping));
        ApiServer { local, stop, task }
    }
}

/// The running server. Stops when dropped.
pub struct ApiServer {
    local: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Stops listening, lets answers under way go out, and closes.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listening: ApiListener, router: Router, mut stopping: watch::Receiver<bool>) {
    let ApiListener { listener, tls, .. } = listening;
    let mut connections = JoinSet::new();
    let mut failed = LogLimiter::new(WARN_INTERVAL);
    let visitors = Visitors::new(CONNECTIONS_MAX, GRACE);
    loop {
        let accepted = async {
            visitors.room().await;
            listener.accept().await
        };
        tokio::select! {
            _ = stopping.changed() => break,
            accepted = accepted => match accepted {
                Ok((stream, peer)) => {
                    let router = TowerToHyperService::new(router.clone());
                    let (visitor, told_to_go) = visitors.enter();
                    let routes = Routes { router, peer, visitor };
                    let connection = answer(stream, tls.clone(), routes, stopping.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = connection => {}
                            _ = told_to_go => debug!(%peer, "an HTTP connection that asked nothing made room"),
                        }
                    });
                }
                Err(error) => {
                    if let Some(count) = failed.count(Instant::now()) {
                        warn!(%error, count, "cannot accept an HTTP connection; the count is since the last warning");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let _ = timeout(STOP_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// Answers one connection's requests, over TLS where that is wanted.
async fn answer(
    stream: TcpStream,
    tls: Option<ApiTls>,
    mut routes: Routes,
    mut stopping: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = tls else {
        return exchange(stream, routes, stopping).await;
    };
    let opened = tokio::select! {
        opened = tls.open(stream) => opened,
        _ = stopping.changed() => None,
    };
    match opened {
        Some(Opened::Tls(stream)) => exchange(stream, routes, stopping).await,
        Some(Opened::Plain(stream)) => {
            routes.router = TowerToHyperService::new(https_only());
            exchange(stream, routes, stopping).await;
        }
        None => {}
    }
}

/// What whoever speaks HTTP to a port with TLS is told.
fn https_only() -> Router {
    Router::new().fallback(async || {
        let detail = "this port speaks HTTPS alone: write https:// in place of http://";
        Problem::new(ProblemKind::BAD_REQUEST, detail).closing()
    })
}

/// Answers requests until the connection ends, or lasts too long.
async fn exchange<S>(stream: S, routes: Routes, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), routes);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(CONNECTION_MAX) => finish(connection).await,
        _ = stopping.changed() => finish(connection).await,
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection ended early");
    }
}

/// Lets the answer under way go out, then closes.
async fn finish<S>(mut connection: Pin<&mut Connection<S>>) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connection.as_mut().graceful_shutdown();
    timeout(STOP_TIMEOUT, connection).await.unwrap_or(Ok(()))
}
