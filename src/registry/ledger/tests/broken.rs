//! faults.md X8: a ledger that was cut or edited is noticed, and the first number at which it breaks is named.

use super::*;
use proptest::prelude::*;

fn named(kept: &Kept, number: u64, why: Why) {
    assert_eq!(kept.verify(), Err(Broken { number, why }));
}

/// Takes the entry at `number` apart and puts it back with other content but everything else as it was: the best that
/// somebody can do who edits one entry.
fn edited(kept: &Kept, number: u64, edit: impl FnOnce(&mut Fact)) -> Vec<u8> {
    let entry = read_entry(&kept.db, number).unwrap();
    let mut fact = entry.fact;
    edit(&mut fact);
    let place = entry::Place { number, at: entry.at, before: entry.before, runs: entry.runs };
    entry::encode(&fact, &place, Tip { number: 0, digest: entry.previous })
}

#[test]
fn an_edited_entry_is_named() {
    for number in 1..=12 {
        let mut kept = Kept::twelve();
        let raw = edited(&kept, number, |fact| fact.reason = "something else".into());
        kept.write(vec![(key(number), Some(raw))]);
        let why = if number == 12 { Why::NotWhatTipSays } else { Why::NotWhatNextSays };
        named(&kept, number, why);
    }
    // Who did it, on whose word, and which image: every field counts.
    let edits: [fn(&mut Fact); 6] = [
        |fact| fact.by = "mallory".into(),
        |fact| fact.image = image("evil:1"),
        |fact| fact.former = None,
        |fact| fact.causes = vec![CauseKind::Drift],
        |fact| fact.generation += 1,
        |fact| fact.macs.clear(),
    ];
    for edit in edits {
        let mut kept = Kept::twelve();
        let raw = edited(&kept, 5, edit);
        kept.write(vec![(key(5), Some(raw))]);
        named(&kept, 5, Why::NotWhatNextSays);
    }
}

#[test]
fn a_cut_in_the_middle_and_a_cut_at_the_end_are_named() {
    for number in 1..=12 {
        let mut kept = Kept::twelve();
        kept.write(vec![(key(number), None)]);
        named(&kept, number, Why::Missing);
    }
    let mut kept = Kept::twelve();
    kept.write((9..=12).map(|number| (key(number), None)).collect());
    named(&kept, 9, Why::Missing);
    // With an older tip put in place of the newest, the entries after it tell.
    let mut kept = Kept::twelve();
    let eight = Tip { number: 8, digest: digest(&kept.raw(&key(8)).unwrap()) };
    kept.write(vec![(TIP_KEY.into(), Some(entry::pack(&eight)))]);
    named(&kept, 9, Why::AfterTip);
    // And with those cut as well, the index of their hosts.
    kept.write((9..=12).map(|number| (key(number), None)).collect());
    assert!(matches!(kept.verify(), Err(Broken { why: Why::WrongIndex { .. }, .. })));
}

#[test]
fn entries_that_change_places_are_named() {
    let mut kept = Kept::twelve();
    let (fifth, sixth) = (kept.raw(&key(5)), kept.raw(&key(6)));
    kept.write(vec![(key(5), sixth), (key(6), fifth)]);
    named(&kept, 5, Why::OtherNumber(6));
    // Numbered anew as well: then the digests do not fit.
    let mut kept = Kept::twelve();
    let renumbered = |from: u64, to: u64| {
        let entry = read_entry(&kept.db, from).unwrap();
        let place = entry::Place { number: to, at: entry.at, before: entry.before, runs: entry.runs };
        (key(to), Some(entry::encode(&entry.fact, &place, Tip { number: 0, digest: entry.previous })))
    };
    let swapped = vec![renumbered(5, 6), renumbered(6, 5)];
    kept.write(swapped);
    named(&kept, 4, Why::NotWhatNextSays);
}

#[test]
fn an_entry_that_was_put_between_is_named() {
    let mut kept = Kept::twelve();
    // A new fifth entry that fits its predecessor; all later ones move up and keep what they hold.
    let previous = Tip { number: 4, digest: digest(&kept.raw(&key(4)).unwrap()) };
    let place = entry::Place { number: 5, at: 5 * DAY, before: 4, runs: None };
    let mut writes =
        vec![(key(5), Some(entry::encode(&ordered(2, "evil:1", 9, CauseKind::Operator), &place, previous)))];
    for number in 5..=12 {
        let entry = read_entry(&kept.db, number).unwrap();
        let at = entry.at;
        let place = entry::Place { number: number + 1, at, before: entry.before, runs: entry.runs };
        let raw = entry::encode(&entry.fact, &place, Tip { number: 0, digest: entry.previous });
        writes.push((key(number + 1), Some(raw)));
    }
    kept.write(writes);
    named(&kept, 5, Why::NotWhatNextSays);
    // One that is simply added at the end, or under a key of its own making.
    let mut kept = Kept::twelve();
    kept.write(vec![(key(13), kept.raw(&key(12)))]);
    named(&kept, 13, Why::AfterTip);
    // Also where the end of the ledger is the end of what is read at once.
    let mut kept = Kept::new();
    for number in 1..=999 {
        kept.ledger.append(&kept.db, &runs(number, Some("a:1"), 1), 1).unwrap();
    }
    kept.commit();
    kept.write(vec![(key(1_000), kept.raw(&key(999)))]);
    named(&kept, 1_000, Why::AfterTip);
    for stray in ["ledger/0000000005x", "ledger/00000000051", "ledger/0000000000"] {
        let mut kept = Kept::twelve();
        kept.write(vec![(stray.into(), Some(Vec::new()))]);
        let number = if stray.ends_with("0000000000") { 1 } else { 6 };
        named(&kept, number, Why::Stray(stray.into()));
    }
}

