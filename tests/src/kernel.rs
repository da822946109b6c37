//! Features of the kernel that a test may need, and whether this one has them. `tests/vm/run` runs tests under a kernel that has most;
//! what is skipped and where it is noted is `harness`'s.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, anyhow, bail};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::harness::{Cure, Skip};

/// Set for what `tests/vm/run` runs.
pub const MACHINE: &str = "VIRGA_MACHINE";

/// A row of [`FEATURES`].
#[derive(Debug)]
pub struct Feature {
    /// As scenario files and tests call it.
    pub name: &'static str,
    /// What the kernel lacks, for people.
    pub what: &'static str,
    /// Whether the kernel of `tests/vm/run` has it: there it is a failure to lack it.
    pub machine: bool,
    /// Commands that succeed, one after another in a new network namespace with the devices `p` and `q` (the ends of a veth), if
    /// and only if the kernel has it.
    probe: &'static [&'static str],
}

/// All features that a test may name.
pub const FEATURES: &[Feature] = &[
    row("8021q", "802.1Q devices", &["ip link add link p name probe type vlan id 5"]),
    row("8021ad", "802.1ad devices", &["ip link add link p name probe type vlan protocol 802.1ad id 5"]),
    row("bonding", "bonds", &["ip link add name probe type bond"]),
    row("dummy", "dummy devices", &["ip link add name probe type dummy"]),
    row(
        "flower",
        "flower classifier of tc",
        &["tc qdisc add dev p clsact", "tc filter add dev p ingress protocol ip flower action drop"],
    ),
    row("gre", "GRE tunnels", &["ip link add name probe type gre remote 192.0.2.1 local 192.0.2.2"]),
    row("macvlan", "macvlan devices", &["ip link add link p name probe type macvlan"]),
    row(
        "mpls",
        "MPLS",
        &[
            "sysctl -qw net.mpls.platform_labels=100",
            "ip link set p up",
            "ip addr add 192.0.2.1/30 dev p",
            "ip route add 198.51.100.0/24 encap mpls 16 via 192.0.2.2 dev p",
        ],
    ),
    // As 6.1 does; 6.18 does not.
    row(
        "default-behind-blackhole",
        "look at table default behind a blackhole",
        &[
            "ip addr add 192.0.2.1/30 dev p",
            "ip link set p up",
            "ip route add blackhole 198.51.100.0/24",
            "ip route add 198.51.100.0/24 via 192.0.2.2 table default",
            "ip route get 198.51.100.1",
        ],
    ),
    row("vlan-filtering", "bridges that filter VLANs", &["ip link add name probe type bridge vlan_filtering 1"]),
    row("vrf", "VRFs", &["ip link add name probe type vrf table 10"]),
    row("vxlan", "VXLAN", &["ip link add name probe type vxlan id 5 dstport 4789"]),
    Feature { machine: false, ..row("nft-ip", "nftables of the family ip", &["nft add table ip t"]) },
    Feature { machine: false, ..row("nft-inet", "nftables of the family inet", &["nft add table inet t"]) },
    Feature { machine: false, ..row("nft-bridge", "nftables of the family bridge", &["nft add table bridge t"]) },
    Feature { machine: false, ..row("nft-netdev", "nftables of the family netdev", &["nft add table netdev t"]) },
];

const fn row(name: &'static str, what: &'static str, probe: &'static [&'static str]) -> Feature {
    Feature { name, what, machine: true, probe }
}

/// The feature of that name.
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.name == name)
}

/// Skip the test unless the kernel has that feature.
///
/// # Errors
/// The skip, to be handed on; that there is no feature of that name; in the machine, that it lacks what it should have.
pub fn need_kernel(name: &str) -> Result<()> {
    let f = feature(name).ok_or_else(|| anyhow!("no kernel feature is called {name:?}"))?;
    let Some(why) = lacks(f)? else { return Ok(()) };
    if f.machine && std::env::var_os(MACHINE).is_some() {
        bail!("the machine's kernel should have {} and has not: {why}", f.what);
    }
    let cure = if f.machine { Cure::Machine } else { Cure::None };
    Err(Skip { why: format!("this kernel has no {}", f.what), cure }.into())
}

/// Why a probe failed, if it did. Each is tried once in a process.
fn lacks(f: &'static Feature) -> Result<Option<String>> {
    static KNOWN: Mutex<BTreeMap<&str, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(k) = known.get(f.name) {
        return Ok(k.clone());
    }
    let probe = || -> Result<Option<String>> {
        // SAFETY: only this thread's network namespace changes, and the thread ends with this; no descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|e| anyhow!("a network namespace to probe in: {e}"))?;
        for line in ["ip link add p type veth peer name q"].iter().chain(f.probe) {
            let mut words = line.split_whitespace();
            let out = Command::new(words.next().unwrap_or_default())
                .args(words)
                .output()
                .map_err(|e| anyhow!("{line:?} can't be started: {e}"))?;
            if !out.status.success() {
                let said = String::from_utf8_lossy(&out.stderr);
                return Ok(Some(format!("{line}: {}", said.lines().next().unwrap_or_default())));
            }
        }
        Ok(None)
    };
    let found = std::thread::spawn(probe).join().map_err(|_| anyhow!("the probe for {} died", f.what))??;
    known.insert(f.name, found.clone());
    Ok(found)
}
