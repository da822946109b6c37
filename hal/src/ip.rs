//! IP families, prefixes and MAC addresses as the contract's tables use them.
//!
//! IPv4 and IPv6 are written once: everything that differs between them stands behind [`Family`].
//! Not for packets: parsing headers is the chip's and the agent's netlink decoder's work.

use core::fmt;
use core::hash::Hash;
use core::marker::PhantomData;
use core::str::FromStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An IP address of one family.
pub trait Addr:
    Copy + Ord + Hash + fmt::Debug + fmt::Display + Serialize + DeserializeOwned + FromStr + Send + Sync + 'static
{
    /// The address as its number in the low [`Family::BITS`] bits, most significant bit first on the wire.
    fn number(self) -> u128;
    /// The inverse of [`Addr::number`]; higher bits are cut off.
    fn from_number(n: u128) -> Self;
    /// The address from its wire bytes; `None` if the length is not the family's.
    fn from_wire(b: &[u8]) -> Option<Self>;
    /// The address without its family.
    fn ip(self) -> IpAddr;
}

impl Addr for Ipv4Addr {
    fn number(self) -> u128 {
        u128::from(self.to_bits())
    }
    fn from_number(n: u128) -> Self {
        Ipv4Addr::from_bits(n as u32)
    }
    fn from_wire(b: &[u8]) -> Option<Self> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(b).ok()?))
    }
    fn ip(self) -> IpAddr {
        IpAddr::V4(self)
    }
}

impl Addr for Ipv6Addr {
    fn number(self) -> u128 {
        self.to_bits()
    }
    fn from_number(n: u128) -> Self {
        Ipv6Addr::from_bits(n)
    }
    fn from_wire(b: &[u8]) -> Option<Self> {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(b).ok()?))
    }
    fn ip(self) -> IpAddr {
        IpAddr::V6(self)
    }
}

/// An address family. Implemented by [`V4`] and [`V6`] only.
pub trait Family: Copy + Ord + Hash + fmt::Debug + Default + Send + Sync + 'static {
    /// The family's address type.
    type Addr: Addr;
    /// Bits in an address: 32 or 128.
    const BITS: u8;
    /// `AF_INET` or `AF_INET6` (`linux/socket.h`).
    const AF: u8;
    /// `"IPv4"` or `"IPv6"`.
    const NAME: &'static str;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct V6;

impl Family for V4 {
    type Addr = Ipv4Addr;
    const BITS: u8 = 32;
    const AF: u8 = 2;
    const NAME: &'static str = "IPv4";
}

impl Family for V6 {
    type Addr = Ipv6Addr;
    const BITS: u8 = 128;
    const AF: u8 = 10;
    const NAME: &'static str = "IPv6";
}

/// An address prefix whose host bits are zero.
///
/// Ordered by address, then from short to long, so that a cover comes before what it covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<F: Family> {
    addr: F::Addr,
    len: u8,
    family: PhantomData<F>,
}

// By hand, since a derive would ask for `F: Serialize`; the wire form is the pair (address, length).
impl<F: Family> Serialize for Prefix<F> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { (self.addr, self.len).serialize(s) }
    }
}

impl<'de, F: Family> Deserialize<'de> for Prefix<F> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (addr, len) = if d.is_human_readable() {
            return std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom);
        } else {
            <(F::Addr, u8)>::deserialize(d)?
        };
        Prefix::exact(addr, len).ok_or_else(|| D::Error::custom(BadPrefix))
    }
}

/// A text or a message that is not a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an address prefix: it wants ADDRESS/LENGTH, with no bit set behind LENGTH")]
pub struct BadPrefix;

fn mask<F: Family>(len: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(F::BITS));
    if len == 0 { 0 } else { all & !(all.checked_shr(u32::from(len)).unwrap_or(0)) }
}

