//! A client as a subject of the contract suite: requests and responses between the suite's types and the wire.
//!
//! What the server says of an article in several ways (key, canonical URL, host, digest, etag) is compared on the way.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use dateline::article::{
    Article, ArticleDate, ArticleDraft, ArticleHead, ArticleKey, CanonicalUrl, DateHorizon, Digest, Etag, Filter, Limits, StoredArticle,
    Timestamp, UrlScope,
};
use dateline::client::{Client, ClientError, IngestEvent, from_wire, to_wire, v1};
use dateline::storage::contract::{GroupKind, PutOutcome, Subject};
use dateline::storage::{Direction, Precondition, WriteOutcome, WriteRefusal, Written};

/// Keys of a lookup, and dates of a URL, at most.
const LOOKUP_KEYS: usize = 1000;
/// Items of a message of an ingest stream: few, so that batches take several.
const MESSAGE_ITEMS: usize = 7;

/// By which call articles are scanned.
#[derive(Debug, Clone, Copy)]
pub enum Scans {
    /// ListArticles, page after page.
    Pages,
    /// StreamArticles.
    Stream,
}

/// By which call batches are stored.
#[derive(Debug, Clone, Copy)]
pub enum Writes {
    /// BatchIngestArticles.
    Message,
    /// IngestArticles, each batch as a stream with an id of its own.
    Stream,
}

/// A daemon as a [`Subject`].
pub struct Remote {
    pub client: Client,
    pub scans: Scans,
    pub writes: Writes,
}

#[async_trait]
impl Subject for Remote {
    async fn put(&self, article: Article, precondition: Precondition) -> Result<WriteOutcome, String> {
        use v1::put_article_request::Precondition as Wire;
        let precondition = match precondition {
            Precondition::None => None,
            Precondition::MustNotExist => Some(Wire::MustNotExist(true)),
            Precondition::Etag(etag) => Some(Wire::Etag(etag.to_string())),
        };
        let article = Some(to_wire(ArticleDraft::from(article)));
        let response = match self.client.put_article(v1::PutArticleRequest { article, precondition, update_mask: None }).await {
            Ok(response) => response,
            Err(error) => return refusal(error).map(Err),
        };
        let head = head(response.article.as_ref().ok_or("a put is answered without a head")?)?;
        match response.outcome() {
            v1::Outcome::Created => Ok(Ok(Written::Created(head))),
            v1::Outcome::Updated => Ok(Ok(Written::Updated(head))),
            v1::Outcome::Unchanged => Ok(Ok(Written::Unchanged(head))),
            other => Err(format!("a put has the outcome {other:?}")),
        }
    }

    async fn delete(&self, key: ArticleKey, precondition: Precondition) -> Result<WriteOutcome, String> {
        let etag = match precondition {
            Precondition::None => String::new(),
            Precondition::Etag(etag) => etag.to_string(),
            Precondition::MustNotExist => return Err("no call deletes what must not exist".to_owned()),
        };
        let request = v1::DeleteArticleRequest { key: Some(key_to_wire(&key)), etag, allow_missing: false };
        match self.client.delete_article(request).await {
            Ok(response) if response.deleted => Ok(Ok(Written::Deleted(unknown_head(key)))),
            Ok(_) => Err("a deletion that may not miss anything says that it deleted nothing".to_owned()),
            Err(error) => refusal(error).map(Err),
        }
    }

    async fn put_many(&self, articles: Vec<Article>) -> Result<Vec<PutOutcome>, String> {
        let articles = articles.into_iter().map(|article| to_wire(ArticleDraft::from(article))).collect();
        match self.writes {
            Writes::Message => {
                let results = self.client.batch_ingest_articles(articles).await.map_err(text)?;
                results.iter().map(|result| put_outcome(result.outcome(), &result.etag)).collect()
            }
            Writes::Stream => self.ingest(articles).await,
        }
    }

    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, String> {
        self.get(v1::get_article_request::Target::Key(key_to_wire(key))).await
    }

    async fn latest_article(&self, url: &str) -> Result<Option<StoredArticle>, String> {
        self.get(v1::get_article_request::Target::Url(url.to_owned())).await
    }

