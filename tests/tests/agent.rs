//! The agent as a process: fast path, settle and check, its socket, its death, overruns, its journal.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use virga_tests::traffic::{flood, ping_all, poke};
use virga_tests::{LIMIT, World, check, chip_only, ip, net, run, settle, wait_for, world, world_with};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("first_fast_packet", first_fast_packet),
        ("what_became_of_each_route", what_became_of_each_route),
        ("http_over_the_socket", http_over_the_socket),
        ("a_second_agent_is_refused", a_second_agent_is_refused),
        ("a_busy_socket_is_refused_and_a_stale_one_replaced", a_busy_socket_is_refused_and_a_stale_one_replaced),
        ("killing_the_agent_loses_no_packet", killing_the_agent_loses_no_packet),
        ("killing_the_chip_reprograms_it", killing_the_chip_reprograms_it),
        ("fact_41_20k_routes_with_a_small_buffer_end_equal", small_buffer),
        ("what_was_recorded_replays_equal", what_was_recorded_replays_equal),
        ("embedded_is_the_same", embedded_is_the_same),
    ])
}

/// Hosts resolved, state settled.
fn warm(w: &World) -> Result<()> {
    let (h1, h2) = (w.host(1), w.host(2));
    wait_for("the first answer by IPv4", LIMIT, || poke(h1, h2.v4()).ok().filter(|ok| *ok))?;
    wait_for("the first answer by IPv6", LIMIT, || poke(h1, h2.v6()).ok().filter(|ok| *ok))?;
    settle(w)
}

fn first_fast_packet() -> Result<()> {
    let w = world()?;
    warm(&w)?;
    let (h1, h2) = (w.host(1), w.host(2));
    for to in [h2.v4().to_string(), h2.v6().to_string()] {
        let before = net::slow("swp1")? + net::slow("swp2")?;
        ping_all(h1, to.parse::<std::net::IpAddr>()?, "-c 100 -i 0.01 -W 2")?;
        let slow = net::slow("swp1")? + net::slow("swp2")? - before;
        ensure!(slow <= 10, "{slow} frames on the TAPs for {to}\n{}", virga(&w, &["status"])?);
    }
    check(&w)
}

fn what_became_of_each_route() -> Result<()> {
    let w = world()?;
    warm(&w)?;
    ip("link add name d0 type veth peer name d1")?;
    ip("link set d0 up")?;
    ip("addr add 10.77.0.1/24 dev d0")?;
    for route in [
        "route add 10.50.0.0/16 via 10.0.2.2 metric 20",
        "route add blackhole 10.51.0.0/16",
        "route add unreachable 10.52.0.0/16",
        "-6 route add 2001:db8:50::/48 via 2001:db8:2::2",
    ] {
        ip(route)?;
    }
    settle(&w)?;
    let text = virga(&w, &["route", "show"])?;
    let line = |has: &str| {
        text.lines().find(|l| l.starts_with(has)).with_context(|| format!("no line begins with {has}:\n{text}"))
    };
    for (route, fate) in [
        ("10.50.0.0/16 via 10.0.2.2 dev swp2", " offload"),
        ("10.0.1.0/24 dev swp1", " offload"),
        ("2001:db8:50::/48 via 2001:db8:2::2 dev swp2", " offload"),
        ("blackhole 10.51.0.0/16", " offload"),
        ("unreachable 10.52.0.0/16", "punt: "),
        ("10.77.0.0/24 dev d0", "punt: leaves by d0"),
    ] {
        ensure!(line(route)?.contains(fate), "{route} is to show {fate:?}:\n{text}");
    }
    check(&w)
}

fn http_over_the_socket() -> Result<()> {
    let w = world()?;
    // So that there are neighbours to show.
    warm(&w)?;
    for (url, status, has) in [
        ("/v1/status", 200, "\"settled\""),
        ("/v1/links", 200, "\"swp1\""),
        ("/v1/neighs", 200, "["),
        ("/v1/routes?max=2", 200, "\"next\":"),
        ("/v1/counters", 200, "\"ports\""),
        ("/v1/resources", 200, "\"route4\""),
        ("/v1/buckets", 200, "\"items\""),
        ("/v1/tables/rif", 200, "\"items\""),
        ("/v1/settle?timeout=20", 200, "true"),
        ("/v1/check", 200, "\"equal\":true"),
        ("/v1/nothing", 404, "\"error\""),
        ("/v1/tables/nothing", 404, "route4"),
        ("/v1/routes?max=many", 400, "\"error\""),
        ("/v1/settle?timeout=-1", 400, "\"error\""),
    ] {
        let (got, body) = get("/run/virga/virgad.sock", url)?;
        ensure!(got == status && body.contains(has), "{url}: {got} {body}");
    }
    for verb in
        [&["status"][..], &["link"], &["neigh", "show"], &["counters"], &["resources"], &["table", "show", "route4"]]
    {
        ensure!(!virga(&w, verb)?.trim().is_empty(), "{verb:?} says nothing");
        let mut json = vec!["-j"];
        json.extend(verb);
        ensure!(virga(&w, &json)?.starts_with(['{', '[']), "{json:?} is not JSON");
    }
    let none = w.virga().args(["--socket", "/run/none.sock", "status"]).output()?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(none.status.code() == Some(1) && said.contains("start virgad") && said.lines().count() == 1, "{said}");
    Ok(())
}

