//! The policy gate against the real kernel: each thing that could have a say is set up and taken down again, in a
//! network namespace of its own, and the gate has to follow. As root or not; what the kernel lacks is skipped by name.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use virga::edge::watch::{self, Watch};
use virga::policy::gate::disagree;
use virga::policy::sysctl::{Compiled, TABLE};
use virga::policy::{Finding, PortRef, Reader, Scope, gate};

type Outcome = Result<(), Failed>;

/// Set for the child that runs as an ordinary user would.
const NESTED: &str = "VIRGA_TEST_NESTED";

fn main() {
    let mut args = Arguments::from_args();
    let nested = std::env::var_os(NESTED).is_some();
    if (nested || !rustix::process::geteuid().is_root())
        && let Err(e) = enter_user_namespace()
    {
        println!("policy: every test skipped: no user namespace: {e}");
        return;
    }
    if nested {
        if let Err(e) = user_namespace() {
            eprintln!("{}", e.message().unwrap_or_default());
            std::process::exit(1);
        }
        return;
    }
    // One at a time: netfilter's BPF links are seen from every namespace.
    args.test_threads = Some(1);
    let nft = feature("nft", |w| w.run("nft add table ip t"));
    let flowtable = feature("nf_flow_table", |w| {
        w.run("nft add table ip t")?;
        w.run("nft add flowtable ip t f { hook ingress priority 0; devices = { swp1 }; }")
    });
    let xfrm = feature("xfrm", |w| w.run("ip xfrm policy"));
    let clsact = feature("sch_ingress", |w| w.run("tc qdisc add dev swp1 clsact"));
    let macvlan = feature("macvlan", |w| w.run("ip link add m0 link swp1 type macvlan mode bridge"));
    let bridge = feature("bridge", |w| w.run("ip link add br0 type bridge"));
    let bpf = feature("bpf", |_| program(XDP, 2));
    let netfilter = feature("netfilter BPF links", |_| netfilter_link(2, 1));
    let legacy = feature("ip_tables", |_| register("filter", false));
    let tun = feature("TAP", |_| tap("swp1"));
    let none = Ok(());
    let trials = vec![
        trial("a_plain_router_is_open", &none, plain),
        trial("every_sysctl_row_closes_and_opens", &none, sysctls),
        trial("values_are_handed_on", &none, values),
        trial("a_device_without_ipv6", &none, without_ipv6),
        trial("a_port_that_went_or_was_renamed", &none, renamed),
        trial("nft_hooks_of_the_forward_path", &nft, nft_forward),
        trial("nft_input_alone_is_open", &nft, nft_input),
        trial("nft_rules_that_track", &nft, nft_tracking),
        trial("nft_device_hooks", &nft, nft_devices),
        trial("nft_flow_table", &flowtable, nft_flowtable),
        trial("ipsec_policies", &xfrm, ipsec),
        trial("tc", &clsact, tc),
        trial("nft_changes_are_heard", &nft, |w, _| {
            heard(w, &["nft add table ip t", "nft add chain ip t c", "nft delete table ip t"])
        }),
        trial("tc_changes_are_heard", &clsact, |w, _| {
            heard(w, &["tc qdisc add dev swp1 clsact", "tc qdisc del dev swp1 clsact"])
        }),
        trial("ipsec_changes_are_heard", &xfrm, |w, _| {
            let policy = "src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd";
            heard(w, &[&format!("ip xfrm policy add {policy} action block"), &format!("ip xfrm policy del {policy}")])
        }),
        trial("macvlans", &macvlan, macvlans),
        trial("bridge_ports", &bridge, masters),
        trial("legacy_tables", &legacy, legacy_tables),
        trial("xdp_and_tcx_links", &bpf, bpf_on_port),
        trial("netfilter_bpf_links", &netfilter, netfilter_links),
        trial("route_exceptions", &tun, exceptions),
        trial("settings_over_rtnetlink", &none, unannounced),
        trial("as_an_ordinary_user", &none, ordinary_user),
        trial("cost_of_a_reading", &none, cost),
    ];
    libtest_mimic::run(&args, trials).exit();
}

// ---------------------------------------------------------------- the world

/// A network namespace with ports, all forwarding; it goes with the thread.
struct World {
    ports: Vec<PortRef>,
}

