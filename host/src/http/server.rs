//! The accept loop. `warp::serve` has neither a header timeout nor a limit on connections, so the
//! loop is our own and warp only serves requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::answer_body::AnswerBody;
use super::connections::ConnectionPermit;
use super::header_timer::HeaderTimer;
use super::{Services, dispatch};
use crate::clock::Clock;
use crate::config::ServerConfig;

/// Largest head of a request, in bytes; also the most bytes of a body that are read at once.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;
/// Pause after a failed accept, mostly for want of file descriptors. An immediate retry would only
/// burn a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time in which an evicted connection may send the rest of a response.
const GIVE_WAY_TIME: Duration = Duration::from_millis(100);
/// Evicted connections that get this time; others are closed at once.
const GIVING_WAY_MAX: usize = 128;

/// Serves connections until `shutdown` is ready. Then lets the requests under way finish, for at
/// most `server.drain_timeout`. [`super::connections`] decides which connections get a place.
///
/// Returns the number of connections that were cut off at the end of that time.
pub async fn serve(
    services: Services,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let config = Arc::clone(&services.config);
    let (background, stopping, traffic) = (
        services.background.clone(),
        services.stopping.clone(),
        services.traffic.clone(),
    );
    let answering = TowerToHyperService::new(warp::service(dispatch::filter(services)));
    let draining = CancellationToken::new();
    let giving_way = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);

    loop {
        let (stream, address) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener) => accepted,
        };
        // Removes connections that have ended, so that the set does not grow.
        while connections.try_join_next().is_some() {}
        // Closed without a response: a client that keeps every place busy would not read it.
        let Some(permit) = traffic.connections().enter(address) else {
            continue;
        };
        let connection = Connection {
            permit: Arc::new(permit),
            config: Arc::clone(&config),
            draining: draining.clone(),
            giving_way: Arc::clone(&giving_way),
            peer: address,
        };
        connections.spawn(connection.serve(stream, answering.clone()));
    }

    // First, so that a health probe on an open connection learns from now on that the host is
    // stopping.
    stopping.cancel();
    drop(listener);
    // Streams do not end by themselves.
    background.close_feed();
    draining.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(config.server.drain_timeout, ended)
        .await
        .is_ok()
    {
        return 0;
    }
    while connections.try_join_next().is_some() {}
    let cut_off = connections.len();
    tracing::warn!(
        cut_off,
        "connections were still busy after server.drain_timeout"
    );
    connections.shutdown().await;
    cut_off
}

/// A connection with a place.
struct Connection {
    permit: Arc<ConnectionPermit>,
    config: Arc<crate::config::Config>,
    draining: CancellationToken,
    giving_way: Arc<AtomicUsize>,
    peer: IpAddr,
}

impl Connection {
    async fn serve<S, B>(self, stream: TcpStream, answering: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: hyper::body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
        B::Data: Send,
    {
        let ServerConfig {
            write_timeout,
            header_timeout,
            answer_timeout,
            ..
        } = self.config.server;
        // A client that sends requests and reads no responses would keep its connection and their
        // memory for ever.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write_timeout));
        let (permit, peer) = (&self.permit, self.peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let under_way = permit.begin();
            let is_reserved = permit.is_reserved();
            let answering = answering.call(dispatch::with_head(request, peer, is_reserved));
            async move {
                let mut response = answering.await?;
                if is_reserved {
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let charge = response.extensions_mut().remove();
                let until = Clock::System.monotonic() + answer_timeout;
                Ok::<_, S::Error>(
                    response.map(|body| AnswerBody::new(body, charge, until, under_way)),
                )
            }
        });
        let connection = http1::Builder::new()
            .timer(HeaderTimer::default())
            .header_read_timeout(header_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.draining.cancelled() => None,
            () = self.permit.evicted() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                if self.permit.is_abandoned() && self.gives_way_in_time(connection.as_mut()).await {
                    return;
                }
                connection.await
            }
        };
        // Broken connections and timeouts are not errors of the host.
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }

    /// Lets an evicted connection send the rest of its response. Returns true if the connection has
    /// ended, or must be closed because no request has arrived in the meantime.
    async fn gives_way_in_time(&self, connection: impl Future) -> bool {
        let time = match self.giving_way.fetch_add(1, Ordering::Relaxed) {
            0..GIVING_WAY_MAX => GIVE_WAY_TIME,
            _ => Duration::ZERO,
        };
        let ended = tokio::time::timeout(time, connection).await.is_ok();
        self.giving_way.fetch_sub(1, Ordering::Relaxed);
        ended || self.permit.is_abandoned()
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Responses are written whole. Waiting to fill packets would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "could not set TCP_NODELAY");
                }
                return (stream, address.ip());
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
