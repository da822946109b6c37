//! Several workers: each reads its ports, all send everywhere, in order, by the kernel and by the chip.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use hal::{
    DropReason, Fwd, Mac, NeighEntry, NeighKey, Op, Prefix, Record, RifEntry, RifId, RifKind, RouteKey, Urpf, V4, V6,
    VrfId,
};
use sim_asic::netlink::Netlink;
use sim_asic::netns::NetNs;

use crate::frames::{Socket, frames, send, socket};
use crate::world::{Agent, World, drops, ip, run, transfer, until};

/// Until so many of the chip's threads have a worker's name, which a thread gives itself; and no more.
fn until_workers(w: &World, n: usize) {
    let names = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", w.pid())).unwrap();
        let names = tasks.filter_map(|t| fs::read_to_string(t.ok()?.path().join("comm")).ok());
        names.map(|n| n.trim().to_owned()).filter(|n| n.starts_with("worker-")).collect::<BTreeSet<_>>()
    };
    let want = (0..n).map(|i| format!("worker-{i}")).collect();
    until("the workers' names", || (names() == want).then_some(()));
}

fn host_mac(w: &World, i: usize) -> Mac {
    w.in_host(i, || Netlink::open().unwrap().link_by_name("eth0").unwrap().unwrap().mac.unwrap())
}

/// As an agent would for the lab's addresses.
fn program(w: &World, a: &mut Agent) {
    let vrf = VrfId(0);
    let mut ops = Vec::new();
    for i in 1..=w.ports {
        let (id, port) = a.ports.iter().find(|p| p.1.name == format!("swp{i}")).unwrap();
        let (rif, mac) = (RifId(port.ifindex), host_mac(w, i));
        let (kind, on) = (RifKind::port(*id), true);
        let (ingress4, ingress6, egress, urpf) = (on, on, on, Urpf::Off);
        let entry = RifEntry {
            kind,
            vrf,
            mac: port.mac,
            mtu4: 1500,
            mtu6: 1500,
            ingress4,
            ingress6,
            egress,
            same4: false,
            urpf,
        };
        let (net4, net6) = (Ipv4Addr::new(10, 0, i as u8, 0), Ipv6Addr::new(0x2001, 0xdb8, i as u16, 0, 0, 0, 0, 0));
        let host4 = Ipv4Addr::from_bits(net4.to_bits() | 2);
        let host6 = Ipv6Addr::from_bits(net6.to_bits() | 2);
        let trap = Fwd::Trap(hal::TrapClass::ToUs);
        ops.extend(
            [
                Record::Rif(rif, entry),
                Record::Neigh4(NeighKey { rif, addr: host4 }, NeighEntry { mac }),
                Record::Neigh6(NeighKey { rif, addr: host6 }, NeighEntry { mac }),
                Record::Route4(RouteKey::<V4> { vrf, prefix: Prefix::new(net4, 24) }, Fwd::Connected(rif)),
                Record::Route6(RouteKey::<V6> { vrf, prefix: Prefix::new(net6, 64) }, Fwd::Connected(rif)),
                Record::Route4(
                    RouteKey::<V4> { vrf, prefix: Prefix::host(Ipv4Addr::from_bits(net4.to_bits() | 1)) },
                    trap,
                ),
            ]
            .map(Op::Set),
        );
    }
    a.apply(ops);
}

/// An IPv4 packet from host 1 to host `to` that says its number.
fn numbered(w: &World, to: u8, n: u32) -> Vec<u8> {
    let mac = w.tap("swp1").unwrap().mac.unwrap();
    let mut f = [&mac.0[..], &host_mac(w, 1).0, &[8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 253, 0, 0]].concat();
    f.extend([10, 0, 1, 2, 10, 0, to, 2]);
    let s: u32 = f[14..34].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let s = (s & 0xffff) + (s >> 16);
    f[24..26].copy_from_slice(&(!s as u16).to_be_bytes());
    f.extend(n.to_be_bytes());
    f.extend([0; 14]);
    f
}

fn numbers(eye: &mut Socket) -> Vec<u32> {
    let ours = |f: &Vec<u8>| f.len() >= 46 && f[12..14] == [8, 0] && f[23] == 253;
    frames(eye).iter().filter(|f| ours(f)).map(|f| u32::from_be_bytes([f[34], f[35], f[36], f[37]])).collect()
}

