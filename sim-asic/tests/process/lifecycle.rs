//! What happens to ports, to the process, and to those who talk to it.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use hal::bus::Conn;
use hal::{DropReason, FromChip, PortFault, TableId, ToChip};
use sim_asic::netlink::Netlink;
use sim_asic::netns::NetNs;
use sim_asic::wire::mtu::TAGS;

use crate::world::{Agent, World, answer, drops, ip, run, transfer, until};

pub fn mirror() {
    let mut w = World::new("mirror", 2);
    // A third one whose wire's other end is beside it.
    ip(&format!("-n {} link add near type veth peer name beside", w.sw()));
    w.start_with(&["--port", &format!("swp3=packet:near@{}", w.sw())]);
    let mut a = w.agent();
    assert_eq!(a.ports.len(), 3);
    let e = a.port(0).clone();
    assert_eq!((e.name.as_str(), e.admin, e.link, e.fault), ("swp1", false, false, None));
    let mac = w.in_asic(|| Netlink::open().unwrap().link_by_name("mirrorw1").unwrap().unwrap().mac);
    let tap = w.tap("swp1").unwrap();
    assert_eq!((tap.mac, Some(e.mac), tap.index, tap.mtu), (mac, mac, e.ifindex, 1500));
    assert_eq!(e.netns, NetNs::open(&w.sw()).unwrap().inode());

    // Wire's carrier → TAP's, both ways; the agent is told.
    ip(&format!("-n {} link set swp1 up", w.sw()));
    a.until_port(0, |e| e.admin && !e.link);
    ip(&format!("-n {} link set eth0 up", w.host(1)));
    a.until_port(0, |e| e.link);
    w.until_tap("has carrier", "swp1", |l| l.carrier);
    ip(&format!("-n {} link set eth0 down", w.host(1)));
    a.until_port(0, |e| !e.link);
    w.until_tap("has no carrier", "swp1", |l| !l.carrier);
    ip(&format!("-n {} link set eth0 up", w.host(1)));
    w.until_tap("has carrier again", "swp1", |l| l.carrier);
    a.until_port(0, |e| e.link);

    // A flap is not lost, however short: the kernel sees that carrier was gone.
    let downs = w.tap("swp1").unwrap().carrier_downs;
    w.in_host(1, || {
        let mut nl = Netlink::open().unwrap();
        let eth0 = nl.link_by_name("eth0").unwrap().unwrap().index;
        nl.set_up(eth0, false).unwrap();
        nl.set_up(eth0, true).unwrap();
    });
    w.until_tap("saw the flap", "swp1", |l| l.carrier && l.carrier_downs > downs);
    a.until_port(0, |e| !e.link);
    a.until_port(0, |e| e.link);

    // Admin-down of the TAP → the far end loses carrier.
    let far = |on: bool| {
        until(&format!("the far end's carrier is {on}"), || {
            let l = w.in_host(1, || Netlink::open().unwrap().link_by_name("eth0").unwrap().unwrap());
            (l.carrier == on).then_some(())
        });
    };
    ip(&format!("-n {} link set swp1 down", w.sw()));
    far(false);
    a.until_port(0, |e| !e.admin && !e.link);
    ip(&format!("-n {} link set swp1 up", w.sw()));
    far(true);
    a.until_port(0, |e| e.admin && e.link);

    // MTU → the wire, with room for tags. A renamed TAP is the same port. Its MAC is the netdev's.
    let wire_mtu = || w.in_asic(|| Netlink::open().unwrap().link_by_name("mirrorw1").unwrap().unwrap().mtu);
    for mtu in [1400, 9000, 1500] {
        ip(&format!("-n {} link set swp1 mtu {mtu}", w.sw()));
        until("the wire's mtu", || (wire_mtu() == mtu + TAGS).then_some(()));
        a.until_port(0, |e| e.mtu == mtu && e.fault.is_none());
    }
    rename(&w, "swp1", "uplink");
    ip(&format!("-n {} link set uplink mtu 1450 address 02:00:00:00:00:99", w.sw()));
    until("the wire's mtu", || (wire_mtu() == 1450 + TAGS).then_some(()));
    let e = a.until_port(0, |e| e.mtu == 1450 && e.mac.to_string() == "02:00:00:00:00:99" && e.link);
    assert_eq!((e.name.as_str(), e.ifindex, e.link), ("swp1", tap.index, true));
    assert_eq!(a.port(1).fault, None);

    // A wire that goes.
    ip(&format!("-n {} link del eth0", w.host(2)));
    a.until_port(1, |e| e.fault == Some(PortFault::WireGone) && !e.link);
}

