//! Text comes back byte for byte, whatever it holds and however large it is.

use std::collections::BTreeMap;

use super::kit::{OrViolation as _, Site, create, delete, incompressible, missing, same, same_articles, stored_as, update, valid};
use super::{PutOutcome, Subject, Violation};
use crate::article::{Article, ArticleDraft, ArticleHead, Limits};
use crate::storage::Direction;

pub async fn check(subject: &dyn Subject) -> Result<(), Violation> {
    any_text_comes_back(subject).await?;
    all_metadata_comes_back(subject).await?;
    any_size_comes_back(subject).await?;
    sizes_change_and_go(subject).await
}

async fn any_text_comes_back(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let texts = [
        "x",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\0",
        "\0\0a\0",
        " spaces before, after and \t between  ",
        "line\nline\r\nline\rline\u{85}line\u{2028}line\u{2029}",
        "\u{feff}after a byte order mark\u{feff}",
        "e\u{301} \u{e9} \u{212b} \u{c5} \u{fb01}",
        "\u{ffff}\u{fffe}\u{fffd}\u{10ffff}\u{e000}\u{d7ff}",
        "\u{202e}right to left\u{202c} \u{200b}\u{200d}\u{ad}",
        "👩‍👩‍👧‍👦 新聞 gazety газета صحيفة",
        "<p>&amp;&#0;</p> %00 \\0 \\u0000 {\"json\":\"\\n\"} '; --",
    ];
    let controls: String = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32).collect();
    for (number, text) in texts.iter().copied().chain([controls.as_str()]).enumerate() {
        let in_fields = |title: &str, lead: &str, body: &str| {
            let fields = ArticleDraft { title: title.into(), lead: lead.into(), body: body.into(), ..site.draft("/", "") };
            let annotations = [("any".to_owned(), text.to_owned())].into();
            ArticleDraft { authors: vec![text.to_owned()], section: text.to_owned(), annotations, ..fields }
        };
        let drafts = [in_fields(text, text, text), in_fields("", "", text), in_fields(text, "", ""), in_fields("", text, "b")];
        for (form, draft) in drafts.into_iter().enumerate() {
            create(subject, &valid(ArticleDraft { url: site.url(&format!("/{number}/{form}")), ..draft })?).await?;
        }
    }
    // Each next one differs from the one before it, if only just.
    let mut head: Option<ArticleHead> = None;
    for text in ["e\u{301}", "\u{e9}", "\u{e9}\0", "\u{e9}\0\0", "\u{e9}\r\n", "\u{e9}\n", "\u{e9} ", "\u{e9}", "E\u{301}"] {
        let article = site.article("/alike", text)?;
        head = Some(match head {
            None => create(subject, &article).await?,
            Some(_) => update(subject, &article).await?,
        });
    }
    Ok(())
}

async fn all_metadata_comes_back(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let limits = Limits::default();
    let time = |text: &str| text.parse().map(Some).or_violation("the time of the check is one");
    let names = |count: usize| (0..count).map(|number| format!("name {}", number % 7)).collect::<Vec<_>>();
    let full = ArticleDraft {
        lead: "A lead".to_owned(),
        publish_time: time("2024-05-01T06:00:00.123456789+02:00")?,
        modify_time: time("1969-12-31T23:59:59.999999999Z")?,
        crawl_time: time("0001-01-01T00:00:00Z")?,
        authors: vec!["B".to_owned(), "A".to_owned(), String::new(), "B".to_owned()],
        keywords: vec![String::new()],
        section: "Politics / Inland".to_owned(),
        language: "zh-Hant-TW".to_owned(),
        publisher: "A publisher".to_owned(),
        annotations: BTreeMap::from([
            ("source".to_owned(), "test".to_owned()),
            ("empty".to_owned(), String::new()),
            ("Name: with \0, \n and ü".to_owned(), "{\"a\":1}".to_owned()),
        ]),
        ..site.draft("/full?z=1&a=%c3%bc", "the text")
    };
    let many = ArticleDraft {
        authors: names(limits.list_items),
        keywords: names(limits.list_items),
        annotations: (0..limits.list_items).map(|number| (format!("{number:0>256}"), number.to_string())).collect(),
        publish_time: time("9999-12-30T21:59:59.999999999Z")?,
        ..site.draft("/many", "the text")
    };
    let long_url = ArticleDraft { url: format!("{}{}", site.url("/"), "a".repeat(2000)), ..site.draft("/", "the text") };
    let spelling = format!("HTTP://www.{}:80/%7ea/../b?utm_source=x&&q=%2f#part", site.host());
    let spelled = ArticleDraft { url: spelling, ..site.draft("/", "the text") };
    for draft in [full, many, long_url, spelled, site.draft("/none", "the text")] {
        create(subject, &valid(draft)?).await?;
    }
    Ok(())
}

