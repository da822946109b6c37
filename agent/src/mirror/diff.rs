//! Two mirrors compared in what matters to forwarding: for `check`, and for the test against a real kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use hal::{Prefix, V4, V6};

use super::ctx::IFF_UP;
use super::{
    AddrKey, Alias, IFF_LOWER_UP, IFF_RUNNING, Link, Mirror, MirrorFamily, Neigh, NhSet, ObjectTo, RouteFlags,
};
use crate::netlink::{AF_INET, AF_INET6};

/// States in which a neighbour is used (kernel-facts 16): all but NONE, INCOMPLETE and FAILED.
const USABLE: u16 = 0xde;
const PERMANENT: u16 = 0x80;

/// A route in contents rather than names, fit to be printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shown {
    tos: u8,
    metric: u32,
    text: String,
}

impl Mirror {
    /// In what `self` and `other` differ, one line each; at most `max` lines. Equal mirrors yield none.
    pub fn diff(&self, other: &Mirror, max: usize) -> Vec<String> {
        let mut out = Vec::new();
        let link = |l: &Link| {
            let mut l = l.clone();
            l.flags &= IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
            l.operstate = 0;
            l
        };
        let links = |m: &Mirror| m.links().map(|l| (l.ifindex, link(l))).collect();
        maps("link", &links(self), &links(other), &mut out);
        // `default` (-2) forwards nothing, and IPv6 changes it along with `all` without a word.
        let netconf = |m: &Mirror| m.ctx.netconf.iter().filter(|(k, _)| k.1 != -2).map(|(k, n)| (*k, *n)).collect();
        maps("netconf (family, index)", &netconf(self), &netconf(other), &mut out);
        // Lifetimes and duplicate address detection change flags; only whose the address is matters.
        // A tentative one (`IFA_F_TENTATIVE`) is not in use; made without detection on a device that is not ready, it is
        // announced only when it comes into use (seen on 6.18).
        let tentative = |k: &AddrKey| [self, other].iter().any(|m| m.addrs.get(k).is_some_and(|e| e.flags & 0x40 != 0));
        let addrs = |m: &Mirror| m.addrs().filter(|(k, _)| !tentative(k)).map(|(k, e)| (*k, e.scope)).collect();
        maps("address", &addrs(self), &addrs(other), &mut out);
        neighs::<V4>(self, other, &mut out);
        neighs::<V6>(self, other, &mut out);
        sets("rule", &self.rules, &other.rules, &mut out);
        let objects = |m: &Mirror| m.ctx.objects.iter().map(|o| (o.id, o.to.clone())).collect();
        maps::<u32, ObjectTo>("next-hop object", &objects(self), &objects(other), &mut out);
        routes::<V4>(self, other, max, &mut out);
        routes::<V6>(self, other, max, &mut out);
        out.truncate(max);
        out
    }
}

fn maps<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
    out: &mut Vec<String>,
) {
    for (k, v) in a {
        match b.get(k) {
            Some(w) if w == v => {}
            Some(w) => out.push(format!("{what} {k:?}: {v:?} against {w:?}")),
            None => out.push(format!("{what} {k:?}: {v:?} against none")),
        }
    }
    for (k, v) in b.iter().filter(|(k, _)| !a.contains_key(k)) {
        out.push(format!("{what} {k:?}: none against {v:?}"));
    }
}

fn sets<T: Ord + Debug>(what: &str, a: &BTreeSet<T>, b: &BTreeSet<T>, out: &mut Vec<String>) {
    out.extend(a.difference(b).map(|x| format!("{what} {x:?}: present against absent")));
    out.extend(b.difference(a).map(|x| format!("{what} {x:?}: absent against present")));
}

fn neighs<F: MirrorFamily>(a: &Mirror, b: &Mirror, out: &mut Vec<String>) {
    // Which of the states that forward does not matter, and nor does an entry that does not forward.
    let used = |n: &Neigh| (n.state & USABLE != 0).then_some((n.mac, n.state & PERMANENT != 0));
    let of = |m: &Mirror| F::neighs(m).iter().filter_map(|(k, n)| Some((*k, used(n)?))).collect();
    maps("neighbour", &of(a), &of(b), out);
}

