//! What the ledger answers.

use super::*;
use crate::wire::ledger::Line;
use proptest::prelude::*;

fn ran(kept: &Kept, host: u32, time: u64) -> Option<(String, u64)> {
    let entry = host_at(&kept.db, kept.ledger.tip(), &id(host), time).unwrap()?;
    Some((entry.fact.image.map_or("nothing".to_string(), |image| image.name), entry.at))
}

#[test]
fn what_each_host_ran_at_a_time_and_since_when() {
    let mut kept = Kept::twelve();
    // Host 1 got debian:12.1 on day 2 and 12.2 on day 8.
    assert_eq!(ran(&kept, 1, 0), None);
    assert_eq!(ran(&kept, 1, 2 * DAY - 1), None, "ordered is not running");
    assert_eq!(ran(&kept, 1, 2 * DAY), Some(("debian:12.1".into(), 2 * DAY)));
    assert_eq!(ran(&kept, 1, 8 * DAY - 1), Some(("debian:12.1".into(), 2 * DAY)));
    assert_eq!(ran(&kept, 1, u64::MAX), Some(("debian:12.2".into(), 8 * DAY)));
    assert_eq!(ran(&kept, 77, u64::MAX), None);
    kept.add(&runs(1, None, 3), 20 * DAY);
    assert_eq!(ran(&kept, 1, 21 * DAY), Some(("nothing".into(), 20 * DAY)), "between the old image and the new");
    let all =
        |time| at(&kept.db, kept.ledger.tip(), time).unwrap().map(|entry| entry.unwrap().fact.host).collect::<Vec<_>>();
    assert_eq!(all(0), [""; 0]);
    assert_eq!(all(4 * DAY), [id(1), id(2)]);
    assert_eq!(all(u64::MAX), [id(1), id(2), id(3)]);
    let why = host_at(&kept.db, kept.ledger.tip(), &id(3), u64::MAX).unwrap().unwrap().fact;
    assert_eq!((why.reason.as_str(), why.by.as_str()), ("0 3 * * 0 of group web", "schedule"));
    assert_eq!(why.former, image("debian:12.3"));
}

/// The server's clock stood a year ahead for one entry. Queries for the time before must not be answered by it, and what
/// came after it must be found.
#[test]
fn a_clock_that_was_wrong_for_a_while_spoils_no_other_answer() {
    let mut kept = Kept::new();
    kept.add(&runs(1, Some("a:1"), 1), 100);
    kept.add(&runs(1, Some("a:2"), 2), 100 + 365 * DAY);
    kept.add(&runs(1, Some("a:3"), 3), 300);
    assert_eq!(ran(&kept, 1, 200), Some(("a:1".into(), 100)));
    assert_eq!(ran(&kept, 1, 300), Some(("a:3".into(), 300)));
    assert_eq!(ran(&kept, 1, u64::MAX), Some(("a:3".into(), 300)), "written last, so it runs");
}

fn numbers(kept: &Kept, filter: Filter) -> Vec<u64> {
    let mut found = Vec::new();
    find(&kept.db, kept.ledger.tip(), &filter, |entry, _| found.push(entry.number)).unwrap();
    found
}

#[test]
fn entries_are_found_by_version_by_cause_by_host_and_by_time() {
    let mut kept = Kept::twelve();
    let fact = ordered(1, "debian:13.0", 3, CauseKind::Rollout { number: 7 });
    kept.add(&Fact { causes: vec![CauseKind::Rollout { number: 7 }, CauseKind::Drift], ..fact }, 20 * DAY);
    let with = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        numbers(&kept, filter)
    };
    assert_eq!(with(|_| ()), (1..=13).collect::<Vec<_>>());
    assert_eq!(with(|f| f.image = Some("debian:12.2".into())), [7, 8, 9, 10, 11, 12]);
    assert_eq!(with(|f| f.image = image("debian:13.0").map(|image| image.manifest)), [13]);
    assert_eq!(with(|f| f.cause = Some("operator".into())), [1, 3, 5, 7, 9, 11]);
    assert_eq!(with(|f| f.cause = Some("drift".into())), [13], "a cause that joined counts");
    assert_eq!(with(|f| f.cause = Some("rollout".into())), [13]);
    assert_eq!(with(|f| f.cause = Some("rollout 7".into())), [13]);
    assert_eq!(with(|f| f.cause = Some("rollout 8".into())), [0; 0]);
    assert_eq!(with(|f| f.host = Some(id(1))), [1, 2, 7, 8, 13]);
    assert_eq!(with(|f| f.host = Some(id(9))), [0; 0]);
    assert_eq!(with(|f| f.kind = Some(Kind::Runs)), [2, 4, 6, 8, 10, 12]);
    assert_eq!(with(|f| (f.from, f.to) = (Some(3 * DAY), Some(5 * DAY))), [3, 4, 5]);
}

