//! Reads what is never announced (sysctls, firewall, tc, XDP, IPsec): once a second, and when the core asks.
//!
//! Not here: what is read (`policy::Reader`) and what it means (the gate).

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::policy::{Finding, Polled, PortRef, Reader, Scope};

use super::runner::Msg;
use super::wake::Waker;

/// Between two readings that nobody asked for.
const PERIOD: Duration = Duration::from_secs(1);

/// Serve `asked` (numbers that ascend, and the ports) until the core's thread is gone. Each reading is sent with the number of
/// the last question that came before it began, so that an older reading is not taken for the answer.
pub fn run(asked: &Receiver<(u64, Vec<PortRef>)>, out: &Sender<Msg>, waker: &Waker) {
    // The core's first question comes at its start; before it there is nothing to read for.
    let Ok((mut last, mut ports)) = asked.recv() else { return };
    let mut reader = None;
    loop {
        if reader.is_none() {
            reader = Reader::new().inspect_err(|e| tracing::error!("policy can't be read: {e}")).ok();
        }
        let polled = Box::new(match &mut reader {
            Some(r) => r.read(&ports),
            None => Polled {
                ports: ports.clone(),
                findings: vec![Finding::new(Scope::All, "policy can't be read: no socket or descriptor is left")],
                ..Polled::default()
            },
        });
        if out.send(Msg::Polled(last, polled)).is_err() {
            return;
        }
        waker.wake();
        match asked.recv_timeout(PERIOD) {
            Ok(first) => (last, ports) = asked.try_iter().last().unwrap_or(first),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
