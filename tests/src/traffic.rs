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
    let to = to.into();
    let before = replies(from, to.is_ipv6())?;
    let out = from.command("ping")?.args(["-n"]).args(args.split_whitespace()).arg(to.to_string()).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let p = with_late(pings(&text).with_context(|| text.clone())?, from, to.is_ipv6(), before)?;
    Ok((p, text))
}

/// A counter of ICMP of the host's stack, as `/proc/net/snmp` names it.
///
/// # Errors
/// There is none of that name.
pub fn icmp(host: &Host, name: &str) -> Result<u64> {
    host.netns.run(|| -> Result<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
        let mut icmp = text.lines().filter(|l| l.starts_with("Icmp:"));
        let (names, numbers) = icmp.next().zip(icmp.next()).context("no Icmp in snmp")?;
        let at = names.split_whitespace().position(|n| n == name).with_context(|| format!("no {name}"))?;
        Ok(numbers.split_whitespace().nth(at).context("short line")?.parse()?)
    })?
}

/// Echo replies that the host's stack has received so far.
fn replies(host: &Host, v6: bool) -> Result<u64> {
    if !v6 {
        return icmp(host, "InEchoReps");
    }
    host.netns.run(|| -> Result<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp6")?;
        let line = text.lines().find(|l| l.starts_with("Icmp6InEchoReplies")).context("no Icmp6InEchoReplies")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    })?
}

/// Answers that came too late for `ping`, which, once it has had one, waits for the last no longer than twice the longest
/// round trip or one interval, whatever `-W` says. On a loaded machine that is less than a round trip by the slow path; what
/// the stack received in the end was not lost. `before`: replies received when `ping` was started.
fn with_late(p: Pings, host: &Host, v6: bool, before: u64) -> Result<Pings> {
    if p.received >= p.sent || p.received == 0 {
        return Ok(p);
    }
    let want = before + u64::from(p.sent);
    let came = crate::wait_for("late answers", LATE, || replies(host, v6).ok().filter(|n| *n >= want)).is_ok();
    Ok(if came { Pings { received: p.sent, ..p } } else { p })
}

/// An answer later than this is lost.
const LATE: Duration = Duration::from_secs(5);

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
pub struct Flood<'a> {
    ping: std::process::Child,
    from: &'a Host,
    v6: bool,
    before: u64,
}

/// Start `ping -i INTERVAL -c COUNT` in the background.
///
/// # Errors
/// `ping` did not start.
pub fn flood<'a>(from: &'a Host, to: impl Into<IpAddr>, args: &str) -> Result<Flood<'a>> {
    let to = to.into();
    let mut c = command_in(&from.netns, "ping")?;
    c.args(["-n", "-q"]).args(args.split_whitespace()).arg(to.to_string());
    c.stdout(std::process::Stdio::piped());
    let before = replies(from, to.is_ipv6())?;
    Ok(Flood { ping: c.spawn()?, from, v6: to.is_ipv6(), before })
}

impl Flood<'_> {
    /// Whether it is still under way.
    ///
    /// # Errors
    /// It can't be asked.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.ping.try_wait()?.is_none())
    }

    /// End it (as Ctrl-C does) and say what it counted. A last request may be on its way: it counts as lost, once.
    ///
    /// # Errors
    /// `ping` printed no summary.
    pub fn stop(self) -> Result<Pings> {
        if let Some(pid) = i32::try_from(self.ping.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        self.finish()
    }

    /// Wait for its end and say what it counted.
    ///
    /// # Errors
    /// `ping` printed no summary.
    pub fn finish(self) -> Result<Pings> {
        let p = pings(&String::from_utf8_lossy(&self.ping.wait_with_output()?.stdout))?;
        with_late(p, self.from, self.v6, self.before)
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
