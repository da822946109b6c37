//! The world of the lab: a switch namespace, the chip's namespace with its wires, and a host at the end of each.
//!
//! Everything is built inside [`super::isolate::enter`]'s namespaces; nothing here takes anything down again.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hal::Mac;
use sim_asic::netlink::Netlink;
use sim_asic::netns::NetNs;

use super::daemon::{Daemon, Spec};
use super::{net, wait_for};

/// Where sockets, logs and the link to `virga` are.
pub const RUN: &str = "/run/virga";
const CHIP_NETNS: &str = "virga-asic";
const START: Duration = Duration::from_secs(20);

/// How to build a [`World`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of ports and of hosts, 1 to [`MAX_PORTS`].
    pub ports: u16,
    /// Ports without addresses, hosts without routes.
    pub bare: bool,
    /// Start the agent too.
    pub agent: bool,
    /// The executable that plays `virga`, `virgad` and `virga-asic` by its name.
    pub exe: PathBuf,
    /// More arguments for the chip.
    pub chip_args: Vec<String>,
    /// More arguments for the agent.
    pub agent_args: Vec<String>,
}

/// More would not fit the lab's share of neighbours: their limit is the machine's, over all namespaces.
pub const MAX_PORTS: u16 = 64;

impl Config {
    /// Four ports, with addresses and an agent, played by that executable.
    pub fn new(exe: impl Into<PathBuf>) -> Config {
        Config { ports: 4, bare: false, agent: true, exe: exe.into(), chip_args: vec![], agent_args: vec![] }
    }
}

/// One host: a namespace with a real stack behind `eth0`.
#[derive(Debug)]
pub struct Host {
    /// `h1`, `h2`, …
    pub name: String,
    /// Its namespace.
    pub netns: NetNs,
    /// Its number, from 1.
    pub number: u16,
}

impl Host {
    /// Its own IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        v4(self.number, 2)
    }

    /// Its own IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        v6(self.number, 2)
    }

    /// The MAC of its `eth0`.
    pub fn mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 1, self.number as u8])
    }

    /// The switch's IPv4 address on its link.
    pub fn gateway4(&self) -> Ipv4Addr {
        v4(self.number, 1)
    }

    /// The switch's IPv6 address on its link.
    pub fn gateway6(&self) -> Ipv6Addr {
        v6(self.number, 1)
    }

    /// A command that will run in its namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn command(&self, program: &str) -> Result<Command> {
        Ok(net::command_in(&self.netns, program)?)
    }
}

fn v4(link: u16, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, link as u8, host)
}

/// The link's number is written as it reads: port 12 is in 2001:db8:12::/64.
fn v6(link: u16, host: u16) -> Ipv6Addr {
    let shown = u16::from_str_radix(&link.to_string(), 16).unwrap_or(link);
    Ipv6Addr::new(0x2001, 0xdb8, shown, 0, 0, 0, 0, host)
}

/// The lab, up.
#[derive(Debug)]
pub struct World {
    /// The switch's namespace (this process's own).
    pub switch: NetNs,
    /// The hosts, in order of their ports.
    pub hosts: Vec<Host>,
    /// The simulated chip.
    pub chip: Daemon,
    /// The agent, if it was asked for.
    pub agent: Option<Daemon>,
    config: Config,
}

