//! The front-panel ports as the control thread sees them: a wire's device on one side, a TAP on the other, kept alike.
//!
//! Driven by levels: a notification only says *where to look*; what is done follows from the state that is then found. So a
//! lost message costs a moment, never the truth. Frames are `worker.rs`'s.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hal::{Mac, PortEntry, PortFault, PortId};
use tracing::{debug, info, warn};

use crate::config::PortSpec;
use crate::hostif::{Place, Tap};
use crate::netlink::{Link, Monitor, Netlink};
use crate::netns::NetNs;
use crate::state::{Known, State};
use crate::sync::Words32;
use crate::wire::mtu::{self, Mtu};
use crate::wire::packet;
use crate::wire::{Wire, WireSpec, device};
use crate::worker;

/// Kind of a TAP's link.
const TUN: &str = "tun";

/// A namespace with sockets open in it.
#[derive(Debug)]
struct Side {
    ns: NetNs,
    nl: Netlink,
    monitor: Monitor,
}

impl Side {
    fn open(ns: NetNs, first: impl FnOnce() + Send) -> Result<Side, String> {
        // Subscribe before anything is looked at.
        let (monitor, nl) = ns
            .run(|| {
                first();
                Ok::<_, std::io::Error>((Monitor::open()?, Netlink::open()?))
            })
            .and_then(|r| r)
            .map_err(|e| format!("no netlink socket in {}: {e}", ns.label()))?;
        Ok(Side { ns, nl, monitor })
    }
}

#[derive(Debug)]
struct Port {
    id: PortId,
    spec: PortSpec,
    /// Ifindex of the wire's device in the chip's namespace.
    wire: Option<u32>,
    /// Whether that device is no more.
    gone: bool,
    /// Why the device that came in its place was not taken, as last said.
    objection: Option<String>,
    tap: Option<Tap>,
    /// Where the TAP went while the chip was not there.
    moved: Option<u64>,
    entry: PortEntry,
    delivering: bool,
    /// Losses of carrier so far: one more without a change seen in between is a flap.
    downs: u32,
    /// What the wire's device said to the MTU that it is to have.
    mtu: Mtu,
    /// Tells the wire how long the frames are that it takes.
    longest: Arc<Words32>,
}

/// All ports. See the module.
#[derive(Debug)]
pub struct Ports {
    host: Side,
    chip: Side,
    ports: Vec<Port>,
    state: State,
    /// The chip's namespace as it was last seen, to notice what linkwatch has not announced yet (kernel-facts 10).
    seen: Vec<Link>,
    /// When wires that are gone were last looked for.
    looked: Instant,
}

/// How often a wire that is gone is looked for: in namespaces that may themselves have come and gone, so no notification
/// can be relied upon.
const LOOK_FOR_WIRE: Duration = Duration::from_millis(300);

impl Ports {
    /// Take all wires and make or find all TAPs. Everything is checked before anything is changed.
    ///
    /// # Errors
    /// One sentence that names the port.
    pub fn open(
        specs: Vec<PortSpec>,
        host: NetNs,
        chip: NetNs,
        state: State,
    ) -> Result<(Ports, Vec<worker::Port>), String> {
        let host = Side::open(host, || ())?;
        let chip = Side::open(chip, device::prepare_namespace)?;
        if host.ns.inode() == chip.ns.inode() {
            return Err(format!(
                "wires and netdevs need namespaces of their own, and {} is both: give another --netns",
                chip.ns.label()
            ));
        }
        let mut all = Ports { host, chip, ports: Vec::new(), state, seen: Vec::new(), looked: Instant::now() };
        for p in &specs {
            all.check(p).map_err(|e| format!("port {}: {e}", p.name))?;
        }
        all.leave(&specs)?;
        let mut fronts = Vec::new();
        for (i, spec) in specs.into_iter().enumerate() {
            let name = spec.name.clone();
            fronts.push(all.add(PortId(i as u32), spec).map_err(|e| format!("port {name}: {e}"))?);
        }
        Ok((all, fronts))
    }

