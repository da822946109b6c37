//! Chip and agent as processes of a world: started, asked, ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::PATIENCE;
use super::netns::{self, NetNs};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder that holds `virga`, `virgad` and `virga-asic`.
    pub folder: PathBuf,
}

impl Programs {
    /// Those built beside the running program (or one folder up, for a test).
    ///
    /// # Errors
    /// They are not there.
    pub fn beside() -> Result<Programs> {
        let exe = std::env::current_exe().context("where this program is")?;
        let mut folder = exe.parent();
        while let Some(f) = folder {
            if f.join("virgad").is_file() && f.join("virga-asic").is_file() && f.join("virga").is_file() {
                return Ok(Programs { folder: f.into() });
            }
            folder = f.parent().filter(|_| f.ends_with("deps"));
        }
        bail!("virga, virgad and virga-asic are not beside {}: build them (cargo build --workspace)", exe.display())
    }
}

/// What the chip did with frames since it started.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Forwarded by the chip.
    pub forwarded: u64,
    /// Given to the kernel, harness's own frames included.
    pub trapped: u64,
    /// Per trap class, given to the kernel.
    pub traps: Vec<(String, u64)>,
    /// Dropped by policers and queues: what the comparison can't judge.
    pub policed: u64,
}

/// Chip and agent.
#[derive(Debug)]
pub struct Virga {
    programs: Programs,
    folder: PathBuf,
    asic_ns: String,
    chip: Child,
    agent: Option<Child>,
}

const CONFIG: &str = include_str!("virga.toml");

