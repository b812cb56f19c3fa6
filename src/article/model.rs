//! The article itself: its text, what else its source says of it, and what the store adds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::{ArticleKey, Digest, Timestamp};

/// A valid article, ready to be stored: made by [`ArticleDraft::validate`](super::ArticleDraft::validate) alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Article {
    pub(super) key: ArticleKey,
    pub(super) url: String,
    pub(super) title: String,
    pub(super) lead: String,
    pub(super) body: String,
    pub(super) metadata: Metadata,
    pub(super) digest: KnownDigest,
}

/// The digest of an article once it was asked for. Follows from the rest, so it makes no article differ from another.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownDigest(OnceLock<Digest>);

impl PartialEq for KnownDigest {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownDigest {}

/// What a source may say of an article beside its text. Every field is optional; an empty string or list is the same as none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// When the source published the article.
    pub publish_time: Option<Timestamp>,
    /// When the source last changed it.
    pub modify_time: Option<Timestamp>,
    /// When it was fetched. Not part of the digest.
    pub crawl_time: Option<Timestamp>,
    /// The authors in the source's order.
    pub authors: Vec<String>,
    /// The source's keywords in its order.
    pub keywords: Vec<String>,
    /// The section or desk, as the source names it.
    pub section: String,
    /// The language as a BCP 47 tag, as the source states it.
    pub language: String,
    /// The publisher's name.
    pub publisher: String,
    /// Whatever else the client keeps with the article.
    pub annotations: BTreeMap<String, String>,
}

impl Article {
    /// What identifies the article.
    pub fn key(&self) -> &ArticleKey {
        &self.key
    }

    /// The URL as given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The title, byte for byte as received.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The lead, byte for byte as received.
    pub fn lead(&self) -> &str {
        &self.lead
    }

    /// The body, byte for byte as received.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Everything else the client said.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tells whether another version of this article differs; see [`Digest`]. Takes time once.
    pub fn digest(&self) -> Digest {
        *self.digest.0.get_or_init(|| Digest::of(self.key.date, &self.title, &self.lead, &self.body, &self.metadata))
    }

    /// Bytes of title, lead and body together.
    pub fn text_bytes(&self) -> usize {
        self.title.len() + self.lead.len() + self.body.len()
    }

    /// Bytes of all strings of the article together: what the size limit counts.
    pub fn size(&self) -> usize {
        self.url.len() + self.text_bytes() + self.metadata.size()
    }

    /// Puts an article together from parts that were valid when they were stored.
    pub(crate) fn from_stored(key: ArticleKey, url: String, title: String, lead: String, body: String, metadata: Metadata) -> Self {
        Self { key, url, title, lead, body, metadata, digest: KnownDigest::default() }
    }
}

impl Metadata {
    /// Bytes of all strings together.
    pub fn size(&self) -> usize {
        let lists = self.authors.iter().chain(&self.keywords).map(String::len).sum::<usize>();
        let annotations = self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        lists + annotations + self.section.len() + self.language.len() + self.publisher.len()
    }
}

/// What the store knows of an article without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArticleHead {
    /// What identifies the article.
    pub key: ArticleKey,
    /// 1, 2, 3 ...: which version of the article this is.
    pub revision: u64,
    /// The digest of this revision.
    pub digest: Digest,
    /// The place in the change log of the change that made this revision.
    pub sequence: u64,
    /// When the article was first stored (again, after a deletion).
    pub create_time: Timestamp,
    /// When this revision was stored. Monotone for one article, whatever the clock does.
    pub update_time: Timestamp,
    /// Bytes of title, lead and body together.
    pub text_bytes: u64,
}

impl ArticleHead {
    /// Names exactly this revision with exactly this content.
    pub fn etag(&self) -> Etag {
        Etag { revision: self.revision, digest: self.digest }
    }
}

/// An article as the store gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArticle {
    /// What the store adds.
    pub head: ArticleHead,
    /// The article as it was put.
    pub article: Article,
}

/// Revision and digest of an article: matches while nobody has changed it. Written `7-<64 hexadecimal digits>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Etag {
    /// The revision.
    pub revision: u64,
    /// Its digest.
    pub digest: Digest,
}

/// The text was not made by [`Etag`]'s `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an etag: send back the one that was received with the article, unchanged")]
pub struct EtagError;

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.digest)
    }
}

impl FromStr for Etag {
    type Err = EtagError;

    fn from_str(text: &str) -> Result<Self, EtagError> {
        let (revision, digest) = text.split_once('-').ok_or(EtagError)?;
        let etag = Self { revision: revision.parse().map_err(|_| EtagError)?, digest: Digest::from_hex(digest).ok_or(EtagError)? };
        // One way to write it, so that "+7-…" and "07-…" are as wrong as they look.
        if etag.to_string() == text { Ok(etag) } else { Err(EtagError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_have_one_spelling() {
        let etag = Etag { revision: 7, digest: Digest::from_bytes([0xab; 32]) };
        let text = etag.to_string();
        assert_eq!(text.parse(), Ok(etag));
        for wrong in ["", "7", "7-", &text[1..], &format!("0{text}"), &format!("+{text}"), &text.to_uppercase()] {
            assert_eq!(wrong.parse::<Etag>(), Err(EtagError), "{wrong}");
        }
    }
}