fn a_second_agent_is_refused() -> Result<()> {
    let _w = world()?;
    let out = second(&["--socket", "/run/virga/second.sock"])?;
    ensure!(out.status.code() == Some(1), "{:?}", out.status);
    ensure!(last_line(&out).contains("refuses this agent: another agent"), "{}", last_line(&out));
    Ok(())
}

fn a_busy_socket_is_refused_and_a_stale_one_replaced() -> Result<()> {
    let w = world()?;
    let out = second(&["--socket", "/run/virga/virgad.sock"])?;
    ensure!(out.status.code() == Some(1) && last_line(&out).contains("another virgad listens"), "{}", last_line(&out));
    let agent = w.agent.as_ref().context("no agent")?;
    // SIGKILL leaves the socket behind.
    agent.stop_with(Signal::KILL);
    ensure!(Path::new("/run/virga/virgad.sock").exists());
    let out = w.virga().arg("status").output()?;
    ensure!(last_line(&out).contains("no agent listens"), "{}", last_line(&out));
    agent.resume();
    settle(&w)?;
    // SIGTERM does not, and is a clean end.
    agent.stop();
    ensure!(!Path::new("/run/virga/virgad.sock").exists());
    Ok(())
}

fn killing_the_agent_loses_no_packet() -> Result<()> {
    let w = world()?;
    warm(&w)?;
    ip("route add 10.60.0.0/16 via 10.0.2.2")?;
    settle(&w)?;
    let agent = w.agent.as_ref().context("no agent")?;
    let fast = flood(w.host(1), w.host(2).v4(), "-c 300 -i 0.01 -W 2")?;
    // The switch itself answers through the slow path.
    let slow = flood(w.host(3), w.host(3).gateway4(), "-c 300 -i 0.01 -W 2")?;
    for n in 0..2 {
        let starts = agent.starts();
        ensure!(agent.signal(Signal::KILL), "it does not run");
        wait_for("the agent to be started again", LIMIT, || (agent.starts() > starts).then_some(()))?;
        // A change that it sees only after its restart.
        ip(&format!("route add 10.61.{n}.0/24 via 10.0.2.2"))?;
        settle(&w)?;
        check(&w)?;
    }
    for (pings, which) in [(fast, "fast"), (slow, "slow")] {
        let p = pings.finish()?;
        ensure!(p.received == p.sent && p.duplicates == 0, "{which} path: {p:?}");
    }
    Ok(())
}

fn killing_the_chip_reprograms_it() -> Result<()> {
    let w = world()?;
    warm(&w)?;
    let starts = w.chip.starts();
    ensure!(w.chip.signal(Signal::KILL), "it does not run");
    wait_for("the chip to be started again", LIMIT, || (w.chip.starts() > starts).then_some(()))?;
    wait_for("carrier", LIMIT, || net::carrier("swp1").ok().filter(|up| *up))?;
    settle(&w)?;
    check(&w)?;
    warm(&w)?;
    let before = net::slow("swp1")? + net::slow("swp2")?;
    ping_all(w.host(1), w.host(2).v4(), "-c 50 -i 0.01 -W 2")?;
    let slow = net::slow("swp1")? + net::slow("swp2")? - before;
    ensure!(slow <= 10, "{slow} frames on the TAPs after the chip's return");
    Ok(())
}

