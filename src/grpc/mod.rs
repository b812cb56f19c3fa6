//! The services of `proto/dateline/v1`, on top of any store.
//!
//! One file a service; [`convert`] alone translates between messages and the domain, [`status`] alone decides which error a
//! client sees. Nothing here knows which engine is behind the store.

mod admin;
mod arrival;
mod articles;
mod backup;
mod budget;
mod changes;
mod compression;
pub mod convert;
mod ingest;
mod ingest_items;
mod ingest_stream;
mod outgoing;
mod revisions;
pub mod status;
mod transit;
pub mod undecoded;
mod verification;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use self::arrival::{Arrivals, ArrivingBody};
use crate::article::Limits;
use crate::storage::{ArticleStore, StoreId};
use crate::workers::Workers;

pub use budget::ByteBudget;
pub use transit::{Transit, TransitBody};

/// The generated messages, clients and servers.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("dateline.v1");

    /// A read mask of these fields.
    pub fn read_mask(paths: Vec<String>) -> prost_types::FieldMask {
        prost_types::FieldMask { paths }
    }
}

/// The compiled protocol, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dateline.binpb"));

/// Bytes of a streamed message's items: a message holds up to so many, or one larger item.
pub const STREAM_MESSAGE_BYTES: usize = 1 << 20;

/// What the paths of calls begin with that bring articles in bulk.
const INGESTION: &str = "/dateline.v1.IngestService/";

/// The limits on calls; the wire's documentation names the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Limits on articles.
    pub article: Limits,
    /// Bytes of a request message. Default 16 MiB.
    pub request_bytes: usize,
    /// Bytes of a response message. Default 3.5 MiB, which holds any article of the default limit.
    pub response_bytes: usize,
    /// Articles of a page by default. Default 50.
    pub default_page_size: usize,
    /// Articles of a page at most. Default 1,000.
    pub max_page_size: usize,
    /// Keys of one LookupArticles call. Default 1,000.
    pub lookup_keys: usize,
    /// Articles of one BatchIngestArticles call, and items of one message of an ingest stream. Default 10,000.
    pub batch_articles: usize,
    /// Bytes of articles on their way into the store, over all calls. Default 48 MiB.
    pub ingest_budget: usize,
    /// Bytes of messages on their way to clients, over all calls. Default 64 MiB.
    pub response_budget: usize,
    /// How long a reader may take nothing of a response before it is ended, and what it holds goes to others. Default 60 s.
    pub reader_patience: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            article: Limits::default(),
            request_bytes: 16 << 20,
            response_bytes: 7 << 19,
            default_page_size: 50,
            max_page_size: 1000,
            lookup_keys: 1000,
            batch_articles: 10_000,
            ingest_budget: 48 << 20,
            response_budget: 64 << 20,
            reader_patience: Duration::from_secs(60),
        }
    }
}

/// What all services share.
#[derive(Clone)]
pub struct Api {
    store: Arc<dyn ArticleStore>,
    limits: CallLimits,
    ingest_budget: ByteBudget,
    response_budget: ByteBudget,
    drain: Drain,
    /// Where articles that come in bulk are decoded and checked.
    background: Arc<Workers>,
    started: Instant,
    /// Held by the verification that is under way.
    verifying: Arc<Mutex<()>>,
}

/// Marks the response of a stream that would go on for ever, and ends when a drain begins.
#[derive(Debug, Clone, Copy)]
pub struct EndsWithDrain;

/// How calls learn that the server stops.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Cancelled when no call may begin any more. Ingest streams and watches, which would go on for ever, end
    /// then.
    pub begun: CancellationToken,
    /// Cancelled when calls have had their time: those still under way end.
    pub over: CancellationToken,
}

impl Api {
    /// A call to the ingestion whose messages are let in as the budget of ingestion has room for them; any other as it is.
    pub fn admit(&self, request: http::Request<Body>) -> http::Request<Body> {
        if !request.uri().path().starts_with(INGESTION) {
            return request;
        }
        let arrivals = Arrivals::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(arrivals.clone());
        let body = ArrivingBody::new(body, self.ingest_budget.clone(), self.limits.request_bytes, arrivals);
        http::Request::from_parts(parts, Body::new(body))
    }

    /// The services on top of a store.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub fn new(store: Arc<dyn ArticleStore>, limits: CallLimits, drain: Drain) -> io::Result<Self> {
        Ok(Self {
            store,
            limits,
            ingest_budget: ByteBudget::new(limits.ingest_budget),
            response_budget: ByteBudget::new(limits.response_budget),
            drain,
            background: Arc::new(Workers::background("dateline-decode")?),
            started: Instant::now(),
            verifying: Arc::default(),
        })
    }

    fn store_id(&self) -> StoreId {
        self.store.identity().store_id
    }
}
