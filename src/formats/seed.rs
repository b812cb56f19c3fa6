//! Seed text: one article a file, as people write and read it.
//!
//! The first line is ` date YYYY-MM-DD URL`, with the space before `date`; then the title, the lead, and the body to the end
//! of the file. Real bodies hold CR, U+0085 and U+2028, so `\n` alone ends a line, and nothing is trimmed.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::article::ArticleDraft;

/// The largest seed file that is read, in bytes once it is decompressed: 32 MiB.
pub const MAX_SEED_BYTES: usize = 32 << 20;

/// What the first line begins with. The space tells a seed from a text that happens to begin with a date.
pub(super) const MAGIC: &str = " date ";

const FIRST_LINE: &str = "the first line must be ` date YYYY-MM-DD URL`";

/// Reads a whole seed file. The error is the number of the wrong line and what is wrong with it.
pub(super) fn parse(bytes: Vec<u8>) -> Result<ArticleDraft, (u64, String)> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count();
        (line as u64, format!("is not valid UTF-8 (byte {} of the file): seed files are UTF-8 text", valid + 1))
    })?;
    let mut parts = text.splitn(4, '\n');
    let first = parts.next().unwrap_or_default();
    let (date, url) = first_line(first).map_err(|problem| (1, format!("{problem}: {FIRST_LINE}")))?;
    let mut rest = || parts.next().unwrap_or_default().to_owned();
    Ok(ArticleDraft { date: date.into(), url: url.into(), title: rest(), lead: rest(), body: rest(), ..ArticleDraft::default() })
}

fn first_line(line: &str) -> Result<(&str, &str), &'static str> {
    let Some(rest) = line.strip_prefix(MAGIC) else {
        return Err(match line {
            "" => "is empty",
            _ if line.starts_with('\u{feff}') => "begins with a byte order mark",
            _ if line.starts_with("date ") => "lacks the space before `date`",
            _ if line.starts_with('{') => "begins like NDJSON, whose files are named .ndjson, .jsonl or .json",
            _ => "does not begin with ` date `",
        });
    };
    match rest.split_once(' ') {
        Some(("", _)) => Err("has no date after ` date `, or two spaces"),
        None | Some((_, "")) => Err("has no URL after the date"),
        Some(parts) => Ok(parts),
    }
}