    async fn article_dates(&self, url: &str) -> Result<Vec<ArticleDate>, String> {
        let resolved = self.client.resolve_url(url).await.map_err(text)?;
        let expected = parse_url(url)?;
        agree("canonical URL", &resolved.canonical_url, &expected.to_string())?;
        agree("URL key", resolved.url_key.as_str(), expected.key())?;
        agree("host", &resolved.host, &expected.host())?;
        resolved.dates.iter().map(|date| parse_date(date)).collect()
    }

    async fn articles(&self, keys: &[ArticleKey]) -> Result<Vec<Option<StoredArticle>>, String> {
        use v1::lookup_result::Result as Found;
        let mut articles = Vec::with_capacity(keys.len());
        for keys in keys.chunks(LOOKUP_KEYS) {
            let request = v1::LookupArticlesRequest { keys: keys.iter().map(key_to_wire).collect(), read_mask: None };
            for result in self.client.lookup_articles(request).await.map_err(text)? {
                articles.push(match result.result {
                    Some(Found::Article(article)) => Some(stored(article)?),
                    Some(Found::Error(error)) if error.reason == "ARTICLE_NOT_FOUND" => None,
                    other => return Err(format!("a lookup has the result {other:?}")),
                });
            }
        }
        Ok(articles)
    }

    async fn scan(&self, filter: &Filter, direction: Direction, page_size: usize) -> Result<Vec<StoredArticle>, String> {
        let filter = Some(filter_to_wire(filter)?);
        let order = match direction {
            Direction::Ascending => v1::SortOrder::Ascending,
            Direction::Descending => v1::SortOrder::Descending,
        };
        let articles = match self.scans {
            Scans::Pages => self.list(v1::ListArticlesRequest { filter, order: order.into(), ..Default::default() }, page_size).await?,
            Scans::Stream => self.stream(v1::StreamArticlesRequest { filter, order: order.into(), ..Default::default() }).await?,
        };
        articles.into_iter().map(stored).collect()
    }

    async fn count(&self, filter: &Filter, group_by: GroupKind, page_size: usize) -> Result<Vec<(String, u64)>, String> {
        let group_by = match group_by {
            GroupKind::Total => v1::CountGroup::Unspecified,
            GroupKind::Day => v1::CountGroup::Day,
            GroupKind::Host => v1::CountGroup::Host,
        };
        let mut counts = Vec::new();
        let mut request = v1::CountArticlesRequest {
            filter: Some(filter_to_wire(filter)?),
            group_by: group_by.into(),
            page_size: wire_size(page_size)?,
            ..Default::default()
        };
        loop {
            let page = self.client.count_articles(request.clone()).await.map_err(text)?;
            if page.counts.len() > page_size {
                return Err(format!("a page of at most {page_size} groups has {}", page.counts.len()));
            }
            for counted in page.counts {
                let name = match counted.group {
                    None => String::new(),
                    Some(v1::article_count::Group::Date(name) | v1::article_count::Group::Host(name)) => name,
                };
                counts.push((name, number(counted.article_count)?));
            }
            if !next_page(&mut request.page_token, page.next_page_token)? {
                return Ok(counts);
            }
        }
    }
}

impl Remote {
    async fn get(&self, target: v1::get_article_request::Target) -> Result<Option<StoredArticle>, String> {
        match self.client.get_article(v1::GetArticleRequest { target: Some(target), ..Default::default() }).await {
            Ok(article) => stored(article).map(Some),
            Err(error) if error.reason == "ARTICLE_NOT_FOUND" => Ok(None),
            Err(error) => Err(text(error)),
        }
    }

    async fn list(&self, mut request: v1::ListArticlesRequest, page_size: usize) -> Result<Vec<v1::Article>, String> {
        let mut articles = Vec::new();
        request.page_size = wire_size(page_size)?;
        loop {
            let page = self.client.list_articles(request.clone()).await.map_err(text)?;
            if page.articles.len() > page_size {
                return Err(format!("a page of at most {page_size} articles has {}", page.articles.len()));
            }
            articles.extend(page.articles);
            if !next_page(&mut request.page_token, page.next_page_token)? {
                return Ok(articles);
            }
        }
    }

