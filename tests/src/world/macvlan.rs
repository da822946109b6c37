//! Macvlans on ports: the kernel hands them broadcasts, and most multicasts, from a work queue of the device below (`macvlan_broadcast_enqueue`),
//! which no sentinel to a port's own MAC waits for. Here is which there are; sending is `World`'s. And they take their carrier from that device
//! at certain moments only. And bridges, whose carrier is heard of late.

use std::collections::BTreeMap;
use std::io;

use super::netlink::{attr, dump};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_MACVLAN_MODE: u16 = 1;
/// `IFF_LOWER_UP`: carrier.
const CARRIER: i32 = 1 << 16;
/// Has no broadcasts of strangers.
const MACVLAN_MODE_SOURCE: u32 = 8;

/// A macvlan that has the broadcasts of the device below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Macvlan {
    /// Its index.
    pub ifindex: u32,
    /// The port that it stands on.
    pub port: usize,
    /// The VLAN tags of frames for the device below it, as they stand in a frame.
    pub tags: Vec<u8>,
}

#[derive(Default)]
struct Link {
    name: String,
    below: Option<u32>,
    up: bool,
    carrier: bool,
    runs: bool,
    tag: Option<[u8; 4]>,
    bridge: bool,
    macvlan: bool,
    /// Of any mode.
    follows: bool,
}

fn u32_of(b: &[u8]) -> Option<u32> {
    b.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn link(m: &[u8]) -> Option<(u32, Link)> {
    // ifinfomsg: family, padding, type, index, flags, change; attributes follow.
    let (index, flags) = (u32_of(m.get(4..)?)?, u32_of(m.get(8..)?)? as i32);
    let attrs = m.get(16..)?;
    let info = attr(attrs, IFLA_LINKINFO).unwrap_or_default();
    let data = attr(info, IFLA_INFO_DATA).unwrap_or_default();
    let all = |f| flags & f == f;
    let mut l = Link {
        below: attr(attrs, IFLA_LINK).and_then(u32_of),
        up: all(libc::IFF_UP),
        carrier: all(CARRIER),
        runs: all(libc::IFF_UP | libc::IFF_RUNNING),
        ..Link::default()
    };
    l.name = String::from_utf8_lossy(attr(attrs, IFLA_IFNAME)?).trim_end_matches('\0').to_owned();
    match attr(info, IFLA_INFO_KIND).unwrap_or_default() {
        b"vlan\0" => {
            let [p, q] = *attr(data, IFLA_VLAN_PROTOCOL)?.first_chunk()?;
            let [id, vid] = u16::from_ne_bytes(*attr(data, IFLA_VLAN_ID)?.first_chunk()?).to_be_bytes();
            l.tag = Some([p, q, id, vid]);
        }
        b"bridge\0" => l.bridge = true,
        b"macvlan\0" => {
            l.follows = true;
            l.macvlan = attr(data, IFLA_MACVLAN_MODE).and_then(u32_of)? != MACVLAN_MODE_SOURCE;
        }
        _ => {}
    }
    Some((index, l))
}

/// Names of those with carrier on a device that is down. They take over its carrier at the moment when it goes down: a veth has lost
/// it then, as most NICs have, and a TAP has not.
///
/// # Errors
/// The kernel's.
pub fn left_with_carrier() -> io::Result<Vec<String>> {
    let mut all = BTreeMap::new();
    dump(RTM_GETLINK, RTM_NEWLINK, 0, |m| all.extend(link(m)))?;
    let on_down = |l: &&Link| l.below.and_then(|b| all.get(&b)).is_some_and(|b| !b.up);
    Ok(all.values().filter(|l| l.follows && l.carrier).filter(on_down).map(|l| l.name.clone()).collect())
}

/// A bridge whose carrier came or went, which routes and the devices on it hear of only up to a second later (`linkwatch_run_queue`).
///
/// # Errors
/// The kernel's.
pub fn late_bridge() -> io::Result<Option<String>> {
    let mut all = BTreeMap::new();
    dump(RTM_GETLINK, RTM_NEWLINK, 0, |m| all.extend(link(m)))?;
    Ok(all.into_values().find(|l| l.bridge && l.up && l.carrier != l.runs).map(|l| l.name))
}

/// One for each device of the calling thread's namespace that such stand on, all of it up and with carrier.
///
/// # Errors
/// The kernel's.
pub fn macvlans() -> io::Result<Vec<Macvlan>> {
    let mut all = BTreeMap::new();
    dump(RTM_GETLINK, RTM_NEWLINK, 0, |m| all.extend(link(m)))?;
    let mut out: BTreeMap<u32, Macvlan> = BTreeMap::new();
    for (ifindex, l) in all.iter().filter(|(_, l)| l.macvlan && l.runs) {
        let (mut at, mut tags) = (l, Vec::new());
        let port = loop {
            if let Some(n) = at.name.strip_prefix("swp").and_then(|n| n.parse().ok()) {
                break Some(n);
            }
            // Deeper than the kernel nests devices (`MAX_NEST_DEV`): no end of it.
            let Some(below) = at.below.and_then(|b| all.get(&b)).filter(|b| b.runs && tags.len() < 32) else {
                break None;
            };
            if let Some(t) = at.tag {
                tags.splice(0..0, t);
            }
            at = below;
        };
        // The queue is that of the device below, and one of those on it says that it is empty.
        if let (Some(port), Some(below)) = (port, l.below) {
            out.entry(below).or_insert(Macvlan { ifindex: *ifindex, port, tags });
        }
    }
    Ok(out.into_values().collect())
}
