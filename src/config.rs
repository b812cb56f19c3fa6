//! What the daemon is told: flags before environment before file before defaults, read once and checked once.

mod retention;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::article::{DateHorizon, Limits};
use crate::storage::{ChangeRetention, Durability, History, StoreOptions};

pub use retention::Period;

/// The daemon's configuration. In a file (TOML) and in the environment (`DATELINE_DATA`, `DATELINE_LISTEN` ...) the fields have
/// these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// The data folder. Default `./dateline-data`.
    pub data: PathBuf,
    /// The address to listen on; port 0 picks a free one. Default `127.0.0.1:50051`.
    pub listen: SocketAddr,
    /// Allows an address that other machines reach, without encryption or authentication. Default false.
    pub insecure: bool,
    /// Days ahead of today that an article may be dated; -1 for any. Default 90.
    pub max_days_ahead: i64,
    /// Bytes of an article at most. Default 3 MiB, and at most that.
    pub article_bytes: usize,
    /// What an acknowledgement promises: `fsync` or `interval`. Default `fsync`.
    pub durability: DurabilitySetting,
    /// How many earlier revisions of an article are kept: `all`, `none` or a number. Default `all`.
    #[serde(with = "retention")]
    pub history: History,
    /// Changes younger than this stay in the change log: `30d`. Not set by default: none goes by its age.
    #[serde(serialize_with = "retention::serialize_optional", deserialize_with = "retention::deserialize_optional")]
    pub change_retention_age: Option<Period>,
    /// The latest so many changes stay in the change log. Not set by default: none goes by its number.
    pub change_retention_count: Option<u64>,
    /// For how long at least a watch from the beginning can be resumed where changes are trimmed. Default `1h`.
    #[serde(with = "retention")]
    pub change_rebuild_time: Period,
    /// Bytes of memory for what is overwritten and deleted while a backup is read; past that it fails. Default 64 MiB.
    pub backup_note_bytes: usize,
    /// Seconds that calls may take to finish when the daemon is told to stop. Default 20.
    pub drain_seconds: u64,
    /// Seconds after which an ingest stream that did not advance is forgotten; -1 for never. Default 604,800, which is 7
    /// days; a client that is away for longer begins again.
    pub stream_expiry_seconds: i64,
    /// Seconds that a client may read nothing of a response before it is ended with READER_STALLED; at least 1. Default 60.
    pub reader_seconds: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            data: "dateline-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            insecure: false,
            max_days_ahead: 90,
            article_bytes: Limits::default().article_bytes,
            durability: DurabilitySetting::Fsync,
            history: History::All,
            change_retention_age: None,
            change_retention_count: None,
            change_rebuild_time: Period(ChangeRetention::default().rebuild_time),
            backup_note_bytes: StoreOptions::default().snapshot_note_bytes,
            drain_seconds: 20,
            stream_expiry_seconds: 7 * 24 * 3600,
            reader_seconds: 60,
        }
    }
}

/// What is given on the command line; what is not stays with the environment, the file or the default.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServeFlags {
    /// The data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// The address to listen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Allows an address that other machines reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    /// What an acknowledgement promises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<DurabilitySetting>,
    /// Seconds after which an ingest stream is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_expiry_seconds: Option<i64>,
    /// How many earlier revisions are kept.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "retention::serialize_optional")]
    pub history: Option<History>,
    /// Changes younger than this are kept.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "retention::serialize_optional")]
    pub change_retention_age: Option<Period>,
    /// The latest so many changes are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_retention_count: Option<u64>,
    /// For how long a watch from the beginning can be resumed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "retention::serialize_optional")]
    pub change_rebuild_time: Option<Period>,
}

/// What an acknowledgement promises, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DurabilitySetting {
    /// It survives any crash and any loss of power
    Fsync,
    /// Faster for single writes: a loss of power may take the last milliseconds of what was acknowledged
    Interval,
}

