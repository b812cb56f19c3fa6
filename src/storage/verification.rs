//! Verification: looking at everything that a store holds, a little at a time, while it is in use.

use crate::article::ArticleKey;

/// Where a verification goes on. Only the engine that gave it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyCursor {
    /// Which part of the store comes next; parts are numbered by the engine.
    pub(crate) part: u8,
    /// After which key of it.
    pub(crate) after: Vec<u8>,
    /// Findings so far.
    pub(crate) findings: u64,
    /// Entries looked at so far.
    pub(crate) checked: u64,
}

/// One step of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyStep {
    /// Entries looked at since the verification began.
    pub checked: u64,
    /// Entries there are, about.
    pub total: u64,
    /// What this step found.
    pub findings: Vec<Finding>,
    /// How to go on; `None` where everything was looked at.
    pub next: Option<VerifyCursor>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of wrong.
    pub kind: FindingKind,
    /// The article, where it is about one.
    pub key: Option<ArticleKey>,
    /// A sentence for people.
    pub detail: String,
}

macro_rules! finding_kinds {
    ($($(#[$doc:meta])* $kind:ident = $reason:literal;)*) => {
        /// What can be wrong with a store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FindingKind { $($(#[$doc])* $kind),* }

        impl FindingKind {
            /// The stable reason on the wire.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$kind => $reason),* }
            }
        }
    };
}

finding_kinds! {
    /// The latest revision of an article cannot be read.
    RecordDamaged = "RECORD_DAMAGED";
    /// An earlier revision cannot be read.
    RevisionDamaged = "REVISION_DAMAGED";
    /// An article is not in the index by URL.
    IndexEntryMissing = "INDEX_ENTRY_MISSING";
    /// The index by URL has more entries than there are articles.
    IndexEntryStray = "INDEX_ENTRY_STRAY";
    /// The articles of a day are not those that its manifest says.
    DayIncomplete = "DAY_INCOMPLETE";
    /// The change that made an article's latest revision is not in the change log, or says something else.
    ChangeMissing = "CHANGE_MISSING";
    /// An entry of the change log cannot be read.
    ChangeDamaged = "CHANGE_DAMAGED";
    /// Another entry (a tombstone, a manifest, a stream's position) cannot be read.
    EntryDamaged = "ENTRY_DAMAGED";
    /// The totals are not those of what is there.
    TotalsWrong = "TOTALS_WRONG";
    /// What is noted of the use of a part of the journal is not what the records say.
    SegmentUsageWrong = "SEGMENT_USAGE_WRONG";
    /// A part of the journal cannot be read.
    JournalDamaged = "JOURNAL_DAMAGED";
}
