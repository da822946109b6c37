//! `/etc/virga/virga.toml`, which chip and agent share and each check as a whole, and the chip's profiles. Reading only: no
//! default is looked up on the machine here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hal::{Profile, TrapClass};
use serde::Deserialize;

use crate::policer::{self, Rate};
use crate::wire::{WireSpec, is_ifname};
use crate::worker;

/// Where the configuration is if nothing else is said.
pub const PATH: &str = "/etc/virga/virga.toml";

/// The profiles that come with the chip: name and text.
pub const PROFILES: [(&str, &str); 3] = [
    ("small", include_str!("../../packaging/profiles/small.toml")),
    ("tor", include_str!("../../packaging/profiles/tor.toml")),
    ("unlimited", include_str!("../../packaging/profiles/unlimited.toml")),
];

/// The profile used if none is named.
pub const PROFILE: &str = "tor";

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[chip]`
    #[serde(default)]
    pub chip: Chip,
    /// `[agent]`
    #[serde(default)]
    pub agent: Agent,
}

/// `[agent]`: the chip only checks it, so that a typo is not left for the other program to find.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Agent {
    /// `unix:PATH` of the chip, or `embedded`.
    pub chip: Option<String>,
    /// Where operators reach the agent.
    pub socket: Option<PathBuf>,
    /// Journal of the agent's inputs and outputs, if one is to be kept.
    pub record: Option<PathBuf>,
    /// Receive buffer of the agent's netlink socket, in bytes.
    pub receive_buffer: Option<usize>,
    /// What is done about policy that hardware can't follow.
    #[serde(default)]
    pub policy: Policy,
}

/// `[agent.policy]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// About nftables and xtables.
    #[serde(default)]
    pub firewall: Firewall,
}

/// What is done about a firewall that may see forwarded packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// What it could see is punted, so that it does.
    #[default]
    Punt,
    /// Hardware forwards past it.
    Ignore,
}

/// `[chip]`: the same words as the options, which go before it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Chip {
    /// A profile's name or file.
    pub profile: Option<String>,
    /// `NAME=WIRE`, in the order of the front panel.
    #[serde(default)]
    pub port: Vec<String>,
    /// Threads that move frames.
    pub workers: Option<u32>,
    /// `unix:PATH`
    pub listen: Option<String>,
    /// Namespace of the wires.
    pub netns: Option<String>,
    /// Namespace of the TAPs.
    pub host_netns: Option<String>,
    /// `[chip.policer]`: trap class → rate and burst.
    #[serde(default)]
    pub policer: BTreeMap<String, Rate>,
}

/// Read the file. `explicit`: it was named by the operator, so it has to be there.
///
/// # Errors
/// One sentence that names the file and what is wrong.
pub fn read(path: &Path, explicit: bool) -> Result<File, String> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|e| format!("configuration {}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !explicit => Ok(File::default()),
        Err(e) => Err(format!("configuration {} can't be read: {e}", path.display())),
    }
}

/// A TOML error as one line: place and message, without the excerpt.
fn one_line(text: &str, e: &toml::de::Error) -> String {
    let line = e.span().map(|s| 1 + text[..s.start.min(text.len())].matches('\n').count());
    let message = e.message().replace('\n', ", ");
    line.map_or_else(|| message.clone(), |l| format!("line {l}: {message}"))
}

/// The file from its text, both sections checked.
///
/// # Errors
/// One sentence without the file's name.
pub fn parse(text: &str) -> Result<File, String> {
    let file: File = toml::from_str(text).map_err(|e| one_line(text, &e))?;
    let (chip, agent) = (&file.chip, &file.agent);
    for name in chip.policer.keys() {
        if !TrapClass::ALL.iter().any(|c| c.name() == name) {
            let all: Vec<_> = TrapClass::ALL.iter().map(|c| c.name()).collect();
            return Err(format!("[chip.policer]: there is no trap class {name:?}; there are {}", all.join(", ")));
        }
    }
    ports(&chip.port).map_err(|e| format!("[chip]: {e}"))?;
    // A file may be another machine's to read.
    if let Some(name) = chip.profile.as_deref().filter(|n| !is_file(n)) {
        profile(name).map_err(|e| format!("[chip]: {e}"))?;
    }
    let unix = |w: &str| w.strip_prefix("unix:").is_some_and(|p| !p.is_empty());
    if let Some(l) = chip.listen.as_deref().filter(|l| !unix(l)) {
        return Err(format!("[chip]: listen {l:?} is not unix:PATH"));
    }
    if let Some(c) = agent.chip.as_deref().filter(|c| !unix(c) && *c != "embedded") {
        return Err(format!("[agent]: the chip {c:?} is neither unix:PATH nor embedded"));
    }
    if agent.receive_buffer == Some(0) {
        return Err("agent.receive-buffer is 0: it takes bytes, 67108864 for example".into());
    }
    Ok(file)
}

