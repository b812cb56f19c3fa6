//! Records: the items of a snapshot as bytes, and back. The format's tables stand at the top of the module.

use super::primitives::{Input, put_key, put_number, put_text, time_bytes, utf8};
use crate::article::{ArticleDraft, ArticleHead, DateHorizon, FieldViolation, Limits, Metadata, StoredArticle, Timestamp};
use crate::storage::stream::BookmarkTooLong;
use crate::storage::{Change, ChangeKind, IngestPosition, OutcomeCounts, SnapshotItem, StreamState};

/// What a record is, in the order in which they come. The numbers stand in every backup: never change or reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Article = 1,
    EarlierRevision = 2,
    Tombstone = 3,
    Change = 4,
    Stream = 5,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Article, Self::EarlierRevision, Self::Tombstone, Self::Change, Self::Stream];

    /// The kind of an item.
    pub fn of(item: &SnapshotItem) -> Self {
        match item {
            SnapshotItem::Article(_) => Self::Article,
            SnapshotItem::EarlierRevision(_) => Self::EarlierRevision,
            SnapshotItem::Tombstone { .. } => Self::Tombstone,
            SnapshotItem::Change(_) => Self::Change,
            SnapshotItem::Stream { .. } => Self::Stream,
        }
    }
}

/// The tags of an article's fields. They stand in every backup: never change or reuse one.
mod tag {
    pub const URL: u8 = 1;
    pub const TITLE: u8 = 2;
    pub const LEAD: u8 = 3;
    pub const BODY: u8 = 4;
    pub const PUBLISH_TIME: u8 = 5;
    pub const MODIFY_TIME: u8 = 6;
    pub const CRAWL_TIME: u8 = 7;
    pub const AUTHOR: u8 = 8;
    pub const KEYWORD: u8 = 9;
    pub const SECTION: u8 = 10;
    pub const LANGUAGE: u8 = 11;
    pub const PUBLISHER: u8 = 12;
    pub const ANNOTATION_NAME: u8 = 13;
    pub const ANNOTATION_VALUE: u8 = 14;
}

/// Appends an item's record.
pub fn encode(item: &SnapshotItem, out: &mut Vec<u8>) {
    out.push(Kind::of(item) as u8);
    let content = begin(out);
    match item {
        SnapshotItem::Article(stored) | SnapshotItem::EarlierRevision(stored) => encode_article(stored, out),
        SnapshotItem::Tombstone { key, revision, sequence, delete_time } => {
            put_key(out, key);
            put_number(out, *revision);
            put_number(out, *sequence);
            out.extend_from_slice(&time_bytes(*delete_time));
        }
        SnapshotItem::Change(Change { sequence, kind, key, revision, digest, commit_time }) => {
            put_number(out, *sequence);
            out.push(match kind {
                ChangeKind::Created => 1,
                ChangeKind::Updated => 2,
                ChangeKind::Deleted => 3,
            });
            put_key(out, key);
            put_number(out, *revision);
            out.extend_from_slice(digest.as_bytes());
            out.extend_from_slice(&time_bytes(*commit_time));
        }
        SnapshotItem::Stream { id, position } => {
            let OutcomeCounts { created, updated, unchanged, rejected, deleted } = position.counts;
            put_text(out, id.as_str());
            for number in [position.next_item, created, updated, unchanged, rejected] {
                put_number(out, number);
            }
            out.push(match position.state {
                StreamState::Open => 1,
                StreamState::Finished => 2,
            });
            out.extend_from_slice(&time_bytes(position.update_time));
            let bookmark = position.bookmark.as_bytes();
            if deleted > 0 || !bookmark.is_empty() {
                put_number(out, deleted);
                out.extend_from_slice(bookmark);
            }
        }
    }
    end(out, content);
}

fn encode_article(StoredArticle { head, article }: &StoredArticle, out: &mut Vec<u8>) {
    put_key(out, &head.key);
    put_number(out, head.revision);
    put_number(out, head.sequence);
    out.extend_from_slice(&time_bytes(head.create_time));
    out.extend_from_slice(&time_bytes(head.update_time));
    out.extend_from_slice(head.digest.as_bytes());
    let Metadata { publish_time, modify_time, crawl_time, authors, keywords, section, language, publisher, annotations } =
        article.metadata();
    put_set(out, tag::URL, article.url());
    put_set(out, tag::TITLE, article.title());
    put_set(out, tag::LEAD, article.lead());
    put_set(out, tag::BODY, article.body());
    for (tag, time) in [(tag::PUBLISH_TIME, publish_time), (tag::MODIFY_TIME, modify_time), (tag::CRAWL_TIME, crawl_time)] {
        if let Some(time) = time {
            put_field(out, tag, &time_bytes(*time));
        }
    }
    authors.iter().for_each(|author| put_field(out, tag::AUTHOR, author.as_bytes()));
    keywords.iter().for_each(|keyword| put_field(out, tag::KEYWORD, keyword.as_bytes()));
    put_set(out, tag::SECTION, section);
    put_set(out, tag::LANGUAGE, language);
    put_set(out, tag::PUBLISHER, publisher);
    for (name, value) in annotations {
        put_field(out, tag::ANNOTATION_NAME, name.as_bytes());
        put_field(out, tag::ANNOTATION_VALUE, value.as_bytes());
    }
}

fn put_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    let content = begin(out);
    out.extend_from_slice(bytes);
    end(out, content);
}

/// A field where empty means not set.
fn put_set(out: &mut Vec<u8>, tag: u8, text: &str) {
    if !text.is_empty() {
        put_field(out, tag, text.as_bytes());
    }
}

