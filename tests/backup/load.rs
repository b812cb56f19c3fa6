//! A backup that is made while others write: what it holds is the store at one point of its changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dateline::article::{ArticleKey, Timestamp};
use dateline::client::{Client, IngestEvent, v1};
use dateline::storage::{self, ChangeKind, LogPlace, StoreOptions};

use super::super::*;

const WRITERS: u64 = 3;
const ITEMS: i64 = 20;

/// Creates, overwrites and deletes, and creates again.
async fn put_and_delete(client: Client, stop: Arc<AtomicBool>, writer: u64) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let url = |number: u64| format!("https://writer-{writer}.example/{}", number % 30);
        let changed = article("2024-05-02", &url(number), "T", &format!("text {number}"));
        client.put_article(v1::PutArticleRequest { article: Some(changed), ..Default::default() }).await.unwrap();
        if number % 3 == 0 {
            let key = Some(harness::key("2024-05-02", &url(number)));
            client.delete_article(v1::DeleteArticleRequest { key, allow_missing: true, ..Default::default() }).await.unwrap();
        }
    }
}

/// Brings an ingest stream forward: item `n` is article `/n`.
async fn ingest(client: Client, stop: Arc<AtomicBool>, stream: String) {
    let (mut sender, mut receiver, _) = client.ingest(&stream, false).await.unwrap();
    for first in (0..).step_by(ITEMS as usize) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let items = (first..first + ITEMS).map(|number| article("2024-05-03", &format!("https://{stream}.example/{number}"), "T", "B"));
        sender.send(first, items.collect()).await.unwrap();
        let mut acknowledged = first;
        while acknowledged < first + ITEMS {
            let Some(IngestEvent::Ack(ack)) = receiver.next().await.unwrap() else { panic!("no acknowledgement") };
            acknowledged = ack.next_item;
        }
    }
}

/// Of an article: revision, digest and time.
type Told = (u64, String, Timestamp);

