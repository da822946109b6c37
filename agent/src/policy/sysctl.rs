//! The sysctls that have a say in which frame leaves where, or in its bytes: one table. README's is made from it.
//!
//! No I/O: `read` reads the paths that `paths` names, [`judge`] says what their values close.
//!
//! Looked at and left out, since they cannot change what hardware does with a frame that it forwards:
//! - `ipv4/ip_forward`, `conf/*/forwarding`, `rp_filter`, `ignore_routes_with_linkdown`: announced by netconf, compiled.
//!   IPv4's are read all the same: set over rtnetlink (`IFLA_INET_CONF`), they change without netconf's word.
//! - `ipv6/conf/*/force_forwarding`: only opens more than `all/forwarding`; what it opens is trapped as not forwarding.
//! - `ipv4/ip_forward_update_priority`: `skb->priority` picks a band of the queue, and a VLAN priority where an
//!   egress-qos-map says so, which closes the interface.
//! - `ipv4/conf/*/proxy_arp*`, `arp_*`, `medium_id`, `ipv6/conf/*/proxy_ndp`, `ndisc_*`: decide over ARP and ND alone.
//! - `route_localnet`, `accept_local`, `bootp_relay`, `bc_forwarding`, `mc_forwarding`, `drop_unicast_in_l2_multicast`,
//!   `src_valid_mark`: about loopback, own and zero sources, broadcast, multicast, which are all trapped; or about a mark that
//!   only a hook can set.
//! - `secure_redirects`, `shared_media`: which redirects are believed, of those that `accept_redirects` lets in.
//! - `accept_source_route`, `seg6_*`, `rpl_seg_enabled`, `ioam6_*`, `max_hbh_*`, `max_dst_*`: IPv4 options and IPv6
//!   hop-by-hop headers are trapped, other headers are read by the addressed node only; encapsulating routes are punted.
//! - `ip_early_demux`, `tcp_*`, `udp_*`, `icmp*`, `flowlabel_*`, `auto_flowlabels`, `hop_limit`, `ip_default_ttl`,
//!   `ip_no_pmtu_disc`, `ip_nonlocal_bind`, `fwmark_reflect`: local delivery and locally made packets.
//! - `disable_xfrm`, `disable_policy`, `core/xfrm_*`: only matter to IPsec policies, which close the gate themselves.
//! - `fib_multipath_hash_seed`: which legal member is used.
//! - `fib_notify_on_flag_change`, `nexthop_compat_mode`: which messages are sent.
//! - `core/default_qdisc`: seen as the queue discipline that a port has.
//! - `netfilter/*`, `ipv4/vs/*`: need a hook or a virtual service, which close the gate themselves.
//! - `mpls/*`: MPLS frames are trapped.

use hal::hash_field;

use super::{Finding, Polled, PortRef, Scope};

/// How far a sysctl reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// All IPv4.
    V4,
    /// What bridges forward.
    Bridge,
    /// All IPv6.
    V6,
    /// The interface that `*` stands for, both ways.
    Link,
    /// IPv6 that comes in by it.
    Ingress6,
    /// Nothing: every value is compiled or used.
    Nothing,
}

/// Which values are compiled.
#[derive(Clone, Copy, Debug)]
pub enum Compiled {
    /// Every value.
    Any,
    /// These.
    Values(&'static [&'static str]),
    /// Numbers made of these bits.
    Bits(u16),
    /// IPv4's rule for redirects: with forwarding on, the interface's value *and* that of `all`; else either.
    Redirects4,
    /// IPv6's rule for redirects: the interface's value, unless its forwarding is on.
    Redirects6,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Path below `/proc/sys/net/`; `*` stands for an interface.
    pub path: &'static str,
    /// Values compiled.
    pub compiled: Compiled,
    /// What another value punts.
    pub reach: Reach,
    /// Why, in a few words.
    pub why: &'static str,
}

