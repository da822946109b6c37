//! What the kernel does without saying so, or says in its own way, one test for each numbered fact that needs a real one:
//! the kernel is made to do it, and the mirror, which hears what the kernel says and asks only what it would ask, has to
//! come to the same state as a fresh one.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hal::{Prefix, V4, V6};
use virga::input::DumpKind;
use virga::mirror::{Mirror, NhSet, TABLE_MAIN};
use virga::netlink::build::{Builder, push_attr};
use virga::netlink::{AF_INET, AF_INET6, messages, nlm, rtm};

use crate::kernel::Kernel;
use crate::random::{addr, gw4, gw6, link, nest, p, v, veth};

pub type Done = Result<(), String>;

/// A test and its name.
pub type Named = (&'static str, fn() -> Done);

/// All, by name.
pub const ALL: &[Named] = &[
    ("fact_2_carrier_loss_deletes_next_hop_objects_and_their_routes", fact_2),
    ("fact_8_a_vrf_cycles_its_member", fact_8),
    ("fact_9_an_identical_replace_is_not_announced", fact_9),
    ("fact_10_carrier_flaps_are_told_late_and_together", fact_10),
    ("fact_14_what_dumps_of_ipv6_routes_leave_out_is_known", left_out),
    ("fact_17_carrier_and_mac_changes_flush_neighbours", fact_17),
    ("fact_21_what_goes_with_a_device_and_with_a_primary_address", fact_21),
    ("fact_23_weights_less_one_and_ipv6_gateways_of_ipv4_routes", fact_23),
    ("fact_27_a_bridge_repeats_itself", fact_27),
];

/// How the error begins of a test that this kernel can't run.
pub const LACKS: &str = "this kernel has no ";

/// Nothing takes longer, carrier changes included.
const PATIENCE: Duration = Duration::from_secs(10);
pub const NEW: u16 = nlm::F_CREATE | nlm::F_EXCL;
pub const REPLACE: u16 = nlm::F_CREATE | nlm::F_REPLACE;
pub const APPEND: u16 = nlm::F_CREATE | nlm::F_APPEND;

pub struct World {
    pub k: Kernel,
    pub m: Mirror,
    /// Types and families of the messages that came since last looked at.
    heard: Vec<(u16, u8)>,
}

pub fn text(e: io::Error) -> String {
    e.to_string()
}

impl World {
    /// Two pairs, up, with addresses.
    pub fn new() -> Result<World, String> {
        for (path, value) in
            [("ipv6/conf/default/accept_dad", "0"), ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]
        {
            std::fs::write(format!("/proc/sys/net/{path}"), value).map_err(text)?;
        }
        let mut w = World { k: Kernel::open().map_err(text)?, m: Mirror::new(), heard: Vec::new() };
        w.must(link(1, Some(true)).done())?;
        for n in 0..2 {
            w.must(veth(n))?;
            w.must(link(v(n), Some(true)).done())?;
            w.must(link(p(n), Some(true)).done())?;
            w.must(addr(rtm::NEWADDR, NEW, v(n), gw4(n, 1), 24))?;
            w.must(addr(rtm::NEWADDR, NEW, v(n), gw6(n, 1), 64))?;
        }
        w.m = w.k.fresh().map_err(text)?;
        w.until("both links are up", |w| (0..2).all(|n| w.running(n)))?;
        w.heard.clear();
        Ok(w)
    }

    pub fn errno(&mut self, m: Vec<u8>) -> Result<i32, String> {
        self.k.request(m).map_err(text)
    }

    pub fn must(&mut self, m: Vec<u8>) -> Done {
        match self.errno(m)? {
            0 => Ok(()),
            e => Err(format!("the kernel refused a request: {}", io::Error::from_raw_os_error(e))),
        }
    }

    fn running(&self, n: u32) -> bool {
        self.m.link(v(n)).is_some_and(|l| l.flags & libc::IFF_RUNNING as u32 != 0)
    }

    /// Take in what the kernel said, and dump what the mirror is in doubt of.
    pub fn listen(&mut self) -> Done {
        for _ in 0..20 {
            let epoch = self.m.epoch();
            for (seq, b) in self.k.news().map_err(text)? {
                self.heard.extend(messages(&b).flatten().map(|m| (m.kind, m.body.first().copied().unwrap_or(0))));
                self.m.monitor(seq, &b);
            }
            self.m.fence(epoch);
            while self.m.work(1000) {}
            let wanted = self.m.take_dirt().wanted;
            if wanted.is_empty() {
                return Ok(());
            }
            for kind in wanted {
                self.k.fill(&mut self.m, kind).map_err(text)?;
            }
        }
        Err("the mirror asks for dumps without end".into())
    }

    pub fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Done {
        let until = Instant::now() + PATIENCE;
        loop {
            self.listen()?;
            if done(self) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("it never came to be that {what}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The mirror comes to equal what the kernel has.
    pub fn equal(&mut self) -> Done {
        let until = Instant::now() + PATIENCE;
        loop {
            self.listen()?;
            let diff = self.m.diff(&self.k.fresh().map_err(text)?, 10);
            if diff.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(diff.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn gateways<F: virga::mirror::MirrorFamily>(&self, p: Prefix<F>) -> Vec<Vec<(u32, Option<IpAddr>, u16)>> {
        let hops = |s: &NhSet| match s {
            NhSet::Inline(h) => h.iter().map(|h| (h.ifindex, h.via, h.weight)).collect(),
            NhSet::Object(id) => vec![(*id, None, 0)],
        };
        self.m.aliases::<F>(TABLE_MAIN, p).iter().map(|a| hops(self.m.nhset(a.nh))).collect()
    }
}

pub fn prefix4() -> Prefix<V4> {
    Prefix::new([10, 50, 0, 0].into(), 16)
}

pub fn prefix6() -> Prefix<V6> {
    Prefix::new([0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0].into(), 48)
}

pub fn route(flags: u16, v6: bool) -> Builder {
    let (family, len) = if v6 { (AF_INET6, 48) } else { (AF_INET, 16) };
    let dst: IpAddr = if v6 { prefix6().addr().into() } else { prefix4().addr().into() };
    Builder::new(rtm::NEWROUTE, flags, &[family, len, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]).addr(1, dst)
}

pub fn neigh(n: u32, a: IpAddr, state: u16) -> Vec<u8> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[4..8].copy_from_slice(&v(n).to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    Builder::new(rtm::NEWNEIGH, REPLACE, &fixed).addr(1, a).attr(2, &[2, 0, 0, 0, 1, 1]).done()
}

pub fn check(what: &str, holds: bool) -> Done {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn fact_2() -> Done {
    let mut w = World::new()?;
    let object = |id: u32, n: u32| {
        Builder::new(rtm::NEWNEXTHOP, NEW, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]).u32(1, id).u32(5, v(n)).addr(6, gw4(n, 9))
    };
    w.must(object(1, 0).done())?;
    w.must(route(NEW, false).u32(30, 1).done())?;
    w.listen()?;
    check("the mirror has the route of the object", w.gateways(prefix4()).len() == 1)?;
    w.heard.clear();
    w.must(link(p(0), Some(false)).done())?;
    w.until("the link is down", |w| !w.running(0))?;
    w.equal()?;
    check("the kernel's route is gone", w.gateways(prefix4()).is_empty())?;
    let told = |k: &(u16, u8)| matches!(*k, (rtm::DELROUTE, AF_INET) | (rtm::DELNEXTHOP, _));
    if w.heard.iter().any(told) {
        return Err(format!("it was announced: {:?}", w.heard));
    }
    w.must(link(p(0), Some(true)).done())?;
    w.until("the link is up", |w| w.running(0))?;
    w.equal()?;
    check("it does not come back with the link", w.gateways(prefix4()).is_empty())
}

fn fact_8() -> Done {
    let mut w = World::new()?;
    let data = nest(&[(1, &100u32.to_ne_bytes())]);
    let vrf = Builder::new(rtm::NEWLINK, NEW, &[0; 16]).attr(3, b"red\0").attr(18, &nest(&[(1, b"vrf"), (2, &data)]));
    if w.errno(vrf.done())? != 0 {
        return Err(format!("{LACKS}VRF"));
    }
    w.must(route(NEW, false).u32(4, v(0)).addr(5, gw4(0, 9)).done())?;
    w.listen()?;
    let red = w.m.links().find(|l| l.name == "red").map_or(0, |l| l.ifindex);
    w.must(link(v(0), None).u32(10, red).done())?;
    w.equal()?;
    check("the route through the member is gone", w.gateways(prefix4()).is_empty())?;
    w.must(link(v(0), None).u32(10, 0).done())?;
    w.equal()
}

fn fact_9() -> Done {
    let mut w = World::new()?;
    let replace = || route(REPLACE, false).u32(4, v(0)).addr(5, gw4(0, 9)).done();
    w.must(replace())?;
    w.listen()?;
    check("the first is announced", w.heard.contains(&(rtm::NEWROUTE, AF_INET)))?;
    w.heard.clear();
    w.must(replace())?;
    w.listen()?;
    check("the second is not", !w.heard.contains(&(rtm::NEWROUTE, AF_INET)))?;
    w.equal()
}

fn fact_10() -> Done {
    let mut w = World::new()?;
    let before = w.m.link(v(0)).map_or(0, |l| l.carrier_down);
    const FLIPS: u32 = 5;
    for _ in 0..FLIPS {
        w.must(link(p(0), Some(false)).done())?;
        w.must(link(p(0), Some(true)).done())?;
    }
    w.until("every flap is counted", |w| w.m.link(v(0)).is_some_and(|l| l.carrier_down == before + FLIPS))?;
    w.until("the link is up", |w| w.running(0))?;
    w.equal()
}

/// Of one metric: a member, a route that is none, a member. The dump shows the multipath route alone.
fn left_out() -> Done {
    let mut w = World::new()?;
    w.must(route(NEW, true).u32(4, v(0)).addr(5, gw6(0, 9)).done())?;
    w.must(route(APPEND, true).u32(4, v(1)).done())?;
    w.must(route(APPEND, true).u32(4, v(0)).addr(5, gw6(0, 8)).done())?;
    w.equal()?;
    check("who has heard of both has both", w.gateways(prefix6()).len() == 2 && !w.m.hidden(&[TABLE_MAIN], prefix6()))?;
    let mut fresh = w.k.fresh().map_err(text)?;
    if !fresh.hidden(&[TABLE_MAIN], prefix6()) {
        return Err("a mirror made from dumps does not know that there is more".into());
    }
    // Another member of the multipath route: still hidden.
    std::mem::swap(&mut w.m, &mut fresh);
    w.must(route(APPEND, true).u32(4, v(0)).addr(5, gw6(0, 7)).done())?;
    w.listen()?;
    check("it stays so", w.m.hidden(&[TABLE_MAIN], prefix6()))?;
    // The multipath route goes; what it hid stands alone.
    for host in [9, 8, 7] {
        let mut m = route(0, true).u32(4, v(0)).addr(5, gw6(0, host)).done();
        m[4..6].copy_from_slice(&rtm::DELROUTE.to_ne_bytes());
        w.must(m)?;
    }
    w.equal()?;
    check(
        "what was hidden is seen",
        !w.m.hidden(&[TABLE_MAIN], prefix6()) && w.gateways(prefix6()) == [vec![(v(1), None, 1)]],
    )?;
    // A multipath route alone hides nothing.
    w.must(route(REPLACE, true).u32(4, v(0)).addr(5, gw6(0, 9)).done())?;
    w.must(route(APPEND, true).u32(4, v(1)).addr(5, gw6(1, 9)).done())?;
    w.equal()?;
    check("nothing is hidden now", !w.k.fresh().map_err(text)?.hidden(&[TABLE_MAIN], prefix6()))
}

fn fact_17() -> Done {
    const REACHABLE: u16 = 2;
    const PERMANENT: u16 = 0x80;
    let mut w = World::new()?;
    let has = |w: &World, host: u8| match gw4(0, host) {
        IpAddr::V4(a) => w.m.neigh::<V4>(v(0), a).is_some(),
        IpAddr::V6(_) => false,
    };
    w.must(neigh(0, gw4(0, 2), PERMANENT))?;
    w.must(neigh(0, gw4(0, 3), REACHABLE))?;
    w.must(route(NEW, false).u32(4, v(0)).addr(5, gw4(0, 2)).done())?;
    w.listen()?;
    check("both are there", has(&w, 2) && has(&w, 3))?;
    w.must(link(p(0), Some(false)).done())?;
    w.until("the reachable neighbour is gone", |w| !has(w, 3))?;
    check("the permanent one is not", has(&w, 2))?;
    w.must(link(p(0), Some(true)).done())?;
    w.until("the link is up", |w| w.running(0))?;
    w.must(neigh(0, gw4(0, 3), REACHABLE))?;
    w.listen()?;
    check("it is there again", has(&w, 3))?;
    w.must(link(v(0), None).attr(1, &[2, 0, 0, 0, 0, 0x77]).done())?;
    w.until("a new MAC flushes it", |w| !has(w, 3))?;
    check("routes stay", w.gateways(prefix4()).len() == 1)?;
    w.equal()
}

fn fact_21() -> Done {
    let mut w = World::new()?;
    let connected = Prefix::<V4>::new([10, 0, 0, 0].into(), 24);
    let owns = |w: &World, a: IpAddr| w.m.addrs().any(|(k, _)| k.local == a);
    w.must(link(v(0), Some(false)).done())?;
    w.equal()?;
    check("IPv6 addresses go with the device", !owns(&w, gw6(0, 1)) && owns(&w, gw4(0, 1)))?;
    check("the connected route goes, too", w.gateways(connected).is_empty())?;
    w.heard.clear();
    w.must(link(v(0), Some(true)).done())?;
    w.equal()?;
    check("it is announced again", w.heard.contains(&(rtm::NEWROUTE, AF_INET)) && w.gateways(connected).len() == 1)?;
    check("the IPv6 address does not come back", !owns(&w, gw6(0, 1)))?;
    std::fs::write(format!("/proc/sys/net/ipv6/conf/v{}/keep_addr_on_down", 1), "1").map_err(text)?;
    w.must(link(v(1), Some(false)).done())?;
    w.equal()?;
    check("it is kept where that is asked for", owns(&w, gw6(1, 1)))?;
    w.must(link(v(1), Some(true)).done())?;
    w.equal()?;
    for (promote, left) in [("0", false), ("1", true)] {
        std::fs::write("/proc/sys/net/ipv4/conf/v0/promote_secondaries", promote).map_err(text)?;
        w.must(addr(rtm::NEWADDR, nlm::F_CREATE | nlm::F_REPLACE, v(0), gw4(0, 1), 24))?;
        w.must(addr(rtm::NEWADDR, NEW, v(0), gw4(0, 10), 24))?;
        w.must(addr(rtm::DELADDR, 0, v(0), gw4(0, 1), 24))?;
        w.equal()?;
        check("secondaries go with their primary unless promoted", owns(&w, gw4(0, 10)) == left)?;
    }
    Ok(())
}

fn fact_23() -> Done {
    let mut w = World::new()?;
    let mut hops = Vec::new();
    let mut via = AF_INET6.to_ne_bytes().to_vec();
    via.push(0);
    if let IpAddr::V6(a) = gw6(1, 9) {
        via.extend(a.octets());
    }
    let mut four = Vec::new();
    if let IpAddr::V4(a) = gw4(0, 9) {
        push_attr(&mut four, 5, &a.octets());
    }
    let mut six = Vec::new();
    push_attr(&mut six, 18, &via);
    for (own, n, less_one) in [(four, 0, 3u8), (six, 1, 0)] {
        hops.extend((8 + own.len() as u16).to_ne_bytes());
        hops.extend([0, less_one]);
        hops.extend(v(n).to_ne_bytes());
        hops.extend(own);
    }
    w.must(route(NEW, false).attr(9, &hops).done())?;
    w.equal()?;
    let want = vec![vec![(v(0), Some(gw4(0, 9)), 4), (v(1), Some(gw6(1, 9)), 1)]];
    if w.gateways(prefix4()) != want {
        return Err(format!("{:?}", w.gateways(prefix4())));
    }
    let local: IpAddr = [0xfe80, 0, 0, 0, 0, 0, 0, 9].into();
    let refused = w.errno(route(NEW, true).addr(5, local).done())?;
    check("a link-local gateway needs its device", refused != 0)?;
    w.must(route(NEW, true).u32(4, v(0)).addr(5, local).done())?;
    w.equal()?;
    // An object in the place of next hops; with compatibility mode both are shown, and the object is what counts.
    let object = Builder::new(rtm::NEWNEXTHOP, NEW, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]).u32(1, 7).u32(5, v(0));
    w.must(object.addr(6, gw4(0, 9)).done())?;
    for compat in ["0", "1"] {
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", compat).map_err(text)?;
        w.must(route(REPLACE, false).u32(30, 7).done())?;
        w.equal()?;
        check("the route is the object's", w.gateways(prefix4()) == [vec![(7, None, 0)]])?;
        w.k.fill(&mut w.m, DumpKind::Route4).map_err(text)?;
        check("in dumps, too", w.gateways(prefix4()) == [vec![(7, None, 0)]])?;
        w.must(route(REPLACE, false).u32(4, v(1)).addr(5, gw4(1, 9)).done())?;
    }
    w.equal()
}

fn fact_27() -> Done {
    let mut w = World::new()?;
    let bridge = Builder::new(rtm::NEWLINK, NEW, &[0; 16]).attr(3, b"br0\0").attr(18, &nest(&[(1, b"bridge")]));
    if w.errno(bridge.done())? != 0 {
        return Err(format!("{LACKS}bridge"));
    }
    w.listen()?;
    let br = w.m.links().find(|l| l.name == "br0").map_or(0, |l| l.ifindex);
    w.heard.clear();
    w.must(link(v(0), None).u32(10, br).done())?;
    w.until("the port is in the bridge", |w| w.m.link(v(0)).is_some_and(|l| l.master == Some(br)))?;
    let told = w.heard.iter().filter(|k| k.0 == rtm::NEWLINK).count();
    check("one change, several messages", told > 1)?;
    w.equal()?;
    w.must(link(v(0), None).u32(10, 0).done())?;
    w.until("the port has left it", |w| w.m.link(v(0)).is_some_and(|l| l.master.is_none()))?;
    w.equal()?;
    // The same again, in the kernel's own words, is no news.
    let (parts, _) = w.k.dump(DumpKind::Link).map_err(text)?;
    w.m.take_dirt();
    for part in parts {
        w.m.monitor(w.k.seq, &part);
    }
    check("a repetition changes nothing", w.m.take_dirt().links.is_empty())
}
