//! The layout of this package and the direction of its imports, as a test: a rule is then broken knowingly or not at all.
//!
//! The scanner reads text and not syntax trees, so that the test needs no further crate. It first takes comments and literals away, so
//! prose and messages never trigger a rule. Every rule is also run against a planted violation, so it cannot hold by finding nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

// A file of its own under tests/ would be a test program of its own.
#[path = "architecture/scanner.rs"]
mod scanner;

use scanner::{Source, words};

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "proto",
    "src",
    "seeds",
    "tests",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "benches",
    "clients",
    "deploy",
    "docs",
    // Tool files, and what the tools leave behind.
    ".ci",
    ".git",
    ".github",
    ".gitignore",
    ".tools",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
    "buf.yaml",
    "target",
    "dateline-data",
];

/// Each top-level module and those it may use.
const MODULES: &[(&str, &[&str])] = &[
    ("article", &[]),
    ("workers", &[]),
    ("storage", &["article", "workers"]),
    ("backup", &["storage", "article"]),
    ("formats", &["article"]),
    ("grpc", &["backup", "storage", "article", "workers"]),
    ("config", &["article", "storage"]),
    ("shutdown", &["article", "storage"]),
    ("telemetry", &["article", "storage"]),
    ("server", &["grpc", "storage", "article", "config", "shutdown", "telemetry"]),
    ("client", &["grpc", "article"]),
    ("cli", &["article", "storage", "backup", "formats", "grpc", "config", "shutdown", "telemetry", "server", "client"]),
];

/// Crates, with all whose names continue theirs after a `_` (`tonic_types`), that only some places may name.
struct Confined {
    crates: &'static [&'static str],
    allowed: fn(path: &str) -> bool,
    rule: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined { crates: &["sled"], allowed: |path| path.starts_with("src/storage/sled"), rule: "sled is named only under src/storage/sled" },
    Confined {
        crates: &["tonic", "prost"],
        allowed: |path| ["src/grpc", "src/server", "src/client"].iter().any(|place| path.starts_with(place)),
        rule: "tonic and prost are named only under src/grpc, src/server and src/client",
    },
    Confined { crates: &["serde"], allowed: |path| !in_module(path, "article"), rule: "the domain (src/article) knows no serde" },
    Confined {
        crates: &["tokio"],
        allowed: |path| !in_module(path, "article") && !in_module(path, "formats"),
        rule: "src/article and src/formats know no tokio",
    },
];

const ONE_WAY: &str =
    "imports point one way: article < storage < grpc < server, client < cli < main (see MODULES in tests/architecture.rs)";
const OWNED: &str =
    "a path from the crate's root names a module that has its place in MODULES (no re-exports there: they would hide the direction)";
const NO_PANIC: &str = "no unwrap, expect, panic!, todo!, unimplemented! or dbg! outside tests without a comment `// cannot fail: ...`";
const NO_SLEEP: &str = "wait for a condition instead of sleeping (or say why after `ok:` in a comment on the line)";
const NO_IGNORE: &str = "no test is ignored: it runs or it goes";
const NO_DEAD_CODE: &str = "no allow(dead_code): what nobody uses goes";
const MODULE_COMMENT: &str = "a source file opens with a `//!` module comment";
const FILE_LENGTH: &str = "no Rust file has more than 500 lines";
const MAIN_LENGTH: &str = "main.rs is wiring: fewer than 80 lines";
const LAYOUT: &str = "the top level holds nothing but what TOP_LEVEL in tests/architecture.rs lists";

struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    found: String,
}

impl Violation {
    fn at(source: &Source, at: usize, rule: &'static str, found: &str) -> Self {
        Self::at_line(source, source.line(at), rule, found)
    }

    fn at_line(source: &Source, line: usize, rule: &'static str, found: &str) -> Self {
        Self { path: source.path.clone(), line, rule, found: found.to_owned() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} (found `{}`)", self.path, self.line, self.rule, self.found)
    }
}

#[test]
fn layout_and_imports_follow_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(root);
    for needed in ["src/main.rs", "src/lib.rs", "src/article/mod.rs", "tests/architecture.rs"] {
        assert!(sources.iter().any(|source| source.path == needed), "{needed} was not read: the scanner looks in the wrong place");
    }
    let mut violations = top_level(tracked(root).unwrap_or_else(|| entries(root)));
    violations.extend(check(&sources));
    let report: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(report.is_empty(), "{} violations:\n{}", report.len(), report.join("\n"));
}

