//! What a test needs to ask for power: a server's key and command directory, a host, impatient limits.

use std::path::Path;
use std::time::Duration;

use regild::decide::mac::Mac;
use regild::power::{Action, Failed, Host, Limits, Outcome, Power, PowerError, Report, Settings, Written};

pub const MACS: [Mac; 1] = [Mac([0x52, 0x54, 0, 0x77, 0, 0x21])];
pub const HOST: Host<'_> = Host { id: "h-525400770021", name: Some("web-1"), address: None, macs: &MACS };
/// A driver that does not come back fails its test here, instead of hanging all of them.
const HANGS: Duration = Duration::from_secs(100);

pub struct Desk {
    pub dir: tempfile::TempDir,
    pub power: Power,
}

impl Desk {
    pub fn new() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(20),
            state: Duration::from_secs(40),
            poll: Duration::from_millis(50),
            action: Duration::from_secs(90),
            tries_max: 4,
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_millis(100),
        };
        let commands = dir.path().join("commands");
        std::fs::create_dir(&commands).unwrap();
        let power = Power { key_file: dir.path().join("power.key"), command_dir: commands, limits };
        Desk { dir, power }
    }

    /// As in a fleet document.
    pub fn settings(&self, text: &str) -> Settings {
        let written: Written = toml::from_str(text).unwrap();
        written.check(&HOST, &self.power.key_file, None).unwrap()
    }

    pub fn act(&self, settings: &Settings, action: Action) -> Result<Outcome, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let acted =
            runtime.block_on(async { tokio::time::timeout(HANGS, self.power.act(&HOST, settings, action)).await });
        acted.expect("the driver never came back")
    }

    pub fn done(&self, settings: &Settings, action: Action) -> Report {
        match self.act(settings, action) {
            Ok(Outcome::Done(report)) => report,
            other => panic!("{action} was not done: {other:?}"),
        }
    }

    pub fn fails(&self, settings: &Settings, action: Action) -> (PowerError, Report) {
        match self.act(settings, action) {
            Err(Failed { error, report }) => (error, *report),
            Ok(other) => panic!("{action} did not fail: {other:?}"),
        }
    }
}

pub fn tries(report: &Report, step: &str) -> u32 {
    let step = report.steps.iter().find(|known| known.what.starts_with(step));
    step.unwrap_or_else(|| panic!("no such step in {report:?}")).tries
}

/// Everything that is logged while `run` runs, at every level, by every crate.
pub fn logged(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}
