//! What a scan, a watch or a count selects: a range of dates and a part of the URL space.

use xxhash_rust::xxh3::xxh3_64;

use super::url::{CanonicalUrl, UrlError};
use super::{ArticleKey, DateRange};

/// A part of the URL space that is one contiguous run of keys: exactly the keys that start with its
/// [`key_prefix`](Self::key_prefix).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UrlScope {
    /// Every URL.
    All,
    /// One host under one port; see [`UrlScope::host`].
    Host(KeyPrefix),
    /// A domain with its subdomains, under all ports; see [`UrlScope::domain`].
    Domain(KeyPrefix),
    /// All URLs that start alike; see [`UrlScope::url_prefix`].
    Prefix(KeyPrefix),
}

/// The beginning of a key. Only the constructors of [`UrlScope`] make one, so that no scope cuts through a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPrefix(Box<str>);

/// Why a text is not a scope. The messages go on where the name of the field (`host`, `domain`, `url_prefix`) ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The text is neither a host name nor an IP address, or is more than that.
    #[error("is no host name: write it like example.com, example.com:8080, 192.0.2.1 or [2001:db8::1], without scheme and path")]
    Host,
    /// A domain stands for all ports and cannot name one.
    #[error("names a port, but stands for all of them: write the domain alone, or select by host")]
    Port,
    /// Queries are sorted, so what a URL's query begins with says nothing of its canonical form.
    #[error("holds a query or a fragment, which no prefix can select by: end it before the '?' or '#'")]
    Query,
    /// The text is no http or https URL, or is too long.
    #[error(transparent)]
    Url(#[from] UrlError),
}

impl UrlScope {
    /// One host under one port: `example.com`, `example.com:8080`, `192.0.2.1`, `[2001:db8::1]`.
    ///
    /// The host goes through the same rules as that of a URL: `WWW.Example.com.` and `example.com:443` mean `example.com`.
    /// Without a port it is the host under the default ports only.
    ///
    /// # Errors
    /// Where the text is no host, or too long.
    pub fn host(text: &str) -> Result<Self, ScopeError> {
        parse_authority(text).map(|authority| Self::Host(KeyPrefix(format!("{authority})").into())))
    }

    /// A domain with all its subdomains, under all ports: `example.com`.
    ///
    /// The name goes through the same rules as the host of a URL, so `www.example.com` means `example.com`. An IP address
    /// has no subdomains and selects what [`host`](Self::host) does: itself without a port, and no longer number.
    ///
    /// # Errors
    /// Where the text is no host name, names a port, or is too long.
    pub fn domain(text: &str) -> Result<Self, ScopeError> {
        let after_address = text.rfind(']').map_or(0, |bracket| bracket + 1);
        if text[after_address..].contains(':') {
            // Something like `http://example.com` is no host name in the first place.
            return Err(parse_authority(text).err().unwrap_or(ScopeError::Port));
        }
        let authority = parse_authority(text)?;
        // Only a domain's labels end in commas, and every further label follows one. An address needs the parenthesis.
        let prefix = if authority.ends_with(',') { authority } else { authority + ")" };
        Ok(Self::Domain(KeyPrefix(prefix.into())))
    }

    /// All URLs whose canonical form starts with the canonical form of this one: `https://example.com/politics/`.
    ///
    /// Compared byte by byte: `https://example.com/politics` selects `/politics-today` as well. No path means `/`.
    ///
    /// # Errors
    /// Where the text is no http or https URL, holds a query or a fragment (even an empty one), or is too long.
    pub fn url_prefix(text: &str) -> Result<Self, ScopeError> {
        let url = CanonicalUrl::parse(text)?;
        // In an http URL these two can stand for nothing else, wherever they are.
        if text.contains(['?', '#']) {
            return Err(ScopeError::Query);
        }
        Ok(Self::Prefix(KeyPrefix(url.key().into())))
    }

    /// What every key in the scope, and no other key, starts with. Empty for [`UrlScope::All`].
    pub fn key_prefix(&self) -> &str {
        match self {
            Self::All => "",
            Self::Host(prefix) | Self::Domain(prefix) | Self::Prefix(prefix) => &prefix.0,
        }
    }

