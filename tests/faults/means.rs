//! What a test needs of the machine, tried out: a test whose means are missing is ignored, with the reason.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::disk::Disk;

/// Why a test cannot run here.
pub type Missing = String;

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{program} {} failed: {text}", arguments.join(" ")))
}

/// strace, which may trace and inject faults.
pub fn strace() -> Result<(), Missing> {
    let traced = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", "true"];
    run("strace", &traced).map(drop).map_err(|error| format!("strace cannot be used: {error}"))
}

/// A file system of one's own: root, a loop device, mkfs.ext4.
pub fn disk() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".into());
    }
    Disk::new(16, &[]).map(drop).map_err(|error| format!("no file system can be mounted from a file: {error}"))
}

/// prlimit, which limits the size of files.
pub fn prlimit() -> Result<(), Missing> {
    run("prlimit", &["--fsize=1000000", "true"]).map(drop).map_err(|error| format!("prlimit cannot be used: {error}"))
}

/// The library that gives a program another clock.
pub fn faketime() -> Result<PathBuf, Missing> {
    let places =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime"];
    let found = places.iter().map(|place| Path::new(place).join("libfaketimeMT.so.1")).find(|path| path.exists());
    found.ok_or_else(|| "libfaketimeMT.so.1 is not installed (Debian: apt-get install faketime)".into())
}
