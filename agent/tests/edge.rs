//! The edge against the real kernel, without a core: fence, overrun, dumps, requests. One private place for all, and a
//! network namespace for each.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;
use virga::edge::monitor::{Item, Monitor};
use virga::edge::nl::{Ring, Socket, messages};
use virga::edge::runner::Msg;
use virga::edge::wake::Waker;
use virga::edge::{dump, request};
use virga::input::{DumpKind, Input};

type Test = fn() -> Result<(), String>;

const TESTS: &[(&str, Test)] = &[
    ("fact_42_a_fence_comes_after_what_was_announced_before_it", fence),
    ("fact_41_an_overrun_is_said_and_voids_fences", overrun),
    ("fact_41_after_an_overrun_the_kernel_is_silent_until_the_socket_was_empty", silent),
    ("every_kind_is_dumped_to_its_end", dumps),
    ("a_refused_request_comes_back_with_the_kernels_own_words", refused),
];
const GROUPS: &[u32] = &[1, 3, 5, 7, 9, 11];
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    let able = rustix::process::geteuid().is_root() || own_users().inspect_err(|e| println!("skipped: {e}")).is_ok();
    args.test_threads = Some(1);
    libtest_mimic::run(&args, trials(able)).exit_code()
}

/// An ordinary user is root in a namespace of its own.
fn own_users() -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: the process has one thread yet.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|e| format!("no user namespace: {e}"))?;
    std::fs::write("/proc/self/setgroups", "deny").map_err(|e| e.to_string())?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(|e| e.to_string())?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(|e| e.to_string())
}

fn trials(able: bool) -> Vec<Trial> {
    let trial = |&(name, f): &(&'static str, Test)| {
        Trial::test(name, move || {
            let done = std::thread::spawn(move || {
                // SAFETY: concerns the calling thread's network namespace alone, and no descriptor.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|e| e.to_string())?;
                ip("link set lo up\n")?;
                f()
            });
            done.join().map_err(|_| Failed::from("panicked"))?.map_err(Failed::from)
        })
        .with_ignored_flag(!able)
    };
    TESTS.iter().map(trial).collect()
}

fn ip(batch: &str) -> Result<(), String> {
    let mut c = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| format!("ip can't be started: {e}"))?;
    c.stdin.take().ok_or("no stdin")?.write_all(batch.as_bytes()).map_err(|e| e.to_string())?;
    if c.wait().map_err(|e| e.to_string())?.success() { Ok(()) } else { Err(format!("ip refused: {batch}")) }
}

/// Wait on the waker, then take what is there; until `done` says so.
fn take(m: &mut Monitor, w: &Waker, mut done: impl FnMut(&mut Monitor, Item) -> bool) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    let mut items = Vec::new();
    while Instant::now() < until {
        w.clear();
        while m.take(16, &mut items) || !items.is_empty() {
            for i in items.drain(..) {
                if done(m, i) {
                    return Ok(());
                }
            }
        }
        let t = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let _ = poll(&mut [PollFd::from_borrowed_fd(w.fd(), PollFlags::IN)], Some(&t));
    }
    Err("waited in vain for the monitor".into())
}

fn start(buffer: usize) -> Result<(Monitor, Waker), String> {
    let w = Waker::new().map_err(|e| e.to_string())?;
    Ok((Monitor::start(GROUPS, buffer, w.clone()).map_err(|e| e.to_string())?, w))
}

