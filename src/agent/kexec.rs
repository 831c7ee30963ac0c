//! Past the firmware: kernel and initramfs of the boot script, loaded into the running kernel (kexec_file_load(2)).
//!
//! What iPXE does, by the same script: whoever asks for it has begun an attempt. So everything that can fail is tried
//! before it is asked for. The kernel checks signatures where Secure Boot is on; whatever it refuses, the firmware does.

use rustix::fs::MemfdFlags;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::Duration;

const KERNEL: &str = "/assets/vmlinuz";
const INITRD: &str = "/assets/initrd.img";
const SCRIPT_BYTES_MAX: u64 = 64 << 10;
/// An initramfs with all firmware files has 100 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// For one file: 100 MB over a slow line.
const FILE_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub(super) enum KexecError {
    #[error("{url} cannot be had")]
    Fetch { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0} cannot be kept in memory")]
    Memory(&'static str, #[source] io::Error),
    #[error("the kernel does not take another one")]
    Load(#[source] io::Error),
    #[error("the boot script is not that of a deploy environment")]
    Script,
    #[error("the kernel command line has a NUL in it")]
    CommandLine(#[source] NulError),
}

/// Loads what the script says, so that a reboot by kexec goes there.
///
/// # Errors
/// [`KexecError`]. Only with the last two was an attempt begun for nothing.
pub(super) fn load(server: &str, script: &str) -> Result<(), KexecError> {
    let server = server.trim_end_matches('/');
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .timeout_global(Some(FILE_TIMEOUT))
        .max_redirects(0)
        .proxy(None);
    let http: ureq::Agent = config.build().into();
    let kernel = in_memory(&http, "kernel", &format!("{server}{KERNEL}"))?;
    let initrd = in_memory(&http, "initramfs", &format!("{server}{INITRD}"))?;
    file_load(&kernel, &initrd, "regild.trial")?;
    let loaded = || {
        let text = fetch(&http, &format!("{server}{script}"), SCRIPT_BYTES_MAX)?;
        let command_line = command_line(&String::from_utf8_lossy(&text)).ok_or(KexecError::Script)?;
        file_load(&kernel, &initrd, &command_line)
    };
    // A kernel that stays loaded is started by the next plain reboot of some init systems, and this one has no orders.
    loaded().inspect_err(|_| unload())
}

/// Forgets a kernel that was loaded. That it fails means there is none.
fn unload() {
    const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
    // SAFETY: with this flag the kernel looks at no other argument (kexec_file_load(2)).
    unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1 as libc::c_long,
            -1 as libc::c_long,
            0usize,
            0usize,
            KEXEC_FILE_UNLOAD,
        )
    };
}

/// What the script's kernel is given, when the script boots the deploy environment.
fn command_line(script: &str) -> Option<String> {
    let line =
        |verb: &str| script.lines().find_map(|line| line.trim().strip_prefix(verb)?.strip_suffix(" || goto failed"));
    let (url, words) = line("kernel ")?.split_once(' ')?;
    let initrd = line("initrd ")?;
    let ours = script.starts_with("#!ipxe") && url.ends_with(KERNEL) && initrd.ends_with(INITRD);
    ours.then(|| words.to_string())
}

fn fetch(http: &ureq::Agent, url: &str, bytes_max: u64) -> Result<Vec<u8>, KexecError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| KexecError::Fetch { url: url.to_string(), source };
    let answer = http.get(url).call().map_err(|error| failed(error.into()))?;
    let mut body = Vec::new();
    let mut reader = answer.into_body().into_reader().take(bytes_max + 1);
    reader.read_to_end(&mut body).map_err(|error| failed(error.into()))?;
    if body.len() as u64 > bytes_max {
        return Err(failed(format!("more than {bytes_max} bytes").into()));
    }
    Ok(body)
}

fn in_memory(http: &ureq::Agent, what: &'static str, url: &str) -> Result<File, KexecError> {
    let content = fetch(http, url, FILE_BYTES_MAX)?;
    let kept = || -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create(what, MemfdFlags::CLOEXEC)?);
        io::Write::write_all(&mut file, &content)?;
        Ok(file)
    };
    kept().map_err(|error| KexecError::Memory(what, error))
}

/// A kernel that was loaded before is replaced.
fn file_load(kernel: &File, initrd: &File, command_line: &str) -> Result<(), KexecError> {
    let command_line = CString::new(command_line).map_err(KexecError::CommandLine)?;
    let bytes = command_line.as_bytes_with_nul();
    // SAFETY: the kernel reads `bytes.len()` bytes at the pointer, which live until the call is over, and reads the
    // two files by their descriptors, which `kernel` and `initrd` keep open; it writes to no memory of ours.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            libc::c_long::from(kernel.as_raw_fd()),
            libc::c_long::from(initrd.as_raw_fd()),
            bytes.len(),
            bytes.as_ptr(),
            0 as libc::c_ulong,
        )
    };
    if done == 0 { Ok(()) } else { Err(KexecError::Load(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_deploy_environment_s_script_gives_a_command_line() {
        let script = "#!ipxe\necho x\nkernel http://s:8080/assets/vmlinuz initrd=initrd.img regild.host=h panic=10 || goto failed\n\
                      initrd --name initrd.img http://s:8080/assets/initrd.img || goto failed\nboot || goto failed\n";
        assert_eq!(command_line(script).unwrap(), "initrd=initrd.img regild.host=h panic=10");
        let local = "#!ipxe\necho x\nsanboot --no-describe --drive 0x80 || goto nothing\n";
        assert_eq!(command_line(local), None);
        assert_eq!(command_line(&script.replace("vmlinuz", "other")), None);
        assert_eq!(command_line(&script.replace("initrd --name", "imgargs")), None);
        assert_eq!(command_line(""), None);
    }
}
