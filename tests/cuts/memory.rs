//! What the daemon holds in memory while many clients do not read, and others write as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dateline::client::{Client, IngestOptions, v1};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use v1::article_service_client::ArticleServiceClient;
use v1::change_service_client::ChangeServiceClient;
use v1::watch_articles_request::Start;

use super::input::{article, text};
use crate::daemon::{Daemon, Launch};
use crate::plan::Plan;

/// The daemon's memory at its peak.
const LIMIT: u64 = 512 << 20;
/// Bodies of this many bytes on average.
const BODY_BYTES: usize = 9_000;
/// Bytes that a stream has on the way: enough to keep the daemon busy, and few to wait for in the end.
const WINDOW_BYTES: usize = 2 << 20;
/// Articles that are there before, so that scans and watches have something to leave unread.
const ARTICLES: usize = 2_000;

pub async fn test(plan: Plan) -> Result<String, String> {
    let (watchers, streams, scans) = (plan.number(60, 200, 200), plan.number(12, 50, 50), plan.number(10, 20, 20));
    let load_time = Duration::from_secs(plan.number(6, 15, 75) as u64);
    let mut chance = plan.chance("memory");
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let daemon = Launch::on(&folder.path().join("data")).must_listen().await?;
    let client = daemon.connect().await?;
    for first in (0..ARTICLES).step_by(500) {
        let articles = (first..first + 500).map(|number| next(0, number, &mut chance)).collect();
        client.batch_ingest_articles(articles).await.map_err(|error| error.to_string())?;
    }

    let mut stalled = Stalled::default();
    for _ in 0..watchers {
        stalled.watch(&daemon.address).await?;
    }
    for _ in 0..scans {
        stalled.scan(&daemon.address).await?;
    }
    let stored = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut ingesting = JoinSet::new();
    for stream in 1..=streams {
        let client = daemon.connect().await?;
        ingesting.spawn(ingest(client, stream, begun + load_time, chance.fork(), Arc::clone(&stored)));
    }
    while let Some(ended) = ingesting.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let peak = peak_memory(&daemon)?;
    drop(stalled);
    daemon.stop().await?;
    let stored = stored.load(Ordering::Relaxed);
    let figures = format!(
        "{watchers} watchers and {scans} scans that read nothing, {streams} ingest streams with {stored} articles in {seconds:.0} s ({:.0}/s): \
         peak {} MiB",
        stored as f64 / seconds,
        peak >> 20
    );
    if peak < LIMIT { Ok(figures) } else { Err(format!("{figures}, more than {} MiB", LIMIT >> 20)) }
}

fn next(stream: usize, number: usize, chance: &mut fastrand::Rng) -> v1::Article {
    let key = (format!("2024-05-{:02}", 1 + number % 28), format!("https://stream-{stream}.example/{number}"));
    article(&key, text(number, BODY_BYTES, chance))
}

/// Ingests until the time is over.
async fn ingest(client: Client, stream: usize, until: Instant, mut chance: fastrand::Rng, stored: Arc<AtomicU64>) -> Result<(), String> {
    let failed = |error: dateline::client::ClientError| format!("stream {stream}: {error}");
    let options = IngestOptions { window_bytes: WINDOW_BYTES, ..IngestOptions::stream(format!("memory-{stream}")) };
    let (mut ingest, outcomes) = client.ingest_articles(options).await.map_err(failed)?;
    drop(outcomes);
    // Made once and renamed, so that the load costs the client little.
    let template = next(stream, 0, &mut chance);
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        let url = format!("https://stream-{stream}.example/{number}");
        ingest.push(v1::Article { url, ..template.clone() }).await.map_err(failed)?;
    }
    let committed = ingest.finish().await.map_err(failed)?;
    if committed.item_count != number {
        return Err(format!("stream {stream}: {} of {number} articles", committed.item_count));
    }
    stored.fetch_add(number as u64, Ordering::Relaxed);
    Ok(())
}

/// Calls that have begun and that nobody reads, each over a connection of its own.
#[derive(Default)]
struct Stalled {
    watches: Vec<Streaming<v1::WatchArticlesResponse>>,
    scans: Vec<Streaming<v1::StreamArticlesResponse>>,
}

impl Stalled {
    async fn watch(&mut self, address: &str) -> Result<(), String> {
        let start = Some(Start::Position(v1::WatchStart::Beginning.into()));
        let request = v1::WatchArticlesRequest { start, include_articles: true, ..Default::default() };
        let begun = ChangeServiceClient::new(connect(address).await?).watch_articles(request).await;
        self.watches.push(begun.map_err(|status| format!("a watch cannot begin: {status}"))?.into_inner());
        Ok(())
    }

    async fn scan(&mut self, address: &str) -> Result<(), String> {
        let begun = ArticleServiceClient::new(connect(address).await?).stream_articles(v1::StreamArticlesRequest::default()).await;
        self.scans.push(begun.map_err(|status| format!("a scan cannot begin: {status}"))?.into_inner());
        Ok(())
    }
}

async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
    endpoint.connect().await.map_err(|error| format!("nobody answers: {error}"))
}

fn peak_memory(daemon: &Daemon) -> Result<u64, String> {
    let id = daemon.id().ok_or("the daemon has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).map_err(|error| error.to_string())?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel tells no peak")?;
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().map_err(|_| format!("no number: {peak}"))?;
    Ok(kilobytes << 10)
}
