//! Routing daemons, as distributions ship them, on the switch and behind its ports: their sessions come up through the punt path,
//! what they teach the kernel is forwarded by the chip, and nothing that happens to the agent ends a session.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use virga_tests::traffic::{flood, ping_all};
use virga_tests::{Host, LIMIT, Skip, World, check, ip, on, run, settle, wait_for, world};

/// Where the daemons keep their sockets and configuration; `/run` is the scenario's own.
const DIR: &str = "/run/daemons";
/// Where Debian puts FRR's daemons.
const FRR: &str = "/usr/lib/frr";
/// Prefixes that each neighbour announces.
const PREFIXES: usize = 10_000;
/// An address that all neighbours have and announce.
const SERVICE: &str = "198.51.100.1";
/// How long ten thousand routes may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    virga_tests::main(&[
        ("frr_bgp_with_next_hop_groups", frr_bgp_with_next_hop_groups),
        ("frr_bgp_restarts_gracefully", frr_bgp_restarts_gracefully),
        ("frr_ospf_with_next_hop_groups", frr_ospf_with_next_hop_groups),
        ("bird_ospf_with_inline_multipath", bird_ospf_with_inline_multipath),
        ("bird_bgp_restarts_gracefully", bird_bgp_restarts_gracefully),
    ])
}

/// A daemon that ends with the scenario.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut c: Command) -> Result<Daemon> {
    let name = c.get_program().to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let log = fs::File::create(format!("{DIR}/{name}.{}.out", c.get_args().count()))?;
    c.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Daemon(c.spawn().with_context(|| format!("{name} does not start"))?))
}

/// BIRD in a host's namespace.
fn bird_in(host: &Host, n: usize, conf: &str) -> Result<Daemon> {
    let path = format!("{DIR}/h{n}.conf");
    fs::write(&path, conf)?;
    let mut c = host.command("bird")?;
    c.args(["-f", "-c", &path, "-s", &format!("{DIR}/h{n}.ctl"), "-P", &format!("{DIR}/h{n}.pid")]);
    start(c)
}

/// One of FRR's daemons in the switch.
fn frr(name: &str, conf: &str) -> Result<Daemon> {
    let path = format!("{DIR}/{name}.conf");
    fs::write(&path, conf)?;
    let mut c = Command::new(format!("{FRR}/{name}"));
    c.args(["-f", &path, "-i", &format!("{DIR}/{name}.pid"), "-z", &format!("{DIR}/zserv.api")]);
    c.args(["--vty_socket", DIR, "-A", "127.0.0.1", "-P", "0"]);
    if name == "bfdd" {
        c.args(["--bfdctl", &format!("{DIR}/bfdd.sock")]);
    }
    start(c)
}

fn vtysh(line: &str) -> Result<Value> {
    let text = run(Command::new("vtysh").args(["--vty_socket", DIR, "-c", line]))?;
    serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
}

fn need_daemons() -> Result<()> {
    virga_tests::need("bird", "bird2")?;
    let map = fs::read_to_string("/proc/self/uid_map")?;
    if map.split_whitespace().nth(2) == Some("1") {
        return Err(Skip::new("the daemons change to users of their own, of whom this namespace has none").into());
    }
    fs::create_dir_all(DIR)?;
    Ok(())
}

/// Packets that the chip has forwarded so far.
fn forwarded(w: &World) -> Result<u64> {
    let c: Value = serde_json::from_str(&run(w.virga().args(["-j", "counters"]))?)?;
    let ports = c["ports"].as_array().context("counters without ports")?;
    Ok(ports.iter().filter_map(|p| p["forwarded"]["frames"].as_u64()).sum())
}

/// Hosts reach the service, nothing is lost, and the chip does it.
fn served(w: &World, from: u16) -> Result<()> {
    settle(w)?;
    // The daemons may still be busy; what is wrong for good stays so.
    wait_for("kernel, agent and chip to agree", LIMIT, || check(w).ok())?;
    let before = forwarded(w)?;
    ping_all(w.host(from), SERVICE.parse::<std::net::IpAddr>()?, "-c 100 -i 0.005 -W 2")?;
    let done = forwarded(w)? - before;
    ensure!(done >= 190, "of 100 pings and their answers the chip forwarded {done}");
    Ok(())
}

/// The gateways of the route to the service in the kernel.
fn gateways() -> Result<Vec<String>> {
    let shown = ip("-o route show 198.51.100.0/24")?;
    let mut all: Vec<String> =
        shown.split(" via ").skip(1).filter_map(|s| s.split_whitespace().next().map(str::to_owned)).collect();
    all.sort();
    Ok(all)
}

