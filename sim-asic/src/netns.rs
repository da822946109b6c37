//! Network namespaces: open, make and enter them, in the way of `ip netns`.
//!
//! A named namespace is a bind mount in `/run/netns` and outlives the process that made it. Threads enter, never the process:
//! sockets opened by [`NetNs::run`] stay in the namespace in which they were opened. What is done in there is not known here.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Where `ip netns` keeps its names.
pub const DIR: &str = "/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    inode: u64,
    name: Option<String>,
}

impl NetNs {
    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` could not be read.
    pub fn current() -> io::Result<NetNs> {
        Self::from_path(Path::new("/proc/thread-self/ns/net"), None)
    }

    /// The namespace of that name.
    ///
    /// # Errors
    /// One sentence that names it.
    pub fn open(name: &str) -> io::Result<NetNs> {
        let path = path(name)?;
        let ns = Self::from_path(&path, Some(name.into())).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::new(
                e.kind(),
                format!("there is no network namespace {name}: make it with ip netns add {name}"),
            ),
            _ => io::Error::new(e.kind(), format!("network namespace {name} does not open: {e}")),
        })?;
        // A name whose mount is gone is an empty file; entering it would fail with less clear words.
        let proc = fs::metadata("/proc/thread-self/ns/net")?;
        if ns.file.metadata()?.dev() != proc.dev() {
            return Err(io::Error::other(format!(
                "{} is not a network namespace: remove it with ip netns del {name}",
                path.display()
            )));
        }
        Ok(ns)
    }

    /// The namespace of that name, made if it is missing; the second value says whether it was.
    ///
    /// # Errors
    /// One sentence that names it.
    pub fn open_or_make(name: &str) -> io::Result<(NetNs, bool)> {
        if path(name)?.exists() {
            return Ok((Self::open(name)?, false));
        }
        make(name).map_err(|e| io::Error::new(e.kind(), format!("network namespace {name} can't be made: {e}")))?;
        Ok((Self::open(name)?, true))
    }

    /// The namespace behind an open file.
    ///
    /// # Errors
    /// It can't be looked at.
    pub fn from_file(file: File) -> io::Result<NetNs> {
        let inode = file.metadata()?.ino();
        Ok(NetNs { file, inode, name: None })
    }

    fn from_path(path: &Path, name: Option<String>) -> io::Result<NetNs> {
        let mut ns = Self::from_file(File::open(path)?)?;
        ns.name = name;
        Ok(ns)
    }

    /// Its identity, as in [`hal::PortEntry::netns`].
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The name that it was opened by.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// For messages: the name, or `its own namespace`.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| "its own namespace".into(), |n| format!("namespace {n}"))
    }

    /// Run `f` inside, on a thread of its own.
    ///
    /// # Errors
    /// The namespace can't be entered (it takes `CAP_SYS_ADMIN`).
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|s| {
            let t = std::thread::Builder::new().name("netns".into()).spawn_scoped(s, || {
                rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|e| {
                        let e = io::Error::from(e);
                        io::Error::new(e.kind(), format!("{} can't be entered: {e}", self.label()))
                    })?;
                Ok(f())
            })?;
            t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
        })
    }

    /// The open file, to move a device here.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn path(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.len() > 255 || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no name for a network namespace"),
        ));
    }
    Ok(Path::new(DIR).join(name))
}

/// As `ip netns add`: the directory is a shared mount, so that the name is seen in mount namespaces made later.
fn make(name: &str) -> io::Result<()> {
    let path = path(name)?;
    if !Path::new(DIR).exists() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(DIR)?;
    }
    if rustix::mount::mount_change(DIR, MountPropagationFlags::SHARED | MountPropagationFlags::REC).is_err() {
        rustix::mount::mount_bind_recursive(DIR, DIR)?;
        rustix::mount::mount_change(DIR, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path)?;
    let made = std::thread::scope(|s| {
        s.spawn(|| -> io::Result<()> {
            // SAFETY: a new network namespace shares nothing with file descriptors or memory, so none can dangle.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
            Ok(())
        })
        .join()
        .unwrap_or_else(|p| std::panic::resume_unwind(p))
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Set in the environment of the process that [`private`] starts.
const INSIDE: &str = "VIRGA_PRIVATE_NAMESPACES";

/// For tests: go on in private PID, mount and network namespaces, in a user namespace too if not root, by starting this
/// executable again in there. `None` on the inside: go on. `Some` on the outside: the inner process has ended; exit with that.
///
/// Inside, `/run` and `/proc` are private, this process is PID 1, and all that it started dies with it. To be called
/// before any thread starts.
///
/// # Errors
/// The machine does not allow it; the sentence says what.
pub fn private() -> io::Result<Option<ExitCode>> {
    let says = |what: &str| {
        let what = what.to_owned();
        move |e: rustix::io::Errno| io::Error::new(e.kind(), format!("{what}: {e}"))
    };
    if std::env::var_os(INSIDE).is_some() {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(says("mounts can't be made private"))?;
        rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None::<&CStr>)
            .map_err(says("/proc can't be mounted"))?;
        rustix::mount::mount("run", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=0755"))
            .map_err(says("/run can't be mounted"))?;
        return Ok(None);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        // SAFETY: as above; the process has one thread.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(says("no user namespace"))?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    // SAFETY: as above; only children enter the PID namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID) }
        .map_err(says("no private namespaces"))?;
    let status = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()?;
    Ok(Some(status.code().and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from)))
}
