//! `virga check`: kernel, desired and chip compared afresh.

use std::process::ExitCode;

use super::{Context, print, text};

/// Differences shown; `-j` has all that the daemon names.
const SHOWN: usize = 50;

/// Exits 0 only where all agree.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context) -> Result<ExitCode, String> {
    let v = cx.client.fetch("/v1/check")?;
    let equal = v["equal"].as_bool() == Some(true);
    if cx.json {
        print(&format!("{v}\n"))?;
    } else if equal {
        print("equal\n")?;
    } else {
        for d in v["differences"].as_array().into_iter().flatten().take(SHOWN) {
            print(&format!("{}\n", text::plain(d)))?;
        }
        print(&format!("different: {} in all\n", text::plain(&v["differing"])))?;
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