/// An article that seed text cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{date} {}: the {field} {problem}, which seed text cannot hold: write NDJSON instead", url.escape_debug())]
pub struct UnwritableError {
    /// The article's date.
    pub date: String,
    /// The article's URL as given.
    pub url: String,
    /// The field that cannot be written, by its name.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The article as seed text: reading it gives the same date, URL, title, lead and body, byte for byte.
///
/// Metadata and annotations have no place in the format and are left out.
///
/// # Errors
/// Where title, lead or URL hold a line feed, where the date holds a space or a line feed, where one of date and URL is
/// empty, and where the text would be larger than [`MAX_SEED_BYTES`].
pub fn seed_text(article: &ArticleDraft) -> Result<Vec<u8>, UnwritableError> {
    let ArticleDraft { date, url, title, lead, body, .. } = article;
    let refuse = |field, problem| Err(UnwritableError { date: date.clone(), url: url.clone(), field, problem });
    for (field, text) in [("date", date), ("url", url), ("title", title), ("lead", lead)] {
        if text.contains('\n') {
            return refuse(field, "holds a line feed");
        }
    }
    for (field, text) in [("date", date), ("url", url)] {
        if text.is_empty() {
            return refuse(field, "is empty");
        }
    }
    if date.contains(' ') {
        return refuse("date", "holds a space");
    }
    let text = format!("{MAGIC}{date} {url}\n{title}\n{lead}\n{body}");
    if text.len() > MAX_SEED_BYTES { refuse("body", "makes a file of more than 32 MiB") } else { Ok(text.into_bytes()) }
}

/// The name of an article's seed file: the date and the first 16 hexadecimal digits of the SHA-256 of the URL,
/// `2024-05-01_d817b80f9a5befb9.txt`. The same for the same date and URL, today and later, and another for any other.
///
/// The date goes into the name as it is, but for characters that might lead out of a folder: these become `_`.
pub fn seed_file_name(date: &str, url: &str) -> String {
    let mut name: String = date.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    name.push('_');
    for byte in &Sha256::digest(url.as_bytes())[..8] {
        // Writing into a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name + ".txt"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<[String; 5], (u64, String)> {
        parse(text.as_bytes().to_vec()).map(|draft| [draft.date, draft.url, draft.title, draft.lead, draft.body])
    }

    #[test]
    fn three_line_feeds_split_and_the_rest_is_the_body() {
        let parts = read(" date 2024-05-01 https://a.example/1\nTitle\nLead\nBody\n\n  more \n").unwrap();
        assert_eq!(parts, ["2024-05-01", "https://a.example/1", "Title", "Lead", "Body\n\n  more \n"]);
        let parts = read(" date D U with a space \r\n\r\na\u{85}b\u{2028}c\x0b\x0c\r\n\r\u{1a}\n").unwrap();
        assert_eq!(parts, ["D", "U with a space \r", "\r", "a\u{85}b\u{2028}c\x0b\x0c\r", "\r\u{1a}\n"]);
    }

    #[test]
    fn missing_parts_are_empty() {
        for (text, parts) in [
            (" date D U", ["", "", ""]),
            (" date D U\n", ["", "", ""]),
            (" date D U\nT", ["T", "", ""]),
            (" date D U\nT\n\n", ["T", "", ""]),
            (" date D U\n\nL", ["", "L", ""]),
            (" date D U\n\n\n\n", ["", "", "\n"]),
        ] {
            assert_eq!(read(text).unwrap()[2..], parts, "{text:?}");
        }
    }

    #[test]
    fn malformed_first_lines_are_explained() {
        for (text, problem) in [
            ("", "is empty"),
            ("\n date D U", "is empty"),
            ("date D U\nT", "lacks the space"),
            ("\u{feff} date D U", "byte order mark"),
            ("{\"date\":1}", "begins like NDJSON"),
            ("  date D U", "does not begin"),
            (" date\nD U", "does not begin"),
            (" date D\nU", "has no URL"),
            (" date D ", "has no URL"),
            (" date  D U", "has no date"),
        ] {
            let (line, description) = read(text).unwrap_err();
            assert!(line == 1 && description.starts_with(problem) || description.contains(problem), "{text:?}: {line}: {description}");
            assert!(description.ends_with("` date YYYY-MM-DD URL`"), "{description}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_placed() {
        let (line, description) = parse(b" date D U\nT\nL\nB\n\xff".to_vec()).unwrap_err();
        assert_eq!((line, description.contains("byte 17 ")), (5, true), "{description}");
    }

    #[test]
    fn what_seed_text_cannot_hold_is_refused_by_name() {
        let draft = ArticleDraft { date: "2024-05-01".into(), url: "u".into(), ..ArticleDraft::default() };
        let field = |draft: ArticleDraft| seed_text(&draft).unwrap_err().field;
        assert_eq!(field(ArticleDraft { title: "a\nb".into(), ..draft.clone() }), "title");
        assert_eq!(field(ArticleDraft { lead: "\n".into(), ..draft.clone() }), "lead");
        assert_eq!(field(ArticleDraft { url: "a\n".into(), ..draft.clone() }), "url");
        assert_eq!(field(ArticleDraft { url: String::new(), ..draft.clone() }), "url");
        assert_eq!(field(ArticleDraft { date: "a b".into(), ..draft.clone() }), "date");
        assert_eq!(field(ArticleDraft { body: "x".repeat(MAX_SEED_BYTES), ..draft.clone() }), "body");
        let message = seed_text(&ArticleDraft { url: "a\nb".into(), ..draft }).unwrap_err().to_string();
        assert_eq!(message, r"2024-05-01 a\nb: the url holds a line feed, which seed text cannot hold: write NDJSON instead");
    }

    #[test]
    fn file_names_are_stable_and_stay_in_their_folder() {
        assert_eq!(seed_file_name("2024-05-01", "https://a.example/1"), "2024-05-01_d817b80f9a5befb9.txt");
        assert_ne!(seed_file_name("2024-05-01", "a"), seed_file_name("2024-05-01", "b"));
        assert!(seed_file_name("../../x", "a").starts_with("______x_"));
    }

    fn text() -> impl Strategy<Value = String> {
        let character = prop_oneof![any::<char>(), prop::sample::select(vec!['\n', '\r', ' ', '\u{85}', '\u{2028}', '\u{feff}'])];
        prop::collection::vec(character, 0..12).prop_map(String::from_iter)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn what_is_written_is_read_back(date in text(), url in text(), title in text(), lead in text(), body in text()) {
            let draft = ArticleDraft { date, url, title, lead, body, ..ArticleDraft::default() };
            if let Ok(bytes) = seed_text(&draft) {
                prop_assert_eq!(parse(bytes), Ok(draft));
            }
        }

        #[test]
        fn any_bytes_are_an_article_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60), seed in any::<bool>()) {
            let bytes = if seed { [b" date D U", &bytes[..]].concat() } else { bytes };
            let _ = parse(bytes);
        }
    }
}