pub fn needs_macvlan() -> Result<(), String> {
    let o = run("ip", &["link", "add", "veth-mv", "type", "veth", "peer", "name", "veth-mw"]);
    assert!(o.status.success());
    let o = run("ip", &["link", "add", "link", "veth-mv", "name", "mv-try", "type", "macvlan", "mode", "passthru"]);
    run("ip", &["link", "del", "veth-mv"]);
    if o.status.success() { Ok(()) } else { Err("this kernel makes no macvlan devices".into()) }
}

pub fn refused_mtu() {
    let mut w = World::new("rmtu", 1);
    // A macvlan takes no MTU above its lower device's.
    let sw = w.sw();
    ip(&format!("-n {sw} link add lower type veth peer name far"));
    ip(&format!("-n {sw} link set far up"));
    ip(&format!("-n {sw} link set lower up"));
    ip(&format!("-n {sw} link add link lower name mv1 type macvlan mode passthru"));
    w.start_with(&["--port", &format!("swp9=packet:mv1@{sw}")]);
    let mut a = w.agent();
    ip(&format!("-n {sw} link set swp9 up"));
    a.until_port(1, |e| e.link && e.mtu == 1500);
    ip(&format!("-n {sw} link set swp9 mtu 4000"));
    let e = a.until_port(1, |e| e.fault == Some(PortFault::WireMtu));
    assert_eq!((e.mtu, e.link), (1500, true), "the link stands at the wire's own MTU");
    assert!(w.log().contains("refuses mtu 4000"), "{}", w.log());
    ip(&format!("-n {sw} link set swp9 mtu 1400"));
    a.until_port(1, |e| e.fault.is_none() && e.mtu == 1400);
}

pub fn moved_and_deleted() {
    let mut w = World::new("moved", 2);
    w.start();
    w.address();
    w.until_reaches(1, "10.0.2.2");
    let mut a = w.agent();
    let index = w.tap("swp1").unwrap().index;
    let other = format!("{}-other", w.tag);
    ip(&format!("netns add {other}"));
    let inode = NetNs::open(&other).unwrap().inode();

    // Moved: nothing crosses any more, it is counted, the wire goes dark, the agent knows where it is.
    ip(&format!("-n {} link set swp1 netns {other}", w.sw()));
    let e = a.until_port(0, |e| e.fault == Some(PortFault::HostIfMoved));
    assert_eq!((e.link, e.admin, e.ifindex, e.netns), (false, false, 0, inode));
    until("the far end is dark", || {
        let l = w.in_host(1, || Netlink::open().unwrap().link_by_name("eth0").unwrap().unwrap());
        (!l.carrier).then_some(())
    });
    ip(&format!("-n {other} link set swp1 up"));
    let l =
        NetNs::open(&other).unwrap().run(|| Netlink::open().unwrap().link_by_name("swp1").unwrap().unwrap()).unwrap();
    assert!(l.up() && !l.carrier, "{l:?}");

    // A restart finds it there and makes no second one.
    w.kill();
    w.start();
    let mut a = w.agent();
    assert_eq!((a.port(0).fault, a.port(0).netns), (Some(PortFault::HostIfMoved), inode));
    assert_eq!(w.tap("swp1"), None);
    assert_eq!(a.port(1).fault, None);

    // Back: in order again, with whatever it has lost on the way given to it anew.
    ip(&format!("-n {other} link set swp1 netns {}", w.sw()));
    a.until_port(0, |e| e.fault.is_none() && e.ifindex != 0);
    ip(&format!("-n {} addr add 10.0.1.1/24 dev swp1", w.sw()));
    ip(&format!("-n {} link set swp1 up", w.sw()));
    w.until_reaches(1, "10.0.2.2");
    assert_eq!(w.tap("swp1").unwrap().index, index);

    // Deleted: the same, and what still comes is counted; a restart makes a new one.
    ip(&format!("-n {} link del swp1", w.sw()));
    let e = a.until_port(0, |e| e.fault == Some(PortFault::HostIfDeleted));
    assert_eq!((e.link, e.admin, e.ifindex), (false, false, 0));
    assert!(w.ping(2, "-c 1 -W 5 10.0.2.1").0, "the other port goes on");
    // Not by itself: it was deleted on purpose. Nor in the place of a device that has its name now.
    ip(&format!("-n {} link add swp1 type veth peer name foreign", w.sw()));
    w.hang_up();
    until("the chip's word", || w.log().contains("not made anew: a device swp1 is there").then_some(()));
    ip(&format!("-n {} link del swp1", w.sw()));
    w.hang_up();
    let second = a.until_port(0, |e| e.fault.is_none() && e.ifindex != 0).ifindex;
    assert_ne!(second, index);
    ip(&format!("-n {} addr add 10.0.1.1/24 dev swp1", w.sw()));
    ip(&format!("-n {} link set swp1 up", w.sw()));
    w.until_reaches(1, "10.0.2.2");

    // Deleted while a chip is there and found so by the next: a new one, too.
    ip(&format!("-n {} link del swp1", w.sw()));
    a.until_port(0, |e| e.fault == Some(PortFault::HostIfDeleted));
    w.kill();
    w.start();
    let a = w.agent();
    assert_eq!(a.port(0).fault, None);
    assert_ne!(a.port(0).ifindex, second);
    assert_eq!(w.tap("swp1").unwrap().index, a.port(0).ifindex);
}

