//! Wires: what a front-panel port's frames come in by and leave by. A driver is one implementation of [`Receive`] and [`Transmit`].
//!
//! A driver hands over whole frames as they were on the wire. Which device it is, and whether it is up, is `ports.rs`'s.

pub mod device;
pub mod mtu;
pub mod packet;
pub mod whole;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::Arc;

use hal::Count;

use crate::pool::Pool;

/// What one call of [`Receive::recv`] did besides filling the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Super-frames that were cut.
    pub gso: u64,
    /// Partial checksums that were completed, those of cut frames not counted.
    pub csum: u64,
    /// Frames that could not be made whole.
    pub bad: Count,
    /// Frames longer than a slot of the pool.
    pub giant: Count,
    /// Whether more may be waiting.
    pub more: bool,
}

/// A driver's receiving end of a wire: one worker's. It never blocks.
pub trait Receive: Send {
    /// What to wait on for frames; `None` if none will ever come.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Fill the (empty) pool.
    fn recv(&mut self, pool: &mut Pool) -> Received;
    /// Frames that were lost since the last call because nobody received them in time.
    fn missed(&mut self) -> u64;
}

/// A driver's sending end of a wire: every worker's, since any of them may have a frame for it. What one thread sends leaves
/// in the order in which it sent it. It never blocks.
pub trait Transmit: Send + Sync {
    /// Send frames; tells of each, in order, whether it was taken. What was not is lost.
    fn send(&self, frames: &[&[u8]], each: &mut dyn FnMut(&[u8], bool));
}

/// Both ends of a wire.
pub struct Wire {
    /// Where frames come in.
    pub rx: Box<dyn Receive>,
    /// Where they leave.
    pub tx: Arc<dyn Transmit>,
}

impl Wire {
    /// The wire of a port without one, or whose device is gone: nothing comes, and what is sent is lost.
    pub fn none() -> Wire {
        Wire { rx: Box::new(NoWire), tx: Arc::new(NoWire) }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("fd", &self.rx.fd()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct NoWire;

impl Receive for NoWire {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn recv(&mut self, _: &mut Pool) -> Received {
        Received::default()
    }
    fn missed(&mut self) -> u64 {
        0
    }
}

impl Transmit for NoWire {
    fn send(&self, frames: &[&[u8]], each: &mut dyn FnMut(&[u8], bool)) {
        frames.iter().for_each(|f| each(f, false));
    }
}

/// A wire as configured: `packet:IFNAME[@NETNS]` or `none`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WireSpec {
    /// An existing device, by AF_PACKET.
    Packet {
        /// Its name.
        ifname: String,
        /// Where it is found first; `None`: the namespace in which the chip is started.
        netns: Option<String>,
    },
    /// No wire: the port never has carrier.
    None,
}

impl fmt::Display for WireSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireSpec::Packet { ifname, netns: None } => write!(f, "packet:{ifname}"),
            WireSpec::Packet { ifname, netns: Some(n) } => write!(f, "packet:{ifname}@{n}"),
            WireSpec::None => f.write_str("none"),
        }
    }
}

/// Whether the kernel takes it as the name of a device (`dev_valid_name`), and literally.
pub(crate) fn is_ifname(s: &str) -> bool {
    !s.is_empty()
        && s.len() < libc::IFNAMSIZ
        && s != "."
        && s != ".."
        && !s.chars().any(|c| c == '/' || c == ':' || c == '%' || c == '@' || c.is_whitespace() || c.is_control())
}

impl FromStr for WireSpec {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(WireSpec::None);
        }
        let Some(rest) = s.strip_prefix("packet:") else {
            return Err(format!("wire {s:?} is neither packet:IFNAME[@NETNS] nor none"));
        };
        let (ifname, netns) = match rest.split_once('@') {
            Some((i, n)) => (i, Some(n)),
            None => (rest, None),
        };
        if !is_ifname(ifname) {
            return Err(format!("wire {s:?}: {ifname:?} is no name of a network device"));
        }
        if netns.is_some_and(|n| n.is_empty() || n.contains('/')) {
            return Err(format!("wire {s:?}: there is no name of a network namespace behind the @"));
        }
        Ok(WireSpec::Packet { ifname: ifname.into(), netns: netns.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        for good in ["packet:eth1", "packet:eth1@h1", "none"] {
            assert_eq!(good.parse::<WireSpec>().unwrap().to_string(), good);
        }
        for bad in ["", "eth1", "packet:", "packet:a/b", "packet:eth1@", "packet:averyveryverylongname", "xdp:eth1"] {
            assert!(bad.parse::<WireSpec>().is_err(), "{bad}");
        }
    }
}
