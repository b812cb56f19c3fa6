//! Connections of the load generator for streams and large messages.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoRequest, Streaming};

use crate::Fallible;
use crate::wire::{Raw, Request};

/// Bytes of a response that are accepted.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// The calls that are made over them.
pub mod call {
    /// Articles by key.
    pub const LOOKUP: &str = "/dateline.v1.ArticleService/LookupArticles";
    /// Whole days.
    pub const STREAM: &str = "/dateline.v1.ArticleService/StreamArticles";
    /// Many writes in one message.
    pub const BATCH: &str = "/dateline.v1.IngestService/BatchIngestArticles";
    /// Any number of writes.
    pub const INGEST: &str = "/dateline.v1.IngestService/IngestArticles";
    /// Changes.
    pub const WATCH: &str = "/dateline.v1.ChangeService/WatchArticles";
}

/// A TCP connection to a server; clones share it.
#[derive(Clone)]
pub struct Connection(Grpc<Channel>);

impl Connection {
    /// Connects, with the settings of Dateline's own client.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn open(address: &str) -> Fallible<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
        let endpoint = endpoint.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        Ok(Self(Grpc::new(endpoint.connect().await?).max_decoding_message_size(MAX_RESPONSE_BYTES)))
    }

    /// Several connections.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn several(address: &str, count: usize) -> Fallible<Vec<Self>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(Self::open(address).await?);
        }
        Ok(connections)
    }

    /// A call with one answer.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn unary(&mut self, path: &'static str, request: Request) -> Fallible<Bytes> {
        self.0.ready().await?;
        Ok(self.0.unary(request.into_request(), PathAndQuery::from_static(path), Raw).await?.into_inner())
    }

    /// A call with a stream of answers.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn stream(&mut self, path: &'static str, request: Request) -> Fallible<Streaming<Bytes>> {
        self.0.ready().await?;
        Ok(self.0.server_streaming(request.into_request(), PathAndQuery::from_static(path), Raw).await?.into_inner())
    }

    /// A call with a stream of requests and of answers.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn duplex<S>(&mut self, path: &'static str, requests: S) -> Fallible<Streaming<Bytes>>
    where
        S: Stream<Item = Request> + Send + 'static,
    {
        self.0.ready().await?;
        Ok(self.0.streaming(tonic::Request::new(requests), PathAndQuery::from_static(path), Raw).await?.into_inner())
    }
}
