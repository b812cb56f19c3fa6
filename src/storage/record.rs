//! Stored records: articles as the bytes that engines keep. Versioned; every version that was ever written stays readable.
//!
//! Format 1, all numbers big-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | format, 1 |
//! | 1 | codec of the payload: 0 as it is, 1 a zstd frame, 2 an LZ4 block after four bytes that tell the dictionary |
//! | 2 | version of the URL rules that made the key |
//! | 4 | id of the compression dictionary, 0 for none |
//! | 8 | checksum (XXH3-64) of the key and of the header without these 8 bytes |
//! | 8 | checksum (XXH3-64) of the payload |
//! | 8 | sequence: the place of the change that wrote it |
//! | 8 | revision |
//! | 8 | create time, microseconds since 1970 |
//! | 8 | update time, likewise |
//! | 4 | bytes of title, lead and body |
//! | 4 | bytes of the payload, decoded |
//! | 4 | bytes of the payload, encoded |
//! | 32 | digest |
//! | ... | the payload; an engine may keep it apart |
//!
//! The decoded payload is a row of fields: tag (1 byte), length (LEB128), bytes. A field that is not set is left out; a tag
//! that is not known makes the record unreadable, so that an old version never drops what a newer one stored.

mod content;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::compression::{Codec, Compression, Encoded};
use super::planted::{Fault, planted};
use crate::article::{Article, ArticleHead, ArticleKey, Digest, StoredArticle, Timestamp, url::RULES_VERSION};

/// Bytes of the header of format 1.
pub const HEADER_BYTES: usize = 100;
/// The format that is written.
pub const FORMAT: u8 = 1;

/// Why bytes are no record. Where the checksums hold, it was written by another version; otherwise it is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its header says.
    #[error("the record is cut short")]
    Short,
    /// A format that this version does not read.
    #[error("record format {0} is not known")]
    Format(u8),
    /// A checksum does not hold.
    #[error("the {0} fails its checksum")]
    Checksum(&'static str),
    /// The payload cannot be decoded.
    #[error("the payload cannot be decoded: {0}")]
    Payload(String),
    /// The dictionary with this id, which it was compressed with, is missing or damaged.
    #[error("its compression dictionary {0} is not there")]
    Dictionary(u32),
}

/// An article's content, encoded and compressed: the expensive part of writing a record, done apart from the rest.
#[derive(Debug, Clone)]
pub struct EncodedContent {
    codec: Codec,
    dictionary: u32,
    text_bytes: u32,
    content_bytes: u32,
    payload: Vec<u8>,
}

/// What a write adds to an article's content.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The place of the change.
    pub sequence: u64,
    /// The revision.
    pub revision: u64,
    /// When the article was first stored.
    pub create_time: Timestamp,
    /// When this revision was stored.
    pub update_time: Timestamp,
}

impl EncodedContent {
    /// Encodes and compresses an article's content, and offers it as a sample to learn from. Takes some fifteen microseconds of CPU.
    pub fn of(article: &Article, compression: &Compression) -> Self {
        let content = content::encode(article);
        compression.offer(&content);
        let (text_bytes, content_bytes) = (article.text_bytes() as u32, content.len() as u32);
        match compression.encode(&content) {
            Some(Encoded { codec, dictionary, payload }) => Self { codec, dictionary, text_bytes, content_bytes, payload },
            None => Self { codec: Codec::Raw, dictionary: 0, text_bytes, content_bytes, payload: content },
        }
    }

    /// The encoded payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The encoded payload, without a copy.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// Bytes of title, lead and body.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes.into()
    }

    /// The header that goes before the payload.
    pub fn header(&self, key: &ArticleKey, digest: &Digest, stamp: &Stamp) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = FORMAT;
        header[1] = self.codec as u8;
        header[2..4].copy_from_slice(&RULES_VERSION.to_be_bytes());
        header[4..8].copy_from_slice(&self.dictionary.to_be_bytes());
        header[16..24].copy_from_slice(&xxh3_64(&self.payload).to_be_bytes());
        header[24..32].copy_from_slice(&stamp.sequence.to_be_bytes());
        header[32..40].copy_from_slice(&stamp.revision.to_be_bytes());
        header[40..48].copy_from_slice(&stamp.create_time.as_micros().to_be_bytes());
        header[48..56].copy_from_slice(&stamp.update_time.as_micros().to_be_bytes());
        header[56..60].copy_from_slice(&self.text_bytes.to_be_bytes());
        header[60..64].copy_from_slice(&self.content_bytes.to_be_bytes());
        header[64..68].copy_from_slice(&(self.payload.len() as u32).to_be_bytes());
        header[68..100].copy_from_slice(digest.as_bytes());
        let checksum = header_checksum(key, &header);
        header[8..16].copy_from_slice(&checksum.to_be_bytes());
        header
    }
}