/// Numbered frames from host 1 arrive at host `to`, all of them, in their order.
fn in_order(w: &World, to: u8) {
    let mut eye = w.in_host(usize::from(to), || socket("eth0"));
    let mut hand = w.in_host(1, || socket("eth0"));
    let template = numbered(w, to, 0);
    let mut next = 0_u32;
    for _ in 0..40 {
        let first = next;
        for _ in 0..50 {
            let mut f = template.clone();
            f[34..38].copy_from_slice(&next.to_be_bytes());
            assert!(send(&mut hand, &f));
            next += 1;
        }
        let mut got = Vec::new();
        until("fifty frames", || {
            got.extend(numbers(&mut eye));
            (got.len() >= 50).then_some(())
        });
        assert_eq!(got, (first..next).collect::<Vec<_>>());
    }
}

pub fn across() {
    let mut w = World::new("cross", 3);
    w.start_with(&["--workers", "2"]);
    w.address();
    until_workers(&w, 2);
    let log = w.log();
    for (port, worker) in [("swp1 ", "worker-0"), ("swp2 ", "worker-1"), ("swp3 ", "worker-0")] {
        assert!(log.lines().any(|l| l.contains(&format!("port {port}")) && l.contains(worker)), "{log}");
    }
    let ns = |i| NetNs::open(&w.host(i)).unwrap();
    // By the kernel: frames come in at one worker, and what the kernel makes of them goes out by the other.
    for to in ["10.0.2.2", "10.0.3.2", "2001:db8:2::2"] {
        w.until_reaches(1, to);
    }
    in_order(&w, 2);
    transfer(&ns(1), &ns(2), "10.0.2.2", 3 << 20);
    // By the chip: to a wire of the other worker, and of the same.
    let mut a = w.agent();
    program(&w, &mut a);
    let before = a.counters();
    in_order(&w, 2);
    in_order(&w, 3);
    for (from, to, addr) in [(1, 2, "10.0.2.2"), (2, 3, "10.0.3.2"), (3, 1, "2001:db8:1::2"), (1, 3, "10.0.3.2")] {
        w.until_reaches(from, addr);
        transfer(&ns(from), &ns(to), addr, 5 << 20);
    }
    // At once, both ways.
    std::thread::scope(|s| {
        s.spawn(|| transfer(&ns(1), &ns(2), "10.0.2.2", 5 << 20));
        s.spawn(|| transfer(&ns(2), &ns(1), "10.0.1.2", 5 << 20));
    });
    let c = a.counters();
    for (i, ((_, now), (_, then))) in c.ports.iter().zip(&before.ports).enumerate() {
        let (forwarded, trapped) =
            (now.forwarded.frames - then.forwarded.frames, now.trapped.frames - then.trapped.frames);
        assert!(forwarded > 2_000 && trapped < 100, "port {i}: {forwarded} in the chip, {trapped} by the kernel");
    }
    for why in [DropReason::Policer, DropReason::TrapQueue, DropReason::WireRx, DropReason::HostIf] {
        assert_eq!(drops(&c, why), 0, "{why:?}: {c:?}");
    }
    // A port that goes takes no other along, whoever serves it.
    ip(&format!("-n {} link set swp2 down", w.sw()));
    a.until_port(1, |e| !e.link);
    transfer(&ns(1), &ns(3), "10.0.3.2", 2 << 20);
    ip(&format!("-n {} link set swp2 up", w.sw()));
    a.until_port(1, |e| e.link);
    w.until_reaches(1, "10.0.2.2");
}

pub fn restart() {
    let mut w = World::new("wagain", 3);
    for n in ["3", "1", "2"] {
        w.start_with(&["--workers", n]);
        until_workers(&w, n.parse().unwrap());
        if n == "3" {
            w.address();
        }
        for to in ["10.0.2.2", "2001:db8:3::2"] {
            w.until_reaches(1, to);
        }
        w.kill();
    }
    w.start_with(&["--workers", "3"]);
    assert!(w.stop(), "{}", w.log());
    let args = [format!("--netns={}", w.asic()), format!("--host-netns={}", w.sw()), "--release".into()];
    let o = w.asic_once(&args);
    assert!(o.status.success(), "{o:?}");
    for i in 1..=3 {
        let links = run("ip", &["-n", &w.sw(), "link", "show", &w.wire(i)]);
        assert!(links.status.success(), "wire {i} is back");
        assert_eq!(w.tap(&format!("swp{i}")), None);
    }
}
