//! Dictionaries: as they are stored, and made ready to encode and decode with.

use std::fmt;
use std::sync::OnceLock;

use zstd::zstd_safe::{CDict, DDict};

use super::{Codec, Method, compress_with, lz4};
use crate::article::Timestamp;
use crate::storage::record::RecordError;

/// A dictionary as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Dictionary {
    /// 1, 2, 3 ...: never another dictionary's.
    pub id: u32,
    /// When it was trained.
    pub create_time: Timestamp,
    /// How many changes had been made to the store then.
    pub sequence: u64,
    /// On how many articles.
    pub samples: u32,
    /// What it made of others, which were held out.
    pub gain: Gain,
    /// What zstd knows as a dictionary, and LZ4 as text that goes before.
    pub content: Vec<u8>,
}

/// Bytes of the same contents, encoded without a dictionary and with one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gain {
    /// Without.
    pub plain: u32,
    /// With it.
    pub with_dictionary: u32,
}

impl Gain {
    /// Whether this is as good as another up to so many percent.
    pub fn is_as_good_as(self, other: Self, percent: u64) -> bool {
        let [plain, with, other_plain, other_with] = [self.plain, self.with_dictionary, other.plain, other.with_dictionary].map(u64::from);
        with * other_plain * 100 <= other_with * plain * (100 + percent)
    }
}

/// What there is to tell of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DictionaryInfo {
    /// Its id.
    pub id: u32,
    /// When it was trained.
    pub create_time: Timestamp,
    /// How many changes had been made to the store then.
    pub sequence: u64,
    /// On how many articles.
    pub samples: u32,
    /// What it made of others, which were held out.
    pub gain: Gain,
    /// Bytes of it.
    pub bytes: u64,
}

impl Dictionary {
    /// What there is to tell of it.
    pub fn info(&self) -> DictionaryInfo {
        let Self { id, create_time, sequence, samples, gain, ref content } = *self;
        DictionaryInfo { id, create_time, sequence, samples, gain, bytes: content.len() as u64 }
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

/// A dictionary to decode with.
pub struct Decoder {
    info: DictionaryInfo,
    lz4: lz4::Decoder,
    /// A copy that zstd makes of it, where something was encoded with zstd.
    zstd: OnceLock<Option<DDict<'static>>>,
}

impl Decoder {
    pub fn new(dictionary: Dictionary) -> Self {
        Self { info: dictionary.info(), lz4: lz4::Decoder::new(dictionary.content), zstd: OnceLock::new() }
    }

    pub fn info(&self) -> DictionaryInfo {
        self.info
    }

    /// Made ready for zstd at its first use. `None` where zstd refuses it.
    pub fn prepared(&self) -> Option<&DDict<'static>> {
        self.zstd.get_or_init(|| DDict::try_create(self.lz4.dictionary())).as_ref()
    }

    /// Appends the content of a payload that was encoded with LZ4, of at most so many bytes.
    ///
    /// # Errors
    /// Where the payload makes no sense, or was made with another dictionary.
    pub fn decompress_lz4(&self, payload: &[u8], content_bytes: usize, content: &mut Vec<u8>) -> Result<(), RecordError> {
        self.lz4.decompress(payload, content_bytes, content)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A dictionary to encode with.
pub struct Encoder {
    id: u32,
    prepared: Prepared,
}

enum Prepared {
    Zstd(CDict<'static>),
    Lz4(lz4::Encoder),
}

impl Encoder {
    /// Makes a dictionary ready. `None` where zstd refuses it.
    pub fn prepare(id: u32, content: &[u8], method: Method) -> Option<Self> {
        let prepared = match method {
            Method::Zstd(level) => Prepared::Zstd(CDict::try_create(content, level)?),
            Method::Lz4 => Prepared::Lz4(lz4::Encoder::new(content)),
        };
        Some(Self { id, prepared })
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn codec(&self) -> Codec {
        match self.prepared {
            Prepared::Zstd(_) => Codec::Zstd,
            Prepared::Lz4(_) => Codec::Lz4,
        }
    }

    /// `None` where it cannot be encoded.
    pub fn compress(&self, content: &[u8]) -> Option<Vec<u8>> {
        match &self.prepared {
            Prepared::Zstd(dictionary) => compress_with(content, dictionary),
            Prepared::Lz4(encoder) => encoder.compress(content),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("id", &self.id).finish_non_exhaustive()
    }
}
