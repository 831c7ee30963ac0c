//! The key that speaks for this host in this generation, and the numbers of what it signed.
//!
//! It is drawn on the host when a generation is first met and never leaves it; the server keeps the public half for
//! that generation. The server takes a report only if its number is larger than the last one, so a number must not be
//! used twice, whatever the clock does and whenever the process dies: it is on stable storage before it is used.
//!
//! The numbers lie in a file that is overwritten in place, in two slots by turns, so that a full disk does not stop
//! them and a torn write leaves the other slot. Where even that cannot be written (the kernel made a failing disk
//! read-only: a host that should be heard), the next number is the largest that we or the server know, and a random
//! jump of up to 2^32: of two starts that both could not write, none uses the other's numbers, and u64 has room for
//! four thousand million such jumps.

use super::state_dir::StateDir;
use crate::clock;
use crate::wire::drift::{NewKey, SIGNED_FOR, Signed};
use crate::wire::manifest;
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

const KEY: &str = "key.json";
const KEY_BYTES_MAX: u64 = 4096;
const NUMBERS: &str = "sequence";
/// A slot each: what a disk writes at once, on disks of today.
const SLOT_BYTES: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    host: String,
    generation: u64,
    /// 32 bytes, hex.
    secret: String,
}

pub(super) struct HostKey {
    host: String,
    generation: u64,
    signing: SigningKey,
    numbers: Option<File>,
    last: u64,
}

impl std::fmt::Debug for HostKey {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKey")
            .field("host", &self.host)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A number that is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub value: u64,
    /// It could be written down.
    pub is_kept: bool,
}

impl HostKey {
    /// The key of this host and generation: the one that is kept, or a new one. One that cannot be written down is
    /// none: the server takes one key for a generation, and it would be lost with this process. For the same reason one
    /// that cannot be read just now is not replaced; only what never will be a key is.
    ///
    /// # Errors
    /// What the state directory says.
    pub(super) fn of(state: &StateDir, host: &str, generation: u64) -> io::Result<HostKey> {
        let text = match state.read(KEY, KEY_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => None,
            read => read?,
        };
        let kept = text.and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let kept = kept.filter(|kept| kept.host == host && kept.generation == generation);
        let secret = match kept.and_then(|kept| manifest::from_hex(&kept.secret)) {
            Some(secret) => secret,
            None => {
                let secret = clock::random_bytes::<32>();
                let kept = Kept { host: host.to_string(), generation, secret: clock::hex(&secret) };
                state.write(KEY, &serde_json::to_vec(&kept)?)?;
                secret
            }
        };
        let signing = SigningKey::from_bytes(&secret);
        let mut key = HostKey { host: host.to_string(), generation, signing, numbers: None, last: 0 };
        key.open_numbers(state);
        Ok(key)
    }

    pub(super) fn is_of(&self, host: &str, generation: u64) -> bool {
        self.host == host && self.generation == generation
    }

    pub(super) fn public_hex(&self) -> String {
        manifest::to_hex(self.signing.verifying_key().as_bytes())
    }

    pub(super) fn new_key(&self) -> NewKey {
        NewKey { host: self.host.clone(), generation: self.generation, public_key: self.public_hex() }
    }

    /// Signs a report.
    pub(super) fn sign(&self, payload: String) -> Signed {
        let signature = self.signing.sign(&[SIGNED_FOR, payload.as_bytes()].concat());
        Signed { payload, signature: clock::hex(&signature.to_bytes()) }
    }

    /// The next number, larger than all that were used and than `taken`, the last that the server took.
    pub(super) fn next(&mut self, state: &StateDir, taken: u64) -> Number {
        if self.numbers.is_none() {
            self.open_numbers(state);
        }
        let value = self.last.max(taken).saturating_add(1);
        let is_kept = self.keep(value).is_ok();
        let jump = || u64::from(u32::from_le_bytes(clock::random_bytes()));
        let value = if is_kept { value } else { value.saturating_add(jump()) };
        self.last = value;
        Number { value, is_kept }
    }

    fn open_numbers(&mut self, state: &StateDir) {
        let path = state.file(NUMBERS);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let opened = open().or_else(|error| {
            // What cannot be opened just now still holds the numbers.
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // Its blocks are taken now, and overwritten later.
            state.write(NUMBERS, &[0xff; 2 * SLOT_BYTES as usize])?;
            open()
        });
        // A disk that is read-only: what is known of the numbers is read all the same.
        let readable = match &opened {
            Ok(file) => file.try_clone(),
            Err(_) => File::open(&path),
        };
        if let Ok(file) = readable {
            self.last = self.last.max(self.slot(&file, 0)).max(self.slot(&file, 1));
        }
        self.numbers = opened.ok();
    }