fn wait_gateways(what: &str, want: &[&str]) -> Result<()> {
    wait_for(what, LONG, || (gateways().ok()? == want).then_some(()))
}

/// Offloaded IPv4 routes.
fn offloaded(w: &World) -> Result<u64> {
    let s: Value = serde_json::from_str(&run(w.virga().args(["-j", "status"]))?)?;
    s["routes"]["inet"]["offloaded"].as_u64().context("status counts no routes")
}

fn kill_agent(w: &World) -> Result<()> {
    let agent = w.agent.as_ref().context("no agent")?;
    let starts = agent.starts();
    ensure!(agent.signal(Signal::KILL), "the agent did not run");
    wait_for("the next agent", LIMIT, || (agent.starts() > starts).then_some(()))?;
    wait_for("its answer", LIMIT, || settle(w).ok())
}

/// The agent ends as on an upgrade, and another executable takes over.
fn upgrade_agent(w: &World) -> Result<()> {
    let agent = w.agent.as_ref().context("no agent")?;
    agent.stop();
    let new = Path::new(DIR).join("virgad.new");
    fs::copy(&agent.spec().exe, &new)?;
    agent.spec().exe = new;
    agent.resume();
    wait_for("the new agent's answer", LIMIT, || settle(w).ok())
}

/// A BIRD with a BGP session to the switch, of AS 65000, that announces the service and that many prefixes; `more` is for the session.
fn bgp_neighbour(w: &World, n: usize, prefixes: usize, before: &str, more: &str) -> Result<Daemon> {
    let mut routes = String::new();
    for i in 0..prefixes {
        writeln!(routes, "route 100.{}.{}.0/24 blackhole;", 64 + i / 256, i % 256)?;
    }
    on(w.host(n as u16), &format!("ip addr add {SERVICE}/32 dev lo"))?;
    let conf = format!(
        "router id 10.0.{n}.2;\nprotocol device {{}}\n{before}\n\
         protocol static {{ ipv4; route 198.51.100.0/24 blackhole;\n{routes}}}\n\
         protocol bgp {{ local 10.0.{n}.2 as 6500{n}; neighbor 10.0.{n}.1 as 65000; connect delay time 1; error wait time 1, 2; \
         {more} ipv4 {{ import all; export all; }}; }}\n"
    );
    bird_in(w.host(n as u16), n, &conf)
}

/// How often a session with that neighbour came up and went down.
fn flaps(neighbour: &str) -> Result<(u64, u64)> {
    let v = vtysh(&format!("show bgp neighbors {neighbour} json"))?;
    let count = |what: &str| v[neighbour][what].as_u64().with_context(|| format!("no {what} in {v}"));
    Ok((count("connectionsEstablished")?, count("connectionsDropped")?))
}

fn frr_bgp_with_next_hop_groups() -> Result<()> {
    need_daemons()?;
    let w = world()?;
    let _zebra = zebra("bgpd")?;
    let _bfdd = frr("bfdd", "hostname switch\n")?;
    let mut conf = "hostname switch\nrouter bgp 65000\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n \
                    bgp bestpath as-path multipath-relax\n"
        .to_owned();
    for n in [1, 2] {
        let peer = format!("neighbor 10.0.{n}.2");
        writeln!(conf, " {peer} remote-as 6500{n}\n {peer} bfd\n {peer} timers connect 1\n {peer} timers 1 3")?;
    }
    conf += " address-family ipv4 unicast\n  maximum-paths 4\n";
    let _bgpd = frr("bgpd", &conf)?;

    let mut birds = Vec::new();
    for n in [1, 2] {
        let bfd = "protocol bfd { interface \"eth0\" { interval 300 ms; multiplier 3; }; }";
        birds.push(bgp_neighbour(&w, n, PREFIXES, bfd, "bfd on;")?);
    }
    wait_gateways("both neighbours' routes", &["10.0.1.2", "10.0.2.2"])?;
    ensure!(ip("-o route show 198.51.100.0/24")?.contains(" nhid "), "FRR uses next-hop objects");
    wait_for("ten thousand routes in the chip", LONG, || {
        settle(&w).ok()?;
        (offloaded(&w).ok()? >= PREFIXES as u64).then_some(())
    })?;
    served(&w, 3)?;

    // A link fails and heals.
    on(w.host(2), "ip link set eth0 down")?;
    wait_gateways("the neighbour that is left", &["10.0.1.2"])?;
    served(&w, 3)?;
    // zebra 8.4 does not notice that the kernel has taken a member out of a group, and would use the group as it was.
    wait_for("zebra to give the group up", LIMIT, || (!ip("nexthop").ok()?.contains(" group ")).then_some(()))?;
    on(w.host(2), "ip link set eth0 up")?;
    on(w.host(2), "ip route replace default via 10.0.2.1")?;
    wait_gateways("both again", &["10.0.1.2", "10.0.2.2"])?;
    served(&w, 3)?;

    // Under BFD of three times 300 ms the agent is killed, again and again, and then upgraded.
    let sessions = [flaps("10.0.1.2")?, flaps("10.0.2.2")?];
    let mut traffic = flood(w.host(4), SERVICE.parse::<std::net::IpAddr>()?, "-i 0.005 -c 2000 -W 2")?;
    for _ in 0..3 {
        kill_agent(&w)?;
    }
    upgrade_agent(&w)?;
    ensure!(traffic.running()?, "the traffic ended before the new agent was there");
    let p = traffic.finish()?;
    ensure!(p.received == p.sent && p.duplicates == 0, "{p:?}");
    ensure!([flaps("10.0.1.2")?, flaps("10.0.2.2")?] == sessions, "a session was lost: {sessions:?} before");
    served(&w, 3)?;

    // A neighbour withdraws all that it announced, by ending.
    drop(birds.remove(0));
    wait_gateways("the other neighbour's", &["10.0.2.2"])?;
    served(&w, 3)
}

