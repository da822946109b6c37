//! Dumps, over a socket and a thread of their own (kernel-facts 42): a kind of object at a time, families joined.
//!
//! Not here: when to dump and what to make of it; an interrupted dump is only reported as such.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use crate::input::{DumpKind, Input};

use super::monitor::Stamp;
use super::nl::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Socket, messages, stamp};
use super::wake::Waker;

/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH` (`NLM_F_DUMP`).
const DUMP: u16 = 0x1 | 0x100 | 0x200;
/// The kernel fills up to 32 KiB of a read.
const READ: usize = 64 << 10;
/// The kernel is given up on after this long without a word.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serve `jobs` until the core's thread is gone.
pub fn run(jobs: &Receiver<(u64, DumpKind)>, out: &SyncSender<Input>, stamp: &Stamp, waker: &Waker) {
    let mut dumper = Dumper { socket: None, number: 0, buf: vec![0; READ] };
    for (id, kind) in jobs {
        let seq = stamp.now();
        let mut sink = |buf: Vec<u8>| {
            let sent = out.send(Input::Dump { id, kind, seq, buf }).is_ok();
            waker.wake();
            sent
        };
        let complete = match dumper.dump(kind, &mut sink) {
            Ok(complete) => complete,
            Err(e) => {
                tracing::warn!("dumping {kind:?} from the kernel failed: {e}");
                // What is left of it must not be taken for the next one's.
                dumper.socket = None;
                false
            }
        };
        if out.send(Input::DumpEnd { id, kind, complete }).is_err() {
            return;
        }
        waker.wake();
    }
}

/// The kernel's list of IPv6 routes beside its dump. Where there is none it comes out empty, and what depends on it is punted.
fn list(sink: &mut dyn FnMut(Vec<u8>) -> bool) -> io::Result<bool> {
    let mut file = match File::open("/proc/thread-self/net/ipv6_route") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    loop {
        let mut buf = vec![0; READ];
        let mut len = 0;
        // A read yields a page at most.
        while len < READ / 2 {
            match file.read(&mut buf[len..])? {
                0 if len == 0 => return Ok(true),
                0 => break,
                n => len += n,
            }
        }
        buf.truncate(len);
        if !sink(buf) {
            return Err(io::Error::other("the agent is stopping"));
        }
    }
}

struct Dumper {
    socket: Option<Socket>,
    number: u32,
    buf: Vec<u8>,
}

impl Dumper {
    /// Returns whether every part came, and of one state.
    fn dump(&mut self, kind: DumpKind, sink: &mut dyn FnMut(Vec<u8>) -> bool) -> io::Result<bool> {
        if kind == DumpKind::List6 {
            return list(sink);
        }
        let mut complete = true;
        for request in crate::netlink::build::dump(kind) {
            complete &= self.part(request, sink)?;
        }
        Ok(complete)
    }

    fn part(&mut self, request: Vec<u8>, sink: &mut dyn FnMut(Vec<u8>) -> bool) -> io::Result<bool> {
        let socket = match &mut self.socket {
            Some(s) => s,
            none => {
                let s = Socket::open()?;
                s.receive_buffer(1 << 20)?;
                s.read_timeout(PATIENCE)?;
                none.insert(s)
            }
        };
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let request =
            stamp(request, number, DUMP).ok_or_else(|| io::Error::other("a dump request of ours is too short"))?;
        socket.send(&request, 0)?;
        let mut complete = true;
        loop {
            let n = socket.recv(&mut self.buf)?;
            // Objects first, the end last: what stands before the end is handed on in one piece.
            let mut objects = 0;
            let mut end = None;
            for m in messages(&self.buf[..n]) {
                if m.seq != number {
                    continue;
                }
                complete &= m.flags & NLM_F_DUMP_INTR == 0;
                if m.kind == NLMSG_DONE || m.kind == NLMSG_ERROR {
                    end = Some((m.errno(), m.ext_ack()));
                    break;
                }
                objects += m.bytes.len().next_multiple_of(4);
            }
            if objects > 0 && !sink(self.buf[..objects.min(n)].to_vec()) {
                return Err(io::Error::other("the agent is stopping"));
            }
            match end {
                None => {}
                Some((0, _)) => return Ok(complete),
                // The kernel was built without this family or this kind of object: then there are none.
                Some((libc::EOPNOTSUPP | libc::EAFNOSUPPORT, _)) => return Ok(complete),
                Some((e, why)) => {
                    let e = io::Error::from_raw_os_error(e);
                    return Err(if why.is_empty() { e } else { io::Error::new(e.kind(), format!("{e} ({why})")) });
                }
            }
        }
    }
}
