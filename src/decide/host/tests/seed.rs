//! Promise: an order says of the host's own disk what was last read back there, and of no other disk anything.

use super::*;

/// Deployed with version 1, then ordered to become `next`.
fn ordered(next: &str) -> Host {
    after(&deployed(), &[script(), reimage(next), Event::Admit, script(), check_in(2)])
}

fn seed_of(host: &Host) -> Option<&str> {
    seed(host, |from, to| is_seed_of(from, to, || true)).map(|image| image.name.as_str())
}

#[test]
fn an_order_for_another_version_says_what_the_disk_holds() {
    let host = ordered("tiny:2");
    assert_eq!(seed_of(&host), Some("tiny:1"));
    // An attempt began to write and was cut: what is left of version 1 is still of use.
    let cut = after(&host, &[agent(2, AgentWord::Target(disk())), script(), check_in(2)]);
    assert_eq!(seed_of(&cut), Some("tiny:1"));
}

#[test]
fn who_has_no_order_no_disk_or_no_image_has_no_seed() {
    let first = after(&new_host(), &[approve(), Event::Admit, script(), check_in(1)]);
    assert_eq!(seed_of(&first), None, "never deployed");
    let begun = after(&first, &[agent(1, AgentWord::Target(disk()))]);
    assert_eq!(seed_of(&begun), None, "half written");
    let ready = after(&first, &[agent(1, AgentWord::Verified(disk()))]);
    assert_eq!(seed_of(&ready), None, "no order");
    assert_eq!(seed_of(&Host { own_disk: None, ..ordered("tiny:2") }), None, "which disk is not known");
    assert_eq!(seed_of(&ordered("tiny:1")), None, "the same version is looked for in its place");
}

/// Gone from the store, or unsigned where a signature is asked for.
#[test]
fn what_agents_do_not_get_is_no_seed() {
    let host = ordered("tiny:2");
    assert_eq!(seed(&host, |from, to| is_seed_of(from, to, || false)), None);
    let asked = std::cell::RefCell::new(Vec::new());
    let note = |from: &str, to: &str| {
        asked.borrow_mut().push((from.to_string(), to.to_string()));
        true
    };
    assert!(seed(&host, note).is_some());
    assert_eq!(asked.into_inner(), [("digest of tiny:1".to_string(), "digest of tiny:2".to_string())]);
}
