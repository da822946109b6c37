//! What stands on a port and takes its frames before IP sees them: XDP programs, masters, stacked devices.
//!
//! Judges an `RTM_GETLINK` dump; no I/O. The kernel's `rx_handler` of a device is not visible; the devices that
//! install one are.

use super::nl::{Message, attrs, find, text, u32_at};
use super::{Finding, PortRef, Scope};

const NEWLINK: u16 = 16;

/// A device as far as it matters to the ports below it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stacked<'a> {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: &'a str,
    /// `IFLA_INFO_KIND`
    pub kind: &'a str,
    /// `IFLA_LINK`: the device below, in the same network namespace.
    pub lower: Option<u32>,
    /// `IFLA_MACVLAN_MODE`, of a macvlan or macvtap.
    pub macvlan_mode: Option<u32>,
}

/// Kinds that take tagged frames, which are trapped where no interface of the chip's takes them, or packets addressed to the
/// switch; and pairs, whose `IFLA_LINK` is the other end.
const HARMLESS: &[&str] = &[
    "veth",
    "netkit",
    "vlan",
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "erspan",
    "ip6gre",
    "ip6gretap",
    "ip6erspan",
    "ipip",
    "ip6tnl",
    "sit",
];
/// Whether devices of that kind have no say in the frames of the device below, and no address there: tunnels.
pub fn addressed_by_ip(kind: &str) -> bool {
    kind != "vlan" && HARMLESS.contains(&kind)
}

/// `MACVLAN_MODE_PRIVATE`, `VEPA`, `BRIDGE`: they take frames to their own MAC alone. Not `PASSTHRU` and
/// `SOURCE`, which take frames addressed to the device below.
const MACVLAN_MODES: [u32; 3] = [1, 2, 4];

/// What a device closes on the port below it, if it stands on one.
pub fn stacked(dev: &Stacked<'_>, ports: &[PortRef]) -> Option<Finding> {
    // Its slaves are known to the device alone.
    if dev.kind == "hsr" {
        return Some(Finding::new(
            Scope::All,
            format!("{} takes frames of its ports before they are routed", dev.name),
        ));
    }
    let port = ports.iter().find(|p| Some(p.ifindex) == dev.lower && p.ifindex != dev.ifindex)?;
    let harmless = match dev.kind {
        "macvlan" | "macvtap" => dev.macvlan_mode.is_some_and(|m| MACVLAN_MODES.contains(&m)),
        kind => HARMLESS.contains(&kind),
    };
    let kind = if dev.kind.is_empty() { "device of unknown kind" } else { dev.kind };
    (!harmless).then(|| {
        let why = format!("{} ({kind}) stands on {} and takes frames before they are routed", dev.name, port.name);
        Finding::new(Scope::Link(port.ifindex), why)
    })
}

/// What a dump of all links closes; a port that the dump does not show is closed.
pub fn judge(links: &[Message], ports: &[PortRef]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    // A VRF routes what its members are given, by a table of its own.
    let vrfs: Vec<u32> = links.iter().filter(|m| m.kind == NEWLINK).filter_map(|m| vrf(&m.body)).collect();
    for m in links.iter().filter(|m| m.kind == NEWLINK) {
        match one(&m.body, ports, &vrfs) {
            Some((ifindex, found)) => {
                seen.push(ifindex);
                findings.extend(found);
            }
            None => findings.push(Finding::new(Scope::All, "a network device that the agent cannot read")),
        }
    }
    for p in ports.iter().filter(|p| !seen.contains(&p.ifindex)) {
        findings.push(Finding::new(Scope::Link(p.ifindex), format!("{} is not there", p.name)));
    }
    findings
}

/// The index of a VRF device.
fn vrf(b: &[u8]) -> Option<u32> {
    let info = attrs(find(&attrs(b.get(16..)?)?, 18)?)?;
    find(&info, 1).filter(|k| text(k) == "vrf").and_then(|_| u32_at(b, 4))
}

fn one(b: &[u8], ports: &[PortRef], vrfs: &[u32]) -> Option<(u32, Vec<Finding>)> {
    let ifindex = u32_at(b, 4)?;
    let a = attrs(b.get(16..)?)?;
    let info = find(&a, 18).map_or(Some(Vec::new()), attrs)?;
    let kind = find(&info, 1).map(text).unwrap_or_default();
    let macvlan_mode = match find(&info, 2) {
        Some(data) if kind.starts_with("macv") => find(&attrs(data)?, 1).and_then(|m| u32_at(m, 0)),
        _ => None,
    };
    // With IFLA_LINK_NETNSID the device below is in another namespace, and its index says nothing here.
    let lower = find(&a, 5).filter(|_| find(&a, 37).is_none()).and_then(|l| u32_at(l, 0));
    let name = text(find(&a, 3)?);
    let mut findings = Vec::new();
    findings.extend(stacked(&Stacked { ifindex, name: &name, kind: &kind, lower, macvlan_mode }, ports));
    if ports.iter().any(|p| p.ifindex == ifindex) {
        let xdp = find(&a, 43).map_or(Some(Vec::new()), attrs)?;
        if find(&xdp, 2).is_some_and(|v| v != [0]) {
            let why =
                format!("XDP program on {name}: detach it to have hardware forward again (ip link set {name} xdp off)");
            findings.push(Finding::new(Scope::Link(ifindex), why));
        }
        if let Some(master) = find(&a, 10) {
            let master = u32_at(master, 0)?;
            // Bridges are compiled: their ports have no router interface of their own.
            let bridged = find(&info, 4).map(text).is_some_and(|k| k == "bridge");
            if !vrfs.contains(&master) && !bridged {
                let why = format!("{name} belongs to the device of index {master}, which takes its frames");
                findings.push(Finding::new(Scope::Link(ifindex), why));
            }
        }
    }
    Some((ifindex, findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_that_cannot_take_routed_frames_may_stand_on_a_port() {
        let ports = [PortRef { ifindex: 5, name: "swp1".into() }];
        let closed = |kind, mode| {
            let dev = Stacked { ifindex: 9, name: "up0", kind, lower: Some(5), macvlan_mode: mode };
            stacked(&dev, &ports).is_some()
        };
        assert!(!closed("vlan", None));
        assert!(!closed("vxlan", None));
        assert!(!closed("macvlan", Some(4)));
        assert!(closed("macvlan", Some(8)));
        assert!(closed("macvlan", Some(16)));
        assert!(closed("macvlan", None));
        assert!(closed("ipvlan", None));
        assert!(closed("macsec", None));
        assert!(closed("", None));
        let aside = Stacked { ifindex: 9, name: "up0", kind: "ipvlan", lower: Some(6), macvlan_mode: None };
        assert_eq!(stacked(&aside, &ports), None);
        let hsr = Stacked { ifindex: 9, name: "hsr0", kind: "hsr", ..Stacked::default() };
        assert_eq!(stacked(&hsr, &ports).map(|f| f.scope), Some(Scope::All));
    }

    #[test]
    fn a_missing_port_and_garbage_close() {
        let ports = [PortRef { ifindex: 5, name: "swp1".into() }];
        assert_eq!(judge(&[], &ports)[0].scope, Scope::Link(5));
        assert_eq!(judge(&[Message { kind: NEWLINK, body: vec![1; 30] }], &[])[0].scope, Scope::All);
    }
}
