//! Chip and agent: what the kernel would forward the chip forwards, and the rest is left to the kernel.
//!
//! How it is told: a frame of the slow path is counted by the TAPs; one that the chip forwards is not.

use std::net::IpAddr;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use virga_tests::traffic::{icmp, ping, ping_all, poke, tcp};
use virga_tests::{
    Host, LIMIT, World, check, ip, need, need_kernel, net, on, run, settle, sysctl, wait_for, world, world_with,
};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("hundred_pings_stay_in_the_chip", hundred_pings_stay_in_the_chip),
        ("tcp_200_mb_in_the_chip", tcp_200_mb_in_the_chip),
        ("tcp_through_sub_interfaces", tcp_through_sub_interfaces),
        ("tcp_to_the_switch_itself", tcp_to_the_switch_itself),
        ("traceroute_shows_the_switch", traceroute_shows_the_switch),
        ("smaller_mtu_gets_the_kernels_error", smaller_mtu_gets_the_kernels_error),
        ("blackhole_unreachable_prohibit", blackhole_unreachable_prohibit),
        ("more_specific_route_out_of_no_port_is_punted", more_specific_route_out_of_no_port_is_punted),
        ("route_change_moves_traffic", route_change_moves_traffic),
        ("metrics_promote", metrics_promote),
        ("neighbours_new_mac_is_followed", neighbours_new_mac_is_followed),
        ("vanished_host_fails_as_in_the_kernel", vanished_host_fails_as_in_the_kernel),
        ("port_down_and_up", port_down_and_up),
        ("carrier_loss_and_return", carrier_loss_and_return),
        ("multipath_uses_all_members", multipath_uses_all_members),
        ("ip_forward_off_stops_at_once", ip_forward_off_stops_at_once),
        ("forward_chain_closes_the_gate", forward_chain_closes_the_gate),
        ("a_firewall_can_be_passed_over_by_configuration", a_firewall_can_be_passed_over_by_configuration),
        ("ip_rule_closes_the_gate", ip_rule_closes_the_gate),
        ("strict_rp_filter_stops_spoofed_sources", strict_rp_filter_stops_spoofed_sources),
    ])
}

/// Ping once both ways so that all is resolved, then settle.
fn first_exchange(w: &World, from: &Host, to: &Host) -> Result<()> {
    wait_for("IPv4", LIMIT, || poke(from, to.v4()).ok()?.then_some(()))?;
    wait_for("IPv6", LIMIT, || poke(from, to.v6()).ok()?.then_some(()))?;
    settle(w)
}

/// Where the frames of `count` pings went.
#[derive(Debug, PartialEq)]
enum Path {
    Chip,
    Kernel,
    Nowhere,
}

const PINGS: u32 = 40;

fn path(w: &World, from: &Host, to: impl Into<IpAddr>) -> Result<Path> {
    let ports = w.hosts.len() as u16;
    let before = net::slow_all(ports)?;
    let (p, text) = ping(from, to, "-c 40 -i 0.01 -W 1")?;
    let slow = net::slow_all(ports)? - before;
    // ARP and ND of the neighbours, which go on all the time, are a few frames.
    match (p.received, slow) {
        (PINGS, 0..=20) => Ok(Path::Chip),
        (PINGS, n) if n >= u64::from(PINGS) * 2 => Ok(Path::Kernel),
        (0, _) => Ok(Path::Nowhere),
        (n, slow) => anyhow::bail!("{n} of {PINGS} came back, {slow} frames on the slow path\n{text}"),
    }
}

fn expect(w: &World, from: &Host, to: impl Into<IpAddr>, want: Path) -> Result<()> {
    let to = to.into();
    let got = path(w, from, to)?;
    ensure!(got == want, "{} to {to}: {got:?} instead of {want:?}\n{}", from.name, run(w.virga().arg("status"))?);
    Ok(())
}

fn hundred_pings_stay_in_the_chip() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    for to in [IpAddr::V4(h2.v4()), h2.v6().into()] {
        let before = net::slow("swp1")? + net::slow("swp2")?;
        ping_all(h1, to, "-c 100 -i 0.01 -W 2")?;
        let slow = net::slow("swp1")? + net::slow("swp2")? - before;
        ensure!(slow <= 10, "{slow} frames took the slow path to {to}\n{}", run(w.virga().arg("counters"))?);
    }
    check(&w)
}

