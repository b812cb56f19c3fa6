//! Reading an article file from its beginning to its end.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ndjson::{self, MAX_LINE_BYTES};
use super::seed::{self, MAX_SEED_BYTES};
use super::source::{Source, without_bom};
use super::{DraftAt, Format, Location, ReadError};

/// Reads the articles of one file, one after the other, in memory that [`MAX_LINE_BYTES`] or [`MAX_SEED_BYTES`] bounds.
///
/// The format follows from the file's name (see [`Format::of_name`]), else from how its text begins. gzip and zstd, also several
/// members or frames after one another, are recognised by their first bytes, whatever the name says; a zstd window of more than
/// 128 MiB is refused.
///
/// The iterator goes on behind an article that is [malformed](ReadError::Malformed), and ends after any other error. It gives
/// every article that stands wholly before the place where a file is cut off. Before damage inside compressed data it may
/// lose the articles that the last few kilobytes (gzip) or the damaged block (zstd) hold.
pub struct ArticleReader {
    source: Source,
    /// Lines read so far, the one that is being read included.
    line: u64,
    /// The line that is being read: kept between lines to be filled again.
    buffer: Vec<u8>,
    /// Whether the rest of a line that is too long is still to be passed over.
    skipping: bool,
    ended: bool,
}

impl ArticleReader {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ReadError::Io`] where it cannot be opened, [`ReadError::Malformed`] where neither its name nor its beginning is that of
    /// an article file, and [`ReadError::Broken`] where its beginning cannot be decompressed.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Source::open(path).map(Self::new)
    }

    /// Reads from what is open already. `-` as the name stands for the standard input, and is called so in errors; any other name
    /// is treated as that of a file.
    ///
    /// # Errors
    /// Those of [`open`](Self::open). Waits for the first bytes of the input.
    pub fn from_reader(name: &str, input: Box<dyn Read + Send>) -> Result<Self, ReadError> {
        let file = if name == "-" { "standard input" } else { name };
        Source::new(file.into(), input).map(Self::new)
    }

    fn new(source: Source) -> Self {
        Self { source, line: 0, buffer: Vec::new(), skipping: false, ended: false }
    }

    /// Bytes of the file, compressed as they may be, that were read so far. Reading runs some 256 KiB ahead of the articles.
    pub fn bytes_read(&self) -> u64 {
        self.source.progress.load(Ordering::Relaxed)
    }

    /// What [`bytes_read`](Self::bytes_read) tells, for another thread to look at while this one reads.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.source.progress.clone()
    }

    /// The format that the file is in.
    pub fn format(&self) -> Format {
        self.source.format
    }

    fn location(&self, line: u64) -> Location {
        Location { file: self.source.file.clone(), line }
    }

    fn malformed(&self, line: u64, description: String) -> ReadError {
        ReadError::Malformed { location: self.location(line), description }
    }

    fn broken(&mut self, error: std::io::Error) -> ReadError {
        self.ended = true;
        self.source.broken(self.line, error)
    }

    fn read_seed(&mut self) -> Result<DraftAt, ReadError> {
        self.ended = true;
        let mut bytes = Vec::new();
        let read = (&mut self.source.input).take(MAX_SEED_BYTES as u64 + 1).read_to_end(&mut bytes);
        // An article of which a part is missing is not delivered: nothing tells it from a whole one.
        read.map_err(|error| self.source.broken(1, error))?;
        if bytes.len() > MAX_SEED_BYTES {
            return Err(self.malformed(1, format!("the file holds more than {MAX_SEED_BYTES} bytes, the most that seed text may")));
        }
        let draft = seed::parse(bytes).map_err(|(line, description)| self.malformed(line, description))?;
        Ok(DraftAt { location: self.location(1), draft })
    }

    /// Fills the buffer with the next line, without its line feed; `false` at the end of the file.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        if self.skipping {
            self.skipping = false;
            self.source.input.skip_until(b'\n').map_err(|error| self.broken(error))?;
        }
        self.buffer.clear();
        self.line += 1;
        let limit = MAX_LINE_BYTES as u64 + 1;
        let length = (&mut self.source.input).take(limit).read_until(b'\n', &mut self.buffer).map_err(|error| self.broken(error))?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        if self.buffer.len() > MAX_LINE_BYTES {
            self.skipping = true;
            return Err(self.malformed(self.line, format!("the line is longer than {MAX_LINE_BYTES} bytes, and is skipped")));
        }
        Ok(length > 0)
    }

    fn read_article(&mut self) -> Result<Option<DraftAt>, ReadError> {
        while self.read_line()? {
            let line = if self.line == 1 { without_bom(&self.buffer) } else { &self.buffer };
            match ndjson::parse_line(line) {
                Ok(Some(draft)) => return Ok(Some(DraftAt { location: self.location(self.line), draft })),
                Ok(None) => {}
                Err(description) => return Err(self.malformed(self.line, description)),
            }
        }
        self.ended = true;
        Ok(None)
    }
}

impl Iterator for ArticleReader {
    type Item = Result<DraftAt, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.source.format {
            Format::Seed => Some(self.read_seed()),
            Format::Ndjson => self.read_article().transpose(),
        }
    }
}

impl std::iter::FusedIterator for ArticleReader {}

#[cfg(test)]
mod tests;
