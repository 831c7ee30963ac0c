//! The Debian package: goes in, keeps what a person set over an upgrade, and leaves nothing behind. On a root directory
//! that has no more than a shell; what the program in it does is not asked here.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_package_goes_in_keeps_its_settings_and_goes_without_a_trace() {
    let scratch = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let build = |out: &str| {
        let out = scratch.path().join(out);
        let mut build = Command::new(here.join("boot-assets/package/build-deb.sh"));
        let done = build.arg(&out).env("REGILD_AGENT", "/bin/busybox").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read_dir(out).unwrap().next().unwrap().unwrap().path()
    };
    let deb = build("a");
    assert!(fs::read(&deb).unwrap() == fs::read(build("b")).unwrap(), "the same sources, other bytes");
    let root = scratch.path().join("root");
    for directory in ["bin", "var/lib/dpkg/updates", "var/lib/dpkg/info", "etc"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "rm"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let dpkg = |action: &str, what: &Path| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display())).args(["--log=/dev/null", action]).arg(what);
        let done = dpkg.output().unwrap();
        assert!(done.status.success(), "{action}: {}", String::from_utf8_lossy(&done.stderr));
    };
    dpkg("--install", &deb);
    let settings = root.join("etc/default/regild-agent");
    for file in ["usr/sbin/regild-agent", "lib/systemd/system/regild-agent-watch.service"] {
        assert!(root.join(file).is_file(), "{file}");
    }
    fs::write(&settings, "REGILD_SERVER=http://192.0.2.1:8080\n").unwrap();
    fs::create_dir_all(root.join("var/lib/regild-agent")).unwrap();
    dpkg("--install", &deb);
    assert!(fs::read_to_string(&settings).unwrap().contains("192.0.2.1"), "a person's settings are kept");
    dpkg("--remove", Path::new("regild-agent"));
    assert!(settings.exists() && root.join("var/lib/regild-agent").exists() && !root.join("usr/sbin").exists());
    dpkg("--purge", Path::new("regild-agent"));
    assert!(!settings.exists() && !root.join("var/lib/regild-agent").exists());
}