impl<F: Family> Prefix<F> {
    /// The prefix of `len` bits that holds `addr`; a `len` above the family's width counts as the width.
    pub fn new(addr: F::Addr, len: u8) -> Self {
        let len = len.min(F::BITS);
        Prefix { addr: F::Addr::from_number(addr.number() & mask::<F>(len)), len, family: PhantomData }
    }
    /// As [`Prefix::new`], but `None` where a host bit is set or `len` is too long.
    pub fn exact(addr: F::Addr, len: u8) -> Option<Self> {
        let p = Self::new(addr, len);
        (len <= F::BITS && p.addr == addr).then_some(p)
    }
    /// The prefix that holds `addr` alone.
    pub fn host(addr: F::Addr) -> Self {
        Self::new(addr, F::BITS)
    }
    /// The default route's prefix.
    pub fn all() -> Self {
        Self::new(F::Addr::from_number(0), 0)
    }
    /// The lowest address.
    pub fn addr(self) -> F::Addr {
        self.addr
    }
    /// The prefix length in bits.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u8 {
        self.len
    }
    /// The highest address.
    pub fn last(self) -> F::Addr {
        let all = u128::MAX >> (128 - u32::from(F::BITS));
        F::Addr::from_number(self.addr.number() | (all & !mask::<F>(self.len)))
    }
    /// Whether `addr` is in the prefix.
    pub fn contains(self, addr: F::Addr) -> bool {
        addr.number() & mask::<F>(self.len) == self.addr.number()
    }
    /// Whether `other` is this prefix or a part of it.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
    /// This prefix shortened to `len` bits (itself if it is not longer).
    pub fn shortened(self, len: u8) -> Self {
        Self::new(self.addr, len.min(self.len))
    }
}

impl<F: Family> fmt::Display for Prefix<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl<F: Family> fmt::Debug for Prefix<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<F: Family> FromStr for Prefix<F> {
    type Err = BadPrefix;
    fn from_str(s: &str) -> Result<Self, BadPrefix> {
        let (a, l) = s.split_once('/').ok_or(BadPrefix)?;
        let addr = a.parse().map_err(|_| BadPrefix)?;
        Self::exact(addr, l.parse().map_err(|_| BadPrefix)?).ok_or(BadPrefix)
    }
}

/// An Ethernet address (IEEE 802 EUI-48), in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// Whether the group bit is set (multicast or broadcast; IEEE 802, clause 8.2).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
    /// Whether a host can own it: neither group nor all zeros.
    pub fn is_unicast(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a MAC address: it wants six pairs of hexadecimal digits with colons between")]
pub struct BadMac;

impl FromStr for Mac {
    type Err = BadMac;
    fn from_str(s: &str) -> Result<Self, BadMac> {
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for b in &mut mac {
            *b = parts.next().and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or(BadMac)?;
        }
        parts.next().is_none().then_some(Mac(mac)).ok_or(BadMac)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
            s.parse().map_err(serde::de::Error::custom)
        } else {
            Ok(Mac(<[u8; 6]>::deserialize(d)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let p: Prefix<V4> = "10.0.0.0/8".parse().unwrap();
        assert!(p.contains("10.255.0.1".parse().unwrap()));
        assert!(!p.contains("11.0.0.1".parse().unwrap()));
        assert_eq!(p.last(), "10.255.255.255".parse::<Ipv4Addr>().unwrap());
        assert!(Prefix::<V4>::all().covers(p));
        assert!("10.0.0.1/8".parse::<Prefix<V4>>().is_err());
        assert!("10.0.0.0/33".parse::<Prefix<V4>>().is_err());
        let q: Prefix<V6> = "2001:db8::/32".parse().unwrap();
        assert_eq!(q.last(), "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse::<Ipv6Addr>().unwrap());
        assert_eq!(Prefix::<V6>::host(q.addr()).len(), 128);
        assert_eq!(q.shortened(16).to_string(), "2001::/16");
        let wire = postcard::to_stdvec(&q).unwrap();
        assert_eq!(postcard::from_bytes::<Prefix<V6>>(&wire).unwrap(), q);
        assert!("02:00:00:00:00:zz".parse::<Mac>().is_err());
        assert_eq!("02:00:00:00:00:0a".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
    }
}
