//! LZ4 with a dictionary: what articles are encoded with as they come. It takes two thirds of zstd's time to encode and one
//! third to decode, for a quarter less of ratio; ARCHITECTURE.md has the figures that decided.
//!
//! A payload is four bytes that tell which dictionary it was made with, and an LZ4 block (the LZ4 project's Block Format
//! Description), which by itself would decode to another text with another dictionary.

use std::sync::{Mutex, PoisonError};

use lz4rip::block::{DecompressorRef, DictCompressorN, get_maximum_output_size};
use xxhash_rust::xxh3::xxh3_64;

use super::KEPT_BUFFER_BYTES;
use crate::storage::record::RecordError;

/// Places that a compressor remembers: four times the crate's default make real articles 5 % smaller in as much time.
const HASH_ENTRIES: usize = 16 << 10;

/// Tells dictionaries apart.
type Fingerprint = [u8; 4];

fn fingerprint(dictionary: &[u8]) -> Fingerprint {
    let [a, b, c, d, ..] = xxh3_64(dictionary).to_be_bytes();
    [a, b, c, d]
}

/// A dictionary made ready to encode with, by any number of threads at once: each takes a compressor of some hundred kilobytes
/// from those that are idle, or makes one.
pub struct Encoder {
    dictionary: Vec<u8>,
    fingerprint: Fingerprint,
    idle: Mutex<Vec<Compressor>>,
}

struct Compressor {
    compressor: DictCompressorN<HASH_ENTRIES>,
    block: Vec<u8>,
}

impl Encoder {
    /// An empty dictionary is none.
    pub fn new(dictionary: &[u8]) -> Self {
        Self { dictionary: dictionary.to_vec(), fingerprint: fingerprint(dictionary), idle: Mutex::default() }
    }

    /// `None` where it cannot be encoded: never a reason to refuse an article.
    pub fn compress(&self, content: &[u8]) -> Option<Vec<u8>> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut taken = taken.unwrap_or_else(|| Compressor { compressor: DictCompressorN::new(&self.dictionary), block: Vec::new() });
        let Compressor { compressor, block } = &mut taken;
        let most = get_maximum_output_size(content.len());
        if block.len() < most {
            block.resize(most, 0);
        }
        let bytes = compressor.compress_into(content, block).ok()?;
        let payload = [&self.fingerprint[..], &block[..bytes]].concat();
        if block.len() > KEPT_BUFFER_BYTES {
            *block = Vec::new();
        }
        idle().push(taken);
        Some(payload)
    }
}

/// A dictionary to decode with.
#[derive(Debug)]
pub struct Decoder {
    dictionary: Vec<u8>,
    fingerprint: Fingerprint,
}

impl Decoder {
    pub fn new(dictionary: Vec<u8>) -> Self {
        Self { fingerprint: fingerprint(&dictionary), dictionary }
    }

    /// The dictionary itself.
    pub fn dictionary(&self) -> &[u8] {
        &self.dictionary
    }

    /// Appends the decoded content, of at most so many bytes.
    ///
    /// # Errors
    /// [`RecordError::Payload`] where it was made with another dictionary, or is no LZ4 block or one of a longer content.
    pub fn decompress(&self, payload: &[u8], content_bytes: usize, content: &mut Vec<u8>) -> Result<(), RecordError> {
        let (made_with, block) = payload.split_first_chunk().ok_or(RecordError::Short)?;
        if *made_with != self.fingerprint {
            return Err(RecordError::Payload("its dictionary is not the one that it was compressed with".into()));
        }
        let decoded = DecompressorRef::with_dict(&self.dictionary).decompress_append(block, content, content_bytes);
        decoded.map(|_| ()).map_err(|error| RecordError::Payload(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(dictionary: &[u8], contents: &[Vec<u8>]) {
        let (encoder, decoder) = (Encoder::new(dictionary), Decoder::new(dictionary.to_vec()));
        for content in contents {
            let payload = encoder.compress(content).unwrap();
            let mut decoded = Vec::new();
            decoder.decompress(&payload, content.len(), &mut decoded).unwrap();
            assert_eq!(decoded, *content);
        }
    }

    /// Words of a few, so that there is something to find in them and in the dictionary.
    fn words(of: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let words: [&[u8]; 5] = [b"the same ", b"\xd0\xbd\xd0\xbe ", b"and others, ", b"x", &[0; 10]];
        let word = prop::sample::select(words.to_vec()).prop_map(<[u8]>::to_vec);
        prop::collection::vec((word, any::<u8>()), of).prop_map(|words| {
            let mut bytes = Vec::new();
            for (word, extra) in words {
                bytes.extend_from_slice(&word);
                if extra > 200 {
                    bytes.push(extra);
                }
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn whatever_was_encoded_comes_back(dictionary in words(0..8000), contents in prop::collection::vec(words(0..4000), 1..6)) {
            round_trip(&dictionary, &contents);
        }

        #[test]
        fn nonsense_is_refused_and_no_panic(payload in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let decoder = Decoder::new(b"the same and others".repeat(10));
            let mut content = Vec::new();
            let marked = [&decoder.fingerprint[..], &payload].concat();
            for payload in [&payload, &marked] {
                content.clear();
                // It may be one of some content by chance, but never of a longer one.
                drop(decoder.decompress(payload, 1000, &mut content));
                prop_assert!(content.len() <= 1000);
            }
            let mut damaged = Encoder::new(decoder.dictionary()).compress(&b"the same and others, ".repeat(9)).unwrap();
            let at = at.index(damaged.len());
            damaged[at] ^= 1u8 << bit;
            content.clear();
            drop(decoder.decompress(&damaged, 189, &mut content));
            prop_assert!(content.len() <= 189);
        }
    }

    #[test]
    fn contents_at_the_edges_of_the_window_come_back() {
        let text = |bytes: usize, seed: u64| -> Vec<u8> {
            (0..)
                .flat_map(|number: u64| format!("{} of {}; ", xxh3_64(&(number / 3 + seed).to_be_bytes()) % 4000, number % 50).into_bytes())
                .take(bytes)
                .collect()
        };
        for dictionary in [0, 3, 4, 40 << 10, (64 << 10) - 1, 64 << 10, 70_000] {
            let contents = [0, 1, 12, 13, 4000, (16 << 10) - 1, 16 << 10, 24 << 10, (24 << 10) + 1, 65_535, 65_536, 65_537, 300_000];
            round_trip(&text(dictionary, 7), &contents.map(|bytes| text(bytes, 0)));
        }
    }

    #[test]
    fn many_threads_encode_at_once() {
        let dictionary = b"a dictionary of words that come again ".repeat(50);
        let (encoder, decoder) = (Encoder::new(&dictionary), Decoder::new(dictionary));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (encoder, decoder) = (&encoder, &decoder);
                scope.spawn(move || {
                    for number in 0..500 {
                        let content = format!("words that come again, {thread} and {number} ").repeat(5).into_bytes();
                        let mut decoded = Vec::new();
                        decoder.decompress(&encoder.compress(&content).unwrap(), content.len(), &mut decoded).unwrap();
                        assert_eq!(decoded, content);
                    }
                });
            }
        });
        let idle = encoder.idle.lock().unwrap().len();
        assert!((1..=4).contains(&idle), "{idle}");
    }
}
