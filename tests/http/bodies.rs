//! H2: bodies that are too deep, too long, or not what they should be, on both listeners.

use std::io::Write;
use std::net::Ipv4Addr;

use regild::wire::agent::{Event, Step};

use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT, STRANGER};
use crate::raw::Connection;

const GIB: usize = 1 << 30;
/// What lies in socket buffers of both ends when the server stops reading, and more.
const TAKEN_BYTES_MAX: usize = 64 << 20;

/// Their documents may be long (64 MiB), so they are no measure of what a long body does to the memory.
const DOCUMENTS: [&str; 2] = ["/v1/fleet/diff", "/v1/fleet/apply"];
const DOCUMENT: &str = r#"{"by":"ann","document":{"host":[]},"prune":false,"prune_max":null,"loosen":true}"#;

/// The routes that take JSON: path, a right body, and a field of it that is a text.
fn routes(lab: &Lab, machine: &Machine) -> Vec<(bool, String, String)> {
    let orders = machine.orders(lab);
    let check_in = serde_json::to_string(&machine.check_in(&orders, "s")).unwrap();
    let report = machine.report(1, "s", Event::Step { step: Step::Survey });
    let operators = |path: &str, body: &str| (true, path.to_owned(), body.to_owned());
    let operator = |verb: &str, body: &str| operators(&format!("/v1/hosts/{}/{verb}", machine.host), body);
    vec![
        (false, CHECK_IN.to_owned(), check_in),
        (false, REPORT.to_owned(), serde_json::to_string(&report).unwrap()),
        (false, "/agent/v1/installed".to_owned(), format!(r#"{{"mac":"{}","image":"x"}}"#, machine.mac)),
        operator("approve", &format!(r#"{{"image":"{IMAGE}","by":"ann","release_disk":false}}"#)),
        operators("/v1/reimage", r#"{"image":null,"select":"all","by":"ann","reason":"r","release_disk":false}"#),
        operator("hold", r#"{"by":"ann","reason":"r","until":null}"#),
        operator("release", r#"{"by":"ann"}"#),
        operators("/v1/proposals/1/confirm", r#"{"by":"ann"}"#),
        operators("/v1/stop", r#"{"by":"ann","reason":"r","running_too":true}"#),
        operators("/v1/resume", r#"{"by":"ann","reason":"r"}"#),
        operators("/v1/breaker/reset", r#"{"by":"ann","reason":"r"}"#),
        operators(&format!("/v1/images/{IMAGE}/mark"), r#"{"mark":"blocked","by":"ann","reason":"r"}"#),
        operators(&format!("/v1/images/{IMAGE}/export"), r#"{"path":"/x"}"#),
    ]
}

fn connect(lab: &Lab, is_operator: bool, from: Ipv4Addr) -> Connection {
    if is_operator { lab.operator() } else { lab.from(from) }
}

/// A right body with one thing wrong: what the message must say.
fn spoilt(right: &str) -> Vec<(String, String)> {
    let deep = "[".repeat(10_000);
    let deep_objects = r#"{"a":"#.repeat(10_000);
    let (first, _) = right[2..].split_once('"').unwrap();
    let at_first = |value: &str| {
        let rest = right.split_once([',', '}']).unwrap().1;
        let end = if rest.is_empty() { "}" } else { "," };
        format!(r#"{{"{first}":{value}{end}{rest}"#)
    };
    let more = |field: &str| format!("{},{field}}}", &right[..right.len() - 1]);
    let again = &right[1..right.find([',', '}']).unwrap()];
    vec![
        (deep.clone(), "line 1 column ".into()),
        (deep_objects, "line 1 column ".into()),
        (at_first(&deep), format!("{first}: invalid type: sequence")),
        (more(&format!(r#""colour":{deep}"#)), "line 1 column ".into()),
        (at_first("NaN"), format!("{first}: expected ")),
        (at_first(r#"{"an":"object"}"#), format!("{first}: invalid type: map")),
        (at_first("true"), format!("{first}: invalid type: boolean")),
        (more(r#""colour":"red""#), "colour: ".into()),
        (more(again), format!("duplicate field `{first}`")),
        ("null".into(), "invalid type: null".into()),
        ("\"text\"".into(), "invalid type: string".into()),
        (right[..right.len() - 1].into(), "EOF while parsing".into()),
        (format!("{right}{right}"), "trailing characters".into()),
        ("\u{feff}{}".into(), "expected value at line 1 column 1".into()),
        (String::new(), "EOF".into()),
    ]
}

/// H2: 400 with the field's path or the line, and the connection is good for the next request.
#[test]
fn h2_a_body_that_is_not_right_is_refused_with_the_place() {
    let lab = Lab::new();
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let before_seconds = lab.cpu_seconds();
    let mut count = 0;
    let documents = DOCUMENTS.map(|path| (true, path.to_owned(), DOCUMENT.to_owned()));
    for (is_operator, path, right) in routes(&lab, &machine).into_iter().chain(documents) {
        let mut connection = connect(&lab, is_operator, machine.address);
        for (body, wanted) in spoilt(&right) {
            let shown: String = body.chars().take(100).collect();
            let answer = connection.ask("POST", &path, body.as_bytes());
            assert_eq!(answer.status, 400, "{path} {shown}: {}", answer.text());
            let said = answer.error();
            assert!(said.contains(&wanted), "{path} {shown}: {said:?} does not tell {wanted:?}");
            assert!(said.len() < 400, "{path}: {} bytes of message", said.len());
            count += 1;
        }
        lab.is_well();
    }
    let milliseconds = (lab.cpu_seconds() - before_seconds) * 1000.0;
    eprintln!("{count} bad bodies: {:.2} ms of processor time each (debug build)", milliseconds / f64::from(count));
    // A byte that is no text is told by its place, too; and an agent of another protocol is told so before all else.
    let mut bytes = routes(&lab, &machine).swap_remove(0).2.into_bytes();
    let at = bytes.windows(9).position(|window| window == b"\"token\":\"").unwrap() + 9;
    bytes[at] = 0xff;
    let answer = lab.from(machine.address).ask("POST", CHECK_IN, &bytes);
    assert_eq!((answer.status, answer.error().contains("token: ")), (400, true), "{}", answer.error());
    for newer in [r#"{"protocol":99}"#, r#"{"protocol":1,"host":"h","event":{"kind":"step"}}"#] {
        let answer = lab.from(machine.address).ask("POST", REPORT, newer.as_bytes());
        assert_eq!((answer.status, answer.error().contains("make assets")), (426, true), "{}", answer.text());
    }
    // None of it did anything: the host waits for its agent as before, in its second attempt (two scripts).
    let host = lab.host(&machine);
    assert_eq!((&host["state"], &host["order"]["attempts"]), (&"netbooting".into(), &2.into()), "{host}");
    assert!(lab.json(&["brakes"])["stopped"].is_null(), "a spoilt body stopped the fleet");
}

/// Sends as much of a body of 1 GiB as the server takes.
fn pour(connection: &mut Connection, is_chunked: bool) -> usize {
    let piece = vec![b' '; 1 << 16];
    let mut sent = 0;
    while sent < GIB {
        let done = if is_chunked {
            let frame = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            connection.writer.write_all(&frame)
        } else {
            connection.writer.write_all(&piece)
        };
        if done.is_err() {
            break;
        }
        sent += piece.len();
    }
    sent
}

/// H2: a body of 1 GiB is cut off at the limit, whether it says its length or comes in chunks; the memory of the
/// server does not grow with it.
#[test]
fn h2_a_body_of_a_gibibyte_is_cut_off_at_the_limit() {
    let lab = Lab::with("[image]\nbytes_max = 33554432\n");
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let before_bytes = lab.peak_bytes();
    let json = routes(&lab, &machine).into_iter().map(|(is_operator, path, _)| (is_operator, "POST", path));
    // The image's own body has no limit, but what it unpacks to has.
    let upload = (true, "PUT", "/v1/images/huge:1".to_owned());
    for (is_operator, method, path) in json.chain([upload]) {
        for length in [format!("Content-Length: {GIB}"), "Transfer-Encoding: chunked".to_owned()] {
            let mut connection = connect(&lab, is_operator, machine.address);
            connection.head(&[&format!("{method} {path} HTTP/1.1"), "Host: regild", &length]);
            let sent = pour(&mut connection, length.starts_with("Transfer"));
            let taken_bytes_max = TAKEN_BYTES_MAX + if method == "PUT" { 32 << 20 } else { 0 };
            assert!(sent < taken_bytes_max, "{path} {length}: {sent} bytes were taken");
            let answer = connection.answer();
            assert_eq!(answer.status, 413, "{path} {length}: {}", answer.text());
            eprintln!("{path} {length}: {} KiB sent, {}", sent >> 10, answer.error());
        }
    }
    lab.is_well();
    let grown_bytes = lab.peak_bytes() - before_bytes;
    eprintln!("the server grew by {} KiB to {} KiB", grown_bytes >> 10, lab.peak_bytes() >> 10);
    assert!(grown_bytes < 48 << 20, "{grown_bytes} bytes");
    for path in DOCUMENTS {
        let mut connection = lab.operator();
        connection.head(&[&format!("POST {path} HTTP/1.1"), "Host: regild", &format!("Content-Length: {GIB}")]);
        let sent = pour(&mut connection, false);
        assert!(sent < TAKEN_BYTES_MAX + (64 << 20), "{path}: {sent} bytes were taken");
        assert_eq!(connection.answer().status, 413, "{path}");
    }
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 1, "half an image is listed");
}

/// H2: a length that is a lie. More is announced than comes: the connection does not stay for ever. Less is announced:
/// the rest is taken for the next request, which it is not.
#[test]
fn h2_a_content_length_that_lies_holds_nothing() {
    let lab = Lab::new();
    let start = |length: &str| {
        let mut connection = lab.from(STRANGER);
        connection.head(&[&format!("POST {REPORT} HTTP/1.1"), "Host: regild", &format!("Content-Length: {length}")]);
        connection.writer.write_all(b"{\"protocol\":").unwrap();
        connection
    };
    let mut silent = start(&GIB.to_string());
    let mut short = start("200");
    lab.is_well();
    let gone = start("200");
    gone.close();
    for nonsense in ["-1", "18446744073709551616", "1e9", "0x10", "", "5, 6"] {
        let answer = start(nonsense).answer();
        assert_eq!(answer.status, 400, "{nonsense:?}");
    }
    let mut smuggler = lab.from(STRANGER);
    let lines = ["Host: regild", "Content-Length: 4", "Transfer-Encoding: chunked"];
    smuggler.head(&[&[&format!("POST {REPORT} HTTP/1.1")[..]], &lines[..]].concat());
    smuggler.writer.write_all(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(smuggler.answer().status, 400, "two lengths");
    let mut less = lab.from(STRANGER);
    less.head(&[&format!("POST {REPORT} HTTP/1.1"), "Host: regild", "Content-Length: 2"]);
    less.writer.write_all(b"{}trailing nonsense\r\n\r\n").unwrap();
    assert_eq!((less.answer().status, less.answer().status), (400, 400));
    for connection in [&mut silent, &mut short] {
        let answer = connection.answer();
        assert_eq!(answer.status, 408, "{}", answer.text());
    }
    lab.is_well();
}