    /// The number in a slot; 0 for one that is torn or of another key.
    fn slot(&self, file: &File, slot: u64) -> u64 {
        let mut bytes = [0; 40];
        let mut number = [0; 8];
        if file.read_exact_at(&mut bytes, slot * SLOT_BYTES).is_err() {
            return 0;
        }
        number.copy_from_slice(&bytes[..8]);
        let number = u64::from_le_bytes(number);
        if bytes == self.slot_bytes(number) { number } else { 0 }
    }

    fn slot_bytes(&self, number: u64) -> [u8; 40] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(self.signing.verifying_key().as_bytes());
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(hasher.finalize().as_bytes());
        bytes
    }

    fn keep(&mut self, number: u64) -> io::Result<()> {
        let file = self.numbers.as_ref().ok_or(io::ErrorKind::NotFound)?;
        // Never into the slot of the last one.
        let newest = if self.slot(file, 0) >= self.slot(file, 1) { 0 } else { 1 };
        file.write_all_at(&self.slot_bytes(number), (1 - newest) * SLOT_BYTES)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, VerifyingKey};
    use proptest::prelude::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        (scratch, state)
    }

    #[test]
    fn a_generation_has_one_key_and_another_one_another() {
        let (scratch, state) = state();
        let first = HostKey::of(&state, "h", 1).unwrap();
        assert_eq!(HostKey::of(&state, "h", 1).unwrap().public_hex(), first.public_hex());
        let second = HostKey::of(&state, "h", 2).unwrap();
        assert!(second.public_hex() != first.public_hex() && !format!("{second:?}").contains("igning"));
        assert_ne!(HostKey::of(&state, "g", 2).unwrap().public_hex(), second.public_hex());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(scratch.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// A read error is not a missing key: what was kept is the only key that the server takes.
    #[test]
    fn a_key_that_cannot_be_read_is_not_replaced() {
        let (scratch, state) = state();
        let first = HostKey::of(&state, "h", 1).unwrap();
        let (path, aside) = (scratch.path().join(KEY), scratch.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        // Opening it fails for everyone, root as well.
        std::os::unix::fs::symlink(KEY, &path).unwrap();
        assert!(HostKey::of(&state, "h", 1).is_err());
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink(), "nothing is written over it");
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(HostKey::of(&state, "h", 1).unwrap().public_hex(), first.public_hex());
    }

    #[test]
    fn a_signature_is_for_reports_only() {
        let (_scratch, state) = state();
        let key = HostKey::of(&state, "h", 1).unwrap();
        let signed = key.sign("{}".to_string());
        let bytes: Vec<u8> =
            (0..64).map(|at| u8::from_str_radix(&signed.signature[at * 2..at * 2 + 2], 16).unwrap()).collect();
        let signature = Signature::from_bytes(&bytes.try_into().unwrap());
        let public = VerifyingKey::from_bytes(&manifest::from_hex(&key.public_hex()).unwrap()).unwrap();
        assert!(public.verify_strict(&[SIGNED_FOR, b"{}"].concat(), &signature).is_ok());
        assert!(public.verify_strict(b"{}", &signature).is_err());
    }

    #[test]
    fn numbers_go_on_where_nothing_can_be_written_and_two_starts_share_none() {
        let (_scratch, state) = state();
        let mut key = HostKey::of(&state, "h", 1).unwrap();
        assert_eq!(key.next(&state, 7), Number { value: 8, is_kept: true });
        let used: Vec<u64> = (0..2)
            .map(|_| {
                let mut again = HostKey::of(&state, "h", 1).unwrap();
                // As on a disk that is read-only.
                again.numbers = Some(File::open(state.file(NUMBERS)).unwrap());
                let number = again.next(&state, 0);
                assert!(!number.is_kept && number.value > 8);
                number.value
            })
            .collect();
        assert_ne!(used[0], used[1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the server says it took, whenever the process dies, and with one slot torn.
        #[test]
        fn no_number_is_used_twice(steps in proptest::collection::vec((0u64..40, any::<bool>(), any::<bool>()), 1..12)) {
            let (_scratch, state) = state();
            let mut key = HostKey::of(&state, "h", 1).unwrap();
            let mut last = 0;
            for (taken, dies, is_torn) in steps {
                let number = key.next(&state, taken);
                prop_assert!(number.is_kept && number.value > last && number.value > taken);
                last = number.value;
                if is_torn {
                    // A write that begins and is never finished goes to the older slot.
                    let file = OpenOptions::new().write(true).read(true).open(state.file(NUMBERS)).unwrap();
                    let older = if key.slot(&file, 0) < key.slot(&file, 1) { 0 } else { 1 };
                    file.write_all_at(&[7; 9], older * SLOT_BYTES).unwrap();
                }
                if dies {
                    key = HostKey::of(&state, "h", 1).unwrap();
                }
            }
        }
    }
}
