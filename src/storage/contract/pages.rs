//! What only engines have of reading: cursors, budgets of text, heads without texts.

use super::Violation;
use super::kit::{OrViolation as _, Site, batch, date, holds, same};
use crate::article::{Article, ArticleDate, ArticleHead, ArticleKey, DateRange, Filter, StoredArticle, UrlScope};
use crate::storage::{ArticleStore, CountRequest, CountedGroup, CountedHost, Direction, GroupBy, Page, ScanRequest, Write};

const DIRECTIONS: [Direction; 2] = [Direction::Ascending, Direction::Descending];

pub async fn check(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = site_alone_in_its_year(store).await?;
    let mut articles = Vec::new();
    for day in ["02-01", "02-02", "02-04"] {
        for number in 0..8u64 {
            let body = "text ".repeat(1 + (number * 97 % 50) as usize);
            articles.push(site.article_of(day, &format!("/{number}"), &body)?);
        }
    }
    let promise = "articles are stored to be paged";
    store.write(batch(articles.iter().cloned().map(Write::put))).await.or_violation(promise)?;
    cursors_go_on(store, &site, &articles).await?;
    pages_end_where_they_promise(store, &site, &articles).await?;
    lookups_end_where_they_promise(store, &articles).await?;
    counts_go_on(store, &site).await
}

/// A site in whose year there is nothing else, so that scans of every URL can be checked to the last article.
async fn site_alone_in_its_year(store: &dyn ArticleStore) -> Result<Site, Violation> {
    let promise = "some year of the 17th to 19th century is empty";
    for _ in 0..1000 {
        let site = Site::new()?;
        let filter = Filter { dates: year(&site)?, scope: UrlScope::All };
        let total = store.count(&CountRequest { filter, group_by: GroupBy::Total, limit: 1 }).await.or_violation(promise)?;
        if total.iter().all(|group| group.count == 0) {
            return Ok(site);
        }
    }
    Err(Violation::new(promise, "none was found"))
}

fn year(site: &Site) -> Result<DateRange, Violation> {
    Ok(DateRange { from: date(&site.date("01-01"))?, to: date(&site.date("12-31"))? })
}

fn in_direction(articles: &[Article], direction: Direction) -> Vec<&Article> {
    match direction {
        Direction::Ascending => articles.iter().collect(),
        Direction::Descending => articles.iter().rev().collect(),
    }
}

async fn scan(store: &dyn ArticleStore, request: &ScanRequest) -> Result<Page<StoredArticle>, Violation> {
    let page = store.scan(request).await.or_violation("a page of a scan")?;
    let heads = store.scan_heads(&ScanRequest { text_budget: 0, ..request.clone() }).await.or_violation("a page of heads")?;
    let promise = "scan_heads gives the heads of what scan gives";
    if request.text_budget == usize::MAX {
        same("scan_heads ends its pages where scan does", &heads.next, &page.next)?;
        same(promise, &heads.items.len(), &page.items.len())?;
    }
    for (head, stored) in heads.items.iter().zip(&page.items) {
        same(promise, head, &stored.head)?;
        same("text_bytes are those of title, lead and body", &head.text_bytes, &(stored.article.text_bytes() as u64))?;
        holds("a head names the change that made it", (1..=store.sequence()).contains(&head.sequence), || format!("{head:?}"))?;
    }
    Ok(page)
}

