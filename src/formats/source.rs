//! Where articles are read from: files and folders, plain or compressed, and what format they are in.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::{Format, Location, ReadError, seed};

/// How much is read from the disk at once, and decompressed at once.
const BUFFER_BYTES: usize = 256 << 10;

/// How much compressed data a decoder is given at once. A decoder that meets damage says nothing of what it had decoded from the
/// same piece before; so the piece bounds how many good articles before the damage are lost.
const PIECE_BYTES: usize = 4 << 10;

/// The largest window of a zstd frame, as a power of two: 128 MiB, what the zstd tool accepts too unless it is told otherwise.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How much of a file is looked at where its name does not tell its format.
const HEAD_BYTES: usize = 4 << 10;

/// An opened article file: decompressed text, ready to be read.
pub(super) struct Source {
    /// The file's name as errors give it.
    pub file: Arc<str>,
    /// The text.
    pub input: Box<dyn BufRead + Send>,
    /// What the text is.
    pub format: Format,
    /// Bytes read so far, as they lie in the file.
    pub progress: Arc<AtomicU64>,
    compression: Compression,
}

#[derive(Clone, Copy, PartialEq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file: Arc<str> = path.display().to_string().into();
        match File::open(path) {
            Ok(opened) => Self::new(file, Box::new(opened)),
            Err(source) => Err(ReadError::Io { file, source }),
        }
    }

    pub fn new(file: Arc<str>, raw: Box<dyn Read + Send>) -> Result<Self, ReadError> {
        let progress = Arc::new(AtomicU64::new(0));
        let mut raw = Counted { input: raw, count: progress.clone() };
        let (magic, input) = match read_head(&mut raw, 4, |head| head.len() == 4) {
            Ok(magic) => (magic.clone(), Cursor::new(magic).chain(raw)),
            Err(source) => return Err(ReadError::Io { file, source }),
        };
        let compression = Compression::of(&magic);
        // No tool makes a compressed file of no bytes: this one was cut off, and "no articles" would hide it.
        if magic.is_empty() && [".gz", ".zst"].iter().any(|suffix| file.to_ascii_lowercase().ends_with(suffix)) {
            let description = "the file is empty, which no compressed file is: fetch or write it again".into();
            return Err(ReadError::Malformed { location: Location { file, line: 1 }, description });
        }
        let input: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(BufReader::with_capacity(BUFFER_BYTES, input)),
            Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(Pieces(BufReader::new(input))))),
            Compression::Zstd => match zstd_decoder(Pieces(BufReader::new(input))) {
                Ok(decoder) => Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)),
                Err(source) => return Err(ReadError::Io { file, source }),
            },
        };
        let source = Self { format: Format::Ndjson, file, input, progress, compression };
        match Format::of_name(&source.file) {
            Some(format) => Ok(Self { format, ..source }),
            None => source.recognised(),
        }
    }

    /// The source with the format that its text begins like.
    fn recognised(mut self) -> Result<Self, ReadError> {
        let decided = |head: &[u8]| head.len() >= seed::MAGIC.len() && without_bom(head).iter().any(|byte| !byte.is_ascii_whitespace());
        let head = match read_head(&mut self.input, HEAD_BYTES, decided) {
            Ok(head) => head,
            Err(source) => return Err(self.broken(1, source)),
        };
        self.format = match without_bom(&head) {
            text if text.starts_with(seed::MAGIC.as_bytes()) => Format::Seed,
            text => match text.trim_ascii_start().first() {
                // An empty pipe is a list of no articles.
                None | Some(b'{') => Format::Ndjson,
                Some(_) => {
                    let description = "is neither seed text (the first line is ` date YYYY-MM-DD URL`) nor NDJSON (one JSON object a line), \
                                       plain or compressed with gzip or zstd";
                    return Err(ReadError::Malformed { location: Location { file: self.file, line: 1 }, description: description.into() });
                }
            },
        };
        self.input = Box::new(Cursor::new(head).chain(self.input));
        Ok(self)
    }

    /// The error of reading on in this line.
    pub fn broken(&self, line: u64, source: io::Error) -> ReadError {
        let kind = match self.compression {
            Compression::None => "",
            Compression::Gzip => " of gzip data",
            Compression::Zstd => " of zstd data",
        };
        let progress = format!("after {} bytes{kind}", self.progress.load(Ordering::Relaxed));
        ReadError::Broken { location: Location { file: self.file.clone(), line }, progress, source }
    }
}

impl Compression {
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one, which some tools put first.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn zstd_decoder<R: BufRead>(input: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// The text behind its byte order mark, if it has one.
pub(super) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Reads until there is enough, the input ends, or there are `limit` bytes.
fn read_head(input: &mut impl Read, limit: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut head = vec![0; limit];
    let mut length = 0;
    while length < limit && !enough(&head[..length]) {
        match input.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(length);
    Ok(head)
}

/// Counts what is read.
struct Counted {
    input: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Hands its input out in pieces of at most [`PIECE_BYTES`].
struct Pieces<R>(R);

impl<R: BufRead> Read for Pieces<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Pieces<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf().map(|bytes| &bytes[..bytes.len().min(PIECE_BYTES)])
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// The article files of a folder in byte order of their names, or the path itself where it is no folder.
///
/// Of a folder these are the files whose names promise a [`Format`]; hidden ones, those called README, and folders inside it are
/// left out. Links are followed.
///
/// # Errors
/// Where the path or one of the files does not exist or cannot be looked at, and where a folder holds no article file.
pub fn article_files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let io = |path: &Path, source| ReadError::Io { file: path.display().to_string().into(), source };
    if !fs::metadata(path).map_err(|error| io(path, error))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| io(path, error))? {
        let entry = entry.map_err(|error| io(path, error))?;
        let (file, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let readme = name.split('.').next().is_some_and(|stem| stem.eq_ignore_ascii_case("readme"));
        if name.starts_with('.') || readme || Format::of_name(&name).is_none() {
            continue;
        }
        if !fs::metadata(&file).map_err(|error| io(&file, error))?.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(ReadError::NoArticleFile { folder: path.display().to_string().into() });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_listed_in_order_and_files_are_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let names = |path: &Path| {
            let files = article_files(path)?;
            Ok::<_, ReadError>(files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>())
        };
        for name in ["README.md", "readme.txt", ".hidden.txt", "notes.csv"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("inner.txt")).unwrap();
        assert!(matches!(names(folder.path()), Err(ReadError::NoArticleFile { .. })));
        for name in ["b.txt", "a.ndjson.gz", "B.TXT.zst", "c.jsonl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(folder.path()).unwrap(), ["B.TXT.zst", "a.ndjson.gz", "b.txt", "c.jsonl"]);
        assert_eq!(names(&folder.path().join("notes.csv")).unwrap(), ["notes.csv"]);
        let missing = names(&folder.path().join("nowhere")).unwrap_err();
        assert!(missing.is_fatal() && missing.to_string().contains("nowhere: No such file"), "{missing}");
    }
}
