//! What bridges say: their settings, their ports', VLANs and stations (`linux/if_link.h`, `linux/if_bridge.h`, `linux/neighbour.h`).

use hal::{Mac, Tpid};

use super::attr::{Attr, Attrs, Malformed, u16_at, u32_at};
use super::object::mac;
use super::{AF_BRIDGE, Of, Unknowns};
use crate::mirror::{Bridge, BridgePort, Station, StationKey, Vlan};

/// `IFLA_INFO_DATA` of a bridge (`IFLA_BR_*`).
///
/// # Errors
/// An attribute is not what it says.
pub fn bridge(data: &Attr<'_>) -> Result<Bridge, Malformed> {
    /// `IFLA_BR_FDB_MAX_LEARNED`, the last that is known.
    const LAST: u16 = 49;
    /// `BR_BOOLOPT_NO_LL_LEARN`
    const NO_LL_LEARN: u32 = 1;
    /// It, and `BR_BOOLOPT_MCAST_VLAN_SNOOPING`; `_MST_ENABLE` and what comes after them matter.
    const HARMLESS: u32 = 0b011;
    let mut b = Bridge { tpid: Some(Tpid::Dot1q), ..Bridge::default() };
    for a in data.nested() {
        let a = a?;
        match a.kind {
            // clock_t, hundredths of a second
            4 => b.ageing = a.u32()?.saturating_mul(10),
            // BR_KERNEL_STP
            5 => b.kernel_stp = a.u32()? == 1,
            7 => b.filtering = a.u8()? != 0,
            8 => {
                b.tpid = match a.data {
                    [0x81, 0x00] => Some(Tpid::Dot1q),
                    [0x88, 0xa8] => Some(Tpid::Dot1ad),
                    _ => None,
                }
            }
            23 => b.snooping = a.u8()? != 0,
            36 if a.u8()? != 0 => b.odd = Some("nf_call_iptables"),
            37 if a.u8()? != 0 => b.odd = Some("nf_call_ip6tables"),
            38 if a.u8()? != 0 => b.odd = Some("nf_call_arptables"),
            // struct br_boolopt_multi: values, mask
            46 => {
                let options = u32_at(a.data, 0).ok_or(Malformed("options of a bridge"))?;
                b.no_ll_learn = options & NO_LL_LEARN != 0;
                if options & !HARMLESS != 0 {
                    b.odd = Some("mst_enable, or an option that is not known");
                }
            }
            49 if a.u32()? != 0 => b.odd = Some("fdb_max_learned"),
            k if k > LAST => b.odd = Some("an attribute that is not known"),
            _ => {}
        }
    }
    Ok(b)
}

/// `IFLA_INFO_SLAVE_DATA` or `IFLA_PROTINFO` of a bridge port (`IFLA_BRPORT_*`).
///
/// # Errors
/// An attribute is not what it says.
pub fn port(data: &Attr<'_>) -> Result<BridgePort, Malformed> {
    /// `IFLA_BRPORT_BACKUP_NHID`, the last that is known.
    const LAST: u16 = 46;
    let mut p = BridgePort { learning: true, unknown: true, multicast: true, broadcast: true, ..BridgePort::default() };
    for a in data.nested() {
        let a = a?;
        let on = || a.u8().map(|n| n != 0);
        match a.kind {
            1 => p.state = a.u8()?,
            4 => p.hairpin = on()?,
            8 => p.learning = on()?,
            9 => p.unknown = on()?,
            10 if on()? => p.odd_all = Some("proxy_arp"),
            12 if on()? => p.odd_all = Some("proxy_arp_wifi"),
            27 => p.multicast = on()?,
            29 if on()? => p.odd_in = Some("vlan_tunnel"),
            30 => p.broadcast = on()?,
            32 if on()? => p.odd_all = Some("neigh_suppress"),
            33 => p.isolated = on()?,
            34 if a.u32()? != 0 => p.odd_out = Some("backup_port"),
            35 | 36 if on()? => p.odd_in = Some("mrp"),
            39 if on()? => p.odd_in = Some("locked"),
            43 if on()? => p.odd_in = Some("mab"),
            45 if on()? => p.odd_all = Some("neigh_vlan_suppress"),
            46 if a.u32()? != 0 => p.odd_out = Some("backup_nhid"),
            k if k > LAST => p.odd_all = Some("an attribute that is not known"),
            _ => {}
        }
    }
    Ok(p)
}

