//! What the checks are made of: articles at places of their own, and comparisons that say what was promised.

use std::fmt::{Debug, Display};
use std::sync::atomic::{AtomicU16, Ordering};

use super::{Subject, Violation};
use crate::article::{
    Article, ArticleDate, ArticleDraft, ArticleHead, ArticleKey, CanonicalUrl, DateRange, Filter, Limits, StoredArticle, UrlScope,
};
use crate::storage::{ArticleStore, Precondition, StoreId, Write, WriteBatch, WriteOutcome, Written};

/// As much of a value as a message shows.
const SHOWN_CHARS: usize = 600;

impl Violation {
    /// This promise was broken, and here is with what.
    pub fn new(promise: &str, found: impl Display) -> Self {
        let found = found.to_string();
        let shown = match found.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => format!("{} ... ({} bytes)", &found[..end], found.len()),
            None => found,
        };
        Self { promise: promise.to_owned(), found: shown }
    }
}

/// Makes a violation of every other way to fail.
pub trait OrViolation<T> {
    /// The value; the failure breaks this promise.
    fn or_violation(self, promise: &str) -> Result<T, Violation>;
}

impl<T, E: Display> OrViolation<T> for Result<T, E> {
    fn or_violation(self, promise: &str) -> Result<T, Violation> {
        self.map_err(|error| Violation::new(promise, format!("it failed: {error}")))
    }
}

/// Checks that a promise holds.
pub fn holds(promise: &str, holds: bool, found: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(promise, found())) }
}

/// Checks that what was found is what was promised.
pub fn same<T: PartialEq + Debug + ?Sized>(promise: &str, found: &T, expected: &T) -> Result<(), Violation> {
    holds(promise, found == expected, || {
        let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
        let alike = found.chars().zip(expected.chars()).take_while(|(found, expected)| found == expected).count();
        format!("found {}, expected {}", shown(&found, alike), shown(&expected, alike))
    })
}

/// What of a long text matters: from shortly before the place where it differs.
fn shown(text: &str, alike: usize) -> String {
    let skipped = alike.saturating_sub(80);
    let part: String = text.chars().skip(skipped).take(SHOWN_CHARS / 3).collect();
    let (before, after) = (if skipped > 0 { "..." } else { "" }, if skipped + SHOWN_CHARS / 3 < text.chars().count() { "..." } else { "" });
    format!("{before}{part}{after}")
}

/// Checks that two heads agree in everything that the wire carries.
pub fn same_head(promise: &str, found: &ArticleHead, expected: &ArticleHead) -> Result<(), Violation> {
    same(promise, &found.key, &expected.key)?;
    let parts = |head: &ArticleHead| (head.revision, head.digest, head.create_time, head.update_time);
    same(&format!("{promise}, {}", expected.key), &parts(found), &parts(expected))
}

/// Checks that an article was found, and is this one byte for byte.
pub fn same_article(promise: &str, found: Option<&StoredArticle>, article: &Article, head: &ArticleHead) -> Result<(), Violation> {
    let Some(found) = found else { return Err(Violation::new(promise, format!("{} was not found", article.key()))) };
    same_head(promise, &found.head, head)?;
    let promise = format!("{promise}, {}", article.key());
    same(&promise, found.article.key(), article.key())?;
    same(&promise, found.article.url(), article.url())?;
    let texts = |article: &Article| {
        [("title", article.title().to_owned()), ("lead", article.lead().to_owned()), ("body", article.body().to_owned())]
    };
    for ((field, found), (_, expected)) in texts(&found.article).into_iter().zip(texts(article)) {
        holds(&promise, found == expected, || {
            let at = found.bytes().zip(expected.bytes()).take_while(|(found, expected)| found == expected).count();
            format!("the {field} has {} bytes, expected {}, and differs from byte {at}", found.len(), expected.len())
        })?;
    }
    same(&promise, found.article.metadata(), article.metadata())
}

/// Checks that a list of articles is this one, in this order.
pub fn same_articles(promise: &str, found: &[StoredArticle], expected: &[(Article, ArticleHead)]) -> Result<(), Violation> {
    let found_keys: Vec<_> = found.iter().map(|found| found.article.key()).collect();
    let expected_keys: Vec<_> = expected.iter().map(|(article, _)| article.key()).collect();
    holds(promise, found_keys == expected_keys, || {
        let at = found_keys.iter().zip(&expected_keys).take_while(|(found, expected)| found == expected).count();
        let (length, expected) = (found_keys.len(), expected_keys.len());
        format!(
            "found {length} articles, expected {expected}; number {at} is {:?}, expected {:?}",
            found_keys.get(at),
            expected_keys.get(at)
        )
    })?;
    found.iter().zip(expected).try_for_each(|(found, (article, head))| same_article(promise, Some(found), article, head))
}

/// The years that sites of this process were given so far: no two sites share one, so that a check may scan a whole year.
static YEARS: AtomicU16 = AtomicU16::new(0);

/// A host that no other check and no other run has, and a year that no other check of this process has.
pub struct Site {
    host: String,
    year: u16,
}

