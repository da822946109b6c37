//! Invents scenarios: random topologies, sequences of commands and frames, biased towards what is interesting.
//!
//! A case is text like any other scenario, and depends on its seed alone.

mod bridged;
mod resilient;
mod stacked;

use crate::frame::host_mac;
use crate::scenario::Scenario;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }
    /// True in `percent` of cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    /// One of them.
    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// Prefixes that routes are made for; they nest, and some touch connected and special ranges.
const PREFIXES4: &[&str] = &[
    "default",
    "10.0.0.0/8",
    "10.9.0.0/16",
    "10.9.8.0/24",
    "10.9.8.128/25",
    "10.9.8.7/32",
    "10.0.2.128/25",
    "10.0.1.3/32",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "198.51.100.64/26",
    "240.0.0.0/4",
    "169.254.0.0/16",
    "10.0.0.0/16",
    "10.0.3.0/24",
    "10.5.0.0/24",
    "10.0.1.77/32",
];

/// Destinations (and sources) in and beside them.
const ADDRESSES4: &[&str] = &[
    "10.9.0.1",
    "10.9.8.1",
    "10.9.8.200",
    "10.9.8.7",
    "10.9.200.9",
    "10.0.2.200",
    "192.0.2.9",
    "192.0.2.130",
    "198.51.100.9",
    "198.51.100.70",
    "8.8.8.8",
    "240.0.0.9",
    "169.254.3.4",
    "127.0.0.1",
    "127.3.2.1",
    "0.0.0.0",
    "0.0.0.5",
    "255.255.255.255",
    "224.0.0.5",
    "239.1.2.3",
    "100.64.1.1",
    "10.0.1.255",
    "10.0.2.0",
    "10.0.2.255",
    "10.0.9.9",
    "10.5.0.9",
    "10.0.1.77",
    "10.77.2.9",
    "0.1.2.3",
    "172.16.1.0",
];

const PREFIXES6: &[&str] = &[
    "default",
    "2001:db8::/32",
    "2001:db8:9::/48",
    "2001:db8:9:8::/64",
    "2001:db8:9:8::7/128",
    "2001:db8:2:0:8000::/65",
    "2001:db8:1::3/128",
    "fd00::/8",
    "2001:db8:2::/64",
    "64:ff9b::/96",
];

const ADDRESSES6: &[&str] = &[
    "2001:db8:9::1",
    "2001:db8:9:8::1",
    "2001:db8:9:8::7",
    "2001:db8:2:0:8000::9",
    "fd00::9",
    "2606:4700::1",
    "::",
    "::1",
    "::ffff:10.0.2.2",
    "::10.0.2.2",
    "64:ff9b::a00:202",
    "fe80::9",
    "fec0::9",
    "ff02::1",
    "ff05::2",
    "ff0e::9",
    "100::9",
    "2002:a00:202::1",
    "2001:db8:1::",
    "2001:db8:2::",
    "2001:db8:2::ffff",
    "2001:db8:77::9",
    "2001:db8:7::1",
];

/// What the kernel refuses, whatever else is configured.
const NONSENSE: &[&str] = &[
    "ip route add 10.9.8.7/24 dev swp1",
    "ip route add 10.9.0.0/16 via 203.0.113.9",
    "ip route add 10.9.0.0/16 dev nosuch",
    "ip route add 10.9.0.0/16 via 10.77.1.9 onlink",
    "ip route add 300.0.0.0/8 dev swp1",
    "ip -6 route add 2001:db8:9::/48 via 10.0.1.2",
    "ip -6 route add 2001:db8:9::/48 via fe80::9",
    "ip route add 10.9.0.0/16 nexthop via 10.0.1.2 nexthop via 203.0.113.9",
    "ip route add 10.9.0.0/16 via 10.0.1.2 dev swp1 scope host",
    "ip addr add 10.0.1.1/33 dev swp1",
    "ip addr add 224.0.0.5/24 dev swp1",
    "ip addr add ff02::5/64 dev swp1",
    "ip link set nosuch up",
    "ip link set swp1 mtu 0",
    "ip neigh add 10.0.1.2 lladdr 02:00 dev swp1",
    "ip route add 10.9.0.0/16 nhid 77",
    "sysctl net.ipv4.conf.nosuch.forwarding=1",
];

