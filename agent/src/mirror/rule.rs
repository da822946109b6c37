//! Policy rules: whether they are the kernel's own, in its order, and where a VRF's table comes in.

use super::{Mirror, MirrorFamily, Rule, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::netlink::AF_INET;

/// When the kernel looks up the table of the VRF that a packet came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VrfOrder {
    /// Behind table local: as long as no rule was moved.
    LocalFirst,
    /// Before table local.
    VrfFirst,
    /// Not at all, or behind table main.
    #[default]
    Never,
}

/// The rules of a family, judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// They look up what the kernel's own ones do, in that order.
    pub default: bool,
    /// One sentence for each that is odd or missing.
    pub odd: Vec<String>,
    /// Where VRFs' tables come in.
    pub vrf: VrfOrder,
}

impl Mirror {
    /// The rules of a family against the kernel's own: tables local, main and, for IPv4, default, in that order, each looked up
    /// by every packet. Looking one up again later changes nothing.
    pub fn rules<F: MirrorFamily>(&self) -> Rules {
        let mut want =
            if F::AF == AF_INET { &[TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT][..] } else { &[TABLE_LOCAL, TABLE_MAIN] };
        let mut rules = Rules::default();
        let mut seen: Vec<u32> = Vec::new();
        let mut last = None;
        for (_, r) in self.rules.iter().filter(|(f, _)| *f == F::AF) {
            // Which of two of one priority comes first is not visible.
            let tied = last.replace(r.priority) == Some(r.priority);
            if tied || !looks_up(r) {
                rules.odd.push(format!("{} rule of priority {} is not one of the kernel's own", F::NAME, r.priority));
            } else if r.l3mdev {
                if rules.vrf == VrfOrder::Never && !seen.contains(&TABLE_MAIN) {
                    rules.vrf = if seen.contains(&TABLE_LOCAL) { VrfOrder::LocalFirst } else { VrfOrder::VrfFirst };
                }
            } else if want.first() == Some(&r.table) {
                seen.push(r.table);
                want = &want[1..];
            } else if !seen.contains(&r.table) {
                rules.odd.push(format!("{} rule of priority {} is not one of the kernel's own", F::NAME, r.priority));
            }
        }
        for t in want {
            rules.odd.push(format!("{} rule that looks up table {t} is missing or out of order", F::NAME));
        }
        rules.default = rules.odd.is_empty();
        rules
    }
}

/// Whether a rule does nothing but look a table up.
fn looks_up(r: &Rule) -> bool {
    // FR_ACT_TO_TBL is 1 (linux/fib_rules.h).
    r.plain && r.action == 1
}
