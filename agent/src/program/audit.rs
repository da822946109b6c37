//! For the audit: whether what the chip acknowledged is what a fresh compile says, entry by entry. Changes nothing.
//!
//! Routes are held against their verdicts in `core/check.rs`; here are the smaller tables, and what a route refers to.

use core::fmt::Debug;

use hal::{
    AnyKey, Fwd, Global, GroupEntry, GroupId, NextHopEntry, NextHopId, Reason, Resilient, RifId, Table, TableId,
    TrapClass, V4, V6, table,
};
use smallvec::SmallVec;

use super::bridges::{bridge_port_of, fid_of, member_of, station_of};
use super::ids::Ids;
use super::small::{PATIENT, Small};
use super::{Program, closed, neigh, placed};
use crate::compile::{self, Facts, bridge};

/// Whether the chip was given what it should hold. What it refused is no difference, as long as what stands in its place
/// traps.
fn given<T: Table>(
    t: &Small<T>,
    key: T::Key,
    want: Option<&T::Entry>,
    trap: impl Fn(&T::Entry) -> bool,
) -> Result<(), String>
where
    T::Entry: Debug,
{
    let acked = t.acked(key);
    let fine = match t.failure(key) {
        Some(f) if f.why == Reason::Busy && f.tries <= PATIENT => true,
        Some(_) => acked.is_none_or(trap) || acked == want,
        None => acked == want,
    };
    if fine {
        return Ok(());
    }
    let any: AnyKey = key.into();
    let words = |e: Option<&T::Entry>| e.map_or("nothing".to_owned(), |e| format!("{e:?}"));
    Err(format!("{any}: should be {}, the chip was given {}", words(want), words(acked)))
}

/// A group's timers, for a sentence.
fn how(r: Option<Resilient>) -> String {
    r.map_or_else(String::new, |r| {
        format!(" by {} buckets with timers of {} and {} ms", r.buckets, r.idle, r.unbalanced)
    })
}

impl Program {
    /// Up to `max` keys of one of the smaller tables that the chip was given or refused, behind `after`. Empty for the tables of
    /// ports and routes.
    pub fn small_keys(&self, t: TableId, after: Option<AnyKey>, max: usize) -> Vec<AnyKey> {
        match (t, after) {
            (TableId::Port | TableId::Bucket | TableId::Fdb | TableId::Route4 | TableId::Route6, _) => Vec::new(),
            (TableId::Fid, after) => self.fid.page(if let Some(AnyKey::Fid(k)) = after { Some(k) } else { None }, max),
            (TableId::BridgePort, after) => {
                self.bridge_port.page(if let Some(AnyKey::BridgePort(k)) = after { Some(k) } else { None }, max)
            }
            (TableId::FidMember, after) => {
                self.member.page(if let Some(AnyKey::FidMember(k)) = after { Some(k) } else { None }, max)
            }
            (TableId::FdbStatic, after) => {
                self.station.page(if let Some(AnyKey::FdbStatic(k)) = after { Some(k) } else { None }, max)
            }
            // It has one, whether the chip was given it or not.
            (TableId::Switch, None) => vec![Global.into()],
            (TableId::Switch, Some(_)) => Vec::new(),
            (TableId::Rif, after) => self.rif.page(if let Some(AnyKey::Rif(k)) = after { Some(k) } else { None }, max),
            (TableId::Neigh4, after) => {
                self.neigh4.page(if let Some(AnyKey::Neigh4(k)) = after { Some(k) } else { None }, max)
            }
            (TableId::Neigh6, after) => {
                self.neigh6.page(if let Some(AnyKey::Neigh6(k)) = after { Some(k) } else { None }, max)
            }
            (TableId::NextHop, after) => {
                self.nexthop.page(if let Some(AnyKey::NextHop(k)) = after { Some(k) } else { None }, max)
            }
            (TableId::Group, after) => {
                self.group.page(if let Some(AnyKey::Group(k)) = after { Some(k) } else { None }, max)
            }
        }
    }

