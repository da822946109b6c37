//! Virga's agent: mirrors the kernel's forwarding state into a forwarding chip.
//!
//! State flows one way: `netlink` decodes, `mirror` keeps the kernel's objects, `compile` turns them into verdicts,
//! `program` brings the chip there. `core` ties these together without any I/O; all sockets, threads and timers are in `edge`.

pub mod arena;
pub mod cli;
pub mod compile;
pub mod config;
pub mod core;
pub mod daemon;
pub mod edge;
pub mod index;
pub mod input;
pub mod lab;
pub mod mirror;
pub mod netlink;
mod placed;
pub mod policy;
pub mod program;
pub mod record;
