//! Reads policy (sysctls, firewall, tc, XDP, IPsec): once a second, when the core asks, and when a change was announced (`watch`).
//!
//! Not here: what is read (`policy::Reader`) and what it means (the gate).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::policy::{Finding, Polled, PortRef, Reader, Scope};

use super::runner::Msg;
use super::wake::Waker;

/// Between two readings that nobody asked for.
const PERIOD: Duration = Duration::from_secs(1);

/// What makes it read.
#[derive(Debug)]
pub enum Ask {
    /// The core: numbers ascend; the ports that it knows.
    Core(u64, Vec<PortRef>),
    /// Something has changed.
    Changed,
}

/// Serve `asked` until the core's thread is gone. Each reading is sent with the number of the core's last question that came
/// before it began, so that an older reading is not taken for the answer.
/// `heard` is set while an [`Ask::Changed`] waits: one is enough, however many changes there are.
pub fn run(asked: &Receiver<Ask>, heard: &AtomicBool, out: &Sender<Msg>, waker: &Waker) {
    // The core's first question comes at its start; before it there is nothing to read for.
    let (mut last, mut ports) = loop {
        match asked.recv() {
            Ok(Ask::Core(n, ports)) => break (n, ports),
            Ok(Ask::Changed) => {}
            Err(_) => return,
        }
    };
    let (mut reader, mut on_demand) = (None, true);
    loop {
        if reader.is_none() {
            reader = Reader::new().inspect_err(|e| tracing::error!("policy can't be read: {e}")).ok();
        }
        // What changes from here on asks again.
        heard.store(false, Ordering::SeqCst);
        let polled = Box::new(match &mut reader {
            Some(r) => r.read(&ports, on_demand),
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
        on_demand = false;
        match asked.recv_timeout(PERIOD) {
            Ok(first) => {
                for ask in std::iter::once(first).chain(asked.try_iter()) {
                    if let Ask::Core(n, p) = ask {
                        (last, ports, on_demand) = (n, p, true);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
