//! Two worlds that look alike from their wires: one in which the kernel forwards alone, and one with Virga.
//!
//! Both have a switch namespace with netdevs swp1 to swpN of equal names and MAC addresses, and wires whose far ends the
//! harness holds in a namespace of its own. A world knows how to be changed, how to be sent a frame, and when it is quiet.
//! What is sent and what is right is not known here.

mod macvlan;
pub mod memory;
mod neigh;
mod netlink;
pub mod netns;
pub mod socket;
mod virga;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hal::Mac;

use crate::frame::{self, SENTINEL, chatter, host_mac, port_mac};
use crate::scenario::Action;
use netns::NetNs;
use socket::{Packets, wait_any};
pub use virga::{Carried, Programs};

/// Nothing takes longer in a healthy world, on a loaded machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that has just come up may lose a first frame, since its queue is attached a moment after its carrier shows: a sentinel that
/// was lost so is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// A macvlan that has not had a sentinel in this time is one that something in the scenario keeps them from.
const DEAF: Duration = Duration::from_secs(2);

/// Who asks more often in one go does not hear the answer.
const ANSWERS: u32 = 8;

/// An IPv6 address that is tentative for longer, on a device without link, stays so until that is up.
const KEPT: Duration = Duration::from_secs(1);

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The kernel alone.
    Kernel,
    /// Chip and agent, the kernel behind them.
    Virga,
    /// The chip without an agent, which hands everything to the kernel behind it.
    Punt,
}

/// A port as the harness holds it.
#[derive(Debug)]
struct Port {
    /// On the wire's far end.
    wire: Packets,
    /// On the netdev in the switch namespace; sees sentinels only. `None` where the scenario took the device away.
    host: Option<Packets>,
    /// What left the switch by it since it was last taken.
    captured: Vec<Vec<u8>>,
    /// The last sentinel that did.
    sentinel: Vec<u8>,
}

/// What a changed world said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Whether the command succeeded.
    pub ok: bool,
    /// What it wrote to both outputs.
    pub text: String,
}

/// One of the two.
#[derive(Debug)]
pub struct World {
    /// Which.
    pub kind: Kind,
    // Before the namespaces, so that its processes end first.
    switch: Option<virga::Virga>,
    sw: NetNs,
    wire: NetNs,
    ports: Vec<Port>,
    /// On all devices of the switch namespace, for sentinels.
    all: Packets,
    /// Macvlans that a sentinel did not reach since the last change: something keeps it from them.
    deaf: BTreeSet<u32>,
    /// Devices that have the harness's settings for neighbours.
    prepared: BTreeSet<u32>,
    answers: Vec<(usize, IpAddr, Mac)>,
    /// How often each of them was given since the world last came to rest.
    answered: BTreeMap<(usize, IpAddr), u32>,
    groups: Groups,
    round: u32,
}

/// IPv6 multicast groups that a world answered to listen to: port and group.
pub type Groups = BTreeSet<(usize, IpAddr)>;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Set in the switch namespace before it has devices, so that they begin with it.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    // No duplicate address detection: addresses are usable at once.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    // Rate limits depend on time, not on the frames.
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/icmp/ratemask", ""),
    // Else flow labels of the kernel's own packets come from a random key.
    ("ipv6/auto_flowlabels", "0"),
    // Hosts without forwarding ask for routers at random times.
    ("ipv6/conf/default/router_solicitations", "0"),
    // Reports of group memberships are sent after a random time below this, in milliseconds.
    ("ipv6/conf/default/mldv1_unsolicited_report_interval", "1"),
    ("ipv6/conf/default/mldv2_unsolicited_report_interval", "1"),
    ("ipv4/conf/default/igmpv2_unsolicited_report_interval", "1"),
    ("ipv4/conf/default/igmpv3_unsolicited_report_interval", "1"),
    // Redirects are limited by time and peer; scenarios about them switch them on.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

fn sysctl(path: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{path}"), format!("{value}\n"))
}