fn top_level(names: BTreeSet<String>) -> Vec<Violation> {
    let strays = names.into_iter().filter(|name| !TOP_LEVEL.contains(&name.as_str()));
    strays.map(|name| Violation { path: name.clone(), line: 1, rule: LAYOUT, found: name }).collect()
}

/// What git tracks, so that a developer's scratch files do not matter. None where this is no checkout, or nothing is committed yet.
fn tracked(root: &Path) -> Option<BTreeSet<String>> {
    // A hook's environment would point git at another checkout.
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").output();
    let output = output.ok().filter(|output| output.status.success() && !output.stdout.is_empty())?;
    let paths = String::from_utf8_lossy(&output.stdout);
    Some(paths.split('\0').filter_map(|path| path.split('/').next()).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect()
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    for place in ["build.rs", "src", "tests", "benches"] {
        read_sources(root, place, &mut found);
    }
    found
}

fn read_sources(root: &Path, path: &str, found: &mut Vec<Source>) {
    let on_disk = root.join(path);
    if on_disk.is_dir() {
        for name in entries(&on_disk) {
            read_sources(root, &format!("{path}/{name}"), found);
        }
    } else if on_disk.extension().is_some_and(|extension| extension == "rs") && on_disk.exists() {
        found.push(Source::new(path, &fs::read_to_string(&on_disk).unwrap_or_else(|error| panic!("{path}: {error}"))));
    }
}

fn check(sources: &[Source]) -> Vec<Violation> {
    let test_files: Vec<String> = sources.iter().flat_map(Source::files_of_test_modules).collect();
    let mut violations = Vec::new();
    for source in sources {
        violations.extend(form(source));
        violations.extend(sleeps(source));
        violations.extend(attributes(source));
        if source.path.starts_with("src/") {
            violations.extend(imports(source));
            violations.extend(CONFINED.iter().flat_map(|confined| confined_crates(source, confined)));
            if !test_files.iter().any(|file| source.path.starts_with(file)) {
                violations.extend(panics(source));
            }
        }
    }
    violations
}

fn form(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    let lines = source.text.lines().count();
    if lines > 500 {
        violations.push(Violation::at_line(source, 501, FILE_LENGTH, &format!("{lines} lines")));
    }
    if source.path == "src/main.rs" && lines >= 80 {
        violations.push(Violation::at_line(source, 80, MAIN_LENGTH, &format!("{lines} lines")));
    }
    if !source.text.trim_start().starts_with("//!") {
        violations.push(Violation::at_line(source, 1, MODULE_COMMENT, source.text.lines().next().unwrap_or_default()));
    }
    violations
}

fn imports(source: &Source) -> Vec<Violation> {
    let own = source.module();
    let Some(own) = own.first() else { return Vec::new() };
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| name == own) else {
        return vec![Violation::at_line(source, 1, OWNED, own)];
    };
    let mut violations = Vec::new();
    for (at, name) in source.modules_named() {
        if name == "self" || name == *own || allowed.contains(&name) {
            continue;
        }
        let rule = if MODULES.iter().any(|(module, _)| *module == name) { ONE_WAY } else { OWNED };
        violations.push(Violation::at(source, at, rule, &format!("crate::{name}")));
    }
    violations
}

fn confined_crates(source: &Source, confined: &Confined) -> Vec<Violation> {
    if (confined.allowed)(&source.path) {
        return Vec::new();
    }
    let named = source.words().filter(|&(at, word)| {
        let base =
            confined.crates.iter().find(|name| word == **name || word.strip_prefix(**name).is_some_and(|rest| rest.starts_with('_')));
        base.is_some() && source.is_crate_path(at, word)
    });
    named.map(|(at, word)| Violation::at(source, at, confined.rule, word)).collect()
}

