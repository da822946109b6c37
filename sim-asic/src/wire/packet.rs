//! AF_PACKET wires: a receiving socket with everything the kernel knows of a frame, and a sending one.
//!
//! Two sockets, since with `PACKET_VNET_HDR` every frame sent would want a header of its own, and any worker may send. `linux/if_packet.h`, packet(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::whole::{self, Gso, Meta};
use super::{Receive, Received, Transmit};
use crate::pool::{Pool, SLOT, SLOTS};
use crate::sync::Words32;

// From linux/if_packet.h, where the C library's constants are not on every target.
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
/// Bytes of `struct tpacket_auxdata`.
const AUXDATA: usize = 20;
/// Bytes that one control message with it takes, header and alignment included.
const CONTROL: usize = 64;
/// Frames given to the kernel at once.
const SEND: usize = 64;
/// Bytes asked for as buffer, each way.
const BUFFER: i32 = 8 << 20;

/// The receiving socket.
#[derive(Debug)]
pub struct PacketRx {
    fd: OwnedFd,
    longest: Arc<Words32>,
}

impl PacketRx {
    /// One word, to be set to the bytes of the longest frame that it takes, a stripped tag not counted, super-frames apart; 0
    /// for any.
    pub fn longest(&self) -> Arc<Words32> {
        self.longest.clone()
    }
}

/// The sending socket. The kernel takes frames from any thread.
#[derive(Debug)]
pub struct PacketTx(OwnedFd);

fn set<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives through the call and the length is its own; it is plain data at every call below.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as u32)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket() -> io::Result<OwnedFd> {
    // Protocol 0: nothing is received until bind says what from where.
    // SAFETY: no pointer is passed; the descriptor that comes back is owned by no one else.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn bind(fd: &OwnedFd, ifindex: u32, protocol: i32) -> io::Result<()> {
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut a: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    a.sll_family = libc::AF_PACKET as u16;
    a.sll_protocol = (protocol as u16).to_be();
    a.sll_ifindex = ifindex as i32;
    // SAFETY: `a` lives through the call and the length is its own.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const a).cast(), size_of_val(&a) as u32) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// By force as root of the machine; else what `rmem_max` or `wmem_max` gives.
fn buffer(fd: &OwnedFd, force: i32, ask: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, force, &BUFFER).or_else(|_| set(fd, libc::SOL_SOCKET, ask, &BUFFER))
}

