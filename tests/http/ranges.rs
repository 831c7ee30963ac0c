//! H4: ranges of a pack, as the agent asks for them and as nobody should.

use regild::wire::manifest::{Manifest, to_hex};

use crate::lab::{IMAGE, Lab, STRANGER};

/// H4: the right bytes, or 416 with the reason; never other bytes than were asked for.
#[test]
fn h4_a_range_gets_its_bytes_or_416() {
    let lab = Lab::new();
    lab.import_image();
    let mut connection = lab.from(STRANGER);
    let digest = connection.get(&format!("/images/refs/{IMAGE}")).json()["manifest"].as_str().unwrap().to_owned();
    let manifest = Manifest::decode(&connection.get(&format!("/images/manifests/{digest}")).body, None).unwrap();
    let id = to_hex(&manifest.packs[0]);
    let pack = std::fs::read(lab.path("state/images/packs").join(format!("{id}.pack"))).unwrap();
    let path = format!("GET /images/packs/{id} HTTP/1.1");
    let mut ask = |range: &str| {
        connection.head(&[&path, "Host: regild", &format!("Range: {range}")]);
        connection.answer()
    };
    let length = pack.len();
    let good = [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=0-".to_owned(), 0, length - 1),
        (format!("bytes=0-{}", length - 1), 0, length - 1),
        ("bytes=4095-4097".to_owned(), 4095, 4097),
        (format!("bytes={}-", length - 1), length - 1, length - 1),
        // Cut at the end, as RFC 9110 section 14.1.2 has it.
        (format!("bytes=10-{}", length * 2), 10, length - 1),
        ("bytes=-5".to_owned(), length - 5, length - 1),
    ];
    for (range, first, last) in good {
        let answer = ask(&range);
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == pack[first..=last], "{range}: other bytes");
        assert_eq!(answer.header("content-range").unwrap(), format!("bytes {first}-{last}/{length}"), "{range}");
    }
    let many = (0..1000).map(|at| format!("{}-{}", at * 2, at * 2 + 3)).collect::<Vec<_>>().join(",");
    let bad = [
        "bytes=9-0".to_owned(),
        format!("bytes={length}-"),
        format!("bytes={length}-{}", length + 10),
        "bytes=-0".to_owned(),
        "bytes=-".to_owned(),
        "bytes=".to_owned(),
        "bytes=0".to_owned(),
        "bytes=0-1,1-2".to_owned(),
        format!("bytes={many}"),
        "bytes=0-0x10".to_owned(),
        "bytes=a-b".to_owned(),
        "bytes=18446744073709551616-".to_owned(),
        "bytes=0-\u{fe}".to_owned(),
    ];
    for range in bad {
        let answer = ask(&range);
        let shown: String = range.chars().take(40).collect();
        assert_eq!(answer.status, 416, "{shown}");
        assert!(answer.error().contains(&format!("this file has {length} bytes")), "{shown}: {answer:?}");
    }
    // Units that nobody knows are passed over (RFC 9110 section 14.2).
    for range in ["items=0-5", "0-5"] {
        let answer = ask(range);
        assert!(answer.status == 200 && answer.body == pack, "{range}");
    }
    // Without a range it is the whole pack; and the connection was good for all of this.
    assert!(connection.get(&format!("/images/packs/{id}")).body == pack);
    lab.is_well();
}
