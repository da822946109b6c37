//! Netlink requests of the agent's own (neighbours, mostly), over a socket and a thread of their own: the kernel carries a
//! request out inside `send(2)` and may wait for a lock meanwhile.
//!
//! Not here: what is asked for; nothing is ever retried here.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use crate::input::Input;

use super::nl::{NLMSG_ERROR, Socket, messages, stamp};
use super::runner::Msg;
use super::wake::Waker;

/// Requests sent before their answers are read.
const PIPELINE: usize = 64;
/// `NLM_F_REQUEST | NLM_F_ACK`
const FLAGS: u16 = 0x1 | 0x4;
/// An answer is given up on after this long: the kernel sends it before `send(2)` returns.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serve `jobs` until the core's thread is gone.
pub fn run(jobs: &Receiver<(u64, Vec<u8>)>, out: &Sender<Msg>, waker: &Waker) {
    let mut socket = None;
    let mut number = 0u32;
    while let Ok(first) = jobs.recv() {
        let mut open = HashMap::new();
        let mut answers = Vec::new();
        let batch: Vec<_> = std::iter::once(first).chain(jobs.try_iter().take(PIPELINE - 1)).collect();
        let failed = match ready(&mut socket) {
            Ok(s) => {
                for (id, message) in batch {
                    number = number.wrapping_add(1);
                    let Some(m) = stamp(message, number, FLAGS) else {
                        answers.push((id, libc::EINVAL, "the request is shorter than a netlink header".to_owned()));
                        continue;
                    };
                    match s.send(&m, 0) {
                        Ok(()) => drop(open.insert(number, id)),
                        Err(e) => answers.push((id, errno(&e), format!("sending the request failed: {e}"))),
                    }
                }
                collect(s, &mut open, &mut answers).err()
            }
            Err(e) => {
                answers.extend(batch.into_iter().map(|(id, _)| (id, errno(&e), format!("no netlink socket: {e}"))));
                None
            }
        };
        if let Some(e) = failed {
            socket = None;
            let why = format!("the kernel's answer was lost: {e}");
            answers.extend(open.into_values().map(|id| (id, errno(&e), why.clone())));
        }
        for (id, errno, message) in answers {
            if out.send(Msg::Input(Input::Ack { id, errno, message })).is_err() {
                return;
            }
        }
        waker.wake();
    }
}

fn ready(socket: &mut Option<Socket>) -> io::Result<&Socket> {
    match socket {
        Some(s) => Ok(s),
        none => {
            let s = Socket::open()?;
            s.read_timeout(PATIENCE)?;
            Ok(none.insert(s))
        }
    }
}

/// Read until every open request is answered.
fn collect(s: &Socket, open: &mut HashMap<u32, u64>, answers: &mut Vec<(u64, i32, String)>) -> io::Result<()> {
    let mut buf = vec![0; 32 << 10];
    while !open.is_empty() {
        let n = s.recv(&mut buf)?;
        for m in messages(&buf[..n]).filter(|m| m.kind == NLMSG_ERROR) {
            if let Some(id) = open.remove(&m.seq) {
                answers.push((id, m.errno(), m.ext_ack()));
            }
        }
    }
    Ok(())
}

fn errno(e: &io::Error) -> i32 {
    match e.kind() {
        io::ErrorKind::WouldBlock => libc::ETIMEDOUT,
        _ => e.raw_os_error().unwrap_or(libc::EIO),
    }
}