fn tcp_200_mb_in_the_chip() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    for (to, megabytes) in [(IpAddr::V4(h2.v4()), 200), (h2.v6().into(), 20)] {
        let before = net::slow_all(4)?;
        tcp(&w, h1, Some(h2), to, megabytes)?;
        let slow = net::slow_all(4)? - before;
        ensure!(slow < 100, "{slow} frames took the slow path to {to}");
    }
    Ok(())
}

/// Super-frames of the hosts' own VLAN devices: cut, and their tags taken off, put on and exchanged. One tag on the first wire,
/// two on the second, within what a veth takes.
fn tcp_through_sub_interfaces() -> Result<()> {
    need_kernel("8021ad")?;
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    ip("link add link swp1 name a1 type vlan id 5")?;
    ip("link add link swp2 name s2 type vlan protocol 802.1ad id 9")?;
    ip("link add link s2 name a2 mtu 1496 type vlan id 5")?;
    on(h1, "ip link add link eth0 name a1 type vlan id 5")?;
    on(h2, "ip link add link eth0 name s2 type vlan protocol 802.1ad id 9")?;
    on(h2, "ip link add link s2 name a2 mtu 1496 type vlan id 5")?;
    ip("link set s2 up")?;
    on(h2, "ip link set s2 up")?;
    for (h, n, other) in [(h1, 1, 2), (h2, 2, 1)] {
        for (last, host) in [(1, None), (2, Some(h))] {
            for line in [
                format!("link set a{n} up"),
                format!("addr add 10.50.{n}.{last}/24 dev a{n}"),
                format!("addr add 2001:db8:50:{n}::{last}/64 dev a{n} nodad"),
            ] {
                host.map_or_else(|| ip(&line), |h| on(h, &format!("ip {line}")))?;
            }
        }
        on(h, &format!("ip route add 10.50.{other}.0/24 via 10.50.{n}.1"))?;
        on(h, &format!("ip route add 2001:db8:50:{other}::/64 via 2001:db8:50:{n}::1"))?;
    }
    let to: [IpAddr; 2] = ["10.50.2.2".parse()?, "2001:db8:50:2::2".parse()?];
    for to in to {
        wait_for("the first answer", LIMIT, || poke(h1, to).ok()?.then_some(()))?;
    }
    settle(&w)?;
    for (from, receiver, to) in [(h1, h2, to[0]), (h1, h2, to[1]), (h2, h1, "10.50.1.2".parse()?)] {
        let before = net::slow_all(4)?;
        tcp(&w, from, Some(receiver), to, 20)?;
        let slow = net::slow_all(4)? - before;
        ensure!(slow < 100, "{slow} frames took the slow path to {to}\n{}", run(w.virga().arg("counters"))?);
    }
    check(&w)
}

fn tcp_to_the_switch_itself() -> Result<()> {
    let w = world()?;
    tcp(&w, w.host(1), None, w.host(1).gateway4().into(), 20)?;
    // Through the chip's idea of the other port, too.
    tcp(&w, w.host(1), None, w.host(2).gateway4().into(), 5)?;
    tcp(&w, w.host(1), None, w.host(1).gateway6().into(), 5)
}

fn traceroute_shows_the_switch() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    let (p, text) = ping(h1, h2.v4(), "-c 1 -t 1 -W 2")?;
    ensure!(p.received == 0 && text.contains("From 10.0.1.1"), "{text}");
    let (p, text) = ping(h1, h2.v6(), "-c 1 -t 1 -W 2")?;
    ensure!(p.received == 0 && text.contains("From 2001:db8:1::1"), "{text}");
    need("traceroute", "traceroute")?;
    for (to, hop) in [("10.0.2.2", "10.0.1.1"), ("2001:db8:2::2", "2001:db8:1::1")] {
        let text = on(h1, &format!("traceroute -n -q 1 -w 2 {to}"))?;
        let hops: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
        ensure!(hops == [hop, to], "{text}");
    }
    Ok(())
}

