//! A worker thread: frames from the wires through the pipeline, to wires or to the kernel, and from the kernel to the wires.
//!
//! It waits in one place, serves ports in turn with a bounded batch each, and counts whatever goes nowhere. What the state
//! of a port is, the control side says by [`Command`]s; tables are behind [`Pipeline`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hal::{DropReason, Nanos, PortId};
use rustix::event::{EventfdFlags, eventfd};

use crate::hostif::Tap;
use crate::policer::Policers;
use crate::pool::{Pool, SLOTS};
use crate::stage::{Packet, Pipeline, Verdict};
use crate::wire::Wire;

/// Frames that go through the pipeline at once.
const BATCH: usize = 64;
/// How often losses before the chip are asked for.
const MISSED: Duration = Duration::from_secs(1);

/// What the control side tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Whether the port has link: without, frames from the kernel are dropped.
    Link(PortId, bool),
    /// Whether frames may cross the port's netdev; it may have been moved or deleted.
    Deliver(PortId, bool),
    /// The port has this netdev from now on.
    Attach(PortId, Tap),
    /// End.
    Stop,
}

/// A port as a worker has it.
pub struct Port {
    /// For messages.
    pub name: String,
    /// The driver's end.
    pub wire: Box<dyn Wire>,
    /// The netdev's end; `None` if there is none.
    pub tap: Option<Tap>,
}

/// The control side's hold on a worker. Dropping it ends the worker.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Tell it; takes effect before the next batch.
    pub fn send(&self, c: Command) {
        if self.commands.send(c).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// Start a worker for these ports, in the order of their numbers. All start without link.
///
/// # Errors
/// No thread or descriptor to be had.
pub fn start(ports: Vec<Port>, pipeline: Pipeline, policers: Policers, frame: u32) -> io::Result<Handle> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let (commands, inbox) = channel();
    let ports: Vec<_> = ports
        .into_iter()
        .map(|p| Front { name: p.name, wire: p.wire, tap: p.tap, link: false, deliver: true, warned: false })
        .collect();
    let w = Worker {
        back: Back { ports, pipeline, policers, start: Instant::now(), host: Pool::new() },
        inbox,
        wake: wake.clone(),
        frame: frame as usize,
    };
    let thread = std::thread::Builder::new().name("worker-0".into()).spawn(move || w.run())?;
    Ok(Handle { commands, wake, thread: Some(thread) })
}

struct Front {
    name: String,
    wire: Box<dyn Wire>,
    tap: Option<Tap>,
    link: bool,
    deliver: bool,
    /// Whether it was said that some super-frames can't be cut.
    warned: bool,
}

struct Worker {
    back: Back,
    inbox: Receiver<Command>,
    wake: Arc<OwnedFd>,
    frame: usize,
}

/// All but the pool of received frames, whose packets borrow it while this works on them.
struct Back {
    ports: Vec<Front>,
    pipeline: Pipeline,
    policers: Policers,
    start: Instant,
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

impl Worker {
    fn run(mut self) {
        let n = self.back.ports.len();
        let mut rx = Pool::new();
        // The wires' descriptors, the TAPs', the one that wakes us.
        let mut fds: Vec<_> = self.back.ports.iter().map(|p| pollfd(p.wire.fd().map(|f| f.as_raw_fd()))).collect();
        fds.extend(self.back.ports.iter().map(|p| pollfd(p.tap.as_ref().map(|t| t.fd().as_raw_fd()))));
        fds.push(pollfd(Some(self.wake.as_fd().as_raw_fd())));
        let (mut turn, mut asked) = (0, Instant::now());
        loop {
            wait(&mut fds, MISSED.as_millis() as i32);
            if fds[2 * n].revents != 0 {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                while let Ok(c) = self.inbox.try_recv() {
                    match c {
                        Command::Link(p, on) => self.back.ports[p.0 as usize].link = on,
                        Command::Deliver(p, on) => self.back.ports[p.0 as usize].deliver = on,
                        Command::Attach(p, tap) => {
                            fds[n + p.0 as usize] = pollfd(Some(tap.fd().as_raw_fd()));
                            self.back.ports[p.0 as usize].tap = Some(tap);
                        }
                        Command::Stop => return,
                    }
                }
            }
            for i in (0..n).map(|i| (i + turn) % n) {
                if fds[i].revents != 0 {
                    self.take_wire(PortId(i as u32), &mut rx, &mut fds[n..2 * n]);
                }
                if fds[n + i].revents != 0 && !self.back.take_host(PortId(i as u32)) {
                    fds[n + i].fd = -1;
                }
            }
            turn = turn.wrapping_add(1);
            if asked.elapsed() >= MISSED {
                asked = Instant::now();
                self.back.missed();
            }
        }
    }

