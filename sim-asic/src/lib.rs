//! Virga's simulated forwarding chip.
//!
//! `table` holds the lookup tables, `stage` the forwarding pipeline (pure: frames in, verdicts out), `chip` the contract's
//! side of both. `wire`, `hostif` and `worker` move frames; nothing else in the crate does I/O.

pub mod chip;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod fault;
pub mod hostif;
pub mod netlink;
pub mod netns;
pub mod policer;
pub mod pool;
pub mod ports;
pub mod server;
pub mod stage;
pub mod state;
pub mod sync;
mod table;
pub mod trace;
pub mod wire;
pub mod worker;

pub use chip::SimChip;
pub use counters::WorkerCounters;
pub use stage::{Packet, Pipeline, ROOM, Verdict, with_room};