fn smaller_mtu_gets_the_kernels_error() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    ping_all(h1, h2.v4(), "-c 3 -i 0.1 -M do -s 1472 -W 2")?;
    ip("link set swp2 mtu 1400")?;
    settle(&w)?;
    let (p, text) = ping(h1, h2.v4(), "-c 2 -i 0.1 -M do -s 1472 -W 2")?;
    ensure!(p.received == 0 && text.contains("1400"), "{text}");
    let (p, text) = ping(h1, h2.v6(), "-c 2 -i 0.1 -M do -s 1452 -W 2")?;
    ensure!(p.received == 0 && text.contains("1400"), "{text}");
    // What fits still does not need the kernel.
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}

fn blackhole_unreachable_prohibit() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    for (kind, says4, says6) in [
        ("blackhole", None, None),
        ("unreachable", Some("Destination Host Unreachable"), Some("No route")),
        ("prohibit", Some("Packet filtered"), Some("Administratively prohibited")),
    ] {
        ip(&format!("route add {kind} 10.0.2.2/32"))?;
        ip(&format!("-6 route add {kind} 2001:db8:2::2/128"))?;
        settle(&w)?;
        let (p, text) = ping(h1, h2.v4(), "-c 2 -i 0.1 -W 1")?;
        ensure!(p.received == 0 && says4.is_none_or(|s| text.contains(s)), "{kind}: {text}");
        ensure!(says4.is_some() || !text.contains("From"), "{kind}: {text}");
        let (p, text) = ping(h1, h2.v6(), "-c 2 -i 0.1 -W 1")?;
        ensure!(p.received == 0 && says6.is_none_or(|s| text.contains(s)), "{kind}: {text}");
        check(&w)?;
        ip(&format!("route del {kind} 10.0.2.2/32"))?;
        ip(&format!("-6 route del {kind} 2001:db8:2::2/128"))?;
        settle(&w)?;
        expect(&w, h1, h2.v4(), Path::Chip)?;
        expect(&w, h1, h2.v6(), Path::Chip)?;
    }
    Ok(())
}

/// kernel-facts 24: a route through a device that is no port is not left out.
fn more_specific_route_out_of_no_port_is_punted() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    on(h2, "ip addr add 10.9.0.1/32 dev lo")?;
    on(h2, "ip addr add 10.9.0.2/32 dev lo")?;
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    first_exchange(&w, h1, h2)?;
    expect(&w, h1, "10.9.0.1".parse::<IpAddr>()?, Path::Chip)?;
    ip("link add mgmt type veth peer mgmt-peer")?;
    ip("link set mgmt up")?;
    ip("route add 10.9.0.2/32 dev mgmt")?;
    settle(&w)?;
    expect(&w, h1, "10.9.0.2".parse::<IpAddr>()?, Path::Nowhere)?;
    expect(&w, h1, "10.9.0.1".parse::<IpAddr>()?, Path::Chip)?;
    check(&w)
}

fn has(host: &Host, addr: &str) -> Result<()> {
    on(host, &format!("ip addr add {addr} dev lo")).map(drop)
}

fn route_change_moves_traffic() -> Result<()> {
    let w = world()?;
    let h1 = w.host(1);
    for n in [2, 3] {
        has(w.host(n), "10.9.0.1/32")?;
        has(w.host(n), "2001:db8:9::1/128")?;
        first_exchange(&w, h1, w.host(n))?;
    }
    for (n, gateway4, gateway6) in [(2, "10.0.2.2", "2001:db8:2::2"), (3, "10.0.3.2", "2001:db8:3::2")] {
        ip(&format!("route replace 10.9.0.0/24 via {gateway4}"))?;
        ip(&format!("-6 route replace 2001:db8:9::/48 via {gateway6}"))?;
        settle(&w)?;
        for to in ["10.9.0.1", "2001:db8:9::1"] {
            let before = net::received(w.host(n))?;
            expect(&w, h1, to.parse::<IpAddr>()?, Path::Chip)?;
            let got = net::received(w.host(n))? - before;
            ensure!(got >= u64::from(PINGS), "h{n} received {got} frames for {to}");
        }
        check(&w)?;
    }
    Ok(())
}

