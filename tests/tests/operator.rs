//! What an operator types: every command and its JSON, and everything that can be wrong about a command, a file or a place.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use virga_tests::traffic::poke;
use virga_tests::{LIMIT, World, chip_only, ip, run, settle, virga_exe, wait_for, world, world_with};

fn main() -> ExitCode {
    virga_tests::main(&[
        ("every_command_speaks_json", every_command_speaks_json),
        ("json_has_the_names_and_values_of_ip", json_has_the_names_and_values_of_ip),
        ("mistakes_get_one_sentence", mistakes_get_one_sentence),
        ("daemons_refuse_what_is_wrong_in_one_sentence", daemons_refuse_what_is_wrong_in_one_sentence),
        ("bad_journals_are_named", bad_journals_are_named),
        ("a_full_disk_ends_the_journal_and_nothing_else", a_full_disk_ends_the_journal_and_nothing_else),
        ("service_manager_is_told", service_manager_is_told),
    ])
}

fn json(w: &World, args: &[&str]) -> Result<Value> {
    let text = run(w.virga().arg("-j").args(args))?;
    serde_json::from_str(&text).with_context(|| format!("virga -j {args:?} is not JSON: {text}"))
}

fn busy_world() -> Result<World> {
    let w = world_with(|c| c.agent_args = vec!["--record".into(), "/run/virga/journal".into()])?;
    wait_for("the first answer", LIMIT, || poke(w.host(1), w.host(2).v4()).ok().filter(|ok| *ok))?;
    for route in [
        "route add 10.50.0.0/16 via 10.0.2.2 metric 20",
        "route add 10.51.0.0/16 nexthop via 10.0.2.2 weight 2 nexthop via 10.0.3.2",
        "route add blackhole 10.52.0.0/16",
        "route add unreachable 10.53.0.0/16 proto static",
        "route add 10.54.0.0/16 via inet6 2001:db8:2::2 dev swp2",
        "-6 route add 2001:db8:50::/48 via 2001:db8:2::2",
    ] {
        ip(route)?;
    }
    settle(&w)?;
    Ok(w)
}

fn every_command_speaks_json() -> Result<()> {
    let w = busy_world()?;
    let tables = ["port", "switch", "rif", "neigh4", "neigh6", "nexthop", "group", "route4", "route6"]
        .map(|t| ["table", "show", t]);
    let mut all: Vec<&[&str]> = vec![
        &["status"],
        &["link"],
        &["link", "show"],
        &["neigh", "show"],
        &["route", "show"],
        &["counters"],
        &["resources"],
        &["settle"],
        &["settle", "--timeout", "20"],
        &["check"],
    ];
    all.extend(tables.iter().map(|t| &t[..]));
    for args in all {
        let v = json(&w, args)?;
        let empty = v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty);
        ensure!((v.is_array() || v.is_object()) && !empty, "{args:?}: {v}");
        // The flag may stand behind the verb as well, and text is something.
        let text = run(w.virga().args(args).arg("-j"))?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("{args:?} -j: {text}"))?;
        let text = run(w.virga().args(args))?;
        ensure!(args[0] == "settle" || !text.trim().is_empty(), "{args:?} prints nothing");
    }
    w.agent.as_ref().context("no agent")?.stop();
    ensure!(json(&w, &["replay", "/run/virga/journal"])?["equal"] == true);
    Ok(())
}

/// Rows by what makes them one and the same.
fn rows(v: &Value, keys: &[&str]) -> BTreeMap<String, Value> {
    let of = |r: &Value| keys.iter().map(|k| r[*k].to_string()).collect::<Vec<_>>().join(" ");
    v.as_array().into_iter().flatten().map(|r| (of(r), r.clone())).collect()
}

