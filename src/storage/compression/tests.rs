//! Contents that come back whichever dictionary they were encoded with, and what a store learns.

use std::sync::mpsc::sync_channel;

use super::learning::{Learner, MAX_SAMPLES};
use super::*;
use crate::article::Timestamp;

/// A text of about 3.5 KB: sentences of words, with the same phrases between them that others of its kind have.
fn text(kind: u64, number: u64) -> Vec<u8> {
    let mut state = (kind << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = String::new();
    while text.len() < 3_500 {
        for _ in 0..4 + draw(8) {
            let word = draw(3_000).wrapping_mul(kind + 77);
            text.push_str(&format!("{} ", ["ka", "lo", "mi", "ren", "tas", "vu"].map(|part| part.repeat((word % 3) as usize)).concat()));
            text.push_str(&format!("{word:x} "));
        }
        text.push_str(&format!("said the spokesperson of office {} on the {kind}th day. ", draw(40) * kind));
    }
    text.into_bytes()
}

fn dictionary(id: u32, kind: u64) -> Dictionary {
    let samples: Vec<_> = (0..400).map(|number| text(kind, number)).collect();
    let content = learning::train(&samples).unwrap();
    Dictionary { id, create_time: Timestamp::now(), sequence: 400, samples: 400, gain: Gain::default(), content }
}

fn decode(compression: &Compression, encoded: &Encoded, content_bytes: usize) -> Result<Vec<u8>, RecordError> {
    compression.decode(encoded.codec, encoded.dictionary, &encoded.payload, content_bytes as u32, |content| Ok(content.to_vec()))
}

#[test]
fn what_was_encoded_with_an_older_dictionary_or_none_stays_readable() {
    for (levels, codec) in [(Levels::ARRIVING, Codec::Lz4), (Levels::COMPACTING, Codec::Zstd)] {
        let compression = Compression::new(levels);
        let mut encoded = Vec::new();
        for id in 0..=3u32 {
            if id > 0 {
                compression.add(vec![dictionary(id, id.into())]);
            }
            for number in 1000..1020 {
                let content = text(id.into(), number);
                encoded.push((compression.encode(&content).unwrap(), content));
            }
            let last = encoded.iter().rev().take(20);
            assert!(last.clone().all(|(encoded, _)| encoded.dictionary == id), "dictionary {id} is used from now on");
            let codec = if id == 0 { Codec::Zstd } else { codec };
            assert!(last.clone().all(|(encoded, _)| encoded.codec == codec));
        }
        let read = Compression::new(levels);
        read.add((1..=3).map(|id| dictionary(id, id.into())).collect());
        for (encoded, content) in &encoded {
            assert_eq!(decode(&compression, encoded, content.len()).unwrap(), *content);
            assert_eq!(decode(&read, encoded, content.len()).unwrap(), *content);
        }
        let stats = compression.stats();
        assert_eq!(stats.dictionaries.iter().map(|dictionary| dictionary.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((stats.encoded.articles, stats.decoded.articles), (80, 80));
        let content_bytes: usize = encoded.iter().map(|(_, content)| content.len()).sum();
        let payload_bytes: usize = encoded.iter().map(|(encoded, _)| encoded.payload.len()).sum();
        for cost in [stats.encoded, stats.decoded] {
            assert_eq!((cost.content_bytes, cost.payload_bytes), (content_bytes as u64, payload_bytes as u64));
            assert!(cost.time > Duration::ZERO);
        }
        assert_eq!((compression.next_id(), compression.newest().unwrap().id), (4, 3));
    }
}

#[test]
fn a_dictionary_makes_payloads_smaller() {
    for method in [Method::Lz4, Method::Zstd(1)] {
        let bytes = |with: &[u8]| {
            let encoder = Encoder::prepare(1, with, method).unwrap();
            (1000..1020).map(|number| encoder.compress(&text(1, number)).unwrap().len()).sum::<usize>()
        };
        let (with, without) = (bytes(&dictionary(1, 1).content), bytes(&[]));
        assert!(with * 100 < without * 95, "{method:?}: {with} bytes with a dictionary, {without} without");
    }
}

#[test]
fn a_long_content_is_encoded_without_a_dictionary() {
    let compression = Compression::default();
    compression.add(vec![dictionary(1, 1)]);
    let long = text(1, 1).repeat(6);
    let encoded = compression.encode(&long).unwrap();
    assert_eq!((encoded.codec, encoded.dictionary), (Codec::Zstd, 0));
    assert_eq!(decode(&compression, &encoded, long.len()).unwrap(), long);
}

#[test]
fn a_dictionary_that_is_missing_or_another_gives_an_error_and_never_a_text() {
    for levels in [Levels::ARRIVING, Levels::COMPACTING] {
        let compression = Compression::new(levels);
        compression.add(vec![dictionary(1, 1)]);
        let content = text(1, 1000);
        let encoded = compression.encode(&content).unwrap();
        assert_eq!(encoded.dictionary, 1);
        let without = Compression::new(levels);
        assert_eq!(decode(&without, &encoded, content.len()), Err(RecordError::Dictionary(1)));
        without.add(vec![dictionary(1, 2)]);
        assert!(matches!(decode(&without, &encoded, content.len()), Err(RecordError::Payload(_))));
        let damaged = Compression::new(levels);
        damaged.add(vec![Dictionary { content: vec![0x37, 0xa4, 0x30, 0xec, 1, 2, 3, 4], ..dictionary(1, 1) }]);
        assert!(decode(&damaged, &encoded, content.len()).is_err());
        // What cannot be encoded with it is encoded without.
        if encoded.codec == Codec::Zstd {
            assert_eq!(damaged.encode(&content).unwrap().dictionary, 0);
        }
        damaged.reserve(7);
        assert_eq!(damaged.next_id(), 8);
        let none = Encoded { dictionary: 0, ..encoded.clone() };
        assert!(decode(&compression, &none, content.len()).is_err());
        assert!(decode(&compression, &encoded, content.len() - 1).is_err());
        assert!(decode(&compression, &encoded, content.len() + 1).is_err());
        assert!(decode(&compression, &encoded, u32::MAX as usize).is_err());
        for other in [Codec::Zstd, Codec::Lz4].into_iter().filter(|codec| *codec != encoded.codec) {
            assert!(decode(&compression, &Encoded { codec: other, ..encoded.clone() }, content.len()).is_err());
        }
    }
}

#[test]
fn what_becomes_no_smaller_stays_as_it_is() {
    let compression = Compression::default();
    compression.add(vec![dictionary(1, 1)]);
    let noise: Vec<u8> = (0..100u64).flat_map(|number| xxhash_rust::xxh3::xxh3_64(&number.to_be_bytes()).to_be_bytes()).collect();
    assert_eq!(compression.encode(&noise), None);
    assert_eq!(compression.encode(b""), None);
    assert_eq!(compression.stats().encoded.payload_bytes, 800);
}

#[test]
fn a_dictionary_is_learned_when_there_is_enough_and_it_helps() {
    let compression = Compression::default();
    let mut learner = Learner::default();
    for number in 0..624 {
        learner.offer(&text(1, number));
        assert!(!learner.is_due(number + 1));
    }
    assert_eq!(learner.learn(624, &compression), None);
    learner.offer(&text(1, 624));
    assert!(learner.is_due(625));
    let learned = learner.learn(625, &compression).expect("it helps");
    assert_eq!((learned.id, learned.sequence, learned.samples), (1, 625, 500));
    assert!(learned.gain.with_dictionary * 10 < learned.gain.plain * 9, "{:?}", learned.gain);
    compression.add(vec![learned]);
    assert_eq!(compression.encode(&text(1, 5000)).unwrap().dictionary, 1);

    // More of the same makes it no better, and there is no second try before the store is four times as large.
    for number in 0..1875 {
        learner.offer(&text(1, 10_000 + number));
        assert_eq!(learner.is_due(626 + number), number == 1874, "{number}");
    }
    assert_eq!(learner.learn(2500, &compression), None);
    // Others are worth one of their own.
    (0..1000).for_each(|number| learner.offer(&text(2, number)));
    assert!(!learner.is_due(9_999) && learner.is_due(10_000));
    assert_eq!(learner.learn(10_000, &compression).expect("it helps").id, 2);
    assert_eq!(learner.stride(), 16);
}

#[test]
fn samples_are_bounded_and_from_all_over() {
    let mut learner = Learner::default();
    // Of ten times as many as are kept, those of the second half are as likely to be kept as those of the first.
    for number in 0..10 * MAX_SAMPLES {
        learner.offer(&[if number < 5 * MAX_SAMPLES { 1 } else { 2 }; 3000]);
    }
    let (kept, bytes) = (learner.samples().len(), learner.samples().iter().map(Vec::len).sum::<usize>());
    assert_eq!((kept, bytes), (MAX_SAMPLES, MAX_SAMPLES * 3000));
    let first = learner.samples().iter().filter(|sample| sample[0] == 1).count();
    assert!((240..385).contains(&first), "{first}");
    // Larger ones are cut, and there is a bound for all.
    (0..100 * MAX_SAMPLES).for_each(|_| learner.offer(&[3; 100_000]));
    let bytes = learner.samples().iter().map(Vec::len).sum::<usize>();
    assert!(bytes <= 4 << 20 && learner.samples().iter().all(|sample| sample.len() <= 32 << 10), "{bytes}");
}

#[test]
fn samples_are_offered_at_their_stride_and_nobody_waits_for_room() {
    let compression = Compression::default();
    compression.offer(b"before anybody wants any");
    let (samples, offered) = sync_channel(2);
    compression.offer_to(samples, 10);
    (0..30u8).for_each(|number| compression.offer(&[number]));
    assert_eq!(offered.try_iter().collect::<Vec<_>>(), [[0], [10]]);
    compression.stop_offering();
    compression.offer(b"too late");
    assert!(offered.recv().is_err());
}
