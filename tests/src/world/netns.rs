//! The harness's own namespaces: everything it does happens in them, and all of it goes when it ends.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};

fn check(r: libc::c_int) -> io::Result<()> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<()> {
    let c = |s: &str| CString::new(s).map_err(|_| anyhow!("{s:?} holds a NUL"));
    let (s, t, k) = (c(source)?, c(target)?, c(kind)?);
    // SAFETY: all three are NUL-terminated strings that outlive the call; no data is passed.
    check(unsafe { libc::mount(s.as_ptr(), t.as_ptr(), k.as_ptr(), flags, std::ptr::null()) })
        .with_context(|| format!("mount {kind} on {target}"))
}

/// Puts the calling process's work into PID, mount and network namespaces of its own (and a user namespace, unless it is
/// root) and returns there, in a child; the parent waits for it and exits with its status. The child is PID 1: when it ends, or the
/// parent is killed, the kernel ends everything in there. To be called before the first thread is made.
///
/// # Errors
/// What the system refused, in a sentence that says what would help.
pub fn enter() -> Result<()> {
    // SAFETY: no pointers; they read ids.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET;
    if uid != 0 {
        // User namespace first: the maps have to stand before a network namespace is made (kernel-facts 32).
        // SAFETY: no pointers; this process has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })
            .context("the system refuses user namespaces; run as root, or set kernel.unprivileged_userns_clone=1")?;
        fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("/proc/self/uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("/proc/self/gid_map")?;
        flags |= 0;
    }
    // SAFETY: no pointers; this process has one thread.
    check(unsafe { libc::unshare(flags) }).context("the system refuses namespaces; run as root")?;
    // Its writing end lives as long as the parent: what the child looks at once it has asked to die with it.
    let (alive, parent) = io::pipe().context("a pipe")?;
    // SAFETY: this process has one thread, so the child inherits no lock that another thread holds.
    let pid = unsafe { libc::fork() };
    check(pid).context("fork")?;
    if pid > 0 {
        let mut status = 0;
        loop {
            // SAFETY: `status` outlives the call.
            let r = unsafe { libc::waitpid(pid, &mut status, 0) };
            if r == pid {
                break;
            }
            if r < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
        std::process::exit(code);
    }
    // SAFETY: no pointers that the kernel keeps.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).context("PR_SET_PDEATHSIG")?;
    drop(parent);
    let mut hung = libc::pollfd { fd: alive.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: the kernel reads and writes one `pollfd`, which outlives the call.
    if unsafe { libc::poll(&mut hung, 1, 0) } > 0 {
        anyhow::bail!("the process that started this one is gone");
    }
    mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE)?;
    mount("proc", "/proc", "proc", 0)?;
    mount("tmpfs", "/run", "tmpfs", 0)?;
    fs::create_dir_all("/run/netns").context("/run/netns")?;
    fs::create_dir_all("/run/virga").context("/run/virga")?;
    Ok(())
}

/// A named network namespace; unnamed again when dropped.
#[derive(Debug)]
pub struct NetNs {
    /// Its name for `ip netns`.
    pub name: String,
    file: File,
}

impl NetNs {
    fn path(name: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(name)
    }

    /// Makes a new one, with its loopback up.
    ///
    /// # Errors
    /// What the system refused.
    pub fn new(name: &str) -> Result<NetNs> {
        let path = Self::path(name);
        File::create(&path).with_context(|| format!("{}", path.display()))?;
        let target = path.to_str().context("a namespace's name must be plain")?.to_owned();
        let file = std::thread::spawn(move || -> Result<File> {
            // SAFETY: no pointers; it changes this thread alone, which ends after it.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("a network namespace")?;
            mount("/proc/thread-self/ns/net", &target, "none", libc::MS_BIND)?;
            Ok(File::open(&target)?)
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a namespace died"))??;
        let ns = NetNs { name: name.into(), file };
        ns.enter(|| set_up("lo"))??;
        Ok(ns)
    }

    /// Runs `f` on a thread that is in the namespace; processes that it starts are in there too.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.file.as_raw_fd();
        std::thread::scope(|s| {
            s.spawn(move || -> Result<T> {
                // SAFETY: `fd` is open as long as `self`; it changes this thread alone, which ends after it.
                check(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }).context("setns")?;
                Ok(f())
            })
            .join()
            .map_err(|_| anyhow!("a thread in namespace {} died", self.name))?
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        unname(&self.name);
    }
}

/// Removes the name of a namespace, if it has one.
pub fn unname(name: &str) {
    let path = NetNs::path(name);
    if let Ok(c) = CString::new(path.as_os_str().as_encoded_bytes()) {
        // SAFETY: a NUL-terminated string that outlives the call.
        unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) };
    }
    let _ = fs::remove_file(path);
}

fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    for (d, s) in r.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *d = s as libc::c_char;
    }
    r
}

fn control() -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: no pointers; the descriptor is owned by the `File` from here on.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        Ok(File::from_raw_fd(fd))
    }
}

/// The `IFF_*` flags of a device in the calling thread's namespace; `None` if there is none of that name.
pub fn flags(name: &str) -> Option<i32> {
    let s = control().ok()?;
    let mut r = ifreq(name);
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of the `ifreq`, which outlives the call.
    let ok = unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCGIFFLAGS, &mut r) };
    // SAFETY: after success the kernel has written this member of the union.
    (ok == 0).then(|| i32::from(unsafe { r.ifr_ifru.ifru_flags }) & 0xffff)
}

/// Sets a device up, in the calling thread's namespace.
///
/// # Errors
/// The kernel's.
pub fn set_up(name: &str) -> Result<()> {
    let s = control()?;
    let mut r = ifreq(name);
    r.ifr_ifru.ifru_flags = flags(name).with_context(|| format!("no device {name}"))? as i16 | libc::IFF_UP as i16;
    // SAFETY: SIOCSIFFLAGS reads the `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCSIFFLAGS, &r) }).with_context(|| format!("{name} up"))
}

/// Switches off what a device does to frames on its own: checksum, scatter-gather and segmentation offloads. What it lacks is ignored.
///
/// # Errors
/// No socket can be had.
pub fn offloads_off(name: &str) -> Result<()> {
    const SET: [u32; 7] = [0x15, 0x17, 0x19, 0x1f, 0x22, 0x24, 0x2c]; // ETHTOOL_S{RX,TX}CSUM, SSG, STSO, SUFO, SGSO, SGRO
    let s = control()?;
    for cmd in SET {
        let mut value: [u32; 2] = [cmd, 0]; // struct ethtool_value
        let mut r = ifreq(name);
        r.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: SIOCETHTOOL with these commands reads one `ethtool_value`, which outlives the call as the `ifreq` does.
        unsafe { libc::ioctl(s.as_raw_fd(), 0x8946, &mut r) };
    }
    Ok(())
}

/// Index of a device in the calling thread's namespace.
pub fn index(name: &str) -> Option<u32> {
    let c = CString::new(name).ok()?;
    // SAFETY: a NUL-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(c.as_ptr()) } {
        0 => None,
        n => Some(n),
    }
}