impl World {
    fn new(ports: usize) -> Result<World, Failed> {
        let mut w = World { ports: Vec::new() };
        w.run("ip link set lo up")?;
        w.set("ipv4/ip_forward", "1")?;
        w.set("ipv6/conf/all/forwarding", "1")?;
        // On, where the kernel has br_netfilter.
        for hook in ["iptables", "ip6tables", "arptables"] {
            let _ = w.set(&format!("bridge/bridge-nf-call-{hook}"), "0");
        }
        for n in 1..=ports {
            // An ordinary user may not be let at /dev/net/tun; for most of it any Ethernet device will do.
            w.run(&format!("ip tuntap add swp{n} mode tap"))
                .or_else(|_| w.run(&format!("ip link add swp{n} type veth peer name wire{n}")))?;
            w.run(&format!("ip link set swp{n} up"))?;
            let port = w.port(&format!("swp{n}"))?;
            w.ports.push(port);
        }
        Ok(w)
    }

    fn port(&self, name: &str) -> Result<PortRef, Failed> {
        let out = self.run(&format!("ip -o link show {name}"))?;
        let ifindex = out.split(':').next().and_then(|i| i.trim().parse().ok()).ok_or("no ifindex")?;
        Ok(PortRef { ifindex, name: name.into() })
    }

