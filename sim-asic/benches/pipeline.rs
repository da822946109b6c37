//! The pipeline in memory and the rate at which its tables are programmed, on one core: `cargo bench -p virga-sim-asic`.
//!
//! No harness: each figure is a median over short rounds, and the whole takes under a minute. Frames are 64 bytes and freshly
//! written, as a driver leaves them; filling them again is not timed.
//! `cargo bench -p virga-sim-asic -- ipv6` runs that family alone, `-- "ipv6: one"` what is called so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use hal::*;
use sim_asic::{Packet, Pipeline, ROOM, SimChip, Verdict};

const PORTS: u32 = 4;
const GROUPS: u32 = 256;
/// Frames in flight: as many as a driver's ring holds.
const POOL: usize = 2048;
const BATCH: usize = 64;
/// Each port has a sub-interface with that tag.
const VID: u16 = 5;
/// Bytes of a frame.
const FRAME: usize = 64;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

fn chip() -> SimChip {
    let profile = Profile {
        name: "bench".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 1 << 17,
        rifs: 64,
        neigh4: 4096,
        neigh6: 4096,
        nexthops: 4096,
        groups: 4096,
        group_members: 64,
        buckets: 1 << 16,
        routes4: 1 << 21,
        routes6: 1 << 19,
        vrfs: 1,
        rules: 0,
        frame: 9234,
    };
    let mut c = SimChip::with_seed(profile, PORTS as usize, 1);
    for n in 0..PORTS {
        let mac = Mac([2, 0, 0, 0, 0, n as u8]);
        let entry = PortEntry::sound(format!("swp{n}"), n + 1, 1, mac);
        c.set_port(PortId(n), entry);
        let rif = RifEntry {
            kind: RifKind::port(PortId(n)),
            vrf: VrfId(0),
            mac,
            mtu4: 1500,
            mtu6: 1500,
            ingress4: true,
            ingress6: true,
            egress: true,
            same4: false,
            urpf: Urpf::Off,
        };
        set(&mut c, Record::Rif(RifId(n), rif.clone()));
        let tags = Tags::One(Tag { tpid: Tpid::Dot1q, vid: VID });
        let kind = RifKind::Port { port: PortId(n), tags };
        set(&mut c, Record::Rif(RifId(PORTS + n), RifEntry { kind, ..rif }));
    }
    for g in 0..GROUPS {
        let rif = RifId(1 + g % (PORTS - 1));
        let addr = Ipv4Addr::from_bits(0x0a00_0000 + g);
        set(&mut c, Record::Neigh4(NeighKey { rif, addr }, NeighEntry { mac: Mac([2, 1, 0, 0, 0, g as u8]) }));
        set(&mut c, Record::NextHop(NextHopId(g), NextHopEntry::Ip(rif, IpAddr::V4(addr))));
        let members = [Member { nexthop: NextHopId(g), weight: 1 }].into_iter().collect();
        set(&mut c, Record::Group(GroupId(g), GroupEntry { members, ..GroupEntry::default() }));
    }
    let members = (0..4).map(|g| Member { nexthop: NextHopId(g), weight: 1 }).collect();
    set(&mut c, Record::Group(GroupId(GROUPS), GroupEntry { members, ..GroupEntry::default() }));
    c
}

fn set(c: &mut SimChip, r: Record) {
    if let Err(why) = c.apply(&Op::Set(r.clone())) {
        panic!("{r:?}: {why}");
    }
}

/// Prefix lengths of a full table, in parts of 1,000.
const LENGTHS4: &[(u64, u8)] =
    &[(600, 24), (100, 23), (110, 22), (50, 21), (45, 20), (25, 19), (15, 18), (10, 17), (14, 16), (25, 15), (6, 28)];
const LENGTHS6: &[(u64, u8)] =
    &[(470, 48), (120, 32), (90, 44), (80, 40), (60, 36), (60, 46), (50, 29), (40, 47), (30, 64)];

fn length(rng: &mut Rng, of: &[(u64, u8)]) -> u8 {
    let mut at = rng.below(1000);
    for &(n, len) in of {
        if at < n {
            return len;
        }
        at -= n;
    }
    of[0].1
}

