//! What the chip has taken and made on this machine, so that a restart finds it again and `--release` can undo it.
//!
//! One small file beside the sockets, on a file system that a reboot empties, as it does the namespaces. Not the chip's tables.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hal::Mac;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// Where state and sockets are.
pub const DIR: &str = "/run/virga";

/// One port's netdev and wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// The configured name of the port.
    pub name: String,
    /// Ifindex of its TAP.
    pub ifindex: u32,
    /// Inode of the namespace in which that was.
    pub netns: u64,
    /// MAC of its TAP.
    pub mac: Mac,
    /// Name of the wire's device; absent for a port without a wire.
    pub wire: Option<String>,
    /// Name of the namespace that the wire came from; absent: the one in which the chip was started.
    pub from: Option<String>,
    /// MTU of its TAP; absent where an earlier version wrote this.
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    port: Vec<Known>,
}

/// The file of one chip, held by one process at a time.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    ports: Vec<Known>,
    _lock: File,
}

impl State {
    /// Open what is known of the chip in that namespace.
    ///
    /// # Errors
    /// One sentence: another chip runs there, or the file can't be used.
    pub fn open(dir: &Path, netns: &str) -> Result<State, String> {
        let says = |what: &Path| {
            let what = what.display().to_string();
            move |e: io::Error| format!("{what} can't be used: {e}")
        };
        fs::create_dir_all(dir).map_err(says(dir))?;
        let lock_path = dir.join(format!("asic.{netns}.lock"));
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(says(&lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!("another chip runs in namespace {netns}: end it first, or give this one another --netns")
        })?;
        let path = dir.join(format!("asic.{netns}.toml"));
        let ports = match fs::read_to_string(&path) {
            Ok(text) => {
                let c: Content = toml::from_str(&text)
                    .map_err(|e| format!("{} is damaged ({}): remove it", path.display(), e.message()))?;
                c.port
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(says(&path)(e)),
        };
        Ok(State { path, ports, _lock: lock })
    }

    /// What is known of a port.
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.ports.iter().find(|p| p.name == name)
    }

    /// All that is known.
    pub fn all(&self) -> &[Known] {
        &self.ports
    }

    /// Know this of a port from now on.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn put(&mut self, k: Known) -> io::Result<()> {
        match self.ports.iter_mut().find(|p| p.name == k.name) {
            Some(p) if *p == k => return Ok(()),
            Some(p) => *p = k,
            None => self.ports.push(k),
        }
        self.write()
    }

    /// Know nothing of a port any more.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn forget(&mut self, name: &str) -> io::Result<()> {
        self.ports.retain(|p| p.name != name);
        self.write()
    }

    /// Whole or not at all: a crash leaves the old one.
    fn write(&self) -> io::Result<()> {
        let text = toml::to_string(&Content { port: self.ports.clone() }).map_err(io::Error::other)?;
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_is_held_once() {
        let dir = std::env::temp_dir().join(format!("virga-state-{}", std::process::id()));
        let k = Known {
            name: "swp1".into(),
            ifindex: 7,
            netns: 4_026_531_840,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            wire: Some("eth1".into()),
            from: None,
            mtu: Some(1500),
        };
        let mut s = State::open(&dir, "a").unwrap();
        s.put(k.clone()).unwrap();
        assert!(State::open(&dir, "a").unwrap_err().contains("another chip"));
        assert!(State::open(&dir, "b").unwrap().all().is_empty());
        drop(s);
        let mut s = State::open(&dir, "a").unwrap();
        assert_eq!(s.get("swp1"), Some(&k));
        s.forget("swp1").unwrap();
        drop(s);
        fs::write(dir.join("asic.a.toml"), "port = 3").unwrap();
        assert!(State::open(&dir, "a").unwrap_err().contains("damaged"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
