//! NDJSON: one article a line, as a JSON object.
//!
//! The members are named like the fields of an article. Lines are parsed straight into drafts, without a tree in between, because
//! bulk loads spend most of their client time here. What is written is read back as the same draft.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::{self, Write};

use serde::de::{self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::article::{ArticleDraft, Field, FieldSet, Timestamp};

/// The longest line that is read, in bytes without its line feed: 32 MiB. A longer one is reported and skipped.
pub const MAX_LINE_BYTES: usize = 32 << 20;

/// Reads one line, without its line feed; `None` where it is blank. The error says what is wrong with it.
///
/// - `date`, `url`, `title`, `lead`, `body`, `section`, `language` and `publisher` are strings; `publish_time`, `modify_time`
///   and `crawl_time` are strings with an RFC 3339 instant, or empty; `authors` and `keywords` are arrays of strings, or one
///   string that is the only item (none, if it is empty); `annotations` is an object of strings.
/// - A member that is null is absent. What an article must have is checked later.
/// - Members that only the store sets (`etag`, `revision`, ...) are ignored, so that its own output can be read.
/// - Any other member is an annotation: a string as it is, anything else as its JSON text, byte for byte.
/// - No name may occur twice, nor both in `annotations` and beside it.
pub(super) fn parse_line(line: &[u8]) -> Result<Option<ArticleDraft>, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("is not valid UTF-8 (byte {} of the line)", error.valid_up_to() + 1))?;
    let text = line.trim_matches([' ', '\t', '\r']);
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('{') {
        return Err("is not a JSON object: an article is one object on one line, {\"date\": ..., \"url\": ..., \"title\": ...}".into());
    }
    let mut json = serde_json::Deserializer::from_str(line);
    let draft = json.deserialize_map(Line).and_then(|draft| json.end().map(|()| draft));
    draft.map(Some).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => without_place(&error),
        _ => format!("is not valid JSON: {} at byte {} of the line", without_place(&error), error.column()),
    })
}

/// The error's text without its end: its line is always 1 and would be taken for the file's.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map(str::to_owned).unwrap_or(text)
}

/// The name of a member.
enum Name {
    Field(Field),
    Other(String),
}

struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(name.parse().map_or_else(|_| Name::Other(name.to_owned()), Name::Field))
    }
}

/// The object on a line.
struct Line;

impl<'de> Visitor<'de> for Line {
    type Value = ArticleDraft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an article")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<ArticleDraft, A::Error> {
        let mut draft = ArticleDraft::default();
        let mut seen = FieldSet::NONE;
        let mut others = BTreeMap::new();
        while let Some(name) = members.next_key_seed(NameSeed)? {
            match name {
                Name::Field(field) if seen.contains(field) => return Err(twice(Path::Member(field.name()))),
                Name::Field(field) => {
                    seen.insert(field);
                    read_field(&mut draft, field, &mut members)?;
                }
                Name::Other(name) => match others.entry(name) {
                    Entry::Occupied(entry) => return Err(twice(Path::Member(entry.key()))),
                    Entry::Vacant(entry) => {
                        let value = annotation(entry.key(), members.next_value()?)?;
                        entry.insert(value);
                    }
                },
            }
        }
        for (name, value) in others.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            match draft.annotations.entry(name) {
                Entry::Occupied(entry) => {
                    let path = Path::Member(entry.key());
                    return Err(de::Error::custom(format_args!("{path} stands in `annotations` too: one of them has to go")));
                }
                Entry::Vacant(entry) => entry.insert(value),
            };
        }
        Ok(draft)
    }
}

fn twice<E: de::Error>(path: Path<'_>) -> E {
    E::custom(format_args!("{path} occurs twice: one of them has to go"))
}

/// The value of a member that is no field: `None` for null.
fn annotation<E: de::Error>(name: &str, value: &RawValue) -> Result<Option<String>, E> {
    match value.get() {
        "null" => Ok(None),
        text if text.starts_with('"') => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| E::custom(format_args!("{} is not a valid string: {}", Path::Member(name), without_place(&error)))),
        text => Ok(Some(text.to_owned())),
    }
}

