//! Where the two families part: all else is written once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use hal::{Family, V4, V6};

use super::Mirror;
use super::ctx::Ctx;
use super::list::{self, Change, Outcome};
use super::routes::Routes;
use super::table::Aliases;
use super::types::{Alias, Neigh};
use crate::input::DumpKind;
use crate::netlink::route::RouteMsg;

/// Families that the mirror holds routes of. Implemented by [`V4`] and [`V6`] only.
#[allow(private_interfaces)]
pub trait MirrorFamily: Family {
    /// The kind of dump that names this family's routes.
    const DUMP: DumpKind;
    #[doc(hidden)]
    fn part(m: &Mirror) -> &Routes<Self>;
    #[doc(hidden)]
    fn parts(m: &mut Mirror) -> (&mut Routes<Self>, &mut Ctx);
    #[doc(hidden)]
    fn neighs(m: &Mirror) -> &BTreeMap<(u32, Self::Addr), Neigh>;
    /// The order in which the kernel searches the routes of a prefix; equal ones stand as they were put.
    #[doc(hidden)]
    fn search(a: &Alias, b: &Alias) -> Ordering;
    #[doc(hidden)]
    fn insert(ctx: &mut Ctx, list: &mut Aliases, c: &Change) -> Outcome;
    #[doc(hidden)]
    fn delete(ctx: &mut Ctx, list: &mut Aliases, m: &RouteMsg<Self>) -> Outcome;
    /// A dump of this family's routes would tell.
    #[doc(hidden)]
    fn confirm(ctx: &mut Ctx) {
        ctx.confirm.insert(Self::DUMP);
    }
}

#[allow(private_interfaces)]
impl MirrorFamily for V4 {
    const DUMP: DumpKind = DumpKind::Route4;
    fn part(m: &Mirror) -> &Routes<V4> {
        &m.r4
    }
    fn parts(m: &mut Mirror) -> (&mut Routes<V4>, &mut Ctx) {
        (&mut m.r4, &mut m.ctx)
    }
    fn neighs(m: &Mirror) -> &BTreeMap<(u32, Self::Addr), Neigh> {
        &m.n4
    }
    fn search(a: &Alias, b: &Alias) -> Ordering {
        list::search4(a, b)
    }
    fn insert(ctx: &mut Ctx, l: &mut Aliases, c: &Change) -> Outcome {
        list::insert4(ctx, l, c)
    }
    fn delete(ctx: &mut Ctx, l: &mut Aliases, m: &RouteMsg<V4>) -> Outcome {
        list::delete4(ctx, l, m)
    }
}

#[allow(private_interfaces)]
impl MirrorFamily for V6 {
    const DUMP: DumpKind = DumpKind::Route6;
    fn part(m: &Mirror) -> &Routes<V6> {
        &m.r6
    }
    fn parts(m: &mut Mirror) -> (&mut Routes<V6>, &mut Ctx) {
        (&mut m.r6, &mut m.ctx)
    }
    fn neighs(m: &Mirror) -> &BTreeMap<(u32, Self::Addr), Neigh> {
        &m.n6
    }
    fn search(a: &Alias, b: &Alias) -> Ordering {
        list::search6(a, b)
    }
    fn insert(ctx: &mut Ctx, l: &mut Aliases, c: &Change) -> Outcome {
        list::insert6(ctx, l, c)
    }
    fn delete(ctx: &mut Ctx, l: &mut Aliases, m: &RouteMsg<V6>) -> Outcome {
        list::delete6(ctx, l, m)
    }
}
