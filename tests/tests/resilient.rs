//! Resilient next-hop groups under traffic: whose flows move, whose don't, and that none is lost on the way.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use virga_tests::traffic::{pings, poke};
use virga_tests::{LIMIT, World, check, ip, net, on, run, settle, wait_for, world};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("only_flows_of_a_lost_member_move", only_flows_of_a_lost_member_move),
        ("no_packet_is_lost_while_a_group_changes", || none_is_lost("")),
        ("no_packet_is_lost_while_a_resilient_group_changes", || none_is_lost("type resilient buckets 32")),
        ("no_packet_is_lost_while_buckets_move", || none_is_lost("type resilient buckets 32 idle_timer 0")),
    ])
}

/// Hosts 2 to 4 each are all of 10.9.0.0/24, which is behind group 10 of next hops 1 to 3.
fn built(words: &str) -> Result<World> {
    let w = world()?;
    for n in 2..5 {
        on(w.host(n), "ip route add local 10.9.0.0/24 dev lo")?;
        wait_for("a neighbour", LIMIT, || poke(w.host(1), w.host(n).v4()).ok()?.then_some(()))?;
        ip(&format!("nexthop add id {} via 10.0.{n}.2 dev swp{n}", n - 1))?;
    }
    ip(&format!("nexthop add id 10 group 1/2/3 {words}"))?;
    ip("route add 10.9.0.0/24 nhid 10")?;
    settle(&w)?;
    check(&w)?;
    Ok(w)
}

/// The flows' far ends, in three hosts.
struct Flows {
    from: UdpSocket,
    to: Vec<UdpSocket>,
}

const FLOWS: u8 = 250;

impl Flows {
    fn new(w: &World) -> Result<Flows> {
        let socket = |n: u16, addr: &'static str| -> Result<UdpSocket> {
            let s = w.host(n).netns.run(|| UdpSocket::bind(addr))??;
            s.set_nonblocking(true)?;
            Ok(s)
        };
        Ok(Flows {
            from: socket(1, "0.0.0.0:0")?,
            to: (2..5).map(|n| socket(n, "0.0.0.0:4000")).collect::<Result<_>>()?,
        })
    }
    /// The host, from 2, that a packet of each flow came to.
    fn ways(&self) -> Result<BTreeMap<u8, u16>> {
        for n in 1..=FLOWS {
            self.from.send_to(&[n], (Ipv4Addr::new(10, 9, 0, n), 4000)).context("a packet of a flow")?;
        }
        let mut out = BTreeMap::new();
        wait_for("all flows", LIMIT, || {
            for (s, host) in self.to.iter().zip(2..) {
                let mut n = [0];
                while s.recv(&mut n).is_ok() {
                    out.insert(n[0], host);
                }
            }
            (out.len() == usize::from(FLOWS)).then_some(())
        })?;
        Ok(out)
    }
}

