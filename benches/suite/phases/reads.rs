//! Gets, lookups and scans of what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dateline::client::v1;
use fastrand::Rng;
use prost::Message as _;
use tokio_stream::StreamExt as _;

use super::{CONNECTIONS, Runner};
use crate::Fallible;
use crate::connection::{Connection, call};
use crate::corpus::Corpus;
use crate::corpus::language::alias_table;
use crate::figures::{Figures, Meter};
use crate::load::{Calls, keep_in_flight};
use crate::server::Subject;
use crate::single::{Single, SingleConnection};
use crate::wire::{Request, fields};

/// Of so many answers one is decoded and compared with what was stored.
const COMPARED: usize = 64;
/// Keys of a lookup, and lookups in flight.
const LOOKUP_KEYS: usize = 100;
const LOOKUPS: usize = 4;
/// Days of one stream of a scan, and streams at once.
const SCAN_DAYS: usize = 10;
const SCANS: usize = 4;
/// How uneven the choice of hot gets is; the usual figure.
const ZIPF_EXPONENT: f64 = 0.99;

/// An article to get.
pub struct Target {
    number: usize,
    /// A GetArticleRequest. Several of them, one after the other, are a LookupArticlesRequest: its field `keys` has the number that
    /// `key` has here.
    request: Bytes,
}

impl Target {
    /// The article of a number, by its key.
    pub fn new(corpus: &Corpus, number: usize) -> Self {
        let target = v1::get_article_request::Target::Key(corpus.key(number));
        let request = v1::GetArticleRequest { target: Some(target), ..Default::default() };
        Self { number, request: request.encode_to_vec().into() }
    }
}

/// How a target is chosen.
pub enum Choice {
    /// Each as likely as any other.
    Even,
    /// By Zipf's law.
    Zipf(Vec<(f32, u32)>),
}

impl Choice {
    /// By Zipf's law, of so many.
    pub fn zipf(count: usize) -> Self {
        Self::Zipf(alias_table(&(0..count).map(|rank| (rank as f64 + 1.0).powf(-ZIPF_EXPONENT)).collect::<Vec<_>>()))
    }

    fn of<'a>(&self, targets: &'a [Target], rng: &mut Rng) -> &'a Target {
        let slot = rng.usize(..targets.len());
        match self {
            Self::Even => &targets[slot],
            Self::Zipf(table) if rng.f32() >= table[slot].0 => &targets[table[slot].1 as usize],
            Self::Zipf(_) => &targets[slot],
        }
    }
}

/// GetArticle calls.
pub struct Gets {
    /// What was stored.
    pub corpus: Arc<Corpus>,
    /// What to ask for.
    pub targets: Arc<Vec<Target>>,
    /// How often.
    pub choice: Choice,
}

impl Calls for Gets {
    type Over = SingleConnection;

    async fn call(&self, connection: &mut SingleConnection, rng: &mut Rng) -> Fallible<Option<u64>> {
        let target = self.choice.of(&self.targets, rng);
        let answer = connection.call(Single::Get, &[&target.request]).await?;
        if rng.usize(..COMPARED) == 0 {
            let article = v1::GetArticleResponse::decode(answer)?.article.unwrap_or_default();
            compare(&self.corpus, target.number, &article)?;
        } else if answer.is_empty() {
            return Err("an answer without an article".into());
        }
        Ok(Some(1))
    }
}

fn compare(corpus: &Corpus, number: usize, article: &v1::Article) -> Fallible<()> {
    let stored = corpus.article(number);
    let text = |article: &v1::Article| [&article.date, &article.url, &article.title, &article.lead, &article.body].map(String::clone);
    if text(&stored) == text(article) { Ok(()) } else { Err(format!("{} {} is not what was stored", stored.date, stored.url).into()) }
}

struct Lookups(Arc<Vec<Target>>);

impl Calls for Lookups {
    type Over = Connection;

