//! What turns the build into an installed system: the Debian package, its units, its pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use virga_tests::{LIMIT, ip, need, run, virga_exe, wait_for};

const PROGRAMS: [&str; 3] = ["virga", "virgad", "virga-asic"];

fn main() -> ExitCode {
    virga_tests::main(&[
        ("pages_say_what_the_options_say", pages_say_what_the_options_say),
        ("the_package_unpacks_to_programs_that_run", the_package_unpacks_to_programs_that_run),
        ("systemd_takes_the_units", systemd_takes_the_units),
        ("units_run_what_is_configured_and_nothing_else", units_run_what_is_configured_and_nothing_else),
    ])
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn built() -> Result<PathBuf> {
    Ok(virga_exe()?.parent().context("no target directory")?.to_owned())
}

fn pages_say_what_the_options_say() -> Result<()> {
    let pages = built()?.join("examples/pages");
    ensure!(pages.exists(), "{} is missing: run cargo test in the whole workspace", pages.display());
    run(Command::new(pages).arg("--check"))?;
    Ok(())
}

/// Build the package from the programs as built for the tests, and unpack it below the world's private /run.
fn unpacked() -> Result<PathBuf> {
    need("dpkg-deb", "dpkg")?;
    need("strip", "binutils")?;
    let out = Path::new("/run/deb");
    let root = out.join("root");
    run(Command::new(project().join("packaging/deb/build")).arg(out).env("VIRGA_BIN_DIR", built()?))?;
    let deb = fs::read_dir(out)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .context("no package came out")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
    let fields = run(Command::new("dpkg-deb").arg("-f").arg(&deb))?;
    for field in ["Package: virga", concat!("Version: ", env!("CARGO_PKG_VERSION")), "Depends: libc6"] {
        ensure!(fields.contains(field), "{field} is missing in\n{fields}");
    }
    Ok(root)
}

fn the_package_unpacks_to_programs_that_run() -> Result<()> {
    let root = unpacked()?;
    for program in PROGRAMS {
        let said = run(Command::new(root.join("usr/bin").join(program)).arg("--version"))?;
        ensure!(said.trim() == format!("{program} {}", env!("CARGO_PKG_VERSION")), "{said}");
    }
    for file in [
        "etc/virga/virga.toml",
        "lib/systemd/system/virgad.service",
        "lib/systemd/system/virga-asic.service",
        "usr/lib/sysctl.d/90-virga.conf",
        "usr/lib/sysusers.d/virga.conf",
        "usr/share/man/man1/virga.1.gz",
        "usr/share/man/man5/virga.toml.5.gz",
        "usr/share/man/man8/virgad.8.gz",
        "usr/share/bash-completion/completions/virga",
        "usr/share/virga/profiles/small.toml",
    ] {
        ensure!(root.join(file).is_file(), "{file} is missing");
    }
    Ok(())
}

fn systemd_takes_the_units() -> Result<()> {
    need("systemd-analyze", "systemd")?;
    let root = unpacked()?;
    // verify wants the programs where the units say they are.
    for program in PROGRAMS {
        let place = Path::new("/usr/bin").join(program);
        if !place.exists() {
            run(Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o"])
                .arg(format!("lowerdir={}:/usr/bin", root.join("usr/bin").display()))
                .arg("/usr/bin"))?;
            break;
        }
    }
    let units = ["virga-asic.service", "virgad.service"].map(|u| root.join("lib/systemd/system").join(u));
    let said = Command::new("systemd-analyze").args(["--man=no", "verify"]).args(&units).output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    // Other units of the machine may be complained of; ours must not be.
    ensure!(said.status.success() && !text.contains("virga"), "{text}");
    Ok(())
}

/// The command lines of a unit's `key`, with programs and configuration of the unpacked package.
fn lines(root: &Path, unit: &str, key: &str) -> Result<Vec<Command>> {
    let text = fs::read_to_string(root.join("lib/systemd/system").join(unit))?;
    let commands: Vec<Command> = text
        .lines()
        .filter_map(|l| l.strip_prefix(key)?.strip_prefix('='))
        .map(|l| {
            let mut words = l.split_whitespace().map(|w| match w.starts_with("/usr/") || w.starts_with("/etc/") {
                true => root.join(w.trim_start_matches('/')).into_os_string(),
                false => w.into(),
            });
            let mut c = Command::new(words.next().unwrap_or_default());
            c.args(words);
            c
        })
        .collect();
    ensure!(!commands.is_empty(), "{unit} has no {key}");
    Ok(commands)
}

fn condition(root: &Path, unit: &str) -> Result<Output> {
    let [c] = &mut lines(root, unit, "ExecCondition")?[..] else { anyhow::bail!("{unit}: one ExecCondition expected") };
    Ok(c.output()?)
}

/// A program of a unit, ended with SIGTERM.
struct Service(Child);

impl Service {
    fn start(root: &Path, unit: &str) -> Result<Service> {
        let [c] = &mut lines(root, unit, "ExecStart")?[..] else { anyhow::bail!("{unit}: one ExecStart expected") };
        let log = fs::File::create(Path::new("/run/virga").join(unit.replace(".service", ".log")))?;
        Ok(Service(c.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?))
    }
    fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status} after SIGTERM");
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn units_run_what_is_configured_and_nothing_else() -> Result<()> {
    let root = unpacked()?;
    fs::create_dir_all("/run/virga")?;
    let config = root.join("etc/virga/virga.toml");
    for unit in ["virga-asic.service", "virgad.service"] {
        let got = condition(&root, unit)?;
        ensure!(got.status.code() == Some(1), "{unit} without a port: {got:?}");
    }
    let shipped = fs::read_to_string(&config)?;
    fs::write(&config, format!("prot = 1\n{shipped}"))?;
    let got = condition(&root, "virga-asic.service")?;
    ensure!(got.status.code() == Some(255) && String::from_utf8_lossy(&got.stderr).contains("prot"), "{got:?}");
    fs::write(&config, shipped.replace("[chip]\n", "[chip]\nport = [\"swp1=packet:w1\", \"swp2=none\"]\n"))?;
    for unit in ["virga-asic.service", "virgad.service"] {
        let got = condition(&root, unit)?;
        ensure!(got.status.success(), "{unit} with a port: {got:?}");
    }

    ip("link add w1 type veth peer name far")?;
    let chip = Service::start(&root, "virga-asic.service")?;
    wait_for("the chip's socket", LIMIT, || Path::new("/run/virga/asic.sock").exists().then_some(()))?;
    let agent = Service::start(&root, "virgad.service")?;
    wait_for("the agent's socket", LIMIT, || Path::new("/run/virga/virgad.sock").exists().then_some(()))?;
    let virga = root.join("usr/bin/virga");
    run(Command::new(&virga).args(["settle", "--timeout", "20"]))?;
    run(Command::new(&virga).arg("check"))?;
    ensure!(run(Command::new(&virga).args(["link", "show"]))?.contains("swp1"));
    agent.stop()?;
    chip.stop()?;
    // As prerm does.
    run(Command::new(root.join("usr/bin/virga-asic")).arg("--config").arg(&config).arg("--release"))?;
    ensure!(ip("-o link show dev w1")?.contains("w1"), "the wire did not come back");
    ensure!(ip("-o link show dev swp1").is_err(), "the netdev is still there");
    Ok(())
}
