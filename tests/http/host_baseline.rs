//! The list of an image's files, from a host whose kernel reads what the server cannot: who is asked, who is believed,
//! and what stays. That the deploy environment then really makes it is shown in `xfs_road`.

use std::process::Command;

use regild::decide::drift::finding::{Kind, Node};
use regild::wire::agent::{BaselineAnswer, BaselineHead, DiskId, Event, PROTOCOL, ReportAnswer};
use regild::wire::baseline::{Entry, Header, Known, Origin, Volume, Writer};
use serde_json::{Value, json};

use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT, STRANGER};
use crate::raw::Answer;

const BASELINE: &str = "/agent/v1/baseline";
const OS_RELEASE: &str = "ID=rocky\nVERSION_ID=9\n";

/// A golden image as xfs.
fn import(lab: &Lab) {
    let file = lab.path("image.raw");
    std::fs::File::create(&file).unwrap().set_len(320 << 20).unwrap();
    assert!(Command::new("mkfs.xfs").arg("-q").arg(&file).status().expect("xfsprogs is there").success());
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", IMAGE]);
    assert_eq!(shown(lab)["state"], "needs_host");
}

fn shown(lab: &Lab) -> Value {
    lab.json(&["image", "baseline", IMAGE])
}

/// Plays the machine's part of an order up to the word that the image is on its disk; whether it is asked for the list.
fn is_written(lab: &Lab, machine: &Machine, session: &str) -> Option<u64> {
    let orders = machine.orders(lab);
    assert_eq!(machine.say(lab, CHECK_IN, &machine.check_in(&orders, session)).status, 200);
    says_written(lab, machine, session)
}

