//! The simulated chip as a process.
fn main() {}
