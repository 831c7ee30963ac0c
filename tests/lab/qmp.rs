//! One command to a running QEMU, over its monitor protocol (docs/interop/qmp-spec.rst in QEMU's sources).

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Runs `command`; QEMU must say that it did.
pub(super) fn execute(socket: &Path, command: &str, arguments: &Value) {
    let mut stream = UnixStream::connect(socket).expect("connecting to QEMU's monitor");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a read timeout");
    let mut lines = BufReader::new(stream.try_clone().expect("duplicating the socket")).lines();
    let mut say = |request: Value| {
        writeln!(stream, "{request}").expect("writing to QEMU's monitor");
        // The greeting and events come in between, too.
        loop {
            let line = lines.next().expect("QEMU closed its monitor").expect("reading from QEMU's monitor");
            let answer: Value = serde_json::from_str(&line).expect("QEMU speaks JSON");
            assert!(answer["error"].is_null(), "{request}: {answer}");
            if !answer["return"].is_null() {
                return;
            }
        }
    };
    say(json!({ "execute": "qmp_capabilities" }));
    say(json!({ "execute": command, "arguments": arguments }));
}