fn read_field<'de, A: MapAccess<'de>>(draft: &mut ArticleDraft, field: Field, members: &mut A) -> Result<(), A::Error> {
    let path = Path::Member(field.name());
    match field {
        Field::Date => draft.date = read_text(path, members)?,
        Field::Url => draft.url = read_text(path, members)?,
        Field::Title => draft.title = read_text(path, members)?,
        Field::Lead => draft.lead = read_text(path, members)?,
        Field::Body => draft.body = read_text(path, members)?,
        Field::Section => draft.section = read_text(path, members)?,
        Field::Language => draft.language = read_text(path, members)?,
        Field::Publisher => draft.publisher = read_text(path, members)?,
        Field::PublishTime => draft.publish_time = read_time(path, members)?,
        Field::ModifyTime => draft.modify_time = read_time(path, members)?,
        Field::CrawlTime => draft.crawl_time = read_time(path, members)?,
        Field::Authors => draft.authors = read_texts(path, members)?,
        Field::Keywords => draft.keywords = read_texts(path, members)?,
        Field::Annotations => {
            if let Value::Map(map) = members.next_value_seed(ValueSeed { path, shape: Shape::Map })? {
                draft.annotations = map;
            }
        }
        Field::CanonicalUrl | Field::Host | Field::Digest | Field::Etag | Field::Revision | Field::CreateTime | Field::UpdateTime => {
            members.next_value::<IgnoredAny>()?;
        }
    }
    Ok(())
}

fn read_text<'de, A: MapAccess<'de>>(path: Path<'_>, members: &mut A) -> Result<String, A::Error> {
    match members.next_value_seed(ValueSeed { path, shape: Shape::Text })? {
        Value::Text(text) => Ok(text),
        _ => Ok(String::new()),
    }
}

fn read_texts<'de, A: MapAccess<'de>>(path: Path<'_>, members: &mut A) -> Result<Vec<String>, A::Error> {
    match members.next_value_seed(ValueSeed { path, shape: Shape::Texts })? {
        Value::Texts(texts) => Ok(texts),
        Value::Text(text) if !text.is_empty() => Ok(vec![text]),
        _ => Ok(Vec::new()),
    }
}

fn read_time<'de, A: MapAccess<'de>>(path: Path<'_>, members: &mut A) -> Result<Option<Timestamp>, A::Error> {
    let text = read_text(path, members)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| de::Error::custom(format_args!("{path} {error}, like 2024-05-01T08:00:00Z")))
}

/// What an error is about.
#[derive(Clone, Copy)]
enum Path<'a> {
    Member(&'a str),
    /// An item of a member, counted from 1.
    Item(&'a str, usize),
    Annotation(&'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names come from the file, so that they are cut and escaped: an error is one line of a log.
        let short = |name: &str| name.chars().take(60).flat_map(char::escape_debug).collect::<String>();
        match *self {
            Self::Member(name) => write!(f, "member `{}`", short(name)),
            Self::Item(name, number) => write!(f, "item {number} of member `{}`", short(name)),
            Self::Annotation(name) => write!(f, "annotation `{}`", short(name)),
        }
    }
}

/// What a value has to be.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// A string or null.
    Text,
    /// A string, inside an array.
    Item,
    /// An array of strings, a string or null.
    Texts,
    /// An object of strings, or null.
    Map,
}

/// What a value turned out to be.
enum Value {
    Null,
    Text(String),
    Texts(Vec<String>),
    Map(BTreeMap<String, String>),
}

#[derive(Clone, Copy)]
struct ValueSeed<'a> {
    path: Path<'a>,
    shape: Shape,
}