pub fn wire_returns() {
    let mut w = World::new("wback", 2);
    w.start_with(&["--workers", "2"]);
    w.address();
    w.until_reaches(1, "10.0.2.2");
    let mut a = w.agent();
    let tap = w.tap("swp2").unwrap();
    let (sw, h2) = (w.sw(), w.host(2));
    for round in 0..3 {
        ip(&format!("-n {h2} link del eth0"));
        let e = a.until_port(1, |e| e.fault == Some(PortFault::WireGone));
        assert!(!e.link);
        w.until_tap("has no carrier", "swp2", |l| !l.carrier);
        assert!(w.ping(1, "-c 1 -W 5 10.0.1.1").0, "the other port goes on");
        // One that something else uses is not taken, and it is said why.
        ip(&format!("-n {sw} link add other type veth peer name eth0 netns {h2}"));
        ip(&format!("-n {sw} addr add 192.0.2.{round}/32 dev other"));
        ip(&format!("-n {sw} link set other name {}", w.wire(2)));
        until("the chip's word", || w.log().contains(&format!("has the address 192.0.2.{round}")).then_some(()));
        ip(&format!("-n {sw} addr flush dev {}", w.wire(2)));
        a.until_port(1, |e| e.fault.is_none());
        ip(&format!("-n {h2} addr add 10.0.2.2/24 dev eth0"));
        ip(&format!("-n {h2} link set eth0 up"));
        ip(&format!("-n {h2} route add default via 10.0.2.1"));
        a.until_port(1, |e| e.link);
        w.until_reaches(1, "10.0.2.2");
        assert_eq!(w.tap("swp2").map(|l| (l.index, l.mac)), Some((tap.index, tap.mac)), "the same netdev");
    }
    let ns = |i| NetNs::open(&w.host(i)).unwrap();
    transfer(&ns(1), &ns(2), "10.0.2.2", 2 << 20);
}

/// Older kernels rename only what is down.
fn rename(w: &World, from: &str, to: &str) {
    ip(&format!("-n {} link set {from} down", w.sw()));
    ip(&format!("-n {} link set {from} name {to}", w.sw()));
    ip(&format!("-n {} link set {to} up", w.sw()));
}

