//! Learning: when to train a dictionary, on what, and whether it is worth having.
//!
//! Samples are kept as a reservoir: whatever was offered since the last training is as likely to be among them as any other. A fifth
//! of them is held out of the training and decides.

use xxhash_rust::xxh3::xxh3_64;

use super::dictionary::{Dictionary, Encoder, Gain};
use super::{Compression, Levels, sample_of};
use crate::article::Timestamp;

/// Samples that are kept at most.
pub const MAX_SAMPLES: usize = 625;
/// Bytes of them at most. A training takes 0.15 s of CPU for 2 MB; twice as many samples take twice as long and gain nothing.
const MAX_SAMPLES_BYTES: usize = 4 << 20;
/// Samples that a training takes at least, and their bytes where there are not as many as can be kept.
const MIN_SAMPLES: u64 = 625;
const MIN_SAMPLES_BYTES: usize = 2 << 20;
/// A dictionary's bytes at most: at level 1, 16 and 64 KiB make real articles no smaller than 32 KiB do.
const DICTIONARY_BYTES: usize = 40 << 10;
/// zstd advises some hundred times as many bytes of samples as of dictionary. Where there are fewer than this, it is made smaller.
const SAMPLES_TO_DICTIONARY: usize = 32;
/// One training is due when so many times as much was written as at the one before: so there are few, however large a store grows.
const GROWTH: u64 = 4;
/// Each so-many-th sample is held out.
const HELD_OUT: usize = 5;
/// A new dictionary makes what is held out at least so many percent smaller than it is without, or it is not worth having; and as
/// long as the newest does as well as when it was trained, up to so many percent, there is no use in training another.
const WORTHWHILE_PERCENT: u64 = 3;

/// Collects samples, and makes dictionaries of them.
#[derive(Debug, Default)]
pub struct Learner {
    samples: Vec<Vec<u8>>,
    bytes: usize,
    offered: u64,
    /// How many changes there had been at the last training; 0 before the first.
    trained_at: u64,
}

impl Learner {
    /// One that takes the last training to have been when there had been so many changes.
    pub fn new(trained_at: u64) -> Self {
        Self { trained_at, ..Self::default() }
    }

    /// Of how many contents one is wanted as a sample: so that some thousands are offered before the next training is due.
    pub fn stride(&self) -> u64 {
        (self.trained_at / MIN_SAMPLES).max(1)
    }

    /// Takes a content into account.
    pub fn offer(&mut self, content: &[u8]) {
        let content = sample_of(content);
        self.offered += 1;
        if self.samples.len() < MAX_SAMPLES && self.bytes + content.len() <= MAX_SAMPLES_BYTES {
            self.bytes += content.len();
            self.samples.push(content.to_vec());
            return;
        }
        // A hash of a number is as good as any throw of the dice here.
        let place = (xxh3_64(&self.offered.to_be_bytes()) % self.offered) as usize;
        if let Some(sample) = self.samples.get_mut(place) {
            self.bytes = self.bytes - sample.len() + content.len();
            *sample = content.to_vec();
        }
        while self.bytes > MAX_SAMPLES_BYTES
            && let Some(sample) = self.samples.pop()
        {
            self.bytes -= sample.len();
        }
    }

    /// What it keeps.
    #[cfg(test)]
    pub fn samples(&self) -> &[Vec<u8>] {
        &self.samples
    }

    /// Whether it is time to train, where there have been so many changes.
    pub fn is_due(&self, sequence: u64) -> bool {
        let due = self.trained_at == 0 || sequence / GROWTH >= self.trained_at;
        due && self.is_enough()
    }

    /// Whether there are enough samples.
    fn is_enough(&self) -> bool {
        self.offered >= MIN_SAMPLES && (self.bytes >= MIN_SAMPLES_BYTES || self.samples.len() >= MAX_SAMPLES)
    }

    /// Trains a dictionary for a store to which so many changes were made, and forgets the samples. `None` where it is not worth
    /// having next to what is known already, and where there are too few samples. Takes some 0.2 s of CPU.
    pub fn learn(&mut self, sequence: u64, known: &Compression) -> Option<Dictionary> {
        if !self.is_enough() {
            return None;
        }
        let samples = std::mem::take(self).samples;
        self.trained_at = sequence.max(1);
        let (mut training, mut measured) = (Vec::new(), Vec::new());
        for (number, sample) in samples.into_iter().enumerate() {
            if number.is_multiple_of(HELD_OUT) { measured.push(sample) } else { training.push(sample) }
        }
        let bytes = |encode: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
            let encoded = |sample: &Vec<u8>| encode(sample).map_or(sample.len(), |payload| payload.len());
            measured.iter().map(encoded).sum::<usize>() as u32
        };
        let method = Levels::ARRIVING.dictionary;
        let without = Encoder::prepare(0, &[], method)?;
        let plain = bytes(&|sample| without.compress(sample));
        let before = known.encoder().map_or(plain, |encoder| bytes(&|sample| encoder.compress(sample)));
        let now = Gain { plain, with_dictionary: before };
        // That is soon seen; a training would take twenty times as long.
        if known.newest().is_some_and(|newest| now.is_as_good_as(newest.gain, WORTHWHILE_PERCENT)) {
            tracing::debug!(?now, "the compression dictionary is as good as it was");
            return None;
        }
        let content = train(&training)?;
        let encoder = Encoder::prepare(known.next_id(), &content, method)?;
        let gain = Gain { plain, with_dictionary: bytes(&|sample| encoder.compress(sample)) };
        let worth_it = u64::from(gain.with_dictionary) * 100 <= u64::from(before) * (100 - WORTHWHILE_PERCENT);
        let samples = training.len() as u32;
        tracing::info!(samples, plain, before, now = gain.with_dictionary, worth_it, "trained a compression dictionary");
        worth_it.then(|| Dictionary { id: encoder.id(), create_time: Timestamp::now(), sequence, samples, gain, content })
    }
}

/// Trains a dictionary on samples. `None` where there are too few, or zstd finds nothing in them.
pub fn train(samples: &[impl AsRef<[u8]>]) -> Option<Vec<u8>> {
    let bytes = samples.iter().map(|sample| sample.as_ref().len()).sum::<usize>();
    zstd::dict::from_samples(samples, (bytes / SAMPLES_TO_DICTIONARY).min(DICTIONARY_BYTES)).ok()
}
