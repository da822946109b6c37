//! Reads everything that the gate judges and the kernel never announces. Blocking; cheap enough for once a second.
//!
//! A reader belongs to the network namespace of the thread that makes it, and has to be used on a thread in the same
//! one: `/proc/sys/net` and `/proc/thread-self/net` show the namespace of the thread that opens them.
//! What can't be read becomes a finding that closes what it could have said something about.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::nl::{Asker, Message, attrs, find};
use super::sysctl::{self, Reach};
use super::{Finding, Polled, PortRef, Scope, bpf, exception, link, nft, tc, xfrm, xtables};

const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// `NFNL_SUBSYS_NFTABLES << 8` and `NFT_MSG_*`.
const NFT: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = NFT | 4;
const NFT_MSG_GETRULE: u16 = NFT | 7;
const NFT_MSG_GETSET: u16 = NFT | 10;
const NFT_MSG_GETGEN: u16 = NFT | 16;
const NFT_MSG_GETOBJ: u16 = NFT | 19;
const NFT_MSG_GETFLOWTABLE: u16 = NFT | 23;
/// `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`, behind a `struct ifinfomsg`.
const LINKS: [u8; 24] = {
    let mut b = [0; 24];
    let len = 8u16.to_ne_bytes();
    let kind = 29u16.to_ne_bytes();
    let mask = 8u32.to_ne_bytes();
    (b[16], b[17], b[18], b[19]) = (len[0], len[1], kind[0], kind[1]);
    (b[20], b[21], b[22], b[23]) = (mask[0], mask[1], mask[2], mask[3]);
    b
};
/// More policies than this are not listed, only counted.
const MAX_POLICIES: u32 = 1024;
/// The kernel walks all routes to list the exceptions (0.3 s for a million): a walk that takes longer than `QUICK` is
/// not repeated before `REST` times as long has passed, unless it is asked for: what is settled has been looked at.
const QUICK: Duration = Duration::from_millis(5);
const REST: u32 = 20;
/// Inode of the first user namespace (`PROC_USER_INIT_INO`, `linux/proc_ns.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Reads; keeps its sockets open.
pub struct Reader {
    route: Option<Asker>,
    netfilter: Option<Asker>,
    xfrm: Option<Asker>,
    /// Findings from rules, sets and objects of nf_tables, and the ruleset's generation that they are of.
    rules: Option<(Vec<u8>, Vec<Finding>)>,
    /// Findings from route exceptions, and until when they do.
    exceptions: Option<(Instant, Vec<Finding>)>,
    /// Whether this is a user namespace other than the first one.
    nested: bool,
    release: (u32, u32),
}

/// Major and minor number of a kernel's release.
fn release(of: &str) -> Option<(u32, u32)> {
    let mut parts = of.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A protocol or feature that this kernel does not have.
fn absent(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT))
}

/// Asks over a socket, opening it first where it is not open; one that failed is opened anew next time, so that no
/// answer to an old question is left in it.
fn with<T>(slot: &mut Option<Asker>, protocol: i32, ask: impl FnOnce(&mut Asker) -> io::Result<T>) -> io::Result<T> {
    let mut socket = match slot.take() {
        Some(s) => s,
        None => Asker::open(protocol as isize)?,
    };
    let answer = ask(&mut socket)?;
    *slot = Some(socket);
    Ok(answer)
}

fn unreadable(scope: Scope, what: &str, e: &io::Error) -> Finding {
    let remedy = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": give the agent CAP_NET_ADMIN in the user namespace that owns its network"
        }
        _ => "",
    };
    Finding::new(scope, format!("{what} cannot be read ({e}){remedy}"))
}

impl Reader {
    /// Opens what every kernel has.
    pub fn new() -> io::Result<Reader> {
        let user = std::fs::metadata("/proc/thread-self/ns/user")?.ino();
        Ok(Reader {
            route: Some(Asker::open(libc::NETLINK_ROUTE as isize)?),
            netfilter: None,
            xfrm: None,
            rules: None,
            exceptions: None,
            nested: user != INITIAL_USER_NAMESPACE,
            release: rustix::system::uname().release().to_str().ok().and_then(release).unwrap_or_default(),
        })
    }

