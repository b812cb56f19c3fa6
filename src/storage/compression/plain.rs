//! zstd without a dictionary and at its fastest level, for what an engine keeps beside the articles.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

thread_local! {
    // Kept, since making one takes longer than compressing a kilobyte.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `None` where it would not be smaller.
pub fn compress(content: &[u8]) -> Option<Vec<u8>> {
    let compressed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(1).ok();
        }
        slot.as_mut()?.compress(content).ok()
    });
    compressed.filter(|compressed| compressed.len() < content.len())
}

/// `None` where zstd makes no sense of it, or it would be larger than this.
pub fn decompress(compressed: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
    let bytes = zstd::zstd_safe::get_frame_content_size(compressed).ok().flatten()?;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= max_bytes)?;
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        slot.as_mut()?.decompress(compressed, bytes).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back_and_nonsense_does_not() {
        let content = b"the same again and ".repeat(100);
        let compressed = compress(&content).unwrap();
        assert!(compressed.len() < content.len());
        assert_eq!(decompress(&compressed, content.len()), Some(content.clone()));
        assert_eq!(decompress(&compressed, content.len() - 1), None);
        assert_eq!(compress(b"short"), None);
        assert_eq!(decompress(&compressed[..compressed.len() - 1], content.len()), None);
        assert_eq!(decompress(&content, content.len()), None);
    }
}
