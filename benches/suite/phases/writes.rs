//! Bulk loads and single writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dateline::client::v1;
use fastrand::Rng;
use prost::Message as _;
use tokio::task::JoinSet;

use super::{CONNECTIONS, Loaded, Runner};
use crate::Fallible;
use crate::connection::{Connection, call};
use crate::figures::{Done, Figures, Meter};
use crate::load::{BATCH, Calls, gather, ingest, keep_in_flight};
use crate::server::{Server, Subject};
use crate::single::{Single, SingleConnection};
use crate::wire::{Encoded, Request, tag};

/// Articles that puts may write in a second at most, by how many are in flight: so many are prepared.
const PREPARED_PUTS: [(usize, usize); 2] = [(1, 6_000), (usize::MAX, 25_000)];
/// A load that takes longer than this has failed.
const LONGEST_LOAD: Duration = Duration::from_secs(3_600);

struct Batches {
    articles: Encoded,
    next: AtomicUsize,
}

impl Calls for Batches {
    type Over = Connection;

    async fn call(&self, connection: &mut Connection, _: &mut Rng) -> Fallible<Option<u64>> {
        let first = self.next.fetch_add(BATCH, Ordering::Relaxed);
        if first >= self.articles.len() {
            return Ok(None);
        }
        let range = first..self.articles.len().min(first + BATCH);
        let expected = range.len();
        let answer = connection.unary(call::BATCH, Request::Batch(Arc::clone(&self.articles), range)).await?;
        let results = v1::BatchIngestArticlesResponse::decode(answer)?.results;
        let created = results.iter().filter(|result| result.outcome() == v1::Outcome::Created).count();
        if created == expected { Ok(Some(created as u64)) } else { Err(format!("{created} of {expected} articles were created").into()) }
    }
}

struct Puts {
    articles: Encoded,
    next: AtomicUsize,
}

impl Calls for Puts {
    type Over = SingleConnection;

    async fn call(&self, connection: &mut SingleConnection, _: &mut Rng) -> Fallible<Option<u64>> {
        let Some(article) = self.articles.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return Ok(None) };
        let answer = connection.call(Single::Put, &[&[tag(1)], article]).await?;
        match v1::PutArticleResponse::decode(answer)?.outcome() {
            v1::Outcome::Created => Ok(Some(1)),
            outcome => Err(format!("an article that was put is {outcome:?}").into()),
        }
    }
}

/// Loads all articles over as many streams as there are connections; batches go to the streams in turn.
pub async fn load_all(connections: &[Connection], articles: &Encoded, name: &str) -> Fallible<Done> {
    let mut streams = JoinSet::new();
    for (number, connection) in connections.iter().enumerate() {
        let articles = Arc::clone(articles);
        let mut next_item = 0;
        let items = (0..articles.len()).step_by(BATCH).skip(number).step_by(connections.len()).map(move |first| {
            let range = first..articles.len().min(first + BATCH);
            let first_item = next_item;
            next_item += range.len() as u64;
            Request::Items(Arc::clone(&articles), range, first_item)
        });
        streams.spawn(ingest(connection.clone(), format!("{name}-{number}"), tokio_stream::iter(items)));
    }
    gather(streams).await
}

impl Runner {
    /// Starts a server and loads the first articles.
    pub(super) async fn load(&self, name: &str, subject: Subject, connections: usize) -> Fallible<Loaded> {
        let server = Server::start(subject, &self.launch)?;
        let connections = Connection::several(&server.address, connections).await?;
        let meter = Meter::start(&server)?;
        let done = load_all(&connections, &self.articles, name).await?;
        let figures = meter.stop(name, &server, done, true).await?;
        let figures = self.with_disk(figures, &server)?;
        Ok(Loaded { server, connections, figures, next: self.articles.len() })
    }

    pub(super) async fn batches(&self, name: &str, subject: Subject) -> Fallible<Figures> {
        let server = Server::start(subject, &self.launch)?;
        let connections = Connection::several(&server.address, CONNECTIONS).await?;
        let meter = Meter::start(&server)?;
        let calls = Batches { articles: Arc::clone(&self.articles), next: AtomicUsize::new(0) };
        let done = keep_in_flight(Arc::new(calls), &connections, CONNECTIONS, LONGEST_LOAD).await?;
        let figures = meter.stop(name, &server, done, true).await?;
        self.with_disk(figures, &server)
    }

    fn with_disk(&self, figures: Figures, server: &Server) -> Fallible<Figures> {
        if server.subject == Subject::Ceiling {
            return Ok(figures);
        }
        Ok(figures.with("disk_to_text", server.disk_bytes()? as f64 / self.text_bytes as f64))
    }

    pub(super) async fn puts(&mut self, name: &str, subject: Subject, in_flight: usize) -> Fallible<Figures> {
        let time = self.time;
        let per_second = PREPARED_PUTS.iter().find(|(most, _)| in_flight <= *most).map_or(0, |(_, puts)| *puts);
        let articles = self.fresh(subject, (per_second as f64 * time.as_secs_f64()) as usize).await?;
        let main = self.main(subject).await?;
        let meter = Meter::start(&main.server)?;
        let connections = SingleConnection::several(&main.server.address, CONNECTIONS).await?;
        let calls = Puts { articles, next: AtomicUsize::new(0) };
        let done = keep_in_flight(Arc::new(calls), &connections, in_flight, time).await?;
        meter.stop(name, &main.server, done, true).await
    }
}
