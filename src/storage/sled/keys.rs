//! The trees and their keys: where in sled everything stands.
//!
//! | tree | key | value |
//! | --- | --- | --- |
//! | articles | date (YYYYMMDD, 4 bytes), URL key | the latest revision: header of its record, place of its payload |
//! | revisions | article key, 0, revision (8 bytes) | an earlier revision, likewise |
//! | segments | number of a segment of the journal that is still needed (8 bytes) | how much of its payloads is in use, its last group |
//! | tombstones | article key | last revision and its digest |
//! | url_dates | fingerprint of the URL key (16 bytes), date | nothing: the index by URL |
//! | changes | sequence of a change (8 bytes) | the change, or a run of those that were made with it |
//! | days | date | the day's manifest: count and checksum of its articles |
//! | streams | id of an ingest stream | its position |
//! | streams | id, 0, `h`, number of the item after them (8 bytes) | hashes of items, one after the other |
//! | streams | id, 0, `r`, how many were rejected up to them (8 bytes) | rejections, one after the other |
//! | dictionaries | id (4 bytes), 0 (2 bytes) | when it was trained, changes by then, samples, what it made of others, its bytes |
//! | dictionaries | id, 1, 2 ... (2 bytes) | the compression dictionary, piece by piece |
//! | state | `state` | group, sequence, totals; what was dropped of revisions and trimmed of changes; the last dictionary |
//!
//! All numbers are big-endian, so that the order of bytes is the order of the numbers. A URL key and the id of a stream
//! are printable ASCII, so the byte 0 after it ends it.
//!
//! The index by URL answers one question: which dates are there for a URL? So it needs no order of URLs, and a short fingerprint
//! in the place of a URL of some hundred bytes makes its leaves a fifth as large, which sled writes anew again and again.

use sha2::{Digest as _, Sha256};

use crate::article::{ArticleDate, ArticleKey, CanonicalUrl};
use crate::storage::{IngestStreamId, StoreError};

/// One of the trees. The numbers stand in the journal: never change or reuse one, nor 5, which is [`URLS_OF_FORMAT_5`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tree {
    Articles = 1,
    Revisions = 2,
    Segments = 3,
    Tombstones = 4,
    Changes = 6,
    Days = 7,
    Streams = 8,
    State = 9,
    Dictionaries = 10,
    Urls = 11,
}

/// Up to format 5 of the data folder the index by URL was another tree: its number in the journal.
pub const URLS_OF_FORMAT_5: u8 = 5;
/// The name in sled of that tree.
pub const URLS_NAME_OF_FORMAT_5: &str = "urls";
/// Bytes of a URL's fingerprint: nobody finds two URLs of the same.
const FINGERPRINT_BYTES: usize = 16;

impl Tree {
    pub const ALL: [Self; 10] = [
        Self::Articles,
        Self::Revisions,
        Self::Segments,
        Self::Tombstones,
        Self::Changes,
        Self::Days,
        Self::Streams,
        Self::State,
        Self::Dictionaries,
        Self::Urls,
    ];

    /// Its place among all.
    pub fn place(self) -> usize {
        let number = self as u8;
        usize::from(number - 1 - u8::from(number > URLS_OF_FORMAT_5))
    }

    /// The tree's name in sled.
    pub fn name(self) -> &'static str {
        match self {
            Self::Articles => "articles",
            Self::Revisions => "revisions",
            Self::Segments => "segments",
            Self::Tombstones => "tombstones",
            Self::Urls => "url_dates",
            Self::Changes => "changes",
            Self::Days => "days",
            Self::Streams => "streams",
            Self::State => "state",
            Self::Dictionaries => "dictionaries",
        }
    }

    /// The tree with this number in the journal.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tree| *tree as u8 == number)
    }
}

/// The key of the only entry of the state tree.
pub const STATE_KEY: &[u8] = b"state";

/// The key of an article, and of its tombstone.
pub fn article_key(key: &ArticleKey) -> Vec<u8> {
    article_prefix(key.date, key.url.key())
}

/// What the keys of a day's articles begin with whose URL keys begin with `url_prefix`.
pub fn article_prefix(date: ArticleDate, url_prefix: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + url_prefix.len() + 11);
    bytes.extend_from_slice(&date.number().to_be_bytes());
    bytes.extend_from_slice(url_prefix.as_bytes());
    bytes
}

/// The inverse of [`article_key`].
pub fn parse_article_key(bytes: &[u8]) -> Result<ArticleKey, StoreError> {
    let (date, url) = split_article_key(bytes)?;
    Ok(ArticleKey { date, url: CanonicalUrl::from_stored_key(url) })
}