/// A record's header, read and verified.
#[derive(Debug, Clone)]
pub struct RecordHeader {
    head: ArticleHead,
    codec: Codec,
    dictionary: u32,
    content_bytes: u32,
    payload_bytes: u32,
    payload_checksum: u64,
}

impl RecordHeader {
    /// Reads and verifies the header of the record under this key.
    ///
    /// # Errors
    /// Where it is damaged, belongs to another key, or is of a version that this one does not read.
    pub fn decode(key: &ArticleKey, record: &[u8]) -> Result<Self, RecordError> {
        let format = *record.first().ok_or(RecordError::Short)?;
        let header: &[u8; HEADER_BYTES] = record.first_chunk().ok_or(RecordError::Short)?;
        let checksum = u64::from_be_bytes(bytes(header, 8));
        if header_checksum(key, header) != checksum {
            return Err(RecordError::Checksum("header"));
        }
        if format != FORMAT {
            return Err(RecordError::Format(format));
        }
        let dictionary = u32::from_be_bytes(bytes(header, 4));
        let codec = match (header[1], dictionary) {
            (0, 0) => Codec::Raw,
            (1, _) => Codec::Zstd,
            (2, 1..) => Codec::Lz4,
            (codec, dictionary) => return Err(RecordError::Payload(format!("codec {codec} with dictionary {dictionary} is not known"))),
        };
        let time = |at| {
            Timestamp::from_micros(i64::from_be_bytes(bytes(header, at)))
                .ok_or_else(|| RecordError::Payload("a time is out of range".into()))
        };
        let head = ArticleHead {
            key: key.clone(),
            revision: u64::from_be_bytes(bytes(header, 32)),
            digest: Digest::from_bytes(bytes(header, 68)),
            sequence: u64::from_be_bytes(bytes(header, 24)),
            create_time: time(40)?,
            update_time: time(48)?,
            text_bytes: u32::from_be_bytes(bytes(header, 56)).into(),
        };
        Ok(Self {
            head,
            codec,
            dictionary,
            content_bytes: u32::from_be_bytes(bytes(header, 60)),
            payload_bytes: u32::from_be_bytes(bytes(header, 64)),
            payload_checksum: u64::from_be_bytes(bytes(header, 16)),
        })
    }

    /// What the store knows of the article.
    pub fn head(&self) -> &ArticleHead {
        &self.head
    }

    /// The same, without a copy.
    pub fn into_head(self) -> ArticleHead {
        self.head
    }

    /// Bytes of the encoded payload, wherever they are kept.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes as usize
    }

    /// Whether this is the payload that belongs to the header.
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes() && xxh3_64(payload) == self.payload_checksum
    }

    /// Verifies and decodes the payload, with the dictionary that it names.
    ///
    /// # Errors
    /// Where it is damaged or not the one that belongs to this header, or its dictionary is not there.
    pub fn decode_article(self, payload: &[u8], compression: &Compression) -> Result<StoredArticle, RecordError> {
        if payload.len() != self.payload_bytes() {
            return Err(RecordError::Short);
        }
        if xxh3_64(payload) != self.payload_checksum && !planted(Fault::ChecksumUnchecked) {
            return Err(RecordError::Checksum("payload"));
        }
        let article = compression
            .decode(self.codec, self.dictionary, payload, self.content_bytes, |content| content::decode(&self.head.key, content))?;
        Ok(StoredArticle { head: self.head, article })
    }
}

/// An article's content, encoded and not compressed: what dictionaries are learned from.
pub fn encode_content(article: &Article) -> Vec<u8> {
    content::encode(article)
}

fn header_checksum(key: &ArticleKey, header: &[u8; HEADER_BYTES]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&key.date.number().to_be_bytes());
    hasher.update(&(key.url.key().len() as u32).to_be_bytes());
    hasher.update(key.url.key().as_bytes());
    hasher.update(&header[..8]);
    hasher.update(&header[16..]);
    hasher.digest()
}

