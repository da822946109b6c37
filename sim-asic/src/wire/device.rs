//! Taking a network device as a wire, and giving it back: no second kernel stack may answer on it.
//!
//! Checked and moved before it comes up; then without ARP, IPv6 and receive offloads. Whether it is up is `ports.rs`'s.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::netlink::{Link, Netlink, NlError};
use crate::netns::NetNs;

// linux/if_link.h and linux/ethtool.h, where the C library's constants are not on every target.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// Why a device can't be a wire: one sentence. `None` if it can.
///
/// # Errors
/// What the kernel answered.
pub fn objection(nl: &mut Netlink, l: &Link) -> Result<Option<String>, NlError> {
    let name = &l.name;
    if l.flags & libc::IFF_LOOPBACK as u32 != 0 || l.mac.is_none() {
        return Ok(Some(format!("{name} is no Ethernet device")));
    }
    let links = nl.links()?;
    if let Some(m) = l.master {
        let m = links.iter().find(|l| l.index == m).map_or("another device", |l| &l.name);
        return Ok(Some(format!("{name} belongs to {m}: free it with ip link set {name} nomaster")));
    }
    if let Some(a) = nl.addresses(l.index)?.first() {
        return Ok(Some(format!(
            "{name} has the address {a}, so this machine uses it: set it down and run ip addr flush dev {name}, or choose another"
        )));
    }
    // The other end of a veth pair names its peer as if it stood on it.
    if let Some(u) = links.iter().find(|u| u.lower == Some(l.index) && u.kind != "veth") {
        return Ok(Some(format!("{name} carries {}: delete that first, or choose another", u.name)));
    }
    if l.up() && l.promiscuity > 0 {
        return Ok(Some(format!(
            "{name} is up and in use (promiscuous): end what uses it, or run ip link set {name} down"
        )));
    }
    Ok(None)
}

/// Settings of the chip's namespace, on a thread inside it: a device that comes in has IPv6 off from its first moment,
/// and nothing is routed there.
pub fn prepare_namespace() {
    for path in ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"] {
        // Absent where the kernel has no IPv6 or has it off altogether.
        let _ = fs::write(format!("/proc/sys/net/{path}"), "1");
    }
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let _ = fs::write(format!("/proc/sys/net/{path}"), "0");
    }
}

/// Move a device from here into `to`; it goes down on the way.
///
/// # Errors
/// What the kernel answered.
pub fn send_to(nl: &mut Netlink, l: &Link, to: &NetNs) -> Result<(), NlError> {
    nl.set(l.index, |r| r.flags(0, libc::IFF_UP))?;
    nl.set(l.index, |r| r.attr32(libc::IFLA_NET_NS_FD, to.fd().as_raw_fd() as u32))
}

/// Make the device quiet; on a thread inside the chip's namespace.
///
/// # Errors
/// It would not be quiet.
pub fn quiet(nl: &mut Netlink, l: &Link) -> Result<(), NlError> {
    nl.set(l.index, |r| r.flags(libc::IFF_NOARP, libc::IFF_NOARP))?;
    // Without IPv6 in the kernel this is refused and there is nothing to turn off.
    let _ = nl.set(l.index, |r| {
        r.nest(libc::IFLA_AF_SPEC, |r| {
            r.nest(libc::AF_INET6 as u16, |r| r.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]))
        })
    });
    let sysctl = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", l.name);
    if fs::exists(&sysctl).unwrap_or(false) {
        fs::write(&sysctl, "1")?;
        if fs::read_to_string(&sysctl)?.trim() != "1" {
            return Err(NlError { errno: libc::EPERM, text: "IPv6 can't be turned off".into() });
        }
    }
    if let Err(e) = offloads(&l.name) {
        tracing::debug!("receive offloads of {} stay as they are: {e}", l.name);
    }
    Ok(())
}

/// The reverse of [`quiet`], as far as a move to another namespace does not undo it.
///
/// # Errors
/// What the kernel answered.
pub fn loud(nl: &mut Netlink, l: &Link) -> Result<(), NlError> {
    nl.set(l.index, |r| r.flags(0, libc::IFF_NOARP | libc::IFF_UP))?;
    let _ = ethtool(&l.name, ETHTOOL_SGRO, 1);
    Ok(())
}

/// Coalescing (GRO, LRO) off, where the driver lets it be.
fn offloads(name: &str) -> io::Result<()> {
    ethtool(name, ETHTOOL_SGRO, 0)?;
    let flags = ethtool(name, ETHTOOL_GFLAGS, 0)?;
    let want = flags & !ETH_FLAG_LRO;
    if want != flags {
        ethtool(name, ETHTOOL_SFLAGS, want)?;
    }
    Ok(())
}

/// `SIOCETHTOOL` with a `struct ethtool_value`; returns its value.
fn ethtool(name: &str, cmd: u32, value: u32) -> io::Result<u32> {
    // SAFETY: no pointer is passed; the descriptor that comes back is owned by no one else.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut arg = [cmd, value];
    // SAFETY: all zeros is a valid ifreq.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in r.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    r.ifr_ifru.ifru_data = arg.as_mut_ptr().cast();
    // SAFETY: `r` and the two words that it points at live through the call; these commands read or write no more.
    let n = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut r) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(arg[1]) }
}