    fn check(&mut self, spec: &PortSpec) -> Result<(), String> {
        if let WireSpec::Packet { ifname, netns } = &spec.wire
            && !self.wire_is_there(ifname, netns.as_deref()).map_err(|e| format!("wire {}: {e}", spec.wire))?
        {
            let label = origin(netns.as_deref())?.label();
            return Err(format!("wire {}: there is no device {ifname} in {label}", spec.wire));
        }
        let taken = self.host.nl.link_by_name(&spec.name).map_err(|e| e.to_string())?.is_some();
        let ours = match self.state.get(&spec.name).cloned() {
            Some(k) => self.known_tap(&k)?.is_some(),
            None => false,
        };
        if taken && !ours {
            return Err(format!(
                "a device {0} is there already and is not this chip's: rename or delete it (ip link del {0}), or name the port otherwise",
                spec.name
            ));
        }
        Ok(())
    }

    /// Whether there is a device of that name, in the chip's namespace or where it comes from.
    ///
    /// # Errors
    /// One sentence: it can't be a wire.
    fn wire_is_there(&mut self, ifname: &str, netns: Option<&str>) -> Result<bool, String> {
        let objection = |nl: &mut Netlink| -> Result<bool, String> {
            let Some(l) = nl.link_by_name(ifname).map_err(|e| e.to_string())? else { return Ok(false) };
            device::objection(nl, &l).map_err(|e| e.to_string())?.map_or(Ok(true), Err)
        };
        if objection(&mut self.chip.nl)? {
            return Ok(true);
        }
        let from = origin(netns)?;
        from.run(|| objection(&mut Netlink::open().map_err(|e| e.to_string())?)).map_err(|e| e.to_string())?
    }

    /// Let go of what an earlier configuration had: a wire that no port has any more goes back to where it came from.
    fn leave(&mut self, specs: &[PortSpec]) -> Result<(), String> {
        for k in self.state.all().to_vec() {
            if !specs.iter().any(|s| s.name == k.name) {
                warn!("port {} is no longer configured; what it has is kept until --release", k.name);
                continue;
            }
            let Some(old) = &k.wire else { continue };
            if !specs.iter().any(|s| matches!(&s.wire, WireSpec::Packet { ifname, .. } if ifname == old)) {
                let back = give_back(&mut self.chip, old, &k);
                info!("port {}: {}", k.name, back.map_err(|e| format!("port {}: {e}", k.name))?);
            }
        }
        Ok(())
    }

    fn add(&mut self, id: PortId, spec: PortSpec) -> Result<worker::Port, String> {
        let mut wire = Wire::none();
        let mut wire_link = None;
        let mut longest = Arc::new(Words32::new(1));
        if let WireSpec::Packet { ifname, netns } = &spec.wire {
            let (link, w, l) = self.take(ifname, netns.as_deref()).map_err(|e| format!("wire {}: {e}", spec.wire))?;
            (wire, longest) = (w, l);
            // The room for tags is not the netdev's.
            let mtu = mtu::untagged(link.mtu, self.state.get(&spec.name).and_then(|k| k.mtu));
            wire_link = Some(Link { mtu, ..link });
        }
        let (tap, moved) = self.tap(&spec, wire_link.as_ref())?;
        let front = worker::Port {
            name: spec.name.clone(),
            wire,
            tap: tap.as_ref().map(Tap::try_clone).transpose().map_err(|e| e.to_string())?,
        };
        let entry = PortEntry {
            name: spec.name.clone(),
            ifindex: 0,
            netns: self.host.ns.inode(),
            mac: wire_link.as_ref().and_then(|l| l.mac).unwrap_or_default(),
            mtu: wire_link.as_ref().map_or(1500, |l| l.mtu),
            admin: false,
            link: false,
            wire: spec.wire.to_string(),
            fault: None,
        };
        let downs = wire_link.as_ref().map_or(0, |l| l.carrier_downs);
        let wire = wire_link.map(|l| l.index);
        self.ports.push(Port {
            id,
            spec,
            wire,
            gone: false,
            objection: None,
            tap,
            moved,
            entry,
            delivering: true,
            downs,
            mtu: Mtu::default(),
            longest,
        });
        Ok(front)
    }

