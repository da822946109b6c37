//! The agent as a process.
fn main() {}
