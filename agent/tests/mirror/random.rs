//! Random commands, and the comparison after each.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use virga::input::DumpKind;
use virga::mirror::Mirror;
use virga::netlink::build::{Builder, push_attr};
use virga::netlink::{AF_INET, AF_INET6, nlm, rtm};

use crate::kernel::{Kernel, Stamped, low};

/// Pairs of veth: `vN` is the switch's, `pN` its other end.
const PAIRS: u32 = 4;
/// Commands in `cargo test`.
const COMMANDS: usize = 400;
/// How long a difference may last: carrier changes are told late (kernel-facts 10).
const PATIENCE: Duration = Duration::from_secs(4);

/// xorshift64*: a run is its seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What is done to the kernel.
enum Command {
    Request(Vec<u8>),
    /// Several, of which some may be refused.
    Requests(Vec<Vec<u8>>),
    Write(String, &'static str),
}

struct World {
    kernel: Kernel,
    rng: Rng,
    log: VecDeque<String>,
    done: usize,
    refused: usize,
    /// `disable_ipv6` was written, which the core polls and the mirror is told.
    switched: bool,
    /// As [`World::switched`], of `ignore_routes_with_linkdown` for IPv6.
    unsaid: bool,
}

pub fn v(n: u32) -> u32 {
    // Indexes are chosen by us, so that they stay when a pair is made again.
    100 + n
}

pub fn p(n: u32) -> u32 {
    200 + n
}

pub fn gw4(n: u32, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, n as u8, host).into()
}

pub fn gw6(n: u32, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, n as u16, 0, 0, 0, 0, host).into()
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub fn nest(parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut b = Vec::new();
    for (k, d) in parts {
        push_attr(&mut b, *k, d);
    }
    b
}

pub fn veth(n: u32) -> Vec<u8> {
    let mut peer = [0u8; 16].to_vec();
    peer[4..8].copy_from_slice(&p(n).to_ne_bytes());
    push_attr(&mut peer, 3, format!("p{n}\0").as_bytes());
    let data = nest(&[(1, &peer)]);
    let info = nest(&[(1, b"veth"), (2, &data)]);
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&v(n).to_ne_bytes());
    Builder::new(rtm::NEWLINK, nlm::F_CREATE | nlm::F_EXCL, &fixed)
        .attr(3, format!("v{n}\0").as_bytes())
        .attr(18, &info)
        .done()
}

pub fn link(ifindex: u32, up: Option<bool>) -> Builder {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    if let Some(up) = up {
        fixed[8] = u8::from(up);
        fixed[12] = 1;
    }
    Builder::new(rtm::NEWLINK, 0, &fixed)
}

pub fn addr(kind: u16, flags: u16, ifindex: u32, a: IpAddr, len: u8) -> Vec<u8> {
    let mut fixed = [0; 8];
    fixed[0] = if a.is_ipv4() { AF_INET } else { AF_INET6 };
    fixed[1] = len;
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let b = Builder::new(kind, flags, &fixed).addr(2, a).addr(1, a);
    // IFA_F_NODAD
    if a.is_ipv6() { b.u32(8, 2).done() } else { b.done() }
}

