//! The chip's account of a frame: its tables as the chip dumps them, put into a chip of the harness's own, which then says what
//! each step of the pipeline found.
//!
//! The tables are those after the step; only the multipath hash has another seed, so that another member may be taken.

use anyhow::{Context as _, Result};
use hal::{Backend as _, Op, PortId, Record, TableId, TrapClass};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sim_asic::SimChip;
use sim_asic::trace::Step;

/// The profile that the harness's chips have; the worlds' chips have its frame length too.
pub const PROFILE: &str = "small";

fn part<T: DeserializeOwned>(row: &Value, name: &str) -> Result<T> {
    serde_json::from_value(row[name].clone()).with_context(|| format!("{name} of {row}"))
}

/// A row of `virga table show`.
fn record(table: TableId, r: &Value) -> Result<Record> {
    Ok(match table {
        TableId::Port => Record::Port(part(r, "key")?, part(r, "entry")?),
        TableId::Switch => Record::Switch(hal::Global, part(r, "entry")?),
        TableId::Fid => Record::Fid(part(r, "key")?, part(r, "entry")?),
        TableId::BridgePort => Record::BridgePort(part(r, "key")?, part(r, "entry")?),
        TableId::FidMember => Record::FidMember(part(r, "key")?, part(r, "entry")?),
        TableId::FdbStatic => Record::FdbStatic(part(r, "key")?, part(r, "entry")?),
        TableId::Fdb => Record::Fdb(part(r, "key")?, part(r, "entry")?),
        TableId::Rif => Record::Rif(part(r, "key")?, part(r, "entry")?),
        TableId::Neigh4 => Record::Neigh4(part(r, "key")?, part(r, "entry")?),
        TableId::Neigh6 => Record::Neigh6(part(r, "key")?, part(r, "entry")?),
        TableId::NextHop => Record::NextHop(part(r, "key")?, part(r, "entry")?),
        TableId::Group => Record::Group(part(r, "key")?, part(r, "entry")?),
        TableId::Route4 => Record::Route4(part(r, "key")?, part(r, "entry")?),
        TableId::Route6 => Record::Route6(part(r, "key")?, part(r, "entry")?),
        TableId::Bucket => Record::Bucket(part(r, "key")?, part(r, "entry")?),
    })
}

/// A chip with what another holds.
#[derive(Debug)]
pub struct Twin(SimChip);

impl Twin {
    /// `dump` gives the rows of a table, each a line of JSON as `virga table show` prints it.
    ///
    /// # Errors
    /// A row that is not understood, or that a chip refuses.
    pub fn new(ports: usize, dump: impl Fn(TableId) -> Result<String>) -> Result<Twin> {
        let profile = sim_asic::config::profile(PROFILE).map_err(anyhow::Error::msg)?;
        let mut chip = SimChip::with_seed(profile, ports, 0);
        // Ascending by rank: what is referred to comes first.
        for t in TableId::ALL.iter().copied() {
            for line in dump(t)?.lines() {
                let row = serde_json::from_str(line).with_context(|| format!("table {}: {line}", t.name()))?;
                match record(t, &row)? {
                    Record::Port(id, e) => chip.set_port(id, *e),
                    // The twin has its own, as it has another seed.
                    Record::Bucket(..) => {}
                    r => chip.apply(&Op::Set(r.clone())).with_context(|| format!("{}", r.key()))?,
                }
            }
        }
        Ok(Twin(chip))
    }

    /// Whether a frame that came in by `port` (from 1) goes where the chip's own hash has it go.
    pub fn chooses(&self, port: usize, frame: &[u8]) -> bool {
        chose(&self.0.trace(PortId(port as u32 - 1), &mut frame.to_vec()).1)
    }

    /// The steps of a frame that came in by `port` (from 1), a line each.
    pub fn trace(&self, port: usize, frame: &[u8]) -> String {
        let (_, steps) = self.0.trace(PortId(port as u32 - 1), &mut frame.to_vec());
        steps.iter().map(|s| format!("      {}\n", show(s))).collect()
    }
}

/// Whether the chip sent the packet of these steps by itself, or chose a member for it and trapped it for what that member is: all of a flow
/// have the same one then. What is trapped for the packet's own sake, or for the way that it came, is the kernel's to choose for, and says
/// nothing of the rest of its flow.
fn chose(steps: &[Step]) -> bool {
    match steps.last() {
        Some(Step::Forward { .. }) => true,
        Some(Step::Trap(TrapClass::Mtu | TrapClass::SameInterface | TrapClass::Ttl)) => false,
        Some(Step::Trap(_)) => steps.iter().any(|s| matches!(s, Step::Member { .. } | Step::Bucket { .. })),
        _ => false,
    }
}

fn show(s: &Step) -> String {
    let or = |o: Option<String>| o.unwrap_or_else(|| "none".into());
    match s {
        Step::Ingress { rif } => format!("came in by interface {}", or(rif.map(|r| r.to_string()))),
        Step::Fid { fid } => format!("belongs to FID {}", or(fid.map(|f| f.to_string()))),
        Step::Station { at } => format!("its station is {}", or(at.as_ref().map(|a| format!("{a:?}")))),
        Step::Packet { src, dst, ttl, len } => format!("packet {src}>{dst} ttl {ttl} len {len}"),
        Step::Rule { number } => format!("matches rule {number} of policy routing"),
        Step::Destination { route } => {
            format!("destination matches {}", or(route.as_ref().map(|(l, f)| format!("a /{l}: {f:?}"))))
        }
        Step::Source { route, check } => {
            let route = or(route.as_ref().map(|(l, f)| format!("a /{l}: {f:?}")));
            format!("source matches {route}, check {check:?}")
        }
        Step::Member { hash, member, of } => format!("hash {hash:08x}, member {member} of {of} (with another seed)"),
        Step::Bucket { hash, bucket, of } => format!("hash {hash:08x}, bucket {bucket} of {of} (with another seed)"),
        Step::NextHop { id } => format!("next hop {}", or(id.map(|i| i.to_string()))),
        Step::Adjacency { rif, mac } => {
            format!("neighbour {} on interface {}", or(mac.map(|m| m.to_string())), or(rif.map(|r| r.to_string())))
        }
        Step::Forward { port } => format!("forwarded to port {}", port.0 + 1),
        Step::Trap(c) => format!("trapped: {c}"),
        Step::Drop(d) => format!("dropped: {d}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_is_trapped_for_is_the_choice_of_the_chip() {
        let member = || Step::Member { hash: 1, member: 0, of: 2 };
        let bucket = || Step::Bucket { hash: 1, bucket: 0, of: 16 };
        for own in
            [Step::Forward { port: PortId(1) }, Step::Trap(TrapClass::PortDown), Step::Trap(TrapClass::Unresolved)]
        {
            assert!(chose(&[member(), own.clone()]), "{own:?}");
            assert!(chose(&[bucket(), own.clone()]), "{own:?}");
        }
        for kernels in [TrapClass::Mtu, TrapClass::SameInterface] {
            assert!(!chose(&[member(), Step::Trap(kernels)]), "{kernels}");
        }
        for kernels in [TrapClass::Options, TrapClass::Hash, TrapClass::Punt, TrapClass::NotForwarding] {
            assert!(!chose(&[Step::Trap(kernels)]), "{kernels}");
        }
        assert!(!chose(&[]));
    }
}