/// From every place, those of stored articles and those between them, a scan goes on with what comes after it.
async fn cursors_go_on(store: &dyn ArticleStore, site: &Site, articles: &[Article]) -> Result<(), Violation> {
    let between = [("01-31", "/"), ("02-01", "/"), ("02-01", "/30"), ("02-02", "/a"), ("02-03", "/0"), ("12-31", "/")];
    let mut places: Vec<ArticleKey> = articles.iter().map(|article| article.key().clone()).collect();
    for (day, path) in between {
        places.push(site.article_of(day, path, "never put")?.key().clone());
    }
    // Keys of other hosts, before and after all of this one.
    for url in ["https://0.aaa/", "https://0.zzz/"] {
        let url = super::kit::url(url)?;
        places.extend(
            ["01-31", "02-02", "02-05"]
                .iter()
                .map(|day| Ok(ArticleKey { date: date(&site.date(day))?, url: url.clone() }))
                .collect::<Result<Vec<_>, Violation>>()?,
        );
    }
    let host = site.filter()?.scope;
    let filters = [
        Filter { dates: DateRange::ALL, scope: host.clone() },
        Filter { dates: DateRange { from: date(&site.date("02-02"))?, ..DateRange::ALL }, scope: host.clone() },
        Filter { dates: DateRange { to: date(&site.date("02-03"))?, ..DateRange::ALL }, scope: host },
        Filter { dates: year(site)?, scope: UrlScope::All },
    ];
    for filter in &filters {
        for direction in DIRECTIONS {
            for after in &places {
                let request =
                    ScanRequest { filter: filter.clone(), direction, after: Some(after.clone()), limit: 5, text_budget: usize::MAX };
                let page = scan(store, &request).await?;
                let comes = |article: &Article| match direction {
                    Direction::Ascending => article.key() > after,
                    Direction::Descending => article.key() < after,
                };
                let expected: Vec<_> = in_direction(articles, direction)
                    .into_iter()
                    .filter(|article| filter.contains(article.key()) && comes(article))
                    .collect();
                let expected: Vec<&ArticleKey> = expected.into_iter().take(5).map(Article::key).collect();
                let found: Vec<&ArticleKey> = page.items.iter().map(|stored| &stored.head.key).collect();
                same(&format!("a scan {direction:?} goes on after {after}"), &found, &expected)?;
                let end_of_page = page.items.last().filter(|_| page.items.len() == 5).map(|stored| &stored.head.key);
                holds(
                    "a full page names its last article as its cursor, and the end has none",
                    page.next.is_none() || page.next.as_ref() == end_of_page,
                    || format!("{:?} after {found:?}", page.next),
                )?;
            }
        }
    }
    nothing_in_empty_ranges(store, site).await
}

async fn nothing_in_empty_ranges(store: &dyn ArticleStore, site: &Site) -> Result<(), Violation> {
    let reversed = DateRange { from: date(&site.date("02-04"))?, to: date(&site.date("02-01"))? };
    let outermost = DateRange { from: ArticleDate::MAX, to: ArticleDate::MIN };
    for dates in [reversed, outermost] {
        for scope in [UrlScope::All, site.filter()?.scope] {
            let filter = Filter { dates, scope };
            let promise = "an empty range of dates selects nothing";
            for direction in DIRECTIONS {
                let request = ScanRequest { filter: filter.clone(), direction, after: None, limit: 5, text_budget: usize::MAX };
                same(promise, &scan(store, &request).await?, &Page { items: Vec::new(), next: None })?;
            }
            for group_by in [GroupBy::Day(None), GroupBy::Host(None)] {
                let request = CountRequest { filter: filter.clone(), group_by, limit: 5 };
                same(promise, &store.count(&request).await.or_violation(promise)?, &Vec::new())?;
            }
            let total = store.count(&CountRequest { filter, group_by: GroupBy::Total, limit: 5 }).await.or_violation(promise)?;
            same(promise, &total.iter().map(|group| (&group.group, group.count)).collect::<Vec<_>>(), &vec![(&CountedGroup::Total, 0)])?;
        }
    }
    Ok(())
}

/// How many of these sizes go into a page: up to the one with which they exceed the budget.
fn fitting(sizes: impl Iterator<Item = usize>, limit: usize, budget: usize) -> usize {
    let mut sum = 0;
    let mut count = 0;
    for size in sizes.take(limit) {
        count += 1;
        sum += size;
        if sum > budget {
            break;
        }
    }
    count
}