impl World {
    fn hop(&mut self, v6: bool) -> (u32, Option<IpAddr>, bool) {
        let n = self.rng.below(u64::from(PAIRS)) as u32;
        let host = 2 + self.rng.below(3) as u8;
        let via = if v6 {
            match self.rng.below(3) {
                0 => Some(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host)))),
                _ => Some(gw6(n, host.into())),
            }
        } else {
            match self.rng.below(4) {
                0 => None,
                1 if self.rng.one_in(2) => Some(gw6(n, host.into())),
                _ => Some(gw4(n, host)),
            }
        };
        (v(n), via, self.rng.one_in(5))
    }

    fn route(&mut self, v6: bool) -> (String, Command) {
        let delete = self.rng.one_in(3);
        let (dst, len): (IpAddr, u8) = if v6 {
            self.rng.pick(&[
                (Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0).into(), 48),
                (Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0).into(), 48),
                (Ipv6Addr::new(0x2001, 0xdb8, 0x50, 1, 0, 0, 0, 0).into(), 64),
                (Ipv6Addr::UNSPECIFIED.into(), 0),
                (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).into(), 64),
            ])
        } else {
            self.rng.pick(&[
                (Ipv4Addr::new(10, 50, 0, 0).into(), 24),
                (Ipv4Addr::new(10, 50, 1, 0).into(), 24),
                (Ipv4Addr::new(10, 50, 0, 0).into(), 16),
                (Ipv4Addr::new(10, 50, 0, 7).into(), 32),
                (Ipv4Addr::UNSPECIFIED.into(), 0),
                (Ipv4Addr::new(10, 0, 1, 0).into(), 24),
            ])
        };
        let metric = self.rng.pick(&[0u32, 0, 10, 20, 1024]);
        let kind = self.rng.pick(&[1u8, 1, 1, 1, 1, 1, 1, 6, 7, 8, 9]);
        let flags = if delete { 0 } else { self.rng.pick(&[0x600, 0x600, 0x500, 0x500, 0xc00, 0xc00, 0x400, 0x100]) };
        let table = self.rng.pick(&[254u8, 254, 254, 254, 254, 254, 100, 253]);
        let tos = if !v6 && self.rng.one_in(6) { 0x10 } else { 0 };
        let mut fixed = [0; 12];
        fixed[0] = if v6 { AF_INET6 } else { AF_INET };
        fixed[1] = len;
        fixed[3] = tos;
        fixed[4] = table;
        fixed[5] = if delete { 0 } else { self.rng.pick(&[4, 4, 4, 186]) };
        fixed[7] = kind;
        let mut text = format!(
            "route {} {dst}/{len} flags {flags:#x} metric {metric} tos {tos} type {kind} table {table}",
            if delete { "del" } else { "new" }
        );
        let mut attrs: Vec<(u16, Vec<u8>)> = vec![(1, octets(dst))];
        if metric != 0 {
            attrs.push((6, metric.to_ne_bytes().to_vec()));
        }
        let bare = delete && self.rng.one_in(2);
        if bare {
            fixed[6] = 255;
        } else if self.rng.one_in(12) {
            let id = self.rng.pick(&[1u32, 2, 3, 10, 11]);
            attrs.push((30, id.to_ne_bytes().to_vec()));
            fixed[7] = 1;
            text += &format!(" nhid {id}");
        } else if kind == 1 {
            let count = self.rng.pick(&[1, 1, 1, 2, 3]);
            let mut multi = Vec::new();
            let mut gateway = false;
            for _ in 0..count {
                let (dev, via, onlink) = self.hop(v6);
                let weight = self.rng.pick(&[0u8, 0, 0, 3]);
                let mut own = Vec::new();
                if let Some(a) = via {
                    gateway = true;
                    if a.is_ipv6() && !v6 {
                        let mut b = u16::from(AF_INET6).to_ne_bytes().to_vec();
                        b.extend(octets(a));
                        push_attr(&mut own, 18, &b);
                    } else {
                        push_attr(&mut own, 5, &octets(a));
                    }
                }
                let onlink = if onlink && via.is_some() { 4u8 } else { 0 };
                text += &format!(" [dev {dev} via {via:?} weight {} onlink {}]", weight + 1, onlink != 0);
                if count == 1 {
                    attrs.push((4, dev.to_ne_bytes().to_vec()));
                    fixed[8] |= onlink;
                    for a in virga::netlink::Attrs(&own).flatten() {
                        attrs.push((a.kind, a.data.to_vec()));
                    }
                } else {
                    multi.extend((8 + own.len() as u16).to_ne_bytes());
                    multi.extend([onlink, weight]);
                    multi.extend(dev.to_ne_bytes());
                    multi.extend(own);
                }
            }
            if !multi.is_empty() {
                attrs.push((9, multi));
            }
            // RT_SCOPE_LINK where there is no gateway, RT_SCOPE_NOWHERE for any in a deletion.
            fixed[6] = if delete { 255 } else { if gateway || v6 { 0 } else { 253 } };
            if !delete && !v6 && self.rng.one_in(6) {
                let n = self.rng.below(u64::from(PAIRS)) as u32;
                let src = self.rng.pick(&[gw4(n, 1), gw4(n, 10)]);
                attrs.push((7, octets(src)));
                text += &format!(" src {src}");
            }
            if !delete && self.rng.one_in(8) {
                attrs.push((8, nest(&[(2, &1300u32.to_ne_bytes())])));
                text += " mtu 1300";
            }
            if !delete && v6 && self.rng.one_in(10) {
                attrs.push((20, vec![1]));
                text += " pref high";
            }
        }
        let kind = if delete { rtm::DELROUTE } else { rtm::NEWROUTE };
        let mut b = Builder::new(kind, flags, &fixed);
        for (k, d) in attrs {
            b = b.attr(k, &d);
        }
        (text, Command::Request(b.done()))
    }

    fn object(&mut self) -> (String, Command) {
        let id = self.rng.pick(&[1u32, 2, 3, 10, 11]);
        let mut fixed = [0; 8];
        if self.rng.one_in(3) {
            return (
                format!("nexthop del {id}"),
                Command::Request(Builder::new(rtm::DELNEXTHOP, 0, &fixed).u32(1, id).done()),
            );
        }
        let flags = self.rng.pick(&[0x600, 0x500]);
        if id >= 10 {
            let mut group = Vec::new();
            for m in [1u32, 2, 3] {
                if self.rng.one_in(2) {
                    group.extend(m.to_ne_bytes());
                    group.extend([0; 4]);
                }
            }
            let b = Builder::new(rtm::NEWNEXTHOP, flags, &fixed).u32(1, id).attr(2, &group);
            return (format!("nexthop {id} group {group:?}"), Command::Request(b.done()));
        }
        let n = self.rng.below(u64::from(PAIRS)) as u32;
        fixed[0] = self.rng.pick(&[AF_INET, AF_INET, AF_INET6]);
        let gw = if fixed[0] == AF_INET { gw4(n, 9) } else { gw6(n, 9) };
        let b = Builder::new(rtm::NEWNEXTHOP, flags, &fixed).u32(1, id).u32(5, v(n)).addr(6, gw);
        (format!("nexthop {id} via {gw} dev {} flags {flags:#x}", v(n)), Command::Request(b.done()))
    }

    fn command(&mut self) -> (String, Command) {
        let n = self.rng.below(u64::from(PAIRS)) as u32;
        match self.rng.below(100) {
            0..35 => self.route(false),
            35..60 => self.route(true),
            60 if self.rng.one_in(3) => {
                // A device without addresses, up, while its link comes and goes.
                let mut all: Vec<_> = [(gw4(n, 1), 24), (gw4(n, 10), 24), (gw4(0, 1), 32), (gw4(n, 1), 32)]
                    .into_iter()
                    .map(|(a, len)| addr(rtm::DELADDR, 0, v(n), a, len))
                    .collect();
                all.push(link(v(n), Some(true)).done());
                all.push(link(p(n), Some(self.rng.one_in(2))).done());
                (format!("no IPv4 addresses on {}, link of {}", v(n), p(n)), Command::Requests(all))
            }
            60..68 => {
                let (a, len) = self.rng.pick(&[(gw4(n, 1), 24), (gw4(n, 10), 24), (gw4(0, 1), 32), (gw4(n, 1), 32)]);
                if self.rng.one_in(2) {
                    (format!("addr del {a}/{len} dev {}", v(n)), Command::Request(addr(rtm::DELADDR, 0, v(n), a, len)))
                } else {
                    let m = addr(rtm::NEWADDR, nlm::F_CREATE | nlm::F_REPLACE, v(n), a, len);
                    (format!("addr add {a}/{len} dev {}", v(n)), Command::Request(m))
                }
            }
            68..73 => {
                let (a, len) = self.rng.pick(&[(gw6(n, 1), 64), (gw6(n, 10), 128)]);
                if self.rng.one_in(2) {
                    (format!("addr del {a}/{len} dev {}", v(n)), Command::Request(addr(rtm::DELADDR, 0, v(n), a, len)))
                } else {
                    let m = addr(rtm::NEWADDR, nlm::F_CREATE | nlm::F_REPLACE, v(n), a, len);
                    (format!("addr add {a}/{len} dev {}", v(n)), Command::Request(m))
                }
            }
            73..82 => {
                let up = !self.rng.one_in(3);
                (format!("link {} up {up}", v(n)), Command::Request(link(v(n), Some(up)).done()))
            }
            82..86 => {
                let up = !self.rng.one_in(3);
                (format!("link {} up {up} (carrier of {})", p(n), v(n)), Command::Request(link(p(n), Some(up)).done()))
            }
            86 => {
                let mac = [2, 0, 0, 0, n as u8, self.rng.below(4) as u8];
                (format!("link {} address {mac:?}", v(n)), Command::Request(link(v(n), None).attr(1, &mac).done()))
            }
            87 => {
                let mtu = self.rng.pick(&[1500u32, 1400, 9000]);
                (format!("link {} mtu {mtu}", v(n)), Command::Request(link(v(n), None).u32(4, mtu).done()))
            }
            88..92 => {
                let a = if self.rng.one_in(2) { gw4(n, 2) } else { gw6(n, 2) };
                let delete = self.rng.one_in(3);
                let mut fixed = [0; 12];
                fixed[0] = if a.is_ipv4() { AF_INET } else { AF_INET6 };
                fixed[4..8].copy_from_slice(&v(n).to_ne_bytes());
                // NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, NUD_NOARP
                let state = self.rng.pick(&[0x80u16, 0x02, 0x04, 0x40]);
                fixed[8..10].copy_from_slice(&state.to_ne_bytes());
                fixed[10] = if self.rng.one_in(6) { 8 } else { 0 };
                let (kind, flags) = if delete { (rtm::DELNEIGH, 0) } else { (rtm::NEWNEIGH, 0x500) };
                let b = Builder::new(kind, flags, &fixed).addr(1, a);
                let b = if fixed[10] == 0 { b.attr(2, &[2, 0, 0, 0, 1, self.rng.below(3) as u8]) } else { b };
                (
                    format!("neigh {kind} {a} dev {} state {state:#x} flags {}", v(n), fixed[10]),
                    Command::Request(b.done()),
                )
            }
            92 => {
                let delete = self.rng.one_in(2);
                let mut fixed = [0; 12];
                fixed[0] = self.rng.pick(&[AF_INET, AF_INET6]);
                fixed[4] = self.rng.pick(&[254, 100]);
                fixed[7] = 1;
                let priority = self.rng.pick(&[1000u32, 32766, 32767]);
                let (kind, flags) = if delete { (rtm::DELRULE, 0) } else { (rtm::NEWRULE, 0x600) };
                let b = Builder::new(kind, flags, &fixed).u32(6, priority);
                (format!("rule {kind} priority {priority} table {}", fixed[4]), Command::Request(b.done()))
            }
            93..95 => self.object(),
            95..98 => {
                let (family, name) = self.rng.pick(&[
                    ("ipv4", "forwarding"),
                    ("ipv4", "rp_filter"),
                    ("ipv4", "ignore_routes_with_linkdown"),
                    ("ipv4", "promote_secondaries"),
                    ("ipv6", "forwarding"),
                    ("ipv6", "ignore_routes_with_linkdown"),
                    ("ipv6", "keep_addr_on_down"),
                    ("ipv6", "disable_ipv6"),
                    ("ipv6", "disable_ipv6"),
                ]);
                let dev = if self.rng.one_in(4) { "all".into() } else { format!("v{n}") };
                let on = self.rng.pick(&["0", "1"]);
                let path = format!("/proc/sys/net/{family}/conf/{dev}/{name}");
                (format!("{path} = {on}"), Command::Write(path, on))
            }
            98 => {
                let path = self.rng.pick(&[
                    "/proc/sys/net/ipv4/nexthop_compat_mode",
                    "/proc/sys/net/ipv6/route/skip_notify_on_dev_down",
                ]);
                let on = self.rng.pick(&["0", "1"]);
                (format!("{path} = {on}"), Command::Write(path.into(), on))
            }
            _ if self.rng.one_in(2) => {
                let mut fixed = [0; 16];
                fixed[4..8].copy_from_slice(&v(n).to_ne_bytes());
                (format!("link del {}", v(n)), Command::Request(Builder::new(rtm::DELLINK, 0, &fixed).done()))
            }
            _ => (format!("link add {}", v(n)), Command::Request(veth(n))),
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let (text, c) = self.command();
        let errno = match c {
            Command::Request(m) => self.kernel.request(m)?,
            Command::Requests(all) => {
                for m in all {
                    self.kernel.request(m)?;
                }
                0
            }
            // Absent with its device, for one.
            Command::Write(path, value) => {
                // Linux 6.1 does not announce it; the agent, which reads it once a second, asks then.
                self.unsaid |=
                    path.starts_with("/proc/sys/net/ipv6/") && path.ends_with("/ignore_routes_with_linkdown");
                std::fs::write(path, value).map_or(1, |()| 0)
            }
        };
        self.switched |= text.contains("disable_ipv6");
        self.log.push_back(format!("{}: {text} -> {errno}", self.done));
        if self.log.len() > 120 {
            self.log.pop_front();
        }
        self.done += 1;
        self.refused += usize::from(errno != 0);
        Ok(())
    }

    fn setup(&mut self) -> io::Result<()> {
        for (path, value) in [
            ("/proc/sys/net/ipv6/conf/default/accept_dad", "0"),
            ("/proc/sys/net/ipv6/conf/default/router_solicitations", "0"),
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
        ] {
            std::fs::write(path, value)?;
        }
        self.kernel.request(link(1, Some(true)).done())?;
        for n in 0..PAIRS {
            let new = nlm::F_CREATE | nlm::F_EXCL;
            for m in [
                veth(n),
                link(v(n), Some(true)).done(),
                link(p(n), Some(true)).done(),
                addr(rtm::NEWADDR, new, v(n), gw4(n, 1), 24),
                addr(rtm::NEWADDR, new, v(n), gw6(n, 1), 64),
            ] {
                let e = self.kernel.request(m)?;
                if e != 0 {
                    return Err(io::Error::from_raw_os_error(e));
                }
            }
        }
        Ok(())
    }
}

