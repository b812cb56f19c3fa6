//! Dictionaries: as they are stored, and made ready for zstd.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use zstd::zstd_safe::{CDict, DDict};

use super::compress_with;
use crate::article::Timestamp;

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
    /// What zstd knows as a dictionary.
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

/// A dictionary to decode with. zstd keeps a copy of it, so what it was made of goes once that is there.
pub struct Decoder {
    info: DictionaryInfo,
    content: Mutex<Vec<u8>>,
    prepared: OnceLock<Option<DDict<'static>>>,
}

impl Decoder {
    pub fn new(dictionary: Dictionary) -> Self {
        Self { info: dictionary.info(), content: Mutex::new(dictionary.content), prepared: OnceLock::new() }
    }

    pub fn info(&self) -> DictionaryInfo {
        self.info
    }

    /// Made ready at its first use. `None` where zstd refuses it.
    pub fn prepared(&self) -> Option<&DDict<'static>> {
        let prepare = || DDict::try_create(&std::mem::take(&mut *self.content.lock().unwrap_or_else(PoisonError::into_inner)));
        self.prepared.get_or_init(prepare).as_ref()
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
    prepared: CDict<'static>,
}

impl Encoder {
    /// Makes a dictionary ready for a level. `None` where zstd refuses it.
    pub fn prepare(id: u32, content: &[u8], level: i32) -> Option<Self> {
        Some(Self { id, prepared: CDict::try_create(content, level)? })
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// `None` where zstd refuses.
    pub fn compress(&self, content: &[u8]) -> Option<Vec<u8>> {
        compress_with(content, &self.prepared)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("id", &self.id).finish_non_exhaustive()
    }
}
