//! Between messages and the domain, and nothing else.

use crate::article::url::CanonicalUrl;
use crate::article::{
    ArticleDate, ArticleDraft, ArticleHead, ArticleKey, DateHorizon, DateRange, Field, FieldAccess, FieldSet, FieldViolation, Filter,
    Limits, Reason, StoredArticle, Timestamp, UrlScope, parse_date, parse_url,
};
use crate::storage::{Change, ChangeKind, Direction, OutcomeCounts, Rejection, RejectionCause, WriteOutcome, WriteRefusal, Written};

use super::status::ApiError;
use super::v1;

/// An article message as a draft. Output-only fields are dropped.
///
/// # Errors
/// Where an instant is out of range.
pub fn draft_from_wire(article: v1::Article) -> Result<ArticleDraft, Vec<FieldViolation>> {
    let mut violations = Vec::new();
    let mut time = |field: &str, time: Option<prost_types::Timestamp>| {
        let time = time.map(|time| Timestamp::from_parts(time.seconds, time.nanos));
        time.transpose()
            .map_err(|error| violations.push(FieldViolation::new(field, Reason::InvalidTimestamp, error.to_string())))
            .ok()
            .flatten()
    };
    let draft = ArticleDraft {
        publish_time: time("publish_time", article.publish_time),
        modify_time: time("modify_time", article.modify_time),
        crawl_time: time("crawl_time", article.crawl_time),
        date: article.date,
        url: article.url,
        title: article.title,
        lead: article.lead,
        body: article.body,
        authors: article.authors,
        keywords: article.keywords,
        section: article.section,
        language: article.language,
        publisher: article.publisher,
        annotations: article.annotations,
    };
    if violations.is_empty() { Ok(draft) } else { Err(violations) }
}

/// A draft as a message.
pub fn draft_to_wire(draft: ArticleDraft) -> v1::Article {
    v1::Article {
        publish_time: draft.publish_time.map(time_to_wire),
        modify_time: draft.modify_time.map(time_to_wire),
        crawl_time: draft.crawl_time.map(time_to_wire),
        date: draft.date,
        url: draft.url,
        title: draft.title,
        lead: draft.lead,
        body: draft.body,
        authors: draft.authors,
        keywords: draft.keywords,
        section: draft.section,
        language: draft.language,
        publisher: draft.publisher,
        annotations: draft.annotations,
        ..v1::Article::default()
    }
}

/// The fields of an article that a read mask asks for.
pub fn article_to_wire(stored: StoredArticle, fields: FieldSet) -> v1::Article {
    let StoredArticle { head, article } = stored;
    let mut wire = draft_to_wire(ArticleDraft::from(article));
    if fields != FieldSet::ALL {
        for &field in Field::ALL.iter().filter(|field| !fields.contains(**field)) {
            clear(&mut wire, field);
        }
    }
    set_head(&mut wire, &head, fields);
    wire
}

/// The fields that a head holds and a read mask asks for.
pub fn head_to_wire(head: &ArticleHead, fields: FieldSet) -> v1::Article {
    let mut wire = v1::Article::default();
    if fields.contains(Field::Date) {
        wire.date = head.key.date.to_string();
    }
    set_head(&mut wire, head, fields);
    wire
}

fn set_head(wire: &mut v1::Article, head: &ArticleHead, fields: FieldSet) {
    for &field in Field::ALL.iter().filter(|field| fields.contains(**field)) {
        match field {
            Field::CanonicalUrl => wire.canonical_url = head.key.url.to_string(),
            Field::Host => wire.host = head.key.url.host(),
            Field::Digest => wire.digest = head.digest.to_string(),
            Field::Etag => wire.etag = head.etag().to_string(),
            Field::Revision => wire.revision = head.revision as i64,
            Field::CreateTime => wire.create_time = Some(time_to_wire(head.create_time)),
            Field::UpdateTime => wire.update_time = Some(time_to_wire(head.update_time)),
            _ => {}
        }
    }
}

fn clear(wire: &mut v1::Article, field: Field) {
    match field {
        Field::Url => wire.url.clear(),
        Field::Date => wire.date.clear(),
        Field::Title => wire.title.clear(),
        Field::Lead => wire.lead.clear(),
        Field::Body => wire.body.clear(),
        Field::PublishTime => wire.publish_time = None,
        Field::ModifyTime => wire.modify_time = None,
        Field::CrawlTime => wire.crawl_time = None,
        Field::Authors => wire.authors.clear(),
        Field::Keywords => wire.keywords.clear(),
        Field::Section => wire.section.clear(),
        Field::Language => wire.language.clear(),
        Field::Publisher => wire.publisher.clear(),
        Field::Annotations => wire.annotations.clear(),
        Field::CanonicalUrl | Field::Host | Field::Digest | Field::Etag | Field::Revision | Field::CreateTime | Field::UpdateTime => {}
    }
}

