//! A root shell on a machine's second serial line: what somebody with the root password does by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An image of the lab has a shell there when it says so (`tests/images/build-tiny.sh`).
#[derive(Debug)]
pub struct Shell {
    socket: PathBuf,
}

impl Shell {
    /// Give [`Shell::arguments`] to the machine before it is switched on.
    pub fn new(dir: &Path, name: &str) -> Shell {
        Shell { socket: dir.join(format!("{name}.shell")) }
    }

    pub fn arguments(&self) -> Vec<String> {
        let socket = format!("socket,id=shell,server=on,wait=off,path={}", self.socket.display());
        ["-chardev".to_owned(), socket, "-serial".to_owned(), "chardev:shell".to_owned()].into()
    }

    /// Runs a command line and gives what it printed; it must succeed.
    pub fn run(&self, command: &str) -> String {
        let mut line = UnixStream::connect(&self.socket).expect("the machine is on");
        line.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket takes a timeout");
        // The mark is put together by the shell, so that the echo of the typed line is not taken for it.
        writeln!(line, "\n{command}; echo \"[do\"ne $?]").expect("writing to the shell");
        let (mut seen, began) = (Vec::new(), Instant::now());
        loop {
            let mut chunk = [0; 4096];
            match line.read(&mut chunk) {
                Ok(0) => panic!("the machine went away during {command:?}"),
                Ok(count) => seen.extend_from_slice(&chunk[..count]),
                Err(_) => {}
            }
            let text = String::from_utf8_lossy(&seen).replace('\r', "");
            if let Some((before, after)) = text.split_once("[done ")
                && let Some((status, _)) = after.split_once(']')
            {
                assert_eq!(status, "0", "{command:?} failed: {before}");
                return before.to_owned();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no end of {command:?}: {text}");
        }
    }
}
