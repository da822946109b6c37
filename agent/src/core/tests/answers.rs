//! What the core tells operators, and that a recording of it replays.

use super::*;

#[test]
fn answers_name_what_became_of_each_route() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    let v = lab.ask(Request::Status);
    assert_eq!(v["routes"]["inet"]["offloaded"], 30, "{v}");
    assert_eq!(v["routes"]["inet"]["total"], 43, "{v}");
    assert_eq!(v["settled"], true);
    let routes = lab.ask(Request::Routes { cursor: 0, max: 1000 });
    let all = routes.as_array().unwrap();
    let (on, off): (Vec<_>, Vec<_>) = all.iter().partition(|r| r["offload"] == true);
    assert!(off.iter().all(|r| r["why"].as_str().is_some_and(|w| !w.is_empty())), "{off:?}");
    assert!(on.iter().all(|r| r["why"].is_null()));
    let neighs = lab.ask(Request::List(Listed::Neighs));
    assert_eq!(neighs[0]["offload"], true, "{neighs}");
    for r in [Request::Counters, Request::Resources, Request::Table { name: "group".into(), cursor: 0 }] {
        let v = lab.ask(r);
        assert!(v.is_object() || v.as_array().is_some_and(|a| !a.is_empty()), "{v}");
    }
}

#[test]
fn a_recording_replays_and_a_changed_one_does_not() {
    let mut lab = Lab::new(profile());
    a_few_routes(&mut lab);
    lab.ask(Request::Status);
    let bytes = lab.journal.take().unwrap().into_inner();
    let n = replay(&bytes[..]).unwrap();
    assert!(n.inputs > 40 && n.outputs > 20, "{n:?}");
    // Broken off in the middle, as after a kill: what is there counts.
    assert!(replay(&bytes[..bytes.len() - 3]).is_ok());
    // Another prefix in an input: what comes out is not what was recorded.
    let at = bytes.windows(4).position(|w| w == [192, 0, 2, 0]).unwrap();
    let mut other = bytes.clone();
    other[at + 2] = 0x77;
    assert!(matches!(replay(&other[..]), Err(JournalError::Differs { .. })));
    assert!(matches!(replay(&b"hello"[..]), Err(JournalError::NotOne(_))));
    assert!(matches!(replay(&[][..]), Err(JournalError::NotOne(_))));
}
