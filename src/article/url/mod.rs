//! Identity by URL: the canonical URL, and the sort-friendly key that stands for it in storage.
//!
//! The rules of identity are deliberately few and change nothing that could name another article: the case of a path,
//! a trailing slash, a parameter nobody knows all stay. [`UrlRule`] lists them. A change to any of them raises
//! [`RULES_VERSION`], since it changes which articles are the same one.

mod canonical;
mod plain;
mod rules;
mod surt;

use std::fmt;

use plain::PlainUrl;
use rules::Applied;
pub use rules::UrlRule;

/// The longest URL in bytes, both as given and in canonical form.
pub const MAX_BYTES: usize = 2048;

/// The version of the rules that make a URL canonical. Stored with the data: keys made under other rules do not compare.
pub const RULES_VERSION: u16 = 1;

/// A canonical http or https URL of at most [`MAX_BYTES`] bytes: equal ones name the same article.
///
/// Held as its key in SURT form (the host's labels reversed), and ordered by the bytes of that key, so that a host, a
/// domain with its subdomains, and everything under a path are each one run of neighbours. Key and canonical URL stand
/// for one another exactly; neither ever holds a NUL or a byte outside ASCII.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalUrl(Box<str>);

/// What a URL was resolved to, and what was done to it on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The canonical URL.
    pub url: CanonicalUrl,
    /// The rules that changed something, in the order of [`UrlRule::ALL`], each once. Empty where the text was canonical.
    pub applied: Vec<UrlRule>,
}

/// Why a text is not the URL of an article. The messages go on where the name of the field ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The WHATWG URL standard rejects the text; in words, why.
    #[error("is no URL: {0}")]
    Unparsable(String),
    /// It is a URL, but of another scheme.
    #[error("has a scheme other than http and https")]
    Scheme,
    /// The URL is longer than [`MAX_BYTES`], as given or once it is canonical.
    #[error("is {bytes} bytes long, as given or in canonical form: the limit is {MAX_BYTES} for both")]
    TooLong {
        /// The length that is too long, in bytes.
        bytes: usize,
    },
}

impl CanonicalUrl {
    /// Makes the URL in `text` canonical.
    ///
    /// Whatever the WHATWG URL standard takes for an http or https URL is accepted, up to [`MAX_BYTES`], with one exception:
    /// host names with an `xn--` label that is no valid punycode, which the standard rejected until June 2026.
    ///
    /// # Errors
    /// Where the text is no URL, has another scheme, or is too long.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let key = match PlainUrl::of(text) {
            Some(plain) => canonical::key_of_plain(text, &plain)?,
            None => canonical::key_of(&canonical::whatwg(text)?, &mut Applied::default())?,
        };
        Ok(Self(key))
    }

    /// The same as [`parse`](Self::parse), and tells which rules changed something. Slower: meant for people who ask.
    ///
    /// # Errors
    /// The same as [`parse`](Self::parse).
    pub fn resolve(text: &str) -> Result<Resolution, UrlError> {
        let mut applied = Applied::default();
        let parsed = canonical::whatwg(text)?;
        canonical::note_parser_changes(text, &parsed, &mut applied);
        let url = canonical::key_of(&parsed, &mut applied).map(Self)?;
        Ok(Resolution { url, applied: applied.rules() })
    }

    /// The key in SURT form: `com,example,)/path?query`, with a port `com,example,:8080)/`, for an IP address `1.2.3.4)/`.
    ///
    /// Everything before the first `)` is host and port. Mostly a few bytes shorter than the URL; longer only where the
    /// host holds closing parentheses, and always below three times [`MAX_BYTES`].
    pub fn key(&self) -> &str {
        &self.0
    }

    /// The URL with this key, or `None` where no canonical URL has it. Checks everything: for keys from outside.
    pub fn from_key(key: &str) -> Option<Self> {
        if key.len() > 3 * MAX_BYTES {
            return None;
        }
        let text = Self::from_stored_key(key).to_string();
        Self::parse(&text).ok().filter(|url| url.key() == key)
    }

    /// The URL with this key, unchecked: for keys that [`key`](Self::key) gave and whose checksum was verified since.
    pub fn from_stored_key(key: &str) -> Self {
        Self(key.into())
    }

    /// The host with the port where there is one, as WHATWG writes it: `example.com`, `example.com:8080`, `[::1]`.
    pub fn host(&self) -> String {
        let mut host = String::with_capacity(self.0.len());
        // Writing to a string cannot fail.
        let _ = surt::write_host(&mut host, surt::split(&self.0).0);
        host
    }
}

