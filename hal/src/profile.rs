//! What a chip says of itself: capacities and capabilities. Not what is in use: that is [`crate::Usage`].

use serde::{Deserialize, Serialize};

use crate::tables::TableId;

/// A chip's capacities and capabilities. Entries, unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name, for status displays.
    pub name: String,
    /// VLANs of bridges, a bridge without VLANs counting as one.
    pub fids: u32,
    /// Ports of bridges.
    pub bridge_ports: u32,
    /// Stations, learned ones and others together.
    pub fdb: u32,
    /// Router interfaces.
    pub rifs: u32,
    /// IPv4 adjacencies.
    pub neigh4: u32,
    /// IPv6 adjacencies.
    pub neigh6: u32,
    /// Next hops.
    pub nexthops: u32,
    /// Next-hop groups.
    pub groups: u32,
    /// Members of one group, of whatever weights.
    pub group_members: u32,
    /// Buckets of all resilient groups together; 0: it has no such groups.
    #[serde(default)]
    pub buckets: u32,
    /// IPv4 routes.
    pub routes4: u32,
    /// IPv6 routes.
    pub routes6: u32,
    /// Virtual routers, the default one included. Those count that have an open interface or a route.
    pub vrfs: u32,
    /// Rules of policy routing, for each family.
    pub rules: u32,
    /// Largest frame in bytes, Ethernet header included, checksum not.
    pub frame: u32,
}

impl Profile {
    /// How many entries `table` holds.
    pub fn capacity(&self, table: TableId) -> u32 {
        match table {
            TableId::Port => u32::MAX,
            TableId::Switch => 1,
            TableId::Fid => self.fids,
            TableId::BridgePort => self.bridge_ports,
            TableId::FidMember => u32::MAX,
            TableId::FdbStatic | TableId::Fdb => self.fdb,
            TableId::Rif => self.rifs,
            TableId::Neigh4 => self.neigh4,
            TableId::Neigh6 => self.neigh6,
            TableId::NextHop => self.nexthops,
            TableId::Group => self.groups,
            TableId::Route4 => self.routes4,
            TableId::Route6 => self.routes6,
            TableId::Bucket => self.buckets,
        }
    }
}
