//! The load: so many calls in flight on so many connections, or articles in bulk.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dateline::client::v1;
use fastrand::Rng;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt as _};

use crate::Fallible;
use crate::connection::{Connection, call};
use crate::figures::{Done, Latencies, latencies};
use crate::wire::Request;

/// Articles of a message.
pub const BATCH: usize = 500;

/// Calls of one kind.
pub trait Calls: Send + Sync + 'static {
    /// What they are made over; clones share it.
    type Over: Clone + Send;

    /// Makes the next call and checks the answer. Gives the number of articles that it was about, or `None` where all calls are made.
    fn call(&self, connection: &mut Self::Over, rng: &mut Rng) -> impl Future<Output = Fallible<Option<u64>>> + Send;
}

/// Keeps so many calls in flight, spread over the connections, until the time is over or all are made.
///
/// # Errors
/// Those of a call.
pub async fn keep_in_flight<C: Calls>(calls: Arc<C>, connections: &[C::Over], in_flight: usize, time: Duration) -> Fallible<Done> {
    let deadline = Instant::now() + time;
    let mut workers = JoinSet::new();
    for worker in 0..in_flight {
        let (calls, mut connection) = (Arc::clone(&calls), connections[worker % connections.len()].clone());
        workers.spawn(async move {
            let mut rng = Rng::with_seed(worker as u64);
            let (mut operations, mut latencies) = (0, latencies());
            let mut began = Instant::now();
            while began < deadline {
                let Some(count) = calls.call(&mut connection, &mut rng).await? else { break };
                let now = Instant::now();
                latencies.saturating_record((now - began).as_micros() as u64);
                operations += count;
                began = now;
            }
            Fallible::Ok((operations, latencies))
        });
    }
    gather(workers).await
}

/// Puts the figures of all workers together.
///
/// # Errors
/// Those of a worker.
pub async fn gather(mut workers: JoinSet<Fallible<(u64, Latencies)>>) -> Fallible<Done> {
    let mut done = Done { operations: 0, latencies: latencies(), ended: Instant::now() };
    while let Some(worker) = workers.join_next().await {
        let (operations, latencies) = worker??;
        done.operations += operations;
        done.latencies.add(latencies)?;
    }
    done.ended = Instant::now();
    Ok(done)
}

/// What an ingest stream has sent.
#[derive(Default)]
struct Sent {
    next_item: u64,
    /// Of each message that is not acknowledged yet the number after its last item, and when it was taken to be sent.
    messages: VecDeque<(u64, Instant)>,
}

/// Sends articles over one ingest stream, from opening it to its commit; gives how many. All of them must be new to the store.
///
/// # Errors
/// Where the stream fails, or an article is not created.
pub async fn ingest(
    mut connection: Connection,
    stream_id: String,
    items: impl Stream<Item = Request> + Send + 'static,
) -> Fallible<(u64, Latencies)> {
    use v1::ingest_articles_request::Message;
    use v1::ingest_articles_response::Message as Reply;
    let sent: Arc<Mutex<Sent>> = Arc::default();
    let whole = |message| Request::whole(&v1::IngestArticlesRequest { message: Some(message) });
    let open = whole(Message::Open(v1::IngestOpen { stream_id, ..Default::default() }));
    let stamps = Arc::clone(&sent);
    let items = items.map(move |request| {
        if let Request::Items(_, range, first_item) = &request {
            let mut stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
            stamps.next_item = first_item + range.len() as u64;
            let message = (stamps.next_item, Instant::now());
            stamps.messages.push_back(message);
        }
        request
    });
    let count = Arc::clone(&sent);
    // Made when it is its turn, since only then is the number known.
    let commit = tokio_stream::once(()).map(move |()| {
        let item_count = count.lock().unwrap_or_else(PoisonError::into_inner).next_item as i64;
        whole(Message::Commit(v1::IngestCommit { item_count }))
    });
    let requests = tokio_stream::once(open).chain(items).chain(commit);
    let mut replies = connection.duplex(call::INGEST, requests).await?;
    let mut latencies = latencies();
    while let Some(reply) = replies.next().await {
        match v1::IngestArticlesResponse::decode(reply?)?.message {
            Some(Reply::Ack(ack)) => {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                while let Some((_, when)) = sent.messages.front().filter(|(next, _)| *next <= ack.next_item as u64) {
                    latencies.saturating_record(when.elapsed().as_micros() as u64);
                    sent.messages.pop_front();
                }
            }
            Some(Reply::Committed(committed)) => {
                let counts = committed.counts.unwrap_or_default();
                if counts.created != committed.item_count {
                    return Err(format!("of {} articles: {counts:?}", committed.item_count).into());
                }
                return Ok((counts.created as u64, latencies));
            }
            Some(Reply::Opened(_) | Reply::Rejections(_)) | None => {}
        }
    }
    Err("the ingest stream ended without a commit".into())
}
