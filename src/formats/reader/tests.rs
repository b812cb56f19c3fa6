//! Tests of reading files: formats, compression, and what is wrong with them.

use std::io::{self, Cursor, Write};

use super::*;

fn reader(name: &str, bytes: impl Into<Vec<u8>>) -> Result<ArticleReader, ReadError> {
    ArticleReader::from_reader(name, Box::new(Cursor::new(bytes.into())))
}

/// The titles that are read, and the errors in between.
fn outcomes(name: &str, bytes: impl Into<Vec<u8>>) -> Vec<Result<String, String>> {
    let reader = reader(name, bytes).unwrap();
    reader
        .map(|item| item.map(|found| format!("{}@{}", found.draft.title, found.location.line)).map_err(|error| error.to_string()))
        .collect()
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{{\"title\":\"{number}\",\"body\":\"{}\"}}\n", number.wrapping_mul(2_654_435_761))).collect()
}

fn titles(range: std::ops::Range<u32>) -> Vec<Result<String, String>> {
    range.map(|number| Ok(format!("{number}@{}", number + 1))).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 3).unwrap()
}

#[test]
fn reading_goes_on_behind_a_bad_line() {
    let text = "\u{feff}{\"title\":\"a\"}\n\n{\"title\":7}\r\n \n\u{feff}{}\n{\"title\":\"b\"}\r\n{\"title\":\"\u{85}\"}\n{\"title\":\"c\"";
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend(b"}\n\xff\n{\"title\":\"d\"}");
    let found = outcomes("x/articles.ndjson", bytes);
    let expected = [
        Ok("a@1"),
        Err("x/articles.ndjson:3: member `title` is a number, not a string"),
        Err(
            "x/articles.ndjson:5: is not a JSON object: an article is one object on one line, {\"date\": ..., \"url\": ..., \"title\": ...}",
        ),
        Ok("b@6"),
        Ok("\u{85}@7"),
        Ok("c@8"),
        Err("x/articles.ndjson:9: is not valid UTF-8 (byte 1 of the line)"),
        Ok("d@10"),
    ];
    assert_eq!(found, expected.map(|item| item.map(String::from).map_err(String::from)));
}

/// Gives one byte again and again, then a text.
fn long_line(padding: usize, rest: &'static str) -> Box<dyn Read + Send> {
    Box::new(Cursor::new("{}\n{").chain(io::repeat(b' ').take(padding as u64)).chain(Cursor::new(rest)))
}

#[test]
fn a_line_that_is_too_long_is_skipped() {
    let count = |padding, rest| -> Vec<String> {
        let mut reader = ArticleReader::from_reader("-", long_line(padding, rest)).unwrap();
        let found =
            reader.by_ref().map(|item| item.map_or_else(|error| error.to_string(), |found| found.location.line.to_string())).collect();
        assert!(reader.buffer.capacity() <= 3 * MAX_LINE_BYTES);
        found
    };
    let skipped = "standard input:2: the line is longer than 33554432 bytes, and is skipped";
    assert_eq!(count(MAX_LINE_BYTES - 2, "}\n{}"), ["1", "2", "3"]);
    assert_eq!(count(MAX_LINE_BYTES - 1, "}\n{}"), ["1", skipped, "3"]);
    assert_eq!(count(MAX_LINE_BYTES - 2, "}"), ["1", "2"]);
    assert_eq!(count(2 * MAX_LINE_BYTES, "}"), ["1", skipped]);
    assert_eq!(count(3 * MAX_LINE_BYTES, "}\n\n{}\n"), ["1", skipped, "4"]);
}

#[test]
fn a_seed_that_is_too_large_is_an_error() {
    let seed = |body: usize| {
        let text = Cursor::new(" date D U\nT\n\n").chain(io::repeat(b'x').take(body as u64));
        ArticleReader::from_reader("a.txt", Box::new(text)).unwrap().next().unwrap()
    };
    assert_eq!(seed(MAX_SEED_BYTES - 13).unwrap().draft.body.len(), MAX_SEED_BYTES - 13);
    let error = seed(MAX_SEED_BYTES - 12).unwrap_err();
    assert!(!error.is_fatal() && error.to_string().starts_with("a.txt:1: the file holds more than"), "{error}");
}

#[test]
fn one_seed_is_one_article() {
    assert_eq!(outcomes("a.txt", " date D U\nT\nL\n date D V\nB"), [Ok("T@1".to_string())]);
    let wrong = outcomes("seeds/a.txt", "date D U\nT");
    assert_eq!(wrong, [Err("seeds/a.txt:1: lacks the space before `date`: the first line must be ` date YYYY-MM-DD URL`".to_string())]);
}

#[test]
fn the_format_follows_from_the_name_or_the_beginning() {
    let format = |name: &str, bytes: &[u8]| reader(name, bytes).map(|reader| reader.format());
    let seed = b" date D U\n";
    for (name, bytes, expected) in [
        ("-", seed.as_slice(), Format::Seed),
        ("-", "\u{feff} date D U".as_bytes(), Format::Seed),
        ("-", b"{}", Format::Ndjson),
        ("-", b"\n \r\n\t{\"title\":", Format::Ndjson),
        ("-", "\u{feff}{".as_bytes(), Format::Ndjson),
        ("-", b"", Format::Ndjson),
        ("a.dat", &gzip(" date D U"), Format::Seed),
        ("a.dat", &zstd("  {}"), Format::Ndjson),
        ("a.json", seed, Format::Ndjson),
        ("a.txt", b"{}", Format::Seed),
        ("a.txt.gz", b"{}", Format::Seed),
    ] {
        assert_eq!(format(name, bytes).unwrap(), expected, "{name} {bytes:?}");
    }
    for bytes in ["date D U", "[{}]", " dat", "<html>", "\u{feff}x"] {
        let error = format("-", bytes.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("standard input:1: is neither seed text"), "{error}");
    }
    assert!(format("a.ndjson.gz", b"").unwrap_err().to_string().starts_with("a.ndjson.gz:1: the file is empty"));
}