fn prefixes4(n: usize) -> Vec<Prefix<V4>> {
    let mut rng = Rng(4);
    let mut all = std::collections::HashSet::with_capacity(n);
    while all.len() < n {
        // 1.0.0.0 to 223.255.255.255 but 10/8 and 127/8.
        let addr = rng.below(223 << 24) as u32 + (1 << 24);
        if !matches!(addr >> 24, 10 | 127) {
            all.insert(Prefix::new(addr.into(), length(&mut rng, LENGTHS4)));
        }
    }
    let mut v: Vec<_> = all.into_iter().collect();
    v.sort();
    v
}

fn prefixes6(n: usize) -> Vec<Prefix<V6>> {
    let mut rng = Rng(6);
    let mut all = std::collections::HashSet::with_capacity(n);
    // As in the Internet: some ten thousand allocations, and more specific prefixes in them.
    let blocks: Vec<u128> = (0..20_000).map(|_| u128::from(0x2000_0000 + rng.below(0x0c00_0000)) << 96).collect();
    while all.len() < n {
        let block = blocks[rng.below(blocks.len() as u64) as usize];
        let addr = block | u128::from(rng.below(1 << 32)) << 64;
        all.insert(Prefix::new(addr.into(), length(&mut rng, LENGTHS6)));
    }
    let mut v: Vec<_> = all.into_iter().collect();
    v.sort();
    v
}

fn shuffle<T>(v: &mut [T]) {
    let mut rng = Rng(9);
    for i in (1..v.len()).rev() {
        v.swap(i, rng.below(i as u64 + 1) as usize);
    }
}

/// Nanoseconds that this thread has run, whatever else runs on the machine.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0)
}

/// Programs all records: nanoseconds each, and microseconds of the worst one by the clock.
fn apply(c: &mut SimChip, ops: &[Op]) -> (f64, f64) {
    let start = cpu();
    let mut worst = Duration::ZERO;
    let mut last = Instant::now();
    for op in ops {
        if let Err(why) = c.apply(op) {
            panic!("{op}: {why}");
        }
        let now = Instant::now();
        worst = worst.max(now - last);
        last = now;
    }
    ((cpu() - start) / ops.len() as f64, worst.as_nanos() as f64 / 1e3)
}

fn program(name: &str, c: &mut SimChip, ops: &[Op]) {
    let (each, worst) = apply(c, ops);
    println!("{name:<44} {:>8.2} M/s  {each:>7.0} ns each, worst {worst:>6.0} us by the clock", 1e3 / each);
}

/// Of a few operations, of which some touch many cells, only the worst one tells something.
fn few(name: &str, c: &mut SimChip, ops: &[Op]) {
    println!("{name:<44} worst {:>6.0} us by the clock", apply(c, ops).1);
}

fn frame4(buf: &mut [u8; FRAME], src: u32, dst: u32) {
    buf[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0, 2, 1, 0, 0, 9, 9]);
    buf[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    buf[16..26].copy_from_slice(&[0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    buf[26..30].copy_from_slice(&src.to_be_bytes());
    buf[30..34].copy_from_slice(&dst.to_be_bytes());
    let mut s: u32 = buf[14..34].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    buf[24..26].copy_from_slice(&(!s as u16).to_be_bytes());
}

/// With the tag of a sub-interface.
fn tagged4(buf: &mut [u8; FRAME], src: u32, dst: u32) {
    frame4(buf, src, dst);
    buf.copy_within(12..FRAME - 4, 16);
    buf[12..16].copy_from_slice(&[0x81, 0, 0, VID as u8]);
}

fn frame6(buf: &mut [u8; FRAME], dst: u128) {
    buf[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0, 2, 1, 0, 0, 9, 9]);
    buf[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, 17, 64]);
    buf[22..38].copy_from_slice(&(0x2001_0db8_u128 << 96 | 2).to_be_bytes());
    buf[38..54].copy_from_slice(&dst.to_be_bytes());
}

/// A frame in a cache line of its own, as a driver's ring has it, and the room before it.
#[derive(Clone)]
#[repr(align(64))]
struct Buffer([u8; 2 * FRAME]);

/// Nanoseconds a packet, by round, ascending; `fill` writes the next frame.
fn rounds(name: &str, pipe: &mut Pipeline, mut fill: impl FnMut(&mut [u8; FRAME])) -> Vec<f64> {
    let mut pool = vec![Buffer([0; 2 * FRAME]); POOL];
    let mut rounds = Vec::new();
    let mut missed = 0u64;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        pool.iter_mut().filter_map(|b| b.0.last_chunk_mut()).for_each(&mut fill);
        let mut packets: Vec<Packet> =
            pool.iter_mut().map(|b| Packet::new(PortId(0), &mut b.0[FRAME - ROOM..])).collect();
        let t = Instant::now();
        for batch in packets.chunks_mut(BATCH) {
            pipe.run(batch);
        }
        rounds.push(t.elapsed().as_nanos() as f64 / POOL as f64);
        missed += packets.iter().filter(|p| !matches!(p.verdict, Verdict::Forward { .. })).count() as u64;
    }
    rounds.sort_by(f64::total_cmp);
    assert_eq!(missed, 0, "{name}: every packet is to be forwarded");
    rounds
}