impl World {
    /// Build it and wait until all ports are up and chip and agent answer.
    ///
    /// # Errors
    /// One sentence naming what did not come up, with the end of the log of the program to blame.
    pub fn new(config: Config) -> Result<World> {
        if !(1..=MAX_PORTS).contains(&config.ports) {
            bail!("{} ports: the lab has 1 to {MAX_PORTS}", config.ports);
        }
        let bin = Path::new(RUN).join("bin");
        fs::create_dir_all(&bin)?;
        // A bind mount and no symlink: it goes on when the file is replaced by a new build, and where /run hides it.
        let exe = bin.join("virga");
        fs::File::create_new(&exe)?;
        rustix::mount::mount_bind(&config.exe, &exe)
            .with_context(|| format!("{} can't be mounted in {}", config.exe.display(), bin.display()))?;
        let config = Config { exe, ..config };
        let toml = Path::new(RUN).join("virga.toml");
        // The machine's own /etc/virga/virga.toml is not for the lab.
        fs::write(&toml, "[chip]\n[agent]\n")?;

        let (wires, _) = NetNs::open_or_make(CHIP_NETNS)?;
        net::name_this("switch")?;
        let switch = NetNs::open("switch")?;
        let mut nl = Netlink::open()?;
        net::sysctls(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        net::up(&mut nl, "lo")?;
        let mut hosts = Vec::new();
        for number in 1..=config.ports {
            let (netns, _) = NetNs::open_or_make(&format!("h{number}"))?;
            let host = Host { name: format!("h{number}"), netns, number };
            host.netns.run(|| host_up(&host, &wires, config.bare))?.with_context(|| host.name.clone())?;
            hosts.push(host);
        }

        let mut args = vec!["--config".into(), toml.display().to_string()];
        for n in 1..=config.ports {
            args.extend(["--port".into(), format!("swp{n}=packet:w{n}@{CHIP_NETNS}")]);
        }
        args.extend(config.chip_args.iter().cloned());
        let chip = start(&config.exe, "virga-asic", args)?;
        let mut world = World { switch, hosts, chip, agent: None, config };
        let ports: Vec<String> = (1..=world.config.ports).map(|n| format!("swp{n}")).collect();
        // Looked for, not connected to: the chip has room for one agent.
        world.answers(&world.chip, "asic.sock", |p| p.exists())?;
        for (n, port) in (1..).zip(&ports) {
            wait_for(port, START, || nl.link_by_name(port).ok().flatten()).map_err(|e| blame(&world.chip, &e))?;
            if !world.config.bare {
                net::address(&mut nl, port, v4(n, 1).into(), 24)?;
                net::address(&mut nl, port, v6(n, 1).into(), 64)?;
            }
            net::up(&mut nl, port)?;
        }
        for port in &ports {
            let carrier = || nl.link_by_name(port).ok().flatten().filter(|l| l.carrier);
            wait_for(&format!("carrier on {port}"), START, carrier).map_err(|e| blame(&world.chip, &e))?;
        }
        if world.config.agent {
            let mut args = Vec::new();
            for (name, value) in [("--config", toml.display().to_string()), ("--chip", format!("unix:{RUN}/asic.sock"))]
            {
                if !world.config.agent_args.iter().any(|a| a == name) {
                    args.extend([name.into(), value]);
                }
            }
            args.extend(world.config.agent_args.iter().cloned());
            let agent = start(&world.config.exe, "virgad", args)?;
            world.answers(&agent, "virgad.sock", |p| std::os::unix::net::UnixStream::connect(p).is_ok())?;
            world.agent = Some(agent);
        }
        Ok(world)
    }

    /// Wait until the daemon listens.
    fn answers(&self, daemon: &Daemon, socket: &str, there: fn(&Path) -> bool) -> Result<()> {
        let path = Path::new(RUN).join(socket);
        let ready = wait_for(&format!("{}", path.display()), START, || {
            if daemon.given_up().is_some() {
                // The sentence has been printed.
                return Some(Err(anyhow!("{} did not come up", daemon.spec().name)));
            }
            there(&path).then_some(Ok(()))
        });
        ready.and_then(|r| r).map_err(|e| blame(daemon, &e))
    }

    /// The host on port `number`, from 1.
    ///
    /// # Panics
    /// There is no such port.
    pub fn host(&self, number: u16) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }

    /// The operator's command, in the switch's namespace.
    pub fn virga(&self) -> Command {
        use std::os::unix::process::CommandExt;
        let mut c = Command::new(&self.config.exe);
        c.arg0("virga");
        c
    }
}

fn start(exe: &Path, name: &str, args: Vec<String>) -> Result<Daemon> {
    let log = Path::new(RUN).join(format!("{name}.log"));
    Ok(Daemon::start(Spec { name: name.into(), exe: exe.into(), args, log })?)
}

fn blame(daemon: &Daemon, e: &anyhow::Error) -> anyhow::Error {
    match daemon.log_tail() {
        log if log.is_empty() => anyhow!("{e:#}"),
        log => anyhow!("{e:#}\n{log}"),
    }
}

fn host_up(host: &Host, wires: &NetNs, bare: bool) -> Result<()> {
    // No router solicitations: hosts are silent unless spoken to, so that counters show what one does.
    net::sysctls(&[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/default/router_solicitations", "0")])?;
    let mut nl = Netlink::open()?;
    let port_mac = Mac([2, 0, 0, 0, 0, host.number as u8]);
    net::veth(&mut nl, "eth0", host.mac(), &format!("w{}", host.number), port_mac, wires.fd())?;
    net::up(&mut nl, "lo")?;
    net::up(&mut nl, "eth0")?;
    net::address(&mut nl, "eth0", IpAddr::V4(host.v4()), 24)?;
    net::address(&mut nl, "eth0", IpAddr::V6(host.v6()), 64)?;
    if !bare {
        net::default_route(&mut nl, host.gateway4().into())?;
        net::default_route(&mut nl, host.gateway6().into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_they_are() {
        assert_eq!(v6(12, 2).to_string(), "2001:db8:12::2");
        assert_eq!(v4(12, 1).to_string(), "10.0.12.1");
    }
}
