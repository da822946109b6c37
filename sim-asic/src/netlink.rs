//! A small synchronous rtnetlink helper for links and addresses: what the chip needs for its wires and TAPs.
//!
//! It reads the few attributes it wants straight from the message, so that an attribute of a newer kernel can't make a
//! message unreadable. A socket belongs to the namespace in which it was opened. Not for the agent's mirror.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use hal::{Addr, Mac};

const NLMSG_HDR: usize = 16;
const IFINFO: usize = 16;

/// What the kernel answered to a request.
#[derive(Debug, thiserror::Error)]
#[error("{}{}{text}", io::Error::from_raw_os_error(*.errno), if .text.is_empty() { "" } else { ": " })]
pub struct NlError {
    /// As in `errno.h`, positive.
    pub errno: i32,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`), where it gave any.
    pub text: String,
}

impl NlError {
    /// Whether the object that was asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self.errno, libc::ENODEV | libc::ENOENT | libc::ENXIO)
    }
}

impl From<io::Error> for NlError {
    fn from(e: io::Error) -> Self {
        NlError { errno: e.raw_os_error().unwrap_or(libc::EIO), text: String::new() }
    }
}

impl From<NlError> for io::Error {
    fn from(e: NlError) -> Self {
        if e.text.is_empty() { io::Error::from_raw_os_error(e.errno) } else { io::Error::other(e.to_string()) }
    }
}

/// A link, as far as wires and TAPs are concerned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// `ifi_index`
    pub index: u32,
    /// `IFLA_IFNAME`
    pub name: String,
    /// `ifi_flags`
    pub flags: u32,
    /// `IFLA_MTU`
    pub mtu: u32,
    /// `IFLA_ADDRESS`, where it is an Ethernet one.
    pub mac: Option<Mac>,
    /// `IFLA_CARRIER`: what the device itself says, at once (linkwatch delays messages, not this).
    pub carrier: bool,
    /// `IFLA_CARRIER_DOWN_COUNT`: advances with every loss, shown or not.
    pub carrier_downs: u32,
    /// `IFLA_MASTER`
    pub master: Option<u32>,
    /// `IFLA_LINK`, where it is in the same namespace.
    pub lower: Option<u32>,
    /// `IFLA_PROMISCUITY`: how many want it promiscuous.
    pub promiscuity: u32,
    /// `IFLA_INFO_KIND`: `veth`, `tun`, … or empty for hardware.
    pub kind: String,
}

impl Link {
    /// Administratively up.
    pub fn up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }
}

/// A request under construction.
#[derive(Debug)]
pub struct Request {
    buf: Vec<u8>,
}

impl Request {
    /// With an empty `ifinfomsg` for that device (0: none).
    pub fn link(kind: u16, flags: i32, index: u32) -> Request {
        let mut r = Request::new(kind, flags);
        let mut body = [0; IFINFO];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        r.buf.extend_from_slice(&body);
        r
    }

    /// With that fixed header (`ifaddrmsg`, `rtmsg`, …) behind the netlink header.
    pub fn with_header(kind: u16, flags: i32, header: &[u8]) -> Request {
        Request::new(kind, flags).raw(header)
    }

    /// Append bytes as they are, such as a nested fixed header.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self
    }

    fn new(kind: u16, flags: i32) -> Request {
        let mut buf = vec![0; NLMSG_HDR];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        Request { buf }
    }

    /// Change these `IFF_*` flags to those of `value`.
    pub fn flags(mut self, value: i32, mask: i32) -> Self {
        let at = NLMSG_HDR + 8;
        let or = |b: &mut [u8], v: i32| {
            let old = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
            b.copy_from_slice(&(old | v as u32).to_ne_bytes());
        };
        or(&mut self.buf[at..at + 4], value & mask);
        or(&mut self.buf[at + 4..at + 8], mask);
        self
    }

    /// Append an attribute.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.buf.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
        self
    }

    /// Append an attribute of one number.
    pub fn attr32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Append an attribute of text, with its NUL.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut v = value.as_bytes().to_vec();
        v.push(0);
        self.attr(kind, &v)
    }

    /// Append an attribute that holds those `inside` appends.
    pub fn nest(mut self, kind: u16, inside: impl FnOnce(Request) -> Request) -> Self {
        let at = self.buf.len();
        self = inside(self.attr(kind | libc::NLA_F_NESTED as u16, &[]));
        let len = (self.buf.len() - at) as u16;
        self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

/// A socket for requests in one namespace.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

fn socket(groups: u32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed; the descriptor that comes back is owned by no one else.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as u16;
    addr.nl_groups = groups;
    // SAFETY: `addr` lives through the call and the length is its own.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size_of_val(&addr) as u32) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn option(fd: &OwnedFd, name: i32) {
    let on: i32 = 1;
    // SAFETY: `on` lives through the call. A kernel without the option says less: no harm.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, name, (&raw const on).cast(), 4) };
}

fn recv(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `len` bytes into the slice.
        let n = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
        match n {
            0.. => return Ok(n as usize),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The socket could not be made.
    pub fn open() -> io::Result<Netlink> {
        let fd = socket(0, 0)?;
        option(&fd, libc::NETLINK_EXT_ACK);
        option(&fd, libc::NETLINK_GET_STRICT_CHK);
        Ok(Netlink { fd, seq: 0 })
    }

    /// Send a request and hand each message of the answer to `each` (kind, body).
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn request(&mut self, mut r: Request, mut each: impl FnMut(u16, &[u8])) -> Result<(), NlError> {
        self.seq = self.seq.wrapping_add(1);
        let len = r.buf.len() as u32;
        r.buf[..4].copy_from_slice(&len.to_ne_bytes());
        r.buf[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        let flags = u16::from_ne_bytes([r.buf[6], r.buf[7]]);
        // SAFETY: the slice lives through the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), r.buf.as_ptr().cast(), r.buf.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let (dump, ack) =
            (i32::from(flags) & libc::NLM_F_DUMP == libc::NLM_F_DUMP, i32::from(flags) & libc::NLM_F_ACK != 0);
        let mut buf = vec![0; 64 << 10];
        loop {
            let n = recv(&self.fd, &mut buf)?;
            for (kind, seq, body) in messages(&buf[..n]) {
                if seq != self.seq {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return error(body),
                    _ => {
                        each(kind, body);
                        if !dump && !ack {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn link_where(&mut self, r: Request) -> Result<Option<Link>, NlError> {
        let mut found = None;
        match self.request(r, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                found = link(body);
            }
        }) {
            Ok(()) => Ok(found),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The link of that ifindex, `None` if there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NlError> {
        self.link_where(Request::link(libc::RTM_GETLINK, 0, index))
    }

    /// The link of that name, `None` if there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NlError> {
        self.link_where(Request::link(libc::RTM_GETLINK, 0, 0).text(libc::IFLA_IFNAME, name))
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn links(&mut self) -> Result<Vec<Link>, NlError> {
        let mut all = Vec::new();
        self.request(Request::link(libc::RTM_GETLINK, libc::NLM_F_DUMP, 0), |kind, body| {
            if kind == libc::RTM_NEWLINK {
                all.extend(link(body));
            }
        })?;
        Ok(all)
    }

    /// The addresses of a link, of both families.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpAddr>, NlError> {
        let mut all = Vec::new();
        let mut r = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        r.buf.extend_from_slice(&[0; 8]);
        self.request(r, |kind, body| {
            if kind != libc::RTM_NEWADDR || body.len() < 8 {
                return;
            }
            if u32::from_ne_bytes([body[4], body[5], body[6], body[7]]) != index {
                return;
            }
            let mut addr = None;
            for (kind, v) in attrs(&body[8..]) {
                // IFA_LOCAL is the own address where both are given (peer addresses).
                if kind == libc::IFA_LOCAL || (kind == libc::IFA_ADDRESS && addr.is_none()) {
                    addr = match body[0] as i32 {
                        libc::AF_INET => std::net::Ipv4Addr::from_wire(v).map(IpAddr::V4),
                        _ => std::net::Ipv6Addr::from_wire(v).map(IpAddr::V6),
                    };
                }
            }
            all.extend(addr);
        })?;
        Ok(all)
    }

    /// Change a link: what `with` adds to the request.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set(&mut self, index: u32, with: impl FnOnce(Request) -> Request) -> Result<(), NlError> {
        self.request(with(Request::link(libc::RTM_NEWLINK, libc::NLM_F_ACK, index)), |_, _| ())
    }

    /// Set a link up or down.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NlError> {
        self.set(index, |r| r.flags(if up { libc::IFF_UP } else { 0 }, libc::IFF_UP))
    }
}

/// Notifications about links of one namespace.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    buf: Vec<u8>,
}

impl Monitor {
    /// Subscribe in the calling thread's namespace.
    ///
    /// # Errors
    /// The socket could not be made.
    pub fn open() -> io::Result<Monitor> {
        Ok(Monitor { fd: socket(libc::RTMGRP_LINK as u32, libc::SOCK_NONBLOCK)?, buf: vec![0; 64 << 10] })
    }

    /// Take all that waits: the ifindices that messages were about. `None`: messages were lost, anything may have changed.
    ///
    /// # Errors
    /// The socket failed.
    pub fn drain(&mut self) -> io::Result<Option<Vec<u32>>> {
        let (mut changed, mut lost) = (Vec::new(), false);
        loop {
            match recv(&self.fd, &mut self.buf) {
                Ok(n) => {
                    for (_, _, body) in messages(&self.buf[..n]) {
                        if let Some(b) = body.get(4..8) {
                            changed.push(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        }
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok((!lost).then_some(changed))
    }

    /// The socket, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages in one read: kind, sequence number, body.
fn messages(mut buf: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let h = buf.get(..NLMSG_HDR)?;
        let len = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize;
        let body = buf.get(NLMSG_HDR..len)?;
        let m = (u16::from_ne_bytes([h[4], h[5]]), u32::from_ne_bytes([h[8], h[9], h[10], h[11]]), body);
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(m)
    })
}

/// The attributes behind a header: kind without its flags, value.
fn attrs(mut buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let h = buf.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([h[0], h[1]]));
        let kind = u16::from_ne_bytes([h[2], h[3]]) & libc::NLA_TYPE_MASK as u16;
        let value = buf.get(4..len)?;
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn error(body: &[u8]) -> Result<(), NlError> {
    let Some(code) = body.first_chunk::<4>() else {
        return Err(NlError { errno: libc::EPROTO, text: String::new() });
    };
    let errno = -i32::from_ne_bytes(*code);
    if errno == 0 {
        return Ok(());
    }
    // nlmsgerr is the code and the request's header; with extended acknowledgement attributes follow (the request's
    // own body is capped away only on request, so it may stand between).
    let echoed = body.get(4..8).map_or(0, |l| u32::from_ne_bytes([l[0], l[1], l[2], l[3]]) as usize);
    let text = attrs(body.get(4 + echoed.next_multiple_of(4)..).unwrap_or(&[]))
        .find(|(kind, _)| *kind == 1 /* NLMSGERR_ATTR_MSG, linux/netlink.h */)
        .map(|(_, v)| String::from_utf8_lossy(v).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Err(NlError { errno, text })
}

fn link(body: &[u8]) -> Option<Link> {
    let head = body.get(..IFINFO)?;
    let u32_at = |b: &[u8]| b.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b));
    let mut l = Link { index: u32_at(&head[4..])?, flags: u32_at(&head[8..])?, ..Link::default() };
    let text = |v: &[u8]| String::from_utf8_lossy(v).trim_end_matches('\0').to_owned();
    let (mut lower, mut elsewhere) = (None, false);
    for (kind, v) in attrs(&body[IFINFO..]) {
        match kind {
            libc::IFLA_IFNAME => l.name = text(v),
            libc::IFLA_MTU => l.mtu = u32_at(v)?,
            libc::IFLA_ADDRESS => l.mac = v.try_into().ok().map(Mac),
            libc::IFLA_CARRIER => l.carrier = v.first() == Some(&1),
            libc::IFLA_CARRIER_DOWN_COUNT => l.carrier_downs = u32_at(v)?,
            libc::IFLA_MASTER => l.master = u32_at(v),
            libc::IFLA_LINK => lower = u32_at(v),
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_PROMISCUITY => l.promiscuity = u32_at(v)?,
            libc::IFLA_LINKINFO => {
                l.kind = attrs(v).find(|a| a.0 == libc::IFLA_INFO_KIND).map(|a| text(a.1)).unwrap_or_default();
            }
            _ => {}
        }
    }
    l.lower = lower.filter(|i| !elsewhere && *i != 0 && *i != l.index);
    Some(l)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_messages_are_ignored() {
        let r = Request::link(libc::RTM_NEWLINK, 0, 7).text(libc::IFLA_IFNAME, "swp1").attr32(libc::IFLA_MTU, 9000);
        let body = &r.buf[NLMSG_HDR..];
        let l = link(body).unwrap();
        assert_eq!((l.index, l.name.as_str(), l.mtu), (7, "swp1", 9000));
        for n in 0..body.len() {
            let _ = link(&body[..n]);
            let _ = error(&body[..n]);
            assert_eq!(messages(&body[..n]).count(), 0);
        }
    }
}
