//! BPF programs that netlink does not show: tcx programs on ports and netfilter programs anywhere.
//!
//! I/O by the `bpf` system call alone. XDP is seen in the links (`link`), classic tc filters in `tc`; programs of
//! cgroups, sockets and `sk_lookup` see no forwarded packet, and the flow dissector's chooses among legal members.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Finding, Scope};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_LINK_TYPE_NETFILTER: u32 = 10;
/// `BPF_F_NETFILTER_IP_DEFRAG`
const IP_DEFRAG: u32 = 1;
/// The machine may hold a great many links of other kinds; more than this is a kernel that does not end its list.
const MAX_LINKS: usize = 100_000;

/// `union bpf_attr`, as far as it is used: 32-bit words, and the kernel takes zeros behind what it knows.
#[repr(C, align(8))]
struct Attr([u32; 32]);

impl Attr {
    fn new(words: &[u32]) -> Attr {
        let mut a = Attr([0; 32]);
        a.0[..words.len()].copy_from_slice(words);
        a
    }
}

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live, writable and of the size given. Every pointer in it is null or, in `info`, points at a
    // buffer that outlives the call and whose length is in the attribute too.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_mut_ptr(), size_of::<Attr>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// How many tcx programs are attached to an interface, both ways. A kernel without tcx (before 6.6) has none.
pub fn tcx(ifindex: u32) -> io::Result<u32> {
    let mut n = 0;
    for attach in [BPF_TCX_INGRESS, BPF_TCX_EGRESS] {
        // target_ifindex, attach_type, query_flags, attach_flags, prog_ids (64 bits), count.
        let mut attr = Attr::new(&[ifindex, attach]);
        match bpf(BPF_PROG_QUERY, &mut attr) {
            Ok(_) => n += attr.0[6],
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::ENOENT)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// What the netfilter programs of the whole machine close: a link does not say which network namespace it is for.
pub fn netfilter() -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut id = 0;
    for _ in 0..MAX_LINKS {
        let mut attr = Attr::new(&[id]);
        match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
            Ok(_) => id = attr.0[1],
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOSYS)) => return Ok(findings),
            Err(e) => return Err(e),
        }
        let fd = match bpf(BPF_LINK_GET_FD_BY_ID, &mut Attr::new(&[id])) {
            // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) },
            // It went away meanwhile, or is not complete yet.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => continue,
            Err(e) => return Err(e),
        };
        if let Some(f) = judge(&info(&fd)?) {
            findings.push(f);
        }
    }
    Err(io::Error::other("the list of BPF links does not end"))
}

/// `struct bpf_link_info`: type, id, prog_id, padding, then by type; netfilter: pf, hook, priority, flags.
fn info(fd: &OwnedFd) -> io::Result<[u32; 16]> {
    let mut info = [0u32; 16];
    let at = info.as_mut_ptr() as u64;
    let words = [fd.as_raw_fd() as u32, size_of_val(&info) as u32, at as u32, (at >> 32) as u32];
    let words = if cfg!(target_endian = "big") { [words[0], words[1], words[3], words[2]] } else { words };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Attr::new(&words))?;
    Ok(info)
}

fn judge(info: &[u32; 16]) -> Option<Finding> {
    let &[kind, id, _, _, pf, hook, _, flags, ..] = info;
    // Input and output (1 and 3) see no forwarded packet, unless reassembly is asked for.
    if kind != BPF_LINK_TYPE_NETFILTER || (matches!(hook, 1 | 3) && flags & IP_DEFRAG == 0) {
        return None;
    }
    let scope = match pf {
        2 => Scope::V4,
        10 => Scope::V6,
        _ => Scope::All,
    };
    let why = format!(
        "netfilter BPF link {id} is attached, perhaps in another network namespace: \
         end its owner to have hardware forward again (bpftool link show id {id})"
    );
    Some(Finding::new(scope, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netfilter_links_of_the_forward_path_close_their_family() {
        let link = |kind, pf, hook, flags| {
            let mut i = [0; 16];
            (i[0], i[1], i[4], i[5], i[7]) = (kind, 7, pf, hook, flags);
            judge(&i).map(|f| f.scope)
        };
        assert_eq!(link(BPF_LINK_TYPE_NETFILTER, 2, 2, 0), Some(Scope::V4));
        assert_eq!(link(BPF_LINK_TYPE_NETFILTER, 10, 0, 0), Some(Scope::V6));
        assert_eq!(link(BPF_LINK_TYPE_NETFILTER, 2, 1, 0), None);
        assert_eq!(link(BPF_LINK_TYPE_NETFILTER, 2, 1, IP_DEFRAG), Some(Scope::V4));
        assert_eq!(link(6, 2, 2, 0), None);
    }
}
