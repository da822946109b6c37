//! Host interfaces: the persistent TAP that stands for a port in the kernel.
//!
//! It keeps its addresses and routes when the chip dies and loses carrier, since its last descriptor closes. Frames cross
//! it whole: offloads are off, so the kernel cuts and sums what it sends (`Documentation/networking/tuntap.rst`).
//! When a TAP is made or looked for is `ports.rs`'s.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use crate::netns::NetNs;

/// Where a TAP's device is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the namespace with that inode, under that name.
    At(u64, String),
    /// Deleted.
    Deleted,
}

/// The chip's end of a TAP. Reading and writing never block.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

fn ioctl<T>(file: &File, request: libc::Ioctl, arg: *mut T) -> io::Result<i32> {
    // SAFETY: the callers below pass what the request wants: an `ifreq` or an `int` that lives through the call, or a
    // plain number in the pointer's place.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), request, arg) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn number(file: &File, request: libc::Ioctl, value: usize) -> io::Result<()> {
    ioctl(file, request, std::ptr::without_provenance_mut::<libc::c_void>(value)).map(drop)
}

fn ifreq(name: &str, flags: i32) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in r.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    r.ifr_ifru.ifru_flags = flags as libc::c_short;
    r
}

impl Tap {
    /// Make a persistent TAP of that name in the calling thread's namespace; admin-down, without carrier.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn make(name: &str) -> io::Result<Tap> {
        let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)?;
        // SAFETY: the descriptor was just given up by its owner.
        let file = unsafe { File::from_raw_fd(iface.into_raw_fd()) };
        number(&file, libc::TUNSETPERSIST, 1)?;
        Self::ready(file)
    }

    /// Attach to the persistent TAP of that name in the calling thread's namespace. It stays without carrier: this is why
    /// it is not tun-tap that attaches, which can't ask for that and would have the kernel see a link for a moment.
    ///
    /// # Errors
    /// What the kernel answered: `EBUSY` if another process holds it.
    pub fn attach(name: &str) -> io::Result<Tap> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut r = ifreq(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_NO_CARRIER);
        ioctl(&file, libc::TUNSETIFF, &raw mut r)?;
        Self::ready(file)
    }

    fn ready(file: File) -> io::Result<Tap> {
        let tap = Tap { file };
        tap.set_carrier(false)?;
        number(&tap.file, libc::TUNSETOFFLOAD, 0)?;
        rustix::io::ioctl_fionbio(&tap.file, true)?;
        Ok(tap)
    }

    /// Another descriptor of the same queue.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Tap> {
        Ok(Tap { file: self.file.try_clone()? })
    }

    /// What the kernel sees as carrier.
    ///
    /// # Errors
    /// The device is gone.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let mut on = libc::c_int::from(on);
        ioctl(&self.file, libc::TUNSETCARRIER, &raw mut on).map(drop)
    }

    /// Have the device end with its last descriptor.
    ///
    /// # Errors
    /// The device is gone.
    pub fn give_up(self) -> io::Result<()> {
        number(&self.file, libc::TUNSETPERSIST, 0)
    }

    /// Where the device is now.
    ///
    /// # Errors
    /// What the kernel answered, unless that is that the device is gone.
    pub fn place(&self) -> io::Result<Place> {
        let gone = |e: io::Error| if e.raw_os_error() == Some(libc::EBADFD) { Ok(Place::Deleted) } else { Err(e) };
        let mut r = ifreq("", 0);
        if let Err(e) = ioctl(&self.file, libc::TUNGETIFF, &raw mut r) {
            return gone(e);
        }
        let fd = match ioctl(&self.file, libc::TUNGETDEVNETNS, std::ptr::null_mut::<libc::c_void>()) {
            Ok(fd) => fd,
            Err(e) => return gone(e),
        };
        // SAFETY: the kernel opened it for us just now.
        let ns = NetNs::from_file(unsafe { File::from(OwnedFd::from_raw_fd(fd)) })?;
        let name = r.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
        Ok(Place::At(ns.inode(), name))
    }

    /// Read one frame that the kernel sends.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buf)
    }

    /// Give the kernel one frame as received on the wire.
    ///
    /// # Errors
    /// The kernel refused it: the device is down or gone.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }

    /// To wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