#[test]
fn the_head_that_was_looked_at_is_read_again() {
    for bytes in [lines(0..3000).into_bytes(), gzip(&lines(0..3000)), zstd(&lines(0..3000))] {
        assert_eq!(outcomes("-", bytes), titles(0..3000));
    }
    let blank = format!("{}{{\"title\":\"x\"}}", "\n".repeat(5000));
    assert_eq!(outcomes("-", blank), [Ok("x@5001".to_string())]);
}

#[test]
fn several_members_and_frames_are_one_file() {
    let (first, second, last) = (lines(0..500), lines(500..501), lines(501..1500));
    let (begin, end) = second.split_at(7);
    let first = first + begin;
    let last = end.to_string() + &last;
    let skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
    assert_eq!(outcomes("a.ndjson", [gzip(&first), gzip(""), gzip(&last)].concat()), titles(0..1500));
    assert_eq!(outcomes("a.ndjson.gz", [zstd(&first), zstd(""), zstd(&last)].concat()), titles(0..1500));
    assert_eq!(outcomes("a.ndjson", [&skippable[..], &zstd(&first), skippable, &zstd(&last)].concat()), titles(0..1500));
}

#[test]
fn what_stands_before_a_cut_is_read_and_the_cut_is_told() {
    let text = lines(0..2000);
    for (bytes, exact) in [(gzip(&text), true), (zstd(&text), false), ([zstd(&text[..20_000]), zstd(&text[20_000..])].concat(), false)] {
        for cut in (4..bytes.len()).step_by(97).chain(bytes.len() - 9..bytes.len()) {
            let found = outcomes("a.ndjson", &bytes[..cut]);
            let (error, good) = found.split_last().unwrap();
            assert_eq!(good, &titles(0..2000)[..good.len()], "cut at {cut}");
            let place = format!("a.ndjson:{}: cannot be read from here on (after {cut} bytes of ", good.len() + 1);
            // A cut between two frames cannot be seen, as long as the text ends with a line there.
            let Err(message) = error else { panic!("cut at {cut}: no error") };
            assert!(message.starts_with(&place) || message.contains("is not valid JSON"), "cut at {cut}: {message}");
            // Deflate gives what it has; a zstd block is given as a whole.
            if exact && cut > 1000 {
                assert!(good.len() * bytes.len() > 2000 * (cut - 1000), "cut at {cut}: {} lines only", good.len());
            }
        }
    }
    let cut = &gzip(&text)[..500];
    let mut reader = reader("a.txt", cut).unwrap();
    assert!(reader.next().unwrap().unwrap_err().is_fatal() && reader.next().is_none());
}

#[test]
fn damage_is_told_after_the_lines_before_it() {
    let text = lines(0..60_000);
    for (mut bytes, name) in [(gzip(&text), "gzip"), ([zstd(&text[..text.len() / 2]), zstd(&text[text.len() / 2..])].concat(), "zstd")] {
        let place = bytes.len() * 2 / 3;
        bytes[place..place + 64].fill(0xff);
        let found = outcomes("a.ndjson", bytes);
        let good = found.iter().take_while(|item| item.is_ok()).count();
        assert!(good > 30_000 - 1, "{name}: {good} lines before the damage");
        assert_eq!(found[..29_999], titles(0..60_000)[..29_999], "{name}");
        let message = found.last().unwrap().as_ref().unwrap_err();
        assert!(message.contains("cannot be read from here on") && message.contains(name), "{message}");
    }
    let mut checksum = gzip(&lines(0..10));
    let end = checksum.len() - 8;
    checksum[end] ^= 1;
    let found = outcomes("a.ndjson", checksum);
    assert_eq!((&found[..10], found.len()), (&titles(0..10)[..], 11));
}

#[test]
fn a_zstd_window_that_is_too_large_is_refused() {
    for (window, accepted) in [(27, true), (28, false)] {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(b"{}\n").unwrap();
        let found = outcomes("a.ndjson", encoder.finish().unwrap());
        assert_eq!(found.len() == 1 && found[0].is_ok(), accepted, "{window}: {found:?}");
    }
}

#[test]
fn progress_counts_the_bytes_of_the_file() {
    let bytes = gzip(&lines(0..2000));
    let mut reader = reader("a.ndjson", bytes.clone()).unwrap();
    let progress = reader.progress();
    assert_eq!(reader.by_ref().count(), 2000);
    assert_eq!((reader.bytes_read(), progress.load(Ordering::Relaxed)), (bytes.len() as u64, bytes.len() as u64));
}

#[test]
fn a_failing_disk_ends_the_reading() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk fails"))
        }
    }
    let input = Box::new(Cursor::new("{}\n{}\n{").chain(Failing));
    let found: Vec<_> =
        ArticleReader::from_reader("a.ndjson", input).unwrap().map(|item| item.map_err(|error| error.to_string())).collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].as_ref().unwrap_err(), "a.ndjson:3: cannot be read from here on (after 7 bytes): the disk fails");
    assert!(matches!(ArticleReader::from_reader("-", Box::new(Failing)), Err(ReadError::Io { .. })));
    assert!(matches!(ArticleReader::open(Path::new("/nonexistent/a.txt")), Err(ReadError::Io { .. })));
}
