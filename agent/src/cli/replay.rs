//! `virga replay FILE`: a recorded journal through a fresh core; needs no daemon and no privileges.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Context, print};
use crate::record;

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
pub fn run(cx: &Context, o: &Options) -> Result<ExitCode, String> {
    let shown = o.file.display();
    let file = std::fs::File::open(&o.file).map_err(|e| format!("the journal {shown} can't be read: {e}"))?;
    match record::replay(std::io::BufReader::new(file)) {
        Ok(n) if cx.json => {
            print(&format!("{}\n", serde_json::json!({"equal": true, "inputs": n.inputs, "outputs": n.outputs})))?;
        }
        Ok(n) => print(&format!("equal: {} inputs, {} outputs\n", n.inputs, n.outputs))?,
        Err(e) => return Err(format!("{shown}: {e}")),
    }
    Ok(ExitCode::SUCCESS)
}
