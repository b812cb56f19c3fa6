//! Judges a daemon on a damaged store: exact, DATA_LOSS, or refused; anything else is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use dateline::client::{Client, ClientError, v1};
use tokio::time::timeout;
use v1::get_article_request::Target;
use v1::lookup_result::Result as Looked;

use super::articles::Place;
use super::check::{count, counted, scan};
use super::daemon::{Daemon, Launch, Started};
use super::load::answer;

/// Damage is what this reason names.
const DAMAGED: &str = "RECORD_DAMAGED";
/// A daemon that notices that its store has failed ends, or says so, within this time.
const NOTICE: Duration = Duration::from_secs(5);

/// What a store must give.
pub struct Expected {
    places: Vec<Place>,
    /// In the order of a scan, with everything that the store adds.
    articles: Vec<v1::Article>,
    contents: v1::StoreContents,
}

/// How a daemon takes damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every answer is what it was before.
    Exact,
    /// What is not exact says that it is damaged.
    DataLoss,
    /// It does not open, and says why.
    Refused,
    /// It opened, and then ended or said that it does not serve, with an error.
    Failed,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::DataLoss => "DATA_LOSS",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Expected {
    /// What a store gives now.
    pub async fn of(client: &Client, places: Vec<Place>) -> Result<Self, String> {
        let articles = scan(client).await?;
        let status = answer(client.status()).await?.map_err(|error| error.to_string())?;
        Ok(Self { places, articles, contents: status.contents.ok_or("GetStatus names no contents")? })
    }

    fn find(&self, place: &Place) -> Option<&v1::Article> {
        self.articles.iter().find(|article| article.date == place.date && article.canonical_url == place.url)
    }

    fn latest(&self, url: &str) -> Option<&v1::Article> {
        self.articles.iter().filter(|article| article.canonical_url == url).max_by_key(|article| &article.date)
    }
}

/// What was seen of a daemon that opened its store.
#[derive(Debug, Default)]
struct Seen {
    damaged: bool,
    /// Answers that are neither exact nor DATA_LOSS.
    wrong: Vec<String>,
    /// Counts that are not exact.
    miscounted: Vec<String>,
    /// Calls that failed for another reason.
    failed: Vec<String>,
}

impl Seen {
    /// Takes in an answer: exact or not, or an error.
    fn take(&mut self, what: &str, result: Result<bool, ClientError>) {
        match result {
            Ok(true) => {}
            Ok(false) => self.wrong.push(format!("{what} is wrong")),
            Err(error) if error.reason == DAMAGED => self.damaged = true,
            Err(error) if error.reason == "ARTICLE_NOT_FOUND" => self.wrong.push(format!("{what} is missing in silence")),
            Err(error) => self.failed.push(format!("{what} failed: {error}")),
        }
    }

    fn take_count(&mut self, what: &str, result: Result<bool, ClientError>) {
        match result {
            Ok(false) => self.miscounted.push(format!("{what} is wrong")),
            result => self.take(what, result),
        }
    }
}

/// Starts a daemon and asks it for everything.
pub async fn judge(launch: &Launch, expected: &Expected) -> Result<Verdict, String> {
    let mut daemon = match launch.start().await? {
        Started::Listening(daemon) => daemon,
        Started::Ended(ended) if ended.with_message() => return Ok(Verdict::Refused),
        Started::Ended(ended) => return Err(format!("it does not open, and does not say why: {ended}")),
    };
    let mut seen = Seen::default();
    match daemon.connect().await {
        Ok(client) => read(&client, expected, &mut seen).await?,
        Err(error) => seen.failed.push(error),
    }
    let Seen { damaged, wrong, miscounted, failed } = seen;
    let forgivable = wrong.is_empty() && !(failed.is_empty() && miscounted.is_empty());
    let gives_up = forgivable && gives_up(&mut daemon).await?;
    daemon.kill().await?;
    // What is forgiven to a daemon that says that it fails: calls that it does not answer, and counts.
    let forgiven = if gives_up { 0 } else { miscounted.len() + failed.len() };
    if wrong.len() + forgiven > 0 {
        let first: Vec<_> = wrong.iter().chain(&miscounted).chain(&failed).take(3).cloned().collect();
        let numbers = format!("{} wrong, {} counts wrong, {} failed", wrong.len(), miscounted.len(), failed.len());
        return Err(format!("{numbers}, and it {} that it fails: {}", if gives_up { "says" } else { "does not say" }, first.join("; ")));
    }
    Ok(if gives_up {
        Verdict::Failed
    } else if damaged {
        Verdict::DataLoss
    } else {
        Verdict::Exact
    })
}

