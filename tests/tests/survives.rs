//! Kills, full tables, overruns: what must go on goes on, and what was lost is made again.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use virga_tests::traffic::{flood, ping_all, poke, tcp};
use virga_tests::{LIMIT, World, check, ip, net, on, run, settle, wait_for, world, world_with};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("killed_agent_loses_no_packet", killed_agent_loses_no_packet),
        ("killed_agent_during_a_transfer", killed_agent_during_a_transfer),
        ("changes_while_the_agent_was_away", changes_while_the_agent_was_away),
        ("killed_chip_is_programmed_again", killed_chip_is_programmed_again),
        ("twenty_thousand_routes", twenty_thousand_routes),
        ("full_tables_still_reach_everything", full_tables_still_reach_everything),
        ("second_agent_is_refused", second_agent_is_refused),
    ])
}

fn agent(w: &World) -> Result<&virga::lab::daemon::Daemon> {
    w.agent.as_ref().context("no agent")
}

/// Kill the agent and wait until its successor has settled.
fn kill_agent(w: &World) -> Result<()> {
    let agent = agent(w)?;
    let starts = agent.starts();
    ensure!(agent.signal(Signal::KILL), "the agent did not run");
    wait_for("the next agent", LIMIT, || (agent.starts() > starts).then_some(()))?;
    wait_for("its answer", LIMIT, || settle(w).ok())
}

fn first_exchange(w: &World) -> Result<()> {
    let (h1, h2) = (w.host(1), w.host(2));
    wait_for("IPv4", LIMIT, || poke(h1, h2.v4()).ok()?.then_some(()))?;
    wait_for("IPv6", LIMIT, || poke(h1, h2.v6()).ok()?.then_some(()))?;
    settle(w)
}

fn killed_agent_loses_no_packet() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    let (h1, h2) = (w.host(1), w.host(2));
    // Fast path and slow path: the second one is answered by the switch's own kernel.
    let mut fast = flood(h1, h2.v4(), "-i 0.002 -c 2000 -W 2")?;
    let mut fast6 = flood(h1, h2.v6(), "-i 0.002 -c 2000 -W 2")?;
    let mut slow = flood(w.host(3), w.host(3).gateway4(), "-i 0.005 -c 800 -W 2")?;
    // Moments that have nothing to do with each other.
    for pause in [0, 37, 113] {
        thread::sleep(Duration::from_millis(pause));
        kill_agent(&w)?;
    }
    ensure!(fast.running()? || fast6.running()? || slow.running()?, "the traffic ended before the last kill");
    for (what, flood) in [("IPv4", fast), ("IPv6", fast6), ("slow path", slow)] {
        let p = flood.finish()?;
        ensure!(p.received == p.sent && p.duplicates == 0, "{what}: {p:?}");
    }
    check(&w)
}

fn killed_agent_during_a_transfer() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    let before = net::slow_all(4)?;
    thread::scope(|s| {
        let transfer = s.spawn(|| tcp(&w, w.host(1), Some(w.host(2)), w.host(2).v4().into(), 60));
        kill_agent(&w)?;
        transfer.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))?
    })?;
    let slow = net::slow_all(4)? - before;
    // Of some 40,000: the next agent writes the difference only, and there is none.
    ensure!(slow < 100, "{slow} frames took the slow path");
    check(&w)
}

fn changes_while_the_agent_was_away() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    ip("route add 10.8.0.0/24 via 10.0.2.2")?;
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    settle(&w)?;
    agent(&w)?.stop_with(Signal::KILL);
    ip("route del 10.8.0.0/24")?;
    ip("route replace 10.9.0.0/24 via 10.0.3.2")?;
    ip("route add blackhole 10.7.0.0/24")?;
    ip("link set swp4 down")?;
    ping_all(w.host(1), w.host(2).v4(), "-c 20 -i 0.01 -W 2")?;
    agent(&w)?.resume();
    wait_for("the next agent", LIMIT, || settle(&w).ok())?;
    check(&w)
}

