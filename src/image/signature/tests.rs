//! A signature is worth what it says: this content under this name, by a key that is trusted here.

use super::*;
use crate::image::tests::{image, import, store};
use std::process::Command;

fn entry(signed: Signed) -> Entry {
    Entry { signed, added_at: 5, added_by: "ann".into() }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn trusted(seed: u8) -> Vec<PublicKey> {
    vec![PublicKey::Ed25519(key(seed).verifying_key())]
}

fn said(record: &Record) -> String {
    statement(&record.image, &record.manifest, &record.content_digest)
}

/// RFC 8032, section 7.1, test 1: these are the signatures that everybody else makes.
#[test]
fn keys_and_signatures_are_those_of_rfc_8032() {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let seed: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&seed[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let key = private_key(&private_pem(seed.try_into().unwrap())).unwrap();
    let public = crate::clock::hex(key.verifying_key().as_bytes());
    assert_eq!(public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    let Signed::Ed25519 { signature, .. } = Signed::by(&key, "") else { panic!() };
    assert!(
        crate::clock::hex(&BASE64.decode(signature).unwrap()).starts_with("e5564300c360ac729086e2cc806e828a84877f1e")
    );
    let text = PublicKey::Ed25519(key.verifying_key()).text();
    assert_eq!(PublicKey::parse(&text).unwrap().text(), text);
}

#[test]
fn a_signature_binds_name_version_and_content() {
    let (_dir, store) = store();
    let first = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let same_content = import(&store, "a:2", &image(1)[..]).unwrap().record().clone();
    let other = import(&store, "a:3", &image(3)[..]).unwrap().record().clone();
    let signed = Signed::by(&key(1), &said(&first));
    store.add_signature(&first, entry(signed.clone()), &trusted(1)).unwrap();
    store.add_signature(&first, entry(signed.clone()), &trusted(1)).unwrap();
    let verdicts = store.verify(&first, &trusted(1)).unwrap();
    assert_eq!(verdicts.len(), 1, "twice the same is one");
    assert_eq!(verdicts[0].key, Some(trusted(1)[0].text()));
    // An old version under a new name: refused when it is offered, and worth nothing when it is put there all the same.
    for wrong in [&same_content, &other] {
        let refused = store.add_signature(wrong, entry(signed.clone()), &trusted(1)).unwrap_err();
        assert!(matches!(refused, SignatureError::Wrong { .. }), "{refused}");
        fs::copy(store.signature_path(&first.image), store.signature_path(&wrong.image)).unwrap();
        assert_eq!(store.verify(wrong, &trusted(1)).unwrap()[0].key, None);
    }
    // Somebody who is not trusted here.
    store.add_signature(&other, entry(Signed::by(&key(2), &said(&other))), &trusted(1)).unwrap();
    assert!(store.verify(&other, &trusted(1)).unwrap().iter().all(|verdict| verdict.key.is_none()));
    assert!(store.verify(&other, &trusted(2)).unwrap().iter().any(|verdict| verdict.key.is_some()));
}

#[test]
fn what_is_no_key_or_no_signature_is_refused_with_what_is_right() {
    let (_dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    for text in ["", "ed25519:", "ed25519:AAAA", "RWabc", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]
    {
        assert!(matches!(PublicKey::parse(text), Err(SignatureError::PublicKey)), "{text}");
    }
    // The neutral element: everything would be signed by it.
    let weak = format!("ed25519:{}", BASE64.encode([&[1u8][..], &[0; 31]].concat()));
    assert!(PublicKey::parse(&weak).is_err());
    for text in ["", "RWQ", "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----"] {
        assert!(matches!(private_key(text), Err(SignatureError::PrivateKey)), "{text}");
    }
    for text in ["", "untrusted comment: x\nAAAA\ntrusted comment: y\nAAAA\n", "é\né\né\né\n"] {
        let refused = store.add_signature(&record, entry(Signed::Minisign { text: text.into() }), &[]);
        assert!(matches!(refused, Err(SignatureError::Form)), "{text}");
    }
    for seed in 1..=SIGNATURES_MAX as u8 {
        store.add_signature(&record, entry(Signed::by(&key(seed), &said(&record))), &[]).unwrap();
    }
    let more = store.add_signature(&record, entry(Signed::by(&key(99), &said(&record))), &[]);
    assert!(matches!(more, Err(SignatureError::TooMany { .. })));
}

fn run(dir: &std::path::Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/setup.sh installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The real minisign, in both of its forms.
#[test]
fn minisign_keys_and_signature_files_are_taken() {
    let (dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let dir = dir.path();
    fs::write(dir.join("statement"), said(&record)).unwrap();
    run(dir, "minisign", &["-G", "-W", "-p", "key.pub", "-s", "key.sec"]);
    let keys = vec![PublicKey::parse(&fs::read_to_string(dir.join("key.pub")).unwrap()).unwrap()];
    for form in [&["-S"][..], &["-S", "-l"]] {
        let rest = ["-s", "key.sec", "-m", "statement", "-t", "built from 4f0c by CI", "-x", "sig"];
        run(dir, "minisign", &[form, &rest].concat());
        let signed = Signed::Minisign { text: fs::read_to_string(dir.join("sig")).unwrap() };
        assert!(matches!(
            store.add_signature(&record, entry(signed.clone()), &trusted(1)),
            Err(SignatureError::Unknown { .. })
        ));
        store.add_signature(&record, entry(signed), &keys).unwrap();
    }
    let verdicts = store.verify(&record, &keys).unwrap();
    assert_eq!(verdicts.len(), 2);
    for verdict in verdicts {
        assert_eq!(verdict.key.as_deref(), Some(keys[0].text().as_str()));
        assert_eq!(verdict.comment.as_deref(), Some("built from 4f0c by CI"));
    }
}

/// Keys of openssl, which every build server has.
#[test]
fn openssl_keys_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, "openssl", &["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]);
    run(dir, "openssl", &["pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"]);
    let key = private_key(&fs::read_to_string(dir.join("key.pem")).unwrap()).unwrap();
    let public = PublicKey::parse(&fs::read_to_string(dir.join("pub.pem")).unwrap()).unwrap();
    assert!(Signed::by(&key, "x").is_by(&public, "x"));
    fs::write(dir.join("ours.pem"), private_pem([7; 32])).unwrap();
    run(dir, "openssl", &["pkey", "-in", "ours.pem", "-noout"]);
}
