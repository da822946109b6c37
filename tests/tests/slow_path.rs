//! The chip alone, its tables empty: everything that passes does so through the kernel.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use virga_tests::traffic::{ping, ping_all, tcp};
use virga_tests::{LIMIT, chip_only, ip, net, on, run, wait_for};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("ping_between_hosts_and_to_the_switch", ping_between_hosts_and_to_the_switch),
        ("neighbour_discovery_both_ways", neighbour_discovery_both_ways),
        ("ttl_and_hop_limit_end_in_the_kernel", ttl_and_hop_limit_end_in_the_kernel),
        ("tcp_200_mb_between_hosts", tcp_200_mb_between_hosts),
        ("tcp_to_the_switch", tcp_to_the_switch),
        ("large_packets_meet_the_kernels_mtu", large_packets_meet_the_kernels_mtu),
        ("port_state_follows_both_sides", port_state_follows_both_sides),
        ("killed_chip_takes_carrier_down_and_returns", killed_chip_takes_carrier_down_and_returns),
        ("nothing_is_doubled", nothing_is_doubled),
    ])
}

fn ping_between_hosts_and_to_the_switch() -> Result<()> {
    let w = chip_only()?;
    let (h1, h2) = (w.host(1), w.host(2));
    let before = net::slow("swp1")?;
    for to in [IpAddr::V4(h2.v4()), h2.v6().into(), h1.gateway4().into(), h1.gateway6().into(), h2.gateway4().into()] {
        ping_all(h1, to, "-c 5 -i 0.05 -W 2")?;
    }
    ensure!(net::slow("swp1")? >= before + 5 * 5 * 2, "the frames did not go through the TAP");
    Ok(())
}

fn neighbour_discovery_both_ways() -> Result<()> {
    let w = chip_only()?;
    let h1 = w.host(1);
    for (mine, theirs) in
        [(h1.v4().to_string(), h1.gateway4().to_string()), (h1.v6().to_string(), h1.gateway6().to_string())]
    {
        // The switch asks.
        run(std::process::Command::new("ping").args(["-n", "-c", "1", "-W", "2", &mine]))?;
        ensure!(ip(&format!("neigh show {mine}"))?.contains(&h1.mac().to_string()), "no entry for {mine}");
        // The host asks.
        on(h1, &format!("ip neigh flush to {theirs}"))?;
        ping_all(h1, theirs.parse::<IpAddr>()?, "-c 1 -W 2")?;
        ensure!(on(h1, &format!("ip neigh show {theirs}"))?.contains("02:00:00:00:00:01"), "no entry for {theirs}");
    }
    Ok(())
}

fn ttl_and_hop_limit_end_in_the_kernel() -> Result<()> {
    let w = chip_only()?;
    let (h1, h2) = (w.host(1), w.host(2));
    let (p, text) = ping(h1, h2.v4(), "-c 2 -i 0.2 -t 1 -W 2")?;
    ensure!(p.received == 0 && text.contains("From 10.0.1.1") && text.contains("Time to live exceeded"), "{text}");
    let (p, text) = ping(h1, h2.v6(), "-c 2 -i 0.2 -t 1 -W 2")?;
    ensure!(p.received == 0 && text.contains("From 2001:db8:1::1") && text.contains("Hop limit"), "{text}");
    ping_all(h1, h2.v4(), "-c 1 -t 2 -W 2")?;
    Ok(())
}

fn tcp_200_mb_between_hosts() -> Result<()> {
    let w = chip_only()?;
    let before = net::counter("swp2", "tx_bytes")?;
    tcp(&w, w.host(1), Some(w.host(2)), w.host(2).v4().into(), 200)?;
    let through = net::counter("swp2", "tx_bytes")? - before;
    ensure!(through >= 200_000_000, "only {through} bytes went through the TAP");
    tcp(&w, w.host(3), Some(w.host(4)), w.host(4).v6().into(), 20)
}

