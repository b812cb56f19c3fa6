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

async fn store_count(daemon: &Daemon) -> i64 {
    daemon.client.status().await.unwrap().compression.unwrap().dictionary_count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_learns_and_everything_stays_readable() {
    let mut daemon = Daemon::start().await;
    let before = status(&daemon).await;
    assert_eq!((&before["dictionary_count"], &before["dictionary_id"]), (&0.into(), &serde_json::Value::Null), "{before}");
    assert_eq!((&before["compressed_article_count"], &before["compress_micros_mean"]), (&0.into(), &serde_json::Value::Null), "{before}");
    store(&daemon, &of_a_site(0..1200)).await;
    until("learning a dictionary", async || store_count(&daemon).await == 1).await;
    let without = status(&daemon).await;
    store(&daemon, &of_a_site(1200..2000)).await;
    let with = status(&daemon).await;
    let number = |status: &serde_json::Value, name: &str| status[name].as_f64().unwrap_or_else(|| panic!("{name} of {status}"));
    let ratio = |from: Option<&serde_json::Value>, to: &serde_json::Value| {
        let grown = |name: &str| number(to, name) - from.map_or(0.0, |from| number(from, name));
        grown("compressed_content_bytes") / grown("compressed_bytes")
    };
    assert!(ratio(Some(&without), &with) > 1.05 * ratio(None, &without), "{without} {with}");
    assert_eq!((&with["dictionary_id"], &with["compressed_article_count"]), (&1.into(), &2000.into()), "{with}");
    assert!(number(&with, "dictionary_sample_count") >= 800.0 && number(&with, "dictionary_bytes") > 8000.0, "{with}");
    assert!(number(&with, "compress_micros_mean") > 0.0 && with["dictionary_create_time"].is_string(), "{with}");
    let told = succeed(&["status", "--server", &daemon.address]).await;
    assert!(told.contains("with dictionary 1 of 1"), "{told}");
    let expected = everything(&daemon).await;
    assert_eq!(expected.len(), 2000);
    assert!(number(&status(&daemon).await, "decompressed_article_count") >= 2000.0);

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
    store(&daemon, &of_a_site(2000..2100)).await;
    assert_eq!(everything(&daemon).await.len(), 2100);
}