fn only_flows_of_a_lost_member_move() -> Result<()> {
    let w = built("type resilient buckets 64")?;
    let f = Flows::new(&w)?;
    let slow = net::slow_all(4)?;
    let first = f.ways()?;
    ensure!(net::slow_all(4)? - slow <= 20, "the slow path was used");
    let on_host = |ways: &BTreeMap<u8, u16>, host: u16| ways.values().filter(|h| **h == host).count();
    for host in 2..5 {
        ensure!((40..=130).contains(&on_host(&first, host)), "host {host} has {} flows", on_host(&first, host));
    }
    let stays = |before: &BTreeMap<u8, u16>, now: &BTreeMap<u8, u16>, lost: u16| {
        before.iter().filter(|(n, h)| **h != lost && now[n] != **h).count()
    };

    ip("nexthop replace id 10 group 2/3 type resilient")?;
    settle(&w)?;
    let less = f.ways()?;
    ensure!(on_host(&less, 2) == 0 && stays(&first, &less, 2) == 0, "{first:?}\n{less:?}");

    // An agent that dies, and its successor, move none: the group is found again among others that differ in nothing but where their
    // buckets lead, and whose routes the chip tells before its own.
    ip("route add 10.8.0.0/24 nhid 10")?;
    settle(&w)?;
    ip("route del 10.9.0.0/24")?;
    settle(&w)?;
    for id in [5, 11] {
        ip(&format!("nexthop add id {id} group 2/3 type resilient buckets 64"))?;
        ip(&format!("route add 10.{id}.0.0/24 nhid {id}"))?;
        settle(&w)?;
    }
    ip("route add 10.9.0.0/24 nhid 10")?;
    settle(&w)?;
    w.agent.as_ref().context("no agent")?.stop_with(Signal::KILL);
    ensure!(f.ways()? == less, "flows moved as the agent died");
    w.agent.as_ref().context("no agent")?.resume();
    wait_for("the next agent", LIMIT, || settle(&w).ok())?;
    check(&w)?;
    ensure!(f.ways()? == less, "flows moved as the agent came back");

    // A new member has to wait: its flows would be those of others, who are not idle.
    ip("nexthop replace id 10 group 1/2/3 type resilient")?;
    settle(&w)?;
    check(&w)?;
    ensure!(f.ways()? == less, "flows moved although they are in use");
    // Until it has waited for too long.
    ip("nexthop replace id 10 group 1/2/3 type resilient unbalanced_timer 1")?;
    settle(&w)?;
    let fair = |ways: &BTreeMap<u8, u16>| (2..5).all(|h| on_host(ways, h) >= 40);
    wait_for("the unbalanced timer", LIMIT, || f.ways().ok().filter(fair))?;
    // They may have moved between one flow's packet and another's.
    let forced = f.ways()?;
    ensure!(forced.iter().all(|(n, h)| less[n] == *h || *h == 2), "more moved than had to: {less:?}\n{forced:?}");
    let text = run(w.virga().args(["nexthop", "show"]))?;
    let counts = ["nhid 1 buckets 21 nhid 2 buckets 22 nhid 3 buckets 21", "type resilient buckets 64 idle_timer 120"];
    ensure!(counts.iter().all(|c| text.contains(c)), "{text}");
    let all = run(w.virga().args(["nexthop", "bucket", "show", "id", "10"]))?;
    ensure!(all.lines().count() == 64 && all.starts_with("id 10 index 0 idle_time "), "{all}");

    // A link is lost: the kernel takes the next hop out of the group.
    on(w.host(4), "ip link set eth0 down")?;
    wait_for("carrier loss", LIMIT, || (!net::carrier("swp4").ok()?).then_some(()))?;
    settle(&w)?;
    let left = f.ways()?;
    ensure!(on_host(&left, 4) == 0 && stays(&forced, &left, 4) == 0, "{forced:?}\n{left:?}");
    check(&w)
}

/// A group and its members are replaced in place while packets pass: make before break.
fn none_is_lost(words: &str) -> Result<()> {
    let w = built(words)?;
    let f = Flows::new(&w)?;
    let mut pinging = w.host(1).command("ping")?;
    pinging.args("-n -q -i 0.002 -c 1500 -W 5 10.9.0.77".split(' ')).stdout(Stdio::piped());
    let pinging = pinging.spawn().context("ping")?;
    let kind = words.split(" buckets").next().unwrap_or_default();
    for _ in 0..12 {
        for members in ["1/3", "2,9/3", "2", "1,3/2", "1/2/3"] {
            ip(&format!("nexthop replace id 10 group {members} {kind}"))?;
            f.ways()?;
        }
        ip("nexthop replace id 2 via 10.0.4.2 dev swp4")?;
        f.ways()?;
        ip("nexthop replace id 2 via 10.0.3.2 dev swp3")?;
    }
    settle(&w)?;
    check(&w)?;
    let out = pinging.wait_with_output()?;
    let p = pings(&String::from_utf8_lossy(&out.stdout))?;
    ensure!(p.received == p.sent && p.duplicates == 0 && p.sent > 0, "{p:?}");
    Ok(())
}
