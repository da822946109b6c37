//! What happens to frames.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hal::{DropReason, TrapClass};
use sim_asic::netlink::Netlink;
use sim_asic::netns::NetNs;
use sim_asic::pool::Pool;
use sim_asic::wire::packet;
use sim_asic::wire::{Receive, Transmit};

use crate::world::{World, drops, ip, transfer, traps, until};

/// A promiscuous eye, and a hand, on a device of the calling thread's namespace.
pub type Socket = (packet::PacketRx, packet::PacketTx);

pub fn socket(ifname: &str) -> Socket {
    let l = Netlink::open().unwrap().link_by_name(ifname).unwrap().unwrap();
    packet::open(l.index).unwrap()
}

pub fn send(w: &mut Socket, frame: &[u8]) -> bool {
    let mut ok = false;
    w.1.send(&[frame], &mut |_, sent| ok = sent);
    ok
}

pub fn frames(w: &mut Socket) -> Vec<Vec<u8>> {
    let mut pool = Pool::new();
    w.0.recv(&mut pool);
    pool.frames().map(<[u8]>::to_vec).collect()
}

pub fn reach() {
    let mut w = World::new("reach", 2);
    w.start();
    w.address();
    for (to, first_hop) in [("10.0.2.2", "10.0.1.1"), ("2001:db8:2::2", "2001:db8:1::1")] {
        w.until_reaches(1, to);
        let (ok, out) = w.ping(1, &format!("-c 20 -i 0.01 -W 5 {to}"));
        assert!(ok && out.contains(" 0% packet loss"), "{out}");
        // As traceroute does: the kernel answers when the time is up.
        let (ok, out) = w.ping(1, &format!("-c 1 -W 5 -t 1 {to}"));
        assert!(!ok && out.contains(&format!("From {first_hop}")) && out.to_lowercase().contains("exceeded"), "{out}");
        let (ok, out) = w.ping(1, &format!("-c 1 -W 5 -s 1400 {first_hop}"));
        assert!(ok, "{out}");
        // PMTU: the kernel's own error, from a smaller egress.
        ip(&format!("-n {} link set swp2 mtu 1300", w.sw()));
        let (ok, out) = w.ping(1, &format!("-c 1 -W 5 -s 1400 -M do {to}"));
        assert!(!ok && out.contains("mtu") && out.contains("1300"), "{out}");
        ip(&format!("-n {} link set swp2 mtu 1500", w.sw()));
    }
    let c = w.agent().counters();
    assert!(traps(&c, TrapClass::NoRif) > 40, "everything goes to the kernel: {c:?}");
    assert_eq!(c.ports[0].1.forwarded.frames, 0);
    assert_eq!(drops(&c, DropReason::Policer) + drops(&c, DropReason::WireRx), 0, "{c:?}");
}

pub fn tcp() {
    let mut w = World::new("tcp", 2);
    w.start();
    w.address();
    let (h1, h2, sw) = (w.host(1), w.host(2), w.sw());
    let ns = |n: &str| NetNs::open(n).unwrap();
    for (to, us) in [("10.0.2.2", "10.0.1.1"), ("2001:db8:2::2", "2001:db8:1::1")] {
        w.until_reaches(1, to);
        let before = w.count(|c| c.ports[0].1.gso);
        transfer(&ns(&h1), &ns(&h2), to, 20 << 20);
        let after = w.count(|c| c.ports[0].1.gso);
        assert!(after > before, "with default offloads a host sends super-frames, else this tests nothing");
        transfer(&ns(&h1), &ns(&sw), us, 5 << 20);
    }
    transfer(&ns(&sw), &ns(&h1), "10.0.1.2", 5 << 20);
    let c = w.agent().counters();
    assert_eq!(
        drops(&c, DropReason::WireRx) + drops(&c, DropReason::Giant) + drops(&c, DropReason::Policer),
        0,
        "{c:?}"
    );
    // UDP arrives with a partial checksum over veth; a wrong one would not be delivered.
    let csum = c.ports[0].1.csum;
    let inbox = w.in_host(2, || UdpSocket::bind("10.0.2.2:6000").unwrap());
    inbox.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let out = w.in_host(1, || UdpSocket::bind("10.0.1.2:6000").unwrap());
    out.send_to(&[7; 333], "10.0.2.2:6000").unwrap();
    let mut buf = [0; 1000];
    assert_eq!(inbox.recv(&mut buf).unwrap(), 333);
    assert!(buf[..333].iter().all(|b| *b == 7));
    assert!(w.count(|c| c.ports[0].1.csum) > csum, "it came with a partial checksum");
}