    /// Reads everything about these ports. Where it was not `asked` for, what costs the kernel much may be as it was read before.
    pub fn read(&mut self, ports: &[PortRef], asked: bool) -> Polled {
        let mut polled = Polled { ports: ports.to_vec(), release: self.release, ..Polled::default() };
        self.sysctls(ports, &mut polled);
        let f = &mut polled.findings;
        f.extend(self.devices(ports).unwrap_or_else(|e| vec![unreadable(Scope::All, "links and tc", &e)]));
        f.extend(self.exceptions(asked).unwrap_or_else(|e| vec![unreadable(Scope::V4, "route exceptions", &e)]));
        f.extend(self.nftables(ports).unwrap_or_else(|e| vec![unreadable(Scope::All, "nftables", &e)]));
        f.extend(self.ipsec().unwrap_or_else(|e| vec![unreadable(Scope::All, "IPsec policy", &e)]));
        f.extend(legacy());
        self.bpf(ports, &mut polled);
        polled.findings.sort();
        polled.findings.dedup();
        polled
    }

    fn sysctls(&self, ports: &[PortRef], polled: &mut Polled) {
        if let Err(e) = std::fs::read("/proc/sys/net/ipv4/ip_forward") {
            polled.findings.push(unreadable(Scope::All, "/proc/sys/net", &e));
            return;
        }
        for (row, path) in sysctl::global_paths() {
            // Of `all`, which has no scope of its own, what it is combined with on the ports.
            let closes = row.reach.scope(None).unwrap_or(Scope::All);
            self.sysctl(path, closes, polled);
        }
        let v6 = std::fs::exists("/proc/sys/net/ipv6/conf").unwrap_or(true);
        for p in ports {
            for (family, closed) in [("ipv4", Scope::Ingress4(p.ifindex)), ("ipv6", Scope::Ingress6(p.ifindex))] {
                if family == "ipv6" && !v6 {
                    continue;
                }
                // So it is on a device with an MTU below the family's minimum, or one that was renamed meanwhile.
                if !matches!(std::fs::exists(format!("/proc/sys/net/{family}/conf/{}", p.name)), Ok(true)) {
                    let why = format!("net.{family}.conf.{} is not there: the device does not do this family", p.name);
                    polled.findings.push(Finding::new(closed, why));
                }
            }
            for (row, path) in sysctl::port_paths(&p.name) {
                let reach = row.map_or(Reach::Link, |r| r.reach);
                let closes = reach.scope(Some(p)).unwrap_or(Scope::Link(p.ifindex));
                self.sysctl(path, closes, polled);
            }
        }
    }

    fn sysctl(&self, path: String, closes: Scope, polled: &mut Polled) {
        match std::fs::read_to_string(format!("/proc/sys/net/{path}")) {
            Ok(value) => {
                polled.sysctls.insert(path, value.trim().to_owned());
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                let what = format!("net.{}", path.replace('/', "."));
                polled.findings.push(unreadable(closes, &what, &e));
            }
        }
    }

    fn devices(&mut self, ports: &[PortRef]) -> io::Result<Vec<Finding>> {
        with(&mut self.route, libc::NETLINK_ROUTE, |s| {
            let mut findings = link::judge(&s.dump(RTM_GETLINK, &LINKS)?, ports);
            let qdiscs = match s.dump(RTM_GETQDISC, &[0; 20]) {
                // A kernel without traffic control.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(findings),
                r => r?,
            };
            findings.extend(tc::judge(&qdiscs, ports));
            for p in tc::may_filter(&qdiscs, ports) {
                let mut tcmsg = [0; 20];
                tcmsg[4..8].copy_from_slice(&p.ifindex.to_ne_bytes());
                match s.dump(RTM_GETTFILTER, &tcmsg) {
                    Ok(filters) => findings.extend(tc::judge_filters(&filters, p)),
                    Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                    Err(e) => {
                        findings.push(unreadable(Scope::Link(p.ifindex), &format!("tc filters on {}", p.name), &e))
                    }
                }
            }
            Ok(findings)
        })
    }

