//! Drafts: articles as clients and files state them, and the one place where they are checked.

use std::collections::BTreeMap;
use std::fmt;

use super::model::KnownDigest;
use super::{Article, ArticleDate, ArticleKey, CanonicalUrl, DateHorizon, Limits, Metadata, Timestamp};

/// An article as somebody states it, not checked yet. Empty strings are fields that are not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArticleDraft {
    /// The publication date, `YYYY-MM-DD`. Required.
    pub date: String,
    /// The URL as given. Required.
    pub url: String,
    /// The title. Title and body may not both be empty.
    pub title: String,
    /// The lead.
    pub lead: String,
    /// The body.
    pub body: String,
    /// When the source published the article.
    pub publish_time: Option<Timestamp>,
    /// When the source last changed it.
    pub modify_time: Option<Timestamp>,
    /// When it was fetched.
    pub crawl_time: Option<Timestamp>,
    /// The authors.
    pub authors: Vec<String>,
    /// The keywords.
    pub keywords: Vec<String>,
    /// The section.
    pub section: String,
    /// The language.
    pub language: String,
    /// The publisher.
    pub publisher: String,
    /// Whatever else is kept with the article.
    pub annotations: BTreeMap<String, String>,
}

/// What is wrong with a field of a request or of an article, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path, as in the proto: `date`, `article.url`, `annotations`.
    pub field: String,
    /// The stable reason that programs match on.
    pub reason: Reason,
    /// A sentence for people. Holds no text of the article.
    pub description: String,
}

/// The stable reasons why a field is refused. Written in UPPER_SNAKE_CASE on the wire and in the output of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field that must be set is not.
    Required,
    /// The date is no date, or outside the years 1600 to 9999.
    InvalidDate,
    /// The date lies further ahead than the server accepts.
    DateTooFarAhead,
    /// The URL cannot be parsed.
    InvalidUrl,
    /// The URL's scheme is neither http nor https.
    UnsupportedUrlScheme,
    /// The URL is longer than the limit.
    UrlTooLong,
    /// Title and body are both empty.
    ArticleEmpty,
    /// The article is larger than the limit.
    ArticleTooLarge,
    /// A list or map holds more than the limit.
    TooManyItems,
    /// An annotation's name is empty or too long.
    InvalidAnnotationName,
    /// An instant is out of range.
    InvalidTimestamp,
    /// A mask names a field that there is not, or that may not be named here.
    InvalidFieldMask,
    /// A filter contradicts itself or cannot be parsed.
    InvalidFilter,
    /// A number or an enum value is out of range.
    InvalidArgument,
    /// An etag is not one that the server gave.
    InvalidEtag,
    /// A page token or resume token is not one that the server gave.
    InvalidToken,
}

impl Reason {
    const ALL: [Self; 16] = [
        Self::Required,
        Self::InvalidDate,
        Self::DateTooFarAhead,
        Self::InvalidUrl,
        Self::UnsupportedUrlScheme,
        Self::UrlTooLong,
        Self::ArticleEmpty,
        Self::ArticleTooLarge,
        Self::TooManyItems,
        Self::InvalidAnnotationName,
        Self::InvalidTimestamp,
        Self::InvalidFieldMask,
        Self::InvalidFilter,
        Self::InvalidArgument,
        Self::InvalidEtag,
        Self::InvalidToken,
    ];

    /// The reason that programs see as this; `None` where there is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// The reason as programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "REQUIRED_FIELD_MISSING",
            Self::InvalidDate => "INVALID_DATE",
            Self::DateTooFarAhead => "DATE_TOO_FAR_AHEAD",
            Self::InvalidUrl => "INVALID_URL",
            Self::UnsupportedUrlScheme => "UNSUPPORTED_URL_SCHEME",
            Self::UrlTooLong => "URL_TOO_LONG",
            Self::ArticleEmpty => "ARTICLE_EMPTY",
            Self::ArticleTooLarge => "ARTICLE_TOO_LARGE",
            Self::TooManyItems => "TOO_MANY_ITEMS",
            Self::InvalidAnnotationName => "INVALID_ANNOTATION_NAME",
            Self::InvalidTimestamp => "INVALID_TIMESTAMP",
            Self::InvalidFieldMask => "INVALID_FIELD_MASK",
            Self::InvalidFilter => "INVALID_FILTER",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::InvalidEtag => "INVALID_ETAG",
            Self::InvalidToken => "INVALID_TOKEN",
        }
    }
}

