//! nf_tables: which base chains and flow tables see forwarded packets, and which rules switch connection tracking on.
//!
//! Judges dumps; no I/O. An empty base chain closes too: it may get rules at any moment, and its hook is there.
//! Chains on input and output alone see no forwarded packet, but a rule in one of them that needs connection tracking
//! has every packet of its family tracked and its fragments reassembled. So rules are checked against a list of
//! expressions known to need nothing of the kind.

use super::nl::{Message, attrs, be32, find, text};
use super::{Finding, PortRef, Scope};

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_ARP: u8 = 3;
const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_BRIDGE: u8 = 7;
const NFPROTO_IPV6: u8 = 10;
/// `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`, `NF_INET_INGRESS` (`linux/netfilter.h`).
const LOCAL_IN: u32 = 1;
const LOCAL_OUT: u32 = 3;
const INGRESS: u32 = 5;

/// Expressions that neither hook anything nor need connection tracking, whatever chain they stand in.
const PLAIN: &[&str] = &[
    "bitwise",
    "byteorder",
    "cmp",
    "counter",
    "exthdr",
    "fib",
    "hash",
    "immediate",
    "last",
    "limit",
    "log",
    "lookup",
    "meta",
    "numgen",
    "objref",
    "payload",
    "queue",
    "quota",
    "range",
    "reject",
    "rt",
];
/// `NFT_OBJECT_COUNTER`, `NFT_OBJECT_QUOTA`, `NFT_OBJECT_LIMIT`.
const PLAIN_OBJECTS: [u32; 3] = [1, 2, 4];

/// The dumps that are judged.
#[derive(Clone, Default, Debug)]
pub struct Ruleset {
    /// `NFT_MSG_GETCHAIN`
    pub chains: Vec<Message>,
    /// `NFT_MSG_GETFLOWTABLE`
    pub flowtables: Vec<Message>,
    /// `NFT_MSG_GETRULE`
    pub rules: Vec<Message>,
    /// `NFT_MSG_GETSET`
    pub sets: Vec<Message>,
    /// `NFT_MSG_GETOBJ`
    pub objects: Vec<Message>,
}

const REMEDY: &str = "delete it to have hardware forward again";

/// Judges one message's family and attributes; `None` if they can't be read.
type Judge<'a> = &'a dyn Fn(u8, &[u8]) -> Option<Vec<Finding>>;

/// What the ruleset closes.
pub fn judge(ruleset: &Ruleset, ports: &[PortRef]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut each = |messages: &[Message], what: &str, f: Judge<'_>| {
        for m in messages {
            // `struct nfgenmsg`: family, version, resource id.
            let found = m.body.split_at_checked(4).and_then(|(head, body)| f(head[0], body));
            findings.extend(found.unwrap_or_else(|| {
                vec![Finding::new(Scope::All, format!("an nftables {what} that the agent cannot read"))]
            }));
        }
    };
    each(&ruleset.chains, "chain", &|family, b| chain(family, b, ports));
    each(&ruleset.flowtables, "flow table", &flowtable);
    each(&ruleset.rules, "rule", &rule);
    each(&ruleset.sets, "set", &set);
    each(&ruleset.objects, "object", &object);
    findings.sort();
    findings.dedup();
    findings.into_iter().map(Finding::by_firewall).collect()
}

fn family_name(family: u8) -> String {
    match family {
        NFPROTO_INET => "inet".into(),
        NFPROTO_IPV4 => "ip".into(),
        NFPROTO_ARP => "arp".into(),
        NFPROTO_NETDEV => "netdev".into(),
        NFPROTO_BRIDGE => "bridge".into(),
        NFPROTO_IPV6 => "ip6".into(),
        other => format!("family {other}"),
    }
}

fn family_scope(family: u8) -> Scope {
    match family {
        NFPROTO_IPV4 => Scope::V4,
        NFPROTO_IPV6 => Scope::V6,
        _ => Scope::All,
    }
}

