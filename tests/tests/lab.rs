//! The lab as its user meets it: `virga lab`, started as a program of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use virga_tests::{LIMIT, Skip, need, run, virga_exe, wait_for};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("status_of_the_command_is_the_labs", status_of_the_command_is_the_labs),
        ("shell_reads_standard_input", shell_reads_standard_input),
        ("terminal_and_nsenter", terminal_and_nsenter),
        ("bare_and_ports", bare_and_ports),
        ("two_side_by_side_and_nothing_outside", two_side_by_side_and_nothing_outside),
        ("killed_from_outside_leaves_nothing", killed_from_outside_leaves_nothing),
        ("killed_inside_leaves_nothing", killed_inside_leaves_nothing),
        ("as_an_ordinary_user", as_an_ordinary_user),
        ("wrong_options_get_one_sentence", wrong_options_get_one_sentence),
        ("what_is_missing_is_named", what_is_missing_is_named),
        ("a_place_that_refuses_is_named", a_place_that_refuses_is_named),
    ])
}

fn lab(args: &[&str]) -> Result<Command> {
    let mut c = Command::new(virga_exe()?);
    c.args(["lab", "--no-agent"]).args(args);
    Ok(c)
}

fn status_of_the_command_is_the_labs() -> Result<()> {
    for (script, want) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)] {
        let got = lab(&["--", "sh", "-c", script])?.status()?.code();
        ensure!(got == Some(want), "{script}: {got:?}");
    }
    // Without options, too: the `--` is the lab's.
    let got = Command::new(virga_exe()?).args(["lab", "--", "no-such-program"]).output()?;
    ensure!(got.status.code() == Some(127), "{:?}", got.status);
    ensure!(String::from_utf8_lossy(&got.stderr).contains("no-such-program"));
    Ok(())
}

fn shell_reads_standard_input() -> Result<()> {
    let mut child = lab(&[])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let script = "ip netns exec h1 ping -n -c 2 -i 0.1 -W 2 10.0.2.2 && ip netns exec h1 ping -n -c 2 -i 0.1 2001:db8:2::2\n\
                  command -v virga\nexit 5\n";
    child.stdin.take().context("no pipe")?.write_all(script.as_bytes())?;
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(text.matches("2 received, 0% packet loss").count() == 2, "{text}");
    ensure!(text.contains("/run/virga/bin/virga") && out.status.code() == Some(5), "{text}{:?}", out.status);
    Ok(())
}

/// The greeting's line for a second terminal works, and job control does in the first.
fn terminal_and_nsenter() -> Result<()> {
    need("script", "bsdutils")?;
    need("nsenter", "util-linux")?;
    let exe = virga_exe()?;
    let mut child = Command::new("script")
        .args(["-qec", &format!("{} lab --no-agent", exe.display()), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut keys = child.stdin.take().context("no pipe")?;
    let mut shown = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let mut seen = Vec::new();
    let line = loop {
        let line = shown.next().with_context(|| format!("no nsenter line in {seen:?}"))??;
        if let Some((_, command)) = line.split_once("nsenter ") {
            break command.trim().to_owned();
        }
        seen.push(line);
    };
    let mut second =
        Command::new("nsenter").args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    second
        .stdin
        .take()
        .context("no pipe")?
        .write_all(b"ip -o link show swp4; ip netns exec h2 ip -4 -o addr show eth0; exit\n")?;
    let text = String::from_utf8_lossy(&second.wait_with_output()?.stdout).into_owned();
    ensure!(text.contains("swp4:") && text.contains("10.0.2.2/24"), "{line}: {text}");
    // Ctrl-C ends what runs in the shell, not the shell.
    keys.write_all(b"sleep 1000\n")?;
    wait_for("sleep", LIMIT, || processes().contains("sleep").then_some(()))?;
    keys.write_all(b"\x03")?;
    wait_for("the end of sleep", LIMIT, || (!processes().contains("sleep")).then_some(()))?;
    keys.write_all(b"echo still-$((40+2)); exit 3\n")?;
    let rest: Vec<String> = shown.map_while(Result::ok).collect();
    ensure!(rest.iter().any(|l| l.contains("still-42")), "{rest:?}");
    let status = child.wait()?;
    ensure!(status.code() == Some(3), "{status}: {rest:?}");
    nothing_left()
}

fn bare_and_ports() -> Result<()> {
    let text = run(lab(&["--ports", "2", "--bare", "--", "ip", "-o", "addr"])?.stderr(Stdio::inherit()))?;
    ensure!(!text.contains("10.0.") && !text.contains("2001:db8"), "{text}");
    let text = run(&mut lab(&["--ports", "6", "--", "ip", "-o", "link"])?)?;
    ensure!(text.contains("swp6") && !text.contains("swp7"), "{text}");
    Ok(())
}

fn outside() -> Result<(String, BTreeSet<std::ffi::OsString>)> {
    let names = fs::read_dir("/run")?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
    Ok((run(Command::new("ip").args(["-o", "link"]))?, names))
}

fn two_side_by_side_and_nothing_outside() -> Result<()> {
    let before = outside()?;
    let mut labs = Vec::new();
    for n in 1..=2 {
        let mark =
            format!("ip link add mark{n} type veth && ip -o link show && echo ready && read end && ip -o link show");
        let mut child = lab(&["--", "sh", "-c", &mark])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut text = String::new();
        while !text.contains("ready") {
            ensure!(out.read_line(&mut text)? > 0, "lab {n} ended early:\n{text}");
        }
        labs.push((child, text));
    }
    ensure!(outside()? == before, "something outside has changed");
    ensure!(labs[0].1.contains("mark1") && !labs[0].1.contains("mark2"), "{}", labs[0].1);
    ensure!(labs[1].1.contains("mark2") && !labs[1].1.contains("mark1"), "{}", labs[1].1);
    for (child, _) in &mut labs {
        child.stdin.take().context("no pipe")?.write_all(b"\n")?;
        // Its standard output is closed: the last `ip` may say so.
        child.wait()?;
    }
    nothing_left()?;
    ensure!(outside()? == before, "something outside has changed");
    Ok(())
}

/// Names of the processes of this scenario's PID namespace but its own.
fn processes() -> BTreeSet<String> {
    let own = std::process::id();
    let Ok(dir) = fs::read_dir("/proc") else { return BTreeSet::new() };
    dir.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != 1 && *pid != own)
        .filter_map(|pid| {
            // A zombie is gone: it only waits for its parent.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            if status.contains("State:\tZ") {
                return None;
            }
            Some(status.lines().next()?.split_whitespace().nth(1)?.to_owned())
        })
        .collect()
}

