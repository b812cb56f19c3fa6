//! Publication dates: civil dates as the source states them, without a time zone.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::civil::Date;

/// The first year that an article can be dated in. Newspapers begin in the 17th century; anything earlier is a typing error.
pub const FIRST_YEAR: i16 = 1600;
/// The last year that an article can be dated in: what four digits can say.
pub const LAST_YEAR: i16 = 9999;

/// A publication date: a civil date of the proleptic Gregorian calendar, in the years 1600 to 9999.
///
/// Written `YYYY-MM-DD` (ISO 8601), and in no other way: no week dates, no signs, no missing zeros, no surrounding space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArticleDate(Date);

/// Why a text is not a publication date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    /// The text is not of the form `YYYY-MM-DD`.
    #[error("is not a date of the form YYYY-MM-DD")]
    Form,
    /// The form is right, but no calendar has that day.
    #[error("is no day of the calendar")]
    NoSuchDay,
    /// The year is outside 1600 to 9999.
    #[error("lies outside the years {FIRST_YEAR} to {LAST_YEAR}")]
    Year,
}

impl ArticleDate {
    /// The earliest date there is, 1600-01-01.
    pub const MIN: Self = Self(jiff::civil::date(FIRST_YEAR, 1, 1));
    /// The latest date there is, 9999-12-31.
    pub const MAX: Self = Self(jiff::civil::date(LAST_YEAR, 12, 31));

    /// Today's date in UTC, by this machine's clock.
    pub fn today() -> Self {
        let today = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date();
        Self(today.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The date as the number YYYYMMDD, which orders as the dates do.
    pub fn number(self) -> u32 {
        self.0.year() as u32 * 10_000 + self.0.month() as u32 * 100 + self.0.day() as u32
    }

    /// The date that [`number`](Self::number) made this number from, or `None` where no date makes it.
    pub fn from_number(number: u32) -> Option<Self> {
        let year = i16::try_from(number / 10_000).ok()?;
        let (month, day) = ((number / 100 % 100) as i8, (number % 100) as i8);
        Self::from_parts(year, month, day).ok()
    }

    /// The date that many days later, at most [`ArticleDate::MAX`].
    pub fn saturating_add_days(self, days: u32) -> Self {
        let later = self.0.saturating_add(jiff::Span::new().days(i64::from(days.min(3_000_000))));
        Self(later.min(Self::MAX.0))
    }

    /// The next day, or `None` after the last one.
    pub fn tomorrow(self) -> Option<Self> {
        self.0.tomorrow().ok().map(Self)
    }

    fn from_parts(year: i16, month: i8, day: i8) -> Result<Self, DateError> {
        let date = Date::new(year, month, day).map_err(|_| DateError::NoSuchDay)?;
        if (FIRST_YEAR..=LAST_YEAR).contains(&year) { Ok(Self(date)) } else { Err(DateError::Year) }
    }
}

impl FromStr for ArticleDate {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let bytes = text.as_bytes();
        let form =
            bytes.len() == 10 && bytes.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
        if !form {
            return Err(DateError::Form);
        }
        let digits = |range: std::ops::Range<usize>| bytes[range].iter().fold(0i16, |number, digit| number * 10 + i16::from(digit - b'0'));
        Self::from_parts(digits(0..4), digits(5..7) as i8, digits(8..10) as i8)
    }
}

impl fmt::Display for ArticleDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0.year(), self.0.month(), self.0.day())
    }
}

impl fmt::Debug for ArticleDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A range of publication dates, both ends included; empty where the first day is after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DateRange {
    /// The first day.
    pub from: ArticleDate,
    /// The last day.
    pub to: ArticleDate,
}

impl DateRange {
    /// Every date there is.
    pub const ALL: Self = Self { from: ArticleDate::MIN, to: ArticleDate::MAX };

    /// Whether the date lies in the range.
    pub fn contains(&self, date: ArticleDate) -> bool {
        RangeInclusive::from(*self).contains(&date)
    }

    /// Whether no date lies in the range.
    pub fn is_empty(&self) -> bool {
        self.from > self.to
    }
}

impl From<DateRange> for RangeInclusive<ArticleDate> {
    fn from(range: DateRange) -> Self {
        range.from..=range.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_write_a_date() {
        for text in ["2024-02-29", "1600-01-01", "9999-12-31"] {
            assert_eq!(text.parse::<ArticleDate>().unwrap().to_string(), text);
        }
        for text in ["", "2024-2-29", " 2024-02-29", "2024-02-29 ", "2024/02/29", "+2024-02-9", "20240229", "2024-W09-4", "٢٠٢٤-٠٢-٢٩"]
        {
            assert_eq!(text.parse::<ArticleDate>(), Err(DateError::Form), "{text:?}");
        }
        assert_eq!("2023-02-29".parse::<ArticleDate>(), Err(DateError::NoSuchDay));
        assert_eq!("2023-00-10".parse::<ArticleDate>(), Err(DateError::NoSuchDay));
        assert_eq!("0201-05-04".parse::<ArticleDate>(), Err(DateError::Year));
        assert_eq!("1599-12-31".parse::<ArticleDate>(), Err(DateError::Year));
    }

    #[test]
    fn numbers_order_as_dates_do() {
        let days: Vec<ArticleDate> = ["1600-01-01", "1999-12-31", "2000-01-01", "9999-12-31"].map(|d| d.parse().unwrap()).into();
        for pair in days.windows(2) {
            assert!(pair[0].number() < pair[1].number());
        }
        for day in days {
            assert_eq!(ArticleDate::from_number(day.number()), Some(day));
        }
        assert_eq!(ArticleDate::from_number(0), None);
        assert_eq!(ArticleDate::from_number(u32::MAX), None);
        assert_eq!(ArticleDate::MAX.tomorrow(), None);
        assert_eq!(ArticleDate::MAX.saturating_add_days(u32::MAX), ArticleDate::MAX);
    }
}