impl ServeConfig {
    /// Puts the configuration together and checks it.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to do.
    pub fn load(flags: &ServeFlags, file: Option<&Path>) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(format!("the configuration file {} cannot be read", file.display()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // The others are for clients and tests.
        let environment =
            Env::prefixed("DATELINE_").ignore(&["server", "corpus", "log", "faults", "faults_seed", "faults_keep", "planted_fault"]);
        let config: Self = figment
            .merge(environment)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| format!("the configuration is wrong: {error}"))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(format!(
                "{} can be reached by other machines, and this version neither encrypts nor authenticates: listen on 127.0.0.1, or say --insecure where the network is trusted",
                self.listen
            ));
        }
        let most = Limits::default().article_bytes;
        if !(1..=most).contains(&self.article_bytes) {
            return Err(format!("article_bytes is {}: it must lie between 1 and {most}", self.article_bytes));
        }
        if self.stream_expiry_seconds < 1 && self.stream_expiry_seconds != -1 {
            return Err(format!("stream_expiry_seconds is {}: it must be at least 1, or -1 for never", self.stream_expiry_seconds));
        }
        if self.reader_seconds == 0 {
            return Err("reader_seconds is 0: it must be at least 1".into());
        }
        Ok(())
    }

    /// How the store is to be opened.
    pub fn store_options(&self) -> StoreOptions {
        let durability = match self.durability {
            DurabilitySetting::Fsync => Durability::Fsync,
            DurabilitySetting::Interval => Durability::Interval,
        };
        // Only -1 is negative.
        let stream_expiry = u64::try_from(self.stream_expiry_seconds).ok().map(Duration::from_secs);
        let changes = ChangeRetention {
            age: self.change_retention_age.map(|Period(age)| age),
            count: self.change_retention_count,
            rebuild_time: self.change_rebuild_time.0,
        };
        StoreOptions { durability, stream_expiry, history: self.history, changes, snapshot_note_bytes: self.backup_note_bytes }
    }

    /// How long a client may read nothing of a response.
    pub fn reader_patience(&self) -> Duration {
        Duration::from_secs(self.reader_seconds)
    }

    /// The limits on articles.
    pub fn limits(&self) -> Limits {
        let horizon = u32::try_from(self.max_days_ahead).map_or(DateHorizon::Unlimited, DateHorizon::Days);
        Limits { article_bytes: self.article_bytes, horizon, ..Limits::default() }
    }

    /// How long calls may take to finish when the daemon is told to stop.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_kept_out_unless_told_otherwise() {
        let flags = |listen: &str, insecure| ServeFlags { listen: listen.parse().ok(), insecure, ..ServeFlags::default() };
        assert!(ServeConfig::load(&flags("0.0.0.0:1", None), None).unwrap_err().contains("--insecure"));
        assert!(ServeConfig::load(&flags("[::]:1", None), None).is_err());
        assert!(ServeConfig::load(&flags("0.0.0.0:1", Some(true)), None).is_ok());
        assert!(ServeConfig::load(&flags("[::1]:1", None), None).is_ok());
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_names_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dateline.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:7\"\nmax_days_ahead = -1\n").unwrap();
        let flags = ServeFlags { listen: "127.0.0.1:8".parse().ok(), ..ServeFlags::default() };
        let config = ServeConfig::load(&flags, Some(&file)).unwrap();
        assert_eq!(config.listen.port(), 8);
        assert_eq!(config.limits().horizon, DateHorizon::Unlimited);
        assert_eq!(config.store_options(), StoreOptions::default());
        std::fs::write(&file, "durability = \"interval\"\n").unwrap();
        let durability = |flags: &ServeFlags| ServeConfig::load(flags, Some(&file)).unwrap().store_options().durability;
        assert_eq!(durability(&flags), Durability::Interval);
        assert_eq!(durability(&ServeFlags { durability: Some(DurabilitySetting::Fsync), ..flags.clone() }), Durability::Fsync);
        std::fs::write(&file, "stream_expiry_seconds = -1\n").unwrap();
        let expiry = |seconds| {
            let flags = ServeFlags { stream_expiry_seconds: seconds, ..flags.clone() };
            ServeConfig::load(&flags, Some(&file)).map(|config| config.store_options().stream_expiry)
        };
        assert_eq!((expiry(None), expiry(Some(5))), (Ok(None), Ok(Some(Duration::from_secs(5)))));
        assert!(expiry(Some(0)).unwrap_err().contains("stream_expiry_seconds"));
        let history = |flags: &ServeFlags| ServeConfig::load(flags, Some(&file)).map(|config| config.store_options().history);
        for (text, expected) in [("\"none\"", History::Last(0)), ("2", History::Last(2)), ("\"7\"", History::Last(7))] {
            std::fs::write(&file, format!("history = {text}\n")).unwrap();
            assert_eq!(history(&flags), Ok(expected));
            assert_eq!(history(&ServeFlags { history: Some(History::All), ..flags.clone() }), Ok(History::All));
        }
        std::fs::write(&file, "history = \"some\"\n").unwrap();
        assert!(history(&flags).unwrap_err().contains("neither `all` nor `none`"));
        std::fs::write(&file, "change_retention_age = \"30d\"\nchange_retention_count = 7\n").unwrap();
        let changes = ServeConfig::load(&flags, Some(&file)).unwrap().store_options().changes;
        let (age, hour) = (Duration::from_secs(30 * 86400), Duration::from_secs(3600));
        assert_eq!(changes, ChangeRetention { age: Some(age), count: Some(7), rebuild_time: hour });
        let more = ServeFlags { change_retention_age: Some(Period(hour)), change_rebuild_time: Some(Period(age)), ..flags.clone() };
        let changes = ServeConfig::load(&more, Some(&file)).unwrap().store_options().changes;
        assert_eq!(changes, ChangeRetention { age: Some(hour), count: Some(7), rebuild_time: age });
        std::fs::write(&file, "lisen = 1\n").unwrap();
        assert!(ServeConfig::load(&flags, Some(&file)).unwrap_err().contains("lisen"));
    }
}