/// Takes over from `update` the fields that an update mask names.
pub fn merge(stored: ArticleDraft, update: ArticleDraft, fields: FieldSet) -> ArticleDraft {
    let mut merged = stored;
    for &field in Field::ALL.iter().filter(|field| fields.contains(**field)) {
        match field {
            Field::Title => merged.title.clone_from(&update.title),
            Field::Lead => merged.lead.clone_from(&update.lead),
            Field::Body => merged.body.clone_from(&update.body),
            Field::PublishTime => merged.publish_time = update.publish_time,
            Field::ModifyTime => merged.modify_time = update.modify_time,
            Field::CrawlTime => merged.crawl_time = update.crawl_time,
            Field::Authors => merged.authors.clone_from(&update.authors),
            Field::Keywords => merged.keywords.clone_from(&update.keywords),
            Field::Section => merged.section.clone_from(&update.section),
            Field::Language => merged.language.clone_from(&update.language),
            Field::Publisher => merged.publisher.clone_from(&update.publisher),
            Field::Annotations => merged.annotations.clone_from(&update.annotations),
            _ => {}
        }
    }
    merged
}

/// An instant as a message.
pub fn time_to_wire(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.parts();
    prost_types::Timestamp { seconds, nanos }
}

/// A change as a message, without its article.
pub fn change_to_wire(change: &Change) -> v1::ArticleChange {
    let kind = match change.kind {
        ChangeKind::Created => v1::ChangeType::Created,
        ChangeKind::Updated => v1::ChangeType::Updated,
        ChangeKind::Deleted => v1::ChangeType::Deleted,
    };
    v1::ArticleChange {
        r#type: kind.into(),
        key: Some(v1::ArticleKey { date: change.key.date.to_string(), url: change.key.url.to_string() }),
        revision: change.revision as i64,
        digest: change.digest.to_string(),
        commit_time: Some(time_to_wire(change.commit_time)),
        article: None,
    }
}

/// The key in `field`.
///
/// # Errors
/// Every violation found.
pub fn key(field: &str, key: Option<&v1::ArticleKey>, limits: &Limits) -> Result<ArticleKey, Vec<FieldViolation>> {
    let Some(key) = key else { return Err(vec![FieldViolation::new(field, Reason::Required, "is missing")]) };
    let date = parse_date(&format!("{field}.date"), &key.date, DateHorizon::Unlimited);
    let url = parse_url(&format!("{field}.url"), &key.url, limits);
    match (date, url) {
        (Ok(date), Ok(url)) => Ok(ArticleKey { date, url }),
        (date, url) => Err([date.err(), url.err()].into_iter().flatten().collect()),
    }
}

/// The URL in `field`.
pub fn url(field: &str, text: &str, limits: &Limits) -> Result<CanonicalUrl, FieldViolation> {
    parse_url(field, text, limits)
}

/// The filter; everything where it is not set.
///
/// # Errors
/// Every violation found.
pub fn filter(filter: Option<&v1::ArticleFilter>) -> Result<Filter, Vec<FieldViolation>> {
    let Some(filter) = filter else { return Ok(Filter::ALL) };
    let mut violations = Vec::new();
    let mut date = |field: &str, text: &str, default: ArticleDate| {
        if text.is_empty() {
            return default;
        }
        parse_date(field, text, DateHorizon::Unlimited).map_err(|violation| violations.push(violation)).unwrap_or(default)
    };
    let from = date("filter.start_date", &filter.start_date, ArticleDate::MIN);
    let to = date("filter.end_date", &filter.end_date, ArticleDate::MAX);
    use v1::article_filter::Scope;
    let (field, scope) = match &filter.scope {
        None => ("", Ok(UrlScope::All)),
        Some(Scope::Host(host)) => ("filter.host", UrlScope::host(host)),
        Some(Scope::Domain(domain)) => ("filter.domain", UrlScope::domain(domain)),
        Some(Scope::UrlPrefix(prefix)) => ("filter.url_prefix", UrlScope::url_prefix(prefix)),
    };
    match scope {
        Ok(scope) if violations.is_empty() => Ok(Filter { dates: DateRange { from, to }, scope }),
        Ok(_) => Err(violations),
        Err(error) => {
            violations.push(FieldViolation::new(field, Reason::InvalidFilter, error.to_string()));
            Err(violations)
        }
    }
}

/// The direction of a scan.
///
/// # Errors
/// Where the number is none of the enum's.
pub fn direction(order: i32) -> Result<Direction, FieldViolation> {
    match v1::SortOrder::try_from(order) {
        Ok(v1::SortOrder::Unspecified | v1::SortOrder::Ascending) => Ok(Direction::Ascending),
        Ok(v1::SortOrder::Descending) => Ok(Direction::Descending),
        Err(_) => Err(FieldViolation::new("order", Reason::InvalidArgument, format!("{order} is no sort order"))),
    }
}

/// A page size between 1 and the maximum.
///
/// # Errors
/// Where the number is negative.
pub fn page_size(size: i32, default: usize, max: usize) -> Result<usize, FieldViolation> {
    match usize::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(FieldViolation::new("page_size", Reason::InvalidArgument, "is negative")),
    }
}

