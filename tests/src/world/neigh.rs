//! Asks the kernel what it is still busy with: neighbours being resolved, addresses not usable yet. Only that: everything else
//! is asked with `ip -j`. And has it be busy for no longer than it must.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use super::netlink::{attr, dump, socket};
use super::netns;

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;
const NDA_DST: u16 = 1;
const NDA_CACHEINFO: u16 = 3;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u8 = 1;
const NTF_EXT_LEARNED: u8 = 0x10;
const RTM_DELNEIGH: u16 = 29;
const IFA_F_TENTATIVE: u8 = 0x40;

/// Set per device, which does not inherit them in a namespace other than the first: resolution that fails does so soon, and
/// proxy answers, which else wait for a random time, come at once.
const NEIGH: &[(&str, &str)] = &[
    ("retrans_time_ms", "100"),
    ("mcast_solicit", "1"),
    ("proxy_delay", "0"),
    // One that was heard of stays in use, however long a step takes: else it would be given up after seconds.
    ("delay_first_probe_time", "3600"),
];

/// Gives the devices of the calling thread's namespace these settings, once each.
///
/// # Errors
/// A setting is not taken.
pub fn prepare(prepared: &mut BTreeSet<u32>) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/sys/net/ipv4/neigh")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(i) = netns::index(&name).filter(|i| !prepared.contains(i)) else { continue };
        for (k, v) in NEIGH {
            for f in ["ipv4", "ipv6"] {
                match super::sysctl(&format!("net/{f}/neigh/{name}/{k}"), v) {
                    // Below an MTU of 1,280 a device has no IPv6.
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        prepared.insert(i);
    }
    Ok(())
}

/// Neighbours of the calling thread's namespace that the kernel is busy with.
#[derive(Clone, Copy, Default, Debug)]
pub struct Busy {
    /// Being resolved: INCOMPLETE.
    pub resolving: usize,
    /// FAILED a moment ago: their packets may not have been answered yet.
    pub failed: usize,
}

/// For this long a neighbour counts as FAILED a moment ago, in hundredths of a second (`USER_HZ`).
const MOMENT: u32 = 50;

/// What the kernel is busy with.
///
/// # Errors
/// The kernel's.
pub fn busy() -> io::Result<Busy> {
    let mut b = Busy::default();
    // ndmsg is family, padding, ifindex, state, flags, type; attributes follow.
    dump(RTM_GETNEIGH, RTM_NEWNEIGH, 0, |m| {
        let state = m.get(8..10).map_or(0, |s| u16::from_ne_bytes([s[0], s[1]]));
        b.resolving += usize::from(state & NUD_INCOMPLETE != 0);
        b.failed += usize::from(state & NUD_FAILED != 0 && updated(m.get(12..).unwrap_or_default()) < MOMENT);
    })?;
    Ok(b)
}

/// Deletes every entry that has FAILED and that nobody wants resolved (`NTF_EXT_MANAGED`) or has stated (`NTF_EXT_LEARNED`);
/// returns how many.
///
/// # Errors
/// The kernel's.
pub fn forget_failed() -> io::Result<usize> {
    let mut all = Vec::new();
    dump(RTM_GETNEIGH, RTM_NEWNEIGH, 0, |m| {
        let state = m.get(8..10).map_or(0, |s| u16::from_ne_bytes([s[0], s[1]]));
        let attrs = m.get(12..).unwrap_or_default();
        let managed = attr(attrs, NDA_FLAGS_EXT).is_some_and(|e| e.first().is_some_and(|b| b & NTF_EXT_MANAGED != 0));
        let stated = m.get(10).is_some_and(|f| f & NTF_EXT_LEARNED != 0);
        if let (true, false, Some(dst)) = (state & NUD_FAILED != 0, managed || stated, attr(attrs, NDA_DST)) {
            let len = (4 + dst.len()) as u16;
            let head = m.get(..12).unwrap_or_default();
            all.push([head, &len.to_ne_bytes()[..], &NDA_DST.to_ne_bytes()[..], dst].concat());
        }
    })?;
    let mut s = socket()?;
    for (n, body) in (1u32..).zip(&all) {
        let mut m = (16 + body.len() as u32).to_ne_bytes().to_vec();
        m.extend(RTM_DELNEIGH.to_ne_bytes());
        // NLM_F_REQUEST | NLM_F_ACK
        m.extend(5u16.to_ne_bytes());
        m.extend(n.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(body);
        s.write_all(&m)?;
        // The acknowledgement, or that it is gone by itself.
        let _ = s.read(&mut [0; 4096])?;
    }
    Ok(all.len())
}

/// How long ago the neighbour with these attributes changed: `ndm_updated`, the third number of `NDA_CACHEINFO`.
fn updated(attrs: &[u8]) -> u32 {
    let updated = attr(attrs, NDA_CACHEINFO).and_then(|c| c.get(8..12)?.first_chunk());
    updated.map_or(u32::MAX, |b| u32::from_ne_bytes(*b))
}

/// Returns when every interrupt handler that was running has ended, timers of neighbours among them: the kernel waits for
/// a grace period (`MEMBARRIER_CMD_GLOBAL`), and handlers count as readers.
pub fn handlers_done() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers. Where the call does not exist nothing is waited for.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// Indexes of the devices with an IPv6 address that is not usable yet.
///
/// # Errors
/// The kernel's.
pub fn tentative() -> io::Result<Vec<u32>> {
    let mut out = Vec::new();
    // ifaddrmsg: family, prefix length, flags, scope, ifindex.
    dump(RTM_GETADDR, RTM_NEWADDR, libc::AF_INET6 as u8, |m| {
        if let Some(m) = m.first_chunk::<8>()
            && m[2] & IFA_F_TENTATIVE != 0
        {
            out.push(u32::from_ne_bytes([m[4], m[5], m[6], m[7]]));
        }
    })?;
    Ok(out)
}
