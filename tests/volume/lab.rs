//! File systems made by the kernel and the distribution's tools, on loop devices: these tests run as root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a shell script; its end is the test's when it fails.
pub fn sh(script: &str) {
    let done = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{script}\n{text}");
}

/// A mounted file system, unmounted when it is dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(image: &Path, at: &Path, options: &str) -> Mounted {
        fs::create_dir_all(at).unwrap();
        sh(&format!("mount -o loop,{options} {} {}", image.display(), at.display()));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// An empty image of so many MiB with a file system made by `mkfs` (its path is appended).
pub fn image(dir: &Path, name: &str, mib: u64, mkfs: &str) -> PathBuf {
    let place = dir.join(name);
    fs::File::create(&place).unwrap().set_len(mib << 20).unwrap();
    sh(&format!("{mkfs} {} >&2", place.display()));
    place
}

/// Everything that a file system can hold, as far as this one can (`has_xattrs`: ext2 from mke2fs can, too).
pub fn fill(top: &Path) {
    let top = top.display();
    sh(&format!(
        r#"cd {top}; umask 022
        mkdir -p etc usr/bin 'a!' a/b/c dev var/empty many
        echo -n 'root:x:0:0' >etc/passwd; printf x >one-byte; : >empty
        head -c 3000000 /dev/urandom >usr/bin/three-megabytes
        head -c 70000 /dev/urandom >a/b/c/seventeen-blocks
        ln usr/bin/three-megabytes usr/bin/hard-link; ln a/b/c/seventeen-blocks 'a!/other name'
        chmod 4755 usr/bin/three-megabytes; chmod 1777 var/empty; chown 1234:70000 etc/passwd; chmod 0 empty
        printf start >sparse; printf middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        truncate -s 9000001 sparse; truncate -s 20000000 all-hole
        ln -s short short-link; ln -s "$(printf 'x%.0s' $(seq 59))" link-59; ln -s "$(printf 'x%.0s' $(seq 60))" link-60
        ln -s "$(printf 'long/%.0s' $(seq 180))" link-900
        mknod dev/null c 1 3; mknod dev/sda b 8 0; mknod dev/high c 300 70000; mkfifo dev/fifo
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("dev/socket")'
        touch $'line\nbreak' $'not-utf8-\xff\xfe' $'escape-\x1b[2J' 'back\slash' "$(printf 'n%.0s' $(seq 255))"
        touch -d '1935-05-05 00:00:00 UTC' before-1970; touch -d '2200-01-01 00:00:00 UTC' after-2038 2>/dev/null
        for size in 40 60 61 100 150 158 200; do head -c $size /dev/urandom >size-$size; done
        (cd many; seq -f 'file-%g' 1 4000 | xargs touch)
        setfattr -n user.comment -v 'a short one' etc/passwd; setfattr -n user.empty etc/passwd
        setfattr -n trusted.secret -v 0x00ff etc/passwd; setfattr -n security.selinux -v 'system_u:object_r:x:s0' etc/passwd
        setfattr -h -n trusted.on-link -v yes link-59; setfattr -h -n security.selinux -v label short-link
        setfattr -n user.large -v "$(printf 'v%.0s' $(seq 700))" a/b/c/seventeen-blocks
        setfacl -m u:1000:rwx,g:70000:r,m::rx etc/passwd; setfacl -d -m u:7:rw,o::- a/b
        setcap cap_net_raw,cap_net_admin+ep usr/bin/hard-link
        "#
    ));
}
