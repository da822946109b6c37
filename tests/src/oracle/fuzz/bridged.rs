//! Bridges for random cases: with VLANs and without, stations, flags of ports, router interfaces. Where the kernel has no VLAN filtering or
//! VLAN devices, their commands fail in both worlds.
//!
//! A frame comes from a station of its port. Those that move have steps of their own: where a station is known to be depends on
//! what came first.

use super::{ADDRESSES4, Gen, PREFIXES4};

/// The bridge's MAC.
const MAC: &str = "02:00:00:00:00:b0";

/// A station behind a port.
fn station(p: usize, h: usize) -> String {
    format!("02:99:00:00:{p:02x}:{h:02x}")
}

/// The network of the router interface on a VLAN, or of the bridge itself.
fn net(dev: &str) -> usize {
    dev.strip_prefix("br0.").and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn addressed(g: &mut Gen, dev: &str) -> String {
    let n = net(dev);
    let mut out = format!("ip addr add 10.60.{n}.1/24 dev {dev}\nip addr add 2001:db8:60:{n}::1/64 dev {dev}");
    for h in 2..5 {
        let mac = station(g.port(), h - 1);
        out += &format!("\nip neigh replace 10.60.{n}.{h} lladdr {mac} dev {dev} nud permanent");
        out += &format!("\nip neigh replace 2001:db8:60:{n}::{h} lladdr {mac} dev {dev} nud permanent");
    }
    out
}

fn svi(g: &mut Gen, vid: usize) -> String {
    let dev = format!("br0.{vid}");
    let add = format!("ip link add name {dev} link br0 type vlan id {vid}\nip link set {dev} up");
    format!("{add}\nbridge vlan add vid {vid} dev br0 self\n{}", addressed(g, &dev))
}

fn bridge(g: &mut Gen) -> Vec<String> {
    let mut out = vec![
        "ip link add br0 type bridge mcast_snooping 0".to_owned(),
        format!("ip link set br0 address {MAC}"),
        "ip link set br0 up".to_owned(),
    ];
    if g.r.chance(60) {
        out.push("ip link set br0 type bridge vlan_filtering 1".to_owned());
    }
    out.extend(addressed(g, "br0").lines().map(str::to_owned));
    out
}

/// What a case begins with.
pub(super) fn begin(g: &mut Gen) -> Vec<String> {
    let mut out: Vec<String> = ["iptables", "ip6tables", "arptables"]
        .map(|t| format!("sysctl -q -w net.bridge.bridge-nf-call-{t}=0"))
        .to_vec();
    out.extend(bridge(g));
    let last = g.ports - usize::from(g.r.chance(60));
    for p in 1..=last {
        out.push(format!("ip link set swp{p} master br0"));
        for vid in [10, 20] {
            if g.r.chance(60) {
                out.push(format!("bridge vlan add vid {vid} {}dev swp{p}", g.r.pick(&["", "", "pvid untagged "])));
            }
        }
    }
    for vid in [10, 20] {
        if g.r.chance(50) {
            out.extend(svi(g, vid).lines().map(str::to_owned));
        }
    }
    out
}

/// A change that has to do with bridges.
pub(super) fn command(g: &mut Gen) -> String {
    let p = g.port();
    let vid = g.r.pick(&[1, 10, 10, 20, 20, 30]);
    let on = g.r.pick(&["on", "off"]);
    let mac = station(p, 1 + g.r.below(4));
    let dev = g.r.pick(&["br0", "br0", "br0.10", "br0.20"]);
    match g.r.below(60) {
        0..4 => format!("ip link set swp{p} master br0"),
        4..6 => format!("ip link set swp{p} nomaster"),
        6..11 => {
            format!("bridge vlan add vid {vid} {}dev swp{p}", g.r.pick(&["", "pvid untagged ", "untagged ", "pvid "]))
        }
        11..14 => format!("bridge vlan del vid {vid} dev swp{p}"),
        14..16 => format!(
            "bridge vlan add vid {vid} {}dev br0 self",
            g.r.pick(&["", "", "pvid untagged ", "untagged ", "pvid "])
        ),
        16 => format!("bridge vlan del vid {vid} dev br0 self"),
        17..19 => format!("ip link set br0 type bridge vlan_filtering {}", g.r.below(2)),
        19 => format!("ip link set br0 type bridge vlan_protocol {}", g.r.pick(&["802.1Q", "802.1ad"])),
        20 => format!("ip link set br0 type bridge mcast_snooping {}", g.r.below(2)),
        21 => format!("ip link set br0 type bridge ageing_time {}", g.r.pick(&[10000, 30000])),
        22..30 => {
            let flag = g.r.pick(&[
                "learning",
                "flood",
                "mcast_flood",
                "bcast_flood",
                "isolated",
                "hairpin",
                "neigh_suppress",
                "locked",
                "proxy_arp",
                "mcast_to_unicast",
            ]);
            format!("bridge link set dev swp{p} {flag} {on}")
        }
        30 => format!("bridge link set dev swp{p} state {}", g.r.pick(&[0, 1, 2, 3, 3, 4])),
        31 => format!("bridge vlan set vid {vid} dev swp{p} state {}", g.r.pick(&[0, 1, 2, 3, 3, 4])),
        32..37 => {
            let kind = g.r.pick(&["static", "static", "static sticky", "local", "dynamic"]);
            let vlan = if g.r.chance(60) { format!(" vlan {vid}") } else { String::new() };
            format!("bridge fdb replace {mac} dev swp{p} master {kind}{vlan}")
        }
        37..40 => {
            let vlan = if g.r.chance(60) { format!(" vlan {vid}") } else { String::new() };
            format!("bridge fdb del {mac} dev swp{p} master{vlan}")
        }
        40 => "bridge fdb flush dev br0".to_owned(),
        41 => format!("ip link set br0 address {}", g.r.pick(&[MAC, MAC, "02:00:00:00:00:b1"])),
        42 => format!("ip link set br0 {}", g.r.pick(&["down", "up", "up", "up"])),
        43 => format!("ip link set {dev} mtu {}", g.r.pick(&[1280, 1400, 1500, 1500])),
        44 => "ip link del br0".to_owned(),
        45..47 => {
            let mut all = bridge(g);
            all.extend((1..g.ports).map(|p| format!("ip link set swp{p} master br0")));
            all.join("\n")
        }
        47..49 => {
            let vid = g.r.pick(&[10, 20]);
            svi(g, vid)
        }
        49 => format!("ip link del {}", g.r.pick(&["br0.10", "br0.20"])),
        50 => format!("ip link set {dev} address 02:00:00:00:00:{}", g.r.pick(&["b0", "b0", "b2"])),
        51 => format!("sysctl net.ipv4.conf.{dev}.forwarding={}", g.r.below(2)),
        52 => format!("sysctl net.ipv4.conf.{dev}.rp_filter={}", g.r.below(3)),
        53 => format!("ip route replace {} via 10.60.{}.{} dev {dev}", g.r.pick(PREFIXES4), net(dev), 2 + g.r.below(4)),
        54 => {
            format!("ip -6 route replace 2001:db8:9::/48 via 2001:db8:60:{}::{} dev {dev}", net(dev), 2 + g.r.below(3))
        }
        55 => format!("sysctl net.ipv4.conf.{dev}.send_redirects={}", g.r.below(2)),
        56 if g.vrfs => format!("ip link set {dev} {}", g.r.pick(&["master red", "nomaster"])),
        57 => format!("link {p} {}", g.r.pick(&["down", "up", "up"])),
        _ => g.route(),
    }
}

/// A station shows up at another port.
pub(super) fn moved(g: &mut Gen) -> String {
    let (p, from) = (g.port(), g.port());
    let tag = g.r.pick(&["", "", " vlan=10"]);
    format!("{p}: eth 0x9000 dst=bcast src={}{tag}", station(from, 1 + g.r.below(3)))
}

/// A frame that goes into a bridge port.
pub(super) fn frame(g: &mut Gen) -> String {
    let (p, to) = (g.port(), g.port());
    let src = station(p, 1 + g.r.below(3));
    let dst = match g.r.below(24) {
        0..11 => station(to, 1 + g.r.below(4)),
        11..17 => MAC.to_owned(),
        17 => "bcast".to_owned(),
        18 => g.r.pick(&["01:99:00:00:00:01", "01:00:5e:01:02:03", "33:33:00:00:00:99"]).to_owned(),
        19 => g.r.pick(&["swp1", "swp2", "02:00:00:00:00:b1", "02:00:00:00:00:b2"]).to_owned(),
        20 => {
            g.r.pick(&["01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0f", "01:80:c2:00:00:20"]).to_owned()
        }
        _ => station(9, 9),
    };
    let tag = match g.r.below(12) {
        0..6 => "",
        6..8 => " vlan=10",
        8..10 => " vlan=20",
        10 => g.r.pick(&[" vlan=0", " vlan=0xa00a", " vlan=1", " vlan=30", " vlan=4095"]),
        _ => g.r.pick(&[" vlan=10,20", " vlan=88a8.10", " vlan=88a8.10,20", " vlan=0,10"]),
    };
    let n = g.r.pick(&[1, 10, 10, 20]);
    let ends = format!("dst={dst} src={src}{tag}");
    let h = 2 + g.r.below(4);
    match g.r.below(14) {
        0..3 => format!("{p}: eth 0x9000 {ends}"),
        3 => {
            format!("{p}: eth {} {ends}", g.r.pick(&["0x88e3", "0x8902", "0x26", "0x9000 len=1486", "0x9000 len=1490"]))
        }
        4 => {
            let target = g.r.pick(&[1, 2, 3, 9]);
            format!("{p}: arp req 10.60.{n}.{h}>10.60.{n}.{target} src={src} sha={src}{tag}")
        }
        5..7 if g.v6 => {
            let to = g.r.pick(&[1, 10, 20]);
            format!("{p}: 2001:db8:60:{n}::{h}>2001:db8:60:{to}::{} {ends}", 2 + g.r.below(4))
        }
        7 => format!("{p}: 10.60.{n}.{h}>{} {ends}", g.r.pick(ADDRESSES4)),
        8 => format!("{p}: 10.60.{n}.{h}>10.60.{n}.1 echo {ends}"),
        9 => format!("{p}: 10.60.{n}.{h}>{} {ends}", g.host4()),
        10 => format!("{p}: 10.0.{p}.2>10.60.{n}.{h}"),
        _ => {
            let more = g.r.pick(&["", "", "", " ttl=1", " size=1390", " size=1500", " df size=1450", " pad=70"]);
            format!("{p}: 10.60.{n}.{h}>10.60.{}.{} {ends}{more}", g.r.pick(&[1, 10, 20]), 2 + g.r.below(4))
        }
    }
}
