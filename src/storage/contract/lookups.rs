//! Lookups: many keys at once, and by URL alone.

use super::kit::{OrViolation as _, Site, create, date, delete, holds, incompressible, same, same_article, update, url, valid};
use super::{Subject, Violation};
use crate::article::{ArticleDate, ArticleDraft, ArticleKey};

pub async fn check(subject: &dyn Subject) -> Result<(), Violation> {
    many_keys_in_their_order(subject).await?;
    by_url_alone(subject).await
}

async fn many_keys_in_their_order(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "a lookup has a result a key, in their order";
    same("a lookup without keys has no results", &subject.articles(&[]).await.or_violation(promise)?, &Vec::new())?;
    let mut stored = Vec::new();
    for number in 0..12u64 {
        // Some are so large that a few of them fill a response.
        let body = if number % 4 == 3 { incompressible(number, 400_000) } else { format!("text {number}") };
        let article = site.article(&format!("/{number}"), &body)?;
        let head = create(subject, &article).await?;
        stored.push((article, head));
    }
    let missing = site.article("/missing", "never put")?.key().clone();
    let other_day = site.article_of("05-02", "/1", "never put")?.key().clone();
    let order = [3, 0, 3, 3, 11, 7, 3, 1, 1, 10, 9, 8, 2, 0, 11, 11];
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for (place, number) in order.into_iter().enumerate() {
        if place % 3 == 0 {
            keys.push(if place % 2 == 0 { missing.clone() } else { other_day.clone() });
            expected.push(None);
        }
        keys.extend(stored.get(number).map(|(article, _)| article.key().clone()));
        expected.push(stored.get(number));
    }
    let found = subject.articles(&keys).await.or_violation(promise)?;
    same(promise, &found.len(), &keys.len())?;
    for (found, expected) in found.iter().zip(expected) {
        match expected {
            Some((article, head)) => same_article(promise, found.as_ref(), article, head)?,
            None => same("a key without an article has an empty result", found, &None)?,
        }
    }
    let nothing: Vec<ArticleKey> = vec![missing; 1000];
    let found = subject.articles(&nothing).await.or_violation(promise)?;
    holds("a lookup may find nothing", found == vec![None; 1000], || format!("{} results", found.len()))
}

async fn by_url_alone(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "a lookup by URL alone gives the latest date";
    let written = site.url("/daily?a=1&b=2");
    let spellings = [written.clone(), format!("http://www.{}:80/daily?utm_medium=y&b=2&a=1#x", site.host().to_uppercase())];
    let neighbours = ["/daily", "/daily?a=1&b=20", "/daily?a=1&b=2/", "/daily?a=1"];
    for path in neighbours {
        create(subject, &site.article_of("12-31", path, "a neighbour")?).await?;
    }
    for spelling in &spellings {
        same("a URL that nothing is stored under is not found", &subject.latest_article(spelling).await.or_violation(promise)?, &None)?;
        same(
            "a URL that nothing is stored under has no dates",
            &subject.article_dates(spelling).await.or_violation(promise)?,
            &Vec::new(),
        )?;
    }
    let daily = |day: &str, body: &str| valid(ArticleDraft { date: site.date(day), url: written.clone(), ..site.draft("/", body) });
    let mut days = Vec::new();
    for day in ["03-10", "11-02", "01-31", "02-01", "10-09", "10-10"] {
        create(subject, &daily(day, day)?).await?;
        days.push(day);
        days.sort_by(|a, b| b.cmp(a));
        by_url_is(subject, &site, &spellings, &days).await?;
    }
    let head = update(subject, &daily("10-09", "newer, but of an earlier date")?).await?;
    same("an update by key changes that date alone", &head.revision, &2)?;
    by_url_is(subject, &site, &spellings, &days).await?;
    while !days.is_empty() {
        // The latest, then the earliest, and so on.
        let day = if days.len() % 2 == 0 { days.remove(0) } else { days.remove(days.len() - 1) };
        delete(subject, daily(day, "")?.key()).await?;
        by_url_is(subject, &site, &spellings, &days).await?;
    }
    Ok(())
}

/// Checks what each spelling of a URL finds: the article of the first of these days.
async fn by_url_is(subject: &dyn Subject, site: &Site, spellings: &[String], days: &[&str]) -> Result<(), Violation> {
    let expected: Vec<ArticleDate> = days.iter().map(|day| date(&site.date(day))).collect::<Result<_, _>>()?;
    for spelling in spellings {
        let found = subject.article_dates(spelling).await.or_violation("a URL has dates")?;
        same("the dates of a URL come latest first", &found, &expected)?;
        let promise = "a lookup by URL alone gives the latest date, however the URL is written";
        let found = subject.latest_article(spelling).await.or_violation(promise)?;
        let Some(latest) = expected.first() else {
            same(promise, &found, &None)?;
            continue;
        };
        let key = ArticleKey { date: *latest, url: url(spelling)? };
        same(promise, &found.as_ref().map(|found| &found.head.key), &Some(&key))?;
        same("a lookup by URL alone gives what the key gives", &found, &subject.article(&key).await.or_violation(promise)?)?;
    }
    Ok(())
}
