//! Several things at once: reads and followers beside a load, and a restart in the middle of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dateline::client::v1;
use dateline::client::v1::watch_articles_request::Start;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::writes::load_all;
use super::{CONNECTIONS, Choice, Gets, Runner};
use crate::Fallible;
use crate::connection::{Connection, call};
use crate::figures::{Done, Figures, Latencies, Meter, latencies};
use crate::load::{Calls as _, gather};
use crate::server::{Server, Subject};
use crate::single::SingleConnection;
use crate::wire::{Request, fields};

/// Reads a second beside a load, and how many of them may be in flight.
const PACED_GETS: u32 = 1_000;
const PACED_IN_FLIGHT: u32 = 4;
/// Followers of a load.
const WATCHERS: usize = 2;
/// A follower that gets nothing for so long has lost something.
const SILENCE: Duration = Duration::from_secs(30);
/// Articles that are written just before the kill: what is to be replayed is the most that there can be.
const BEFORE_KILL: usize = 12_500;

impl Runner {
    /// Loads as many articles as are there already, while gets are made at a steady pace.
    pub(super) async fn mixed(&mut self, name: &str, subject: Subject) -> Fallible<Figures> {
        let articles = self.fresh(subject, self.articles.len()).await?;
        let gets = Gets { corpus: Arc::clone(&self.corpus), targets: Arc::clone(&self.targets), choice: Choice::Even };
        let gets = Arc::new(gets);
        let main = self.main(subject).await?;
        let readers = SingleConnection::several(&main.server.address, PACED_IN_FLIGHT as usize).await?;
        let (stop, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let meter = Meter::start(&main.server)?;
        let mut workers = JoinSet::new();
        let began = Instant::now();
        for (number, connection) in readers.into_iter().enumerate() {
            workers.spawn(paced(Arc::clone(&gets), connection, began, number as u32, Arc::clone(&stop), Arc::clone(&late)));
        }
        let loaded = load_all(&main.connections, &articles, &format!("{name}-{}", main.next)).await;
        stop.store(true, Ordering::Relaxed);
        let got = gather(workers).await?;
        let loaded = loaded?;
        let late_ms = late.load(Ordering::Relaxed) as f64 / 1e3;
        let done = Done { operations: loaded.operations, latencies: got.latencies, ended: loaded.ended };
        let gets_per_second = got.operations as f64 / (loaded.ended - began).as_secs_f64();
        let figures = meter.stop(name, &main.server, done, true).await?;
        let relative = figures.per_second / main.figures.per_second;
        let figures = figures.with("gets_per_second", gets_per_second).with("latest_get_ms", late_ms);
        Ok(figures.with("rate_to_undisturbed", relative))
    }

    /// Loads as many articles as are there already, while two followers read them.
    pub(super) async fn watch(&mut self, name: &str, subject: Subject) -> Fallible<Figures> {
        let articles = self.fresh(subject, self.articles.len()).await?;
        let main = self.main(subject).await?;
        let mut watchers = JoinSet::new();
        for mut connection in Connection::several(&main.server.address, WATCHERS).await? {
            let start = Some(Start::Position(v1::WatchStart::Now.into()));
            let request = v1::WatchArticlesRequest { start, include_articles: true, ..Default::default() };
            let mut changes = connection.stream(call::WATCH, Request::whole(&request)).await?;
            // The first message says that the watch has begun.
            changes.next().await.ok_or("a watch ended before it began")??;
            watchers.spawn(follow(changes, articles.len() as u64));
        }
        let meter = Meter::start(&main.server)?;
        let done = load_all(&main.connections, &articles, &format!("{name}-{}", main.next)).await?;
        let mut lag = Duration::ZERO;
        while let Some(watcher) = watchers.join_next().await {
            lag = lag.max((watcher??).saturating_duration_since(done.ended));
        }
        let figures = meter.stop(name, &main.server, done, true).await?;
        let relative = figures.per_second / main.figures.per_second;
        Ok(figures.with("rate_to_undisturbed", relative).with("lag_seconds", lag.as_secs_f64()))
    }

    /// Writes some more articles, kills the daemon at once, starts it again, and asks for an article until there is an answer.
    pub(super) async fn restarted(&mut self, name: &str, subject: Subject) -> Fallible<Figures> {
        let articles = self.fresh(subject, BEFORE_KILL).await?;
        let gets = Gets { corpus: Arc::clone(&self.corpus), targets: Arc::clone(&self.targets), choice: Choice::Even };
        let main = self.main(subject).await?;
        load_all(&main.connections, &articles, &format!("{name}-{}", main.next)).await?;
        let figures = restart(name, &mut main.server, &gets).await?;
        main.connections = Connection::several(&main.server.address, CONNECTIONS).await?;
        Ok(figures)
    }
}

/// Kills the daemon, starts it again, and asks for an article.
pub async fn restart(name: &str, server: &mut Server, gets: &Gets) -> Fallible<Figures> {
    let began = Instant::now();
    let listening = server.kill_and_restart()?;
    let mut connection = SingleConnection::open(&server.address).await?;
    gets.call(&mut connection, &mut Rng::with_seed(0)).await?;
    let answered = began.elapsed();
    let (cpu, peak) = (server.cpu()?, server.peak_memory()?);
    let deferred = server.settle().await?;
    let figures = Figures {
        phase: name.to_owned(),
        subject: server.subject,
        operations: 1,
        seconds: answered.as_secs_f64(),
        per_second: 1.0 / answered.as_secs_f64(),
        p50_ms: None,
        p99_ms: None,
        p999_ms: None,
        cpu_us: cpu.as_secs_f64() * 1e6,
        deferred_cpu_us: deferred.as_secs_f64() * 1e6,
        generator_cpu_us: 0.0,
        others_percent: 0.0,
        peak_memory_mib: peak as f64 / f64::from(1 << 20),
        more: Default::default(),
    };
    Ok(figures.with("listening_seconds", listening.as_secs_f64()).with("answer_seconds", answered.as_secs_f64()))
}

/// Makes every so-manieth call of a steady pace until it is told to stop. A call that is due while the one before is still under way
/// is made late: how late at most, in microseconds, goes to `late`.
async fn paced(
    gets: Arc<Gets>,
    mut connection: SingleConnection,
    began: Instant,
    number: u32,
    stop: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
) -> Fallible<(u64, Latencies)> {
    let mut rng = Rng::with_seed(u64::from(number));
    let (mut calls, mut latencies) = (0, latencies());
    let mut due = began + Duration::from_secs(1) / PACED_GETS * number;
    while !stop.load(Ordering::Relaxed) {
        sleep_until(due.into()).await;
        let from = Instant::now();
        gets.call(&mut connection, &mut rng).await?;
        latencies.saturating_record(from.elapsed().as_micros() as u64);
        calls += 1;
        due += Duration::from_secs(1) / PACED_GETS * PACED_IN_FLIGHT;
        late.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
    }
    Ok((calls, latencies))
}

/// Reads so many changes, and tells when the last of them came.
async fn follow(mut changes: Streaming<bytes::Bytes>, expected: u64) -> Fallible<Instant> {
    let mut seen = 0;
    while seen < expected {
        let message = tokio::time::timeout(SILENCE, changes.next()).await.map_err(|_| format!("a follower got {seen} of {expected}"))?;
        let message = message.ok_or("a watch ended")??;
        seen += fields(&message)?.iter().filter(|(field, _)| *field == 1).count() as u64;
    }
    Ok(Instant::now())
}
