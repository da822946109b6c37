//! The route tables of virtual routers other than the default one: which of them the chip has, and since when all is there.
//!
//! The chip holds a bounded number of them. One that it holds keeps its place until nobody wants it and its last route is gone;
//! then the next gets it. Its interfaces open when all its routes are there, since before that a shorter prefix could take
//! what is a longer one's.

use std::collections::{BTreeMap, BTreeSet};

use hal::{V4, V6, VrfId};

use super::Program;
use super::routes::Routes;
use crate::compile::vrf::{DEFAULT, Place};

/// The tables of one.
#[derive(Debug, Default)]
pub struct Vrf {
    /// Table `route4`, as far as it is its.
    pub route4: Routes<V4>,
    /// Table `route6`.
    pub route6: Routes<V6>,
    /// All prefixes of the kernel's table have been looked at since it came.
    walked: bool,
    /// All of them have been in the chip.
    filled: bool,
    /// Nobody wants it any more.
    leaving: bool,
}

impl Vrf {
    fn still(&self) -> bool {
        self.route4.clean() && self.route6.clean() && self.route4.idle() && self.route6.idle()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Vrfs {
    all: BTreeMap<VrfId, Vrf>,
    /// The one that was compiled last.
    turn: VrfId,
}

impl Vrfs {
    /// One of them.
    pub fn get(&self, id: VrfId) -> Option<&Vrf> {
        self.all.get(&id)
    }
    /// One of them, to change.
    pub fn get_mut(&mut self, id: VrfId) -> Option<&mut Vrf> {
        self.all.get_mut(&id)
    }
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (VrfId, &Vrf)> {
        self.all.iter().map(|(id, v)| (*id, v))
    }
    /// All of them, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (VrfId, &mut Vrf)> {
        self.all.iter_mut().map(|(id, v)| (*id, v))
    }
    /// The chip holds something of that one already.
    pub fn found(&mut self, id: VrfId) -> &mut Vrf {
        let new = || Vrf { walked: true, filled: true, ..Vrf::default() };
        self.all.entry(id).or_insert_with(new)
    }
    /// Their numbers, each once, beginning behind the one that came last when this was last asked.
    pub fn in_turn(&mut self) -> Vec<VrfId> {
        let from = self.turn;
        let order: Vec<VrfId> = self
            .all
            .range(from..)
            .skip_while(|(id, _)| **id == from)
            .chain(self.all.range(..=from))
            .map(|(id, _)| *id)
            .collect();
        self.turn = order.first().copied().unwrap_or_default();
        order
    }
}

impl Program {
    /// How far the chip is with a virtual router.
    pub fn place(&self, id: VrfId) -> Place {
        match self.vrfs.get(id) {
            _ if id == DEFAULT => Place::Open,
            None => Place::NoRoom,
            Some(v) if v.filled => Place::Open,
            Some(_) => Place::Filling,
        }
    }

    /// Whether a virtual router comes or goes just now.
    pub fn vrfs_move(&self) -> bool {
        self.vrfs.iter().any(|(_, v)| !v.filled || v.leaving)
    }

    /// These virtual routers are wanted, and the chip holds `max`, the default one included. Returns those that have a place
    /// since now and whose prefixes are all to be looked at.
    pub fn want_vrfs(&mut self, wanted: &BTreeSet<VrfId>, max: u32) -> Vec<VrfId> {
        let mut new = Vec::new();
        let used: BTreeSet<VrfId> = self.rif.all().map(|(_, e)| e.vrf).collect();
        for (id, v) in &mut self.vrfs.all {
            if wanted.contains(id) {
                if core::mem::take(&mut v.leaving) {
                    (v.walked, v.filled) = (false, false);
                    new.push(*id);
                }
                v.filled |= v.walked && v.still();
            } else if !v.leaving {
                v.leaving = true;
                v.route4.touch_everything();
                v.route6.touch_everything();
            }
        }
        self.vrfs.all.retain(|id, v| {
            let gone = v.leaving && v.still() && v.route4.is_empty() && v.route6.is_empty() && !used.contains(id);
            !gone
        });
        for id in wanted {
            if !self.vrfs.all.contains_key(id) && (self.vrfs.all.len() as u64) + 1 < u64::from(max) {
                self.vrfs.all.insert(*id, Vrf::default());
                new.push(*id);
            }
        }
        new
    }

    /// Every prefix of that one has been touched since it got its place.
    pub fn walked(&mut self, id: VrfId) {
        if let Some(v) = self.vrfs.get_mut(id) {
            v.walked = true;
        }
    }
}
