//! Single calls with as little as can be around them: one message there, one message back, straight over HTTP/2.
//!
//! A whole gRPC client takes more CPU time for a small call than the server does, and both share the machine.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Version};
use tokio::net::TcpStream;

use crate::Fallible;

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The calls that are made this way.
#[derive(Debug, Clone, Copy)]
pub enum Single {
    /// GetArticle.
    Get,
    /// PutArticle.
    Put,
}

/// A TCP connection to a server; clones share it.
#[derive(Clone)]
pub struct SingleConnection {
    http: SendRequest<Bytes>,
    get: http::Request<()>,
    put: http::Request<()>,
}

impl SingleConnection {
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

    /// Connects, with the windows of Dateline's own client.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn open(address: &str) -> Fallible<Self> {
        let tcp = TcpStream::connect(address.trim_start_matches("http://")).await?;
        tcp.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        let (http, connection) = builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20).handshake(tcp).await?;
        // What ends it is seen by the calls.
        tokio::spawn(async move { drop(connection.await) });
        let template = |name| {
            let request = http::Request::builder().method(Method::POST).version(Version::HTTP_2);
            let request = request.uri(format!("{address}/dateline.v1.ArticleService/{name}"));
            request.header("content-type", "application/grpc").header("te", "trailers").body(())
        };
        Ok(Self { http, get: template("GetArticle")?, put: template("PutArticle")? })
    }

    /// Makes a call with a message put together of these parts; gives the answer's message.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn call(&mut self, call: Single, parts: &[&[u8]]) -> Fallible<Bytes> {
        let request = match call {
            Single::Get => self.get.clone(),
            Single::Put => self.put.clone(),
        };
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = BytesMut::with_capacity(PREFIX + length);
        message.put_u8(0);
        message.put_u32(length as u32);
        parts.iter().for_each(|part| message.put_slice(part));

        self.http = self.http.clone().ready().await?;
        let (response, mut body) = self.http.send_request(request, false)?;
        body.send_data(message.freeze(), true)?;
        let (head, mut body) = response.await?.into_parts();
        succeeded(&head.headers, false)?;
        let mut answer: Option<BytesMut> = None;
        let mut first = Bytes::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            match &mut answer {
                Some(answer) => answer.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => answer = Some([&first[..], &data].concat().as_slice().into()),
            }
        }
        succeeded(&body.trailers().await?.unwrap_or_default(), true)?;
        let answer = answer.map_or(first, BytesMut::freeze);
        match answer.split_first_chunk::<PREFIX>() {
            Some(([0, length @ ..], message)) if u32::from_be_bytes(*length) as usize == message.len() => Ok(answer.slice(PREFIX..)),
            _ => Err("the answer is not one message".into()),
        }
    }
}

/// Looks at a call's status, which comes after the answer, or instead of one.
fn succeeded(headers: &HeaderMap, needed: bool) -> Fallible<()> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        None if !needed => Ok(()),
        status => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let message = headers.get("grpc-message").map(|message| text(message.as_bytes())).unwrap_or_default();
            Err(format!("status {}: {message}", status.map_or("missing".to_owned(), text)).into())
        }
    }
}