/// What the change log of a store says of each article up to a change: the latest revision, or of a deletion the last one.
async fn replay(data: PathBuf, up_to: u64) -> (BTreeMap<ArticleKey, Told>, BTreeMap<ArticleKey, u64>) {
    let store = tokio::task::spawn_blocking(move || storage::open(&data, StoreOptions::default())).await.unwrap().unwrap();
    let (mut articles, mut deleted, mut last) = (BTreeMap::new(), BTreeMap::new(), 0);
    while last < up_to {
        let page = store.changes(LogPlace::after(last), 1000).await.unwrap();
        assert!(!page.is_empty(), "the change log ends with {last}");
        for change in page.into_iter().take_while(|change| change.sequence <= up_to) {
            last = change.sequence;
            articles.remove(&change.key);
            deleted.remove(&change.key);
            match change.kind {
                ChangeKind::Deleted => drop(deleted.insert(change.key, change.revision)),
                ChangeKind::Created | ChangeKind::Updated => {
                    articles.insert(change.key, (change.revision, change.digest.to_string(), change.commit_time));
                }
            }
        }
    }
    store.close().await.unwrap();
    (articles, deleted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_the_store_at_one_point_of_its_changes() {
    under_load(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_no_earlier_revision_is_kept() {
    under_load(&["--history", "none"]).await;
}

async fn under_load(settings: &[&str]) {
    let mut source = Daemon::start_with(|command| {
        command.args(settings);
    })
    .await;
    store(&source, &articles(3000, 1500)).await;
    let unchanged = everything(&source).await;

    let stop = Arc::new(AtomicBool::new(false));
    let streams: Vec<_> = (0..WRITERS).map(|number| format!("stream-{number}")).collect();
    let mut writers = Vec::new();
    for (writer, stream) in (0..).zip(&streams) {
        writers.push(tokio::spawn(put_and_delete(source.client.clone(), Arc::clone(&stop), writer)));
        writers.push(tokio::spawn(ingest(source.client.clone(), Arc::clone(&stop), stream.clone())));
    }
    let client = source.client.clone();
    let sequence = async || client.status().await.unwrap().contents.unwrap().last_sequence as u64;
    until("writing", async || sequence().await > 3300).await;
    let updated = async |writer: u64| {
        let target = Some(v1::get_article_request::Target::Url(format!("https://writer-{writer}.example/1")));
        let found = client.get_article(v1::GetArticleRequest { target, ..Default::default() }).await;
        found.is_ok_and(|found| found.revision > 1)
    };
    for writer in 0..WRITERS {
        until("overwriting", async || updated(writer).await).await;
    }

    let before = sequence().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("store.backup"), folder.path().join("data"));
    let told = succeed_json(&["backup", text(&file), "--json", "--server", &source.address]).await;
    let last = told["last_sequence"].as_u64().unwrap();
    let after = sequence().await;
    assert!(before <= last && last < after, "the backup is of change {last}; there were {before} before it and {after} after it");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let request = v1::ListArticlesRequest { page_size: 1, ..Default::default() };
    let page_token = source.client.list_articles(request.clone()).await.unwrap().next_page_token;
    let store_id = source.client.status().await.unwrap().store_id;
    source.terminate();
    assert!(source.ended().success());
    let (expected, deleted) = replay(source.data(), last).await;

    let restored = succeed_json(&["restore", text(&file), "--data", text(&data), "--json"]).await;
    assert_eq!(restored["from_store_id"], store_id);
    for count in ["article_count", "earlier_revision_count", "tombstone_count", "change_count", "stream_count", "last_sequence", "sha256"] {
        assert_eq!(restored[count], told[count], "{count}");
    }
    succeed(&["verify", "--data", text(&data)]).await;
    let restored = Daemon::start_in(folder, |_| ()).await;
    let found = everything(&restored).await;
    let of_found = |article: &v1::Article| {
        let time = article.update_time.unwrap();
        let told = (article.revision as u64, article.digest.clone(), Timestamp::from_parts(time.seconds, time.nanos).unwrap());
        (format!("{} {}", article.date, article.canonical_url), told)
    };
    let found_by_key: BTreeMap<_, _> = found.iter().map(of_found).collect();
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(key, told)| (key.to_string(), told)).collect();
    let differs = expected.iter().find(|(key, told)| found_by_key.get(*key) != Some(told));
    assert_eq!((differs, found_by_key.len()), (None, expected.len()));
    let stored: Vec<_> = found.iter().filter(|article| article.host == "stored.example").cloned().collect();
    same(&stored, &unchanged);

    let status = restored.client.status().await.unwrap();
    assert_ne!(status.store_id, store_id);
    let contents = status.contents.unwrap();
    assert_eq!((contents.last_sequence as u64, contents.article_count as usize), (last, expected.len()));
    assert_eq!(contents.earlier_revision_count == 0, settings.contains(&"none"), "{contents:?}");
    let with_token = v1::ListArticlesRequest { page_token, ..request };
    assert_eq!(restored.client.list_articles(with_token).await.unwrap_err().reason, "TOKEN_MISMATCH");

    // Everything goes on from there: streams at the item after their articles, revisions after the last one there was.
    for stream in streams {
        let items = found.iter().filter(|article| article.host == format!("{stream}.example")).count() as i64;
        let (sender, _receiver, opened) = restored.client.ingest(&stream, false).await.unwrap();
        assert_eq!((opened.next_item, opened.counts.unwrap().created), (items, items), "{stream}");
        drop(sender);
    }
    let (key, revision) = deleted.into_iter().next().expect("something was deleted");
    let again = article(&key.date.to_string(), &key.url.to_string(), "T", "created again");
    let response = restored.client.put_article(v1::PutArticleRequest { article: Some(again), ..Default::default() }).await.unwrap();
    assert_eq!((response.outcome(), response.article.unwrap().revision as u64), (v1::Outcome::Created, revision + 1));
}
