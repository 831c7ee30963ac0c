//! S5 and S6 on the real server: a store that it must not use ends it, with words for the person who must act; and
//! what `regild store accept` makes of such a store writes no disk.

use serde_json::Value;

use crate::client::{Answer, Attempt, Door};
use crate::life::{Life, Op};
use crate::site::Site;
use crate::wire::Wire;

/// A running server and an operator, with one host.
struct Story {
    site: Site,
    door: Wire,
    life: Life,
    attempt: Option<Attempt>,
}

impl Story {
    fn begin() -> Story {
        let mut site = Site::new();
        site.start();
        let door = Wire { operators: site.state().join("regild.sock") };
        let mut story = Story { site, door, life: Life::unborn(0), attempt: None };
        story.go(&[Op::Lease(1), Op::Script, Op::Approve, Op::Script, Op::CheckIn, Op::Target, Op::WriteBody]);
        story
    }

    fn go(&mut self, ops: &[Op]) {
        for op in ops {
            let answer = self.door.perform(&self.life, *op, self.attempt.as_ref());
            match answer.unwrap_or_else(|broken| panic!("{op:?}: {broken:?}")) {
                Answer::Agent(attempt) => self.attempt = Some(attempt),
                Answer::Local => assert!(!self.life.may_be_written(), "a local boot under an open order"),
                _ => {}
            }
            self.life.apply(*op);
        }
    }

    fn hosts(&self) -> Vec<Value> {
        let hosts = self.door.hosts().unwrap_or_else(|broken| panic!("{broken:?}"));
        hosts.as_array().cloned().unwrap_or_default()
    }

    /// What the machine gets when it netboots now.
    fn boots_its_own_disk(&mut self) {
        let answer = self.door.perform(&self.life, Op::Lease(2), None);
        assert!(answer.is_ok(), "{answer:?}");
        let answer = self.door.perform(&self.life, Op::Script, None);
        assert!(matches!(answer, Ok(Answer::Local)), "{answer:?}");
    }

    /// `regild store accept`, which must succeed: what it printed.
    fn accept(&self) -> String {
        let output = self.site.regild(&["store", "accept", "--config", "regild.toml"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn must_be_refused(&self, place: &str) {
        let said = self.site.refused_start();
        assert!(said.contains("is not what was acknowledged"), "{place}: {said}");
        assert!(said.contains("`regild store accept --config FILE`"), "{place}: {said}");
        assert!(!self.site.state().join("regild.sock").exists(), "{place}: it spoke to operators");
    }
}

/// S6. The first one does not even notice.
#[test]
fn a_second_server_and_store_accept_are_turned_away_while_one_runs() {
    let mut story = Story::begin();
    let said = story.site.refused_start();
    assert!(said.contains("is in use by another regild; stop that one first"), "{said}");
    let accept = story.site.regild(&["store", "accept", "--config", "regild.toml"]);
    assert_eq!(accept.status.code(), Some(1));
    let said = String::from_utf8_lossy(&accept.stderr);
    assert!(said.contains("is in use by another regild"), "{said}");
    assert_eq!(story.hosts()[0]["state"], "deploying");
    story.go(&[Op::VerifyBody, Op::Verified]);
}

/// S5 and R4, the dangerous one: in yesterday's backup the order of a machine that was finished since is open.
#[test]
fn a_backup_in_which_a_finished_order_is_open_wipes_nothing() {
    let mut story = Story::begin();
    story.site.stop();
    let backup = story.site.path("backup");
    story.site.copy_state(&backup);
    story.site.start();
    story.go(&[Op::VerifyBody, Op::Verified, Op::Script, Op::Installed, Op::Reimage(1), Op::Hold(2), Op::Release]);
    story.site.stop();

    std::fs::remove_dir_all(story.site.state().join("store")).unwrap();
    story.must_be_refused("no store");
    std::fs::rename(backup.join("store"), story.site.state().join("store")).unwrap();
    story.must_be_refused("yesterday's store");
    story.must_be_refused("a refused start changes nothing");
    let said = story.accept();
    assert!(said.contains("taken as it is") && said.contains("held, order 1 closed"), "{said}");

    story.site.start();
    let host = &story.hosts()[0];
    assert_eq!((&host["state"], &host["order"]), (&"held".into(), &Value::Null), "{host}");
    story.boots_its_own_disk();
    story.site.stop();
    story.site.start();
    assert_eq!(story.hosts()[0]["state"], "held");
}

/// S5. No order survives, and what does not even open is kept.
#[test]
fn a_damaged_store_is_refused_and_once_accepted_orders_nothing() {
    for damage in ["truncated", "zeroed", "flipped", "emptied", "unreadable"] {
        let mut story = Story::begin();
        story.site.stop();
        let log = story.site.state().join("store/db");
        let mut bytes = std::fs::read(&log).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        match damage {
            "truncated" => bytes.truncate(used / 2),
            "zeroed" => bytes.fill(0),
            "flipped" => bytes[..used].iter_mut().step_by(1000).for_each(|byte| *byte ^= 0x10),
            "emptied" => bytes.clear(),
            _ => std::fs::write(story.site.state().join("store/conf"), "segment_size: many\n").unwrap(),
        }
        std::fs::write(&log, &bytes).unwrap();
        story.must_be_refused(damage);
        let said = story.accept();
        let aside = std::fs::read_dir(story.site.state()).unwrap().flatten();
        let aside = aside.filter(|entry| entry.file_name().to_string_lossy().starts_with("store.broken-")).count();
        assert_eq!(aside, usize::from(damage == "unreadable"), "{damage}: {said}");
        story.site.start();
        for host in story.hosts() {
            assert_eq!(host["order"], Value::Null, "{damage}: {said}{host}");
        }
        story.boots_its_own_disk();
    }
}
