//! Directories whose files may differ as they like: a privilege that appears in one is found, and nothing else, and
//! nothing else of them is read.

use crate::meddled::Meddled;
use crate::place::{CYCLE, Place, rule};
use regild::agent::drift::{Look, Reach, Spots};
use std::sync::Mutex;

/// CAP_SYS_ADMIN as setcap(8) writes it: `struct vfs_cap_data` of revision 2.
const SET_CAPABILITY: &str = "capable() { python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"security.capability\", \
                              bytes.fromhex(\"0100000200002000000000000000000000000000\"))' \"$1\"; }; ";

fn place() -> Place {
    let mut place = Place::small();
    place.write("home/ann/old/deep/file", b"old");
    place.write("home/ann/helper", b"image's own program");
    place.write("var/tmp/image", b"1");
    place.run("mkdir -p tmp var/lib/docker; chmod 1777 tmp; chmod 4755 home/ann/helper; cp -p home/ann/helper home/ann/second");
    place.record();
    place.rules = ["/tmp/**", "/var/tmp/**", "/var/log/**", "/home/**"]
        .map(|path| rule(&format!(r#"{{"pattern": "{path}", "action": "allow", "from": "defaults of debian"}}"#)))
        .to_vec();
    let all = r#"["added", "removed", "kind", "content", "mode", "owner", "xattrs", "privilege"]"#;
    let docker =
        format!(r#"{{"pattern": "/var/lib/docker/**", "action": "allow", "aspects": {all}, "from": "class"}}"#);
    place.rules.push(rule(&docker));
    place
}

/// What people and services do there. Nobody gets a right by any of it.
const USE: &str = "mkdir -p tmp/a/b home/ben var/log/app; head -c 5000000 /dev/zero > var/log/app/log; echo 1 > tmp/a/b/c; \
                   echo 1 > tmp/program; chmod 755 tmp/program; ln -s /bin/su tmp/link; mkfifo tmp/fifo; mkdir tmp/shared; \
                   chmod 2777 tmp/shared; mknod home/ben/whiteout c 0 0; chown 7:7 tmp; rm -r home/ann/old; rm var/log/syslog; \
                   mkdir var/log/syslog; chmod 755 home/ann/second; \
                   python3 -c 'import os; os.setxattr(\"tmp/program\", \"user.x\", b\"1\")'; ";

#[test]
fn a_privilege_that_appears_where_everything_is_allowed_is_found_and_nothing_else() {
    let place = place();
    assert_eq!(place.scan(CYCLE).lines, [""; 0]);
    place.run(USE);
    assert_eq!(place.scan(CYCLE).lines, [""; 0]);
    let makes = "echo 1 > tmp/a/b/su; chmod 4755 tmp/a/b/su; echo 1 > var/log/app/group; chmod 2711 var/log/app/group; \
                 mknod home/ben/disk b 8 0; mknod var/tmp/mem c 1 1; echo 1 > tmp/capable; chmod 755 tmp/capable; \
                 capable tmp/capable; rm var/tmp/image; echo 1 > var/tmp/image; chmod 4755 var/tmp/image; \
                 echo 1 > var/lib/docker/su; chmod 4755 var/lib/docker/su";
    place.run(&[SET_CAPABILITY, makes].concat());
    let found = [
        "privilege /home/ben/disk",
        "privilege /tmp/a/b/su",
        "privilege /tmp/capable",
        "privilege /var/log/app/group",
        "privilege /var/tmp/image",
        "privilege /var/tmp/mem",
    ];
    for scans in 1..=2 {
        let said = place.scan(CYCLE);
        assert_eq!(said.lines, found);
        assert!(said.found.iter().all(|found| found.scans == scans));
    }
    let capable = &place.scan(CYCLE).found[2].finding;
    assert_eq!(capable.aspects().to_string(), "added+privilege");
    assert_eq!(capable.seen.as_ref().unwrap().xattrs[0].1.len(), 20, "told as it is");
    place.run("rm home/ben/disk tmp/capable var/tmp/mem; chmod 755 tmp/a/b/su var/log/app/group var/tmp/image");
    assert_eq!(place.scan(CYCLE).lines, [""; 0]);
}

/// The image's own set-uid program there stays what it is: nobody gets its right for another program.
#[test]
fn a_privileged_program_of_the_image_that_is_swapped_where_everything_is_allowed_is_found() {
    let place = place();
    assert_eq!(place.scan(CYCLE).lines, [""; 0]);
    place.run("printf \"image's own pr0gram\" > home/ann/helper; chmod 4755 home/ann/helper; chown 5 home/ann/second; chmod 4755 home/ann/second");
    assert_eq!(place.scan(CYCLE).lines, ["privilege /home/ann/helper", "privilege /home/ann/second"]);
}

/// No content of what is allowed is opened, whatever kind of scan; what was looked at and what not is said.
#[test]
fn nothing_but_privileges_is_read_where_everything_is_allowed() {
    let place = place();
    place.run(USE);
    let tree = place.tree();
    let opened = Mutex::new(Vec::new());
    let note = |path: &[u8]| opened.lock().unwrap().push(String::from_utf8(path.to_vec()).unwrap());
    let meddled = Meddled { before_open: Box::new(note), ..Meddled::new(&tree) };
    let said = place.scan_of(&&meddled, Look::Full);
    assert_eq!(said.lines, [""; 0]);
    let mut opened = opened.lock().unwrap().clone();
    opened.sort();
    let of_allowed =
        |path: &String| ["/tmp/", "/var/tmp/", "/var/log/", "/home/"].iter().any(|top| path.starts_with(top));
    assert_eq!(opened.iter().filter(|path| of_allowed(path)).collect::<Vec<_>>(), ["/home/ann/helper"]);
    let gaps: Vec<_> = said.summary.gaps.iter().map(|gap| (gap.path.0.as_slice(), gap.reason.as_str())).collect();
    let thin = "allowed by defaults of debian; looked through for set-uid files, capabilities and devices only";
    let expected = [
        ("/home", thin),
        ("/tmp", thin),
        ("/var/lib/docker", "allowed by class"),
        ("/var/log", thin),
        ("/var/tmp", thin),
    ];
    assert_eq!(gaps, expected.map(|(path, reason)| (path.as_bytes(), reason)));
}

/// And a rule that names privileges allows them.
#[test]
fn a_look_at_some_places_finds_privileges_in_them() {
    let mut place = place();
    place.scan(CYCLE);
    place.run(&[USE, "cp tmp/program home/ann/su; chmod 4755 home/ann/su; cp -p home/ann/su tmp/a/b/su"].concat());
    let look = |place: &Place, spots: &[(&str, Reach)]| {
        let mut all = Spots::default();
        spots.iter().for_each(|(path, reach)| all.add(path.as_bytes(), *reach));
        place.scan(Look::Only(&all)).lines
    };
    assert_eq!(look(&place, &[("/home", Reach::Everything)]), ["privilege /home/ann/su"]);
    assert_eq!(look(&place, &[("/home/ann", Reach::Everything)]), ["privilege /home/ann/su"]);
    assert_eq!(look(&place, &[("/home/ann/old", Reach::Everything), ("/tmp/program", Reach::Itself)]), [""; 0]);
    assert_eq!(look(&place, &[("/tmp/a/b/su", Reach::Itself)]), ["privilege /tmp/a/b/su"]);
    let wanted = r#"{"pattern": "/tmp/**", "action": "allow", "aspects": ["privilege"]}"#;
    place.rules.insert(0, rule(wanted));
    assert_eq!(place.scan(CYCLE).lines, ["privilege /home/ann/su"]);
}