fn fence() -> Result<(), String> {
    let (mut m, w) = start(16 << 20)?;
    for round in 0..50u64 {
        let routes = 20;
        let batch: String = (0..routes)
            .map(|i| format!("route add 10.{round}.{i}.0/24 dev lo\nlink set lo mtu {}\n", 2000 + i))
            .collect();
        ip(&batch)?;
        m.fence(round).map_err(|e| e.to_string())?;
        let (mut seen, mut links, mut last) = (0, 0, [0; 2]);
        take(&mut m, &w, |m, item| match item {
            Item::Data { seq, buf } => {
                let route = messages(&buf).all(|x| x.kind == 24);
                seen += messages(&buf).filter(|x| x.kind == 24).count();
                links += messages(&buf).filter(|x| x.kind == 16).count();
                let l = &mut last[usize::from(route)];
                assert!(seq > *l, "stamps ascend in each queue");
                *l = seq;
                false
            }
            Item::Fence { number, .. } => m.came(number) == Some(round),
            Item::Overrun => panic!("no overrun with 16 MiB"),
        })?;
        if seen < routes || links < routes {
            return Err(format!("round {round}: {seen} routes and {links} links came before the fence"));
        }
    }
    Ok(())
}

fn overrun() -> Result<(), String> {
    let (mut m, w) = start(1)?;
    // The kernel announces these in one go when the device goes down; nobody reads as fast with room for two.
    let add: String = (0..500).map(|i| format!("route add 2001:db8:{i:x}::/48 dev lo\n")).collect();
    for id in 0.. {
        if id == 100 {
            return Err("500 messages at once never overran a buffer of 2 KiB".into());
        }
        ip(&format!("{add}link set lo down\nlink set lo up\n"))?;
        // It may be swallowed: that is the point. An overrun voids it in any case.
        let _ = m.fence(id);
        let mut lost = false;
        take(&mut m, &w, |m, item| match item {
            Item::Overrun => {
                lost = true;
                m.overrun();
                true
            }
            Item::Fence { number, .. } => m.came(number) == Some(id),
            Item::Data { .. } => false,
        })?;
        if lost {
            break;
        }
    }
    // It lives on.
    m.fence(1000).map_err(|e| e.to_string())?;
    take(&mut m, &w, |m, item| match item {
        Item::Overrun => {
            m.overrun();
            m.fence(1000).is_err()
        }
        Item::Fence { number, .. } => m.came(number) == Some(1000),
        Item::Data { .. } => false,
    })
}

fn silent() -> Result<(), String> {
    let told = |r: &Ring| r.datagrams().flat_map(messages).filter(|m| matches!(m.kind, 24 | 25)).count();
    let read = |r: &mut Ring, s: &Socket| match r.read(s) {
        Ok(whole) => Ok(whole.then(|| told(r))),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
        Err(e) => Err(e.to_string()),
    };
    let s = Socket::open().map_err(|e| e.to_string())?;
    s.receive_buffer(8 << 10).map_err(|e| e.to_string())?;
    s.read_timeout(Duration::from_millis(100)).map_err(|e| e.to_string())?;
    for g in GROUPS {
        s.subscribe(*g).map_err(|e| e.to_string())?;
    }
    let many: String = (0..100).map(|i| format!("route add 10.1.{i}.0/24 dev lo\n")).collect();
    ip(&many)?;
    let (mut one, mut ring) = (Ring::new(1, 64 << 10), Ring::new(64, 64 << 10));
    if read(&mut one, &s)?.is_some() {
        return Err("100 routes did not overrun 16 KiB".into());
    }
    // Room again, and yet nothing comes of what is done now: neither the message nor another error.
    let mut old = 0;
    for _ in 0..4 {
        old += read(&mut one, &s)?.ok_or("a second error")?;
    }
    ip("route add 10.2.0.0/24 dev lo\n")?;
    while let Ok(more) = read(&mut one, &s) {
        old += more.ok_or("a second error")?;
    }
    if old == 0 || old >= 100 {
        return Err(format!("{old} of 101 routes were told"));
    }
    // Empty: the kernel speaks again.
    ip("route add 10.2.1.0/24 dev lo\n")?;
    if read(&mut one, &s)? != Some(1) {
        return Err("an empty socket does not hear the next route".into());
    }
    // What the reader does about it: after a drain nothing old comes, and all that is new.
    ip(&many.replace("add", "del"))?;
    if read(&mut ring, &s)?.is_some() {
        return Err("100 routes did not overrun 16 KiB".into());
    }
    ring.drain(&s).map_err(|e| e.to_string())?;
    ip("route add 10.2.2.0/24 dev lo\n")?;
    if read(&mut ring, &s)? != Some(1) {
        return Err("what came after the drain is not one new route".into());
    }
    Ok(())
}

