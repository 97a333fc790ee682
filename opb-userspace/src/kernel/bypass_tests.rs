use std::{num::NonZeroU32, os::fd::AsRawFd as _};

use super::*;

const WHO: Who = Who { uid: 7, pid: None, user: None };

fn ids(names: &[&str]) -> GroupIds {
    let mut ids = GroupIds::default();
    ids.assign(names.iter().copied(), Timestamp::UNIX_EPOCH).expect("room");
    ids
}

fn request(group: Option<&str>, seconds: u32, reason: &str) -> BypassRequest {
    let seconds = NonZeroU32::new(seconds).expect("not zero");
    BypassRequest { group: group.map(str::to_owned), seconds, reason: reason.to_owned() }
}

fn names(bypasses: &Bypasses) -> Vec<(u16, Option<String>)> {
    let active = bypasses.active();
    active.iter().map(|bypass| (bypass.group_id(), bypass.line().group)).collect()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_belongs_to_a_name_and_not_to_an_id() {
    let bpffs = sys::detached_bpffs().expect("root can mount one");
    let path = format!("/proc/self/fd/{}/bypass", bpffs.as_raw_fd());
    let open = || Bypasses::open(Path::new(&path)).expect("a map");
    let (bypasses, before) = (open(), ids(&["a", "b", "c"]));
    for (group, reason) in [(None, "all"), (Some("a"), "one"), (Some("b"), "two")] {
        bypasses.start(&request(group, 60, reason), &before, &WHO).expect("it starts");
    }
    let name = |text: &str| Some(text.to_owned());
    assert_eq!(names(&bypasses), [(0, None), (1, name("a")), (2, name("b"))]);
    assert!(bypasses.follow(&before).is_empty(), "nothing has changed");

    // `b` is 1 now, and `a` has no id any more.
    let lost = bypasses.follow(&ids(&["b", "x"]));
    assert_eq!(lost.iter().map(|bypass| bypass.line().group).collect::<Vec<_>>(), [name("a")]);
    // A later daemon finds the same.
    let bypasses = open();
    assert_eq!(names(&bypasses), [(0, None), (1, name("b"))]);
    let line = bypasses.active()[1].line();
    assert_eq!((line.reason.as_str(), line.by), ("two", WHO));
    let period = line.until.duration_since(line.since).as_secs();
    assert!((59..=61).contains(&period), "{period}");

    // Two that change places.
    bypasses.end(None);
    let [one, other] = [["a", "b"], ["b", "a"]].map(|names| ids(&names));
    for group in ["a", "b"] {
        bypasses.start(&request(Some(group), 60, group), &one, &WHO).expect("it starts");
    }
    assert!(bypasses.follow(&other).is_empty());
    assert_eq!(names(&bypasses), [(1, name("b")), (2, name("a"))]);
    assert_eq!(bypasses.end(Some("a")).len(), 1);
    assert_eq!(bypasses.end(Some("a")), []);
    assert_eq!(bypasses.end(None).len(), 1);
    assert!(bypasses.active().is_empty() && bypasses.expire().is_empty());

    // Over by itself, and reported once.
    bypasses.start(&request(Some("a"), 1, "short"), &one, &WHO).expect("it starts");
    std::thread::sleep(Duration::from_secs(1));
    assert!(bypasses.active().is_empty());
    assert_eq!(bypasses.expire().len(), 1);
    assert!(bypasses.expire().is_empty());
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_bypass_has_a_group_a_reason_and_an_end() {
    let bpffs = sys::detached_bpffs().expect("root can mount one");
    let path = format!("/proc/self/fd/{}/bypass", bpffs.as_raw_fd());
    let bypasses = Bypasses::open(Path::new(&path)).expect("a map");
    let ids = ids(&["a"]);
    for (wrong, error) in [
        (request(Some("b"), 1, "why"), "no group `b` in the policy in force"),
        (request(Some("a"), 1, " \t"), "the reason is empty: say why everything must pass"),
        (request(None, 86_401, "why"), "invalid duration 24h 1s: expected at most 24h"),
        (request(None, 1, &"é".repeat(197)), "the reason has 394 bytes: expected at most 392"),
    ] {
        let refused = bypasses.start(&wrong, &ids, &WHO).expect_err("it is wrong");
        assert_eq!(refused.to_string(), error);
    }
    assert!(bypasses.active().is_empty());
    let most = request(Some("a"), 86_400, &"é".repeat(196));
    let line = bypasses.start(&most, &ids, &WHO).expect("it starts");
    assert_eq!(line.reason, most.reason);
}
