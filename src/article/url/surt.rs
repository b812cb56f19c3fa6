//! The SURT form of a host: labels reversed, so that a domain and its subdomains are neighbours in byte order.
//!
//! Host and key stand for one another exactly. A domain's labels are reversed and each is followed by a comma; an IP
//! address stays as it is and so never ends in a comma. The URL standard allows commas and closing parentheses inside
//! labels, which the key needs for itself: a comma is written `.` (no label holds a dot) and a closing parenthesis
//! `%29` (no domain holds a percent sign). Colons and brackets cannot occur in a domain, so a port is never ambiguous.

use std::fmt;

use url::Host;

/// What ends host and port in a key.
pub(super) const END: char = ')';
/// How [`END`] is written inside a label.
const ESCAPED_END: &str = "%29";

/// Appends the host in SURT form to `key`: without port and without the closing parenthesis.
pub(super) fn push_host(key: &mut String, host: &Host<&str>) {
    match host {
        Host::Domain(domain) => domain.rsplit('.').for_each(|label| push_label(key, label)),
        // The URL parser's form of an address, which is not always that of the standard library.
        address => key.push_str(&address.to_string()),
    }
}

fn push_label(key: &mut String, label: &str) {
    if label.contains([',', END]) {
        key.push_str(&label.replace(',', ".").replace(END, ESCAPED_END));
    } else {
        key.push_str(label);
    }
    key.push(',');
}

/// The two parts of a key: host and port, and what follows the closing parenthesis.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_once(END).unwrap_or((key, ""))
}

/// Writes host and port of a key, the first part that [`split`] gives, the way a URL has them.
pub(super) fn write_host(out: &mut impl fmt::Write, authority: &str) -> fmt::Result {
    let after_address = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let port = authority[after_address..].find(':').map_or(authority.len(), |colon| after_address + colon);
    let (host, port) = authority.split_at(port);
    match host.strip_suffix(',') {
        Some(labels) => {
            for (i, label) in labels.rsplit(',').enumerate() {
                if i > 0 {
                    out.write_char('.')?;
                }
                if label.contains(['.', '%']) {
                    out.write_str(&label.replace('.', ",").replace(ESCAPED_END, ")"))?;
                } else {
                    out.write_str(label)?;
                }
            }
        }
        None => out.write_str(host)?,
    }
    out.write_str(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surt(host: &str) -> String {
        let host = Host::parse(host).unwrap();
        let mut key = String::new();
        let borrowed = match &host {
            Host::Domain(domain) => Host::Domain(domain.as_str()),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        };
        push_host(&mut key, &borrowed);
        key
    }

    #[test]
    fn hosts_come_back_from_their_surt_form() {
        let hosts = [
            ("example.com", "com,example,"),
            ("localhost", "localhost,"),
            ("a..b", "b,,a,"),
            (".b", "b,,"),
            ("..", ",,,"),
            ("foo.0x4..", ",,0x4,foo,"),
            ("a,b.c", "c,a.b,"),
            ("1,2,3,4", "1.2.3.4,"),
            ("a).(b", "(b,a%29,"),
            ("1.2.3.4", "1.2.3.4"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ];
        for (host, expected) in hosts {
            assert_eq!(surt(host), expected);
            for port in ["", ":8080"] {
                let mut back = String::new();
                write_host(&mut back, &format!("{expected}{port}")).unwrap();
                assert_eq!(back, format!("{host}{port}"));
            }
        }
    }
}