pub fn restart() {
    let mut w = World::new("again", 2);
    w.start();
    w.address();
    w.until_reaches(1, "10.0.2.2");
    rename(&w, "swp2", "uplink");
    ip(&format!("-n {} addr replace 2001:db8:2::1/64 dev uplink nodad", w.sw()));
    let before = [w.tap("swp1").unwrap(), w.tap("uplink").unwrap()];
    let boot = w.agent().boot_id;

    // Killed: the kernel sees dead silicon, and keeps the configuration.
    w.kill();
    for name in ["swp1", "uplink"] {
        w.until_tap("has no carrier", name, |l| !l.carrier && l.up());
    }
    let addrs = ip(&format!("-n {} addr show dev swp1", w.sw()));
    assert!(addrs.contains("10.0.1.1/24") && addrs.contains("2001:db8:1::1/64"), "{addrs}");

    w.start();
    for b in before {
        let l = w.until_tap("has carrier", &b.name, |l| l.carrier);
        assert_eq!((l.index, l.mac, l.mtu), (b.index, b.mac, b.mtu));
    }
    for to in ["10.0.2.2", "2001:db8:2::2"] {
        w.until_reaches(1, to);
    }
    let a = w.agent();
    assert_ne!(a.boot_id, boot, "law f");
    assert_eq!(a.port(1).name, "swp2");
    assert_eq!(w.tap("swp2"), None, "the renamed one is the port's, no second one was made");

    // Renamed while the chip is dead, its name taken by another device: still the same port.
    w.kill();
    rename(&w, "uplink", "spine");
    ip(&format!("-n {} link add swp2 type veth peer name swp2x", w.sw()));
    w.start();
    w.until_tap("has carrier", "spine", |l| l.carrier);

    // A clean end: status 0, no socket, wires dark.
    assert!(w.stop(), "{}", w.log());
    assert!(!fs::exists(w.socket()).unwrap());
    w.until_tap("has no carrier", "spine", |l| !l.carrier);
    let l = w.in_asic(|| Netlink::open().unwrap().link_by_name("againw1").unwrap().unwrap());
    assert!(!l.up(), "{l:?}");
}

pub fn release() {
    let mut w = World::new("rel", 2);
    let wire = |w: &World, i| w.in_sw(|| Netlink::open().unwrap().link_by_name(&w.wire(i)).unwrap());
    let before = [wire(&w, 1).unwrap(), wire(&w, 2).unwrap()];
    let args = [format!("--netns={}", w.asic()), format!("--host-netns={}", w.sw()), "--release".into()];
    let o = w.asic_once(&args);
    assert!(o.status.success() && String::from_utf8_lossy(&o.stdout).contains("holds nothing"), "{o:?}");
    w.start();
    w.address();
    w.until_reaches(1, "10.0.2.2");
    assert_eq!(wire(&w, 1), None);
    let o = w.asic_once(&args);
    assert!(!o.status.success() && String::from_utf8_lossy(&o.stderr).contains("another chip runs"), "{o:?}");
    w.kill();
    rename(&w, "swp2", "uplink");
    ip(&format!("-n {} addr replace 2001:db8:2::1/64 dev uplink nodad", w.sw()));
    let o = w.asic_once(&args);
    assert!(o.status.success(), "{o:?}");
    assert_eq!(String::from_utf8_lossy(&o.stdout).lines().count(), 2, "{o:?}");
    assert_eq!((w.tap("swp1"), w.tap("uplink")), (None, None));
    for (i, b) in before.iter().enumerate() {
        let l = wire(&w, i + 1).expect("the wire is back");
        let noarp = libc::IFF_NOARP as u32;
        assert_eq!((l.mac, l.up(), l.flags & noarp), (b.mac, false, 0), "{l:?}");
    }
    let conf = w.in_sw(|| fs::read_to_string("/proc/sys/net/ipv6/conf/relw1/disable_ipv6").unwrap());
    assert_eq!(conf.trim(), "0");
    assert!(NetNs::open(&w.asic()).is_ok(), "the namespace outlives it");
    // And it can be taken anew.
    w.start();
    assert_eq!(w.agent().ports.len(), 2);
}

