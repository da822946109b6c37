//! Virga's simulated forwarding chip.
//!
//! `table` holds the lookup tables, `stage` the forwarding pipeline (pure: frames in, verdicts out), `chip` the contract's
//! side of both. `wire`, `hostif` and `worker` move frames; nothing else in the crate does I/O.

pub mod chip;
pub mod counters;
pub mod stage;
pub mod sync;

pub use chip::SimChip;
pub use counters::WorkerCounters;
pub use stage::{Packet, Pipeline, Verdict};
