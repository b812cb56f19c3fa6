//! Scans and counts: what a filter selects, in order, whatever the pages and the writes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::kit::{OrViolation as _, Site, date, holds, same, same_articles, url, valid};
use super::{GroupKind, Subject, Violation};
use crate::article::{Article, ArticleDate, ArticleDraft, ArticleHead, ArticleKey, DateRange, Filter, UrlScope};
use crate::storage::{CountedHost, Direction, Precondition};

const DIRECTIONS: [Direction; 2] = [Direction::Ascending, Direction::Descending];
const PAGE_SIZES: [usize; 5] = [1, 2, 7, 50, 1000];
const DAYS: [&str; 6] = ["01-01", "02-28", "03-01", "05-01", "05-02", "12-31"];

pub async fn check(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let stored = populate(subject, &site).await?;
    for (number, filter) in filters(&site)?.into_iter().enumerate() {
        let selected: Vec<_> = stored.iter().filter(|(article, _)| filter.contains(article.key())).cloned().collect();
        // The whole site in pages of all sizes, and any other filter in pages of one.
        let sizes = if number == 0 { PAGE_SIZES.to_vec() } else { vec![PAGE_SIZES[number % PAGE_SIZES.len()]] };
        for size in sizes {
            scans_select(subject, &filter, &selected, size).await?;
            counts_select(subject, &filter, &selected, size).await?;
        }
    }
    every_url_of_some_days(subject, &site, &stored).await?;
    writes_do_not_disturb(subject).await
}

/// Stores articles on hosts and days of all kinds, and gives them back in order.
async fn populate(subject: &dyn Subject, site: &Site) -> Result<Vec<(Article, ArticleHead)>, Violation> {
    let host = site.host();
    let hosts = ["", "a.", "b.a.", "a-b.", "aa.", "xn--bcher-kva.", "z."].map(|label| format!("{label}{host}"));
    let ports = [format!("{host}:8080"), format!("{host}:81"), format!("a.{host}:8080")];
    // Neighbours that no filter may take for this site.
    let neighbours = [format!("x{host}"), format!("{host}x"), format!("x-{host}")];
    let paths = ["/", "/a", "/a/", "/a/b", "/a?x=1&y=2", "/A", "/a%2Fb", "/ab", "/~z(1)", "/a!b"];
    let mut articles = BTreeMap::new();
    for (number, host) in hosts.iter().chain(&ports).chain(&neighbours).enumerate() {
        for (place, path) in paths.iter().enumerate() {
            // On every second day of its own, and most URLs on several days.
            for day in DAYS.iter().skip((number + place) % 3).step_by(2 + place % 3) {
                let url = format!("https://{host}{path}");
                let article = valid(ArticleDraft { date: site.date(day), url, ..site.draft("/", &format!("{number} {place} {day}")) })?;
                articles.insert(article.key().clone(), article);
            }
        }
    }
    // Stored in an order that is not that of the keys.
    let mut shuffled: Vec<&Article> = articles.values().collect();
    shuffled.sort_by_key(|article| *article.digest().as_bytes());
    let promise = "articles are stored to be scanned";
    for batch in shuffled.chunks(50) {
        subject.put_many(batch.iter().copied().cloned().collect()).await.or_violation(promise)?;
    }
    let keys: Vec<_> = articles.keys().cloned().collect();
    let found = subject.articles(&keys).await.or_violation(promise)?;
    let heads = found.into_iter().map(|found| found.map(|found| found.head).ok_or_else(|| Violation::new(promise, "one is missing")));
    articles.into_values().zip(heads).map(|(article, head)| Ok((article, head?))).collect()
}