/// In force is the maximum of `all` and the interface (`IN_DEV_TX_REDIRECTS`).
const SEND_REDIRECTS: &str = "ipv4/conf/*/send_redirects";

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        path: "ipv4/fib_multipath_hash_policy",
        compiled: Compiled::Values(&["0", "1", "2", "3"]),
        reach: Reach::V4,
        why: "what selects a member of a multipath route",
    },
    Row {
        path: "ipv4/fib_multipath_hash_fields",
        compiled: Compiled::Bits(hash_field::ALL),
        reach: Reach::V4,
        why: "the same, under policy 3",
    },
    Row {
        path: "ipv6/fib_multipath_hash_policy",
        compiled: Compiled::Values(&["0", "1", "2", "3"]),
        reach: Reach::V6,
        why: "what selects a member of a multipath route",
    },
    Row {
        path: "ipv6/fib_multipath_hash_fields",
        compiled: Compiled::Bits(hash_field::ALL),
        reach: Reach::V6,
        why: "the same, under policy 3",
    },
    Row {
        path: "ipv4/fib_multipath_use_neigh",
        compiled: Compiled::Any,
        reach: Reach::Nothing,
        why: "whether members of a multipath route are skipped by the state of their neighbour",
    },
    Row {
        path: "ipv4/ip_forward_use_pmtu",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::V4,
        why: "forwarded packets are held to path MTUs that the kernel has learned and does not announce",
    },
    Row {
        path: "ipv4/conf/*/accept_redirects",
        compiled: Compiled::Redirects4,
        // By whatever interface the redirect came, it may change routes by others.
        reach: Reach::V4,
        why: "an ICMP redirect changes a route's gateway for one destination, unannounced",
    },
    Row {
        path: "ipv6/conf/*/accept_redirects",
        compiled: Compiled::Redirects6,
        // It changes what leaves by the interface, wherever that came in. IPv4 goes on: a router for IPv4 alone has the
        // kernel's default, under which every interface takes redirects.
        reach: Reach::V6,
        why: "an ICMPv6 redirect changes a route's gateway for one destination, unannounced",
    },
    Row {
        path: "ipv6/conf/*/disable_ipv6",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::Ingress6,
        why: "the kernel drops IPv6 that comes in by the interface",
    },
    Row {
        path: "bridge/bridge-nf-call-iptables",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::Bridge,
        why: "IPv4 that a bridge forwards passes the firewall of routed packets (br_netfilter)",
    },
    Row {
        path: "bridge/bridge-nf-call-ip6tables",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::Bridge,
        why: "the same of IPv6",
    },
    Row {
        path: "bridge/bridge-nf-call-arptables",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::Bridge,
        why: "the same of ARP",
    },
    Row {
        path: "ipv6/route/skip_notify_on_dev_down",
        compiled: Compiled::Values(&["0"]),
        reach: Reach::V6,
        why: "routes vanish unannounced when IPv6 is switched off on an interface",
    },
    Row {
        path: SEND_REDIRECTS,
        compiled: Compiled::Any,
        reach: Reach::Nothing,
        why: "off here and for `all`: IPv4 may leave by the interface it came in by",
    },
    Row { path: "ipv6/conf/*/mtu", compiled: Compiled::Any, reach: Reach::Nothing, why: "IPv6 MTU of the RIF" },
    Row {
        path: "ipv4/neigh/*/base_reachable_time_ms",
        compiled: Compiled::Any,
        reach: Reach::Nothing,
        why: "pace at which neighbours in use are refreshed",
    },
    Row {
        path: "ipv6/neigh/*/base_reachable_time_ms",
        compiled: Compiled::Any,
        reach: Reach::Nothing,
        why: "pace at which neighbours in use are refreshed",
    },
];

/// Read because a rule of [`TABLE`] needs it, or to be compared with what netconf announces.
const HELPERS: &[&str] = &[
    "ipv4/conf/*/forwarding",
    "ipv4/conf/*/rp_filter",
    "ipv4/conf/*/ignore_routes_with_linkdown",
    "ipv6/conf/*/forwarding",
    "ipv6/conf/*/ignore_routes_with_linkdown",
];

