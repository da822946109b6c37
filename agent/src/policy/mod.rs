//! The policy gate: everything in the kernel that is not a route and yet has a say in forwarding.
//!
//! `Polled` is what was read of it, `read` (I/O) reads it, `gate` (pure) says what it closes. Unknown means closed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One reading of all inputs that are never announced. Plain data; compared field by field with the reading before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Polled {
    /// Path below `/proc/sys/net/` → value (trimmed), for every path that the sysctl table names, interfaces expanded.
    pub sysctls: BTreeMap<String, String>,
    /// Findings that close the gate, each with its scope and one sentence.
    pub findings: Vec<Finding>,
    /// What could not be watched and is taken as absent (BPF attachments in a user namespace), for `status`.
    pub unwatched: Vec<String>,
}

/// What a closed gate punts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Scope {
    /// Everything.
    All,
    /// All IPv4.
    V4,
    /// All IPv6.
    V6,
    /// Everything that comes in or leaves by the interface of that index.
    Link(u32),
    /// IPv4 that comes in by it.
    Ingress4(u32),
    /// IPv6 that comes in by it.
    Ingress6(u32),
}

/// One reason why something is punted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What it punts.
    pub scope: Scope,
    /// One sentence for `status`: names the thing and, where there is one, the remedy.
    pub why: String,
}