fn filters(site: &Site) -> Result<Vec<Filter>, Violation> {
    let promise = "the scope of the check is one";
    let host = site.host();
    let day = |text: &str| date(&site.date(text));
    let range = |from: &str, to: &str| Ok::<_, Violation>(DateRange { from: day(from)?, to: day(to)? });
    let ranges = [
        DateRange::ALL,
        range("05-01", "05-01")?,
        range("02-28", "05-01")?,
        range("03-02", "04-30")?,
        range("05-02", "12-30")?,
        DateRange { from: day("03-01")?, to: ArticleDate::MAX },
        DateRange { from: ArticleDate::MIN, to: day("02-27")? },
        DateRange { from: ArticleDate::MIN, to: ArticleDate::MIN },
    ];
    let names = ["", "a.", "b.a.", "aa.", "bücher.", "WWW.", "nobody."].map(|label| format!("{label}{host}"));
    let mut scopes = Vec::new();
    for name in &names {
        scopes.push(UrlScope::domain(name).or_violation(promise)?);
        scopes.push(UrlScope::host(name).or_violation(promise)?);
    }
    for port in ["8080", "81", "443", "8"] {
        scopes.push(UrlScope::host(&format!("{host}:{port}")).or_violation(promise)?);
    }
    for path in ["", "/", "/a", "/a/", "/a/b", "/%61", "/A", "/a%2f", "/~z(", "/nothing"] {
        scopes.push(UrlScope::url_prefix(&site.url(path)).or_violation(promise)?);
    }
    scopes.push(UrlScope::url_prefix(&format!("http://a.{host}:8080/a")).or_violation(promise)?);
    Ok(scopes.iter().flat_map(|scope| ranges.iter().map(|dates| Filter { dates: *dates, scope: scope.clone() })).collect())
}

async fn scans_select(subject: &dyn Subject, filter: &Filter, selected: &[(Article, ArticleHead)], size: usize) -> Result<(), Violation> {
    for direction in DIRECTIONS {
        let promise = format!("a scan {direction:?} in pages of {size} gives what {filter:?} selects, in order");
        let found = subject.scan(filter, direction, size).await.or_violation(&promise)?;
        match direction {
            Direction::Ascending => same_articles(&promise, &found, selected)?,
            Direction::Descending => same_articles(&promise, &found, &selected.iter().rev().cloned().collect::<Vec<_>>())?,
        }
    }
    Ok(())
}

async fn counts_select(subject: &dyn Subject, filter: &Filter, selected: &[(Article, ArticleHead)], size: usize) -> Result<(), Violation> {
    let keys: Vec<&ArticleKey> = selected.iter().map(|(article, _)| article.key()).collect();
    let mut days: BTreeMap<ArticleDate, u64> = BTreeMap::new();
    let mut hosts: BTreeMap<CountedHost, u64> = BTreeMap::new();
    for key in &keys {
        *days.entry(key.date).or_default() += 1;
        *hosts.entry(CountedHost::of(&key.url)).or_default() += 1;
    }
    let days = days.iter().map(|(day, count)| (day.to_string(), *count)).collect();
    let hosts = hosts.iter().map(|(host, count)| (host.host(), *count)).collect();
    let groupings = [(GroupKind::Total, vec![(String::new(), keys.len() as u64)]), (GroupKind::Day, days), (GroupKind::Host, hosts)];
    for (group_by, expected) in groupings {
        let promise = format!("a count by {group_by:?} in pages of {size} agrees with a scan of {filter:?}");
        same(&promise, &subject.count(filter, group_by, size).await.or_violation(&promise)?, &expected)?;
    }
    Ok(())
}

