//! Resume tokens: opaque, printable places in a scan, in a count or in the change log.
//!
//! A token names the store, the version of the URL rules and what was asked for, so that using it elsewhere is an error and
//! never a guess. It carries a checksum against typing errors; it is no secret and gives no rights.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::{CountedHost, Direction, GroupBy, StoreId};
use crate::article::url::RULES_VERSION;
use crate::article::{ArticleDate, ArticleKey, CanonicalUrl, Filter};

const FORMAT: u8 = 1;
/// Far more than any token: a longer text is refused unread.
const MAX_TEXT_BYTES: usize = 4096;

/// What a token goes on with: it can only be used to ask for the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenScope {
    store_id: StoreId,
    question: u64,
}

/// A place to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// After this article.
    Article(ArticleKey),
    /// After this day.
    Day(ArticleDate),
    /// After this host.
    Host(CountedHost),
    /// After the change with this number.
    Change(u64),
    /// The same, of a watch from the beginning that has not come to the end yet.
    Rebuild {
        /// The number of the change.
        after: u64,
        /// How far the log was swept when it began.
        begun: u64,
    },
    /// Before this revision.
    Revision(u64),
}

/// Why a text is no token for this question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was never given out, or was damaged on the way.
    #[error("is not a token that this server gave out")]
    Invalid,
    /// It belongs to another store, to other URL rules or to another question.
    #[error("belongs to another store, filter or order")]
    Mismatch,
}

impl TokenScope {
    /// Tokens of a scan.
    pub fn scan(store_id: StoreId, filter: &Filter, direction: Direction) -> Self {
        let kind = match direction {
            Direction::Ascending => 1,
            Direction::Descending => 2,
        };
        Self::new(store_id, kind, Some(filter))
    }

    /// Tokens of a count. The place inside `group_by` does not matter.
    pub fn count(store_id: StoreId, filter: &Filter, group_by: &GroupBy) -> Self {
        let kind = match group_by {
            GroupBy::Total => 3,
            GroupBy::Day(_) => 4,
            GroupBy::Host(_) => 5,
        };
        Self::new(store_id, kind, Some(filter))
    }

    /// Tokens of an article's revisions.
    pub fn revisions(store_id: StoreId, key: &ArticleKey) -> Self {
        let url = key.url.key().as_bytes();
        Self::asking(store_id, 7, xxh3_64(&[&key.date.number().to_be_bytes(), url].concat()))
    }

    /// Tokens of the change log, which serve every filter: places that no watch has come to by leaving out what it does not want.
    pub fn changes(store_id: StoreId) -> Self {
        Self::new(store_id, 6, None)
    }

    /// Tokens of a watch.
    pub fn watch(store_id: StoreId, filter: &Filter) -> Self {
        Self::new(store_id, 8, Some(filter))
    }

    fn new(store_id: StoreId, kind: u8, filter: Option<&Filter>) -> Self {
        Self::asking(store_id, kind, filter.map_or(0, Filter::fingerprint))
    }

    fn asking(store_id: StoreId, kind: u8, about: u64) -> Self {
        let mut question = [0; 9];
        question[0] = kind;
        question[1..].copy_from_slice(&about.to_be_bytes());
        Self { store_id, question: xxh3_64(&question) }
    }

