//! The decoded payload of a record: the client-set fields of an article, tag by tag.

use std::collections::BTreeMap;

use super::RecordError;
use crate::article::{Article, ArticleKey, Metadata, Timestamp};

/// The payload's field tags. They are part of every stored record: never change or reuse one.
mod tag {
    pub const URL: u8 = 1;
    pub const TITLE: u8 = 2;
    pub const LEAD: u8 = 3;
    pub const BODY: u8 = 4;
    pub const PUBLISH_TIME: u8 = 5;
    pub const MODIFY_TIME: u8 = 6;
    pub const CRAWL_TIME: u8 = 7;
    pub const AUTHOR: u8 = 8;
    pub const KEYWORD: u8 = 9;
    pub const SECTION: u8 = 10;
    pub const LANGUAGE: u8 = 11;
    pub const PUBLISHER: u8 = 12;
    pub const ANNOTATION_NAME: u8 = 13;
    pub const ANNOTATION_VALUE: u8 = 14;
}

/// Encodes what the client set.
pub fn encode(article: &Article) -> Vec<u8> {
    let metadata = article.metadata();
    let mut out = Vec::with_capacity(article.size() + 128);
    text(&mut out, tag::URL, article.url());
    text(&mut out, tag::TITLE, article.title());
    text(&mut out, tag::LEAD, article.lead());
    text(&mut out, tag::BODY, article.body());
    time(&mut out, tag::PUBLISH_TIME, metadata.publish_time);
    time(&mut out, tag::MODIFY_TIME, metadata.modify_time);
    time(&mut out, tag::CRAWL_TIME, metadata.crawl_time);
    metadata.authors.iter().for_each(|author| field(&mut out, tag::AUTHOR, author.as_bytes()));
    metadata.keywords.iter().for_each(|keyword| field(&mut out, tag::KEYWORD, keyword.as_bytes()));
    text(&mut out, tag::SECTION, &metadata.section);
    text(&mut out, tag::LANGUAGE, &metadata.language);
    text(&mut out, tag::PUBLISHER, &metadata.publisher);
    for (name, value) in &metadata.annotations {
        field(&mut out, tag::ANNOTATION_NAME, name.as_bytes());
        field(&mut out, tag::ANNOTATION_VALUE, value.as_bytes());
    }
    out
}

fn text(out: &mut Vec<u8>, tag: u8, text: &str) {
    if !text.is_empty() {
        field(out, tag, text.as_bytes());
    }
}

fn time(out: &mut Vec<u8>, tag: u8, time: Option<Timestamp>) {
    if let Some((seconds, nanos)) = time.map(Timestamp::parts) {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        field(out, tag, &bytes);
    }
}

fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// The inverse of [`encode`].
///
/// # Errors
/// Where the bytes are not what `encode` wrote.
pub fn decode(key: &ArticleKey, mut content: &[u8]) -> Result<Article, RecordError> {
    let (mut url, mut title, mut lead, mut body) = Default::default();
    let mut metadata = Metadata::default();
    let mut annotations = BTreeMap::new();
    let mut annotation_name = None;
    while let Some((tag, bytes)) = next_field(&mut content)? {
        match tag {
            tag::URL => url = string(bytes)?,
            tag::TITLE => title = string(bytes)?,
            tag::LEAD => lead = string(bytes)?,
            tag::BODY => body = string(bytes)?,
            tag::PUBLISH_TIME => metadata.publish_time = Some(timestamp(bytes)?),
            tag::MODIFY_TIME => metadata.modify_time = Some(timestamp(bytes)?),
            tag::CRAWL_TIME => metadata.crawl_time = Some(timestamp(bytes)?),
            tag::AUTHOR => metadata.authors.push(string(bytes)?),
            tag::KEYWORD => metadata.keywords.push(string(bytes)?),
            tag::SECTION => metadata.section = string(bytes)?,
            tag::LANGUAGE => metadata.language = string(bytes)?,
            tag::PUBLISHER => metadata.publisher = string(bytes)?,
            tag::ANNOTATION_NAME => annotation_name = Some(string(bytes)?),
            tag::ANNOTATION_VALUE => {
                let name = annotation_name.take().ok_or_else(|| RecordError::Payload("an annotation has no name".into()))?;
                annotations.insert(name, string(bytes)?);
            }
            tag => return Err(RecordError::Payload(format!("field tag {tag} is not known"))),
        }
    }
    metadata.annotations = annotations;
    Ok(Article::from_stored(key.clone(), url, title, lead, body, metadata))
}

fn next_field<'a>(content: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, RecordError> {
    let Some((&tag, mut rest)) = content.split_first() else { return Ok(None) };
    let mut length = 0usize;
    for shift in (0..35).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(RecordError::Short)?;
        rest = after;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (bytes, after) = rest.split_at_checked(length).ok_or(RecordError::Short)?;
            *content = after;
            return Ok(Some((tag, bytes)));
        }
    }
    Err(RecordError::Payload("a length is out of range".into()))
}

fn string(bytes: &[u8]) -> Result<String, RecordError> {
    simdutf8::basic::from_utf8(bytes).map(str::to_owned).map_err(|_| RecordError::Payload("a string is not UTF-8".into()))
}

fn timestamp(bytes: &[u8]) -> Result<Timestamp, RecordError> {
    let parts = bytes.split_first_chunk::<8>().and_then(|(seconds, rest)| {
        let nanos: &[u8; 4] = rest.try_into().ok()?;
        Timestamp::from_parts(i64::from_be_bytes(*seconds), i32::from_be_bytes(*nanos)).ok()
    });
    parts.ok_or_else(|| RecordError::Payload("a time is out of range".into()))
}