pub fn other_wires() {
    let mut w = World::new("owire", 2);
    w.start();
    w.kill();
    // The ports change wires; then one has another wire, and the old one goes back.
    fn swap(a: &mut [String]) {
        a[0] = "--port=swp1=packet:owirew2@owire-sw".into();
        a[1] = "--port=swp2=packet:owirew1@owire-sw".into();
    }
    let before = w.tap("swp1").unwrap().index;
    w.edit = Some(|a| swap(a));
    w.start();
    assert_eq!(w.agent().port(0).ifindex, before);
    assert!(w.agent().port(0).wire.contains("owirew2"));
    w.kill();
    w.edit = Some(|a| a[0] = "--port=swp1=none".into());
    w.start();
    let mut a = w.agent();
    assert_eq!((a.port(0).wire.as_str(), a.port(0).fault, a.port(0).ifindex), ("none", None, before));
    let back = w.in_sw(|| Netlink::open().unwrap().link_by_name("owirew1").unwrap());
    assert!(back.is_some(), "{}", w.log());
    ip(&format!("-n {} link set swp1 up", w.sw()));
    let e = a.until_port(0, |e| e.admin);
    assert!(!e.link);
    w.kill();
    w.edit = Some(|a| drop(a.remove(0)));
    w.start();
    assert!(w.log().contains("port swp1 is no longer configured"), "{}", w.log());
}

pub fn agents() {
    let mut w = World::new("agent", 1);
    w.start();
    w.address();
    w.until_reaches(1, "10.0.1.1");
    let mut first = w.agent();
    let mut second: Conn<ToChip, FromChip> = Conn::new(UnixStream::connect(w.socket()).unwrap()).unwrap();
    let refused = until("the refusal", || second.recv().unwrap());
    assert!(matches!(&refused, FromChip::Refused(why) if why.contains("another agent")), "{refused:?}");
    // The first is none the worse, and one that dies makes room.
    first.send(&ToChip::Dump { id: 5, table: TableId::Route4, cursor: 0 });
    first.answer(|m| {
        matches!(m, FromChip::Records { id: 5, ref records, next: None } if records.is_empty()).then_some(())
    });
    drop(first);
    let a = w.agent();
    drop(a);
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x04\0\0\0\xff\xff\xff\xff", b"\x10\0\0\0\0"] {
        // The chip may not have seen yet that the one before is gone, and hang up on the next.
        until("garbage to be taken", || UnixStream::connect(w.socket()).unwrap().write_all(garbage).ok());
        w.agent();
    }
    // Another version, and one that does not greet.
    for m in [ToChip::Hello { version: 999 }, ToChip::Stats { id: 1 }] {
        until("the right end of the connection", || {
            let mut c = Conn::new(UnixStream::connect(w.socket()).unwrap()).unwrap();
            match (&m, answer(&mut c, &m)) {
                // The last agent's socket may still be open in a fork of another test.
                (_, Some(FromChip::Refused(why))) if why.contains("another agent") => None,
                (ToChip::Hello { .. }, Some(FromChip::Refused(why))) if why.contains("999") => Some(()),
                (ToChip::Hello { .. }, None) => None,
                (_, None) => Some(()),
                (m, got) => panic!("{m:?} was answered with {got:?}"),
            }
        });
    }
    let (ok, out) = w.ping(1, "-c 3 -i 0.05 -W 5 10.0.1.1");
    assert!(ok, "{out}");
    let c = w.agent().counters();
    assert_eq!(drops(&c, DropReason::HostIf), 0, "{c:?}");
}

pub fn embedded() {
    let w = World::new("embed", 2);
    let args = w.args().into_iter().filter(|a| !a.starts_with("--listen")).map(Into::into).collect();
    let conn = sim_asic::daemon::embedded(args).unwrap();
    let mut a = Agent::new(conn);
    w.address();
    w.until_reaches(1, "10.0.2.2");
    w.until_reaches(1, "2001:db8:2::2");
    assert!(a.counters().ports[0].1.rx.frames > 0);
    // It ends with the agent.
    drop(a);
    w.until_tap("has no carrier", "swp1", |l| !l.carrier);
    let e = sim_asic::daemon::embedded(vec!["--port=swp1".into()]).unwrap_err();
    assert!(e.contains("NAME=WIRE"), "{e}");
}
