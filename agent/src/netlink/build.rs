//! Requests: bytes that the edge sends. Sequence numbers and `NLM_F_REQUEST | NLM_F_ACK` are the edge's to fill in, where it
//! wants them.

use std::net::IpAddr;

use super::{AF_BRIDGE, AF_INET, AF_INET6, nlm, rtm};
use crate::input::DumpKind;

/// A message under construction.
#[derive(Clone, Debug)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// A message of that type and those flags with that fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut b = vec![0; 16];
        b[4..6].copy_from_slice(&kind.to_ne_bytes());
        b[6..8].copy_from_slice(&flags.to_ne_bytes());
        b.extend_from_slice(fixed);
        b.resize(b.len().next_multiple_of(4), 0);
        Builder(b)
    }
    /// With one attribute more. Payloads are ours and short: below 64 KiB.
    #[must_use]
    pub fn attr(mut self, kind: u16, data: &[u8]) -> Self {
        push_attr(&mut self.0, kind, data);
        self
    }
    /// With one attribute more that holds an address.
    #[must_use]
    pub fn addr(self, kind: u16, a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }
    /// With one attribute more that holds a number.
    #[must_use]
    pub fn u32(self, kind: u16, n: u32) -> Self {
        self.attr(kind, &n.to_ne_bytes())
    }
    /// The message, its length filled in.
    pub fn done(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// Append one attribute to `b`.
pub fn push_attr(b: &mut Vec<u8>, kind: u16, data: &[u8]) {
    b.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
    b.extend_from_slice(&kind.to_ne_bytes());
    b.extend_from_slice(data);
    b.resize(b.len().next_multiple_of(4), 0);
}

/// The dump requests of a kind, one for each family that it comes in, fit for `NETLINK_GET_STRICT_CHK`. None for the one kind
/// that is read from a file.
pub fn dump(kind: DumpKind) -> Vec<Vec<u8>> {
    let (message, len, families): (u16, usize, &[u8]) = match kind {
        DumpKind::Link => (rtm::GETLINK, 16, &[0]),
        DumpKind::Netconf => (rtm::GETNETCONF, 1, &[AF_INET, AF_INET6]),
        DumpKind::Addr => (rtm::GETADDR, 8, &[AF_INET, AF_INET6]),
        DumpKind::NextHop => (rtm::GETNEXTHOP, 8, &[0]),
        DumpKind::Vlan => (rtm::GETVLAN, 8, &[AF_BRIDGE]),
        DumpKind::Fdb => (rtm::GETNEIGH, 12, &[AF_BRIDGE]),
        DumpKind::Neigh => (rtm::GETNEIGH, 12, &[AF_INET, AF_INET6]),
        DumpKind::Rule => (rtm::GETRULE, 12, &[AF_INET, AF_INET6]),
        DumpKind::Route4 => (rtm::GETROUTE, 12, &[AF_INET]),
        DumpKind::Route6 | DumpKind::List6 => (rtm::GETROUTE, 12, &[AF_INET6]),
    };
    if kind == DumpKind::List6 {
        return Vec::new();
    }
    families
        .iter()
        .map(|f| {
            let mut fixed = vec![0; len];
            fixed[0] = *f;
            let b = Builder::new(message, nlm::F_REQUEST | nlm::F_DUMP, &fixed);
            // IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h).
            if kind == DumpKind::Link { b.u32(29, 1 << 3).done() } else { b.done() }
        })
        .collect()
}

/// The fence: asks for a device that can't be, so that a short error comes back on the asking socket behind everything
/// that the kernel said before.
pub fn fence() -> Vec<u8> {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
    Builder::new(rtm::GETLINK, nlm::F_REQUEST, &fixed).done()
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn requests_are_whole() {
        let mut all: Vec<Vec<u8>> = DumpKind::ALL.into_iter().flat_map(dump).collect();
        assert_eq!(all.len(), 14);
        all.push(fence());
        for b in all {
            let m: Vec<_> = messages(&b).collect::<Result<_, _>>().unwrap();
            assert_eq!(m.len(), 1);
            assert_eq!(m[0].flags & nlm::F_REQUEST, nlm::F_REQUEST);
        }
    }
}