/// A path of the table with the interface filled in.
pub fn expand(path: &str, name: &str) -> String {
    path.replacen('*', name, 1)
}

/// Every path to read that is not about one interface.
pub fn global_paths() -> impl Iterator<Item = (&'static Row, String)> {
    TABLE.iter().filter_map(|row| match row.compiled {
        Compiled::Redirects4 => Some((row, expand(row.path, "all"))),
        _ if row.path == SEND_REDIRECTS => Some((row, expand(row.path, "all"))),
        _ if row.path.contains('*') => None,
        _ => Some((row, row.path.to_owned())),
    })
}

/// Every path to read that is about this interface; a row is missing for what is read to help only.
pub fn port_paths(name: &str) -> impl Iterator<Item = (Option<&'static Row>, String)> {
    let rows = TABLE.iter().filter(|r| r.path.contains('*')).map(move |r| (Some(r), expand(r.path, name)));
    rows.chain(HELPERS.iter().map(move |p| (None, expand(p, name))))
}

impl Reach {
    /// The scope on a port; `None` for [`Reach::Nothing`] and, without a port, for what needs one.
    pub fn scope(self, port: Option<&PortRef>) -> Option<Scope> {
        match self {
            Reach::Bridge => Some(Scope::Bridge),
            Reach::V4 => Some(Scope::V4),
            Reach::V6 => Some(Scope::V6),
            Reach::Link => port.map(|p| Scope::Link(p.ifindex)),
            Reach::Ingress6 => port.map(|p| Scope::Ingress6(p.ifindex)),
            Reach::Nothing => None,
        }
    }
}

/// What the values of a reading close.
pub fn judge(polled: &Polled) -> Vec<Finding> {
    let mut findings = Vec::new();
    for row in TABLE {
        if row.path.contains('*') {
            findings.extend(polled.ports.iter().filter_map(|p| judge_row(row, polled, Some(p))));
        } else {
            findings.extend(judge_row(row, polled, None));
        }
    }
    findings
}

fn judge_row(row: &Row, polled: &Polled, port: Option<&PortRef>) -> Option<Finding> {
    let scope = row.reach.scope(port)?;
    let at = |path: &str, name: &str| polled.sysctls.get(&expand(path, name)).map(String::as_str);
    let name = port.map_or("", |p| p.name.as_str());
    // A kernel without the sysctl is a kernel without the feature; what can't be read is a finding of the reader's.
    let value = at(row.path, name)?;
    let off = |v: Option<&str>| v == Some("0");
    let fine = match row.compiled {
        Compiled::Any => true,
        Compiled::Values(values) => values.contains(&value),
        Compiled::Bits(bits) => value.parse().is_ok_and(|v: u32| v & !u32::from(bits) == 0),
        Compiled::Redirects4 => match (off(Some(value)), off(at(row.path, "all"))) {
            (true, true) => true,
            (false, false) => false,
            _ => at("ipv4/conf/*/forwarding", name).is_some_and(|v| v != "0"),
        },
        Compiled::Redirects6 => off(Some(value)) || at("ipv6/conf/*/forwarding", name).is_some_and(|v| v != "0"),
    };
    let path = expand(row.path, name).replace('/', ".");
    (!fine).then(|| Finding::new(scope, format!("net.{path} = {value}: {}; {}", row.why, remedy(row))))
}

fn remedy(row: &Row) -> String {
    match row.compiled {
        Compiled::Any => String::new(),
        Compiled::Values(values) => format!("set it to {}", values.join(" or ")),
        Compiled::Bits(bits) => format!("use the bits of {bits}"),
        Compiled::Redirects4 => "set it to 0, for all too".to_owned(),
        Compiled::Redirects6 => "set it to 0".to_owned(),
    }
}

