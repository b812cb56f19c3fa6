//! placeholder
pub mod serve;
#[derive(Debug)] pub enum CommandError { Usage(String), Failed(String) }