fn json_has_the_names_and_values_of_ip() -> Result<()> {
    let w = busy_world()?;
    let of_ip = |args: &str| -> Result<Value> { Ok(serde_json::from_str(&ip(&format!("-j {args}"))?)?) };
    // Names of ours for what ip does not have.
    let ours: BTreeSet<&str> =
        ["offload", "why", "managed", "port", "wire", "link", "ipv4", "ipv6", "egress", "tags"].into_iter().collect();
    for (verb, theirs, key) in [
        ("link", vec!["-d link show"], vec!["ifindex"]),
        (
            "neigh",
            vec!["neigh show", "-6 neigh show", "neigh show nud noarp", "-6 neigh show nud noarp"],
            vec!["dst", "dev"],
        ),
        (
            "route",
            vec!["route show table all", "-6 route show table all"],
            vec!["type", "dst", "dev", "table", "metric"],
        ),
    ] {
        let mut theirs_by = BTreeMap::new();
        let mut names = BTreeSet::new();
        for t in theirs {
            let v = of_ip(t)?;
            names.extend(
                v.as_array().into_iter().flatten().filter_map(Value::as_object).flat_map(|o| o.keys().cloned()),
            );
            theirs_by.extend(rows(&v, &key));
        }
        let mine = json(&w, &[verb, "show"])?;
        ensure!(mine.as_array().is_some_and(|a| !a.is_empty()), "{verb}: {mine}");
        let mut compared = 0;
        for (id, row) in rows(&mine, &key) {
            let their = theirs_by.get(&id);
            for (name, value) in row.as_object().context("not an object")? {
                ensure!(names.contains(name) || ours.contains(&name[..]), "{verb}: ip has no {name:?}: {row}");
                // Neighbours move on between two looks.
                if ["flags", "state", "operstate"].contains(&&name[..]) || ours.contains(&name[..]) {
                    continue;
                }
                if let Some(t) = their.and_then(|t| t.get(name)) {
                    ensure!(t == value, "{verb} {id}: {name} is {value}, ip has {t}");
                    compared += 1;
                }
            }
        }
        ensure!(compared > 10, "{verb}: only {compared} values were in both:\n{mine}\n{theirs_by:?}");
    }
    Ok(())
}

/// One sentence on standard error, nothing else, and a status other than 0.
fn one_sentence(c: &mut Command, has: &str) -> Result<()> {
    let out = c.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code().is_some_and(|c| c != 0), "{c:?}: {}\n{text}", out.status);
    // A daemon may have logged before.
    let last = text.lines().last().unwrap_or_default();
    ensure!(last.contains(has), "{c:?} does not say {has:?}:\n{text}");
    ensure!(!text.contains("panicked"), "{c:?}: {text}");
    ensure!(out.stdout.is_empty(), "{c:?}: {}", String::from_utf8_lossy(&out.stdout));
    Ok(())
}

fn named(name: &str) -> Result<Command> {
    let mut c = Command::new(virga_exe()?);
    c.arg0(name);
    Ok(c)
}

fn mistakes_get_one_sentence() -> Result<()> {
    let w = world()?;
    for (args, has) in [
        (&["--socket", "/run/none.sock", "status"][..], "no agent listens on /run/none.sock: start virgad"),
        (&["--socket", "/run/none.sock", "-j", "route", "show"], "no agent listens"),
        (&["--socket", "/run/none.sock", "check"], "no agent listens"),
        (&["--socket", "/run/none.sock", "settle", "--timeout", "0"], "no agent listens"),
        (&["--socket", "/proc/version", "status"], "/proc/version"),
        (&["--socket", "/run/virga/asic.sock", "status"], "/run/virga/asic.sock"),
        (&["table", "show", "nonsense"], "there are port, switch, fid"),
        (&["replay", "/none"], "/none can't be read"),
        (&["replay", "/"], "/"),
    ] {
        one_sentence(w.virga().args(args), has)?;
    }
    // What the command line itself refuses: what is wrong comes first, the way to help last.
    for (args, has) in [
        (&["rotue"][..], "rotue"),
        (&["route", "add"], "add"),
        (&["--jsno", "status"], "--jsno"),
        (&["settle", "--timeout", "soon"], "soon"),
        (&["settle", "--timeout", "-1"], "-1"),
        (&["settle", "--timeout", "1e9"], "1e9"),
        (&["table", "show"], "NAME"),
        (&["replay"], "FILE"),
        (&["status", "more"], "more"),
    ] {
        let out = w.virga().args(args).output()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(2) && out.stdout.is_empty(), "{args:?}: {}", out.status);
        ensure!(text.lines().count() == 1 && text.starts_with("virga: ") && text.contains(has), "{args:?}:\n{text}");
    }
    Ok(())
}

