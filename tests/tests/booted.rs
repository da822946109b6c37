//! The Debian package on a system that systemd has booted: installed, configured, used, restarted, removed. Runs in a machine of its own
//! (`tests/vm/run --boot`) and nowhere else, since it changes the system that it runs on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use virga_tests::harness::{Cure, Skips, wanted};
use virga_tests::{LIMIT, Skip, ip, kernel, run, virga_exe, wait_for};

const TEST: &str = "the_package_on_a_booted_system";
const UNITS: [&str; 2] = ["virga-asic.service", "virgad.service"];
const CONFIG: &str = "/etc/virga/virga.toml";

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let skips = Arc::new(Skips::default());
    let mine = skips.clone();
    let trial = Trial::ignorable_test(TEST, move || {
        if !booted() {
            let why = "it needs a machine of its own that systemd has booted".into();
            return Ok(mine.add(TEST, &Skip { why, cure: Cure::Booted }));
        }
        test()
            .map_err(|e| Failed::from(format!("{e:#}\n{}\n{}", sh("virga status").unwrap_or_default(), journal())))?;
        Ok(Completion::Completed)
    });
    let done = libtest_mimic::run(&args, if wanted(TEST) { vec![trial] } else { Vec::new() });
    skips.print();
    done.exit_code()
}

/// Whether this is such a machine: never a developer's own.
fn booted() -> bool {
    std::env::var_os(kernel::MACHINE).is_some()
        && fs::read_to_string("/proc/1/comm").is_ok_and(|c| c.trim() == "systemd")
}

fn journal() -> String {
    sh("journalctl -b --no-pager -o short-monotonic -n 60").unwrap_or_default()
}

/// A command whose words have no spaces in them.
fn sh(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    run(Command::new(words.next().context("no command")?).args(words))
}

/// A property of a unit.
fn property(unit: &str, name: &str) -> Result<String> {
    Ok(sh(&format!("systemctl show --value -p {name} {unit}"))?.trim().to_owned())
}

fn state(unit: &str) -> Result<String> {
    property(unit, "ActiveState")
}

fn expect(unit: &str, want: &str) -> Result<()> {
    let got = state(unit)?;
    ensure!(got == want, "{unit} is {got}, not {want}");
    Ok(())
}

/// Waits for a unit to be in a state.
fn reaches(unit: &str, want: &str) -> Result<()> {
    wait_for(&format!("{unit} to be {want}"), LIMIT, || (state(unit).ok()? == want).then_some(()))
}

fn test() -> Result<()> {
    install().context("installing the package")?;
    unconfigured().context("without a port")?;
    misspelt().context("with a configuration that is wrong")?;
    wires()?;
    configured().context("with two ports")?;
    readiness().context("readiness")?;
    sockets().context("sockets")?;
    forwards().context("forwarding")?;
    agent_restarts().context("a restarted agent")?;
    agent_dies().context("a killed agent")?;
    readable().context("the journal")?;
    stops().context("stopping")?;
    removed().context("removing the package")
}

fn install() -> Result<()> {
    let out = Path::new("/tmp/deb");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/deb/build");
    let built = virga_exe()?.parent().context("no target directory")?.to_owned();
    run(Command::new(build).arg(out).env("VIRGA_BIN_DIR", built))?;
    let deb: PathBuf = fs::read_dir(out)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .context("no package came out")?;
    run(Command::new("dpkg").arg("-i").arg(deb))?;
    for unit in UNITS {
        ensure!(sh(&format!("systemctl is-enabled {unit}"))?.trim() == "enabled", "{unit}");
    }
    let thresholds = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh1")?;
    ensure!(thresholds.trim() == "16384", "the sysctls of the package are not in force: gc_thresh1 is {thresholds}");
    ensure!(group().is_some(), "there is no group virga");
    Ok(())
}

/// Number of the group virga.
fn group() -> Option<u32> {
    let all = fs::read_to_string("/etc/group").ok()?;
    all.lines().find_map(|l| l.strip_prefix("virga:")?.split(':').nth(1)?.parse().ok())
}

fn unconfigured() -> Result<()> {
    for unit in UNITS {
        expect(unit, "inactive")?;
        let result = property(unit, "Result")?;
        ensure!(result == "exec-condition", "{unit} is inactive because of {result}");
    }
    Ok(())
}