/// The URL key in the key of an article, without a copy.
pub fn url_key_of(article_key: &[u8]) -> Result<&str, StoreError> {
    split_article_key(article_key).map(|(_, url)| url)
}

fn split_article_key(bytes: &[u8]) -> Result<(ArticleDate, &str), StoreError> {
    let damaged = || StoreError::damaged("a key of the article tree", format!("{:?} is no article key", String::from_utf8_lossy(bytes)));
    let (date, url) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    let date = ArticleDate::from_number(u32::from_be_bytes(*date)).ok_or_else(damaged)?;
    let url = std::str::from_utf8(url).ok().filter(|url| url.contains(")/")).ok_or_else(damaged)?;
    Ok((date, url))
}

/// The key of an earlier revision.
pub fn revision_key(article_key: &[u8], revision: u64) -> Vec<u8> {
    let mut bytes = revisions_prefix(article_key);
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes
}

/// What the keys of all earlier revisions of an article begin with.
pub fn revisions_prefix(article_key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(article_key.len() + 11);
    bytes.extend_from_slice(article_key);
    bytes.push(0);
    bytes
}

/// The article key in the key of an earlier revision: the inverse of [`revision_key`].
pub fn parse_revision_key(bytes: &[u8]) -> Result<ArticleKey, StoreError> {
    let article = bytes.split_last_chunk::<8>().and_then(|(prefix, _)| prefix.strip_suffix(&[0]));
    parse_article_key(article.ok_or_else(|| StoreError::damaged("a key of the revisions", "it is cut short"))?)
}

/// The number in the key of an earlier revision.
pub fn parse_revision_number(bytes: &[u8]) -> Result<u64, StoreError> {
    let number = bytes.last_chunk::<8>().copied().map(u64::from_be_bytes);
    number.ok_or_else(|| StoreError::damaged("a key of the revisions", "it is cut short"))
}

/// The key of an entry of the index by URL.
pub fn url_index_key(key: &ArticleKey) -> Vec<u8> {
    index_key(key.url.key().as_bytes(), key.date)
}

/// What all index entries of a URL begin with: the beginning of the SHA-256 of its key.
pub fn url_index_prefix(url: &CanonicalUrl) -> [u8; FINGERPRINT_BYTES] {
    fingerprint(url.key().as_bytes())
}

/// The date in the key of an entry of the index by URL.
pub fn parse_url_index_key(bytes: &[u8]) -> Result<ArticleDate, StoreError> {
    let date = bytes.split_last_chunk::<4>().filter(|(fingerprint, _)| fingerprint.len() == FINGERPRINT_BYTES);
    let date = date.and_then(|(_, date)| ArticleDate::from_number(u32::from_be_bytes(*date)));
    date.ok_or_else(|| StoreError::damaged("a key of the index by URL", "it is no fingerprint and date"))
}

/// The key for what stood in the index by URL up to format 5: the URL key, 0, the date. `None` where it is nothing like that.
pub fn url_index_key_of_format_5(bytes: &[u8]) -> Option<Vec<u8>> {
    let (url, date) = bytes.split_last_chunk::<4>()?;
    let date = ArticleDate::from_number(u32::from_be_bytes(*date))?;
    url.strip_suffix(&[0]).map(|url| index_key(url, date))
}

fn index_key(url_key: &[u8], date: ArticleDate) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FINGERPRINT_BYTES + 4);
    bytes.extend_from_slice(&fingerprint(url_key));
    bytes.extend_from_slice(&date.number().to_be_bytes());
    bytes
}

fn fingerprint(url_key: &[u8]) -> [u8; FINGERPRINT_BYTES] {
    let mut bytes = [0; FINGERPRINT_BYTES];
    bytes.copy_from_slice(&Sha256::digest(url_key)[..FINGERPRINT_BYTES]);
    bytes
}

/// The id of an ingest stream in the key of its position.
pub fn parse_stream_key(bytes: &[u8]) -> Result<IngestStreamId, StoreError> {
    let id = std::str::from_utf8(bytes).ok().and_then(|id| id.parse().ok());
    id.ok_or_else(|| StoreError::damaged("a key of the ingest streams", "it is no stream id"))
}

/// What is kept of an ingest stream beside its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamDetail {
    Hashes = b'h' as isize,
    Rejections = b'r' as isize,
}

/// The key of a detail of a stream. `end` is the number after the last of what the entry holds.
pub fn stream_detail_key(id: &IngestStreamId, detail: StreamDetail, end: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(id.as_str().len() + 10);
    bytes.extend_from_slice(id.as_str().as_bytes());
    bytes.extend_from_slice(&[0, detail as u8]);
    bytes.extend_from_slice(&end.to_be_bytes());
    bytes
}