impl Site {
    /// A new one.
    pub fn new() -> Result<Self, Violation> {
        let id = StoreId::random().or_violation("a random name for the check")?;
        let label: String = id.to_string().chars().take(16).collect();
        Ok(Self { host: format!("c{label}.contract.example"), year: 1600 + YEARS.fetch_add(1, Ordering::Relaxed) % 400 })
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A date of the site's year: `date("05-01")`.
    pub fn date(&self, month_and_day: &str) -> String {
        format!("{}-{month_and_day}", self.year)
    }

    /// The URL of a path: `url("/a")`.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host)
    }

    /// The site with all its subdomains and ports, under every date.
    pub fn filter(&self) -> Result<Filter, Violation> {
        let scope = UrlScope::domain(&self.host).or_violation("the host of the check is one")?;
        Ok(Filter { dates: DateRange::ALL, scope })
    }

    /// An article to be changed before it is checked.
    pub fn draft(&self, path: &str, body: &str) -> ArticleDraft {
        ArticleDraft {
            date: self.date("05-01"),
            url: self.url(path),
            title: "A title".to_owned(),
            body: body.to_owned(),
            ..ArticleDraft::default()
        }
    }

    /// An article of the first of May.
    pub fn article(&self, path: &str, body: &str) -> Result<Article, Violation> {
        valid(self.draft(path, body))
    }

    /// An article of another day.
    pub fn article_of(&self, month_and_day: &str, path: &str, body: &str) -> Result<Article, Violation> {
        valid(ArticleDraft { date: self.date(month_and_day), ..self.draft(path, body) })
    }
}

/// The draft as an article.
pub fn valid(draft: ArticleDraft) -> Result<Article, Violation> {
    let joined =
        |violations: Vec<crate::article::FieldViolation>| violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    draft.validate(&Limits::default()).map_err(joined).or_violation("the article of the check is valid")
}

/// The date in a text.
pub fn date(text: &str) -> Result<ArticleDate, Violation> {
    text.parse().or_violation("the date of the check is one")
}

/// The URL in a text.
pub fn url(text: &str) -> Result<CanonicalUrl, Violation> {
    CanonicalUrl::parse(text).or_violation("the URL of the check is one")
}

/// Stores an article that is not there yet, and reads it back.
pub async fn create(subject: &dyn Subject, article: &Article) -> Result<ArticleHead, Violation> {
    let promise = "an article that is not there is Created";
    match subject.put(article.clone(), Precondition::None).await.or_violation(promise)? {
        Ok(Written::Created(head)) => stored_as(subject, "a created article is there", article, head).await,
        other => Err(unexpected(promise, article.key(), &other)),
    }
}

/// Stores an article over another content, and reads it back.
pub async fn update(subject: &dyn Subject, article: &Article) -> Result<ArticleHead, Violation> {
    let promise = "an article with another content is Updated";
    match subject.put(article.clone(), Precondition::None).await.or_violation(promise)? {
        Ok(Written::Updated(head)) => stored_as(subject, "an updated article is there", article, head).await,
        other => Err(unexpected(promise, article.key(), &other)),
    }
}

/// Deletes an article that is there, and finds nothing afterwards.
pub async fn delete(subject: &dyn Subject, key: &ArticleKey) -> Result<(), Violation> {
    let promise = "an article that is there is Deleted";
    match subject.delete(key.clone(), Precondition::None).await.or_violation(promise)? {
        Ok(Written::Deleted(_)) => missing(subject, "a deleted article is gone", key).await,
        other => Err(unexpected(promise, key, &other)),
    }
}

/// Checks that there is no article under a key.
pub async fn missing(subject: &dyn Subject, promise: &str, key: &ArticleKey) -> Result<(), Violation> {
    let found = subject.article(key).await.or_violation(promise)?;
    holds(promise, found.is_none(), || format!("{key} was found"))
}

/// Checks that the article is there just as it was put, and that its head speaks of it.
pub async fn stored_as(subject: &dyn Subject, promise: &str, article: &Article, head: ArticleHead) -> Result<ArticleHead, Violation> {
    same("a head has the key of its article", &head.key, article.key())?;
    same("a head has the digest of its article", &head.digest, &article.digest())?;
    let found = subject.article(article.key()).await.or_violation(promise)?;
    same_article(promise, found.as_ref(), article, &head)?;
    Ok(head)
}

/// The violation of an outcome that was not promised.
pub fn unexpected(promise: &str, key: &ArticleKey, outcome: &WriteOutcome) -> Violation {
    Violation::new(promise, format!("the outcome for {key} was {outcome:?}"))
}

/// A batch of these writes, of no stream.
pub fn batch(writes: impl IntoIterator<Item = Write>) -> WriteBatch {
    WriteBatch { writes: writes.into_iter().collect(), stream: None }
}

/// The last change, once readers see everything that was acknowledged: an engine that acknowledges early has them wait.
pub async fn sequence(store: &dyn ArticleStore) -> Result<u64, Violation> {
    let told = store.stats().await.or_violation("a store tells what it holds")?.contents.last_sequence;
    let sequence = store.sequence();
    holds("readers see every change that a store counts", sequence >= told, || format!("{sequence}, and {told} are counted"))?;
    Ok(sequence)
}

/// Text that no compressor makes much smaller: the same for the same seed. Of its characters each says 6.55 bits.
pub fn incompressible(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 94) as u8)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
