//! TFTP on loopback: foreign clients get the right bytes, and crooked packets get an error or nothing.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use regild::tftp::{BindError, BootFiles, TftpCounters, TftpServer};
use tokio::sync::watch;

const BLOCK: usize = 512;

struct Running {
    address: SocketAddr,
    counters: Arc<TftpCounters>,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

/// Bytes that repeat at no block border.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8).collect()
}

fn files() -> BootFiles {
    let sizes = [("empty", 0), ("one", 1), ("exact", 4 * BLOCK), ("odd", 100_001), ("wraps", 8 * 70_000 + 3)];
    BootFiles::new(sizes.map(|(name, length)| (name.to_owned(), Bytes::from(pattern(length)))))
}

fn start() -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = TftpServer::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
    let address = server.local_addr().unwrap();
    let counters = Arc::new(TftpCounters::default());
    let (stop, stopped) = watch::channel(false);
    runtime.spawn(server.run(Arc::new(files()), Arc::clone(&counters), stopped));
    Running { address, counters, _stop: stop, _runtime: runtime }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    output.status.success()
}

fn assert_same(out: &Path, name: &str, by: &str) {
    let got = std::fs::read(out).unwrap_or_else(|error| panic!("{by} wrote no {name}: {error}"));
    let wanted = files().get(name).unwrap();
    assert!(got == wanted, "{by} got {} bytes of {name}, not the {} right ones", got.len(), wanted.len());
    std::fs::remove_file(out).unwrap();
}

/// T4, T7: every client, block size and window gives the right bytes, at exact multiples and past 65,535 blocks too.
#[test]
fn t7_foreign_clients_get_the_right_bytes() {
    let server = start();
    let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let out_text = out.display().to_string();
    // curl takes a size of 0 for an error, and atftp sends options always.
    assert!(run("tftp", &["-m", "binary", &host, &port, "-c", "get", "empty", &out_text]));
    assert_same(&out, "empty", "tftp-hpa");
    for name in ["one", "exact", "odd"] {
        for (block, window) in [("8", "1"), ("512", "1"), ("1468", "16"), ("1468", "64"), ("65464", "65535")] {
            let (block, window) = (format!("blksize {block}"), format!("windowsize {window}"));
            let options = ["--option", &block, "--option", &window, "-g", "-r", name, "-l", &out_text];
            assert!(run("atftp", &[&options[..], &[&host, &port]].concat()), "atftp {name} {block} {window}");
            assert_same(&out, name, "atftp");
        }
        assert!(run("tftp", &["-m", "binary", &host, &port, "-c", "get", name, &out_text]));
        assert_same(&out, name, "tftp-hpa");
    }
    for (name, block) in [("one", "1468"), ("exact", "512"), ("odd", "1468"), ("wraps", "8")] {
        let url = format!("tftp://{host}:{port}//{name}");
        assert!(run("curl", &["-sf", "--max-time", "60", "--tftp-blksize", block, "-o", &out_text, &url]), "{name}");
        assert_same(&out, name, "curl");
    }
    assert_eq!(server.counters.cut_short.load(Ordering::Relaxed), 0);
}

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    fn new(server: SocketAddr) -> Client {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Client { socket, server }
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.server).unwrap();
    }

    /// The next packet within a wait, and the port that sent it.
    fn receive(&self, wait_ms: u64) -> Option<(Vec<u8>, SocketAddr)> {
        self.socket.set_read_timeout(Some(Duration::from_millis(wait_ms))).unwrap();
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        buffer.truncate(length);
        Some((buffer, from))
    }
}

/// The answer to one request from a fresh port.
fn answer(server: SocketAddr, packet: &[u8], wait_ms: u64) -> Option<Vec<u8>> {
    let client = Client::new(server);
    client.send(packet);
    client.receive(wait_ms).map(|(bytes, _)| bytes)
}

fn read_request(name: &[u8], options: &str) -> Vec<u8> {
    [&[0, 1], name, b"\0octet\0", options.as_bytes()].concat()
}

fn error_code(packet: &[u8]) -> Option<u8> {
    packet.strip_prefix(&[0, 5, 0]).map(|rest| rest[0])
}

#[test]
fn t1_names_outside_the_table_do_not_exist() {
    let server = start();
    let long = vec![b'a'; 2000];
    let names: [&[u8]; 9] =
        [b"../odd", b"..%2fodd", b"/etc/passwd", b"\\..\\odd", b"Cargo.toml", b"", b"odd/", b"ODD", &long];
    for name in names {
        let said = answer(server.address, &read_request(name, ""), 3000).unwrap();
        assert_eq!(error_code(&said), Some(1), "{}", name.escape_ascii());
    }
    assert_eq!(server.counters.not_found.load(Ordering::Relaxed), 9);
    // A NUL ends the name, so what follows is a bad mode: dropped.
    assert_eq!(answer(server.address, &read_request(b"odd\0/etc", ""), 200), None);
    assert_eq!(server.counters.started.load(Ordering::Relaxed), 0);
}

