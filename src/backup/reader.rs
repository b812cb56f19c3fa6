//! From the bytes of a backup to the items of its snapshot. Nothing that is read is trusted.

use std::io::Read;

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::consistency::Consistency;
use super::primitives::Input;
use super::writer::block_checksum;
use super::{
    BLOCK, BLOCK_HEADER_BYTES, BackupError, BackupSummary, DIGEST_BYTES, FORMAT, FORMAT_TRIMMED, HEADER_BYTES, ItemCounts, MAGIC,
    MAX_BLOCK_BYTES, Place, TRAILER, TRAILER_BYTES, TRIMMED_BYTES, record,
};
use crate::article::url::RULES_VERSION;
use crate::storage::{Contents, SnapshotInfo, SnapshotItem, StoreId, Trimmed};

/// Reads a backup, block by block.
pub struct BackupReader<R> {
    input: Hashed<R>,
    info: SnapshotInfo,
    consistency: Consistency,
    decompressor: zstd::bulk::Decompressor<'static>,
    blocks: u64,
    summary: Option<BackupSummary>,
}

impl<R: Read> BackupReader<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// Where this is no backup, or none that this version reads.
    pub fn open(input: R) -> Result<Self, BackupError> {
        let mut input = Hashed { input, sha256: Sha256::new(), bytes: 0 };
        let info = header(&mut input)?;
        let consistency = Consistency::new(&info);
        Ok(Self { input, info, consistency, decompressor: zstd::bulk::Decompressor::new()?, blocks: 0, summary: None })
    }

    /// What the snapshot says that it holds.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// The items so far.
    pub fn counts(&self) -> &ItemCounts {
        self.consistency.counts()
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.input.bytes
    }

    /// What the backup came to; `None` while its end was not read.
    pub fn summary(&self) -> Option<&BackupSummary> {
        self.summary.as_ref()
    }

    /// The items of the next block; `None` at the end. Only then is it certain that everything is there and as it was written.
    ///
    /// # Errors
    /// What is wrong with the backup. There is no going on after that.
    pub fn next_block(&mut self) -> Result<Option<Vec<SnapshotItem>>, BackupError> {
        if self.summary.is_some() {
            return Ok(None);
        }
        let place = Place::Block(self.blocks);
        let mut first = [0];
        self.input.fill(&mut first, place)?;
        match first {
            [BLOCK] => self.block(place).map(Some),
            [TRAILER] => {
                self.summary = Some(self.trailer()?);
                Ok(None)
            }
            [other] => Err(damaged(place, format!("begins with {other}, which neither a block nor the trailer does"))),
        }
    }

    fn block(&mut self, place: Place) -> Result<Vec<SnapshotItem>, BackupError> {
        let mut header = [BLOCK; BLOCK_HEADER_BYTES];
        self.input.fill(&mut header[1..], place)?;
        let (start, checksum) = header.split_at(BLOCK_HEADER_BYTES - 8);
        let of_block = |detail| damaged(place, detail);
        let mut numbers = Input(&start[1..]);
        let mut number = || numbers.length().map_err(of_block);
        let (records, bytes, compressed_bytes) = (number()?, number()?, number()?);
        if bytes > MAX_BLOCK_BYTES || compressed_bytes > zstd::zstd_safe::compress_bound(MAX_BLOCK_BYTES) {
            return Err(of_block(format!("says that it holds {bytes} bytes, {compressed_bytes} compressed, which none does")));
        }
        let mut compressed = Vec::new();
        self.input.read_exactly(compressed_bytes, &mut compressed, place)?;
        if block_checksum(self.blocks, start, &compressed).to_be_bytes() != checksum {
            return Err(of_block("fails its checksum".into()));
        }
        let decompressed = self.decompressor.decompress(&compressed, bytes);
        let decompressed = decompressed.map_err(|error| of_block(format!("cannot be decompressed: {error}")))?;
        if decompressed.len() != bytes {
            return Err(of_block(format!("says that it holds {bytes} bytes, and holds {}", decompressed.len())));
        }
        // The smallest record has more than 5 bytes: what is reserved is bounded by what is there.
        let mut items = Vec::with_capacity(records.min(bytes / 5));
        let mut input = Input(&decompressed);
        while !input.0.is_empty() {
            let place = Place::Record { block: self.blocks, record: items.len() as u32 };
            let item = record::decode(&mut input).map_err(|detail| damaged(place, detail))?;
            self.consistency.take(&item).map_err(BackupError::Inconsistent)?;
            items.push(item);
        }
        if items.len() != records || records == 0 {
            return Err(of_block(format!("says that it holds {records} records, and holds {}", items.len())));
        }
        self.blocks += 1;
        Ok(items)
    }

    fn trailer(&mut self) -> Result<BackupSummary, BackupError> {
        let mut numbers = [0; TRAILER_BYTES - 1 - DIGEST_BYTES];
        self.input.fill(&mut numbers, Place::Trailer)?;
        let expected: [u8; DIGEST_BYTES] = self.input.sha256.clone().finalize().into();
        let mut sha256 = [0; DIGEST_BYTES];
        self.input.fill(&mut sha256, Place::Trailer)?;
        if sha256 != expected {
            return Err(damaged(Place::Trailer, "says that everything before it has another SHA-256 than it has".into()));
        }
        let counts = self.consistency.finish().map_err(BackupError::Inconsistent)?;
        let stated = numbers.chunks_exact(8).map(|number| number.try_into().map_or(0, u64::from_be_bytes));
        if !stated.eq([self.blocks].into_iter().chain(counts.in_order())) {
            return Err(damaged(Place::Trailer, "says that there are other numbers of blocks and records than there are".into()));
        }
        if self.input.has_more()? {
            return Err(damaged(Place::End, "is followed by something".into()));
        }
        Ok(BackupSummary { counts, bytes: self.input.bytes, sha256: self.input.sha256.clone().finalize().into() })
    }
}

