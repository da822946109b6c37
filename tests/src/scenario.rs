//! Scenario files: lines of text that say what to configure and what to send.
//!
//! A scenario stays text: it is generated, shrunk and reported as lines; here they get their meaning. Running is `oracle`'s.
//!
//! ```text
//! # A comment.
//! ports 3                 how many ports (default 2); must come first
//! base                    the common setting: see [`base`]
//! needs nft vrf           skipped where that program or kernel feature (one of `kernel`'s) is missing
//! share 95                the chip must carry at least 95 % of what the kernel alone forwards
//! count 3                 the kernel alone lets that many data frames out (so that a scenario cannot become empty by mistake)
//! ip route add …          a command: ip, bridge, tc, nft, sysctl (its success must be the same in both worlds)
//! ! ip route add …        a command that must fail
//! ? ip route add …        a command that may do either
//! 1: 10.0.1.2>10.0.2.2    a frame into port 1; its notation is described in `frame`
//! 1: *5 10.0.1.2>10.0.2.2 the same five times, each with its own number
//! link 2 down             the wire of port 2 loses or gets carrier
//! answer 1 10.0.1.9 MAC   from now on the harness answers ARP or ND for that address on port 1's wire (without MAC: no longer)
//! agent restart           the agent is killed and another started (stop, start: one of the two alone); nothing to the kernel's world
//! memory                  no kernel: the chip alone decides on frames in memory, which may be such as no device carries
//! 1: hex 0200 => drop runt   what it must do: out PORT, trap CLASS or drop REASON
//! ---                     ends a step; commands after frames do, too
//! ```

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use hal::Mac;

use crate::{frame, kernel};

/// What a scenario says of how a command ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Must {
    /// Nothing is written before it.
    Succeed,
    /// `!`
    Fail,
    /// `?`
    Either,
}

/// What changes a world's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A command line in the switch namespace.
    Command {
        /// As in the file.
        line: String,
        /// How it must end, the same in both worlds in any case.
        must: Must,
    },
    /// Carrier of a wire.
    Link {
        /// From 1.
        port: usize,
        /// Up or down.
        up: bool,
    },
    /// The agent is killed, another is started, or both.
    Agent {
        /// Kill the one there is.
        stop: bool,
        /// Start one, if there is none.
        start: bool,
    },
    /// The harness answers for an address on a port's wire, or (`None`) does no longer.
    Answer {
        /// From 1.
        port: usize,
        /// Which address.
        addr: IpAddr,
        /// With what.
        mac: Option<Mac>,
    },
}

/// A frame to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Send {
    /// The port into whose wire it goes, from 1.
    pub port: usize,
    /// Its number.
    pub id: u32,
    /// Its notation.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the chip must do with it, where it runs in memory.
    pub expect: Option<String>,
}

/// Changes, then frames; compared at its end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Line of the file at which it begins.
    pub line: usize,
    /// What changes first.
    pub actions: Vec<Action>,
    /// What is sent then.
    pub sends: Vec<Send>,
}

/// A whole scenario.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scenario {
    /// For reports.
    pub name: String,
    /// Its lines, as they were given.
    pub lines: Vec<String>,
    /// How many ports.
    pub ports: usize,
    /// Programs and features that it needs.
    pub needs: Vec<String>,
    /// Least share of the forwarded frames that the chip must carry, in percent.
    pub share: Option<u32>,
    /// How many data frames must leave the kernel's world.
    pub count: Option<usize>,
    /// Whether it runs on the chip alone, in memory.
    pub memory: bool,
    /// What happens.
    pub steps: Vec<Step>,
}

