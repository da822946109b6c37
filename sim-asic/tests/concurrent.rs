//! Tables that change under workers that read them: no verdict is torn, and none is older than the last grace period.
//!
//! Real threads and the real pipeline, in memory; every interleaving of the primitives beneath is `sync.rs`'s, under loom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hal::*;
use sim_asic::{Packet, SimChip, with_room};

const PORTS: u32 = 4;
const WORKERS: usize = 3;
/// Changes that the writer makes at least: it goes on until each worker has seen enough.
const CHANGES: u32 = 1_000;
/// Generations that each worker has to see while the writer writes, whatever the scheduler's mind.
const SEEN: u32 = 16;
/// Destinations, each with a host route that comes and goes under a shorter one.
const HOSTS: u32 = 8;

fn apply(c: &mut SimChip, op: Op) {
    if let Err(why) = c.apply(&op) {
        panic!("{op}: {why}");
    }
}

fn set(c: &mut SimChip, r: impl Into<Record>) {
    apply(c, Op::Set(r.into()));
}

fn chip() -> SimChip {
    let profile = Profile {
        name: "test".into(),
        fids: 16,
        bridge_ports: 16,
        fdb: 64,
        rifs: 8,
        neigh4: 16,
        neigh6: 16,
        nexthops: 16,
        groups: 16,
        group_members: 8,
        buckets: 256,
        routes4: 64,
        routes6: 64,
        vrfs: 1,
        rules: 8,
        frame: 1518,
    };
    let mut c = SimChip::with_seed(profile, PORTS as usize, 7);
    for n in 0..PORTS {
        let mac = Mac([2, 0, 0, 0, 0, n as u8]);
        let (name, wire, netns) = (format!("swp{n}"), "none".into(), 1);
        let entry =
            PortEntry { name, ifindex: n + 1, netns, mac, mtu: 1500, admin: true, link: true, wire, fault: None };
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
        set(&mut c, Record::Rif(RifId(n), rif));
    }
    c
}

/// The MAC of a generation on a port: each of the two says the other, so that a mixture of two writes shows.
fn mac(generation: u32, port: u32) -> Mac {
    let [a, b, c, d] = generation.to_be_bytes();
    Mac([4 * port as u8, a ^ b ^ c ^ d ^ port as u8, a, b, c, d])
}

/// The generation that a MAC says, if it is whole and the frame leaves by the port that it is of.
fn generation(m: &[u8], port: u32) -> u32 {
    let g = u32::from_be_bytes([m[2], m[3], m[4], m[5]]);
    assert_eq!(*m, mac(g, port).0, "torn, or by another port's adjacency");
    g
}

const SHORT4: &str = "10.0.0.0/8";
const SHORT6: &str = "2001:db8::/32";

fn host4(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a01_0203 | n << 16)
}

fn host6(n: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0db8_0001_0203_0405_0607_0809_0a0b | u128::from(n) << 70)
}

fn frame(n: u32, v6: bool) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 0, 2, 9, 9, 9, 9, 9];
    if v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, 17, 64]);
        f.extend(Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 2).octets());
        f.extend(host6(n).octets());
    } else {
        f.extend([8, 0, 0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9]);
        f.extend(host4(n).octets());
        let s: u32 = f[14..34].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        let s = (s & 0xffff) + (s >> 16);
        let s = !((s & 0xffff) + (s >> 16)) as u16;
        f[24..26].copy_from_slice(&s.to_be_bytes());
    }
    f.extend([7; 10]);
    f
}

