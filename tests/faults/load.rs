//! The load: several clients that write and read at once, and tell the oracle everything.
//!
//! A client ends by itself when its connection breaks, as it does when the daemon is killed; what it had sent stays in flight.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dateline::client::{Client, ClientError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::articles::Texts;
use super::daemon::{Daemon, PATIENCE};
use super::oracle::{Caller, Shared};
use super::{readers, streams, writers};

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub texts: Texts,
    /// Only so many of the keys are written: few make for churn.
    pub keys: usize,
    /// Clients with single writes, with batches, with ingest streams, and readers.
    pub singles: usize,
    pub batches: usize,
    pub streams: usize,
    pub readers: usize,
}

impl Mix {
    /// All kinds of clients on these keys.
    pub fn of(texts: Texts, keys: usize) -> Self {
        Self { texts, keys, singles: 4, batches: 1, streams: 2, readers: 2 }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Writes that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Writes that were refused for certain.
    pub refused: AtomicU64,
    /// Articles, or their absence, that readers saw.
    pub seen: AtomicU64,
    /// Why the first client ended before it was told to.
    broken: OnceLock<String>,
}

impl Counters {
    pub fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// A client ends because of this error.
    pub fn break_off(&self, error: &ClientError) {
        self.broken.get_or_init(|| error.to_string());
    }

    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }
}

/// A client of the load.
pub struct LoadClient {
    pub client: Client,
    pub oracle: Shared,
    pub counters: Arc<Counters>,
    pub stop: CancellationToken,
    pub mix: Mix,
    pub chance: fastrand::Rng,
    /// Tells the clients of one kind apart.
    pub number: usize,
}

impl LoadClient {
    pub fn pick(&mut self) -> usize {
        self.chance.usize(..self.mix.keys)
    }

    pub fn go_on(&self) -> bool {
        !self.stop.is_cancelled()
    }
}

/// A load that is going on.
pub struct Load {
    clients: JoinSet<Result<(), String>>,
    stop: CancellationToken,
    pub counters: Arc<Counters>,
}

impl Load {
    /// Starts the clients on a daemon.
    pub async fn start(daemon: &Daemon, oracle: &Shared, mix: Mix, chance: &mut fastrand::Rng) -> Result<Self, String> {
        let mut load = Self { clients: JoinSet::new(), stop: CancellationToken::new(), counters: Arc::default() };
        for (kind, count) in [mix.singles, mix.batches, mix.streams, mix.readers].into_iter().enumerate() {
            for number in 0..count {
                // One that cannot connect any more has nothing to do: the daemon is gone already.
                let Ok(client) = daemon.connect().await else { continue };
                let (oracle, counters, stop) = (Arc::clone(oracle), Arc::clone(&load.counters), load.stop.clone());
                let client = LoadClient { client, oracle, counters, stop, mix, chance: chance.fork(), number };
                match kind {
                    0 => load.clients.spawn(writers::singles(client)),
                    1 => load.clients.spawn(writers::batches(client)),
                    2 => load.clients.spawn(streams::ingest(client)),
                    _ => load.clients.spawn(readers::read(client)),
                };
            }
        }
        Ok(load)
    }

    /// Lets the clients finish what they are doing.
    pub async fn finish(mut self) -> Result<Arc<Counters>, String> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| format!("a client of the load broke: {error}"))??;
        }
        Ok(self.counters)
    }
}

/// An answer, or the failure to get one; an error where there is neither.
pub async fn answer<T>(call: impl Future<Output = Result<T, ClientError>>) -> Result<Result<T, ClientError>, String> {
    timeout(PATIENCE, call).await.map_err(|_| format!("HANG: a call got no answer within {PATIENCE:?}"))
}

/// Whether an error says that nothing was written. Any other leaves that open.
pub fn refuses(error: &ClientError) -> bool {
    error.reason == "DISK_FULL"
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A number that nobody else has.
pub fn fresh_number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// A caller that nobody else is.
pub fn fresh_caller() -> Caller {
    Caller(fresh_number())
}
