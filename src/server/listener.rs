//! Connections: how many there are, how slow they may be, and how they end.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use log::{debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Service;
use super::guard::Silence;

mod patience;

use self::patience::Patient;

/// How a server is asked to end.
#[derive(Clone, Default)]
pub struct Stop {
    /// No new connections and requests; those under way are answered.
    pub gently: CancellationToken,
    /// Everything ends.
    pub at_once: CancellationToken,
}

/// Wait after an accept that failed, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until asked to stop.
pub async fn serve(service: Arc<Service>, listener: TcpListener, stop: Stop) {
    let router = service.router();
    let room = Arc::new(Semaphore::new(service.limits.connections));
    let connections = TaskTracker::new();
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&room).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (router, service, stop) = (router.clone(), Arc::clone(&service), stop.clone());
            connections.spawn(async move {
                let connection = connect(&service, router, stream, &stop.gently);
                stop.at_once.run_until_cancelled(connection).await;
                drop(place);
            });
        }
    };
    stop.gently.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connect(service: &Service, router: Router, stream: TcpStream, leave: &CancellationToken) {
    // Answers are written whole.
    if let Err(e) = stream.set_nodelay(true) {
        debug!("a connection that waits to fill its packets: {e}");
    }
    let router = TowerToHyperService::new(router);
    let handler = service_fn(move |request: hyper::Request<Incoming>| {
        let answered = router.call(request.map(Body::new));
        async move {
            let response = match answered.await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            match response.extensions().get::<Silence>() {
                None => Ok(response),
                Some(Silence) => Err(io::Error::other("closed without an answer, as asked for")),
            }
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(service.limits.head_timeout)
        .max_buf_size(service.limits.head);
    let stream = Patient::new(stream, service.limits.send_timeout);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), handler));
    let ended = match leave.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        debug!("a connection ended early: {e}");
    }
}
