//! Backups: everything that a store holds at one point of its changes, in a format that no engine has a part in.
//!
//! [`BackupWriter`] makes bytes of a snapshot's items, [`BackupReader`] makes the items again and trusts nothing that it
//! reads. Both go from the beginning to the end and hold one block in memory. Every format that was ever written stays
//! readable: a backup is the way from one version of a store to another.
//!
//! # Formats 1 and 2
//!
//! A backup is of format 2 where changes were trimmed from the change log, which format 1 cannot say, and of format 1 otherwise.
//! A header, any number of blocks, a trailer, and nothing after it. All numbers are big-endian. A *time* is 8 bytes of seconds
//! since 1970-01-01T00:00:00Z (signed) and 4 of nanoseconds that count forward from there. A *text* is 2 bytes with its length
//! and UTF-8. A *checksum* is XXH3-64.
//!
//! | bytes | the header |
//! | --- | --- |
//! | 16 | `DATELINE BACKUP` and a line feed |
//! | 2 | format, 1 or 2 |
//! | 2 | version of the URL rules that made the canonical URLs |
//! | 16 | id of the store |
//! | 12 | time at which the snapshot was taken |
//! | 8 | articles, each with its latest revision |
//! | 8 | earlier revisions |
//! | 8 | number of the last change that is in it |
//! | 8 | bytes of title, lead and body of the articles |
//! | 8 | bytes of their records as the engine stored them; nothing depends on it |
//! | 4 × 8 | format 2 alone, of the change log: up to which change some may be missing; up to which every superseded one is; up to which deletions may be; how many are missing |
//! | 8 | checksum of all of this |
//!
//! | bytes | a block |
//! | --- | --- |
//! | 1 | 1 |
//! | 4 | how many records it holds; at least 1 |
//! | 4 | bytes of the records; at most 16 MiB |
//! | 4 | bytes of the records, compressed |
//! | 8 | checksum of the block's number (8 bytes, the first is 0), of the 13 bytes above, and of the compressed bytes |
//! | ... | the records, compressed: one zstd frame |
//!
//! | bytes | the trailer |
//! | --- | --- |
//! | 1 | 2 |
//! | 8 | how many blocks there are |
//! | 5 × 8 | how many articles, earlier revisions, tombstones, changes and streams |
//! | 32 | SHA-256 of everything before |
//!
//! A record is one byte with its kind, 4 with the length of its content, and the content. The kinds come in this order, and
//! the records of a kind in theirs, each once: articles and tombstones by date and URL key, earlier revisions by these and the
//! revision, changes by their number, streams by their id.
//!
//! | kind | content |
//! | --- | --- |
//! | 1 article | date, canonical URL, revision (8), number of its change (8), create time, update time, digest (32), fields |
//! | 2 earlier revision | the same |
//! | 3 tombstone | date, canonical URL, last revision (8), number of the change that deleted it (8), time |
//! | 4 change | its number (8), what it did (1: 1 created, 2 updated, 3 deleted), date, canonical URL, revision (8), digest (32), time |
//! | 5 ingest stream | id (text), next item (8), items created, updated, unchanged and rejected (8 each), state (1: 1 open, 2 finished), time, and unless both are none: items deleted (8), bookmark (the rest) |
//!
//! A date is 4 bytes, the number YYYYMMDD; a canonical URL is a text. No revision, change, item or count is above 2^62. A field
//! is one byte with its tag, 4 with its length, and its bytes. Fields that are not set are left out; lists have one an element.
//!
//! | tag | field | tag | field |
//! | --- | --- | --- | --- |
//! | 1 | URL as given | 8 | author |
//! | 2 | title | 9 | keyword |
//! | 3 | lead | 10 | section |
//! | 4 | body | 11 | language |
//! | 5 | publish time | 12 | publisher |
//! | 6 | modify time | 13 | name of an annotation |
//! | 7 | crawl time | 14 | value of the annotation named before |
//!
//! A kind, tag or number that is not known makes a backup unreadable, so that an older version never drops what a newer one
//! wrote. Whoever changes anything here gives it another format number, and keeps reading this one.

