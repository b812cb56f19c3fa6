//! Requests of the ingestion whose articles are still bytes.
//!
//! A message of hundreds of articles takes milliseconds to decode. On a thread of the runtime, every call that this thread serves
//! would wait that long; so the transport takes only the message apart, and its articles are decoded in the background. On the
//! wire these are the messages of the same name. So are the generated articles here, whose texts are bytes: what makes strings of them
//! is several times as fast as what prost would do.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use super::v1;

pub use generated::ingest_service_server;

/// The generated server.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/undecoded/dateline.v1.rs"));
}

/// [`v1::BatchIngestArticlesRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchIngestArticlesRequest {
    /// Messages of articles.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub articles: Vec<Bytes>,
}

/// [`v1::IngestArticlesRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct IngestArticlesRequest {
    /// What it is.
    #[prost(oneof = "IngestMessage", tags = "1, 2, 3")]
    pub message: Option<IngestMessage>,
}

/// [`v1::ingest_articles_request::Message`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum IngestMessage {
    /// The first message.
    #[prost(message, tag = "1")]
    Open(v1::IngestOpen),
    /// The next items.
    #[prost(message, tag = "2")]
    Items(IngestItems),
    /// The last message.
    #[prost(message, tag = "3")]
    Commit(v1::IngestCommit),
}

/// [`v1::IngestItems`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct IngestItems {
    /// The number of the first item.
    #[prost(int64, tag = "1")]
    pub first_item: i64,
    /// Messages of articles.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub articles: Vec<Bytes>,
    /// Messages of items.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub items: Vec<Bytes>,
    /// What the client wants to keep with the position.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub bookmark: Option<Vec<u8>>,
}

/// Items of a message that are still bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct UndecodedItems {
    messages: Vec<Bytes>,
    are_articles: bool,
}

impl UndecodedItems {
    /// Articles, each of which is an item.
    pub fn articles(messages: Vec<Bytes>) -> Self {
        Self { messages, are_articles: true }
    }

    /// Items.
    pub fn items(messages: Vec<Bytes>) -> Self {
        Self { messages, are_articles: false }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Takes so many away from the front, or all there are.
    pub fn take_front(&mut self, count: usize) -> Self {
        let front = self.messages.drain(..count.min(self.messages.len())).collect();
        Self { messages: front, are_articles: self.are_articles }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl IntoIterator for UndecodedItems {
    type Item = UndecodedItem;
    type IntoIter = Box<dyn Iterator<Item = UndecodedItem> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        let is_article = self.are_articles;
        Box::new(self.messages.into_iter().map(move |bytes| UndecodedItem { bytes, is_article }))
    }
}

/// An item that is still bytes.
#[derive(Debug)]
pub struct UndecodedItem {
    bytes: Bytes,
    is_article: bool,
}

/// The bytes are no message, or hold a text that is no UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is undecodable")]
pub struct Undecodable;

impl From<DecodeError> for Undecodable {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl UndecodedItem {
    /// The item.
    ///
    /// # Errors
    /// Where the bytes are no message, or hold a text that is no UTF-8.
    pub fn decode(&self) -> Result<v1::IngestItem, Undecodable> {
        use generated::ingest_item::Item;
        let item = if self.is_article {
            Some(Item::Article(generated::Article::decode(self.bytes.clone())?))
        } else {
            generated::IngestItem::decode(self.bytes.clone())?.item
        };
        let item = item.map(|item| match item {
            Item::Article(article) => with_texts(article).map(v1::ingest_item::Item::Article),
            Item::Delete(key) => Ok(v1::ingest_item::Item::Delete(key)),
        });
        Ok(v1::IngestItem { item: item.transpose()? })
    }
}

/// The article with its texts as strings.
fn with_texts(article: generated::Article) -> Result<v1::Article, Undecodable> {
    let text = |bytes: Bytes| simdutf8::basic::from_utf8(&bytes).map(str::to_owned).map_err(|_| Undecodable);
    Ok(v1::Article {
        url: article.url,
        date: article.date,
        title: text(article.title)?,
        lead: text(article.lead)?,
        body: text(article.body)?,
        publish_time: article.publish_time,
        modify_time: article.modify_time,
        crawl_time: article.crawl_time,
        authors: article.authors,
        keywords: article.keywords,
        section: article.section,
        language: article.language,
        publisher: article.publisher,
        annotations: article.annotations,
        canonical_url: article.canonical_url,
        host: article.host,
        digest: article.digest,
        etag: article.etag,
        revision: article.revision,
        create_time: article.create_time,
        update_time: article.update_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn article() -> v1::Article {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 7 });
        v1::Article {
            url: "https://example.com/a".into(),
            date: "2024-05-01".into(),
            title: "Заголовок".into(),
            lead: "導語".into(),
            body: "A body, \u{1f4f0}".into(),
            publish_time: time(1),
            modify_time: time(2),
            crawl_time: time(3),
            authors: vec!["A".into(), "B".into()],
            keywords: vec!["k".into()],
            section: "s".into(),
            language: "ru".into(),
            publisher: "p".into(),
            annotations: [("name".into(), "value".into())].into(),
            canonical_url: "c".into(),
            host: "h".into(),
            digest: "d".into(),
            etag: "e".into(),
            revision: 4,
            create_time: time(5),
            update_time: time(6),
        }
    }

    fn decoded(bytes: Vec<u8>, is_article: bool) -> Result<v1::IngestItem, Undecodable> {
        UndecodedItem { bytes: bytes.into(), is_article }.decode()
    }

    #[test]
    fn items_are_what_the_protocol_says() {
        use v1::ingest_item::Item;
        let key = v1::ArticleKey { date: "2024-05-01".into(), url: "https://example.com/a".into() };
        for item in [Some(Item::Article(article())), Some(Item::Delete(key)), None] {
            let item = v1::IngestItem { item };
            assert_eq!(decoded(item.encode_to_vec(), false), Ok(item));
        }
        assert_eq!(decoded(article().encode_to_vec(), true), Ok(v1::IngestItem { item: Some(Item::Article(article())) }));
    }

    #[test]
    fn what_is_no_message_or_no_utf_8_is_undecodable() {
        let bytes = article().encode_to_vec();
        for text in ["Заголовок", "導語", "\u{1f4f0}", "https", "ru", "value"] {
            let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            assert!(v1::Article::decode(&damaged[..]).is_err());
            assert_eq!(decoded(damaged, true), Err(Undecodable), "{text}");
        }
        assert_eq!(decoded(bytes[..bytes.len() - 1].to_vec(), true), Err(Undecodable));
    }
}
