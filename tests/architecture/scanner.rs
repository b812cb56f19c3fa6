//! The scanner behind the architecture rules: splits a Rust file into code, comments and literals, and finds paths and attributes in it.

use std::ops::Range;

/// One Rust file, and the same text with only its code and with only its comments; all three have the same offsets and lines.
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
    pub comments: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let mut code = text.as_bytes().to_vec();
        let mut comments = blank(text.as_bytes());
        for (range, is_comment) in comments_and_literals(text.as_bytes()) {
            if is_comment {
                comments[range.clone()].copy_from_slice(&text.as_bytes()[range.clone()]);
            }
            let blanked = blank(&code[range.clone()]);
            code[range].copy_from_slice(&blanked);
        }
        let utf8 = |bytes| String::from_utf8(bytes).expect("whole tokens are blanked, so what stays is UTF-8");
        Self { path: path.to_owned(), text: text.to_owned(), code: utf8(code), comments: utf8(comments) }
    }

    pub fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// The code before and after a word, without the space next to it.
    pub fn around(&self, at: usize, word: &str) -> (&str, &str) {
        (self.code[..at].trim_end(), self.code[at + word.len()..].trim_start())
    }

    /// Whether the line, or the comment that ends on the line above, says why this cannot fail.
    pub fn cannot_fail(&self, at: usize) -> bool {
        const EXCUSE: &str = "// cannot fail:";
        let line = self.line(at) - 1;
        let code: Vec<_> = self.code.lines().collect();
        let comments: Vec<_> = self.comments.lines().collect();
        let above = (0..line).rev().take_while(|&line| code[line].trim().is_empty() && !comments[line].trim().is_empty());
        comments[line].contains(EXCUSE) || above.into_iter().any(|line| comments[line].trim_start().starts_with(EXCUSE))
    }

    /// The module path of this file: empty for the crate's roots.
    pub fn module(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut module: Vec<_> = inside.strip_suffix(".rs").unwrap_or(inside).split('/').collect();
        if matches!(module.last(), Some(&("mod" | "lib" | "main"))) {
            module.pop();
        }
        module
    }

    /// Every top-level module that a `crate::` or `super::` path reaches, nested groups included.
    pub fn modules_named(&self) -> Vec<(usize, &str)> {
        let depth = self.module().len();
        let nested = self.inline_modules();
        let mut found = Vec::new();
        for (at, word) in self.words() {
            let (before, after) = self.around(at, word);
            if before.ends_with("::") || !after.starts_with("::") {
                continue;
            }
            let root = depth + nested.iter().filter(|range| range.contains(&at)).count();
            let next = self.code.len() - after.len() + "::".len();
            match word {
                "crate" => self.heads(next, 0, &mut found),
                "super" if root > 0 => self.heads(next, root - 1, &mut found),
                _ => {}
            }
        }
        found
    }

    /// Collects the first names of the use tree at `at` that stand `ups` modules further up.
    fn heads<'a>(&'a self, at: usize, ups: usize, found: &mut Vec<(usize, &'a str)>) {
        let at = self.code.len() - self.code[at..].trim_start().len();
        let rest = &self.code[at..];
        if rest.starts_with('{') {
            let mut item = at + 1;
            let mut depth = 0;
            for (offset, byte) in rest.bytes().enumerate() {
                depth = if byte == b'{' {
                    depth + 1
                } else if byte == b'}' {
                    depth - 1
                } else {
                    depth
                };
                if (byte == b',' && depth == 1) || depth == 0 {
                    self.heads(item, ups, found);
                    item = at + offset + 1;
                }
                if depth == 0 {
                    return;
                }
            }
        }
        let Some((0, word)) = words(rest).next() else {
            if rest.starts_with('*') && ups == 0 {
                found.push((at, "*"));
            }
            return;
        };
        let after = rest[word.len()..].trim_start();
        if ups == 0 {
            found.push((at, word));
        } else if word == "super" && after.starts_with("::") {
            self.heads(self.code.len() - after.len() + "::".len(), ups - 1, found);
        }
    }

    fn inline_modules(&self) -> Vec<Range<usize>> {
        let modules = self.words().filter(|&(_, word)| word == "mod").filter_map(|(at, word)| {
            let (_, after) = self.around(at, word);
            let (_, name) = words(after).next()?;
            let open = after[name.len()..].trim_start();
            let start = self.code.len() - open.len();
            open.starts_with('{').then(|| start..self.closing(start))
        });
        modules.collect()
    }

    /// Whether the word is a crate in a path. `mod sled;` makes a plain `sled::` that file's own module, as it does for the compiler.
    pub fn is_crate_path(&self, at: usize, word: &str) -> bool {
        let (before, after) = self.around(at, word);
        if let Some(before) = before.strip_suffix("::") {
            return !before.ends_with(|c: char| c == '_' || c == '>' || c.is_alphanumeric());
        }
        let keyword = words(before).last().filter(|(at, word)| at + word.len() == before.len()).map(|(_, word)| word);
        let imported = keyword == Some("use") || keyword == Some("crate");
        let local = self.words().any(|(at, _)| self.code[at..].starts_with(&format!("mod {word};")));
        (after.starts_with("::") || imported) && !local
    }

    pub fn attributes(&self) -> Vec<Range<usize>> {
        let starts = self.code.match_indices('#').filter_map(|(at, _)| {
            let rest = self.code[at + 1..].trim_start();
            let open = rest.strip_prefix('!').unwrap_or(rest).trim_start();
            open.starts_with('[').then(|| at..self.code.len() - open.len())
        });
        starts.map(|range| range.start..self.closing(range.end)).collect()
    }

    /// Where the code is compiled for tests alone: the attribute and the item under it, or the whole file.
    pub fn test_ranges(&self) -> Vec<Range<usize>> {
        let for_tests = |range: &Range<usize>| {
            let words: Vec<_> = words(&self.code[range.clone()]).map(|(_, word)| word).collect();
            words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not")
        };
        let ranges = self.attributes().into_iter().filter(for_tests).map(|range| {
            let whole_file = self.code[range.start..].starts_with("#!");
            range.start..if whole_file { self.code.len() } else { self.end_of_item(range.end) }
        });
        ranges.collect()
    }

    /// The files that `#[cfg(test)] mod name;` lines of this file pull in, as prefixes of their paths.
    pub fn files_of_test_modules(&self) -> Vec<String> {
        let base = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|root| base.strip_suffix(root)).unwrap_or(base);
        let mut files = Vec::new();
        for range in self.test_ranges() {
            let item: Vec<_> = words(&self.code[range.clone()]).map(|(_, word)| word).collect();
            if let [.., "mod", name] = item[..] {
                files.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/")]);
            }
        }
        files
    }

    fn end_of_item(&self, mut at: usize) -> usize {
        while at < self.code.len() {
            match self.code.as_bytes()[at] {
                b'(' | b'[' => at = self.closing(at),
                b'{' => return self.closing(at),
                b'}' => return at,
                b';' => return at + 1,
                _ => at += 1,
            }
        }
        at
    }

    /// The offset behind the bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (offset, byte) in self.code.bytes().enumerate().skip(open) {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return offset + 1;
            }
        }
        self.code.len()
    }
}