    /// The device in the chip's namespace, moved there if it is not there already, and quiet.
    fn take(&mut self, ifname: &str, netns: Option<&str>) -> Result<(Link, Wire, Arc<Words32>), String> {
        let to = &self.chip.ns;
        if self.chip.nl.link_by_name(ifname).map_err(|e| e.to_string())?.is_none() {
            origin(netns)?
                .run(|| {
                    let mut nl = Netlink::open()?;
                    let l = nl.link_by_name(ifname)?.ok_or_else(|| std::io::Error::other("the device is gone"))?;
                    device::send_to(&mut nl, &l, to).map_err(std::io::Error::from)
                })
                .and_then(|r| r)
                .map_err(|e| format!("it can't be moved to {}: {e}", to.label()))?;
        }
        let nl = &mut self.chip.nl;
        let l = nl.link_by_name(ifname).map_err(|e| e.to_string())?.ok_or("the device is gone")?;
        to.run(|| {
            device::quiet(nl, &l).map_err(|e| format!("it can't be made quiet: {e}"))?;
            let (rx, tx) = packet::open(l.index).map_err(|e| format!("no packet socket: {e}"))?;
            let longest = rx.longest();
            Ok((Wire { rx: Box::new(rx), tx: Arc::new(tx) }, longest))
        })
        .map_err(|e| e.to_string())?
        .map(|(w, longest)| (l, w, longest))
    }

