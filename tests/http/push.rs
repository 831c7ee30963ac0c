//! Pushing images from afar: the real command against the real listener, over a wire that is cut where it hurts; and what
//! somebody without the right token, or with a wrong file, gets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::cable::{inside, ip};
use crate::disks::{MIB, noise, read};
use crate::lab::{Lab, STRANGER};
use crate::raw::{Answer, Connection};
use crate::upload::wait_until;

const TOKEN: &str = "0123456789abcdef-a-token-for-tests";
const OTHER_TOKEN: &str = "fedcba9876543210-another-token";
const PORT: u16 = 8443;

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn settings(more: &str) -> String {
    format!(
        "[http.upload]\nlisten = \"10.77.0.1:{PORT}\"\nuploads_max = 3\n{more}\n\
         [[http.upload.token]]\nname = \"ci\"\nsha256 = \"{}\"\n\
         [[http.upload.token]]\nname = \"other\"\nsha256 = \"{}\"\nimages = [\"web\"]\n",
        sha256(TOKEN.as_bytes()),
        sha256(OTHER_TOKEN.as_bytes())
    )
}

/// Plain HTTP, with a token file for the command.
fn plain_lab() -> Lab {
    let lab = Lab::with(&settings("allow_plain = true"));
    std::fs::write(lab.path("token"), format!("{TOKEN}\n")).unwrap();
    lab
}

/// `regild image push`, at the other end of the cable.
fn push(lab: &Lab, url: &str, file: &str, name: &str, more: &[&str]) -> Command {
    let mut command = lab.cable.client_command(env!("CARGO_BIN_EXE_regild"));
    command.args(["image", "push", "--server", url, "--token-file", "token", file, "--as", name]).args(more);
    command.current_dir(lab.path("")).env_remove("REGILD_SERVER").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(TOKEN), "the token is shown: {said}");
    said
}