/// The canonical URL: `https://example.com/path?query`.
impl fmt::Display for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, rest) = surt::split(&self.0);
        f.write_str(canonical::SCHEME)?;
        surt::write_host(f, authority)?;
        f.write_str(rest)
    }
}

impl fmt::Debug for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_from_outside_only_where_a_canonical_url_has_it() {
        for key in ["com,example,)/", "com,example,:8080)/a?b=c", "1.2.3.4)/", "[::1]:81)/", "b,,a,)/", "com,a.b,)/", "com,a%29,)/)"] {
            let url = CanonicalUrl::from_key(key).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(url.key(), key);
            assert_eq!(CanonicalUrl::parse(&url.to_string()), Ok(url));
        }
        let not_canonical =
            ["com,example,www,)/", "com,example,:443)/", "com,Example,)/", "com,example,)/?b&a", "com,example,)/%2f", "com,example,)/a#b"];
        let malformed = [
            "",
            ")",
            ")/",
            "com,example,",
            "com,example,)",
            "com,example)/",
            "com,example,)a",
            "1.2.3.4,:x)/",
            "1.2.3)/",
            "[::1)/",
            "[::1],)/",
        ];
        let smuggled =
            ["com,user@example,)/", "com/,example,)/", "com,example,:80:80)/", "com,ex%2eample,)/", " com,example,)/", "com,example,)/\0"];
        for key in [not_canonical.as_slice(), &malformed, &smuggled].concat() {
            assert_eq!(CanonicalUrl::from_key(key), None, "{key:?}");
        }
        assert_eq!(CanonicalUrl::from_key(&format!("com,example,)/{}", "a".repeat(10_000))), None);
    }

    #[test]
    fn a_damaged_key_is_displayed_rather_than_panicked_on() {
        for key in ["", ")", ":", "[", "]", "a", ",", ":)", "é,)/", "]:)"] {
            let url = CanonicalUrl::from_stored_key(key);
            let _ = (url.to_string(), url.host());
        }
    }

    #[test]
    fn the_limit_counts_the_text_as_given_and_the_canonical_url() {
        let of_length = |bytes: usize| format!("https://example.com/{}", "a".repeat(bytes - "https://example.com/".len()));
        assert_eq!(CanonicalUrl::parse(&of_length(2048)).unwrap().to_string().len(), 2048);
        assert_eq!(CanonicalUrl::parse(&of_length(2049)), Err(UrlError::TooLong { bytes: 2049 }));
        let http = of_length(2049).replacen("https", "http", 1);
        assert_eq!((http.len(), CanonicalUrl::parse(&http)), (2048, Err(UrlError::TooLong { bytes: 2049 })));
        let grows = format!("https://example.com/{}", "é".repeat(400));
        assert_eq!((grows.len(), CanonicalUrl::parse(&grows)), (820, Err(UrlError::TooLong { bytes: 2420 })));
        let shrinks = format!("https://example.com/?utm_term={}", "a".repeat(2048));
        assert_eq!(CanonicalUrl::parse(&shrinks), Err(UrlError::TooLong { bytes: shrinks.len() }));
        let parentheses = format!("https://{}.com/", ")".repeat(2000));
        let key = CanonicalUrl::parse(&parentheses).unwrap().key().to_string();
        assert!(key.len() < 3 * MAX_BYTES && CanonicalUrl::from_key(&key).is_some());
    }

    #[test]
    fn each_error_goes_on_after_the_name_of_the_field() {
        let message = |text: &str| CanonicalUrl::parse(text).unwrap_err().to_string();
        assert_eq!(message("example.com/a"), "is no URL: relative URL without a base");
        assert_eq!(message("ftp://example.com/"), "has a scheme other than http and https");
        assert!(message(&"a".repeat(3000)).starts_with("is 3000 bytes long"));
    }
}