fn at(rounds: &[f64], quantile: f64) -> f64 {
    rounds[(rounds.len() as f64 * quantile) as usize]
}

/// Median nanoseconds a packet; `fill` writes the next frame.
fn forward(name: &str, pipe: &mut Pipeline, fill: impl FnMut(&mut [u8; FRAME])) {
    if !name.contains(&filter()) {
        return;
    }
    let r = rounds(name, pipe, fill);
    let (half, tenth) = (at(&r, 0.5), at(&r, 0.1));
    println!("{name:<44} {:>8.1} Mpps {half:>7.1} ns each (fastest tenth {tenth:.1})", 1e3 / half);
}

/// The sum over workers that run at once on the same tables, each with its own frames.
fn together<F: FnMut(&mut [u8; FRAME]) + Send>(name: &str, c: &SimChip, workers: usize, fill: impl Fn(usize) -> F) {
    if !name.contains(&filter()) {
        return;
    }
    let pipes: Vec<_> = (0..workers).map(|w| (c.pipeline(), fill(w))).collect();
    let each: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> =
            pipes.into_iter().map(|(mut p, fill)| s.spawn(move || rounds(name, &mut p, fill))).collect();
        threads.into_iter().map(|t| t.join().expect("a worker's figures")).collect()
    });
    let sum = |q| each.iter().map(|r| 1e3 / at(r, q)).sum::<f64>();
    println!("{name:<44} {:>8.1} Mpps by {workers} workers (fastest tenth {:.1})", sum(0.5), sum(0.1));
}

/// Destinations within the prefixes, in random order.
fn within<F: Family>(prefixes: &[Prefix<F>], n: usize) -> Vec<F::Addr> {
    let mut rng = Rng(11);
    (0..n)
        .map(|_| {
            let p = prefixes[rng.below(prefixes.len() as u64) as usize];
            let span = p.last().number() - p.addr().number();
            let offset = (u128::from(rng.next()) << 64 | u128::from(rng.next())) % span.saturating_add(1);
            F::Addr::from_number(p.addr().number() + offset)
        })
        .collect()
}

/// The MAC of a station.
fn station(n: u64) -> Mac {
    let [.., a, b, c, d] = n.to_be_bytes();
    Mac([2, 9, a, b, c, d])
}

fn bridged(buf: &mut [u8; FRAME], dst: Mac, src: Mac) {
    buf[..6].copy_from_slice(&dst.0);
    buf[6..12].copy_from_slice(&src.0);
    buf[12..14].copy_from_slice(&[0x90, 0]);
}

