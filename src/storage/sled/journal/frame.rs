//! A frame: the payloads and the mutations of one group as bytes.

use xxhash_rust::xxh3::Xxh3;

use super::BLOCK;
use crate::storage::StoreError;
use crate::storage::compression::plain;
use crate::storage::sled::keys::{self, Tree};

const MAGIC: u32 = 0x444c_4632;
pub(super) const HEADER_BYTES: usize = 40;
/// Where in a frame the payloads begin.
pub(super) const PAYLOADS_AT: usize = HEADER_BYTES + 4;
/// A group holds a few megabytes and at most one batch more: longer content is damage.
const MAX_CONTENT_BYTES: u32 = 1 << 30;
/// Mutations of so many bytes are compressed. Fewer lie in few blocks, and are smaller by a part of one.
const MANY_BYTES: usize = 16 << 10;
/// What stands before compressed mutations, where the first one's tree would. Stands in stores: never a tree's number.
const COMPRESSED: u8 = 0xff;

/// One change of one tree: this key has this value, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    pub tree: Tree,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Mutation {
    /// Bytes that it takes in a frame before compression.
    pub fn frame_bytes(&self) -> usize {
        10 + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// One group, ready to be appended.
#[derive(Debug)]
pub struct Frame {
    group: u64,
    bytes: Vec<u8>,
}

impl Frame {
    /// The frame of a group.
    pub fn new<'a>(group: u64, payloads: &[Vec<u8>], mutations: impl Iterator<Item = &'a Mutation> + Clone) -> Self {
        let payload_bytes = payloads.iter().map(Vec::len).sum::<usize>();
        let mutation_bytes = mutations.clone().map(Mutation::frame_bytes).sum::<usize>();
        let mut bytes = Vec::with_capacity((PAYLOADS_AT + payload_bytes + mutation_bytes).next_multiple_of(BLOCK));
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&(payload_bytes as u32).to_be_bytes());
        payloads.iter().for_each(|payload| bytes.extend_from_slice(payload));
        let mutations_at = bytes.len();
        mutations.for_each(|mutation| put_mutation(&mut bytes, mutation));
        if mutation_bytes >= MANY_BYTES
            && let Some(compressed) = plain::compress(&bytes[mutations_at..])
        {
            bytes.truncate(mutations_at);
            bytes.push(COMPRESSED);
            bytes.extend_from_slice(&compressed);
        }
        Self { group, bytes }
    }

    /// About how many bytes it takes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes for the file with this number, padded to whole blocks.
    pub(super) fn seal(mut self, number: u64) -> Vec<u8> {
        let header = FrameHeader { content_bytes: (self.bytes.len() - HEADER_BYTES) as u32, group: self.group };
        let checksums = header.checksums(number, &self.bytes[HEADER_BYTES..]);
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode(number, checksums));
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self.bytes
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub content_bytes: u32,
    pub group: u64,
}

/// What a frame's checksums are or should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksums {
    /// Of everything but the payloads.
    mutations: u64,
    /// Of everything.
    whole: u64,
}

/// How much of a frame is as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intact {
    /// All of it.
    Whole,
    /// All but payloads.
    Mutations,
}

impl Checksums {
    /// How much of a frame is intact that should have these checksums and has those; `None` where nothing can be told.
    pub fn compare(self, found: Self) -> Option<Intact> {
        match (self.whole == found.whole, self.mutations == found.mutations) {
            (true, true) => Some(Intact::Whole),
            (false, true) => Some(Intact::Mutations),
            (_, false) => None,
        }
    }
}

impl FrameHeader {
    fn encode(&self, number: u64, checksums: Checksums) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.content_bytes.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.group.to_be_bytes());
        bytes[16..24].copy_from_slice(&number.to_be_bytes());
        bytes[24..32].copy_from_slice(&checksums.mutations.to_be_bytes());
        bytes[32..].copy_from_slice(&checksums.whole.to_be_bytes());
        bytes
    }

    /// What looks like the head of a frame of the file with this number, with the checksums that the frame should have.
    pub fn decode(bytes: &[u8; HEADER_BYTES], number: u64) -> Option<(Self, Checksums)> {
        let word = |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let header = Self { content_bytes: word(0) as u32, group: word(8) };
        let plausible = word(0) >> 32 == u64::from(MAGIC) && word(16) == number && header.content_bytes <= MAX_CONTENT_BYTES;
        plausible.then_some((header, Checksums { mutations: word(24), whole: word(32) }))
    }

    pub fn checksums(&self, number: u64, content: &[u8]) -> Checksums {
        let head = self.encode(number, Checksums { mutations: 0, whole: 0 });
        let (length, rest) = content.split_at_checked(4).unwrap_or((content, &[]));
        let payload_bytes = length.try_into().map_or(0, |length| u32::from_be_bytes(length) as usize);
        let (payloads, mutations) = rest.split_at_checked(payload_bytes).unwrap_or((rest, &[]));
        let mut of_mutations = Xxh3::new();
        [&head[..24], length, mutations].iter().for_each(|part| of_mutations.update(part));
        let mut of_payloads = Xxh3::new();
        of_payloads.update(payloads);
        let mutations = of_mutations.digest();
        of_payloads.update(&mutations.to_be_bytes());
        Checksums { mutations, whole: of_payloads.digest() }
    }
}