struct Gen {
    r: Random,
    ports: usize,
    v6: bool,
    /// VRFs take part.
    vrfs: bool,
    /// Devices that stand on ports take part.
    stacks: bool,
    /// Resilient groups take part.
    resilient: bool,
    /// A bridge takes part.
    bridged: bool,
}

impl Gen {
    fn port(&mut self) -> usize {
        1 + self.r.below(self.ports)
    }
    fn host4(&mut self) -> String {
        // 2 to 4 are permanent neighbours, 5 nobody.
        let h = self.r.pick(&[2, 2, 2, 3, 3, 4, 4, 5]);
        format!("10.0.{}.{h}", self.port())
    }
    fn host6(&mut self) -> String {
        let h = self.r.pick(&[2, 2, 2, 3, 3, 4, 4, 5]);
        format!("2001:db8:{}::{h}", self.port())
    }
    fn own4(&mut self) -> String {
        let p = self.port();
        self.r.pick(&[format!("10.0.{p}.1"), format!("172.16.{p}.1"), format!("192.0.2.{p}")])
    }
    fn own6(&mut self) -> String {
        let p = self.port();
        self.r.pick(&[format!("2001:db8:{p}::1"), format!("fe80::ff:fe00:{p}")])
    }

    fn hop4(&mut self) -> String {
        let p = self.port();
        match self.r.below(14) {
            12 => format!("via 10.0.{p}.{} dev swp{p}", self.r.pick(&[1, 77])),
            13 => format!("via 10.5.0.9 dev swp{p}"),
            0 => format!("dev swp{p}"),
            1 => format!("via inet6 2001:db8:{p}::{} dev swp{p}", 2 + self.r.below(3)),
            2 => format!("via 10.77.{p}.9 dev swp{p} onlink"),
            3 => format!("via 10.0.{p}.5 dev swp{p}"),
            4 => format!("via inet6 fe80::{p}:2 dev swp{p}"),
            _ => format!("via 10.0.{p}.{} dev swp{p}", 2 + self.r.below(3)),
        }
    }
    fn hop6(&mut self) -> String {
        let p = self.port();
        match self.r.below(9) {
            8 => format!("via 2001:db8:77::9 dev swp{p} onlink"),
            0 => format!("dev swp{p}"),
            1 => format!("via fe80::{p}:2 dev swp{p}"),
            2 => format!("via 2001:db8:{p}::5 dev swp{p}"),
            _ => format!("via 2001:db8:{p}::{} dev swp{p}", 2 + self.r.below(3)),
        }
    }