fn tcp_to_the_switch() -> Result<()> {
    let w = chip_only()?;
    tcp(&w, w.host(1), None, w.host(1).gateway4().into(), 20)?;
    tcp(&w, w.host(1), None, w.host(1).gateway6().into(), 20)
}

fn large_packets_meet_the_kernels_mtu() -> Result<()> {
    let w = chip_only()?;
    let (h1, h2) = (w.host(1), w.host(2));
    ping_all(h1, h2.v4(), "-c 3 -i 0.1 -M do -s 1472 -W 2")?;
    // A fragmented datagram is put together by the host, not on the way.
    ping_all(h1, h2.v4(), "-c 3 -i 0.1 -s 5000 -W 2")?;
    ip("link set swp2 mtu 1400")?;
    let (p, text) = ping(h1, h2.v4(), "-c 2 -i 0.1 -M do -s 1472 -W 2")?;
    ensure!(p.received == 0 && text.contains("1400"), "{text}");
    let (p, text) = ping(h1, h2.v6(), "-c 2 -i 0.1 -M do -s 1452 -W 2")?;
    ensure!(p.received == 0 && text.contains("1400"), "{text}");
    Ok(())
}

fn port_state_follows_both_sides() -> Result<()> {
    let w = chip_only()?;
    let h1 = w.host(1);
    let host_carrier = || on(h1, "ip -o link show eth0").map(|t| t.contains("LOWER_UP"));
    // Admin-down of the TAP is seen at the far end of the wire.
    ip("link set swp1 down")?;
    wait_for("carrier loss at the host", LIMIT, || host_carrier().is_ok_and(|c| !c).then_some(()))?;
    ip("link set swp1 up")?;
    wait_for("carrier at the host", LIMIT, || host_carrier().is_ok_and(|c| c).then_some(()))?;
    // And a far end that goes down is seen at the TAP.
    on(h1, "ip link set eth0 down")?;
    wait_for("carrier loss at swp1", LIMIT, || net::carrier("swp1").is_ok_and(|c| !c).then_some(()))?;
    on(h1, "ip link set eth0 up")?;
    wait_for("carrier at swp1", LIMIT, || net::carrier("swp1").is_ok_and(|c| c).then_some(()))?;
    on(h1, "ip route add default via 10.0.1.1")?;
    ping_all(h1, w.host(2).v4(), "-c 3 -i 0.1 -W 2")?;
    Ok(())
}

fn killed_chip_takes_carrier_down_and_returns() -> Result<()> {
    let w = chip_only()?;
    w.chip.stop_with(rustix::process::Signal::KILL);
    wait_for("carrier loss", LIMIT, || net::carrier("swp1").is_ok_and(|c| !c).then_some(()))?;
    ensure!(ip("-4 addr show swp1")?.contains("10.0.1.1/24"), "the address is gone");
    let index = ip("-o link show swp1")?;
    w.chip.resume();
    wait_for("carrier", LIMIT, || net::carrier("swp1").is_ok_and(|c| c).then_some(()))?;
    let now = ip("-o link show swp1")?;
    ensure!(index.split(':').next() == now.split(':').next(), "a second device was made: {index} {now}");
    wait_for("the way through", LIMIT, || ping_all(w.host(1), w.host(2).v4(), "-c 1 -W 1").ok())?;
    ping_all(w.host(1), w.host(2).v4(), "-c 10 -i 0.05 -W 2")?;
    Ok(())
}

/// One owner for every frame: what the kernel forwards the chip does not.
fn nothing_is_doubled() -> Result<()> {
    let w = chip_only()?;
    ping_all(w.host(1), w.host(2).v4(), "-c 1 -W 2")?;
    let before = net::received(w.host(2))?;
    ping_all(w.host(1), w.host(2).v4(), "-c 100 -i 0.01 -W 2")?;
    let got = net::received(w.host(2))? - before;
    // ARP may add a few.
    ensure!((100..=104).contains(&got), "{got} frames arrived for 100");
    Ok(())
}
