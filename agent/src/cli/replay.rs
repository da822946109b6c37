//! `virga replay FILE`: a recorded journal through a fresh core; needs no daemon and no privileges.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Context;

/// Which.
#[derive(Args, Debug)]
pub struct Options {
    /// Journal written by virgad --record
    file: PathBuf,
}

/// Exits non-zero at the first output that differs from the recorded one.
///
/// # Errors
/// One sentence.
pub fn run(_cx: &Context, o: &Options) -> Result<ExitCode, String> {
    Err(format!("{} can't be replayed: not built yet", o.file.display()))
}
