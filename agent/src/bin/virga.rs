//! The operator's command. Under the names `virgad` and `virga-asic` it is these programs: the lab starts them from its
//! own executable, so that one build is all that `cargo lab` needs.

use std::ffi::{CStr, OsString};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str()) {
        Some("virga-asic") => named(c"virga-asic", || sim_asic::daemon::main(args)),
        Some("virgad") => named(c"virgad", || virga::daemon::main(args)),
        _ => virga::cli::main(args),
    }
}

/// As that process, for `ps` and `top` too: they show the file's name otherwise.
fn named(name: &CStr, run: impl FnOnce() -> ExitCode) -> ExitCode {
    let _ = rustix::thread::set_name(name);
    run()
}
