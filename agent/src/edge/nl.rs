//! A netlink socket of the routing family: open, subscribe, send, read many datagrams at once.
//!
//! Bytes only: what a message means is `netlink`'s. All `unsafe` of the edge is here.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `NETLINK_ADD_MEMBERSHIP` (`linux/netlink.h`).
const ADD_MEMBERSHIP: libc::c_int = 1;
/// `NETLINK_EXT_ACK`.
const EXT_ACK: libc::c_int = 11;
/// `NETLINK_GET_STRICT_CHK`.
const GET_STRICT_CHK: libc::c_int = 12;

/// Bytes of a netlink message header (`struct nlmsghdr`).
pub const HEADER: usize = 16;
/// `NLMSG_ERROR`.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub const NLMSG_DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the dump was not of one state.
pub const NLM_F_DUMP_INTR: u16 = 0x10;

/// A socket of `NETLINK_ROUTE` in the namespace in which it was opened.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opened and bound to an address of the kernel's choice, with extended acknowledgements and strict checks of
    /// requests where the kernel has them.
    ///
    /// # Errors
    /// The system refused a socket.
    pub fn open() -> io::Result<Socket> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let s = Socket(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: all-zero is a valid address: port 0 lets the kernel choose, groups are joined one by one.
        let mut addr: libc::sockaddr_nl = unsafe { zeroed() };
        addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // SAFETY: `addr` is a `sockaddr_nl` of the length given.
        let r = unsafe { libc::bind(fd, (&raw const addr).cast(), size_of::<libc::sockaddr_nl>() as libc::socklen_t) };
        if r < 0 {
            return Err(io::Error::last_os_error());
        }
        // Both came before 5.0; without them the messages are poorer, not wrong.
        let _ = s.set(libc::SOL_NETLINK, EXT_ACK, 1);
        let _ = s.set(libc::SOL_NETLINK, GET_STRICT_CHK, 1);
        Ok(s)
    }

    /// Receive notifications of `group` (`RTNLGRP_*`).
    ///
    /// # Errors
    /// The kernel does not have the group.
    pub fn subscribe(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, ADD_MEMBERSHIP, group as libc::c_int)
    }

    /// Ask for a receive buffer of `bytes`; past `rmem_max` where the caller may (kernel-facts 41).
    /// Returns what the socket has then, in the kernel's own accounting (twice what was asked for).
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        let want = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX / 2);
        if self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, want).is_err() {
            self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, want)?;
        }
        self.receive_buffer_size()
    }

    /// The socket's receive buffer in bytes.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn receive_buffer_size(&self) -> io::Result<usize> {
        let mut got: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `got` and `len` live through the call and `len` is the size of `got`.
        let r = unsafe {
            libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw mut got).cast(), &raw mut len)
        };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(got.max(0) as usize) }
    }

    /// Let reads fail with `WouldBlock` after this long.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read_timeout(&self, t: Duration) -> io::Result<()> {
        let tv = libc::timeval {
            tv_sec: t.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(t.subsec_micros() as i32),
        };
        // SAFETY: `tv` is a `timeval` of the length given.
        let r = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const tv).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: `value` is an int of the length given.
        let r = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Send a request to the kernel. `flags` are those of `send(2)`.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn send(&self, message: &[u8], flags: libc::c_int) -> io::Result<()> {
        loop {
            // SAFETY: `message` is readable for its length.
            let n = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), flags) };
            if n >= 0 {
                return Ok(());
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }

    /// Read one datagram into `buf`; blocks.
    ///
    /// # Errors
    /// As `recv(2)`; `EMSGSIZE` if the datagram is longer than `buf`.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: `buf` is writable for its length.
            let n = unsafe { libc::recv(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_TRUNC) };
            if let Ok(n) = usize::try_from(n) {
                return if n > buf.len() { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) } else { Ok(n) };
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Buffers for reading many datagrams in one system call.
pub struct Ring {
    data: Box<[u8]>,
    each: usize,
    lens: Vec<usize>,
}

