//! Walks over all prefixes that the chip may have to hold, router by router, a page at a time; and which virtual routers have
//! a place in the chip.

use std::collections::BTreeSet;

use hal::{Addr, Prefix, V4, V6, VrfId};

use super::Core;
use crate::compile::Gate;
use crate::compile::vrf::{DEFAULT, Vrfs};
use crate::mirror::{Mirror, MirrorFamily};

/// A walk that has every prefix compiled again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    vrf: VrfId,
    v6: bool,
    cursor: u64,
}

/// Prefixes that a walk touches at a time.
pub(super) const WALK: usize = 4096;

/// What is to be walked over.
#[derive(Debug, Default)]
pub(super) struct Walks {
    now: Option<Walk>,
    next: BTreeSet<VrfId>,
}

impl Walks {
    /// Whether there is something to walk over.
    pub fn busy(&self) -> bool {
        self.now.is_some() || !self.next.is_empty()
    }
    /// Nothing is.
    pub fn clear(&mut self) {
        *self = Walks::default();
    }
}

impl Core {
    /// Have all prefixes compiled again.
    pub(super) fn walk_all(&mut self) {
        self.walks.now = None;
        self.walks.next = self.program.vrfs.iter().map(|(id, _)| id).chain([DEFAULT]).collect();
    }

    /// Have the next chunk of what is walked over compiled again.
    pub(super) fn walk_on(&mut self) {
        if !self.walks.busy() || !self.program.wants_prefixes() {
            return;
        }
        let w = match self.walks.now {
            Some(w) => w,
            None => match self.walks.next.pop_first() {
                Some(vrf) => Walk { vrf, v6: false, cursor: 0 },
                None => return,
            },
        };
        let next = if w.v6 { self.walk_page::<V6>(w) } else { self.walk_page::<V4>(w) };
        self.walks.now = match next {
            Some(cursor) => Some(Walk { cursor, ..w }),
            None if !w.v6 => Some(Walk { v6: true, cursor: 0, ..w }),
            None => {
                self.program.walked(w.vrf);
                if self.walks.next.is_empty() {
                    // Groups that no route wants any more after all.
                    self.program.ids.touch_groups();
                }
                None
            }
        };
    }

    fn walk_page<F: crate::program::Tables>(&mut self, w: Walk) -> Option<u64> {
        let (page, next) = prefixes::<F>(&self.mirror, &self.gate, &self.vrfs, w.vrf, w.cursor, WALK);
        page.into_iter().for_each(|p| self.program.touch_in(w.vrf, p));
        next
    }

    /// Virtual routers and rules by what a mirror knows.
    pub(super) fn vrfs_of(&self, m: &Mirror) -> Vrfs {
        Vrfs::new(m, &self.ports, self.profile.rules, |id| self.program.place(id))
    }

    /// Virtual routers come, go and fill.
    pub(super) fn vrfs_work(&mut self) {
        let look = core::mem::take(&mut self.vrfs_look);
        let programming = self.programming();
        // Places are given when the chip may be written to.
        let move_on = programming && (core::mem::take(&mut self.vrfs_wait) || self.program.vrfs_move());
        if !look && !move_on {
            return;
        }
        self.vrfs_wait |= !programming;
        if programming {
            let wanted = self.vrfs_of(&self.mirror).ids().collect();
            self.walks.next.extend(self.program.want_vrfs(&wanted, self.profile.vrfs));
        }
        let new = self.vrfs_of(&self.mirror);
        if new == self.vrfs {
            return;
        }
        let old = core::mem::replace(&mut self.vrfs, new);
        self.touch_rifs();
        self.program.switch.touch(hal::Global);
        self.judge();
        if old.order::<V4>() != self.vrfs.order::<V4>() || old.order::<V6>() != self.vrfs.order::<V6>() {
            self.walks.next.extend(self.program.vrfs.iter().map(|(id, _)| id));
            // What only the old order had is found in the chip.
            for (_, v) in self.program.vrfs.iter_mut() {
                v.route4.touch_everything();
                v.route6.touch_everything();
            }
        }
    }
}

/// A page of the prefixes that the chip may have to hold in a virtual router, each once: those of the tables that are compiled,
/// local first, then the machine's own addresses, and those that policy singles out, that are in none of them.
pub(super) fn prefixes<F: MirrorFamily>(
    m: &Mirror,
    gate: &Gate,
    vrfs: &Vrfs,
    vrf: VrfId,
    cursor: u64,
    max: usize,
) -> (Vec<Prefix<F>>, Option<u64>) {
    let tables = vrfs.tables::<F>(vrf);
    let at = (cursor >> 32) as usize;
    let elsewhere = |p: Prefix<F>, before: &[u32]| before.iter().any(|t| !m.aliases::<F>(*t, p).is_empty());
    let Some(table) = tables.get(at) else {
        let own = m.own4().filter(|_| F::BITS == 32 && vrf == DEFAULT);
        let own = own.map(|a| F::Addr::from_number(u128::from(a.to_bits())));
        let hosts = gate.hosts::<F>().filter(|(v, a)| *v == vrf && (F::BITS != 32 || vrf != DEFAULT || !m.owns(*a)));
        let hosts = own.chain(hosts.map(|(_, a)| a)).map(Prefix::<F>::host);
        let rest: BTreeSet<Prefix<F>> = hosts.chain(gate.prefixes::<F>()).filter(|p| !elsewhere(*p, &tables)).collect();
        return (rest.into_iter().collect(), None);
    };
    let mut page = Vec::new();
    let next = m.prefixes::<F>(*table, cursor as u32, max, &mut page);
    let page = page.into_iter().map(|(p, _)| p).filter(|p| !elsewhere(*p, &tables[..at])).collect();
    (page, Some(next.map_or((at as u64 + 1) << 32, |c| (at as u64) << 32 | u64::from(c))))
}
