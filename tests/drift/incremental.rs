//! What a scan reads when nothing, or little, has changed.

use crate::place::{CYCLE, DAY, Place};
use regild::agent::drift::{Look, state};

fn large() -> Place {
    let mut place = Place::empty();
    // 120 MB: one file in slices, some of a few MiB, and many small ones.
    place.write("boot/initrd", &vec![3; 40 << 20]);
    for at in 0..30u8 {
        place.write(format!("usr/lib/{at}"), &vec![at; (2 << 20) + usize::from(at) * 1000]);
    }
    for at in 0..5000u32 {
        place.write(format!("usr/share/{}/{at}", at % 50), &vec![7; 8000 + (at % 1000) as usize]);
    }
    place.record();
    place
}

/// Issue 4: an incremental scan with nothing changed reads under 2 % of what a full one reads. Each one of a day does,
/// and together they read everything once.
#[test]
fn no_scan_of_an_unchanged_tree_reads_more_than_two_percent_and_all_is_read_in_a_day() {
    let place = large();
    let full = place.scan(CYCLE).summary.scan.read_bytes;
    assert!(full > 110 << 20, "the first one reads everything: {full}");
    let (began, mut day) = (place.now(), 0);
    for _ in 0..DAY / 900 {
        let said = place.scan(CYCLE);
        assert_eq!(said.lines, [""; 0]);
        let read = said.summary.scan.read_bytes;
        assert!(read * 50 < full, "{read} of {full} bytes");
        day += read;
    }
    assert_eq!(day, full);
    assert!(place.scan(CYCLE).summary.scan.content_since > began);
}

#[test]
fn only_what_changed_is_read_besides() {
    let place = Place::small();
    place.scan(CYCLE);
    place.write("etc/passwd", b"root:x:0:1\n");
    let said = place.scan(Look::Due { cycle_seconds: 1 << 40 });
    assert_eq!((said.lines, said.summary.scan.read_bytes), (vec!["content /etc/passwd".to_owned()], 11));
    let again = place.scan(Look::Due { cycle_seconds: 1 << 40 });
    assert_eq!((again.lines, again.summary.scan.read_bytes), (vec!["content /etc/passwd".to_owned()], 0));
}

/// Issue 4, bad input: a clock set back. Times that are not yet count as never; a finding does not begin in the future.
#[test]
fn a_clock_set_back_makes_all_content_be_read_again() {
    let place = Place::small();
    place.write("etc/new", b"1");
    let full = place.scan(CYCLE).summary.scan.read_bytes;
    assert!(!place.scan(CYCLE).summary.clock_set_back);
    place.set_clock(place.now() - 5000);
    let said = place.scan(CYCLE);
    assert!(said.summary.clock_set_back, "it is said");
    assert_eq!(said.summary.scan.read_bytes, full);
    assert_eq!((said.found[0].first_seen, said.found[0].scans), (place.now(), 3));
    assert!(!place.scan(CYCLE).summary.clock_set_back);
}

/// A file that is written while, or just before, it is read can change again within the same tick of its ctime.
#[test]
fn what_was_touched_just_now_is_read_again_the_next_time() {
    let place = Place::small();
    place.set_clock(regild::clock::now() - 900);
    let full = place.scan(CYCLE).summary.scan.read_bytes;
    place.set_clock(place.now() - 900);
    assert_eq!(place.scan(CYCLE).summary.scan.read_bytes, full);
}

/// Against another baseline the state's word "as expected" means nothing.
#[test]
fn a_new_baseline_is_compared_with_what_is_there() {
    let mut place = Place::small();
    place.scan(CYCLE);
    place.write("etc/passwd", b"root:x:0:9\n");
    place.record();
    place.write("etc/passwd", b"root:x:0:0\n");
    let state = place.beside("state");
    let former = state::Reader::open(&state);
    assert!(former.is_some());
    assert_eq!(place.scan(CYCLE).lines, ["content /etc/passwd"]);
}
