//! The policy gate: everything in the kernel that is not a route and yet has a say in forwarding.
//!
//! `read` (I/O) reads it into [`Polled`], `gate` (pure) says what it closes; unknown means closed. One module per
//! kind of thing decodes and judges the kernel's answers, without I/O: `sysctl`, `nft`, `xtables`, `xfrm`, `tc`,
//! `link`, `bpf`, `exception`. Not here: `ip rule`s and netconf, which the kernel announces and the mirror keeps.
//!
//! What is known and cannot be seen from user space, and so is not watched: an ipvlan, macsec or passthru macvlan
//! stacked on a port and moved to another network namespace; `nf_conntrack.enable_hooks=1` on the kernel's command
//! line; SELinux's labelled networking; address translation of ILA.

pub mod bpf;
pub mod exception;
pub mod gate;
pub mod link;
pub mod nft;
pub mod nl;
pub mod read;
pub mod sysctl;
pub mod tc;
pub mod xfrm;
pub mod xtables;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use gate::{disagree, gate};
pub use read::Reader;
pub use sysctl::markdown;

/// A port's netdev as the agent knows it when it asks for a reading.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PortRef {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// One reading of all inputs that are never announced. Plain data; compared field by field with the reading before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Polled {
    /// The ports that were looked at. A port that is not among them is closed until the next reading.
    pub ports: Vec<PortRef>,
    /// Path below `/proc/sys/net/` → value (trimmed), for every path that the sysctl table names, interfaces expanded.
    /// One that this kernel does not have is absent.
    pub sysctls: BTreeMap<String, String>,
    /// Findings that close the gate, each with its scope and one sentence; those from sysctls are made by [`gate()`].
    pub findings: Vec<Finding>,
    /// What could not be watched and is taken as absent (BPF attachments in a user namespace), for `status`.
    pub unwatched: Vec<String>,
    /// Major and minor number of the kernel's release (`uname -r`); zeros where it can't be read.
    pub release: (u32, u32),
}

impl Polled {
    /// A sysctl's value as a number; `None` where the kernel lacks it or says something else.
    pub fn number(&self, path: &str) -> Option<u32> {
        self.sysctls.get(path)?.parse().ok()
    }

    /// IPv6 MTU of a port in bytes (`net.ipv6.conf.NAME.mtu`); `None` if IPv6 is not on the device.
    pub fn mtu6(&self, name: &str) -> Option<u32> {
        self.number(&format!("ipv6/conf/{name}/mtu"))
    }

    /// `base_reachable_time_ms` of a port in milliseconds, IPv6's with `v6`.
    pub fn reachable_ms(&self, name: &str, v6: bool) -> Option<u32> {
        self.number(&format!("{}/neigh/{name}/base_reachable_time_ms", if v6 { "ipv6" } else { "ipv4" }))
    }

    /// What `/proc/sys` shows of what netconf announces of an interface for IPv4; `None` if it was not read.
    pub fn netconf4(&self, name: &str) -> Option<Netconf4> {
        Some(Netconf4 {
            forwarding: self.number(&format!("ipv4/conf/{name}/forwarding"))? != 0,
            rp_filter: self.number(&format!("ipv4/conf/{name}/rp_filter"))?,
            ignore_linkdown: self.number(&format!("ipv4/conf/{name}/ignore_routes_with_linkdown"))? != 0,
        })
    }

    /// Whether the kernel may answer with a redirect to an IPv4 packet that leaves by the interface of that name, by which it came in:
    /// unless both the interface's `send_redirects` and that of `all` are known to be off.
    pub fn redirects(&self, name: &str) -> bool {
        ["all", name].iter().any(|n| self.number(&format!("ipv4/conf/{n}/send_redirects")) != Some(0))
    }

    /// Whether the kernel chooses members of IPv4 multipath routes by the state of their neighbours (`fib_multipath_use_neigh`).
    pub fn use_neigh(&self) -> bool {
        self.number("ipv4/fib_multipath_use_neigh").is_some_and(|n| n != 0)
    }

    /// `ignore_routes_with_linkdown` of an interface for IPv6, without that of `all`.
    pub fn ignores_linkdown6(&self, name: &str) -> Option<bool> {
        Some(self.number(&format!("ipv6/conf/{name}/ignore_routes_with_linkdown"))? != 0)
    }

    /// Whether a group of next-hop objects turns to its first good member where a failed one has no good one behind it. Before Linux 6.6 it
    /// took the failed one (`nexthop_select_path_hthr`).
    pub fn groups_wrap(&self) -> bool {
        self.release >= (6, 6)
    }

