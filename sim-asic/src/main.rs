//! The simulated chip as a process; what it does is `sim_asic::daemon`'s.

fn main() -> std::process::ExitCode {
    sim_asic::daemon::main(std::env::args_os().collect())
}
