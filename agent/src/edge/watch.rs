//! Hears that policy has changed, so that it is read at once and not only once a second: nftables, tc, IPsec policies.
//!
//! What has changed is not looked at: the reading tells (`poller`). Nor is it trusted to be told of everything: iptables, BPF and sysctls
//! announce nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};

/// Protocol and multicast group of what can change: `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`), `RTNLGRP_TC`
/// (`linux/rtnetlink.h`), `XFRMNLGRP_POLICY` (`linux/xfrm.h`).
const GROUPS: [(libc::c_int, u32, &str); 3] = [
    (libc::NETLINK_NETFILTER, 7, "nftables"),
    (libc::NETLINK_ROUTE, 4, "tc"),
    (libc::NETLINK_XFRM, 4, "IPsec policies"),
];

/// Sockets that become readable with a change.
pub struct Watch(Vec<Socket>);

impl Watch {
    /// Of the network namespace that the thread is in. What the kernel does not have, or does not let us hear, is read once a
    /// second all the same.
    pub fn open() -> Watch {
        let open = |protocol: libc::c_int, group| {
            let mut s = Socket::new(protocol as isize)?;
            s.bind(&SocketAddr::new(0, 0))?;
            s.add_membership(group)?;
            s.set_non_blocking(true)?;
            Ok(s)
        };
        let of = |&(protocol, group, what): &(libc::c_int, u32, &str)| {
            open(protocol, group)
                .inspect_err(|e: &io::Error| tracing::debug!("changes of {what} are not announced here: {e}"))
                .ok()
        };
        Watch(GROUPS.iter().filter_map(of).collect())
    }

    /// Block until something has changed, and take all that says so: what changes from here on is told by the next call.
    ///
    /// # Errors
    /// There is nothing to wait for, or the wait failed.
    pub fn changed(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let fds: Vec<BorrowedFd<'_>> = self.0.iter().map(AsFd::as_fd).collect();
        let mut fds: Vec<_> = fds.iter().map(|f| PollFd::from_borrowed_fd(*f, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut short = [0u8; 64];
        for s in &self.0 {
            // The content does not matter, and a loss (`ENOBUFS`) is a change as well.
            loop {
                match s.recv(&mut &mut short[..], 0) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Call `nudge` after each change, until it says that nobody listens.
pub fn run(watch: &Watch, mut nudge: impl FnMut() -> bool) {
    loop {
        if let Err(e) = watch.changed() {
            tracing::debug!("policy is read once a second only: {e}");
            return;
        }
        if !nudge() {
            return;
        }
    }
}
