//! The only reader of time and randomness (`tests/tidy.rs` bans both elsewhere).
//!
//! Everything that decides takes `now` and random bytes as arguments, so that a test can choose them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time in whole seconds since the Unix epoch (UTC).
pub type UnixSeconds = u64;

/// The wall clock now. A clock before 1970 reads as 0, which makes every lease look valid rather than expired.
#[must_use]
pub fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A monotonic instant, for measuring how long something took.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

/// Processor time that this process has used so far, of all its threads.
#[must_use]
pub fn processor_time() -> Duration {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec into the room for one; a clock that is not there leaves zeros.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
    // Never negative, and nanoseconds are below a second.
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// Blocks this thread (retry pauses of the agent; the server uses tokio's timers).
pub fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

/// Fresh bytes from the operating system's generator, for tokens.
///
/// # Panics
/// When the kernel has no randomness to give. A server that cannot make an unguessable token must not run.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the kernel's getrandom(2) failed: no safe token can be made");
    bytes
}

/// `random_bytes` as lower-case hex, `2 * N` characters.
#[must_use]
pub fn random_hex<const N: usize>() -> String {
    hex(&random_bytes::<N>())
}

/// Lower-case hex of any bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
