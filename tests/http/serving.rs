//! Image data as hosts get it: conditional requests, limits and whom they hold for, files that vanish or are cut short
//! while they are sent, and clients that take more than their part.

use std::io::Read;
use std::path::PathBuf;

use regild::wire::manifest::{Manifest, to_hex};

use crate::disks::MIB;
use crate::lab::{IMAGE, Lab, Machine, STRANGER};
use crate::raw::{Answer, Connection};

/// A pack that is on disk, and how it is asked for.
struct Pack {
    id: String,
    url: String,
    path: PathBuf,
    bytes: Vec<u8>,
}

fn manifest_of(lab: &Lab) -> (String, Manifest) {
    let mut connection = lab.from(STRANGER);
    let digest = connection.get(&format!("/images/refs/{IMAGE}")).json()["manifest"].as_str().unwrap().to_owned();
    let bytes = connection.get(&format!("/images/manifests/{digest}")).body;
    (digest, Manifest::decode(&bytes, None).unwrap())
}

fn pack(lab: &Lab) -> Pack {
    let id = to_hex(&manifest_of(lab).1.packs[0]);
    let path = lab.path("state/images/packs").join(format!("{id}.pack"));
    let bytes = std::fs::read(&path).unwrap();
    Pack { url: format!("/images/packs/{id}"), id, path, bytes }
}

/// An image whose pack is larger than what sockets hold: noise does not compress.
fn import_noise(lab: &Lab) {
    let mut noise = vec![0; 24 * MIB as usize];
    let mut seed = 1u64;
    for byte in &mut noise {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (seed >> 56) as u8;
    }
    let file = lab.path("noise.raw");
    std::fs::write(&file, noise).unwrap();
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", IMAGE]);
    // Its baseline is looked for, in vain, by a reader of packs that has nothing to do with serving.
    let is_over = |_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        lab.log().contains("the image gives no baseline")
    };
    assert!((0..600).any(is_over), "{}", lab.log());
}

fn ask(connection: &mut Connection, method: &str, path: &str, headers: &[&str]) -> Answer {
    let first = format!("{method} {path} HTTP/1.1");
    connection.head(&[&[&first[..], "Host: regild"], headers].concat());
    // Neither to HEAD nor with 304 comes a body, whatever length it has.
    connection.answer_to(method)
}

/// Promise of issue 5: a strong ETag on all content, and conditions as RFC 9110 has them.
#[test]
fn content_is_named_and_not_sent_to_whom_has_it() {
    let lab = Lab::new();
    lab.import_image();
    let pack = pack(&lab);
    let (digest, _) = manifest_of(&lab);
    let mut connection = lab.from(STRANGER);
    for (url, name, length) in
        [(format!("/images/manifests/{digest}"), &digest, None), (pack.url.clone(), &pack.id, Some(pack.bytes.len()))]
    {
        let whole = ask(&mut connection, "GET", &url, &[]);
        let etag = whole.header("etag").expect("an ETag").to_owned();
        assert!(etag.starts_with(&format!("\"{name}")) && etag.ends_with('"'), "{etag}");
        assert!(length.is_none_or(|length| length == whole.body.len()));
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        assert!(whole.header("cache-control").unwrap().starts_with("public, max-age="));
        let head = ask(&mut connection, "HEAD", &url, &["Range: bytes=0-1"]);
        assert_eq!((head.status, head.header("etag")), (200, Some(&etag[..])));
        assert_eq!(head.header("content-length").unwrap(), whole.body.len().to_string());
        let same = ask(&mut connection, "GET", &url, &[&format!("If-None-Match: \"x\", W/{etag}"), "Range: bytes=0-1"]);
        assert_eq!((same.status, same.header("etag"), same.body.len()), (304, Some(&etag[..]), 0));
        let part = ask(&mut connection, "GET", &url, &[&format!("If-Range: {etag}"), "Range: bytes=1-3"]);
        assert_eq!((part.status, &part.body[..]), (206, &whole.body[1..4]));
        assert_eq!(part.header("etag"), Some(&etag[..]));
        let other = ask(&mut connection, "GET", &url, &["If-Range: \"x\"", "Range: bytes=1-3"]);
        assert!(other.status == 200 && other.body == whole.body);
        let refused = ask(&mut connection, "GET", &url, &[&format!("If-Match: W/{etag}"), "Range: bytes=1-3"]);
        assert_eq!((refused.status, refused.header("etag")), (412, Some(&etag[..])));
        assert_eq!(refused.header("cache-control"), Some("no-store"), "a refusal is no content");
        assert!(refused.error().contains("If-Match"), "{refused:?}");
        let beyond = ask(&mut connection, "GET", &url, &["Range: bytes=99999999999-"]);
        let all = format!("bytes */{}", whole.body.len());
        assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(&all[..])));
        assert_eq!(beyond.header("cache-control"), Some("no-store"));
        let end = ask(&mut connection, "GET", &url, &["Range: bytes=-3"]);
        assert!(end.status == 206 && end.body == whole.body[whole.body.len() - 3..], "{}", end.status);
    }
}