#[test]
fn t2_writing_is_refused() {
    let server = start();
    for name in ["odd", "new", "../new", "/etc/passwd"] {
        for mode in ["octet", "netascii"] {
            let request = [b"\0\x02", name.as_bytes(), b"\0", mode.as_bytes(), b"\0"].concat();
            assert_eq!(error_code(&answer(server.address, &request, 3000).unwrap()), Some(2), "{name} {mode}");
        }
    }
    assert_eq!(server.counters.writes_refused.load(Ordering::Relaxed), 8);
}

#[test]
fn t3_what_is_no_request_gets_nothing() {
    let server = start();
    let client = Client::new(server.address);
    let packets: [&[u8]; 15] = [
        b"",
        b"\0",
        b"\0\x01",
        b"\0\x01o",
        b"\0\x00odd\0octet\0",
        b"\0\x07odd\0octet\0",
        b"\xff\xffodd\0octet\0",
        b"\0\x01odd\0octet",
        b"\0\x01odd\0nonsense\0",
        // Obsolete since RFC 1350, and meant for WRQ; async-tftp would send the file as it is.
        b"\0\x01odd\0mail\0",
        b"\0\x01odd\0MAIL\0blksize\x001024\0",
        b"\0\x02odd\0mail\0",
        b"\0\x04\0\x01",
        b"\0\x03\0\x01data",
        b"\0\x05\0\x01gone\0",
    ];
    for packet in packets {
        client.send(packet);
    }
    assert_eq!(client.receive(300), None);
    assert_eq!(server.counters.started.load(Ordering::Relaxed), 0);
    // And the server is well, and takes the modes of today in any case.
    for mode in ["octet", "OCTET", "NetASCII"] {
        let request = [b"\0\x01one\0", mode.as_bytes(), b"\0"].concat();
        assert!(answer(server.address, &request, 3000).unwrap().starts_with(&[0, 3, 0, 1]), "{mode}");
    }
}

#[test]
fn t4_options_are_clamped_or_ignored() {
    let server = start();
    let many = "x\0y\0".repeat(200);
    let table = [
        ("", None),
        ("blksize\x000\0", None),
        ("blksize\x007\0", None),
        ("blksize\x0065465\0", None),
        ("blksize\0-1\0", None),
        ("blksize\x001e9\0", None),
        ("windowsize\x000\0", None),
        ("windowsize\x0065536\0", None),
        ("tsize\0junk\0", None),
        ("timeout\x00255\0", None),
        (&many, None),
        ("blksize\x0065464\0", Some("blksize\x001468\0")),
        ("BLKSIZE\x001024\0", Some("blksize\x001024\0")),
        ("blksize\x00600\0blksize\x00700\0", Some("blksize\x00700\0")),
        ("windowsize\x0065535\0", Some("windowsize\x0064\0")),
        ("tsize\x000\0", Some("tsize\x00100001\0")),
    ];
    for (options, wanted) in table {
        let said = answer(server.address, &read_request(b"odd", options), 3000).unwrap();
        match wanted {
            Some(accepted) => assert_eq!(said, [b"\0\x06", accepted.as_bytes()].concat(), "{options:?}"),
            None => assert_eq!((said.len(), &said[..4]), (4 + BLOCK, &[0, 3, 0, 1][..]), "{options:?}"),
        }
    }
}

/// T5, T6: a block acknowledged twice is followed once; a stranger's packets do not disturb; a client that falls silent
/// is given up, and the session ends.
#[test]
fn t5_t6_duplicates_strangers_and_silence() {
    let server = start();
    let client = Client::new(server.address);
    client.send(&read_request(b"exact", ""));
    let (first, port) = client.receive(3000).unwrap();
    assert_eq!(&first[..4], [0, 3, 0, 1]);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in [&[0, 4, 0, 1][..], &[0, 5, 0, 0, 0], b"noise"] {
        stranger.send_to(packet, port).unwrap();
    }
    assert_eq!(client.receive(200), None, "a stranger's ACK moved the transfer");
    for _ in 0..3 {
        client.socket.send_to(&[0, 4, 0, 1], port).unwrap();
    }
    let (second, _) = client.receive(3000).unwrap();
    assert_eq!(&second[..4], [0, 3, 0, 2]);
    assert_eq!(client.receive(200), None, "block 2 was sent more than once");
    // Now the client is gone: six seconds of patience, then the session is freed.
    let freed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        server.counters.active.load(Ordering::Relaxed) == 0
    });
    assert!(freed, "the session is still there");
    assert_eq!(server.counters.cut_short.load(Ordering::Relaxed), 1);
}

#[test]
fn a_server_is_bound_to_one_address_and_says_why_it_cannot_be() {
    let any = TftpServer::bind("0.0.0.0:0".parse().unwrap(), None);
    assert!(matches!(any, Err(BindError::AnyAddress { .. })));
    let foreign = TftpServer::bind("192.0.2.1:0".parse().unwrap(), None);
    assert!(matches!(foreign, Err(BindError::NotOurs { .. })));
    let server = TftpServer::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
    let SocketAddr::V4(taken) = server.local_addr().unwrap() else { unreachable!("bound to IPv4") };
    assert!(matches!(TftpServer::bind(taken, None), Err(BindError::PortTaken { .. })));
}