fn header(input: &mut Hashed<impl Read>) -> Result<SnapshotInfo, BackupError> {
    let mut header = [0; HEADER_BYTES + TRIMMED_BYTES];
    let (magic, rest) = header.split_at_mut(MAGIC.len());
    match input.fill(magic, Place::Header) {
        Err(BackupError::CutOff(_)) => return Err(BackupError::NotABackup),
        filled => filled?,
    }
    if magic != MAGIC {
        return Err(BackupError::NotABackup);
    }
    let (format, rest) = rest.split_at_mut(2);
    input.fill(format, Place::Header)?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u16::from_be_bytes);
    let length = match number(format) {
        FORMAT => HEADER_BYTES,
        FORMAT_TRIMMED => HEADER_BYTES + TRIMMED_BYTES,
        other => return Err(BackupError::Format(other)),
    };
    let (rest, _) = rest.split_at_mut(length - MAGIC.len() - 2);
    input.fill(rest, Place::Header)?;
    let of_header = |detail: String| damaged(Place::Header, detail);
    let (content, checksum) = header[..length].split_at(length - 8);
    if xxh3_64(content).to_be_bytes() != checksum {
        return Err(of_header("fails its checksum".into()));
    }
    let mut input = Input(&content[MAGIC.len() + 2..]);
    let found = u16::from_be_bytes(input.array().map_err(of_header)?);
    if found != RULES_VERSION {
        return Err(BackupError::UrlRules { found, own: RULES_VERSION });
    }
    let store_id = StoreId(input.array().map_err(of_header)?);
    let create_time = input.time().map_err(of_header)?;
    let mut total = || input.number().map_err(of_header);
    let mut contents = Contents {
        articles: total()?,
        earlier_revisions: total()?,
        last_sequence: total()?,
        text_bytes: total()?,
        record_bytes: total()?,
        trimmed: Trimmed::default(),
    };
    if length > HEADER_BYTES {
        contents.trimmed = Trimmed { horizon: total()?, swept: total()?, deletions: total()?, removed: total()? };
    }
    Ok(SnapshotInfo { store_id, contents, create_time })
}

fn damaged(place: Place, detail: String) -> BackupError {
    BackupError::Damaged { place, detail }
}

/// What is read, with the SHA-256 of it.
struct Hashed<R> {
    input: R,
    sha256: Sha256,
    bytes: u64,
}

impl<R: Read> Hashed<R> {
    fn fill(&mut self, buffer: &mut [u8], place: Place) -> Result<(), BackupError> {
        let mut bytes = Vec::with_capacity(buffer.len());
        self.read_exactly(buffer.len(), &mut bytes, place)?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// Reads so many bytes. What is allocated follows from what is there, whatever the length says.
    fn read_exactly(&mut self, length: usize, bytes: &mut Vec<u8>, place: Place) -> Result<(), BackupError> {
        self.input.by_ref().take(length as u64).read_to_end(bytes)?;
        self.sha256.update(&bytes);
        self.bytes += bytes.len() as u64;
        if bytes.len() == length { Ok(()) } else { Err(BackupError::CutOff(place)) }
    }

    fn has_more(&mut self) -> Result<bool, BackupError> {
        let mut byte = Vec::new();
        Ok(self.input.by_ref().take(1).read_to_end(&mut byte)? > 0)
    }
}
