//! Bridges and router interfaces on them under traffic of real hosts: the slow path sees their ARP, and nothing else.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hal::Mac;
use serde_json::Value;
use virga_tests::traffic::{poke, tcp};
use virga_tests::world::socket::Packets;
use virga_tests::{Host, LIMIT, World, check, ip, need_kernel, net, on, run, settle, sysctl, wait_for, world};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("tcp_in_one_bridge_and_out_of_it", tcp_in_one_bridge_and_out_of_it),
        ("tcp_in_a_vlan_and_across", tcp_in_a_vlan_and_across),
        ("sixteen_thousand_stations_arrive", sixteen_thousand_stations_arrive),
    ])
}

/// A bridge without snooping, of the first ports, which lose their addresses.
fn bridged(w: &World, ports: u16, words: &str) -> Result<()> {
    for table in ["iptables", "ip6tables", "arptables"] {
        let path = format!("bridge/bridge-nf-call-{table}");
        if std::path::Path::new("/proc/sys/net").join(&path).exists() {
            sysctl(&path, "0")?;
        }
    }
    ip(&format!("link add br0 type bridge mcast_snooping 0 {words}"))?;
    ip("link set br0 address 02:00:00:00:00:b0")?;
    ip("link set br0 up")?;
    for n in 1..=ports {
        ip(&format!("addr flush dev swp{n}"))?;
        ip(&format!("link set swp{n} master br0"))?;
        on(w.host(n), "ip addr flush dev eth0")?;
    }
    Ok(())
}

fn addressed(h: &Host, addr: &str, gateway: &str) -> Result<()> {
    on(h, &format!("ip addr add {addr}/24 dev eth0"))?;
    on(h, &format!("ip route replace default via {gateway}")).map(drop)
}

/// Megabytes of a transfer: of frames that are sent whole or in some thousands of pieces.
const MEGABYTES: usize = 20;
/// More than ARP and what else hosts have to say takes, and far less than the transfer.
const FEW: u64 = 200;

fn transfer(w: &World, from: &Host, to: &Host, addr: &str) -> Result<()> {
    let addr: IpAddr = addr.parse()?;
    wait_for("the way", LIMIT, || poke(from, addr).ok()?.then_some(()))?;
    settle(w)?;
    let before = net::slow_all(4)?;
    tcp(w, from, Some(to), addr, MEGABYTES)?;
    let slow = net::slow_all(4)? - before;
    ensure!(slow < FEW, "{slow} frames took the slow path");
    check(w)
}

fn tcp_in_one_bridge_and_out_of_it() -> Result<()> {
    let w = world()?;
    bridged(&w, 2, "")?;
    ip("addr add 10.60.0.254/24 dev br0")?;
    for (n, addr) in [(1, "10.60.0.1"), (2, "10.60.0.2")] {
        addressed(w.host(n), addr, "10.60.0.254")?;
    }
    settle(&w)?;
    transfer(&w, w.host(1), w.host(2), "10.60.0.2")?;
    transfer(&w, w.host(1), w.host(3), &w.host(3).v4().to_string())?;
    transfer(&w, w.host(4), w.host(2), "10.60.0.2")
}

fn tcp_in_a_vlan_and_across() -> Result<()> {
    need_kernel("vlan-filtering")?;
    need_kernel("8021q")?;
    let w = world()?;
    bridged(&w, 4, "vlan_filtering 1 vlan_default_pvid 0")?;
    for (n, vid) in [(1, 10), (2, 10), (3, 20), (4, 20)] {
        run(std::process::Command::new("bridge")
            .args(format!("vlan add vid {vid} pvid untagged dev swp{n}").split(' ')))?;
        addressed(w.host(n), &format!("10.60.{vid}.{n}"), &format!("10.60.{vid}.254"))?;
    }
    for vid in [10, 20] {
        run(std::process::Command::new("bridge").args(format!("vlan add vid {vid} dev br0 self").split(' ')))?;
        ip(&format!("link add name br0.{vid} link br0 type vlan id {vid}"))?;
        ip(&format!("link set br0.{vid} up"))?;
        ip(&format!("addr add 10.60.{vid}.254/24 dev br0.{vid}"))?;
    }
    settle(&w)?;
    transfer(&w, w.host(1), w.host(2), "10.60.10.2")?;
    transfer(&w, w.host(1), w.host(3), "10.60.20.3")?;
    transfer(&w, w.host(4), w.host(2), "10.60.10.2")
}

fn sixteen_thousand_stations_arrive() -> Result<()> {
    const STATIONS: u32 = 16_000;
    let w = world()?;
    bridged(&w, 2, "")?;
    settle(&w)?;
    let wire = w.host(1).netns.run(|| Packets::open("eth0", None))??;
    let mac = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        Mac([2, 0x77, 0, a, b, c])
    };
    let begin = Instant::now();
    for n in 0..STATIONS {
        // Five thousand in a second.
        let due = Duration::from_micros(200 * u64::from(n));
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let mut f = [&[2, 0x77, 0xff, 0, 0, 1][..], &mac(n).0, &[0x90, 0]].concat();
        f.resize(60, 0);
        wire.send(&f).with_context(|| format!("frame {n}"))?;
    }
    let known = || -> Result<usize> {
        let text = run(std::process::Command::new("bridge").args(["-j", "fdb", "show", "br", "br0"]))?;
        let all: Vec<Value> = serde_json::from_str(&text).context("bridge -j fdb")?;
        let ours = |s: &&Value| s["mac"].as_str().is_some_and(|m| m.starts_with("02:77:00"));
        Ok(all.iter().filter(ours).filter(|s| s["flags"].to_string().contains("extern_learn")).count())
    };
    wait_for("all stations in the kernel", LIMIT, || {
        settle(&w).ok()?;
        (known().ok()? == STATIONS as usize).then_some(())
    })
    .with_context(|| format!("{:?} of {STATIONS}", known()))?;
    // Each one flooded, since nobody is the one that they are for; and none of them by the kernel.
    ensure!(net::slow_all(4)? < u64::from(STATIONS) / 10, "the kernel had to do with them");
    check(&w)
}