fn daemons_refuse_what_is_wrong_in_one_sentence() -> Result<()> {
    let dir = Path::new("/run/place");
    std::fs::create_dir_all(dir)?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = dir.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    // Both programs check the whole file.
    for (name, text, has) in [
        ("section", "[agnet]\n", "agnet"),
        ("key", "[agent]\nsokcet = \"/x\"\n", "sokcet"),
        ("value", "[agent]\nreceive-buffer = \"big\"\n", "line 2"),
        ("zero", "[agent]\nreceive-buffer = 0\n", "receive-buffer is 0"),
        ("where", "[agent]\nchip = \"tcp:1\"\n", "neither unix:PATH nor embedded"),
        ("chip-key", "[chip]\nprots = []\n", "prots"),
        ("chip-value", "[chip]\nport = 3\n", "line 2"),
        ("port", "[chip]\nport = [\"swp1=carrier-pigeon:1\"]\n", "carrier-pigeon"),
        ("twice", "[chip]\nport = [\"swp1=none\", \"swp1=none\"]\n", "twice"),
        ("class", "[chip.policer]\narpp = { rate = 1, burst = 1 }\n", "arpp"),
        ("profile", "[chip]\nprofile = \"huge\"\n", "small, tor, unlimited"),
        ("listen", "[chip]\nlisten = \"/x\"\n", "unix:PATH"),
        ("syntax", "[chip\n", "line 1"),
    ] {
        let path = file(name, text)?;
        for program in ["virgad", "virga-asic"] {
            one_sentence(named(program)?.args(["--config", &path]), has).with_context(|| name.to_owned())?;
            one_sentence(named(program)?.args(["--config", &path]), &path)?;
        }
    }
    std::fs::create_dir_all("/run/ro")?;
    mount("ro", "/run/ro", "tmpfs", MountFlags::RDONLY, None)?;
    let plain = file("plain", "x")?;
    for (args, has) in [
        (&["--config", "/none.toml"][..], "/none.toml"),
        (&["--chip", "tcp:1"], "neither unix:PATH nor embedded"),
        (&["--chip", "embedded", "--socket", "/run/place/e.sock", "--", "--port", "swp1"], "NAME=WIRE"),
        (&["--socket", "/run/ro/virgad.sock"], "/run/ro/virgad.sock"),
        (&["--socket", "/run/ro/dir/virgad.sock"], "/run/ro/dir/virgad.sock"),
        (&["--socket", &plain], "in the way and not a socket"),
        (&["--socket", "/run/place/a.sock", "--record", "/run/ro/journal"], "/run/ro/journal"),
        (&["--socket", "/run/place/b.sock", "--record", "/run/place"], "/run/place"),
    ] {
        one_sentence(named("virgad")?.args(args), has)?;
    }
    for (args, has) in [
        (&["--config", "/none.toml"][..], "/none.toml"),
        (&["--port", "swp1"], "NAME=WIRE"),
        (&["--port", "swp1=packet:none0"], "none0"),
        (&["--port", "swp1=none", "--profile", "huge"], "small, tor, unlimited"),
        (&["--port", "swp1=none", "--profile", "/none"], "/none"),
        (&["--port", "swp1=none", "--listen", "/x"], "unix:PATH"),
        (&["--port", "swp1=none", "--listen", &format!("unix:{plain}")], "no socket"),
        (&["--port", "swp1=none", "--listen", "unix:/run/ro/asic.sock"], "/run/ro/asic.sock"),
        (&["--port", "swp1=none", "--host-netns", "nowhere"], "nowhere"),
        (&["--prot", "swp1=none"], "--prot"),
    ] {
        one_sentence(named("virga-asic")?.args(args), has)?;
    }
    Ok(())
}