    fn take_wire(&mut self, port: PortId, rx: &mut Pool, taps: &mut [libc::pollfd]) {
        let back = &mut self.back;
        rx.clear();
        let front = &mut back.ports[port.0 as usize];
        let got = front.wire.recv(rx);
        if got.bad.frames > 0 && !front.warned {
            front.warned = true;
            tracing::warn!(
                "port {}: the far end of its wire sends super-frames that can't be cut (of a tunnel, or SCTP); they are \
                 dropped as wire-rx: turn their segmentation off there (ethtool -K DEVICE tx-udp_tnl-segmentation off)",
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
            let fits = p.frame.len() <= frame;
            if !fits {
                c.dropped(port, DropReason::Giant, p.frame.len());
            }
            fits
        });
        for batch in packets.chunks_mut(BATCH) {
            back.pipeline.run(batch);
            // What was punted comes back from the kernel, into queues that hold about a thousand frames each: serve them
            // before the next batch, or a burst from one wire overflows them.
            if back.settle(batch) {
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
}

impl Back {
    fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Carry out the verdicts; whether any frame was given to the kernel.
    fn settle(&mut self, batch: &mut [Packet<'_>]) -> bool {
        let now = self.now();
        let counters = self.pipeline.counters();
        let mut punted = false;
        for p in batch.iter_mut() {
            let Verdict::Trap(class) = p.verdict else { continue };
            let front = &self.ports[p.port.0 as usize];
            let lost = match &front.tap {
                _ if !self.policers.pass(class, now) => Some(DropReason::Policer),
                Some(tap) if front.deliver => match tap.write(p.frame) {
                    Ok(()) => None,
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)) => {
                        Some(DropReason::TrapQueue)
                    }
                    Err(_) => Some(DropReason::HostIf),
                },
                _ => Some(DropReason::HostIf),
            };
            match lost {
                Some(why) => counters.trap_dropped(p.port, class, why, p.frame.len()),
                None => punted = true,
            }
        }
        // All frames for one wire at once, wire after wire.
        let mut done = 0;
        while let Some(first) = batch[done..].iter().position(|p| matches!(p.verdict, Verdict::Forward { .. })) {
            done += first;
            let Verdict::Forward { port: to, .. } = batch[done].verdict else { break };
            let Some(out) = self.ports.get_mut(to.0 as usize) else { break };
            let mut frames = smallvec::SmallVec::<[&[u8]; BATCH]>::new();
            for p in &batch[done..] {
                if let Verdict::Forward { port, len } = p.verdict
                    && port == to
                {
                    frames.push(&p.frame[..(len as usize).min(p.frame.len())]);
                }
            }
            out.wire.send(&frames, &mut |f, sent| match sent {
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

    /// A batch of what the kernel sends by that port. `false` if nothing will ever come again.
    fn take_host(&mut self, port: PortId) -> bool {
        let front = &mut self.ports[port.0 as usize];
        let Some(tap) = &front.tap else { return false };
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
        let lost = if !front.deliver {
            Some(DropReason::HostIf)
        } else if !front.link {
            Some(DropReason::LinkDown)
        } else {
            None
        };
        if let Some(why) = lost {
            self.host.frames().for_each(|f| c.dropped(port, why, f.len()));
            return alive;
        }
        let frames: smallvec::SmallVec<[&[u8]; SLOTS]> = self.host.frames().collect();
        front.wire.send(&frames, &mut |f, sent| match sent {
            true => c.tx(port, f.len()),
            false => c.dropped(port, DropReason::WireTx, f.len()),
        });
        alive
    }

    fn missed(&mut self) {
        let c = self.pipeline.counters();
        for (i, p) in self.ports.iter_mut().enumerate() {
            (0..p.wire.missed()).for_each(|_| c.dropped(PortId(i as u32), DropReason::WireRx, 0));
        }
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

    impl Wire for Pair {
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
        fn send(&mut self, frames: &[&[u8]], each: &mut dyn FnMut(&[u8], bool)) {
            frames.iter().for_each(|f| each(f, rustix::io::write(&self.0, f).is_ok()));
        }
        fn missed(&mut self) -> u64 {
            3
        }
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
            Port { name: "swp1".into(), wire: Box::new(Pair(near)), tap: None },
            Port { name: "swp2".into(), wire: Box::new(Pair(idle)), tap: None },
        ];
        let w = start(ports, chip.pipeline(), Policers::new(crate::policer::default), 1518).unwrap();
        w.send(Command::Deliver(PortId(0), false));
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