fn dumps() -> Result<(), String> {
    let (m, w) = start(1 << 20)?;
    let batch: String = (0..3000u32)
        .map(|i| format!("route add 10.{}.{}.0/24 dev lo\nroute add 2001:db8:{i:x}::/48 dev lo\n", i >> 8, i & 255))
        .collect();
    ip(&batch)?;
    let (jobs, rx) = mpsc::channel();
    let (tx, parts) = mpsc::sync_channel(4);
    let stamp = m.stamp();
    std::thread::spawn(move || dump::run(&rx, &tx, &stamp, &w));
    for (id, kind) in (1..).zip(DumpKind::ALL) {
        jobs.send((id, kind)).map_err(|e| e.to_string())?;
        let mut objects = 0;
        loop {
            match parts.recv_timeout(PATIENCE).map_err(|e| e.to_string())? {
                Input::Dump { id: i, kind: k, buf, .. } if (i, k) == (id, kind) => {
                    let n = messages(&buf).count();
                    assert_eq!(messages(&buf).map(|m| m.bytes.len().next_multiple_of(4)).sum::<usize>(), buf.len());
                    assert!(messages(&buf).all(|m| m.kind >= 16), "no control message is handed on");
                    objects += n;
                }
                Input::DumpEnd { id: i, kind: k, complete: true } if (i, k) == (id, kind) => break,
                other => return Err(format!("{other:?}")),
            }
        }
        let least = match kind {
            DumpKind::Link => 1,
            DumpKind::Addr => 2,
            DumpKind::Netconf => 4,
            DumpKind::Rule => 5,
            DumpKind::Route4 | DumpKind::Route6 => 3000,
            DumpKind::Vlan | DumpKind::Fdb | DumpKind::Neigh | DumpKind::NextHop | DumpKind::List6 => 0,
        };
        if objects < least {
            return Err(format!("{kind:?}: {objects} objects, at least {least} were to come"));
        }
    }
    Ok(())
}

fn refused() -> Result<(), String> {
    let w = Waker::new().map_err(|e| e.to_string())?;
    let (jobs, rx) = mpsc::sync_channel(100);
    let (tx, answers) = mpsc::channel();
    std::thread::spawn(move || request::run(&rx, &tx, &w));
    // RTM_NEWNEIGH on a device that is not there, RTM_GETLINK of lo, and a stump.
    let mut neigh = vec![0u8; 16 + 12 + 8];
    neigh[4..6].copy_from_slice(&28u16.to_ne_bytes());
    neigh[16] = libc::AF_INET as u8;
    neigh[20..24].copy_from_slice(&9999u32.to_ne_bytes());
    neigh[28..32].copy_from_slice(&[8, 0, 1, 0]);
    let mut link = vec![0u8; 32];
    link[4..6].copy_from_slice(&18u16.to_ne_bytes());
    link[20..24].copy_from_slice(&1u32.to_ne_bytes());
    for (id, message) in [(7, neigh), (8, link), (9, vec![0; 3])] {
        jobs.send((id, message)).map_err(|e| e.to_string())?;
    }
    let mut got = std::collections::BTreeMap::new();
    for _ in 0..3 {
        match answers.recv_timeout(PATIENCE).map_err(|e| e.to_string())? {
            Msg::Input(Input::Ack { id, errno, message }) => drop(got.insert(id, (errno, message))),
            other => return Err(format!("{other:?}")),
        }
    }
    assert_eq!(got[&7].0, libc::ENODEV, "{got:?}");
    assert_eq!(got[&8], (0, String::new()));
    assert_eq!(got[&9].0, libc::EINVAL);
    Ok(())
}
