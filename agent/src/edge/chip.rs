//! The connection to the chip: connect, greet, connect again with back-off, give up on a chip that does not answer.
//!
//! Not here: what is said over it, which is the core's, but for the greeting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hal::bus::{AgentConn, VERSION};
use hal::{BusError, FromChip, Nanos, ToChip};

const MS: Nanos = 1_000_000;
/// First and longest pause between two attempts to connect.
const BACKOFF: (Nanos, Nanos) = (20 * MS, 1000 * MS);
/// A chip that refuses us may only not have noticed yet that the agent before us died.
const REFUSED_PATIENCE: Nanos = 2000 * MS;

/// A chip that leaves a request unanswered for this long, while nothing that was asked before it is due, is taken for lost: it is
/// connected to and read anew.
const SILENCE: Nanos = 10_000 * MS;
/// What counts of the time between two looks, at most: a process that was stopped has not listened meanwhile.
const LISTENED: Nanos = 1000 * MS;

/// A request that the chip owes an answer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owed {
    Hello,
    /// By its id, which is counted apart from those of the others.
    Batch(u64),
    Other(u64),
}

/// Where the chip is.
#[derive(Debug)]
pub enum Target {
    /// A chip process that listens on this socket.
    Unix(PathBuf),
    /// In this process; the connection stands already.
    Embedded(AgentConn),
}

/// What the core is told, and what ends the agent.
#[derive(Debug)]
pub enum News {
    /// A message.
    Message(Box<FromChip>),
    /// The connection is gone; one sentence.
    Lost(String),
    /// The agent can't go on; one sentence.
    Fatal(String),
}

/// The connection, or the lack of it.
#[derive(Debug)]
pub struct Link {
    path: Option<PathBuf>,
    conn: Option<AgentConn>,
    /// Whether the chip has greeted us on this connection.
    greeted: bool,
    /// Whether the core knows of this connection.
    known: bool,
    retry_at: Nanos,
    pause: Nanos,
    refused_since: Option<Nanos>,
    /// Whether it was said already that there is no chip.
    complained: bool,
    lost: Option<String>,
    /// Unanswered, in the order in which they were asked.
    owed: VecDeque<Owed>,
    /// For how long the first of them has been the first.
    waited: Nanos,
    /// When that was last counted.
    looked: Nanos,
}

impl Link {
    /// Not yet connected, unless embedded.
    pub fn new(target: Target) -> Link {
        let (path, conn) = match target {
            Target::Unix(p) => (Some(p), None),
            Target::Embedded(c) => (None, Some(c)),
        };
        let mut link = Link {
            path,
            conn,
            greeted: false,
            known: false,
            retry_at: 0,
            pause: BACKOFF.0,
            refused_since: None,
            complained: false,
            lost: None,
            owed: VecDeque::new(),
            waited: 0,
            looked: 0,
        };
        link.greet();
        link
    }

