//! Ingest streams: positions become durable with their batches, and an opening fences off those before it.

use super::Violation;
use super::kit::{OrViolation as _, Site, holds, same, sequence};
use crate::article::{Article, Digest, Etag};
use crate::storage::{
    ArticleStore, BatchOutcome, IngestPosition, IngestStreamId, OpenedStream, OutcomeCounts, Precondition, StoreError, StoreId,
    StreamAdvance, StreamState, Write, WriteBatch,
};

pub async fn check(store: &dyn ArticleStore) -> Result<(), Violation> {
    positions_go_with_batches(store).await?;
    an_opening_fences_off_those_before(store).await?;
    a_batch_goes_on_where_its_stream_is(store).await?;
    a_finished_stream_takes_no_more(store).await
}

fn new_id() -> Result<IngestStreamId, Violation> {
    let id = StoreId::random().or_violation("a random name for the check")?;
    format!("contract-{id}").parse().or_violation("the stream id of the check is one")
}

async fn open(store: &dyn ArticleStore, id: &IngestStreamId) -> Result<OpenedStream, Violation> {
    store.open_stream(id).await.or_violation("an ingest stream can be opened")
}

fn advance(id: &IngestStreamId, epoch: u64, next_item: u64) -> StreamAdvance {
    StreamAdvance { id: id.clone(), epoch, next_item, rejected: 0, state: StreamState::Open }
}

async fn write(store: &dyn ArticleStore, articles: &[Article], advance: StreamAdvance) -> Result<BatchOutcome, StoreError> {
    let writes = articles.iter().cloned().map(Write::put).collect();
    store.write(WriteBatch { writes, stream: Some(advance) }).await
}

/// What of a position the batches decide.
fn told(position: IngestPosition) -> (u64, OutcomeCounts, StreamState) {
    (position.next_item, position.counts, position.state)
}

async fn position_is(
    store: &dyn ArticleStore,
    id: &IngestStreamId,
    outcome: &BatchOutcome,
    expected: (u64, OutcomeCounts, StreamState),
) -> Result<u64, Violation> {
    same("the outcome of a batch tells the position of its stream", &outcome.position.map(told), &Some(expected))?;
    let opened = open(store, id).await?;
    same("a stream is where its last batch brought it", &told(opened.position), &expected)?;
    same(
        "a stream was last advanced by its last batch",
        &Some(opened.position.update_time),
        &outcome.position.map(|position| position.update_time),
    )?;
    Ok(opened.epoch)
}

/// A batch is refused as taken over, and nothing of it is written.
async fn taken_over(store: &dyn ArticleStore, promise: &str, article: &Article, advance: StreamAdvance) -> Result<(), Violation> {
    let sequence = self::sequence(store).await?;
    let outcome = write(store, std::slice::from_ref(article), advance).await;
    holds(promise, matches!(outcome, Err(StoreError::StreamTakenOver)), || format!("the outcome was {outcome:?}"))?;
    let promise = "of a batch whose stream was taken over nothing is written";
    same(promise, &store.article(article.key()).await.or_violation(promise)?, &None)?;
    same(promise, &self::sequence(store).await?, &sequence)
}

async fn positions_go_with_batches(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id, other) = (Site::new()?, new_id()?, new_id()?);
    let opened = open(store, &id).await?;
    let none = OutcomeCounts::default();
    same("a new stream begins with item 0", &told(opened.position), &(0, none, StreamState::Open))?;
    let promise = "a batch of a stream that is open is written";

    let articles = [site.article("/0", "a")?, site.article("/1", "b")?, site.article("/1", "b")?, site.article("/0", "c")?];
    let outcome = write(store, &articles, advance(&id, opened.epoch, 4)).await.or_violation(promise)?;
    let counts = OutcomeCounts { created: 2, updated: 1, unchanged: 1, rejected: 0 };
    let epoch = position_is(store, &id, &outcome, (4, counts, StreamState::Open)).await?;
    let found = store.article(articles[3].key()).await.or_violation(promise)?;
    same(promise, &found.map(|found| found.article), &Some(articles[3].clone()))?;

    let outcome = write(store, &[], StreamAdvance { rejected: 3, ..advance(&id, epoch, 7) }).await.or_violation(promise)?;
    let counts = OutcomeCounts { rejected: 3, ..counts };
    let epoch = position_is(store, &id, &outcome, (7, counts, StreamState::Open)).await?;

    let refused = Precondition::Etag(Etag { revision: 7, digest: Digest::from_bytes([7; 32]) });
    let writes = vec![
        Write::Put { article: Box::new(articles[0].clone()), precondition: refused },
        Write::put(articles[3].clone()),
        Write::put(site.article("/2", "d")?),
    ];
    let stream = Some(StreamAdvance { rejected: 1, ..advance(&id, epoch, 11) });
    let outcome = store.write(WriteBatch { writes, stream }).await.or_violation(promise)?;
    let counts = OutcomeCounts { created: 3, updated: 1, unchanged: 2, rejected: 5 };
    position_is(store, &id, &outcome, (11, counts, StreamState::Open)).await?;
    same("every item has one outcome", &counts.total(), &11)?;
    same("streams are apart", &told(open(store, &other).await?.position), &(0, none, StreamState::Open))
}