/// Ports 0 and 1 untagged in VLAN 10, 2 tagged, 3 untagged in VLAN 20, with a router interface on each VLAN. Half of the stations are behind
/// port 0, the others behind 1, and one is behind each of 2 and 3.
fn bridges(stations: u64) -> SimChip {
    let mut c = chip();
    let (fid, bp) = (|vid: u16| FidId(vid.into()), |n: u32| BridgePortId(n));
    for vid in [10, 20] {
        let tag = Some(Tag { tpid: Tpid::Dot1q, vid });
        let e = FidEntry { tag, ageing: 300_000, unknown: true, broadcast: true, multicast: true };
        set(&mut c, Record::Fid(fid(vid), e));
    }
    for n in 0..PORTS {
        let untagged = [Some(10), Some(10), None, Some(20)][n as usize].map(fid);
        let e = BridgePortEntry {
            port: PortId(n),
            tpid: Some(Tpid::Dot1q),
            untagged,
            state: StpState::Forwarding,
            learning: true,
            control_learning: true,
            unknown: true,
            multicast: true,
            broadcast: true,
            isolated: false,
            hairpin: false,
            longest: 1514,
            ingress: true,
            egress: true,
        };
        set(&mut c, Record::BridgePort(bp(n), e));
        let vid = if n == 3 { 20 } else { 10 };
        let e = MemberEntry { tagged: n == 2, state: StpState::Forwarding };
        set(&mut c, Record::FidMember(MemberKey { fid: fid(vid), port: bp(n) }, e));
    }
    for n in 0..stations {
        let at = bp(u32::from(n >= stations / 2));
        set(&mut c, Record::Fdb(FdbKey { fid: fid(10), mac: station(n) }, at));
    }
    for (n, vid) in [(2, 10), (3, 20)] {
        set(&mut c, Record::Fdb(FdbKey { fid: fid(vid), mac: station(1 << 30 | n) }, bp(n as u32)));
    }
    let router = Mac([2, 0, 0, 0, 0, 0xb0]);
    for (n, vid) in [(50, 10), (51, 20)] {
        let rif = RifEntry {
            kind: RifKind::Fid(fid(vid)),
            vrf: VrfId(0),
            mac: router,
            mtu4: 1500,
            mtu6: 1500,
            ingress4: true,
            ingress6: true,
            egress: true,
            same4: false,
            urpf: Urpf::Off,
        };
        set(&mut c, Record::Rif(RifId(n), rif));
        set(&mut c, Record::FdbStatic(StaticKey(FdbKey { fid: fid(vid), mac: router }), FdbVerdict::Route(RifId(n))));
    }
    let (rif, addr) = (RifId(51), Ipv4Addr::new(10, 20, 0, 2));
    set(&mut c, Record::Neigh4(NeighKey { rif, addr }, NeighEntry { mac: station(1 << 30 | 3) }));
    set(&mut c, Record::Route4(RouteKey { vrf: VrfId(0), prefix: Prefix::host(addr) }, Fwd::Connected(rif)));
    c
}

/// What figures are asked for; empty: all.
fn filter() -> String {
    std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default()
}