/// FRR as the tests need it: where its sockets go belongs to it, and zebra runs.
fn zebra(daemon: &str) -> Result<Daemon> {
    if !Path::new(FRR).join(daemon).exists() {
        return Err(Skip::new("FRR is not installed (Debian package frr)").into());
    }
    run(Command::new("chown").args(["frr:frr", DIR]))?;
    let zebra = frr("zebra", "hostname switch\nzebra nexthop-group keep 1\n")?;
    wait_for("zebra", LIMIT, || Path::new(DIR).join("zserv.api").exists().then_some(()))?;
    Ok(zebra)
}

/// While `restart` ends a daemon and starts it again, and until `back` says that it is back, no packet to the service is lost, and
/// the route stays where it is.
fn gracefully(w: &World, restart: impl FnOnce() -> Result<Daemon>, back: impl Fn() -> Option<()>) -> Result<Daemon> {
    served(w, 3)?;
    let before = gateways()?;
    let traffic = flood(w.host(4), SERVICE.parse::<std::net::IpAddr>()?, "-i 0.005 -W 2")?;
    let daemon = restart()?;
    ensure!(gateways()? == before, "the routes went with the daemon");
    wait_for("the daemon to be back", LONG, back)?;
    served(w, 3)?;
    ensure!(gateways()? == before, "the routes came back otherwise: {:?}", gateways()?);
    let p = traffic.stop()?;
    // The last request may be on its way.
    ensure!(p.received + 1 >= p.sent && p.duplicates == 0, "{p:?}");
    Ok(daemon)
}

fn frr_bgp_restarts_gracefully() -> Result<()> {
    need_daemons()?;
    let w = world()?;
    let _zebra = zebra("bgpd")?;
    let mut conf = "hostname switch\nrouter bgp 65000\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n \
                    bgp bestpath as-path multipath-relax\n bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n"
        .to_owned();
    for n in [1, 2] {
        let peer = format!("neighbor 10.0.{n}.2");
        writeln!(conf, " {peer} remote-as 6500{n}\n {peer} timers connect 1\n {peer} timers 1 3")?;
    }
    conf += " address-family ipv4 unicast\n  maximum-paths 4\n";
    let bgpd = frr("bgpd", &conf)?;
    let _birds = [bgp_neighbour(&w, 1, 1000, "", "")?, bgp_neighbour(&w, 2, 1000, "", "")?];
    wait_gateways("both neighbours' routes", &["10.0.1.2", "10.0.2.2"])?;
    let up = || flaps("10.0.1.2").ok()?.0.checked_sub(1).and(flaps("10.0.2.2").ok()?.0.checked_sub(1)).map(drop);
    let again = || {
        drop(bgpd);
        frr("bgpd", &conf)
    };
    gracefully(&w, again, up).map(drop)
}

