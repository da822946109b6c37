//! Packet sockets: how the harness holds the far ends of wires and watches the switch's netdevs.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::netns;

/// A packet socket bound to one device.
#[derive(Debug)]
pub struct Packets {
    fd: OwnedFd,
}

fn set<T>(fd: &OwnedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value that outlives the call.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as libc::socklen_t)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Packets {
    /// Opens one on `device` of the calling thread's namespace, for what comes in; with `only`, for frames of that EtherType. Either way
    /// it is ahead of bridges and hooks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(device: &str, only: Option<u16>) -> Result<Packets> {
        Self::bound(netns::index(device).with_context(|| format!("no device {device}"))?, only)
    }

    /// Opens one on all devices of the calling thread's namespace, those to come as well, for frames of an EtherType.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_all(only: u16) -> Result<Packets> {
        Self::bound(0, Some(only))
    }

    fn bound(ifindex: u32, only: Option<u16>) -> Result<Packets> {
        // SAFETY: no pointers; the descriptor is owned from here on. Protocol 0: nothing arrives before the bind.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("a packet socket");
            }
            OwnedFd::from_raw_fd(fd)
        };
        set(&fd, libc::SOL_PACKET, 23, 1i32).context("PACKET_IGNORE_OUTGOING")?;
        set(&fd, libc::SOL_PACKET, 8, 1i32).context("PACKET_AUXDATA")?;
        if set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8i32 << 20).is_err() {
            set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 8i32 << 20).context("SO_RCVBUF")?;
        }
        if let Some(t) = only {
            // ldh [12]; jeq t, 0, 1; ret all; ret 0
            let code = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
            let mut f = [code(0x28, 0, 0, 12), code(0x15, 0, 1, t.into()), code(6, 0, 0, u32::MAX), code(6, 0, 0, 0)];
            let program = libc::sock_fprog { len: f.len() as u16, filter: f.as_mut_ptr() };
            // The kernel copies the filter before `f` goes.
            set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program).context("SO_ATTACH_FILTER")?;
        }
        // SAFETY: all-zero is a valid `sockaddr_ll`.
        let mut a: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        a.sll_family = libc::AF_PACKET as u16;
        a.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        a.sll_ifindex = ifindex as i32;
        // SAFETY: the kernel reads one `sockaddr_ll`, which outlives the call.
        let r = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const a).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        if r < 0 {
            return Err(io::Error::last_os_error()).context("bind a packet socket");
        }
        Ok(Packets { fd })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's: the device is down, the frame is too long.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: the kernel reads `frame.len()` bytes of `frame`.
            let r = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if r >= 0 {
                return Ok(());
            }
            let e = io::Error::last_os_error();
            match e.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => std::thread::yield_now(),
                _ => return Err(e),
            }
        }
    }

    /// The next frame that waits, its VLAN tag restored (kernel-facts 40); `None` if none does.
    ///
    /// # Errors
    /// The kernel's; a device that went down is none.
    pub fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.receive_on()?.map(|(_, f)| f))
    }

    /// The same, with the index of the device that it came in by.
    ///
    /// # Errors
    /// As [`Packets::receive`].
    pub fn receive_on(&self) -> io::Result<Option<(u32, Vec<u8>)>> {
        let mut buf = vec![0u8; 70_000];
        let mut control = [0u64; 16];
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        loop {
            // SAFETY: all-zero is a valid `msghdr`.
            let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
            // SAFETY: all-zero is a valid `sockaddr_ll`.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            m.msg_name = (&raw mut from).cast();
            m.msg_namelen = size_of_val(&from) as _;
            m.msg_iov = &mut iov;
            m.msg_iovlen = 1;
            m.msg_control = control.as_mut_ptr().cast();
            m.msg_controllen = size_of_val(&control) as _;
            // SAFETY: `m` points at buffers of the stated lengths that outlive the call.
            let n = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut m, 0) };
            if n < 0 {
                let e = io::Error::last_os_error();
                match e.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR | libc::ENETDOWN) => continue,
                    _ => return Err(e),
                }
            }
            let mut tag = None;
            // SAFETY: `m` was filled in by recvmsg; the CMSG functions stay within `control`, and the data of a
            // PACKET_AUXDATA message is one `tpacket_auxdata`, read without asking for alignment.
            unsafe {
                let mut c = libc::CMSG_FIRSTHDR(&m);
                while !c.is_null() {
                    if (*c).cmsg_level == libc::SOL_PACKET && (*c).cmsg_type == 8 {
                        let a: libc::tpacket_auxdata =
                            libc::CMSG_DATA(c).cast::<libc::tpacket_auxdata>().read_unaligned();
                        if a.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                            let tpid = if a.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
                                a.tp_vlan_tpid
                            } else {
                                0x8100
                            };
                            tag = Some((tpid, a.tp_vlan_tci));
                        }
                    }
                    c = libc::CMSG_NXTHDR(&m, c);
                }
            }
            buf.truncate(n as usize);
            if let Some((tpid, tci)) = tag
                && buf.len() >= 12
            {
                let t = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
                buf.splice(12..12, t);
            }
            return Ok(Some((from.sll_ifindex as u32, buf)));
        }
    }

    /// Waits until a frame is there, or `until`.
    pub fn wait(&self, until: Instant) -> bool {
        wait_any(&[self], until)
    }
}

/// Waits until one of them has a frame, or `until`; whether one has.
pub fn wait_any(sockets: &[&Packets], until: Instant) -> bool {
    let mut fds: Vec<libc::pollfd> =
        sockets.iter().map(|s| libc::pollfd { fd: s.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let left = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(3600));
    let ms = left.as_millis() as i32 + i32::from(!left.is_zero());
    // SAFETY: the kernel reads and writes `fds.len()` entries of `fds`.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) > 0 }
}