/// Promise: a collection or a repair that replaces a pack takes nothing from whoever is in the middle of it; and other
/// bytes under a pack's name have another ETag.
#[test]
fn a_pack_that_is_removed_or_replaced_is_sent_to_its_end() {
    let lab = Lab::new();
    import_noise(&lab);
    let pack = pack(&lab);
    let mut slow = lab.from(STRANGER);
    slow.head(&[&format!("GET {} HTTP/1.1", pack.url), "Host: regild"]);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        slow.reader().read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    std::fs::remove_file(&pack.path).unwrap();
    let mut body = vec![0; pack.bytes.len()];
    slow.reader().read_exact(&mut body).unwrap();
    assert!(body == pack.bytes, "the pack is another one");
    // After a restart it is gone, or another file is in its place.
    let mut lab = lab;
    lab.kill();
    lab.start();
    assert_eq!(lab.from(STRANGER).get(&pack.url).status, 404);
    std::fs::write(&pack.path, &pack.bytes).unwrap();
    let etag = |lab: &Lab| lab.from(STRANGER).get(&pack.url).header("etag").unwrap().to_owned();
    let first = etag(&lab);
    lab.kill();
    lab.start();
    assert_eq!(etag(&lab), first, "a restart is no other content");
    lab.kill();
    std::fs::remove_file(&pack.path).unwrap();
    std::fs::write(&pack.path, vec![7; pack.bytes.len()]).unwrap();
    lab.start();
    assert_ne!(etag(&lab), first);
}

/// Promise: a pack that is cut short under an open mapping is an error for its request, in words, and not the end of the
/// server; once it is whole again, it is served again.
#[test]
fn a_pack_that_is_cut_short_is_an_error_and_not_the_end() {
    let lab = Lab::new();
    import_noise(&lab);
    let pack = pack(&lab);
    assert!(lab.from(STRANGER).get(&pack.url).body == pack.bytes);
    let open = std::fs::File::options().write(true).open(&pack.path).unwrap();
    open.set_len(MIB).unwrap();
    let answer = lab.from(STRANGER).get(&pack.url);
    assert!(answer.status == 500 && answer.error().contains("cannot be read"), "{:?}", answer.head);
    let mut connection = lab.from(STRANGER);
    let range = format!("Range: bytes={}-{}", 5 * MIB, 6 * MIB);
    assert_eq!(ask(&mut connection, "GET", &pack.url, &[&range]).status, 416, "mapped anew it is 1 MiB long");
    lab.is_well();
    let mended = pack.path.with_extension("new");
    std::fs::write(&mended, &pack.bytes).unwrap();
    // In the middle of an answer: it ends early, and no client takes it for a whole one.
    std::fs::rename(&mended, &pack.path).unwrap();
    let mut lab = lab;
    lab.kill();
    lab.start();
    let mut slow = lab.from(STRANGER);
    slow.head(&[&format!("GET {} HTTP/1.1", pack.url), "Host: regild"]);
    slow.reader().read_exact(&mut [0; 1000]).unwrap();
    std::fs::File::options().write(true).open(&pack.path).unwrap().set_len(MIB).unwrap();
    let mut rest = Vec::new();
    let _ = slow.reader().read_to_end(&mut rest);
    assert!(rest.len() < pack.bytes.len(), "it came whole, though it was cut");
    lab.is_well();
}