    /// The port's TAP: the one that is known, or a new one. If the known one was moved away: the namespace it is in.
    fn tap(&mut self, spec: &PortSpec, wire: Option<&Link>) -> Result<(Option<Tap>, Option<u64>), String> {
        if let Some(k) = self.state.get(&spec.name).cloned() {
            if let Some(l) = self.known_tap(&k)? {
                return Ok((Some(self.attach(&l)?), None));
            }
            if let Some(inode) = elsewhere(&k, self.host.ns.inode()) {
                return Ok((None, Some(inode)));
            }
        }
        let name = &spec.name;
        let tap = self.host.ns.run(|| Tap::make(name)).and_then(|r| r).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "no TAP: /dev/net/tun is missing, load the kernel module tun".to_owned(),
            _ => format!("no TAP: {e}"),
        })?;
        let nl = &mut self.host.nl;
        let set = |nl: &mut Netlink| -> Result<Link, crate::netlink::NlError> {
            let l = nl.link_by_name(name)?.unwrap_or_default();
            if let Some(w) = wire {
                nl.set(l.index, |r| {
                    let r = r.attr32(libc::IFLA_MTU, w.mtu);
                    if let Some(m) = w.mac { r.attr(libc::IFLA_ADDRESS, &m.0) } else { r }
                })?;
            }
            Ok(nl.link_by_name(name)?.unwrap_or_default())
        };
        match set(nl) {
            Ok(l) => {
                self.remember(spec, &l)?;
                Ok((Some(tap), None))
            }
            Err(e) => {
                let _ = tap.give_up();
                Err(format!("its TAP does not take the wire's MAC and MTU: {e}"))
            }
        }
    }

    fn attach(&mut self, l: &Link) -> Result<Tap, String> {
        self.host.ns.run(|| Tap::attach(&l.name)).and_then(|r| r).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => format!("its TAP {} is held by another process: end that first", l.name),
            _ => format!("its TAP {} can't be attached: {e}", l.name),
        })
    }

    fn known_tap(&mut self, k: &Known) -> Result<Option<Link>, String> {
        let links = self.host.nl.links().map_err(|e| e.to_string())?;
        // By index first: a second device may have come to have the old name.
        let here = k.netns == self.host.ns.inode();
        let by_index = links.iter().find(|l| here && l.index == k.ifindex && l.kind == TUN);
        Ok(by_index.or_else(|| links.iter().find(|l| is_ours(k, l))).cloned())
    }

    fn remember(&mut self, spec: &PortSpec, tap: &Link) -> Result<(), String> {
        let (wire, from) = match &spec.wire {
            WireSpec::Packet { ifname, netns } => (Some(ifname.clone()), netns.clone()),
            WireSpec::None => (None, None),
        };
        let (ifindex, netns, mac) = (tap.index, self.host.ns.inode(), tap.mac.unwrap_or_default());
        let mtu = Some(tap.mtu);
        let known = Known { name: spec.name.clone(), ifindex, netns, mac, wire, from, mtu };
        self.state.put(known).map_err(|e| format!("what was made can't be written down: {e}"))
    }

    /// What to wait on: the monitors of both namespaces.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.host.monitor.fd(), self.chip.monitor.fd()]
    }

    /// Take the notifications that wait, and look at the wires' devices, whose carrier is announced late.
    /// `changed` is told each port's new entry, in order.
    pub fn poll(&mut self, worker: &worker::Handle, mut changed: impl FnMut(PortId, &PortEntry)) {
        let host = self.host.monitor.drain().unwrap_or(None);
        let chip = self.chip.monitor.drain().unwrap_or(None);
        let now = self.chip.nl.links().unwrap_or_default();
        let all = host.is_none() || chip.is_none();
        let touched: HashSet<u32> = host.into_iter().flatten().collect();
        for i in 0..self.ports.len() {
            let p = &self.ports[i];
            let look = all
                || touched.contains(&p.entry.ifindex)
                // Anything may be the lost TAP coming back.
                || ((p.entry.ifindex == 0 || !p.delivering) && !touched.is_empty())
                || p.wire.is_some_and(|w| {
                    let at = |links: &[Link]| links.iter().find(|l| l.index == w).cloned();
                    at(&now) != at(&self.seen)
                });
            if look {
                self.refresh(i, worker, &mut changed);
            }
        }
        self.seen = now;
        if self.looked.elapsed() >= LOOK_FOR_WIRE {
            self.looked = Instant::now();
            for i in 0..self.ports.len() {
                if self.ports[i].gone && self.wire_again(i, worker) {
                    self.refresh(i, worker, &mut changed);
                }
            }
        }
    }

    /// Take the wire of a port anew if a device of its name is back; whether it was.
    fn wire_again(&mut self, i: usize, worker: &worker::Handle) -> bool {
        let spec = self.ports[i].spec.clone();
        let WireSpec::Packet { ifname, netns } = &spec.wire else { return false };
        let taken = match self.wire_is_there(ifname, netns.as_deref()) {
            // Its namespace may be gone with it.
            Ok(false) => return false,
            Ok(true) => self.take(ifname, netns.as_deref()),
            Err(e) => Err(e),
        };
        let p = &mut self.ports[i];
        match taken {
            Ok((link, wire, longest)) => {
                worker.wire(p.id, wire);
                p.longest = longest;
                (p.wire, p.gone, p.objection) = (Some(link.index), false, None);
                (p.downs, p.mtu) = (link.carrier_downs, Mtu::default());
                info!("port {}: its wire {} is back", spec.name, spec.wire);
                true
            }
            Err(e) => {
                if p.objection.as_ref() != Some(&e) {
                    warn!("port {}: its wire {} is not taken again: {e}", spec.name, spec.wire);
                    p.objection = Some(e);
                }
                false
            }
        }
    }

    /// Make the netdevs anew that were deleted. `changed` is told of each.
    pub fn make_again(&mut self, worker: &worker::Handle, mut changed: impl FnMut(PortId, &PortEntry)) {
        for i in 0..self.ports.len() {
            if self.ports[i].entry.fault != Some(PortFault::HostIfDeleted) {
                continue;
            }
            let (id, spec, wire) = (self.ports[i].id, self.ports[i].spec.clone(), self.ports[i].wire);
            let made = self.tap_again(&spec, wire).and_then(|tap| {
                worker.host(id, tap.try_clone().map_err(|e| e.to_string())?);
                Ok(tap)
            });
            match made {
                Ok(tap) => {
                    self.ports[i].tap = Some(tap);
                    self.refresh(i, worker, &mut changed);
                }
                Err(e) => warn!("port {}: its netdev is not made anew: {e}", spec.name),
            }
        }
    }

    fn tap_again(&mut self, spec: &PortSpec, wire: Option<u32>) -> Result<Tap, String> {
        let name = &spec.name;
        if self.host.nl.link_by_name(name).map_err(|e| e.to_string())?.is_some() {
            return Err(format!(
                "a device {name} is there that is not this chip's: rename or delete it (ip link del {name})"
            ));
        }
        let wire = wire.and_then(|w| self.chip.nl.link_by_index(w).ok().flatten());
        let before = self.state.get(name).and_then(|k| k.mtu);
        let wire = wire.map(|l| Link { mtu: mtu::untagged(l.mtu, before), ..l });
        let (tap, moved) = self.tap(spec, wire.as_ref())?;
        tap.ok_or_else(|| format!("it is in another namespace ({})", moved.unwrap_or_default()))
    }

    /// Look at every port, whether anything was said about it or not.
    pub fn refresh_all(&mut self, worker: &worker::Handle, mut changed: impl FnMut(PortId, &PortEntry)) {
        for i in 0..self.ports.len() {
            self.refresh(i, worker, &mut changed);
        }
    }

    fn refresh(&mut self, i: usize, worker: &worker::Handle, changed: &mut impl FnMut(PortId, &PortEntry)) {
        let (mut fault, tap) = self.find_tap(i, worker);
        let here = tap.is_some();
        let p = &mut self.ports[i];
        if p.delivering != here {
            worker.deliver(p.id, here);
            p.delivering = here;
        }
        let mut entry = p.entry.clone();
        entry.admin = tap.as_ref().is_some_and(Link::up);
        if let Some(t) = &tap {
            entry.ifindex = t.index;
            entry.netns = self.host.ns.inode();
            entry.mac = t.mac.unwrap_or(entry.mac);
            entry.mtu = t.mtu;
        } else {
            entry.ifindex = 0;
            entry.netns = p.moved.unwrap_or(entry.netns);
        }
        let mut carrier = false;
        let mut flap = false;
        if let Some(index) = p.wire {
            match follow(&mut self.chip.nl, p, index, tap.as_ref()) {
                Ok(Some(w)) => {
                    p.gone = false;
                    entry.mtu = mtu::untagged(w.mtu, Some(entry.mtu));
                    carrier = w.up() && w.carrier;
                    flap = p.entry.link && carrier && w.carrier_downs != p.downs;
                    p.downs = w.carrier_downs;
                    if fault.is_none() && p.mtu.refused() {
                        fault = Some(PortFault::WireMtu);
                    }
                    if fault.is_none() && entry.admin && !w.up() {
                        fault = Some(PortFault::WireRefused);
                    }
                }
                Ok(None) => {
                    p.gone = true;
                    fault = fault.or(Some(PortFault::WireGone));
                }
                Err(e) => warn!("port {}: its wire {} can't be looked at: {e}", p.spec.name, p.spec.wire),
            }
        }
        entry.fault = fault;
        entry.link = here && entry.admin && carrier && fault.is_none_or(|f| f == PortFault::WireMtu);
        if flap {
            // Shown as what it was: the kernel purges on a loss of carrier, however short.
            let down = PortEntry { link: false, ..entry.clone() };
            p.show(down, worker, changed);
        }
        let p = &mut self.ports[i];
        p.show(entry, worker, changed);
        if let Some(t) = tap {
            let spec = self.ports[i].spec.clone();
            if let Err(e) = self.remember(&spec, &t) {
                warn!("port {}: {e}", spec.name);
            }
        }
    }

    /// Where the port's TAP is: its link if it is in the host namespace, else what is wrong with it.
    fn find_tap(&mut self, i: usize, worker: &worker::Handle) -> (Option<PortFault>, Option<Link>) {
        let here = self.host.ns.inode();
        if self.ports[i].tap.is_none() {
            // It was moved away while the chip was not there; it may have come back.
            let known = self.state.get(&self.ports[i].spec.name).cloned();
            let back = known.and_then(|k| self.known_tap(&k).ok().flatten());
            if let Some(tap) = back.and_then(|l| self.attach(&l).ok())
                && let Ok(other) = tap.try_clone()
            {
                worker.host(self.ports[i].id, other);
                self.ports[i].tap = Some(tap);
                self.ports[i].moved = None;
            } else {
                return (Some(PortFault::HostIfMoved), None);
            }
        }
        let p = &mut self.ports[i];
        let Some(tap) = &p.tap else { return (Some(PortFault::HostIfMoved), None) };
        match tap.place() {
            Ok(Place::At(ns, name)) if ns == here => {
                p.moved = None;
                match self.host.nl.link_by_name(&name) {
                    Ok(Some(l)) => (None, Some(l)),
                    // Renamed or moved between the two questions: a notification about that is on its way.
                    Ok(None) => self.find_again(i),
                    Err(e) => {
                        warn!("port {}: its netdev {name} can't be looked at: {e}", p.spec.name);
                        self.find_again(i)
                    }
                }
            }
            Ok(Place::At(ns, _)) => {
                p.moved = Some(ns);
                (Some(PortFault::HostIfMoved), None)
            }
            Ok(Place::Deleted) => (Some(PortFault::HostIfDeleted), None),
            Err(e) => {
                warn!("port {}: its netdev can't be looked at: {e}", p.spec.name);
                self.find_again(i)
            }
        }
    }

    fn find_again(&mut self, i: usize) -> (Option<PortFault>, Option<Link>) {
        match self.host.nl.link_by_index(self.ports[i].entry.ifindex) {
            Ok(Some(l)) if l.kind == TUN => (None, Some(l)),
            _ => (Some(PortFault::HostIfDeleted), None),
        }
    }

    /// One line for each port, and who moves its frames.
    pub fn summary(&self, workers: usize) {
        for p in &self.ports {
            let e = &p.entry;
            let state = match (e.fault, e.admin, e.link) {
                (Some(PortFault::HostIfMoved), ..) => "its netdev is in another namespace",
                (Some(_), ..) => "faulty",
                (None, false, _) => "admin down",
                (None, true, false) => "no carrier",
                (None, true, true) => "link up",
            };
            let worker = p.id.0 as usize % workers.max(1);
            info!(
                "port {} {}: wire {}, netdev {} {}, mtu {}, worker-{worker}, {state}",
                e.name, p.id, e.wire, e.ifindex, e.mac, e.mtu
            );
        }
    }

    /// Set every wire down, as a chip that is switched off does: the far ends see it at once.
    pub fn dark(&mut self) {
        for p in &self.ports {
            if let Some(t) = &p.tap {
                let _ = t.set_carrier(false);
            }
            if let Some(w) = p.wire {
                let _ = self.chip.nl.set_up(w, false);
            }
        }
    }
}