/// Everything points at what is of this generation: neighbours are overwritten, members change places, host routes come,
/// change between group and another group, and go.
fn change(c: &mut SimChip, g: u32) {
    for p in 1..PORTS {
        let rif = RifId(p);
        let addr = Ipv4Addr::new(10, 255, 0, p as u8);
        let addr6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, p as u16);
        set(c, Record::Neigh4(NeighKey { rif, addr }, NeighEntry { mac: mac(g, p) }));
        set(c, Record::Neigh6(NeighKey { rif, addr: addr6 }, NeighEntry { mac: mac(g, p) }));
        if g == 1 {
            set(c, Record::NextHop(NextHopId(p), NextHopEntry::Ip(rif, IpAddr::V4(addr))));
            set(c, Record::NextHop(NextHopId(PORTS + p), NextHopEntry::Ip(rif, IpAddr::V6(addr6))));
        }
    }
    for base in [0, PORTS] {
        let member = |p: u32| Member { nexthop: NextHopId(base + 1 + (p + g) % (PORTS - 1)), weight: 1 };
        // One member, or several, by hash or in more or fewer buckets: the forms of a group take turns.
        let members = (0..1 + g % 3).map(member).collect();
        let r = Resilient { buckets: 1 + (g / 12 % 4 * 9) as u16, idle: 0, unbalanced: 0, label: 0 };
        let resilient = (!(g / 4).is_multiple_of(3)).then_some(r);
        set(c, Record::Group(GroupId(base), GroupEntry { members, mtu: 0, resilient }));
        set(
            c,
            Record::Group(
                GroupId(base + 1),
                GroupEntry { members: [member(1)].into_iter().collect(), ..GroupEntry::default() },
            ),
        );
    }
    let vrf = VrfId(0);
    if g == 1 {
        set(c, Record::Route4(RouteKey { vrf, prefix: SHORT4.parse().unwrap() }, Fwd::Group(GroupId(0))));
        set(c, Record::Route6(RouteKey { vrf, prefix: SHORT6.parse().unwrap() }, Fwd::Group(GroupId(PORTS))));
    }
    let n = g % HOSTS;
    let (key4, key6) = (
        RouteKey::<V4> { vrf, prefix: Prefix::host(host4(n)) },
        RouteKey::<V6> { vrf, prefix: Prefix::host(host6(n)) },
    );
    match g / HOSTS % 3 {
        0 => {
            set(c, Record::Route4(key4, Fwd::Group(GroupId(1))));
            set(c, Record::Route6(key6, Fwd::Group(GroupId(PORTS + 1))));
        }
        1 => {
            set(c, Record::Route4(key4, Fwd::Group(GroupId(0))));
            set(c, Record::Route6(key6, Fwd::Group(GroupId(PORTS))));
        }
        _ => {
            apply(c, Op::Remove(key4.into()));
            apply(c, Op::Remove(key6.into()));
        }
    }
}

#[test]
fn no_torn_or_stale_verdict() {
    let mut c = chip();
    change(&mut c, 1);
    let in_force = AtomicU32::new(1);
    let done = AtomicBool::new(false);
    let pipelines: Vec<_> = (0..WORKERS).map(|_| (c.pipeline(), c.turns().reader())).collect();
    // How often a worker's frames were of a newer generation than the batch before.
    let seen: Vec<_> = (0..WORKERS).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|s| {
        let workers: Vec<_> = pipelines
            .into_iter()
            .zip(&seen)
            .map(|((mut pipe, reader), seen)| {
                let (in_force, done) = (&in_force, &done);
                s.spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::SeqCst) {
                        let frames = (0..4 * HOSTS).map(|n| frame(n % HOSTS, n / HOSTS % 2 == 1));
                        let mut frames: Vec<_> = frames.map(|f| with_room(&f)).collect();
                        let turn = reader.pin();
                        let floor = in_force.load(Ordering::SeqCst);
                        let mut batch: Vec<Packet> = frames.iter_mut().map(|f| Packet::new(PortId(0), f)).collect();
                        pipe.run(&mut batch);
                        // What is in force while a turn lasts has begun after it, or just before: the writer waits.
                        let ceiling = in_force.load(Ordering::SeqCst) + 1;
                        drop(turn);
                        let mut newest = 0;
                        for p in &batch {
                            let Some((port, f)) = p.sent() else { panic!("{:?}: there is always a route", p.verdict) };
                            let g = generation(&f[..6], port.0);
                            assert!((floor..=ceiling).contains(&g), "generation {g}, in force {floor} to {ceiling}");
                            newest = newest.max(g);
                        }
                        if newest > last {
                            last = newest;
                            seen.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let enough = || seen.iter().all(|n| n.load(Ordering::SeqCst) >= SEEN);
        // A worker ends before it is told to only by a failed assertion, which the scope reports.
        let failed = || workers.iter().any(|w| w.is_finished());
        let mut g = 1;
        while (g < CHANGES || !enough()) && !failed() {
            g += 1;
            change(&mut c, g);
            c.grace();
            in_force.store(g, Ordering::SeqCst);
            if g % 16 == 0 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}