fn frr_ospf_with_next_hop_groups() -> Result<()> {
    need_daemons()?;
    let w = world()?;
    let _zebra = zebra("ospfd")?;
    let mut conf = "hostname switch\n".to_owned();
    for n in [1, 2] {
        let timers =
            " ip ospf hello-interval 1\n ip ospf dead-interval 3\n ip ospf network point-to-point\n ip ospf area 0\n";
        write!(conf, "interface swp{n}\n{timers}exit\n")?;
    }
    conf += "router ospf\n ospf router-id 10.0.0.1\n";
    let _ospfd = frr("ospfd", &conf)?;
    let mut birds = ospf_neighbours(&w)?;
    wait_gateways("both neighbours' route", &["10.0.1.2", "10.0.2.2"])?;
    ensure!(ip("-o route show 198.51.100.0/24")?.contains(" nhid "), "FRR uses next-hop objects");
    served(&w, 4)?;
    kill_agent(&w)?;
    served(&w, 4)?;
    drop(birds.remove(0));
    wait_gateways("the other neighbour's", &["10.0.2.2"])?;
    served(&w, 4)
}

fn ospf(area: &str) -> String {
    format!("protocol ospf v2 {{ ecmp yes; ipv4 {{ import all; export none; }}; area 0 {{ {area} }}; }}\n")
}

fn ospf_port(name: &str) -> String {
    format!("interface \"{name}\" {{ hello 1; dead count 3; type ptp; }};")
}

/// BIRDs in two hosts that announce the service.
fn ospf_neighbours(w: &World) -> Result<Vec<Daemon>> {
    let one = |n: usize| {
        on(w.host(n as u16), &format!("ip addr add {SERVICE}/32 dev lo"))?;
        let stub = "stubnet 198.51.100.0/24 { cost 1; };";
        let conf = format!("router id 10.0.{n}.2;\nprotocol device {{}}\n{}", ospf(&(ospf_port("eth0") + stub)));
        bird_in(w.host(n as u16), n, &conf)
    };
    [1, 2].into_iter().map(one).collect()
}

/// BIRD in the switch.
fn bird(conf: &str, more: &[&str]) -> Result<Daemon> {
    let path = format!("{DIR}/switch.conf");
    fs::write(&path, conf)?;
    let mut c = Command::new("bird");
    c.args(["-f", "-c", &path, "-s", &format!("{DIR}/switch.ctl"), "-P", &format!("{DIR}/switch.pid")]).args(more);
    start(c)
}

fn bird_bgp_restarts_gracefully() -> Result<()> {
    need_daemons()?;
    let w = world()?;
    let mut conf = "router id 10.0.0.1;\ngraceful restart wait 20;\nprotocol device {}\n\
                    protocol kernel { persist; graceful restart on; merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }\n"
        .to_owned();
    for n in [1, 2] {
        writeln!(
            conf,
            "protocol bgp n{n} {{ local 10.0.{n}.1 as 65000; neighbor 10.0.{n}.2 as 6500{n}; graceful restart on; \
             connect delay time 1; error wait time 1, 2; ipv4 {{ import all; export none; }}; }}"
        )?;
    }
    let daemon = bird(&conf, &[])?;
    let _birds = [bgp_neighbour(&w, 1, 1000, "", "")?, bgp_neighbour(&w, 2, 1000, "", "")?];
    wait_gateways("both neighbours' routes", &["10.0.1.2", "10.0.2.2"])?;
    let up = || {
        let shown = run(Command::new("birdc").args(["-s", &format!("{DIR}/switch.ctl"), "show", "protocols"])).ok()?;
        (shown.matches("Established").count() == 2).then_some(())
    };
    let again = || {
        drop(daemon);
        // -R: it recovers from its own end.
        bird(&conf, &["-R"])
    };
    gracefully(&w, again, up).map(drop)
}

fn bird_ospf_with_inline_multipath() -> Result<()> {
    need_daemons()?;
    let w = world()?;
    let switch = format!(
        "router id 10.0.0.1;\nprotocol device {{}}\n\
         protocol kernel {{ merge paths on; ipv4 {{ import none; export where source = RTS_OSPF; }}; }}\n{}",
        ospf(&(ospf_port("swp1") + &ospf_port("swp2") + &ospf_port("swp3")))
    );
    let _switch = bird(&switch, &[])?;
    let mut birds = ospf_neighbours(&w)?;
    wait_gateways("both neighbours' route", &["10.0.1.2", "10.0.2.2"])?;
    served(&w, 4)?;
    on(w.host(1), "ip link set eth0 down")?;
    wait_gateways("the neighbour that is left", &["10.0.2.2"])?;
    served(&w, 4)?;
    on(w.host(1), "ip link set eth0 up")?;
    on(w.host(1), "ip route replace default via 10.0.1.1")?;
    wait_gateways("both again", &["10.0.1.2", "10.0.2.2"])?;
    served(&w, 4)?;
    kill_agent(&w)?;
    served(&w, 4)?;
    drop(birds.remove(0));
    wait_gateways("the other neighbour's", &["10.0.2.2"])?;
    served(&w, 4)
}