impl Port {
    /// Have the kernel, the worker and the agent see this entry.
    fn show(&mut self, entry: PortEntry, worker: &worker::Handle, changed: &mut impl FnMut(PortId, &PortEntry)) {
        if let (Some(t), true) = (&self.tap, self.delivering || self.entry.link) {
            // Repeating it is harmless, and makes up for whoever else changed it.
            if let Err(e) = t.set_carrier(entry.link) {
                debug!("port {}: carrier of its netdev can't be set: {e}", self.spec.name);
            }
        }
        if entry == self.entry {
            return;
        }
        if entry.link != self.entry.link {
            worker.link(self.id, entry.link);
            info!("port {}: link {}", entry.name, if entry.link { "up" } else { "down" });
        }
        if entry.fault != self.entry.fault {
            let name = &entry.name;
            match entry.fault {
                Some(PortFault::HostIfDeleted) => {
                    warn!(
                        "port {name}: its netdev was deleted; it is down until the chip makes a new one: on SIGHUP \
                         (systemctl reload virga-asic), or when it is restarted"
                    );
                }
                Some(PortFault::HostIfMoved) => {
                    warn!("port {name}: its netdev was moved to another namespace; it is down until that is back");
                }
                Some(PortFault::WireGone) => warn!(
                    "port {name}: its wire {} is gone; it is down until a device of that name is back",
                    entry.wire
                ),
                Some(PortFault::WireRefused) => warn!("port {name}: its wire {} does not come up", entry.wire),
                Some(PortFault::WireMtu) => {
                    warn!("port {name}: its wire {} stays at mtu {}: longer frames are dropped", entry.wire, entry.mtu);
                }
                None => info!("port {name}: in order again"),
            }
        }
        changed(self.id, &entry);
        self.entry = entry;
    }
}

