//! `regild image import` of everything that is no file, and `image export`, as an operator uses them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::disks::{MIB, noise, read};
use crate::lab::Lab;
use crate::upload::wait_until;

/// A web server that answers as it is told: `answer` gets the request's head and gives all of the answer.
pub struct Web {
    pub address: String,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub fn new(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(head) = head_of(&stream) {
                    seen.lock().unwrap().push(head.clone());
                    // The client may have gone.
                    let _ = (&stream).write_all(&answer(&head));
                }
            }
        });
        Web { address, heads }
    }
}

fn head_of(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

pub fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

pub fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[track_caller]
fn fails(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.try_regild(arguments);
    assert!(!output.status.success(), "regild {arguments:?} was carried out");
    // The command may end before the server has seen that it did.
    wait_until("nothing is left", || std::fs::read_dir(lab.path("state/images/tmp")).unwrap().count() == 0);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn qemu_img(lab: &Lab, arguments: &str) {
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(lab.path("")).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Promise: by file, by pipe, by URL, each is the same disk.
#[test]
fn an_image_comes_by_file_by_pipe_and_by_url() {
    let lab = Lab::new();
    let disk = noise(21, 3 * MIB as usize);
    std::fs::write(lab.path("disk.raw"), &disk).unwrap();
    qemu_img(&lab, "convert -O qcow2 -c disk.raw disk.qcow2");
    let packed = Command::new("xz").args(["-1c", "disk.qcow2"]).current_dir(lab.path("")).output().unwrap().stdout;
    std::fs::write(lab.path("disk.qcow2.xz"), &packed).unwrap();
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    lab.regild(&["image", "import", &path("disk.raw"), "--as", "disk:raw"]);
    lab.regild(&["image", "import", &path("disk.qcow2.xz"), "--as", "disk:xz", "--format", "qcow2"]);
    for (name, file) in [("disk:pipe", "disk.qcow2.xz"), ("disk:file", "disk.raw")] {
        let mut import = lab.regild_command(&["image", "import", "-", "--as", name]);
        let mut cat = Command::new("cat").arg(path(file)).stdout(Stdio::piped()).spawn().unwrap();
        let output = import.stdin(cat.stdout.take().unwrap()).output().unwrap();
        cat.wait().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let digest: String =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &packed))
            .iter()
            .map(|byte: &u8| format!("{byte:02x}"))
            .collect();
    let right = format!("sha256:{digest}");
    lab.regild(&["image", "import", &path("disk.qcow2.xz"), "--as", "disk:digest", "--digest", &right]);
    let web = Web::new(move |head| match head.split(' ').nth(1).unwrap() {
        "/there?signed=secret" => ok(&packed),
        "/moved" => redirect("there?signed=secret"),
        "/cut" => [&ok(&packed)[..], b""].concat()[..packed.len() / 2].to_vec(),
        "/loop" => redirect("/loop"),
        "/file" => redirect("file:///etc/passwd"),
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno such\x1b\n".to_vec(),
    });
    let url = |path: &str| format!("http://{}/{path}", web.address);
    lab.regild(&["image", "import", &url("moved"), "--as", "disk:url", "--digest", &right]);
    assert_eq!(lab.json(&["image", "show", "disk:url"])["source"], url("moved"));
    let all = lab.json(&["image", "list"]);
    let digests: std::collections::BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|image| image["content_digest"].as_str().unwrap()).collect();
    assert_eq!((all.as_array().unwrap().len(), digests.len()), (6, 1));

    let wrong = format!("sha256:{}", "0".repeat(64));
    for (from, more, words) in [
        ("cut", vec![], "broke off"),
        ("loop", vec![], "more than 5 redirects"),
        ("file", vec![], "redirects to what is no URL"),
        ("nothing", vec![], "404 Not Found: no such"),
        ("moved", vec!["--digest", &wrong], "another file"),
        ("moved", vec!["--format", "raw"], "declared as raw, but it is qcow2"),
    ] {
        let said = fails(&lab, &[&["image", "import", &url(from), "--as", "bad:1"][..], &more].concat());
        assert!(said.contains(words), "{from}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let said = fails(&lab, &["image", "import", "http://u:p@127.0.0.1/x", "--as", "bad:1"]);
    assert!(said.contains("user or a password"), "{said}");
    assert!(
        fails(&lab, &["image", "import", &path("disk.raw"), "--as", "bad:1", "--format", "vmdk"]).contains("no format")
    );
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 6);
}

/// Promise: over https only from whom the given authority vouches for, and never on to plain http.
#[test]
fn an_image_by_https_is_from_the_right_server() {
    let lab = Lab::new();
    let disk = noise(22, MIB as usize);
    std::fs::write(lab.path("disk.raw"), &disk).unwrap();
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 9 -subj /CN=ca &&
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s.key -out s.csr -subj /CN=s -addext subjectAltName=IP:127.0.0.1 &&
        openssl x509 -req -in s.csr -CA ca.pem -CAkey ca.key -out s.pem -days 9 -copy_extensions copy";
    let made = Command::new("sh").args(["-ec", make]).current_dir(lab.path("")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let program = "import http.server, ssl\n\
        class H(http.server.SimpleHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       if self.path != '/down': return super().do_GET()\n\
        \x20       self.send_response(302); self.send_header('Location', 'http://127.0.0.1:1/x'); self.end_headers()\n\
        s = http.server.HTTPServer(('127.0.0.1', 0), H)\n\
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('s.pem', 's.key')\n\
        s.socket = c.wrap_socket(s.socket, server_side=True)\n\
        print(s.server_address[1], flush=True)\n\
        s.serve_forever()\n";
    let mut server = Command::new("python3")
        .args(["-c", program])
        .current_dir(lab.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = |path: &str| format!("https://127.0.0.1:{}/{path}", port.trim());
    let ca = lab.path("ca.pem");
    let ca = ca.to_str().unwrap();
    lab.regild(&["image", "import", &url("disk.raw"), "--as", "disk:1", "--ca", ca]);
    let unknown = fails(&lab, &["image", "import", &url("disk.raw"), "--as", "bad:1"]);
    let down = fails(&lab, &["image", "import", &url("down"), "--as", "bad:1", "--ca", ca]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(unknown.contains("TLS") && unknown.contains("UnknownIssuer"), "{unknown}");
    assert!(down.contains("from https to plain http"), "{down}");
}

/// Promise: export gives back the disk as raw and as qcow2, and overwrites nothing by a slip.
#[test]
fn an_image_is_exported_as_it_came() {
    let lab = Lab::new();
    let disk = noise(23, 3 * MIB as usize);
    let file = File::create(lab.path("disk.raw")).unwrap();
    file.write_all_at(&disk, 5 * MIB).unwrap();
    file.set_len(64 * MIB).unwrap();
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    lab.regild(&["image", "import", &path("disk.raw"), "--as", "disk:1"]);
    lab.regild(&["image", "export", "disk:1", &path("out.raw")]);
    lab.regild(&["image", "export", "disk:1", &path("out.qcow2"), "--format", "qcow2"]);
    assert!(read(&lab.path("out.raw")) == read(&lab.path("disk.raw")));
    qemu_img(&lab, "check -f qcow2 out.qcow2");
    qemu_img(&lab, "compare -f raw -F qcow2 disk.raw out.qcow2");
    std::fs::write(lab.path("precious"), "precious").unwrap();
    let said = fails(&lab, &["image", "export", "disk:1", &path("precious")]);
    assert!(said.contains("--force") && std::fs::read(lab.path("precious")).unwrap() == b"precious", "{said}");
    assert!(fails(&lab, &["image", "export", "disk:1", &path("x"), "--format", "vmdk"]).contains("no format"));
    lab.regild(&["image", "export", "disk:1", &path("precious"), "--force"]);
    assert!(read(&lab.path("precious")) == read(&lab.path("disk.raw")));
}