    fn route(&mut self) -> String {
        let six = self.v6 && self.r.chance(45);
        let f = if six { "-6 " } else { "" };
        let prefix = if six { self.r.pick(PREFIXES6) } else { self.r.pick(PREFIXES4) };
        let mut tail = String::new();
        if self.r.chance(35) {
            tail += &format!(" metric {}", self.r.pick(&[0, 10, 20, 1024]));
        }
        if self.r.chance(3) && !six {
            tail += " tos 0x10";
        }
        if self.r.chance(6) {
            // Where the kernel would send by it what is longer than the device takes, worlds differ in what the device is.
            tail += match six {
                true => self.r.pick(&[" mtu 576", " mtu 1280", " mtu 1400", " mtu lock 1280"]),
                false => self.r.pick(&[" mtu 576", " mtu lock 576"]),
            };
        }
        if self.r.chance(2) {
            tail += self.r.pick(&[" advmss 500", " hoplimit 3", " initcwnd 3 window 1000", " features ecn"]);
        }
        if self.r.chance(3) && six {
            tail += self.r.pick(&[" pref low", " pref high"]);
        }
        if self.r.chance(4) {
            tail += self.r.pick(&[" table 255", " table 100", " table 253"]);
        }
        if self.r.chance(10) {
            tail += " proto bgp";
        }
        let vrf = if self.vrfs && self.r.chance(50) { self.r.pick(&[" vrf red", " vrf red", " vrf blue"]) } else { "" };
        if !tail.contains("table") {
            tail += vrf;
        }
        if self.r.chance(5) && !six {
            tail += &format!(" src 10.0.{}.{}", self.port(), self.r.pick(&[1, 1, 77]));
        }
        let verb =
            self.r.pick(&["add", "add", "replace", "replace", "replace", "append", "prepend", "del", "del", "change"]);
        if verb == "del" {
            let metric =
                if self.r.chance(30) { format!(" metric {}", self.r.pick(&[10, 20, 1024])) } else { String::new() };
            return format!("ip {f}route del {prefix}{metric}{vrf}");
        }
        let kind =
            self.r.pick(&["", "", "", "", "", "", "", "blackhole ", "unreachable ", "prohibit ", "throw ", "local "]);
        if !kind.is_empty() {
            let dev = if kind == "local " { " dev lo" } else { "" };
            return format!("ip {f}route {verb} {kind}{prefix}{dev}{tail}");
        }
        if self.r.chance(25) {
            let mut hops = String::new();
            for _ in 0..2 + self.r.below(2) {
                let h = if six { self.hop6() } else { self.hop4() };
                let (h, onlink) = match h.strip_suffix(" onlink") {
                    Some(h) => (h.to_owned(), " onlink"),
                    None => (h, ""),
                };
                let weight = if self.r.chance(30) { format!(" weight {}", 1 + self.r.below(4)) } else { String::new() };
                hops += &format!(" nexthop {h}{weight}{onlink}");
            }
            return format!("ip {f}route {verb} {prefix}{tail}{hops}");
        }
        let hop = if six { self.hop6() } else { self.hop4() };
        format!("ip {f}route {verb} {prefix} {hop}{tail}")
    }

    /// What has to do with VRFs.
    fn vrf(&mut self) -> String {
        let p = self.port();
        let v = self.r.pick(&["red", "red", "red", "blue"]);
        let f = self.r.pick(&["", "", "-6 "]);
        match self.r.below(26) {
            0..3 => {
                format!("ip link add {v} type vrf table {}\nip link set {v} up", self.r.pick(&[10, 10, 10, 20, 254]))
            }
            3 => format!("ip link set {v} {}", self.r.pick(&["up", "up", "down"])),
            4 => format!("ip link del {v}"),
            5..11 => enslaved(p, v),
            11 => format!("ip link set swp{p} nomaster"),
            12 => format!("ip {f}rule add pref 32765 table local\nip {f}rule del pref 0"),
            13 => format!("ip {f}rule add pref 0 table local\nip {f}rule del pref 32765"),
            14 => self
                .r
                .pick(&["ip rule del pref 1000", "ip rule add pref 1000 l3mdev", "ip rule add pref 1000 l3mdev"])
                .into(),
            15..18 => format!("sysctl net.ipv4.conf.{v}.rp_filter={}", self.r.below(3)),
            18 => format!("sysctl net.ipv4.conf.{v}.forwarding={}", self.r.below(2)),
            19 => format!("ip addr {} 10.255.0.1/32 dev {v}", self.r.pick(&["add", "del"])),
            20 => format!("sysctl net.ipv4.conf.all.rp_filter={}", self.r.below(3)),
            _ => self.route(),
        }
    }

