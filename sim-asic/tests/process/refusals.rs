//! What the chip does not take: one clear sentence, a non-zero exit, and nothing changed.

use std::fs;
use std::os::unix::net::UnixListener;

use sim_asic::netlink::Netlink;

use crate::world::{World, ip};

/// It ends at once, with one line that says `what`.
#[track_caller]
fn refused(w: &World, args: &[String], what: &[&str]) {
    let o = w.asic_once(args);
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    let said: Vec<&str> = err.lines().filter(|l| !l.contains(" INFO ")).collect();
    assert!(!o.status.success(), "{args:?} was taken");
    assert_eq!(said.len(), 1, "{args:?}: {err}");
    assert!(said[0].starts_with("virga-asic: "), "{err}");
    for what in what {
        assert!(said[0].contains(what), "{args:?}: {:?} does not say {what:?}", said[0]);
    }
}

pub fn wires() {
    let w = World::new("use", 2);
    let sw = w.sw();
    let args = w.args();
    let untouched = || {
        for i in [1, 2] {
            assert!(
                w.in_sw(|| Netlink::open().unwrap().link_by_name(&w.wire(i)).unwrap()).is_some(),
                "wire {i} was moved"
            );
            assert_eq!(w.tap(&format!("swp{i}")), None);
        }
    };
    // The second port is always the bad one: the first must not have been touched either.
    ip(&format!("-n {sw} addr add 192.0.2.1/24 dev usew2"));
    refused(&w, &args, &["port swp2", "usew2", "192.0.2.1", "flush"]);
    ip(&format!("-n {sw} addr flush dev usew2"));
    ip(&format!("-n {sw} link set usew2 up"));
    ip(&format!("-n {} link set eth0 up", w.host(2)));
    ip(&format!("-n {sw} addr add 2001:db8::1/64 dev usew2"));
    refused(&w, &args, &["port swp2", "usew2", "down"]);
    ip(&format!("-n {sw} link set usew2 down"));
    ip(&format!("-n {sw} addr flush dev usew2"));
    if crate::world::run("ip", &["-n", &sw, "link", "add", "br0", "type", "bridge"]).status.success() {
        ip(&format!("-n {sw} link set usew2 master br0"));
        refused(&w, &args, &["port swp2", "usew2", "br0", "nomaster"]);
        ip(&format!("-n {sw} link set usew2 nomaster"));
    }
    untouched();
    ip(&format!("-n {sw} link add swp2 type veth peer name foreign"));
    refused(&w, &args, &["port swp2", "not this chip's", "ip link del swp2"]);
    ip(&format!("-n {sw} link del swp2"));
    ip(&format!("-n {sw} tuntap add swp2 mode tap"));
    refused(&w, &args, &["port swp2", "not this chip's"]);
    ip(&format!("-n {sw} link del swp2"));
    untouched();
    let with = |port: &str| {
        let mut a = args.clone();
        a[1] = format!("--port={port}");
        a
    };
    refused(&w, &with(&format!("swp2=packet:nosuch@{sw}")), &["port swp2", "nosuch", &sw]);
    refused(&w, &with("swp2=packet:usew2@nosuchns"), &["port swp2", "nosuchns", "ip netns add"]);
    refused(&w, &with(&format!("swp2=packet:lo@{sw}")), &["port swp2", "lo", "no Ethernet"]);
    untouched();
    let mut same = args.clone();
    same.push(format!("--host-netns={}", w.asic()));
    same.retain(|a| *a != format!("--host-netns={sw}"));
    refused(&w, &same, &["--netns"]);
    untouched();
}

pub fn options() {
    let w = World::new("opt", 1);
    let file = |name: &str, text: &str| {
        let path = format!("/run/opt-{name}.toml");
        fs::write(&path, text).unwrap();
        path
    };
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (vec![], &["no port", "--port"]),
        (vec!["--bogus".into()], &["--bogus"]),
        (vec!["--port".into()], &["--port"]),
        (vec!["--port=swp1".into()], &["swp1", "NAME=WIRE"]),
        (vec!["--port=swp1=eth0".into()], &["swp1", "eth0", "packet:IFNAME"]),
        (vec!["--port=swp1=packet:".into()], &["swp1", "packet:"]),
        (vec!["--port=a-name-far-too-long=none".into()], &["a-name-far-too-long"]),
        (vec!["--port=a=none".into(), "--port=a=none".into()], &["twice"]),
        (vec!["--port=a=none".into(), "--profile=huge".into()], &["huge", "small, tor, unlimited"]),
        (vec!["--port=a=none".into(), "--profile=/nosuch.toml".into()], &["/nosuch.toml", "can't be read"]),
        (vec!["--port=a=none".into(), format!("--profile={}", file("p", "name = 3"))], &["opt-p.toml", "line 1"]),
        (vec!["--port=a=none".into(), "--workers=0".into()], &["0 workers", "1 to 1"]),
        (vec!["--port=a=none".into(), "--workers=2".into()], &["2 workers", "1 ports", "1 to 1"]),
        (vec!["--port=a=none".into(), "--workers=many".into()], &["--workers", "many"]),
        (vec!["--port=a=none".into(), "--listen=tcp:1".into()], &["tcp:1", "unix:PATH"]),
        (vec!["--port=a=none".into(), "--listen=unix:/proc/x/y".into(), "--netns=opt-asic".into()], &["/proc/x/y"]),
        (vec!["--port=a=none".into(), "--netns=a/b".into()], &["a/b"]),
        (vec!["--port=a=none".into(), "--host-netns=nosuchns".into()], &["nosuchns"]),
        (vec!["--config=/nosuch.toml".into()], &["/nosuch.toml", "can't be read"]),
        (vec![format!("--config={}", file("c", "[chip]\nports = []\n"))], &["opt-c.toml", "line 2", "ports"]),
        (vec![format!("--config={}", file("d", "[chip]\nport = [\"x\"]\n"))], &["NAME=WIRE"]),
        (vec![format!("--config={}", file("e", "[chip.policer]\nx = {rate=1,burst=1}\n"))], &["trap class", "\"x\""]),
    ];
    for (args, what) in cases {
        refused(&w, &args, what);
    }
    let o = w.asic_once(&["--help".into()]);
    assert!(o.status.success() && String::from_utf8_lossy(&o.stdout).contains("--host-netns"), "{o:?}");
}

pub fn two_chips() {
    let mut w = World::new("two", 1);
    // A file that a dead chip left is no obstacle.
    fs::create_dir_all("/run/two").unwrap();
    drop(UnixListener::bind(w.socket()).unwrap());
    assert!(fs::exists(w.socket()).unwrap());
    w.start();
    refused(&w, &w.args(), &["another chip listens", &w.socket()]);
    let mut elsewhere = w.args();
    elsewhere[1] = "--listen=unix:/run/two/other.sock".into();
    refused(&w, &elsewhere, &["another chip runs", "two-asic"]);
    fs::write("/run/two/file", "").unwrap();
    elsewhere[1] = "--listen=unix:/run/two/file".into();
    refused(&w, &elsewhere, &["/run/two/file", "no socket"]);
    assert_eq!(w.agent().ports.len(), 1, "the first is none the worse");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(w.socket()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
}
