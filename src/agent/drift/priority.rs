//! Behind everything else on the host: processor and disk are the scan's only when nobody else wants them.

use std::io;

/// From linux/ioprio.h, which libc does not have: class 3 (idle) in the upper bits, for this thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// This thread, and those that it starts afterwards. A thread that does other things, too, should not ask for this: an
/// unprivileged one cannot go back.
///
/// # Errors
/// What the kernel did not grant (a sandbox that forbids the calls); the rest is as asked.
pub fn idle() -> io::Result<()> {
    // SAFETY: plain system calls on this thread (0); `parameters` is valid for the call, its priority 0 as
    // SCHED_IDLE wants.
    let results = unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        [
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE),
            libc::setpriority(libc::PRIO_PROCESS, 0, 19).into(),
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters).into(),
        ]
    };
    if results.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}