    fn command(&mut self) -> String {
        if self.vrfs && self.r.chance(30) {
            return self.vrf();
        }
        if self.stacks && self.r.chance(35) {
            return stacked::command(self);
        }
        if self.resilient && self.r.chance(35) {
            return resilient::command(self);
        }
        if self.bridged && self.r.chance(60) {
            return bridged::command(self);
        }
        let p = self.port();
        let on = self.r.below(2);
        match self.r.below(124) {
            100..103 => {
                let verb = self.r.pick(&["replace", "replace", "del"]);
                format!("ip route {verb} 10.5.0.0/24 dev swp{p} scope host")
            }
            103..107 => {
                let a = self.r.pick(&["10.9.8.1", "10.9.0.1", "10.5.0.9", "10.77.2.9", "198.51.100.9", "10.0.1.77"]);
                format!("ip neigh replace {a} lladdr {} dev swp{p} nud permanent", host_mac(p, 7))
            }
            107..109 => format!("sysctl net.ipv4.conf.swp{p}.proxy_arp={on}"),
            109 if self.v6 => format!("sysctl net.ipv6.conf.swp{p}.proxy_ndp={on}"),
            109 => format!("ip neigh replace proxy 10.9.8.1 dev swp{p}"),
            110 => format!("ip neigh replace proxy 2001:db8:9::1 dev swp{p}"),
            111 => format!("sysctl net.ipv6.conf.swp{p}.keep_addr_on_down={on}"),
            112 => format!("sysctl net.ipv4.conf.swp{p}.promote_secondaries={on}"),
            113 => format!("sysctl net.ipv4.conf.swp{p}.bc_forwarding={on}"),
            114 => format!("ip link set swp{p} address 02:00:00:00:00:{:02x}", self.r.pick(&[p, p + 16])),
            115 => format!("ip nexthop replace id 10 group {}", self.r.pick(&["1", "2", "1/2", "1,3/2"])),
            116 => format!("ip route replace {} nhid 10", self.r.pick(PREFIXES4)),
            117..119 if self.r.chance(30) => format!("answer {p} 10.0.{p}.5\nip neigh del 10.0.{p}.5 dev swp{p}"),
            117..119 => format!("answer {p} 10.0.{p}.5 h5"),
            119 if self.v6 => format!("answer {p} 2001:db8:{p}::5 h5"),
            119..122 => self.r.pick(NONSENSE).to_owned(),
            122..124 => "agent restart".to_owned(),
            0..50 => self.route(),
            50..54 => {
                let verb = self.r.pick(&["add", "del"]);
                let a = self.r.pick(&[
                    format!("10.0.{p}.1/24"),
                    format!("172.16.{p}.1/31"),
                    format!("192.0.2.{p}/32"),
                    format!("10.0.{p}.77/24"),
                    "10.9.8.1/24".to_owned(),
                    format!("10.0.{p}.1/16"),
                ]);
                format!("ip addr {verb} {a} dev swp{p}")
            }
            54..57 if self.v6 => {
                let verb = self.r.pick(&["add", "del"]);
                let a = self.r.pick(&[
                    format!("2001:db8:{p}::1/64"),
                    format!("2001:db8:{p}::77/64"),
                    "2001:db8:9:8::1/64".to_owned(),
                    format!("2001:db8:7::{p}/128"),
                ]);
                format!("ip addr {verb} {a} dev swp{p}")
            }
            57..60 => format!("ip link set swp{p} {}", self.r.pick(&["down", "up", "up"])),
            60..63 => format!("link {p} {}", self.r.pick(&["down", "up", "up"])),
            63..66 => format!("ip link set swp{p} mtu {}", self.r.pick(&[1280, 1400, 1500, 1500, 576])),
            66..74 => {
                let h = 2 + self.r.below(4);
                let a =
                    if self.v6 && self.r.chance(40) { format!("2001:db8:{p}::{h}") } else { format!("10.0.{p}.{h}") };
                match self.r.below(4) {
                    0 => format!("ip neigh del {a} dev swp{p}"),
                    1 => format!("ip neigh replace {a} lladdr {} dev swp{p} nud noarp", host_mac(p, h + 8)),
                    // Known to have failed, and announced: it was usable before.
                    2 => format!(
                        "ip neigh replace {a} lladdr {} dev swp{p} nud reachable extern_learn\nip neigh replace {a} dev swp{p} nud failed extern_learn",
                        host_mac(p, h)
                    ),
                    _ => format!("ip neigh replace {a} lladdr {} dev swp{p} nud permanent", host_mac(p, h)),
                }
            }
            74..76 => format!("ip neigh replace fe80::{p}:2 lladdr {} dev swp{p} nud permanent", host_mac(p, 9)),
            76..80 => format!(
                "sysctl net.ipv4.conf.{}.rp_filter={}",
                self.r.pick(&["all".to_owned(), format!("swp{p}")]),
                self.r.below(3)
            ),
            80..82 => format!("sysctl net.ipv4.conf.swp{p}.forwarding={on}"),
            82..83 => format!("sysctl net.ipv4.ip_forward={}", self.r.pick(&[0, 1, 1])),
            83..84 => format!("sysctl net.ipv6.conf.all.forwarding={}", self.r.pick(&[0, 1, 1])),
            84..86 => format!("sysctl net.ipv6.conf.swp{p}.forwarding={on}"),
            86..88 => format!("sysctl net.ipv4.conf.swp{p}.ignore_routes_with_linkdown={on}"),
            88..89 => format!("sysctl net.ipv6.conf.swp{p}.ignore_routes_with_linkdown={on}"),
            89..91 => {
                let family = self.r.pick(&["ipv4", "ipv6"]);
                match self.r.below(3) {
                    0 => format!("sysctl net.{family}.fib_multipath_hash_fields={}", 1 + self.r.below(4095)),
                    _ => format!("sysctl net.{family}.fib_multipath_hash_policy={}", self.r.below(4)),
                }
            }
            91..92 => format!("sysctl net.ipv4.fib_multipath_use_neigh={on}"),
            92..93 => format!("sysctl net.ipv4.conf.swp{p}.accept_local={on}"),
            93..94 => format!("sysctl net.ipv4.conf.swp{p}.route_localnet={on}"),
            94..95 => format!("sysctl net.ipv6.conf.swp{p}.disable_ipv6={}", self.r.pick(&[0, 0, 1])),
            95..97 => self
                .r
                .pick(&[
                    "ip rule add from 10.0.1.2 lookup 100",
                    "ip rule del from 10.0.1.2 lookup 100",
                    "ip rule add to 10.9.0.0/16 blackhole",
                    "ip rule del to 10.9.0.0/16 blackhole",
                    "ip -6 rule add iif swp1 lookup 100",
                    "ip -6 rule del iif swp1 lookup 100",
                    "ip rule add iif swp2 lookup 100",
                    "ip rule del iif swp2 lookup 100",
                    "ip rule add to 10.9.0.0/16 lookup 100",
                    "ip rule del to 10.9.0.0/16 lookup 100",
                    "ip rule add fwmark 5 lookup 100",
                    "ip rule add oif swp1 lookup 100",
                    "ip -6 rule add to 2001:db8:9::/48 lookup 100",
                    "ip rule add not to 10.9.8.0/24 lookup 100",
                    "ip rule del not to 10.9.8.0/24 lookup 100",
                    "ip rule add from 10.0.1.0/29 lookup 100 pref 300",
                    "ip rule add from 10.0.1.0/24 to 10.9.0.0/16 lookup main pref 200",
                    "ip rule add iif swp1 ipproto udp lookup 100 pref 400",
                    "ip rule add ipproto tcp dport 80 lookup 100 pref 500",
                    "ip rule add from 10.0.2.0/24 unreachable pref 600",
                    "ip rule del pref 300",
                    "ip rule del pref 400",
                    "ip -6 rule add from 2001:db8:1::/64 lookup 100 pref 300",
                    "ip -6 rule add ipproto tcp dport 80 lookup 100 pref 500",
                    "ip -6 rule add iif swp2 to 2001:db8:9::/48 unreachable pref 600",
                    "ip -6 rule del pref 300",
                    "ip route replace default via 10.0.2.4 table 100",
                    "ip route replace 10.9.0.0/16 via 10.0.1.3 table 100",
                    "ip route flush table 100",
                    "ip -6 route replace default via 2001:db8:2::4 table 100",
                ])
                .to_string(),
            97..98 => self
                .r
                .pick(&[
                    "nft add table inet t",
                    "nft add chain inet t f { type filter hook forward priority 0; policy drop; }",
                    "nft delete table inet t",
                    "nft delete table inet t",
                ])
                .to_string(),
            98..99 => match self.r.below(5) {
                0 => {
                    format!("ip nexthop replace id 10 group {}", self.r.pick(&["1", "2", "1/2", "1,3/2", "2,300/1"]))
                }
                1 if self.v6 => format!("ip nexthop replace id 3 via 2001:db8:{p}::{} dev swp{p}", 2 + self.r.below(3)),
                2 => format!("ip nexthop del id {}", self.r.pick(&["1", "2", "10"])),
                _ => format!(
                    "ip nexthop replace id {} via 10.0.{p}.{} dev swp{p}",
                    1 + self.r.below(2),
                    2 + self.r.below(3)
                ),
            },
            99 if self.v6 && self.r.chance(30) => format!("ip -6 route replace {} nhid 3", self.r.pick(PREFIXES6)),
            99 => {
                // Not for IPv6, where a processor's cache would decide.
                let mtu = self.r.pick(&["", "", " mtu 576"]);
                format!("ip route replace {} nhid {}{mtu}", self.r.pick(PREFIXES4), self.r.pick(&["1", "2", "10"]))
            }
            _ => self.route(),
        }
    }