fn put_mutation(out: &mut Vec<u8>, Mutation { tree, key, value }: &Mutation) {
    out.push(*tree as u8);
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(&(value.as_ref().map_or(0, Vec::len) as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value.as_deref().unwrap_or_default());
}

/// The mutations in the content of a frame whose checksum holds.
pub(super) fn decode_mutations(content: &[u8]) -> Result<Vec<Mutation>, StoreError> {
    let nonsense = || StoreError::damaged("a frame of the journal", "its content makes no sense");
    let (payload_bytes, rest) = content.split_first_chunk().ok_or_else(nonsense)?;
    let mut rest = rest.get(u32::from_be_bytes(*payload_bytes) as usize..).ok_or_else(nonsense)?;
    let decompressed;
    if let Some((&COMPRESSED, compressed)) = rest.split_first() {
        decompressed = plain::decompress(compressed, MAX_CONTENT_BYTES as usize).ok_or_else(nonsense)?;
        rest = &decompressed;
    }
    let mut mutations = Vec::new();
    while !rest.is_empty() {
        let (mutation, after) = split_mutation(rest).ok_or_else(nonsense)?;
        mutations.push(mutation);
        rest = after;
    }
    Ok(mutations)
}

fn split_mutation(mutations: &[u8]) -> Option<(Mutation, &[u8])> {
    let ([tree, has_value], rest) = mutations.split_first_chunk()?;
    let (key_bytes, rest) = rest.split_first_chunk()?;
    let (value_bytes, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key_bytes) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_bytes) as usize)?;
    let value = (*has_value == 1).then(|| value.to_vec());
    let (tree, key) = match *tree {
        keys::URLS_OF_FORMAT_5 => (Tree::Urls, keys::url_index_key_of_format_5(key)?),
        number => (Tree::from_number(number)?, key.to_vec()),
    };
    Some((Mutation { tree, key, value }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a load makes them: much alike, but for what no compression makes smaller.
    fn mutations(count: u8) -> Vec<Mutation> {
        let value = |number: u8| [&[number][..], &b"a record's header, and an address ".repeat(8)].concat();
        let mutation = |number| Mutation { tree: Tree::Articles, key: vec![b'k', number], value: Some(value(number)) };
        let cleared = Mutation { tree: Tree::Tombstones, key: b"gone".to_vec(), value: None };
        (0..count).map(mutation).chain([cleared]).collect()
    }

    fn content(payloads: &[Vec<u8>], mutations: &[Mutation]) -> Vec<u8> {
        Frame::new(1, payloads, mutations.iter()).bytes.split_off(HEADER_BYTES)
    }

    #[test]
    fn many_mutations_are_compressed_and_payloads_stay_where_they_are() {
        let payloads = [b"payload".repeat(3), vec![COMPRESSED; 5]];
        let payload_bytes = payloads.concat();
        for count in [0, 10, 100] {
            let (mutations, raw) = (mutations(count), mutations(count).iter().map(Mutation::frame_bytes).sum::<usize>());
            let content = content(&payloads, &mutations);
            assert_eq!(decode_mutations(&content).unwrap(), mutations);
            assert_eq!(content[4..4 + payload_bytes.len()], payload_bytes);
            let bytes = content.len() - 4 - payload_bytes.len();
            if count == 100 { assert!(bytes * 10 < raw, "{bytes} of {raw}") } else { assert_eq!(bytes, raw) }
        }
        assert!(Tree::from_number(COMPRESSED).is_none());
    }

    #[test]
    fn compressed_mutations_that_make_no_sense_are_damage() {
        let content = content(&[], &mutations(100));
        for end in 5..content.len() {
            assert!(decode_mutations(&content[..end]).is_err(), "{end}");
        }
        let nested = [&[0, 0, 0, 0, COMPRESSED][..], &plain::compress(&[COMPRESSED; 100]).unwrap()].concat();
        assert!(decode_mutations(&nested).is_err());
    }

    #[test]
    fn the_index_by_url_of_format_5_is_read_as_the_one_there_is_now() {
        let key = [&b"com,example,)/a\0"[..], &20_240_501_u32.to_be_bytes()].concat();
        let mutation = |has_value| [&[0, 0, 0, 0, keys::URLS_OF_FORMAT_5, has_value, 0, 0, 0, 20, 0, 0, 0, 0], &key[..]].concat();
        let now = keys::url_index_key_of_format_5(&key).unwrap();
        for (has_value, value) in [(1, Some(Vec::new())), (0, None)] {
            let read = decode_mutations(&mutation(has_value)).unwrap();
            assert_eq!(read, [Mutation { tree: Tree::Urls, key: now.clone(), value }]);
        }
        let mut nonsense = mutation(1);
        nonsense[14] = 0;
        let last = nonsense.len() - 1;
        nonsense[last] = 99;
        assert!(decode_mutations(&nonsense).is_err());
    }

    #[test]
    fn compressed_mutations_of_an_earlier_version_are_read() {
        let golden = include_str!("../../../../tests/golden/compressed-mutations-v1.hex").trim();
        let digits: Vec<_> = golden.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        let content: Vec<_> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        assert_eq!(content[4], COMPRESSED);
        assert_eq!(decode_mutations(&content).unwrap(), mutations(100));
    }
}