/// The common setting, as lines: on each port N 10.0.N.1/24 and 2001:db8:N::1/64, up, with the neighbours .2 to .4 and ::2 to
/// ::4 as permanent entries with the MACs `h2` to `h4`.
pub fn base(ports: usize) -> Vec<String> {
    let mut out = Vec::new();
    for n in 1..=ports {
        out.push(format!("ip addr add 10.0.{n}.1/24 dev swp{n}"));
        out.push(format!("ip addr add 2001:db8:{n}::1/64 dev swp{n}"));
    }
    out.extend((1..=ports).map(|n| format!("ip link set swp{n} up")));
    for n in 1..=ports {
        for h in 2..=4 {
            let mac = frame::host_mac(n, h);
            out.push(format!("ip neigh replace 10.0.{n}.{h} lladdr {mac} dev swp{n} nud permanent"));
            out.push(format!("ip neigh replace 2001:db8:{n}::{h} lladdr {mac} dev swp{n} nud permanent"));
        }
    }
    out
}

const PROGRAMS: [&str; 5] = ["ip", "bridge", "tc", "nft", "sysctl"];

impl Scenario {
    /// Parses lines.
    ///
    /// # Errors
    /// The first line that is not understood, by number.
    pub fn parse(name: &str, text: &str) -> Result<Scenario> {
        let mut s = Scenario {
            name: name.into(),
            ports: 2,
            lines: text.lines().map(str::to_owned).collect(),
            ..Scenario::default()
        };
        let mut id = 0;
        for (n, line) in text.lines().enumerate() {
            s.line(n + 1, line, &mut id).with_context(|| format!("{name}:{}: {line:?}", n + 1))?;
        }
        if s.steps.is_empty() {
            bail!("{name}: it does nothing");
        }
        Ok(s)
    }

