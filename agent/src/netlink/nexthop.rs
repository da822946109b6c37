//! Next-hop objects: `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP` (`struct nhmsg`, `linux/nexthop.h`).

use smallvec::SmallVec;

use super::attr::{Attrs, Malformed, u32_at};
use super::object::ip;
use super::{Of, Unknown, Unknowns};
use crate::mirror::{Buckets, Hop, Object, ObjectTo};

/// `RTNH_F_ONLINK` (`linux/rtnetlink.h`).
const RTNH_F_ONLINK: u32 = 4;
/// `NEXTHOP_GRP_TYPE_MPATH` (`linux/nexthop.h`).
const MPATH: u16 = 0;
/// `NEXTHOP_GRP_TYPE_RES`.
const RES: u16 = 1;

/// `NHA_*` (`linux/nexthop.h`).
mod nha {
    pub const ID: u16 = 1;
    pub const GROUP: u16 = 2;
    pub const GROUP_TYPE: u16 = 3;
    pub const BLACKHOLE: u16 = 4;
    pub const OIF: u16 = 5;
    pub const GATEWAY: u16 = 6;
    pub const ENCAP_TYPE: u16 = 7;
    pub const ENCAP: u16 = 8;
    pub const RES_GROUP: u16 = 12;
    /// `NHA_RES_GROUP_*`; how long it has been unbalanced, and padding, are no one's settings.
    pub mod res {
        pub const BUCKETS: u16 = 1;
        pub const IDLE_TIMER: u16 = 2;
        pub const UNBALANCED_TIMER: u16 = 3;
        pub const NO_SETTING: [u16; 2] = [0, 4];
    }
    /// Statistics, and what switches them: none of it chooses a member.
    pub const STATS: core::ops::RangeInclusive<u16> = 14..=17;
}

/// Decode one.
///
/// # Errors
/// The message is not what it says.
pub fn nexthop(body: &[u8], unknown: &mut Unknowns) -> Result<Object, Malformed> {
    let (head, attrs) = Attrs::after(body, 8)?;
    let family = head[0];
    let mut o = Object { id: 0, family, scope: head[1], proto: head[2], dev: 0, to: ObjectTo::Unknown };
    let onlink = u32_at(head, 4).is_some_and(|f| f & RTNH_F_ONLINK != 0);
    let mut hop = Hop { ifindex: 0, via: None, weight: 1, onlink, encap: false, dead: false };
    let (mut members, mut kind, mut blackhole, mut odd) = (SmallVec::new(), MPATH, false, false);
    let mut buckets = None;
    for a in attrs {
        let a = a?;
        match a.kind {
            nha::ID => o.id = a.u32()?,
            nha::GROUP => members = group(a.data)?,
            nha::GROUP_TYPE => {
                kind = a.data.try_into().map(u16::from_ne_bytes).map_err(|_| Malformed("NHA_GROUP_TYPE"))?;
            }
            nha::BLACKHOLE => blackhole = true,
            nha::OIF => hop.ifindex = a.u32()?,
            nha::GATEWAY => hop.via = Some(ip(family, a.data)?),
            nha::ENCAP_TYPE | nha::ENCAP => hop.encap = true,
            nha::RES_GROUP => {
                let b: &mut Buckets = buckets.insert(Buckets::default());
                for a in a.nested() {
                    let a = a?;
                    match a.kind {
                        nha::res::BUCKETS => b.count = a.u16()?,
                        nha::res::IDLE_TIMER => b.idle = a.u32()?,
                        nha::res::UNBALANCED_TIMER => b.unbalanced = a.u32()?,
                        k if nha::res::NO_SETTING.contains(&k) => {}
                        _ => {
                            unknown.add(Unknown::new(Of::NextHop, nha::RES_GROUP));
                            odd = true;
                        }
                    }
                }
            }
            n if nha::STATS.contains(&n) => {}
            // NHA_FDB, bridges' and tunnels' own, or not known here.
            k => {
                unknown.add(Unknown::new(Of::NextHop, k));
                odd = true;
            }
        }
    }
    if o.id == 0 {
        return Err(Malformed("next-hop object without an id"));
    }
    // The kernel names the loopback device of a blackhole, and keeps it whatever becomes of that.
    o.dev = if blackhole { 0 } else { hop.ifindex };
    o.to = match (odd, members.is_empty(), kind) {
        (true, ..) => ObjectTo::Unknown,
        (_, false, MPATH) => ObjectTo::Group(members),
        (_, false, RES) => match buckets {
            Some(b) if b.count > 0 => ObjectTo::Resilient(members, b),
            _ => ObjectTo::Unknown,
        },
        (_, false, _) => ObjectTo::Other(members),
        _ if blackhole => ObjectTo::Blackhole,
        _ if hop.ifindex != 0 => ObjectTo::Hop(hop),
        _ => ObjectTo::Unknown,
    };
    Ok(o)
}

