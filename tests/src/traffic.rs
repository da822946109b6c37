//! Traffic between hosts, and a verdict on what arrived.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use virga::lab::command_in;

use crate::Host;

/// What `ping` counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Answers that arrived.
    pub received: u32,
    /// Answers that arrived more than once.
    pub duplicates: u32,
}

/// `ping ADDR ARGS` from a host; counts, whatever they are, and the text.
///
/// # Errors
/// `ping` did not run.
pub fn ping(from: &Host, to: impl Into<IpAddr>, args: &str) -> Result<(Pings, String)> {
    let out = from.command("ping")?.args(["-n"]).args(args.split_whitespace()).arg(to.into().to_string()).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok((pings(&text).with_context(|| text.clone())?, text))
}

/// The counts in what `ping` printed.
///
/// # Errors
/// There is no summary in it.
pub fn pings(text: &str) -> Result<Pings> {
    let line = text.lines().find(|l| l.contains("packets transmitted")).context("ping printed no summary")?;
    let number = |what: &str| {
        line.split(", ")
            .find(|p| p.contains(what))
            .and_then(|p| p.trim_start_matches('+').split(' ').next()?.parse().ok())
    };
    Ok(Pings {
        sent: number("transmitted").context("no count sent")?,
        received: number("received").context("no count received")?,
        duplicates: number("duplicates").unwrap_or(0),
    })
}

/// `ping` that must lose and double nothing; answers the text.
///
/// # Errors
/// It lost or doubled something.
pub fn ping_all(from: &Host, to: impl Into<IpAddr>, args: &str) -> Result<String> {
    let (p, text) = ping(from, to, args)?;
    ensure!(
        p.sent > 0 && p.received == p.sent && p.duplicates == 0,
        "{} lost or doubled something:\n{text}",
        from.name
    );
    Ok(text)
}

/// One ping that need not be answered: has a neighbour resolved, a route looked up.
///
/// # Errors
/// `ping` did not run.
pub fn poke(from: &Host, to: impl Into<IpAddr>) -> Result<bool> {
    Ok(ping(from, to, "-c 1 -W 1")?.0.received == 1)
}

/// The bytes of a transfer: each chunk can be computed from its place.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, buf: &mut [u8]) {
        for word in buf.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

const CHUNK: usize = 1 << 16;
const STUCK: Duration = Duration::from_secs(30);

/// Transfer so many megabytes by TCP with the stacks' default offloads; every byte is compared.
///
/// # Errors
/// Something arrived otherwise than it was sent, or not at all.
pub fn tcp(
    from: &virga::lab::World,
    sender: &Host,
    receiver: Option<&Host>,
    to: IpAddr,
    megabytes: usize,
) -> Result<()> {
    let chunks = megabytes * 1_000_000 / CHUNK + 1;
    let ns = receiver.map_or(&from.switch, |h| &h.netns);
    let listener = ns.run(|| TcpListener::bind((to, 0)))??;
    let address: SocketAddr = listener.local_addr()?;
    std::thread::scope(|s| {
        let receive = s.spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(STUCK))?;
            let (mut pattern, mut want, mut got) = (Pattern(42), vec![0; CHUNK], vec![0; CHUNK]);
            for n in 0..chunks {
                pattern.fill(&mut want);
                stream.read_exact(&mut got).with_context(|| format!("chunk {n} of {chunks} did not arrive"))?;
                ensure!(got == want, "chunk {n} of {chunks} arrived otherwise than it was sent");
            }
            ensure!(stream.read(&mut got)? == 0, "more arrived than was sent");
            stream.write_all(b"done").context("no confirmation could be sent")
        });
        let sent = sender.netns.run(|| -> Result<()> {
            let mut stream =
                TcpStream::connect_timeout(&address, STUCK).with_context(|| format!("no connection to {address}"))?;
            stream.set_write_timeout(Some(STUCK))?;
            stream.set_read_timeout(Some(STUCK))?;
            let (mut pattern, mut buf) = (Pattern(42), vec![0; CHUNK]);
            for n in 0..chunks {
                pattern.fill(&mut buf);
                stream.write_all(&buf).with_context(|| format!("chunk {n} of {chunks} could not be sent"))?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut end = [0; 4];
            stream.read_exact(&mut end).context("no confirmation came")?;
            Ok(())
        })?;
        sent?;
        receive.join().unwrap_or_else(|_| bail!("the receiver panicked"))
    })
}

/// A ping that runs in the background until its count is over.
#[derive(Debug)]
pub struct Flood(std::process::Child);

/// Start `ping -i INTERVAL -c COUNT` in the background.
///
/// # Errors
/// `ping` did not start.
pub fn flood(from: &Host, to: impl Into<IpAddr>, args: &str) -> Result<Flood> {
    let mut c = command_in(&from.netns, "ping")?;
    c.args(["-n", "-q"]).args(args.split_whitespace()).arg(to.into().to_string());
    c.stdout(std::process::Stdio::piped());
    Ok(Flood(c.spawn()?))
}

impl Flood {
    /// Whether it is still under way.
    ///
    /// # Errors
    /// It can't be asked.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// End it (as Ctrl-C does) and say what it counted. A last request may be on its way: it counts as lost, once.
    ///
    /// # Errors
    /// `ping` printed no summary.
    pub fn stop(self) -> Result<Pings> {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        self.finish()
    }

    /// Wait for its end and say what it counted.
    ///
    /// # Errors
    /// `ping` printed no summary.
    pub fn finish(self) -> Result<Pings> {
        pings(&String::from_utf8_lossy(&self.0.wait_with_output()?.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let text = "5 packets transmitted, 4 received, +1 duplicates, 20% packet loss, time 4ms";
        assert_eq!(pings(text).unwrap(), Pings { sent: 5, received: 4, duplicates: 1 });
        assert!(pings("").is_err());
    }
}
