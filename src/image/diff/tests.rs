use std::cell::Cell;

use super::files::node_bytes;
use super::{DiffError, Page};
use crate::decide::drift::finding::{Kind, Node};
use crate::image::facts::tests::{fat, round_fat};
use crate::image::tests::{MIB, import, store};

/// Bad input: the reader of a FAT whose directory never ends does not come back to ask whether anybody waits. Each of its
/// reads does.
#[test]
fn a_comparison_ends_in_the_middle_of_a_file_system_that_does_not() {
    let (_dir, store) = store();
    import(&store, "fat:1", &fat(4 * MIB)[..]).unwrap();
    import(&store, "fat:2", &round_fat()[..]).unwrap();
    let asked = Cell::new(0u32);
    let is_stopped = || {
        asked.set(asked.get() + 1);
        asked.get() > 2000
    };
    let (from, to) = ("fat:1".parse().unwrap(), "fat:2".parse().unwrap());
    let compared = store.diff(&from, &to, Page { skip: 0, limit: 10 }, &is_stopped);
    assert!(matches!(compared, Err(DiffError::Stopped)), "{compared:?}");
    assert!(asked.get() < 2100, "it went on for {} reads", asked.get() - 2000);
}

/// Bad input: each of thousands of names of one symlink brings its target along.
#[test]
fn a_target_counts_as_memory_as_an_attribute_does() {
    let mut node = Node {
        kind: Kind::Symlink { target: vec![b'x'; 60 << 10] },
        mode: 0o777,
        uid: 0,
        gid: 0,
        modified: 0,
        xattrs: Vec::new(),
    };
    assert_eq!(node_bytes(&node), 60 << 10);
    node.xattrs.push((b"user.note".to_vec(), vec![0; 1000]));
    assert_eq!(node_bytes(&node), (60 << 10) + 1009);
}