    /// To poll, and whether for writing too.
    pub fn fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.conn.as_ref().map(|c| (c.fd(), c.wants_write()))
    }

    /// When [`Link::poll`] has to be called again though nothing is readable.
    pub fn deadline(&self) -> Option<Nanos> {
        (self.conn.is_none() && self.path.is_some()).then_some(self.retry_at)
    }

    /// Whether a chip has greeted us.
    pub fn up(&self) -> bool {
        self.conn.is_some() && self.greeted
    }

    /// To the chip. Without a connection it is lost, which the core has been or will be told.
    pub fn send(&mut self, m: &ToChip) {
        let Some(c) = &mut self.conn else { return };
        match c.send(m) {
            Ok(()) => {
                if self.owed.is_empty() {
                    self.waited = 0;
                }
                self.owed.push_back(match m {
                    ToChip::Hello { .. } => Owed::Hello,
                    ToChip::Batch { id, .. } => Owed::Batch(*id),
                    ToChip::Dump { id, .. } | ToChip::Active { id, .. } | ToChip::Stats { id } => Owed::Other(*id),
                });
            }
            Err(e) => self.drop_conn(e.to_string()),
        }
    }

    /// Something came: it may be what was owed.
    fn answered(&mut self, m: &FromChip) {
        let what = match m {
            FromChip::Hello(_) | FromChip::Refused(_) => Owed::Hello,
            FromChip::Done { id, .. } => Owed::Batch(*id),
            FromChip::Records { id, .. } | FromChip::Active { id, .. } | FromChip::Stats { id, .. } => Owed::Other(*id),
            FromChip::Event(_) => return,
        };
        if let Some(at) = self.owed.iter().position(|o| *o == what) {
            self.owed.remove(at);
            if at == 0 {
                self.waited = 0;
            }
        }
    }

    /// Nothing has come: whether that is for too long.
    fn silent(&mut self, now: Nanos) -> bool {
        let passed = now.saturating_sub(self.looked).min(LISTENED);
        self.looked = now;
        if self.owed.is_empty() || self.conn.is_none() {
            return false;
        }
        self.waited += passed;
        self.waited >= SILENCE
    }

    /// The next thing that happened.
    pub fn poll(&mut self, now: Nanos) -> Option<News> {
        if self.conn.is_none() && self.lost.is_none() && self.path.is_some() && now >= self.retry_at {
            self.connect(now);
        }
        if let Some(c) = &mut self.conn {
            let got = match c.flush() {
                Ok(()) | Err(BusError::Closed) => c.recv(),
                Err(e) => Err(e),
            };
            match got {
                Ok(None) => {
                    if self.silent(now) {
                        self.drop_conn(format!("it has left a request unanswered for {} s", SILENCE / (1000 * MS)));
                    }
                }
                Ok(Some(m)) => {
                    self.answered(&m);
                    return self.message(now, m);
                }
                Err(e) => self.drop_conn(e.to_string()),
            }
        }
        let why = self.lost.take()?;
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(BACKOFF.1);
        if self.path.is_none() {
            return Some(News::Fatal(format!("the embedded chip is gone: {why}")));
        }
        if core::mem::take(&mut self.known) {
            tracing::warn!("the connection to the chip is lost: {why}; trying again");
            return Some(News::Lost(why));
        }
        None
    }

    fn message(&mut self, now: Nanos, m: FromChip) -> Option<News> {
        match &m {
            FromChip::Refused(why) if !self.greeted => {
                let since = *self.refused_since.get_or_insert(now);
                if self.path.is_none() || now - since >= REFUSED_PATIENCE {
                    return Some(News::Fatal(format!("the chip refuses this agent: {why}")));
                }
                self.conn = None;
                self.owed.clear();
                self.retry_at = now + 100 * MS;
                return None;
            }
            FromChip::Refused(why) => {
                let why = format!("the chip ended the connection: {why}");
                self.drop_conn(why);
                return self.poll(now);
            }
            FromChip::Hello(h) => {
                if h.version != VERSION {
                    return Some(News::Fatal(format!(
                        "the chip speaks version {} of the bus and this agent version {VERSION}: install both of one release",
                        h.version
                    )));
                }
                tracing::info!("chip {} connected, boot id {:016x}", h.profile.name, h.boot_id);
                (self.greeted, self.known, self.complained) = (true, true, false);
                self.refused_since = None;
                self.pause = BACKOFF.0;
            }
            _ => {}
        }
        Some(News::Message(Box::new(m)))
    }

    fn connect(&mut self, now: Nanos) {
        let Some(path) = &self.path else { return };
        match connect(path).and_then(AgentConn::new) {
            Ok(c) => {
                self.conn = Some(c);
                self.greeted = false;
                self.looked = now;
                self.greet();
            }
            Err(e) => {
                if !core::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        "no chip at {}: {e}; is virga-asic running? Trying again until it is",
                        path.display()
                    );
                }
                self.retry_at = now + self.pause;
                self.pause = (self.pause * 2).min(BACKOFF.1);
            }
        }
    }

    fn greet(&mut self) {
        self.send(&ToChip::Hello { version: VERSION });
    }

    fn drop_conn(&mut self, why: String) {
        self.conn = None;
        self.greeted = false;
        self.owed.clear();
        self.lost = Some(why);
    }
}

