//! `dateline compact`, and what `dateline status` says of space and durability.

use dateline::client::IngestEvent;

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn compaction_changes_nothing_but_the_size() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client.clone();
    store(&daemon, &articles(300, 2000)).await;
    let overwritten = articles(20, 1 << 20);
    for round in 0..3 {
        for some in &overwritten {
            let changed = v1::Article { url: format!("{}-large", some.url), title: format!("{round}"), ..some.clone() };
            client.put_article(v1::PutArticleRequest { article: Some(changed), ..Default::default() }).await.unwrap();
        }
    }
    for some in &overwritten[1..] {
        let key = Some(harness::key(&some.date, &format!("{}-large", some.url)));
        client.delete_article(v1::DeleteArticleRequest { key, ..Default::default() }).await.unwrap();
    }
    let (mut sender, mut receiver, _) = client.ingest("half-way", false).await.unwrap();
    let item = |number: i64| article("2024-05-04", &format!("https://ingested.example/{number}"), "T", "B");
    sender.send(0, (0..7).map(item).collect()).await.unwrap();
    assert!(matches!(receiver.next().await.unwrap(), Some(IngestEvent::Ack(ack)) if ack.next_item == 7));
    drop((sender, receiver));

    let request = v1::ListArticlesRequest { page_size: 100, ..Default::default() };
    let first = client.list_articles(request.clone()).await.unwrap();
    let rest = v1::ListArticlesRequest { page_token: first.next_page_token, page_size: 1000, ..request };
    let second = client.list_articles(rest.clone()).await.unwrap();
    let (before, status) = (everything(&daemon).await, client.status().await.unwrap());
    let data = daemon.data();
    let refused = fail(&["compact", "--data", text(&data)], 1).await;
    assert!(refused.contains("in use"), "{refused}");
    assert_eq!(names(data.parent().unwrap()), [PathBuf::from("data")]);

    daemon.terminate();
    assert!(daemon.ended().success());
    let told = succeed_json(&["compact", "--data", text(&data), "--json"]).await;
    let bytes = |name: &str| told[name].as_u64().unwrap();
    // Of the large articles one is left with its three revisions.
    assert!(bytes("bytes_after") < bytes("bytes_before") / 2, "{told}");
    assert_eq!(names(data.parent().unwrap()), [PathBuf::from("data")]);
    let verified = succeed(&["verify", "--data", text(&data)]).await;
    assert!(verified.contains("0 findings"), "{verified}");

    daemon.start_again().await;
    let client = daemon.client.clone();
    same(&everything(&daemon).await, &before);
    let after = client.status().await.unwrap();
    assert_eq!(after.store_id, status.store_id);
    let told = |status: &v1::GetStatusResponse| {
        let contents = status.contents.clone().unwrap();
        (contents.article_count, contents.earlier_revision_count, contents.last_sequence, contents.text_bytes)
    };
    assert_eq!(told(&after), told(&status));
    let listed = client.list_articles(rest).await.unwrap();
    same(&listed.articles, &second.articles);
    let (mut sender, mut receiver, opened) = client.ingest("half-way", false).await.unwrap();
    assert_eq!((opened.next_item, opened.counts.unwrap().created), (7, 7));
    sender.send(7, vec![item(7)]).await.unwrap();
    assert!(matches!(receiver.next().await.unwrap(), Some(IngestEvent::Ack(ack)) if ack.next_item == 8));
    let again = v1::Article { url: format!("{}-large", overwritten[1].url), ..overwritten[1].clone() };
    let response = client.put_article(v1::PutArticleRequest { article: Some(again), ..Default::default() }).await.unwrap();
    assert_eq!((response.outcome(), response.article.unwrap().revision), (v1::Outcome::Created, 4));

    let nothing = fail(&["compact", "--data", text(&data.with_file_name("nowhere"))], 1).await;
    assert!(nothing.contains("holds no store"), "{nothing}");
    assert_eq!(names(data.parent().unwrap()), [PathBuf::from("data")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_the_durability_and_what_is_in_use() {
    let told = async |daemon: &Daemon| succeed_json(&["status", "--json", "--server", &daemon.address]).await;
    let daemon = Daemon::start().await;
    store(&daemon, &articles(10, 10_000)).await;
    let status = told(&daemon).await;
    assert_eq!((&status["durability"], &status["last_verification"]), (&"fsync".into(), &serde_json::Value::Null));
    let (live, journal) = (status["live_bytes"].as_i64().unwrap(), status["journal_bytes"].as_i64().unwrap());
    assert!(50_000 < live && live < journal, "{status}");
    let key = Some(harness::key(&articles(1, 1)[0].date, &articles(1, 1)[0].url));
    daemon.client.delete_article(v1::DeleteArticleRequest { key, ..Default::default() }).await.unwrap();
    let less = told(&daemon).await["live_bytes"].as_i64().unwrap();
    assert!(less < live, "{less} bytes are in use after a deletion, {live} before it");

    let early = Daemon::start_with(|command| {
        command.args(["--durability", "interval"]);
    })
    .await;
    store(&early, &articles(10, 1000)).await;
    assert_eq!(told(&early).await["durability"], "interval");
    let printed = succeed(&["status", "--server", &early.address]).await;
    assert!(printed.contains("durability interval") && printed.contains("verified   never"), "{printed}");
    let from_environment = Daemon::start_with(|command| {
        command.env("DATELINE_DURABILITY", "interval");
    })
    .await;
    assert_eq!(told(&from_environment).await["durability"], "interval");
    fail(&["serve", "--durability", "never"], 2).await;
}
