//! In the installed system: says that it runs, and asks again and again whether an order is open for this machine.
//! Told so, it reboots; firmware, boot script and deploy environment do the rest.
//!
//! It has no state, writes to no disk and never ends by itself: a server that is away is asked more and more seldom,
//! but always again. Who we are the server knows by our address. What the server says can do no more than reboot us,
//! and it says so once for each time that an order waits (`decide::standby`).

use super::boot_entry::{self, EFIVARS};
use super::kexec;
use super::restart::{self, How};
use crate::wire::reference::ImageRef;
use crate::wire::standby::{Reboot, Standby, StandbyAnswer};
use crate::{causes, clock};
use clap::Args;
use std::path::Path;
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The longest pause while the server does not answer.
const AWAY_PAUSE_SECONDS: u64 = 600;

#[derive(Debug, Args)]
pub struct Options {
    /// http://HOST:PORT of the server.
    #[arg(long, env = "REGILD_SERVER", value_name = "URL")]
    server: String,
    /// NAME:VERSION of this golden image.
    #[arg(long, value_name = "REF")]
    image: ImageRef,
    /// Mean time between two questions; longer while the server does not answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Go into the deploy environment by kexec, past the firmware, where the kernel allows it.
    #[arg(long)]
    kexec: bool,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{url} does not answer")]
    Silent { url: String, source: ureq::Error },
    #[error("{url} says {status}: {said}")]
    Refused { url: String, status: u16, said: String },
    #[error("{url} gives an answer that is not understood")]
    Answer { url: String, source: serde_json::Error },
}

/// Asks for ever.
pub fn run(options: &Options) -> ! {
    // What stands here is said once, and again when it changes: a journal must not fill up.
    let mut said = String::new();
    let mut tell = |line: String| {
        if line != said {
            println!("regild-agent: {line}");
            said = line;
        }
    };
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_TIMEOUT))
        .max_redirects(0)
        // A proxy that the image sets for its packages must not see this.
        .proxy(None)
        .http_status_as_error(false);
    let http: ureq::Agent = config.build().into();
    let (began, mut failures) = (clock::instant(), 0);
    loop {
        match ask(&http, options) {
            Ok(StandbyAnswer { reboot: Some(reboot), reason }) => {
                tell(format!("{reason}; rebooting into the network"));
                // Still here: it could not be rebooted. Asked again later, the server says the same.
                tell(format!("cannot reboot: {}", causes::in_one_line(&come_back(options, &reboot))));
                failures += 1;
            }
            Ok(StandbyAnswer { reboot: None, reason }) => {
                tell(format!("standby at {}: {reason}", options.server));
                failures = 0;
            }
            Err(error) => {
                tell(format!("{}; asking again", causes::in_one_line(&error)));
                failures += 1;
            }
        }
        // Nanoseconds of this machine's own: enough to part it from others. The kernel's generator is not asked: early
        // after a boot it may make its callers wait, and without a source of entropy for minutes.
        let dice = u64::try_from(began.elapsed().as_nanos()).unwrap_or(0);
        clock::sleep(pause(options.interval, failures, dice));
    }
}

fn ask(http: &ureq::Agent, options: &Options) -> Result<StandbyAnswer, AskError> {
    let url = format!("{}/agent/v1/standby", options.server.trim_end_matches('/'));
    let silent = |source| AskError::Silent { url: url.clone(), source };
    let unclear = |source| AskError::Answer { url: url.clone(), source };
    let up_seconds = u64::try_from(rustix::system::sysinfo().uptime).unwrap_or(0);
    let asked = Standby { image: options.image.to_string(), up_seconds, uefi: is_uefi() };
    let body = serde_json::to_vec(&asked).map_err(unclear)?;
    let mut answer = http.post(&url).content_type("application/json").send(&body[..]).map_err(silent)?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(silent)?;
    if status != 200 {
        let said = text.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(AskError::Refused { url, status, said });
    }
    serde_json::from_str(&text).map_err(unclear)
}

/// By kexec where that was asked for and can be done, else through the firmware. Returns only why it could not.
fn come_back(options: &Options, reboot: &Reboot) -> std::io::Error {
    if options.kexec {
        match kexec::load(&options.server, &reboot.script) {
            Ok(()) => return restart::restart(How::Kexec),
            Err(error) => println!("regild-agent: no kexec: {}; rebooting", causes::in_one_line(&error)),
        }
    }
    if is_uefi() {
        match boot_entry::network_next(Path::new(EFIVARS)) {
            Ok(Some(number)) => println!("regild-agent: UEFI boots entry {number:04X} next, over the network"),
            Ok(None) => println!("regild-agent: no UEFI network entry is known here; its boot order decides"),
            // The boot order says the same where an order of regild's was ever carried out.
            Err(error) => println!("regild-agent: no UEFI entry could be set for the next boot: {error}"),
        }
    }
    restart::restart(How::Firmware)
}

fn is_uefi() -> bool {
    Path::new("/sys/firmware/efi").exists()
}

/// The interval, doubled with each failure up to a limit, and a quarter more or less of it: machines that were
/// switched on together, or waited for one server together, do not stay together.
pub(super) fn pause(interval_seconds: u64, failures: u32, dice: u64) -> Duration {
    let longest = AWAY_PAUSE_SECONDS.max(interval_seconds);
    let mean = interval_seconds.saturating_mul(1 << failures.min(16)).min(longest);
    let millis = mean * 1000;
    Duration::from_millis(millis * 3 / 4 + dice % (millis / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_server_that_is_away_is_asked_more_and_more_seldom() {
        let mean = |failures| (pause(30, failures, 0) + pause(30, failures, 30_000 << failures.min(4))).as_secs() / 2;
        assert!(mean(0) < mean(1) && mean(1) < mean(2) && mean(2) < mean(4));
        assert!(pause(30, u32::MAX, u64::MAX) <= Duration::from_secs(750));
        assert_eq!(pause(3600, 0, 0), Duration::from_secs(2700));
    }

    proptest! {
        /// Never a busy loop, never for ever, whatever happens and however long.
        #[test]
        fn every_pause_is_bounded_both_ways(interval in 1u64..=3600, failures in any::<u32>(), dice in any::<u64>()) {
            let (pause, seconds) = (pause(interval, failures, dice), Duration::from_secs);
            prop_assert!(pause >= seconds(interval) * 3 / 4);
            prop_assert!(pause <= seconds(interval.max(AWAY_PAUSE_SECONDS)) * 5 / 4);
        }
    }
}
