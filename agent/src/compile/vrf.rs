//! Virtual routers: the kernel's VRF devices that ports are in → which of them hardware routes for, and the tables that each looks up.
//!
//! A virtual router has the number of its routing table, so that a restarted agent gives it the same one. The default one is 0.
//! Where the kernel finds nothing in a VRF's tables it looks on in table main; the chip finds nothing and traps.

use std::collections::{BTreeMap, BTreeSet};

use hal::{V4, V6, VrfId};

use super::rules::{self, Ruled};
use super::{Ports, Why};
use crate::mirror::{Link, Mirror, MirrorFamily, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, VrfOrder};

/// The default virtual router.
pub const DEFAULT: VrfId = VrfId(0);

/// Tables of the default virtual router, in the order in which the kernel looks them up.
const TABLES: &[u32] = &[TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT];

/// The virtual router that routes by a table; none for tables 0 and 253 to 255, which a VRF may have in name only.
pub fn router(table: u32) -> Option<VrfId> {
    (table != 0 && !TABLES.contains(&table)).then_some(VrfId(table))
}

/// How far hardware is with a virtual router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The chip holds no more of them.
    NoRoom,
    /// Its routes are on their way to the chip: until all are there a shorter prefix could take what is a longer one's.
    Filling,
    /// It is in use.
    Open,
}

/// One of them that ports are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vrf {
    /// Name of the device, or of one of them.
    pub name: String,
    /// How far hardware is with it.
    pub place: Place,
}

/// All virtual routers but the default one, and the order of the kernel's rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vrfs {
    all: BTreeMap<VrfId, Vrf>,
    order4: VrfOrder,
    order6: VrfOrder,
    /// Policy routing of IPv4.
    pub rules4: Ruled<V4>,
    /// The same for IPv6.
    pub rules6: Ruled<V6>,
}

impl Vrfs {
    /// As the kernel has them; `place` says how far hardware is, which takes `max` rules of a family.
    pub fn new(m: &Mirror, ports: &Ports, max: u32, place: impl Fn(VrfId) -> Place) -> Vrfs {
        let masters: BTreeSet<u32> = ports.rifs().filter_map(|r| m.link(r.0)?.master).collect();
        let mut all = BTreeMap::new();
        for l in m.links().filter(|l| l.kind == "vrf" && masters.contains(&l.ifindex)) {
            if let Some(id) = l.table.and_then(router) {
                all.entry(id).or_insert_with(|| Vrf { name: l.name.clone(), place: place(id) });
            }
        }
        if max > 0 {
            for id in rules::wanted::<V4>(m, ports).into_iter().chain(rules::wanted::<V6>(m, ports)) {
                all.entry(id).or_insert_with(|| Vrf { name: format!("table {id}"), place: place(id) });
            }
        }
        Vrfs {
            all,
            order4: m.rules::<V4>().vrf,
            order6: m.rules::<V6>().vrf,
            rules4: Ruled::new(m, ports, max, &place),
            rules6: Ruled::new(m, ports, max, &place),
        }
    }
    /// One of them, by number.
    pub fn get(&self, id: VrfId) -> Option<&Vrf> {
        self.all.get(&id)
    }
    /// Their numbers.
    pub fn ids(&self) -> impl Iterator<Item = VrfId> + '_ {
        self.all.keys().copied()
    }
    /// The first behind `id`.
    pub fn after(&self, id: VrfId) -> Option<VrfId> {
        use core::ops::Bound::{Excluded, Unbounded};
        self.all.range((Excluded(id), Unbounded)).next().map(|(id, _)| *id)
    }
    /// Whether it is there, the default one included.
    pub fn has(&self, id: VrfId) -> bool {
        id == DEFAULT || self.all.contains_key(&id)
    }
    /// Whether packets of VRFs may meet a rule of the chip's list first.
    pub fn rules_before<F: MirrorFamily>(&self) -> bool {
        if F::BITS == 32 { self.rules4.before_vrfs } else { self.rules6.before_vrfs }
    }
    /// Where a VRF's table comes in.
    pub fn order<F: MirrorFamily>(&self) -> VrfOrder {
        if F::BITS == 32 { self.order4 } else { self.order6 }
    }
    /// The tables that decide in a virtual router, in the order in which the kernel looks them up.
    pub fn tables<F: MirrorFamily>(&self, id: VrfId) -> Tables {
        match (id, self.order::<F>()) {
            (DEFAULT, _) => Tables { list: [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT], len: 3 },
            (_, VrfOrder::VrfFirst) => Tables { list: [id.0, 0, 0], len: 1 },
            _ => Tables { list: [TABLE_LOCAL, id.0, 0], len: 2 },
        }
    }
}

/// Up to three tables.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    list: [u32; 3],
    len: usize,
}

impl core::ops::Deref for Tables {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.list[..self.len]
    }
}

/// The VRF device that a device is in.
///
/// # Errors
/// It is in another one: a bridge or bond.
pub fn master<'m>(m: &'m Mirror, link: &Link) -> Result<Option<&'m Link>, Why> {
    let Some(i) = link.master else { return Ok(None) };
    match m.link(i) {
        Some(l) if l.kind == "vrf" => Ok(Some(l)),
        l => Err(Why::Master(l.map_or_else(|| format!("device {i}"), |l| l.name.clone()))),
    }
}
