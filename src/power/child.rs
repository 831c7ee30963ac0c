//! A program run for one answer: no shell, nothing of our environment, bounded in time and in output, and killed
//! with everything it started when the time is over or nobody waits for it any more.

use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Programs find their own tools here; the server's PATH is not theirs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// What was printed before the program ended is in the pipe already; only a background process of its keeps it open.
const LATE_OUTPUT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
pub(super) enum ChildError {
    NotStarted(io::Error),
    TimedOut,
    /// More than 64 KiB.
    TalksTooMuch,
}

/// Runs `program`. The environment holds PATH and `environment`, nothing else.
pub(super) async fn run(
    program: &OsStr,
    arguments: &[&str],
    environment: &[(&str, &str)],
    limit: Duration,
) -> Result<Finished, ChildError> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(environment.iter().copied()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(ChildError::NotStarted)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let waited = tokio::time::timeout(limit, async {
        let mut reading = std::pin::pin!(async { tokio::join!(read(out, &mut stdout), read(err, &mut stderr)) });
        let (status, all_read) = tokio::select! {
            _ = &mut reading => (child.wait().await, true),
            status = child.wait() => (status, false),
        };
        // It was waited for: its number may soon be another process's.
        group.0 = None;
        if !all_read {
            let _ = tokio::time::timeout(LATE_OUTPUT, reading).await;
        }
        status
    });
    let status = waited.await.map_err(|_| ChildError::TimedOut)?.map_err(ChildError::NotStarted)?;
    if stdout.len().max(stderr.len()) as u64 > OUTPUT_BYTES_MAX {
        return Err(ChildError::TalksTooMuch);
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads to the end or one byte over the limit. The pipe is closed then, and who goes on writing gets SIGPIPE.
async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // A pipe that cannot be read has ended as far as the answer is concerned.
        let _ = pipe.take(OUTPUT_BYTES_MAX + 1).read_to_end(into).await;
    }
}

/// The program's process group: killed on drop, while the program itself has not been waited for.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