async fn an_opening_fences_off_those_before(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id) = (Site::new()?, new_id()?);
    let article = site.article("/fenced", "never to be written")?;
    taken_over(store, "a stream that was never opened takes no batch", &article, advance(&id, 1, 1)).await?;
    let first = open(store, &id).await?;
    let second = open(store, &id).await?;
    holds("each opening has an epoch of its own", first.epoch != second.epoch, || format!("{first:?}, then {second:?}"))?;
    let promise = "an opening fences off whoever opened the stream before";
    taken_over(store, promise, &article, advance(&id, first.epoch, 1)).await?;
    taken_over(store, "an epoch that was never given is none", &article, advance(&id, second.epoch + 1, 1)).await?;
    same("a refused batch leaves its stream where it was", &told(open(store, &id).await?.position), &told(second.position))?;

    let third = open(store, &id).await?;
    let mut pending = Vec::new();
    for number in 0..10 {
        let writes = vec![Write::put(site.article(&format!("/before/{number}"), "before")?)];
        let stream = Some(advance(&id, third.epoch, number + 1));
        pending.push(store.submit(WriteBatch { writes, stream }).await.or_violation("a batch of an open stream is taken")?);
    }
    let fourth = open(store, &id).await?;
    let counts = OutcomeCounts { created: 10, ..OutcomeCounts::default() };
    same("what was submitted before an opening is in its position", &told(fourth.position), &(10, counts, StreamState::Open))?;
    for pending in pending {
        pending.await.or_violation("what was submitted before an opening is carried out")?;
    }
    taken_over(store, promise, &article, advance(&id, third.epoch, 11)).await?;
    let outcome = write(store, &[site.article("/after", "after")?], advance(&id, fourth.epoch, 11))
        .await
        .or_violation("the latest opening writes")?;
    let counts = OutcomeCounts { created: 11, ..counts };
    position_is(store, &id, &outcome, (11, counts, StreamState::Open)).await.map(drop)
}

async fn a_batch_goes_on_where_its_stream_is(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id) = (Site::new()?, new_id()?);
    let epoch = open(store, &id).await?.epoch;
    let promise = "a batch that leaves a gap in its stream, or goes over items again, is refused as a whole";
    let articles = [site.article("/a", "a")?, site.article("/b", "b")?];
    for (next_item, rejected) in [(3, 0), (1, 0), (2, 1), (0, 0)] {
        let outcome = write(store, &articles, StreamAdvance { rejected, ..advance(&id, epoch, next_item) }).await;
        holds(promise, matches!(outcome, Err(StoreError::StreamInterrupted)), || format!("{next_item}, {rejected}: {outcome:?}"))?;
        same(promise, &store.article(articles[0].key()).await.or_violation(promise)?, &None)?;
    }
    let outcome = write(store, &articles, advance(&id, epoch, 2)).await.or_violation("the batch that goes on is written")?;
    let counts = OutcomeCounts { created: 2, ..OutcomeCounts::default() };
    position_is(store, &id, &outcome, (2, counts, StreamState::Open)).await.map(drop)
}

async fn a_finished_stream_takes_no_more(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id) = (Site::new()?, new_id()?);
    let epoch = open(store, &id).await?.epoch;
    let end = StreamAdvance { state: StreamState::Finished, ..advance(&id, epoch, 1) };
    let outcome = write(store, &[site.article("/last", "the last one")?], end.clone()).await.or_violation("a stream can be finished")?;
    let never = site.article("/never", "never to be written")?;
    let promise = "a finished stream takes no more";
    taken_over(store, promise, &never, advance(&id, epoch, 2)).await?;
    taken_over(store, promise, &never, end).await?;
    let counts = OutcomeCounts { created: 1, ..OutcomeCounts::default() };
    let epoch = position_is(store, &id, &outcome, (1, counts, StreamState::Finished)).await?;
    taken_over(store, promise, &never, advance(&id, epoch, 2)).await
}