/// The identifiers and keywords of some code, with their offsets.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    code.split(|c: char| c != '_' && !c.is_alphanumeric()).filter_map(move |word| {
        let start = at;
        let separator = code[start + word.len()..].chars().next().map_or(0, char::len_utf8);
        at = start + word.len() + separator;
        (!word.is_empty()).then_some((start, word))
    })
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect()
}

/// The ranges of the comments (true) and of the string and character literals (false).
fn comments_and_literals(text: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = token_end(text, at);
        if let Some(end) = end {
            found.push((at..end, text[at] == b'/'));
        }
        at = end.unwrap_or(at + 1);
    }
    found
}

/// The end of the comment or literal that starts at `at`, if one does.
fn token_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let find = |from: usize, what: &[u8]| {
        let found = text[from..].windows(what.len()).position(|window| window == what);
        found.map_or(text.len(), |offset| from + offset + what.len())
    };
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment_end(text, at)),
        [b'"', ..] | [b'\'', b'\\', ..] => Some(quoted_end(text, at)),
        [b'\'', first, ..] => {
            // A lifetime has no closing quote right after its first character.
            let width = match first {
                0xF0.. => 4,
                0xE0.. => 3,
                0xC0.. => 2,
                _ => 1,
            };
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        [b'r', ..] => {
            let before = at.checked_sub(1).map_or(b' ', |before| text[before]);
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            let raw =
                rest.get(1 + hashes) == Some(&b'"') && (matches!(before, b'b' | b'c') || !before.is_ascii_alphanumeric() && before != b'_');
            raw.then(|| find(at + hashes + 2, &[b"\"".as_slice(), &b"#".repeat(hashes)].concat()))
        }
        _ => None,
    }
}

fn block_comment_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != text[start] {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}