/// Hand in what the kernel said, as the edge does: sometimes with the route messages behind the rest.
fn feed(rng: &mut Rng, m: &mut Mirror, news: VecDeque<Stamped>) {
    let two_queues = rng.one_in(2);
    let (late, first): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, b)| two_queues && low(b));
    for (seq, b) in first.into_iter().chain(late) {
        m.monitor(seq, &b);
        if rng.one_in(3) {
            m.work(1 + rng.below(5) as usize);
        }
    }
}

struct Tally {
    /// Kinds in which the mirror inferred something and would like a dump to confirm it.
    confirm: std::collections::BTreeSet<DumpKind>,
    /// Differences that lasted until such a dump.
    healed: u64,
    undecided: u64,
    asked: u64,
}

/// What the core does with what it is told: finish the work, dump what is undecided.
fn attend(w: &mut World, m: &mut Mirror, tally: &mut Tally) -> io::Result<()> {
    for _ in 0..100 {
        while m.work(1 + w.rng.below(50) as usize) {}
        let dirt = m.take_dirt();
        let (mut d4, mut d6) = (Vec::new(), Vec::new());
        m.drain_prefixes::<hal::V4>(usize::MAX, &mut d4);
        m.drain_prefixes::<hal::V6>(usize::MAX, &mut d6);
        tally.confirm.extend(dirt.confirm);
        if dirt.wanted.is_empty() {
            return Ok(());
        }
        for kind in dirt.wanted {
            tally.asked += 1;
            w.kernel.fill(m, kind)?;
        }
        let epoch = m.epoch();
        let news = w.kernel.news()?;
        feed(&mut w.rng, m, news);
        m.fence(epoch);
    }
    Err(io::Error::other("the mirror asks for dumps without end"))
}

