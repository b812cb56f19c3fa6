//! Ingest streams: positions become durable with their batches, and an opening fences off those before it.

use super::Violation;
use super::kit::{OrViolation as _, Site, holds, same, sequence};
use crate::article::{Article, Digest, Etag, FieldViolation, Reason};
use crate::storage::stream::{KEPT_REJECTIONS, RECENT_ITEMS};
use crate::storage::{
    ArticleStore, BatchOutcome, Bookmark, IngestPosition, IngestStreamId, ItemHash, OpenedStream, OutcomeCounts, Precondition, Rejection,
    RejectionCause, StoreError, StoreId, StreamAdvance, StreamState, Write, WriteBatch, WriteRefusal,
};

pub async fn check(store: &dyn ArticleStore) -> Result<(), Violation> {
    positions_go_with_batches(store).await?;
    an_opening_fences_off_those_before(store).await?;
    a_batch_goes_on_where_its_stream_is(store).await?;
    a_finished_stream_takes_no_more(store).await?;
    recent_items_are_known_again(store).await?;
    the_last_rejections_are_kept(store).await?;
    deletions_and_bookmarks_go_with_their_batch(store).await
}

fn new_id() -> Result<IngestStreamId, Violation> {
    let id = StoreId::random().or_violation("a random name for the check")?;
    format!("contract-{id}").parse().or_violation("the stream id of the check is one")
}

async fn open(store: &dyn ArticleStore, id: &IngestStreamId) -> Result<OpenedStream, Violation> {
    store.open_stream(id).await.or_violation("an ingest stream can be opened")
}

fn advance(id: &IngestStreamId, epoch: u64, next_item: u64) -> StreamAdvance {
    StreamAdvance::to(id.clone(), epoch, next_item)
}

async fn write(store: &dyn ArticleStore, articles: &[Article], advance: StreamAdvance) -> Result<BatchOutcome, StoreError> {
    let writes = articles.iter().cloned().map(Write::put).collect();
    store.write(WriteBatch { writes, stream: Some(advance) }).await
}

/// Rejections of these items.
fn rejected(items: std::ops::Range<u64>) -> Vec<Rejection> {
    let violation = |item| FieldViolation::new("date", Reason::InvalidDate, format!("of item {item} is none"));
    items.map(|item| Rejection::invalid(item, &[violation(item), violation(item)])).collect()
}

fn refusal(item: u64, refusal: WriteRefusal) -> Rejection {
    Rejection { item, cause: RejectionCause::Refused(refusal) }
}

/// All that are kept, fetched in pages.
async fn rejections(store: &dyn ArticleStore, id: &IngestStreamId, limit: usize) -> Result<Vec<Rejection>, Violation> {
    let (mut all, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let page = store.rejections(id, from, limit).await.or_violation("rejections can be read")?;
        let full = page.items.len() == limit || page.next.is_none();
        holds("a page of rejections that is not the last is full", full, || format!("{page:?}"))?;
        all.extend(page.items);
        next = page.next;
    }
    Ok(all)
}

/// What of a position the batches decide.
fn told(position: &IngestPosition) -> (u64, OutcomeCounts, StreamState) {
    (position.next_item, position.counts, position.state)
}