/// `N` bytes of a header from a place that is known to lie inside it.
fn bytes<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{ArticleDraft, Limits};
    use crate::storage::compression::{Dictionary, Gain};

    fn article(body: &str) -> Article {
        let draft = ArticleDraft {
            date: "2024-05-01".into(),
            url: "https://www.example.com/a?utm_source=x".into(),
            title: "A title".into(),
            lead: String::new(),
            body: body.into(),
            publish_time: Some("2024-05-01T06:00:00.123456789Z".parse().unwrap()),
            authors: vec!["A. Author".into(), String::new()],
            language: "en".into(),
            annotations: [("source".into(), "test".into()), ("empty".into(), String::new())].into(),
            ..ArticleDraft::default()
        };
        draft.validate(&Limits::default()).unwrap()
    }

    fn stamp() -> Stamp {
        let time = |text: &str| text.parse().unwrap();
        Stamp { sequence: 42, revision: 7, create_time: time("2024-05-01T08:00:00Z"), update_time: time("2024-05-02T09:00:00.000001Z") }
    }

    fn record(article: &Article) -> Vec<u8> {
        let content = EncodedContent::of(article, &Compression::default());
        [&content.header(article.key(), &article.digest(), &stamp())[..], content.payload()].concat()
    }

    fn decode(key: &ArticleKey, record: &[u8]) -> Result<StoredArticle, RecordError> {
        RecordHeader::decode(key, record)?.decode_article(&record[HEADER_BYTES..], &Compression::default())
    }

    fn golden(hex: &str) -> Vec<u8> {
        let digits = hex.split_whitespace().collect::<String>();
        digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn what_is_stored_comes_back() {
        for body in ["", "short", &"A long body that compresses. ".repeat(1000), "\0\u{1a}\r\n\u{85}"] {
            let article = article(body);
            let stored = decode(article.key(), &record(&article)).unwrap();
            assert_eq!(stored.article, article);
            assert_eq!(stored.head.digest, article.digest());
            assert_eq!((stored.head.sequence, stored.head.revision), (42, 7));
            assert_eq!((stored.head.create_time, stored.head.update_time), (stamp().create_time, stamp().update_time));
            assert_eq!(stored.head.text_bytes, article.text_bytes() as u64);
        }
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let article = article(&"Some text that compresses well. ".repeat(20));
        let record = record(&article);
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut damaged = record.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(article.key(), &damaged).is_err(), "byte {at} bit {bit}");
            }
            assert!(
                RecordHeader::decode(article.key(), &record[..at])
                    .and_then(|header| header.decode_article(&record[HEADER_BYTES.min(at)..at], &Compression::default()))
                    .is_err()
            );
        }
        let other = ArticleKey { date: "2024-05-02".parse().unwrap(), ..article.key().clone() };
        assert_eq!(decode(&other, &record), Err(RecordError::Checksum("header")));
    }

    #[test]
    fn records_of_every_earlier_version_are_read() {
        let record = golden(include_str!("../../tests/golden/record-v1.hex"));
        let article = article(&"Golden text stays readable. ".repeat(4));
        assert_eq!(decode(article.key(), &record).unwrap().article, article);
        assert_eq!(decode(article.key(), &record).unwrap().head.revision, 7);
    }

    #[test]
    fn records_with_a_dictionary_are_read_with_it_and_not_without() {
        let content = golden(include_str!("../../tests/golden/dictionary-v1.hex"));
        let zstd = golden(include_str!("../../tests/golden/record-with-dictionary-v1.hex"));
        let lz4 = golden(include_str!("../../tests/golden/record-lz4-v1.hex"));
        let article = article(&"The golden text of a record with a dictionary stays readable as well. ".repeat(2));
        let compression = Compression::default();
        for record in [&zstd, &lz4] {
            let missing = RecordHeader::decode(article.key(), record).unwrap().decode_article(&record[HEADER_BYTES..], &compression);
            assert_eq!(missing.unwrap_err(), RecordError::Dictionary(3));
        }
        compression.add(vec![Dictionary {
            id: 3,
            create_time: stamp().create_time,
            sequence: 5,
            samples: 4,
            gain: Gain::default(),
            content,
        }]);
        for (record, codec) in [(&zstd, Codec::Zstd), (&lz4, Codec::Lz4)] {
            let header = RecordHeader::decode(article.key(), record).unwrap();
            assert_eq!((header.dictionary, header.codec), (3, codec));
            assert_eq!(header.decode_article(&record[HEADER_BYTES..], &compression).unwrap().article, article);
        }
        // What is written today is read with it too.
        let content = EncodedContent::of(&article, &compression);
        let header = content.header(article.key(), &article.digest(), &stamp());
        let decoded = RecordHeader::decode(article.key(), &header).unwrap().decode_article(content.payload(), &compression);
        assert_eq!((content.dictionary, content.codec, decoded.unwrap().article), (3, Codec::Lz4, article));
    }
}