/// A dump of everything into the running mirror, with commands in between, as after an overrun.
fn resync(w: &mut World, m: &mut Mirror) -> io::Result<()> {
    let overrun = w.rng.one_in(2);
    if overrun {
        for _ in 0..w.rng.below(4) {
            w.run()?;
        }
        w.kernel.news()?;
    }
    for kind in DumpKind::ALL {
        for _ in 0..w.rng.below(2) {
            w.run()?;
        }
        let early = if w.rng.one_in(2) { w.kernel.news()? } else { VecDeque::new() };
        let seq = w.kernel.seq;
        m.dump_begin(kind);
        feed(&mut w.rng, m, early);
        for _ in 0..w.rng.below(2) {
            w.run()?;
        }
        let (parts, mut whole) = w.kernel.dump(kind)?;
        whole &= !w.rng.one_in(10);
        for _ in 0..w.rng.below(2) {
            w.run()?;
        }
        let between = if w.rng.one_in(2) { w.kernel.news()? } else { VecDeque::new() };
        let before = w.rng.one_in(2);
        let mut between = Some(between);
        if before && let Some(b) = between.take() {
            feed(&mut w.rng, m, b);
        }
        for p in parts {
            m.dump(kind, seq, &p);
            m.work(w.rng.below(4) as usize);
        }
        if let Some(b) = between.take() {
            feed(&mut w.rng, m, b);
        }
        m.dump_end(kind, whole);
    }
    let epoch = m.epoch();
    let news = w.kernel.news()?;
    feed(&mut w.rng, m, news);
    m.fence(epoch);
    Ok(())
}