/// kernel-facts 13: the better metric goes, the other one is used, and no message says so.
fn metrics_promote() -> Result<()> {
    let w = world()?;
    let h1 = w.host(1);
    for n in [2, 3] {
        has(w.host(n), "10.9.0.1/32")?;
        first_exchange(&w, h1, w.host(n))?;
    }
    ip("route add 10.9.0.0/24 via 10.0.2.2 metric 10")?;
    ip("route add 10.9.0.0/24 via 10.0.3.2 metric 20")?;
    settle(&w)?;
    for n in [2, 3] {
        let before = net::received(w.host(n))?;
        expect(&w, h1, "10.9.0.1".parse::<IpAddr>()?, Path::Chip)?;
        ensure!(net::received(w.host(n))? - before >= u64::from(PINGS), "not by h{n}");
        if n == 2 {
            ip("route del 10.9.0.0/24 via 10.0.2.2 metric 10")?;
            settle(&w)?;
        }
    }
    check(&w)
}

fn neighbours_new_mac_is_followed() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    on(h2, "ip link set eth0 address 02:00:00:00:99:02")?;
    // The host says so itself, as hosts do when they come up.
    wait_for("the switch's new entry", LIMIT, || {
        run(Command::new("ping").args(["-n", "-c", "1", "-W", "1", "10.0.2.2"])).ok();
        poke(h2, h2.gateway4()).ok();
        poke(h2, h2.gateway6()).ok();
        let both = ip("neigh show dev swp2").ok()?;
        (both.matches("02:00:00:00:99:02").count() >= 2).then_some(())
    })?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}

fn vanished_host_fails_as_in_the_kernel() -> Result<()> {
    // The kernel's own times, shortened.
    let w = world()?;
    for family in ["ipv4", "ipv6"] {
        for (name, value) in
            [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "200")]
        {
            sysctl(&format!("{family}/neigh/swp2/{name}"), value)?;
        }
    }
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    on(h2, "ip link set eth0 arp off")?;
    on(h2, "ip addr flush dev eth0")?;
    // Used all the time, by traffic that the chip forwards into the void: the kernel would notice.
    let mut flood = virga_tests::traffic::flood(h1, h2.v4(), "-i 0.05 -c 1000")?;
    let failed = wait_for("FAILED", LIMIT, || {
        net::neighbour("10.0.2.2").ok().filter(|s| s == "FAILED" || s == "INCOMPLETE" || s.is_empty())
    });
    ensure!(flood.running()?, "the flood ended early");
    flood.stop()?;
    failed?;
    settle(&w)?;
    check(&w)
}

fn port_down_and_up() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    has(h2, "10.9.0.1/32")?;
    first_exchange(&w, h1, h2)?;
    ip("link set swp2 down")?;
    settle(&w)?;
    check(&w)?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    ip("link set swp2 up")?;
    // kernel-facts 21: the IPv6 address is gone for good; kernel-facts 1: so is the route.
    ip("addr replace 2001:db8:2::1/64 dev swp2 nodad")?;
    ensure!(ip("route show 10.9.0.0/24")?.is_empty(), "the kernel kept the route");
    wait_for("the way to h2", LIMIT, || poke(h1, h2.v4()).ok()?.then_some(()))?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    ensure!(!poke(h1, "10.9.0.1".parse::<IpAddr>()?)?, "the chip kept the route");
    check(&w)
}

fn carrier_loss_and_return() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    on(h2, "ip link set eth0 down")?;
    wait_for("carrier loss", LIMIT, || (!net::carrier("swp2").ok()?).then_some(()))?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    check(&w)?;
    on(h2, "ip link set eth0 up")?;
    on(h2, "ip route replace default via 10.0.2.1")?;
    wait_for("carrier", LIMIT, || net::carrier("swp2").ok()?.then_some(()))?;
    wait_for("the way to h2", LIMIT, || poke(h1, h2.v4()).ok()?.then_some(()))?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}

fn multipath_uses_all_members() -> Result<()> {
    let w = world()?;
    let h1 = w.host(1);
    for n in [2, 3] {
        for last in 1..=32 {
            has(w.host(n), &format!("10.9.0.{last}/32"))?;
        }
        first_exchange(&w, h1, w.host(n))?;
    }
    ip("route add 10.9.0.0/24 nexthop via 10.0.2.2 weight 3 nexthop via 10.0.3.2 weight 1")?;
    settle(&w)?;
    check(&w)?;
    let before = [net::received(w.host(2))?, net::received(w.host(3))?];
    let slow = net::slow_all(4)?;
    for last in 1..=32 {
        ping_all(h1, format!("10.9.0.{last}").parse::<IpAddr>()?, "-c 2 -i 0.01 -W 2")?;
    }
    let share = [net::received(w.host(2))? - before[0], net::received(w.host(3))? - before[1]];
    ensure!(share[0] >= 2 && share[1] >= 2, "the shares are {share:?}");
    ensure!(net::slow_all(4)? - slow <= 20, "the slow path was used");
    Ok(())
}