impl Virga {
    /// Starts both and waits until the ports are there and the agent answers.
    ///
    /// # Errors
    /// What went wrong, with the ends of their logs.
    pub fn start(n: u32, ports: usize, sw: &NetNs, wire: &NetNs, programs: &Programs, agent: bool) -> Result<Virga> {
        let folder = PathBuf::from(format!("/run/oracle{n}"));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let config = folder.join("virga.toml");
        let chip_socket = format!("unix:{}", folder.join("asic.sock").display());
        let agent_socket = folder.join("virgad.sock");
        fs::write(&config, CONFIG.replace("@SOCKET@", &agent_socket.display().to_string()))?;
        let asic_ns = format!("asic{n}");
        let mut c = Command::new(programs.folder.join("virga-asic"));
        c.arg("--config").arg(&config).args(["--listen", &chip_socket, "--netns", &asic_ns, "--host-netns", &sw.name]);
        for p in 1..=ports {
            c.args(["--port".into(), format!("swp{p}=packet:e{p}@{}", wire.name)]);
        }
        let chip = sw.enter(|| spawn(&mut c, &folder.join("chip.log")))??;
        let mut v = Virga { programs: programs.clone(), folder: folder.clone(), asic_ns, chip, agent: None };
        let until = Instant::now() + PATIENCE;
        let ready = |v: &mut Virga| -> Result<bool> {
            if let Some(status) = v.chip.try_wait()? {
                bail!("virga-asic ended ({status}){}", v.log());
            }
            let all = sw.enter(|| (1..=ports).all(|p| netns::index(&format!("swp{p}")).is_some()))?;
            Ok(all && v.folder.join("asic.sock").exists())
        };
        while !ready(&mut v)? {
            if Instant::now() > until {
                bail!("virga-asic did not make its ports{}", v.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if !agent {
            return Ok(v);
        }
        v.start_agent(sw)?;
        Ok(v)
    }

    /// Starts the agent and waits until it answers, if none is running.
    ///
    /// # Errors
    /// What went wrong, with the ends of the logs.
    pub fn start_agent(&mut self, sw: &NetNs) -> Result<()> {
        if self.agent.is_some() {
            return Ok(());
        }
        let socket = self.folder.join("virgad.sock");
        let mut c = Command::new(self.programs.folder.join("virgad"));
        let chip = format!("unix:{}", self.folder.join("asic.sock").display());
        c.arg("--config").arg(self.folder.join("virga.toml")).args(["--chip", &chip]);
        let log = self.folder.join("agent.log");
        self.agent = Some(sw.enter(|| spawn(&mut c, &log))??);
        let until = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Some(a) = &mut self.agent
                && let Some(status) = a.try_wait()?
            {
                bail!("virgad ended ({status}){}", self.log());
            }
            if Instant::now() > until {
                bail!("virgad did not open its socket{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills the agent, without a warning.
    pub fn stop_agent(&mut self) {
        if let Some(mut a) = self.agent.take() {
            let _ = a.kill();
            let _ = a.wait();
        }
        let _ = fs::remove_file(self.folder.join("virgad.sock"));
    }

    fn ask(&self, sw: &NetNs, args: &[&str]) -> Result<(bool, String)> {
        let socket = self.folder.join("virgad.sock");
        let mut c = Command::new(self.programs.folder.join("virga"));
        c.arg("--socket").arg(&socket).args(args).stdin(Stdio::null());
        let out = sw.enter(|| c.output())?.context("virga can't be started")?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.success(), text))
    }

    /// `virga settle`.
    ///
    /// # Errors
    /// The agent's sentence.
    pub fn settle(&self, sw: &NetNs) -> Result<()> {
        if self.agent.is_none() {
            return Ok(());
        }
        match self.ask(sw, &["settle", "--timeout", "20"])? {
            (true, _) => Ok(()),
            (false, text) => bail!("virga settle: {}{}", text.trim(), self.log()),
        }
    }

    /// `virga check`.
    ///
    /// # Errors
    /// The agent's sentence.
    pub fn check(&self, sw: &NetNs) -> Result<()> {
        if self.agent.is_none() {
            return Ok(());
        }
        match self.ask(sw, &["check"])? {
            (true, _) => Ok(()),
            (false, text) => bail!("virga check: {}", text.trim()),
        }
    }

    /// `virga -j counters`, summed up.
    ///
    /// # Errors
    /// The agent's sentence, or an answer that is not what it should be.
    pub fn carried(&self, sw: &NetNs) -> Result<Carried> {
        if self.agent.is_none() {
            return Ok(Carried::default());
        }
        let (ok, text) = self.ask(sw, &["-j", "counters"])?;
        if !ok {
            bail!("virga counters: {}", text.trim());
        }
        let json: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("virga -j counters: {text}"))?;
        let frames = |v: &serde_json::Value| v["frames"].as_u64().unwrap_or(0);
        let mut c = Carried::default();
        let ports = json["ports"].as_array().with_context(|| format!("virga -j counters has no ports: {text}"))?;
        for p in ports {
            c.forwarded += frames(&p["forwarded"]);
            c.trapped += frames(&p["trapped"]);
        }
        let traps = json["traps"].as_array().with_context(|| format!("virga -j counters has no traps: {text}"))?;
        for t in traps {
            c.traps.push((t["class"].as_str().unwrap_or("?").to_owned(), frames(t)));
            c.policed += frames(&t["dropped"]);
        }
        Ok(c)
    }

    /// `virga table show`.
    ///
    /// # Errors
    /// The agent's sentence.
    pub fn table(&self, sw: &NetNs, name: &str) -> Result<String> {
        match self.ask(sw, &["table", "show", name])? {
            (true, text) => Ok(text),
            (false, text) => bail!("virga table show {name}: {}", text.trim()),
        }
    }

    /// What an engineer wants to see beside a difference.
    pub fn state(&self, sw: &NetNs) -> String {
        if self.agent.is_none() {
            return String::new();
        }
        let mut out = String::new();
        for args in [&["status"][..], &["route", "show"], &["neigh", "show"], &["counters"]] {
            let text = self.ask(sw, args).map_or_else(|e| e.to_string(), |(_, t)| t);
            out += &format!("--- virga {}\n{}\n", args.join(" "), text.trim_end());
        }
        out
    }

    /// The ends of both logs.
    pub fn log(&self) -> String {
        let mut out = String::new();
        for name in ["chip.log", "agent.log"] {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(8)..];
            if !tail.is_empty() {
                out += &format!("\n--- {name}\n{}", tail.join("\n"));
            }
        }
        out
    }
}

fn spawn(c: &mut Command, log: &Path) -> Result<Child> {
    let f = File::create(log).with_context(|| log.display().to_string())?;
    c.stdin(Stdio::null()).stdout(f.try_clone()?).stderr(f);
    c.spawn().with_context(|| format!("{} can't be started", c.get_program().display()))
}

impl Drop for Virga {
    fn drop(&mut self) {
        for c in self.agent.iter_mut().chain([&mut self.chip]) {
            let _ = c.kill();
            let _ = c.wait();
        }
        netns::unname(&self.asic_ns);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