impl Ring {
    /// For `count` datagrams of at most `each` bytes.
    pub fn new(count: usize, each: usize) -> Ring {
        Ring { data: vec![0; count * each].into_boxed_slice(), each, lens: Vec::with_capacity(count) }
    }

    /// Block until there is a datagram, then read what is there. Returns whether all of them fitted; those that did
    /// are [`Ring::datagrams`].
    ///
    /// # Errors
    /// As `recvmmsg(2)`; `ENOBUFS` if the kernel had to drop messages.
    pub fn read(&mut self, socket: &Socket) -> io::Result<bool> {
        self.read_with(socket, libc::MSG_WAITFORONE)
    }

    /// Throw away all that waits in the socket, until it has been empty.
    ///
    /// To be done after a loss, before anything is dumped. What waits there is older than a dump that begins now and
    /// would be taken for newer; and from its `ENOBUFS` on the kernel drops whatever it would announce, without another
    /// word, until a read leaves the queue empty (`NETLINK_S_CONGESTED` in `net/netlink/af_netlink.c`).
    ///
    /// # Errors
    /// As `recvmmsg(2)`, but for `ENOBUFS`.
    pub fn drain(&mut self, socket: &Socket) -> io::Result<()> {
        loop {
            match self.read_with(socket, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        self.lens.clear();
        Ok(())
    }

    fn read_with(&mut self, socket: &Socket, flags: libc::c_int) -> io::Result<bool> {
        const AT_ONCE: usize = 64;
        self.lens.clear();
        // SAFETY: an array of `MaybeUninit` needs no initialisation.
        let mut iov: [MaybeUninit<libc::iovec>; AT_ONCE] = [const { MaybeUninit::uninit() }; AT_ONCE];
        // SAFETY: all-zero is a valid `mmsghdr`: no name, no buffers, no control data.
        let mut heads: [libc::mmsghdr; AT_ONCE] = unsafe { zeroed() };
        let mut n = 0;
        for ((chunk, v), h) in self.data.chunks_exact_mut(self.each).zip(&mut iov).zip(&mut heads) {
            let v = v.write(libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() });
            h.msg_hdr.msg_iov = v;
            h.msg_hdr.msg_iovlen = 1;
            n += 1;
        }
        loop {
            // SAFETY: the first `n` headers point at initialised vectors, and those at disjoint parts of `data`, all
            // of which outlive the call.
            let got =
                unsafe { libc::recvmmsg(socket.0.as_raw_fd(), heads.as_mut_ptr(), n, flags, core::ptr::null_mut()) };
            if let Ok(got) = usize::try_from(got) {
                let whole = heads[..got].iter().all(|h| h.msg_hdr.msg_flags & libc::MSG_TRUNC == 0);
                self.lens.extend(heads[..got].iter().map(|h| h.msg_len as usize));
                return Ok(whole);
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }

    /// What the last read brought.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.data.chunks_exact(self.each).zip(&self.lens).map(|(d, &n)| &d[..n.min(d.len())])
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub seq: u32,
    /// Header and payload, without padding behind.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or(&[])
    }

    /// Of an acknowledgement or the end of a dump: the errno (positive, 0 for success).
    pub fn errno(&self) -> i32 {
        match self.payload().first_chunk::<4>() {
            Some(b) => i32::from_ne_bytes(*b).saturating_neg(),
            None => 0,
        }
    }

    /// Of an acknowledgement: the kernel's own words (`NLMSGERR_ATTR_MSG`), empty if it has none.
    pub fn ext_ack(&self) -> String {
        /// `NLM_F_CAPPED`: the request is quoted without its payload.
        const CAPPED: u16 = 0x100;
        /// `NLM_F_ACK_TLVS`: attributes follow.
        const ACK_TLVS: u16 = 0x200;
        const ATTR_MSG: u16 = 1;
        if self.kind != NLMSG_ERROR || self.flags & ACK_TLVS == 0 {
            return String::new();
        }
        let p = self.payload();
        let quoted = match p.get(4..8).and_then(|b| b.first_chunk::<4>()) {
            Some(len) if self.flags & CAPPED == 0 => (u32::from_ne_bytes(*len) as usize).next_multiple_of(4),
            _ => HEADER,
        };
        let mut rest = p.get(4usize.saturating_add(quoted)..).unwrap_or(&[]);
        while let Some(head) = rest.first_chunk::<4>() {
            let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
            let Some(value) = rest.get(4..len) else { break };
            if kind == ATTR_MSG {
                let text = value.split(|&b| b == 0).next().unwrap_or(&[]);
                return String::from_utf8_lossy(text).into_owned();
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        String::new()
    }
}

/// The messages of a datagram, as far as their lengths make sense.
pub fn messages(buf: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        let h = rest.first_chunk::<HEADER>()?;
        let len = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize;
        let bytes = rest.get(..len).filter(|b| b.len() >= HEADER)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([h[4], h[5]]),
            flags: u16::from_ne_bytes([h[6], h[7]]),
            seq: u32::from_ne_bytes([h[8], h[9], h[10], h[11]]),
            bytes,
        })
    })
}

