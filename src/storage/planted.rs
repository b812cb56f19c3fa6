//! Faults that are planted on purpose, to see that the tests of the store's promises notice them.
//!
//! Only a build with the feature `planted-faults` has them, and only where `DATELINE_PLANTED_FAULT` names one; in every other
//! build [`planted`] is a constant `false`.

/// A protection that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The journal is not synced: `no-fsync`.
    NoFsync,
    /// Writers are answered before the journal is written: `acknowledge-early`.
    AcknowledgeEarly,
    /// Readers see a group before it is durable: `publish-before-fsync`.
    PublishBeforeFsync,
    /// Checksums of payloads are not looked at: `checksum-unchecked`.
    ChecksumUnchecked,
    /// New articles do not go into the index by URL: `index-entry-left-out`.
    IndexEntryLeftOut,
    /// Opening does not compare sled's state, the checkpoint and the journal: `sequence-check-ignored`.
    SequenceCheckIgnored,
    /// Opening does not make the journal's last frame durable: `last-frame-not-synced`.
    LastFrameNotSynced,
    /// sled's files are believed whatever happened to the machine: `stopped-machine-ignored`.
    StoppedMachineIgnored,
}

/// Whether this fault is planted in this process.
#[cfg(feature = "planted-faults")]
pub fn planted(fault: Fault) -> bool {
    use std::sync::OnceLock;
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    let name = match fault {
        Fault::NoFsync => "no-fsync",
        Fault::AcknowledgeEarly => "acknowledge-early",
        Fault::PublishBeforeFsync => "publish-before-fsync",
        Fault::ChecksumUnchecked => "checksum-unchecked",
        Fault::IndexEntryLeftOut => "index-entry-left-out",
        Fault::SequenceCheckIgnored => "sequence-check-ignored",
        Fault::LastFrameNotSynced => "last-frame-not-synced",
        Fault::StoppedMachineIgnored => "stopped-machine-ignored",
    };
    NAMED.get_or_init(|| std::env::var("DATELINE_PLANTED_FAULT").ok()).as_deref() == Some(name)
}

/// Whether this fault is planted: never in this build.
#[cfg(not(feature = "planted-faults"))]
pub const fn planted(_: Fault) -> bool {
    false
}