impl FieldViolation {
    /// A violation of `field`; the description goes on where the field's name ends ("is empty").
    pub fn new(field: impl Into<String>, reason: Reason, description: impl Into<String>) -> Self {
        Self { field: field.into(), reason, description: description.into() }
    }

    /// The same violation of a field that lies inside `parent`.
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), ..self }
    }
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.description)
    }
}

impl ArticleDraft {
    /// Checks everything there is to check about an article and parses its key.
    ///
    /// # Errors
    /// Every violation found, in the order of the fields, at least one.
    pub fn validate(self, limits: &Limits) -> Result<Article, Vec<FieldViolation>> {
        let mut violations = Vec::new();
        let date = parse_date("date", &self.date, limits.horizon).map_err(|violation| violations.push(violation)).ok();
        let url = parse_url("url", &self.url, limits).map_err(|violation| violations.push(violation)).ok();
        if self.title.is_empty() && self.body.is_empty() {
            violations.push(FieldViolation::new("title", Reason::ArticleEmpty, "and body are both empty: an article needs one of them"));
        }
        for (field, count) in [("authors", self.authors.len()), ("keywords", self.keywords.len()), ("annotations", self.annotations.len())]
        {
            if count > limits.list_items {
                let description = format!("holds {count} items: the limit is {}", limits.list_items);
                violations.push(FieldViolation::new(field, Reason::TooManyItems, description));
            }
        }
        if self.annotations.keys().any(|name| name.is_empty() || name.len() > limits.annotation_name_bytes) {
            let description = format!("has a name that is empty or longer than {} bytes", limits.annotation_name_bytes);
            violations.push(FieldViolation::new("annotations", Reason::InvalidAnnotationName, description));
        }
        let (Some(date), Some(url)) = (date, url) else { return Err(violations) };
        let article = Article {
            key: ArticleKey { date, url },
            url: self.url,
            title: self.title,
            lead: self.lead,
            body: self.body,
            metadata: Metadata {
                publish_time: self.publish_time,
                modify_time: self.modify_time,
                crawl_time: self.crawl_time,
                authors: self.authors,
                keywords: self.keywords,
                section: self.section,
                language: self.language,
                publisher: self.publisher,
                annotations: self.annotations,
            },
            digest: KnownDigest::default(),
        };
        if article.size() > limits.article_bytes {
            let description = format!("and the other fields hold {} bytes together: the limit is {}", article.size(), limits.article_bytes);
            violations.push(FieldViolation::new("body", Reason::ArticleTooLarge, description));
        }
        if violations.is_empty() { Ok(article) } else { Err(violations) }
    }
}

impl From<Article> for ArticleDraft {
    fn from(article: Article) -> Self {
        let Article { key, url, title, lead, body, metadata, digest: _ } = article;
        let Metadata { publish_time, modify_time, crawl_time, authors, keywords, section, language, publisher, annotations } = metadata;
        let date = key.date.to_string();
        Self {
            date,
            url,
            title,
            lead,
            body,
            publish_time,
            modify_time,
            crawl_time,
            authors,
            keywords,
            section,
            language,
            publisher,
            annotations,
        }
    }
}

/// Parses the publication date in `field`, which may lie at most so far ahead.
///
/// # Errors
/// A violation of `field` with the reason.
pub fn parse_date(field: &str, text: &str, horizon: DateHorizon) -> Result<ArticleDate, FieldViolation> {
    let violation = |reason, description: String| FieldViolation::new(field, reason, description);
    if text.is_empty() {
        return Err(violation(Reason::Required, "is missing: give the publication date, YYYY-MM-DD".into()));
    }
    let date: ArticleDate = text.parse().map_err(|error: super::DateError| violation(Reason::InvalidDate, error.to_string()))?;
    match horizon {
        DateHorizon::Days(_) if date > horizon.last_date() => {
            let description = format!("lies after {}, the last date that is accepted today", horizon.last_date());
            Err(violation(Reason::DateTooFarAhead, description))
        }
        DateHorizon::Days(_) | DateHorizon::Unlimited => Ok(date),
    }
}