/// Both ends on the device of that ifindex in the calling thread's namespace; promiscuous as long as the receiving one is open.
///
/// # Errors
/// What the kernel answered.
pub fn open(ifindex: u32) -> io::Result<(PacketRx, PacketTx)> {
    let rx = socket()?;
    set(&rx, libc::SOL_PACKET, PACKET_VNET_HDR, &1)?;
    set(&rx, libc::SOL_PACKET, PACKET_AUXDATA, &1)?;
    set(&rx, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
    buffer(&rx, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
    bind(&rx, ifindex, libc::ETH_P_ALL)?;
    let promisc = libc::packet_mreq {
        mr_ifindex: ifindex as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&rx, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promisc)?;
    let tx = socket()?;
    buffer(&tx, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
    bind(&tx, ifindex, 0)?;
    // A chip has no queueing discipline; where the device wants its own, it keeps it.
    let _ = set(&tx, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1);
    Ok((PacketRx { fd: rx, longest: Arc::new(Words32::new(1)) }, PacketTx(tx)))
}

/// The stripped tag, as the wire had it: TPID and TCI.
fn tag(control: &[u8]) -> Option<[u8; 4]> {
    // One control message: length (usize), level and type (i32), then the data.
    let head = size_of::<libc::cmsghdr>();
    let data = control.get(head..head + AUXDATA)?;
    let n = |i: usize| u32::from_ne_bytes([data[i], data[i + 1], data[i + 2], data[i + 3]]);
    let h = |i: usize| u16::from_ne_bytes([data[i], data[i + 1]]);
    let (status, tci, tpid) = (n(0), h(16), h(18));
    if status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & TP_STATUS_VLAN_TPID_VALID != 0 { tpid } else { 0x8100 };
    let (p, t) = (tpid.to_be_bytes(), tci.to_be_bytes());
    Some([p[0], p[1], t[0], t[1]])
}

impl Receive for PacketRx {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn recv(&mut self, pool: &mut Pool) -> Received {
        let mut done = Received::default();
        let longest = match self.longest.get(0) {
            0 => usize::MAX,
            n => n as usize,
        };
        let mut vnet = [[0_u8; Meta::LEN]; SLOTS];
        let mut control = [[0_u64; CONTROL / 8]; SLOTS];
        // SAFETY: all zeros is valid for both: null pointers of length 0.
        let (mut iov, mut msgs): ([[libc::iovec; 2]; SLOTS], [libc::mmsghdr; SLOTS]) = unsafe { std::mem::zeroed() };
        for i in 0..SLOTS {
            iov[i][0] = libc::iovec { iov_base: vnet[i].as_mut_ptr().cast(), iov_len: Meta::LEN };
            iov[i][1] = libc::iovec { iov_base: pool.slot(i).as_mut_ptr().cast(), iov_len: SLOT };
            let m = &mut msgs[i].msg_hdr;
            m.msg_iov = iov[i].as_mut_ptr();
            m.msg_iovlen = 2;
            m.msg_control = control[i].as_mut_ptr().cast();
            m.msg_controllen = CONTROL;
        }
        // MSG_TRUNC has the kernel report the frame's true length.
        let flags = (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _;
        // SAFETY: every pointer set above is to memory that lives, unmoved, to the end of this function.
        let n = unsafe {
            libc::recvmmsg(self.fd.as_raw_fd(), msgs.as_mut_ptr(), SLOTS as u32, flags, std::ptr::null_mut())
        };
        if n < 0 {
            // EINVAL: a frame whose GSO type has no words in a virtio_net_hdr (SCTP's); it is gone.
            // ENETDOWN comes once when the device goes down, and says nothing about a frame.
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINVAL) => {
                    done.bad.frames = 1;
                    done.more = true;
                }
                Some(libc::ENETDOWN | libc::EINTR) => done.more = true,
                _ => {}
            }
            return done;
        }
        let n = n as usize;
        done.more = n == SLOTS;
        for i in 0..n {
            let len = (msgs[i].msg_len as usize).saturating_sub(Meta::LEN);
            if msgs[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || len > SLOT {
                done.giant.frames += 1;
                done.giant.bytes += len as u64;
                continue;
            }
            let meta = Meta::parse(&vnet[i]);
            let mut c = [0; CONTROL];
            for (to, from) in c.chunks_exact_mut(8).zip(control[i]) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            let tag = tag(&c[..msgs[i].msg_hdr.msg_controllen.min(CONTROL)]);
            if meta.gso == Gso::None && len > longest {
                done.giant.frames += 1;
                done.giant.bytes += len as u64;
                continue;
            }
            let bad = if meta.gso != Gso::None {
                let (frame, mut parts) = pool.cut(i, len);
                let r = whole::segment(frame, meta, tag, &mut parts);
                done.gso += u64::from(r.is_ok());
                r.is_err()
            } else {
                let partial = meta.csum.map(|c| whole::complete(&mut pool.slot(i)[..len], c));
                done.csum += u64::from(partial == Some(Ok(())));
                match (partial, tag) {
                    (Some(Err(_)), _) => {}
                    (_, Some(tag)) if len >= 14 => pool.keep_tagged(i, len, tag),
                    _ => pool.keep(i, len),
                }
                partial.is_some_and(|p| p.is_err())
            };
            if bad {
                done.bad.frames += 1;
                done.bad.bytes += len as u64;
            }
        }
        done
    }

    fn missed(&mut self) -> u64 {
        // struct tpacket_stats: packets, drops; reading clears both.
        let mut stats = [0_u32; 2];
        let mut len = size_of_val(&stats) as u32;
        // SAFETY: pointer and length are of `stats`, which lives through the call.
        let r = unsafe {
            let at = stats.as_mut_ptr().cast();
            libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, PACKET_STATISTICS, at, &raw mut len)
        };
        if r == 0 { u64::from(stats[1]) } else { 0 }
    }
}

impl Transmit for PacketTx {
    fn send(&self, frames: &[&[u8]], each: &mut dyn FnMut(&[u8], bool)) {
        for frames in frames.chunks(SEND) {
            // SAFETY: all zeros is valid for both: null pointers of length 0.
            let (mut iov, mut msgs): ([libc::iovec; SEND], [libc::mmsghdr; SEND]) = unsafe { std::mem::zeroed() };
            for (i, f) in frames.iter().enumerate() {
                iov[i] = libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() };
                msgs[i].msg_hdr.msg_iov = &raw mut iov[i];
                msgs[i].msg_hdr.msg_iovlen = 1;
            }
            let mut at = 0;
            while at < frames.len() {
                // SAFETY: every pointer set above is to memory that lives, unmoved, through the call; the kernel only
                // reads the frames.
                let n = unsafe {
                    let rest = msgs[at..].as_mut_ptr();
                    libc::sendmmsg(self.0.as_raw_fd(), rest, (frames.len() - at) as u32, libc::MSG_DONTWAIT as _)
                };
                // Nothing sent: the first was refused (too long, a full queue, a device that is down); go on behind it.
                let n = usize::try_from(n).unwrap_or(0);
                frames[at..at + n].iter().for_each(|f| each(f, true));
                at += n;
                if n == 0 {
                    each(frames[at], false);
                    at += 1;
                }
            }
        }
    }
}
