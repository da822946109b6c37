//! The `switch` table: what selects a member of a group, and policy routing. Values that are not compiled close the gate (`policy`).

use hal::{HashPolicy, SwitchEntry};

use super::Facts;

/// The one entry.
pub fn switch(f: &Facts<'_>) -> SwitchEntry {
    let policy = |v6| match f.polled.map_or(0, |p| p.hash_policy(v6)) {
        1 => HashPolicy::L4,
        2 => HashPolicy::Inner,
        3 => HashPolicy::Fields(f.polled.map_or(0, |p| p.hash_fields(v6))),
        _ => HashPolicy::L3,
    };
    SwitchEntry {
        hash4: policy(false),
        hash6: policy(true),
        rules4: f.vrfs.rules4.list.clone(),
        rules6: f.vrfs.rules6.list.clone(),
    }
}