async fn position_is(
    store: &dyn ArticleStore,
    id: &IngestStreamId,
    outcome: &BatchOutcome,
    expected: (u64, OutcomeCounts, StreamState),
) -> Result<u64, Violation> {
    same("the outcome of a batch tells the position of its stream", &outcome.position.as_ref().map(told), &Some(expected))?;
    let opened = open(store, id).await?;
    same("a stream is where its last batch brought it", &Some(opened.position), &outcome.position)?;
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
    same("a new stream begins with item 0", &told(&opened.position), &(0, none, StreamState::Open))?;
    let promise = "a batch of a stream that is open is written";

    let articles = [site.article("/0", "a")?, site.article("/1", "b")?, site.article("/1", "b")?, site.article("/0", "c")?];
    let outcome = write(store, &articles, advance(&id, opened.epoch, 4)).await.or_violation(promise)?;
    let counts = OutcomeCounts { created: 2, updated: 1, unchanged: 1, ..none };
    let epoch = position_is(store, &id, &outcome, (4, counts, StreamState::Open)).await?;
    let found = store.article(articles[3].key()).await.or_violation(promise)?;
    same(promise, &found.map(|found| found.article), &Some(articles[3].clone()))?;

    let outcome = write(store, &[], StreamAdvance { rejections: rejected(4..7), ..advance(&id, epoch, 7) }).await.or_violation(promise)?;
    let counts = OutcomeCounts { rejected: 3, ..counts };
    let epoch = position_is(store, &id, &outcome, (7, counts, StreamState::Open)).await?;

    let refused = Precondition::Etag(Etag { revision: 7, digest: Digest::from_bytes([7; 32]) });
    let writes = vec![
        Write::Put { article: Box::new(articles[0].clone()), precondition: refused },
        Write::put(articles[3].clone()),
        Write::put(site.article("/2", "d")?),
    ];
    let stream = Some(StreamAdvance { rejections: rejected(9..10), ..advance(&id, epoch, 11) });
    let outcome = store.write(WriteBatch { writes, stream }).await.or_violation(promise)?;
    let counts = OutcomeCounts { created: 3, updated: 1, unchanged: 2, rejected: 5, deleted: 0 };
    position_is(store, &id, &outcome, (11, counts, StreamState::Open)).await?;
    same("every item has one outcome", &counts.total(), &11)?;
    let expected = [rejected(4..7), vec![refusal(7, WriteRefusal::EtagMismatch)], rejected(9..10)].concat();
    same("every rejection is kept with its item", &rejections(store, &id, 2).await?, &expected)?;
    same("streams are apart", &told(&open(store, &other).await?.position), &(0, none, StreamState::Open))
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
    same("a refused batch leaves its stream where it was", &told(&open(store, &id).await?.position), &told(&second.position))?;

    let third = open(store, &id).await?;
    let mut pending = Vec::new();
    for number in 0..10 {
        let writes = vec![Write::put(site.article(&format!("/before/{number}"), "before")?)];
        let stream = Some(advance(&id, third.epoch, number + 1));
        pending.push(store.submit(WriteBatch { writes, stream }).await.or_violation("a batch of an open stream is taken")?);
    }
    let fourth = open(store, &id).await?;
    let counts = OutcomeCounts { created: 10, ..OutcomeCounts::default() };
    same("what was submitted before an opening is in its position", &told(&fourth.position), &(10, counts, StreamState::Open))?;
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
        let rejections = self::rejected(0..rejected);
        let outcome = write(store, &articles, StreamAdvance { rejections, ..advance(&id, epoch, next_item) }).await;
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

fn hashes(items: std::ops::Range<u64>) -> Vec<ItemHash> {
    items.map(|item| ItemHash::of_bytes(&item.to_be_bytes())).collect()
}

async fn recent_items_are_known_again(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id) = (Site::new()?, new_id()?);
    let mut opened = open(store, &id).await?;
    same("of a new stream no item is known", &opened.recent, &Vec::new())?;
    let promise = "the hashes of the last items are given when a stream is opened";
    let mut next = 0;
    let window = RECENT_ITEMS as u64;
    for items in [1, 2, window - 4, 1, 700, 2 * window + 7, 300] {
        // Some are written, the others are not.
        let written = items.min(2);
        let articles: Vec<_> = (0..written).map(|number| site.article(&format!("/{}", next + number), "x")).collect::<Result<_, _>>()?;
        let end = next + items;
        let advance =
            StreamAdvance { rejections: rejected(next + written..end), hashes: hashes(next..end), ..advance(&id, opened.epoch, end) };
        write(store, &articles, advance).await.or_violation(promise)?;
        next = end;
        opened = open(store, &id).await?;
        same(promise, &opened.recent, &hashes(next.saturating_sub(window)..next))?;
    }
    // Several at once share what is made durable together.
    let mut pending = Vec::new();
    for _ in 0..20 {
        let advance = StreamAdvance {
            rejections: rejected(next..next + 90),
            hashes: hashes(next..next + 90),
            ..advance(&id, opened.epoch, next + 90)
        };
        pending.push(store.submit(WriteBatch { writes: Vec::new(), stream: Some(advance) }).await.or_violation(promise)?);
        next += 90;
    }
    let opened = open(store, &id).await?;
    same(promise, &opened.recent, &hashes(next - window..next))?;
    for pending in pending {
        pending.await.or_violation(promise)?;
    }
    let promise = "items without hashes are not known, nor are those before them";
    let unknown = StreamAdvance { rejections: rejected(next..next + 1), ..advance(&id, opened.epoch, next + 1) };
    write(store, &[], unknown).await.or_violation(promise)?;
    let opened = open(store, &id).await?;
    same(promise, &opened.recent, &Vec::new())?;
    next += 1;
    let known =
        StreamAdvance { rejections: rejected(next..next + 3), hashes: hashes(next..next + 3), ..advance(&id, opened.epoch, next + 3) };
    write(store, &[], known).await.or_violation(promise)?;
    same(promise, &open(store, &id).await?.recent, &hashes(next..next + 3))
}

