//! From notation to bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};
use hal::Mac;

use super::{Context, MAGIC, checksum, host_mac, port_mac};

/// What a line said, before it becomes bytes.
#[derive(Default)]
struct Spec<'a> {
    words: Vec<&'a str>,
    used: Vec<bool>,
}

impl<'a> Spec<'a> {
    /// The value of `key=…`, the last one given.
    fn get(&mut self, key: &str) -> Option<&'a str> {
        let mut found = None;
        for (w, used) in self.words.iter().zip(&mut self.used) {
            if let Some(v) = w.strip_prefix(key).and_then(|r| r.strip_prefix('=')) {
                *used = true;
                found = Some(v);
            }
        }
        found
    }
    /// Whether the bare word stands there.
    fn flag(&mut self, word: &str) -> bool {
        let mut found = false;
        for (w, used) in self.words.iter().zip(&mut self.used) {
            if *w == word {
                *used = true;
                found = true;
            }
        }
        found
    }
    fn num(&mut self, key: &str, default: u64) -> Result<u64> {
        match self.get(key) {
            Some(v) => number(v).with_context(|| format!("{key}={v}")),
            None => Ok(default),
        }
    }
    fn maybe(&mut self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|v| number(v).with_context(|| format!("{key}={v}"))).transpose()
    }
    /// `A>B` of a type, of the first unused word that looks like it.
    fn pair<T: FromStr>(&mut self) -> Option<(T, T)> {
        for (w, used) in self.words.iter().zip(&mut self.used) {
            if !*used
                && let Some((a, b)) = w.split_once('>')
                && let (Ok(a), Ok(b)) = (a.parse(), b.parse())
            {
                *used = true;
                return Some((a, b));
            }
        }
        None
    }
    fn unused(&self) -> Result<()> {
        match self.words.iter().zip(&self.used).find(|(_, u)| !**u) {
            Some((w, _)) => bail!("{w:?} means nothing here; the notation is described in frame/mod.rs"),
            None => Ok(()),
        }
    }
}

fn number(v: &str) -> Result<u64> {
    match v.strip_prefix("0x") {
        Some(h) => u64::from_str_radix(h, 16),
        None => v.parse(),
    }
    .map_err(|_| anyhow!("{v:?} is not a number"))
}