async fn pages_end_where_they_promise(store: &dyn ArticleStore, site: &Site, articles: &[Article]) -> Result<(), Violation> {
    let first = articles.first().map_or(0, Article::size);
    for direction in DIRECTIONS {
        for limit in [1, 2, 7, 24, 1000] {
            for budget in [0, 1, first - 1, first, first + 1, 500, 2000, usize::MAX] {
                let mut rest = in_direction(articles, direction);
                let mut request = ScanRequest { filter: site.filter()?, direction, after: None, limit, text_budget: budget };
                loop {
                    let page = scan(store, &request).await?;
                    let expected = fitting(rest.iter().map(|article| article.size()), limit, budget);
                    same(
                        &format!("a page of at most {limit} articles ends with the one that exceeds {budget} bytes"),
                        &page.items.len(),
                        &expected,
                    )?;
                    for (stored, article) in page.items.iter().zip(rest.drain(..expected)) {
                        same("pages put together are the whole", &stored.article, article)?;
                    }
                    match page.next {
                        Some(next) => request.after = Some(next),
                        None => break,
                    }
                }
                same("the last page is the end", &rest.len(), &0)?;
            }
        }
    }
    Ok(())
}

async fn lookups_end_where_they_promise(store: &dyn ArticleStore, articles: &[Article]) -> Result<(), Violation> {
    let keys: Vec<ArticleKey> = articles.iter().rev().map(|article| article.key().clone()).collect();
    let last = articles.last().map_or(0, Article::size);
    for budget in [0, last - 1, last, 300, 1000, usize::MAX] {
        let promise = format!("a lookup ends with the article that exceeds {budget} bytes");
        let results = store.articles(&keys, budget).await.or_violation(&promise)?;
        let expected = fitting(articles.iter().rev().map(Article::size), keys.len(), budget);
        same(&promise, &results.len(), &expected)?;
        for (result, article) in results.into_iter().zip(articles.iter().rev()) {
            let found = result.or_violation(&promise)?;
            same(&promise, &found.map(|found| found.article), &Some(article.clone()))?;
        }
    }
    same("a lookup without keys has no results", &store.articles(&[], 0).await.or_violation("a lookup without keys")?.len(), &0)?;
    let url = articles.first().map(|article| article.key().url.clone());
    let Some(url) = url else { return Ok(()) };
    for limit in [0, 1, 2, 3, 4] {
        let promise = "the latest dates of a URL come first, at most so many";
        let all: Vec<ArticleDate> = articles.iter().rev().map(Article::key).filter(|key| key.url == url).map(|key| key.date).collect();
        let expected: Vec<ArticleDate> = all.into_iter().take(limit).collect();
        same(promise, &store.article_dates(&url, limit).await.or_violation(promise)?, &expected)?;
    }
    Ok(())
}

async fn counts_go_on(store: &dyn ArticleStore, site: &Site) -> Result<(), Violation> {
    let filter = site.filter()?;
    let promise = "a count goes on after any day and any host";
    for (after, expected) in [("01-01", 3), ("02-01", 2), ("02-02", 1), ("02-03", 1), ("02-04", 0), ("12-31", 0)] {
        for scope in [filter.scope.clone(), UrlScope::All] {
            let dates = DateRange { from: date(&site.date("01-01"))?, to: date(&site.date("12-31"))? };
            let request =
                CountRequest { filter: Filter { dates, scope }, group_by: GroupBy::Day(Some(date(&site.date(after))?)), limit: 10 };
            same(promise, &store.count(&request).await.or_violation(promise)?.len(), &expected)?;
        }
    }
    for (host, expected) in
        [(format!("0.{}", site.host()), 0), (site.host().to_owned(), 0), ("0.aaa".to_owned(), 1), ("0.zzz".to_owned(), 0)]
    {
        let after = CountedHost::of(&super::kit::url(&format!("https://{host}/"))?);
        let request = CountRequest { filter: filter.clone(), group_by: GroupBy::Host(Some(after)), limit: 10 };
        same(promise, &store.count(&request).await.or_violation(promise)?.len(), &expected)?;
    }
    Ok(())
}

/// Every head that a filter selects, in order.
pub async fn all_heads(store: &dyn ArticleStore, filter: &Filter) -> Result<Vec<ArticleHead>, Violation> {
    let mut heads = Vec::new();
    let mut request = ScanRequest { filter: filter.clone(), direction: Direction::Ascending, after: None, limit: 1000, text_budget: 0 };
    loop {
        let page = store.scan_heads(&request).await.or_violation("a page of heads")?;
        heads.extend(page.items);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(heads),
        }
    }
}
