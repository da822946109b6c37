//! The agent as a process. All of it is `virga::daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    virga::daemon::main(std::env::args_os().collect())
}
