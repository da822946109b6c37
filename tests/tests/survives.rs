//! Kills, full tables, overruns: what must go on goes on, and what was lost is made again.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use hal::{Op, Record, TableId};
use rustix::process::Signal;
use serde_json::Value;
use virga_tests::harness::as_user;
use virga_tests::proxy::Proxy;
use virga_tests::traffic::{flood, ping_all, poke, tcp};
use virga_tests::{LIMIT, World, check, ip, net, on, run, settle, wait_for, world, world_with};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("killed_agent_loses_no_packet", killed_agent_loses_no_packet),
        ("killed_agent_during_a_transfer", killed_agent_during_a_transfer),
        ("changes_while_the_agent_was_away", changes_while_the_agent_was_away),
        ("killed_chip_is_programmed_again", killed_chip_is_programmed_again),
        ("twenty_thousand_routes", twenty_thousand_routes),
        ("stopped_agent_is_overrun_and_recovers", stopped_agent_is_overrun_and_recovers),
        ("full_tables_still_reach_everything", full_tables_still_reach_everything),
        ("second_agent_is_refused", second_agent_is_refused),
        ("both_killed_and_the_agent_first", both_killed_and_the_agent_first),
        ("corrupted_chip_is_noticed", corrupted_chip_is_noticed),
        ("silent_chip_is_given_up", silent_chip_is_given_up),
        // What an ordinary user gets: a user namespace, and the receive buffer that net.core.rmem_max allows.
        ("user_killed_agent_loses_no_packet", || as_user("killed_agent_loses_no_packet")),
        ("user_changes_while_the_agent_was_away", || as_user("changes_while_the_agent_was_away")),
        ("user_killed_chip_is_programmed_again", || as_user("killed_chip_is_programmed_again")),
        ("user_twenty_thousand_routes", || as_user("twenty_thousand_routes")),
        ("user_stopped_agent_is_overrun_and_recovers", || as_user("stopped_agent_is_overrun_and_recovers")),
        ("user_full_tables_still_reach_everything", || as_user("full_tables_still_reach_everything")),
    ])
}

/// `virga -j status`.
fn status(w: &World) -> Result<Value> {
    Ok(serde_json::from_str(&run(w.virga().args(["-j", "status"]))?)?)
}

/// Operations that the agent which runs now has sent to the chip.
fn sent(w: &World) -> Result<u64> {
    status(w)?["operations"]["sent"].as_u64().context("status counts no operations")
}

/// All that the chip holds, by table and key.
fn tables(w: &World) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for t in TableId::ALL.iter().filter(|t| t.kind() != hal::Kind::Learned) {
        let rows: Vec<Value> = serde_json::from_str(&run(w.virga().args(["-j", "table", "show", t.name()]))?)?;
        all.extend(rows.into_iter().map(|r| (format!("{} {}", t.name(), r["key"]), r["entry"].clone())));
    }
    Ok(all)
}

/// Entries that one has and the other has not, or otherwise.
fn difference(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|k| a.get(*k) != b.get(*k)).cloned().collect()
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

/// Hosts don't ask by themselves whether the switch is still there: some seconds after the first packet each would do so from its link-local
/// address, by which the kernel learns a neighbour and hardware an entry, on a slow machine while a test counts these.
fn hosts_ask_nothing(w: &World) -> Result<()> {
    const EACH: &str = "for f in /proc/sys/net/ipv[46]/neigh/*/delay_first_probe_time; do echo 3600 > $f; done";
    (1..=4).try_for_each(|n| run(w.host(n).command("sh")?.args(["-c", EACH])).map(drop))
}

fn first_exchange(w: &World) -> Result<()> {
    hosts_ask_nothing(w)?;
    let (h1, h2) = (w.host(1), w.host(2));
    wait_for("IPv4", LIMIT, || poke(h1, h2.v4()).ok()?.then_some(()))?;
    wait_for("IPv6", LIMIT, || poke(h1, h2.v6()).ok()?.then_some(()))?;
    settle(w)
}

