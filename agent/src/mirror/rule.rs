//! Policy rules, held against the kernel's own.

use std::collections::BTreeMap;

use super::{Mirror, MirrorFamily, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::netlink::AF_INET;

/// The rules of a family, judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Exactly the kernel's own ones.
    pub default: bool,
    /// One sentence for each that is odd or missing.
    pub odd: Vec<String>,
}

impl Mirror {
    /// The rules of a family against the kernel's own: local at 0, main at 32766, and for IPv4 default at 32767.
    pub fn rules<F: MirrorFamily>(&self) -> Rules {
        let mut missing = BTreeMap::from([(0, TABLE_LOCAL), (32766, TABLE_MAIN)]);
        if F::AF == AF_INET {
            missing.insert(32767, TABLE_DEFAULT);
        }
        let mut odd = Vec::new();
        for (_, r) in self.rules.iter().filter(|(f, _)| *f == F::AF) {
            // FR_ACT_TO_TBL is 1 (linux/fib_rules.h).
            if r.plain && r.action == 1 && missing.get(&r.priority) == Some(&r.table) {
                missing.remove(&r.priority);
            } else {
                odd.push(format!("{} rule of priority {} is not one of the kernel's own", F::NAME, r.priority));
            }
        }
        for (p, t) in missing {
            odd.push(format!("{} rule of priority {p} that looks up table {t} is missing", F::NAME));
        }
        Rules { default: odd.is_empty(), odd }
    }
}
