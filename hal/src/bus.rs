//! The contract as messages over a Unix stream socket, the same whether chip and agent are two processes or one.
//!
//! A frame is a little-endian `u32` length and that many bytes of postcard. [`Conn`] is non-blocking and keeps a bounded
//! amount of unsent bytes; the peers bound what they have in flight by the window in [`Hello`]. Not here: what is done with a message.

use core::marker::PhantomData;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::chip::{Counters, Event, Op, Rejected, Usage};
use crate::profile::Profile;
use crate::tables::{AnyKey, Record, TableId};

/// Version of the messages; agent and chip must agree.
pub const VERSION: u32 = 5;
/// Longest frame that is accepted, in bytes: a batch of [`BATCH`] operations is far below it.
pub const FRAME_MAX: usize = 4 << 20;
/// Operations in a batch, and records in an answer to a dump, at most.
pub const BATCH: usize = 4096;
/// Batches that an agent may have in flight.
pub const WINDOW: usize = 8;
/// Unsent bytes beyond which [`Conn::send`] refuses.
const OUT_MAX: usize = 16 << 20;

/// From agent to chip.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ToChip {
    /// First message on a connection.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Carry out these operations in order; answered by [`FromChip::Done`].
    Batch {
        /// Chosen by the agent; comes back in the answer.
        id: u64,
        /// At most [`BATCH`].
        ops: Vec<Op>,
    },
    /// Answered by [`FromChip::Records`].
    Dump {
        /// Comes back in the answer.
        id: u64,
        /// Which table.
        table: TableId,
        /// 0, or `next` of the answer before.
        cursor: u64,
    },
    /// Read and clear hit marks; answered by [`FromChip::Active`].
    Active {
        /// Comes back in the answer.
        id: u64,
        /// Which table.
        table: TableId,
        /// 0, or `next` of the answer before.
        cursor: u64,
    },
    /// Answered by [`FromChip::Stats`].
    Stats {
        /// Comes back in the answer.
        id: u64,
    },
}

/// What a chip says first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// Random, new at each start of the chip (law f).
    pub boot_id: u64,
    /// What the chip is.
    pub profile: Profile,
    /// What else it says of itself, for status displays: program, version, threads.
    pub about: String,
}

/// From chip to agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum FromChip {
    /// Answer to [`ToChip::Hello`].
    Hello(Box<Hello>),
    /// The chip ends the connection, and why: one sentence for the operator.
    Refused(String),
    /// Answer to a batch: applied, but for these.
    Done {
        /// As in the request.
        id: u64,
        /// In ascending order of place.
        rejected: Vec<Rejected>,
    },
    /// Answer to a dump.
    Records {
        /// As in the request.
        id: u64,
        /// At most [`BATCH`].
        records: Vec<Record>,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
    },
    /// Answer to [`ToChip::Active`].
    Active {
        /// As in the request.
        id: u64,
        /// At most [`BATCH`].
        keys: Vec<AnyKey>,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
    },
    /// Answer to [`ToChip::Stats`].
    Stats {
        /// As in the request.
        id: u64,
        /// All counters.
        counters: Box<Counters>,
        /// How full each table is.
        usage: Vec<Usage>,
    },
    /// Unasked.
    Event(Event),
}

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the bus socket failed: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak this protocol.
    #[error("the peer sent a frame that is not of this protocol ({0})")]
    Garbled(&'static str),
    /// The peer does not read what it is sent.
    #[error("the peer does not read: {0} bytes wait for it")]
    Stuck(usize),
}

/// One end of the bus: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Conn<S, R> {
    stream: UnixStream,
    out: VecDeque<u8>,
    inp: Vec<u8>,
    /// Start of what is not yet decoded in `inp`.
    at: usize,
    scratch: Vec<u8>,
    types: PhantomData<fn(S) -> R>,
}

/// The agent's end.
pub type AgentConn = Conn<ToChip, FromChip>;
/// The chip's end.
pub type ChipConn = Conn<FromChip, ToChip>;

/// Both ends over a socket pair: embedded mode.
///
/// # Errors
/// The socket pair could not be made.
pub fn pair() -> io::Result<(AgentConn, ChipConn)> {
    let (a, b) = UnixStream::pair()?;
    Ok((Conn::new(a)?, Conn::new(b)?))
}