fn bad_journals_are_named() -> Result<()> {
    let w = busy_world()?;
    w.agent.as_ref().context("no agent")?.stop();
    let good = std::fs::read("/run/virga/journal")?;
    let replay = |bytes: &[u8]| -> Result<std::process::Output> {
        std::fs::write("/run/virga/bad", bytes)?;
        Ok(w.virga().args(["replay", "/run/virga/bad"]).output()?)
    };
    ensure!(replay(&good)?.status.success());
    for (what, bytes) in [
        ("empty", vec![]),
        ("text", b"[chip]\nport = []\n".to_vec()),
        ("zeroes", vec![0; 4096]),
        ("ones", vec![255; 4096]),
        ("without its header", good[40..].to_vec()),
    ] {
        let out = replay(&bytes)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(1) && said.lines().count() == 1, "{what}: {}\n{said}", out.status);
        ensure!(said.contains("not a journal of virgad's"), "{what}: {said}");
    }
    // One byte is another: it is noticed, or it was in what nobody looks at; never a panic.
    let mut noticed = 0;
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        let out = replay(&bytes)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            matches!(out.status.code(), Some(0 | 1)) && !said.contains("panicked"),
            "at {at}: {}\n{said}",
            out.status
        );
        noticed += usize::from(out.status.code() == Some(1));
    }
    ensure!(noticed > 0, "not one changed byte was noticed");
    Ok(())
}

fn a_full_disk_ends_the_journal_and_nothing_else() -> Result<()> {
    std::fs::create_dir_all("/run/full")?;
    mount("full", "/run/full", "tmpfs", MountFlags::empty(), Some(c"size=64k"))?;
    let w = world_with(|c| c.agent_args = vec!["--record".into(), "/run/full/journal".into()])?;
    let pid = w.agent.as_ref().context("no agent")?.pid();
    let batch: String = (0..2000).map(|i| format!("route add 11.{}.{}.0/24 via 10.0.2.2\n", i >> 8, i & 255)).collect();
    let mut c = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    c.stdin.take().context("no pipe")?.write_all(batch.as_bytes())?;
    ensure!(c.wait()?.success(), "ip refused the batch");
    settle(&w)?;
    run(w.virga().arg("check"))?;
    let said = run(w.virga().arg("status"))?;
    ensure!(said.contains("the journal can't be written and has ended"), "{said}");
    ensure!(w.agent.as_ref().and_then(|a| a.pid()) == pid, "the agent died of it");
    // What was written is a journal.
    ensure!(run(w.virga().args(["replay", "/run/full/journal"]))?.starts_with("equal"));
    Ok(())
}

/// A process of the test's own, ended with it.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn service_manager_is_told() -> Result<()> {
    let w = chip_only()?;
    w.chip.stop();
    let manager = UnixDatagram::bind("/run/notify")?;
    manager.set_read_timeout(Some(LIMIT))?;
    let mut c = named("virgad")?;
    c.args(["--chip", "unix:/run/virga/asic.sock"]).env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "600000");
    let mut agent = Own(c.stderr(Stdio::null()).spawn()?);
    let mut said = Vec::new();
    let mut hear = |until: &str| -> Result<Vec<String>> {
        let mut buf = [0; 4096];
        let mut heard = Vec::new();
        loop {
            let n = manager.recv(&mut buf).with_context(|| format!("waiting for {until}, heard {heard:?}"))?;
            let text = String::from_utf8_lossy(&buf[..n]).into_owned();
            said.push(text.clone());
            let found = text.contains(until);
            heard.push(text);
            if found {
                return Ok(heard);
            }
        }
    };
    // Without a chip it is alive, says what it waits for, and is not ready.
    let mut heard = hear("WATCHDOG=1")?;
    heard.extend(hear("STATUS=the chip")?);
    ensure!(!heard.iter().any(|t| t.contains("READY=1")), "ready without a chip: {heard:?}");
    w.chip.resume();
    let heard = hear("READY=1")?;
    ensure!(heard.last().is_some_and(|t| t.contains("STATUS=settled")), "{heard:?}");
    let settled: Value = serde_json::from_str(&run(w.virga().args(["-j", "status"]))?)?;
    ensure!(settled["settled"] == true, "{settled}");
    hear("WATCHDOG=1")?;
    hear("WATCHDOG=1")?;
    let pid = i32::try_from(agent.0.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    kill_process(pid, Signal::TERM)?;
    let heard = hear("STOPPING=1")?;
    ensure!(!heard.iter().any(|t| t.contains("READY=1")), "ready twice: {heard:?}");
    ensure!(agent.0.wait()?.success(), "SIGTERM is a clean end");
    Ok(())
}
