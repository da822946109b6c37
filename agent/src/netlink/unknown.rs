//! What the kernel says that the decoders do not know: which attribute of which kind of message, by its name where it has one.
//! Not here: what follows from it, which the decoders say of each object, and the counts, which are the mirror's.

use core::fmt;

use smallvec::SmallVec;

/// Where something unknown stood.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Of {
    /// The type of a message.
    Message,
    /// An attribute of a link.
    Link,
    /// An attribute of an address.
    Addr,
    /// An attribute of a neighbour.
    Neigh,
    /// An attribute of a netconf message.
    Netconf,
    /// An attribute of a rule.
    Rule,
    /// An attribute of a next-hop object.
    NextHop,
    /// An attribute of a route, or of one of its next hops.
    Route,
    /// An attribute of VLANs of a bridge.
    Vlan,
    /// Flags of a route, those not known alone.
    RouteFlags,
    /// A metric of a route.
    Metric,
}

/// Something unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unknown {
    /// Where it stood.
    pub of: Of,
    /// Its number there (`nla_type`, `nlmsg_type`), or the flags.
    pub number: u32,
}

impl Unknown {
    /// An attribute or a type.
    pub fn new(of: Of, number: u16) -> Unknown {
        Unknown { of, number: number.into() }
    }

    /// Names of what headers know and the decoders do not.
    fn name(self) -> Option<&'static str> {
        Some(match (self.of, self.number) {
            (Of::Route, 3) => "RTA_IIF",
            (Of::Route, 10) => "RTA_PROTOINFO",
            (Of::Route, 13) => "RTA_SESSION",
            (Of::Route, 14) => "RTA_MP_ALGO",
            (Of::Route, 17) => "RTA_MFC_STATS",
            (Of::Route, 19) => "RTA_NEWDST",
            (Of::Route, 26) => "RTA_TTL_PROPAGATE",
            (Of::Route, 31) => "RTA_FLOWLABEL",
            (Of::NextHop, 9) => "NHA_GROUPS",
            (Of::NextHop, 10) => "NHA_MASTER",
            (Of::NextHop, 11) => "NHA_FDB",
            (Of::NextHop, 13) => "NHA_RES_BUCKET",
            _ => return None,
        })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.of {
            Of::Message => return write!(f, "message type {}", self.number),
            Of::RouteFlags => return write!(f, "flags {:#x} of a route", self.number),
            Of::Metric => return write!(f, "metric {} of a route", self.number),
            Of::Link => "link",
            Of::Addr => "address",
            Of::Neigh => "neighbour",
            Of::Netconf => "netconf message",
            Of::Rule => "rule",
            Of::Vlan => "VLAN message",
            Of::NextHop => "next-hop object",
            Of::Route => "route",
        };
        match self.name() {
            Some(name) => write!(f, "attribute {name} of a {of}"),
            None if self.of == Of::Addr => write!(f, "attribute {} of an {of}", self.number),
            None => write!(f, "attribute {} of a {of}", self.number),
        }
    }
}

/// What one message had of it, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unknowns(SmallVec<[Unknown; 2]>);

impl Unknowns {
    /// One more.
    pub fn add(&mut self, u: Unknown) {
        if !self.0.contains(&u) {
            self.0.push(u);
        }
    }
    /// An attribute, unless it is one up to `last`, which headers know and which is of no matter.
    pub fn beyond(&mut self, last: u16, of: Of, kind: u16) {
        if kind > last {
            self.add(Unknown::new(of, kind));
        }
    }
    /// All.
    pub fn iter(&self) -> impl Iterator<Item = Unknown> + '_ {
        self.0.iter().copied()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_named_where_it_has_a_name() {
        let mut all = Unknowns::default();
        all.add(Unknown::new(Of::Route, 19));
        all.add(Unknown::new(Of::Route, 19));
        all.beyond(69, Of::Link, 69);
        all.beyond(69, Of::Link, 70);
        all.add(Unknown::new(Of::Addr, 44));
        all.add(Unknown::new(Of::Message, 130));
        all.add(Unknown { of: Of::RouteFlags, number: 0x40_0000 });
        let text: Vec<String> = all.iter().map(|u| u.to_string()).collect();
        assert_eq!(
            text,
            [
                "attribute RTA_NEWDST of a route",
                "attribute 70 of a link",
                "attribute 44 of an address",
                "message type 130",
                "flags 0x400000 of a route"
            ]
        );
    }
}