/// Queries follow the index, so an index that hides the last change would hide it from every answer.
#[test]
fn an_index_that_leads_elsewhere_is_named() {
    for wrong in [None, Some(Head { last: 4, runs: 4, empty: false, generation: 1 }), Some(Head::default())] {
        let mut kept = Kept::twelve();
        kept.write(vec![(head_key(&id(2)), wrong.map(|head| entry::pack(&head)))]);
        named(&kept, 10, Why::WrongIndex { host: id(2) });
    }
    let mut kept = Kept::twelve();
    kept.write(vec![(head_key(&id(99)), Some(entry::pack(&Head::default())))]);
    named(&kept, 13, Why::WrongIndex { host: id(99) });
}

/// Queries also follow the links between the entries of a host. A chain that is whole but whose links lead past an
/// entry, by a fault of ours or by art, would hide that entry.
#[test]
fn links_that_lead_past_an_entry_are_named() {
    for (number, links) in [
        (7, entry::Place { number: 7, at: 7 * DAY, before: 1, runs: None }),
        (8, entry::Place { number: 8, at: 8 * DAY, before: 7, runs: Some(links::next(None, None)) }),
    ] {
        let mut kept = Kept::twelve();
        let mut last = Tip { number: number - 1, digest: read_entry(&kept.db, number).unwrap().previous };
        let mut writes = Vec::new();
        for at in number..=12 {
            let entry = read_entry(&kept.db, at).unwrap();
            let own = entry::Place { number: at, at: entry.at, before: entry.before, runs: entry.runs };
            let raw = entry::encode(&entry.fact, if at == number { &links } else { &own }, last);
            last = Tip { number: at, digest: digest(&raw) };
            writes.push((key(at), Some(raw)));
        }
        writes.push((TIP_KEY.into(), Some(entry::pack(&last))));
        kept.write(writes);
        named(&kept, number, Why::WrongLinks);
    }
}

/// What the chain alone cannot show: somebody writes all of it anew, tip and index too.
#[test]
fn a_ledger_that_was_rewritten_as_a_whole_is_only_shown_by_a_tip_that_was_noted_elsewhere() {
    let kept = Kept::twelve();
    let noted = kept.ledger.tip().to_string();
    let mut forged = Kept::new();
    find(&kept.db, kept.ledger.tip(), &Filter::default(), |entry, _| {
        let mut fact = entry.fact.clone();
        if entry.number == 7 {
            fact.by = "somebody else".into();
        }
        forged.ledger.append(&forged.db, &fact, entry.at).unwrap();
    })
    .unwrap();
    forged.commit();
    forged.add(&runs(4, Some("a:1"), 1), 13 * DAY);
    assert_eq!(forged.verify().unwrap().number, 13, "the chain itself holds");
    let against = |db: &SledDb, noted: &str| match verify(db, Some(noted.parse().unwrap())) {
        Err(VerifyError::Broken(broken)) => Err(broken),
        other => Ok(other.unwrap().tip.number),
    };
    assert_eq!(against(&forged.db, &noted), Err(Broken { number: 12, why: Why::NotWhatWasNoted }));
    assert_eq!(against(&kept.db, &noted), Ok(12));
    // A tip of last week holds as long as the ledger grew and did not change.
    let six = Tip { number: 6, digest: digest(&kept.raw(&key(6)).unwrap()) }.to_string();
    assert_eq!(against(&kept.db, &six), Ok(12));
    assert_eq!(against(&forged.db, &six), Ok(13), "the forgery began after it");
    assert_eq!(against(&kept.db, &Tip::empty().to_string()), Ok(12));
    assert_eq!(
        against(&kept.db, &format!("0{}", &Tip::empty().to_string()[1..].replace('a', "b"))).map_err(|b| b.number),
        Err(0)
    );
    // Cut neatly and put back from an old copy: sound in itself.
    let mut old = Kept::new();
    find(&kept.db, kept.ledger.tip(), &Filter::default(), |entry, _| {
        if entry.number <= 9 {
            old.ledger.append(&old.db, &entry.fact, entry.at).unwrap();
        }
    })
    .unwrap();
    old.commit();
    assert_eq!(old.verify().unwrap().number, 9);
    assert_eq!(against(&old.db, &noted), Err(Broken { number: 10, why: Why::EndsBeforeNoted { noted: 12 } }));
}