/// Sizes of incompressible bodies: all magnitudes, and densely where engines begin to split what they store.
fn body_sizes() -> impl Iterator<Item = usize> {
    let magnitudes = (0..14).flat_map(|power| [1 << power, (1 << power) + 1]);
    let around_a_chunk = (25_000..29_000).step_by(149);
    let several_chunks = (10_000..200_000).step_by(13_337);
    magnitudes.chain(around_a_chunk).chain(several_chunks)
}

async fn any_size_comes_back(subject: &dyn Subject) -> Result<(), Violation> {
    const BATCH: usize = 16;
    let site = Site::new()?;
    let promise = "articles of every size come back";
    let articles: Vec<Article> = body_sizes()
        .enumerate()
        .map(|(number, size)| site.article(&format!("/{number:03}"), &incompressible(number as u64, size)))
        .collect::<Result<_, _>>()?;
    let mut expected = Vec::with_capacity(articles.len());
    for batch in articles.chunks(BATCH) {
        let outcomes = subject.put_many(batch.to_vec()).await.or_violation(promise)?;
        same("a batch has an outcome a write", &outcomes.len(), &batch.len())?;
        for (article, outcome) in batch.iter().zip(outcomes) {
            let found = subject.article(article.key()).await.or_violation(promise)?;
            let head = found.map(|found| found.head).ok_or_else(|| Violation::new(promise, format!("{} is missing", article.key())))?;
            same("the etag of a batch is that of the article", &outcome, &PutOutcome::Created(head.etag()))?;
            expected.push((article.clone(), stored_as(subject, promise, article, head).await?));
        }
    }
    let filter = site.filter()?;
    same_articles(promise, &subject.scan(&filter, Direction::Ascending, 1000).await.or_violation(promise)?, &expected)?;
    let keys: Vec<_> = articles.iter().rev().map(|article| article.key().clone()).collect();
    let found: Vec<_> = subject.articles(&keys).await.or_violation(promise)?.into_iter().rev().flatten().collect();
    same_articles(promise, &found, &expected)
}

async fn sizes_change_and_go(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let limit = Limits::default().article_bytes;
    let path = "/size";
    let small = site.article(path, "small")?;
    let rest = small.size() - small.body().len();
    let largest = site.article(path, &incompressible(1, limit - rest))?;
    same("the largest article of the check has the size of the limit", &largest.size(), &limit)?;
    let compressible = site.article(path, &"A sentence that compresses well, again and again. ".repeat(58_000))?;
    let medium = site.article(path, &incompressible(2, 90_000))?;
    let title = valid(ArticleDraft { title: incompressible(3, 150_000), body: String::new(), ..site.draft(path, "") })?;

    create(subject, &largest).await?;
    for article in [&small, &largest, &compressible, &medium, &title, &small] {
        update(subject, article).await?;
    }
    delete(subject, small.key()).await?;
    for article in [&medium, &largest, &small] {
        create(subject, article).await?;
        delete(subject, article.key()).await?;
    }
    let head = create(subject, &compressible).await?;
    // One creation, six updates and three creations came before.
    same("revisions go on through all sizes", &head.revision, &11)?;
    let promise = "large articles come with a scan";
    let found = subject.scan(&site.filter()?, Direction::Descending, 7).await.or_violation(promise)?;
    same_articles(promise, &found, &[(compressible.clone(), head)])?;
    delete(subject, compressible.key()).await?;
    let found = subject.scan(&site.filter()?, Direction::Ascending, 7).await.or_violation(promise)?;
    same_articles("a deleted large article is in no scan", &found, &[])?;
    missing(subject, "a deleted large article is gone", compressible.key()).await
}
