//! Compression of contents, with dictionaries that were learned from the store's own articles where there are any: LZ4 as articles
//! come, and zstd where there is no dictionary yet, where a content is long, and where nobody waits.
//!
//! An engine has one [`Compression`]. A dictionary is added to it once it is stored durably; from then on contents are encoded
//! with the newest, and decoded with whichever their record names. What both cost is counted.

mod dictionary;
pub mod learning;
mod lz4;
pub mod plain;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use zstd::zstd_safe::{self, CCtx, CDict, DCtx, DDict};

use self::dictionary::{Decoder, Encoder};
use super::record::RecordError;

pub use dictionary::{Dictionary, DictionaryInfo, Gain};

/// No decoded content is ever this large: the article limit cannot be configured beyond it.
const MAX_CONTENT_BYTES: u32 = 1 << 30;
/// Bytes of a content that are a sample: dictionaries help with beginnings, and samples wait in memory.
const SAMPLE_BYTES: usize = 32 << 10;

/// Bytes of a buffer that a thread keeps for the next content.
const KEPT_BUFFER_BYTES: usize = 256 << 10;

/// How a payload is encoded. The numbers stand in records: never change or reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
    /// One LZ4 block, with a dictionary.
    Lz4 = 2,
}

/// A content, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// How.
    pub codec: Codec,
    /// The id of the dictionary; 0 for none.
    pub dictionary: u32,
    /// What it became.
    pub payload: Vec<u8>,
}

/// How contents are encoded with a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// LZ4.
    Lz4,
    /// zstd at this level.
    Zstd(i32),
}

/// How hard contents are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// zstd's level without a dictionary.
    pub plain: i32,
    /// With one.
    pub dictionary: Method,
    /// Contents of more bytes are encoded without: they gain little by one, and LZ4 is slower where both together fill its window.
    pub dictionary_up_to: usize,
}

impl Levels {
    /// For articles as they come: ARCHITECTURE.md has the figures that decided.
    pub const ARRIVING: Self = Self { plain: 1, dictionary: Method::Lz4, dictionary_up_to: 16 << 10 };
    /// For compaction, which nobody waits for.
    pub const COMPACTING: Self = Self { plain: 9, dictionary: Method::Zstd(9), dictionary_up_to: usize::MAX };
}

/// What a store has learned, and what using it costs.
#[derive(Debug)]
pub struct Compression {
    known: RwLock<Known>,
    /// Each so-many-th content is offered as a sample; 0 where nobody wants any.
    stride: AtomicU64,
    turn: AtomicU64,
    encoded: Meter,
    decoded: Meter,
}

#[derive(Debug)]
struct Known {
    levels: Levels,
    dictionaries: BTreeMap<u32, Arc<Decoder>>,
    /// Of the newest one.
    encoder: Option<Arc<Encoder>>,
    largest_id: u32,
    samples: Option<SyncSender<Vec<u8>>>,
}

/// What was encoded or decoded since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CodecCost {
    /// Contents of articles.
    pub articles: u64,
    /// Their bytes decoded.
    pub content_bytes: u64,
    /// Their bytes encoded.
    pub payload_bytes: u64,
    /// The time that it took, on whichever thread.
    pub time: Duration,
}

/// What a store has learned, and what using it has cost since the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompressionStats {
    /// All dictionaries in the order of their ids. The last is the one that contents are encoded with.
    pub dictionaries: Vec<DictionaryInfo>,
    /// Encoding.
    pub encoded: CodecCost,
    /// Decoding.
    pub decoded: CodecCost,
}

