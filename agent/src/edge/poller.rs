//! Reads what is never announced (sysctls, firewall, tc, XDP, IPsec): once a second, and when the core asks.
//!
//! Not here: what is read (`policy::read`) and what it means (the gate).

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::runner::Msg;
use super::wake::Waker;

/// Between two readings that nobody asked for.
const PERIOD: Duration = Duration::from_secs(1);

/// Serve `asked` (numbers that ascend) until the core's thread is gone. Each reading is sent with the number of the last
/// question that came before it began, so that an older reading is not taken for the answer.
pub fn run(asked: &Receiver<u64>, out: &Sender<Msg>, waker: &Waker, mut read: impl FnMut() -> crate::policy::Polled) {
    let mut last = 0;
    loop {
        match asked.recv_timeout(PERIOD) {
            Ok(n) => last = asked.try_iter().last().unwrap_or(n),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let polled = Box::new(read());
        if out.send(Msg::Polled(last, polled)).is_err() {
            return;
        }
        waker.wake();
    }
}