fn killed_agent_loses_no_packet() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    let (h1, h2, h3) = (w.host(1), w.host(2), w.host(3));
    // The switch asks for whom it answers: that is to be over.
    wait_for("the switch's answer", LIMIT, || poke(h3, h3.gateway4()).ok()?.then_some(()))?;
    settle(&w)?;
    let before = tables(&w)?;
    // Fast path and slow path: the second one is answered by the switch's own kernel.
    let mut fast = flood(h1, h2.v4(), "-i 0.002 -c 2000 -W 2")?;
    let mut fast6 = flood(h1, h2.v6(), "-i 0.002 -c 2000 -W 2")?;
    let mut slow = flood(h3, h3.gateway4(), "-i 0.005 -c 800 -W 2")?;
    // Moments that have nothing to do with each other, told by the packets themselves.
    let begun = net::received(h2)?;
    for packets in [20, 257, 640] {
        wait_for("packets", LIMIT, || (net::received(h2).ok()? >= begun + packets).then_some(()))?;
        kill_agent(&w)?;
        let ops = sent(&w)?;
        let changed = || tables(&w).map(|now| difference(&before, &now));
        ensure!(ops == 0, "nothing had changed, and the next agent sent {ops} operations: {:#?}", changed());
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
    let before = tables(&w)?;
    agent(&w)?.stop_with(Signal::KILL);
    ip("route del 10.8.0.0/24")?;
    ip("route replace 10.9.0.0/24 via 10.0.3.2")?;
    ip("route add blackhole 10.7.0.0/24")?;
    ip("link set swp4 down")?;
    ping_all(w.host(1), w.host(2).v4(), "-c 20 -i 0.01 -W 2")?;
    agent(&w)?.resume();
    wait_for("the next agent", LIMIT, || settle(&w).ok())?;
    check(&w)?;
    let (ops, changed) = (sent(&w)?, difference(&before, &tables(&w)?));
    ensure!(changed.iter().any(|k| k.contains("10.9.0.0")), "{changed:?}");
    ensure!(ops == changed.len() as u64, "{ops} operations for {} entries that changed: {changed:#?}", changed.len());
    Ok(())
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

/// `ip -batch` with one line each. It keeps something of every line to its end, and user-mode Linux can't give a process more than some
/// 65,000 pages: several of them, one after the other.
fn batch(lines: impl Iterator<Item = String>) -> Result<()> {
    let lines: Vec<String> = lines.collect();
    for some in lines.chunks(20_000) {
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
        let written = child.stdin.take().context("no pipe")?.write_all((some.join("\n") + "\n").as_bytes());
        ensure!(child.wait()?.success(), "ip -batch failed");
        written?;
    }
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

/// Notifications of 20,000 routes do not fit into any buffer while nobody reads.
fn stopped_agent_is_overrun_and_recovers() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    let overruns = |w: &World| status(w)?["overruns"].as_u64().context("status counts no overruns");
    let (before, pid) = (overruns(&w)?, agent(&w)?.pid());
    ensure!(agent(&w)?.signal(Signal::STOP), "the agent did not run");
    // As root the buffer is large: as many routes more as it takes.
    let buffer = buffer(&w)?;
    let n = 20_000.max(u32::try_from(buffer / 500)?);
    batch((0..n).map(|n| format!("route add {} via 10.0.{}.2", prefix(n), 2 + n % 3)))?;
    ip("link set swp4 down")?;
    ping_all(w.host(1), w.host(2).v4(), "-c 20 -i 0.01 -W 2")?;
    ensure!(agent(&w)?.signal(Signal::CONT), "the agent is gone");
    // From its first ENOBUFS until the socket has once been empty the kernel goes on to drop, and says nothing more of it.
    batch((0..n).step_by(8).map(|n| format!("route del {}", prefix(n - n % 3))))?;
    ip("link set swp4 up")?;
    settle(&w)?;
    check(&w)?;
    ensure!(agent(&w)?.pid() == pid, "another agent did it");
    ensure!(overruns(&w)? > before, "nothing was overrun by {n} routes in {buffer} bytes");
    let shown = run(w.virga().args(["-j", "status"]))?;
    ensure!(status(&w)?["repairs"] == 0, "{shown}");
    Ok(())
}

/// The receive buffer that the agent was granted, in bytes, from its log.
fn buffer(w: &World) -> Result<usize> {
    let log = std::fs::read_to_string(&agent(w)?.spec().log)?;
    let kib = log.split("netlink receive buffer ").nth(1).and_then(|t| t.split(' ').next()).context("no buffer")?;
    Ok(kib.parse::<usize>()? << 10)
}

fn both_killed_and_the_agent_first() -> Result<()> {
    let w = world()?;
    first_exchange(&w)?;
    agent(&w)?.stop_with(Signal::KILL);
    w.chip.stop_with(Signal::KILL);
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    agent(&w)?.resume();
    // It is there, says what it waits for, and waits.
    wait_for("the agent's sentence", LIMIT, || {
        run(w.virga().arg("status")).ok().filter(|s| s.contains("the chip has not connected yet"))
    })?;
    let out = w.virga().args(["settle", "--timeout", "0.2"]).output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(1) && text.contains("the chip has not connected yet"), "{text}");
    w.chip.resume();
    wait_for("settling", LIMIT, || settle(&w).ok())?;
    check(&w)?;
    wait_for("the way to h2", LIMIT, || poke(w.host(1), w.host(2).v4()).ok()?.then_some(()))
}