/// The kernel lets ICMP redirects in where it does not forward, which closes that family; the other goes on in the chip.
fn ip_forward_off_stops_at_once() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    sysctl("ipv4/ip_forward", "0")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    expect(&w, h1, h2.v6(), Path::Chip)?;
    check(&w)?;
    sysctl("ipv4/ip_forward", "1")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    sysctl("ipv6/conf/all/forwarding", "0")?;
    settle(&w)?;
    expect(&w, h1, h2.v6(), Path::Nowhere)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}

fn forward_chain_closes_the_gate() -> Result<()> {
    need("nft", "nftables")?;
    need_kernel("nft-ip")?;
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    let nft = |line: &str| run(Command::new("nft").args(line.split_whitespace()));
    nft("add table ip t")?;
    nft("add chain ip t f { type filter hook forward priority 0 ; }")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Kernel)?;
    let said = run(w.virga().arg("status"))?;
    ensure!(said.contains("nftables") || said.contains("nf_tables"), "status does not say why:\n{said}");
    nft("add rule ip t f ip daddr 10.0.2.2 drop")?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    nft("delete table ip t")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}

fn a_firewall_can_be_passed_over_by_configuration() -> Result<()> {
    need("nft", "nftables")?;
    need_kernel("nft-ip")?;
    std::fs::create_dir_all("/run/virga")?;
    let file = "/run/virga/policy.toml";
    std::fs::write(file, "[agent]\npolicy.firewall = \"ignore\"\n")?;
    let w = world_with(|c| c.agent_args = vec!["--config".into(), file.into()])?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    let nft = |line: &str| run(Command::new("nft").args(line.split_whitespace()));
    nft("add table ip t")?;
    nft("add chain ip t f { type filter hook forward priority 0 ; policy drop ; }")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Chip)?;
    let said = run(w.virga().arg("status"))?;
    ensure!(said.contains("policy.firewall is \"ignore\"") && said.contains("chain ip t f"), "no warning:\n{said}");
    // What is no firewall closes the gate as ever.
    ip("rule add from 10.0.1.2 prohibit")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    check(&w)
}

fn ip_rule_closes_the_gate() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    first_exchange(&w, h1, h2)?;
    ip("rule add from 10.0.1.2 prohibit")?;
    settle(&w)?;
    expect(&w, h1, h2.v4(), Path::Nowhere)?;
    expect(&w, h1, h2.v6(), Path::Chip)?;
    check(&w)?;
    ip("rule del from 10.0.1.2 prohibit")?;
    settle(&w)?;
    ensure!(path(&w, h1, h2.v4())? != Path::Nowhere, "the rule is gone and traffic is not back");
    check(&w)
}

fn strict_rp_filter_stops_spoofed_sources() -> Result<()> {
    let w = world()?;
    let (h1, h2) = (w.host(1), w.host(2));
    has(h1, "10.0.3.77/32")?;
    first_exchange(&w, h1, h2)?;
    // Told apart by what they are from whatever else comes to a host.
    let spoofed = || -> Result<u64> {
        let before = icmp(h2, "InEchos")?;
        let mut c = h1.command("ping")?;
        c.args(["-n", "-q", "-c", "20", "-i", "0.01", "-W", "1", "-I", "10.0.3.77", "10.0.2.2"]);
        c.output().context("ping")?;
        Ok(icmp(h2, "InEchos")? - before)
    };
    let n = spoofed()?;
    ensure!(n == 20, "without the filter {n} of 20 packets arrived");
    sysctl("ipv4/conf/swp1/rp_filter", "1")?;
    settle(&w)?;
    let n = spoofed()?;
    ensure!(n == 0, "{n} packets with a spoofed source arrived");
    expect(&w, h1, h2.v4(), Path::Chip)?;
    check(&w)
}
