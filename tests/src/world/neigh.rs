//! Asks the kernel whether any neighbour is being resolved. Only that: everything else is asked with `ip -j`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NUD_INCOMPLETE: u16 = 0x01;

/// How many neighbours of the calling thread's namespace are INCOMPLETE.
///
/// # Errors
/// The kernel's.
pub fn incomplete() -> io::Result<usize> {
    // SAFETY: no pointers; the descriptor is owned by the `File` from here on.
    let mut s = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    // nlmsghdr (length, type, REQUEST|DUMP, sequence, port) and an empty ndmsg.
    let mut request = Vec::new();
    request.extend_from_slice(&28u32.to_ne_bytes());
    request.extend_from_slice(&RTM_GETNEIGH.to_ne_bytes());
    request.extend_from_slice(&0x301u16.to_ne_bytes());
    request.extend_from_slice(&[0; 8 + 12]);
    s.write_all(&request)?;
    let mut count = 0;
    let mut buf = vec![0u8; 64 << 10];
    loop {
        let n = s.read(&mut buf)?;
        let mut at = 0;
        while let Some(h) = buf.get(at..n.min(at + 16)).filter(|h| h.len() == 16) {
            let len = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize;
            match u16::from_ne_bytes([h[4], h[5]]) {
                2 | 3 => return Ok(count), // NLMSG_ERROR, NLMSG_DONE
                RTM_NEWNEIGH => {
                    // ndm_state stands behind family, padding and ifindex.
                    if let Some(state) = buf.get(at + 24..at + 26)
                        && u16::from_ne_bytes([state[0], state[1]]) & NUD_INCOMPLETE != 0
                    {
                        count += 1;
                    }
                }
                _ => {}
            }
            if len < 16 {
                return Ok(count);
            }
            at += len.next_multiple_of(4);
        }
    }
}