fn main() {
    let filter = filter();
    let wanted = |name: &str| name.contains(&filter) || filter.starts_with(name);

    if wanted("ipv4") {
        let mut all = prefixes4(1_000_000);
        let op = |(i, p): (usize, &Prefix<V4>)| {
            let key = RouteKey { vrf: VrfId(0), prefix: *p };
            Op::Set(Record::Route4(key, Fwd::Group(GroupId(i as u32 % GROUPS))))
        };
        let sorted: Vec<Op> = all.iter().enumerate().map(op).collect();
        program("ipv4: insert 1 M routes, sorted", &mut chip(), &sorted);
        drop(sorted);
        shuffle(&mut all);
        let random: Vec<Op> = all.iter().enumerate().map(op).collect();
        let mut c = chip();
        program("ipv4: insert 1 M routes, random", &mut c, &random);
        program("ipv4: overwrite 1 M routes", &mut c, &random);
        let dsts = within(&all, 1 << 20);
        let mut pipe = c.pipeline();
        let (mut i, src) = (0, 0x0a09_0002);
        forward("ipv4: 1 M random destinations, 1 source", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            frame4(f, src, dsts[i].to_bits());
        });
        forward("ipv4: 1 M random destinations and sources", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            frame4(f, dsts[dsts.len() - 1 - i].to_bits(), dsts[i].to_bits());
        });
        forward("ipv4: one destination", &mut pipe, |f| frame4(f, src, dsts[0].to_bits()));
        forward("ipv4: 1 M random destinations, tagged", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            tagged4(f, src, dsts[i].to_bits());
        });
        let (rif, addr) = (RifId(PORTS + 1), Ipv4Addr::new(10, 9, 9, 9));
        set(&mut c, Record::Neigh4(NeighKey { rif, addr }, NeighEntry { mac: Mac([2, 1, 0, 0, 9, 9]) }));
        set(&mut c, Record::Route4(RouteKey { vrf: VrfId(0), prefix: Prefix::host(addr) }, Fwd::Connected(rif)));
        forward("ipv4: to a tagged neighbour", &mut pipe, |f| frame4(f, src, addr.to_bits()));
        forward("ipv4: tagged, to a tagged neighbour", &mut pipe, |f| tagged4(f, src, addr.to_bits()));
        together("ipv4: 1 M random destinations", &c, 2, |w| {
            let (dsts, mut i) = (&dsts, w * dsts.len() / 2);
            move |f| {
                i = (i + 1) % dsts.len();
                frame4(f, src, dsts[i].to_bits());
            }
        });
        let key = RouteKey { vrf: VrfId(0), prefix: "10.8.0.0/16".parse().expect("a prefix") };
        set(&mut c, Record::Route4(key, Fwd::Group(GroupId(GROUPS))));
        forward("ipv4: four members, by hash", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            frame4(f, src, 0x0a08_0000 | i as u32 & 0xffff);
        });
        let members = (0..4).map(|g| Member { nexthop: NextHopId(g), weight: 1 }).collect();
        let r = Resilient { buckets: 4096, idle: 120_000, unbalanced: 0, label: 0 };
        set(&mut c, Record::Group(GroupId(GROUPS), GroupEntry { members, mtu: 0, resilient: Some(r) }));
        forward("ipv4: four members, in 4096 buckets", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            frame4(f, src, 0x0a08_0000 | i as u32 & 0xffff);
        });
        let short = |len| {
            let key = RouteKey { vrf: VrfId(0), prefix: Prefix::new((1u32 << 29).into(), len) };
            Op::Set(Record::Route4(key, Fwd::Group(GroupId(0))))
        };
        let sets: Vec<Op> = (0..=16).map(short).collect();
        few("ipv4: insert 32.0.0.0/0 to /16", &mut c, &sets);
        few("ipv4: remove them", &mut c, &sets.iter().map(|o| Op::Remove(o.key())).collect::<Vec<_>>());
        let removes: Vec<Op> = random.iter().map(|o| Op::Remove(o.key())).collect();
        program("ipv4: remove 1 M routes, random", &mut c, &removes);
    }
    if wanted("bridge") {
        const STATIONS: u64 = 1 << 16;
        let c = bridges(STATIONS);
        let mut pipe = c.pipeline();
        let mut rng = Rng(12);
        let mut any = |first: u64| station(first + rng.below(STATIONS / 2));
        let (one, other) = (station(1), station(STATIONS - 1));
        forward("bridge: one destination", &mut pipe, |f| bridged(f, other, one));
        forward("bridge: 32 k destinations, 1 source", &mut pipe, |f| bridged(f, any(STATIONS / 2), one));
        forward("bridge: 32 k destinations, 32 k sources", &mut pipe, |f| bridged(f, any(STATIONS / 2), any(0)));
        forward("bridge: one destination, gets a tag", &mut pipe, |f| bridged(f, station(1 << 30 | 2), one));
        let router = Mac([2, 0, 0, 0, 0, 0xb0]);
        forward("bridge: routed from VLAN to VLAN", &mut pipe, |f| {
            frame4(f, 0x0a0a_0002, 0x0a14_0002);
            f[..6].copy_from_slice(&router.0);
            f[6..12].copy_from_slice(&one.0);
        });
    }
    if wanted("ipv6") {
        let mut all = prefixes6(250_000);
        let op = |(i, p): (usize, &Prefix<V6>)| {
            let key = RouteKey { vrf: VrfId(0), prefix: *p };
            Op::Set(Record::Route6(key, Fwd::Group(GroupId(i as u32 % GROUPS))))
        };
        let sorted: Vec<Op> = all.iter().enumerate().map(op).collect();
        program("ipv6: insert 250 k routes, sorted", &mut chip(), &sorted);
        shuffle(&mut all);
        let random: Vec<Op> = all.iter().enumerate().map(op).collect();
        let mut c = chip();
        program("ipv6: insert 250 k routes, random", &mut c, &random);
        let dsts: Vec<Ipv6Addr> = within(&all, 1 << 20);
        let mut pipe = c.pipeline();
        let mut i = 0;
        forward("ipv6: 250 k random destinations", &mut pipe, |f| {
            i = (i + 1) % dsts.len();
            frame6(f, dsts[i].to_bits());
        });
        forward("ipv6: one destination", &mut pipe, |f| frame6(f, dsts[0].to_bits()));
        let short = |len| {
            let key = RouteKey { vrf: VrfId(0), prefix: Prefix::new((1u128 << 125).into(), len) };
            Op::Set(Record::Route6(key, Fwd::Group(GroupId(0))))
        };
        let sets: Vec<Op> = (0..=16).map(short).collect();
        few("ipv6: insert 2000::/0 to /16", &mut c, &sets);
        few("ipv6: remove them", &mut c, &sets.iter().map(|o| Op::Remove(o.key())).collect::<Vec<_>>());
        let removes: Vec<Op> = random.iter().map(|o| Op::Remove(o.key())).collect();
        program("ipv6: remove 250 k routes, random", &mut c, &removes);
    }
}