    fn exceptions(&mut self, asked: bool) -> io::Result<Vec<Finding>> {
        let start = Instant::now();
        if let Some((until, findings)) = &self.exceptions
            && start < *until
            && !asked
        {
            return Ok(findings.clone());
        }
        let routes = with(&mut self.route, libc::NETLINK_ROUTE, |s| {
            let mut all = Vec::new();
            for family in [libc::AF_INET, libc::AF_INET6] {
                // Routes change all the time; an exception that this hides is found by the next look.
                match s.dump_once(RTM_GETROUTE, &exception::question(family as u8)) {
                    // A kernel may lack IPv6.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP)) => {}
                    r => all.extend(r?),
                }
            }
            Ok(all)
        })?;
        let took = start.elapsed();
        let rest = if took > QUICK { took * REST } else { Duration::ZERO };
        let findings = exception::judge(&routes);
        self.exceptions = Some((Instant::now() + rest, findings.clone()));
        Ok(findings)
    }

    fn nftables(&mut self, ports: &[PortRef]) -> io::Result<Vec<Finding>> {
        // `struct nfgenmsg`: every family, version 0.
        const ANY: [u8; 4] = [0; 4];
        let rules = &mut self.rules;
        let read = with(&mut self.netfilter, libc::NETLINK_NETFILTER, |s| {
            let generation = match s.get(NFT_MSG_GETGEN, &ANY) {
                // nfnetlink's answer for a subsystem that this kernel does not have; the question is well-formed.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
                r => generation(&r?)?,
            };
            let mut ruleset = nft::Ruleset {
                chains: s.dump(NFT_MSG_GETCHAIN, &ANY)?,
                flowtables: s.dump(NFT_MSG_GETFLOWTABLE, &ANY)?,
                ..nft::Ruleset::default()
            };
            let mut findings = nft::judge(&ruleset, ports);
            // Rules may be many: they are read again only when the ruleset has changed.
            if rules.as_ref().is_none_or(|r| r.0 != generation) {
                ruleset = nft::Ruleset {
                    rules: s.dump(NFT_MSG_GETRULE, &ANY)?,
                    sets: s.dump(NFT_MSG_GETSET, &ANY)?,
                    objects: s.dump(NFT_MSG_GETOBJ, &ANY)?,
                    ..nft::Ruleset::default()
                };
                *rules = Some((generation, nft::judge(&ruleset, ports)));
            }
            findings.extend(rules.iter().flat_map(|r| r.1.clone()));
            Ok(findings)
        });
        match read {
            Err(e) if absent(&e) => Ok(Vec::new()),
            r => r,
        }
    }

    fn ipsec(&mut self) -> io::Result<Vec<Finding>> {
        let read = with(&mut self.xfrm, libc::NETLINK_XFRM, |s| {
            let mut findings = xfrm::judge_default(&s.get(XFRM_MSG_GETDEFAULT, &[0; 4])?);
            match xfrm::count(&s.get(XFRM_MSG_GETSPDINFO, &[0; 4])?) {
                Some(0) => {}
                Some(n) if n <= MAX_POLICIES => findings.extend(xfrm::judge(&s.dump(XFRM_MSG_GETPOLICY, &[0; 64])?)),
                Some(n) => findings.push(Finding::new(Scope::All, format!("{n} IPsec policies"))),
                None => findings.push(Finding::new(Scope::All, "IPsec policies cannot be counted")),
            }
            Ok(findings)
        });
        match read {
            Err(e) if absent(&e) => Ok(Vec::new()),
            r => r,
        }
    }