#[derive(Debug, Default)]
struct Meter {
    articles: AtomicU64,
    content_bytes: AtomicU64,
    payload_bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Meter {
    fn count(&self, content_bytes: usize, payload_bytes: usize, time: Duration) {
        self.articles.fetch_add(1, Ordering::Relaxed);
        self.content_bytes.fetch_add(content_bytes as u64, Ordering::Relaxed);
        self.payload_bytes.fetch_add(payload_bytes as u64, Ordering::Relaxed);
        self.nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> CodecCost {
        let [articles, content_bytes, payload_bytes, nanoseconds] =
            [&self.articles, &self.content_bytes, &self.payload_bytes, &self.nanoseconds].map(|count| count.load(Ordering::Relaxed));
        CodecCost { articles, content_bytes, payload_bytes, time: Duration::from_nanos(nanoseconds) }
    }
}

thread_local! {
    // Contexts of a few hundred kilobytes that are costly to set up and free to use again. Dictionaries are lent to them for one call
    // at a time. The buffers beside them spare the allocator blocks of many kilobytes that live for a moment.
    static COMPRESSOR: RefCell<(Option<CCtx<'static>>, Vec<u8>)> = const { RefCell::new((None, Vec::new())) };
    static DECOMPRESSOR: RefCell<(Option<DCtx<'static>>, Vec<u8>)> = const { RefCell::new((None, Vec::new())) };
}

impl Default for Compression {
    fn default() -> Self {
        Self::new(Levels::ARRIVING)
    }
}

impl Compression {
    /// Without any dictionary.
    pub fn new(levels: Levels) -> Self {
        let known = Known { levels, dictionaries: BTreeMap::new(), encoder: None, largest_id: 0, samples: None };
        let (stride, turn) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { known: RwLock::new(known), stride, turn, encoded: Meter::default(), decoded: Meter::default() }
    }

    /// Encodes at these levels from now on.
    pub fn set_levels(&self, levels: Levels) {
        self.write().levels = levels;
    }

    /// Makes dictionaries known that are stored durably. The one with the largest id is encoded with from now on.
    pub fn add(&self, dictionaries: Vec<Dictionary>) {
        let method = self.read().levels.dictionary;
        let newest = dictionaries.iter().max_by_key(|dictionary| dictionary.id);
        // Outside of the lock: it takes a millisecond.
        let encoder = newest.and_then(|newest| Encoder::prepare(newest.id, &newest.content, method)).map(Arc::new);
        let mut known = self.write();
        if let Some(encoder) = encoder
            && known.encoder.as_ref().is_none_or(|known| known.id() <= encoder.id())
        {
            known.encoder = Some(encoder);
        }
        for dictionary in dictionaries {
            known.largest_id = known.largest_id.max(dictionary.id);
            known.dictionaries.insert(dictionary.id, Arc::new(Decoder::new(dictionary)));
        }
    }

    /// Whether this dictionary is known.
    pub fn knows(&self, id: u32) -> bool {
        self.read().dictionaries.contains_key(&id)
    }

    /// Notes that an id is taken, though its dictionary cannot be read.
    pub fn reserve(&self, id: u32) {
        let mut known = self.write();
        known.largest_id = known.largest_id.max(id);
    }

    /// An id that no dictionary has had.
    pub fn next_id(&self) -> u32 {
        self.read().largest_id + 1
    }

    /// The newest dictionary: the one that contents are encoded with.
    pub fn newest(&self) -> Option<DictionaryInfo> {
        self.read().dictionaries.last_key_value().map(|(_, decoder)| decoder.info())
    }

    /// Dictionaries, and costs so far.
    pub fn stats(&self) -> CompressionStats {
        let dictionaries = self.read().dictionaries.values().map(|decoder| decoder.info()).collect();
        CompressionStats { dictionaries, encoded: self.encoded.read(), decoded: self.decoded.read() }
    }

    /// Sends each so-many-th content there from now on, as long as there is room.
    pub fn offer_to(&self, samples: SyncSender<Vec<u8>>, stride: u64) {
        self.write().samples = Some(samples);
        self.set_stride(stride);
    }

    /// Offers each so-many-th content from now on.
    pub fn set_stride(&self, stride: u64) {
        self.stride.store(stride.max(1), Ordering::Relaxed);
    }

    /// Offers no samples any more: whoever takes them finds the end.
    pub fn stop_offering(&self) {
        self.stride.store(0, Ordering::Relaxed);
        self.write().samples = None;
    }

    /// Offers a content as a sample where it is one's turn. Never waits.
    pub fn offer(&self, content: &[u8]) {
        let stride = self.stride.load(Ordering::Relaxed);
        if stride == 0 || !self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(stride) {
            return;
        }
        if let Some(samples) = &self.read().samples {
            // Where there is no room, the next one is as good.
            drop(samples.try_send(sample_of(content).to_vec()));
        }
    }

    /// Encodes a content; `None` where it is best left as it is.
    pub fn encode(&self, content: &[u8]) -> Option<Encoded> {
        let begun = Instant::now();
        let (encoder, plain) = {
            let known = self.read();
            let levels = known.levels;
            (known.encoder.clone().filter(|_| content.len() <= levels.dictionary_up_to), levels.plain)
        };
        let smaller = |payload: &Vec<u8>| payload.len() < content.len();
        let with_dictionary = encoder.and_then(|encoder| {
            let payload = encoder.compress(content).filter(smaller)?;
            Some(Encoded { codec: encoder.codec(), dictionary: encoder.id(), payload })
        });
        let without = || Some(Encoded { codec: Codec::Zstd, dictionary: 0, payload: compress(content, plain).filter(smaller)? });
        let encoded = with_dictionary.or_else(without);
        let payload_bytes = encoded.as_ref().map_or(content.len(), |encoded| encoded.payload.len());
        self.encoded.count(content.len(), payload_bytes, begun.elapsed());
        encoded
    }

    /// Decodes what [`encode`](Self::encode) made of a content of so many bytes, and gives what `read` makes of that.
    ///
    /// # Errors
    /// [`RecordError::Dictionary`] where the dictionary is not there, and [`RecordError::Payload`] where the payload makes no sense,
    /// or becomes something else than so many bytes; and those of `read`.
    pub fn decode<T>(
        &self,
        codec: Codec,
        dictionary: u32,
        payload: &[u8],
        content_bytes: u32,
        read: impl FnOnce(&[u8]) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let begun = Instant::now();
        let other_length = || RecordError::Payload("its length is not what it should be".into());
        let stated = match codec {
            Codec::Raw => return read(payload),
            Codec::Zstd => zstd_safe::get_frame_content_size(payload).ok().flatten(),
            Codec::Lz4 => Some(content_bytes.into()),
        };
        if content_bytes > MAX_CONTENT_BYTES || stated != Some(content_bytes.into()) {
            return Err(other_length());
        }
        let decoder = match dictionary {
            0 => None,
            id => Some(self.read().dictionaries.get(&id).cloned().ok_or(RecordError::Dictionary(id))?),
        };
        DECOMPRESSOR.with_borrow_mut(|(context, content)| {
            content.clear();
            content.reserve(content_bytes as usize);
            let decoded = match (codec, &decoder) {
                (Codec::Lz4, Some(decoder)) => decoder.decompress_lz4(payload, content_bytes as usize, content),
                (Codec::Lz4, None) => Err(RecordError::Dictionary(dictionary)),
                (_, Some(decoder)) => {
                    decompress(payload, context, content, Some(decoder.prepared().ok_or(RecordError::Dictionary(dictionary))?))
                }
                (_, None) => decompress(payload, context, content, None),
            };
            let result = decoded.and_then(|()| {
                if content.len() != content_bytes as usize {
                    return Err(other_length());
                }
                self.decoded.count(content.len(), payload.len(), begun.elapsed());
                read(content)
            });
            forget_large(content);
            result
        })
    }

    fn encoder(&self) -> Option<Arc<Encoder>> {
        self.read().encoder.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        // Nothing that changes it panics half-way.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a content as is a sample.
fn sample_of(content: &[u8]) -> &[u8] {
    &content[..content.len().min(SAMPLE_BYTES)]
}

/// `None` where zstd refuses: never a reason to refuse an article.
fn compress(content: &[u8], level: i32) -> Option<Vec<u8>> {
    with_compressor(content, |context, buffer| context.compress(buffer, content, level))
}

/// The same with a dictionary.
fn compress_with(content: &[u8], dictionary: &CDict<'_>) -> Option<Vec<u8>> {
    with_compressor(content, |context, buffer| context.compress_using_cdict(buffer, content, dictionary))
}

fn with_compressor(content: &[u8], run: impl FnOnce(&mut CCtx<'static>, &mut Vec<u8>) -> zstd_safe::SafeResult) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|(slot, buffer)| {
        if slot.is_none() {
            *slot = CCtx::try_create();
        }
        buffer.clear();
        buffer.reserve(zstd_safe::compress_bound(content.len()));
        let done = run(slot.as_mut()?, buffer).ok();
        let compressed = done.map(|_| buffer.as_slice().to_vec());
        forget_large(buffer);
        compressed
    })
}

fn decompress(
    payload: &[u8],
    context: &mut Option<DCtx<'static>>,
    content: &mut Vec<u8>,
    dictionary: Option<&DDict<'_>>,
) -> Result<(), RecordError> {
    if context.is_none() {
        *context = DCtx::try_create();
    }
    let context = context.as_mut().ok_or_else(|| RecordError::Payload("there is no memory to decode it".into()))?;
    let decoded = match dictionary {
        Some(dictionary) => context.decompress_using_ddict(content, payload, dictionary),
        None => context.decompress(content, payload),
    };
    decoded.map(|_| ()).map_err(|code| RecordError::Payload(zstd_safe::get_error_name(code).into()))
}

/// A thread keeps no more than it usually needs.
fn forget_large(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BUFFER_BYTES {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests;
