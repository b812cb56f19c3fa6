//! What the trees hold of a record: its header, and where in the journal its payload is.
//!
//! The value is the header of `storage::record` followed by a [`Location`]. A place that was changed leads to bytes that
//! fail the payload's checksum, which stands in the header, so it needs none of its own.

use super::journal::Location;
use crate::article::ArticleKey;
use crate::storage::StoreError;
use crate::storage::record::{HEADER_BYTES, RecordHeader};

/// A record without its payload.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// The header, verified.
    pub header: RecordHeader,
    /// Where the payload is.
    pub location: Location,
}

impl StoredRecord {
    /// The value for a header and a place.
    pub fn encode(header: &[u8; HEADER_BYTES], location: Location) -> Vec<u8> {
        [&header[..], &location.encode()].concat()
    }

    /// Reads and verifies a value.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] naming the article.
    pub fn decode(key: &ArticleKey, value: &[u8]) -> Result<Self, StoreError> {
        let damaged = |detail: String| StoreError::damaged(format!("article {key}"), detail);
        let header = RecordHeader::decode(key, value).map_err(|error| damaged(error.to_string()))?;
        let location = value.get(HEADER_BYTES..).and_then(|rest| rest.try_into().ok()).map(Location::decode);
        Ok(Self { header, location: location.ok_or_else(|| damaged("the place of its text makes no sense".into()))? })
    }

    /// The same value with the payload at another place.
    pub fn moved(value: &[u8], to: Location) -> Vec<u8> {
        [value.get(..HEADER_BYTES).unwrap_or_default(), &to.encode()].concat()
    }
}
