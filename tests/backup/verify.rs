//! `dateline verify`, online and offline: what it finds, how it ends, and that it stays in the background.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use dateline::client::v1::verify_store_response::Event;

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_store_has_no_finding_and_knows_when_that_was_seen() {
    let mut daemon = Daemon::start().await;
    store(&daemon, &articles(50, 500)).await;
    assert_eq!(daemon.client.status().await.unwrap().last_verification, None);
    let server = daemon.address.clone();
    let told = succeed_json(&["verify", "--json", "--server", &server]).await;
    assert_eq!((&told["event"], &told["finding_count"]), (&"ended".into(), &0.into()));
    assert!(told["checked_count"].as_u64().unwrap() >= 150, "{told}");
    let seen = daemon.client.status().await.unwrap().last_verification.expect("the time of the verification");
    daemon.restart().await;
    assert_eq!(daemon.client.status().await.unwrap().last_verification, Some(seen));

    let data = daemon.data();
    let in_use = fail(&["verify", "--data", text(&data)], 1).await;
    assert!(in_use.contains("in use"), "{in_use}");
    daemon.terminate();
    assert!(daemon.ended().success());
    let told = succeed(&["verify", "--data", text(&data)]).await;
    assert!(told.contains("0 findings"), "{told}");

    let nowhere = data.with_file_name("nowhere");
    let nothing = fail(&["verify", "--data", text(&nowhere)], 1).await;
    assert!(nothing.contains("holds no store") && !nowhere.exists(), "{nothing}");
    fail(&["verify", "--data", text(&data), "--backup", "x"], 2).await;
    fail(&["verify", "--data", text(&data), "--rate", "5"], 2).await;
    fail(&["verify", "--rate", "0"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_by_every_verification_and_stops_a_backup() {
    let mut daemon = Daemon::start().await;
    store(&daemon, &articles(20, 500)).await;
    let large = article("2024-05-07", "https://large.example/a", "T", &noise(7, 2 << 20));
    store(&daemon, std::slice::from_ref(&large)).await;
    daemon.terminate();
    assert!(daemon.ended().success());

    // The large text takes most of the journal, so its middle is in it.
    let journal = daemon.data().join("journal");
    let first = names(&journal).into_iter().next().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(journal.join(first)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1 << 20).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1 << 20).unwrap();

    let names_it = |findings: &str| {
        let of_article = |line: &str| line.contains("RECORD_DAMAGED") && line.contains("2024-05-07") && line.contains("large.example/a");
        assert_eq!(findings.lines().filter(|line| line.contains("RECORD_DAMAGED")).count(), 1, "{findings}");
        assert!(findings.lines().any(of_article), "{findings}");
    };
    let output = run(&["verify", "--data", text(&daemon.data())]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    names_it(&String::from_utf8_lossy(&output.stdout));

    daemon.start_again().await;
    let output = run(&["verify", "--json", "--server", &daemon.address]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    names_it(&printed);
    let objects: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (ended, findings) = objects.split_last().unwrap();
    assert!(findings.iter().all(|finding| finding["event"] == "finding"), "{printed}");
    assert_eq!((&ended["event"], &ended["finding_count"]), (&"ended".into(), &findings.len().into()));
    assert_eq!(daemon.client.status().await.unwrap().last_verification, None);
    assert_eq!(everything_but_large(&daemon).await, 20);

    let folder = tempfile::tempdir().unwrap();
    let refused = fail(&["backup", text(&folder.path().join("store.backup")), "--server", &daemon.address], 1).await;
    assert!(refused.contains("RECORD_DAMAGED") && refused.contains("large.example/a"), "{refused}");
    assert_eq!(names(folder.path()), Vec::<PathBuf>::new());

    // The remedy: deleted, and stored again from its source.
    let key = Some(harness::key("2024-05-07", "https://large.example/a"));
    assert!(daemon.client.delete_article(v1::DeleteArticleRequest { key, ..Default::default() }).await.unwrap().deleted);
    let again = v1::PutArticleRequest { article: Some(large), ..Default::default() };
    assert_eq!(daemon.client.put_article(again).await.unwrap().article.unwrap().revision, 2);
    succeed(&["verify", "--server", &daemon.address]).await;
    succeed(&["backup", text(&folder.path().join("store.backup")), "--server", &daemon.address]).await;
}

async fn everything_but_large(daemon: &Daemon) -> usize {
    use v1::article_filter::Scope;
    let scope = Some(Scope::Host("stored.example".into()));
    daemon.stream(Some(v1::ArticleFilter { scope, ..Default::default() }), v1::SortOrder::Ascending).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_keeps_to_its_rate_and_tells_how_far_it_is() {
    let daemon = Daemon::start().await;
    store(&daemon, &articles(500, 100)).await;
    let begun = Instant::now();
    let mut events = daemon.client.verify_store(1000).await.unwrap();
    let (mut progress, mut checked) = (Vec::new(), 0);
    while let Some(event) = events.next().await.unwrap() {
        match event {
            Event::Progress(told) => progress.push((begun.elapsed(), told.checked_count, told.total_count)),
            Event::Finding(finding) => panic!("{finding:?}"),
            Event::Ended(ended) => checked = ended.checked_count,
        }
    }
    let took = begun.elapsed();
    assert!(checked >= 1500, "{checked}");
    // The last step ends at once.
    assert!(took.as_secs_f64() > (checked - 1000) as f64 / 1000.0, "{checked} entries took {took:?}");
    assert!(progress.len() >= 2, "{progress:?}");
    for pair in progress.windows(2) {
        assert!(pair[1].0 - pair[0].0 < Duration::from_secs(5) && pair[0].1 <= pair[1].1 && pair[1].1 <= pair[1].2, "{progress:?}");
    }
    assert_eq!(daemon.client.verify_store(-1).await.unwrap_err().reason, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_verification_and_it_ends_with_its_reader_or_the_server() {
    let mut daemon = Daemon::start().await;
    store(&daemon, &articles(100, 100)).await;
    let client = daemon.client.clone();
    // At this rate it would take minutes.
    let mut slow = client.verify_store(1).await.unwrap();
    assert!(matches!(slow.next().await.unwrap(), Some(Event::Progress(_))));
    assert_eq!(client.verify_store(0).await.unwrap_err().reason, "VERIFICATION_RUNNING");
    drop(slow);
    until("the end of a verification that is dropped", async || client.verify_store(0).await.is_ok()).await;

    let mut slow = None;
    until("the end of the verification before", async || {
        slow = client.verify_store(1).await.ok();
        slow.is_some()
    })
    .await;
    let (begun, mut slow) = (Instant::now(), slow.unwrap());
    daemon.terminate();
    let error = loop {
        match slow.next().await {
            Ok(event) => assert!(matches!(event, Some(Event::Progress(_))), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason, "DRAINING");
    assert!(daemon.ended().success());
    assert!(begun.elapsed() < Duration::from_secs(15), "the server waited {:?} for a verification", begun.elapsed());
}