/// Promise of issue 5: a global and per-group bandwidth limit. It holds for the group's hosts, by their leases, and every
/// byte comes through in order; who is in no group of that kind is not held up.
#[test]
fn a_groups_limit_holds_for_its_hosts_and_changes_with_the_document() {
    let lab = Lab::new();
    import_noise(&lab);
    let pack = pack(&lab);
    let (limited, free) = (Machine::approved(&lab, 1), Machine::approved(&lab, 2));
    let document =
        |bandwidth: &str| format!("[group.slow]\n{bandwidth}\n[[host]]\nmac = \"{}\"\ngroup = \"slow\"\n", limited.mac);
    lab.apply(&document("bandwidth = \"40MB/s\""), &[]);
    let serving = || lab.operator().get("/v1/serving").json();
    let granted = |group: &str| {
        let groups = serving()["groups"].as_array().unwrap().clone();
        groups.iter().find(|known| known["group"] == group).map(|known| known["granted_bytes"].as_u64().unwrap())
    };
    assert!(lab.from(free.address).get(&pack.url).body == pack.bytes);
    assert!(lab.from(STRANGER).get(&pack.url).body == pack.bytes);
    assert_eq!(serving()["groups"].as_array().unwrap().len(), 0, "nobody who is not limited waits for a turn");
    assert!(lab.from(limited.address).get(&pack.url).body == pack.bytes);
    assert_eq!(granted("slow"), Some(pack.bytes.len() as u64), "every byte had its turn");
    assert_eq!(serving()["groups"][0]["limit"], 40_000_000);
    // By a new document another limit, and then none: live, and on a connection that is open.
    let mut connection = lab.from(limited.address);
    lab.apply(&document("bandwidth = \"80MB/s\""), &[]);
    assert!(connection.get(&pack.url).body == pack.bytes);
    assert_eq!(serving()["groups"][0]["limit"], 80_000_000);
    lab.apply(&document(""), &[]);
    assert!(connection.get(&pack.url).body == pack.bytes);
    assert_eq!(granted("slow"), Some(2 * pack.bytes.len() as u64), "without a limit nothing is counted");
    assert_eq!((&serving()["limit"], &serving()["streams"]), (&serde_json::Value::Null, &0.into()));
}

/// The server's own limit is one for all, whoever they are; many streams at once all come through whole, and whoever goes
/// away in the middle leaves nothing behind.
#[test]
fn the_servers_limit_is_shared_by_all_and_every_stream_comes_through() {
    let lab = Lab::with("[http]\nbandwidth = \"200MB/s\"");
    import_noise(&lab);
    let pack = pack(&lab);
    let machine = Machine::approved(&lab, 1);
    // It goes away while it waits.
    let mut gone = lab.from(machine.address);
    gone.head(&[&format!("GET {} HTTP/1.1", pack.url), "Host: regild"]);
    gone.reader().read_exact(&mut [0; 1000]).unwrap();
    gone.close();
    std::thread::scope(|scope| {
        for address in [machine.address, machine.address, STRANGER, STRANGER] {
            let (lab, pack) = (&lab, &pack);
            scope.spawn(move || assert!(lab.from(address).get(&pack.url).body == pack.bytes));
        }
    });
    let mut serving = lab.operator().get("/v1/serving").json();
    // The one that went away is noticed when its socket is written to.
    for _ in 0..600 {
        if serving["streams"] == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        serving = lab.operator().get("/v1/serving").json();
    }
    assert_eq!((&serving["streams"], &serving["limit"]), (&0.into(), &200_000_000.into()), "{serving}");
    let of = |group: &str| {
        let groups = serving["groups"].as_array().unwrap();
        groups.iter().find(|known| known["group"] == group).unwrap()["granted_bytes"].as_u64().unwrap()
    };
    let whole = pack.bytes.len() as u64;
    assert!(of("") == 2 * whole && of("default") >= 2 * whole, "{serving}");
    assert!(serving["groups"].as_array().unwrap().iter().all(|group| group["hosts_waiting"] == 0), "{serving}");
}

/// H3: one address has its connections, and whoever comes from another one is served all the same.
#[test]
fn h3_one_address_does_not_take_the_connections_of_all() {
    let lab = Lab::with("[http]\nrequests_max = 64\nrequests_of_one_max = 16");
    let machine = Machine::plug_in(&lab, 1);
    let mut greedy: Vec<_> = (0..60).map(|_| lab.from(machine.address)).collect();
    let heard = greedy.iter_mut().filter_map(|connection| {
        let _ = connection.try_head(&["GET /healthz HTTP/1.1", "Host: regild"]);
        connection.try_answer()
    });
    assert_eq!(heard.filter(|answer| answer.status == 200).count(), 16);
    lab.is_well();
    assert!(lab.log().contains("too many connections from one address"));
    // When it lets go of them, it is heard again.
    drop(greedy);
    let again = (0..200).any(|_| {
        let mut connection = lab.from(machine.address);
        let sent = connection.try_head(&["GET /healthz HTTP/1.1", "Host: regild"]);
        let heard = sent.is_ok() && connection.try_answer().is_some();
        std::thread::sleep(std::time::Duration::from_millis(if heard { 0 } else { 50 }));
        heard
    });
    assert!(again, "its connections are closed, and still it is not heard");
}