/// `struct nexthop_grp`: an id, a weight less one in a byte, its high byte, reserved; eight bytes.
fn group(data: &[u8]) -> Result<SmallVec<[(u32, u16); 4]>, Malformed> {
    let (all, rest) = data.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Malformed("NHA_GROUP"));
    }
    let member = |[a, b, c, d, low, high, ..]: &[u8; 8]| {
        // The kernel refuses the one weight that does not fit.
        (u32::from_ne_bytes([*a, *b, *c, *d]), u16::from_le_bytes([*low, *high]).saturating_add(1))
    };
    Ok(all.iter().map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{AF_INET, build::Builder};

    fn decode(flags: u32, attrs: impl FnOnce(Builder) -> Builder) -> Result<Object, Malformed> {
        let mut head = vec![AF_INET, 0, 11, 0];
        head.extend(flags.to_ne_bytes());
        nexthop(&attrs(Builder::new(104, 0, &head)).done()[16..], &mut Unknowns::default())
    }

    #[test]
    fn single_ones_blackholes_and_groups() {
        let gw = "10.0.2.2".parse().unwrap();
        let o = decode(4, |b| b.u32(1, 7).u32(5, 3).addr(6, gw)).unwrap();
        let hop = Hop { ifindex: 3, via: Some(gw), weight: 1, onlink: true, encap: false, dead: false };
        assert_eq!((o.id, o.proto, o.to), (7, 11, ObjectTo::Hop(hop)));
        assert_eq!(decode(0, |b| b.u32(1, 7).attr(4, &[])).unwrap().to, ObjectTo::Blackhole);
        let grp = [1u32.to_ne_bytes(), [0, 0, 0, 0], 2u32.to_ne_bytes(), [9, 1, 0, 0]].concat();
        let o = decode(0, |b| b.u32(1, 9).attr(2, &grp)).unwrap();
        assert_eq!(o.to, ObjectTo::Group(SmallVec::from_slice(&[(1, 1), (2, 266)])));
        let o = decode(0, |b| b.u32(1, 9).attr(2, &grp).attr(3, &7u16.to_ne_bytes())).unwrap();
        assert!(matches!(o.to, ObjectTo::Other(_)), "a group of another type");
        let attr = |kind: u16, data: &[u8]| {
            let mut a = [&(4 + data.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
            a.resize(a.len().next_multiple_of(4), 0);
            a
        };
        let resilient = |more: &[Vec<u8>]| {
            let own = [attr(1, &8u16.to_ne_bytes()), attr(2, &12000u32.to_ne_bytes()), attr(4, &[3; 8])];
            let res = [&own[..], more].concat().concat();
            decode(0, |b| b.u32(1, 9).attr(2, &grp).attr(3, &1u16.to_ne_bytes()).attr(12, &res)).unwrap().to
        };
        let members = SmallVec::from_slice(&[(1, 1), (2, 266)]);
        let buckets = Buckets { count: 8, idle: 12000, unbalanced: 0 };
        assert_eq!(resilient(&[]), ObjectTo::Resilient(members.clone(), buckets));
        let forced = resilient(&[attr(3, &500u32.to_ne_bytes())]);
        assert_eq!(forced, ObjectTo::Resilient(members, Buckets { unbalanced: 500, ..buckets }));
        assert_eq!(resilient(&[attr(5, &[1; 4])]), ObjectTo::Unknown, "a setting that is not known");
        let bare = decode(0, |b| b.u32(1, 9).attr(2, &grp).attr(3, &1u16.to_ne_bytes())).unwrap().to;
        assert_eq!(bare, ObjectTo::Unknown, "without its settings");
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_something_else() {
        for odd in [11, 18, 999] {
            let o = decode(0, |b| b.u32(1, 7).u32(5, 3).attr(odd, &[])).unwrap();
            assert_eq!(o.to, ObjectTo::Unknown, "{odd}");
        }
        assert_eq!(decode(0, |b| b.u32(1, 7)).unwrap().to, ObjectTo::Unknown);
        assert!(decode(0, |b| b.u32(5, 7)).is_err(), "no id");
        assert!(decode(0, |b| b.u32(1, 7).attr(2, &[0; 9])).is_err());
        assert!(decode(0, |b| b.u32(1, 7).attr(6, &[0; 5])).is_err());
    }
}
