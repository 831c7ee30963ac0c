//! Promises: a password at rest is unreadable and belongs to one place of one host; a key file that is missing,
//! damaged or open to others is refused by name, and is never replaced (faults.md X6, X7, R14).

use super::*;
use std::os::unix::fs::PermissionsExt;

const WORD: &str = "correct horse battery";

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("power.key");
    (dir, path)
}

#[test]
fn what_was_sealed_opens_for_the_same_place_of_the_same_host_only() {
    let (_dir, path) = place();
    let key = Key::open_or_create(&path).unwrap();
    let sealed = key.seal(&Secret::new(WORD.into()), "h-1", "redfish https://bmc:443 root");
    assert_eq!(key.unseal(&sealed, "h-1", "redfish https://bmc:443 root").unwrap().expose(), WORD);
    for (host, place) in [
        ("h-2", "redfish https://bmc:443 root"),
        ("h-1", "redfish https://evil:443 root"),
        // The border between the two is part of what is bound.
        ("h-1\0redfish https://bmc:443 root", ""),
    ] {
        let error = key.unseal(&sealed, host, place).unwrap_err();
        assert!(matches!(error, SealError::NotForThis { .. }), "{host} {place}: {error}");
    }
}

#[test]
fn the_stored_form_comes_back_and_never_holds_the_password() {
    let (_dir, path) = place();
    let key = Key::open_or_create(&path).unwrap();
    let secret = Secret::new(WORD.into());
    let sealed = key.seal(&secret, "h-1", "p");
    let stored = serde_json::to_string(&sealed).unwrap();
    let back: Sealed = serde_json::from_str(&stored).unwrap();
    assert_eq!(key.unseal(&back, "h-1", "p").unwrap(), secret);
    // The registry's records are in postcard.
    let back: Sealed = postcard::from_bytes(&postcard::to_stdvec(&sealed).unwrap()).unwrap();
    assert_eq!(back, sealed);
    assert_ne!(key.seal(&secret, "h-1", "p"), sealed, "two seals with the same nonce");

    let shown = format!("{secret} {secret:?} {sealed:?} {key:?} {stored}");
    assert!(!shown.contains(WORD) && !shown.contains(&clock::hex(WORD.as_bytes())), "{shown}");
}

#[test]
fn one_changed_bit_anywhere_is_noticed() {
    let (_dir, path) = place();
    let key = Key::open_or_create(&path).unwrap();
    let text = String::from(key.seal(&Secret::new(WORD.into()), "h-1", "p"));
    for at in FORM.len()..text.len() {
        let digit = u8::from_str_radix(&text[at..=at], 16).unwrap() ^ 1;
        let changed = format!("{}{digit:x}{}", &text[..at], &text[at + 1..]);
        let sealed = Sealed::try_from(changed).unwrap();
        assert!(key.unseal(&sealed, "h-1", "p").is_err(), "digit {at}");
    }
    for text in ["", "v1.", "v2.00", "v1.zz", "v1.+1", "v1.é", &text[..40], &format!("v1.{}", "00".repeat(2000))] {
        assert!(Sealed::try_from(text.to_string()).is_err(), "{text}");
    }
}

#[test]
fn the_key_is_made_once_for_its_owner_alone() {
    let (dir, path) = place();
    let sealed = Key::open_or_create(&path).unwrap().seal(&Secret::new(WORD.into()), "h-1", "p");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(Key::open_or_create(&path).unwrap().unseal(&sealed, "h-1", "p").unwrap().expose(), WORD);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1, "an unfinished key was left behind");
}

#[test]
fn a_key_file_that_cannot_be_relied_on_is_refused_by_name() {
    let (dir, path) = place();
    let said = |path: &Path| {
        let opened = Key::open(path).map(|_| ()).unwrap_err();
        let made = Key::open_or_create(path).map(|_| ());
        assert!(matches!(opened, SealError::Missing { .. }) || made.is_err(), "{opened}, yet it was taken");
        crate::causes::in_one_line(&opened)
    };
    let check = |path: &Path, what: &str| {
        let said = said(path);
        assert!(said.contains(path.to_str().unwrap()) && said.contains(what), "{said}");
    };
    let write = |bytes: &[u8], mode: u32| {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    write(&[7; 31], 0o600);
    check(&path, "31 usable bytes");
    write(&[], 0o600);
    check(&path, "0 usable bytes");
    write(&[0; 32], 0o600);
    check(&path, "0 usable bytes");
    for mode in [0o666, 0o640, 0o604] {
        write(&[7; 32], mode);
        check(&path, &format!("{mode:04o}"));
    }
    let link = dir.path().join("link.key");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    check(&link, "cannot be read");
    check(dir.path(), "is not a plain file");
    let nowhere = dir.path().join("absent/power.key");
    assert!(Key::open_or_create(&nowhere).is_err_and(|error| error.to_string().contains("cannot be made")));
}

#[test]
fn a_missing_or_exchanged_key_is_said_and_not_papered_over() {
    let (_dir, path) = place();
    let sealed = Key::open_or_create(&path).unwrap().seal(&Secret::new(WORD.into()), "h-1", "p");
    std::fs::remove_file(&path).unwrap();
    let error = Key::open(&path).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()) && !path.exists(), "{error}");
    let error = Key::open_or_create(&path).unwrap().unseal(&sealed, "h-1", "p").unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
}