#[test]
fn pages_end_where_they_should() {
    let mut kept = Kept::new();
    for number in 1..=2_001u32 {
        kept.ledger.append(&kept.db, &runs(number, Some("a:1"), 1), u64::from(number)).unwrap();
        if [999, 1_000, 1_001, 2_000, 2_001].contains(&number) {
            kept.commit();
            assert_eq!(kept.verify().unwrap().number, u64::from(number));
            assert_eq!(numbers(&kept, Filter::default()), (1..=u64::from(number)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_day_means_its_start_in_utc() {
    assert_eq!(instant_of("2026-03-01"), Ok(1_772_323_200));
    assert_eq!(instant_of("2026-03-01T00:00:00Z"), Ok(1_772_323_200));
    assert_eq!(instant_of("2026-03-01T01:00:00+01:00"), Ok(1_772_323_200));
    assert_eq!(instant_of("1970-01-01"), Ok(0));
    for wrong in
        ["", "yesterday", "2026-02-30", "2026-03-01T12:00:00", "2026-3-1", "1969-12-31", "20260301", "1772323200"]
    {
        let said = instant_of(wrong).expect_err(wrong);
        assert!(said.contains("the start of that day, UTC"), "{said}");
    }
}

#[test]
fn an_export_is_the_whole_ledger_and_its_last_digest_is_the_tip() {
    let mut kept = Kept::twelve();
    let fact = Fact { reason: "=HYPERLINK(\"x\"), \"quoted\"".into(), by: "@ann".into(), ..runs(1, None, 3) };
    kept.add(&Fact { causes: vec![CauseKind::Rollout { number: 7 }, CauseKind::Drift], ..fact }, 1_772_323_200);
    let mut lines = Vec::new();
    assert_eq!(to_json_lines(&kept.db, kept.ledger.tip(), &Filter::default(), &mut lines).unwrap(), 13);
    let lines: Vec<Line> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.windows(2).all(|pair| pair[1].previous == pair[0].digest));
    let last = &lines[12];
    assert_eq!(format!("{}:{}", last.number, last.digest), kept.ledger.tip().to_string());
    assert_eq!((last.time.as_str(), last.kind.as_str()), ("2026-03-01T00:00:00Z", "runs"));
    assert_eq!((&last.image, last.former.as_deref()), (&None, Some("debian:12.3")));
    assert_eq!(last.causes, ["rollout 7", "drift"]);

    let mut text = Vec::new();
    assert_eq!(
        to_csv(&kept.db, kept.ledger.tip(), &Filter { host: Some(id(1)), ..Filter::default() }, &mut text).unwrap(),
        5
    );
    let mut csv = csv::Reader::from_reader(&text[..]);
    let header = csv.headers().unwrap().clone();
    let first = serde_json::to_value(&lines[0]).unwrap();
    let keys: Vec<&str> = header.iter().collect();
    assert_eq!(keys.len(), first.as_object().unwrap().len());
    assert!(keys.iter().all(|key| first.get(key).is_some()), "CSV and JSON name the same things");
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let cell = |row: usize, key: &str| rows[row][keys.iter().position(|known| *known == key).unwrap()].to_string();
    assert_eq!(cell(4, "reason"), "'=HYPERLINK(\"x\"), \"quoted\"", "a spreadsheet would run it");
    assert_eq!(
        (cell(4, "by"), cell(4, "causes"), cell(4, "image")),
        ("'@ann".into(), "rollout 7; drift".into(), String::new())
    );
    assert_eq!(cell(1, "image"), "debian:12.1");
}

#[test]
fn an_export_that_cannot_be_written_says_so() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let kept = Kept::twelve();
    assert!(matches!(
        to_json_lines(&kept.db, kept.ledger.tip(), &Filter::default(), &mut Full),
        Err(ExportError::Write(_))
    ));
    assert!(matches!(to_csv(&kept.db, kept.ledger.tip(), &Filter::default(), &mut Full), Err(ExportError::Write(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Against a model that reads everything: for any story, with clocks that jump as they like.
    #[test]
    fn what_a_host_ran_is_what_reading_everything_would_say(
        story in prop::collection::vec((1..4u32, 0..2u8, prop::option::of(1..4u64), 0..50u64), 1..40), asked in 0..60u64
    ) {
        let mut kept = Kept::new();
        for (host, kind, generation, at) in &story {
            let name = generation.map(|generation| format!("a:{generation}"));
            let mut fact = runs(*host, name.as_deref(), generation.unwrap_or(0));
            if *kind == 0 {
                fact.kind = Kind::Ordered;
            }
            kept.ledger.append(&kept.db, &fact, *at).unwrap();
        }
        kept.commit();
        prop_assert!(kept.verify().is_ok());
        for host in 1..4 {
            let mut model = None;
            find(&kept.db, kept.ledger.tip(), &Filter::default(), |entry, _| {
                if entry.fact.host == id(host) && entry.fact.kind == Kind::Runs && entry.at <= asked {
                    model = Some(entry.clone());
                }
            })
            .unwrap();
            prop_assert_eq!(host_at(&kept.db, kept.ledger.tip(), &id(host), asked).unwrap(), model);
        }
    }
}