fn small_buffer() -> Result<()> {
    let file = "/run/virga/small.toml";
    let w = chip_only()?;
    std::fs::write(file, "[agent]\nreceive-buffer = 2048\n")?;
    let agent = agent(&w, &["--config", file, "--chip", "unix:/run/virga/asic.sock"])?;
    settle(&w)?;
    let add = |which: std::ops::Range<u32>| -> Result<()> {
        let batch: String = which.map(|i| format!("route add 11.{}.{}.0/24 via 10.0.2.2\n", i >> 8, i & 255)).collect();
        let mut c = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
        c.stdin.take().context("no pipe")?.write_all(batch.as_bytes())?;
        ensure!(c.wait()?.success(), "ip refused the batch");
        Ok(())
    };
    // One that reads as fast as the kernel speaks is not overrun.
    let signal = |s| rustix::process::kill_process(rustix::process::Pid::from_child(&agent.0), s);
    signal(Signal::STOP)?;
    add(0..1000)?;
    signal(Signal::CONT)?;
    add(1000..20_000)?;
    settle(&w)?;
    check(&w)?;
    ensure!(!virga(&w, &["status"])?.contains("overruns 0"), "a buffer of 2 KiB was never overrun");
    let shown = virga(&w, &["route", "show"])?;
    let n = shown.lines().filter(|l| l.starts_with("11.") && l.contains("offload")).count();
    ensure!(n == 20_000, "{n} of 20000 routes are offloaded");
    drop(agent);
    Ok(())
}

fn what_was_recorded_replays_equal() -> Result<()> {
    let journal = "/run/virga/journal";
    let w = world_with(|c| c.agent_args = vec!["--record".into(), journal.into()])?;
    warm(&w)?;
    for n in 0..50 {
        ip(&format!("route add 10.62.{n}.0/24 via 10.0.2.2"))?;
    }
    ip("link set swp2 down")?;
    ip("link set swp2 up")?;
    virga(&w, &["counters"])?;
    settle(&w)?;
    check(&w)?;
    w.agent.as_ref().context("no agent")?.stop();
    let said = virga(&w, &["replay", journal])?;
    ensure!(said.starts_with("equal"), "{said}");
    // As after a kill.
    let mut bytes = std::fs::read(journal)?;
    bytes.truncate(bytes.len() / 2);
    std::fs::write("/run/virga/half", &bytes)?;
    ensure!(
        virga(&w, &["replay", "/run/virga/half"])?.starts_with("equal"),
        "half a journal replays as far as it goes"
    );
    let none = w.virga().args(["replay", "/run/virga/virga.toml"]).output()?;
    ensure!(none.status.code() == Some(1) && last_line(&none).contains("virga.toml"), "{}", last_line(&none));
    Ok(())
}

fn embedded_is_the_same() -> Result<()> {
    let w = chip_only()?;
    w.chip.stop();
    let mut args = vec!["--chip", "embedded", "--"];
    let ports: Vec<String> = (1..=4).map(|n| format!("swp{n}=packet:w{n}@virga-asic")).collect();
    for p in &ports {
        args.extend(["--port", p]);
    }
    let agent = agent(&w, &args)?;
    settle(&w)?;
    warm(&w)?;
    check(&w)?;
    let before = net::slow("swp1")? + net::slow("swp2")?;
    ping_all(w.host(1), w.host(2).v4(), "-c 50 -i 0.01 -W 2")?;
    ensure!(net::slow("swp1")? + net::slow("swp2")? - before <= 10, "not in the chip");
    drop(agent);
    Ok(())
}

/// An agent of the test's own, ended with it.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(w: &World, args: &[&str]) -> Result<Agent> {
    use std::os::unix::process::CommandExt;
    let log = std::fs::File::create("/run/virga/virgad.log")?;
    let mut c = w.virga();
    c.arg0("virgad").args(args).stderr(log);
    let child = Agent(c.spawn()?);
    wait_for("the agent's socket", LIMIT, || UnixStream::connect("/run/virga/virgad.sock").ok())?;
    Ok(child)
}

fn virga(w: &World, args: &[&str]) -> Result<String> {
    run(w.virga().args(args))
}

fn second(args: &[&str]) -> Result<Output> {
    use std::os::unix::process::CommandExt;
    let mut c = Command::new(virga_tests::virga_exe()?);
    Ok(c.arg0("virgad").args(["--chip", "unix:/run/virga/asic.sock"]).args(args).output()?)
}

fn last_line(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or_default().to_owned()
}

/// As `curl --unix-socket` asks.
fn get(socket: &str, url: &str) -> Result<(u16, String)> {
    let mut s = UnixStream::connect(socket)?;
    s.set_read_timeout(Some(LIMIT))?;
    write!(s, "GET {url} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|n| n.parse().ok()).with_context(|| text.clone())?;
    let body = text.split_once("\r\n\r\n").map_or("", |x| x.1).to_owned();
    Ok((status, body))
}