impl ValueSeed<'_> {
    fn is_a<E: de::Error>(&self, kind: &str) -> E {
        let wanted = match self.shape {
            Shape::Text | Shape::Item => "a string",
            Shape::Texts => "an array of strings",
            Shape::Map => "an object of strings",
        };
        E::custom(format_args!("{} is {kind}, not {wanted}", self.path))
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of a member")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        if self.shape == Shape::Map { Err(self.is_a("a string")) } else { Ok(Value::Text(text.to_owned())) }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        if self.shape == Shape::Item { Err(self.is_a("null")) } else { Ok(Value::Null) }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value, E> {
        Err(self.is_a("a boolean"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Value, E> {
        Err(self.is_a("a number"))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Value, E> {
        Err(self.is_a("a number"))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.is_a("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let (Shape::Texts, Path::Member(name)) = (self.shape, self.path) else { return Err(self.is_a("an array")) };
        let mut texts = Vec::new();
        while let Some(item) = items.next_element_seed(ValueSeed { path: Path::Item(name, texts.len() + 1), shape: Shape::Item })? {
            if let Value::Text(text) = item {
                texts.push(text);
            }
        }
        Ok(Value::Texts(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        if self.shape != Shape::Map {
            return Err(self.is_a("an object"));
        }
        let mut values = BTreeMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            match values.entry(name) {
                Entry::Occupied(entry) => return Err(twice(Path::Annotation(entry.key()))),
                Entry::Vacant(entry) => {
                    let value = entries.next_value_seed(ValueSeed { path: Path::Annotation(entry.key()), shape: Shape::Text })?;
                    entry.insert(value);
                }
            }
        }
        let texts = values.into_iter().filter_map(|(name, value)| if let Value::Text(text) = value { Some((name, text)) } else { None });
        Ok(Value::Map(texts.collect()))
    }
}

/// Writes the article as one line of compact JSON, the line feed included, escaping nothing but what JSON demands.
///
/// `date`, `url`, `title`, `lead` and `body` always stand there, in this order; then authors, keywords, section, language,
/// publisher, publish_time, modify_time and crawl_time where they are set; then the annotations in byte order of their names,
/// as members of their own, or in the object `annotations` where the name is that of a field. Reading the line gives the same
/// draft, as long as it is not longer than [`MAX_LINE_BYTES`]. Times are written in UTC. An annotation that was read from a number
/// or an array is a string now, with the same JSON text in it.
///
/// Makes many small writes: `out` should be buffered.
///
/// # Errors
/// Those of `out`.
pub fn write_ndjson(out: &mut impl Write, article: &ArticleDraft) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Draft(article))?;
    out.write_all(b"\n")
}

struct Draft<'a>(&'a ArticleDraft);

impl Serialize for Draft<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(draft) = *self;
        let mut members = serializer.serialize_map(None)?;
        for (name, text) in
            [("date", &draft.date), ("url", &draft.url), ("title", &draft.title), ("lead", &draft.lead), ("body", &draft.body)]
        {
            members.serialize_entry(name, text)?;
        }
        for (name, texts) in [("authors", &draft.authors), ("keywords", &draft.keywords)] {
            if !texts.is_empty() {
                members.serialize_entry(name, texts)?;
            }
        }
        for (name, text) in [("section", &draft.section), ("language", &draft.language), ("publisher", &draft.publisher)] {
            if !text.is_empty() {
                members.serialize_entry(name, text)?;
            }
        }
        for (name, time) in [("publish_time", draft.publish_time), ("modify_time", draft.modify_time), ("crawl_time", draft.crawl_time)] {
            if let Some(time) = time {
                members.serialize_entry(name, &time.to_string())?;
            }
        }
        let mut named_like_fields = BTreeMap::new();
        for (name, value) in &draft.annotations {
            if name.parse::<Field>().is_ok() {
                named_like_fields.insert(name, value);
            } else {
                members.serialize_entry(name, value)?;
            }
        }
        if !named_like_fields.is_empty() {
            members.serialize_entry(Field::Annotations.name(), &named_like_fields)?;
        }
        members.end()
    }
}

#[cfg(test)]
mod tests;
