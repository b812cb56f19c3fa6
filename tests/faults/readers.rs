//! Clients that read while others write, and remember what they saw.

use std::sync::Arc;

use dateline::client::{ClientError, v1};
use v1::get_article_request::Target;

use super::load::{Counters, LoadClient, answer};
use super::oracle::{Glance, lock};

/// Reads in every way until told to stop.
pub async fn read(mut client: LoadClient) -> Result<(), String> {
    while client.go_on() {
        let reading = match client.chance.u8(..8) {
            0..4 => one(&mut client).await?,
            4 => by_url(&mut client).await?,
            5..7 => several(&mut client).await?,
            _ => a_day(&mut client).await?,
        };
        if !reading {
            return Ok(());
        }
    }
    Ok(())
}

fn is_missing(error: &ClientError) -> bool {
    error.reason == "ARTICLE_NOT_FOUND"
}

/// Readers are never refused: an error other than a connection that broke is one too many.
fn broken(error: ClientError) -> Result<bool, String> {
    match error.reason.as_str() {
        // The names of codes: there is no reason where the answer did not come from the daemon.
        "Unavailable" | "Unknown" | "Cancelled" | "Internal" | "CUT_OFF" | "DRAINING" | "STORAGE_FAILED" => Ok(false),
        _ => Err(format!("a read failed while others wrote: {error}")),
    }
}

async fn one(client: &mut LoadClient) -> Result<bool, String> {
    let key = client.pick();
    let (place, before) = {
        let oracle = lock(&client.oracle);
        (oracle.places()[key].key(), oracle.glance(key))
    };
    let request = v1::GetArticleRequest { target: Some(Target::Key(place)), ..Default::default() };
    let found = match answer(client.client.get_article(request)).await? {
        Ok(article) => Some(article),
        Err(error) if is_missing(&error) => None,
        Err(error) => return broken(error),
    };
    Counters::add(&client.counters.seen, 1);
    lock(&client.oracle).saw(key, before, found.as_ref()).map(|()| true)
}

/// Of what a lookup by URL alone gives, only the article itself can be judged while others write.
async fn by_url(client: &mut LoadClient) -> Result<bool, String> {
    let key = client.pick();
    let pair = [key & !1, key | 1];
    let (url, before) = {
        let oracle = lock(&client.oracle);
        (oracle.places()[key].url.clone(), pair.map(|key| oracle.places().get(key).map(|_| oracle.glance(key))))
    };
    let request = v1::GetArticleRequest { target: Some(Target::Url(url)), ..Default::default() };
    match answer(client.client.get_article(request)).await? {
        Ok(article) => {
            let mut oracle = lock(&client.oracle);
            let found = oracle.number(&article)?;
            let before = pair.iter().zip(before).find(|(key, _)| **key == found).and_then(|(_, before)| before);
            let before = before.ok_or_else(|| oracle.about(key, "a lookup by URL gave another URL's article"))?;
            Counters::add(&client.counters.seen, 1);
            oracle.saw(found, before, Some(&article)).map(|()| true)
        }
        Err(error) if is_missing(&error) => Ok(true),
        Err(error) => broken(error),
    }
}

async fn several(client: &mut LoadClient) -> Result<bool, String> {
    let count = client.chance.usize(1..40);
    let wanted: Vec<usize> = (0..count).map(|_| client.pick()).collect();
    let (keys, before): (Vec<_>, Vec<Glance>) = {
        let oracle = lock(&client.oracle);
        wanted.iter().map(|key| (oracle.places()[*key].key(), oracle.glance(*key))).unzip()
    };
    let results = match answer(client.client.lookup_articles(v1::LookupArticlesRequest { keys, read_mask: None })).await? {
        Ok(results) => results,
        Err(error) => return broken(error),
    };
    if results.len() != count {
        return Err(format!("{} results for {count} keys", results.len()));
    }
    Counters::add(&client.counters.seen, count);
    let mut oracle = lock(&client.oracle);
    for ((key, before), result) in wanted.iter().zip(before).zip(results) {
        match result.result {
            Some(v1::lookup_result::Result::Article(article)) => oracle.saw(*key, before, Some(&article))?,
            Some(v1::lookup_result::Result::Error(error)) if error.reason == "ARTICLE_NOT_FOUND" => oracle.saw(*key, before, None)?,
            // The disk is gone: as where a whole call fails for it.
            Some(v1::lookup_result::Result::Error(error)) if error.reason == "STORAGE_FAILED" => return Ok(false),
            other => return Err(oracle.about(*key, &format!("a lookup gave {other:?}"))),
        }
    }
    Ok(true)
}

async fn a_day(client: &mut LoadClient) -> Result<bool, String> {
    let key = client.pick();
    let places = Arc::clone(lock(&client.oracle).places());
    let date = places[key].date.clone();
    let of_day: Vec<usize> = (0..places.len()).filter(|key| places[*key].date == date).collect();
    let before: Vec<Glance> = {
        let oracle = lock(&client.oracle);
        of_day.iter().map(|key| oracle.glance(*key)).collect()
    };
    let filter = Some(v1::ArticleFilter { start_date: date.clone(), end_date: date, scope: None });
    let request = v1::StreamArticlesRequest { filter, ..Default::default() };
    let mut stream = match answer(client.client.stream_articles(request)).await? {
        Ok(stream) => stream,
        Err(error) => return broken(error),
    };
    let mut found = Vec::new();
    loop {
        match answer(stream.next()).await? {
            Ok(Some(article)) => found.push(article),
            Ok(None) => break,
            Err(error) => return broken(error),
        }
    }
    Counters::add(&client.counters.seen, of_day.len());
    let mut oracle = lock(&client.oracle);
    for (key, before) in of_day.iter().zip(before) {
        let mut of_key = found.iter().filter(|article| article.canonical_url == places[*key].url);
        oracle.saw(*key, before, of_key.next())?;
        if of_key.next().is_some() {
            return Err(oracle.about(*key, "a scan gave it twice"));
        }
    }
    Ok(true)
}