    /// `fib_multipath_hash_fields`; 0 where the kernel lacks it.
    pub fn hash_fields(&self, v6: bool) -> u16 {
        let path = if v6 { "ipv6/fib_multipath_hash_fields" } else { "ipv4/fib_multipath_hash_fields" };
        self.number(path).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
    }

    /// `fib_multipath_hash_policy`; 0 where the kernel lacks it (no multipath).
    pub fn hash_policy(&self, v6: bool) -> u32 {
        let path = if v6 { "ipv6/fib_multipath_hash_policy" } else { "ipv4/fib_multipath_hash_policy" };
        self.number(path).unwrap_or(0)
    }
}

/// An interface's own IPv4 settings that netconf announces, unless they are set over rtnetlink (`IFLA_INET_CONF`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Netconf4 {
    /// `forwarding`
    pub forwarding: bool,
    /// `rp_filter`, without that of `all`.
    pub rp_filter: u32,
    /// `ignore_routes_with_linkdown`
    pub ignore_linkdown: bool,
}

/// What a closed gate punts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Scope {
    /// Everything.
    All,
    /// What bridges forward.
    Bridge,
    /// What bridges hand up to be routed, and are given to send.
    Svi,
    /// All IPv4.
    V4,
    /// All IPv6.
    V6,
    /// Everything that comes in or leaves by the interface of that index.
    Link(u32),
    /// IPv4 that comes in by it.
    Ingress4(u32),
    /// IPv6 that comes in by it.
    Ingress6(u32),
    /// What goes to addresses under that prefix, or comes from there.
    Prefix(IpAddr, u8),
    /// What goes to that address in the virtual router of that number (0 for the default one).
    Host(u32, IpAddr),
}

/// One reason why something is punted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What it punts.
    pub scope: Scope,
    /// One sentence for `status`: names the thing and, where there is one, the remedy.
    pub why: String,
    /// It is nftables' or xtables', which the operator may have hardware pass over (`policy.firewall`).
    pub firewall: bool,
}

impl Finding {
    /// A finding.
    pub fn new(scope: Scope, why: impl Into<String>) -> Finding {
        Finding { scope, why: why.into(), firewall: false }
    }
    /// As a finding about the firewall.
    pub fn by_firewall(self) -> Finding {
        Finding { firewall: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::nl::Message;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the kernel, or a bug, may answer: findings, never a panic.
        #[test]
        fn garbage_is_judged(kind in 0u16..64, head in 0usize..200, tail: Vec<u8>, text: String) {
            let mut body = vec![0; head];
            body.extend(tail);
            let m = |kind| vec![Message { kind, body: body.clone() }];
            let ports = [PortRef { ifindex: 0, name: text.clone() }];
            let nft = nft::Ruleset { chains: m(kind), flowtables: m(kind), rules: m(kind), sets: m(kind), objects: m(kind) };
            nft::judge(&nft, &ports);
            for kind in [kind, 16, 24, 36, 44, xfrm::NEWPOLICY, 0x24, 0x28] {
                link::judge(&m(kind), &ports);
                exception::judge(&m(kind));
                tc::judge(&m(kind), &ports);
                tc::may_filter(&m(kind), &ports);
                xfrm::judge(&m(kind));
                xfrm::judge_default(&m(kind));
                xfrm::count(&m(kind));
            }
            xtables::judge(&text, true, |_| false);
            xtables::judge_ipvs(&text);
            let sysctls = sysctl::port_paths(&text).map(|(_, path)| (path, text.clone())).collect();
            let polled = Polled { ports: ports.to_vec(), sysctls, ..Polled::default() };
            gate(Some(&polled), &ports);
        }

        /// An answer that says nothing that can be read says at least that.
        #[test]
        fn a_truncated_answer_closes(cut in 1usize..16) {
            let m = |kind| vec![Message { kind, body: vec![0; cut] }];
            let ports = [PortRef { ifindex: 5, name: "swp1".into() }];
            prop_assert!(!link::judge(&m(16), &ports).is_empty());
            prop_assert!(!tc::judge(&m(36), &ports).is_empty());
            prop_assert!(!xfrm::judge(&m(xfrm::NEWPOLICY)).is_empty());
            prop_assert!(!exception::judge(&m(24)).is_empty());
            let chains = nft::Ruleset { chains: m(0xa03), ..nft::Ruleset::default() };
            prop_assert!(!nft::judge(&chains, &ports).is_empty());
        }
    }
}
