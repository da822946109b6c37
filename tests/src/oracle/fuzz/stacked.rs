//! Devices that stand on ports, for random cases: VLANs, VLANs within VLANs, macvlans. Where the kernel has none, their commands fail in
//! both worlds.

use super::{ADDRESSES4, Gen, PREFIXES4, Random, host_mac};

/// A device that a case may have.
struct Device {
    name: &'static str,
    /// Its port.
    port: usize,
    /// What it stands on, and what it is there.
    made: &'static str,
    /// Tags as the notation of frames has them; empty for none.
    tags: &'static str,
    /// Its MAC, if that is not the port's.
    mac: Option<&'static str>,
    /// Third number of its networks: 10.40.N.0/24 and 2001:db8:40:N::/64.
    net: u8,
}

const DEVICES: &[Device] = &[
    Device { name: "v5", port: 1, made: "swp1 type vlan id 5", tags: "5", mac: None, net: 1 },
    Device { name: "v6", port: 1, made: "swp1 type vlan id 6", tags: "6", mac: None, net: 2 },
    Device { name: "w5", port: 2, made: "swp2 type vlan id 5", tags: "5", mac: None, net: 3 },
    Device { name: "s9", port: 2, made: "swp2 type vlan protocol 802.1ad id 9", tags: "88a8.9", mac: None, net: 4 },
    Device { name: "s9c5", port: 2, made: "s9 type vlan id 5", tags: "88a8.9,5", mac: None, net: 5 },
    Device { name: "v5v5", port: 1, made: "v5 type vlan id 5", tags: "5,5", mac: None, net: 6 },
    Device {
        name: "m1",
        port: 1,
        made: "swp1 address 00:00:5e:00:01:07 type macvlan mode private",
        tags: "",
        mac: Some("00:00:5e:00:01:07"),
        net: 7,
    },
    Device {
        name: "m5",
        port: 1,
        made: "v5 address 00:00:5e:00:01:07 type macvlan mode private",
        tags: "5",
        mac: Some("00:00:5e:00:01:07"),
        net: 8,
    },
    Device {
        name: "o6",
        port: 2,
        made: "swp2 address 02:00:00:00:aa:06 type vlan id 6",
        tags: "6",
        mac: Some("02:00:00:00:aa:06"),
        net: 9,
    },
];

impl Device {
    /// Made, up, with addresses and neighbours.
    fn lines(&self) -> Vec<String> {
        let Device { name, made, net, port, .. } = self;
        let mut out = vec![
            format!("ip link add name {name} link {made}"),
            format!("ip link set {name} up"),
            format!("ip addr add 10.40.{net}.1/24 dev {name}"),
            format!("ip addr add 2001:db8:40:{net}::1/64 dev {name}"),
        ];
        for h in 2..4 {
            let mac = host_mac(*port, 64 + 4 * usize::from(*net) + h);
            out.push(format!("ip neigh replace 10.40.{net}.{h} lladdr {mac} dev {name} nud permanent"));
            out.push(format!("ip neigh replace 2001:db8:40:{net}::{h} lladdr {mac} dev {name} nud permanent"));
        }
        out
    }
}

fn device(r: &mut Random) -> &'static Device {
    &DEVICES[r.below(DEVICES.len())]
}

/// What a case begins with.
pub(super) fn begin(r: &mut Random) -> Vec<String> {
    DEVICES.iter().filter(|_| r.chance(70)).flat_map(Device::lines).collect()
}

