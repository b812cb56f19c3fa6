//! How settings of what is kept are written: in files, in the environment and on the command line alike.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

/// A number or a text: variables of the environment that look like numbers arrive as such.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

/// Writes a setting as its text.
pub fn serialize<T: Display, S: Serializer>(setting: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(setting)
}

/// Reads a setting from its text, or from a number.
pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    };
    text.parse().map_err(|error| D::Error::custom(format!("{text:?} {error}")))
}

/// Writes a setting that may be missing.
pub fn serialize_optional<T: Display, S: Serializer>(setting: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match setting {
        Some(setting) => serializer.collect_str(setting),
        None => serializer.serialize_none(),
    }
}
