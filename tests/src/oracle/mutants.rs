//! Deliberate bugs, one at a time: whether the scenarios catch what they are said to catch.
//!
//! `tests/mutants/list` names them. Each is applied to a copy of the working tree, built there, and its scenarios run with
//! those programs; the tree itself is never touched. Which scenarios those are, and what counts as caught, is here; running is `suite`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::suite::ENDING;

/// One replacement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    /// A file, from the repository's root, or a folder in one of whose files it is (code moves).
    pub file: String,
    /// What is there, exactly once.
    pub old: String,
    /// What takes its place.
    pub new: String,
}

/// A bug, and who has to notice it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mutant {
    /// Its name.
    pub name: String,
    /// What it breaks, in a sentence.
    pub breaks: String,
    /// How.
    pub edits: Vec<Edit>,
    /// Scenarios, as FEATURE/NAME; each of them must differ.
    pub by: Vec<String>,
}

/// Parses the list:
///
/// ```text
/// mutant NAME
/// breaks SENTENCE
/// in FILE|FOLDER
/// - a line that is there (several follow each other in the file)
/// + a line that takes its place
/// by FEATURE/NAME …
/// ```
///
/// # Errors
/// The first line that is not understood, or a mutant that lacks something.
pub fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut out: Vec<Mutant> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let at = || format!("line {}: {line:?}", n + 1);
        if word == "mutant" {
            out.push(Mutant { name: rest.trim().into(), ..Mutant::default() });
            continue;
        }
        let m = out.last_mut().with_context(|| format!("{} stands before the first mutant", at()))?;
        let add = |to: &mut String| {
            if !to.is_empty() {
                to.push('\n');
            }
            to.push_str(rest);
        };
        match (word, m.edits.last_mut()) {
            ("breaks", _) => m.breaks = rest.into(),
            ("by", _) => m.by.extend(rest.split_whitespace().map(str::to_owned)),
            ("in", _) => m.edits.push(Edit { file: rest.trim().into(), ..Edit::default() }),
            ("-", Some(e)) => add(&mut e.old),
            ("+", Some(e)) => add(&mut e.new),
            ("-" | "+", None) => bail!("{} names no file before it: write in FILE", at()),
            _ => bail!("{}: it wants mutant, breaks, in, -, + or by", at()),
        }
    }
    for m in &out {
        if m.name.is_empty() || m.breaks.is_empty() || m.by.is_empty() || m.edits.iter().all(|e| e.old.is_empty()) {
            bail!("mutant {:?} lacks a name, what it breaks, an edit or the scenarios that must catch it", m.name);
        }
        if out.iter().filter(|o| o.name == m.name).count() > 1 {
            bail!("two mutants are named {:?}", m.name);
        }
    }
    Ok(out)
}

impl Mutant {
    /// The files that it changes below `root`, with their new content.
    ///
    /// # Errors
    /// An edit does not fit: the code has changed since it was written.
    pub fn apply(&self, root: &Path) -> Result<Vec<(PathBuf, String)>> {
        let mut out: Vec<(PathBuf, String)> = Vec::new();
        for e in &self.edits {
            let mut files = Vec::new();
            sources(root, Path::new(&e.file), &mut files).with_context(|| e.file.clone())?;
            let (mut times, mut place) = (0, None);
            for f in files {
                // As an edit before this one left it.
                let text = match out.iter().find(|(p, _)| *p == f) {
                    Some((_, t)) => t.clone(),
                    None => fs::read_to_string(root.join(&f)).with_context(|| f.display().to_string())?,
                };
                let n = text.matches(&e.old).count();
                times += n;
                if n > 0 {
                    place = Some((f, text.replacen(&e.old, &e.new, 1)));
                }
            }
            match place.filter(|_| times == 1) {
                Some((f, text)) => {
                    out.retain(|(p, _)| *p != f);
                    out.push((f, text));
                }
                None => bail!(
                    "mutant {}: {} holds {times} times what it is to replace once; write its edit anew:\n{}",
                    self.name,
                    e.file,
                    e.old
                ),
            }
        }
        Ok(out)
    }

    /// The files of its scenarios.
    ///
    /// # Errors
    /// One is not there.
    pub fn scenarios(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let file = |s: &String| {
            let f = root.join("tests/scenarios").join(format!("{s}.{ENDING}"));
            if !f.is_file() {
                bail!("mutant {}: there is no scenario {s}", self.name);
            }
            Ok(f)
        };
        self.by.iter().map(file).collect()
    }
}

/// `path` below `root`, or the Rust files in it.
fn sources(root: &Path, path: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    if !root.join(path).is_dir() {
        out.push(path.into());
        return Ok(());
    }
    for e in fs::read_dir(root.join(path))? {
        let (name, path) = (e?.file_name(), path.to_owned());
        let path = path.join(name);
        if root.join(&path).is_dir() || path.extension().is_some_and(|e| e == "rs") {
            sources(root, &path, out)?;
        }
    }
    Ok(())
}

/// The list of the tree at `root`.
///
/// # Errors
/// It can't be read.
pub fn list(root: &Path) -> Result<Vec<Mutant>> {
    let file = root.join("tests/mutants/list");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    parse(&text).with_context(|| file.display().to_string())
}

/// Writes only what is not there already, so that what did not change is not built again.
fn write(file: &Path, content: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|c| c == content) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(file, content).with_context(|| file.display().to_string())
}