#[test]
fn a_tip_can_be_written_down_and_typed_again() {
    let tip = Kept::twelve().ledger.tip();
    assert_eq!(format!(" {tip}\n").parse(), Ok(tip));
    for wrong in ["", "12", "12:", "x:00", "-1:00", &format!("12:{}", "0".repeat(63)), &"9".repeat(500)] {
        let said = wrong.parse::<Tip>().expect_err(wrong);
        assert!(said.contains("is no tip") && said.len() < 200, "{said}");
    }
}

#[test]
fn a_writer_that_starts_hears_of_a_broken_end_and_does_not_begin_anew_without_a_tip() {
    let mut kept = Kept::twelve();
    let raw = edited(&kept, 12, |fact| fact.by = "mallory".into());
    kept.write(vec![(key(12), Some(raw))]);
    let (mut ledger, broken) = Ledger::open(&kept.db).unwrap();
    assert_eq!(broken, Some(Broken { number: 12, why: Why::NotWhatTipSays }));
    // What is added after the break is chained to what was there before it: the break stays where it is.
    ledger.append(&kept.db, &runs(3, Some("a:3"), 3), 13 * DAY).unwrap();
    kept.write(ledger.take_writes());
    named(&kept, 12, Why::NotWhatNextSays);
    for tip in [None, Some(b"spoiled".to_vec())] {
        let mut kept = Kept::twelve();
        kept.write(vec![(TIP_KEY.into(), tip)]);
        assert!(matches!(Ledger::open(&kept.db), Err(LedgerError::NoTip)));
        // `store accept` takes what is there.
        let mended = mend(&kept.db).unwrap().expect("the tip is lost");
        kept.write(vec![mended]);
        assert_eq!(kept.verify().unwrap().number, 12);
        assert!(mend(&kept.db).unwrap().is_none());
    }
}

#[test]
fn a_list_with_a_gap_is_never_given_as_the_whole() {
    let mut kept = Kept::twelve();
    kept.write(vec![(key(7), None)]);
    let mut seen = 0;
    let end = find(&kept.db, kept.ledger.tip(), &Filter::default(), |_, _| seen += 1);
    assert!(matches!(end, Err(LedgerError::Spoiled { key }) if key == "ledger/0000000007"));
    assert_eq!(seen, 6);
    let mut kept = Kept::twelve();
    kept.write((8..=12).map(|number| (key(number), None)).collect());
    assert!(find(&kept.db, kept.ledger.tip(), &Filter::default(), |_, _| ()).is_err());
    // A damaged link must not lead round in circles.
    let mut kept = Kept::twelve();
    let entry = read_entry(&kept.db, 8).unwrap();
    let place = entry::Place {
        number: 8,
        at: entry.at,
        before: 8,
        runs: Some(Runs { before: 8, skip: 8, ..entry.runs.unwrap() }),
    };
    let raw = entry::encode(&entry.fact, &place, Tip { number: 0, digest: entry.previous });
    kept.write(vec![(key(8), Some(raw))]);
    assert!(host_at(&kept.db, kept.ledger.tip(), &id(1), 1).is_err());
    assert!(find(&kept.db, kept.ledger.tip(), &Filter { host: Some(id(1)), ..Filter::default() }, |_, _| ()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever single byte of whatever part of it is changed, added or taken away, it shows, at the entry or at the
    /// link before it.
    #[test]
    fn no_byte_of_it_changes_unnoticed(part in 0..16usize, at in any::<prop::sample::Index>(), change in 0..3u8, bit in 0..8u8) {
        let mut kept = Kept::twelve();
        let key = match part {
            0..12 => key(part as u64 + 1),
            12..15 => head_key(&id(part as u32 - 11)),
            _ => TIP_KEY.to_string(),
        };
        let mut raw = kept.raw(&key).unwrap();
        let place = at.index(raw.len() + usize::from(change == 1));
        match change {
            0 => raw[place] ^= 1 << bit,
            1 => raw.insert(place, 1 << bit),
            _ => drop(raw.remove(place)),
        }
        if raw != kept.raw(&key).unwrap() {
            kept.write(vec![(key, Some(raw))]);
            match verify(&kept.db, None) {
                Ok(_) => prop_assert!(false, "part {} byte {} was changed unnoticed", part, place),
                Err(VerifyError::Broken(broken)) if part < 12 => {
                    let number = part as u64 + 1;
                    prop_assert!(broken.number == number || broken.number + 1 == number, "{}: {}", number, broken);
                }
                Err(_) => {}
            }
        }
    }
}