/// A change that has to do with such devices.
pub(super) fn command(g: &mut Gen) -> String {
    let d = device(&mut g.r);
    let (name, net) = (d.name, d.net);
    let on = g.r.below(2);
    match g.r.below(40) {
        0..4 => d.lines().join("\n"),
        4..6 => format!("ip link del {name}"),
        6..9 => format!("ip link set {name} {}", g.r.pick(&["down", "up", "up"])),
        9 => format!("ip link set {name} mtu {}", g.r.pick(&[1280, 1400, 1500, 576])),
        10 => format!("sysctl net.ipv4.conf.{name}.forwarding={on}"),
        11 => format!("sysctl net.ipv4.conf.{name}.rp_filter={}", g.r.below(3)),
        12 => format!("sysctl net.ipv4.conf.{name}.send_redirects={on}"),
        13 => format!("sysctl net.ipv6.conf.{name}.disable_ipv6={}", g.r.pick(&[0, 0, 1])),
        14 => format!("ip link set {name} address 02:00:00:00:aa:{:02x}", g.r.pick(&[6, 7, u16::from(net)])),
        15 => format!(
            "ip link set {name} type vlan {}",
            g.r.pick(&["reorder_hdr off", "reorder_hdr on", "egress-qos-map 0:3"])
        ),
        16 => format!("ip link set {name} type macvlan mode {}", g.r.pick(&["bridge", "vepa", "private"])),
        17 => format!("ip addr {} 10.40.{net}.77/24 dev {name}", g.r.pick(&["add", "del"])),
        18 => format!("ip addr {} 10.40.{net}.1/24 dev {name}", g.r.pick(&["add", "del"])),
        19 => format!("ip neigh del 10.40.{net}.2 dev {name}"),
        20 => format!("ip link add name i link swp{} type macvlan mode source\nip link set i up", d.port),
        21 => "ip link del i".to_owned(),
        22..30 => {
            let prefix = g.r.pick(PREFIXES4);
            let verb = g.r.pick(&["replace", "replace", "add", "append"]);
            format!("ip route {verb} {prefix} via 10.40.{net}.{} dev {name}", 2 + g.r.below(3))
        }
        30..33 => {
            let (prefix, other) = (g.r.pick(PREFIXES4), device(&mut g.r));
            format!(
                "ip route replace {prefix} nexthop via 10.40.{net}.2 dev {name} nexthop via 10.40.{}.2 dev {}",
                other.net, other.name
            )
        }
        33 => format!("ip -6 route replace 2001:db8:9::/48 via 2001:db8:40:{net}::{} dev {name}", 2 + g.r.below(2)),
        34 => format!("ip nexthop replace id {} via 10.40.{net}.2 dev {name}", 1 + g.r.below(2)),
        35 if g.vrfs => {
            let to = g.r.pick(&["master red", "master red", "nomaster"]);
            // With what it loses by that.
            format!("ip link set {name} {to}\n{}", d.lines()[3..].join("\n"))
        }
        _ => g.route(),
    }
}

/// A frame into such a device, or to a host behind one.
pub(super) fn frame(g: &mut Gen) -> String {
    let (from, to) = (device(&mut g.r), device(&mut g.r));
    let h = 2 + g.r.below(3);
    let six = g.v6 && g.r.chance(40);
    let dst = match g.r.below(8) {
        0..5 if six => format!("2001:db8:40:{}::{h}", to.net),
        5 if six => format!("2001:db8:40:{}::1", from.net),
        _ if six => g.host6(),
        0..4 => format!("10.40.{}.{h}", to.net),
        4 => format!("10.40.{}.1", from.net),
        5 => g.r.pick(ADDRESSES4).to_owned(),
        _ => g.host4(),
    };
    // From behind a device, or from a plain port to what is behind one.
    let plain = g.r.chance(30);
    let mut f = match (plain, six) {
        (true, true) => format!("{0}: 2001:db8:{0}::2>{dst}", from.port),
        (true, false) => format!("{0}: 10.0.{0}.2>{dst}", from.port),
        (false, true) => format!("{}: 2001:db8:40:{}::2>{dst}", from.port, from.net),
        (false, false) => format!("{}: 10.40.{}.2>{dst}", from.port, from.net),
    };
    if !plain {
        let tags = if g.r.chance(8) {
            g.r.pick(&["5", "6", "88a8.9", "88a8.9,6", "5,5", "5,0", "0", "0,5", "88a8.5", "7"])
        } else {
            from.tags
        };
        // Any priority, at times.
        let tags = if g.r.chance(10) && tags == "5" { "0xb005" } else { tags };
        if !tags.is_empty() {
            f += &format!(" vlan={tags}");
        }
        if let Some(mac) = from.mac.filter(|_| g.r.chance(80)) {
            f += &format!(" dst={mac}");
        }
    }
    f += g.r.pick(&["", "", "", " tcp 1>2", " echo", " ttl=1", " len=0", " size=1390", " size=1480 df", " pad=70"]);
    f
}