/// The fields of a read mask; all where it is empty or `*`.
///
/// # Errors
/// Where a path is no field of an article.
pub fn read_mask(mask: Option<&prost_types::FieldMask>) -> Result<FieldSet, FieldViolation> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    if paths.is_empty() || paths.iter().any(|path| path == "*") {
        return Ok(FieldSet::ALL);
    }
    paths.iter().map(|path| path.parse::<Field>().map_err(|error| mask_violation("read_mask", path, &error.to_string()))).collect()
}

/// The fields of an update mask; `None` where the article is replaced as a whole (an empty mask or `*`).
///
/// # Errors
/// Where a path is no field, or none that can be updated.
pub fn update_mask(mask: Option<&prost_types::FieldMask>) -> Result<Option<FieldSet>, FieldViolation> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    if paths.is_empty() || paths == ["*"] {
        return Ok(None);
    }
    let field = |path: &String| match path.parse::<Field>() {
        Ok(field) if field.access() == FieldAccess::Client => Ok(field),
        Ok(_) => Err(mask_violation("update_mask", path, "cannot be updated")),
        Err(error) => Err(mask_violation("update_mask", path, &error.to_string())),
    };
    paths.iter().map(field).collect::<Result<FieldSet, _>>().map(Some)
}

fn mask_violation(field: &str, path: &str, what: &str) -> FieldViolation {
    let path: String = path.chars().take(64).collect();
    FieldViolation::new(field, Reason::InvalidFieldMask, format!("names {path:?}, which {what}"))
}

/// The outcome of a write, with the etag that the article has after it.
pub fn outcome(written: &Written) -> (v1::Outcome, String) {
    let outcome = match written {
        Written::Created(_) => v1::Outcome::Created,
        Written::Updated(_) => v1::Outcome::Updated,
        Written::Unchanged(_) => v1::Outcome::Unchanged,
        Written::Deleted(_) => v1::Outcome::Deleted,
    };
    (outcome, written.head().etag().to_string())
}

/// The result of one ingested item.
pub fn ingest_result(outcome_of_write: Result<WriteOutcome, Vec<FieldViolation>>) -> v1::IngestResult {
    let rejected = |error| v1::IngestResult { outcome: v1::Outcome::Rejected.into(), etag: String::new(), error: Some(error) };
    match outcome_of_write {
        Ok(Ok(written)) => {
            let (outcome, etag) = outcome(&written);
            v1::IngestResult { outcome: outcome.into(), etag, error: None }
        }
        // Of an item that deletes: there was nothing to do.
        Ok(Err(WriteRefusal::NotFound)) => v1::IngestResult { outcome: v1::Outcome::Unchanged.into(), ..v1::IngestResult::default() },
        Ok(Err(refusal)) => rejected(refusal_error(refusal)),
        Err(violations) => rejected(item_error(&ApiError::Violations(violations))),
    }
}

/// An item that was rejected earlier.
pub fn rejection(rejection: Rejection) -> v1::ItemOutcome {
    let result = match rejection.cause {
        RejectionCause::Invalid(violations) => ingest_result(Err(violations)),
        RejectionCause::Refused(refusal) => ingest_result(Ok(Err(refusal))),
    };
    item_outcome(rejection.item, result)
}

/// The result of the item with this number.
pub fn item_outcome(item: u64, result: v1::IngestResult) -> v1::ItemOutcome {
    let v1::IngestResult { outcome, etag, error } = result;
    v1::ItemOutcome { item: item as i64, outcome, etag, error }
}

fn refusal_error(refusal: WriteRefusal) -> v1::ItemError {
    let (reason, message) = match refusal {
        WriteRefusal::AlreadyExists => ("ARTICLE_ALREADY_EXISTS", "there is such an article already"),
        WriteRefusal::EtagMismatch => ("ETAG_MISMATCH", "the article was changed by somebody else"),
        WriteRefusal::NotFound => ("ARTICLE_NOT_FOUND", "there is no such article"),
        WriteRefusal::Damaged => ("RECORD_DAMAGED", "what is stored of the article is damaged"),
    };
    v1::ItemError { reason: reason.into(), message: message.into(), fields: Vec::new() }
}

/// An error as an item of several carries it.
pub fn item_error(error: &ApiError) -> v1::ItemError {
    let (_, reason, message) = error.describe();
    let fields = match error {
        ApiError::Violations(violations) => violations
            .iter()
            .map(|violation| v1::FieldError {
                field: violation.field.clone(),
                reason: violation.reason.as_str().into(),
                message: violation.to_string(),
            })
            .collect(),
        _ => Vec::new(),
    };
    v1::ItemError { reason: reason.into(), message, fields }
}

/// Counts as a message.
pub fn counts(counts: OutcomeCounts) -> v1::OutcomeCounts {
    v1::OutcomeCounts {
        created: counts.created as i64,
        updated: counts.updated as i64,
        unchanged: counts.unchanged as i64,
        rejected: counts.rejected as i64,
        deleted: counts.deleted as i64,
    }
}