mod consistency;
mod primitives;
mod reader;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

pub use reader::BackupReader;
pub use writer::BackupWriter;

use record::Kind;

/// What every backup begins with.
const MAGIC: &[u8; 16] = b"DATELINE BACKUP\n";
/// The format that is written of a store whose change log is whole, and that of one where changes were trimmed.
const FORMAT: u16 = 1;
const FORMAT_TRIMMED: u16 = 2;
/// Bytes of a header.
const HEADER_BYTES: usize = 96;
/// Bytes that a header has more where changes were trimmed.
const TRIMMED_BYTES: usize = 4 * 8;
/// Bytes before the records of a block.
const BLOCK_HEADER_BYTES: usize = 21;
/// Bytes of a trailer.
const TRAILER_BYTES: usize = 1 + 8 + 5 * 8 + DIGEST_BYTES;
const DIGEST_BYTES: usize = 32;
/// The first byte of a block, and that of the trailer.
const BLOCK: u8 = 1;
const TRAILER: u8 = 2;
/// A block is complete when its records have so many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// No block's records have more. The largest article takes 3 MiB and some kilobytes.
const MAX_BLOCK_BYTES: usize = 16 << 20;

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It does not begin as a backup does.
    #[error("it is no backup of dateline: it does not begin like one")]
    NotABackup,
    /// It is of a format that this version does not read.
    #[error("it is a backup of format {0}, and this version reads formats {FORMAT} to {FORMAT_TRIMMED}: use a newer one")]
    Format(u16),
    /// Its canonical URLs were made by other rules.
    #[error("its URLs were made canonical by rules {found}, and this version has rules {own}: use a version that has rules {found}")]
    UrlRules {
        /// The version in the backup.
        found: u16,
        /// The version that is in use here.
        own: u16,
    },
    /// It ends before its end.
    #[error("it was cut off: it ends within {0}")]
    CutOff(Place),
    /// It is not what was written.
    #[error("it is damaged: {place} {detail}")]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there, as the rest of a sentence.
        detail: String,
    },
    /// The items do not come to what the snapshot says that it holds.
    #[error("what it holds does not fit together: {0}")]
    Inconsistent(String),
    /// The operating system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A part of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The header.
    Header,
    /// The block with this number; the first is 0.
    Block(u64),
    /// A record of a block; the first is 0.
    Record {
        /// The block's number.
        block: u64,
        /// The record's number in it.
        record: u32,
    },
    /// The trailer.
    Trailer,
    /// What follows the trailer.
    End,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::Block(block) => write!(f, "block {block}"),
            Self::Record { block, record } => write!(f, "record {record} of block {block}"),
            Self::Trailer => f.write_str("the trailer"),
            Self::End => f.write_str("its end"),
        }
    }
}

/// How many items of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ItemCounts {
    /// Articles, each with its latest revision.
    pub articles: u64,
    /// Earlier revisions.
    pub earlier_revisions: u64,
    /// Deleted articles.
    pub tombstones: u64,
    /// Entries of the change log.
    pub changes: u64,
    /// Positions of ingest streams.
    pub streams: u64,
}

impl ItemCounts {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.articles + self.earlier_revisions + self.tombstones + self.changes + self.streams
    }

    fn count(&mut self, kind: Kind) {
        let count = match kind {
            Kind::Article => &mut self.articles,
            Kind::EarlierRevision => &mut self.earlier_revisions,
            Kind::Tombstone => &mut self.tombstones,
            Kind::Change => &mut self.changes,
            Kind::Stream => &mut self.streams,
        };
        *count += 1;
    }

    fn in_order(&self) -> [u64; 5] {
        [self.articles, self.earlier_revisions, self.tombstones, self.changes, self.streams]
    }
}

/// What a backup came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSummary {
    /// What it holds.
    pub counts: ItemCounts,
    /// How many bytes it has.
    pub bytes: u64,
    /// SHA-256 of all of them.
    pub sha256: [u8; DIGEST_BYTES],
}

impl BackupSummary {
    /// The SHA-256 as 64 lower-case hexadecimal digits.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