    /// An error about an answer of the switch's, which teaches it a path MTU or another gateway, and a question that makes IPv4 use it
    /// (only then can it be seen).
    fn lesson(&mut self) -> Vec<String> {
        let p = self.port();
        let h = 2 + self.r.below(3);
        if self.v6 && self.r.chance(50) {
            let (from, own) = (format!("2001:db8:{p}::{h}"), format!("2001:db8:{p}::1"));
            let mtu = self.r.pick(&[1000, 1280, 1300, 1400]);
            return vec![format!("{p}: {from}>{own} icmp=2/0 rest={mtu} quote={own}>{from},echo-reply")];
        }
        let (from, own) = (format!("10.0.{p}.{h}"), format!("10.0.{p}.1"));
        let error = match self.r.below(3) {
            0 => format!("icmp=5/1 rest=10.0.{p}.{}", 2 + self.r.below(3)),
            _ => format!("icmp=3/4 rest={}", self.r.pick(&[68, 300, 552, 1000])),
        };
        vec![format!("{p}: {from}>{own} {error} quote={own}>{from},echo-reply"), format!("{p}: {from}>{own} echo")]
    }

    fn frame(&mut self) -> String {
        if self.stacks && self.r.chance(60) {
            return stacked::frame(self);
        }
        if self.bridged && self.r.chance(75) {
            return bridged::frame(self);
        }
        let p = self.port();
        let six = self.v6 && self.r.chance(45);
        if self.r.chance(3) {
            let other = self.port();
            let target = match self.r.below(4) {
                0 => self.r.pick(ADDRESSES4).to_owned(),
                _ => format!("10.0.{other}.1"),
            };
            return format!(
                "{p}: arp {} 10.0.{p}.{}>{target}",
                self.r.pick(&["req", "req", "rep"]),
                2 + self.r.below(3)
            );
        }
        let (src, dst) = if six {
            let dst = match self.r.below(10) {
                0..5 => self.host6(),
                5 => self.own6(),
                _ => self.r.pick(ADDRESSES6).to_string(),
            };
            let src = match self.r.below(12) {
                0 => self.own6(),
                1 => self.r.pick(ADDRESSES6).to_string(),
                2 => self.host6(),
                _ => format!("2001:db8:{p}::{}", 2 + self.r.below(3)),
            };
            (src, dst)
        } else {
            let dst = match self.r.below(10) {
                0..4 => self.host4(),
                4 => self.own4(),
                _ => self.r.pick(ADDRESSES4).to_string(),
            };
            let src = match self.r.below(12) {
                0 => self.own4(),
                1 => self.r.pick(ADDRESSES4).to_string(),
                2 => self.host4(),
                _ => format!("10.0.{p}.{}", 2 + self.r.below(3)),
            };
            (src, dst)
        };
        let mut f = format!("{p}: {src}>{dst}");
        match self.r.below(10) {
            0..4 => f += &format!(" udp {}>{}", 1000 + self.r.below(50), 2000 + self.r.below(50)),
            4..6 => f += &format!(" tcp {}>80 flags={}", 1000 + self.r.below(50), self.r.pick(&["02", "10", "18"])),
            6..8 => f += " echo",
            8 => f += &format!(" proto={}", self.r.pick(&[0, 2, 4, 41, 47, 50, 59, 89, 132, 255])),
            _ => {}
        }
        if !f.contains("proto=")
            && !f.contains(" udp")
            && !f.contains(" tcp")
            && !f.contains(" echo")
            && self.r.chance(60)
        {
            let q = self.r.pick(&[
                "10.0.1.2>10.0.2.2,udp",
                "10.0.1.2>10.0.2.3",
                "fd00::1>fd00::2,flow=5",
                "fd00::1>fd00::2",
            ]);
            f += &format!(" {}={q}{}", self.r.pick(&["in", "gre"]), self.r.pick(&["", "", " key=7"]));
        }
        if self.r.chance(45) {
            return f;
        }
        for _ in 0..1 + self.r.below(2) {
            let word = match self.r.below(22) {
                0 | 1 => format!("ttl={}", self.r.pick(&[0, 1, 2, 255])),
                2 | 3 => format!("size={}", self.r.pick(&[576, 1000, 1001, 1279, 1280, 1281, 1400, 1401, 1500])),
                4 => "df".into(),
                5 => "mf".into(),
                6 => "off=64".into(),
                7 => "pad=60".into(),
                8 => format!("tos={}", self.r.below(256)),
                9 => format!("vlan={}", self.r.pick(&["0", "5", "5,6", "88a8.5,6"])),
                10 => format!(
                    "dst={}",
                    self.r.pick(&["bcast", "swp2", "02:99:00:00:00:01", "01:00:5e:00:00:05", "00:00:00:00:00:00"])
                ),
                11 => format!("src={}", self.r.pick(&["bcast", "swp1", "00:00:00:00:00:00", "01:00:5e:00:00:05"])),
                12 if !six => format!(
                    "opts={}",
                    self.r.pick(&["94040000", "01010101", "070b04000000000000000000", "8307040a000202", "ff", "0000"])
                ),
                13 if six => format!(
                    "ext={}",
                    self.r.pick(&[
                        "hbh",
                        "dst",
                        "ra",
                        "rt0",
                        "rt0-done",
                        "frag",
                        "hbh,dst",
                        "dst,frag",
                        "hbh-unknown",
                        "jumbo",
                        "ah"
                    ])
                ),
                14 if !six => "sum=bad".into(),
                15 => format!("sum4={}", self.r.pick(&["bad", "0"])),
                16 => format!("tlen={}", self.r.pick(&[0, 10, 19, 20, 30, 39, 40, 100, 65535])),
                17 => format!("trunc={}", self.r.pick(&[14, 15, 20, 33, 34, 40, 53, 54, 60])),
                18 if !six => format!("ihl={}", self.r.pick(&[0, 4, 6, 15])),
                19 => format!("ver={}", self.r.pick(&[0, 4, 5, 6, 15])),
                20 => format!("len={}", self.r.pick(&[0, 1, 8, 100])),
                21 if six => format!("flow={}", self.r.below(1 << 20)),
                _ => "pad=64".into(),
            };
            if !f.contains(word.split('=').next().unwrap_or_default()) {
                f.push(' ');
                f += &word;
            }
        }
        f
    }
}

