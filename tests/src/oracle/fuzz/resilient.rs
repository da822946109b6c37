//! Resilient next-hop groups: made, changed, emptied and left; their members deleted and led elsewhere.
//!
//! Timers are such that no bucket moves in the midst of a step: packets of one flow must choose alike.

use super::{Gen, PREFIXES4, PREFIXES6};

fn group(g: &mut Gen) -> String {
    let (id, members) = match g.r.below(4) {
        0 if g.v6 => (12, g.r.pick(&["3", "4", "3/4", "3/4,7"])),
        _ => (11, g.r.pick(&["1", "2", "1/2", "1/2", "1,3/2", "2,250/1", "1/2/3"])),
    };
    let timers = g.r.pick(&["", "", " idle_timer 0", " idle_timer 300 unbalanced_timer 600"]);
    // Without a number of buckets one that is there is changed, and none is made.
    let buckets = g.r.pick(&["", " buckets 16", " buckets 16", " buckets 16", " buckets 5", " buckets 1"]);
    format!("ip nexthop replace id {id} group {members} type resilient{buckets}{timers}")
}

fn member(g: &mut Gen, id: usize) -> String {
    let (p, h) = (g.port(), 2 + g.r.below(3));
    if id < 3 {
        format!("ip nexthop replace id {id} via 10.0.{p}.{h} dev swp{p}")
    } else {
        format!("ip nexthop replace id {id} via 2001:db8:{p}::{h} dev swp{p}")
    }
}

fn route(g: &mut Gen) -> String {
    if g.v6 && g.r.chance(30) {
        return format!("ip -6 route replace {} nhid 12", g.r.pick(PREFIXES6));
    }
    format!("ip route replace {} nhid {}", g.r.pick(PREFIXES4), g.r.pick(&[11, 11, 11, 12]))
}

/// What a case begins with.
pub(super) fn begin(g: &mut Gen) -> Vec<String> {
    let mut out: Vec<String> = (1..if g.v6 { 5 } else { 3 }).map(|id| member(g, id)).collect();
    out.push("ip nexthop add id 11 group 1/2 type resilient buckets 16".into());
    out.push("ip nexthop add id 12 group 3/4 type resilient buckets 7 idle_timer 0".into());
    out.extend(["ip route replace 10.9.0.0/16 nhid 11".into(), route(g), route(g)]);
    out
}

/// A change that has to do with such groups.
pub(super) fn command(g: &mut Gen) -> String {
    match g.r.below(12) {
        0..4 => group(g),
        4..7 => {
            let id = 1 + g.r.below(4);
            member(g, id)
        }
        7 => format!("ip nexthop del id {}", g.r.pick(&[1, 2, 3, 4, 11, 12])),
        8 => format!("ip nexthop replace id {} blackhole", 1 + g.r.below(2)),
        9 => {
            let (p, h) = (g.port(), 2 + g.r.below(3));
            format!(
                "ip neigh {} 10.0.{p}.{h} lladdr 02:00:00:00:0{p}:77 dev swp{p} nud permanent",
                g.r.pick(&["replace", "del"])
            )
        }
        _ => route(g),
    }
}
