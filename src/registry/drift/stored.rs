//! What a report listed, as it lies in the store: JSON in zstd, in as many values as it takes.

use crate::db::VALUE_BYTES_MAX;
use crate::decide::drift::judge::Known;
use crate::wire::drift::{Finding, Gap};
use serde::{Deserialize, Serialize};

/// Below the store's limit, so that twenty of them share one of its pages.
const CHUNK_BYTES: usize = VALUE_BYTES_MAX - 4096;
/// A payload of 192 KiB grows where its paths hold characters that are escaped: fivefold at most.
const UNPACKED_BYTES_MAX: usize = 4 << 20;
const ZSTD_LEVEL: i32 = 3;

/// The findings of a report and the places it left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub gaps: Vec<Gap>,
    /// By path.
    pub found: Vec<Found>,
}

/// A finding, and since when it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub finding: Finding,
    #[serde(with = "known_words")]
    pub known: Vec<Known>,
}

impl Found {
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.finding.path.0
    }

    /// When the server first heard of it.
    #[must_use]
    pub fn known_since(&self) -> u64 {
        self.known.iter().map(|known| known.since).min().unwrap_or(0)
    }
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("it is not whole")]
    Zstd(#[from] std::io::Error),
    #[error("it is not the JSON of findings")]
    Json(#[from] serde_json::Error),
}

impl Listed {
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.found.is_empty()
    }

    /// As values for the store; none for a list of nothing.
    pub(super) fn packed(&self) -> Result<Vec<Vec<u8>>, ListError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let packed = zstd::bulk::compress(&serde_json::to_vec(self)?, ZSTD_LEVEL)?;
        Ok(packed.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn unpacked(chunks: &[Vec<u8>]) -> Result<Listed, ListError> {
        if chunks.is_empty() {
            return Ok(Listed::default());
        }
        let raw = zstd::bulk::decompress(&chunks.concat(), UNPACKED_BYTES_MAX)?;
        Ok(serde_json::from_slice(&raw)?)
    }
}

/// `["mode+owner", since, look]`.
mod known_words {
    use crate::decide::drift::finding::Aspects;
    use crate::decide::drift::judge::Known;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Words = (String, u64, u64);

    pub fn serialize<S: Serializer>(known: &[Known], to: S) -> Result<S::Ok, S::Error> {
        let words = |known: &Known| (known.aspects.to_string(), known.since, known.look);
        known.iter().map(words).collect::<Vec<Words>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Known>, D::Error> {
        let known = |(words, since, look): Words| {
            let aspects = Aspects::from_words(words.split('+'));
            let aspects = aspects.map_err(|_| serde::de::Error::custom(format!("{words:?} are no aspects")))?;
            Ok(Known { aspects, since, look })
        };
        Vec::<Words>::deserialize(from)?.into_iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::finding::Aspects;
    use crate::wire::drift::{CONTENTS_BYTES_MAX, FINDINGS_MAX, Node, PathText, REPORT_BYTES_MAX};

    fn found(number: usize, path: Vec<u8>) -> Found {
        let node = |byte: usize| Node {
            kind: "file".into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: 1_700_000_000,
            bytes: Some(number as u64),
            digest: Some(blake3::hash(&[path.clone(), vec![byte as u8]].concat()).to_hex().to_string()),
            target: None,
            device: None,
            xattrs: vec![(PathText(b"user.x".to_vec()), PathText(vec![0, 255]))],
        };
        let finding = Finding {
            path: PathText(path.clone()),
            expected: Some(node(0)),
            seen: Some(node(1)),
            first_seen: 1,
            scans: 2,
            content: (number == 0).then(|| "\u{1}\u{202e}".repeat(100)),
        };
        Found { finding, known: vec![Known { aspects: Aspects::ALL, since: 5, look: u64::MAX }] }
    }

    /// Rule 10: paths with every byte, and rule 7: what was taken can be written down.
    #[test]
    fn a_list_comes_back_as_it_went_in_and_fits_into_the_store() {
        let every_byte: Vec<u8> = (1..=255).collect();
        let path = |number: usize| [b"/".as_slice(), format!("{number:04}").as_bytes(), &every_byte].concat();
        let listed = Listed {
            gaps: vec![Gap { path: PathText(every_byte.clone()), reason: "r".into(), since: 3 }],
            found: (0..FINDINGS_MAX).map(|number| found(number, path(number))).collect(),
        };
        let chunks = listed.packed().unwrap();
        assert!(chunks.iter().all(|chunk| chunk.len() <= VALUE_BYTES_MAX) && chunks.len() > 1);
        assert_eq!(Listed::unpacked(&chunks).unwrap(), listed);
        assert!(Listed::unpacked(&chunks[1..]).is_err(), "half a list is none");
        assert_eq!(Listed::default().packed().unwrap().len(), 0);
        assert_eq!(Listed::unpacked(&[]).unwrap(), Listed::default());
    }

    /// The worst that a payload can hold, by its bytes.
    #[test]
    fn what_fits_into_a_report_can_be_unpacked_again() {
        let each = REPORT_BYTES_MAX / 3 / FINDINGS_MAX;
        let path = |number: usize| format!("/{number:04}{}", "\u{202e}".repeat(each)).into_bytes();
        let mut listed =
            Listed { gaps: Vec::new(), found: (0..FINDINGS_MAX).map(|number| found(number, path(number))).collect() };
        listed.found[0].finding.content = Some("\u{1}".repeat(CONTENTS_BYTES_MAX));
        assert_eq!(Listed::unpacked(&listed.packed().unwrap()).unwrap(), listed);
    }
}
