//! The chip's end of the bus: one agent at a time, its requests carried out on the one writer of the tables.
//!
//! An agent that goes away, or talks nonsense, changes nothing: the tables stay and forwarding goes on (DESIGN, promise 4).

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use hal::bus::{BATCH, ChipConn, FRAME_MAX, VERSION};
use hal::{Backend, BusError, Event, FromChip, Hello, Nanos, Rejected, TableId, ToChip};
use tracing::{info, warn};

use crate::chip::SimChip;

/// Requests carried out before the ports are looked at again: a burst of routes must not delay a link event.
const TURN: usize = 4;
/// Unsent bytes above which no further request is read: an agent that asks faster than it reads has to wait.
const UNSENT: usize = 4 << 20;

/// A listening socket that is removed with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Whether the chip may listen there. Asked before anything is set up; the socket itself comes last, so that who waits
    /// for it finds the chip ready.
    ///
    /// # Errors
    /// One sentence: another chip listens there, or the path is taken.
    pub fn probe(path: &Path) -> Result<(), String> {
        if let Ok(m) = fs::symlink_metadata(path) {
            if !m.file_type().is_socket() {
                return Err(format!("{} is there and is no socket: give another --listen", path.display()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(format!(
                    "another chip listens on {}: end it first, or give another --listen",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// Listen there, mode 0660 and group `virga` if that exists. A file left by a dead chip is replaced.
    ///
    /// # Errors
    /// One sentence: another chip listens there, or the path can't be used.
    pub fn bind(path: &Path) -> Result<Socket, String> {
        let says = |e: io::Error| format!("socket {} can't be made: {e}", path.display());
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(says)?;
        }
        Self::probe(path)?;
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(says(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(says)?;
        listener.set_nonblocking(true).map_err(says)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(says)?;
        if let Some(gid) = group("virga")
            && let Err(e) = std::os::unix::fs::chown(path, None, Some(gid))
        {
            warn!("socket {} can't be given to group virga: {e}", path.display());
        }
        Ok(Socket { listener, path: path.into() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The number of a group in `/etc/group`.
fn group(name: &str) -> Option<u32> {
    let text = fs::read_to_string("/etc/group").ok()?;
    text.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?.get(2)?.parse().ok()
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    chip: SimChip,
    boot_id: u64,
    about: String,
    socket: Option<Socket>,
    agent: Option<ChipConn>,
    /// Whether the agent has said hello.
    greeted: bool,
    events: Vec<Event>,
    /// Events about stations were not sent: it reads too slowly.
    lost: bool,
}

impl Server {
    /// For a chip; agents come by `socket`, or the one agent is at the other end of `agent`.
    ///
    /// # Errors
    /// No random number to be had.
    pub fn new(chip: SimChip, about: String, socket: Option<Socket>, agent: Option<ChipConn>) -> io::Result<Server> {
        use io::Read;
        let mut id = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        let boot_id = u64::from_ne_bytes(id);
        Ok(Server { chip, boot_id, about, socket, agent, greeted: false, events: Vec::new(), lost: false })
    }

    /// The chip, to tell it of its ports.
    pub fn chip(&mut self) -> &mut SimChip {
        &mut self.chip
    }

    /// Whether neither an agent is there nor another can come.
    pub fn is_over(&self) -> bool {
        self.socket.is_none() && self.agent.is_none()
    }

    /// What to wait on: the listener; the agent, and whether for writing, for reading.
    pub fn fds(&self) -> (Option<BorrowedFd<'_>>, Option<(BorrowedFd<'_>, bool, bool)>) {
        use std::os::fd::AsFd;
        let agent = self.agent.as_ref().map(|a| (a.fd(), a.wants_write(), a.unsent() < UNSENT));
        (self.socket.as_ref().map(|s| s.listener.as_fd()), agent)
    }

    /// Take new connections, carry out requests, report events. Whether requests may be left over: to be called again, soon.
    pub fn serve(&mut self, now: Nanos) -> bool {
        self.accept();
        self.chip.poll(now, &mut self.events);
        let Some(mut conn) = self.agent.take() else {
            self.events.clear();
            return false;
        };
        match self.talk(&mut conn) {
            Ok(more) => {
                self.agent = Some(conn);
                return more;
            }
            Err(BusError::Closed) => info!("the agent is gone; what it programmed stays"),
            Err(e) => warn!("the agent is cut off: {e}; what it programmed stays"),
        }
        false
    }

    fn accept(&mut self) {
        let Some(s) = &self.socket else { return };
        loop {
            let stream = match s.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    warn!("a connection was lost: {e}");
                    return;
                }
            };
            let Ok(mut conn) = ChipConn::new(stream) else { continue };
            // An agent that just died may not have been noticed yet: its successor must not pay for that.
            if let Some(old) = &mut self.agent
                && let Some(why) = gone(old)
            {
                info!("the agent is gone ({why}); what it programmed stays");
                self.agent = None;
            }
            if self.agent.is_some() {
                let _ = conn.send(&FromChip::Refused("another agent already drives this chip: end it first".into()));
                continue;
            }
            self.agent = Some(conn);
            (self.greeted, self.lost) = (false, false);
        }
    }

    fn talk(&mut self, conn: &mut ChipConn) -> Result<bool, BusError> {
        conn.flush()?;
        if !self.greeted {
            self.events.clear();
        }
        for e in self.events.drain(..) {
            // One that is stopped must not cost memory for each station that comes: it reads the table when it goes on.
            self.lost |= !matches!(e, Event::Port(_)) && conn.unsent() >= UNSENT;
            if matches!(e, Event::Port(_)) || !self.lost {
                conn.send(&FromChip::Event(e))?;
            }
        }
        if self.lost && conn.unsent() < UNSENT {
            conn.send(&FromChip::Event(Event::FdbLost))?;
            self.lost = false;
        }
        for _ in 0..TURN {
            // The socket says when there is room again.
            if conn.unsent() >= UNSENT {
                return Ok(false);
            }
            let Some(m) = conn.recv()? else { return Ok(false) };
            self.answer(conn, m)?;
        }
        Ok(true)
    }

    fn answer(&mut self, conn: &mut ChipConn, m: ToChip) -> Result<(), BusError> {
        if !self.greeted && !matches!(m, ToChip::Hello { .. }) {
            return Err(BusError::Garbled("it did not say hello first"));
        }
        match m {
            ToChip::Hello { version } if version != VERSION => {
                conn.send(&FromChip::Refused(format!(
                    "this chip speaks version {VERSION} of the bus and the agent version {version}: install both from one release"
                )))?;
                Err(BusError::Garbled("it speaks another version"))
            }
            ToChip::Hello { .. } => {
                self.greeted = true;
                info!("an agent is here");
                conn.send(&FromChip::Hello(Box::new(Hello {
                    version: VERSION,
                    boot_id: self.boot_id,
                    profile: self.chip.profile().clone(),
                    about: self.about.clone(),
                })))
            }
            ToChip::Batch { id, ops } => {
                if ops.len() > BATCH {
                    return Err(BusError::Garbled("a batch is too long"));
                }
                let mut rejected = Vec::new();
                for (i, op) in ops.iter().enumerate() {
                    if let Err(why) = self.chip.apply(op) {
                        rejected.push(Rejected { op: i as u32, why });
                    }
                }
                // No worker may still be sending by what stood before.
                self.chip.grace();
                conn.send(&FromChip::Done { id, rejected })
            }
            ToChip::Dump { id, table, cursor } => {
                let mut records = Vec::new();
                // A group may be long: keep the answer below the longest frame.
                let max = match table {
                    TableId::Group => {
                        (FRAME_MAX / (48 + 10 * self.chip.profile().group_members as usize)).clamp(1, BATCH)
                    }
                    _ => BATCH,
                };
                let next = self.chip.dump(table, cursor, max, &mut records);
                conn.send(&FromChip::Records { id, records, next })
            }
            ToChip::Active { id, table, cursor } => {
                let mut keys = Vec::new();
                let next = self.chip.active(table, cursor, BATCH, &mut keys);
                conn.send(&FromChip::Active { id, keys, next })
            }
            ToChip::Stats { id } => {
                let (counters, usage) = (Box::new(self.chip.counters()), self.chip.usage());
                conn.send(&FromChip::Stats { id, counters, usage })
            }
        }
    }
}

/// Whether the peer has closed its end, and in what words.
fn gone(conn: &ChipConn) -> Option<&'static str> {
    use rustix::event::{PollFd, PollFlags, poll};
    let fd = conn.fd();
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&zero)).ok()?;
    fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR).then_some("closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::{BridgePortId, FdbKey, FidId, Mac};

    /// An agent that does not read is told less, and that it was; the next one begins anew.
    #[test]
    fn a_stopped_agent_costs_no_memory_for_stations() {
        let (mut agent, chip) = hal::bus::pair().unwrap();
        let small = crate::config::profile("small").unwrap();
        let mut s = Server::new(SimChip::new(small, 1), String::new(), None, Some(chip)).unwrap();
        agent.send(&ToChip::Hello { version: VERSION }).unwrap();
        s.serve(0);
        let learned = |n: u32| {
            let [_, a, b, c] = n.to_be_bytes();
            Event::Learned(FdbKey { fid: FidId(7), mac: Mac([2, 0, 0, a, b, c]) }, BridgePortId(1))
        };
        let mut most = 0;
        for round in 0..30 {
            s.events.extend((0..50_000).map(|n| learned(round * 50_000 + n)));
            s.serve(0);
            most = most.max(s.agent.as_ref().map_or(0, ChipConn::unsent));
        }
        assert!(s.lost && most < UNSENT + 1000, "{most} bytes wait");
        let (mut told, mut lost) = (0, 0);
        while lost == 0 || s.agent.as_ref().is_some_and(|a| a.unsent() > 0) {
            s.serve(0);
            while let Some(m) = agent.recv().unwrap() {
                match m {
                    FromChip::Event(Event::FdbLost) => lost += 1,
                    FromChip::Event(Event::Learned(..)) => {
                        assert_eq!(lost, 0);
                        told += 1;
                    }
                    _ => {}
                }
            }
        }
        assert!(told > 0 && told < 1_500_000 && lost == 1, "{told} told, {lost} times lost");
    }
}