    fn bpf(&self, ports: &[PortRef], polled: &mut Polled) {
        let Polled { findings, unwatched, .. } = polled;
        let mut closed = |scope, what: &str, e: &io::Error| {
            // In a user namespace the kernel tells nobody, and nobody there can load a program either.
            if self.nested && e.raw_os_error() == Some(libc::EPERM) {
                unwatched.push(format!("{what} (not permitted in a user namespace)"));
            } else {
                let need = if e.raw_os_error() == Some(libc::EPERM) { ": give the agent CAP_SYS_ADMIN" } else { "" };
                findings.push(Finding::new(scope, format!("{what} cannot be read ({e}){need}")));
            }
        };
        let mut tcx = Vec::new();
        for p in ports {
            match bpf::tcx(p.ifindex) {
                Ok(0) => {}
                Ok(n) => {
                    let why = format!("{n} tcx programs on {}: detach them to have hardware forward again", p.name);
                    tcx.push(Finding::new(Scope::Link(p.ifindex), why));
                }
                Err(e) => {
                    // What is refused for one port is refused for all.
                    let all = e.raw_os_error() == Some(libc::EPERM);
                    closed(if all { Scope::All } else { Scope::Link(p.ifindex) }, "tcx programs on ports", &e);
                    if all {
                        break;
                    }
                }
            }
        }
        let netfilter = bpf::netfilter().unwrap_or_else(|e| {
            closed(Scope::All, "netfilter BPF links", &e);
            Vec::new()
        });
        findings.extend(tcx);
        findings.extend(netfilter);
    }
}

/// The ruleset's generation (`NFTA_GEN_ID`).
fn generation(answer: &[Message]) -> io::Result<Vec<u8>> {
    let id = answer.first().and_then(|m| Some(find(&attrs(m.body.get(4..)?)?, 1)?.to_vec()));
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no generation of the ruleset"))
}

fn legacy() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut file = |name: &str, scope, judge: &dyn Fn(&str) -> Vec<Finding>| match std::fs::read_to_string(format!(
        "/proc/{name}"
    )) {
        Ok(text) => findings.extend(judge(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => findings.push(unreadable(scope, &format!("/proc/{name}"), &e)),
    };
    // A table that can't be read is one that may do something.
    file("thread-self/net/ip_tables_names", Scope::V4, &|t| {
        xtables::judge(t, false, |n| idle(n, false).unwrap_or(false))
    });
    file("thread-self/net/ip6_tables_names", Scope::V6, &|t| {
        xtables::judge(t, true, |n| idle(n, true).unwrap_or(false))
    });
    file("thread-self/net/ip_vs", Scope::All, &|t| xtables::judge_ipvs(t).into_iter().collect());
    file("modules", Scope::Bridge, &|t| xtables::judge_ebtables(t));
    findings
}

/// Whether a legacy table that is registered already (asking for another one would register it) lets everything pass.
fn idle(table: &str, v6: bool) -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    /// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, which are IPv6's too (`linux/netfilter_ipv4/ip_tables.h`).
    const INFO: i32 = 64;
    const ENTRIES: i32 = 65;
    /// More than this is no empty table.
    const MOST: usize = 16 << 10;
    let (family, level) = if v6 { (AddressFamily::INET6, libc::SOL_IPV6) } else { (AddressFamily::INET, libc::SOL_IP) };
    let s = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let get = |option: i32, buf: &mut [u8]| -> io::Result<()> {
        let mut len = buf.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `buf`, which has that many.
        let r = unsafe { libc::getsockopt(s.as_raw_fd(), level, option, buf.as_mut_ptr().cast(), &raw mut len) };
        if r == 0 && len as usize == buf.len() { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let mut info = [0; xtables::INFO];
    let name = table.as_bytes();
    if name.len() >= xtables::NAME {
        return Ok(false);
    }
    info[..name.len()].copy_from_slice(name);
    get(INFO, &mut info)?;
    let size = xtables::size(&info);
    if size > MOST {
        return Ok(false);
    }
    // `struct ipt_get_entries`: name, size, and the entries at the next multiple of eight.
    const HEAD: usize = xtables::NAME + 8;
    let mut all = vec![0; HEAD + size];
    all[..name.len()].copy_from_slice(name);
    all[xtables::NAME..xtables::NAME + 4].copy_from_slice(&(size as u32).to_ne_bytes());
    get(ENTRIES, &mut all)?;
    Ok(xtables::passes_all(&info, &all[HEAD..], v6))
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn releases() {
        assert_eq!(release("6.1.0-40-amd64"), Some((6, 1)));
        assert_eq!(release("6.18-rc1"), Some((6, 18)));
        assert_eq!(release("linux"), None);
    }
}