fn panics(source: &Source) -> Vec<Violation> {
    let tests = source.test_ranges();
    let panicking = source.words().filter(|&(at, word)| {
        let (before, after) = source.around(at, word);
        let is_call = before.ends_with('.') || before.ends_with("::");
        match word {
            "unwrap" | "expect" => is_call,
            "panic" | "todo" | "unimplemented" | "dbg" => after.starts_with('!') && !after.starts_with("!="),
            _ => false,
        }
    });
    let unexcused = panicking.filter(|&(at, _)| !tests.iter().any(|range| range.contains(&at)) && !source.cannot_fail(at));
    unexcused.map(|(at, word)| Violation::at(source, at, NO_PANIC, word)).collect()
}

fn sleeps(source: &Source) -> Vec<Violation> {
    let sleeps = source.words().filter(|&(at, word)| word == "sleep" && source.around(at, word).1.starts_with('('));
    let unexcused = sleeps.filter(|&(at, _)| !source.comments.lines().nth(source.line(at) - 1).unwrap_or_default().contains("ok:"));
    unexcused.map(|(at, word)| Violation::at(source, at, NO_SLEEP, word)).collect()
}

fn attributes(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for range in source.attributes() {
        let text = &source.code[range.clone()];
        let words: Vec<_> = words(text).map(|(_, word)| word).collect();
        if words.first() == Some(&"ignore") || (words.first() == Some(&"cfg_attr") && words.contains(&"ignore")) {
            violations.push(Violation::at(source, range.start, NO_IGNORE, text));
        }
        if words.contains(&"allow") && words.contains(&"dead_code") {
            violations.push(Violation::at(source, range.start, NO_DEAD_CODE, text));
        }
    }
    violations
}