/// `None`: not understood.
fn chain(family: u8, b: &[u8], ports: &[PortRef]) -> Option<Vec<Finding>> {
    let a = attrs(b)?;
    let name = format!("nftables chain {} {} {}", family_name(family), text(find(&a, 1)?), text(find(&a, 3)?));
    let Some(hook) = find(&a, 4) else { return Some(Vec::new()) };
    let hook = attrs(hook)?;
    let num = be32(find(&hook, 1)?)?;
    let nat = find(&a, 7).is_some_and(|t| text(t) == "nat");
    let scope = match (family, num) {
        // ARP is trapped where the switch itself has it.
        (NFPROTO_ARP, _) => return Some(Vec::new()),
        // To a bridge, what is routed comes in for the switch, and is sent by it (`br_pass_frame_up`, `br_dev_xmit`).
        (NFPROTO_BRIDGE, LOCAL_IN | LOCAL_OUT) => Scope::Svi,
        (NFPROTO_BRIDGE, _) => Scope::Bridge,
        (NFPROTO_NETDEV, _) | (NFPROTO_INET, INGRESS) => {
            let why = |p: &PortRef| format!("{name} is hooked on {}: {REMEDY}", p.name);
            let on = devices(&hook, ports)?;
            return Some(on.into_iter().map(|p| Finding::new(Scope::Link(p.ifindex), why(p))).collect());
        }
        (NFPROTO_INET | NFPROTO_IPV4 | NFPROTO_IPV6, LOCAL_IN | LOCAL_OUT) if !nat => return Some(Vec::new()),
        _ => family_scope(family),
    };
    let at = match num {
        0 => "prerouting",
        LOCAL_IN => "input",
        2 => "forward",
        LOCAL_OUT => "output",
        4 => "postrouting",
        _ => "an unknown hook",
    };
    Some(vec![Finding::new(scope, format!("{name} is hooked on {at}: {REMEDY}"))])
}

/// The ports that a device hook is on (`NFTA_HOOK_DEV`, `NFTA_HOOK_DEVS`; from 6.18 on devices by the beginning of
/// their name).
fn devices<'p>(hook: &[(u16, &[u8])], ports: &'p [PortRef]) -> Option<Vec<&'p PortRef>> {
    let mut on = Vec::new();
    if let Some(dev) = find(hook, 3) {
        on.extend(ports.iter().filter(|p| p.name == text(dev)));
    }
    if let Some(devs) = find(hook, 4) {
        for (kind, value) in attrs(devs)? {
            let value = text(value);
            match kind {
                1 => on.extend(ports.iter().filter(|p| p.name == value)),
                2 => on.extend(ports.iter().filter(|p| p.name.starts_with(&value))),
                _ => return None,
            }
        }
    }
    Some(on)
}

fn flowtable(family: u8, b: &[u8]) -> Option<Vec<Finding>> {
    let a = attrs(b)?;
    let (table, name) = (text(find(&a, 1)?), text(find(&a, 2)?));
    let why = format!("nftables flow table {} {table} {name}: {REMEDY}", family_name(family));
    Some(vec![Finding::new(family_scope(family), why)])
}

/// The names in a list of expressions (`NFTA_LIST_ELEM` of `NFTA_EXPR_NAME`).
fn names(list: &[u8]) -> Option<Vec<String>> {
    attrs(list)?.into_iter().map(|(_, e)| Some(text(find(&attrs(e)?, 1)?))).collect()
}

fn unplain(family: u8, place: &str, names: Vec<String>) -> Vec<Finding> {
    let odd = names.into_iter().find(|n| !PLAIN.contains(&n.as_str()));
    let Some(odd) = odd else { return Vec::new() };
    vec![Finding::new(
        family_scope(family),
        format!("{place} uses \"{odd}\", which may have forwarded packets tracked or changed: {REMEDY}"),
    )]
}

fn rule(family: u8, b: &[u8]) -> Option<Vec<Finding>> {
    if family == NFPROTO_ARP {
        return Some(Vec::new());
    }
    let a = attrs(b)?;
    let place =
        format!("a rule in nftables chain {} {} {}", family_name(family), text(find(&a, 1)?), text(find(&a, 2)?));
    let names = find(&a, 4).map_or(Some(Vec::new()), names)?;
    Some(unplain(family, &place, names))
}

fn set(family: u8, b: &[u8]) -> Option<Vec<Finding>> {
    let a = attrs(b)?;
    let place = format!("nftables set {} {} {}", family_name(family), text(find(&a, 1)?), text(find(&a, 2)?));
    let mut all = find(&a, 18).map_or(Some(Vec::new()), names)?;
    if let Some(one) = find(&a, 17) {
        all.push(text(find(&attrs(one)?, 1)?));
    }
    Some(unplain(family, &place, all))
}

