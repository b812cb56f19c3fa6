//! How settings of what is kept are written: in files, in the environment and on the command line alike.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

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

/// Reads a setting that may be missing.
pub fn deserialize_optional<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Present<T>(T);
    impl<'de, T: FromStr<Err: Display>> serde::Deserialize<'de> for Present<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserialize(deserializer).map(Present)
        }
    }
    Ok(Option::<Present<T>>::deserialize(deserializer)?.map(|Present(setting)| setting))
}

/// A length of time as people write it: `90s`, `36h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = || "is no length of time, such as 90s, 36h or 30d".to_owned();
        let span: jiff::Span = text.parse().map_err(|_| example())?;
        let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| example())?;
        Duration::try_from(length).map(Self).map_err(|_| example())
    }
}

impl Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}us", self.0.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them() {
        let seconds = |text: &str| text.parse::<Period>().map(|period| period.0.as_secs());
        for (text, expected) in [("90s", 90), ("36h", 36 * 3600), ("30d", 30 * 86400), ("1w", 7 * 86400), ("1h 30m", 5400), ("0s", 0)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "30", "-1d", "soon", "1mo"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for period in [Duration::from_secs(7), Duration::from_millis(1500)] {
            assert_eq!(Period(period).to_string().parse(), Ok(Period(period)));
        }
    }
}