fn in_module(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix("src/").and_then(|rest| rest.strip_prefix(module));
    rest.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

#[test]
fn every_rule_finds_a_planted_violation() {
    let long = "//! Long.\n".repeat(501);
    let long_main = "//! Long.\n".repeat(80);
    let planted: &[(&str, &str, usize, &str)] = &[
        ("src/storage/mod.rs", "//! S.\nuse crate::article::Article;\nuse crate::grpc::Service;", 3, ONE_WAY),
        ("src/storage/mod.rs", "//! S.\nuse crate::{\n    article::{Article, ArticleKey},\n    config::Config,\n};", 4, ONE_WAY),
        ("src/formats/seed.rs", "//! F.\nfn f() { crate::storage::open() }", 2, ONE_WAY),
        ("src/article/key.rs", "//! A.\nuse super::super::storage::Page;", 2, ONE_WAY),
        ("src/article/key.rs", "//! A.\nuse super::{Date, super::{storage::Page}};", 2, ONE_WAY),
        ("src/article/key.rs", "//! A.\nmod tests {\n    use super::super::super::server::Server;\n}", 3, ONE_WAY),
        ("src/server.rs", "//! S.\nuse super::{grpc::Articles, cli};", 2, ONE_WAY),
        ("src/client.rs", "//! C.\nuse crate::{article::Article, storage};", 2, ONE_WAY),
        ("src/grpc/mod.rs", "//! G.\nuse crate::*;", 2, OWNED),
        ("src/grpc/mod.rs", "//! G.\nuse crate::Article;", 2, OWNED),
        ("src/extra.rs", "//! E.", 1, OWNED),
        ("src/storage/mod.rs", "//! S.\nfn f(db: &sled::Db) {}", 2, CONFINED[0].rule),
        ("src/storage/mod.rs", "//! S.\nmod sled;\nuse ::sled::Db;", 3, CONFINED[0].rule),
        ("src/cli/get.rs", "//! G.\n#[tonic::async_trait]\nimpl A for B {}", 2, CONFINED[1].rule),
        ("src/storage/mod.rs", "//! S.\nuse prost_types::Timestamp;", 2, CONFINED[1].rule),
        ("src/article/mod.rs", "//! A.\nuse serde::Serialize;", 2, CONFINED[2].rule),
        ("src/article/mod.rs", "//! A.\nuse serde_json as json;", 2, CONFINED[2].rule),
        ("src/formats/mod.rs", "//! F.\nuse {std::io, tokio::fs};", 2, CONFINED[3].rule),
        ("src/cli/mod.rs", "//! C.\nfn f() {\n    x\n        .unwrap();\n}", 4, NO_PANIC),
        ("src/cli/mod.rs", "//! C.\n#[cfg(test)]\nmod tests {}\nfn f() { x.expect(\"y\") }", 4, NO_PANIC),
        ("src/cli/mod.rs", "//! C.\n#[cfg(not(test))]\nfn f() { todo!() }", 3, NO_PANIC),
        ("src/cli/mod.rs", "//! C.\nfn f() { a.map(Option::unwrap); }", 2, NO_PANIC),
        ("src/cli/mod.rs", "//! C.\n// cannot fail: another line\nfn f() {\n    panic!() }", 4, NO_PANIC),
        ("src/cli/mod.rs", "//! C.\nfn f() { std::thread::sleep(pause); }", 2, NO_SLEEP), // ok: planted
        ("tests/get.rs", "//! G.\n#[cfg(test)]\nmod tests { fn f() { sleep (\"ok:\"); } }", 3, NO_SLEEP),
        ("tests/get.rs", "//! G.\n#[test]\n# [ignore = \"slow\"]\nfn f() {}", 3, NO_IGNORE),
        ("tests/get.rs", "//! G.\n#[test]\n#[cfg_attr(unix, ignore)]\nfn f() {}", 3, NO_IGNORE),
        ("tests/get.rs", "//! G.\n#![allow(unused, dead_code)]", 2, NO_DEAD_CODE),
        ("build.rs", "// B.\nfn main() {}", 1, MODULE_COMMENT),
        ("tests/long.rs", &long, 501, FILE_LENGTH),
        ("src/main.rs", &long_main, 80, MAIN_LENGTH),
    ];
    for (path, text, line, rule) in planted {
        let found = check(&[Source::new(path, text)]);
        let report: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(
            matches!(&found[..], [one] if one.line == *line && one.rule == *rule),
            "{path}: {text:.200}\nshould break, at line {line}: {rule}\n{report:#?}"
        );
    }
    let strays = top_level(BTreeSet::from(["src".to_owned(), "notes.txt".to_owned()]));
    assert!(matches!(&strays[..], [one] if one.path == "notes.txt" && one.rule == LAYOUT));
}

#[test]
fn what_keeps_the_rules_is_left_alone() {
    let clean: &[(&str, &str)] = &[
        (
            "src/storage/mod.rs",
            "//! Not crate::grpc::X.\nuse crate::article::{self, Article};\npub mod sled;\nfn f() { sled::open(self::sled::X) }",
        ),
        ("src/storage/sled/mod.rs", "//! S.\nuse super::{StoreError, super::article};\nuse sled::Db;\npub(in crate::storage) fn f() {}"),
        (
            "src/article/mod.rs",
            "//! A.\n/* crate::grpc::X /* tokio::spawn */ sleep */\nconst X: &str = \"crate::cli::f sled::Db .unwrap()\";",
        ),
        (
            "src/article/mod.rs",
            "//! A.\nconst X: &str = r#\"\" tokio::spawn(crate::cli) // \"#;\nconst Y: (u8, char) = (b'\\'', '\"');\nfn f<'a>(serde: &'a str) {}",
        ),
        ("src/article/mod.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    use super::*;\n    fn f() { x.unwrap(); panic!(\"}\"); }\n}"),
        ("src/cli/mod.rs", "//! C.\nfn f() {\n    // cannot fail: it is a constant,\n    // and a good one.\n    x.unwrap();\n}"),
        (
            "src/cli/mod.rs",
            "//! C.\nfn f() {\n    x.expect_err(y); // cannot fail: never\n    x.unwrap_or(panic != y); std::panic::catch_unwind(f);\n}",
        ),
        ("src/cli/mod.rs", "//! C.\n#[expect(clippy::pedantic)]\nfn f() { sleep(pause) } // ok: the server asked for this pause"),
        ("src/main.rs", "//! M.\nuse dateline::cli;\nmod server {}"),
    ];
    for (path, text) in clean {
        let report: Vec<_> = check(&[Source::new(path, text)]).iter().map(ToString::to_string).collect();
        assert!(report.is_empty(), "{path}: {text}\n{report:#?}");
    }
    let outlined = [
        Source::new("src/grpc/mod.rs", "//! G.\n#[cfg(test)]\nmod checks;"),
        Source::new("src/grpc/checks.rs", "//! C.\nfn f() { x.unwrap() }"),
    ];
    assert!(check(&outlined).is_empty());
}