impl World {
    /// Makes a world with `ports` ports, all down and without addresses.
    ///
    /// # Errors
    /// What could not be made.
    pub fn new(kind: Kind, ports: usize, programs: &Programs) -> Result<World> {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let sw = NetNs::new(&format!("sw{n}"))?;
        let wire = NetNs::new(&format!("wire{n}"))?;
        wire.enter(|| -> Result<()> {
            sysctl("net/ipv6/conf/default/disable_ipv6", "1").context("disable_ipv6")?;
            Ok(())
        })??;
        sw.enter(|| -> Result<()> {
            for (k, v) in SYSCTLS {
                sysctl(&format!("net/{k}"), v).with_context(|| k.to_string())?;
            }
            Ok(())
        })??;
        let mut batch = String::new();
        for p in 1..=ports {
            // The wire's near end is the netdev itself for the kernel, and the chip's to take for Virga.
            let (name, to) = match kind {
                Kind::Kernel => (format!("swp{p}"), format!(" netns {}", sw.name)),
                Kind::Virga | Kind::Punt => (format!("e{p}"), String::new()),
            };
            let mac = port_mac(p);
            // An index other than the near end's makes the kernel's link watch treat changes of carrier as urgent, as it does for
            // devices that stand on others; else each waits for up to a second.
            let index = 1000 + p;
            // Its far end has room for two tags, as an Ethernet has.
            batch += &format!("link add w{p} index {index} mtu 1508 type veth peer name {name} address {mac}{to}\n");
            batch += &format!("link set w{p} arp off up\n");
        }
        if let (false, text) = wire.enter(|| ip_batch(&batch))?? {
            bail!("the wires can't be made: {text}");
        }
        let switch = match kind {
            Kind::Kernel => None,
            Kind::Virga => Some(virga::Virga::start(n, ports, &sw, &wire, programs, true)?),
            Kind::Punt => Some(virga::Virga::start(n, ports, &sw, &wire, programs, false)?),
        };
        sw.enter(|| -> Result<()> { (1..=ports).try_for_each(|p| netns::offloads_off(&format!("swp{p}"))) })??;
        let wires = wire.enter(|| -> Result<Vec<Packets>> {
            (1..=ports)
                .map(|p| {
                    netns::offloads_off(&format!("w{p}"))?;
                    Packets::open(&format!("w{p}"), None)
                })
                .collect()
        })??;
        let (hosts, all) = sw.enter(|| -> Result<(Vec<Packets>, Packets)> {
            let one = |p| Packets::open(&format!("swp{p}"), Some(SENTINEL));
            Ok(((1..=ports).map(one).collect::<Result<_>>()?, Packets::open_all(SENTINEL)?))
        })??;
        let ports = wires
            .into_iter()
            .zip(hosts)
            .map(|(wire, host)| Port { wire, host: Some(host), captured: Vec::new(), sentinel: Vec::new() })
            .collect();
        let mut w = World {
            kind,
            switch,
            sw,
            wire,
            ports,
            all,
            deaf: BTreeSet::new(),
            prepared: BTreeSet::new(),
            answers: Vec::new(),
            answered: BTreeMap::new(),
            groups: Groups::new(),
            round: 0,
        };
        w.settle()?;
        Ok(w)
    }

    /// Runs several `ip` command lines in one process, in the switch namespace.
    ///
    /// # Errors
    /// It can't be started.
    pub fn run_ip(&self, lines: &[&str]) -> Result<Vec<Said>> {
        // A word that it does not know ends `ip`, and what follows is not run: after each line stands one that fails and says
        // by that how far it came.
        const MARK: &str = "link show dev _";
        let command = |l: &&str| format!("{}\n{MARK}\n", l.trim_start_matches("ip").trim());
        let mut said = vec![Said { ok: true, text: String::new() }; lines.len()];
        let mut at = 0;
        while at < lines.len() {
            let batch: String = lines[at..].iter().map(command).collect();
            let (_, text) = self.sw.enter(|| ip_batch(&batch))??;
            let mut words = Vec::new();
            let mut done = 0;
            for l in text.lines() {
                // "Command failed -:3" names the line that the sentences before it are about.
                match l.strip_prefix("Command failed -:").and_then(|n| n.trim().parse::<usize>().ok()) {
                    Some(n) if n % 2 == 0 => done = n / 2,
                    Some(n) if n / 2 < lines.len() - at => {
                        said[at + n / 2] = Said { ok: false, text: words.join("; ") };
                    }
                    _ => {
                        words.push(l);
                        continue;
                    }
                }
                words.clear();
            }
            at += done;
            if let Some(s) = said.get_mut(at) {
                *s = Said { ok: false, text: words.join("; ") };
                at += 1;
            }
        }
        Ok(said)
    }

