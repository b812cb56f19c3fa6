//! Clients that write with unary calls: single articles, deletions, and batches.

use std::sync::Arc;
use std::time::Duration;

use dateline::client::{ClientError, v1};

use super::articles::{Texts, article};
use super::history::{Answer, Write};
use super::load::{Counters, LoadClient, answer, fresh_caller, fresh_number, refuses};
use super::oracle::{Shared, WriteId, lock};

/// How long a client waits after a write for which there was no room.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Writes and deletes one article after the other.
pub async fn singles(mut client: LoadClient) -> Result<(), String> {
    while client.go_on() {
        let key = client.pick();
        let stored = lock(&client.oracle).stored(key);
        let write = match (client.chance.u8(..20), stored) {
            (0..3, _) => Write::Delete,
            // Sent again as it is: nothing may happen.
            (3, Some(stored)) => Write::Put(stored),
            _ => new_put(&mut client, key),
        };
        let Some(id) = lock(&client.oracle).begin(key, write.clone(), fresh_caller(), None) else {
            tokio::task::yield_now().await;
            continue;
        };
        let written = match write {
            Write::Put(article) => put(&client, key, id, (*article).clone()).await?,
            Write::Delete => delete(&client, key, id).await?,
        };
        if !written {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes many articles in one call.
pub async fn batches(mut client: LoadClient) -> Result<(), String> {
    while client.go_on() {
        let caller = fresh_caller();
        let (mut begun, mut articles) = (Vec::new(), Vec::new());
        for _ in 0..client.chance.usize(2..30) {
            let key = client.pick();
            let Write::Put(article) = new_put(&mut client, key) else { continue };
            if let Some(id) = lock(&client.oracle).begin(key, Write::Put(Arc::clone(&article)), caller, None) {
                begun.push((key, id));
                articles.push((*article).clone());
            }
        }
        match answer(client.client.batch_ingest_articles(articles)).await? {
            Ok(results) if results.len() != begun.len() => return Err(format!("{} results for {} articles", results.len(), begun.len())),
            Ok(results) => {
                for ((key, id), result) in begun.iter().zip(&results) {
                    answered(&client.oracle, *key, *id, result.outcome(), None, result.error.as_ref())?;
                }
                Counters::add(&client.counters.acknowledged, results.len());
            }
            Err(error) if refuses(&error) => {
                begun.iter().try_for_each(|(key, id)| lock(&client.oracle).refused(*key, *id))?;
                Counters::add(&client.counters.refused, begun.len());
                tokio::time::sleep(NO_ROOM).await; // ok: the disk is full, and others are to make room
            }
            Err(error) => {
                client.counters.break_off(&error);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A put of an article that was never written before.
pub fn new_put(client: &mut LoadClient, key: usize) -> Write {
    let LoadClient { oracle, mix, chance, .. } = client;
    let places = Arc::clone(lock(oracle).places());
    let texts = if mix.texts == Texts::Heavy && chance.u8(..4) > 0 { Texts::Mixed } else { mix.texts };
    Write::Put(Arc::new(article(&places[key], fresh_number(), texts, chance)))
}

/// Tells the oracle what a put did.
pub fn answered(
    oracle: &Shared,
    key: usize,
    id: WriteId,
    outcome: v1::Outcome,
    revision: Option<u64>,
    error: Option<&v1::ItemError>,
) -> Result<(), String> {
    let mut oracle = lock(oracle);
    match Answer::of(outcome) {
        Some(answer) => oracle.answered(key, id, answer, revision),
        None => Err(oracle.about(key, &format!("a put ended with {outcome:?}: {error:?}"))),
    }
}

async fn put(client: &LoadClient, key: usize, id: WriteId, article: v1::Article) -> Result<bool, String> {
    let request = v1::PutArticleRequest { article: Some(article), ..Default::default() };
    match answer(client.client.put_article(request)).await? {
        Ok(response) => {
            let revision = response.article.as_ref().map(|article| article.revision as u64);
            answered(&client.oracle, key, id, response.outcome(), revision, None)?;
            Counters::add(&client.counters.acknowledged, 1);
            Ok(true)
        }
        Err(error) => refused(client, key, id, &error).await,
    }
}

async fn delete(client: &LoadClient, key: usize, id: WriteId) -> Result<bool, String> {
    let named = lock(&client.oracle).places()[key].key();
    let request = v1::DeleteArticleRequest { key: Some(named), allow_missing: true, ..Default::default() };
    match answer(client.client.delete_article(request)).await? {
        Ok(response) => {
            let answer = if response.deleted { Answer::Deleted } else { Answer::Missing };
            lock(&client.oracle).answered(key, id, answer, None)?;
            Counters::add(&client.counters.acknowledged, 1);
            Ok(true)
        }
        Err(error) => refused(client, key, id, &error).await,
    }
}

/// Gives whether the client goes on.
async fn refused(client: &LoadClient, key: usize, id: WriteId, error: &ClientError) -> Result<bool, String> {
    if !refuses(error) {
        client.counters.break_off(error);
        return Ok(false);
    }
    lock(&client.oracle).refused(key, id)?;
    Counters::add(&client.counters.refused, 1);
    tokio::time::sleep(NO_ROOM).await; // ok: the disk is full, and others are to make room
    Ok(true)
}
