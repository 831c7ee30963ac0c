//! Classes: whole sets of paths that differ from the image for one known reason, as data. A policy names a class in
//! the place of its paths, and the defaults of each distribution are made of classes (`defaults`).
//!
//! A class holds what its sentence says and no more. The ways to differ are given path by path: a file that a system
//! writes may be `added` or have other `content`, and is still a finding once its mode or its owner changed.

use super::finding::{Aspect, Aspects};

/// A named set of paths.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    pub name: &'static str,
    /// Why these differ, for `drift classes` and as the reason of a rule that gives none.
    pub sentence: &'static str,
    pub members: &'static [Member],
}

/// Some of its paths (patterns as `policy::Pattern` reads them) and the ways in which they may differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub aspects: Aspects,
    pub patterns: &'static [&'static str],
}

/// Whatever may lie there, but no set-uid or set-gid file, none with capabilities and no device.
const ANY: Aspects = Aspects::ALL_BUT_PRIVILEGE;
/// These too, where other systems lie as a whole.
const ANY_WITH_PRIVILEGE: Aspects = Aspects::ALL;
/// Made by the system where the image does not have it, and left alone where it has.
const MADE: Aspects = Aspects::NONE.with(Aspect::Added);
/// Written by the system, in the image or not.
const WRITTEN: Aspects = Aspects::NONE.with(Aspect::Added).with(Aspect::Content);
/// Comes and goes too.
const COMES_AND_GOES: Aspects = WRITTEN.with(Aspect::Removed);
/// Written under another name and moved into place, so that its mode is the writer's own.
const REPLACED: Aspects = WRITTEN.with(Aspect::Mode);
/// There in every image, and rewritten in place.
const REWRITTEN: Aspects = Aspects::NONE.with(Aspect::Content);

const fn of(aspects: Aspects, patterns: &'static [&'static str]) -> Member {
    Member { aspects, patterns }
}

/// The class of that name.
#[must_use]
pub fn class(name: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.name == name)
}