    async fn call(&self, connection: &mut Connection, rng: &mut Rng) -> Fallible<Option<u64>> {
        let mut request = Vec::with_capacity(LOOKUP_KEYS * 160);
        for _ in 0..LOOKUP_KEYS {
            request.extend_from_slice(&Choice::Even.of(&self.0, rng).request);
        }
        let mut answers = connection.stream(call::LOOKUP, Request::Whole(request.into())).await?;
        let mut found = 0;
        while let Some(message) = answers.next().await {
            for (_, result) in fields(&message?)? {
                // The first field of a result is the article, the second an error.
                found += usize::from(result.first() == Some(&(1 << 3 | 2)));
            }
        }
        if found == LOOKUP_KEYS { Ok(Some(found as u64)) } else { Err(format!("{found} of {LOOKUP_KEYS} keys were found").into()) }
    }
}

/// StreamArticles calls, a few days each.
pub struct Scans {
    /// The days, in order, with the number of their articles.
    pub days: Arc<Vec<(String, u64)>>,
    /// How many calls were made so far.
    pub next: AtomicUsize,
}

impl Calls for Scans {
    type Over = Connection;

    async fn call(&self, connection: &mut Connection, _: &mut Rng) -> Fallible<Option<u64>> {
        let days: Vec<_> = self.days.chunks(SCAN_DAYS).collect();
        let days = days[self.next.fetch_add(1, Ordering::Relaxed) % days.len()];
        let [(start_date, _), .., (end_date, _)] = days else { return scan(connection, &days[0].0, &days[0].0, days[0].1).await };
        scan(connection, start_date, end_date, days.iter().map(|(_, articles)| articles).sum()).await
    }
}

/// Streams all articles of some days, of which there must be so many.
async fn scan(connection: &mut Connection, start_date: &str, end_date: &str, expected: u64) -> Fallible<Option<u64>> {
    let filter = v1::ArticleFilter { start_date: start_date.to_owned(), end_date: end_date.to_owned(), scope: None };
    let request = Request::whole(&v1::StreamArticlesRequest { filter: Some(filter), ..Default::default() });
    let mut answers = connection.stream(call::STREAM, request).await?;
    let (mut articles, mut ended) = (0, None);
    while let Some(message) = answers.next().await {
        for (event, content) in fields(&message?)? {
            match event {
                2 => articles += fields(content)?.iter().filter(|(field, _)| *field == 1).count() as u64,
                3 => ended = Some(v1::StreamEnded::decode(content)?.article_count as u64),
                _ => {}
            }
        }
    }
    if ended != Some(articles) || articles != expected {
        return Err(format!("a scan of {start_date} to {end_date} gave {articles} of {expected} articles").into());
    }
    Ok(Some(articles))
}

impl Runner {
    pub(super) async fn gets(&mut self, name: &str, subject: Subject, in_flight: usize, choice: Choice) -> Fallible<Figures> {
        let calls = Gets { corpus: Arc::clone(&self.corpus), targets: Arc::clone(&self.targets), choice };
        let connections = SingleConnection::several(&self.main(subject).await?.server.address, CONNECTIONS).await?;
        self.read(name, subject, calls, &connections, in_flight).await
    }

    pub(super) async fn lookups(&mut self, name: &str, subject: Subject) -> Fallible<Figures> {
        let calls = Lookups(Arc::clone(&self.targets));
        let connections = self.main(subject).await?.connections.clone();
        self.read(name, subject, calls, &connections, LOOKUPS).await
    }

    pub(super) async fn scan(&mut self, name: &str, subject: Subject) -> Fallible<Figures> {
        let calls = Scans { days: Arc::clone(&self.days), next: AtomicUsize::new(0) };
        let connections = self.main(subject).await?.connections.clone();
        self.read(name, subject, calls, &connections, SCANS).await
    }

    async fn read<C: Calls>(
        &mut self,
        name: &str,
        subject: Subject,
        calls: C,
        connections: &[C::Over],
        in_flight: usize,
    ) -> Fallible<Figures> {
        let time = self.time;
        let main = self.main(subject).await?;
        let meter = Meter::start(&main.server)?;
        let done = keep_in_flight(Arc::new(calls), connections, in_flight, time).await?;
        meter.stop(name, &main.server, done, false).await
    }
}
