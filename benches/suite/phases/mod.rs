//! The phases: what is done to both servers, one after the other.
//!
//! Reads, puts and the phases with several loads at once use the store that `load-4` filled; where that phase is not asked for, it
//! is run all the same, and left out of the report.

mod growth;
mod reads;
mod together;
mod writes;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::Fallible;
use crate::connection::Connection;
use crate::corpus::{Corpus, text_bytes};
use crate::figures::Figures;
use crate::server::{Launch, Server, Subject};
use crate::wire::{Encoded, encode_article};
pub use growth::growth;
use reads::{Choice, Gets, Target};

/// Connections of a load that has several.
const CONNECTIONS: usize = 4;
/// Keys that gets choose from at most: more would only take memory.
const TARGETS: usize = 200_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Bulk load of an empty store over so many ingest streams, each with a connection of its own.
    Load(usize),
    /// The same with one BatchIngestArticles call a batch.
    Batch,
    /// Single durable writes, so many in flight.
    Put(usize),
    /// Single reads, so many in flight, of articles chosen evenly.
    Get(usize),
    /// The same where a few articles are asked for most of the time.
    HotGet(usize),
    /// Reads of 100 keys a call.
    Lookup,
    /// Streams of whole days.
    Scan,
    /// Paced reads while articles are loaded.
    Mixed,
    /// Two followers while articles are loaded.
    Watch,
    /// From a kill to the next answer.
    Restart,
}

impl Phase {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 17] = [
        Self::Load(1),
        Self::Batch,
        Self::Load(CONNECTIONS),
        Self::Get(1),
        Self::Get(16),
        Self::Get(64),
        Self::HotGet(1),
        Self::HotGet(16),
        Self::HotGet(64),
        Self::Lookup,
        Self::Scan,
        Self::Put(1),
        Self::Put(16),
        Self::Put(64),
        Self::Mixed,
        Self::Watch,
        Self::Restart,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(connections) => write!(f, "load-{connections}"),
            Self::Batch => f.write_str("batch-4"),
            Self::Put(in_flight) => write!(f, "put-{in_flight}"),
            Self::Get(in_flight) => write!(f, "get-{in_flight}"),
            Self::HotGet(in_flight) => write!(f, "hot-get-{in_flight}"),
            Self::Lookup => f.write_str("lookup-100"),
            Self::Scan => f.write_str("scan"),
            Self::Mixed => f.write_str("mixed"),
            Self::Watch => f.write_str("watch"),
            Self::Restart => f.write_str("restart"),
        }
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|phase| phase.to_string() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(Self::to_string).collect();
            format!("there is no phase {name}; there are {}", names.join(", "))
        })
    }
}

/// Runs phases.
pub struct Runner {
    corpus: Arc<Corpus>,
    launch: Launch,
    /// How long phases last that have no end of their own.
    time: Duration,
    /// The articles that are loaded first.
    articles: Encoded,
    text_bytes: u64,
    targets: Arc<Vec<Target>>,
    /// The days that are loaded, with the number of their articles.
    days: Arc<Vec<(String, u64)>>,
    loaded: BTreeMap<Subject, Loaded>,
}

/// A server with the first articles in it.
struct Loaded {
    server: Server,
    connections: Vec<Connection>,
    /// Loading it, undisturbed.
    figures: Figures,
    /// The number of the next article that it does not hold.
    next: usize,
}

impl Runner {
    /// Prepares the requests.
    pub fn new(corpus: Arc<Corpus>, count: usize, launch: Launch, time: Duration) -> Self {
        let mut bytes = 0;
        let mut days = BTreeMap::new();
        let encode = |number| {
            let article = corpus.article(number);
            bytes += text_bytes(&article) as u64;
            *days.entry(article.date.clone()).or_insert(0) += 1;
            encode_article(&article)
        };
        let articles: Vec<_> = (0..count).map(encode).collect();
        Self {
            launch,
            time,
            articles: Arc::new(articles),
            text_bytes: bytes,
            targets: Arc::new(targets(&corpus, count)),
            days: Arc::new(days.into_iter().collect()),
            corpus,
            loaded: BTreeMap::new(),
        }
    }

    /// Runs a phase; `None` where the ceiling has no such thing.
    ///
    /// # Errors
    /// Where a call fails, or an answer is not what it should be.
    pub async fn run(&mut self, phase: Phase, subject: Subject) -> Fallible<Option<Figures>> {
        let name = phase.to_string();
        let figures = match phase {
            Phase::Load(CONNECTIONS) => self.load_main(subject).await?,
            Phase::Load(connections) => self.load(&name, subject, connections).await?.figures,
            Phase::Batch => self.batches(&name, subject).await?,
            Phase::Watch | Phase::Restart if subject == Subject::Ceiling => return Ok(None),
            Phase::Restart => self.restarted(&name, subject).await?,
            Phase::Put(in_flight) => self.puts(&name, subject, in_flight).await?,
            Phase::Get(in_flight) => self.gets(&name, subject, in_flight, Choice::Even).await?,
            Phase::HotGet(in_flight) => self.gets(&name, subject, in_flight, Choice::zipf(self.targets.len())).await?,
            Phase::Lookup => self.lookups(&name, subject).await?,
            Phase::Scan => self.scan(&name, subject).await?,
            Phase::Mixed => self.mixed(&name, subject).await?,
            Phase::Watch => self.watch(&name, subject).await?,
        };
        Ok(Some(figures))
    }

    /// The server that holds the first articles.
    async fn main(&mut self, subject: Subject) -> Fallible<&mut Loaded> {
        if !self.loaded.contains_key(&subject) {
            self.load_main(subject).await?;
        }
        Ok(self.loaded.get_mut(&subject).ok_or("nothing is loaded")?)
    }

    async fn load_main(&mut self, subject: Subject) -> Fallible<Figures> {
        self.loaded.remove(&subject);
        let loaded = self.load(&Phase::Load(CONNECTIONS).to_string(), subject, CONNECTIONS).await?;
        let figures = loaded.figures.clone();
        self.loaded.insert(subject, loaded);
        Ok(figures)
    }

    /// Encodes the next articles that a server does not hold yet.
    async fn fresh(&mut self, subject: Subject, count: usize) -> Fallible<Encoded> {
        let corpus = Arc::clone(&self.corpus);
        let main = self.main(subject).await?;
        let first = main.next;
        main.next += count;
        let encode = move || (first..first + count).map(|number| encode_article(&corpus.article(number))).collect();
        Ok(Arc::new(tokio::task::spawn_blocking(encode).await?))
    }
}

/// What gets choose from: keys of the articles loaded first, in no order.
pub fn targets(corpus: &Corpus, count: usize) -> Vec<Target> {
    let mut rng = Rng::with_seed(count as u64);
    let mut numbers: Vec<usize> = if count <= TARGETS { (0..count).collect() } else { (0..TARGETS).map(|_| rng.usize(..count)).collect() };
    rng.shuffle(&mut numbers);
    numbers.into_iter().map(|number| Target::new(corpus, number)).collect()
}
