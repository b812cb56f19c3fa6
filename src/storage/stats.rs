//! What a store tells of itself.

use super::Contents;
use super::compression::CompressionStats;
use crate::article::{ArticleDate, Timestamp};

/// What a store holds and what it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What it holds.
    pub contents: Contents,
    /// Bytes of the records of earlier revisions as stored, compressed.
    pub earlier_record_bytes: u64,
    /// Days that hold at least one article.
    pub days: u64,
    /// The first and the last of them.
    pub date_span: Option<(ArticleDate, ArticleDate)>,
    /// Bytes of the engine's files.
    pub engine_bytes: u64,
    /// Bytes of the journal's files, in which the payloads of all records are.
    pub journal_bytes: u64,
    /// Bytes of those payloads that are in use; the rest of the journal goes back as it falls out of use.
    pub live_bytes: u64,
    /// When everything was last looked at without a finding.
    pub last_verification: Option<Timestamp>,
    /// Ingest streams of which a position is kept.
    pub streams: u64,
    /// The dictionaries that were learned, and what compression costs; `None` for an engine that does not compress.
    pub compression: Option<CompressionStats>,
}
