//! A place of its own: PID, mount and network namespaces (and a user namespace where needed), gone with its first process.
//!
//! Nothing outside is touched: `/run` and `/proc` are private, and the kernel removes everything when the first process
//! dies, however it dies. What is put inside is not known here.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};

/// Which side of [`enter`] this process is on.
#[derive(Debug)]
pub enum Side {
    /// Inside: go on with what is to be done there.
    Inside(Inside),
    /// Outside, and the inside has ended with that status (128 + signal where a signal ended it).
    Outside(ExitCode),
}

/// What the inside knows of itself.
#[derive(Debug)]
pub struct Inside {
    /// This program's file, opened before the private `/run` could hide it, and by the mount namespace that may mount it.
    pub exe: OwnedFd,
    /// The PID that the first process inside has outside: what `nsenter -t` wants.
    pub outer_pid: u32,
    /// Whether a user namespace was made.
    pub user_namespace: bool,
}

/// The machine does not allow it.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Refused {
    what: &'static str,
    source: io::Error,
}

fn refused<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Refused {
    move |e| Refused { what, source: e.into() }
}

/// Go inside. To be called before any thread starts and before anything is printed to a buffer.
///
/// The calling process stays outside, waits, and hands on the status. Inside there are two processes: the first (PID 1
/// there) reaps, and ends everything when the second, which returns from here, ends. When the outer one dies, even by
/// `SIGKILL`, so does the first.
///
/// # Errors
/// The machine does not allow it; the sentence says what.
pub fn enter() -> Result<Side, Refused> {
    let capable = rustix::thread::capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::SYS_ADMIN));
    if !capable {
        own_users()?;
    }
    // SAFETY: the process has one thread; new mount and PID namespaces leave descriptors and memory as they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }
        .map_err(refused("new PID and mount namespaces are refused"))?;
    let (alive, lifeline) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(refused("no pipe can be made"))?;
    match fork().map_err(refused("no process can be started"))? {
        Some(first) => {
            drop(alive);
            let code = wait_for(first);
            drop(lifeline);
            take_terminal_back();
            Ok(Side::Outside(ExitCode::from(code)))
        }
        None => {
            drop(lifeline);
            match first(&alive) {
                Ok((exe, outer_pid)) => Ok(Side::Inside(Inside { exe, outer_pid, user_namespace: !capable })),
                Err(e) => {
                    eprintln!("virga: {e}");
                    exit(1)
                }
            }
        }
    }
}

/// Uid 0 of a new user namespace is this user. The map is written before any network namespace is made: files of
/// `/proc/net` belong to the uid 0 that was mapped at that time (`*_tables_names` would stay unreadable).
fn own_users() -> Result<(), Refused> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: as in `enter`.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }
        .map_err(refused("a new user namespace is refused"))?;
    let map = refused("the user namespace can't be given a user");
    (|| {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
    })()
    .map_err(map)
}

/// The first process inside. Returns in its child only.
fn first(alive: &OwnedFd) -> Result<(OwnedFd, u32), Refused> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused("no parent death signal"))?;
    // The outer process may have died before that was set.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(alive, PollFlags::IN)], Some(&now)) != Ok(0) {
        exit(1);
    }
    let _ = rustix::thread::set_name(c"virga-lab");
    // This is still the outer /proc.
    let outer_pid = fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok()).unwrap_or(0);
    // SAFETY: as in `enter`.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(refused("a new network namespace is refused"))?;
    let exe = std::env::current_exe()
        .and_then(|p| Ok(rustix::fs::open(p, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
        .map_err(refused("this program's own file can't be opened"))?;
    mounts()?;
    match fork().map_err(refused("no process can be started"))? {
        Some(second) => exit(i32::from(wait_for(second))),
        None => Ok((exe, outer_pid)),
    }
}

fn mounts() -> Result<(), Refused> {
    let none = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(refused("mounts can't be made private"))?;
    rustix::mount::mount("proc", "/proc", "proc", none, None)
        .map_err(refused("/proc can't be mounted (a container that masks parts of it?)"))?;
    rustix::mount::mount("run", "/run", "tmpfs", none, Some(c"mode=0755"))
        .map_err(refused("a private /run can't be mounted"))?;
    if fs::symlink_metadata("/var/run").is_ok_and(|m| m.is_dir()) {
        rustix::mount::mount_bind("/run", "/var/run").map_err(refused("a private /var/run can't be mounted"))?;
    }
    // /sys/class/net is that of the namespace in which it was mounted. Nothing of ours depends on it.
    let _ = rustix::mount::mount("sysfs", "/sys", "sysfs", none, None);
    Ok(())
}

/// `None` in the child.
fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: the process has one thread (a condition of `enter`), so the child may do anything.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid => match Pid::from_raw(pid) {
            Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Some(pid)),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        },
    }
}

/// Reap everything until `child` ends; its status, or 128 and the signal.
fn wait_for(child: Pid) -> u8 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s)).unwrap_or(1);
                return u8::try_from(code).unwrap_or(1);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

/// An interactive shell inside had the terminal; where it was killed it could not give it back.
fn take_terminal_back() {
    // SAFETY: plain system calls without pointers but the null that means "no handler kept".
    unsafe {
        if libc::isatty(0) == 1 && libc::tcgetpgrp(0) != libc::getpgrp() {
            let old = libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpgrp());
            libc::signal(libc::SIGTTOU, old);
        }
    }
}

/// Without the exit handlers of the process that this is a copy of.
fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Whether a program of that name is in `PATH`, or where Debian keeps those for administrators.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|p| Path::new(p).to_owned()))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}