fn killed_chip_is_programmed_again() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    on(w.host(2), "ip addr add 10.9.0.1/32 dev lo")?;
    settle(&w)?;
    let starts = w.chip.starts();
    w.chip.stop_with(Signal::KILL);
    wait_for("carrier loss", LIMIT, || (!net::carrier("swp1").ok()?).then_some(()))?;
    w.chip.resume();
    wait_for("the next chip", LIMIT, || (w.chip.starts() > starts).then_some(()))?;
    for n in 1..=4 {
        wait_for("carrier", LIMIT, || net::carrier(&format!("swp{n}")).ok()?.then_some(()))?;
    }
    wait_for("the way to h2", LIMIT, || poke(w.host(1), w.host(2).v4()).ok()?.then_some(()))?;
    wait_for("settling", LIMIT, || settle(&w).ok())?;
    check(&w)?;
    let to: IpAddr = "10.9.0.1".parse()?;
    poke(w.host(1), to)?;
    settle(&w)?;
    let before = net::slow_all(4)?;
    ping_all(w.host(1), to, "-c 50 -i 0.01 -W 2")?;
    let slow = net::slow_all(4)? - before;
    // ARP and ND of four hosts whose links have just come up; by the kernel it would be 200 frames.
    ensure!(slow <= 40, "{slow} frames took the slow path");
    Ok(())
}

/// `ip -batch` with one line each.
fn batch(lines: impl Iterator<Item = String>) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let text: String = lines.map(|l| l + "\n").collect();
    child.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "ip -batch failed");
    Ok(())
}

fn prefix(n: u32) -> String {
    format!("20.{}.{}.{}/30", n >> 14, n >> 6 & 255, (n & 63) << 2)
}

fn twenty_thousand_routes() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    batch((0..20_000).map(|n| format!("route add {} via 10.0.{}.2", prefix(n), 2 + n % 3)))?;
    settle(&w)?;
    check(&w)?;
    batch((0..20_000).step_by(2).map(|n| format!("route del {}", prefix(n))))?;
    batch((1..20_000).step_by(4).map(|n| format!("route replace {} via 10.0.1.2", prefix(n))))?;
    settle(&w)?;
    check(&w)?;
    // kernel-facts 1: all through one port vanish without a message.
    ip("link set swp3 down")?;
    settle(&w)?;
    check(&w)
}

fn full_tables_still_reach_everything() -> Result<()> {
    let w = world_with(|c| c.chip_args.extend(["--profile".into(), "small".into()]))?;
    first_exchange(&w)?;
    let h2 = w.host(2);
    batch((0..6_000).map(|n| format!("route add {} via 10.0.2.2", prefix(n))))?;
    // A shorter prefix that leads elsewhere: a route that was left out would go there.
    ip("route add 20.0.0.0/8 via 10.0.3.2")?;
    settle(&w)?;
    check(&w)?;
    let tables = run(w.virga().arg("resources"))?;
    for n in (0..6_000).step_by(499) {
        let to = prefix(n).replace("/30", "").parse::<std::net::Ipv4Addr>()?;
        let to = std::net::Ipv4Addr::from(u32::from(to) + 1);
        on(h2, &format!("ip addr add {to}/32 dev lo"))?;
        let reached = || poke(w.host(1), to).ok()?.then_some(());
        wait_for(&format!("{to}"), LIMIT, reached).with_context(|| tables.clone())?;
    }
    batch((0..6_000).rev().map(|n| format!("route del {}", prefix(n))))?;
    settle(&w)?;
    check(&w)
}

fn second_agent_is_refused() -> Result<()> {
    let w = world()?;
    let spec = agent(&w)?.spec().clone();
    let mut second = Command::new(&spec.exe);
    std::os::unix::process::CommandExt::arg0(&mut second, "virgad");
    second.args(&spec.args).args(["--socket", "/run/virga/second.sock"]);
    let out = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = i32::try_from(out.id()).ok().and_then(rustix::process::Pid::from_raw).context("no pid")?;
    thread::spawn(move || {
        thread::sleep(LIMIT);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    });
    let out = out.wait_with_output()?;
    ensure!(out.status.code().is_some_and(|c| c != 0), "the second agent: {}", out.status);
    settle(&w)?;
    check(&w)
}