async fn the_last_rejections_are_kept(store: &dyn ArticleStore) -> Result<(), Violation> {
    let id = new_id()?;
    let promise = "the last rejections of a stream are kept";
    let mut epoch = open(store, &id).await?.epoch;
    let mut next = 0;
    for items in [1, 3, KEPT_REJECTIONS - 6, 1, 4, 7000, 2 * KEPT_REJECTIONS + 3, 5] {
        let advance = StreamAdvance { rejections: rejected(next..next + items), ..advance(&id, epoch, next + items) };
        write(store, &[], advance).await.or_violation(promise)?;
        next += items;
        same(promise, &rejections(store, &id, 777).await?, &rejected(next.saturating_sub(KEPT_REJECTIONS)..next))?;
        let opened = open(store, &id).await?;
        same("every item that was rejected is counted", &opened.position.counts.rejected, &next)?;
        epoch = opened.epoch;
    }
    let first_of_page = store.rejections(&id, next - 2, 10).await.or_violation(promise)?;
    same("a page of rejections begins where it is told", &first_of_page.items, &rejected(next - 2..next))?;
    let end = StreamAdvance { state: StreamState::Finished, ..advance(&id, epoch, next) };
    write(store, &[], end).await.or_violation(promise)?;
    same("a finished stream keeps no rejections", &rejections(store, &id, 777).await?, &Vec::new())?;
    same("a stream that there is not has none", &rejections(store, &new_id()?, 1).await?, &Vec::new())
}