/// Whether a profile's name is that of a file.
fn is_file(profile: &str) -> bool {
    profile.contains('/') || profile.ends_with(".toml")
}

impl Chip {
    /// How many threads move the frames of so many ports; unless configured, one for each processor that the chip may use.
    ///
    /// # Errors
    /// One sentence: none, or more than have anything to do.
    pub fn workers(&self, ports: usize) -> Result<usize, String> {
        let most = ports.clamp(1, worker::MAX);
        let Some(n) = self.workers else {
            return Ok(std::thread::available_parallelism().map_or(1, usize::from).min(most));
        };
        match usize::try_from(n) {
            Ok(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(format!("{n} workers can't serve {ports} ports: give 1 to {most}, or leave it to the chip")),
        }
    }

    /// The rate of a class: as configured, else the default.
    pub fn rate(&self, class: TrapClass) -> Rate {
        self.policer.get(class.name()).copied().unwrap_or_else(|| policer::default(class))
    }
}

/// The profile of that name, or in that file if it has a `/` or ends in `.toml`.
///
/// # Errors
/// One sentence that names it and what is wrong.
pub fn profile(name: &str) -> Result<Profile, String> {
    let text = if is_file(name) {
        &fs::read_to_string(name).map_err(|e| format!("profile {name} can't be read: {e}"))?
    } else {
        let names = PROFILES.map(|p| p.0).join(", ");
        let found = PROFILES.iter().find(|p| p.0 == name);
        found.map(|p| p.1).ok_or_else(|| {
            format!("there is no profile {name:?}: it is one of {names}, or a file given with a / or .toml in its name")
        })?
    };
    let p: Profile = toml::from_str(text).map_err(|e| format!("profile {name}: {}", one_line(text, &e)))?;
    if p.frame < 1518 || p.frame as usize > crate::pool::FRAME {
        return Err(format!("profile {name}: frame is {}, it has to be 1518 to {}", p.frame, crate::pool::FRAME));
    }
    if let Some(zero) = [
        ("fids", p.fids),
        ("bridge_ports", p.bridge_ports),
        ("fdb", p.fdb),
        ("rifs", p.rifs),
        ("neigh4", p.neigh4),
        ("neigh6", p.neigh6),
        ("nexthops", p.nexthops),
        ("groups", p.groups),
        ("group_members", p.group_members),
        ("routes4", p.routes4),
        ("routes6", p.routes6),
        ("vrfs", p.vrfs),
    ]
    .iter()
    .find(|f| f.1 == 0)
    {
        return Err(format!("profile {name}: {} is 0, it has to be 1 or more", zero.0));
    }
    Ok(p)
}

/// `NAME=WIRE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// Name of the port and, at first, of its netdev.
    pub name: String,
    /// Its wire.
    pub wire: WireSpec,
}

impl FromStr for PortSpec {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, wire) = s.split_once('=').ok_or_else(|| format!("port {s:?} is not NAME=WIRE"))?;
        if !is_ifname(name) {
            return Err(format!("port {s:?}: {name:?} is no name for a network device"));
        }
        Ok(PortSpec { name: name.into(), wire: wire.parse().map_err(|e| format!("port {name}: {e}"))? })
    }
}

