//! Kernel-facts, one test each, on messages made by hand. The same against a real kernel: `agent/tests/mirror.rs`.