/// README's table.
pub fn markdown() -> String {
    let mut s = String::from("| sysctl | compiled | any other value punts | why |\n|---|---|---|---|\n");
    for row in TABLE {
        let compiled = match row.compiled {
            Compiled::Any => "any".to_owned(),
            Compiled::Values(values) => values.join(", "),
            Compiled::Bits(bits) => format!("up to {bits}"),
            Compiled::Redirects4 => "0; with forwarding on, 0 here or for `all`".to_owned(),
            Compiled::Redirects6 => "0; any with forwarding on here".to_owned(),
        };
        let punts = match row.reach {
            Reach::Bridge => "bridges",
            Reach::V4 => "IPv4",
            Reach::V6 => "IPv6",
            Reach::Link => "the interface",
            Reach::Ingress6 => "IPv6 in by the interface",
            Reach::Nothing => "nothing",
        };
        let path = row.path.replace('/', ".");
        s.push_str(&format!("| `net.{path}` | {compiled} | {punts} | {} |\n", row.why));
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polled(values: &[(&str, &str)]) -> Polled {
        Polled {
            ports: vec![PortRef { ifindex: 7, name: "swp1".into() }],
            sysctls: values.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            ..Polled::default()
        }
    }

    fn scopes(values: &[(&str, &str)]) -> Vec<Scope> {
        judge(&polled(values)).into_iter().map(|f| f.scope).collect()
    }

    #[test]
    fn global_values_close_their_family() {
        assert_eq!(scopes(&[("ipv4/fib_multipath_hash_policy", "1")]), []);
        assert_eq!(scopes(&[("ipv4/fib_multipath_use_neigh", "1")]), []);
        assert_eq!(scopes(&[("ipv4/fib_multipath_hash_policy", "3"), ("ipv4/fib_multipath_hash_fields", "4095")]), []);
        assert_eq!(scopes(&[("ipv4/fib_multipath_hash_policy", "4")]), [Scope::V4]);
        assert_eq!(scopes(&[("ipv6/fib_multipath_hash_policy", "4")]), [Scope::V6]);
        assert_eq!(scopes(&[("ipv6/fib_multipath_hash_fields", "4096")]), [Scope::V6]);
        assert_eq!(scopes(&[("ipv4/ip_forward_use_pmtu", "garbage")]), [Scope::V4]);
        assert_eq!(scopes(&[("ipv6/route/skip_notify_on_dev_down", "1")]), [Scope::V6]);
    }

    #[test]
    fn redirects_follow_the_kernel_rule() {
        for (own, all, forwarding, closed) in [
            ("0", "0", "0", false),
            ("1", "0", "1", false),
            ("0", "1", "1", false),
            ("1", "1", "1", true),
            ("1", "0", "0", true),
            ("0", "1", "0", true),
        ] {
            let found = scopes(&[
                ("ipv4/conf/swp1/accept_redirects", own),
                ("ipv4/conf/all/accept_redirects", all),
                ("ipv4/conf/swp1/forwarding", forwarding),
            ]);
            assert_eq!(found == [Scope::V4], closed, "{own} {all} {forwarding}");
        }
        assert_eq!(scopes(&[("ipv4/conf/swp1/accept_redirects", "1")]), [Scope::V4], "the rest unread");
        let v6 = |own, forwarding| {
            scopes(&[("ipv6/conf/swp1/accept_redirects", own), ("ipv6/conf/swp1/forwarding", forwarding)])
        };
        assert_eq!(v6("1", "1"), []);
        assert_eq!(v6("0", "0"), []);
        assert_eq!(v6("1", "0"), [Scope::V6]);
    }

    #[test]
    fn a_finding_names_path_value_and_remedy() {
        let found = judge(&polled(&[("ipv6/conf/swp1/disable_ipv6", "1")]));
        assert_eq!(found[0].scope, Scope::Ingress6(7));
        assert!(found[0].why.starts_with("net.ipv6.conf.swp1.disable_ipv6 = 1: "), "{}", found[0].why);
        assert!(found[0].why.ends_with("set it to 0"), "{}", found[0].why);
    }

    #[test]
    fn markdown_has_a_line_per_row() {
        assert_eq!(markdown().lines().count(), TABLE.len() + 2);
        assert!(markdown().contains("| `net.ipv4.fib_multipath_hash_policy` | 0, 1, 2, 3 | IPv4 |"));
    }
}