/// Have the wire's device do as the TAP says; returns it as it is then.
fn follow(
    nl: &mut Netlink,
    p: &mut Port,
    index: u32,
    tap: Option<&Link>,
) -> Result<Option<Link>, crate::netlink::NlError> {
    let Some(mut w) = nl.link_by_index(index)? else { return Ok(None) };
    let mut again = false;
    if let Some(t) = tap {
        // A veth takes a header, its MTU and one tag, and no more (`is_skb_forwardable`); its MTU is larger for our sake alone.
        p.longest.set(0, if w.kind == "veth" { t.mtu.saturating_add(18) } else { 0 });
        let (asked, no) = p.mtu.follow(w.mtu, t.mtu, |mtu| nl.set(index, |r| r.attr32(libc::IFLA_MTU, mtu)));
        again = asked;
        if let Some(e) = no {
            warn!("port {}: its wire {} refuses mtu {}: {e}", p.spec.name, p.spec.wire, t.mtu);
        }
    }
    let up = tap.is_some_and(Link::up);
    if w.up() != up {
        again = true;
        if let Err(e) = nl.set_up(index, up) {
            let word = if up { "up" } else { "down" };
            warn!("port {}: its wire {} can't be set {word}: {e}", p.spec.name, p.spec.wire);
        }
    }
    if again {
        let Some(now) = nl.link_by_index(index)? else { return Ok(None) };
        // What we did ourselves is no flap.
        if w.up() != now.up() {
            p.downs = now.carrier_downs;
        }
        w = now;
    }
    Ok(Some(w))
}

