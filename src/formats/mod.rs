//! Article files: seed text and NDJSON, plain or compressed, read and written one article at a time.
//!
//! Reading gives drafts with the place where each stands, so that whoever checks a draft can say which line of which file is
//! wrong. The module depends on the domain and on blocking I/O alone: it knows of no wire, no storage and no async runtime,
//! and async code reads on a thread of its own.

mod ndjson;
mod reader;
mod seed;
mod source;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use crate::article::ArticleDraft;

pub use ndjson::{MAX_LINE_BYTES, write_ndjson};
pub use reader::ArticleReader;
pub use seed::{MAX_SEED_BYTES, UnwritableError, seed_file_name, seed_text};
pub use source::article_files;

/// How articles stand in a file. Written `seed` or `ndjson`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One article a file: ` date YYYY-MM-DD URL` on the first line, then the title, the lead, and the body to the end.
    ///
    /// Lines end at `\n` and at nothing else; what is missing at the end is empty, and no byte is trimmed. There is no place for metadata.
    Seed,
    /// One JSON object a line, its members named like the fields of an article. Members of other names are annotations.
    Ndjson,
}

impl Format {
    /// The format's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Ndjson => "ndjson",
        }
    }

    /// The format that a file's name promises: `.txt`, or `.ndjson`, `.jsonl` and `.json`, each also with `.gz` or `.zst` after it,
    /// in letters of either case. `None` for every other name.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        match plain.rsplit_once('.')?.1 {
            "txt" => Some(Self::Seed),
            "ndjson" | "jsonl" | "json" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No format of article files has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no format of article files: there are seed and ndjson")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        [Self::Seed, Self::Ndjson].into_iter().find(|format| format.as_str() == name).ok_or(UnknownFormat)
    }
}

/// Where an article stands. Written `seeds/a.txt:1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file's name as given, or `standard input`.
    pub file: Arc<str>,
    /// The line, counted from 1: the article's first one where it has several.
    pub line: u64,
}

impl Location {
    /// Where a field of the article that stands here is found, by the field's name (`date`, `body`, ...).
    ///
    /// In seed text title, lead and body have lines of their own. A field that the format has no line for stands where the article begins.
    pub fn of_field(&self, format: Format, field: &str) -> Self {
        let offset = match (format, field) {
            (Format::Seed, "title") => 1,
            (Format::Seed, "lead") => 2,
            (Format::Seed, "body") => 3,
            _ => 0,
        };
        Self { file: self.file.clone(), line: self.line + offset }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An article as a file states it, not checked yet, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftAt {
    /// Where the article begins.
    pub location: Location,
    /// The article.
    pub draft: ArticleDraft,
}

/// Why a file, or one article of it, could not be read. `Display` is the whole message, the cause included.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What stands at this place is no article. Reading can go on behind it. The description holds no text of the article.
    #[error("{location}: {description}")]
    Malformed {
        /// The line that is wrong.
        location: Location,
        /// What is wrong with it, and what would be right.
        description: String,
    },
    /// The file cannot be read beyond this place: its compressed data are damaged or cut off, or the disk fails.
    #[error("{location}: cannot be read from here on ({progress}): {source}")]
    Broken {
        /// The line that was being read.
        location: Location,
        /// How far reading came, in bytes of the file as it lies on the disk.
        progress: String,
        /// The cause.
        source: io::Error,
    },
    /// The file or folder cannot be opened or listed.
    #[error("{file}: {source}")]
    Io {
        /// Its name as given.
        file: Arc<str>,
        /// The cause.
        source: io::Error,
    },
    /// The folder holds nothing that is named like an article file.
    #[error("{folder}: holds no article file: their names end in .txt, .ndjson, .jsonl or .json, or in one of these and .gz or .zst")]
    NoArticleFile {
        /// The folder's name as given.
        folder: Arc<str>,
    },
}

impl ReadError {
    /// Whether nothing more can be read from the file: everything but [`Malformed`](Self::Malformed).
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Malformed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_formats() {
        for (name, format) in [
            ("a.txt", Some(Format::Seed)),
            ("a.TXT.gz", Some(Format::Seed)),
            ("a.b.ndjson.zst", Some(Format::Ndjson)),
            ("a.jsonl", Some(Format::Ndjson)),
            ("a.json.GZ", Some(Format::Ndjson)),
            ("a.gz", None),
            ("txt", None),
            ("a.txt.gz.gz", None),
            ("a.md", None),
            ("-", None),
        ] {
            assert_eq!(Format::of_name(name), format, "{name}");
        }
        for format in [Format::Seed, Format::Ndjson] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("csv".parse::<Format>(), Err(UnknownFormat));
    }

    #[test]
    fn fields_have_lines() {
        let location = Location { file: "a".into(), line: 1 };
        let line = |format, field| location.of_field(format, field).to_string();
        assert_eq!(["date", "url", "title", "lead", "body"].map(|field| line(Format::Seed, field)), ["a:1", "a:1", "a:2", "a:3", "a:4"]);
        assert_eq!(line(Format::Ndjson, "body"), "a:1");
    }
}
