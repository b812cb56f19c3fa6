//! The daemon's wiring: listener, limits of the transport, health, reflection, and how it stops.

mod cores;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::LayerExt as _;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tower::{Layer, Service};

use self::cores::Cores;
use crate::grpc::status::{ApiError, unreadable_message};
use crate::grpc::undecoded::ingest_service_server::IngestServiceServer;
use crate::grpc::v1::admin_service_server::AdminServiceServer;
use crate::grpc::v1::article_service_server::ArticleServiceServer;
use crate::grpc::v1::change_service_server::ChangeServiceServer;
use crate::grpc::{Api, CallLimits, DESCRIPTORS, Drain, EndsWithDrain, Transit, TransitBody};
use crate::storage::{ArticleStore, StoreHealth};

/// Calls of one connection at once.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Bytes of a request's headers.
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Resets that a connection may have pending: beyond, it is closed (CVE-2023-44487).
const PENDING_RESETS: usize = 64;
/// Flow control windows: what a client may send ahead of the handler.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// An idle connection is asked so often whether it still lives, and closed where no answer comes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long clients have to take the error that ends a call after its deadline, and connections to take what is on its way.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What health is told for: the server as a whole, and each service.
const SERVICES: [&str; 5] =
    ["", "dateline.v1.ArticleService", "dateline.v1.IngestService", "dateline.v1.ChangeService", "dateline.v1.AdminService"];

/// Those of them that are not served while the disk is full.
const NEED_ROOM: [&str; 2] = ["", "dateline.v1.IngestService"];

/// How the daemon serves.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// The limits on calls.
    pub limits: CallLimits,
    /// How long calls may take to finish once the daemon is told to stop.
    pub drain: Duration,
}

/// Serves the store on the listener until `stop` is cancelled or the store fails; then lets calls finish, refuses new ones with
/// UNAVAILABLE, and returns. Ingest streams, which may go on for ever, end with UNAVAILABLE once what they submitted is
/// acknowledged. The store stays open.
///
/// # Errors
/// Where the server cannot be set up, or the store has failed.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn ArticleStore>,
    options: ServeOptions,
    stop: CancellationToken,
) -> Result<(), String> {
    let calls = Arc::new(Calls::default());
    let drain = Drain::default();
    let (mut health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let setup = |error: tonic_reflection::server::Error| format!("reflection cannot be set up: {error}");

    let api = Api::new(Arc::clone(&store), options.limits, drain.clone());
    let api = api.map_err(|error| format!("the server cannot be set up: {error}"))?;
    let limits = options.limits;
    let guard = GuardLayer { calls: Arc::clone(&calls), draining: drain.begun.clone(), limits, api: api.clone() };
    macro_rules! service {
        ($service:ident) => {
            tower::ServiceBuilder::new().layer(guard.clone()).named_layer(
                $service::new(api.clone()).max_decoding_message_size(limits.request_bytes).max_encoding_message_size(limits.response_bytes),
            )
        };
    }
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(setup)?)
        .add_service(reflection().build_v1alpha().map_err(setup)?)
        .add_service(service!(ArticleServiceServer))
        .add_service(service!(IngestServiceServer))
        .add_service(service!(ChangeServiceServer))
        .add_service(service!(AdminServiceServer));
    let mut cores = Cores::serve(listener, &server).map_err(|error| format!("the server cannot be set up: {error}"))?;

    let mut seen = store.health();
    let failure = loop {
        tokio::select! {
            () = stop.cancelled() => break None,
            () = cores.ended() => {
                let reason = cores.close(Duration::ZERO).await.err();
                return Err(format!("the server ended: {}", reason.as_deref().unwrap_or("no connection could be taken any more")));
            }
            now = store.health_changed(&seen) => seen = now,
        }
        // Without room everything can be read, but nothing written: whoever asks about the server as a whole is told so.
        let status = match &seen {
            StoreHealth::Failed(reason) => break Some(reason.clone()),
            StoreHealth::Full => ServingStatus::NotServing,
            StoreHealth::Serving => ServingStatus::Serving,
        };
        for service in NEED_ROOM {
            health.set_service_status(service, status).await;
        }
    };
    // Whoever learns from the health that the server stops can rely on it: no call begins any more.
    drain.begun.cancel();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    // New connections are taken until the end, so that their calls too are told to come again.
    // A store that has failed finishes nothing any more.
    let patience = if failure.is_some() { options.drain.min(LAST_WORDS) } else { options.drain };
    let deadline = Instant::now() + patience;
    if timeout_at(deadline, calls.none_left()).await.is_err() {
        drain.over.cancel();
        tracing::warn!("calls that did not finish in time are cut off");
        drop(timeout(LAST_WORDS, calls.none_left()).await);
    }
    // Watching the health never ends by itself, and would keep its connection open.
    for service in SERVICES {
        health.clear_service_status(service).await;
    }
    // Connections get a moment to take the last bytes and the goodbye; then they are dropped.
    let closed = cores.close(LAST_WORDS).await.map_err(|error| format!("the server ended: {error}"));
    failure.map_or(closed, |reason| Err(format!("the store has failed: {reason}")))
}

/// The calls that are being answered.
#[derive(Debug, Default)]
struct Calls {
    count: AtomicUsize,
    changed: Notify,
}

impl Calls {
    async fn none_left(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Counts a call for as long as it lives.
struct CallGuard(Arc<Calls>);

impl CallGuard {
    fn new(calls: &Arc<Calls>) -> Self {
        calls.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(calls))
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

/// Stands before every service: refuses calls while draining, counts those under way, gives unreadable messages the error that
/// the protocol's documentation names, and sees to it that no response piles up in the transport.
#[derive(Clone)]
struct GuardLayer {
    calls: Arc<Calls>,
    draining: CancellationToken,
    limits: CallLimits,
    api: Api,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = CallGuard::new(&self.layer.calls);
        if self.layer.draining.is_cancelled() {
            return Box::pin(async { Ok(Status::from(ApiError::Draining).into_http()) });
        }
        let CallLimits { request_bytes, reader_patience, .. } = self.layer.limits;
        let answering = self.inner.call(self.layer.api.admit(request));
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(error) = Status::from_header_map(response.headers()).and_then(|status| unreadable_message(&status, request_bytes)) {
                return Ok(Status::from(error).into_http());
            }
            // A stream is under way until its last message: the guard goes with the body. One that ends when the drain begins is
            // not waited for: its end may lie behind what its reader does not read.
            let call = response.extensions().get::<EndsWithDrain>().is_none().then_some(call);
            let transit = response.extensions_mut().remove().unwrap_or_else(|| Transit::whole(None));
            Ok(response.map(|body| Body::new(GuardedBody { body: transit.carry(body, reader_patience), _call: call })))
        })
    }
}

struct GuardedBody {
    body: TransitBody,
    _call: Option<CallGuard>,
}

impl http_body::Body for GuardedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
