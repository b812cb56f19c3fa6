//! Requests of the ingestion whose articles are still bytes.
//!
//! A message of hundreds of articles takes milliseconds to decode. On a thread of the runtime, every call that this thread serves
//! would wait that long; so the transport takes only the message apart, and its articles are decoded in the background. On the
//! wire these are the messages of the same name.

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

impl UndecodedItem {
    /// The item.
    ///
    /// # Errors
    /// Where the bytes are no message, or hold a text that is no UTF-8.
    pub fn decode(&self) -> Result<v1::IngestItem, DecodeError> {
        if !self.is_article {
            return v1::IngestItem::decode(self.bytes.clone());
        }
        let article = v1::Article::decode(self.bytes.clone())?;
        Ok(v1::IngestItem { item: Some(v1::ingest_item::Item::Article(article)) })
    }
}