    /// Compile one entry of the smaller tables again, and hold what the chip acknowledged against it.
    ///
    /// # Errors
    /// One sentence: what should be there and what the chip was given.
    pub fn fits(&self, f: &Facts<'_>, key: AnyKey) -> Result<(), String> {
        match key {
            AnyKey::Port(_) | AnyKey::Bucket(_) | AnyKey::Fdb(_) | AnyKey::Route4(_) | AnyKey::Route6(_) => Ok(()),
            AnyKey::Fid(k) => {
                let want = fid_of(f, k, &self.station);
                given::<table::Fid>(&self.fid, k, want.as_ref(), |e| bridge::quiet(e) == *e)
            }
            AnyKey::BridgePort(k) => {
                let want = bridge_port_of(f, k, &self.fid);
                given::<table::BridgePort>(&self.bridge_port, k, want.as_ref(), |e| bridge::closed(e) == *e)
            }
            AnyKey::FidMember(k) => {
                let want = member_of(f, k, &self.fid, &self.bridge_port);
                given::<table::FidMember>(&self.member, k, want.as_ref(), |_| false)
            }
            AnyKey::FdbStatic(k) => {
                let want = station_of(f, k, &self.fid, &self.bridge_port);
                given::<table::FdbStatic>(&self.station, k, want.as_ref(), |v| matches!(v, hal::FdbVerdict::Trap(_)))
            }
            AnyKey::Switch(k) => given::<table::Switch>(&self.switch, k, Some(&compile::switch::switch(f)), |_| false),
            AnyKey::Rif(k) => {
                let want = compile::rif::rif(f, k.0).map(|s| s.entry);
                given::<table::Rif>(&self.rif, k, want.as_ref(), |e| closed(e).as_ref() == Some(e))
            }
            AnyKey::Neigh4(k) => {
                let want = self.reaches(f, k.rif).then(|| neigh::<V4>(f, k)).flatten();
                given::<table::Neigh4>(&self.neigh4, k, want.as_ref(), |_| false)
            }
            AnyKey::Neigh6(k) => {
                let want = self.reaches(f, k.rif).then(|| neigh::<V6>(f, k)).flatten();
                given::<table::Neigh6>(&self.neigh6, k, want.as_ref(), |_| false)
            }
            AnyKey::NextHop(k) => self.nexthop_fits(f, k),
            AnyKey::Group(k) => self.group_fits(f, k),
        }
    }

    fn reaches(&self, f: &Facts<'_>, rif: RifId) -> bool {
        f.ports.has(rif.0) && !self.rif.unplaced(rif)
    }

    /// A next hop is what its name stands for, and is there only while a group has it.
    fn nexthop_fits(&self, f: &Facts<'_>, k: NextHopId) -> Result<(), String> {
        let trap = |e: &NextHopEntry| matches!(e, NextHopEntry::Trap(_));
        let want = self.ids.nexthop_entry(k).map(|e| match Ids::object_of(k) {
            None => e.clone(),
            Some(id) => {
                let to = compile::group::object(f, id).unwrap_or(NextHopEntry::Trap(TrapClass::Punt));
                placed(to, &self.rif)
            }
        });
        given::<table::NextHop>(&self.nexthop, k, want.as_ref(), trap)
    }

    /// A group holds what its set compiles to, by content: names are free.
    fn group_fits(&self, f: &Facts<'_>, k: GroupId) -> Result<(), String> {
        let acked = self.group.acked(k);
        let empty = |e: &GroupEntry| e.members.is_empty();
        if !self.ids.used(k) || self.starved_groups.contains(&k) || self.group.failure(k).is_some() {
            let want = self.ids.used(k).then(GroupEntry::default);
            return given::<table::Group>(&self.group, k, want.as_ref(), empty);
        }
        let Some(nh) = self.ids.set_of(k) else {
            return Err(format!("{}: routes use it, and the kernel has nothing that it stands for", AnyKey::from(k)));
        };
        let spec = compile::group::group(f, nh);
        let want: SmallVec<[(NextHopEntry, u32); 2]> =
            spec.members.into_iter().map(|m| (placed(m.to, &self.rif), m.weight)).collect();
        let is = acked.map(|e| {
            let content = |m: &hal::Member| Some((self.nexthop.acked(m.nexthop)?.clone(), m.weight));
            e.members.iter().map(content).collect::<Vec<_>>()
        });
        let same = is.as_ref().is_some_and(|is| {
            acked.is_some_and(|e| (e.mtu, e.resilient) == (spec.mtu, spec.resilient))
                && is.len() == want.len()
                && is.iter().zip(&want).all(|(is, want)| is.as_ref() == Some(want))
        });
        if same {
            return Ok(());
        }
        Err(format!("{}: should lead to {want:?}{}, the chip was given {is:?}", AnyKey::from(k), how(spec.resilient)))
    }

    /// Whether what the route refers to was given to the chip.
    ///
    /// # Errors
    /// One sentence.
    pub fn reference_fits(&self, fwd: Fwd) -> Result<(), String> {
        match fwd {
            Fwd::Group(g) if self.group.acked(g).is_none() => Err(format!("leads to group {g}, which the chip lacks")),
            Fwd::Connected(r) if self.rif.acked(r).is_none() => {
                Err(format!("leads to interface {r}, which the chip lacks"))
            }
            _ => Ok(()),
        }
    }
}
