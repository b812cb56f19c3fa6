//! The names of the rules, and the parameters that only track.

/// One of the rules that make a URL canonical, in the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UrlRule {
    /// The WHATWG URL parser wrote the URL in another way: scheme and host in lower case, an international host name in
    /// punycode, an IP address in its usual form, dot segments resolved, spaces and non-ASCII text percent-escaped,
    /// surrounding space and embedded line breaks removed, the path `/` where there was none, and the like.
    WhatwgNormalized,
    /// http became https: an article is the same under both.
    SchemeToHttps,
    /// A user name or a password was dropped.
    UserInfoDropped,
    /// One or more dots at the end of the host were dropped.
    TrailingDotDropped,
    /// A leading `www.` was stripped, again and again while the rest of the host still held a dot.
    WwwStripped,
    /// Port 80 or 443 was dropped, under either scheme.
    DefaultPortDropped,
    /// Percent-escapes in path or query got upper-case digits. None is ever decoded.
    PercentEscapesUpperCased,
    /// Parameters of no length (as in `a&&b`) were removed.
    EmptyParametersRemoved,
    /// Parameters that only track readers were removed.
    TrackingParametersRemoved,
    /// The parameters were sorted by name; those of one name keep their order.
    QuerySorted,
    /// The query was dropped, as it was empty or nothing was left of it.
    EmptyQueryDropped,
    /// The fragment was dropped, even an empty one.
    FragmentDropped,
}

impl UrlRule {
    /// Every rule, in the order in which they apply.
    pub const ALL: [Self; 12] = [
        Self::WhatwgNormalized,
        Self::SchemeToHttps,
        Self::UserInfoDropped,
        Self::TrailingDotDropped,
        Self::WwwStripped,
        Self::DefaultPortDropped,
        Self::PercentEscapesUpperCased,
        Self::EmptyParametersRemoved,
        Self::TrackingParametersRemoved,
        Self::QuerySorted,
        Self::EmptyQueryDropped,
        Self::FragmentDropped,
    ];

    /// The rule's stable name, in lower snake case, as programs see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WhatwgNormalized => "whatwg_normalized",
            Self::SchemeToHttps => "scheme_to_https",
            Self::UserInfoDropped => "user_info_dropped",
            Self::TrailingDotDropped => "trailing_dot_dropped",
            Self::WwwStripped => "www_stripped",
            Self::DefaultPortDropped => "default_port_dropped",
            Self::PercentEscapesUpperCased => "percent_escapes_upper_cased",
            Self::EmptyParametersRemoved => "empty_parameters_removed",
            Self::TrackingParametersRemoved => "tracking_parameters_removed",
            Self::QuerySorted => "query_sorted",
            Self::EmptyQueryDropped => "empty_query_dropped",
            Self::FragmentDropped => "fragment_dropped",
        }
    }
}

/// The set of rules that changed something. A set of bits, so that noting costs next to nothing where nobody asks.
#[derive(Default)]
pub(super) struct Applied(u16);

impl Applied {
    /// Adds the rule if it changed something.
    pub(super) fn note(&mut self, rule: UrlRule, changed: bool) {
        self.0 |= u16::from(changed) << rule as u16;
    }

    /// The rules of the set, in order.
    pub(super) fn rules(&self) -> Vec<UrlRule> {
        UrlRule::ALL.into_iter().filter(|rule| self.0 >> *rule as u16 & 1 == 1).collect()
    }
}

/// Parameters with a name that starts like this only track.
const TRACKING_PREFIX: &str = "utm_";

/// Parameters that only track: each belongs to one known service and says how a reader came, never what is read.
/// Ambiguous names (`ref`, `cmp`, `source`, `id` ...) are left out on purpose. A change raises the version of the rules.
const TRACKING_NAMES: [&str; 27] = [
    "fbclid",
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "msclkid",
    "yclid",
    "ysclid",
    "twclid",
    "ttclid",
    "li_fat_id",
    "igshid",
    "igsh",
    "mc_cid",
    "mc_eid",
    "_hsenc",
    "_hsmi",
    "mkt_tok",
    "vero_id",
    "oly_anon_id",
    "oly_enc_id",
    "_openstat",
    "xtor",
    "at_medium",
    "at_campaign",
    "ns_mchannel",
];

/// Whether a parameter of this raw name only tracks. Upper and lower case are alike; escapes are not decoded.
pub(super) fn is_tracking(name: &str) -> bool {
    let starts_with_prefix = name.get(..TRACKING_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(TRACKING_PREFIX));
    starts_with_prefix || TRACKING_NAMES.iter().any(|tracking| name.eq_ignore_ascii_case(tracking))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_keeps_the_order_of_the_rules_and_each_once() {
        let mut applied = Applied::default();
        assert_eq!(applied.rules(), []);
        for rule in UrlRule::ALL.into_iter().rev().chain(UrlRule::ALL) {
            applied.note(rule, true);
            applied.note(rule, false);
        }
        assert_eq!(applied.rules(), UrlRule::ALL);
    }

    #[test]
    fn only_known_names_track() {
        for name in ["utm_source", "UTM_Term", "utm_", "fbclid", "GCLID", "ns_mchannel"] {
            assert!(is_tracking(name), "{name}");
        }
        for name in ["", "utm", "utm-source", "xutm_source", "utm%5Fsource", "fbclid2", "ref", "cmp", "smid", "source", "id", "éé"] {
            assert!(!is_tracking(name), "{name}");
        }
    }
}
