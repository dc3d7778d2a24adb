//! Connections: accepted, limited, and ended in an orderly way.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use crate::config::Config;
use crate::patient::Patient;
use crate::proxy;

/// How long connections may take to send what they still have after all answers were cut.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A pause after the machine gave no connection, for want of files for example.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a server did not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The machine gives no threads or no signals.
    #[error("the server cannot be started")]
    Start(#[source] io::Error),
}

/// A server that has its address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    connections: usize,
    read_limit: Duration,
    write_limit: Duration,
    drain: Duration,
    http: http1::Builder,
}

impl Server {
    /// Takes the address of the settings.
    ///
    /// # Errors
    /// It cannot be listened on.
    pub async fn bind(config: &Config) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            connections: config.connections,
            read_limit: config.read_limit(),
            write_limit: Duration::from_secs(config.write_seconds),
            drain: Duration::from_secs(config.drain_seconds),
            http: if config.proxy.is_some() { proxy::connections() } else { http1::Builder::new() },
        })
    }

    /// The address, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is notified; then no new request is accepted. Answers under way have the time of the
    /// settings to end, unless `stop` is notified again; then `cut` is called, which ends them.
    pub async fn run(self, router: Router, stop: &Notify, cut: impl FnOnce()) {
        let places = Arc::new(Semaphore::new(self.connections.min(Semaphore::MAX_PERMITS)));
        let graceful = GracefulShutdown::new();
        let mut http = self.http;
        http.timer(TokioTimer::new()).header_read_timeout(self.read_limit);
        {
            let mut stopped = pin!(stop.notified());
            loop {
                let accepted = async {
                    let place = Arc::clone(&places).acquire_owned().await;
                    (place, self.listener.accept().await)
                };
                let (place, accepted) = tokio::select! {
                    biased;
                    () = &mut stopped => break,
                    accepted = accepted => accepted,
                };
                let (Ok(place), Ok((stream, _))) = (place, accepted) else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                // An event is to reach its client at once.
                let _ = stream.set_nodelay(true);
                let stream = Patient::new(stream, self.write_limit);
                let router = router.clone();
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    router.clone().oneshot(request.map(Body::new))
                });
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    // A connection that broke concerns nobody else.
                    let _ = connection.await;
                    drop(place);
                });
            }
        }
        drop(self.listener);
        let mut ended = pin!(graceful.shutdown());
        tokio::select! {
            () = &mut ended => return cut(),
            () = tokio::time::sleep(self.drain) => {}
            () = stop.notified() => {}
        }
        cut();
        let _ = tokio::time::timeout(LAST_WORDS, ended).await;
    }
}

/// Serves until the process is told to stop (SIGINT, SIGTERM). `ready` hears the address once connections are
/// accepted.
///
/// # Errors
/// The address cannot be listened on, or the machine gives no threads.
pub fn serve<E: From<ServeError>>(
    config: &Config,
    router: Router,
    cut: impl FnOnce(),
    ready: impl FnOnce(SocketAddr) -> Result<(), E>,
) -> Result<(), E> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_name("server").build();
    let runtime = runtime.map_err(|e| E::from(ServeError::Start(e)))?;
    let done = runtime.block_on(async {
        let server = Server::bind(config).await?;
        let mut signals = Signals::new().map_err(ServeError::Start)?;
        ready(server.address())?;
        let stop = Arc::new(Notify::new());
        let heard = Arc::clone(&stop);
        tokio::spawn(async move {
            loop {
                signals.next().await;
                heard.notify_one();
            }
        });
        server.run(router, &stop, cut).await;
        Ok(())
    });
    // A template or a schema may still be at work; nobody waits for it.
    runtime.shutdown_background();
    done
}

/// What tells a process to stop.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What tells a process to stop.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Where it cannot be heard the process is ended by its closing.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