fn says_written(lab: &Lab, machine: &Machine, session: &str) -> Option<u64> {
    let disk = DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 << 30 };
    let answer = machine.say(lab, REPORT, &machine.report(1, session, Event::Verified { disk }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice::<ReportAnswer>(&answer.body).unwrap().baseline_seconds
}

fn head(machine: &Machine, session: &str) -> BaselineHead {
    BaselineHead {
        protocol: PROTOCOL,
        host: machine.host.clone(),
        generation: 1,
        session: session.to_owned(),
        os_release: Some(OS_RELEASE.to_owned()),
        failed: None,
    }
}

fn body(head: &BaselineHead, list: &[u8]) -> Vec<u8> {
    [&serde_json::to_vec(head).unwrap(), &b"\n"[..], list].concat()
}

fn brings(lab: &Lab, machine: &Machine, head: &BaselineHead, list: &[u8]) -> Answer {
    lab.from(machine.address).ask("POST", BASELINE, &body(head, list))
}

fn answer(answer: &Answer) -> BaselineAnswer {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A list of two files, as `host` makes it.
fn list(image: &str, host: &str, content: &str) -> Vec<u8> {
    let known = Known::Files;
    let root = Volume { partition: 0, format: "xfs".into(), mounted_at: Some("/".into()), known };
    let origin = Origin::Host { id: host.to_owned(), at: 5 };
    let header = Header { image: image.to_owned(), origin, volumes: vec![root] };
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    let file =
        |text: &str| Kind::File { bytes: text.len() as u64, digest: Some(*blake3::hash(text.as_bytes()).as_bytes()) };
    for (path, kind) in [
        ("/", Kind::Directory),
        ("/usr", Kind::Directory),
        ("/usr/lib", Kind::Directory),
        ("/usr/lib/os-release", file(OS_RELEASE)),
        ("/usr/sshd", file(content)),
    ] {
        let node = Node { kind, mode: 0o755, uid: 0, gid: 0, modified: 7, xattrs: Vec::new() };
        writer.add(Entry { path: path.into(), node }).unwrap();
    }
    writer.finish().unwrap().0
}

/// Promises: the first host that has the image on its disk is asked, no other one at that time; only its session is
/// heard, from its own address, and only once its deploy is over; a list of something else or of another host is not
/// taken, and the reason stands where people look; the first good one is the image's, marked, and stays when another
/// host says otherwise.
#[test]
fn the_first_host_of_an_image_tells_its_files_and_nobody_else_does() {
    let lab = Lab::new();
    import(&lab);
    let image = shown(&lab)["manifest"].as_str().unwrap().to_owned();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| Machine::approved(&lab, number));

    // Nobody was asked yet, though an order is open.
    let orders = first.orders(&lab);
    assert_eq!(first.say(&lab, CHECK_IN, &first.check_in(&orders, "s-1")).status, 200);
    assert_eq!(brings(&lab, &first, &head(&first, "s-1"), &list(&image, &first.host, "v1")).status, 401);
    let seconds = says_written(&lab, &first, "s-1").expect("the first is asked");
    assert!((60..=600).contains(&seconds), "{seconds}");
    assert!(says_written(&lab, &first, "s-1").is_some(), "the answer was lost");
    assert_eq!(says_written(&lab, &first, "thief"), None, "a word of success is believed, and opens nothing");
    assert_eq!(is_written(&lab, &second, "s-2"), None, "one at a time");

    for (machine, head) in
        [(&first, head(&first, "thief")), (&second, head(&second, "s-2")), (&second, head(&first, "s-1"))]
    {
        assert_eq!(brings(&lab, machine, &head, &list(&image, &first.host, "v1")).status, 401, "{head:?}");
    }
    let of_another = BaselineHead { generation: 2, ..head(&first, "s-1") };
    assert_eq!(brings(&lab, &first, &of_another, b"").status, 401);
    let old = BaselineHead { protocol: PROTOCOL - 1, ..head(&first, "s-1") };
    assert_eq!(brings(&lab, &first, &old, b"").status, 426);

    // Its kernel could not: the deploy is none the worse, people read why, and the next one is asked.
    let failed = BaselineHead { failed: Some("the log is\x1b[2J dirty".into()), ..head(&first, "s-1") };
    assert!(!answer(&brings(&lab, &first, &failed, b"")).taken);
    let needs = shown(&lab);
    let reason = needs["reason"].as_str().unwrap();
    assert!(
        needs["state"] == "needs_host" && reason.ends_with(&format!("tried on {}: the log is[2J dirty", first.host)),
        "{needs}"
    );
    assert_eq!(lab.host(&first)["state"], "rebooting");

    assert!(is_written(&lab, &third, "s-3").is_some());
    let wrong = [list("0", &third.host, "v1"), list(&image, &first.host, "v1"), b"no list".to_vec()];
    assert!(!answer(&brings(&lab, &third, &head(&third, "s-3"), &wrong[0])).taken);
    assert!(shown(&lab)["reason"].as_str().unwrap().contains(&format!("tried on {}: it is of image 0", third.host)));
    for bytes in &wrong[1..] {
        assert!(!answer(&brings(&lab, &third, &head(&third, "s-3"), bytes)).taken);
    }

    assert!(is_written(&lab, &fourth, "s-4").is_some());
    let good = list(&image, &fourth.host, "v1");
    assert!(answer(&brings(&lab, &fourth, &head(&fourth, "s-4"), &good)).taken);
    assert!(answer(&brings(&lab, &fourth, &head(&fourth, "s-4"), &good)).taken, "its answer was lost");
    let ready = shown(&lab);
    let origin = format!("host {}", fourth.host);
    assert_eq!((&ready["state"], &ready["origin"], &ready["entries"]), (&"ready".into(), &origin.into(), &5.into()));
    // Another host that tells something else: refused, and told of.
    let answer_of_third = answer(&brings(&lab, &third, &head(&third, "s-3"), &list(&image, &third.host, "evil")));
    assert!(!answer_of_third.taken && answer_of_third.reason.unwrap().contains("/usr/sshd"));
    assert!(lab.log().contains("a host tells other files of an image: not taken"));
    assert!(
        answer(&brings(&lab, &third, &head(&third, "s-3"), &list(&image, &third.host, "v1"))).taken,
        "the same is no news"
    );
    assert_eq!(shown(&lab), ready);

    // Whoever runs the image is compared with it, by the rules of its distribution.
    let asked = json!({ "image": IMAGE, "up_seconds": 9, "uefi": true });
    assert_eq!(second.say(&lab, crate::standby::STANDBY, &asked).status, 200);
    let terms = lab.from(second.address).get("/agent/v1/drift/terms").json();
    assert_eq!(terms["baseline"], ready["digest"], "{terms}");
    let fifth = Machine::approved(&lab, 5);
    assert_eq!(is_written(&lab, &fifth, "s-5"), None, "it is known");
}

/// A host's first word stays, unless a person who knows better has it forgotten: the next host is asked then. What a host
/// says once counts and is noted, and what it says after that is only answered.
#[test]
fn a_baseline_that_is_forgotten_is_asked_of_the_next_host() {
    let lab = Lab::new();
    import(&lab);
    let image = shown(&lab)["manifest"].as_str().unwrap().to_owned();
    let [first, second] = [1, 2].map(|number| Machine::approved(&lab, number));
    assert!(is_written(&lab, &first, "s-1").is_some());
    assert!(answer(&brings(&lab, &first, &head(&first, "s-1"), &list(&image, &first.host, "wrong"))).taken);
    assert_eq!(lab.json(&["image", "baseline", IMAGE, "--forget"])["state"], "needs_host");
    assert!(is_written(&lab, &second, "s-2").is_some());
    let says = |why: &str| {
        let failed = BaselineHead { failed: Some(why.into()), ..head(&second, "s-2") };
        assert!(!answer(&brings(&lab, &second, &failed, b"")).taken);
        shown(&lab)["reason"].as_str().unwrap().to_owned()
    };
    let noted = says("no module");
    assert!(noted.ends_with("no module"), "{noted}");
    assert_eq!(says("something else"), noted);
}

/// What comes as a baseline and is none: an answer, and the server goes on.
#[test]
fn what_is_no_baseline_is_refused_before_it_costs_anything() {
    let lab = Lab::new();
    import(&lab);
    let machine = Machine::approved(&lab, 1);
    assert!(is_written(&lab, &machine, "s-1").is_some());
    let from = || lab.from(machine.address);
    for (bytes, status) in [
        (b"".to_vec(), 400),
        (b"{}\n".to_vec(), 400),
        (vec![b' '; 200 << 10], 400),
        (serde_json::to_vec(&head(&machine, "s-1")).unwrap(), 400),
    ] {
        assert_eq!(from().ask("POST", BASELINE, &bytes).status, status);
    }
    assert_eq!(lab.from(STRANGER).ask("POST", BASELINE, &body(&head(&machine, "x"), b"")).status, 401);
    // Cut on its way: nothing is taken, and it may come again.
    let list = list(shown(&lab)["manifest"].as_str().unwrap(), &machine.host, "v1");
    let whole = body(&head(&machine, "s-1"), &list);
    let mut connection = from();
    connection.head(&[
        &format!("POST {BASELINE} HTTP/1.1"),
        "Host: regild",
        &format!("Content-Length: {}", whole.len()),
    ]);
    connection.send(&whole[..whole.len() - 20]);
    drop(connection);
    assert_eq!(shown(&lab)["state"], "needs_host");
    assert!(answer(&from().ask("POST", BASELINE, &whole)).taken);
}
