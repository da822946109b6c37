//! How fast the netlink decoder and the mirror are, on a million synthetic IPv4 routes in random order:
//! `cargo run --release -p virga --example mirror_bench`.

use std::time::Instant;

use hal::V4;
use virga::mirror::Mirror;
use virga::netlink::build::Builder;
use virga::netlink::{messages, nlm, route, rtm};

const ROUTES: u32 = 1_000_000;

fn message(i: u32) -> Vec<u8> {
    // Odd multipliers permute: every /24 once, in no order.
    let dst = (i.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff) << 8;
    let mut fixed = [0; 12];
    fixed[0] = 2;
    fixed[1] = 24;
    fixed[4] = 254;
    fixed[5] = 186;
    fixed[7] = 1;
    Builder::new(rtm::NEWROUTE, nlm::F_CREATE | nlm::F_EXCL, &fixed)
        .u32(15, 254)
        .attr(1, &dst.to_be_bytes())
        .u32(6, 20)
        .attr(5, &[10, 0, (i % 4) as u8, 2 + (i / 4 % 50) as u8])
        .u32(4, 1 + i % 4)
        .done()
}

fn main() {
    let all: Vec<Vec<u8>> = (0..ROUTES).map(message).collect();
    let begin = Instant::now();
    let mut sum = 0u64;
    for b in &all {
        for m in messages(b).flatten() {
            if let Ok(Some(r)) = route::decode::<V4>(m.body) {
                sum += u64::from(r.metric);
            }
        }
    }
    let decode = begin.elapsed();
    assert_eq!(sum, u64::from(ROUTES) * 20);
    let mut m = Mirror::new();
    let mut out = Vec::new();
    let (mut worst, mut drained) = (std::time::Duration::ZERO, 0);
    let begin = Instant::now();
    let mut last = begin;
    for (i, b) in all.iter().enumerate() {
        m.monitor(i as u64 + 1, b);
        if i % 256 == 255 {
            m.drain_prefixes::<V4>(usize::MAX, &mut out);
            drained += out.len();
            out.clear();
        }
        let now = Instant::now();
        worst = worst.max(now - last);
        last = now;
    }
    let insert = begin.elapsed();
    let begin = Instant::now();
    m.dump_begin(<V4 as virga::mirror::MirrorFamily>::DUMP);
    for b in &all {
        m.dump(<V4 as virga::mirror::MirrorFamily>::DUMP, u64::from(ROUTES), b);
    }
    m.dump_end(<V4 as virga::mirror::MirrorFamily>::DUMP, true);
    while m.work(1 << 16) {}
    let resync = begin.elapsed();
    let rate = |t: std::time::Duration| f64::from(ROUTES) / t.as_secs_f64() / 1e6;
    println!("routes {} drained {drained}", m.tables::<V4>().map(|t| t.1).sum::<usize>());
    println!("decode {:.1} M/s", rate(decode));
    println!(
        "decode and insert {:.1} M/s, worst single input {worst:?} (timer and drains of 256 included)",
        rate(insert)
    );
    println!("dump of the same into it {:.1} M/s", rate(resync));
    println!("{:.1} bytes a route", m.bytes() as f64 / f64::from(ROUTES));
}