fn show(m: &Mirror, a: &Alias, v4: bool) -> Shown {
    let to = match m.nhset(a.nh) {
        NhSet::Object(id) => format!("nhid {id}"),
        NhSet::Inline(hops) => hops
            .iter()
            .map(|h| {
                let via = h.via.map_or_else(String::new, |v| format!(" via {v}"));
                let flag = |on, s| if on { s } else { "" };
                format!(
                    "[dev {}{via} weight {}{}{}{}]",
                    h.ifindex,
                    h.weight,
                    flag(h.onlink, " onlink"),
                    flag(h.encap, " encap"),
                    flag(
                        h.dead || hops.len() > 1 && m.ctx.idle(if v4 { AF_INET } else { AF_INET6 }, h.ifindex),
                        " dead"
                    )
                )
            })
            .collect::<String>(),
    };
    let rest = m.ctx.rests.get(a.rest).map_or_else(String::new, |r| format!(" {r:?}"));
    // IPv6 siblings may differ in protocol; the kernel shows whichever stands first.
    let proto = if v4 { format!(" proto {}", a.proto) } else { String::new() };
    // Metrics and preference are each sibling's own, and a dump shows those of the first.
    let several = !v4 && matches!(m.nhset(a.nh), NhSet::Inline(h) if h.len() > 1);
    let hidden = RouteFlags::METRICS.0 | RouteFlags::PREF.0 | RouteFlags::EXPIRES.0;
    let flags = if several { a.flags.0 & !hidden } else { a.flags.0 };
    let mtu = m.nhset_mtu(a.nh);
    let text = format!("type {}{proto} scope {} flags {flags:#x}{rest} mtu {mtu} {to}", a.kind, a.scope);
    Shown { tos: a.tos, metric: a.metric, text }
}

fn table<F: MirrorFamily>(m: &Mirror, t: u32) -> BTreeMap<Prefix<F>, Vec<Shown>> {
    let mut all = Vec::new();
    let mut cursor = Some(0);
    while let Some(c) = cursor {
        cursor = m.prefixes::<F>(t, c, usize::MAX, &mut all);
    }
    let v4 = F::BITS == 32;
    let mut out = BTreeMap::new();
    for (p, list) in all {
        let mut list: Vec<Shown> = list.iter().map(|a| show(m, a, v4)).collect();
        if !v4 {
            // Several of one metric that are not one multipath route are punted whatever their order.
            list.sort();
        }
        out.insert(p, list);
    }
    out
}

fn routes<F: MirrorFamily>(a: &Mirror, b: &Mirror, max: usize, out: &mut Vec<String>) {
    let tables: BTreeSet<u32> = a.tables::<F>().chain(b.tables::<F>()).map(|t| t.0).collect();
    for t in tables {
        let (x, y) = (table::<F>(a, t), table::<F>(b, t));
        for p in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
            if out.len() >= max {
                return;
            }
            let none = Vec::new();
            let (l, r) = (x.get(p).unwrap_or(&none), y.get(p).unwrap_or(&none));
            if l != r && !hidden::<F>(l, r) {
                let text = |v: &[Shown]| {
                    v.iter()
                        .map(|s| format!("tos {} metric {} {}", s.tos, s.metric, s.text))
                        .collect::<Vec<_>>()
                        .join("; ")
                };
                out.push(format!("table {t} {p}: {{{}}} against {{{}}}", text(l), text(r)));
            }
        }
    }
}

/// IPv6 dumps leave out a route that stands between two siblings of a multipath route of the same metric: the mirror,
/// which has it from its notification, knows better.
fn hidden<F: MirrorFamily>(more: &[Shown], less: &[Shown]) -> bool {
    let multipath = |s: &Shown| s.text.matches("[dev").count() > 1;
    F::BITS == 128
        && less.iter().all(|s| more.contains(s))
        && more
            .iter()
            .filter(|s| !less.contains(s))
            .all(|s| !multipath(s) && less.iter().any(|o| o.metric == s.metric && multipath(o)))
}