/// Parses the URL in `field` under these limits.
///
/// # Errors
/// A violation of `field` with the reason.
pub fn parse_url(field: &str, text: &str, limits: &Limits) -> Result<CanonicalUrl, FieldViolation> {
    use super::UrlError;
    let violation = |reason, description: String| FieldViolation::new(field, reason, description);
    if text.is_empty() {
        return Err(violation(Reason::Required, "is missing: give the article's URL".into()));
    }
    if text.len() > limits.url_bytes {
        return Err(violation(Reason::UrlTooLong, format!("is {} bytes long: the limit is {}", text.len(), limits.url_bytes)));
    }
    CanonicalUrl::parse(text).map_err(|error| {
        let reason = match error {
            UrlError::Unparsable(_) => Reason::InvalidUrl,
            UrlError::Scheme => Reason::UnsupportedUrlScheme,
            UrlError::TooLong { .. } => Reason::UrlTooLong,
        };
        violation(reason, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::super::DateHorizon;
    use super::*;

    fn draft() -> ArticleDraft {
        ArticleDraft { date: "2024-05-01".into(), url: "https://example.com/a".into(), title: "T".into(), ..ArticleDraft::default() }
    }

    fn reasons(draft: ArticleDraft, limits: &Limits) -> Vec<(String, Reason)> {
        draft.validate(limits).unwrap_err().into_iter().map(|violation| (violation.field, violation.reason)).collect()
    }

    #[test]
    fn every_violation_is_named_at_once() {
        let bad = ArticleDraft { date: "0201-01-01".into(), url: "ftp://example.com/".into(), ..ArticleDraft::default() };
        let found = reasons(bad, &Limits::default());
        let expected = [("date", Reason::InvalidDate), ("url", Reason::UnsupportedUrlScheme), ("title", Reason::ArticleEmpty)];
        assert_eq!(found, expected.map(|(field, reason)| (field.to_string(), reason)));
        let missing = reasons(ArticleDraft { title: "T".into(), ..ArticleDraft::default() }, &Limits::default());
        assert_eq!(missing, [("date".to_string(), Reason::Required), ("url".to_string(), Reason::Required)]);
    }

    #[test]
    fn empty_title_or_body_is_an_article_but_not_both() {
        assert!(draft().validate(&Limits::default()).is_ok());
        assert!(ArticleDraft { title: String::new(), body: "B".into(), ..draft() }.validate(&Limits::default()).is_ok());
        let only_lead = ArticleDraft { title: String::new(), lead: "L".into(), ..draft() };
        assert_eq!(reasons(only_lead, &Limits::default()), [("title".to_string(), Reason::ArticleEmpty)]);
    }

    #[test]
    fn the_size_limit_counts_every_string_and_lets_exactly_the_limit_in() {
        let body = |bytes: usize| ArticleDraft { body: "x".repeat(bytes), ..draft() };
        let limits = Limits { article_bytes: 1000, ..Limits::default() };
        let rest = draft().url.len() + draft().title.len();
        assert_eq!(body(1000 - rest).validate(&limits).unwrap().size(), 1000);
        assert_eq!(reasons(body(1001 - rest), &limits), [("body".to_string(), Reason::ArticleTooLarge)]);
    }

    #[test]
    fn dates_far_ahead_are_refused_unless_told_otherwise() {
        let ahead = ArticleDraft { date: ArticleDate::today().saturating_add_days(91).to_string(), ..draft() };
        assert_eq!(reasons(ahead.clone(), &Limits::default()), [("date".to_string(), Reason::DateTooFarAhead)]);
        assert!(ahead.validate(&Limits { horizon: DateHorizon::Unlimited, ..Limits::default() }).is_ok());
        let edge = ArticleDraft { date: ArticleDate::today().saturating_add_days(89).to_string(), ..draft() };
        assert!(edge.validate(&Limits::default()).is_ok());
    }

    #[test]
    fn a_draft_comes_back_from_its_article() {
        let draft = ArticleDraft { authors: vec!["A".into()], annotations: [("k".into(), "v".into())].into(), ..draft() };
        assert_eq!(ArticleDraft::from(draft.clone().validate(&Limits::default()).unwrap()), draft);
    }
}
