//! What GetStatus tells of compression.

use std::time::Duration;

use super::{convert, v1};
use crate::storage::compression::{CodecCost, CompressionStats, DictionaryInfo};

/// The message for it.
pub fn to_wire(stats: &CompressionStats) -> v1::StoreCompression {
    let CompressionStats { dictionaries, encoded, decoded } = stats;
    v1::StoreCompression {
        dictionary_count: dictionaries.len() as i64,
        dictionary_bytes: dictionaries.iter().map(|dictionary| dictionary.bytes as i64).sum(),
        dictionary: dictionaries.last().map(dictionary_to_wire),
        compressed: Some(cost_to_wire(encoded)),
        decompressed: Some(cost_to_wire(decoded)),
    }
}

fn dictionary_to_wire(dictionary: &DictionaryInfo) -> v1::CompressionDictionary {
    v1::CompressionDictionary {
        dictionary_id: dictionary.id.into(),
        byte_count: dictionary.bytes as i64,
        sample_count: dictionary.samples.into(),
        create_time: Some(convert::time_to_wire(dictionary.create_time)),
    }
}

fn cost_to_wire(cost: &CodecCost) -> v1::CompressionCost {
    let CodecCost { articles, content_bytes, payload_bytes, time } = *cost;
    let wire = |time: Duration| prost_types::Duration { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 };
    v1::CompressionCost {
        article_count: articles as i64,
        content_bytes: content_bytes as i64,
        compressed_bytes: payload_bytes as i64,
        time: Some(wire(time)),
    }
}
