//! From a text to the key of its canonical URL.
//!
//! The URL standard's own parser comes first; the rules of identity then work on its result and never make it mean
//! another thing to that parser. So a canonical URL parses to itself, and making it canonical again changes nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

use url::{Host, Url};

use super::plain::PlainUrl;
use super::rules::{Applied, UrlRule, is_tracking};
use super::{MAX_BYTES, UrlError, surt};

/// What every canonical URL starts with.
pub(super) const SCHEME: &str = "https://";

/// Room for any address in a key, and its port.
const ADDRESS_BYTES: usize = 64;

/// Parses an http or https URL as the WHATWG URL standard says.
pub(super) fn whatwg(text: &str) -> Result<Url, UrlError> {
    within_limit(text.len())?;
    let url = Url::parse(text).map_err(|error| UrlError::Unparsable(error.to_string()))?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(UrlError::Scheme) }
}

/// Applies the rules of identity and gives the key. `applied` learns which of them changed something.
pub(super) fn key_of(url: &Url, applied: &mut Applied) -> Result<Box<str>, UrlError> {
    let parsed_host = url.host().ok_or_else(|| UrlError::Unparsable(url::ParseError::EmptyHost.to_string()))?;
    applied.note(UrlRule::SchemeToHttps, url.scheme() == "http");
    applied.note(UrlRule::UserInfoDropped, !url.username().is_empty() || url.password().is_some());
    applied.note(UrlRule::FragmentDropped, url.fragment().is_some());

    let port = url.port().filter(|port| !matches!(port, 80 | 443));
    applied.note(UrlRule::DefaultPortDropped, url.port() != port);
    let host = canonical_host(parsed_host, applied);
    key_of_parts(&host, port, url.path(), url.query(), applied)
}

/// The key of a plain URL, which is the one that [`key_of`] gives.
pub(super) fn key_of_plain(text: &str, plain: &PlainUrl<'_>) -> Result<Box<str>, UrlError> {
    within_limit(text.len())?;
    key_of_parts(&Host::Domain(plain.domain), None, plain.path, plain.query, &mut Applied::default())
}

fn key_of_parts(
    host: &Host<&str>,
    port: Option<u16>,
    path: &str,
    query: Option<&str>,
    applied: &mut Applied,
) -> Result<Box<str>, UrlError> {
    // Mostly exact: every label is followed by a comma, and all of them by the parenthesis.
    let host_bytes = if let Host::Domain(domain) = host { domain.len() + ",)".len() } else { ADDRESS_BYTES };
    let mut key = String::with_capacity(host_bytes + path.len() + query.map_or(0, |query| "?".len() + query.len()));
    surt::push_host(&mut key, host);
    let key_host_len = key.len();
    let host_len = if let Host::Domain(domain) = host { domain.len() } else { key_host_len };

    if let Some(port) = port {
        // Writing to a string cannot fail.
        let _ = write!(key, ":{port}");
    }
    key.push(surt::END);

    let path = upper_case_escapes(path);
    applied.note(UrlRule::PercentEscapesUpperCased, matches!(path, Cow::Owned(_)));
    key.push_str(&path);
    if let Some(query) = query {
        push_query(&mut key, query, applied);
    }
    within_limit(SCHEME.len() + host_len + (key.len() - key_host_len) - surt::END.len_utf8())?;
    Ok(key.into_boxed_str())
}

/// Notes what the parser changed in `text`, which the parsed URL no longer shows.
pub(super) fn note_parser_changes(text: &str, parsed: &Url, applied: &mut Applied) {
    let Some((_, given)) = text.split_once(':') else { return };
    // The parser drops a port that is its scheme's own, and shows it under the other one. The two do not differ otherwise.
    let (other_scheme, default_port) = if parsed.scheme() == "http" { ("https", 80) } else { ("http", 443) };
    let with_port = Url::parse(&format!("{other_scheme}:{given}")).ok().filter(|url| url.port() == Some(default_port));
    applied.note(UrlRule::DefaultPortDropped, with_port.is_some());

    let written = with_port.as_ref().unwrap_or(parsed);
    let same_scheme = text.strip_prefix(parsed.scheme()).is_some_and(|rest| rest.starts_with(':'));
    let same_rest = written.as_str().split_once(':').is_some_and(|(_, rest)| rest == given);
    applied.note(UrlRule::WhatwgNormalized, !(same_scheme && same_rest));
}

/// The host without dots at its end and without leading `www.`, where that is still a domain to the parser.
///
/// It need not be: `foo.0x4..` is a domain, but without its dots the parser would read a (wrong) IPv4 address, and
/// without its dots `..` is nothing. Such a host stays as it is.
fn canonical_host<'u>(host: Host<&'u str>, applied: &mut Applied) -> Host<&'u str> {
    let Host::Domain(given) = host else { return host };
    let undotted = given.trim_end_matches('.');
    let mut bare = undotted;
    while let Some(rest) = bare.strip_prefix("www.").filter(|rest| rest.contains('.')) {
        bare = rest;
    }
    let unchanged = bare.len() == given.len();
    if unchanged || !matches!(Host::parse(bare), Ok(Host::Domain(parsed)) if parsed == bare) {
        return host;
    }
    applied.note(UrlRule::TrailingDotDropped, undotted.len() < given.len());
    applied.note(UrlRule::WwwStripped, bare.len() < undotted.len());
    Host::Domain(bare)
}