fn misspelt() -> Result<()> {
    let shipped = fs::read_to_string(CONFIG)?;
    fs::write(CONFIG, format!("prot = 1\n{shipped}"))?;
    ensure!(sh("systemctl start virga-asic.service").is_err(), "it started");
    let said = sh("journalctl -b --no-pager -o cat -u virga-asic.service")?;
    ensure!(
        said.lines().any(|l| l.contains("prot") && l.contains(CONFIG)),
        "the journal does not say what is wrong:\n{said}"
    );
    fs::write(CONFIG, shipped)?;
    sh("systemctl stop virga-asic.service virgad.service")?;
    sh("systemctl reset-failed virga-asic.service virgad.service")?;
    Ok(())
}

/// Two hosts, at the ends of veths that become wires.
fn wires() -> Result<()> {
    for n in 1..=2 {
        for line in [
            format!("netns add h{n}"),
            format!("link add w{n} type veth peer name eth0 netns h{n}"),
            format!("-n h{n} link set lo up"),
            format!("-n h{n} link set eth0 up"),
            format!("-n h{n} addr add 10.0.{n}.2/24 dev eth0"),
            format!("-n h{n} route add default via 10.0.{n}.1"),
        ] {
            ip(&line)?;
        }
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    // A host that is no IPv6 router takes redirects, which closes the interface.
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    Ok(())
}

fn configured() -> Result<()> {
    let shipped = fs::read_to_string(CONFIG)?;
    let with = shipped.replace("[chip]\n", "[chip]\nport = [\"swp1=packet:w1\", \"swp2=packet:w2\"]\n");
    ensure!(with != shipped, "{CONFIG} has no section [chip]");
    fs::write(CONFIG, with)?;
    // The agent's unit brings the chip along, and is started once the chip holds all.
    sh("systemctl start virgad.service")?;
    for unit in UNITS {
        expect(unit, "active")?;
        ensure!(property(unit, "NRestarts")? == "0", "{unit} was restarted");
    }
    ensure!(sh("virga status")?.contains("swp2"));
    for n in 1..=2 {
        ip(&format!("link set swp{n} up"))?;
        ip(&format!("addr add 10.0.{n}.1/24 dev swp{n}"))?;
    }
    Ok(())
}

/// `Type=notify` means something: until the agent has its chip, it is not there.
fn readiness() -> Result<()> {
    sh("systemctl stop virgad.service virga-asic.service")?;
    sh("systemctl mask --runtime virga-asic.service")?;
    sh("systemctl start --no-block virgad.service")?;
    reaches("virgad.service", "activating")?;
    // It looks for the chip and says so.
    wait_for("the agent to be running", LIMIT, || (property("virgad.service", "MainPID").ok()? != "0").then_some(()))?;
    wait_for("the agent to say that it waits", LIMIT, || {
        let said = sh("journalctl -b --no-pager -o cat -u virgad.service -n 3").ok()?;
        said.contains("asic.sock").then_some(())
    })?;
    expect("virgad.service", "activating")?;
    sh("systemctl unmask --runtime virga-asic.service")?;
    sh("systemctl start virga-asic.service")?;
    reaches("virgad.service", "active")?;
    let status = property("virgad.service", "StatusText")?;
    ensure!(!status.is_empty(), "the agent tells systemd nothing of its state");
    Ok(())
}

fn sockets() -> Result<()> {
    let group = group().context("there is no group virga")?;
    for socket in ["/run/virga/asic.sock", "/run/virga/virgad.sock"] {
        let m = fs::metadata(socket).context(socket)?;
        ensure!(m.permissions().mode() & 0o777 == 0o660, "{socket} has mode {:o}", m.permissions().mode());
        ensure!((m.uid(), m.gid()) == (0, group), "{socket} belongs to {}:{}", m.uid(), m.gid());
    }
    let as_user = |gid: u32| sh(&format!("setpriv --reuid 65534 --regid {gid} --clear-groups virga status"));
    as_user(group).context("a member of the group")?;
    ensure!(as_user(65534).is_err(), "anybody may use the socket");
    Ok(())
}

/// Frames that the chip forwarded so far.
fn forwarded() -> Result<u64> {
    let all: serde_json::Value = serde_json::from_str(&sh("virga -j counters")?)?;
    let ports = all["ports"].as_array().context("no ports in virga -j counters")?;
    Ok(ports.iter().filter_map(|p| p["forwarded"]["frames"].as_u64()).sum())
}

fn forwards() -> Result<()> {
    wait_for("an answer of the other host", LIMIT, || sh("ip netns exec h1 ping -c 1 -W 1 10.0.2.2").ok().map(drop))?;
    sh("virga settle --timeout 20")?;
    sh("virga check")?;
    let before = forwarded()?;
    sh("ip netns exec h1 ping -c 20 -i 0.02 10.0.2.2")?;
    let carried = forwarded()? - before;
    ensure!(carried >= 36, "the chip forwarded {carried} of 40 frames");
    Ok(())
}

/// What `during` does must cost no packet.
fn without_loss(during: impl FnOnce() -> Result<()>) -> Result<()> {
    let ping = Command::new("ip")
        .args("netns exec h1 ping -q -c 1000000 -i 0.02 10.0.2.2".split(' '))
        .stdout(Stdio::piped())
        .spawn()?;
    let done = during();
    // SIGINT has it print its sums.
    rustix::process::kill_process(rustix::process::Pid::from_child(&ping), rustix::process::Signal::INT)?;
    let said = String::from_utf8_lossy(&ping.wait_with_output()?.stdout).into_owned();
    done?;
    let sums = said.lines().find(|l| l.contains("packet loss")).with_context(|| format!("ping said: {said}"))?;
    let numbers: Vec<u64> = sums.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect();
    // The last one may have been under way.
    let [sent, back, ..] = numbers[..] else { bail!("ping said: {sums}") };
    ensure!(sent >= 3 && sent - back <= 1, "packets were lost: {sums}");
    Ok(())
}

fn main_pids() -> Result<[String; 2]> {
    Ok([property(UNITS[0], "MainPID")?, property(UNITS[1], "MainPID")?])
}

fn agent_restarts() -> Result<()> {
    let [chip, agent] = main_pids()?;
    without_loss(|| sh("systemctl restart virgad.service").map(drop))?;
    let now = main_pids()?;
    ensure!(now[0] == chip, "the chip was restarted, too");
    ensure!(now[1] != agent, "the agent was not restarted");
    sh("virga settle --timeout 20")?;
    sh("virga check").map(drop)
}

fn agent_dies() -> Result<()> {
    let [chip, agent] = main_pids()?;
    without_loss(|| {
        sh(&format!("kill -KILL {agent}"))?;
        wait_for("another agent", LIMIT, || {
            let pid = property("virgad.service", "MainPID").ok()?;
            (pid != agent && pid != "0" && state("virgad.service").ok()? == "active").then_some(())
        })
    })?;
    ensure!(property("virgad.service", "NRestarts")? == "1");
    ensure!(main_pids()?[0] == chip, "the chip was restarted, too");
    sh("virga settle --timeout 20")?;
    sh("virga check").map(drop)
}

fn readable() -> Result<()> {
    for (unit, name) in UNITS.into_iter().zip(["virga-asic", "virgad"]) {
        let text = sh(&format!("journalctl -b --no-pager -o cat -t {name} _SYSTEMD_UNIT={unit}"))?;
        ensure!(text.lines().count() >= 1, "{name} says nothing in the journal");
        ensure!(!text.contains('\x1b'), "{name} sends colours to the journal:\n{text}");
        // journald has the time already.
        let stamped = |l: &str| l.get(..5).is_some_and(|y| y.starts_with("20") && y.ends_with('-'));
        ensure!(!text.lines().any(stamped), "{name} writes the time, which the journal has already:\n{text}");
        println!("--- {name}\n{text}");
    }
    Ok(())
}

fn stops() -> Result<()> {
    without_loss(|| {
        sh("systemctl stop virgad.service")?;
        expect("virgad.service", "inactive")
    })
    .context("the agent")?;
    sh("systemctl stop virga-asic.service")?;
    for unit in UNITS {
        expect(unit, "inactive")?;
        ensure!(property(unit, "Result")? == "success", "{unit}: {}", property(unit, "Result")?);
    }
    wait_for("the ports to lose carrier", LIMIT, || {
        (!ip("-o link show dev swp1").ok()?.contains("LOWER_UP")).then_some(())
    })?;
    // What was set up for the ports is still there when they come back.
    sh("systemctl start virgad.service")?;
    forwards().context("started again")
}

fn removed() -> Result<()> {
    sh("dpkg -r virga")?;
    for unit in UNITS {
        let got = state(unit)?;
        ensure!(got == "inactive", "{unit} is {got}");
    }
    ensure!(ip("-o link show dev w1")?.contains("w1"), "the wire did not come back");
    ensure!(ip("-o link show dev swp1").is_err(), "the netdev is still there");
    ensure!(Path::new(CONFIG).exists(), "the configuration was not kept");
    sh("dpkg -P virga")?;
    ensure!(!Path::new("/etc/virga").exists(), "the configuration is still there");
    Ok(())
}
