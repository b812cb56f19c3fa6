//! Compression dictionaries through the front door: a daemon learns from what it stores, and everything it ever stored stays readable.

use super::super::*;

/// Articles that are like each other as a site's are: the same phrases around other words. Some 4 KB each.
fn of_a_site(numbers: std::ops::Range<u64>) -> Vec<v1::Article> {
    numbers.map(one).collect()
}

fn one(number: u64) -> v1::Article {
    let words = noise(number, 2400);
    let mut body = String::new();
    for (at, part) in words.as_bytes().chunks(60).enumerate() {
        let part = std::str::from_utf8(part).unwrap();
        let phrase = ["According to the ministry, ", "As this newspaper has reported before, ", "Subscribe to read on. "][at % 3];
        body.push_str(&format!("{phrase}{part} was said to be under way. "));
    }
    let (date, url) = (format!("2024-06-{:02}", 1 + number % 20), format!("https://site.example/{number:06}"));
    article(&date, &url, &format!("Title {number}"), &body)
}

async fn status(daemon: &Daemon) -> serde_json::Value {
    succeed_json(&["status", "--json", "--server", &daemon.address]).await
}

async fn dictionary_count(daemon: &Daemon) -> i64 {
    daemon.client.status().await.unwrap().compression.unwrap().dictionary_count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_learns_and_everything_stays_readable() {
    let mut daemon = Daemon::start().await;
    let before = status(&daemon).await;
    assert_eq!((&before["dictionary_count"], &before["dictionary_id"]), (&0.into(), &serde_json::Value::Null), "{before}");
    assert_eq!((&before["compressed_article_count"], &before["compress_micros_mean"]), (&0.into(), &serde_json::Value::Null), "{before}");
    // Hundreds of samples are needed, and under load not every article is taken for one.
    let mut stored = 0;
    until("learning a dictionary", async || {
        store(&daemon, &of_a_site(stored..stored + 100)).await;
        stored += 100;
        dictionary_count(&daemon).await == 1
    })
    .await;
    assert!(stored >= 600, "{stored}");
    let without = status(&daemon).await;
    let total = stored + 800;
    store(&daemon, &of_a_site(stored..total)).await;
    let with = status(&daemon).await;
    let number = |status: &serde_json::Value, name: &str| status[name].as_f64().unwrap_or_else(|| panic!("{name} of {status}"));
    let ratio = |from: Option<&serde_json::Value>, to: &serde_json::Value| {
        let grown = |name: &str| number(to, name) - from.map_or(0.0, |from| number(from, name));
        grown("compressed_content_bytes") / grown("compressed_bytes")
    };
    // With a dictionary they are encoded in less time, not smaller than zstd makes them without.
    assert!(ratio(Some(&without), &with) > 1.2 && ratio(None, &without) > 1.2, "{without} {with}");
    assert_eq!((&with["dictionary_id"], &with["compressed_article_count"]), (&1.into(), &total.into()), "{with}");
    assert!(number(&with, "dictionary_sample_count") >= 500.0 && number(&with, "dictionary_bytes") > 8000.0, "{with}");
    assert!(number(&with, "compress_micros_mean") > 0.0 && with["dictionary_create_time"].is_string(), "{with}");
    let told = succeed(&["status", "--server", &daemon.address]).await;
    assert!(told.contains("with dictionary 1 of 1"), "{told}");
    let expected = everything(&daemon).await;
    assert_eq!(expected.len() as u64, total);
    assert!(number(&status(&daemon).await, "decompressed_article_count") >= total as f64);

    // What was acknowledged with the dictionary outlives a kill together with it.
    daemon.kill_and_restart().await;
    same(&everything(&daemon).await, &expected);
    assert_eq!(status(&daemon).await["dictionary_id"], 1);
    daemon.terminate();
    assert!(daemon.ended().success());
    let data = daemon.data();
    let verified = succeed(&["verify", "--data", text(&data)]).await;
    assert!(verified.contains("0 findings"), "{verified}");

    // Indexes that are built anew from the journal have it too.
    std::fs::write(data.join("REBUILD"), "as a test wants").unwrap();
    daemon.start_again().await;
    assert!(!data.join("REBUILD").exists());
    same(&everything(&daemon).await, &expected);
    assert_eq!(status(&daemon).await["dictionary_id"], 1);

    // A restored store learns from what is put into it, and a compacted one from all that it holds.
    let folder = tempfile::tempdir().unwrap();
    let (file, restored) = (folder.path().join("store.backup"), folder.path().join("data"));
    succeed(&["backup", text(&file), "--server", &daemon.address]).await;
    succeed(&["restore", text(&file), "--data", text(&restored)]).await;
    let restored = Daemon::start_in(folder, |_| ()).await;
    same(&everything(&restored).await, &expected);
    assert_eq!(status(&restored).await["dictionary_count"], 1);
    daemon.terminate();
    assert!(daemon.ended().success());
    succeed(&["compact", "--data", text(&data)]).await;
    let verified = succeed(&["verify", "--data", text(&data)]).await;
    assert!(verified.contains("0 findings"), "{verified}");
    daemon.start_again().await;
    same(&everything(&daemon).await, &expected);
    let compacted = status(&daemon).await;
    assert_eq!(compacted["dictionary_count"], 1);
    assert!(number(&compacted, "record_bytes") < 0.95 * number(&with, "record_bytes"), "{compacted} {with}");
    store(&daemon, &of_a_site(total..total + 100)).await;
    assert_eq!(everything(&daemon).await.len() as u64, total + 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_right_after_learning_loses_neither_articles_nor_the_dictionary() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client.clone();
    // Until the daemon is gone; gives what was acknowledged.
    let writer = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for first in (0..).step_by(50) {
            let some = of_a_site(first..first + 50);
            match client.batch_ingest_articles(some.clone()).await {
                Ok(results) => assert_eq!(results.len(), some.len()),
                Err(_) => break,
            }
            acknowledged.extend(some);
        }
        acknowledged
    });
    until("learning a dictionary", async || dictionary_count(&daemon).await == 1).await;
    daemon.kill();
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged.len() >= 600, "{}", acknowledged.len());
    daemon.start_again().await;
    assert_eq!(status(&daemon).await["dictionary_id"], 1);
    let found = everything(&daemon).await;
    // The last batch may be there without having been acknowledged.
    let last = found.len() - acknowledged.len();
    assert!(last == 0 || last == 50, "{} of {}", found.len(), acknowledged.len());
    let mut bodies: std::collections::HashMap<_, _> = found.iter().map(|article| (article.url.as_str(), &article.body)).collect();
    for article in &acknowledged {
        assert!(bodies.remove(article.url.as_str()) == Some(&article.body), "{}", article.url);
    }
    daemon.terminate();
    assert!(daemon.ended().success());
    let verified = succeed(&["verify", "--data", text(&daemon.data())]).await;
    assert!(verified.contains("0 findings"), "{verified}");
}