    /// Runs a command line in the switch namespace.
    ///
    /// # Errors
    /// It can't be started.
    pub fn run(&self, line: &str) -> Result<Said> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["sysctl", rest @ ..] = &words[..]
            && let [set] = rest.strip_prefix(&["-w"]).unwrap_or(rest)
            && let Some((k, v)) = set.split_once('=')
        {
            let path = if k.contains('/') { k.to_owned() } else { k.replace('.', "/") };
            return Ok(match self.sw.enter(|| sysctl(&path, v))? {
                Ok(()) => Said { ok: true, text: String::new() },
                Err(e) => Said { ok: false, text: e.to_string() },
            });
        }
        let words = shell_words(line);
        let Some((program, args)) = words.split_first() else { bail!("an empty command") };
        let out = self
            .sw
            .enter(|| Command::new(program).args(args).output())?
            .with_context(|| format!("{program} can't be started"))?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok(Said { ok: out.status.success(), text: text.trim().to_owned() })
    }

    /// Carries out a change. It may not have settled when this returns.
    ///
    /// # Errors
    /// It can't be carried out at all; a command that fails is no error here.
    pub fn act(&mut self, a: &Action) -> Result<Said> {
        let said = Said { ok: true, text: String::new() };
        match a {
            Action::Command { line, .. } => self.run(line),
            Action::Answer { port, addr, mac } => {
                self.answers.retain(|(p, a, _)| (p, a) != (port, addr));
                self.answers.extend(mac.map(|m| (*port, *addr, m)));
                Ok(said)
            }
            Action::Agent { stop, start } => {
                if let Some(v) = self.switch.as_mut().filter(|_| self.kind == Kind::Virga) {
                    if *stop {
                        v.stop_agent();
                    }
                    if *start {
                        v.start_agent(&self.sw)?;
                    }
                }
                Ok(said)
            }
            Action::Link { port, up } => {
                // What is on its way must not be lost to the change in one world and not in the other.
                self.quiesce()?;
                let dev = format!("w{port}");
                let state = if *up { "up" } else { "down" };
                let out = self.wire.enter(|| Command::new("ip").args(["link", "set", &dev, state]).output())??;
                if !out.status.success() {
                    bail!("{dev} {state}: {}", String::from_utf8_lossy(&out.stderr));
                }
                let swp = format!("swp{port}");
                let until = Instant::now() + PATIENCE;
                // The kernel lags behind the wire (kernel-facts 10).
                self.sw.enter(|| -> Result<()> {
                    loop {
                        match netns::flags(&swp) {
                            Some(f) if f & libc::IFF_UP != 0 && (f & libc::IFF_RUNNING != 0) != *up => {}
                            _ => return Ok(()),
                        }
                        if Instant::now() > until {
                            bail!("{swp} did not notice that its wire went {state}");
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })??;
                Ok(said)
            }
        }
    }

    /// Waits until what was changed is in force. Neighbours that have failed are forgotten then: what the kernel does with a
    /// packet may depend on it (use_neigh), and whether one was ever asked for differs between the worlds, by requests for
    /// gateways in use (promise 1). Those that the agent has the kernel manage stay, and those that a scenario states
    /// (`ip neigh replace … nud failed extern_learn`).
    ///
    /// # Errors
    /// It does not come to be.
    pub fn settle(&mut self) -> Result<()> {
        self.deaf.clear();
        let prepared = &mut self.prepared;
        self.sw.enter(|| neigh::prepare(prepared))??;
        self.carriers()?;
        self.addresses()?;
        self.quiesce()?;
        if let Some(v) = &self.switch {
            v.settle(&self.sw)?;
            // A managed gateway may have been asked for; what comes of it belongs to the change.
            self.quiesce()?;
            if let Some(v) = &self.switch {
                v.settle(&self.sw)?;
            }
        }
        self.quiesce()?;
        let forgotten = self.sw.enter(neigh::forget_failed)??;
        if let Some(v) = self.switch.as_ref().filter(|_| forgotten > 0) {
            v.settle(&self.sw)?;
        }
        Ok(())
    }

    /// Whether there is a bridge.
    ///
    /// # Errors
    /// `ip` can't be asked.
    pub fn bridges(&self) -> Result<bool> {
        Ok(self.run("ip -o link show type bridge")?.text.contains("mtu"))
    }

    /// Waits until the kernel knows what the chip has learned.
    ///
    /// # Errors
    /// It does not come to be.
    pub fn learned(&self) -> Result<()> {
        self.switch.as_ref().map_or(Ok(()), |v| v.settle(&self.sw))
    }

    /// Waits until each netdev that is up has the carrier that its wire has: a device set up says so only a moment later. Macvlans on one
    /// that is down lose theirs, which those on a TAP would keep (README, known limits). Bridges have that of their ports.
    ///
    /// # Errors
    /// They never agree.
    pub fn carriers(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let n = self.ports.len();
        let wires: Vec<bool> = self.wire.enter(|| {
            (1..=n).map(|p| netns::flags(&format!("w{p}")).is_some_and(|f| f & libc::IFF_UP != 0)).collect()
        })?;
        self.sw.enter(|| -> Result<()> {
            let lose = |name: &String| format!("link set {name} protodown on\n");
            let lines: String = macvlan::left_with_carrier()?.iter().map(lose).collect();
            if !lines.is_empty()
                && let (false, text) = ip_batch(&lines)?
            {
                bail!("macvlans keep their carrier: {text}");
            }
            for (p, wire) in (1..).zip(&wires) {
                while let Some(f) = netns::flags(&format!("swp{p}")) {
                    if f & libc::IFF_UP == 0 || (f & libc::IFF_RUNNING != 0) == *wire {
                        break;
                    }
                    if Instant::now() > until {
                        bail!("swp{p} is up, its wire is {}, and they never agreed", if *wire { "up" } else { "down" });
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            while let Some(late) = macvlan::late_bridge()? {
                if Instant::now() > until {
                    bail!("{late}'s carrier stays unheard of");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })?
    }

    /// Waits until IPv6 addresses are in use: even without duplicate address detection, and on a device that is down, the kernel leaves
    /// that to a worker. Those that a device kept when it went down (`keep_addr_on_down`) wait for it to be up.
    fn addresses(&self) -> Result<()> {
        let (until, kept) = (Instant::now() + PATIENCE, Instant::now() + KEPT);
        let n = self.ports.len();
        self.sw.enter(|| -> Result<()> {
            loop {
                let want = libc::IFF_UP | libc::IFF_RUNNING;
                let up = |d: &String| netns::flags(d).is_some_and(|f| f & want == want);
                let devices = (1..=n).map(|p| format!("swp{p}")).chain(["lo".into()]);
                let up: Vec<u32> = devices.filter(up).filter_map(|d| netns::index(&d)).collect();
                let now = Instant::now();
                if !neigh::tentative()?.iter().any(|i| now < kept || up.contains(i)) {
                    // Takes the lock under which that worker makes the address's route.
                    return netns::set_up("lo");
                }
                if now > until {
                    bail!("an IPv6 address stays tentative");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })?
    }

    /// Sends a frame into a port. `false` where the wire refuses it (it is down, or the frame is a runt or a giant).
    pub fn send(&mut self, port: usize, bytes: &[u8]) -> bool {
        self.ports.get(port.wrapping_sub(1)).is_some_and(|p| p.wire.send(bytes).is_ok())
    }

    /// What left each port since this was last called.
    pub fn take(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.ports.iter_mut().map(|p| std::mem::take(&mut p.captured)).collect()
    }

    /// Waits until all that was sent has been dealt with and nothing is on its way any more: sentinels have gone through
    /// each port, in and out, behind it, and through the queues of broadcasts for macvlans; no neighbour is being resolved; and two whole rounds brought nothing new. A neighbour is FAILED
    /// a moment before its packets are answered: then the rounds begin anew when the kernel's handlers have ended.
    ///
    /// # Errors
    /// The world does not come to rest.
    pub fn quiesce(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut quiet = 0;
        self.answered.clear();
        let (mut due, mut waited) = (false, false);
        loop {
            let before = self.captured();
            self.round += 1;
            let n = self.ports.len();
            let open: Vec<usize> = self.sw.enter(|| {
                let want = libc::IFF_UP | libc::IFF_RUNNING;
                (1..=n).filter(|p| netns::flags(&format!("swp{p}")).is_some_and(|f| f & want == want)).collect()
            })?;
            self.sentinels_in(&open, until)?;
            self.sentinels_over(&open)?;
            self.sentinels_out(&open, until)?;
            let neigh::Busy { resolving, failed } = self.sw.enter(neigh::busy)??;
            self.pump()?;
            quiet = if resolving == 0 && self.captured() == before { quiet + 1 } else { 0 };
            waited &= resolving == 0;
            due |= resolving > 0 || failed > 0 && !waited;
            if quiet == 2 && !due {
                return Ok(());
            }
            if quiet == 2 {
                neigh::handlers_done();
                (quiet, due, waited) = (0, false, true);
            }
            if resolving > 0 {
                // Ends by an answer, which this wakes up for, or by the kernel's own timer.
                wait_any(
                    &self.ports.iter().map(|p| &p.wire).collect::<Vec<_>>(),
                    Instant::now() + Duration::from_millis(20),
                );
            }
            if Instant::now() > until {
                let who = self.run("ip neigh show nud incomplete")?.text;
                bail!("the world does not come to rest: {resolving} neighbours are being resolved\n{who}");
            }
        }
    }

    fn captured(&self) -> usize {
        self.ports.iter().map(|p| p.captured.len()).sum()
    }

    /// In by a port it is a control frame of the link (LLDP's address): a bridge hands it on whatever state the port is in, and no bridge
    /// sends it on.
    fn sentinel(&self, port: usize, phase: u8) -> Vec<u8> {
        let to = if phase == 0 { [0x01, 0x80, 0xc2, 0, 0, 0x0e] } else { port_mac(port).0 };
        let mut f = [to, host_mac(port, 255).0].concat();
        f.extend_from_slice(&SENTINEL.to_be_bytes());
        f.extend_from_slice(&self.round.to_be_bytes());
        f.push(phase);
        f.resize(60, 0);
        f
    }

    /// From the wires to the netdevs.
    fn sentinels_in(&mut self, open: &[usize], until: Instant) -> Result<()> {
        let mut waiting = Vec::new();
        for &p in open {
            let f = self.sentinel(p, 0);
            if self.ports[p - 1].host.is_some() && self.send(p, &f) {
                waiting.push((p, f));
            }
        }
        for (p, f) in waiting {
            let mut again = Instant::now() + AGAIN;
            while let Some(host) = &self.ports[p - 1].host {
                match host.receive()? {
                    Some(g) if g.get(12..) == f.get(12..) => break,
                    Some(_) => {}
                    None => {
                        host.wait(Instant::now() + Duration::from_millis(20));
                        self.pump()?;
                    }
                }
                if Instant::now() > until {
                    bail!("a frame sent into port {p} never reached swp{p}{}", self.log());
                }
                if Instant::now() > again {
                    again += AGAIN;
                    self.send(p, &f);
                }
            }
        }
        Ok(())
    }

    /// From the wires to the macvlans on the netdevs, as broadcasts, behind which the kernel has dealt with all others.
    fn sentinels_over(&mut self, open: &[usize]) -> Result<()> {
        let mut waiting: Vec<(macvlan::Macvlan, Vec<u8>)> = Vec::new();
        for m in self.sw.enter(macvlan::macvlans)?? {
            if open.contains(&m.port) && !self.deaf.contains(&m.ifindex) {
                let mut f = self.sentinel(m.port, 2);
                f[..6].fill(0xff);
                f.splice(12..12, m.tags.iter().copied());
                self.send(m.port, &f);
                waiting.push((m, f));
            }
        }
        let (mut again, until) = (Instant::now() + AGAIN, Instant::now() + DEAF);
        while !waiting.is_empty() && Instant::now() < until {
            match self.all.receive_on()? {
                Some((i, g)) => waiting.retain(|(m, f)| m.ifindex != i || g.get(12..) != f.get(12 + m.tags.len()..)),
                None => {
                    self.all.wait(again);
                    self.pump()?;
                }
            }
            if Instant::now() > again {
                again += AGAIN;
                for (m, f) in &waiting {
                    self.send(m.port, f);
                }
            }
        }
        self.deaf.extend(waiting.iter().map(|(m, _)| m.ifindex));
        // What came by the other devices is of no interest.
        while self.all.receive_on()?.is_some() {}
        Ok(())
    }

    /// From the netdevs to the wires.
    fn sentinels_out(&mut self, open: &[usize], until: Instant) -> Result<()> {
        let mut waiting = Vec::new();
        for &p in open {
            let f = self.sentinel(p, 1);
            if self.ports[p - 1].host.as_ref().is_some_and(|h| h.send(&f).is_ok()) {
                waiting.push((p, f));
            }
        }
        for (p, f) in waiting {
            let mut again = Instant::now() + AGAIN;
            loop {
                self.pump()?;
                let port = &self.ports[p - 1];
                if port.sentinel.get(12..) == f.get(12..) {
                    break;
                }
                if Instant::now() > until {
                    bail!("a frame sent by swp{p} never reached its wire{}", self.log());
                }
                if Instant::now() > again {
                    again += AGAIN;
                    let _ = port.host.as_ref().map(|h| h.send(&f));
                }
                port.wire.wait(Instant::now() + Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Takes in what arrived on the wires, and answers for the addresses that the scenario has the harness answer for.
    fn pump(&mut self) -> Result<()> {
        for (n, port) in (1..).zip(&mut self.ports) {
            while let Some(f) = port.wire.receive()? {
                if let Some(c) = chatter(&f)
                    && let ("arp-request" | "ns", Some(target)) = (c.kind, c.target)
                    && let Some((_, _, mac)) = self.answers.iter().find(|(p, a, _)| *p == n && *a == target)
                    && let Some(answer) = answer(&f, n, target, *mac)
                {
                    // One that never reaches who asked (the port is a bridge's) can raise the question anew for ever.
                    let times = self.answered.entry((n, target)).or_default();
                    *times += 1;
                    if *times <= ANSWERS {
                        // A wire that is down has no one to answer.
                        let _ = port.wire.send(&answer);
                    }
                }
                self.groups.extend(frame::groups(&f).into_iter().map(|g| (n, g)));
                match frame::network(&f) {
                    Some((_, SENTINEL)) => port.sentinel = f,
                    _ => port.captured.push(f),
                }
            }
        }
        Ok(())
    }

    /// Asks by every wire which IPv6 groups the switch listens to there (MLDv2 general query, RFC 3810, section 5.1). The answers come within a
    /// moment; nothing says that they have all come.
    ///
    /// # Errors
    /// Never.
    pub fn query(&mut self) -> Result<()> {
        self.groups.clear();
        for p in 1..=self.ports.len() {
            let f = query(p);
            self.send(p, &f);
        }
        Ok(())
    }

    /// Which groups it answered since it was last asked.
    pub fn memberships(&self) -> &Groups {
        &self.groups
    }

    /// The rows of a table of the chip, a line of JSON each.
    ///
    /// # Errors
    /// The agent's sentence.
    pub fn table(&self, t: hal::TableId) -> Result<String> {
        self.switch.as_ref().map_or(Ok(String::new()), |v| v.table(&self.sw, t.name()))
    }

    /// What the chip carried and dropped so far; all zero in the kernel's world.
    ///
    /// # Errors
    /// The agent does not say.
    pub fn carried(&self) -> Result<Carried> {
        self.switch.as_ref().map_or(Ok(Carried::default()), |v| v.carried(&self.sw))
    }

    /// The ends of the switch's logs, for a report.
    pub fn log(&self) -> String {
        self.switch.as_ref().map_or(String::new(), virga::Virga::log)
    }

    /// What the agent says of itself, for a report.
    pub fn state(&self) -> String {
        let mut out = self.switch.as_ref().map_or(String::new(), |v| v.state(&self.sw));
        if self.bridges().unwrap_or(false) {
            for line in ["bridge vlan show", "bridge fdb show"] {
                let said = self.run(line).map_or_else(|e| e.to_string(), |s| s.text);
                out += &format!("--- {line}\n{}\n", said.trim_end());
            }
        }
        out
    }

    /// Whether the agent finds kernel, desired and chip equal; always so in the kernel's world.
    ///
    /// # Errors
    /// Its sentence, where it does not.
    pub fn check(&self) -> Result<()> {
        self.switch.as_ref().map_or(Ok(()), |v| v.check(&self.sw))
    }
}

/// An MLDv2 general query that wants its answer within a millisecond, from a router behind port `n`.
fn query(n: usize) -> Vec<u8> {
    let src = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, n as u16, 0xfe).octets();
    let dst = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    // Type, code, checksum, maximum response code; no group; robustness 2, interval 125 s, no sources.
    let mut q = [130, 0, 0, 0, 0, 1, 0, 0].to_vec();
    q.extend([0; 16]);
    q.extend([2, 125, 0, 0]);
    let sum = frame::checksum(&[&src, &dst, &[0, 0, 0, q.len() as u8], &[0, 0, 0, 58], &q]);
    q[2..4].copy_from_slice(&sum.to_be_bytes());
    // Hop-by-hop header with router alert for MLD (RFC 2711), padded.
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let mut f = [[0x33, 0x33, 0, 0, 0, 1], host_mac(n, 254).0].concat();
    f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, (alert.len() + q.len()) as u8, 0, 1]);
    f.extend([&src[..], &dst, &alert, &q].concat());
    f
}

/// The answer to an ARP or ND request, from the host behind port `n` that has `target`.
fn answer(request: &[u8], n: usize, target: IpAddr, mac: Mac) -> Option<Vec<u8>> {
    let asker = Mac(request.get(6..12)?.try_into().ok()?);
    let text = match target {
        IpAddr::V4(t) => {
            let (at, _) = frame::network(request)?;
            let spa = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(request.get(at + 14..at + 18)?).ok()?);
            format!("arp rep {t}>{spa} src={mac} sha={mac} tha={asker} dst={asker}")
        }
        IpAddr::V6(t) => {
            let (IpAddr::V6(from), _) = frame::addresses(request)? else { return None };
            format!("{t}>{from} na={t} src={mac} dst={asker}")
        }
    };
    let mut f = frame::build(&text, &frame::Context { port: n, id: 0 }).ok()?;
    if target.is_ipv6() {
        // The option's address, then the checksum anew.
        let at = f.len() - 6;
        f[at..].copy_from_slice(&mac.0);
        f[56..58].fill(0);
        let n = (f.len() - 54) as u32;
        let sum = frame::checksum(&[&f[22..54], &n.to_be_bytes(), &[0, 0, 0, 58], &f[54..]]);
        f[56..58].copy_from_slice(&sum.to_be_bytes());
    }
    // With the tags of the request.
    let (at, _) = frame::network(request)?;
    f.splice(12..12, request.get(12..at - 2)?.iter().copied());
    Some(f)
}

/// Words of a command line; quotes hold words together (nft expressions).
fn shell_words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// Runs `ip -batch` to its end in the calling thread's namespace: whether all succeeded, and what it said.
fn ip_batch(lines: &str) -> Result<(bool, String)> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut c = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip can't be started: install iproute2")?;
    c.stdin.take().context("no pipe to ip")?.write_all(lines.as_bytes())?;
    let out = c.wait_with_output()?;
    Ok((out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()))
}