fn object(family: u8, b: &[u8]) -> Option<Vec<Finding>> {
    let a = attrs(b)?;
    if PLAIN_OBJECTS.contains(&be32(find(&a, 3)?)?) {
        return Some(Vec::new());
    }
    let (table, name) = (text(find(&a, 1)?), text(find(&a, 2)?));
    let why =
        format!("nftables object {} {table} {name} may have forwarded packets tracked: {REMEDY}", family_name(family));
    Some(vec![Finding::new(family_scope(family), why)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut b = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        b.extend(kind.to_ne_bytes());
        b.extend(value);
        b.resize(b.len().next_multiple_of(4), 0);
        b
    }

    fn message(family: u8, attrs: &[Vec<u8>]) -> Message {
        let mut body = vec![family, 0, 0, 0];
        body.extend(attrs.concat());
        Message { kind: 0xa03, body }
    }

    fn chain_of(family: u8, hook: u32, dev: Option<&str>) -> Message {
        let mut h = attr(1, &hook.to_be_bytes());
        if let Some(d) = dev {
            h.extend(attr(4, &attr(1, &[d.as_bytes(), b"\0"].concat())));
        }
        message(family, &[attr(1, b"t\0"), attr(3, b"c\0"), attr(4 | 0x8000, &h), attr(7, b"filter\0")])
    }

    fn scopes(chains: Vec<Message>) -> Vec<Scope> {
        let ports = [PortRef { ifindex: 5, name: "swp1".into() }];
        judge(&Ruleset { chains, ..Ruleset::default() }, &ports).into_iter().map(|f| f.scope).collect()
    }

    #[test]
    fn hooks_of_the_forward_path_close_their_family() {
        for hook in [0, 2, 4] {
            assert_eq!(scopes(vec![chain_of(NFPROTO_INET, hook, None)]), [Scope::All]);
            assert_eq!(scopes(vec![chain_of(NFPROTO_IPV4, hook, None)]), [Scope::V4]);
            assert_eq!(scopes(vec![chain_of(NFPROTO_IPV6, hook, None)]), [Scope::V6]);
        }
        for hook in [LOCAL_IN, LOCAL_OUT] {
            assert_eq!(scopes(vec![chain_of(NFPROTO_INET, hook, None)]), []);
        }
        assert_eq!(scopes(vec![chain_of(NFPROTO_ARP, 0, None)]), []);
        assert_eq!(scopes(vec![chain_of(NFPROTO_BRIDGE, LOCAL_IN, None)]), [Scope::Svi]);
        assert_eq!(scopes(vec![chain_of(NFPROTO_BRIDGE, 0, None)]), [Scope::Bridge]);
        assert_eq!(scopes(vec![chain_of(NFPROTO_IPV4, 9, None)]), [Scope::V4], "a hook to come");
        assert_eq!(scopes(vec![chain_of(42, 1, None)]), [Scope::All], "a family to come");
    }

    #[test]
    fn device_hooks_close_their_port() {
        assert_eq!(scopes(vec![chain_of(NFPROTO_NETDEV, 0, Some("swp1"))]), [Scope::Link(5)]);
        assert_eq!(scopes(vec![chain_of(NFPROTO_INET, INGRESS, Some("swp1"))]), [Scope::Link(5)]);
        assert_eq!(scopes(vec![chain_of(NFPROTO_NETDEV, 1, Some("eth0"))]), []);
    }

    #[test]
    fn what_cannot_be_read_closes() {
        let whole = chain_of(NFPROTO_IPV4, 2, None);
        for n in 0..whole.body.len() {
            let cut = Message { kind: whole.kind, body: whole.body[..n].to_vec() };
            // Cut in the padding behind the names or at its end it is a whole chain without a hook.
            assert_eq!(scopes(vec![cut]).is_empty(), (18..=20).contains(&n), "cut at {n}");
        }
    }

    #[test]
    fn a_rule_that_tracks_closes_wherever_it_stands() {
        let rule = |expr: &[u8]| Ruleset {
            rules: vec![message(
                NFPROTO_IPV4,
                &[attr(1, b"t\0"), attr(2, b"input\0"), attr(4, &attr(1, &attr(1, expr)))],
            )],
            ..Ruleset::default()
        };
        assert_eq!(judge(&rule(b"payload\0"), &[]), []);
        let found = judge(&rule(b"ct\0"), &[]);
        assert_eq!(found[0].scope, Scope::V4);
        assert!(found[0].why.contains("chain ip t input uses \"ct\""), "{}", found[0].why);
        let set = message(NFPROTO_IPV6, &[attr(1, b"t\0"), attr(2, b"s\0"), attr(17, &attr(1, b"connlimit\0"))]);
        assert_eq!(judge(&Ruleset { sets: vec![set], ..Ruleset::default() }, &[])[0].scope, Scope::V6);
        let object = |kind: u32| Ruleset {
            objects: vec![message(NFPROTO_INET, &[attr(1, b"t\0"), attr(2, b"o\0"), attr(3, &kind.to_be_bytes())])],
            ..Ruleset::default()
        };
        assert_eq!(judge(&object(1), &[]), []);
        assert_eq!(judge(&object(7), &[])[0].scope, Scope::All);
    }
}