/// Put a port into a VRF, with what it loses by that.
fn enslaved(p: usize, vrf: &str) -> String {
    let mut out = format!("ip link set swp{p} master {vrf}\nip addr add 2001:db8:{p}::1/64 dev swp{p}");
    for h in 2..5 {
        let mac = host_mac(p, h);
        out += &format!("\nip neigh replace 10.0.{p}.{h} lladdr {mac} dev swp{p} nud permanent");
        out += &format!("\nip neigh replace 2001:db8:{p}::{h} lladdr {mac} dev swp{p} nud permanent");
    }
    out
}

/// The case of a seed.
pub fn case(seed: u64) -> Scenario {
    let mut r = Random::new(seed);
    let ports = 2 + r.below(3);
    let v6 = r.chance(80);
    let calm = r.chance(30);
    // Where the kernel has none, their commands fail in both worlds.
    let vrfs = r.chance(25);
    let stacks = r.chance(25);
    let resilient = r.chance(20);
    let bridged = r.chance(30);
    let mut g = Gen { r, ports, v6, vrfs, stacks, resilient, bridged };
    let mut lines = vec![format!("ports {ports}"), "base".to_owned()];
    if vrfs && g.r.chance(70) {
        let all = format!(
            "ip link add red type vrf table 10\nip link set red up\n{}\n{}",
            enslaved(1, "red"),
            enslaved(2, "red")
        );
        lines.extend(all.lines().map(|c| format!("? {c}")));
    }
    if stacks {
        lines.extend(stacked::begin(&mut g.r).into_iter().map(|c| format!("? {c}")));
    }
    if resilient {
        lines.extend(resilient::begin(&mut g).into_iter().map(|c| format!("? {c}")));
    }
    if bridged {
        lines.extend(bridged::begin(&mut g).into_iter().map(|c| format!("? {c}")));
    }
    let steps = 3 + g.r.below(8);
    for _ in 0..steps {
        // Invalid commands are welcome: both worlds must refuse them alike.
        for _ in 0..g.r.below(if calm { 4 } else { 9 }) {
            let c = g.command();
            for c in c.lines() {
                let world = ["link ", "answer ", "agent "].iter().any(|w| c.starts_with(w));
                // What the kernel forgets of stations while no agent is there, the chip keeps.
                let apart = if bridged && c.starts_with("agent ") { Some("---".to_owned()) } else { None };
                lines.extend(apart.clone());
                lines.push(if world { c.to_owned() } else { format!("? {c}") });
                lines.extend(apart);
            }
        }
        let mut frames = Vec::new();
        for _ in 0..8 + g.r.below(30) {
            // A frame that the notation can't express (too small a size, say) is passed over, and so is one that a veth would not take
            // in: an Ethernet header, a tag and its MTU are the most.
            let f = g.frame();
            let fits = |s: Scenario| s.steps.iter().flat_map(|s| &s.sends).all(|s| s.bytes.len() <= 1518);
            if Scenario::parse("", &format!("ports {ports}\n{f}")).is_ok_and(fits) {
                frames.push(f);
            }
        }
        // Port by port, since the harness waits where the port changes.
        frames.sort_by_key(|f| f.bytes().next());
        lines.extend(frames);
        lines.push("---".into());
        // A step of its own: what the kernel learns by it is not announced, and is read before the next one.
        if g.r.chance(12) {
            lines.extend(g.lesson());
            lines.push("---".into());
        }
        if bridged && g.r.chance(20) {
            lines.push(bridged::moved(&mut g));
            lines.push("---".into());
        }
    }
    let name = format!("seed {seed}");
    Scenario::parse(&name, &lines.join("\n")).unwrap_or_else(|e| {
        // The generator wrote something that the notation does not have; an empty case says so by its name.
        Scenario { name: format!("{name}: {e:#}"), ..Scenario::default() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_scenario_and_always_the_same() {
        for seed in 0..200 {
            let c = case(seed);
            assert!(!c.steps.is_empty(), "{}", c.name);
            assert_eq!(c, case(seed));
        }
    }
}
