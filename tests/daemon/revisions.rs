//! Earlier revisions through the front door: by number, by time, in pages, on the command line, and gone after a deletion.

use dateline::article::Timestamp;
use dateline::client::{ClientError, time_to_wire, v1};
use v1::get_article_request::{Target, Version};

use super::harness::{Daemon, article, dateline, key};

const DATE: &str = "2024-05-01";
const URL: &str = "https://example.com/a";

async fn get(daemon: &Daemon, version: Version) -> Result<v1::Article, ClientError> {
    let by = |target| v1::GetArticleRequest { target: Some(target), version: Some(version), read_mask: None };
    let found = daemon.client.get_article(by(Target::Key(key(DATE, URL)))).await;
    let by_url = daemon.client.get_article(by(Target::Url(URL.into()))).await;
    let told = |found: &Result<v1::Article, ClientError>| found.clone().map_err(|error| error.reason);
    assert_eq!(told(&by_url), told(&found), "one article has this URL");
    found
}

fn reason<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.expect_err("the call must fail").reason
}

fn time(article: &v1::Article) -> Timestamp {
    let time = article.update_time.unwrap();
    Timestamp::from_parts(time.seconds, time.nanos).unwrap()
}

fn as_of(time: Timestamp) -> Version {
    Version::AsOf(time_to_wire(time))
}

fn before(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.as_micros() - 1).unwrap()
}

async fn put(daemon: &Daemon, title: &str, body: &str) -> v1::Article {
    let article = article(DATE, URL, title, body);
    let request = v1::PutArticleRequest { article: Some(article), ..Default::default() };
    daemon.client.put_article(request).await.unwrap().article.unwrap()
}

