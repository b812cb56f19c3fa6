//! The digest: tells whether two versions of an article differ.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{ArticleDate, Metadata};

/// SHA-256 over what a client says of an article, but for its URL and its crawl time.
///
/// The digest decides whether a write makes a revision, so its input is fixed: for every field that is set, in the order
/// of `Tag`, one byte with the tag, eight bytes with the length (big-endian), and the bytes as received. A list has one
/// such entry an element, a map two an entry (name, value) in byte order of the names. A field added later gets a new tag
/// and, while it is not set, leaves the digests of all earlier articles as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// The digest's field tags. They are part of every stored digest: never change or reuse one.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    Date = 1,
    Title = 2,
    Lead = 3,
    Body = 4,
    PublishTime = 5,
    ModifyTime = 6,
    Author = 7,
    Keyword = 8,
    Section = 9,
    Language = 10,
    Publisher = 11,
    AnnotationName = 12,
    AnnotationValue = 13,
}

impl Digest {
    /// The digest of an article with this date, text and metadata.
    pub fn of(date: ArticleDate, title: &str, lead: &str, body: &str, metadata: &Metadata) -> Self {
        let mut input = DigestInput(Sha256::new());
        input.field(Tag::Date, date.to_string().as_bytes());
        input.text(Tag::Title, title);
        input.text(Tag::Lead, lead);
        input.text(Tag::Body, body);
        for (tag, time) in [(Tag::PublishTime, metadata.publish_time), (Tag::ModifyTime, metadata.modify_time)] {
            if let Some((seconds, nanos)) = time.map(|time| time.parts()) {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&seconds.to_be_bytes());
                bytes[8..].copy_from_slice(&nanos.to_be_bytes());
                input.field(tag, &bytes);
            }
        }
        metadata.authors.iter().for_each(|author| input.field(Tag::Author, author.as_bytes()));
        metadata.keywords.iter().for_each(|keyword| input.field(Tag::Keyword, keyword.as_bytes()));
        input.text(Tag::Section, &metadata.section);
        input.text(Tag::Language, &metadata.language);
        input.text(Tag::Publisher, &metadata.publisher);
        for (name, value) in &metadata.annotations {
            input.field(Tag::AnnotationName, name.as_bytes());
            input.field(Tag::AnnotationValue, value.as_bytes());
        }
        Self(input.0.finalize().into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest that was computed earlier.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses 64 lower-case hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }
}

struct DigestInput(Sha256);

impl DigestInput {
    fn field(&mut self, tag: Tag, bytes: &[u8]) {
        self.0.update([tag as u8]);
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    /// A text field, where empty means not set.
    fn text(&mut self, tag: Tag, text: &str) {
        if !text.is_empty() {
            self.field(tag, text.as_bytes());
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, since every answer carries two of them and formatting byte by byte costs a microsecond each.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(2 * self.0.len());
        for byte in self.0 {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        f.write_str(&hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(title: &str, lead: &str, metadata: &Metadata) -> Digest {
        Digest::of("2024-05-01".parse().unwrap(), title, lead, "body", metadata)
    }

    #[test]
    fn moving_a_byte_between_fields_changes_the_digest() {
        let none = Metadata::default();
        assert_ne!(digest("ab", "c", &none), digest("a", "bc", &none));
        assert_ne!(digest("a", "", &none), digest("", "a", &none));
        let list = |items: &[&str]| Metadata { authors: items.iter().map(ToString::to_string).collect(), ..Metadata::default() };
        assert_ne!(digest("", "", &list(&["a", "b"])), digest("", "", &list(&["ab"])));
        assert_ne!(digest("", "", &list(&["a", ""])), digest("", "", &list(&["a"])));
        let keywords = Metadata { keywords: vec!["a".into()], ..Metadata::default() };
        assert_ne!(digest("", "", &list(&["a"])), digest("", "", &keywords));
    }

    #[test]
    fn crawl_time_does_not_count() {
        let crawled = Metadata { crawl_time: Some("2024-05-01T10:00:00Z".parse().unwrap()), ..Metadata::default() };
        assert_eq!(digest("a", "b", &crawled), digest("a", "b", &Metadata::default()));
        let published = Metadata { publish_time: crawled.crawl_time, ..Metadata::default() };
        assert_ne!(digest("a", "b", &published), digest("a", "b", &Metadata::default()));
    }

    #[test]
    fn the_input_is_fixed_for_ever() {
        // The expected value was computed apart from this code: printf of tag, length and bytes, piped through sha256sum.
        let digest = Digest::of("2024-05-01".parse().unwrap(), "T", "", "B", &Metadata::default());
        assert_eq!(digest.to_string(), "c3e0b83fe43609de81649379bbb7ab405237037d1c624886566d9b366d9b64b3");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex("00"), None);
        assert_eq!(Digest::from_hex(&"G".repeat(64)), None);
    }
}