/// Makes `copy` hold the working tree's files (those that git knows or would).
fn copy_tree(root: &Path, copy: &Path) -> Result<()> {
    let out = Command::new("git").current_dir(root).args(["ls-files", "-z", "-co", "--exclude-standard"]).output();
    let out = out.context("git can't be started")?;
    if !out.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    for name in out.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = String::from_utf8_lossy(name);
        // Deleted files are listed until the deletion is committed.
        if let Ok(content) = fs::read(root.join(&*name)) {
            write(&copy.join(&*name), &content)?;
        }
    }
    Ok(())
}

/// The workspace's packages that programs are made of.
const PACKAGES: [&str; 3] = ["virga", "virga-hal", "virga-sim-asic"];

/// How a mutant ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Every scenario that must notice it did, each time.
    Caught,
    /// These did not.
    Survived(Vec<String>),
}

/// Applies, builds and runs the mutants, or those named; `times` each. Whether all were caught.
///
/// # Errors
/// An edit does not fit, or nothing builds.
pub fn run(root: &Path, names: &[String], times: usize) -> Result<bool> {
    let all = list(root)?;
    if let Some(n) = names.iter().find(|n| !all.iter().any(|m| m.name == **n)) {
        let known: Vec<&str> = all.iter().map(|m| m.name.as_str()).collect();
        bail!("there is no mutant {n:?}; there are {}", known.join(", "));
    }
    let chosen: Vec<&Mutant> = all.iter().filter(|m| names.is_empty() || names.contains(&m.name)).collect();
    let target = root.join("target/mutants");
    let tree = target.join("tree");
    let (mut caught, mut survived) = (0, 0);
    for m in chosen {
        let start = Instant::now();
        // Also undoes the mutant before.
        copy_tree(root, &tree)?;
        let scenarios = m.scenarios(root)?;
        for (file, text) in m.apply(&tree)? {
            write(&tree.join(file), text.as_bytes())?;
        }
        let built = Command::new("cargo")
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &target)
            // What changes each time is built as quickly as can be.
            .args(PACKAGES.iter().flat_map(|p| ["--config".into(), format!("profile.dev.package.{p}.opt-level=0")]))
            .args(["build", "-q", "-p", "virga", "-p", "virga-sim-asic", "--bins"])
            .env("RUSTFLAGS", "-Awarnings")
            .env_remove("CARGO_MAKEFLAGS")
            .status()
            .context("cargo can't be started")?;
        if !built.success() {
            bail!("mutant {} does not build: write its edit anew", m.name);
        }
        let mut silent = Vec::new();
        for _ in 0..times.max(1) {
            // Programs in a process of its own, since the namespaces are entered once in a process.
            let me = std::env::current_exe().context("where this program is")?;
            let run = |c: &mut Command| c.arg("--programs").arg(target.join("debug")).args(&scenarios).output();
            let mut out = run(&mut Command::new(&me))?;
            // A kernel that lacks what a scenario needs: there is one that has it.
            if String::from_utf8_lossy(&out.stdout).contains(" skipped: ") {
                out = run(Command::new(root.join("tests/vm/run")).arg(&me))?;
            }
            let text = String::from_utf8_lossy(&out.stdout);
            for s in &m.by {
                let row = text.lines().find(|l| l.split_whitespace().next() == Some(s));
                if !row.is_some_and(|r| r.trim_end().ends_with("DIFFERENT")) {
                    let row = row.map_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned(), str::to_owned);
                    silent.push(row.trim().to_owned());
                }
            }
        }
        let fate = if silent.is_empty() { Fate::Caught } else { Fate::Survived(silent) };
        let took = start.elapsed().as_secs();
        match &fate {
            Fate::Caught => {
                caught += 1;
                println!("{:<28} caught by {}, {times} of {times} ({took} s)", m.name, m.by.join(", "));
            }
            Fate::Survived(rows) => {
                survived += 1;
                println!("{:<28} SURVIVED ({}; {took} s)", m.name, m.breaks);
                rows.iter().for_each(|r| println!("    {r}"));
            }
        }
    }
    println!("{caught} caught, {survived} survived");
    Ok(survived == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patches rot: each must still fit the code as it is, and its scenarios be there.
    #[test]
    fn every_mutant_still_applies() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let all = list(&root).unwrap();
        assert!(all.len() >= 12, "{} mutants", all.len());
        for m in all {
            let changed = m.apply(&root).unwrap();
            for (file, text) in changed {
                assert_ne!(text, fs::read_to_string(root.join(&file)).unwrap(), "{}: {}", m.name, file.display());
            }
            m.scenarios(&root).unwrap();
        }
    }

    #[test]
    fn nonsense_in_the_list_is_refused() {
        for t in ["- a", "mutant x\n- a", "mutant x\nwhat", "mutant x\nbreaks y\nin z\n- a", "mutant x\nbreaks y\nby z"]
        {
            assert!(parse(t).is_err(), "{t:?}");
        }
        let m = "mutant x\nbreaks y\nin z\n- a\n-  b\n+ c\nby d/e\n";
        let edit = Edit { file: "z".into(), old: "a\n b".into(), new: "c".into() };
        let want = Mutant { name: "x".into(), breaks: "y".into(), edits: vec![edit], by: vec!["d/e".into()] };
        assert_eq!(parse(m).unwrap(), std::slice::from_ref(&want));
        assert!(parse(&m.repeat(2)).is_err(), "names are used once");
    }
}