/// A `RTM_NEWLINK` of family `AF_BRIDGE`: the port's index and settings. `Ok(None)` where it has none, as of the bridge itself.
///
/// # Errors
/// The message is not what it says.
pub fn port_link(body: &[u8]) -> Result<Option<(u32, BridgePort)>, Malformed> {
    let (head, attrs) = Attrs::after(body, 16)?;
    if head[0] != AF_BRIDGE {
        return Ok(None);
    }
    let ifindex = u32_at(head, 4).filter(|i| *i != 0).ok_or(Malformed("link without an index"))?;
    for a in attrs {
        let a = a?;
        // IFLA_PROTINFO
        if a.kind == 12 {
            return Ok(Some((ifindex, port(&a)?)));
        }
    }
    Ok(None)
}

/// `RTM_*VLAN` (`struct br_vlan_msg`): device, and for each entry the VIDs from first to last.
pub type VlanMsg = (u32, Vec<(u16, u16, Vlan)>);

/// # Errors
/// The message is not what it says.
pub fn vlans(body: &[u8], unknown: &mut Unknowns) -> Result<VlanMsg, Malformed> {
    let (head, attrs) = Attrs::after(body, 8)?;
    let ifindex = u32_at(head, 4).filter(|i| *i != 0).ok_or(Malformed("VLAN of no device"))?;
    let mut all = Vec::new();
    for a in attrs {
        let a = a?;
        match a.kind {
            // BRIDGE_VLANDB_ENTRY
            1 => {
                // BR_STATE_FORWARDING
                let (mut v, mut vid, mut last) = (Vlan { flags: 0, state: 3, odd: false }, None, None);
                for e in a.nested() {
                    let e = e?;
                    match e.kind {
                        // struct bridge_vlan_info: flags, VID
                        1 => {
                            v.flags = u16_at(e.data, 0).ok_or(Malformed("VLAN"))?;
                            vid = Some(u16_at(e.data, 2).ok_or(Malformed("VLAN"))?);
                        }
                        2 => last = Some(e.u16()?),
                        3 => v.state = e.u8()?,
                        // BRIDGE_VLANDB_ENTRY_TUNNEL_INFO; BRIDGE_VLANDB_ENTRY_NEIGH_SUPPRESS
                        4 => v.odd = true,
                        9 => v.odd |= e.u8()? != 0,
                        k => v.odd |= k > 9,
                    }
                }
                let vid = vid.ok_or(Malformed("VLAN without a VID"))?;
                let last = last.unwrap_or(vid);
                if last < vid || last > 4095 {
                    return Err(Malformed("range of VLANs"));
                }
                // BRIDGE_VLAN_INFO_RANGE_BEGIN, _RANGE_END, _ONLY_OPTS
                v.flags &= !(1 << 3 | 1 << 4 | 1 << 6);
                all.push((vid, last, v));
            }
            // BRIDGE_VLANDB_GLOBAL_OPTIONS: of snooping and spanning-tree instances.
            2 => {}
            k => unknown.beyond(2, Of::Vlan, k),
        }
    }
    Ok((ifindex, all))
}

/// A station of a bridge. `Ok(None)`: of a device by itself (`NTF_SELF`).
///
/// # Errors
/// The message is not what it says.
pub fn station(body: &[u8], unknown: &mut Unknowns) -> Result<Option<(StationKey, Station)>, Malformed> {
    let (head, attrs) = Attrs::after(body, 12)?;
    if head[0] != AF_BRIDGE {
        return Ok(None);
    }
    let dev = u32_at(head, 4).unwrap_or(0);
    let mut s = Station { dev, state: u16_at(head, 8).unwrap_or(0), flags: head[10], flags_ext: 0 };
    let (mut addr, mut vid, mut master): (Option<Mac>, u16, Option<u32>) = (None, 0, None);
    for a in attrs {
        let a = a?;
        match a.kind {
            2 => addr = mac(a.data),
            5 => vid = a.u16()?,
            9 => master = Some(a.u32()?),
            15 => s.flags_ext = a.u32()?,
            // Up to NDA_NDM_FLAGS_MASK.
            k => unknown.beyond(17, Of::Neigh, k),
        }
    }
    let (Some(bridge), Some(mac)) = (master, addr) else { return Ok(None) };
    Ok(Some((StationKey { bridge, vid, mac }, s)))
}