/// Read all ports; no name and no device may come twice.
///
/// # Errors
/// One sentence that names the port.
pub fn ports(specs: &[String]) -> Result<Vec<PortSpec>, String> {
    let mut all: Vec<PortSpec> = Vec::with_capacity(specs.len());
    for s in specs {
        let p: PortSpec = s.parse()?;
        if all.iter().any(|q| q.name == p.name) {
            return Err(format!("port {} is given twice", p.name));
        }
        // By name alone, whatever the namespace: in the chip's own they would collide.
        let device = |w: &WireSpec| match w {
            WireSpec::Packet { ifname, .. } => Some(ifname.clone()),
            WireSpec::None => None,
        };
        if let Some(q) = all.iter().find(|q| device(&p.wire).is_some() && device(&q.wire) == device(&p.wire)) {
            return Err(format!(
                "ports {} and {} have wires of the same name: rename one of the devices",
                q.name, p.name
            ));
        }
        all.push(p);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_and_files() {
        for (name, _) in PROFILES {
            assert_eq!(profile(name).unwrap().name, name);
        }
        assert!(profile("huge").unwrap_err().contains("small, tor, unlimited"));
        let f = parse(
            "[chip]\nport = [\"swp1=none\"]\n[chip.policer]\narp = { rate = 7, burst = 8 }\n[agent]\nsocket = \"/x\"\n",
        );
        let f = f.unwrap();
        assert_eq!(f.chip.rate(TrapClass::Arp), Rate { rate: 7, burst: 8 });
        assert_eq!(f.chip.rate(TrapClass::Nd), policer::default(TrapClass::Nd));
        let e = |t: &str| parse(t).unwrap_err();
        assert!(
            e("[chip]\n\nprots = []\n").starts_with("line 3: unknown field `prots`"),
            "{}",
            e("[chip]\n\nprots = []\n")
        );
        assert!(e("[ship]\n").contains("unknown field `ship`"));
        assert!(e("[chip.policer]\narpp = { rate = 1, burst = 1 }\n").contains("no trap class \"arpp\""));
        for bad in ["[chip", "[chip]\nport = 3\n"] {
            assert!(!e(bad).contains('\n'), "{}", e(bad));
        }
        // The agent's section as well.
        for (bad, has) in [
            ("[agent]\nsokcet = \"/x\"\n", "line 2: unknown field `sokcet`"),
            ("[agent]\nchip = \"tcp:1\"\n", "neither unix:PATH nor embedded"),
            ("[agent]\nreceive-buffer = 0\n", "receive-buffer is 0"),
            ("[agent]\nreceive-buffer = \"big\"\n", "line 2: invalid type"),
            ("[chip]\nport = [\"swp1\"]\n", "NAME=WIRE"),
            ("[chip]\nprofile = \"huge\"\n", "small, tor, unlimited"),
            ("[chip]\nlisten = \"/x\"\n", "is not unix:PATH"),
        ] {
            assert!(e(bad).contains(has) && !e(bad).contains('\n'), "{}", e(bad));
        }
    }

    #[test]
    fn workers() {
        let with = |workers, ports| Chip { workers, ..Chip::default() }.workers(ports);
        assert_eq!((with(Some(1), 1), with(Some(3), 4), with(None, 1)), (Ok(1), Ok(3), Ok(1)));
        assert!((1..=64).contains(&with(None, 1000).unwrap()));
        for (n, ports, most) in [(0, 4, "1 to 4"), (5, 4, "1 to 4"), (65, 100, "1 to 64"), (u32::MAX, 1, "1 to 1")] {
            let e = with(Some(n), ports).unwrap_err();
            assert!(e.contains(most) && e.contains(&format!("{n} workers")), "{e}");
        }
    }

    #[test]
    fn port_specs() {
        let p = |s: &[&str]| ports(&s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(p(&["swp2=none", "swp1=packet:e1@a"]).unwrap()[0].name, "swp2");
        assert!(p(&["swp1"]).unwrap_err().contains("NAME=WIRE"));
        assert!(p(&["swp1=none", "swp1=none"]).unwrap_err().contains("twice"));
        assert!(p(&["swp1=packet:e@a", "swp2=packet:e@b"]).unwrap_err().contains("same name"));
        assert!(p(&["a/b=none"]).is_err());
    }
}
