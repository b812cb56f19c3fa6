//! The items of a message: what is to be written of them, by what they are known again, and what became of each.

use prost::Message as _;

use super::status::ApiError;
use super::undecoded::{UndecodedItem, UndecodedItems};
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
    /// Decodes and checks items, and tells their hashes.
    ///
    /// # Errors
    /// Where one is undecodable.
    pub fn check(items: UndecodedItems, limits: &Limits) -> Result<(Checked, Vec<ItemHash>), ApiError> {
        let (mut checked, mut hashes) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let (mut writes, mut bytes) = (Vec::with_capacity(items.len()), 0);
        for item in items {
            let (write, hash) = check(&item, limits)?;
            hashes.push(hash);
            checked.push(write.map(|write| {
                bytes += match &write {
                    Write::Put { article, .. } => article.size(),
                    Write::Delete { key, .. } => key.url.key().len(),
                };
                writes.push(write);
            }));
        }
        Ok((Checked { items: Self(checked), writes, bytes }, hashes))
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

/// By what items are known again. Hangs on the items alone.
///
/// # Errors
/// Where one is undecodable.
pub fn hashes(items: UndecodedItems) -> Result<Vec<ItemHash>, ApiError> {
    let widest = widest();
    items.into_iter().map(|item| Ok(check(&item, &widest)?.1)).collect()
}

/// The widest limits that any server has.
fn widest() -> Limits {
    Limits { horizon: DateHorizon::Unlimited, ..Limits::default() }
}

type CheckedWrite = (Result<Write, Vec<FieldViolation>>, ItemHash);

fn check(item: &UndecodedItem, limits: &Limits) -> Result<CheckedWrite, ApiError> {
    let decode = || item.decode().map_err(|_| ApiError::MessageUndecodable);
    let write = write(decode()?, limits);
    let hash = match &write {
        Ok(write) => hash_of(write),
        // Whether it is rejected may change with the day and the server's settings; by what it is known does not.
        Err(_) => match self::write(decode()?, &widest()) {
            Ok(write) => hash_of(&write),
            Err(_) => ItemHash::of_bytes(&decode()?.encode_to_vec()),
        },
    };
    Ok((write, hash))
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
        let articles = |article: &v1::Article| UndecodedItems::articles(vec![article.encode_to_vec().into()]);
        let item = |item: v1::IngestItem| hashes(UndecodedItems::items(vec![item.encode_to_vec().into()])).unwrap()[0];
        let hash = |article: v1::Article| {
            let as_article = hashes(articles(&article)).unwrap()[0];
            assert_eq!(as_article, item(v1::IngestItem { item: Some(v1::ingest_item::Item::Article(article)) }));
            as_article
        };
        let hash_under = |article: v1::Article, limits: &Limits| {
            let (checked, hashes) = Items::check(articles(&article), limits).unwrap();
            (checked.writes.len(), hashes[0])
        };
        let ahead = article("2999-01-01", "https://example.com/a", "text");
        let (rejected, accepted) = (hash_under(ahead.clone(), &Limits::default()), hash_under(ahead.clone(), &widest()));
        assert_eq!((rejected.0, accepted.0), (0, 1));
        assert_eq!(rejected.1, accepted.1);
        assert_eq!(hash(ahead.clone()), accepted.1);
        // Another spelling and another crawl time are no other item.
        let spelled = v1::Article {
            url: "http://www.example.com/a#top".into(),
            crawl_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..ahead.clone()
        };
        assert_eq!(hash(spelled), accepted.1);
        let invalid = |url: &str| hash(article("2024-05-01", url, "text"));
        assert_eq!(invalid("ftp://a"), invalid("ftp://a"));
        let delete = v1::ArticleKey { date: ahead.date.clone(), url: ahead.url.clone() };
        let delete = item(v1::IngestItem { item: Some(v1::ingest_item::Item::Delete(delete)) });
        let others = [
            invalid("ftp://a"),
            invalid("ftp://b"),
            delete,
            hash(article("2999-01-01", "https://example.com/a", "other")),
            hash(article("2999-01-02", "https://example.com/a", "text")),
            item(v1::IngestItem { item: None }),
            accepted.1,
        ];
        for (number, one) in others.iter().enumerate() {
            assert!(!others[..number].contains(one), "{number}");
        }
    }
}
