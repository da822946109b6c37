//! More facts of the kernel, one test each: how it says things, and what it says nothing of. As `facts`, whose world it uses.

use std::net::IpAddr;

use hal::{Prefix, V4};
use virga::input::DumpKind;
use virga::mirror::{Mirror, TABLE_MAIN};
use virga::netlink::build::Builder;
use virga::netlink::{AF_INET, Message, messages, nlm, rtm};

use crate::facts::{APPEND, Done, LACKS, NEW, Named, REPLACE, World, check, neigh, prefix4, prefix6, route, text};
use crate::random::{addr, gw4, gw6, link, nest, p, v};

/// All, by name.
pub const ALL: &[Named] = &[
    ("fact_6_a_replaced_object_is_announced_alone", fact_6),
    ("fact_11_leaving_a_bridge_is_a_deletion_of_the_bridges_family", fact_11),
    ("fact_12_route_messages_echo_the_requests_flags", fact_12),
    ("fact_15_dumps_bear_no_flags_and_a_sweep_finds_what_went", fact_15),
    ("fact_16_a_neighbour_fails_before_it_is_deleted", fact_16),
    ("fact_18_managed_neighbours_are_kept_resolved_but_for_carrier_loss", fact_18),
    ("fact_22_tables_beyond_255_are_named_by_an_attribute", fact_22),
    ("fact_25_forwarding_is_announced_and_rules_are", fact_25),
    ("fact_32_sysctls_that_nothing_announces", fact_32),
    ("fact_37_thresholds_of_neighbours_are_the_machines_alone", fact_37),
    ("fact_44_what_we_write_comes_back_as_news", fact_44),
];

const NUD_REACHABLE: u16 = 2;
const NUD_STALE: u16 = 4;
const NUD_FAILED: u16 = 0x20;
const NUD_NOARP: u16 = 0x40;
const NTF_USE: u8 = 1;
const NTF_EXT_MANAGED: u32 = 1;