/// Connect without waiting for a listener whose queue is full.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut addr: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= addr.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
    }
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `addr` is a `sockaddr_un` of the length given.
    let r = unsafe {
        libc::connect(
            std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()),
            (&raw const addr).cast(),
            core::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(UnixStream::from(fd)) }
}

/// A connected pair for tests: a link and the chip's end of it.
#[cfg(test)]
fn pair() -> (Link, hal::bus::ChipConn) {
    let (a, c) = hal::bus::pair().expect("a socket pair");
    (Link::new(Target::Embedded(a)), c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_greets_first_and_a_refusal_is_final_when_embedded() {
        let (mut l, mut c) = pair();
        assert_eq!(c.recv().unwrap(), Some(ToChip::Hello { version: VERSION }));
        c.send(&FromChip::Refused("another agent is connected".into())).unwrap();
        match l.poll(0) {
            Some(News::Fatal(s)) => assert!(s.contains("another agent is connected"), "{s}"),
            n => panic!("{n:?}"),
        }
    }

    #[test]
    fn an_answer_that_does_not_come_is_waited_for_only_so_long() {
        let ask = |l: &mut Link, id| l.send(&ToChip::Stats { id });
        let stats = |id| FromChip::Stats { id, counters: Box::default(), usage: Vec::new() };
        let hello = || {
            let (mut l, mut c) = pair();
            let profile = sim_asic::config::profile("small").unwrap();
            c.send(&FromChip::Hello(Box::new(hal::Hello {
                version: VERSION,
                boot_id: 1,
                profile,
                about: String::new(),
            })))
            .unwrap();
            assert!(matches!(l.poll(0), Some(News::Message(_))));
            (l, c)
        };
        // Nothing is owed: silence is no fault.
        let (mut l, mut c) = hello();
        for s in 0..100 {
            assert!(l.poll(s * 1000 * MS).is_none());
        }
        // One is answered, and the next is not: it has its own time.
        ask(&mut l, 1);
        ask(&mut l, 2);
        let mut now = 100_000 * MS;
        for _ in 0..9 {
            now += 1000 * MS;
            assert!(l.poll(now).is_none());
        }
        c.send(&stats(1)).unwrap();
        assert!(matches!(l.poll(now), Some(News::Message(_))));
        // Events are no answers. A jump of the clock, as after SIGCONT, counts as a second.
        now += 3_600_000 * MS;
        assert!(l.poll(now).is_none());
        let mut waited = 1;
        let end = loop {
            now += 1000 * MS;
            waited += 1;
            assert!(waited <= 20, "it waits for ever");
            if let Some(n) = l.poll(now) {
                break n;
            }
        };
        assert!(matches!(end, News::Fatal(ref s) if s.contains("unanswered for 10 s")), "{end:?}");
        assert_eq!(waited, 10);
        // A chip that does not even greet.
        let (mut l, _c) = pair();
        assert!((0..20u64).any(|s| l.poll(s * 1000 * MS).is_some()));
    }

    #[test]
    fn a_refusal_by_socket_is_believed_only_after_a_while() {
        let dir = std::env::temp_dir().join(format!("virga-link-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("asic.sock");
        let mut l = Link::new(Target::Unix(path.clone()));
        assert!(l.poll(0).is_none(), "nobody listens");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut now = 0;
        let refused = loop {
            now = l.deadline().map_or(now, |d| d.max(now));
            assert!(now < 10_000 * MS, "it never gave up");
            assert!(l.poll(now).is_none());
            let (s, _) = listener.accept().unwrap();
            let mut c = hal::bus::ChipConn::new(s).unwrap();
            c.send(&FromChip::Refused("taken".into())).unwrap();
            if let Some(n) = l.poll(now) {
                break n;
            }
        };
        assert!(matches!(refused, News::Fatal(ref s) if s.contains("taken")), "{refused:?}");
        assert!(now >= REFUSED_PATIENCE);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
