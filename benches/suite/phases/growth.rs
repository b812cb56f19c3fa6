//! How the daemon changes as its store grows: one store is loaded further and further, and looked at on the way.
//!
//! In the end articles of random days go into the full store, beside as many of new days: how much worse that is tells what the
//! order of arrival is worth.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::reads::{Choice, Gets, Scans};
use super::together::restart;
use super::{CONNECTIONS, targets};
use crate::Fallible;
use crate::connection::Connection;
use crate::corpus::{Corpus, text_bytes};
use crate::figures::{Done, Figures, Meter};
use crate::load::{BATCH, gather, ingest, keep_in_flight};
use crate::report::markdown;
use crate::server::{Launch, Server, Subject};
use crate::single::SingleConnection;
use crate::wire::{Request, encode_article};

/// Articles that go into the full store, of new days and of random ones.
const AFTERWARDS: usize = 50_000;
/// Batches of one stream that are made ahead.
const AHEAD: usize = 2;
/// Gets in flight, and scans.
const IN_FLIGHT: usize = 64;
const SCANS: usize = 4;

/// What was stored so far.
#[derive(Default)]
struct Stored {
    days: BTreeMap<String, u64>,
    text_bytes: u64,
}

/// A store that grows.
struct Growing {
    corpus: Arc<Corpus>,
    server: Server,
    connections: Vec<Connection>,
    stored: Arc<Mutex<Stored>>,
    /// How many articles it holds.
    count: usize,
    time: Duration,
}

