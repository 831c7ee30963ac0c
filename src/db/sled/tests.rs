//! What the store promises: durable, all or nothing, one writer, and never silently older than acknowledged.

use super::place::LOCK_NAME;
use super::*;
use crate::db::watch::WatchError;

fn put(key: &str, value: &[u8]) -> Txn {
    Txn { checks: Vec::new(), writes: vec![(key.to_string(), Some(value.to_vec()))] }
}

fn store_with_one_host(dir: &Path) {
    let mut db = SledDb::open(dir).unwrap();
    db.commit(&[put("host/a", b"first"), put("lease/10.0.0.9", b"l")]).unwrap();
    db.commit(&[put("host/a", b"second")]).unwrap();
}

fn refusal(dir: &Path) -> String {
    match SledDb::open(dir) {
        Err(error @ DbError::Untrusted { .. }) => error.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_host(dir.path());
    let db = SledDb::open(dir.path()).unwrap();
    assert_eq!(db.get("host/a").unwrap().unwrap().value, b"second");
    assert_eq!(db.scan("lease/").unwrap().len(), 1);
    assert!(db.get("host/b").unwrap().is_none());
}

#[test]
fn a_transaction_whose_check_fails_writes_nothing_and_the_others_of_its_group_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = SledDb::open(dir.path()).unwrap();
    let mut create = put("host/a", b"1");
    create.checks.push(("host/a".to_string(), 0));
    let outcomes = db.commit(&[create.clone(), create, put("host/b", b"2")]).unwrap();
    let Committed::At(revision) = outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(outcomes[1], Committed::Conflict);
    assert!(matches!(outcomes[2], Committed::At(_)));
    let mut update = put("host/a", b"3");
    update.checks.push(("host/a".to_string(), revision));
    assert!(matches!(db.commit(&[update.clone()]).unwrap()[0], Committed::At(_)));
    assert_eq!(db.commit(&[update]).unwrap()[0], Committed::Conflict);
}

#[test]
fn a_second_regild_on_the_same_store_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let _first = SledDb::open(dir.path()).unwrap();
    assert!(matches!(SledDb::open(dir.path()), Err(DbError::Locked { .. })));
}

/// A second server on a store whose lock file somebody removed would be a second writer: the first one stops.
#[test]
fn a_writer_whose_lock_file_was_removed_or_replaced_writes_no_more() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut db = SledDb::open(dir.path()).unwrap();
        db.lease().unwrap();
        std::fs::remove_file(dir.path().join(LOCK_NAME)).unwrap();
        if replaced {
            std::fs::write(dir.path().join(LOCK_NAME), "").unwrap();
        }
        assert!(matches!(db.lease(), Err(DbError::LeaseLost { .. })));
        assert!(matches!(db.commit(&[put("host/a", b"1")]), Err(DbError::LeaseLost { .. })));
        assert!(db.get("host/a").unwrap().is_none());
    }
}

#[tokio::test]
async fn a_watch_tells_every_committed_change_of_its_prefix_in_order_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = SledDb::open(dir.path()).unwrap();
    db.commit(&[put("host/a", b"before")]).unwrap();
    let mut watch = db.watch("host/");
    let mut refused = put("host/a", b"never");
    refused.checks.push(("host/a".to_string(), 0));
    let delete = Txn { checks: Vec::new(), writes: vec![("host/a".to_string(), None)] };
    db.commit(&[put("host/b", b"1"), put("lease/x", b"2"), refused]).unwrap();
    db.commit(&[delete]).unwrap();
    let (added, gone) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!((added.key.as_str(), added.value.as_deref()), ("host/b", Some(&b"1"[..])));
    assert_eq!((gone.key.as_str(), gone.value), ("host/a", None));
    assert!(gone.revision > added.revision);
    for number in 0..2000 {
        db.commit(&[put("lease/x", format!("{number}").as_bytes())]).unwrap();
    }
    assert!(matches!(watch.next().await, Err(WatchError::Behind { .. })), "a watcher that falls behind is told so");
    drop(db);
    while watch.next().await != Err(WatchError::Closed) {}
}

#[test]
fn a_value_that_sled_would_keep_outside_its_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = SledDb::open(dir.path()).unwrap();
    assert!(matches!(db.commit(&[put("host/a", &[0; VALUE_BYTES_MAX + 1])]), Err(DbError::ValueTooLarge { .. })));
    db.commit(&[put("host/a", &[0; VALUE_BYTES_MAX])]).unwrap();
}

/// faults.md S5 and R4: each way a store can come back wrong ends in a refusal, never in a wrong permission.
#[test]
fn a_store_that_went_back_in_time_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let yesterday = dir.path().join("yesterday");
    store_with_one_host(dir.path());
    copy_dir(&store, &yesterday);
    SledDb::open(dir.path()).unwrap().commit(&[put("host/a", b"third")]).unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    assert!(refusal(dir.path()).contains("missing"));
    std::fs::rename(&yesterday, &store).unwrap();
    assert!(refusal(dir.path()).contains("acknowledged"));
}