    fn run(&self, command: &str) -> Result<String, Failed> {
        let mut words = command.split_whitespace();
        let out = Command::new(words.next().ok_or("no command")?).args(words).output();
        let out = out.map_err(|e| format!("{command}: {e}"))?;
        if !out.status.success() {
            return Err(format!("{command}: {}", String::from_utf8_lossy(&out.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn set(&self, path: &str, value: &str) -> Outcome {
        std::fs::write(format!("/proc/sys/net/{path}"), value).map_err(|e| format!("{path}: {e}").into())
    }

    fn get(&self, path: &str) -> Result<String, Failed> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).map_err(|e| format!("{path}: {e}"))?;
        Ok(text.trim().into())
    }

    /// What is closed, and why.
    fn closed(&self, reader: &mut Reader) -> Vec<Finding> {
        gate(Some(&reader.read(&self.ports, true)), &self.ports)
    }

    /// The gate has to be closed exactly so.
    fn expect(&self, reader: &mut Reader, what: &str, scopes: &[Scope]) -> Outcome {
        let found = self.closed(reader);
        let mut seen: Vec<Scope> = found.iter().map(|f| f.scope).collect();
        seen.dedup();
        if seen == scopes { Ok(()) } else { Err(format!("{what}: expected {scopes:?}, found {found:?}").into()) }
    }

    fn link(&self, n: usize) -> Scope {
        Scope::Link(self.ports[n].ifindex)
    }
}

/// Runs in a namespace of its own, on a thread of its own.
fn in_world<T: Send>(ports: usize, f: impl FnOnce(&World) -> Result<T, Failed> + Send) -> Result<T, Failed> {
    std::thread::scope(|s| {
        let run = s.spawn(|| {
            // SAFETY: only this thread's network namespace changes; no descriptor table is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|e| format!("unshare: {e}"))?;
            f(&World::new(ports)?)
        });
        run.join().unwrap_or_else(|_| Err("panicked".into()))
    })
}

fn trial(name: &str, feature: &Result<(), String>, test: fn(&World, &mut Reader) -> Outcome) -> Trial {
    match feature {
        Ok(()) => Trial::test(name, move || in_world(2, |w| test(w, &mut Reader::new()?))),
        Err(why) => Trial::test(format!("{name} (skipped: {why})"), || Ok(())).with_ignored_flag(true),
    }
}

/// Whether the kernel and the machine have it.
fn feature<T>(name: &str, probe: impl FnOnce(&World) -> Result<T, Failed> + Send) -> Result<(), String> {
    let tried = in_world(1, |w| probe(w).map(drop));
    tried.map_err(|e| format!("no {name}: {}", e.message().unwrap_or_default().lines().next().unwrap_or_default()))
}

fn enter_user_namespace() -> std::io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: no thread has been started yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

// ---------------------------------------------------------------- tests

fn plain(w: &World, r: &mut Reader) -> Outcome {
    w.expect(r, "nothing set up", &[])?;
    w.expect(r, "read again", &[])
}

/// Paths and values to write.
type Writes<'a> = &'a [(&'a str, &'a str)];

/// Takes each row of the table from its compiled value to another and back.
fn sysctls(w: &World, r: &mut Reader) -> Outcome {
    for row in TABLE.iter().filter(|row| !matches!(row.compiled, Compiled::Any)) {
        let p = row.path;
        let (on, off, scope): (Writes<'_>, Writes<'_>, Scope) = match p {
            // Kernels of today take no value that is not compiled.
            _ if p.contains("/fib_multipath_hash_") => continue,
            // The kernel may be without br_netfilter.
            _ if p.starts_with("bridge/") && w.get(p).is_err() => continue,
            _ if p.starts_with("bridge/") => (&[(p, "1")], &[(p, "0")], Scope::Bridge),
            "ipv4/ip_forward_use_pmtu" => (&[(p, "1")], &[(p, "0")], Scope::V4),
            "ipv6/route/skip_notify_on_dev_down" => (&[(p, "1")], &[(p, "0")], Scope::V6),
            "ipv6/conf/*/disable_ipv6" => {
                let own = "ipv6/conf/swp2/disable_ipv6";
                (&[(own, "1")], &[(own, "0")], Scope::Ingress6(w.ports[1].ifindex))
            }
            // Forwarding is on, so that both the interface's and that of `all` have to be.
            "ipv4/conf/*/accept_redirects" => (
                &[
                    ("ipv4/conf/swp1/accept_redirects", "0"),
                    ("ipv4/conf/swp2/accept_redirects", "1"),
                    ("ipv4/conf/all/accept_redirects", "1"),
                ],
                &[("ipv4/conf/all/accept_redirects", "0")],
                Scope::V4,
            ),
            // Forwarding is off there, and the kernel forwards all the same (kernel-facts 33).
            "ipv6/conf/*/accept_redirects" => (
                &[("ipv6/conf/swp2/forwarding", "0"), ("ipv6/conf/swp2/accept_redirects", "1")],
                &[("ipv6/conf/swp2/accept_redirects", "0")],
                Scope::V6,
            ),
            _ => return Err(format!("no test for {p}").into()),
        };
        let path = p.replace('*', "swp2");
        if w.get(&path).is_err() {
            println!("{path}: not in this kernel");
            continue;
        }
        on.iter().try_for_each(|(p, v)| w.set(p, v))?;
        w.expect(r, &path, &[scope])?;
        let why = w.closed(r).remove(0).why;
        if !why.contains(&path.replace('/', ".")) {
            return Err(format!("{path} is not named in {why:?}").into());
        }
        off.iter().try_for_each(|(p, v)| w.set(p, v))?;
        w.expect(r, &format!("{path} as before"), &[])?;
    }
    Ok(())
}

fn values(w: &World, r: &mut Reader) -> Outcome {
    w.set("ipv6/conf/swp1/mtu", "1300")?;
    w.set("ipv4/neigh/swp1/base_reachable_time_ms", "12000")?;
    w.set("ipv6/neigh/swp1/base_reachable_time_ms", "24000")?;
    w.set("ipv6/fib_multipath_hash_policy", "1")?;
    let p = r.read(&w.ports, true);
    let got = [p.mtu6("swp1"), p.mtu6("swp2"), p.reachable_ms("swp1", false), p.reachable_ms("swp1", true)];
    let hash = [p.hash_policy(false), p.hash_policy(true)];
    if got != [Some(1300), Some(1500), Some(12000), Some(24000)] || hash != [0, 1] {
        return Err(format!("{got:?}, hash {hash:?}").into());
    }
    for row in TABLE.iter().filter(|row| matches!(row.compiled, Compiled::Any)) {
        let path = row.path.replace('*', "swp2");
        if p.sysctls.get(&path) != Some(&w.get(&path)?) {
            return Err(format!("{path} was not read").into());
        }
    }
    Ok(())
}

fn without_ipv6(w: &World, r: &mut Reader) -> Outcome {
    w.run("ip link set swp1 mtu 1000")?;
    w.expect(r, "MTU below IPv6's minimum", &[Scope::Ingress6(w.ports[0].ifindex)])?;
    w.run("ip link set swp1 mtu 1500")?;
    w.expect(r, "MTU as before", &[])
}

fn renamed(w: &World, r: &mut Reader) -> Outcome {
    let before = r.read(&w.ports, true);
    w.run("ip link set swp2 down")?;
    w.run("ip link set swp2 name front2")?;
    let now = [w.ports[0].clone(), PortRef { ifindex: w.ports[1].ifindex, name: "front2".into() }];
    let found = gate(Some(&before), &now);
    if found.iter().map(|f| f.scope).collect::<Vec<_>>() != [w.link(1)] {
        return Err(format!("renamed: {found:?}").into());
    }
    let found = gate(Some(&r.read(&now, true)), &now);
    if !found.is_empty() {
        return Err(format!("read by its new name: {found:?}").into());
    }
    w.run("ip link del front2")?;
    let found = gate(Some(&r.read(&now, true)), &now);
    if !found.iter().any(|f| f.scope == w.link(1)) || found.iter().any(|f| f.scope == Scope::All) {
        return Err(format!("deleted: {found:?}").into());
    }
    Ok(())
}

fn nft_forward(w: &World, r: &mut Reader) -> Outcome {
    for (family, scope) in [("ip", Scope::V4), ("ip6", Scope::V6), ("inet", Scope::All)] {
        w.run(&format!("nft add table {family} t"))?;
        w.expect(r, "a table without chains", &[])?;
        for hook in ["prerouting", "forward", "postrouting"] {
            w.run(&format!("nft add chain {family} t c {{ type filter hook {hook} priority 0; policy accept; }}"))?;
            w.expect(r, &format!("{family} {hook}"), &[scope])?;
            let why = w.closed(r).remove(0).why;
            if !why.contains(&format!("chain {family} t c is hooked on {hook}")) {
                return Err(why.into());
            }
            w.run(&format!("nft delete chain {family} t c"))?;
            w.expect(r, "deleted", &[])?;
        }
        w.run(&format!("nft delete table {family} t"))?;
    }
    Ok(())
}

fn nft_input(w: &World, r: &mut Reader) -> Outcome {
    for command in [
        "nft add table inet t",
        "nft add chain inet t i { type filter hook input priority 0; policy drop; }",
        "nft add chain inet t o { type filter hook output priority 0; }",
        "nft add chain inet t j",
        "nft add set inet t s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }",
        "nft add counter inet t n",
        "nft add rule inet t j tcp dport { 22, 179 } counter name n accept",
        "nft add rule inet t i ip saddr @s limit rate 10/second counter jump j",
        "nft add rule inet t i iifname swp1 icmpv6 type nd-neighbor-solicit accept",
        "nft add rule inet t i reject",
        "nft add table arp a",
        "nft add chain arp a i { type filter hook input priority 0; }",
    ] {
        w.run(command)?;
    }
    w.expect(r, "a firewall for the switch itself", &[])
}

fn nft_tracking(w: &World, r: &mut Reader) -> Outcome {
    w.run("nft add table ip t")?;
    w.run("nft add chain ip t i { type filter hook input priority 0; }")?;
    w.expect(r, "input", &[])?;
    w.run("nft add rule ip t i ct state established accept")?;
    w.expect(r, "ct in input", &[Scope::V4])?;
    w.run("nft flush chain ip t i")?;
    w.expect(r, "flushed", &[])?;
    w.run("nft add rule ip t i ct count over 5 drop")?;
    w.expect(r, "connlimit", &[Scope::V4])?;
    w.run("nft flush chain ip t i")?;
    w.run("nft add chain ip t o { type nat hook output priority 0; }")?;
    w.expect(r, "a nat chain", &[Scope::V4])
}

fn nft_devices(w: &World, r: &mut Reader) -> Outcome {
    w.run("nft add table netdev t")?;
    w.run("nft add chain netdev t l { type filter hook ingress device lo priority 0; }")?;
    w.expect(r, "on a device that is no port", &[])?;
    for hook in ["ingress", "egress"] {
        w.run(&format!("nft add chain netdev t c {{ type filter hook {hook} device swp2 priority 0; }}"))?;
        w.expect(r, hook, &[w.link(1)])?;
        w.run("nft delete chain netdev t c")?;
        w.expect(r, "deleted", &[])?;
    }
    w.run("nft add table inet t")?;
    w.run("nft add chain inet t c { type filter hook ingress devices = { swp1, swp2 } priority 0; }")?;
    w.expect(r, "inet ingress", &[w.link(0), w.link(1)])
}

fn nft_flowtable(w: &World, r: &mut Reader) -> Outcome {
    w.run("nft add table ip t")?;
    w.run("nft add flowtable ip t f { hook ingress priority 0; devices = { swp1 }; }")?;
    w.expect(r, "flow table", &[Scope::V4])
}

fn ipsec(w: &World, r: &mut Reader) -> Outcome {
    for (src, dst, dir, scope) in [
        ("10.1.0.0/16", "10.2.0.0/16", "in", None),
        ("10.1.0.0/16", "10.2.0.0/16", "fwd", Some(Scope::V4)),
        ("10.1.0.0/16", "10.2.0.0/16", "out", Some(Scope::V4)),
        ("2001:db8::/32", "::/0", "fwd", Some(Scope::V6)),
    ] {
        w.run(&format!("ip xfrm policy add src {src} dst {dst} dir {dir} action block"))?;
        w.expect(r, &format!("{src} {dir}"), scope.as_slice())?;
        w.run(&format!("ip xfrm policy del src {src} dst {dst} dir {dir}"))?;
        w.expect(r, "deleted", &[])?;
    }
    w.run("ip xfrm policy setdefault fwd block")?;
    w.expect(r, "blocked by default", &[Scope::All])?;
    w.run("ip xfrm policy setdefault fwd accept")?;
    w.expect(r, "accepted by default", &[])
}

fn tc(w: &World, r: &mut Reader) -> Outcome {
    for (add, del) in [("clsact", "clsact"), ("ingress", "ingress"), ("root pfifo limit 10", "root")] {
        w.run(&format!("tc qdisc add dev swp2 {add}"))?;
        w.expect(r, add, &[w.link(1)])?;
        w.run(&format!("tc qdisc del dev swp2 {del}"))?;
        w.expect(r, "deleted", &[])?;
    }
    w.run("tc qdisc add dev lo clsact")?;
    w.expect(r, "on a device that is no port", &[])
}

/// Each change is announced.
fn heard(w: &World, changes: &[&str]) -> Outcome {
    let watch = Watch::open();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || watch::run(&watch, || tx.send(()).is_ok()));
    for c in changes {
        w.run(c)?;
        rx.recv_timeout(Duration::from_secs(10)).map_err(|_| format!("{c}: not heard"))?;
        while rx.try_recv().is_ok() {}
    }
    Ok(())
}

fn macvlans(w: &World, r: &mut Reader) -> Outcome {
    for (mode, closed) in [("private", false), ("vepa", false), ("bridge", false), ("source", true), ("passthru", true)]
    {
        w.run(&format!("ip link add m0 link swp2 type macvlan mode {mode}"))?;
        let link = [w.link(1)];
        w.expect(r, mode, if closed { &link } else { &[] })?;
        w.run("ip link del m0")?;
    }
    w.expect(r, "deleted", &[])
}

fn masters(w: &World, r: &mut Reader) -> Outcome {
    w.run("ip link add br0 type bridge")?;
    w.run("ip link set swp2 master br0")?;
    w.expect(r, "a bridge port: bridges are compiled", &[])?;
    w.run("ip link set swp2 nomaster")?;
    w.expect(r, "released", &[])
}

fn legacy_tables(w: &World, r: &mut Reader) -> Outcome {
    w.expect(r, "none yet", &[])?;
    for (table, v6, closed) in [("filter", false, Scope::V4), ("filter", true, Scope::V6), ("mangle", true, Scope::V6)]
    {
        if let Err(e) = register(table, v6) {
            println!("{table}: {}", e.message().unwrap_or_default());
            continue;
        }
        w.expect(r, "an empty table", &[])?;
        policy_of_forward(table, v6, DROP)?;
        w.expect(r, "its policy drops", &[closed])?;
        policy_of_forward(table, v6, ACCEPT)?;
        w.expect(r, "its policy accepts again", &[])?;
    }
    // Tracks connections, rules or not.
    if register("nat", false).is_ok() {
        w.expect(r, "IPv4's empty nat table", &[Scope::V4])?;
    }
    Ok(())
}

fn bpf_on_port(w: &World, r: &mut Reader) -> Outcome {
    const TC: u32 = 3;
    let ifindex = w.ports[1].ifindex;
    // XDP_PASS and TCX_NEXT: the programs do nothing, their presence counts.
    for (what, kind, verdict, attach) in [("XDP", XDP, 2, 37), ("tcx ingress", TC, -1, 46), ("tcx egress", TC, -1, 47)]
    {
        let prog = program(kind, verdict)?;
        let link = match bpf(LINK_CREATE, &[prog.as_raw_fd() as u32, ifindex, attach, 0]) {
            Ok(link) => link,
            Err(e) if kind == TC => {
                println!("{what}: not in this kernel: {e}");
                continue;
            }
            Err(e) => return Err(format!("{what}: {e}").into()),
        };
        w.expect(r, what, &[w.link(1)])?;
        drop(link);
        w.expect(r, "detached", &[])?;
    }
    Ok(())
}

fn netfilter_links(w: &World, r: &mut Reader) -> Outcome {
    let link = netfilter_link(2, 1)?;
    w.expect(r, "IPv4 input", &[])?;
    drop(link);
    let link = netfilter_link(10, 2)?;
    w.expect(r, "IPv6 forward", &[Scope::V6])?;
    drop(link);
    w.expect(r, "detached", &[])
}

/// An ICMP error and an ICMP redirect that come in by a port change what the kernel does with forwarded packets.
fn exceptions(w: &World, r: &mut Reader) -> Outcome {
    let wire = tap("swp2")?;
    w.run("ip addr add 10.0.2.1/24 dev swp2")?;
    w.run("ip route add 10.5.0.0/16 via 10.0.2.2")?;
    w.expect(r, "routes", &[])?;
    let mac = w.run("ip -o link show swp2")?;
    let mac = mac.split("link/ether ").nth(1).and_then(|m| m.split(' ').next()).ok_or("no MAC")?.to_owned();
    let send = |src: [u8; 4], icmp: &[u8]| {
        let mut frame: Vec<u8> = mac.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
        frame.extend([2, 0, 0, 0, 2, 2, 8, 0]);
        frame.extend(ipv4(src, [10, 0, 2, 1], icmp));
        rustix::io::write(&wire, &frame).map(drop)
    };
    // Sent again and again: the kernel ignores such news while a carrier that has just come is not settled.
    let tell = |word: &str, src: [u8; 4], icmp: &[u8]| {
        eventually(word, || {
            send(src, icmp)?;
            w.run("ip route show cache")
        })
    };
    // What the switch is told about: an echo reply of its own to 10.5.0.9.
    let quoted = ipv4([10, 0, 2, 1], [10, 5, 0, 9], &icmp([0, 0], [0, 1, 0, 1], &[0; 8]));
    let closed = |r: &mut Reader, word: &str| {
        let found = w.closed(r);
        match found.as_slice() {
            [one] if one.why.contains(word) && one.why.starts_with("10.5.0.9: ") => Ok(()),
            _ => Err(Failed::from(format!("{word}: {found:?}"))),
        }
    };
    // Fragmentation needed. A path MTU of 1,000 is none of the forwarded packets' business; one below min_pmtu is.
    tell("mtu 1000", [10, 0, 2, 2], &icmp([3, 4], [0, 0, 3, 232], &quoted))?;
    w.expect(r, "a path MTU", &[])?;
    tell("mtu lock", [10, 0, 2, 2], &icmp([3, 4], [0, 0, 1, 44], &quoted))?;
    closed(r, "path MTU")?;
    w.run("ip route flush cache")?;
    w.expect(r, "flushed", &[])?;
    // A redirect, let in for a moment: it stays when the sysctl is back.
    w.run("ip neigh add 10.0.2.3 lladdr 02:00:00:00:03:02 dev swp2")?;
    w.set("ipv4/conf/all/accept_redirects", "1")?;
    tell("redirected", [10, 0, 2, 2], &icmp([5, 1], [10, 0, 2, 3], &quoted))?;
    w.set("ipv4/conf/all/accept_redirects", "0")?;
    closed(r, "redirect")?;
    w.run("ip route flush cache")?;
    w.expect(r, "flushed", &[])
}

/// `IFLA_INET_CONF` changes what netconf would announce, and netconf says nothing (nothing in iproute2 does so).
fn unannounced(w: &World, r: &mut Reader) -> Outcome {
    let told = r.read(&w.ports, true).netconf4("swp1").ok_or("not read")?;
    let attr =
        |kind: u16, value: &[u8]| [&(value.len() as u16 + 4).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    // rp_filter (IPV4_DEVCONF_RP_FILTER) = 1, in IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF.
    let spec = attr(26, &attr(libc::AF_INET as u16, &attr(1, &attr(8, &1u32.to_ne_bytes()))));
    let mut message = vec![0u8; 32];
    message[..4].copy_from_slice(&(32 + spec.len() as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&[&16u16.to_ne_bytes()[..], &5u16.to_ne_bytes()].concat());
    message[20..24].copy_from_slice(&w.ports[0].ifindex.to_ne_bytes());
    message.extend(spec);
    let mut socket = netlink_sys::Socket::new(libc::NETLINK_ROUTE as isize)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&message, 0)?;
    socket.recv_from_full()?;
    let found = disagree(&r.read(&w.ports, true), |ifindex| (ifindex == w.ports[0].ifindex).then_some(told));
    match found.as_slice() {
        [one] if one.scope == w.link(0) => Ok(()),
        _ => Err(format!("{found:?}").into()),
    }
}

/// The test runs itself again in a user namespace.
fn ordinary_user(_: &World, _: &mut Reader) -> Outcome {
    let out = Command::new(std::env::current_exe()?).env(NESTED, "1").output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned().into())
}

fn user_namespace() -> Outcome {
    in_world(2, |w| {
        let polled = Reader::new()?.read(&w.ports, true);
        let found = gate(Some(&polled), &w.ports);
        if !found.is_empty() {
            return Err(format!("the gate is closed: {found:?}").into());
        }
        if !polled.unwatched.iter().any(|u| u.starts_with("netfilter BPF links")) {
            return Err(format!("unwatched: {:?}", polled.unwatched).into());
        }
        Ok(())
    })
}

/// No assertion on time: it is printed.
fn cost(_: &World, _: &mut Reader) -> Outcome {
    const ROUNDS: u32 = 20;
    for ports in [4, 64] {
        in_world(ports, |w| {
            let mut r = Reader::new()?;
            w.expect(&mut r, "nothing set up", &[])?;
            let (start, busy) = (Instant::now(), processor_time()?);
            for _ in 0..ROUNDS {
                r.read(&w.ports, true);
            }
            let (elapsed, busy) = (start.elapsed() / ROUNDS, (processor_time()? - busy) / ROUNDS);
            println!("{ports} ports: {elapsed:.2?} a reading, {busy:.2?} of it at work");
            Ok(())
        })?;
    }
    Ok(())
}

// ---------------------------------------------------------------- what has no command line here

/// What this thread has had of a processor.
fn processor_time() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(stat.split(' ').next().unwrap_or_default().parse()?))
}