    async fn stream(&self, request: v1::StreamArticlesRequest) -> Result<Vec<v1::Article>, String> {
        let mut stream = self.client.stream_articles(request).await.map_err(text)?;
        let mut articles = Vec::new();
        while let Some(article) = stream.next().await.map_err(text)? {
            articles.push(article);
        }
        Ok(articles)
    }

    /// Sends a batch as one ingest stream from its opening to its commit.
    async fn ingest(&self, articles: Vec<v1::Article>) -> Result<Vec<PutOutcome>, String> {
        static STREAMS: AtomicU64 = AtomicU64::new(0);
        let id = format!("contract-{}", STREAMS.fetch_add(1, Ordering::Relaxed));
        let (mut sender, mut receiver, opened) = self.client.ingest(&id, true).await.map_err(text)?;
        agree("first item of a new stream", &opened.next_item, &0)?;
        let count = articles.len() as i64;
        let send = async move {
            for (first_item, articles) in (0..).step_by(MESSAGE_ITEMS).zip(articles.chunks(MESSAGE_ITEMS)) {
                sender.send(first_item, articles.to_vec()).await?;
            }
            sender.commit(count).await
        };
        let receive = async {
            let mut outcomes: Vec<PutOutcome> = Vec::new();
            loop {
                match receiver.next().await.map_err(text)? {
                    Some(IngestEvent::Ack(ack)) => {
                        for outcome in ack.outcomes {
                            agree("number of an item", &outcome.item, &(outcomes.len() as i64))?;
                            outcomes.push(put_outcome(outcome.outcome(), &outcome.etag)?);
                        }
                        agree("next item", &ack.next_item, &(outcomes.len() as i64))?;
                    }
                    Some(IngestEvent::Committed(committed)) => {
                        agree("number of items", &committed.item_count, &count)?;
                        agree("counts of a stream", &committed.counts, &Some(counts(&outcomes)))?;
                        return Ok(outcomes);
                    }
                    None => return Err("an ingest stream ended without its commit".to_owned()),
                }
            }
        };
        let (sent, received) = tokio::join!(send, receive);
        // Where the server ended the stream, the receiving side knows why.
        let outcomes = received?;
        sent.map_err(text)?;
        Ok(outcomes)
    }
}

fn text(error: ClientError) -> String {
    error.to_string()
}

/// The refusal that an error of a write stands for; any other error is a failure of the call.
fn refusal(error: ClientError) -> Result<WriteRefusal, String> {
    match error.reason.as_str() {
        "ARTICLE_ALREADY_EXISTS" => Ok(WriteRefusal::AlreadyExists),
        "ETAG_MISMATCH" => Ok(WriteRefusal::EtagMismatch),
        "ARTICLE_NOT_FOUND" => Ok(WriteRefusal::NotFound),
        "RECORD_DAMAGED" => Ok(WriteRefusal::Damaged),
        _ => Err(text(error)),
    }
}

fn put_outcome(outcome: v1::Outcome, etag: &str) -> Result<PutOutcome, String> {
    let etag: Result<Etag, String> = etag.parse().map_err(|error| format!("the etag {etag:?} {error}"));
    match outcome {
        v1::Outcome::Created => etag.map(PutOutcome::Created),
        v1::Outcome::Updated => etag.map(PutOutcome::Updated),
        v1::Outcome::Unchanged => etag.map(PutOutcome::Unchanged),
        other => Err(format!("a put of a batch has the outcome {other:?}")),
    }
}

fn counts(outcomes: &[PutOutcome]) -> v1::OutcomeCounts {
    let mut counts = v1::OutcomeCounts::default();
    for outcome in outcomes {
        match outcome {
            PutOutcome::Created(_) => counts.created += 1,
            PutOutcome::Updated(_) => counts.updated += 1,
            PutOutcome::Unchanged(_) => counts.unchanged += 1,
        }
    }
    counts
}

fn stored(wire: v1::Article) -> Result<StoredArticle, String> {
    let head = head(&wire)?;
    let limits = Limits { horizon: DateHorizon::Unlimited, ..Limits::default() };
    let article = from_wire(wire).and_then(|draft| draft.validate(&limits));
    let article = article.map_err(|violations| format!("the server gave an article that is none: {violations:?}"))?;
    agree("key", article.key(), &head.key)?;
    Ok(StoredArticle { head, article })
}