async fn deletions_and_bookmarks_go_with_their_batch(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, id) = (Site::new()?, new_id()?);
    let opened = open(store, &id).await?;
    same("a new stream has no bookmark", &opened.position.bookmark, &Bookmark::default())?;
    let promise = "deletions are items of a stream like others";
    let article = site.article("/a", "soon gone")?;
    let delete = || Write::Delete { key: article.key().clone(), precondition: Precondition::None };
    let bookmark = Bookmark::try_from(&[0, 255, 7][..]).or_violation("a few bytes are a bookmark")?;
    let stream = Some(StreamAdvance { bookmark: Some(bookmark.clone()), ..advance(&id, opened.epoch, 4) });
    let writes = vec![Write::put(article.clone()), delete(), delete(), Write::put(site.article("/b", "stays")?)];
    let outcome = store.write(WriteBatch { writes, stream }).await.or_violation(promise)?;
    let counts = OutcomeCounts { created: 2, unchanged: 1, deleted: 1, ..OutcomeCounts::default() };
    let epoch = position_is(store, &id, &outcome, (4, counts, StreamState::Open)).await?;
    same(promise, &store.article(article.key()).await.or_violation(promise)?, &None)?;
    same("nothing to delete is no rejection", &rejections(store, &id, 10).await?, &Vec::new())?;
    let bookmark_of = |outcome: BatchOutcome| outcome.position.map(|position| position.bookmark);

    let promise = "a batch without a bookmark leaves the one there is";
    let outcome = write(store, &[site.article("/c", "c")?], advance(&id, epoch, 5)).await.or_violation(promise)?;
    same(promise, &bookmark_of(outcome), &Some(bookmark.clone()))?;
    let refused = StreamAdvance { bookmark: Some(Bookmark::default()), ..advance(&id, epoch, 7) };
    holds("a gap is refused", write(store, &[], refused).await.is_err(), String::new)?;
    let opened = open(store, &id).await?;
    same("a refused batch leaves the bookmark as it was", &opened.position.bookmark, &bookmark)?;
    let promise = "a bookmark alone is taken";
    let longest = Bookmark::try_from(&[b'x'; Bookmark::MAX_BYTES][..]).or_violation("a bookmark may have so many bytes")?;
    for bookmark in [Bookmark::default(), longest] {
        let advance = StreamAdvance { bookmark: Some(bookmark.clone()), ..advance(&id, opened.epoch, 5) };
        same(promise, &bookmark_of(write(store, &[], advance).await.or_violation(promise)?), &Some(bookmark))?;
    }
    let too_long = Bookmark::try_from(&[0; Bookmark::MAX_BYTES + 1][..]);
    holds("a longer bookmark is none", too_long.is_err(), || format!("{too_long:?}"))
}

/// Checks that streams are forgotten, of a store that keeps them for a fraction of a second.
pub async fn check_expiry(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, ids, finished) = (Site::new()?, [new_id()?, new_id()?], new_id()?);
    let promise = "a stream that does not advance is forgotten";
    for (number, id) in ids.iter().chain([&finished]).enumerate() {
        let epoch = open(store, id).await?.epoch;
        let state = if *id == finished { StreamState::Finished } else { StreamState::Open };
        let bookmark = Some(Bookmark::try_from(&b"b"[..]).or_violation("a byte is a bookmark")?);
        let (rejections, hashes) = (rejected(1..3), hashes(0..3));
        let stream = StreamAdvance { rejections, hashes, bookmark, state, ..advance(id, epoch, 3) };
        write(store, &[site.article(&format!("/{number}"), "x")?], stream).await.or_violation(promise)?;
    }
    // Opened again and again it is no younger.
    let mut old = open(store, &ids[0]).await?;
    let expired = async {
        while old.position.next_item > 0 {
            old = open(store, &ids[0]).await?;
        }
        // Where the other is opened by nobody, it goes by itself, or is not there for whoever opens any.
        while store.stats().await.or_violation(promise)?.streams > 0 {
            open(store, &ids[0]).await?;
        }
        Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), expired).await.or_violation(promise)??;
    for id in ids.iter().chain([&finished]) {
        let opened = open(store, id).await?;
        same(promise, &told(&opened.position), &(0, OutcomeCounts::default(), StreamState::Open))?;
        same(promise, &opened.position.bookmark, &Bookmark::default())?;
        same(promise, &opened.recent, &Vec::new())?;
        same(promise, &rejections(store, id, 10).await?, &Vec::new())?;
        let outcome = write(store, &[site.article("/0", "x")?], advance(id, opened.epoch, 1)).await.or_violation(promise)?;
        same("its id begins again", &outcome.position.map(|position| position.next_item), &Some(1))?;
    }
    Ok(())
}
