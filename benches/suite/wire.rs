//! Requests as bytes that are ready to be sent, and answers of which no more is read than has to be checked.
//!
//! The generator shares the machine with the server: what it does not encode and decode, the server has. Articles are encoded
//! once, with their length before them, and put together to messages while they are written.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::Fallible;

/// Articles, each encoded with its length before it.
pub type Encoded = Arc<Vec<Bytes>>;

/// An article, encoded with its length before it.
pub fn encode_article(article: &impl Message) -> Bytes {
    article.encode_length_delimited_to_vec().into()
}

/// A request.
#[derive(Clone)]
pub enum Request {
    /// Encoded as a whole.
    Whole(Bytes),
    /// A BatchIngestArticlesRequest of some of the articles.
    Batch(Encoded, Range<usize>),
    /// An IngestArticlesRequest with some of the articles, the first of which has this number in the stream.
    Items(Encoded, Range<usize>, u64),
}

/// The beginning of a field that has a length.
pub const fn tag(field: u8) -> u8 {
    field << 3 | 2
}

impl Request {
    /// Encodes a message as a whole.
    pub fn whole(message: &impl Message) -> Self {
        Self::Whole(message.encode_to_vec().into())
    }

    fn write(self, out: &mut EncodeBuf<'_>) {
        match self {
            Self::Whole(bytes) => out.put(bytes),
            Self::Batch(articles, range) => put_articles(out, 1, &articles[range]),
            Self::Items(articles, range, first_item) => {
                let articles = &articles[range];
                let first = [&[1 << 3][..], &varint(first_item)].concat();
                let length = first.len() + articles.iter().map(|article| 1 + article.len()).sum::<usize>();
                out.put_u8(tag(2));
                out.put(&varint(length as u64)[..]);
                out.put(&first[..]);
                put_articles(out, 2, articles);
            }
        }
    }
}

fn put_articles(out: &mut EncodeBuf<'_>, field: u8, articles: &[Bytes]) {
    out.reserve(articles.iter().map(|article| 1 + article.len()).sum());
    for article in articles {
        out.put_u8(tag(field));
        out.put(&article[..]);
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10);
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Sends [`Request`]s and gives answers as bytes.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Request;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, request: Request, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.write(out);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

/// The fields of a message that have a length, with their numbers; the others are passed over.
///
/// # Errors
/// Where it is no message, or has fields of a kind that Dateline's messages do not have.
pub fn fields(mut message: &[u8]) -> Fallible<Vec<(u64, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => drop(take_varint(&mut message)?),
            2 => {
                let length = take_varint(&mut message)? as usize;
                let (field, rest) = message.split_at_checked(length).ok_or("a field is longer than its message")?;
                fields.push((key >> 3, field));
                message = rest;
            }
            kind => return Err(format!("a field of kind {kind}").into()),
        }
    }
    Ok(fields)
}

fn take_varint(message: &mut &[u8]) -> Fallible<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().ok_or("a message is cut off")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}