pub fn udp_segments() {
    const UDP_SEGMENT: i32 = 103; // linux/udp.h
    let mut w = World::new("usegm", 2);
    w.start();
    w.address();
    for (here, there) in [("10.0.1.2", "10.0.2.2"), ("2001:db8:1::2", "2001:db8:2::2")] {
        w.until_reaches(1, there);
        let inbox = w.in_host(2, || UdpSocket::bind((there, 6000)).unwrap());
        inbox.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let out = w.in_host(1, || UdpSocket::bind((here, 6000)).unwrap());
        let size: i32 = 1000;
        // SAFETY: `size` lives through the call.
        let r = unsafe { libc::setsockopt(out.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, (&raw const size).cast(), 4) };
        assert_eq!(r, 0);
        let before = w.count(|c| c.ports[0].1.gso);
        let data: Vec<u8> = (0..9500_u32).map(|i| (i / 7) as u8).collect();
        assert_eq!(out.send_to(&data, (there, 6000)).unwrap(), 9500);
        let mut buf = [0; 2000];
        for part in data.chunks(1000) {
            let n = inbox.recv(&mut buf).unwrap();
            assert_eq!(buf[..n], *part);
        }
        assert_eq!(w.count(|c| c.ports[0].1.gso), before + 1, "it came as one super-frame");
    }
}

pub fn needs_vxlan() -> Result<(), String> {
    let made = crate::world::run("ip", &["link", "add", "vx-try", "type", "vxlan", "id", "1", "dstport", "4789"]);
    crate::world::run("ip", &["link", "del", "vx-try"]);
    if made.status.success() { Ok(()) } else { Err("this kernel makes no vxlan devices".into()) }
}

pub fn tunnels() {
    let mut w = World::new("tunnel", 2);
    w.start();
    w.address();
    let ns = |i| NetNs::open(&w.host(i)).unwrap();
    let outer = [
        ("10.0.1.2", "10.0.2.2", "noudpcsum"),
        ("10.0.1.2", "10.0.2.2", "udpcsum"),
        ("2001:db8:1::2", "2001:db8:2::2", "udpcsum"),
    ];
    for (one, two, sum) in outer {
        w.until_reaches(1, two);
        for (i, local, remote) in [(1, one, two), (2, two, one)] {
            let h = w.host(i);
            ip(&format!("-n {h} link add vx type vxlan id 1 dstport 4789 local {local} remote {remote} {sum}"));
            ip(&format!("-n {h} addr add 172.16.0.{i}/24 dev vx"));
            ip(&format!("-n {h} addr add 2001:db8:ff::{i}/64 dev vx"));
            ip(&format!("-n {h} link set vx up"));
        }
        for inner in ["172.16.0.2", "2001:db8:ff::2"] {
            w.until_reaches(1, inner);
            let before = w.count(|c| c.ports[0].1.gso);
            transfer(&ns(1), &ns(2), inner, 3 << 20);
            let after = w.count(|c| c.ports[0].1.gso);
            assert!(
                after > before,
                "with default offloads a host sends super-frames in the tunnel, else this tests nothing"
            );
        }
        for i in [1, 2] {
            ip(&format!("-n {} link del vx", w.host(i)));
        }
    }
    let c = w.agent().counters();
    assert_eq!(drops(&c, DropReason::WireRx) + drops(&c, DropReason::Giant), 0, "{c:?}");
}

