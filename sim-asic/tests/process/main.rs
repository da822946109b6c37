//! The chip as a process, between real hosts and the real kernel, with no agent: everything is trapped (milestone M1).
//!
//! Runs in namespaces of its own and touches nothing outside. What this machine does not allow is skipped, and said.

mod frames;
mod lifecycle;
mod refusals;
mod workers;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

type Test = (&'static str, fn(), fn() -> Result<(), String>);

/// Nothing but what all need.
fn always() -> Result<(), String> {
    Ok(())
}

fn tests() -> Vec<Test> {
    vec![
        ("frames::hosts_reach_each_other_through_the_kernel", frames::reach, always),
        ("frames::fact_40_tcp_arrives_intact_with_default_offloads", frames::tcp, always),
        ("frames::udp_super_frames_are_cut", frames::udp_segments, frames::needs_udp_segments),
        ("frames::super_frames_of_tunnels_are_cut", frames::tunnels, frames::needs_vxlan),
        ("frames::super_frames_of_more_than_64_kib_are_cut", frames::big_tcp, frames::needs_big_tcp),
        ("frames::fact_40_tags_reach_the_kernel", frames::tags, always),
        ("frames::an_idle_wire_is_silent", frames::silence, always),
        ("frames::policers_limit_a_class", frames::policer, always),
        ("frames::giants_are_counted", frames::sizes, always),
        ("lifecycle::fact_50_carrier_admin_and_mtu_are_mirrored", lifecycle::mirror, always),
        ("lifecycle::a_refused_mtu_is_reported", lifecycle::refused_mtu, lifecycle::needs_macvlan),
        ("lifecycle::a_netdev_that_moves_or_goes", lifecycle::moved_and_deleted, always),
        ("lifecycle::a_wire_that_goes_and_comes_back", lifecycle::wire_returns, always),
        ("lifecycle::a_restart_finds_everything_again", lifecycle::restart, always),
        ("lifecycle::ports_change_wires", lifecycle::other_wires, always),
        ("lifecycle::release_gives_everything_back", lifecycle::release, always),
        ("lifecycle::one_agent_at_a_time_and_garbage", lifecycle::agents, always),
        ("lifecycle::embedded_is_the_same_chip", lifecycle::embedded, always),
        ("workers::frames_cross_between_workers", workers::across, always),
        ("workers::any_number_survives_a_restart", workers::restart, always),
        ("refusals::wires_in_use", refusals::wires, always),
        ("refusals::bad_options", refusals::options, always),
        ("refusals::two_chips", refusals::two_chips, always),
    ]
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // What all need.
    let common = if args.list {
        Ok(())
    } else {
        match sim_asic::netns::private() {
            Ok(Some(code)) => return code,
            Ok(None) => needs(),
            Err(e) => Err(e.to_string()),
        }
    };
    args.test_threads = args.test_threads.or(Some(2));
    let mut skipped = BTreeMap::<String, usize>::new();
    let trials = tests()
        .into_iter()
        .map(|(name, test, needs)| {
            let why = common.clone().and_then(|()| if args.list { Ok(()) } else { needs() });
            if let Err(why) = &why {
                *skipped.entry(why.clone()).or_default() += 1;
            }
            Trial::test(name, move || {
                test();
                Ok(())
            })
            .with_ignored_flag(why.is_err())
        })
        .collect();
    let done = libtest_mimic::run(&args, trials);
    for (why, n) in skipped {
        println!("skipped {n}: {why}");
    }
    done.exit_code()
}

fn needs() -> Result<(), String> {
    for p in ["ip", "ping"] {
        if std::process::Command::new(p).arg("-V").output().is_err() {
            return Err(format!("{p} is missing (Debian: iproute2, iputils-ping)"));
        }
    }
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| format!("/dev/net/tun does not open: {e}"))?;
    world::ip("link set lo up");
    let o = world::run("ip", &["link", "add", "veth-try", "type", "veth"]);
    world::run("ip", &["link", "del", "veth-try"]);
    if o.status.success() { Ok(()) } else { Err("this kernel makes no veth devices".into()) }
}
