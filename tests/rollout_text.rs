//! What `regild rollout start --dry-run` prints, as golden text under tests/golden/. To redo it after a change that is
//! meant: `REGILD_GOLDEN=redo cargo test --test rollout_text`, then read the difference before it is committed.

use regild::decide::group::Check;
use regild::decide::host::ImageChoice;
use regild::decide::rollout::plan::{Candidate, Gate, Goal, Plan, Request, WaveSize};
use regild::decide::rollout::{make, text};
use std::path::Path;

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("REGILD_GOLDEN").as_deref() == Ok("redo") {
        std::fs::write(&path, text).expect("the golden text can be written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let how = "REGILD_GOLDEN=redo cargo test --test rollout_text";
    assert!(known == text, "{} differs; redo it with `{how}`. It is now:\n{text}", path.display());
}

fn image(name: &str) -> ImageChoice {
    // A digest as they look, from the name.
    let manifest = name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().repeat(4);
    ImageChoice { name: name.to_owned(), manifest }
}

/// Eleven hosts in three racks: one held, one there already, one that failed halfway, one without rack or name.
fn candidates() -> Vec<Candidate> {
    let host = |number: usize| Candidate {
        id: format!("h-5254000000{number:02x}"),
        name: Some(format!("web-{number}")),
        spread: Some(format!("r{}", number % 3 + 1)),
        reported: Some(image("debian:12.4")),
        whole: true,
        excluded: None,
        fetch_bytes: (37 << 20) + (number as u64) * 100_000,
    };
    let mut hosts: Vec<Candidate> = (1..=11).map(host).collect();
    hosts[2].excluded = Some("held by bob: disk swap".to_owned());
    hosts[4].reported = Some(image("debian:12.5"));
    hosts[6].whole = false;
    hosts[6].fetch_bytes = 254_017_536;
    hosts[8] = Candidate { name: None, spread: None, reported: None, fetch_bytes: 254_017_536, ..hosts[8].clone() };
    hosts
}

fn request(goal: Goal) -> Request {
    Request {
        selector: "group=compute,role=web".to_owned(),
        goal,
        by: "ann".to_owned(),
        reason: "monthly patch".to_owned(),
        canary: 1,
        waves: vec![WaveSize::Hosts(2), WaveSize::Percent(50)],
        spread_percent: 50,
        spread: "rack".to_owned(),
        failures_max: 1,
        gate: Gate {
            confirmed: true,
            check: Some(Check::Http { url: "http://{address}:8080/health".to_owned() }),
            soak_seconds: 900,
            health_seconds: Gate::HEALTH_SECONDS,
        },
    }
}

fn rollout() -> Plan {
    let request = request(Goal::Image(image("debian:12.5")));
    make::plan(7, &request, &candidates(), None, 0).expect("the request can be planned")
}

/// Issue: `--dry-run` prints exactly which host would be rewritten when, in which order, with how many bytes.
#[test]
fn a_dry_run_names_every_host_its_wave_its_bytes_and_who_is_left_out() {
    let plan = rollout();
    let text = text::text(&plan);
    for host in candidates() {
        assert_eq!(text.matches(&host.id).count(), 1, "{} has exactly one line", host.id);
    }
    golden("rollout-dry-run.txt", &text);
}

#[test]
fn a_dry_run_of_a_rollback_names_what_each_host_gets_back() {
    let of = rollout();
    let mut hosts = candidates();
    for host in hosts.iter_mut().take(4) {
        host.reported = Some(image("debian:12.5"));
    }
    let request = Request { failures_max: 0, canary: 0, ..request(Goal::Former { of: 7 }) };
    let back = make::rollback(8, &request, &of, &hosts, |_| None, 0).expect("the rollback can be planned");
    golden("rollout-rollback.txt", &text::text(&back));
}

#[test]
fn when_there_is_nothing_to_do_the_dry_run_says_so() {
    let mut hosts = candidates();
    hosts.truncate(2);
    let plan = make::plan(9, &request(Goal::Image(image("debian:12.4"))), &hosts, None, 0).expect("an empty plan");
    golden("rollout-nothing.txt", &text::text(&plan));
}