async fn list(daemon: &Daemon, page_size: i32, fields: &[&str]) -> Vec<v1::Article> {
    let read_mask = Some(v1::read_mask(fields.iter().map(ToString::to_string).collect()));
    let mut request = v1::ListArticleRevisionsRequest { key: Some(key(DATE, URL)), page_size, read_mask, ..Default::default() };
    let mut revisions = Vec::new();
    loop {
        let page = daemon.client.list_article_revisions(request.clone()).await.unwrap();
        assert!(page.revisions.len() <= page_size as usize, "{}", page.revisions.len());
        revisions.extend(page.revisions);
        if page.next_page_token.is_empty() {
            return revisions;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_read_by_number_time_and_page_until_a_deletion() {
    let mut daemon = Daemon::start().await;
    // Together more than a response holds.
    let body = |number: usize| format!("{number} ").repeat(400_000);
    let mut heads = Vec::new();
    for number in 0..7 {
        heads.push(put(&daemon, &format!("Title {number}"), &body(number)).await);
    }
    daemon.kill_and_restart().await;
    for (number, head) in heads.iter().enumerate() {
        for version in [Version::Revision(head.revision), as_of(time(head))] {
            let found = get(&daemon, version).await.unwrap();
            assert_eq!((found.revision, &found.etag, &found.title), (head.revision, &head.etag, &format!("Title {number}")));
            assert!(found.body == body(number), "the body of revision {} is another", head.revision);
        }
        let earlier = get(&daemon, as_of(before(time(head)))).await;
        match number {
            0 => assert_eq!(reason(earlier), "REVISION_NOT_FOUND"),
            _ => assert_eq!(earlier.unwrap().revision, head.revision - 1),
        }
    }
    assert_eq!(get(&daemon, as_of(Timestamp::now())).await.unwrap().revision, 7);
    assert_eq!(reason(get(&daemon, Version::Revision(8)).await), "REVISION_NOT_FOUND");
    assert_eq!(reason(get(&daemon, Version::Revision(0)).await), "INVALID_ARGUMENT");
    let mut impossible = time_to_wire(Timestamp::now());
    impossible.nanos = -1;
    assert_eq!(reason(get(&daemon, Version::AsOf(impossible)).await), "INVALID_TIMESTAMP");

    for page_size in [1, 3, 50] {
        let numbers = |revisions: Vec<v1::Article>| revisions.iter().map(|found| found.revision).collect::<Vec<_>>();
        assert_eq!(numbers(list(&daemon, page_size, &["revision"]).await), [7, 6, 5, 4, 3, 2, 1]);
        let whole = list(&daemon, page_size, &[]).await;
        assert!(whole.iter().zip((0..7).rev()).all(|(found, number)| found.body == body(number)));
        assert_eq!(numbers(whole), [7, 6, 5, 4, 3, 2, 1]);
    }
    let list = |key, page_token: &str| {
        let request = v1::ListArticleRevisionsRequest { key, page_size: 2, page_token: page_token.into(), read_mask: None };
        daemon.client.list_article_revisions(request)
    };
    let page_token = list(Some(key(DATE, URL)), "").await.unwrap().next_page_token;
    assert_eq!(reason(list(Some(key(DATE, "https://example.com/b")), &page_token).await), "TOKEN_MISMATCH");
    assert_eq!(reason(list(Some(key(DATE, URL)), "nonsense").await), "INVALID_TOKEN");
    assert_eq!(reason(list(Some(key(DATE, "https://example.com/b")), "").await), "ARTICLE_NOT_FOUND");
    assert_eq!(reason(list(None, "").await), "REQUIRED_FIELD_MISSING");

    let delete = v1::DeleteArticleRequest { key: Some(key(DATE, URL)), ..Default::default() };
    daemon.client.delete_article(delete).await.unwrap();
    assert_eq!(reason(get(&daemon, Version::Revision(3)).await), "ARTICLE_NOT_FOUND");
    assert_eq!(reason(get(&daemon, as_of(time(&heads[3]))).await), "ARTICLE_NOT_FOUND");
    assert_eq!(reason(list(Some(key(DATE, URL)), &page_token).await), "ARTICLE_NOT_FOUND");
    let again = put(&daemon, "Again", "").await;
    assert_eq!(reason(get(&daemon, Version::Revision(3)).await), "REVISION_NOT_FOUND");
    assert_eq!(reason(get(&daemon, as_of(time(&heads[3]))).await), "REVISION_NOT_FOUND");
    assert_eq!(get(&daemon, Version::Revision(again.revision)).await.unwrap().title, "Again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_revisions() {
    let daemon = Daemon::start().await;
    let first = put(&daemon, "First", "Body of the first").await;
    put(&daemon, "Second", "Body of the second").await;
    let run = |args: &[&str]| {
        let output = dateline(&[args, &["--server", daemon.address.as_str()]].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, lines, _) = run(&["revisions", DATE, URL]);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!((status, lines.len()), (Some(0), 2), "{lines:?}");
    assert!(lines[0].trim_start().starts_with("2 ") && lines[0].ends_with("Second"), "{lines:?}");
    assert!(lines[1].contains(&time(&first).to_string()) && lines[1].ends_with("First"), "{lines:?}");
    let (_, lines, _) = run(&["revisions", DATE, URL, "--json", "--fields", "revision,body"]);
    assert_eq!(lines, "{\"body\":\"Body of the second\",\"revision\":2}\n{\"body\":\"Body of the first\",\"revision\":1}\n");

    let shown = |args: &[&str]| run(&[&["get", DATE, URL], args].concat());
    assert!(shown(&["--revision", "1"]).1.contains("Body of the first"));
    assert!(shown(&["--as-of", &time(&first).to_string()]).1.contains("Body of the first"));
    assert!(shown(&[]).1.contains("Body of the second"));
    let (status, _, error) = shown(&["--revision", "3"]);
    assert!(status == Some(1) && error.contains("REVISION_NOT_FOUND"), "{error}");
    assert_eq!(shown(&["--as-of", "yesterday"]).0, Some(2));
    assert_eq!(shown(&["--as-of", "2026-01-01T00:00:00Z", "--revision", "1"]).0, Some(2));
}