fn nothing_left() -> Result<()> {
    wait_for("the end of all processes", LIMIT, || processes().is_empty().then_some(()))
        .with_context(|| format!("{:?}", processes()))
}

fn started() -> Result<Child> {
    let child = lab(&["--", "sleep", "1000"])?.spawn()?;
    wait_for("the lab", LIMIT, || processes().contains("sleep").then_some(()))?;
    let all = processes();
    ensure!(all.contains("virga-asic") && all.contains("virga-lab"), "{all:?}");
    Ok(child)
}

fn killed_from_outside_leaves_nothing() -> Result<()> {
    let mut child = started()?;
    child.kill()?;
    child.wait()?;
    nothing_left()
}

fn killed_inside_leaves_nothing() -> Result<()> {
    let mut child = started()?;
    let first = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|s| s.lines().any(|l| l.starts_with("NSpid:") && l.split_whitespace().last() == Some("1")))
        })
        .and_then(Pid::from_raw)
        .context("the lab has no first process")?;
    rustix::process::kill_process(first, Signal::KILL)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(128 + 9), "{status}");
    nothing_left()
}

fn as_an_ordinary_user() -> Result<()> {
    let outer = fs::read_to_string("/proc/self/uid_map")?;
    if outer.split_whitespace().nth(1) != Some("0") {
        return Err(Skip::new("already run by an ordinary user: every scenario tests this").into());
    }
    need("setpriv", "util-linux")?;
    // What udev does elsewhere: TAPs may be asked for by all.
    rustix::mount::mount("dev", "/dev/net", "tmpfs", rustix::mount::MountFlags::empty(), None)?;
    run(Command::new("mknod").args(["-m", "666", "/dev/net/tun", "c", "10", "200"]))?;
    // The build may be where others can't go.
    let dir = std::path::Path::new("/run/public");
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let exe = dir.join("virga");
    fs::copy(virga_exe()?, &exe)?;
    let script = "id -u; cat /proc/self/uid_map; ip netns exec h1 ping -n -c 3 -i 0.2 -W 2 10.0.2.2";
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut c = Command::new("setpriv");
    c.args(user).arg(&exe).args(["lab", "--no-agent", "--", "sh", "-c", script]).current_dir("/");
    let text = run(&mut c)?;
    ensure!(text.contains("3 received") && text.contains("65534"), "{text}");
    Ok(())
}

fn wrong_options_get_one_sentence() -> Result<()> {
    for (args, says) in
        [(["--ports", "0"], "1..=64"), (["--ports", "x"], "invalid digit"), (["--profile", "/no/such"], "/no/such")]
    {
        let out = lab(&[args[0], args[1], "--", "true"])?.output()?;
        let text = String::from_utf8_lossy(&out.stderr);
        ensure!(!out.status.success() && text.contains(says), "{args:?}: {:?}\n{text}", out.status);
        ensure!(!text.contains("panicked"), "{text}");
    }
    Ok(())
}

fn what_is_missing_is_named() -> Result<()> {
    for (program, package) in [("ping", "iputils-ping"), ("ip", "iproute2")] {
        // Hidden in every place where it could be: what is no plain file is no program.
        for dir in ["/usr/bin", "/usr/sbin", "/bin", "/sbin"] {
            let path = std::path::Path::new(dir).join(program);
            if path.is_file() {
                rustix::mount::mount_bind("/dev/null", &path)?;
            }
        }
        let out = lab(&["--", "true"])?.output()?;
        let text = String::from_utf8_lossy(&out.stderr);
        ensure!(!out.status.success() && text.contains(&format!("apt install {package}")), "{text}");
    }
    Ok(())
}

/// No right, and no user namespace to get it in.
fn a_place_that_refuses_is_named() -> Result<()> {
    need("unshare", "util-linux")?;
    need("setpriv", "util-linux")?;
    // The limit is that of the user namespace in which it is written.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin {} lab --no-agent -- true",
        virga_exe()?.display()
    );
    let out = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && text.contains("user namespace is refused"), "{}: {text}", out.status);
    ensure!(text.lines().count() == 1, "more than one sentence:\n{text}");
    Ok(())
}