    /// The token for a place.
    pub fn write(&self, place: &Place) -> String {
        let mut token = vec![FORMAT];
        token.extend_from_slice(&self.store_id.0);
        token.extend_from_slice(&RULES_VERSION.to_be_bytes());
        token.extend_from_slice(&self.question.to_be_bytes());
        match place {
            Place::Article(key) => {
                token.push(1);
                token.extend_from_slice(&key.date.number().to_be_bytes());
                token.extend_from_slice(key.url.key().as_bytes());
            }
            Place::Day(date) => {
                token.push(2);
                token.extend_from_slice(&date.number().to_be_bytes());
            }
            Place::Host(host) => {
                token.push(3);
                token.extend_from_slice(host.key_prefix().as_bytes());
            }
            Place::Change(sequence) => {
                token.push(4);
                token.extend_from_slice(&sequence.to_be_bytes());
            }
            Place::Revision(revision) => {
                token.push(5);
                token.extend_from_slice(&revision.to_be_bytes());
            }
            Place::Rebuild { after, begun } => {
                token.push(6);
                token.extend_from_slice(&after.to_be_bytes());
                token.extend_from_slice(&begun.to_be_bytes());
            }
        }
        token.extend_from_slice(&xxh3_64(&token).to_be_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The place that a token names.
    ///
    /// # Errors
    /// Where it is none, or not one for this question.
    pub fn read(&self, text: &str) -> Result<Place, TokenError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenError::Invalid);
        }
        let token = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Invalid)?;
        let (content, checksum) = token.split_last_chunk::<8>().ok_or(TokenError::Invalid)?;
        if xxh3_64(content) != u64::from_be_bytes(*checksum) || content.first() != Some(&FORMAT) {
            return Err(TokenError::Invalid);
        }
        let (store_id, content) = content[1..].split_first_chunk::<16>().ok_or(TokenError::Invalid)?;
        let (rules, content) = content.split_first_chunk::<2>().ok_or(TokenError::Invalid)?;
        let (question, content) = content.split_first_chunk::<8>().ok_or(TokenError::Invalid)?;
        let expected = (self.store_id, RULES_VERSION, self.question);
        if (StoreId(*store_id), u16::from_be_bytes(*rules), u64::from_be_bytes(*question)) != expected {
            return Err(TokenError::Mismatch);
        }
        read_place(content).ok_or(TokenError::Invalid)
    }
}

fn read_place(content: &[u8]) -> Option<Place> {
    let (&kind, content) = content.split_first()?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    match kind {
        1 => {
            let (date, key) = content.split_first_chunk::<4>()?;
            let date = ArticleDate::from_number(u32::from_be_bytes(*date))?;
            Some(Place::Article(ArticleKey { date, url: CanonicalUrl::from_key(text(key)?)? }))
        }
        2 => ArticleDate::from_number(u32::from_be_bytes(content.try_into().ok()?)).map(Place::Day),
        3 => {
            let host = CountedHost::of_key(text(content)?);
            CanonicalUrl::from_key(&format!("{}/", host.key_prefix()))?;
            Some(Place::Host(host))
        }
        4 => Some(Place::Change(u64::from_be_bytes(content.try_into().ok()?))),
        5 => Some(Place::Revision(u64::from_be_bytes(content.try_into().ok()?))),
        6 => {
            let (after, begun) = content.split_first_chunk::<8>()?;
            Some(Place::Rebuild { after: u64::from_be_bytes(*after), begun: u64::from_be_bytes(begun.try_into().ok()?) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_serve_nothing_else() {
        let scope = TokenScope::scan(StoreId([7; 16]), &Filter::ALL, Direction::Ascending);
        let url = CanonicalUrl::parse("http://www.example.com:8080/a?b=c").unwrap();
        let date: ArticleDate = "2024-05-01".parse().unwrap();
        let key = ArticleKey { date, url: url.clone() };
        for place in [
            Place::Host(CountedHost::of(&url)),
            Place::Article(key.clone()),
            Place::Day(date),
            Place::Change(u64::MAX),
            Place::Revision(7),
            Place::Rebuild { after: 7, begun: 3 },
        ] {
            let token = scope.write(&place);
            assert_eq!(scope.read(&token), Ok(place));
            let others = [
                TokenScope::scan(StoreId([8; 16]), &Filter::ALL, Direction::Ascending),
                TokenScope::scan(StoreId([7; 16]), &Filter::ALL, Direction::Descending),
                TokenScope::count(StoreId([7; 16]), &Filter::ALL, &GroupBy::Total),
                TokenScope::changes(StoreId([7; 16])),
                TokenScope::watch(StoreId([7; 16]), &Filter::ALL),
                TokenScope::revisions(StoreId([7; 16]), &key),
            ];
            for other in others {
                assert_eq!(other.read(&token), Err(TokenError::Mismatch));
            }
            for at in 0..token.len() {
                let mut damaged = token.clone().into_bytes();
                damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
                assert_ne!(scope.read(&String::from_utf8(damaged).unwrap()), scope.read(&token), "{at}");
                assert!(scope.read(&token[..at]).is_err());
            }
        }
        for text in ["", "é", "AAAA", &"A".repeat(5000)] {
            assert_eq!(scope.read(text), Err(TokenError::Invalid));
        }
    }
}