    /// Whether the URL lies in the scope.
    pub fn contains(&self, url: &CanonicalUrl) -> bool {
        url.key().starts_with(self.key_prefix())
    }
}

/// Host and port as a key has them, without the closing parenthesis.
fn parse_authority(text: &str) -> Result<String, ScopeError> {
    // Anything that would end the host, be dropped from it, or be skipped by the URL parser.
    if text.contains(['/', '\\', '?', '#', '@']) || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ScopeError::Host);
    }
    let url = CanonicalUrl::parse(&format!("https://{text}/")).map_err(|error| match error {
        UrlError::Unparsable(_) | UrlError::Scheme => ScopeError::Host,
        too_long @ UrlError::TooLong { .. } => too_long.into(),
    })?;
    url.key().strip_suffix(")/").map(str::to_string).ok_or(ScopeError::Host)
}

/// Selects articles by date and URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The publication dates.
    pub dates: DateRange,
    /// The URLs.
    pub scope: UrlScope,
}

impl Filter {
    /// Every article.
    pub const ALL: Self = Self { dates: DateRange::ALL, scope: UrlScope::All };

    /// Whether an article with this key is selected.
    pub fn contains(&self, key: &ArticleKey) -> bool {
        self.dates.contains(key.date) && self.scope.contains(&key.url)
    }

