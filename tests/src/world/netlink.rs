//! As much netlink as the harness needs for questions that it asks often: to spawn `ip` for them costs milliseconds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;

/// The payload of one attribute, nested or not.
pub fn attr(mut attrs: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(h) = attrs.first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([h[0], h[1]]));
        // Without the flags for nested ones and for byte order.
        if u16::from_ne_bytes([h[2], h[3]]) & 0x3fff == kind {
            return attrs.get(4..len);
        }
        if len < 4 {
            break;
        }
        attrs = attrs.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// A socket for requests.
///
/// # Errors
/// The kernel's.
pub fn socket() -> io::Result<File> {
    // SAFETY: no pointers; the descriptor is owned by the `File` from here on.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}

/// Dumps a kind; `each` gets what stands behind each message's header.
///
/// # Errors
/// The kernel's.
pub fn dump(get: u16, new: u16, family: u8, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut s = socket()?;
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