/// Leaves room for a length, and tells where what it counts begins.
fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len()
}

/// Writes the length of everything since `begin`.
fn end(out: &mut [u8], content: usize) {
    let length = (out.len() - content) as u32;
    out[content - 4..content].copy_from_slice(&length.to_be_bytes());
}

/// Takes the next record off, and makes its item. Articles have the digest that their record says, or it is an error.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence about the record.
pub fn decode(input: &mut Input<'_>) -> Result<SnapshotItem, String> {
    let kind = input.byte()?;
    let length = input.length()?;
    let mut content = Input(input.take(length)?);
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind);
    let item = match kind.ok_or("is of a kind that is not known")? {
        Kind::Article => SnapshotItem::Article(Box::new(decode_article(&mut content)?)),
        Kind::EarlierRevision => SnapshotItem::EarlierRevision(Box::new(decode_article(&mut content)?)),
        Kind::Tombstone => SnapshotItem::Tombstone {
            key: content.key()?,
            revision: content.number()?,
            sequence: content.number()?,
            delete_time: content.time()?,
        },
        Kind::Change => SnapshotItem::Change(Change {
            sequence: content.number()?,
            kind: match content.byte()? {
                1 => ChangeKind::Created,
                2 => ChangeKind::Updated,
                3 => ChangeKind::Deleted,
                other => return Err(format!("is a change of the kind {other}, which is not known")),
            },
            key: content.key()?,
            revision: content.number()?,
            digest: content.digest()?,
            commit_time: content.time()?,
        }),
        Kind::Stream => SnapshotItem::Stream {
            id: content.text()?.parse().map_err(|error| format!("has a stream id that {error}"))?,
            position: decode_position(&mut content)?,
        },
    };
    if content.0.is_empty() { Ok(item) } else { Err(format!("has {} bytes too many", content.0.len())) }
}

fn decode_position(content: &mut Input<'_>) -> Result<IngestPosition, String> {
    let next_item = content.number()?;
    let mut counts = OutcomeCounts {
        created: content.number()?,
        updated: content.number()?,
        unchanged: content.number()?,
        rejected: content.number()?,
        deleted: 0,
    };
    let state = match content.byte()? {
        1 => StreamState::Open,
        2 => StreamState::Finished,
        other => return Err(format!("is a stream of the state {other}, which is not known")),
    };
    let update_time = content.time()?;
    if !content.0.is_empty() {
        counts.deleted = content.number()?;
    }
    let bookmark = content.take(content.0.len())?;
    let bookmark = bookmark.try_into().map_err(|error: BookmarkTooLong| format!("has a bookmark that {error}"))?;
    Ok(IngestPosition { next_item, counts, state, update_time, bookmark })
}

fn decode_article(content: &mut Input<'_>) -> Result<StoredArticle, String> {
    let key = content.key()?;
    let (revision, sequence) = (content.number()?, content.number()?);
    let (create_time, update_time) = (content.time()?, content.time()?);
    let digest = content.digest()?;
    let draft = decode_fields(content, ArticleDraft { date: key.date.to_string(), ..ArticleDraft::default() })?;
    // Whatever was stored was checked by these rules, but for the date, which was not too far ahead then.
    let limits = Limits { horizon: DateHorizon::Unlimited, ..Limits::default() };
    let article = draft.validate(&limits).map_err(|violations| format!("holds article {key}, which is none: {}", sentence(&violations)))?;
    if *article.key() != key {
        return Err(format!("holds article {key}, whose URL as given is another: {}", article.key().url));
    }
    if article.digest() != digest {
        return Err(format!("holds article {key}, and its text has another digest than it had when it was stored"));
    }
    let head = ArticleHead { key, revision, digest, sequence, create_time, update_time, text_bytes: article.text_bytes() as u64 };
    Ok(StoredArticle { head, article })
}

fn decode_fields(content: &mut Input<'_>, mut draft: ArticleDraft) -> Result<ArticleDraft, String> {
    let mut annotation_name = None;
    while !content.0.is_empty() {
        let tag = content.byte()?;
        let length = content.length()?;
        let bytes = content.take(length)?;
        let text = || utf8(bytes).map(str::to_owned);
        match tag {
            tag::URL => draft.url = text()?,
            tag::TITLE => draft.title = text()?,
            tag::LEAD => draft.lead = text()?,
            tag::BODY => draft.body = text()?,
            tag::PUBLISH_TIME => draft.publish_time = Some(time(bytes)?),
            tag::MODIFY_TIME => draft.modify_time = Some(time(bytes)?),
            tag::CRAWL_TIME => draft.crawl_time = Some(time(bytes)?),
            tag::AUTHOR => draft.authors.push(text()?),
            tag::KEYWORD => draft.keywords.push(text()?),
            tag::SECTION => draft.section = text()?,
            tag::LANGUAGE => draft.language = text()?,
            tag::PUBLISHER => draft.publisher = text()?,
            tag::ANNOTATION_NAME => annotation_name = Some(text()?),
            tag::ANNOTATION_VALUE => {
                let name = annotation_name.take().ok_or("has an annotation without a name")?;
                draft.annotations.insert(name, text()?);
            }
            tag => return Err(format!("has a field with the tag {tag}, which is not known")),
        }
    }
    if annotation_name.is_some() {
        return Err("has an annotation without a value".to_owned());
    }
    Ok(draft)
}

fn time(bytes: &[u8]) -> Result<Timestamp, String> {
    let mut input = Input(bytes);
    let time = input.time()?;
    if input.0.is_empty() { Ok(time) } else { Err("has a time that is too long".to_owned()) }
}

fn sentence(violations: &[FieldViolation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
