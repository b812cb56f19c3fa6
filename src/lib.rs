//! Dateline: an embedded article store that other systems dial.
//!
//! One daemon keeps news articles, keyed by publication date and URL, and serves them over gRPC. The modules, from the
//! inside out; each may use those above it and none below:
//!
//! * [`article`]: the domain. What an article is, what identifies it, how large it may be. No I/O.
//! * [`workers`]: threads for what blocks or takes long.
//! * [`storage`]: what a store promises, the engine on disk, and the reference engine.
//! * [`backup`]: backup files: everything that a store holds, in a format that no engine has a part in.
//! * [`formats`]: readers and writers of article files.
//! * [`config`], [`shutdown`], [`telemetry`]: what the daemon is told, how it stops, what it logs.
//! * [`grpc`]: the services of `proto/dateline/v1`, on top of any store.
//! * [`client`]: the typed client, which the command line and the tests use.
//! * [`server`]: the daemon's wiring: listener, limits, health, drain.
//! * [`cli`]: the commands, one file each.

pub mod article;
pub mod backup;
pub mod cli;
pub mod client;
pub mod config;
pub mod formats;
pub mod grpc;
pub mod server;
pub mod shutdown;
pub mod storage;
pub mod telemetry;
pub mod workers;
