//! The accept loop. `warp::serve` sets no header timeout and no cap on connections, so the loop is ours and warp only
//! answers requests.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::patience::Patience;
use super::{Services, dispatch};

/// Head of a request, in bytes; also how much of a body is read at once.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;
/// After the system refused to accept, mostly for want of file descriptors: trying again at once would only burn a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown` is done, then lets the requests under way finish, for at most
/// `server.drain_timeout`. Connections beyond `server.connections_max` wait in the operating system's queue.
///
/// Answers how many connections had to be cut off in the end.
pub async fn serve(services: Services, listener: TcpListener, shutdown: impl Future<Output = ()>) -> usize {
    let config = Arc::clone(&services.config);
    let (watch, stopping) = (services.watch.clone(), services.stopping.clone());
    let answering = TowerToHyperService::new(warp::service(dispatch::filter(services)));
    let service = service_fn(move |request: Request<Incoming>| answering.call(dispatch::with_head(request)));
    let permits = Arc::new(Semaphore::new(config.server.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);

    loop {
        let next = async {
            // The permit comes first: what we cannot serve is not accepted.
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, accept(&listener).await)
        };
        let (permit, stream) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        // Those that have ended are let go of, so that the set does not grow.
        while connections.try_join_next().is_some() {}
        // A client that asks and does not read would keep its connection, and what it was answered, for ever.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(config.server.write_timeout));
        let connection = http1::Builder::new()
            .timer(Patience::default())
            .header_read_timeout(config.server.header_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // Broken connections and timeouts are the client's business.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
    }

    // First: who asks from here on is told, on the connections that are there, not to come again.
    stopping.cancel();
    drop(listener);
    // Streams have no end of their own.
    watch.close_feed();
    if tokio::time::timeout(config.server.drain_timeout, graceful.shutdown()).await.is_ok() {
        while connections.join_next().await.is_some() {}
        return 0;
    }
    while connections.try_join_next().is_some() {}
    let cut_off = connections.len();
    tracing::warn!(cut_off, "connections were still busy after server.drain_timeout");
    connections.shutdown().await;
    cut_off
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are short and whole; waiting to fill packets would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "could not set TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