fn hex(v: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = v
        .bytes()
        .map(|b| (b as char).to_digit(16).map(|d| d as u8).ok_or_else(|| anyhow!("{v:?} is not hexadecimal")))
        .collect::<Result<_>>()?;
    if !digits.len().is_multiple_of(2) {
        bail!("{v:?} has an odd number of hexadecimal digits");
    }
    Ok(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
}

fn mac(v: &str, cx: &Context) -> Result<Mac> {
    if v == "bcast" {
        return Ok(Mac::BROADCAST);
    }
    if let Some(n) = v.strip_prefix("swp") {
        return Ok(port_mac(n.parse().with_context(|| format!("{v:?} names no port"))?));
    }
    if let Some(n) = v.strip_prefix('h') {
        return Ok(host_mac(cx.port, n.parse().with_context(|| format!("{v:?} names no host"))?));
    }
    v.parse().map_err(|e| anyhow!("{v:?}: {e}"))
}

/// The MAC that a group address maps to (RFC 1112, section 6.4; RFC 2464, section 7), else `None`.
fn group_mac(a: IpAddr) -> Option<Mac> {
    match a {
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some(Mac([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Mac::BROADCAST),
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            Some(Mac([0x33, 0x33, o[12], o[13], o[14], o[15]]))
        }
        _ => None,
    }
}

/// The bytes of the frame that `text` describes.
///
/// # Errors
/// A sentence naming the word that is not understood.
pub fn build(text: &str, cx: &Context) -> Result<Vec<u8>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.first() == Some(&"hex") {
        return hex(&words[1..].concat());
    }
    let mut s = Spec { used: vec![false; words.len()], words };
    let dst = s.get("dst").map(|v| mac(v, cx)).transpose()?;
    let src = s.get("src").map(|v| mac(v, cx)).transpose()?.unwrap_or(host_mac(cx.port, 2));
    let vlan = s.get("vlan");
    let labels = s.get("mpls");
    let pad = s.maybe("pad")?;
    let trunc = s.maybe("trunc")?;
    let at = s.get("at");
    let (ethertype, default_dst, body): (u64, _, _) = match s.words.first() {
        None => bail!("an empty frame: say at least SOURCE>DESTINATION"),
        Some(&"arp") => (0x0806, None, arp(&mut s, cx, src)?),
        Some(&"eth") => {
            let t = s.words.get(1).ok_or_else(|| anyhow!("eth wants an EtherType"))?;
            let t = number(t)?;
            s.used[..2].fill(true);
            let len = s.num("len", 46)? as usize;
            (t, None, payload(cx.id, len))
        }
        Some(_) => {
            if let Some((a, b)) = s.pair::<Ipv4Addr>() {
                (0x0800, group_mac(b.into()), ip4(&mut s, cx, a, b)?)
            } else if let Some((a, b)) = s.pair::<Ipv6Addr>() {
                (0x86dd, group_mac(b.into()), ip6(&mut s, cx, a, b)?)
            } else {
                bail!("{text:?} is not a frame: it wants SOURCE>DESTINATION of one family, arp, eth or hex");
            }
        }
    };
    let default_dst = if ethertype == 0x0806 && body[7] == 1 { Some(Mac::BROADCAST) } else { default_dst };
    let mut f = Vec::with_capacity(14 + body.len());
    f.extend_from_slice(&dst.or(default_dst).unwrap_or(port_mac(cx.port)).0);
    f.extend_from_slice(&src.0);
    for tag in vlan.iter().flat_map(|v| v.split(',')) {
        let (tpid, tci) = match tag.split_once('.') {
            Some((p, t)) => {
                (u16::from_str_radix(p, 16).map_err(|_| anyhow!("vlan={tag}: {p:?} is not hexadecimal"))?, t)
            }
            None => (0x8100, tag),
        };
        f.extend_from_slice(&tpid.to_be_bytes());
        f.extend_from_slice(&(number(tci)? as u16).to_be_bytes());
    }
    if labels.is_some() {
        f.extend_from_slice(&[0x88, 0x47]);
    } else {
        f.extend_from_slice(&(s.num("type", ethertype)? as u16).to_be_bytes());
    }
    let mut rest = labels.iter().flat_map(|l| l.split('/')).peekable();
    while let Some(l) = rest.next() {
        // RFC 3032, section 2.1: label, traffic class 0, bottom of stack, TTL 64.
        let entry = (number(l)? as u32) << 12 | u32::from(rest.peek().is_none()) << 8 | 64;
        f.extend_from_slice(&entry.to_be_bytes());
    }
    f.extend_from_slice(&body);
    s.unused()?;
    if let Some(n) = pad
        && f.len() < n as usize
    {
        f.resize(n as usize, 0);
    }
    if let Some(n) = trunc {
        f.truncate(n as usize);
    }
    if let Some(v) = at {
        let (o, bytes) = v.split_once(':').ok_or_else(|| anyhow!("at={v}: it wants OFFSET:HEX"))?;
        let (o, bytes) = (number(o)? as usize, hex(bytes)?);
        let end = o.checked_add(bytes.len()).filter(|e| *e <= f.len());
        let end = end.ok_or_else(|| anyhow!("at={v}: the frame has only {} bytes", f.len()))?;
        f[o..end].copy_from_slice(&bytes);
    }
    Ok(f)
}

fn payload(id: u32, len: usize) -> Vec<u8> {
    let mut p: Vec<u8> = MAGIC.iter().copied().chain(id.to_be_bytes()).collect();
    p.extend((8..len.max(8)).map(|i| i as u8));
    p.truncate(len);
    p
}

fn arp(s: &mut Spec<'_>, cx: &Context, src: Mac) -> Result<Vec<u8>> {
    s.flag("arp");
    let op: u16 = match (s.flag("req"), s.flag("rep"), s.maybe("op")?) {
        (_, _, Some(op)) => op as u16,
        (true, false, None) => 1,
        (false, true, None) => 2,
        _ => bail!("arp wants req or rep"),
    };
    let (spa, tpa) = s.pair::<Ipv4Addr>().ok_or_else(|| anyhow!("arp wants SENDER>TARGET"))?;
    let sha = s.get("sha").map(|v| mac(v, cx)).transpose()?.unwrap_or(src);
    let tha = s.get("tha").map(|v| mac(v, cx)).transpose()?.unwrap_or(Mac::default());
    let mut b = vec![0, 1, 8, 0, 6, 4];
    b.extend_from_slice(&op.to_be_bytes());
    b.extend_from_slice(&sha.0);
    b.extend_from_slice(&spa.octets());
    b.extend_from_slice(&tha.0);
    b.extend_from_slice(&tpa.octets());
    Ok(b)
}

/// The transport header with payload, and its protocol number. `room` is what is left of `size=`.
fn transport(
    s: &mut Spec<'_>,
    cx: &Context,
    pseudo: &[u8],
    first: bool,
    room: impl Fn(usize) -> Result<Option<usize>>,
) -> Result<(u8, Vec<u8>)> {
    let v6 = pseudo.len() > 12;
    let len = s.maybe("len")?.map(|n| n as usize);
    let sum4 = s.get("sum4");
    let body = |head: usize| -> Result<Vec<u8>> { Ok(payload(cx.id, room(head)?.or(len).unwrap_or(18))) };
    let (udp, tcp) = (s.flag("udp"), s.flag("tcp"));
    let (echo, reply) = (s.flag("echo"), s.flag("echo-reply"));
    let icmp = s.get("icmp");
    let proto = s.maybe("proto")?;
    let ports: (u16, u16) = s.pair().unwrap_or((1000, 2000));
    let (ns, na) = (s.get("ns"), s.get("na"));
    let (rs, ra, mld) = (s.flag("rs"), s.flag("ra"), s.flag("mld"));
    let tcp_flags = s.get("flags").map(|f| u8::from_str_radix(f, 16)).transpose().context("flags=")?.unwrap_or(2);
    let quote = s.get("quote");
    let rest = match s.get("rest") {
        None => [0; 4],
        Some(v) => match v.parse::<Ipv4Addr>() {
            Ok(a) => a.octets(),
            Err(_) => u32::try_from(number(v)?).context("rest=")?.to_be_bytes(),
        },
    };
    let icmp_proto = if v6 { 58 } else { 1 };
    let (inside, gre, key) = (s.get("in"), s.get("gre"), s.maybe("key")?);
    if let Some(q) = inside.or(gre) {
        let f = build(&q.replace(',', " ").replace(';', ","), cx).with_context(|| format!("in a tunnel: {q}"))?;
        let packet = f.get(14..).unwrap_or_default();
        let six = packet.first().is_some_and(|b| b >> 4 == 6);
        let (p, mut b) = match (gre, six) {
            (None, false) => (4, Vec::new()),
            (None, true) => (41, Vec::new()),
            // RFC 2784, RFC 2890.
            (Some(_), _) => (
                47,
                vec![if key.is_some() { 0x20 } else { 0 }, 0, if six { 0x86 } else { 8 }, if six { 0xdd } else { 0 }],
            ),
        };
        if gre.is_some() {
            b.extend(key.iter().flat_map(|k| (*k as u32).to_be_bytes()));
        }
        b.extend_from_slice(packet);
        return Ok((p, if first { b } else { body(0)? }));
    }
    let (proto, mut b, sum_at) = if !first {
        let p = if tcp {
            6
        } else if echo || reply || icmp.is_some() {
            icmp_proto
        } else {
            proto.unwrap_or(17) as u8
        };
        return Ok((p, body(0)?));
    } else if tcp {
        let mut b = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        b.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcp_flags, 0x10, 0, 0, 0, 0, 0]);
        b.extend(body(20)?);
        (6, b, 16)
    } else if echo || reply || icmp.is_some() || quote.is_some() {
        let (t, c) = match (icmp, echo) {
            (Some(v), _) => {
                let (t, c) = v.split_once('/').unwrap_or((v, "0"));
                (number(t)? as u8, number(c)? as u8)
            }
            (None, true) => (if v6 { 128 } else { 8 }, 0),
            (None, false) if reply => (if v6 { 129 } else { 0 }, 0),
            _ => (if v6 { 1 } else { 3 }, 0),
        };
        let mut b = vec![t, c, 0, 0, 0, 1, 0, 1];
        if let Some(q) = quote {
            b[4..8].copy_from_slice(&rest);
            let f = build(&q.replace(',', " "), cx).with_context(|| format!("quote={q}"))?;
            b.extend_from_slice(f.get(14..).unwrap_or_default());
        } else {
            b.extend(body(8)?);
        }
        (icmp_proto, b, 2)
    } else if ns.is_some() || na.is_some() || rs || ra || mld {
        let t = if ns.is_some() {
            135
        } else if na.is_some() {
            136
        } else if rs {
            133
        } else if ra {
            134
        } else {
            131
        };
        let mut b = vec![t, 0, 0, 0, 0, 0, 0, 0];
        if let Some(t) = ns.or(na) {
            b[4] = if na.is_some() { 0x60 } else { 0 };
            b.extend_from_slice(&t.parse::<Ipv6Addr>().with_context(|| format!("{t:?} is no IPv6 address"))?.octets());
            b.extend_from_slice(&[if na.is_some() { 2 } else { 1 }, 1]);
            b.extend_from_slice(&host_mac(cx.port, 2).0);
        } else if ra {
            b[4] = 64;
            b[6..8].copy_from_slice(&[0x07, 0x08]);
            b.extend_from_slice(&[0; 8]);
        } else if mld {
            b.extend_from_slice(&"ff02::1:2".parse::<Ipv6Addr>().unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        }
        (58, b, 2)
    } else if let (Some(p), false) = (proto, udp) {
        return Ok((p as u8, body(0)?));
    } else {
        let data = body(8)?;
        let mut b = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        b.extend_from_slice(&((8 + data.len()) as u16).to_be_bytes());
        b.extend_from_slice(&[0, 0]);
        b.extend(data);
        (17, b, 6)
    };
    let n = b.len() as u32;
    let mut sum = if proto == 1 {
        checksum(&[&b])
    } else if v6 {
        checksum(&[pseudo, &n.to_be_bytes(), &[0, 0, 0, proto], &b])
    } else {
        checksum(&[pseudo, &[0, proto], &(n as u16).to_be_bytes(), &b])
    };
    if proto == 17 && sum == 0 {
        sum = 0xffff;
    }
    match sum4 {
        Some("bad") => sum ^= 0x5555,
        Some(v) => sum = number(v)? as u16,
        None => {}
    }
    b[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok((proto, b))
}

/// What `size=` leaves behind `before` bytes of headers.
fn rest(size: Option<u64>, before: usize) -> impl Fn(usize) -> Result<Option<usize>> {
    move |head| match size {
        None => Ok(None),
        Some(n) => match (n as usize).checked_sub(before + head) {
            Some(n) => Ok(Some(n)),
            None => bail!("size={n} is less than the headers take ({})", before + head),
        },
    }
}

fn ip4(s: &mut Spec<'_>, cx: &Context, src: Ipv4Addr, dst: Ipv4Addr) -> Result<Vec<u8>> {
    let mut opts = s.get("opts").map(hex).transpose()?.unwrap_or_default();
    opts.resize(opts.len().next_multiple_of(4), 0);
    if opts.len() > 40 {
        bail!("opts= takes at most 40 bytes");
    }
    let size = s.maybe("size")?;
    let off = s.num("off", 0)?;
    let head = 20 + opts.len();
    let pseudo = [src.octets(), dst.octets()].concat();
    let (proto, body) = transport(s, cx, &pseudo, off == 0, rest(size, head))?;
    let flags = u16::from(s.flag("df")) << 14 | u16::from(s.flag("mf")) << 13 | (off / 8) as u16;
    let ttl = s.num("ttl", 64)?;
    let ttl = s.num("hop", ttl)? as u8;
    let ihl = s.num("ihl", (head / 4) as u64)? as u8;
    let ver = s.num("ver", 4)? as u8;
    let tlen = s.num("tlen", (head + body.len()) as u64)? as u16;
    let mut h = vec![ver << 4 | ihl & 15, s.num("tos", 0)? as u8];
    h.extend_from_slice(&tlen.to_be_bytes());
    h.extend_from_slice(&(s.num("id", u64::from(cx.id))? as u16).to_be_bytes());
    h.extend_from_slice(&flags.to_be_bytes());
    h.extend_from_slice(&[ttl, proto, 0, 0]);
    h.extend_from_slice(&pseudo);
    h.extend_from_slice(&opts);
    let mut sum = checksum(&[&h]);
    match s.get("sum") {
        Some("bad") => sum ^= 0x5555,
        Some(v) => sum = number(v)? as u16,
        None => {}
    }
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    h.extend(body);
    Ok(h)
}

fn ip6(s: &mut Spec<'_>, cx: &Context, src: Ipv6Addr, dst: Ipv6Addr) -> Result<Vec<u8>> {
    let size = s.maybe("size")?;
    let off = s.num("off", 0)?;
    let mf = s.flag("mf");
    let id = s.num("id", u64::from(cx.id))? as u32;
    let mut names: Vec<&str> = s.get("ext").map(|e| e.split(',').collect()).unwrap_or_default();
    if (mf || off > 0) && !names.contains(&"frag") {
        names.push("frag");
    }
    // Type of each extension header and its bytes behind the "next header" byte.
    let mut exts: Vec<(u8, Vec<u8>)> = Vec::new();
    for name in names {
        exts.push(match name {
            "hbh" => (0, vec![0, 1, 4, 0, 0, 0, 0]),
            "ra" => (0, vec![0, 5, 2, 0, 0, 1, 0]),
            "jumbo" => (0, vec![0, 0xc2, 4, 0, 1, 0, 0]),
            "hbh-unknown" => (0, vec![0, 0xbe, 4, 0, 0, 0, 0]),
            "dst" => (60, vec![0, 1, 4, 0, 0, 0, 0]),
            "rt0" => (43, [vec![2, 0, 1, 0, 0, 0, 0], dst.octets().to_vec()].concat()),
            "rt0-done" => (43, [vec![2, 0, 0, 0, 0, 0, 0], dst.octets().to_vec()].concat()),
            "frag" => {
                let o = (off as u16 & !7) | u16::from(mf);
                (44, [&[0][..], &o.to_be_bytes(), &id.to_be_bytes()].concat())
            }
            "ah" => (51, vec![4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            _ => bail!("ext={name}: there are hbh, ra, jumbo, hbh-unknown, dst, rt0, rt0-done, frag and ah"),
        });
    }
    let before: usize = exts.iter().map(|(_, b)| 1 + b.len()).sum();
    let pseudo = [src.octets(), dst.octets()].concat();
    let (proto, body) = transport(s, cx, &pseudo, off == 0, rest(size, 40 + before))?;
    let nd = matches!(body.first(), Some(133..=137)) && proto == 58;
    let hop = s.num("ttl", if nd { 255 } else { 64 })?;
    let hop = s.num("hop", hop)? as u8;
    let ver = s.num("ver", 6)? as u32;
    let word = ver << 28 | (s.num("tos", 0)? as u32) << 20 | s.num("flow", 0)? as u32 & 0xf_ffff;
    let plen = s.num("tlen", (before + body.len()) as u64)? as u16;
    let mut next: Vec<u8> = exts.iter().map(|(t, _)| *t).collect();
    next.push(proto);
    let mut h = word.to_be_bytes().to_vec();
    h.extend_from_slice(&plen.to_be_bytes());
    h.extend_from_slice(&[next[0], hop]);
    h.extend_from_slice(&pseudo);
    for (i, (_, b)) in exts.iter().enumerate() {
        h.push(next[i + 1]);
        h.extend_from_slice(b);
    }
    h.extend(body);
    Ok(h)
}