/// Whether a key of the streams is that of a detail.
pub fn is_stream_detail(bytes: &[u8]) -> bool {
    bytes.contains(&0)
}

/// The inverse of [`stream_detail_key`].
pub fn parse_stream_detail_key(bytes: &[u8]) -> Result<(IngestStreamId, StreamDetail, u64), StoreError> {
    let damaged = || StoreError::damaged("a key of the ingest streams", "it is cut short, or of a kind that is not known");
    let (rest, end) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
    let (id, detail) = match rest {
        [id @ .., 0, b'h'] => (id, StreamDetail::Hashes),
        [id @ .., 0, b'r'] => (id, StreamDetail::Rejections),
        _ => return Err(damaged()),
    };
    Ok((parse_stream_key(id)?, detail, u64::from_be_bytes(*end)))
}

/// The key of a day's manifest.
pub fn day_key(date: ArticleDate) -> [u8; 4] {
    date.number().to_be_bytes()
}

/// The inverse of [`day_key`].
pub fn parse_day_key(bytes: &[u8]) -> Result<ArticleDate, StoreError> {
    let date = bytes.try_into().ok().and_then(|number| ArticleDate::from_number(u32::from_be_bytes(number)));
    date.ok_or_else(|| StoreError::damaged("a key of the day manifests", "it is no date"))
}

/// The first key after all keys that begin with `prefix`; `None` where there is no such key.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_order_as_articles_do() {
        let key = |date: &str, url: &str| ArticleKey { date: date.parse().unwrap(), url: CanonicalUrl::parse(url).unwrap() };
        let mut keys = vec![
            key("2024-05-01", "https://example.com/"),
            key("2024-05-01", "https://example.com/a"),
            key("2024-05-01", "https://example.com:8080/a"),
            key("2024-05-01", "https://news.example.com/a?b=c"),
            key("2023-12-31", "https://zzz.example/"),
            key("9999-12-31", "https://[::1]/"),
        ];
        for key in &keys {
            assert_eq!(&parse_article_key(&article_key(key)).unwrap(), key);
            let index_key = url_index_key(key);
            assert_eq!(parse_url_index_key(&index_key).unwrap(), key.date);
            assert!(index_key.starts_with(&url_index_prefix(&key.url)));
            let earlier = [key.url.key().as_bytes(), &[0], &day_key(key.date)].concat();
            assert_eq!(url_index_key_of_format_5(&earlier), Some(index_key));
            assert_eq!(parse_day_key(&day_key(key.date)).unwrap(), key.date);
        }
        let mut by_bytes = keys.clone();
        by_bytes.sort_by_key(article_key);
        keys.sort();
        assert_eq!(by_bytes, keys);
    }

    #[test]
    fn details_of_a_stream_come_between_it_and_the_next() {
        let [id, other]: [IngestStreamId; 2] = ["a", "a!"].map(|id| id.parse().unwrap());
        let mut keys = vec![id.as_str().as_bytes().to_vec()];
        for (detail, end) in [(StreamDetail::Hashes, 9), (StreamDetail::Hashes, 256), (StreamDetail::Rejections, 0)] {
            keys.push(stream_detail_key(&id, detail, end));
            assert_eq!(parse_stream_detail_key(&keys[keys.len() - 1]).unwrap(), (id.clone(), detail, end));
        }
        keys.push(other.as_str().as_bytes().to_vec());
        assert!(keys.is_sorted());
        assert_eq!(keys.iter().map(|key| is_stream_detail(key)).collect::<Vec<_>>(), [false, true, true, true, false]);
        for bytes in [&b"a\0x\0\0\0\0\0\0\0\x01"[..], b"\0h\0\0\0\0\0\0\0\x01", b"a\0h1", b"a"] {
            assert!(parse_stream_detail_key(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nonsense_is_damage_and_no_panic() {
        for bytes in [&b""[..], b"123", b"\0\0\0\0com,example,)/", b"\x01\x34\xd6\x65\xff)/"] {
            assert!(parse_article_key(bytes).is_err());
            assert!(parse_url_index_key(bytes).is_err());
            assert!(url_index_key_of_format_5(bytes).is_none());
        }
    }

    #[test]
    fn every_tree_has_its_place_and_no_number_means_two() {
        for (place, tree) in Tree::ALL.into_iter().enumerate() {
            assert_eq!((tree.place(), Tree::from_number(tree as u8)), (place, Some(tree)));
            assert_ne!(tree.name(), URLS_NAME_OF_FORMAT_5);
        }
        assert!(Tree::from_number(URLS_OF_FORMAT_5).is_none());
    }

    #[test]
    fn prefixes_end_where_they_should() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
