//! All sockets, threads and timers of the agent.
//!
//! One plain thread runs the core (`runner`); a reader copies the kernel's notifications (`monitor`), a thread each dumps, sends
//! requests, polls policy and hears that it has changed; the main thread runs tokio for operators (`http`, `serve`) and for the service manager (`service`).
//! Nothing here decides anything about forwarding.

pub mod chip;
pub mod dump;
pub mod http;
pub mod log;
pub mod monitor;
pub mod nl;
pub mod poller;
pub mod request;
pub mod runner;
pub mod serve;
pub mod service;
pub mod wake;
pub mod watch;
