//! What scenarios read of the kernel: counters of devices, neighbours, carrier.

use anyhow::{Context, Result};

use crate::Host;

/// A counter of a device of the switch: `rx_packets`, `tx_packets`, `rx_bytes` or `tx_bytes`.
///
/// # Errors
/// There is no such device.
pub fn counter(dev: &str, name: &str) -> Result<u64> {
    // /proc/net/dev is that of the reading thread's namespace, wherever /sys comes from.
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix(dev)?.strip_prefix(':'))
        .with_context(|| format!("there is no device {dev}"))?;
    let column = match name {
        "rx_bytes" => 0,
        "rx_packets" => 1,
        "tx_bytes" => 8,
        "tx_packets" => 9,
        _ => anyhow::bail!("no column for {name}"),
    };
    line.split_whitespace().nth(column).context("short line in /proc/net/dev")?.parse().context("no number")
}

/// Frames that a TAP has carried both ways: the slow path.
///
/// # Errors
/// There is no such device.
pub fn slow(dev: &str) -> Result<u64> {
    Ok(counter(dev, "rx_packets")? + counter(dev, "tx_packets")?)
}

/// Frames of the slow path over all ports of the world.
///
/// # Errors
/// A port is missing.
pub fn slow_all(ports: u16) -> Result<u64> {
    (1..=ports).map(|n| slow(&format!("swp{n}"))).sum()
}

/// `flags` of a link of the switch, as `ip` shows them.
///
/// # Errors
/// There is no such link.
pub fn flags(dev: &str) -> Result<String> {
    let shown = crate::ip(&format!("-o link show dev {dev}"))?;
    Ok(shown.split(['<', '>']).nth(1).unwrap_or_default().to_owned())
}

/// Whether a link of the switch has carrier.
///
/// # Errors
/// There is no such link.
pub fn carrier(dev: &str) -> Result<bool> {
    Ok(flags(dev)?.split(',').any(|f| f == "LOWER_UP"))
}

/// State of the neighbour entry for an address of the switch's (`REACHABLE`, `FAILED`, …), empty if there is none.
///
/// # Errors
/// `ip` failed.
pub fn neighbour(addr: &str) -> Result<String> {
    let shown = crate::ip(&format!("-o neigh show to {addr}"))?;
    Ok(shown.split_whitespace().last().unwrap_or_default().to_owned())
}

/// Frames received by a host's `eth0`.
///
/// # Errors
/// The namespace can't be entered.
pub fn received(host: &Host) -> Result<u64> {
    host.netns.run(|| counter("eth0", "rx_packets"))?
}