/// All that there are; those that no default takes come last.
pub static CLASSES: &[Class] = &[
    Class {
        name: "kernel-filesystems",
        sentence: "what the kernel and the boot make anew each time: /proc, /sys, /dev, /run",
        members: &[of(ANY, &["/proc/**", "/sys/**", "/dev/**", "/run/**"])],
    },
    Class { name: "logs", sentence: "logs grow and are rotated", members: &[of(ANY, &["/var/log/**"])] },
    Class {
        name: "journal",
        sentence: "the journal of systemd and its index of messages",
        members: &[
            of(ANY, &["/var/log/journal/**"]),
            of(COMES_AND_GOES, &["/var/lib/systemd/catalog/database", "/var/lib/systemd/journal-upload/state"]),
        ],
    },
    Class { name: "tmp", sentence: "temporary files", members: &[of(ANY, &["/tmp/**", "/var/tmp/**"])] },
    Class {
        name: "machine-id",
        sentence: "the machine's own identity, made at its first boot",
        members: &[of(WRITTEN, &["/etc/machine-id", "/var/lib/dbus/machine-id"])],
    },
    Class {
        name: "ssh-host-keys",
        sentence: "host keys of OpenSSH, made at the first boot",
        members: &[of(WRITTEN, &["/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub"])],
    },
    Class {
        name: "host-name",
        sentence: "the machine's own name",
        members: &[of(WRITTEN, &["/etc/hostname", "/etc/hosts"])],
    },
    Class {
        name: "resolver",
        sentence: "name servers come by DHCP; the file is often a link that the resolver sets",
        members: &[of(REPLACED.with(Aspect::Kind), &["/etc/resolv.conf"])],
    },
    Class {
        name: "network-state",
        sentence: "leases and the memory of network services",
        members: &[of(
            COMES_AND_GOES.with(Aspect::Mode).with(Aspect::Owner),
            &[
                "/var/lib/dhcp/*.lease",
                "/var/lib/dhcp/*.leases",
                "/var/lib/dhclient/*.lease",
                "/var/lib/dhclient/*.leases",
                "/var/lib/dhcpcd/**",
                "/var/lib/NetworkManager/*.lease",
                "/var/lib/NetworkManager/timestamps",
                "/var/lib/NetworkManager/seen-bssids",
                "/var/lib/NetworkManager/secret_key",
                "/var/lib/NetworkManager/NetworkManager.state",
                "/var/lib/systemd/network/**",
                "/var/lib/systemd/rfkill/*",
            ],
        )],
    },
    Class {
        name: "cloud-init",
        sentence: "what cloud-init fetched, made of it, and remembers to have done; not scripts for every boot",
        members: &[
            of(
                ANY,
                &[
                    "/var/lib/cloud/instance",
                    "/var/lib/cloud/instances/**",
                    "/var/lib/cloud/data/**",
                    "/var/lib/cloud/sem/**",
                ],
            ),
            // The empty directories; a script in one of them runs at a boot and is a finding.
            of(
                MADE,
                &[
                    "/var/lib/cloud/handlers",
                    "/var/lib/cloud/scripts",
                    "/var/lib/cloud/scripts/per-boot",
                    "/var/lib/cloud/scripts/per-instance",
                    "/var/lib/cloud/scripts/per-once",
                    "/var/lib/cloud/scripts/vendor",
                ],
            ),
        ],
    },
    Class {
        name: "cloud-init-network",
        sentence: "network configuration that cloud-init writes from what the site's data source says, in formats that run nothing",
        members: &[of(
            REPLACED,
            &[
                "/etc/netplan/50-cloud-init.yaml",
                "/etc/systemd/network/10-cloud-init-*.network",
                "/etc/systemd/network/10-cloud-init-*.link",
                "/etc/NetworkManager/system-connections/cloud-init-*.nmconnection",
                "/etc/NetworkManager/conf.d/99-cloud-init.conf",
            ],
        )],
    },
    Class {
        name: "random-seed",
        sentence: "the random numbers that a boot leaves for the next one",
        members: &[of(REPLACED, &["/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed"])],
    },
    Class {
        name: "timestamps",
        sentence: "when something last ran: timers, clocks, the boot's own marks, leap seconds",
        members: &[of(
            COMES_AND_GOES.with(Aspect::Mode).with(Aspect::Owner),
            &[
                "/etc/.updated",
                "/var/.updated",
                "/etc/adjtime",
                "/var/lib/systemd/timers/**",
                "/var/lib/systemd/timesync/**",
                "/var/lib/private/systemd/timesync/**",
                "/var/lib/chrony/*",
                "/var/lib/ntp/*.drift",
                "/var/lib/ntpsec/*.drift",
                "/var/lib/ntp/leapseconds",
                "/var/spool/anacron/*",
                "/var/spool/cron/atjobs/.SEQ",
                "/var/lib/plymouth/boot-duration",
            ],
        )],
    },
    Class {
        name: "service-state",
        sentence: "small state that services of the system itself keep: rotation, backlights, crashes, first-login notes",
        members: &[
            // The empty directory; a user in it whose services start at boot is a finding.
            of(MADE, &["/var/lib/systemd/linger"]),
            of(
                COMES_AND_GOES.with(Aspect::Mode).with(Aspect::Owner),
                &[
                    "/var/lib/logrotate/status",
                    "/var/lib/logrotate/logrotate.status",
                    "/var/lib/logrotate.status",
                    "/var/lib/rsyslog/imjournal.state",
                    "/var/lib/systemd/backlight/*",
                    "/var/lib/systemd/coredump/**",
                    "/var/lib/systemd/pstore/**",
                    "/var/lib/systemd/ephemeral-trees/**",
                    "/var/crash/**",
                    "/var/lib/sudo/lectured/**",
                    "/var/lib/sudo/ts/**",
                    "/var/db/sudo/lectured/**",
                    "/var/lib/os-prober/labels",
                    "/var/lib/upower/**",
                    "/var/lib/fwupd/**",
                    "/var/lib/tpm2-tss/**",
                    "/var/lib/private",
                    "/var/cache/private",
                    "/var/lib/smartmontools/*",
                    "/var/lib/irqbalance/**",
                ],
            ),
        ],
    },
    Class {
        name: "swap",
        sentence: "content of swap files that the image has",
        members: &[of(REWRITTEN, &["/swapfile", "/swap.img", "/swap/swapfile"])],
    },
    Class {
        name: "lost-found",
        sentence: "what a file system check found",
        members: &[of(ANY, &["/lost+found/**", "/boot/lost+found/**", "/home/lost+found/**", "/var/lost+found/**"])],
    },
    Class {
        name: "shell-histories",
        sentence: "what logging in leaves behind: histories and caches, no start-up file and no key",
        members: &[
            of(
                COMES_AND_GOES,
                &[
                    "/root/.bash_history",
                    "/root/.zsh_history",
                    "/root/.lesshst",
                    "/root/.viminfo",
                    "/root/.python_history",
                    "/root/.wget-hsts",
                    "/root/.ssh/known_hosts",
                    "/root/.ssh/known_hosts.old",
                    "/home/*/.bash_history",
                    "/home/*/.zsh_history",
                    "/home/*/.lesshst",
                    "/home/*/.viminfo",
                    "/home/*/.python_history",
                    "/home/*/.wget-hsts",
                    "/home/*/.sudo_as_admin_successful",
                    "/home/*/.ssh/known_hosts",
                    "/home/*/.ssh/known_hosts.old",
                ],
            ),
            of(ANY, &["/root/.cache/**", "/home/*/.cache/**"]),
        ],
    },
    Class {
        name: "account-backups",
        sentence: "the copies that the account tools keep of the account files, which no program reads, and their lock",
        members: &[of(
            REPLACED.with(Aspect::Removed),
            &[
                "/etc/passwd-",
                "/etc/shadow-",
                "/etc/group-",
                "/etc/gshadow-",
                "/etc/subuid-",
                "/etc/subgid-",
                "/etc/.pwd.lock",
                "/var/lib/extrausers/*-",
            ],
        )],
    },
    Class {
        name: "package-caches",
        sentence: "package lists, downloads and other caches that are made again when they are missing",
        members: &[
            of(
                ANY,
                &[
                    "/var/cache/apt/**",
                    "/var/lib/apt/lists/**",
                    "/var/lib/apt/periodic/**",
                    "/var/cache/debconf/**",
                    "/var/cache/apt-show-versions/**",
                    "/var/cache/apt-xapian-index/**",
                    "/var/lib/command-not-found/**",
                    "/var/cache/dnf/**",
                    "/var/cache/yum/**",
                    "/var/cache/libdnf5/**",
                    "/var/lib/dnf/repos/**",
                    "/var/lib/dnf/countme",
                    "/var/cache/PackageKit/**",
                    "/var/cache/man/**",
                    "/var/cache/ldconfig/**",
                    "/var/cache/fontconfig/**",
                    "/var/cache/apparmor/**",
                    "/var/cache/cracklib/**",
                    "/var/cache/pollinate/**",
                    "/var/cache/snapd/**",
                    "/var/cache/motd-news",
                ],
            ),
            of(
                COMES_AND_GOES.with(Aspect::Mode),
                &[
                    "/var/lib/apt/daily_lock",
                    "/var/lib/apt/listchanges.db",
                    "/var/lib/apt/mirrors/partial",
                    "/var/lib/dpkg/lock",
                    "/var/lib/dpkg/lock-frontend",
                    "/var/lib/dpkg/triggers/Lock",
                    "/var/lib/unattended-upgrades/*",
                    "/var/lib/rpm/.rpm.lock",
                    "/usr/lib/sysimage/rpm/.rpm.lock",
                    "/var/lib/PackageKit/transactions.db",
                ],
            ),
        ],
    },
    Class {
        name: "backups",
        sentence: "copies that Debian's timers keep of the package database",
        members: &[of(ANY, &["/var/backups/**"])],
    },
    Class {
        name: "hardware-database",
        sentence: "udev's compiled hardware database, made of the files of its packages",
        members: &[of(REPLACED, &["/etc/udev/hwdb.bin"])],
    },
    Class {
        name: "bootloader-state",
        sentence: "the block in which GRUB notes how the last boot went; where it holds kernel parameters (RHEL 8), report it",
        members: &[of(REWRITTEN, &["/boot/grub/grubenv", "/boot/grub2/grubenv"])],
    },
    Class {
        name: "agent",
        sentence: "regild's own agent: its key, what it knows, what it has yet to send",
        members: &[of(ANY, &["/var/lib/regild-agent/**"])],
    },
    Class {
        name: "ubuntu-services",
        sentence: "state of Ubuntu's own services: update notes, Pro client, message of the day",
        members: &[of(
            COMES_AND_GOES.with(Aspect::Mode).with(Aspect::Owner),
            &[
                "/var/lib/update-notifier/**",
                "/var/lib/ubuntu-advantage/**",
                "/var/lib/ubuntu-release-upgrader/**",
                "/var/lib/update-manager/**",
                "/var/lib/landscape/**",
                "/var/lib/apport/coredump/**",
                "/var/lib/grub/esp/**",
                "/var/lib/ucf/cache/**",
            ],
        )],
    },
    Class {
        name: "snap-state",
        sentence: "snapd's own state; the snaps themselves are read-only and signed",
        members: &[of(
            ANY,
            &[
                "/var/lib/snapd/state.json",
                "/var/lib/snapd/system-key",
                "/var/lib/snapd/state.lock",
                "/var/lib/snapd/sequence/**",
                "/var/lib/snapd/cookie/**",
                "/var/lib/snapd/cache/**",
                "/var/lib/snapd/errtracker.db",
                "/var/lib/snapd/assertions/**",
                "/var/lib/snapd/device/**",
                "/var/snap/**",
            ],
        )],
    },
    Class {
        name: "rhel-services",
        sentence: "state of services that RHEL and its relatives install: subscription, insights, tuning, SSSD's caches",
        members: &[of(
            COMES_AND_GOES.with(Aspect::Mode).with(Aspect::Owner),
            &[
                "/var/lib/rhsm/cache/**",
                "/var/lib/rhsm/facts/*",
                "/var/lib/insights/**",
                "/var/lib/sss/db/**",
                "/var/lib/sss/mc/**",
                "/var/lib/sss/pubconf/**",
                "/var/lib/sss/pipes/**",
                "/var/lib/authselect/backups/**",
                "/var/lib/setroubleshoot/**",
                "/var/lib/selinux/*/semanage.*.LOCK",
                "/var/lib/tuned/**",
                "/var/lib/abrt/**",
                "/var/lib/rpm-state/**",
                "/var/spool/abrt/**",
                "/var/lib/mlocate/**",
                "/var/lib/plocate/**",
                "/var/lib/dnf/history.sqlite-shm",
                "/var/lib/dnf/history.sqlite-wal",
            ],
        )],
    },
    // From here on: in no defaults. A policy that allows one of these says so itself.
    Class {
        name: "package-database",
        sentence: "the database of dpkg or rpm: what is installed is what the image is, so allow it only where packages may change",
        members: &[of(
            ANY,
            &[
                "/var/lib/dpkg/**",
                "/var/lib/apt/extended_states",
                "/var/lib/rpm/**",
                "/usr/lib/sysimage/rpm/**",
                "/var/lib/dnf/**",
            ],
        )],
    },
    Class {
        name: "cloud-init-network-scripts",
        sentence: "the same in formats that can name programs to run (ifupdown, ifcfg, udev): code by itself, so no default takes it",
        members: &[of(
            REPLACED,
            &[
                "/etc/network/interfaces.d/50-cloud-init",
                "/etc/sysconfig/network-scripts/ifcfg-eth*",
                "/etc/udev/rules.d/70-persistent-net.rules",
            ],
        )],
    },
    Class {
        name: "user-homes",
        sentence: "all that people keep at home, with start-up files and keys: what logs in as whom",
        members: &[of(ANY, &["/home/**", "/root/**"])],
    },
    Class {
        name: "containers",
        sentence: "images, layers and volumes of container engines and of the kubelet, set-uid programs and devices in them",
        members: &[of(
            ANY_WITH_PRIVILEGE,
            &[
                "/var/lib/docker/**",
                "/var/lib/containerd/**",
                "/var/lib/containers/**",
                "/var/lib/kubelet/**",
                "/var/lib/cni/**",
                "/var/lib/rancher/**",
                "/var/lib/lxc/**",
                "/var/lib/machines/**",
                "/opt/containerd/**",
            ],
        )],
    },
    Class {
        name: "databases",
        sentence: "data of database servers",
        members: &[of(
            ANY,
            &[
                "/var/lib/mysql/**",
                "/var/lib/postgresql/**",
                "/var/lib/pgsql/**",
                "/var/lib/mongodb/**",
                "/var/lib/redis/**",
                "/var/lib/etcd/**",
                "/var/lib/prometheus/**",
                "/var/lib/elasticsearch/**",
            ],
        )],
    },
    Class {
        name: "mail",
        sentence: "queues and boxes of mail",
        members: &[of(ANY, &["/var/mail/**", "/var/spool/mail/**", "/var/spool/postfix/**", "/var/spool/exim4/**"])],
    },
    Class {
        name: "served-data",
        sentence: "what the machine serves",
        members: &[of(ANY, &["/srv/**", "/var/www/**"])],
    },
    Class {
        name: "python-bytecode",
        sentence: "compiled Python beside its source; code by itself, so no default takes it",
        members: &[of(ANY, &["/usr/lib/**/__pycache__/**", "/usr/local/lib/**/__pycache__/**"])],
    },
];
