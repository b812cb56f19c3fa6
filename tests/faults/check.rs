//! The check after a restart: everything that the store says, through every call, against the oracle and against itself.

use std::collections::BTreeMap;

use dateline::client::{Client, ClientError, v1};
use v1::get_article_request::Target;
use v1::lookup_result::Result as Looked;

use super::articles::Place;
use super::load::answer;
use super::oracle::{Shared, lock};

/// Keys of one lookup.
const KEYS: usize = 500;
/// One check in so many has the store verify itself too.
const VERIFIED: u8 = 4;
/// Articles, and URLs, that are also asked for one by one.
const ONE_BY_ONE: usize = 60;

/// What a check found of the writes that were in flight.
#[derive(Debug, Default, Clone, Copy)]
pub struct Settled {
    pub articles: usize,
    /// Keys with writes in flight of which at least one happened.
    pub landed: usize,
    /// Keys with writes in flight of which none did.
    pub absent: usize,
}

impl std::ops::AddAssign for Settled {
    fn add_assign(&mut self, other: Self) {
        self.articles = other.articles;
        self.landed += other.landed;
        self.absent += other.absent;
    }
}

/// Checks everything. From here on, what the store holds is certain.
pub async fn settle(client: &Client, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<Settled, String> {
    streams(client, oracle).await?;
    let found = scan(client).await?;
    let places = lock(oracle).places().clone();
    let mut by_key = vec![None; places.len()];
    {
        let oracle = lock(oracle);
        for article in &found {
            let key = oracle.number(article)?;
            if by_key[key].replace(article).is_some() {
                return Err(oracle.about(key, "a scan gave it twice"));
            }
        }
        let order = |article: &v1::Article| article.date.clone();
        if !found.is_sorted_by_key(order) {
            return Err("a scan is not in the order of dates".into());
        }
    }
    let mut settled = Settled { articles: found.len(), ..Settled::default() };
    for (key, article) in by_key.iter().enumerate() {
        match lock(oracle).observe(key, *article)? {
            Some(true) => settled.landed += 1,
            Some(false) => settled.absent += 1,
            None => {}
        }
    }
    lookups(client, &places, &by_key).await?;
    for _ in 0..ONE_BY_ONE {
        let key = chance.usize(..places.len());
        get(client, Target::Key(places[key].key()), by_key[key]).await?;
        let latest = by_key.iter().flatten().filter(|article| article.canonical_url == places[key].url).max_by_key(|article| &article.date);
        get(client, Target::Url(places[key].url.clone()), latest.copied()).await?;
    }
    counts(client, &found).await?;
    status(client, oracle, &found).await?;
    if chance.u8(..VERIFIED) == 0 {
        verified(client).await?;
    }
    Ok(settled)
}

/// The store's own verification agrees that nothing is wrong.
async fn verified(client: &Client) -> Result<(), String> {
    use v1::verify_store_response::Event;
    let mut events = answer(client.verify_store(i64::from(i32::MAX))).await?.map_err(|error| failed("VerifyStore", &error))?;
    while let Some(event) = answer(events.next()).await?.map_err(|error| failed("VerifyStore", &error))? {
        if let Event::Finding(finding) = event {
            return Err(format!("VerifyStore found {finding:?}"));
        }
    }
    Ok(())
}

/// Every stream that is not known to be finished is opened again.
async fn streams(client: &Client, oracle: &Shared) -> Result<(), String> {
    let names: Vec<String> = lock(oracle).streams().keys().cloned().collect();
    for name in names {
        match answer(client.ingest(&name, false)).await? {
            Ok((_, _, opened)) => {
                let total = opened.counts.map_or(0, |counts| counts.created + counts.updated + counts.unchanged + counts.rejected);
                if total != opened.next_item {
                    return Err(format!("the ingest stream {name} counts {total} outcomes of {} items", opened.next_item));
                }
                lock(oracle).stream_found(&name, Some(opened.next_item))?;
            }
            Err(error) if error.reason == "STREAM_FINISHED" => lock(oracle).stream_found(&name, None)?,
            Err(error) => return Err(failed("opening an ingest stream", &error)),
        }
    }
    Ok(())
}

/// Everything that StreamArticles gives.
pub async fn scan(client: &Client) -> Result<Vec<v1::Article>, String> {
    let stream = answer(client.stream_articles(v1::StreamArticlesRequest::default())).await?;
    let mut stream = stream.map_err(|error| failed("StreamArticles", &error))?;
    let mut found = Vec::new();
    while let Some(article) = answer(stream.next()).await?.map_err(|error| failed("StreamArticles", &error))? {
        found.push(article);
    }
    Ok(found)
}

async fn lookups(client: &Client, places: &[Place], by_key: &[Option<&v1::Article>]) -> Result<(), String> {
    for (places, expected) in places.chunks(KEYS).zip(by_key.chunks(KEYS)) {
        let request = v1::LookupArticlesRequest { keys: places.iter().map(Place::key).collect(), read_mask: None };
        let results = answer(client.lookup_articles(request)).await?.map_err(|error| failed("LookupArticles", &error))?;
        if results.len() != places.len() {
            return Err(format!("LookupArticles gave {} results for {} keys", results.len(), places.len()));
        }
        for ((place, expected), result) in places.iter().zip(expected).zip(results) {
            let agrees = match (result.result, expected) {
                (Some(Looked::Article(article)), Some(expected)) => article == **expected,
                (Some(Looked::Error(error)), None) => error.reason == "ARTICLE_NOT_FOUND",
                _ => false,
            };
            if !agrees {
                return Err(format!("LookupArticles and StreamArticles disagree about {} {}", place.date, place.url));
            }
        }
    }
    Ok(())
}

async fn get(client: &Client, target: Target, expected: Option<&v1::Article>) -> Result<(), String> {
    let request = v1::GetArticleRequest { target: Some(target.clone()), ..Default::default() };
    let agrees = match (answer(client.get_article(request)).await?, expected) {
        (Ok(article), Some(expected)) => article == *expected,
        (Err(error), None) => error.reason == "ARTICLE_NOT_FOUND",
        (Err(error), Some(_)) => return Err(failed(&format!("GetArticle of {target:?}"), &error)),
        (Ok(_), None) => false,
    };
    if agrees { Ok(()) } else { Err(format!("GetArticle and StreamArticles disagree about {target:?}")) }
}

/// All groups of a count.
pub async fn count(client: &Client, group_by: v1::CountGroup) -> Result<BTreeMap<String, i64>, ClientError> {
    use v1::article_count::Group;
    let mut groups = BTreeMap::new();
    let mut request = v1::CountArticlesRequest { group_by: group_by.into(), page_size: 5, ..Default::default() };
    loop {
        let response = client.count_articles(request.clone()).await?;
        groups.extend(response.counts.into_iter().map(|counted| match counted.group {
            Some(Group::Date(name) | Group::Host(name)) => (name, counted.article_count),
            None => (String::new(), counted.article_count),
        }));
        if response.next_page_token.is_empty() {
            return Ok(groups);
        }
        request.page_token = response.next_page_token;
    }
}

/// What a count by days, or by hosts, must give.
pub fn counted<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, i64> {
    let mut groups = BTreeMap::new();
    names.into_iter().for_each(|name| *groups.entry(name.to_owned()).or_default() += 1);
    groups
}

async fn counts(client: &Client, found: &[v1::Article]) -> Result<(), String> {
    let days = counted(found.iter().map(|article| article.date.as_str()));
    let hosts = counted(found.iter().map(|article| article.host.as_str()));
    let all = BTreeMap::from([(String::new(), found.len() as i64)]);
    for (group_by, expected) in [(v1::CountGroup::Day, days), (v1::CountGroup::Host, hosts), (v1::CountGroup::Unspecified, all)] {
        let groups = answer(count(client, group_by)).await?.map_err(|error| failed("CountArticles", &error))?;
        if groups != expected {
            return Err(format!("CountArticles by {group_by:?} gave {groups:?}, but a scan {expected:?}"));
        }
    }
    Ok(())
}

/// Bytes of the texts of articles.
pub fn text_bytes(articles: &[v1::Article]) -> i64 {
    articles.iter().map(|article| (article.title.len() + article.lead.len() + article.body.len()) as i64).sum()
}

async fn status(client: &Client, oracle: &Shared, found: &[v1::Article]) -> Result<(), String> {
    let status = answer(client.status()).await?.map_err(|error| failed("GetStatus", &error))?;
    let contents = status.contents.ok_or("GetStatus names no contents")?;
    let date = |article: Option<&v1::Article>| article.map(|article| article.date.clone()).unwrap_or_default();
    let expected = v1::StoreContents {
        article_count: found.len() as i64,
        day_count: counted(found.iter().map(|article| article.date.as_str())).len() as i64,
        first_date: date(found.first()),
        last_date: date(found.last()),
        earlier_revision_count: lock(oracle).earlier_revisions().map_or(contents.earlier_revision_count, |kept| kept as i64),
        text_bytes: text_bytes(found),
        last_sequence: contents.last_sequence,
        ingest_stream_count: contents.ingest_stream_count,
    };
    if contents != expected {
        return Err(format!("GetStatus gave {contents:?}, but it must be {expected:?}"));
    }
    let changes = found.iter().map(|article| article.revision).sum::<i64>();
    if contents.last_sequence < changes {
        return Err(format!("GetStatus gave the sequence {}, but the articles alone took {changes} changes", contents.last_sequence));
    }
    Ok(())
}

fn failed(what: &str, error: &ClientError) -> String {
    format!("{what} failed after the restart: {error}")
}