    fn step(&mut self, line: usize) -> &mut Step {
        if self.steps.is_empty() {
            self.steps.push(Step { line, ..Step::default() });
        }
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    /// The step that a change belongs to: a new one, if frames were sent since.
    fn change(&mut self, line: usize, a: Action) -> Result<()> {
        if self.memory {
            bail!("in memory there is no kernel to change");
        }
        if self.steps.last().is_some_and(|s| !s.sends.is_empty()) {
            self.steps.push(Step { line, ..Step::default() });
        }
        self.step(line).actions.push(a);
        Ok(())
    }

    fn port(&self, text: &str) -> Result<usize> {
        let n: usize = text.trim().trim_start_matches("swp").parse().map_err(|_| anyhow!("{text:?} names no port"))?;
        if n == 0 || n > self.ports {
            bail!("there are ports 1 to {}", self.ports);
        }
        Ok(n)
    }

    fn line(&mut self, n: usize, line: &str, id: &mut u32) -> Result<()> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "ports" => {
                self.ports = words
                    .get(1)
                    .and_then(|v| v.parse().ok())
                    .filter(|p| (1..=32).contains(p))
                    .context("ports wants 1 to 32")?;
            }
            "needs" => {
                for w in &words[1..] {
                    if kernel::feature(w).is_none() && !PROGRAMS.contains(w) {
                        bail!("{w:?} is neither a kernel feature that the tests know nor one of {PROGRAMS:?}");
                    }
                    self.needs.push(w.to_string());
                }
            }
            "share" => {
                self.share = Some(words.get(1).and_then(|v| v.parse().ok()).context("share wants a percentage")?)
            }
            "count" => self.count = Some(words.get(1).and_then(|v| v.parse().ok()).context("count wants a number")?),
            "memory" => self.memory = true,
            "base" if self.memory => bail!("in memory the chip holds the common setting anyhow"),
            "base" => {
                for c in base(self.ports) {
                    self.change(n, Action::Command { line: c, must: Must::Succeed })?;
                }
            }
            "link" => {
                let port = self.port(words.get(1).context("link wants a port and up or down")?)?;
                let up = match words.get(2) {
                    Some(&"up") => true,
                    Some(&"down") => false,
                    _ => bail!("link wants a port and up or down"),
                };
                self.change(n, Action::Link { port, up })?;
            }
            "answer" => {
                let port = self.port(words.get(1).context("answer wants a port, an address and a MAC")?)?;
                let addr = words.get(2).and_then(|a| a.parse().ok()).context("answer wants an address")?;
                let mac = match words.get(3) {
                    Some(m) => Some(match m.strip_prefix('h') {
                        Some(h) => frame::host_mac(port, h.parse().context("names no host")?),
                        None => m.parse().map_err(|e| anyhow!("{m}: {e}"))?,
                    }),
                    None => None,
                };
                self.change(n, Action::Answer { port, addr, mac })?;
            }
            "agent" => {
                let (stop, start) = match words.get(1) {
                    Some(&"stop") => (true, false),
                    Some(&"start") => (false, true),
                    Some(&"restart") => (true, true),
                    _ => bail!("agent wants stop, start or restart"),
                };
                self.change(n, Action::Agent { stop, start })?;
            }
            "---" => self.steps.push(Step { line: n, ..Step::default() }),
            w @ ("!" | "?") => {
                let must = if w == "!" { Must::Fail } else { Must::Either };
                let line = line[1..].trim();
                self.command(line)?;
                self.change(n, Action::Command { line: line.into(), must })?;
            }
            w if PROGRAMS.contains(&w) => self.change(n, Action::Command { line: line.into(), must: Must::Succeed })?,
            _ => {
                let (port, text) = line.split_once(':').context("neither a command nor a frame")?;
                let port = self.port(port)?;
                let (text, expect) = match text.split_once("=>") {
                    Some((t, e)) => (t, Some(e.trim().to_owned())),
                    None => (text, None),
                };
                if expect.is_some() != self.memory {
                    bail!("=> VERDICT belongs behind each frame of a scenario in memory, and of no other");
                }
                if let Some(e) = expect.as_ref().filter(|e| !crate::world::memory::is_verdict(e)) {
                    bail!("{e:?} is not out PORT, trap CLASS or drop REASON");
                }
                let mut text = text.trim();
                let mut times = 1;
                if let Some(rest) = text.strip_prefix('*') {
                    let (t, rest) = rest.split_once(' ').context("*COUNT wants a frame behind it")?;
                    times = t.parse().ok().filter(|t| (1..=1000).contains(t)).context("*COUNT wants 1 to 1000")?;
                    text = rest.trim();
                }
                for _ in 0..times {
                    *id += 1;
                    let bytes = frame::build(text, &frame::Context { port, id: *id })?;
                    self.step(n).sends.push(Send { port, id: *id, text: text.into(), bytes, expect: expect.clone() });
                }
            }
        }
        Ok(())
    }

    fn command(&self, line: &str) -> Result<()> {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !PROGRAMS.contains(&first) {
            bail!("{first:?} is not one of {PROGRAMS:?}");
        }
        Ok(())
    }

    /// How many frames it sends.
    pub fn frames(&self) -> usize {
        self.steps.iter().map(|s| s.sends.len()).sum()
    }

    /// Whether anything in it can make a multipath route.
    pub fn multipath(&self) -> bool {
        self.lines.iter().any(|l| l.contains("nexthop") || l.contains("append"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_where_changes_follow_frames() {
        let s = Scenario::parse("t", "ports 3\nbase\n1: 10.0.1.2>10.0.2.2\n1: *2 10.0.1.2>10.0.3.2\nlink 2 down\n2: 10.0.1.2>10.0.2.2\n---\n3: arp req 10.0.3.2>10.0.3.1\n").unwrap();
        let shape: Vec<_> = s.steps.iter().map(|s| (s.actions.len(), s.sends.len())).collect();
        assert_eq!(shape, [(27, 3), (1, 1), (0, 1)]);
        assert_eq!(s.frames(), 5);
    }

    #[test]
    fn nonsense_names_its_line() {
        for t in [
            "rm -rf /",
            "4: 10.0.1.2>10.0.2.2",
            "link 1 sideways",
            "! rm",
            "1: 10.0.1.2",
            "1: hex 02 => drop runt",
            "ports 99",
            "needs vfr",
            "",
        ] {
            let e = Scenario::parse("t", t).unwrap_err();
            assert!(t.is_empty() || e.to_string().contains("t:1"), "{e}");
        }
    }
}
