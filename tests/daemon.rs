//! The daemon through its front door: the real binary, a real client, a temporary folder, port 0.

mod daemon {
    mod drain;
    pub mod harness;
    mod history;
    mod mirror;
    mod older_files;
    mod resume;
    mod revisions;
    mod stalled;
    mod storm;
    mod streams;
    mod trimming;
    mod undecodable;
    mod watch;
}

use daemon::harness::{Daemon, article, dateline, key};
use dateline::client::{ClientError, IngestEvent, v1};
use v1::get_article_request::Target;
use v1::put_article_request::Precondition;

fn reason<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.expect_err("the call must fail").reason
}

async fn put(daemon: &Daemon, article: v1::Article, precondition: Option<Precondition>) -> Result<v1::PutArticleResponse, ClientError> {
    daemon.client.put_article(v1::PutArticleRequest { article: Some(article), precondition, ..Default::default() }).await
}

async fn get(daemon: &Daemon, date: &str, url: &str) -> Result<v1::Article, ClientError> {
    let target = Some(Target::Key(key(date, url)));
    daemon.client.get_article(v1::GetArticleRequest { target, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_article_lives_through_creation_revision_deletion_and_restart() {
    let mut daemon = Daemon::start().await;
    let first = article("2024-05-01", "http://www.example.com/a?utm_source=x#top", "One\r\n\u{85}", "Body \0 of one");
    let created = put(&daemon, first.clone(), Some(Precondition::MustNotExist(true))).await.unwrap();
    assert_eq!(created.outcome(), v1::Outcome::Created);
    assert_eq!(reason(put(&daemon, first.clone(), Some(Precondition::MustNotExist(true))).await), "ARTICLE_ALREADY_EXISTS");
    let again = v1::Article { url: "https://example.com/a".into(), ..first.clone() };
    assert_eq!(put(&daemon, again, None).await.unwrap().outcome(), v1::Outcome::Unchanged);

    let found = get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap();
    assert_eq!((&found.url, &found.title, &found.body), (&first.url, &first.title, &first.body));
    assert_eq!((found.canonical_url.as_str(), found.host.as_str(), found.revision), ("https://example.com/a", "example.com", 1));

    let second = v1::Article { title: "Two".into(), ..first.clone() };
    assert_eq!(reason(put(&daemon, second.clone(), Some(Precondition::Etag("1-00".into()))).await), "INVALID_ETAG");
    let updated = put(&daemon, second.clone(), Some(Precondition::Etag(found.etag.clone()))).await.unwrap();
    assert_eq!((updated.outcome(), updated.article.unwrap().revision), (v1::Outcome::Updated, 2));
    assert_eq!(reason(put(&daemon, first.clone(), Some(Precondition::Etag(found.etag))).await), "ETAG_MISMATCH");

    daemon.restart().await;
    assert_eq!(get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap().title, "Two");
    let request = v1::DeleteArticleRequest { key: Some(key("2024-05-01", "https://example.com/a")), ..Default::default() };
    assert!(daemon.client.delete_article(request.clone()).await.unwrap().deleted);
    assert_eq!(reason(daemon.client.delete_article(request.clone()).await), "ARTICLE_NOT_FOUND");
    assert!(!daemon.client.delete_article(v1::DeleteArticleRequest { allow_missing: true, ..request }).await.unwrap().deleted);
    assert_eq!(reason(get(&daemon, "2024-05-01", "https://example.com/a").await), "ARTICLE_NOT_FOUND");

    daemon.kill_and_restart().await;
    assert_eq!(reason(get(&daemon, "2024-05-01", "https://example.com/a").await), "ARTICLE_NOT_FOUND");
    assert_eq!(put(&daemon, first, None).await.unwrap().article.unwrap().revision, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_mask_changes_only_what_it_names() {
    let daemon = Daemon::start().await;
    let stored = article("2024-05-01", "https://example.com/a", "One", "Body");
    put(&daemon, stored.clone(), None).await.unwrap();
    let update = |paths: &[&str]| v1::PutArticleRequest {
        article: Some(v1::Article { title: "New".into(), body: String::new(), ..stored.clone() }),
        update_mask: Some(v1::read_mask(paths.iter().map(ToString::to_string).collect())),
        ..Default::default()
    };
    assert_eq!(daemon.client.put_article(update(&["title"])).await.unwrap().outcome(), v1::Outcome::Updated);
    let found = get(&daemon, "2024-05-01", "https://example.com/a").await.unwrap();
    assert_eq!((found.title.as_str(), found.body.as_str()), ("New", "Body"));
    assert_eq!(reason(daemon.client.put_article(update(&["url"])).await), "INVALID_FIELD_MASK");
    assert_eq!(reason(daemon.client.put_article(update(&["nonsense"])).await), "INVALID_FIELD_MASK");
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_lists_lookups_and_counts_agree() {
    let daemon = Daemon::start().await;
    let mut expected = Vec::new();
    for day in 1..=9 {
        for (host, count) in [("a.example", 5), ("news.a.example", 3), ("a.example:8080", 1), ("b.example", 4)] {
            for number in 0..count {
                expected.push(article(&format!("2024-05-0{day}"), &format!("https://{host}/{number}"), "T", &"text ".repeat(200 * number)));
            }
        }
    }
    let results = daemon.client.batch_ingest_articles(expected.clone()).await.unwrap();
    assert!(results.iter().all(|result| result.outcome() == v1::Outcome::Created));

    use v1::article_filter::Scope;
    let scopes = [
        (None, 13),
        (Some(Scope::Host("www.a.example".into())), 5),
        (Some(Scope::Host("a.example:8080".into())), 1),
        (Some(Scope::Domain("a.example".into())), 9),
        (Some(Scope::UrlPrefix("http://b.example/1".into())), 1),
    ];
    for (scope, a_day) in scopes {
        let filter = Some(v1::ArticleFilter { start_date: "2024-05-02".into(), end_date: "2024-05-08".into(), scope });
        let streamed = daemon.stream(filter.clone(), v1::SortOrder::Ascending).await;
        assert_eq!(streamed.len(), 7 * a_day, "{filter:?}");
        let mut reversed = daemon.stream(filter.clone(), v1::SortOrder::Descending).await;
        reversed.reverse();
        assert_eq!(streamed, reversed, "{filter:?}");
        for page_size in [1, 7, 1000] {
            let mut listed = Vec::new();
            let mut request = v1::ListArticlesRequest { filter: filter.clone(), page_size, ..Default::default() };
            loop {
                let page = daemon.client.list_articles(request.clone()).await.unwrap();
                assert!(page.articles.len() <= page_size as usize);
                listed.extend(page.articles);
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            assert_eq!(listed, streamed, "{filter:?} {page_size}");
        }
        for group in [v1::CountGroup::Unspecified, v1::CountGroup::Day, v1::CountGroup::Host] {
            let mut request =
                v1::CountArticlesRequest { filter: filter.clone(), group_by: group.into(), page_size: 2, ..Default::default() };
            let mut total = 0;
            loop {
                let page = daemon.client.count_articles(request.clone()).await.unwrap();
                total += page.counts.iter().map(|count| count.article_count).sum::<i64>();
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            assert_eq!(total, streamed.len() as i64, "{filter:?} {group:?}");
        }
    }
    let keys: Vec<_> = expected
        .iter()
        .rev()
        .map(|article| key(&article.date, &article.url))
        .chain([key("2024-05-01", "https://missing.example/")])
        .collect();
    let found = daemon.client.lookup_articles(v1::LookupArticlesRequest { keys, read_mask: None }).await.unwrap();
    assert_eq!(found.len(), expected.len() + 1);
    for (result, article) in found.iter().zip(expected.iter().rev()) {
        assert!(
            matches!(&result.result, Some(v1::lookup_result::Result::Article(found)) if found.body == article.body && found.url == article.url)
        );
    }
    assert!(matches!(&found[expected.len()].result, Some(v1::lookup_result::Result::Error(error)) if error.reason == "ARTICLE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_articles_come_back_and_larger_ones_are_refused() {
    let daemon = Daemon::start().await;
    // Does not compress: printable text from a simple generator.
    let mut state = 1u64;
    let mut text = |length: usize| {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + ((state >> 33) % 94) as u8)
        };
        (0..length).map(|_| next()).collect::<String>()
    };
    for length in [1, 21_000, 22_000, 25_000, 60_000, 500_000, (3 << 20) - 100] {
        let large = article("2024-05-01", &format!("https://example.com/{length}"), "T", &text(length));
        put(&daemon, large.clone(), None).await.unwrap();
        assert_eq!(get(&daemon, &large.date, &large.url).await.unwrap().body, large.body);
    }
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), 7);
    let too_large = article("2024-05-01", "https://example.com/x", "T", &"x".repeat(3 << 20));
    assert_eq!(reason(put(&daemon, too_large, None).await), "ARTICLE_TOO_LARGE");
    let message = article("2024-05-01", "https://example.com/x", "T", &"x".repeat(17 << 20));
    assert_eq!(reason(put(&daemon, message, None).await), "MESSAGE_TOO_LARGE");
    assert!(!daemon.data().join("sled/blobs").read_dir().is_ok_and(|mut files| files.next().is_some()), "sled made a blob file");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_stream_survives_a_cut_and_rejects_item_by_item() {
    let mut daemon = Daemon::start().await;
    let items = |range: std::ops::Range<i64>| -> Vec<_> {
        range
            .map(|number| {
                article(if number == 3 { "0201-01-01" } else { "2024-05-01" }, &format!("https://example.com/{number}"), "T", "B")
            })
            .collect()
    };
    let (mut sender, mut receiver, opened) = daemon.client.ingest("stream-1", false).await.unwrap();
    assert_eq!(opened.next_item, 0);
    sender.send(0, items(0..10)).await.unwrap();
    let Some(IngestEvent::Ack(ack)) = receiver.next().await.unwrap() else { panic!("no acknowledgement") };
    assert_eq!((ack.next_item, ack.outcomes.len()), (10, 1));
    assert_eq!((ack.outcomes[0].item, ack.outcomes[0].error.as_ref().unwrap().reason.as_str()), (3, "INVALID_DATE"));

    daemon.kill_and_restart().await;
    let (mut sender, mut receiver, opened) = daemon.client.ingest("stream-1", false).await.unwrap();
    assert_eq!((opened.next_item, opened.counts.unwrap().created, opened.counts.unwrap().rejected), (10, 9, 1));
    let (_newer_sender, _newer_receiver, opened) = daemon.client.ingest("stream-1", false).await.unwrap();
    assert_eq!(opened.next_item, 10);
    sender.send(10, items(10..11)).await.unwrap();
    assert_eq!(reason(receiver.next().await), "STREAM_TAKEN_OVER");

    let (mut sender, mut receiver, _) = daemon.client.ingest("stream-1", false).await.unwrap();
    sender.send(5, items(5..12)).await.unwrap();
    let Some(IngestEvent::Ack(ack)) = receiver.next().await.unwrap() else { panic!("no acknowledgement") };
    assert_eq!((ack.next_item, ack.outcomes.len()), (12, 0));
    sender.commit(12).await.unwrap();
    let Some(IngestEvent::Committed(committed)) = receiver.next().await.unwrap() else { panic!("no commit") };
    assert_eq!((committed.item_count, committed.counts.unwrap().created), (12, 11));
    assert_eq!(reason(daemon.client.ingest("stream-1", false).await), "STREAM_FINISHED");

    let (mut sender, mut receiver, _) = daemon.client.ingest("stream-2", false).await.unwrap();
    sender.send(1, items(0..1)).await.unwrap();
    assert_eq!(reason(receiver.next().await), "ITEM_GAP");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_the_reason_that_the_protocol_names() {
    let daemon = Daemon::start().await;
    for (date, url, expected) in [
        ("", "https://example.com/", "REQUIRED_FIELD_MISSING"),
        ("2024-13-01", "https://example.com/", "INVALID_DATE"),
        ("9999-01-01", "https://example.com/", "DATE_TOO_FAR_AHEAD"),
        ("2024-05-01", "xhttps://example.com/", "UNSUPPORTED_URL_SCHEME"),
        ("2024-05-01", "https://", "INVALID_URL"),
        ("2024-05-01", &format!("https://example.com/{}", "a".repeat(2048)), "URL_TOO_LONG"),
    ] {
        assert_eq!(reason(put(&daemon, article(date, url, "T", "B"), None).await), expected, "{date} {url}");
    }
    assert_eq!(reason(put(&daemon, article("2024-05-01", "https://example.com/", "", ""), None).await), "ARTICLE_EMPTY");
    let list = |request| daemon.client.list_articles(request);
    assert_eq!(reason(list(v1::ListArticlesRequest { page_size: -1, ..Default::default() }).await), "INVALID_ARGUMENT");
    assert_eq!(reason(list(v1::ListArticlesRequest { page_token: "x".into(), ..Default::default() }).await), "INVALID_TOKEN");
    assert_eq!(reason(daemon.client.delete_articles(v1::DeleteArticlesRequest::default()).await), "INVALID_FILTER");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_folder_is_refused_by_name() {
    let daemon = Daemon::start().await;
    let data = daemon.data();
    let output = dateline(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    let output = dateline(&["serve", "--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--insecure"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_byte_for_byte() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
    let server = daemon.address.as_str();
    let ingest = |json: &str| dateline(&["ingest", seeds, json, "--server", server]).output().unwrap();
    let output = ingest("--json");
    assert!(output.status.success(), "{output:?}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["created"], &summary["rejected"]), (&4.into(), &0.into()));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&ingest("--json").stdout).unwrap()["unchanged"], 4);

    let out = folder.path().join("out");
    let output = dateline(&["export", "--format", "seed", "--output", out.to_str().unwrap(), "--server", server]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let contents = |folder: &std::path::Path| {
        let mut files: Vec<_> = folder.read_dir().unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        files.sort();
        files
    };
    assert_eq!(contents(&out), contents(seeds.as_ref()));

    let bad = folder.path().join("bad.ndjson");
    std::fs::write(&bad, "{\"date\":\"2024-05-01\",\"url\":\"https://example.com/1\",\"title\":\"T\"}\nnonsense\n{\"date\":\"0201-01-01\",\"url\":\"https://example.com/2\",\"title\":\"T\"}\n").unwrap();
    let output = dateline(&["ingest", bad.to_str().unwrap(), "--server", server]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("bad.ndjson:2:") && errors.contains("bad.ndjson:3:") && errors.contains("INVALID_DATE"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 created"), "{output:?}");

    // A bad file among good ones, the first of them too, stops none.
    let mixed = folder.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    for (name, text) in [
        ("a.txt", "no header\nT\nL\nB"),
        ("b.txt", " date 2024-05-01 https://example.com/b\nT"),
        ("c.txt", " date 2024-05-99 https://example.com/c\nT"),
        ("d.txt", "\u{feff}"),
        ("e.txt", " date 2024-05-01 https://example.com/e\nT"),
    ] {
        std::fs::write(mixed.join(name), text).unwrap();
    }
    let output = dateline(&["ingest", mixed.to_str().unwrap(), "--server", server]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(["a.txt:1", "c.txt:1", "d.txt:1"].iter().all(|place| errors.contains(place)), "{errors}");
    assert!(!errors.contains("b.txt") && !errors.contains("e.txt"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 created"), "{output:?}");
}