/// Whether the link may be the TAP that is known, wherever it is now: index and name can change, not both unseen.
fn is_ours(k: &Known, l: &Link) -> bool {
    l.kind == TUN && l.mac == Some(k.mac) && k.mac != Mac::default() && (l.index == k.ifindex || l.name == k.name)
}

/// The namespace in which a wire's device is found first.
fn origin(netns: Option<&str>) -> Result<NetNs, String> {
    netns.map_or_else(NetNs::current, NetNs::open).map_err(|e| e.to_string())
}

/// The inode of the namespace, other than `here`, that holds the known TAP: among those with a name or a process.
fn elsewhere(k: &Known, here: u64) -> Option<u64> {
    let named = fs::read_dir(crate::netns::DIR).into_iter().flatten().flatten().map(|e| e.path());
    let of_processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path().join("ns/net"));
    let mut seen = HashSet::from([here]);
    for path in named.chain(of_processes) {
        let Ok(ns) = fs::File::open(&path).and_then(NetNs::from_file) else { continue };
        if !seen.insert(ns.inode()) {
            continue;
        }
        let links = ns.run(|| Netlink::open().ok()?.links().ok()).ok().flatten().unwrap_or_default();
        if links.iter().any(|l| is_ours(k, l)) {
            return Some(ns.inode());
        }
    }
    None
}

/// Give all wires back to where they came from and delete the TAPs; `--release`.
///
/// # Errors
/// One sentence for each thing that could not be undone; the rest is.
pub fn release(host: NetNs, chip: NetNs, mut state: State) -> Result<Vec<String>, String> {
    let (mut host, mut chip) = (Side::open(host, || ())?, Side::open(chip, || ())?);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for k in state.all().to_vec() {
        let links = host.nl.links().map_err(|e| e.to_string())?;
        let by_index = links.iter().find(|l| k.netns == host.ns.inode() && l.index == k.ifindex && l.kind == TUN);
        let tap = match by_index.or_else(|| links.iter().find(|l| is_ours(&k, l))) {
            Some(l) => {
                let gone = host.ns.run(|| Tap::attach(&l.name).and_then(Tap::give_up)).and_then(|r| r);
                gone.map(|()| format!("netdev {} deleted", l.name)).map_err(|e| format!("netdev {}: {e}", l.name))
            }
            None => Ok(format!("netdev {} was gone", k.name)),
        };
        let wire = match &k.wire {
            Some(ifname) => give_back(&mut chip, ifname, &k),
            None => Ok("no wire".into()),
        };
        match (tap, wire) {
            (Ok(t), Ok(w)) => {
                state.forget(&k.name).map_err(|e| e.to_string())?;
                done.push(format!("port {}: {t}, {w}", k.name));
            }
            (t, w) => {
                failed.extend([t, w].into_iter().filter_map(Result::err).map(|e| format!("port {}: {e}", k.name)))
            }
        }
    }
    if failed.is_empty() { Ok(done) } else { Err(failed.join("; ")) }
}

fn give_back(chip: &mut Side, ifname: &str, k: &Known) -> Result<String, String> {
    let says = |e: &dyn std::fmt::Display| format!("wire {ifname} can't be given back: {e}");
    let Some(l) = chip.nl.link_by_name(ifname).map_err(|e| says(&e))? else {
        return Ok(format!("wire {ifname} was gone"));
    };
    let to = origin(k.from.as_deref()).map_err(|e| says(&e))?;
    let nl = &mut chip.nl;
    let mtu = mtu::untagged(l.mtu, k.mtu);
    if mtu != l.mtu {
        nl.set(l.index, |r| r.attr32(libc::IFLA_MTU, mtu)).map_err(|e| says(&e))?;
    }
    chip.ns.run(|| device::loud(nl, &l)).map_err(|e| says(&e))?.map_err(|e| says(&e))?;
    device::send_to(&mut chip.nl, &l, &to).map_err(|e| says(&e))?;
    Ok(format!("wire {ifname} is back in {}", to.label()))
}
