//! A small world for one test: hosts with real stacks, a switch namespace, a chip process between them.
//!
//! Everything carries the test's tag in its name, so that tests run side by side.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hal::bus::{AgentConn, Conn, VERSION};
use hal::{Counters, DropReason, Event, FromChip, Op, PortEntry, PortId, Record, TableId, ToChip, TrapClass};
use sim_asic::netlink::{Link, Netlink};
use sim_asic::netns::NetNs;

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(15);

/// Wait until it holds.
#[track_caller]
pub fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn run(program: &str, args: &[&str]) -> Output {
    let o = Command::new(program).args(args).stdin(Stdio::null()).output();
    o.unwrap_or_else(|e| panic!("{program} does not start: {e}"))
}

/// `ip ARGS`, split at spaces; panics with its words if it fails.
#[track_caller]
pub fn ip(args: &str) -> String {
    let o = run("ip", &args.split(' ').collect::<Vec<_>>());
    assert!(o.status.success(), "ip {args}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

pub struct World {
    pub tag: String,
    pub ports: usize,
    /// Changes the command line.
    pub edit: Option<fn(&mut Vec<String>)>,
    chip: Option<Child>,
    log: PathBuf,
}

impl World {
    /// Namespaces and wires, no chip yet: host `i` has `eth0`, whose peer `TAGwI` waits in the switch namespace.
    pub fn new(tag: &str, ports: usize) -> World {
        let w = World { tag: tag.into(), ports, edit: None, chip: None, log: format!("/run/{tag}.log").into() };
        ip(&format!("netns add {}", w.sw()));
        let off = |ns: &str| {
            NetNs::open(ns)
                .unwrap()
                .run(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap())
                .unwrap();
        };
        off(&w.sw());
        for i in 1..=ports {
            ip(&format!("netns add {}", w.host(i)));
            off(&w.host(i));
            ip(&format!("-n {} link add {} type veth peer name eth0 netns {}", w.sw(), w.wire(i), w.host(i)));
        }
        w
    }

    pub fn sw(&self) -> String {
        format!("{}-sw", self.tag)
    }
    pub fn asic(&self) -> String {
        format!("{}-asic", self.tag)
    }
    pub fn host(&self, i: usize) -> String {
        format!("{}-h{i}", self.tag)
    }
    pub fn wire(&self, i: usize) -> String {
        format!("{}w{i}", self.tag)
    }
    pub fn socket(&self) -> String {
        format!("/run/{}/asic.sock", self.tag)
    }

    /// Run in the switch namespace, in the chip's, in a host's.
    pub fn in_sw<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        NetNs::open(&self.sw()).unwrap().run(f).unwrap()
    }
    pub fn in_asic<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        NetNs::open(&self.asic()).unwrap().run(f).unwrap()
    }
    pub fn in_host<T: Send>(&self, i: usize, f: impl FnOnce() -> T + Send) -> T {
        NetNs::open(&self.host(i)).unwrap().run(f).unwrap()
    }

    /// Addresses as in the lab, forwarding on, all up.
    pub fn address(&self) {
        self.in_sw(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        for i in 1..=self.ports {
            let (sw, h) = (self.sw(), self.host(i));
            ip(&format!("-n {sw} addr add 10.0.{i}.1/24 dev swp{i}"));
            ip(&format!("-n {sw} addr add 2001:db8:{i}::1/64 dev swp{i}"));
            ip(&format!("-n {sw} link set swp{i} up"));
            ip(&format!("-n {h} addr add 10.0.{i}.2/24 dev eth0"));
            ip(&format!("-n {h} addr add 2001:db8:{i}::2/64 dev eth0"));
            ip(&format!("-n {h} link set eth0 up"));
            ip(&format!("-n {h} route add default via 10.0.{i}.1"));
            ip(&format!("-n {h} route add default via 2001:db8:{i}::1"));
        }
    }

    /// The chip's command line.
    pub fn args(&self) -> Vec<String> {
        let mut a: Vec<String> =
            (1..=self.ports).map(|i| format!("--port=swp{i}=packet:{}@{}", self.wire(i), self.sw())).collect();
        a.push(format!("--listen=unix:{}", self.socket()));
        a.push(format!("--netns={}", self.asic()));
        a.push(format!("--host-netns={}", self.sw()));
        if let Some(edit) = &self.edit {
            edit(&mut a);
        }
        a
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, more: &[&str]) {
        assert!(self.chip.is_none());
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_virga-asic"))
            .args(self.args())
            .args(more)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.chip = Some(child);
        until("the chip's socket", || {
            let c = self.chip.as_mut().unwrap();
            assert!(c.try_wait().unwrap().is_none(), "the chip ended: {}", self.log());
            UnixStream::connect(self.socket()).ok()
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.chip.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut c = self.chip.take().unwrap();
        c.kill().unwrap();
        c.wait().unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(self.chip.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// SIGTERM; its exit status.
    pub fn stop(&mut self) -> bool {
        let mut c = self.chip.take().unwrap();
        let pid = rustix::process::Pid::from_child(&c);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        c.wait().unwrap().success()
    }

    /// The program with other arguments, to its end.
    pub fn asic_once(&self, args: &[String]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_virga-asic")).args(args).stdin(Stdio::null()).output().unwrap()
    }

    pub fn tap(&self, name: &str) -> Option<Link> {
        self.in_sw(|| Netlink::open().unwrap().link_by_name(name).unwrap())
    }

    pub fn until_tap(&self, what: &str, name: &str, f: impl Fn(&Link) -> bool) -> Link {
        until(&format!("{name} {what}"), || self.tap(name).filter(&f))
    }

    pub fn ping(&self, from: usize, more: &str) -> (bool, String) {
        let h = self.host(from);
        let args = format!("netns exec {h} ping -n {more}");
        let o = run("ip", &args.split(' ').collect::<Vec<_>>());
        (o.status.success(), String::from_utf8_lossy(&o.stdout).into_owned())
    }

    /// Until the first answer: the far end's neighbours and carriers take a moment.
    pub fn until_reaches(&self, from: usize, to: &str) {
        until(&format!("host {from} reaches {to}"), || self.ping(from, &format!("-c 1 -W 1 {to}")).0.then_some(()));
    }

    /// The chip's agent. Another test's fork may hold the last one's socket open for a moment, so it may take some tries.
    pub fn agent(&self) -> Agent {
        until("the chip takes an agent", || {
            let mut conn: AgentConn = Conn::new(UnixStream::connect(self.socket()).unwrap()).unwrap();
            let hello = ToChip::Hello { version: VERSION };
            match answer(&mut conn, &hello) {
                Some(FromChip::Hello(h)) => Some(Agent::greeted(conn, h.boot_id)),
                Some(FromChip::Refused(why)) if why.contains("another agent") => None,
                None => None,
                m => panic!("no hello but {m:?}"),
            }
        })
    }

    pub fn count(&self, f: impl Fn(&Counters) -> u64) -> u64 {
        f(&self.agent().counters())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(c) = &mut self.chip {
            let _ = c.kill();
            let _ = c.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of the chip in {} ----\n{}", self.tag, self.log());
        }
        let all = run("ip", &["netns", "list"]);
        for l in String::from_utf8_lossy(&all.stdout).lines() {
            if let Some(n) = l.split(' ').next().filter(|n| n.starts_with(&format!("{}-", self.tag))) {
                run("ip", &["netns", "del", n]);
            }
        }
    }
}

/// Send, and the first answer; `None` if the chip closed the connection.
pub fn answer(conn: &mut AgentConn, m: &ToChip) -> Option<FromChip> {
    let _ = conn.send(m);
    until("an answer or the end of the connection", || match conn.recv() {
        Ok(None) => None,
        Ok(Some(m)) => Some(Some(m)),
        Err(_) => Some(None),
    })
}

/// The agent's end, as a test uses it.
pub struct Agent {
    conn: AgentConn,
    pub boot_id: u64,
    pub ports: Vec<(PortId, PortEntry)>,
}

impl Agent {
    pub fn new(mut conn: AgentConn) -> Agent {
        match answer(&mut conn, &ToChip::Hello { version: VERSION }) {
            Some(FromChip::Hello(h)) => Agent::greeted(conn, h.boot_id),
            m => panic!("no hello but {m:?}"),
        }
    }

    fn greeted(conn: AgentConn, boot_id: u64) -> Agent {
        let mut a = Agent { conn, boot_id, ports: Vec::new() };
        a.conn.send(&ToChip::Dump { id: 1, table: TableId::Port, cursor: 0 }).unwrap();
        a.answer(|m| match m {
            FromChip::Records { id: 1, .. } => Some(()),
            _ => None,
        });
        a
    }

    /// The next message.
    pub fn next(&mut self) -> FromChip {
        let m = until("a message of the chip", || {
            self.conn.flush().unwrap();
            self.conn.recv().unwrap_or_else(|e| panic!("{e}"))
        });
        let records = match &m {
            FromChip::Event(Event::Port(r)) => std::slice::from_ref(r),
            FromChip::Records { records, .. } => records,
            _ => &[],
        };
        for r in records {
            if let Record::Port(id, e) = r {
                self.ports.retain(|p| p.0 != *id);
                self.ports.push((*id, PortEntry::clone(e)));
            }
        }
        m
    }

    pub fn send(&mut self, m: &ToChip) {
        self.conn.send(m).unwrap();
    }

    pub fn answer<T>(&mut self, f: impl Fn(FromChip) -> Option<T>) -> T {
        loop {
            if let Some(v) = f(self.next()) {
                return v;
            }
        }
    }

    pub fn port(&self, id: u32) -> &PortEntry {
        &self.ports.iter().find(|p| p.0.0 == id).unwrap().1
    }

    /// Until the port is so, by dump or event.
    pub fn until_port(&mut self, id: u32, f: impl Fn(&PortEntry) -> bool) -> PortEntry {
        while !f(self.port(id)) {
            self.next();
        }
        self.port(id).clone()
    }

    /// Carry out, all of it.
    pub fn apply(&mut self, ops: Vec<Op>) {
        self.conn.send(&ToChip::Batch { id: 8, ops }).unwrap();
        let rejected = self.answer(|m| match m {
            FromChip::Done { rejected, .. } => Some(rejected),
            _ => None,
        });
        assert_eq!(rejected, []);
    }

    pub fn counters(&mut self) -> Counters {
        self.conn.send(&ToChip::Stats { id: 9 }).unwrap();
        self.answer(|m| match m {
            FromChip::Stats { counters, .. } => Some(*counters),
            _ => None,
        })
    }
}

pub fn drops(c: &Counters, why: DropReason) -> u64 {
    c.drops.iter().find(|d| d.0 == why).unwrap().1.frames
}

pub fn traps(c: &Counters, class: TrapClass) -> u64 {
    c.traps.iter().find(|d| d.0 == class).unwrap().1.frames
}

/// Bytes that follow from nothing but their place.
fn pattern(at: usize) -> u8 {
    let x = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

/// Move `len` bytes by TCP and compare each.
pub fn transfer(from: &NetNs, to: &NetNs, addr: &str, len: usize) {
    let listener = to.run(|| TcpListener::bind((addr, 5001)).unwrap()).unwrap();
    let mut out = from.run(|| TcpStream::connect((addr, 5001)).unwrap()).unwrap();
    let (mut inp, _) = listener.accept().unwrap();
    for s in [&out, &inp] {
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        s.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    std::thread::scope(|s| {
        s.spawn(move || {
            let mut buf = vec![0; 1 << 18];
            for at in (0..len).step_by(buf.len()) {
                let n = buf.len().min(len - at);
                (0..n).for_each(|i| buf[i] = pattern(at + i));
                std::io::Write::write_all(&mut out, &buf[..n]).unwrap();
            }
        });
        let (mut buf, mut at) = (vec![0; 1 << 18], 0);
        loop {
            let n = inp.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            for (i, b) in buf[..n].iter().enumerate() {
                assert_eq!(*b, pattern(at + i), "byte {} of the transfer", at + i);
            }
            at += n;
        }
        assert_eq!(at, len, "bytes that arrived");
    });
}
