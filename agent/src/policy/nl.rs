//! Just enough netlink to ask a question and walk the answer: blocking, with a time limit. Knows no protocol.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// How long an answer may take. The kernel answers within the system call; a dump of a large ruleset takes longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump that was disturbed by a change is asked for again before it counts as unreadable.
const ATTEMPTS: usize = 5;

/// One message of an answer, without its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `nlmsg_type`
    pub kind: u16,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// A netlink socket for questions. It belongs to the network namespace that it was opened in.
pub struct Asker {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
}

impl Asker {
    /// Opens a socket of a netlink protocol (`NETLINK_ROUTE` and so on).
    pub fn open(protocol: isize) -> io::Result<Asker> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        if protocol == libc::NETLINK_ROUTE as isize {
            socket.set_netlink_get_strict_chk(true)?;
        }
        Ok(Asker { socket, seq: 0, buf: vec![0; 256 << 10] })
    }

    /// Asks for everything of a kind. A dump that a change disturbs is begun again.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        for _ in 0..ATTEMPTS {
            if let (all, false) = self.ask(kind, NLM_F_DUMP, body)? {
                return Ok(all);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// The same, taken as it comes: a change on the way may hide some of it.
    pub fn dump_once(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        Ok(self.ask(kind, NLM_F_DUMP, body)?.0)
    }

    /// Asks a single question.
    pub fn get(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        Ok(self.ask(kind, NLM_F_ACK, body)?.0)
    }

    /// The answer, and whether a change disturbed it.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<(Vec<Message>, bool)> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&self.seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(body);
        self.socket.send(&out, 0)?;

        let mut all = Vec::new();
        let mut disturbed = false;
        loop {
            let mut room = &mut self.buf[..];
            let n = match self.socket.recv(&mut room, libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
                }
                r => r?,
            };
            let datagram = self.buf.get(..n).ok_or_else(|| invalid("an answer longer than the buffer"))?;
            for m in messages(datagram) {
                let m = m?;
                // An answer to a question that was given up.
                if m.seq != self.seq {
                    continue;
                }
                disturbed |= m.flags & NLM_F_DUMP_INTR != 0;
                match m.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                    NLMSG_ERROR | NLMSG_DONE => {
                        // `NLMSG_DONE` carries an errno too, or nothing in old kernels.
                        return match errno(m.body) {
                            Some(0) => Ok((all, disturbed)),
                            None if m.kind == NLMSG_DONE => Ok((all, disturbed)),
                            None => Err(invalid("an error without a number")),
                            Some(e) if e == -libc::EINTR => Ok((all, true)),
                            Some(e) => Err(io::Error::from_raw_os_error(e.saturating_neg())),
                        };
                    }
                    kind => all.push(Message { kind, body: m.body.to_vec() }),
                }
            }
        }
    }
}

struct Raw<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    body: &'a [u8],
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn errno(body: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(body.get(..4)?.try_into().ok()?))
}

fn messages(mut buf: &[u8]) -> impl Iterator<Item = io::Result<Raw<'_>>> {
    std::iter::from_fn(move || {
        if buf.is_empty() {
            return None;
        }
        let one = (|| {
            let len = u32_at(buf, 0)? as usize;
            let m = Raw {
                kind: u16_at(buf, 4)?,
                flags: u16_at(buf, 6)?,
                seq: u32_at(buf, 8)?,
                body: buf.get(HEADER..len)?,
            };
            buf = buf.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some(m)
        })();
        if one.is_none() {
            buf = &[];
        }
        Some(one.ok_or_else(|| invalid("a truncated message")))
    })
}

/// A native-endian `u16` at an offset.
pub fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A native-endian `u32` at an offset.
pub fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A big-endian `u32`, as netfilter's attributes are.
pub fn be32(b: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(..4)?.try_into().ok()?))
}

/// The attributes of a buffer with their types, flag bits removed; `None` if they do not fill it exactly, since what
/// can't be read must not be taken for absent.
pub fn attrs(mut b: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while !b.is_empty() {
        let len = usize::from(u16_at(b, 0)?);
        let kind = u16_at(b, 2)? & 0x3fff;
        all.push((kind, b.get(4..len)?));
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

/// The first attribute of a type.
pub fn find<'a>(attrs: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attrs.iter().find(|a| a.0 == kind).map(|a| a.1)
}

/// A string attribute, up to its NUL; bytes that are not UTF-8 are shown as U+FFFD.
pub fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b.split(|&c| c == 0).next().unwrap_or_default()).into_owned()
}