/// `IFLA_GSO_IPV4_MAX_SIZE` came with Linux 6.3.
pub fn needs_big_tcp() -> Result<(), String> {
    since((6, 3), "this kernel makes no IPv4 super-frames of more than 64 KiB")
}

/// Before Linux 6.2 a packet socket can't describe UDP super-frames, and drops them.
pub fn needs_udp_segments() -> Result<(), String> {
    since((6, 2), "packet sockets of this kernel do not take UDP super-frames")
}

fn since(version: (u32, u32), else_why: &str) -> Result<(), String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let this = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if this >= version { Ok(()) } else { Err(else_why.into()) }
}

pub fn big_tcp() {
    const IFLA_GSO_MAX_SIZE: u16 = 41;
    const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
    let mut w = World::new("bigtcp", 2);
    w.start();
    w.address();
    w.in_host(1, || {
        let mut nl = Netlink::open().unwrap();
        let eth0 = nl.link_by_name("eth0").unwrap().unwrap().index;
        nl.set(eth0, |r| r.attr32(IFLA_GSO_MAX_SIZE, 250_000).attr32(IFLA_GSO_IPV4_MAX_SIZE, 250_000)).unwrap();
    });
    let ns = |i| NetNs::open(&w.host(i)).unwrap();
    for to in ["10.0.2.2", "2001:db8:2::2"] {
        w.until_reaches(1, to);
        // Until one was seen that no header can say the length of: fewer super-frames than 64 KiB pieces.
        until("super-frames of more than 64 KiB", || {
            let before = w.agent().counters().ports[0].1;
            transfer(&ns(1), &ns(2), to, 8 << 20);
            let after = w.agent().counters().ports[0].1;
            (after.gso - before.gso < (8 << 20) / 65_536).then_some(())
        });
    }
    let c = w.agent().counters();
    assert_eq!(drops(&c, DropReason::WireRx) + drops(&c, DropReason::Giant), 0, "{c:?}");
}

/// An experimental Ethernet type (IEEE 802, 0x88b5) behind these tags.
fn tagged(tags: &[[u8; 4]]) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend([2, 0, 0, 0, 0, 7]);
    tags.iter().for_each(|t| f.extend(t));
    f.extend([0x88, 0xb5]);
    f.extend(0..60);
    f
}

pub fn tags() {
    let mut w = World::new("tags", 1);
    w.start();
    w.address();
    w.until_reaches(1, "10.0.1.1");
    let mut eye = w.in_sw(|| socket("swp1"));
    let mut hand = w.in_host(1, || socket("eth0"));
    for tags in [&[][..], &[[0x81, 0, 0x60, 7]], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 8]], &[[0x81, 0, 0, 0]]] {
        let f = tagged(tags);
        assert!(send(&mut hand, &f));
        until("the frame on swp1, tags and all", || frames(&mut eye).contains(&f).then_some(()));
    }
    // And the other way: what the kernel sends by the netdev leaves by the wire as it is.
    let mut eye = w.in_host(1, || socket("eth0"));
    let mut hand = w.in_sw(|| socket("swp1"));
    let f = tagged(&[[0x81, 0, 0x60, 7]]);
    assert!(send(&mut hand, &f));
    until("the frame at the host, tag and all", || frames(&mut eye).contains(&f).then_some(()));
}

