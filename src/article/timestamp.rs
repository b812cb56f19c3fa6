//! Instants, as exact as the wire carries them.

use std::fmt;
use std::str::FromStr;

/// An instant in UTC with nanoseconds, from 0001-01-01T00:00:00Z to 9999-12-30T22:00:00Z: what RFC 3339 can write in every offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// The text or the pair of numbers is not a [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an RFC 3339 instant with a time zone, of the years 1 to 9999")]
pub struct TimestampError;

/// 0001-01-01T00:00:00Z in seconds since 1970.
const FIRST_SECOND: i64 = -62_135_596_800;

impl Timestamp {
    /// Now, by this machine's clock, in whole microseconds.
    pub fn now() -> Self {
        Self::from_micros(jiff::Timestamp::now().as_microsecond()).unwrap_or(Self(jiff::Timestamp::UNIX_EPOCH))
    }

    /// Seconds since 1970-01-01T00:00:00Z, and nanoseconds that count forward from there (0 to 999,999,999).
    ///
    /// # Errors
    /// Where either number is out of its range.
    pub fn from_parts(seconds: i64, nanos: i32) -> Result<Self, TimestampError> {
        if !(0..1_000_000_000).contains(&nanos) || seconds < FIRST_SECOND {
            return Err(TimestampError);
        }
        jiff::Timestamp::new(seconds, 0)
            .and_then(|whole| whole.checked_add(jiff::SignedDuration::from_nanos(i64::from(nanos))))
            .map(Self)
            .map_err(|_| TimestampError)
    }

    /// The inverse of [`from_parts`](Self::from_parts).
    pub fn parts(self) -> (i64, i32) {
        let nanos = self.0.as_nanosecond();
        let seconds = nanos.div_euclid(1_000_000_000);
        (seconds as i64, nanos.rem_euclid(1_000_000_000) as i32)
    }

    /// Whole microseconds since 1970, rounded down.
    pub fn as_micros(self) -> i64 {
        self.0.as_nanosecond().div_euclid(1000) as i64
    }

    /// The instant that many microseconds after 1970, or `None` out of range.
    pub fn from_micros(micros: i64) -> Option<Self> {
        Self::from_parts(micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) as i32 * 1000).ok()
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimestampError)?;
        if instant.as_second() < FIRST_SECOND { Err(TimestampError) } else { Ok(Self(instant)) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_text_round_trip() {
        for (seconds, nanos) in [(0, 0), (-1, 999_999_999), (FIRST_SECOND, 0), (1_700_000_000, 123_456_789)] {
            let instant = Timestamp::from_parts(seconds, nanos).unwrap();
            assert_eq!(instant.parts(), (seconds, nanos));
            assert_eq!(instant.to_string().parse::<Timestamp>().unwrap(), instant);
        }
        for (seconds, nanos) in [(0, -1), (0, 1_000_000_000), (FIRST_SECOND - 1, 0), (i64::MAX, 0), (i64::MIN, 0)] {
            assert!(Timestamp::from_parts(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
        assert!("2024-01-01".parse::<Timestamp>().is_err());
        assert!("2024-01-01T10:00:00".parse::<Timestamp>().is_err());
        assert_eq!("2024-01-01T10:00:00+02:00".parse::<Timestamp>().unwrap().to_string(), "2024-01-01T08:00:00Z");
    }
}
