//! Tests of the reader and the writer of NDJSON.

use proptest::prelude::*;

use super::*;

fn read(line: &str) -> Result<ArticleDraft, String> {
    parse_line(line.as_bytes()).map(|draft| draft.expect("a blank line"))
}

fn written(draft: &ArticleDraft) -> String {
    let mut bytes = Vec::new();
    write_ndjson(&mut bytes, draft).unwrap();
    assert_eq!(bytes.pop(), Some(b'\n'));
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_field_is_read() {
    let line = r#" {"date":"2024-05-01","url":"u","title":"T","lead":"L","body":"B\n\u00e9\ud83d\ude00","authors":["A","B"],"keywords":"one",
        "section":"S","language":"fr","publisher":"P","publish_time":"2024-05-01T10:00:00+02:00","modify_time":null,"crawl_time":"",
        "annotations":{"title":"x","gone":null},"etag":7,"revision":{"a":[1]},"host":null} "#;
    let draft = read(&line.replace('\n', " ")).unwrap();
    let expected = ArticleDraft {
        date: "2024-05-01".into(),
        url: "u".into(),
        title: "T".into(),
        lead: "L".into(),
        body: "B\né😀".into(),
        publish_time: Some("2024-05-01T08:00:00Z".parse().unwrap()),
        authors: vec!["A".into(), "B".into()],
        keywords: vec!["one".into()],
        section: "S".into(),
        language: "fr".into(),
        publisher: "P".into(),
        annotations: [("title".to_string(), "x".to_string())].into(),
        ..ArticleDraft::default()
    };
    assert_eq!(draft, expected);
    assert_eq!(read(r#"{"date":null,"authors":"","keywords":null,"annotations":null}"#), Ok(ArticleDraft::default()));
}

#[test]
fn other_members_are_annotations() {
    let draft =
        read(r#"{"s":"a\u0020\"","n":1.10,"big":123456789012345678901234567890,"o":{ "b":1, "a":"\ud800" },"t":true,"z":null,"":[]}"#);
    let annotations = draft.unwrap().annotations;
    let expected = [("", "[]"), ("big", "123456789012345678901234567890"), ("n", "1.10"), ("o", r#"{ "b":1, "a":"\ud800" }"#)];
    let expected = expected.into_iter().chain([("s", "a \""), ("t", "true")]);
    assert_eq!(annotations, expected.map(|(name, value)| (name.to_string(), value.to_string())).collect());
}

#[test]
fn errors_name_the_member() {
    for (line, message) in [
        (r#"{"title":7}"#, "member `title` is a number, not a string"),
        (r#"{"title":-7.5}"#, "member `title` is a number, not a string"),
        (r#"{"body":["a"]}"#, "member `body` is an array, not a string"),
        (r#"{"url":{}}"#, "member `url` is an object, not a string"),
        (r#"{"lead":false}"#, "member `lead` is a boolean, not a string"),
        (r#"{"authors":{}}"#, "member `authors` is an object, not an array of strings"),
        (r#"{"authors":["a",null]}"#, "item 2 of member `authors` is null, not a string"),
        (r#"{"keywords":[["a"]]}"#, "item 1 of member `keywords` is an array, not a string"),
        (r#"{"annotations":"a"}"#, "member `annotations` is a string, not an object of strings"),
        (r#"{"annotations":{"a\n":1}}"#, r"annotation `a\n` is a number, not a string"),
        (r#"{"annotations":{"a":"","a":null}}"#, "annotation `a` occurs twice: one of them has to go"),
        (r#"{"date":"","date":""}"#, "member `date` occurs twice: one of them has to go"),
        (r#"{"etag":"","etag":""}"#, "member `etag` occurs twice: one of them has to go"),
        (r#"{"x":null,"x":1}"#, "member `x` occurs twice: one of them has to go"),
        (r#"{"x":1,"annotations":{"x":"1"}}"#, "member `x` stands in `annotations` too: one of them has to go"),
        (r#"{"x":"\ud800"}"#, "member `x` is not a valid string: unexpected end of hex escape"),
        (
            r#"{"crawl_time":"2024-05-01"}"#,
            "member `crawl_time` is not an RFC 3339 instant with a time zone, of the years 1 to 9999, like 2024-05-01T08:00:00Z",
        ),
        (r#"{"title":"a" "b"}"#, "is not valid JSON: expected `,` or `}` at byte 14 of the line"),
        (r#"{"title":"a"#, "is not valid JSON: EOF while parsing a string at byte 11 of the line"),
        (r#"{"title":"a"} {}"#, "is not valid JSON: trailing characters at byte 15 of the line"),
        (r#"{"title":"\ud800"}"#, "is not valid JSON: unexpected end of hex escape at byte 17 of the line"),
    ] {
        assert_eq!(read(line), Err(message.to_string()), "{line}");
    }
    for line in ["[]", "7", "\"a\"", "null", "x"] {
        assert!(read(line).unwrap_err().starts_with("is not a JSON object"), "{line}");
    }
    assert_eq!(parse_line(b"{\"title\":\"\xff\"}"), Err("is not valid UTF-8 (byte 11 of the line)".into()));
    let long = read(&format!(r#"{{"{0}":1,"{0}":2}}"#, "é".repeat(1000))).unwrap_err();
    assert!(long.len() < 200, "{long}");
}

#[test]
fn blank_lines_are_no_articles() {
    for line in ["", " ", "\t \r"] {
        assert_eq!(parse_line(line.as_bytes()), Ok(None));
    }
    assert!(parse_line("\u{a0}".as_bytes()).is_err());
}

#[test]
fn compact_lines_come_back_byte_for_byte() {
    for line in [
        r#"{"date":"2024-05-01","url":"https://a.example/ä/1","title":"„T“ / 😀","lead":"","body":"a\r\n\t\"\\\u0001\u2029","language":"de","publisher":"P","source_collection":"c"}"#,
        r#"{"date":"","url":"","title":"","lead":"","body":"","authors":[""],"crawl_time":"2024-05-01T08:00:00.123456789Z","annotations":{"annotations":"x","etag":""}}"#,
    ] {
        let line = line.replace(r"\u2029", "\u{2029}");
        assert_eq!(written(&read(&line).unwrap()), line);
    }
    let number = read(r#"{"page":7}"#).unwrap();
    assert!(written(&number).ends_with(r#","page":"7"}"#));
}

fn text() -> impl Strategy<Value = String> {
    let awkward = vec!['"', '\\', '/', '\n', '\r', '\0', '\u{1f}', '\u{7f}', '\u{85}', '\u{2028}', '\u{feff}', '\u{10ffff}'];
    prop::collection::vec(prop_oneof![any::<char>(), prop::sample::select(awkward)], 0..8).prop_map(String::from_iter)
}

fn name() -> impl Strategy<Value = String> {
    let field = prop::sample::select(Field::ALL).prop_map(|field| field.name().to_string());
    prop_oneof![field, text(), Just("$serde_json::private::RawValue".to_string())]
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    let nanos = prop_oneof![Just(0), 0..1_000_000_000];
    (-62_135_596_800i64..=253_402_207_200, nanos, any::<bool>())
        .prop_map(|(seconds, nanos, set)| Timestamp::from_parts(seconds, nanos).ok().filter(|_| set))
}

fn draft() -> impl Strategy<Value = ArticleDraft> {
    let texts = || prop::collection::vec(text(), 0..3);
    let article = (text(), text(), text(), text(), text());
    let metadata = (time(), time(), time(), texts(), texts(), text(), text(), text());
    (article, metadata, prop::collection::btree_map(name(), text(), 0..5)).prop_map(
        |(
            (date, url, title, lead, body),
            (publish_time, modify_time, crawl_time, authors, keywords, section, language, publisher),
            annotations,
        )| {
            ArticleDraft {
                date,
                url,
                title,
                lead,
                body,
                publish_time,
                modify_time,
                crawl_time,
                authors,
                keywords,
                section,
                language,
                publisher,
                annotations,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_is_written_is_read_back(draft in draft()) {
        let line = written(&draft);
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(read(&line), Ok(draft.clone()));
        prop_assert_eq!(written(&read(&line).unwrap()), line);
    }

    #[test]
    fn any_bytes_are_an_article_or_an_error(draft in draft(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = written(&draft).into_bytes();
        let place = cut.index(line.len());
        line[place] = byte;
        let _ = parse_line(&line);
        let _ = parse_line(&line[..place]);
    }
}
