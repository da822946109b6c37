//! Worker threads: frames from the wires through the pipeline, to wires or to the kernel, and from the kernel to the wires.
//!
//! Each port's wire and netdev are read by one worker, so that the order within a flow stays; any worker sends on any wire.
//! A worker waits in one place, serves its ports in turn with a bounded batch each, and counts whatever goes nowhere. What
//! the state of a port is, the control side says by its [`Handle`]; tables are behind [`Pipeline`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hal::{DropReason, Nanos, PortId};
use rustix::event::{EventfdFlags, eventfd};

use crate::hostif::Tap;
use crate::policer::Policers;
use crate::pool::{Pool, SLOTS};
use crate::stage::{Packet, Pipeline, Verdict};
use crate::sync::{Epochs, Reader, Words32};
use crate::wire::{Receive, Transmit, Wire};

/// Frames that go through the pipeline at once.
const BATCH: usize = 64;
/// How often losses before the chip are asked for.
const MISSED: Duration = Duration::from_secs(1);
/// Most workers.
pub const MAX: usize = 64;

/// What the control side tells a worker.
enum Command {
    /// The port has this netdev from now on.
    Host(PortId, Arc<Tap>),
    /// Frames for the port leave there from now on.
    Tx(PortId, Arc<dyn Transmit>),
    /// The port's frames come in there from now on; told to the worker that serves it.
    Rx(PortId, Box<dyn Receive>),
    /// Say that all before was done.
    Fence(Sender<()>),
    /// End.
    Stop,
}

/// A port as the workers have it.
#[derive(Debug)]
pub struct Port {
    /// For messages.
    pub name: String,
    /// The driver's ends.
    pub wire: Wire,
    /// The netdev's end; `None` if there is none.
    pub tap: Option<Tap>,
}

/// What all workers and the control side share.
struct Shared {
    /// A word a port: [`LINK`] and [`DELIVER`].
    flags: Words32,
    /// Held while a port's netdev is read and what came from it is sent.
    reading: Box<[Mutex<()>]>,
    policers: Policers,
    start: Instant,
}

/// The port has link: without, frames from the kernel are dropped.
const LINK: u32 = 1;
/// Frames may cross the port's netdev.
const DELIVER: u32 = 2;