pub fn commands() -> Result<(), Failed> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = number("VIRGA_SEED").unwrap_or(now.as_nanos() as u64 % 1_000_000_007).max(1);
    let count = number("VIRGA_COMMANDS").unwrap_or(COMMANDS as u64) as usize;
    println!("seed {seed}, {count} commands");
    let rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut w = World {
        kernel: Kernel::open()?,
        rng,
        log: VecDeque::new(),
        done: 0,
        refused: 0,
        switched: false,
        unsaid: false,
    };
    w.setup()?;
    let mut m = w.kernel.fresh()?;
    let epoch = m.epoch();
    let news = w.kernel.news()?;
    feed(&mut w.rng, &mut m, news);
    m.fence(epoch);
    let mut tally = Tally { confirm: Default::default(), healed: 0, undecided: 0, asked: 0 };
    let mut compared = 0;
    while w.done < count {
        if w.rng.one_in(60) {
            w.log.push_back("-- resync".into());
            resync(&mut w, &mut m)?;
        } else {
            // Mostly one by one; sometimes a burst, so that the queues get out of step.
            for _ in 0..if w.rng.one_in(4) { 1 + w.rng.below(8) } else { 1 } {
                w.run()?;
            }
        }
        let start = Instant::now();
        let mut tries = 0;
        loop {
            let news = w.kernel.news()?;
            feed(&mut w.rng, &mut m, news);
            if std::mem::take(&mut w.switched) {
                m.ipv6_switched();
            }
            if std::mem::take(&mut w.unsaid) {
                w.kernel.fill(&mut m, DumpKind::Netconf)?;
            }
            attend(&mut w, &mut m, &mut tally)?;
            let fresh = w.kernel.fresh()?;
            let diff = m.diff(&fresh, 10);
            compared += 1;
            if diff.is_empty() {
                // What was inferred has proved right.
                tally.confirm.clear();
                break;
            }
            tries += 1;
            if start.elapsed() > PATIENCE / 2 && !tally.confirm.is_empty() {
                // The core dumps these after a moment; what only that puts right is counted.
                tally.healed += 1;
                let log: Vec<_> = w.log.iter().rev().take(40).rev().cloned().collect();
                println!("after {} commands healed by a confirming dump: {diff:?}\n{}", w.done, log.join("\n"));
                for kind in std::mem::take(&mut tally.confirm) {
                    w.kernel.fill(&mut m, kind)?;
                }
                let epoch = m.epoch();
                let news = w.kernel.news()?;
                feed(&mut w.rng, &mut m, news);
                m.fence(epoch);
                continue;
            }
            if start.elapsed() > PATIENCE && tries > 5 {
                let log: Vec<_> = w.log.iter().cloned().collect();
                return Err(Failed::from(format!(
                    "seed {seed}, after {} commands the mirror differs from a fresh dump:\n{}\nlast commands:\n{}\n{:?}",
                    w.done,
                    diff.join("\n"),
                    log.join("\n"),
                    m.stats(),
                )));
            }
            // The kernel tells of carriers late; wait for news or a moment.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    tally.undecided = m.stats().undecided;
    println!(
        "{} commands ({} refused by the kernel), {compared} comparisons, undecided {}, dumps asked for {}, healed by a confirming dump {}, {:?}",
        w.done,
        w.refused,
        tally.undecided,
        tally.asked,
        tally.healed,
        m.stats()
    );
    if w.refused * 10 > w.done * 9 {
        return Err(Failed::from("the kernel refused more than nine in ten commands: nothing was tested"));
    }
    if m.undecided_count() != 0 || m.stats().malformed != 0 {
        return Err(Failed::from(format!("left undecided or malformed: {:?}", m.stats())));
    }
    Ok(())
}