fn head(wire: &v1::Article) -> Result<ArticleHead, String> {
    let time = |name: &str, found: Option<prost_types::Timestamp>| {
        let time = found.ok_or_else(|| format!("{name} is missing"))?;
        Timestamp::from_parts(time.seconds, time.nanos).map_err(|error| format!("{name} {error}"))
    };
    let head = ArticleHead {
        key: ArticleKey { date: parse_date(&wire.date)?, url: parse_url(&wire.canonical_url)? },
        revision: number(wire.revision)?,
        digest: Digest::from_hex(&wire.digest).ok_or_else(|| format!("{:?} is no digest", wire.digest))?,
        create_time: time("create_time", wire.create_time)?,
        update_time: time("update_time", wire.update_time)?,
        // The wire carries neither, and the suite looks at neither.
        sequence: 0,
        text_bytes: 0,
    };
    agree("canonical URL", &head.key.url.to_string(), &wire.canonical_url)?;
    agree("host", &head.key.url.host(), &wire.host)?;
    agree("etag", &head.etag().to_string(), &wire.etag)?;
    Ok(head)
}

/// The head of an article that was deleted, of which the wire tells nothing and the suite wants to know nothing.
fn unknown_head(key: ArticleKey) -> ArticleHead {
    let now = Timestamp::now();
    let digest = Digest::from_bytes([0; 32]);
    ArticleHead { key, revision: 0, digest, sequence: 0, create_time: now, update_time: now, text_bytes: 0 }
}

fn agree<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

fn parse_url(url: &str) -> Result<CanonicalUrl, String> {
    CanonicalUrl::parse(url).map_err(|error| format!("the URL {url:?} {error}"))
}

fn parse_date(date: &str) -> Result<ArticleDate, String> {
    date.parse().map_err(|error| format!("the date {date:?} {error}"))
}

fn number(number: i64) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("{number} is negative"))
}

fn wire_size(page_size: usize) -> Result<i32, String> {
    i32::try_from(page_size).map_err(|_| format!("a page of {page_size} is too large for the wire"))
}

fn key_to_wire(key: &ArticleKey) -> v1::ArticleKey {
    v1::ArticleKey { date: key.date.to_string(), url: key.url.to_string() }
}

/// The filter as a client would write it. Ends of the calendar are left out: there the wire's defaults stand for them.
fn filter_to_wire(filter: &Filter) -> Result<v1::ArticleFilter, String> {
    let date = |date: ArticleDate, default: ArticleDate| if date == default { String::new() } else { date.to_string() };
    Ok(v1::ArticleFilter {
        start_date: date(filter.dates.from, ArticleDate::MIN),
        end_date: date(filter.dates.to, ArticleDate::MAX),
        scope: scope_to_wire(&filter.scope)?,
    })
}

fn scope_to_wire(scope: &UrlScope) -> Result<Option<v1::article_filter::Scope>, String> {
    use v1::article_filter::Scope;
    // A scope remembers no more than the beginning of a key: made a whole key, that is a URL again.
    let url = |end: &str| {
        let key = format!("{}{end}", scope.key_prefix());
        CanonicalUrl::from_key(&key).ok_or_else(|| format!("{key:?} is no URL key"))
    };
    let (written, read) = match scope {
        UrlScope::All => return Ok(None),
        UrlScope::Host(_) => {
            let host = url("/")?.host();
            (Scope::Host(host.clone()), UrlScope::host(&host))
        }
        UrlScope::Domain(_) => {
            // Of an address the parenthesis belongs to the scope already.
            let domain = url(if scope.key_prefix().ends_with(')') { "/" } else { ")/" })?.host();
            (Scope::Domain(domain.clone()), UrlScope::domain(&domain))
        }
        UrlScope::Prefix(_) => {
            let prefix = url("")?.to_string();
            (Scope::UrlPrefix(prefix.clone()), UrlScope::url_prefix(&prefix))
        }
    };
    agree("scope", &read, &Ok(scope.clone()))?;
    Ok(Some(written))
}

/// Turns the page, where there is a next one.
fn next_page(token: &mut String, next: String) -> Result<bool, String> {
    if !next.is_empty() && next == *token {
        return Err(format!("the page after {next} is itself"));
    }
    *token = next;
    Ok(!token.is_empty())
}