#[track_caller]
fn fails(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A wire between the command and the listener that ends each of its first connections after some bytes, or holds them.
struct Wire {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
    holds: Arc<AtomicBool>,
}

impl Wire {
    /// `budgets`: bytes that each connection in turn may bring to the server; behind the last one there is no limit. With
    /// `holds` set a connection whose bytes are used up is not cut but stands still.
    fn new(lab: &Lab, budgets: &[u64], holds: bool) -> Wire {
        // The address is the namespace's own: such traffic goes over its loopback.
        ip(&["-n", &lab.cable.client, "link", "set", "lo", "up"]);
        let listener = inside(&lab.cable.client, || TcpListener::bind((Ipv4Addr::new(10, 77, 0, 2), 0)).unwrap());
        let wire = Wire {
            address: listener.local_addr().unwrap(),
            passed: Arc::default(),
            holds: Arc::new(AtomicBool::new(holds)),
        };
        let (passed, holds, budgets) = (wire.passed.clone(), wire.holds.clone(), budgets.to_vec());
        let namespace = lab.cable.client.clone();
        std::thread::spawn(move || {
            let mut budgets = budgets.into_iter();
            for client in listener.incoming().flatten() {
                let server = inside(&namespace, || TcpStream::connect((Ipv4Addr::new(10, 77, 0, 1), PORT)));
                // No server: the client's connection ends at once.
                let Ok(server) = server else { continue };
                let budget = budgets.next().unwrap_or(u64::MAX);
                let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut to_client);
                    let _ = to_client.shutdown(Shutdown::Both);
                });
                let (passed, holds) = (passed.clone(), holds.clone());
                std::thread::spawn(move || carry(client, server, budget, &passed, &holds));
            }
        });
        wire
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, mut budget: u64, passed: &AtomicU64, holds: &AtomicBool) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(count) = client.read(&mut piece) {
        let count = count.min(usize::try_from(budget).unwrap_or(usize::MAX));
        if count == 0 || server.write_all(&piece[..count]).is_err() {
            break;
        }
        passed.fetch_add(count as u64, Ordering::Relaxed);
        budget -= count as u64;
        while budget == 0 && holds.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if budget == 0 {
            break;
        }
    }
    for stream in [&client, &server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn parts_bytes(lab: &Lab) -> u64 {
    let entries = std::fs::read_dir(lab.path("state/uploads")).unwrap().flatten();
    let parts = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
    parts.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[track_caller]
fn is_stored(lab: &Lab, name: &str, disk: &[u8]) {
    let out = lab.path("out.raw");
    lab.regild(&["image", "export", name, out.to_str().unwrap(), "--force"]);
    assert!(read(&out) == disk, "another disk came out");
}

/// Promise: a push whose connections are cut goes on by itself where it was, and what is stored is what was pushed.
#[test]
fn a_push_that_is_cut_goes_on_where_it_was() {
    let lab = plain_lab();
    let disk = noise(11, 9 * MIB as usize);
    std::fs::write(lab.path("disk.raw"), &disk).unwrap();
    // Cut in the middle of a head, and in bodies.
    let wire = Wire::new(&lab, &[100, 3 * MIB, 2 * MIB + 77, 300, MIB, 2 * MIB], false);
    let said = succeeds(push(&lab, &wire.url(), "disk.raw", "web:1", &[]).spawn().unwrap());
    assert!(said.contains("web:1 pushed"), "{said}");
    is_stored(&lab, "web:1", &disk);
    let passed = wire.passed.load(Ordering::Relaxed);
    assert!(passed < 13 * MIB, "{passed} bytes for 9 MiB: it began anew");
    let shown = lab.json(&["image", "show", "web:1"]);
    assert_eq!(shown["source"], "disk.raw (pushed with the token ci)");
    assert!(!lab.log().contains(TOKEN));
    assert_eq!(parts_bytes(&lab), 0);
    // The same again is a no-op, and sends nothing but questions.
    let said = succeeds(push(&lab, &wire.url(), "disk.raw", "web:1", &[]).spawn().unwrap());
    assert!(said.contains("is there already"), "{said}");
    assert!(wire.passed.load(Ordering::Relaxed) < passed + 10_000);
}

/// Promise: a server that is killed keeps what came, and a command that is killed finds it again.
#[test]
fn a_push_outlives_the_server_and_its_own_command() {
    let mut lab = plain_lab();
    let disk = noise(12, 24 * MIB as usize);
    std::fs::write(lab.path("disk.raw"), &disk).unwrap();
    let wire = Wire::new(&lab, &[10_000, 16 * MIB, 10_000, 2 * MIB], true);
    let mut first = push(&lab, &wire.url(), "disk.raw", "web:1", &[]).spawn().unwrap();
    wait_until("a part is there", || parts_bytes(&lab) > 15 * MIB);
    first.kill().unwrap();
    first.wait().unwrap();
    let came = parts_bytes(&lab);
    let second = push(&lab, &wire.url(), "disk.raw", "web:1", &[]).spawn().unwrap();
    // The first connection stands still, as one does whose client is gone without a word; only its end frees the upload.
    wire.holds.store(false, Ordering::Relaxed);
    wait_until("it goes on", || parts_bytes(&lab) > came);
    lab.kill();
    assert!(parts_bytes(&lab) > came, "what came is on disk");
    lab.start();
    succeeds(second);
    is_stored(&lab, "web:1", &disk);
    let passed = wire.passed.load(Ordering::Relaxed);
    // What was on its way when the server died is sent again, at most the 8 MiB that were missing; anew it would be 40.
    assert!(passed < 36 * MIB, "{passed} bytes for 24 MiB: it began anew");
}

/// Promise: over TLS with the given authority only; a sparse file goes without its holes; a qcow2 as a qcow2.
#[test]
fn a_push_over_tls_is_to_the_right_server() {
    let openssl = |dir: &PathBuf, arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_owned();
    openssl(
        &at,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 9 -subj /CN=test-ca",
    );
    openssl(
        &at,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s.key -out s.csr -subj /CN=s -addext subjectAltName=IP:10.77.0.1",
    );
    openssl(&at, "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -out s.pem -days 9 -copy_extensions copy");
    let place = at.display();
    let lab = Lab::with(&settings(&format!("certificate = \"{place}/s.pem\"\nkey = \"{place}/s.key\"")));
    std::fs::write(lab.path("token"), TOKEN).unwrap();
    let disk = noise(13, MIB as usize);
    let file = std::fs::File::create(lab.path("disk.raw")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &disk, 600 * MIB).unwrap();
    let ca = at.join("ca.pem");
    let url = format!("https://10.77.0.1:{PORT}");
    let trusted = ["--ca", ca.to_str().unwrap()];
    let said = succeeds(push(&lab, &url, "disk.raw", "web:1", &trusted).spawn().unwrap());
    assert!(said.contains("web:1 pushed: 601"), "{said}");
    let output = Command::new("qemu-img")
        .args("convert -O qcow2 -c disk.raw disk.qcow2".split(' '))
        .current_dir(lab.path(""))
        .status();
    assert!(output.unwrap().success());
    succeeds(
        push(&lab, &url, "disk.qcow2", "web:2", &[&trusted[..], &["--format", "qcow2", "--builder", "ci 7"]].concat())
            .args(["--commit", "0541e08", "--label", "team=web"])
            .spawn()
            .unwrap(),
    );
    let provenance = json!({ "builder": "ci 7", "commit": "0541e08", "labels": { "team": "web" } });
    assert_eq!(lab.json(&["image", "show", "web:2"])["provenance"], provenance);
    let digests = ["web:1", "web:2"].map(|name| lab.json(&["image", "show", name])["content_digest"].clone());
    assert_eq!(digests[0], digests[1]);
    // Without that authority nothing is sent; ten tries are too long to wait for.
    let mut child = push(&lab, &url, "disk.qcow2", "web:3", &[]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        std::fs::read_dir(lab.path("state/uploads")).unwrap().count() <= 2,
        "only the finished ones are remembered"
    );
    let refused = lab.regild_command(&["image", "push", "--token-file", "token", "x", "--as", "a:1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("upload listener"));
}

/// A request by hand to the upload listener.
fn ask(lab: &Lab, token: Option<&str>, request: &str, body: &[u8]) -> Answer {
    let mut connection = Connection::tcp_to(&lab.cable, STRANGER, PORT);
    let length = format!("Content-Length: {}", body.len());
    let line = format!("{request} HTTP/1.1");
    let authorization = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut head = vec![&line[..], "Host: regild", "Content-Type: application/json", &length];
    head.extend(authorization.as_deref());
    connection.head(&head);
    // It may have been answered before all of it is sent.
    let _ = connection.writer.write_all(body);
    connection.answer()
}

fn wish(image: &str, file: &[u8]) -> Value {
    json!({ "image": image, "bytes": file.len(), "digest": format!("sha256:{}", sha256(file)), "source": "x\u{1b}[2J" })
}

fn create(lab: &Lab, wish: &Value) -> Answer {
    ask(lab, Some(TOKEN), "POST /v1/uploads", wish.to_string().as_bytes())
}

/// Promise: without the right token nothing is learnt and nothing is done, and trying is bounded.
#[test]
fn without_its_token_nobody_pushes() {
    let lab = plain_lab();
    let file = noise(14, MIB as usize);
    let body = wish("web:1", &file).to_string();
    let begun = create(&lab, &wish("web:1", &file)).json();
    let id = begun["id"].as_str().unwrap();
    let patch = format!("PATCH /v1/uploads/{id}?offset=0");
    // Another's upload is none, and what a token may not push it cannot begin.
    assert_eq!(ask(&lab, Some(OTHER_TOKEN), &patch, &file).status, 404);
    assert_eq!(ask(&lab, Some(OTHER_TOKEN), &format!("DELETE /v1/uploads/{id}"), b"").status, 404);
    let refused = ask(&lab, Some(OTHER_TOKEN), "POST /v1/uploads", wish("db:1", &file).to_string().as_bytes());
    assert_eq!((refused.status, refused.error().contains("may not push images named db")), (403, true));
    let wrong = [None, Some(""), Some(&TOKEN[1..]), Some("x")];
    for (number, token) in wrong.into_iter().cycle().take(10).enumerate() {
        let request = ["POST /v1/uploads", &patch, "GET /v1/uploads/x", "POST /nothing"][number % 4];
        let answer = ask(&lab, token, request, body.as_bytes());
        assert_eq!(answer.status, 401, "{request}");
        assert!(!answer.text().contains(id));
    }
    // From here on this address is not listened to for a while, with the right token neither.
    let answer = ask(&lab, Some(TOKEN), "GET /v1/uploads/x", b"");
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (429, true));
    assert_eq!(parts_bytes(&lab), 0);
    // The machines' listener and the operators' socket know nothing of it.
    for mut connection in [lab.from(STRANGER), lab.operator()] {
        assert_eq!(connection.ask("POST", "/v1/uploads", body.as_bytes()).status, 404);
    }
    lab.is_well();
}

/// Promise: each step that is out of order has its answer, and what is no image, or another file, is not kept.
#[test]
fn what_is_out_of_order_is_refused() {
    let lab = plain_lab();
    let file = noise(15, MIB as usize);
    let begun = create(&lab, &wish("web:1", &file)).json();
    assert_eq!(create(&lab, &wish("web:1", &file)).json(), begun, "the same words are the same upload");
    let id = begun["id"].as_str().unwrap().to_string();
    let to = |verb: &str, rest: &str| format!("{verb} /v1/uploads/{id}{rest}");
    let on = |request: &str, body: &[u8]| ask(&lab, Some(TOKEN), request, body);
    assert_eq!(on(&to("POST", "/finish"), b"").status, 412);
    assert_eq!(on(&to("PATCH", "?offset=5"), b"x").status, 412);
    assert_eq!(on(&to("PATCH", "?offset=-1"), b"x").status, 400);
    assert_eq!(on(&to("PATCH", ""), b"x").status, 400);
    assert_eq!(on(&to("PATCH", "?offset=0"), &file[..1000]).json()["offset"], 1000);
    assert_eq!(on(&to("PATCH", "?offset=0"), &file[..1000]).status, 412);
    // Somebody is at it.
    let mut busy = Connection::tcp_to(&lab.cable, STRANGER, PORT);
    let length = format!("Content-Length: {}", file.len() - 1000);
    let token = format!("Authorization: Bearer {TOKEN}");
    busy.head(&[&format!("{} HTTP/1.1", to("PATCH", "?offset=1000")), "Host: x", &length, &token]);
    busy.writer.write_all(&file[1000..2000]).unwrap();
    wait_until("it is being written", || parts_bytes(&lab) == 2000);
    assert_eq!(on(&to("PATCH", "?offset=2000"), &file[2000..]).status, 423);
    assert_eq!(on(&to("POST", "/finish"), b"").status, 423);
    busy.close();
    wait_until("it is free", || on(&to("GET", ""), b"").json()["offset"] == 2000);
    let long = on(&to("PATCH", "?offset=2000"), &[&file[2000..], b"more"].concat());
    assert!(long.status == 413 || long.status == 400, "{long:?}");
    let at = on(&to("GET", ""), b"").json()["offset"].as_u64().unwrap() as usize;
    assert!(on(&to("PATCH", &format!("?offset={at}")), &file[at..]).status == 200);
    let done = on(&to("POST", "/finish"), b"").json();
    assert_eq!((&done["image"], &done["already_there"]), (&json!("web:1"), &json!(false)));
    assert_eq!(
        on(&to("POST", "/finish"), b"").json()["manifest"],
        done["manifest"],
        "asked again it is answered again"
    );
    assert_eq!(done["source"], "x[2J (pushed with the token ci)");
    is_stored(&lab, "web:1", &file);

    // Another file than was said; one that is no image; one that is another version's.
    let other = noise(16, MIB as usize);
    let vmdk = [b"KDMV", &other[4..]].concat();
    for (wish, bytes, status, words) in [
        (wish("web:2", &file), &other, 400, "damaged on its way, or another file"),
        (wish("web:2", &vmdk), &vmdk, 400, "a VMDK image"),
        (wish("web:1", &other), &other, 409, "a version never changes"),
    ] {
        let id = create(&lab, &wish).json()["id"].as_str().unwrap().to_string();
        assert_eq!(on(&format!("PATCH /v1/uploads/{id}?offset=0"), bytes).status, 200);
        let refused = on(&format!("POST /v1/uploads/{id}/finish"), b"");
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.error().contains(words), "{}", refused.error());
        assert_eq!(on(&format!("GET /v1/uploads/{id}"), b"").status, 404);
    }
    assert_eq!((lab.json(&["image", "list"]).as_array().unwrap().len(), parts_bytes(&lab)), (1, 0));
}

/// Promise: what cannot be begun says so, and no more are begun than are allowed.
#[test]
fn what_cannot_be_begun_is_refused() {
    let lab = plain_lab();
    let file = noise(17, MIB as usize);
    let bad = |change: &dyn Fn(&mut Value)| {
        let mut wish = wish("web:9", &file);
        change(&mut wish);
        create(&lab, &wish).status
    };
    assert_eq!(bad(&|wish| wish["image"] = json!("../x")), 400);
    assert_eq!(bad(&|wish| wish["digest"] = json!("md5:1")), 400);
    assert_eq!(bad(&|wish| wish["format"] = json!("vmdk")), 400);
    assert_eq!(bad(&|wish| wish["bytes"] = json!(0)), 413);
    assert_eq!(bad(&|wish| wish["bytes"] = json!(u64::MAX)), 413);
    assert!(matches!(bad(&|wish| wish["more"] = json!(1)), 400 | 422));
    assert_eq!(bad(&|wish| wish["provenance"] = json!({ "builder": "two\nlines" })), 400);
    assert_eq!(bad(&|wish| wish["provenance"] = json!({ "labels": { "a\u{1b}": "b" } })), 400);
    for number in 0..3 {
        assert_eq!(create(&lab, &wish(&format!("many:{number}"), &file)).status, 200);
    }
    let full = create(&lab, &wish("many:4", &file));
    assert_eq!((full.status, full.error().contains("uploads_max")), (507, true));
}

/// Promise: the command does not try again what is refused for good, and says why.
#[test]
fn what_is_refused_for_good_is_not_tried_again() {
    let lab = plain_lab();
    let url = format!("http://10.77.0.1:{PORT}");
    std::fs::write(lab.path("disk.vmdk"), [&b"KDMV"[..], &[0; 2000]].concat()).unwrap();
    let said = fails(push(&lab, &url, "disk.vmdk", "web:1", &[]).spawn().unwrap());
    assert!(said.contains("a VMDK image") && said.contains("qemu-img convert"), "{said}");
    std::fs::write(lab.path("token"), OTHER_TOKEN).unwrap();
    let said = fails(push(&lab, &url, "disk.vmdk", "db:1", &[]).spawn().unwrap());
    assert!(said.contains("may not push images named db"), "{said}");
    std::fs::write(lab.path("token"), "wrong").unwrap();
    let said = fails(push(&lab, &url, "disk.vmdk", "web:1", &[]).spawn().unwrap());
    assert!(said.contains("401"), "{said}");
}
