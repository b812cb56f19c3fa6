//! A consumer of the change log: what it makes of the changes must be what the store holds.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use dateline::client::v1::watch_articles_request::Start;
use dateline::client::{Client, WatchEvent, v1};
use tokio::sync::watch;

use super::input::Stored;

/// A watch that says nothing at all for so long is lost.
const SILENCE: Duration = Duration::from_secs(120);

/// What a consumer has seen.
#[derive(Debug, Default)]
pub struct Replay {
    pub stored: Stored,
    pub changes: usize,
    pub interruptions: usize,
}

/// Follows the log from the beginning, until it has seen as many changes as there are in all.
pub async fn consume(client: Client, mut total: watch::Receiver<Option<usize>>) -> Result<Replay, String> {
    let start = Some(Start::Position(v1::WatchStart::Beginning.into()));
    let request = v1::WatchArticlesRequest { start, include_articles: true, ..Default::default() };
    let mut watch = loop {
        // Beginning is the only part that does not come back by itself.
        match client.watch(request.clone()).await {
            Ok(watch) => break watch,
            Err(error) if ["Unavailable", "Unknown", "Internal", "Cancelled", "DRAINING"].contains(&error.reason.as_str()) => {}
            Err(error) => return Err(format!("a watch cannot begin: {error}")),
        }
    };
    let (mut replay, mut seen) = (Replay::default(), HashSet::new());
    loop {
        if total.borrow_and_update().is_some_and(|total| replay.changes >= total) {
            return Ok(replay);
        }
        let event = tokio::select! {
            changed = total.changed() => {
                changed.map_err(|_| "the ingesting failed")?;
                continue;
            }
            event = tokio::time::timeout(SILENCE, watch.next()) => event.map_err(|_| "a watch says nothing any more")?,
        };
        match event.map_err(|error| format!("a watch ended after {} changes: {error}", replay.changes))? {
            WatchEvent::Interrupted(_) => replay.interruptions += 1,
            WatchEvent::Changes(message) => {
                for change in message.changes {
                    apply(&mut replay, &mut seen, change)?;
                }
            }
        }
    }
}

fn apply(replay: &mut Replay, seen: &mut HashSet<(String, i64)>, change: v1::ArticleChange) -> Result<(), String> {
    let v1::ArticleKey { date, url } = change.key.clone().ok_or("a change without a key")?;
    if !seen.insert((url.clone(), change.revision)) {
        return Err(format!("revision {} of {url} came twice", change.revision));
    }
    let before = replay.stored.get(&(date.clone(), url.clone())).map_or(0, |(revision, _)| *revision);
    if change.revision != before + 1 {
        return Err(format!("revision {} of {url} came after {before}", change.revision));
    }
    let article = change.article.ok_or_else(|| format!("revision {} of {url} has no content", change.revision))?;
    replay.stored.insert((date, url), (change.revision, article.body));
    replay.changes += 1;
    Ok(())
}

/// Says where two stores differ.
pub fn same(what: &str, found: &Stored, expected: &Stored) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let differs = |one: &Stored, other: &Stored| -> BTreeMap<(String, String), i64> {
        let wrong = one.iter().filter(|(key, value)| other.get(*key) != Some(*value));
        wrong.map(|(key, (revision, _))| (key.clone(), *revision)).take(5).collect()
    };
    let (more, fewer) = (differs(found, expected), differs(expected, found));
    Err(format!("{what} has {} articles, expected {}: it has {more:?}, and should have {fewer:?}", found.len(), expected.len()))
}