impl<S: Serialize, R: DeserializeOwned> Conn<S, R> {
    /// An end on a connected socket, which is made non-blocking.
    ///
    /// # Errors
    /// The socket refused to.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Conn { stream, out: VecDeque::new(), inp: Vec::new(), at: 0, scratch: Vec::new(), types: PhantomData })
    }

    /// Queue a message and send what the socket takes.
    ///
    /// # Errors
    /// [`BusError`]; the connection is then of no more use.
    pub fn send(&mut self, m: &S) -> Result<(), BusError> {
        let mut buf = core::mem::take(&mut self.scratch);
        buf.clear();
        buf.extend_from_slice(&[0; 4]);
        let mut buf =
            postcard::to_extend(m, buf).map_err(|_| BusError::Garbled("a message of ours does not encode"))?;
        let len = buf.len() - 4;
        if len > FRAME_MAX {
            return Err(BusError::Garbled("a message of ours is too long"));
        }
        buf[..4].copy_from_slice(&(len as u32).to_le_bytes());
        if self.out.len() + buf.len() > OUT_MAX {
            return Err(BusError::Stuck(self.out.len()));
        }
        self.out.extend(&buf);
        self.scratch = buf;
        self.flush()
    }

    /// Send what the socket takes of what is queued.
    ///
    /// # Errors
    /// [`BusError`].
    pub fn flush(&mut self) -> Result<(), BusError> {
        while !self.out.is_empty() {
            match self.stream.write(self.out.as_slices().0) {
                Ok(0) => return Err(BusError::Closed),
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(BusError::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits for the socket to take it (poll for writing then).
    pub fn wants_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Bytes that wait for the socket to take them.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// The next message, `None` if there is none yet.
    ///
    /// # Errors
    /// [`BusError`]; what arrived whole before the peer closed still comes out first.
    pub fn recv(&mut self) -> Result<Option<R>, BusError> {
        loop {
            if let Some(m) = self.decode()? {
                return Ok(Some(m));
            }
            if self.at > 0 {
                self.inp.drain(..self.at);
                self.at = 0;
            }
            let have = self.inp.len();
            self.inp.resize(have + (256 << 10), 0);
            let got = self.stream.read(&mut self.inp[have..]);
            self.inp.truncate(have + *got.as_ref().unwrap_or(&0));
            match got {
                Ok(0) => return Err(BusError::Closed),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(BusError::Closed),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<R>, BusError> {
        let rest = &self.inp[self.at..];
        let Some((head, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > FRAME_MAX {
            return Err(BusError::Garbled("a frame is too long"));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let m = postcard::from_bytes(body).map_err(|_| BusError::Garbled("a frame does not decode"))?;
        self.at += 4 + len;
        Ok(Some(m))
    }

    /// The socket, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::*;

    #[test]
    fn messages_cross_in_order_and_a_closed_peer_is_told_last() {
        let (mut a, mut c) = pair().unwrap();
        let ops: Vec<Op> = (0..BATCH as u32)
            .map(|i| {
                let prefix = crate::ip::Prefix::host(i.into());
                Op::Set(Record::Route4(RouteKey { vrf: VrfId(0), prefix }, Fwd::Group(GroupId(i))))
            })
            .collect();
        let mut got = 0;
        for id in 0..64 {
            a.send(&ToChip::Batch { id, ops: ops.clone() }).unwrap();
            while let Some(m) = c.recv().unwrap() {
                assert_eq!(m, ToChip::Batch { id: got, ops: ops.clone() });
                got += 1;
            }
        }
        while a.wants_write() {
            a.flush().unwrap();
            while let Some(m) = c.recv().unwrap() {
                assert!(matches!(m, ToChip::Batch { id, .. } if id == got));
                got += 1;
            }
        }
        a.send(&ToChip::Hello { version: VERSION }).unwrap();
        drop(a);
        while got < 64 {
            c.recv().unwrap().unwrap();
            got += 1;
        }
        assert_eq!(c.recv().unwrap(), Some(ToChip::Hello { version: VERSION }));
        assert!(matches!(c.recv(), Err(BusError::Closed)));
    }

    #[test]
    fn garbage_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut c: ChipConn = Conn::new(b).unwrap();
        (&a).write_all(&[0xff; 64]).unwrap();
        assert!(matches!(c.recv(), Err(BusError::Garbled(_))));
    }

    #[test]
    fn a_peer_that_does_not_read_is_given_up() {
        let (mut a, _c) = pair().unwrap();
        let ops = vec![Op::Remove(AnyKey::Port(PortId(7))); BATCH];
        let stuck = (0..10_000).find_map(|id| a.send(&ToChip::Batch { id, ops: ops.clone() }).err());
        assert!(matches!(stuck, Some(BusError::Stuck(_))));
    }
}