/// Agent and chip with a go-between, after a first exchange.
fn world_with_proxy() -> Result<(World, Proxy)> {
    // Where the chip listens is known before it does.
    let run = Path::new(virga::lab::world::RUN);
    std::fs::create_dir_all(run)?;
    let proxy = Proxy::new(&run.join("proxy.sock"), &run.join("asic.sock"))?;
    let w = world_with(|c| c.agent_args = vec!["--chip".into(), proxy.address()])?;
    first_exchange(&w)?;
    Ok((w, proxy))
}

fn corrupted_chip_is_noticed() -> Result<()> {
    let (w, proxy) = world_with_proxy()?;
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    ip("-6 route add 2001:db8:9::/48 via 2001:db8:2::2")?;
    wait_for("the gateway by IPv4", LIMIT, || poke(w.host(1), "10.9.0.1".parse::<IpAddr>().ok()?).ok())?;
    settle(&w)?;
    check(&w)?;
    for t in TableId::ALL.iter().filter(|t| t.kind() != hal::Kind::Learned) {
        let entries = proxy.table(*t)?;
        // There is no bridge here.
        if [TableId::Fid, TableId::BridgePort, TableId::FidMember, TableId::FdbStatic].contains(t) {
            continue;
        }
        let first = entries.first().with_context(|| format!("table {t} is empty"))?;
        // The least that can go wrong: an entry is not what it was, or not there.
        let op = match first.clone() {
            Record::Switch(k, mut e) => {
                e.hash4 = if e.hash4 == hal::HashPolicy::L3 { hal::HashPolicy::L4 } else { hal::HashPolicy::L3 };
                Op::Set(Record::Switch(k, e))
            }
            Record::Rif(k, mut e) => {
                e.mtu4 -= 1;
                Op::Set(Record::Rif(k, e))
            }
            Record::Neigh4(k, mut e) => {
                e.mac.0[5] ^= 1;
                Op::Set(Record::Neigh4(k, e))
            }
            Record::Group(k, mut e) => {
                e.members.iter_mut().for_each(|m| m.weight += 1);
                Op::Set(Record::Group(k, e))
            }
            other => Op::Remove(other.key()),
        };
        proxy.write(op.clone())?;
        let out = w.virga().arg("check").output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.code() == Some(1) && said.contains(t.name()), "{op}: {}\n{said}", out.status);
        // The next agent finds that difference, and nothing else.
        let before = proxy.ops().len();
        // Not as a death: so many in a row would have it given up.
        agent(&w)?.stop_with(Signal::KILL);
        agent(&w)?.resume();
        wait_for("the next agent", LIMIT, || settle(&w).ok())?;
        check(&w)?;
        let ops = proxy.ops().split_off(before);
        // Next hops and groups are known by their content: what refers to one that is not what it was is written as well.
        let named = matches!(t, TableId::NextHop | TableId::Group);
        let (n, shown) = (ops.len(), ops.iter().map(Op::to_string).collect::<Vec<_>>());
        ensure!(n as u64 == sent(&w)? && (n == 1 || named && n > 1), "{op}: mended by {shown:#?}");
    }
    Ok(())
}

fn silent_chip_is_given_up() -> Result<()> {
    let (w, proxy) = world_with_proxy()?;
    let pid = agent(&w)?.pid();
    proxy.silence(true);
    ip("route add 10.9.0.0/24 via 10.0.2.2")?;
    // The agent answers all the while.
    wait_for("a sentence", LIMIT * 2, || {
        run(w.virga().arg("status")).ok().filter(|s| s.contains("left a request unanswered for 10 s"))
    })?;
    ping_all(w.host(1), w.host(2).v4(), "-c 20 -i 0.01 -W 2")?;
    proxy.silence(false);
    wait_for("settling", LIMIT * 2, || settle(&w).ok())?;
    check(&w)?;
    ensure!(agent(&w)?.pid() == pid, "another agent did it");
    ensure!(status(&w)?["repairs"] == 0, "{}", run(w.virga().arg("status"))?);
    // A chip that is stopped, and goes on.
    ensure!(w.chip.signal(Signal::STOP), "the chip does not run");
    wait_for("a sentence", LIMIT * 2, || {
        run(w.virga().arg("status")).ok().filter(|s| s.contains("left a request unanswered for 10 s"))
    })?;
    ip("route add 10.10.0.0/24 via 10.0.2.2")?;
    ensure!(w.chip.signal(Signal::CONT), "the chip is gone");
    wait_for("settling", LIMIT * 2, || settle(&w).ok())?;
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