pub fn silence() {
    let mut w = World::new("quiet", 1);
    // Only what the chip or its namespace says is to be heard, so the switch's and the host's kernels say nothing of themselves.
    for ns in [w.sw(), w.host(1)] {
        let off = || {
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
            }
        };
        NetNs::open(&ns).unwrap().run(off).unwrap();
    }
    w.start();
    let mut eye = w.in_host(1, || socket("eth0"));
    let mut hand = w.in_host(1, || socket("eth0"));
    ip(&format!("-n {} link set eth0 up", w.host(1)));
    ip(&format!("-n {} link set swp1 up", w.sw()));
    let tap = w.until_tap("has carrier", "swp1", |l| l.carrier);
    // What a stack would answer: ARP for any address, a ping and a closed port at the wire's own MAC, ND to all nodes.
    let mac = tap.mac.unwrap().0;
    let mut arp =
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 9, 9, 9]].concat();
    arp.extend([0, 0, 0, 0, 0, 0, 10, 9, 9, 1]);
    let mut echo = [&mac[..], &[2, 0, 0, 0, 0, 7, 8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0x58, 0xcc]].concat();
    echo.extend([10, 9, 9, 9, 10, 9, 9, 1, 8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let mut mld = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 1];
    mld.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    mld.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 128, 0, 0, 0, 0, 1, 0, 1]);
    // Whatever answers does so at once, before the frame is through: so a marker sent behind, from the switch's kernel by
    // the same wire, comes behind any answer.
    let mut other = w.in_sw(|| socket("swp1"));
    let mut heard = Vec::new();
    for round in 0..10_u8 {
        for f in [&arp, &echo, &mld] {
            assert!(send(&mut hand, f));
        }
        until("all that was sent in the chip's counters", || {
            let c = w.agent().counters();
            let sent = u64::from(round) + 1;
            (traps(&c, TrapClass::Arp) >= sent && traps(&c, TrapClass::NoRif) >= 2 * sent).then_some(())
        });
        let mut marker = tagged(&[]);
        marker.push(round);
        assert!(send(&mut other, &marker));
        until("the marker at the far end", || {
            heard.extend(frames(&mut eye));
            let seen = heard.iter().position(|f| *f == marker);
            seen.map(|at| heard.remove(at))
        });
    }
    assert!(heard.is_empty(), "an idle wire emitted {heard:02x?}");
    // Nor will it speak later of itself (DAD, MLD): there is no IPv6 there to do so.
    let addresses = w.in_asic(|| fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default());
    assert_eq!(addresses, "");
}

pub fn policer() {
    let mut w = World::new("police", 1);
    let config = format!("/run/{}.toml", w.tag);
    fs::write(&config, "[chip.policer]\nno-rif = { rate = 1, burst = 5 }\n[agent]\nsocket = '/run/else.sock'\n")
        .unwrap();
    w.start_with(&["--config", &config]);
    ip(&format!("-n {} link set eth0 up", w.host(1)));
    ip(&format!("-n {} link set swp1 up", w.sw()));
    w.until_tap("has carrier", "swp1", |l| l.carrier);
    let mut hand = w.in_host(1, || socket("eth0"));
    let f = tagged(&[]);
    let begin = Instant::now();
    (0..100).for_each(|_| assert!(send(&mut hand, &f)));
    let (through, lost, c) = until("all frames in the counters", || {
        let c = w.agent().counters();
        let lost = c.trap_drops.iter().find(|t| t.0 == TrapClass::NoRif).unwrap().1.frames;
        let through = traps(&c, TrapClass::NoRif);
        (through + lost >= 100).then_some((through, lost, c))
    });
    assert!(through <= 5 + begin.elapsed().as_secs() + 1, "{through} got through a policer of 1/s with a burst of 5");
    assert_eq!(drops(&c, DropReason::Policer), lost, "{c:?}");
}

pub fn sizes() {
    let mut w = World::new("sizes", 1);
    let profile = "/run/sizes.toml";
    fs::write(profile, include_str!("../../../packaging/profiles/small.toml").replace("9234", "1518")).unwrap();
    w.start_with(&["--profile", profile]);
    ip(&format!("-n {} link set eth0 mtu 3000 up", w.host(1)));
    ip(&format!("-n {} link set swp1 mtu 3000 up", w.sw()));
    w.until_tap("has carrier", "swp1", |l| l.carrier);
    let mut hand = w.in_host(1, || socket("eth0"));
    let mut f = tagged(&[]);
    f.resize(1518, 1);
    assert!(send(&mut hand, &f));
    f.push(1);
    assert!(send(&mut hand, &f));
    until("the giant in the counters", || {
        let c = w.agent().counters();
        (drops(&c, DropReason::Giant) == 1 && traps(&c, TrapClass::NoRif) >= 1).then_some(())
    });
}