/// Appends the canonical query with its question mark, or nothing where no parameter is left.
fn push_query(key: &mut String, query: &str, applied: &mut Applied) {
    let query = upper_case_escapes(query);
    applied.note(UrlRule::PercentEscapesUpperCased, matches!(query, Cow::Owned(_)));

    let mut parameters: Vec<&str> = query.split('&').collect();
    let given = parameters.len();
    parameters.retain(|parameter| !parameter.is_empty());
    applied.note(UrlRule::EmptyParametersRemoved, parameters.len() < given && !query.is_empty());

    let not_empty = parameters.len();
    parameters.retain(|parameter| !is_tracking(name(parameter)));
    applied.note(UrlRule::TrackingParametersRemoved, parameters.len() < not_empty);

    applied.note(UrlRule::QuerySorted, !parameters.is_sorted_by_key(|parameter| name(parameter)));
    parameters.sort_by_key(|parameter| name(parameter));

    applied.note(UrlRule::EmptyQueryDropped, parameters.is_empty());
    let mut separator = '?';
    for parameter in parameters {
        key.push(separator);
        key.push_str(parameter);
        separator = '&';
    }
}

/// A parameter's raw name: what stands before the first equals sign, or all of it.
fn name(parameter: &str) -> &str {
    parameter.split_once('=').map_or(parameter, |(name, _)| name)
}

/// The text with the digits of every percent-escape in upper case; owned only where that changed something.
fn upper_case_escapes(text: &str) -> Cow<'_, str> {
    let mut upper = Cow::Borrowed(text);
    for (percent, _) in text.match_indices('%') {
        let digits = percent + 1..percent + 3;
        let Some(pair) = text.get(digits.clone()) else { continue };
        let is_escape = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_escape && pair.bytes().any(|digit| digit.is_ascii_lowercase()) {
            upper.to_mut()[digits].make_ascii_uppercase();
        }
    }
    upper
}

fn within_limit(bytes: usize) -> Result<(), UrlError> {
    if bytes <= MAX_BYTES { Ok(()) } else { Err(UrlError::TooLong { bytes }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_escapes_are_upper_cased() {
        let cases =
            [("%2f", "%2F"), ("%%2f", "%%2F"), ("%2%2f", "%2%2F"), ("a%c3%A9b", "a%C3%A9b"), ("%fg%f", "%fg%f"), ("%", "%"), ("%é", "%é")];
        for (given, expected) in cases {
            assert_eq!(upper_case_escapes(given), expected);
            assert_eq!(matches!(upper_case_escapes(given), Cow::Owned(_)), given != expected, "{given}");
        }
    }

    #[test]
    fn a_host_changes_only_where_the_parser_reads_the_same_host_afterwards() {
        let cases = [
            ("www.example.com", "example.com"),
            ("www.www.example.com..", "example.com"),
            ("www.com", "www.com"),
            ("www.www.", "www.www"),
            ("www..com", ".com"),
            ("wwww.example.com", "wwww.example.com"),
            (".", "."),
            ("..", ".."),
            ("foo.0x4..", "foo.0x4.."),
            ("www.4..", "www.4.."),
            ("www.0x7f..", "www.0x7f.."),
            ("1.2.3.4..", "1.2.3.4.."),
        ];
        for (given, expected) in cases {
            assert_eq!(canonical_host(Host::Domain(given), &mut Applied::default()), Host::Domain(expected), "{given}");
        }
    }

    #[test]
    fn what_the_parser_changed_is_told_apart_from_a_default_port() {
        let rules = |text: &str| {
            let mut applied = Applied::default();
            note_parser_changes(text, &whatwg(text).unwrap(), &mut applied);
            applied.rules()
        };
        for text in ["https://example.com/", "http://example.com/a?b#c", "http://example.com:443/", "https://example.com:8080/"] {
            assert_eq!(rules(text), [], "{text}");
        }
        for text in ["https://example.com:443/", "http://example.com:80/?a"] {
            assert_eq!(rules(text), [UrlRule::DefaultPortDropped], "{text}");
        }
        for text in [
            "https://example.com",
            "HTTPS://example.com/",
            " https://example.com/",
            "https:/example.com/",
            "https://example.com/é",
            "ht\ntp://a/",
        ] {
            assert_eq!(rules(text), [UrlRule::WhatwgNormalized], "{text:?}");
        }
        assert_eq!(rules("https://example.com:443"), [UrlRule::WhatwgNormalized, UrlRule::DefaultPortDropped]);
    }
}