/// Without a scope others may have articles there too, so this looks only at what the site must have.
async fn every_url_of_some_days(subject: &dyn Subject, site: &Site, stored: &[(Article, ArticleHead)]) -> Result<(), Violation> {
    let own: BTreeSet<&ArticleKey> = stored.iter().map(|(article, _)| article.key()).collect();
    for (from, to) in [("01-01", "12-31"), ("02-28", "05-01"), ("05-01", "05-01")] {
        let dates = DateRange { from: date(&site.date(from))?, to: date(&site.date(to))? };
        let filter = Filter { dates, scope: UrlScope::All };
        let selected: Vec<_> = stored.iter().filter(|(article, _)| dates.contains(article.key().date)).cloned().collect();
        for (direction, size) in DIRECTIONS.into_iter().zip([7, 1000]) {
            let promise = format!("a scan {direction:?} of every URL from {from} to {to} holds all articles, in order");
            let mut found = subject.scan(&filter, direction, size).await.or_violation(&promise)?;
            let total = vec![(String::new(), found.len() as u64)];
            same(
                "a count of every URL agrees with a scan",
                &subject.count(&filter, GroupKind::Total, size).await.or_violation(&promise)?,
                &total,
            )?;
            for group_by in [GroupKind::Day, GroupKind::Host] {
                let groups = subject.count(&filter, group_by, size).await.or_violation(&promise)?;
                let sum: u64 = groups.iter().map(|(_, count)| count).sum();
                same("the groups of a count add up to the total", &sum, &(found.len() as u64))?;
            }
            found.retain(|found| own.contains(found.article.key()));
            if direction == Direction::Descending {
                found.reverse();
            }
            same_articles(&promise, &found, &selected)?;
        }
    }
    Ok(())
}

/// Half of the articles stay; the others come, change and go while scans run.
async fn writes_do_not_disturb(subject: &dyn Subject) -> Result<(), Violation> {
    const STAYING: usize = 60;
    let site = Site::new()?;
    let filter = site.filter()?;
    let article = |number: usize, body: &str| site.article_of(DAYS[number % 3], &format!("/{number:03}"), body);
    let staying: Vec<Article> = (0..STAYING).map(|number| article(2 * number, "it stays")).collect::<Result<_, _>>()?;
    let promise = "a scan while others write";
    subject.put_many(staying.clone()).await.or_violation(promise)?;
    let expected: BTreeSet<ArticleKey> = staying.iter().map(|article| article.key().clone()).collect();
    let done = AtomicBool::new(false);
    let write = async {
        for round in 0..3 {
            for number in 0..STAYING {
                // In leaps, so that writes come before and after wherever a scan is.
                let number = 2 * (number * 37 % STAYING) + 1;
                let coming = article(number, &format!("round {round}"))?;
                let put = subject.put(coming.clone(), Precondition::None).await.or_violation(promise)?;
                put.map_err(|refusal| format!("{refusal:?}")).or_violation(promise)?;
                tokio::task::yield_now().await;
                if (number + round).is_multiple_of(3) {
                    let deleted = subject.delete(coming.key().clone(), Precondition::None).await.or_violation(promise)?;
                    deleted.map_err(|refusal| format!("{refusal:?}")).or_violation(promise)?;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        Ok::<(), Violation>(())
    };
    let read = async {
        for number in 0.. {
            let last = done.load(Ordering::Relaxed);
            let direction = DIRECTIONS[number % 2];
            let found = subject.scan(&filter, direction, PAGE_SIZES[number % PAGE_SIZES.len()]).await.or_violation(promise)?;
            let mut keys: Vec<ArticleKey> = found.into_iter().map(|found| found.article.key().clone()).collect();
            if direction == Direction::Descending {
                keys.reverse();
            }
            holds("a scan under writes repeats nothing and keeps its order", keys.is_sorted_by(|a, b| a < b), || format!("{keys:?}"))?;
            let found: BTreeSet<ArticleKey> = keys.into_iter().collect();
            let skipped: Vec<_> = expected.difference(&found).collect();
            holds("a scan under writes skips nothing that was there throughout", skipped.is_empty(), || format!("{skipped:?}"))?;
            if last {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok::<(), Violation>(())
    };
    let (written, read) = tokio::join!(write, read);
    written?;
    read?;
    let latest = subject.latest_article(staying.first().map_or("", Article::url)).await.or_violation(promise)?;
    same("what stayed is found by its URL", &latest.map(|latest| latest.article), &staying.first().cloned())?;
    let host = CountedHost::of(&url(&site.url("/"))?).host();
    let total = subject.scan(&filter, Direction::Ascending, 1000).await.or_violation(promise)?.len() as u64;
    let counted = subject.count(&filter, GroupKind::Host, 10).await.or_violation(promise)?;
    same("a count after all writes agrees with a scan", &counted, &vec![(host, total)])
}