/// A record that somebody changed, added or took away behind the store's back, by a tool that leaves no torn page.
#[test]
fn a_host_record_that_was_edited_from_outside_is_noticed() {
    for edit in ["changed", "added", "removed"] {
        let dir = tempfile::tempdir().unwrap();
        store_with_one_host(dir.path());
        let place = Place::take(dir.path()).unwrap();
        let tree = place.open_tree().unwrap();
        let raw = (*tree).get("host/a").unwrap().unwrap().to_vec();
        match edit {
            "changed" => drop(tree.insert("host/a", [&raw[..raw.len() - 1], b"D"].concat()).unwrap()),
            "added" => drop(tree.insert("host/b", raw).unwrap()),
            _ => drop(tree.remove("host/a").unwrap()),
        }
        tree.flush().unwrap();
        drop((tree, place));
        assert!(refusal(dir.path()).contains("do not add up"), "{edit}");
    }
}

#[test]
fn a_store_that_is_truncated_zeroed_or_flipped_does_not_open_as_something_else() {
    for damage in ["truncate", "zero", "flip", "empty"] {
        let dir = tempfile::tempdir().unwrap();
        store_with_one_host(dir.path());
        let log = dir.path().join("store/db");
        let mut bytes = std::fs::read(&log).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        match damage {
            "truncate" => bytes.truncate(used / 2),
            "zero" => bytes.fill(0),
            "flip" => {
                let at = find(&bytes, b"second");
                bytes[at] ^= 1;
            }
            _ => bytes.clear(),
        }
        std::fs::write(&log, &bytes).unwrap();
        let said = refusal(dir.path());
        assert!(said.contains("store accept"), "{damage}: {said}");
    }
}

#[test]
fn a_lost_watermark_is_noticed_and_accepting_brings_the_store_back() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_host(dir.path());
    std::fs::remove_file(dir.path().join("watermark")).unwrap();
    assert!(refusal(dir.path()).contains("watermark"));
    let (db, what) = SledDb::accept(dir.path(), 1).unwrap();
    assert!(what.contains("taken as it is"), "{what}");
    assert_eq!(db.get("host/a").unwrap().unwrap().value, b"second");
    // A crash here, before the caller has closed the orders in it, leaves it untrusted.
    drop(db);
    refusal(dir.path());
    let (mut db, _) = SledDb::accept(dir.path(), 1).unwrap();
    db.commit(&[]).unwrap();
    drop(db);
    SledDb::open(dir.path()).unwrap();
}

#[test]
fn a_store_that_cannot_be_read_is_set_aside_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_host(dir.path());
    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("store"), b"not a directory").unwrap();
    let (db, what) = SledDb::accept(dir.path(), 77).unwrap();
    assert!(what.contains("store.broken-77"), "{what}");
    assert!(dir.path().join("store.broken-77").exists());
    assert!(db.get("host/a").unwrap().is_none());
    let mut db = db;
    db.commit(&[]).unwrap();
    drop(db);
    SledDb::open(dir.path()).unwrap();
}

#[test]
fn a_backup_of_long_ago_is_brought_back_by_one_accept() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let backup = dir.path().join("backup");
    store_with_one_host(dir.path());
    copy_dir(&store, &backup);
    let mut db = SledDb::open(dir.path()).unwrap();
    for number in 0..9u8 {
        db.commit(&[put("host/a", &[number])]).unwrap();
    }
    drop(db);
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&backup, &store).unwrap();
    refusal(dir.path());
    SledDb::accept(dir.path(), 1).unwrap().0.commit(&[put("host/b", b"held")]).unwrap();
    let db = SledDb::open(dir.path()).unwrap();
    assert_eq!(db.get("host/a").unwrap().unwrap().value, b"second");
    assert_eq!(db.scan("host/").unwrap().len(), 2);
}

/// faults.md O6: an older regild on a newer store. Nobody may talk it into that.
#[test]
fn a_store_of_another_form_is_refused_and_cannot_be_accepted() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_host(dir.path());
    let db = SledDb::open(dir.path()).unwrap();
    let mut raw = db.meta.encode();
    raw[8..16].copy_from_slice(&(FORM_VERSION + 1).to_le_bytes());
    db.tree.insert(META_KEY, raw).unwrap();
    drop(db);
    for _ in 0..2 {
        assert!(matches!(SledDb::open(dir.path()), Err(DbError::WrongVersion { found: 2, known: 1, .. })));
        assert!(matches!(SledDb::accept(dir.path(), 1), Err(DbError::WrongVersion { .. })));
        // Without its watermark it is still another form, and not one to be taken as it is.
        std::fs::write(dir.path().join("watermark"), b"").unwrap();
    }
}

/// What lies in a directory of its own (`blobs`) is not covered by the fdatasync of the log.
#[test]
fn whatever_is_committed_lies_in_the_log_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = SledDb::open(dir.path()).unwrap();
    for round in 0..12u8 {
        for host in 0..40 {
            db.commit(&[put(&format!("host/h-5254000000{host:02}"), &vec![round; VALUE_BYTES_MAX])]).unwrap();
        }
    }
    drop(db);
    let db = SledDb::open(dir.path()).unwrap();
    assert_eq!(db.scan("host/").unwrap().len(), 40);
    let blobs = std::fs::read_dir(dir.path().join("store/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled keeps pages as files of their own");
}

/// The store of a first start that was cut between its two files.
#[test]
fn a_first_start_that_was_cut_before_its_watermark_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledDb::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("watermark"), b"").unwrap();
    SledDb::open(dir.path()).unwrap().commit(&[put("host/a", b"1")]).unwrap();
    // From the first acknowledged record on, a missing watermark is a loss.
    std::fs::write(dir.path().join("watermark"), b"").unwrap();
    assert!(refusal(dir.path()).contains("watermark"));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).rposition(|window| window == needle).expect("the value lies in the log as it is")
}
