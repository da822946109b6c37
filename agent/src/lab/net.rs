//! Links, addresses and routes of the lab, over netlink. Only what the lab itself needs; scenarios use `ip`.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use hal::Mac;
use rustix::thread::LinkNameSpaceType;
use sim_asic::netlink::{Netlink, Request};
use sim_asic::netns::{self, NetNs};

const VETH_INFO_PEER: u16 = 1; // linux/veth.h
const CREATE: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// A new veth pair: `name` here, `peer` in another namespace.
pub(super) fn veth(
    nl: &mut Netlink,
    name: &str,
    mac: Mac,
    peer: &str,
    peer_mac: Mac,
    there: BorrowedFd<'_>,
) -> Result<()> {
    let request = Request::link(libc::RTM_NEWLINK, CREATE, 0)
        .text(libc::IFLA_IFNAME, name)
        .attr(libc::IFLA_ADDRESS, &mac.0)
        .nest(libc::IFLA_LINKINFO, |r| {
            r.attr(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, |r| {
                r.nest(VETH_INFO_PEER, |r| {
                    r.raw(&[0; 16])
                        .text(libc::IFLA_IFNAME, peer)
                        .attr(libc::IFLA_ADDRESS, &peer_mac.0)
                        .attr32(libc::IFLA_NET_NS_FD, there.as_raw_fd() as u32)
                })
            })
        });
    nl.request(request, |_, _| ()).with_context(|| format!("the wire {name}–{peer} can't be made"))
}

/// The ifindex of a link that must be there.
pub(super) fn index(nl: &mut Netlink, name: &str) -> Result<u32> {
    Ok(nl.link_by_name(name)?.with_context(|| format!("there is no link {name}"))?.index)
}

/// Set a link up.
pub(super) fn up(nl: &mut Netlink, name: &str) -> Result<()> {
    let index = index(nl, name)?;
    nl.set_up(index, true).with_context(|| format!("{name} does not come up"))
}

fn family(addr: IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(a) => (libc::AF_INET as u8, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, a.octets().to_vec()),
    }
}

/// Add an address, without duplicate address detection.
pub(super) fn address(nl: &mut Netlink, name: &str, addr: IpAddr, len: u8) -> Result<()> {
    let index = index(nl, name)?;
    let (af, bytes) = family(addr);
    let mut head = vec![af, len, libc::IFA_F_NODAD as u8, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    let request = Request::with_header(libc::RTM_NEWADDR, CREATE, &head)
        .attr(libc::IFA_LOCAL, &bytes)
        .attr(libc::IFA_ADDRESS, &bytes);
    nl.request(request, |_, _| ()).with_context(|| format!("{addr}/{len} can't be added to {name}"))
}

/// Add a default route.
pub(super) fn default_route(nl: &mut Netlink, via: IpAddr) -> Result<()> {
    let (af, bytes) = family(via);
    // rtmsg: family, both lengths, TOS, table, protocol, scope, type, flags.
    let head = [af, 0, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST];
    let request = Request::with_header(libc::RTM_NEWROUTE, CREATE, &head).raw(&[0; 4]).attr(libc::RTA_GATEWAY, &bytes);
    nl.request(request, |_, _| ()).with_context(|| format!("no default route via {via}"))
}

/// Write sysctls of the calling thread's namespace, below `/proc/sys/net/`.
pub(super) fn sysctls(values: &[(&str, &str)]) -> Result<()> {
    for (path, value) in values {
        fs::write(format!("/proc/sys/net/{path}"), value)
            .with_context(|| format!("sysctl net.{} can't be set to {value}", path.replace('/', ".")))?;
    }
    Ok(())
}

/// Give the calling thread's namespace a name, as `ip netns attach` does.
pub(super) fn name_this(name: &str) -> io::Result<()> {
    let path = std::path::Path::new(netns::DIR).join(name);
    fs::File::create_new(&path)?;
    Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?)
}

/// A command that will run in that namespace.
///
/// # Errors
/// No descriptor is left.
pub fn command_in(ns: &NetNs, program: &str) -> io::Result<Command> {
    let fd = ns.fd().try_clone_to_owned()?;
    let mut command = Command::new(program);
    // SAFETY: between fork and exec; one system call, nothing is allocated. The child has one thread, so it is the
    // process that moves.
    unsafe {
        command.pre_exec(move || {
            use rustix::fd::AsFd;
            Ok(rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?)
        });
    }
    Ok(command)
}
