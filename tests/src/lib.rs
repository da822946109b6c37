//! Worlds of namespaces and what the scenario tests share. Nothing depends on this crate.
