//! Asks the kernel what it is still busy with: neighbours being resolved, addresses not usable yet. Only that: everything else
//! is asked with `ip -j`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NUD_INCOMPLETE: u16 = 0x01;
const IFA_F_TENTATIVE: u8 = 0x40;

/// How many neighbours of the calling thread's namespace are INCOMPLETE.
///
/// # Errors
/// The kernel's.
pub fn incomplete() -> io::Result<usize> {
    let mut count = 0;
    // ndm_state stands behind family, padding and ifindex.
    dump(RTM_GETNEIGH, RTM_NEWNEIGH, 0, |m| {
        let state = m.get(8..10).map_or(0, |s| u16::from_ne_bytes([s[0], s[1]]));
        count += usize::from(state & NUD_INCOMPLETE != 0);
    })?;
    Ok(count)
}

/// Indexes of the devices with an IPv6 address that is not usable yet.
///
/// # Errors
/// The kernel's.
pub fn tentative() -> io::Result<Vec<u32>> {
    let mut out = Vec::new();
    // ifaddrmsg: family, prefix length, flags, scope, ifindex.
    dump(RTM_GETADDR, RTM_NEWADDR, libc::AF_INET6 as u8, |m| {
        if let Some(m) = m.first_chunk::<8>()
            && m[2] & IFA_F_TENTATIVE != 0
        {
            out.push(u32::from_ne_bytes([m[4], m[5], m[6], m[7]]));
        }
    })?;
    Ok(out)
}

/// Dumps a kind; `each` gets what stands behind each message's header.
fn dump(get: u16, new: u16, family: u8, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is owned by the `File` from here on.
    let mut s = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    // nlmsghdr (length, type, REQUEST|DUMP, sequence, port), then a family and nothing more.
    let mut request = Vec::new();
    request.extend_from_slice(&28u32.to_ne_bytes());
    request.extend_from_slice(&get.to_ne_bytes());
    request.extend_from_slice(&0x301u16.to_ne_bytes());
    request.extend_from_slice(&[0; 8 + 12]);
    request[16] = family;
    s.write_all(&request)?;
    let mut buf = vec![0u8; 64 << 10];
    loop {
        let n = s.read(&mut buf)?;
        let mut at = 0;
        while let Some(h) = buf.get(at..n.min(at + 16)).filter(|h| h.len() == 16) {
            let len = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize;
            match u16::from_ne_bytes([h[4], h[5]]) {
                2 | 3 => return Ok(()), // NLMSG_ERROR, NLMSG_DONE
                t if t == new => each(buf.get(at + 16..(at + len).min(n)).unwrap_or_default()),
                _ => {}
            }
            if len < 16 {
                return Ok(());
            }
            at += len.next_multiple_of(4);
        }
    }
}