impl Shared {
    fn is(&self, port: PortId, flag: u32) -> bool {
        self.flags.get(port.0 as usize) & flag != 0
    }
    fn read(&self, port: PortId) -> Option<MutexGuard<'_, ()>> {
        Some(self.reading.get(port.0 as usize)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The control side's hold on the workers. Dropping it ends them.
pub struct Handle {
    workers: Vec<Lead>,
    shared: Arc<Shared>,
    turns: Epochs,
}

struct Lead {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Lead {
    /// Takes effect before the worker's next batch.
    fn send(&self, c: Command) {
        if self.commands.send(c).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Handle {
    /// How many there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Whether all still run.
    pub fn is_alive(&self) -> bool {
        self.workers.iter().all(|w| w.thread.as_ref().is_some_and(|t| !t.is_finished()))
    }

    /// Whether the port has link: without, frames from the kernel are dropped. In force when it returns.
    pub fn link(&self, port: PortId, on: bool) {
        self.flag(port, LINK, on);
    }

    /// Whether frames may cross the port's netdev; it may have been moved or deleted. In force when it returns.
    pub fn deliver(&self, port: PortId, on: bool) {
        self.flag(port, DELIVER, on);
    }

    fn flag(&self, port: PortId, flag: u32, on: bool) {
        let (i, was) = (port.0 as usize, self.shared.flags.get(port.0 as usize));
        self.shared.flags.set(i, if on { was | flag } else { was & !flag });
        self.turns.wait(self.turns.retire());
    }

    /// The port has this netdev from now on. In force when it returns.
    pub fn host(&self, port: PortId, tap: Tap) {
        let tap = Arc::new(tap);
        self.workers.iter().for_each(|w| w.send(Command::Host(port, tap.clone())));
        self.fence();
    }

    /// The port has this wire from now on. In force when it returns.
    pub fn wire(&self, port: PortId, wire: Wire) {
        self.workers.iter().for_each(|w| w.send(Command::Tx(port, wire.tx.clone())));
        if let Some(w) = self.workers.get(port.0 as usize % self.workers.len().max(1)) {
            w.send(Command::Rx(port, wire.rx));
        }
        self.fence();
    }

    /// Until every worker that lives has done what it was told.
    fn fence(&self) {
        let (done, all) = channel();
        self.workers.iter().for_each(|w| w.send(Command::Fence(done.clone())));
        drop(done);
        while all.recv().is_ok() {}
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.workers.iter().for_each(|w| w.send(Command::Stop));
        for t in self.workers.iter_mut().filter_map(|w| w.thread.take()) {
            let _ = t.join();
        }
    }
}

/// Start a worker for each pipeline; the ports, in the order of their numbers, are theirs by turns. All start without link.
/// `turns` tells the tables' writer when no worker is still at a frame that it began before.
///
/// # Errors
/// No thread or descriptor to be had.
pub fn start(
    ports: Vec<Port>,
    pipelines: Vec<Pipeline>,
    turns: &Epochs,
    policers: Policers,
    frame: u32,
) -> io::Result<Handle> {
    let n = ports.len();
    let flags = Words32::new(n);
    (0..n).for_each(|i| flags.set(i, DELIVER));
    let reading = (0..n).map(|_| Mutex::new(())).collect();
    let shared = Arc::new(Shared { flags, reading, policers, start: Instant::now() });
    let (mut fronts, mut ends) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for p in ports {
        ends.push(Some(p.wire.rx));
        fronts.push(Front { name: p.name, tx: p.wire.tx, tap: p.tap.map(Arc::new), warned: false });
    }
    let mut handle = Handle { workers: Vec::new(), shared: shared.clone(), turns: turns.clone() };
    let workers = pipelines.len();
    for (w, pipeline) in pipelines.into_iter().enumerate() {
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (commands, inbox) = channel();
        let own = |i: usize| i % workers == w;
        let worker = Worker {
            rx: ends.iter_mut().enumerate().map(|(i, e)| if own(i) { e.take() } else { None }).collect(),
            back: Back {
                ports: fronts.clone(),
                pipeline,
                shared: shared.clone(),
                turn: Arc::new(turns.reader()),
                host: Pool::new(),
            },
            own: (0..n).filter(|i| own(*i)).collect(),
            inbox,
            wake: wake.clone(),
            frame: frame as usize,
        };
        let thread = std::thread::Builder::new().name(format!("worker-{w}")).spawn(move || worker.run())?;
        handle.workers.push(Lead { commands, wake, thread: Some(thread) });
    }
    Ok(handle)
}

/// A port as each worker has it.
#[derive(Clone)]
struct Front {
    name: String,
    tx: Arc<dyn Transmit>,
    tap: Option<Arc<Tap>>,
    /// Whether it was said that some super-frames can't be cut.
    warned: bool,
}

struct Worker {
    back: Back,
    /// By port; those that other workers read are not there.
    rx: Vec<Option<Box<dyn Receive>>>,
    /// The ports that it reads.
    own: Vec<usize>,
    inbox: Receiver<Command>,
    wake: Arc<OwnedFd>,
    frame: usize,
}

/// All but the pool of received frames, whose packets borrow it while this works on them.
struct Back {
    ports: Vec<Front>,
    pipeline: Pipeline,
    shared: Arc<Shared>,
    turn: Arc<Reader>,
    host: Pool,
}

/// poll(2) on descriptors of which some may be -1. Returns whether any is ready.
fn wait(fds: &mut [libc::pollfd], timeout: i32) -> bool {
    // SAFETY: pointer and length are of the slice.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) > 0 }
}

fn pollfd(fd: Option<RawFd>) -> libc::pollfd {
    libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 }
}

/// What a worker waits on: its wires, its netdevs, the descriptor that wakes it; and all netdevs, which it looks at when it
/// has punted.
struct Fds {
    mine: Vec<libc::pollfd>,
    taps: Vec<libc::pollfd>,
}

impl Worker {
    fn run(mut self) {
        let n = self.own.len();
        let mut rx = Pool::new();
        let mut fds = self.fds();
        let (mut turn, mut asked) = (0, Instant::now());
        loop {
            wait(&mut fds.mine, MISSED.as_millis() as i32);
            if fds.mine[2 * n].revents != 0 {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                if !self.obey() {
                    return;
                }
                fds = self.fds();
                continue;
            }
            for k in (0..n).map(|k| (k + turn) % n) {
                let port = PortId(self.own[k] as u32);
                if fds.mine[k].revents != 0 {
                    self.take_wire(port, &mut rx, &mut fds.taps);
                }
                if fds.mine[n + k].revents != 0 && !self.back.take_host(port) {
                    fds.mine[n + k].fd = -1;
                }
            }
            turn = turn.wrapping_add(1);
            if asked.elapsed() >= MISSED {
                asked = Instant::now();
                self.missed();
            }
        }
    }

    fn fds(&self) -> Fds {
        let wire = |i: usize| pollfd(self.rx[i].as_ref().and_then(|r| r.fd()).map(|f| f.as_raw_fd()));
        let tap = |p: &Front| pollfd(p.tap.as_ref().map(|t| t.fd().as_raw_fd()));
        let mut mine: Vec<_> = self.own.iter().map(|i| wire(*i)).collect();
        mine.extend(self.own.iter().map(|i| tap(&self.back.ports[*i])));
        mine.push(pollfd(Some(self.wake.as_fd().as_raw_fd())));
        Fds { mine, taps: self.back.ports.iter().map(tap).collect() }
    }

    /// Do as told; `false`: to end.
    fn obey(&mut self) -> bool {
        while let Ok(c) = self.inbox.try_recv() {
            match c {
                Command::Host(p, tap) => self.back.ports[p.0 as usize].tap = Some(tap),
                Command::Tx(p, tx) => self.back.ports[p.0 as usize].tx = tx,
                Command::Rx(p, rx) => self.rx[p.0 as usize] = Some(rx),
                Command::Fence(done) => drop(done),
                Command::Stop => return false,
            }
        }
        true
    }

    fn take_wire(&mut self, port: PortId, rx: &mut Pool, taps: &mut [libc::pollfd]) {
        let back = &mut self.back;
        let Some(wire) = &mut self.rx[port.0 as usize] else { return };
        rx.clear();
        let got = wire.recv(rx);
        let front = &mut back.ports[port.0 as usize];
        if got.bad.frames > 0 && !front.warned {
            front.warned = true;
            tracing::warn!(
                "port {}: the far end of its wire sends super-frames that can't be cut (SCTP, or of a tunnel that is not \
                 known); they are dropped as wire-rx: turn that off there (ethtool -K DEVICE tx-sctp-segmentation off, or \
                 gso off)",
                front.name
            );
        }
        let c = back.pipeline.counters();
        (0..got.gso).for_each(|_| c.gso(port));
        (0..got.csum).for_each(|_| c.csum(port));
        for (lost, why) in [(got.bad, DropReason::WireRx), (got.giant, DropReason::Giant)] {
            let mut bytes = lost.bytes;
            for _ in 0..lost.frames {
                c.dropped(port, why, bytes as usize);
                bytes = 0;
            }
        }
        let mut packets = rx.packets(port);
        let frame = self.frame;
        packets.retain(|p| {
            let fits = p.frame().len() <= frame;
            if !fits {
                c.dropped(port, DropReason::Giant, p.frame().len());
            }
            fits
        });
        for batch in packets.chunks_mut(BATCH) {
            if back.forward(batch) {
                // What was punted comes back from the kernel, into queues that hold about a thousand frames each: see
                // them served before the next batch, or a burst from one wire overflows them. Those of other workers, too:
                // each has its own burst to see to.
                for _ in 0..4 {
                    if !wait(taps, 0) {
                        break;
                    }
                    for (i, t) in taps.iter_mut().enumerate().filter(|(_, t)| t.revents != 0) {
                        if !back.take_host(PortId(i as u32)) {
                            t.fd = -1;
                        }
                    }
                }
            }
        }
    }

    fn missed(&mut self) {
        let c = self.back.pipeline.counters();
        for (i, rx) in self.rx.iter_mut().enumerate() {
            let lost = rx.as_mut().map_or(0, |r| r.missed());
            (0..lost).for_each(|_| c.dropped(PortId(i as u32), DropReason::WireRx, 0));
        }
    }
}

impl Back {
    /// A batch, from the lookup to the last frame sent: one turn, so that who waits for the turn's end knows that nothing
    /// leaves by an older state. Whether any frame was given to the kernel.
    fn forward(&mut self, batch: &mut [Packet<'_>]) -> bool {
        let turn = self.turn.clone();
        let _turn = turn.pin();
        self.pipeline.run(batch);
        self.settle(batch)
    }

    /// Carry out the verdicts; whether any frame was given to the kernel.
    fn settle(&mut self, batch: &mut [Packet<'_>]) -> bool {
        let now = self.shared.now();
        let counters = self.pipeline.counters();
        let mut punted = false;
        for p in batch.iter_mut() {
            let Verdict::Trap(class) = p.verdict else { continue };
            let lost = match &self.ports[p.port.0 as usize].tap {
                _ if !self.shared.policers.pass(class, now) => Some(DropReason::Policer),
                Some(tap) if self.shared.is(p.port, DELIVER) => match tap.write(p.frame()) {
                    Ok(()) => None,
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)) => {
                        Some(DropReason::TrapQueue)
                    }
                    Err(_) => Some(DropReason::HostIf),
                },
                _ => Some(DropReason::HostIf),
            };
            match lost {
                Some(why) => counters.trap_dropped(p.port, class, why, p.frame().len()),
                None => punted = true,
            }
        }
        self.flood(batch);
        // All frames for one wire at once, wire after wire.
        let mut done = 0;
        while let Some(first) = batch[done..].iter().position(|p| matches!(p.verdict, Verdict::Forward { .. })) {
            done += first;
            let Verdict::Forward { port: to, .. } = batch[done].verdict else { break };
            let Some(out) = self.ports.get(to.0 as usize) else { break };
            let mut frames = smallvec::SmallVec::<[&[u8]; BATCH]>::new();
            for p in &batch[done..] {
                if let Some((port, frame)) = p.sent()
                    && port == to
                {
                    frames.push(frame);
                }
            }
            out.tx.send(&frames, &mut |f, sent| match sent {
                true => counters.tx(to, f.len()),
                false => counters.dropped(to, DropReason::WireTx, f.len()),
            });
            drop(frames);
            for p in &mut batch[done..] {
                // Counted; it takes no further part here.
                if matches!(p.verdict, Verdict::Forward { port, .. } if port == to) {
                    p.verdict = Verdict::Drop(DropReason::WireTx);
                }
            }
        }
        punted
    }

    /// Send the frames that leave by several ports.
    fn flood(&self, batch: &mut [Packet<'_>]) {
        let counters = self.pipeline.counters();
        for p in batch.iter_mut() {
            let Verdict::Flood { first, copies, .. } = p.verdict else { continue };
            let all = self.pipeline.copies().get(first as usize..).and_then(|c| c.get(..usize::from(copies)));
            let mut tagged = all.and_then(|c| c.first()).is_some_and(|c| c.tagged);
            for c in all.into_iter().flatten() {
                if tagged && !c.tagged {
                    tagged = false;
                    p.untag();
                }
                let Some(out) = self.ports.get(c.port.0 as usize) else { continue };
                out.tx.send(&[p.flooded()], &mut |f, sent| match sent {
                    true => counters.tx(c.port, f.len()),
                    false => counters.dropped(c.port, DropReason::WireTx, f.len()),
                });
            }
        }
    }

    /// A batch of what the kernel sends by that port. `false` if nothing will ever come again.
    fn take_host(&mut self, port: PortId) -> bool {
        let turn = self.turn.clone();
        let front = &self.ports[port.0 as usize];
        let Some(tap) = &front.tap else { return false };
        // What is read is sent before anyone reads more, so that order stays.
        let _reading = self.shared.read(port);
        let _turn = turn.pin();
        self.host.clear();
        let mut alive = true;
        for i in 0..SLOTS {
            match tap.read(self.host.slot(i)) {
                Ok(n) => self.host.keep(i, n),
                Err(e) => {
                    alive = e.raw_os_error() != Some(libc::EBADFD);
                    break;
                }
            }
        }
        let c = self.pipeline.counters();
        self.host.frames().for_each(|f| c.from_host(port, f.len()));
        let lost = if !self.shared.is(port, DELIVER) {
            Some(DropReason::HostIf)
        } else if !self.shared.is(port, LINK) {
            Some(DropReason::LinkDown)
        } else {
            None
        };
        if let Some(why) = lost {
            self.host.frames().for_each(|f| c.dropped(port, why, f.len()));
            return alive;
        }
        let frames: smallvec::SmallVec<[&[u8]; SLOTS]> = self.host.frames().collect();
        front.tx.send(&frames, &mut |f, sent| match sent {
            true => c.tx(port, f.len()),
            false => c.dropped(port, DropReason::WireTx, f.len()),
        });
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::SimChip;
    use crate::wire::Received;
    use hal::{Backend, Counters, TrapClass};
    use std::os::fd::BorrowedFd;

    /// A wire in memory: a socket pair of packets.
    struct Pair(OwnedFd);

    impl Receive for Pair {
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
        fn recv(&mut self, pool: &mut Pool) -> Received {
            for i in 0..SLOTS {
                match rustix::io::read(&self.0, pool.slot(i)) {
                    Ok(n) if n > 0 => pool.keep(i, n),
                    _ => break,
                }
            }
            Received::default()
        }
        fn missed(&mut self) -> u64 {
            3
        }
    }

    impl Transmit for Pair {
        fn send(&self, frames: &[&[u8]], each: &mut dyn FnMut(&[u8], bool)) {
            frames.iter().for_each(|f| each(f, rustix::io::write(&self.0, f).is_ok()));
        }
    }

    fn wire(fd: OwnedFd) -> Wire {
        let tx = Arc::new(Pair(fd.try_clone().unwrap()));
        Wire { rx: Box::new(Pair(fd)), tx }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap()
    }

    /// Without privileges: frames of a port whose netdev is gone are dropped with that reason, on both workers' ends, and
    /// what the wire lost shows too.
    #[test]
    fn a_port_without_netdev_counts_what_it_drops() {
        let chip = SimChip::new(crate::config::profile("small").unwrap(), 2);
        let (near, far) = pair();
        let (idle, _far) = pair();
        let ports = vec![
            Port { name: "swp1".into(), wire: wire(near), tap: None },
            Port { name: "swp2".into(), wire: wire(idle), tap: None },
        ];
        let pipelines = vec![chip.pipeline(), chip.pipeline()];
        let w = start(ports, pipelines, chip.turns(), Policers::new(crate::policer::default), 1518).unwrap();
        w.deliver(PortId(0), false);
        for len in [60, 1518, 1519, 13] {
            rustix::io::write(&far, &vec![0xff; len]).unwrap();
        }
        let drops = |c: &Counters, why| c.drops.iter().find(|d| d.0 == why).unwrap().1.frames;
        let begin = Instant::now();
        loop {
            let c = chip.counters();
            let seen = [DropReason::HostIf, DropReason::Giant, DropReason::Runt].map(|r| drops(&c, r));
            if seen == [2, 1, 1] && drops(&c, DropReason::WireRx) >= 6 {
                let class = |c: &Counters| c.trap_drops.iter().map(|t| t.1.frames).sum::<u64>();
                assert_eq!(class(&c), 2, "{c:?}");
                assert_eq!(c.traps.iter().map(|t| t.1.frames).sum::<u64>(), 0, "none reached the kernel: {c:?}");
                assert_eq!(c.traps.len(), TrapClass::COUNT);
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{c:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(w.is_alive());
        drop(w);
        assert_eq!(rustix::io::read(&far, &mut [0; 100]), Ok(0), "the worker is gone and its wire closed");
    }
}