/// Waits for a word in what is shown, for five seconds at most.
fn eventually(word: &str, mut shown: impl FnMut() -> Result<String, Failed>) -> Outcome {
    let start = Instant::now();
    loop {
        let text = shown()?;
        if text.contains(word) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(5) {
            return Err(format!("waited in vain for \"{word}\": {text}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn checksum(b: &[u8]) -> [u8; 2] {
    let mut sum: u32 = b.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn icmp(kind: [u8; 2], rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut b = [&kind[..], &[0, 0], &rest, data].concat();
    let sum = checksum(&b);
    b[2..4].copy_from_slice(&sum);
    b
}

fn ipv4(src: [u8; 4], dst: [u8; 4], icmp: &[u8]) -> Vec<u8> {
    let mut b = vec![0x45, 0, 0, 20 + icmp.len() as u8, 0, 1, 0, 0, 64, 1, 0, 0];
    b.extend(src);
    b.extend(dst);
    let sum = checksum(&b);
    b[10..12].copy_from_slice(&sum);
    b.extend(icmp);
    b
}

/// The chip's end of a TAP that is there.
fn tap(name: &str) -> Result<OwnedFd, Failed> {
    use rustix::fs::{Mode, OFlags, open};
    /// `IFF_TAP | IFF_NO_PI`
    const FLAGS: u16 = 0x1002;
    let tun = open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut ifreq = [0u8; 40];
    ifreq[..name.len()].copy_from_slice(name.as_bytes());
    ifreq[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: `ifreq` has the size of `struct ifreq` and outlives the call.
    let r = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, ifreq.as_mut_ptr()) };
    if r == 0 { Ok(tun) } else { Err(format!("TAP {name}: {}", std::io::Error::last_os_error()).into()) }
}

/// `BPF_LINK_CREATE`
const LINK_CREATE: libc::c_int = 28;
/// `BPF_PROG_TYPE_XDP`
const XDP: u32 = 6;

/// The `bpf` system call with an attribute of 32-bit words; makes a descriptor.
fn bpf(command: libc::c_int, words: &[u32]) -> std::io::Result<OwnedFd> {
    let mut attr = [0u32; 32];
    attr[..words.len()].copy_from_slice(words);
    // SAFETY: `attr` is live and of the size given; pointers in it point at buffers of the caller's that outlive this.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) };
    if r < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(r as libc::c_int) })
}

/// A program of a type that returns a constant.
fn program(kind: u32, verdict: i32) -> Result<OwnedFd, Failed> {
    // r0 = verdict; exit
    let code: [u64; 2] = [0xb7 | u64::from(verdict as u32) << 32, 0x95];
    let licence = c"GPL";
    let mut words = [0u32; 18];
    words[..2].copy_from_slice(&[kind, 2]);
    for (at, p) in [(2, code.as_ptr() as u64), (4, licence.as_ptr() as u64)] {
        let b = p.to_ne_bytes();
        words[at] = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        words[at + 1] = u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
    }
    // expected_attach_type: netfilter's programs want theirs.
    words[17] = if kind == 32 { 45 } else { 0 };
    bpf(5, &words).map_err(|e| format!("BPF program: {e}").into())
}

/// A netfilter program that accepts, on a hook.
fn netfilter_link(pf: u32, hook: u32) -> Result<OwnedFd, Failed> {
    let prog = program(32, 1)?;
    let priority = 100;
    let words = [prog.as_raw_fd() as u32, 0, 45, 0, pf, hook, priority, 0];
    bpf(LINK_CREATE, &words).map_err(|e| format!("netfilter link: {e}").into())
}

/// Has the kernel register a legacy table in this namespace, as the first `iptables -L` does (`IPT_SO_GET_INFO`).
fn register(table: &str, v6: bool) -> Outcome {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    let (family, level) = if v6 { (AddressFamily::INET6, libc::SOL_IPV6) } else { (AddressFamily::INET, libc::SOL_IP) };
    let socket = socket(family, SocketType::RAW, Some(ipproto::ICMP))?;
    let mut info = [0u8; 84];
    info[..table.len()].copy_from_slice(table.as_bytes());
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: `info` has the size of `struct ipt_getinfo` and `len` says so.
    let r = unsafe { libc::getsockopt(socket.as_raw_fd(), level, 64, info.as_mut_ptr().cast(), &mut len) };
    if r == 0 { Ok(()) } else { Err(format!("legacy table {table}: {}", std::io::Error::last_os_error()).into()) }
}

/// Verdicts of a standard target.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;

/// Sets the policy of a legacy table's forward chain, as `iptables -P FORWARD` does (`IPT_SO_GET_ENTRIES`, `IPT_SO_SET_REPLACE`).
fn policy_of_forward(table: &str, v6: bool, verdict: i32) -> Outcome {
    use rustix::net::{AddressFamily, SocketType, socket};
    let (family, level) = if v6 { (AddressFamily::INET6, libc::SOL_IPV6) } else { (AddressFamily::INET, libc::SOL_IP) };
    let socket = socket(family, SocketType::DGRAM, None)?;
    let get = |option: i32, buf: &mut [u8]| -> Outcome {
        let mut len = buf.len() as libc::socklen_t;
        // SAFETY: `buf` has `len` bytes.
        let r = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buf.as_mut_ptr().cast(), &mut len) };
        if r == 0 { Ok(()) } else { Err(format!("{table}: {}", std::io::Error::last_os_error()).into()) }
    };
    let u32_at = |b: &[u8], at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let mut info = [0u8; 84];
    info[..table.len()].copy_from_slice(table.as_bytes());
    get(64, &mut info)?;
    let (count, size) = (u32_at(&info, 76), u32_at(&info, 80));
    let mut entries = vec![0u8; 40 + size as usize];
    entries[..table.len()].copy_from_slice(table.as_bytes());
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    get(65, &mut entries)?;
    // NF_INET_FORWARD is 2: its underflow is the third of the second five.
    let at = 40 + u32_at(&info, 36 + 20 + 8) as usize;
    let offset = at + if v6 { 140 } else { 88 };
    let target = at + usize::from(u16::from_ne_bytes([entries[offset], entries[offset + 1]]));
    entries[target + 32..target + 36].copy_from_slice(&verdict.to_ne_bytes());
    let mut counters = vec![0u64; 2 * count as usize];
    // `struct ipt_replace`: name, hooks, number, size, entry points, underflows, number and address of counters, entries.
    let mut replace = info[..36].to_vec();
    replace.extend(count.to_ne_bytes());
    replace.extend(size.to_ne_bytes());
    replace.extend(&info[36..76]);
    replace.extend(count.to_ne_bytes());
    replace.extend((counters.as_mut_ptr() as usize).to_ne_bytes());
    replace.extend(&entries[40..]);
    let len = replace.len() as libc::socklen_t;
    // SAFETY: `replace` has `len` bytes, and `counters` room for as many counters as it says, which the kernel writes.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, 64, replace.as_ptr().cast(), len) };
    if r == 0 { Ok(()) } else { Err(format!("{table}: {}", std::io::Error::last_os_error()).into()) }
}