    /// A hash that tells filters apart, the same on every machine and in every version: it is part of resume tokens.
    ///
    /// XXH3-64 over both dates as numbers YYYYMMDD (four bytes each, big-endian) and the key prefix. Two scopes of one
    /// prefix select the same, so they have one fingerprint, however they were written.
    pub fn fingerprint(&self) -> u64 {
        let prefix = self.scope.key_prefix().as_bytes();
        let mut bytes = Vec::with_capacity(8 + prefix.len());
        bytes.extend_from_slice(&self.dates.from.number().to_be_bytes());
        bytes.extend_from_slice(&self.dates.to.number().to_be_bytes());
        bytes.extend_from_slice(prefix);
        xxh3_64(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> CanonicalUrl {
        CanonicalUrl::parse(text).unwrap()
    }

    fn selects(scope: &UrlScope, texts: &[&str], expected: bool) {
        for text in texts {
            assert_eq!(scope.contains(&url(text)), expected, "{scope:?} {text}");
        }
    }

    #[test]
    fn a_host_is_one_host_under_one_port() {
        let scope = UrlScope::host("WWW.Example.com.").unwrap();
        assert_eq!(scope.key_prefix(), "com,example,)");
        selects(&scope, &["http://example.com/a", "https://www.example.com:443/", "https://example.com:80"], true);
        selects(&scope, &["https://example.com:8080/", "https://a.example.com/", "https://example.com.au/", "https://example.co/"], false);
        let scope = UrlScope::host("example.com:8080").unwrap();
        assert_eq!(scope.key_prefix(), "com,example,:8080)");
        selects(&scope, &["https://example.com:8080/a"], true);
        selects(&scope, &["https://example.com/", "https://example.com:80/", "https://example.com:808/"], false);
        assert_eq!(UrlScope::host("example.com:443"), UrlScope::host("example.com"));
        assert_eq!(UrlScope::host("bücher.example").unwrap().key_prefix(), "example,xn--bcher-kva,)");
        assert_eq!(UrlScope::host("[2001:DB8::1]:81").unwrap().key_prefix(), "[2001:db8::1]:81)");
    }

    #[test]
    fn a_domain_is_all_its_subdomains_under_all_ports() {
        let scope = UrlScope::domain("www.example.com").unwrap();
        assert_eq!(scope.key_prefix(), "com,example,");
        selects(
            &scope,
            &["https://example.com/", "https://a.b.example.com/", "https://example.com:8080/", "https://a.example.com:81"],
            true,
        );
        selects(&scope, &["https://anexample.com/", "https://example.org/", "https://examples.com/", "https://example,a.com/"], false);
        let address = UrlScope::domain("1.2.3.4").unwrap();
        selects(&address, &["http://1.2.3.4/", "http://0x01020304/"], true);
        selects(&address, &["http://1.2.3.45/", "http://1.2.3.4:8080/", "http://1,2,3,4/"], false);
        let address = UrlScope::domain("[::1]").unwrap();
        selects(&address, &["http://[::1]/"], true);
        selects(&address, &["http://[::11]/", "http://[::1]:81/"], false);
    }

    #[test]
    fn a_prefix_is_compared_in_canonical_form() {
        let scope = UrlScope::url_prefix("http://www.example.com/Politics/").unwrap();
        selects(&scope, &["https://example.com/Politics/", "http://example.com/Politics/a?b=c"], true);
        selects(&scope, &["https://example.com/Politics", "https://example.com/politics/", "https://a.example.com/Politics/"], false);
        assert_eq!(UrlScope::url_prefix("https://example.com").unwrap().key_prefix(), "com,example,)/");
        assert_eq!(UrlScope::url_prefix("https://example.com/%c3%A9").unwrap().key_prefix(), "com,example,)/%C3%A9");
        for text in ["https://example.com/?", "https://example.com/a?utm_source=b", "https://example.com/#", "https://example.com?a"] {
            assert_eq!(UrlScope::url_prefix(text), Err(ScopeError::Query), "{text}");
        }
        assert_eq!(UrlScope::url_prefix("ftp://example.com/"), Err(ScopeError::Url(UrlError::Scheme)));
        assert!(matches!(UrlScope::url_prefix("example.com/a"), Err(ScopeError::Url(UrlError::Unparsable(_)))));
    }

    #[test]
    fn what_is_no_host_is_refused_with_what_to_write() {
        let no_host =
            ["", "https://example.com", "example.com/", "example.com/a", "user@example.com", "example.com?a", "example.com#", "a b"];
        let no_host = [
            no_host.as_slice(),
            &["exam\tple.com", " example.com", "::1", "[::1", "1.2.3.256", "a\\b", "a:b", "a:99999", ":80", "a\0", "a%00", "a]b"],
        ];
        for text in no_host.concat() {
            assert_eq!(UrlScope::host(text), Err(ScopeError::Host), "{text:?}");
            assert_eq!(UrlScope::domain(text), Err(ScopeError::Host), "{text:?}");
        }
        for text in ["example.com:8080", "example.com:80", "example.com:", "[::1]:81"] {
            assert_eq!(UrlScope::domain(text), Err(ScopeError::Port), "{text}");
        }
        let too_long = UrlScope::host(&"a".repeat(3000)).unwrap_err();
        assert!(matches!(too_long, ScopeError::Url(UrlError::TooLong { .. })));
        assert!(too_long.to_string().starts_with("is "));
    }

    #[test]
    fn a_filter_selects_by_both_and_its_fingerprint_is_fixed_for_ever() {
        let day = |text: &str| text.parse().unwrap();
        let dates = DateRange { from: day("2024-01-01"), to: day("2024-12-31") };
        let filter = Filter { dates, scope: UrlScope::domain("example.com").unwrap() };
        let key = |date: &str, text: &str| ArticleKey { date: day(date), url: url(text) };
        assert!(filter.contains(&key("2024-12-31", "https://a.example.com/")));
        assert!(!filter.contains(&key("2025-01-01", "https://a.example.com/")));
        assert!(!filter.contains(&key("2024-12-31", "https://example.org/")));
        assert!(Filter::ALL.contains(&key("1600-01-01", "http://[::1]:81/")));

        // The expected values were computed apart from this code, with another implementation of XXH3 over the bytes as documented.
        assert_eq!(Filter::ALL.fingerprint(), 3_482_978_249_862_705_238);
        assert_eq!(filter.fingerprint(), 5_391_957_994_425_344_411);
        let host = Filter { scope: UrlScope::host("example.com").unwrap(), ..filter.clone() };
        assert_ne!(host.fingerprint(), filter.fingerprint());
        assert_ne!(Filter { dates: DateRange::ALL, ..filter.clone() }.fingerprint(), filter.fingerprint());
    }
}