/// Measures at each of these numbers of articles. Gives the figures, and them as a table.
///
/// # Errors
/// Where a call fails.
pub async fn growth(corpus: Arc<Corpus>, mut sizes: Vec<usize>, launch: &Launch, time: Duration) -> Fallible<(Vec<Figures>, String)> {
    sizes.sort_unstable();
    let server = Server::start(Subject::Dateline, launch)?;
    let connections = Connection::several(&server.address, CONNECTIONS).await?;
    let mut store = Growing { corpus, server, connections, stored: Arc::default(), count: 0, time };
    let mut figures = Vec::new();
    let head = [
        "articles",
        "loaded/s",
        "CPU µs",
        "get-64 µs",
        "p99 ms",
        "scan µs",
        "open s",
        "MiB loading",
        "reading",
        "opening",
        "disk B/article",
        "to text",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for size in sizes {
        let load = store.load(&format!("load@{size}"), size, None).await?;
        let (stored_bytes, disk) = (store.text_bytes(), store.server.disk_bytes()?);
        let get = store.get(size).await?;
        let scan = store.scan(size).await?;
        let open = store.open(size).await?;
        rows.push([
            size.to_string(),
            format!("{:.0}", load.per_second),
            format!("{:.1}", load.all_cpu_us()),
            format!("{:.1}", get.cpu_us),
            format!("{:.2}", get.p99_ms.unwrap_or_default()),
            format!("{:.1}", scan.cpu_us),
            format!("{:.2}", open.seconds),
            format!("{:.0}", load.peak_memory_mib),
            format!("{:.0}", get.peak_memory_mib.max(scan.peak_memory_mib)),
            format!("{:.0}", open.peak_memory_mib),
            format!("{:.0}", disk as f64 / size as f64),
            format!("{:.2}", disk as f64 / stored_bytes as f64),
        ]);
        eprintln!("{}", rows.last().map(|row| row.join("  ")).unwrap_or_default());
        figures.extend([load, get, scan, open]);
    }
    let mut table = markdown(&rows);
    let full = store.count;
    let append = store.load("append", full + AFTERWARDS, None).await?;
    let backfill = store.load("backfill", full + 2 * AFTERWARDS, Some(full)).await?;
    table.push_str(&format!(
        "\n{AFTERWARDS} more: {:.0}/s and {:.1} µs of new days; {:.0}/s and {:.1} µs of random days: {:.2} of the rate, {:.2}x the CPU\n",
        append.per_second,
        append.all_cpu_us(),
        backfill.per_second,
        backfill.all_cpu_us(),
        backfill.per_second / append.per_second,
        backfill.all_cpu_us() / append.all_cpu_us(),
    ));
    figures.extend([append, backfill]);
    Ok((figures, table))
}

impl Growing {
    fn text_bytes(&self) -> u64 {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).text_bytes
    }

    /// Loads until it holds so many; with `among`, of the days of the first so many articles, by chance.
    async fn load(&mut self, name: &str, until: usize, among: Option<usize>) -> Fallible<Figures> {
        let meter = Meter::start(&self.server)?;
        let mut streams = JoinSet::new();
        for (number, connection) in self.connections.iter().enumerate() {
            let (batches, receiver) = mpsc::channel(AHEAD);
            let (corpus, stored) = (Arc::clone(&self.corpus), Arc::clone(&self.stored));
            let firsts = (self.count..until).step_by(BATCH).skip(number).step_by(self.connections.len());
            // Ends when the stream does: nobody takes its batches any more then.
            tokio::task::spawn_blocking(move || produce(&corpus, firsts, until, among, &stored, &batches));
            streams.spawn(ingest(connection.clone(), format!("{name}-{number}"), ReceiverStream::new(receiver)));
        }
        let done = gather(streams).await?;
        self.count = until;
        meter.stop(name, &self.server, done, true).await
    }

    async fn get(&self, size: usize) -> Fallible<Figures> {
        let targets = Arc::new(targets(&self.corpus, size));
        let gets = Gets { corpus: Arc::clone(&self.corpus), targets, choice: Choice::Even };
        let connections = SingleConnection::several(&self.server.address, CONNECTIONS).await?;
        let meter = Meter::start(&self.server)?;
        let done = keep_in_flight(Arc::new(gets), &connections, IN_FLIGHT, self.time).await?;
        meter.stop(&format!("get-64@{size}"), &self.server, done, false).await
    }

    async fn scan(&self, size: usize) -> Fallible<Figures> {
        let days = self.stored.lock().unwrap_or_else(PoisonError::into_inner).days.clone();
        let mut days: Vec<_> = days.into_iter().collect();
        // Begins in the middle: what was written last may still be in memory.
        let middle = days.len() / 20 * 10;
        days.drain(..middle);
        let scans = Scans { days: Arc::new(days), next: AtomicUsize::new(0) };
        let meter = Meter::start(&self.server)?;
        let done: Done = keep_in_flight(Arc::new(scans), &self.connections, SCANS, self.time).await?;
        meter.stop(&format!("scan@{size}"), &self.server, done, false).await
    }

    async fn open(&mut self, size: usize) -> Fallible<Figures> {
        let targets = Arc::new(targets(&self.corpus, size.min(1_000)));
        let gets = Gets { corpus: Arc::clone(&self.corpus), targets, choice: Choice::Even };
        let figures = restart(&format!("restart@{size}"), &mut self.server, &gets).await?;
        self.connections = Connection::several(&self.server.address, CONNECTIONS).await?;
        Ok(figures)
    }
}

/// Makes the batches of one stream.
fn produce(
    corpus: &Corpus,
    firsts: impl Iterator<Item = usize>,
    until: usize,
    among: Option<usize>,
    stored: &Mutex<Stored>,
    batches: &mpsc::Sender<Request>,
) {
    let mut rng = Rng::with_seed(until as u64);
    let mut next_item = 0;
    for first in firsts {
        let mut batch = Vec::with_capacity(BATCH);
        let mut added = Stored::default();
        for number in first..until.min(first + BATCH) {
            let mut article = corpus.article(number);
            if let Some(count) = among {
                article.date = corpus.key(rng.usize(..count)).date;
            }
            added.text_bytes += text_bytes(&article) as u64;
            batch.push(encode_article(&article));
            *added.days.entry(article.date).or_insert(0) += 1;
        }
        let mut all = stored.lock().unwrap_or_else(PoisonError::into_inner);
        all.text_bytes += added.text_bytes;
        for (day, articles) in added.days {
            *all.days.entry(day).or_insert(0) += articles;
        }
        drop(all);
        let range = 0..batch.len();
        let first_item = next_item;
        next_item += range.len() as u64;
        if batches.blocking_send(Request::Items(Arc::new(batch), range, first_item)).is_err() {
            return;
        }
    }
}