/// Whether the daemon ends with a clear message, or says that it does not serve.
async fn gives_up(daemon: &mut Daemon) -> Result<bool, String> {
    let noticed = timeout(NOTICE, async {
        loop {
            if let Some(ended) = daemon.has_ended().await? {
                return if ended.with_message() { Ok(true) } else { Err(format!("it ended without a clear message: {ended}")) };
            }
            if daemon.health().await.is_ok_and(|health| health.iter().any(|(_, serving)| !serving)) {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(50)).await; // ok: between two looks
        }
    });
    noticed.await.unwrap_or(Ok(false))
}

async fn read(client: &Client, expected: &Expected, seen: &mut Seen) -> Result<(), String> {
    let Expected { places, articles, contents } = expected;
    seen.take("StreamArticles", scanned(client).await?.map(|found| found == *articles));
    lookups(client, expected, seen).await?;
    for place in places.iter().step_by(2) {
        let request = v1::GetArticleRequest { target: Some(Target::Url(place.url.clone())), ..Default::default() };
        let what = format!("GetArticle of {}", place.url);
        match (answer(client.get_article(request)).await?, expected.latest(&place.url)) {
            (Err(error), None) if error.reason == "ARTICLE_NOT_FOUND" => {}
            (found, latest) => seen.take(&what, found.map(|found| Some(&found) == latest)),
        }
    }
    let days = counted(articles.iter().map(|article| article.date.as_str()));
    let hosts = counted(articles.iter().map(|article| article.host.as_str()));
    let all = BTreeMap::from([(String::new(), articles.len() as i64)]);
    for (group_by, groups) in [(v1::CountGroup::Day, days), (v1::CountGroup::Host, hosts), (v1::CountGroup::Unspecified, all)] {
        let found = answer(count(client, group_by)).await?;
        seen.take_count(&format!("CountArticles by {group_by:?}"), found.map(|found| found == groups));
    }
    let status = answer(client.status()).await?;
    seen.take_count("GetStatus", status.map(|status| status.contents.as_ref() == Some(contents)));
    Ok(())
}

/// As [`scan`], with the error of the call where it fails.
async fn scanned(client: &Client) -> Result<Result<Vec<v1::Article>, ClientError>, String> {
    answer(async {
        let mut stream = client.stream_articles(v1::StreamArticlesRequest::default()).await?;
        let mut found = Vec::new();
        while let Some(article) = stream.next().await? {
            found.push(article);
        }
        Ok(found)
    })
    .await
}

async fn lookups(client: &Client, expected: &Expected, seen: &mut Seen) -> Result<(), String> {
    let keys = expected.places.iter().map(Place::key).collect();
    let results = match answer(client.lookup_articles(v1::LookupArticlesRequest { keys, read_mask: None })).await? {
        Ok(results) if results.len() == expected.places.len() => results,
        found => {
            seen.take("LookupArticles", found.map(|_| false));
            return Ok(());
        }
    };
    for (place, result) in expected.places.iter().zip(results) {
        let what = format!("LookupArticles of {} {}", place.date, place.url);
        let reason = |error: v1::ItemError| ClientError { reason: error.reason, message: error.message };
        match (result.result, expected.find(place)) {
            (Some(Looked::Article(article)), stored) => seen.take(&what, Ok(Some(&article) == stored)),
            (Some(Looked::Error(error)), None) if error.reason == "ARTICLE_NOT_FOUND" => {}
            (Some(Looked::Error(error)), _) => seen.take(&what, Err(reason(error))),
            (None, _) => seen.take(&what, Ok(false)),
        }
    }
    Ok(())
}