/// A request with the sequence number `seq` filled in and `flags` added; `None` if it is shorter than a header.
pub fn stamp(mut message: Vec<u8>, seq: u32, flags: u16) -> Option<Vec<u8>> {
    let len = u32::try_from(message.len()).ok()?;
    let h = message.first_chunk_mut::<HEADER>()?;
    h[..4].copy_from_slice(&len.to_ne_bytes());
    let f = u16::from_ne_bytes([h[6], h[7]]) | flags;
    h[6..8].copy_from_slice(&f.to_ne_bytes());
    h[8..12].copy_from_slice(&seq.to_ne_bytes());
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(flags: u16, errno: i32, rest: &[u8]) -> Vec<u8> {
        let mut m = vec![0; HEADER];
        m[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        m.extend_from_slice(&(-errno).to_ne_bytes());
        m.extend_from_slice(rest);
        let len = (m.len() as u32).to_ne_bytes();
        m[..4].copy_from_slice(&len);
        m[6..8].copy_from_slice(&flags.to_ne_bytes());
        m
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_quoted_request() {
        let text = b"\x0c\0\x01\0no way\0\0";
        let mut quoted = vec![0; 24];
        quoted[..4].copy_from_slice(&22u32.to_ne_bytes());
        let full = [quoted.as_slice(), text].concat();
        let m = error(0x200, 22, &full);
        let m = messages(&m).next().unwrap();
        assert_eq!((m.errno(), m.ext_ack().as_str()), (22, "no way"));
        let mut head = vec![0; HEADER];
        head[..4].copy_from_slice(&999u32.to_ne_bytes());
        let capped = [head.as_slice(), text].concat();
        let m = error(0x300, 22, &capped);
        assert_eq!(messages(&m).next().unwrap().ext_ack(), "no way");
    }

    #[test]
    fn no_length_makes_it_panic_or_loop() {
        let whole = [error(0x300, 1, &[7; 40]), error(0x200, 1, &[0xff; 40]), error(0, 0, &[])].concat();
        for cut in 0..whole.len() {
            for at in 0..cut.min(24) {
                let mut b = whole[..cut].to_vec();
                b[at] ^= 0x55;
                for m in messages(&b) {
                    let _ = (m.errno(), m.ext_ack());
                }
            }
        }
    }

    #[test]
    fn a_request_is_stamped_and_a_stump_is_refused() {
        let m = stamp(vec![0; 20], 7, 5).unwrap();
        let m = messages(&m).next().unwrap();
        assert_eq!((m.seq, m.flags, m.bytes.len()), (7, 5, 20));
        assert!(stamp(vec![0; 15], 7, 5).is_none());
    }
}