/// What the kernel said since last asked, each message by itself; the mirror hears it, too.
fn heard<T>(w: &mut World, what: impl Fn(&Message<'_>) -> Option<T>) -> Result<Vec<T>, String> {
    let mut out = Vec::new();
    for (seq, b) in w.k.news().map_err(text)? {
        out.extend(messages(&b).flatten().filter_map(|m| what(&m)));
        w.m.monitor(seq, &b);
    }
    Ok(out)
}

fn object(flags: u16, id: u32, host: u8) -> Vec<u8> {
    let b = Builder::new(rtm::NEWNEXTHOP, flags, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
    b.u32(1, id).u32(5, v(0)).addr(6, gw4(0, host)).done()
}

fn fact_6() -> Done {
    let mut w = World::new()?;
    w.must(object(NEW, 1, 9))?;
    let members = [1u32.to_ne_bytes(), [0; 4]].concat();
    w.must(Builder::new(rtm::NEWNEXTHOP, NEW, &[0; 8]).u32(1, 10).attr(2, &members).done())?;
    w.must(route(NEW, false).u32(30, 1).done())?;
    let other = Builder::new(rtm::NEWROUTE, NEW, &[AF_INET, 16, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    w.must(other.addr(1, [10, 51, 0, 0].into()).u32(30, 10).done())?;
    w.listen()?;
    for (compat, host, routes) in [("0", 8, false), ("1", 7, true)] {
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", compat).map_err(text)?;
        heard(&mut w, |_| Some(()))?;
        w.must(object(REPLACE, 1, host))?;
        let kinds = heard(&mut w, |m| Some(m.kind))?;
        let of = |kind| kinds.iter().filter(|k| **k == kind).count();
        check("the object is announced, and no group that it is in", of(rtm::NEWNEXTHOP) == 1)?;
        if (of(rtm::NEWROUTE) > 0) != routes {
            return Err(format!("with nexthop_compat_mode {compat}: {kinds:?}"));
        }
        w.equal()?;
    }
    Ok(())
}

fn fact_11() -> Done {
    const AF_BRIDGE: u8 = 7;
    let mut w = World::new()?;
    let bridge = Builder::new(rtm::NEWLINK, NEW, &[0; 16]).attr(3, b"br0\0").attr(18, &nest(&[(1, b"bridge")]));
    if w.errno(bridge.done())? != 0 {
        return Err(format!("{LACKS}bridge"));
    }
    w.listen()?;
    let br = w.m.links().find(|l| l.name == "br0").map_or(0, |l| l.ifindex);
    w.must(link(v(0), None).u32(10, br).done())?;
    w.until("the port is in the bridge", |w| w.m.link(v(0)).is_some_and(|l| l.master == Some(br)))?;
    w.must(link(v(0), None).u32(10, 0).done())?;
    let own = |m: &Message<'_>| m.body.get(4..8) == Some(&v(0).to_ne_bytes()[..]);
    let kinds = heard(&mut w, |m| own(m).then(|| (m.kind, m.body[0])))?;
    check("a deletion of family AF_BRIDGE", kinds.contains(&(rtm::DELLINK, AF_BRIDGE)))?;
    check("and none of the device", !kinds.contains(&(rtm::DELLINK, 0)) && kinds.contains(&(rtm::NEWLINK, 0)))?;
    check("which lives", w.m.link(v(0)).is_some())?;
    w.equal()
}

fn fact_12() -> Done {
    let mut w = World::new()?;
    for v6 in [false, true] {
        let gw = |host: u8| if v6 { gw6(0, host.into()) } else { gw4(0, host) };
        for (host, flags) in [(9, NEW), (8, APPEND), (7, REPLACE)] {
            heard(&mut w, |_| Some(()))?;
            w.must(route(flags, v6).u32(4, v(0)).addr(5, gw(host)).done())?;
            // Not what the kernel makes by itself meanwhile: those of link-local addresses come when they like.
            let own = |m: &Message<'_>| m.kind == rtm::NEWROUTE && m.body.get(5) == Some(&4);
            let said = heard(&mut w, |m| own(m).then_some(m.flags))?;
            // IPv4's echo of a replacement leaves out that it might have been made.
            let want = if flags == REPLACE { nlm::F_REPLACE } else { flags };
            if said.len() != 1 || said[0] & !nlm::F_CREATE != want & !nlm::F_CREATE {
                return Err(format!("asked with {flags:#x}, announced with {said:x?}"));
            }
        }
        w.equal()?;
    }
    Ok(())
}

fn fact_15() -> Done {
    let mut w = World::new()?;
    for (flags, host) in [(NEW, 9), (APPEND, 8)] {
        w.must(route(flags, false).u32(4, v(0)).addr(5, gw4(0, host)).done())?;
    }
    w.listen()?;
    let (parts, _) = w.k.dump(DumpKind::Route4).map_err(text)?;
    let of = |parts: &[Vec<u8>]| -> Vec<u16> {
        let all = parts.iter().flat_map(|p| messages(p).flatten());
        all.filter(|m| m.kind == rtm::NEWROUTE).map(|m| m.flags).collect()
    };
    let flags = of(&parts);
    check("the dump has them", flags.len() > 2)?;
    check("without the flags of requests", flags.iter().all(|f| f & 0xf00 == 0))?;
    // A mirror that has missed the deletion finds it by what the dump does not name.
    let mut deaf = Mirror::new();
    std::mem::swap(&mut w.m, &mut deaf);
    w.m = w.k.fresh().map_err(text)?;
    w.must(link(v(0), Some(false)).done())?;
    w.listen()?;
    check("the mirror that was told has no route", w.gateways(prefix4()).is_empty())?;
    w.k.fill(&mut deaf, DumpKind::Route4).map_err(text)?;
    check("the deaf one swept it", deaf.aliases::<V4>(TABLE_MAIN, prefix4()).is_empty())
}

/// State of a neighbour message about that address, with whether it has a MAC.
fn about(a: IpAddr) -> impl Fn(&Message<'_>) -> Option<(u16, u16, bool)> {
    move |m| {
        let known = virga::netlink::object::neigh(m.body, &mut Default::default()).ok()??;
        (matches!(m.kind, rtm::NEWNEIGH | rtm::DELNEIGH) && known.1 == a).then_some((
            m.kind,
            known.2.state,
            known.2.mac.is_some(),
        ))
    }
}

fn fact_16() -> Done {
    let mut w = World::new()?;
    w.must(neigh(0, gw4(0, 9), NUD_REACHABLE))?;
    heard(&mut w, |_| Some(()))?;
    let mut gone = neigh(0, gw4(0, 9), 0);
    gone[4..8].copy_from_slice(&[rtm::DELNEIGH.to_ne_bytes(), [0; 2]].concat());
    w.must(gone)?;
    let said = heard(&mut w, about(gw4(0, 9)))?;
    if said != [(rtm::NEWNEIGH, NUD_FAILED, false), (rtm::DELNEIGH, NUD_FAILED, false)] {
        return Err(format!("{said:?}"));
    }
    w.equal()?;
    // Those that the kernel makes for its own multicast (MLD's reports) are in dumps, and were never announced.
    let (parts, _) = w.k.dump(DumpKind::Neigh).map_err(text)?;
    let all = parts.iter().flat_map(|p| messages(p).flatten());
    let made = all.filter_map(|m| virga::netlink::object::neigh(m.body, &mut Default::default()).ok()?);
    let made: Vec<IpAddr> = made.filter(|n| n.2.state == NUD_NOARP && n.1.is_multicast()).map(|n| n.1).collect();
    println!("{} entries for multicast in the dump", made.len());
    check("the mirror holds none of them", made.iter().all(|a| w.m.neighbour(v(0), *a).is_none()))
}

fn managed(host: u8, ext: u32, flags: u8) -> Vec<u8> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[4..8].copy_from_slice(&v(0).to_ne_bytes());
    fixed[10] = flags;
    Builder::new(rtm::NEWNEIGH, NEW, &fixed).addr(1, gw4(0, host)).u32(15, ext).done()
}

fn fact_18() -> Done {
    let mut w = World::new()?;
    let a = gw4(0, 9);
    w.must(managed(9, NTF_EXT_MANAGED, 0))?;
    // Nobody answers there. That it is being asked for is not announced.
    w.until("it has failed", |w| w.m.neighbour(v(0), a).is_some_and(|n| n.state & NUD_FAILED != 0))?;
    check("it stays managed", w.m.neighbour(v(0), a).is_some_and(|n| n.flags_ext & NTF_EXT_MANAGED != 0))?;
    w.must(link(p(0), Some(false)).done())?;
    w.until("carrier loss drops it", |w| w.m.neighbour(v(0), a).is_none())?;
    w.must(link(p(0), Some(true)).done())?;
    w.until("the link is up", |w| w.m.link(v(0)).is_some_and(|l| l.carrier))?;
    w.equal()?;
    check("it does not come back", w.m.neighbour(v(0), a).is_none())?;
    // NTF_USE has the kernel look at a stale one once.
    w.must(neigh(0, gw4(0, 8), NUD_STALE))?;
    let mut used = managed(8, 0, NTF_USE);
    used[6..8].copy_from_slice(&[0, 0]);
    w.must(used)?;
    w.until("it is stale no more", |w| w.m.neighbour(v(0), gw4(0, 8)).is_none_or(|n| n.state & NUD_STALE == 0))?;
    w.equal()
}

fn fact_22() -> Done {
    let mut w = World::new()?;
    w.must(route(NEW, false).u32(15, 1000).u32(4, v(0)).addr(5, gw4(0, 9)).done())?;
    let table = heard(&mut w, |m| (m.kind == rtm::NEWROUTE).then(|| m.body[4]))?;
    // RT_TABLE_COMPAT
    check("the header can't say it", table == [252])?;
    check("main has it not", w.gateways(prefix4()).is_empty())?;
    check("its own table has it", w.m.aliases::<V4>(1000, prefix4()).len() == 1)?;
    let local = Prefix::<V4>::new([10, 0, 0, 1].into(), 32);
    check("own addresses are in table 255", w.m.aliases::<V4>(255, local).iter().any(|a| a.kind == 2))?;
    w.equal()
}

fn fact_25() -> Done {
    let mut w = World::new()?;
    heard(&mut w, |_| Some(()))?;
    std::fs::write("/proc/sys/net/ipv4/conf/v0/forwarding", "0").map_err(text)?;
    std::fs::write("/proc/sys/net/ipv4/conf/v0/rp_filter", "1").map_err(text)?;
    check("settings are announced", heard(&mut w, |m| (m.kind == rtm::NEWNETCONF).then_some(()))?.len() >= 2)?;
    check("and known", w.m.netconf4(v(0)).is_some_and(|c| !c.forwarding && c.rp_filter == 1))?;
    let head = [AF_INET, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
    w.must(Builder::new(rtm::NEWRULE, NEW, &head).u32(6, 77).attr(3, b"v0\0").done())?;
    check("rules are announced", heard(&mut w, |m| (m.kind == rtm::NEWRULE).then_some(()))?.len() == 1)?;
    check("and known", w.m.rules::<V4>().odd.len() == 1)?;
    w.equal()
}

fn fact_32() -> Done {
    let mut w = World::new()?;
    heard(&mut w, |_| Some(()))?;
    let mut there = 0;
    for (path, value) in [
        ("ipv4/fib_multipath_hash_policy", "1"),
        ("ipv4/fib_multipath_use_neigh", "1"),
        ("ipv4/conf/v0/send_redirects", "0"),
        ("ipv4/conf/v0/accept_local", "1"),
        ("ipv4/conf/v0/route_localnet", "1"),
        ("ipv4/ip_forward_use_pmtu", "1"),
        ("ipv6/fib_multipath_hash_policy", "1"),
    ] {
        // Not every kernel has multipath.
        if std::fs::write(format!("/proc/sys/net/{path}"), value).is_err() {
            continue;
        }
        there += 1;
        let said = heard(&mut w, |m| Some(m.kind))?;
        if !said.is_empty() {
            return Err(format!("{path} was announced: {said:?}"));
        }
    }
    check("there is something to be silent about", there >= 4)
}

fn fact_37() -> Done {
    let there = |path: &str| std::fs::metadata(format!("/proc/sys/net/{path}")).is_ok();
    check("neighbours have settings here", there("ipv4/neigh/lo/base_reachable_time_ms"))?;
    for n in 1..=3 {
        check("and no thresholds", !there(&format!("ipv4/neigh/default/gc_thresh{n}")))?;
    }
    Ok(())
}

fn fact_44() -> Done {
    let mut w = World::new()?;
    heard(&mut w, |_| Some(()))?;
    w.must(neigh(0, gw4(0, 9), NUD_REACHABLE))?;
    w.must(addr(rtm::NEWADDR, NEW, v(0), gw4(0, 77), 24))?;
    w.must(route(NEW, true).u32(4, v(0)).addr(5, gw6(0, 9)).done())?;
    let kinds = heard(&mut w, |m| Some(m.kind))?;
    for kind in [rtm::NEWNEIGH, rtm::NEWADDR, rtm::NEWROUTE] {
        check("each write is announced to its writer, too", kinds.contains(&kind))?;
    }
    check("and the mirror has it", w.gateways(prefix6()).len() == 1)?;
    w.equal()
}
