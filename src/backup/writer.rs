//! From a snapshot's items to the bytes of a backup.

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::consistency::Consistency;
use super::primitives::{put_number, time_bytes};
use super::{
    BLOCK, BLOCK_BYTES, BLOCK_HEADER_BYTES, BackupError, BackupSummary, FORMAT, FORMAT_TRIMMED, HEADER_BYTES, ItemCounts, MAGIC,
    MAX_BLOCK_BYTES, TRAILER, TRIMMED_BYTES, record,
};
use crate::article::url::RULES_VERSION;
use crate::storage::{SnapshotInfo, SnapshotItem, Trimmed};

/// How hard zstd tries.
const ZSTD_LEVEL: i32 = 3;

/// Makes a backup, piece by piece: items go in, and bytes are taken out when it suits. It does no I/O, and much computing.
pub struct BackupWriter {
    consistency: Consistency,
    compressor: zstd::bulk::Compressor<'static>,
    /// The records of the block that is not complete yet.
    records: Vec<u8>,
    record_count: u32,
    blocks: u64,
    /// Bytes that were not taken yet.
    out: Vec<u8>,
    bytes: u64,
    sha256: Sha256,
}

impl BackupWriter {
    /// Begins the backup of a snapshot.
    ///
    /// # Errors
    /// Where zstd cannot be set up.
    pub fn begin(info: &SnapshotInfo) -> Result<Self, BackupError> {
        let mut writer = Self {
            consistency: Consistency::new(info),
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            records: Vec::new(),
            record_count: 0,
            blocks: 0,
            out: Vec::new(),
            bytes: 0,
            sha256: Sha256::new(),
        };
        writer.put(&header(info));
        Ok(writer)
    }

    /// Takes in the next item.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`] where it does not fit to those before it; the backup is of no use then.
    pub fn add(&mut self, item: &SnapshotItem) -> Result<(), BackupError> {
        self.consistency.take(item).map_err(BackupError::Inconsistent)?;
        let before = self.records.len();
        record::encode(item, &mut self.records);
        let length = self.records.len() - before;
        if length > MAX_BLOCK_BYTES {
            return Err(BackupError::Inconsistent(format!("an item has {length} bytes, and the format has room for {MAX_BLOCK_BYTES}")));
        }
        if self.records.len() > MAX_BLOCK_BYTES {
            let last = self.records.split_off(before);
            self.complete_block()?;
            self.records = last;
        }
        self.record_count += 1;
        if self.records.len() >= BLOCK_BYTES { self.complete_block() } else { Ok(()) }
    }

    /// The items so far.
    pub fn counts(&self) -> &ItemCounts {
        self.consistency.counts()
    }

    /// How many bytes there are to take.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Takes the next bytes, at most so many.
    pub fn take(&mut self, limit: usize) -> Vec<u8> {
        let rest = self.out.split_off(limit.min(self.out.len()));
        std::mem::replace(&mut self.out, rest)
    }

    /// Ends the backup: the last bytes are there to be taken now.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`] where the items do not come to what the snapshot says that it holds.
    pub fn finish(&mut self) -> Result<BackupSummary, BackupError> {
        let counts = self.consistency.finish().map_err(BackupError::Inconsistent)?;
        if self.record_count > 0 {
            self.complete_block()?;
        }
        let mut trailer = vec![TRAILER];
        put_number(&mut trailer, self.blocks);
        counts.in_order().into_iter().for_each(|count| put_number(&mut trailer, count));
        self.put(&trailer);
        let sha256: [u8; 32] = self.sha256.clone().finalize().into();
        self.put(&sha256);
        Ok(BackupSummary { counts, bytes: self.bytes, sha256: self.sha256.clone().finalize().into() })
    }

    fn complete_block(&mut self) -> Result<(), BackupError> {
        let compressed = self.compressor.compress(&self.records)?;
        let mut block = Vec::with_capacity(BLOCK_HEADER_BYTES + compressed.len());
        block.push(BLOCK);
        for number in [self.record_count, self.records.len() as u32, compressed.len() as u32] {
            block.extend_from_slice(&number.to_be_bytes());
        }
        let checksum = block_checksum(self.blocks, &block, &compressed);
        put_number(&mut block, checksum);
        block.extend_from_slice(&compressed);
        self.put(&block);
        self.records.clear();
        self.record_count = 0;
        self.blocks += 1;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.extend_from_slice(bytes);
    }
}

/// The checksum of a block: of its number, of what stands before the checksum, and of the compressed records.
pub fn block_checksum(number: u64, start: &[u8], compressed: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(start);
    hasher.update(compressed);
    hasher.digest()
}

fn header(info: &SnapshotInfo) -> Vec<u8> {
    let SnapshotInfo { store_id, contents, create_time } = info;
    let Trimmed { horizon, swept, deletions, removed } = contents.trimmed;
    let is_trimmed = contents.trimmed != Trimmed::default();
    let mut header = Vec::with_capacity(HEADER_BYTES + TRIMMED_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&(if is_trimmed { FORMAT_TRIMMED } else { FORMAT }).to_be_bytes());
    header.extend_from_slice(&RULES_VERSION.to_be_bytes());
    header.extend_from_slice(&store_id.0);
    header.extend_from_slice(&time_bytes(*create_time));
    let totals = [contents.articles, contents.earlier_revisions, contents.last_sequence, contents.text_bytes, contents.record_bytes];
    totals.into_iter().for_each(|total| put_number(&mut header, total));
    if is_trimmed {
        [horizon, swept, deletions, removed].into_iter().for_each(|number| put_number(&mut header, number));
    }
    let checksum = xxhash_rust::xxh3::xxh3_64(&header);
    put_number(&mut header, checksum);
    header
}
