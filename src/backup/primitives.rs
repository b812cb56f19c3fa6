//! Numbers, times, dates and texts as a backup has them, and back. Reading checks everything and allocates nothing of a length
//! that is not there.

use crate::article::{ArticleDate, ArticleKey, CanonicalUrl, Digest, Timestamp};

/// Bytes of a time.
pub const TIME_BYTES: usize = 12;

/// Appends 8 bytes.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A time as bytes.
pub fn time_bytes(time: Timestamp) -> [u8; TIME_BYTES] {
    let (seconds, nanos) = time.parts();
    let mut bytes = [0; TIME_BYTES];
    bytes[..8].copy_from_slice(&seconds.to_be_bytes());
    bytes[8..].copy_from_slice(&nanos.to_be_bytes());
    bytes
}

/// Appends a text. URLs and stream ids, which are all the texts there are, are far shorter than what 2 bytes can say.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends date and canonical URL.
pub fn put_key(out: &mut Vec<u8>, key: &ArticleKey) {
    out.extend_from_slice(&key.date.number().to_be_bytes());
    put_text(out, &key.url.to_string());
}

/// Bytes that are taken off from the beginning. Errors are sentences that begin with what was found.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(|| "is shorter than it says".to_owned())?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next bytes, as many as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next 4 bytes.
    pub fn length(&mut self) -> Result<usize, String> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    /// The next 8 bytes.
    pub fn number(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A time.
    pub fn time(&mut self) -> Result<Timestamp, String> {
        let (seconds, nanos) = (i64::from_be_bytes(self.array()?), i32::from_be_bytes(self.array()?));
        Timestamp::from_parts(seconds, nanos).map_err(|_| format!("has a time out of range, {seconds} s and {nanos} ns"))
    }

    /// A text.
    pub fn text(&mut self) -> Result<&'a str, String> {
        let length = u16::from_be_bytes(self.array()?);
        utf8(self.take(length.into())?)
    }

    /// Date and canonical URL.
    pub fn key(&mut self) -> Result<ArticleKey, String> {
        let number = u32::from_be_bytes(self.array()?);
        let date = ArticleDate::from_number(number).ok_or_else(|| format!("has the date {number}, which is none"))?;
        let text = self.text()?;
        let url = CanonicalUrl::parse(text).ok().filter(|url| url.to_string() == text);
        let url = url.ok_or_else(|| format!("has the URL {text:?}, which is not canonical"))?;
        Ok(ArticleKey { date, url })
    }

    /// A digest.
    pub fn digest(&mut self) -> Result<Digest, String> {
        Ok(Digest::from_bytes(self.array()?))
    }
}

/// Bytes as text.
pub fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "has a text that is not UTF-8".to_owned())
}
