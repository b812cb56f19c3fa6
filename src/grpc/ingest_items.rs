//! The items of a message: what is to be written of them, by what they are known again, and what became of each.

use prost::Message as _;

use super::{convert, v1};
use crate::article::{Article, DateHorizon, FieldViolation, Limits, Reason};
use crate::storage::{ItemHash, Precondition, Rejection, Write, WriteOutcome};

/// The items of a message while their writes are under way: of each that was refused already, why.
pub struct Items(Vec<Result<(), Vec<FieldViolation>>>);

/// What a message comes to.
pub struct Checked {
    /// Its items.
    pub items: Items,
    /// What to write of them.
    pub writes: Vec<Write>,
    /// How many bytes that is.
    pub bytes: usize,
}

impl Items {
    /// Checks articles.
    pub fn of_articles(articles: Vec<v1::Article>, limits: &Limits) -> Checked {
        Self::collect(articles.into_iter().map(|article| put(article, limits)))
    }

    /// Checks items, and tells their hashes.
    pub fn of_stream(items: Vec<v1::IngestItem>, limits: &Limits) -> (Checked, Vec<ItemHash>) {
        let mut hashes = Vec::with_capacity(items.len());
        let checked = items.into_iter().map(|item| {
            let (write, hash) = check(item, limits);
            hashes.push(hash);
            write
        });
        (Self::collect(checked), hashes)
    }

    fn collect(checked: impl Iterator<Item = Result<Write, Vec<FieldViolation>>>) -> Checked {
        let (mut writes, mut bytes) = (Vec::with_capacity(checked.size_hint().0), 0);
        let items = checked.map(|write| {
            let write = write?;
            bytes += match &write {
                Write::Put { article, .. } => article.size(),
                Write::Delete { key, .. } => key.url.key().len(),
            };
            writes.push(write);
            Ok(())
        });
        Checked { items: Self(items.collect()), writes, bytes }
    }

    /// Those that were refused; the first item has this number.
    pub fn rejections(&self, first_item: u64) -> Vec<Rejection> {
        let numbered = (first_item..).zip(&self.0);
        numbered.filter_map(|(number, item)| Some(Rejection::invalid(number, item.as_ref().err()?))).collect()
    }

    /// How many were refused.
    pub fn rejected(&self) -> u64 {
        self.0.iter().filter(|item| item.is_err()).count() as u64
    }

    /// The result of every item, given the outcomes of those that were written.
    pub fn results(self, outcomes: Vec<WriteOutcome>) -> Vec<v1::IngestResult> {
        let mut outcomes = outcomes.into_iter();
        let result = |item: Result<(), Vec<FieldViolation>>| match item {
            Err(violations) => Some(convert::ingest_result(Err(violations))),
            Ok(()) => outcomes.next().map(|outcome| convert::ingest_result(Ok(outcome))),
        };
        self.0.into_iter().filter_map(result).collect()
    }
}

/// By what an item is known again. Hangs on the item alone.
pub fn hash(item: v1::IngestItem) -> ItemHash {
    check(item, &widest()).1
}

/// What a message was before its items could be deletions.
pub fn article_item(article: v1::Article) -> v1::IngestItem {
    v1::IngestItem { item: Some(v1::ingest_item::Item::Article(article)) }
}

/// The widest limits that any server has.
fn widest() -> Limits {
    Limits { horizon: DateHorizon::Unlimited, ..Limits::default() }
}

fn check(item: v1::IngestItem, limits: &Limits) -> (Result<Write, Vec<FieldViolation>>, ItemHash) {
    let bytes = item.encode_to_vec();
    let write = write(item, limits);
    let hash = match &write {
        Ok(write) => hash_of(write),
        // Whether it is rejected may change with the day and the server's settings; by what it is known does not.
        Err(_) => match v1::IngestItem::decode(&bytes[..]).map(|item| self::write(item, &widest())) {
            Ok(Ok(write)) => hash_of(&write),
            Ok(Err(_)) | Err(_) => ItemHash::of_bytes(&bytes),
        },
    };
    (write, hash)
}

fn hash_of(write: &Write) -> ItemHash {
    match write {
        Write::Put { article, .. } => ItemHash::of_article(article),
        Write::Delete { key, .. } => ItemHash::of_deletion(key),
    }
}

fn write(item: v1::IngestItem, limits: &Limits) -> Result<Write, Vec<FieldViolation>> {
    use v1::ingest_item::Item;
    match item.item {
        Some(Item::Article(article)) => put(article, limits),
        Some(Item::Delete(key)) => Ok(Write::Delete { key: convert::key("delete", Some(&key), limits)?, precondition: Precondition::None }),
        None => Err(vec![FieldViolation::new("item", Reason::Required, "is missing: set article or delete")]),
    }
}

fn put(article: v1::Article, limits: &Limits) -> Result<Write, Vec<FieldViolation>> {
    let article: Article = convert::draft_from_wire(article)?.validate(limits)?;
    Ok(Write::put(article))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn article(date: &str, url: &str, body: &str) -> v1::Article {
        v1::Article { date: date.into(), url: url.into(), body: body.into(), ..Default::default() }
    }

    #[test]
    fn an_item_is_known_by_what_it_is_whatever_becomes_of_it() {
        let hash_under = |article: v1::Article, limits: &Limits| {
            let (checked, hashes) = Items::of_stream(vec![article_item(article)], limits);
            (checked.writes.len(), hashes[0])
        };
        let ahead = article("2999-01-01", "https://example.com/a", "text");
        let (rejected, accepted) = (hash_under(ahead.clone(), &Limits::default()), hash_under(ahead.clone(), &widest()));
        assert_eq!((rejected.0, accepted.0), (0, 1));
        assert_eq!(rejected.1, accepted.1);
        assert_eq!(hash(article_item(ahead.clone())), accepted.1);
        // Another spelling and another crawl time are no other item.
        let spelled = v1::Article {
            url: "http://www.example.com/a#top".into(),
            crawl_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..ahead.clone()
        };
        assert_eq!(hash(article_item(spelled)), accepted.1);
        let invalid = |url: &str| hash(article_item(article("2024-05-01", url, "text")));
        assert_eq!(invalid("ftp://a"), invalid("ftp://a"));
        let delete = v1::ArticleKey { date: ahead.date.clone(), url: ahead.url.clone() };
        let delete = hash(v1::IngestItem { item: Some(v1::ingest_item::Item::Delete(delete)) });
        let others = [
            invalid("ftp://a"),
            invalid("ftp://b"),
            delete,
            hash(article_item(article("2999-01-01", "https://example.com/a", "other"))),
            hash(article_item(article("2999-01-02", "https://example.com/a", "text"))),
            hash(v1::IngestItem { item: None }),
            accepted.1,
        ];
        for (number, one) in others.iter().enumerate() {
            assert!(!others[..number].contains(one), "{number}");
        }
    }
}
