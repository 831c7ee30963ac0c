//! Between the words of `wire::drift` and the values of `decide::drift`. What comes from outside is checked here.

use super::{Finding, Node, PathText, Rule};
use crate::decide::drift::finding::{self, Aspects, Kind};
use crate::decide::drift::policy::{self, Action, Pattern};
use crate::wire::manifest;

/// Why a word of an agent, of a server or of a document means nothing.
#[derive(Debug, thiserror::Error)]
pub enum MeaningError {
    #[error("{0:?} is no kind of file")]
    Kind(String),
    #[error("{0:?} is not 64 lower-case hexadecimal digits")]
    Digest(String),
    #[error("a {kind} has no {field}")]
    Lacks { kind: String, field: &'static str },
    #[error("{0:?} is no way to differ; there are added, removed, kind, content, mode, owner, xattrs, privilege")]
    Aspect(String),
    #[error("{0:?} is no action; there are allow, report, rebuild")]
    Action(String),
    #[error("{pattern:?} is no pattern: {why}")]
    Pattern { pattern: String, why: &'static str },
    #[error("neither what the image holds nor what was seen")]
    NoSide,
}

impl From<&finding::Node> for Node {
    fn from(node: &finding::Node) -> Node {
        let mut words = Node {
            kind: node.kind.word().to_string(),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            modified: node.modified,
            bytes: None,
            digest: None,
            target: None,
            device: None,
            xattrs: Vec::new(),
        };
        match &node.kind {
            Kind::File { bytes, digest } => {
                words.bytes = Some(*bytes);
                words.digest = digest.as_ref().map(manifest::to_hex);
            }
            Kind::Symlink { target } => words.target = Some(PathText(target.clone())),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                words.device = Some((*major, *minor));
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        let text = |bytes: &Vec<u8>| PathText(bytes.clone());
        words.xattrs = node.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect();
        words
    }
}

impl TryFrom<&Node> for finding::Node {
    type Error = MeaningError;

    fn try_from(words: &Node) -> Result<finding::Node, MeaningError> {
        let lacks = |field| MeaningError::Lacks { kind: words.kind.clone(), field };
        let device = || words.device.ok_or_else(|| lacks("device"));
        let kind = match words.kind.as_str() {
            "file" => {
                let digest = words.digest.as_ref().map(|hex| {
                    manifest::from_hex(hex).ok_or_else(|| MeaningError::Digest(hex.chars().take(80).collect()))
                });
                Kind::File { bytes: words.bytes.ok_or_else(|| lacks("bytes"))?, digest: digest.transpose()? }
            }
            "directory" => Kind::Directory,
            "symlink" => Kind::Symlink { target: words.target.clone().ok_or_else(|| lacks("target"))?.0 },
            "char_device" => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            "block_device" => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            "fifo" => Kind::Fifo,
            "socket" => Kind::Socket,
            other => return Err(MeaningError::Kind(other.chars().take(80).collect())),
        };
        let Node { mode, uid, gid, modified, .. } = *words;
        let xattrs = words.xattrs.iter().map(|(name, value)| (name.0.clone(), value.0.clone())).collect();
        Ok(finding::Node { kind, mode, uid, gid, modified, xattrs })
    }
}

impl TryFrom<&Finding> for finding::Finding {
    type Error = MeaningError;

    fn try_from(words: &Finding) -> Result<finding::Finding, MeaningError> {
        let side = |node: &Option<Node>| node.as_ref().map(finding::Node::try_from).transpose();
        let (expected, seen) = (side(&words.expected)?, side(&words.seen)?);
        if expected.is_none() && seen.is_none() {
            return Err(MeaningError::NoSide);
        }
        Ok(finding::Finding { path: words.path.0.clone(), expected, seen })
    }
}

impl From<&policy::Rule> for Rule {
    fn from(rule: &policy::Rule) -> Rule {
        let (action, grace_seconds, scans_min) = match rule.action {
            Action::Allow => ("allow", 0, 0),
            Action::Report => ("report", 0, 0),
            Action::Rebuild { grace_seconds, scans_min } => ("rebuild", grace_seconds, scans_min),
        };
        let is_unnamed = rule.aspects == rule.action.aspects_unnamed();
        let aspects = if is_unnamed { Vec::new() } else { rule.aspects.iter().map(|a| a.word().to_string()).collect() };
        Rule {
            pattern: PathText(rule.pattern.bytes().to_vec()),
            aspects,
            action: action.to_string(),
            grace_seconds,
            scans_min,
            content: rule.content,
            why: rule.why.clone(),
            until: rule.until,
            from: rule.from.clone(),
        }
    }
}

impl TryFrom<&Rule> for policy::Rule {
    type Error = MeaningError;

    fn try_from(words: &Rule) -> Result<policy::Rule, MeaningError> {
        let pattern = Pattern::new(&words.pattern.0).map_err(|error| MeaningError::Pattern {
            pattern: crate::decide::drift::path::to_text(&words.pattern.0),
            why: error.sentence(),
        })?;
        let Rule { grace_seconds, scans_min, .. } = *words;
        let action = match words.action.as_str() {
            "allow" => Action::Allow,
            "report" => Action::Report,
            "rebuild" => Action::Rebuild { grace_seconds, scans_min },
            other => return Err(MeaningError::Action(other.chars().take(80).collect())),
        };
        let aspects = if words.aspects.is_empty() {
            action.aspects_unnamed()
        } else {
            Aspects::from_words(words.aspects.iter().map(String::as_str))
                .map_err(|word| MeaningError::Aspect(word.to_string()))?
        };
        let Rule { content, until, .. } = *words;
        Ok(policy::Rule { pattern, aspects, action, content, why: words.why.clone(), until, from: words.from.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_goes_to_words_and_back() {
        let device = |major, minor| (major, minor);
        let ((major, minor), target) = (device(8, 1), b"/a\xff".to_vec());
        for kind in [
            Kind::File { bytes: 1, digest: Some([9; 32]) },
            Kind::File { bytes: 1, digest: None },
            Kind::Directory,
            Kind::Symlink { target },
            Kind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor },
            Kind::Fifo,
            Kind::Socket,
        ] {
            let xattrs = vec![(b"user.x".to_vec(), vec![0, 1, 255])];
            let node = finding::Node { kind, mode: 0o7777, uid: 1, gid: 2, modified: -5, xattrs };
            let json = serde_json::to_string(&Node::from(&node)).unwrap();
            let again: Node = serde_json::from_str(&json).unwrap();
            assert_eq!(finding::Node::try_from(&again).unwrap(), node, "{json}");
        }
    }

    #[test]
    fn a_rule_goes_to_words_and_back_and_nonsense_is_named() {
        let words: Rule =
            serde_json::from_str(r#"{"pattern": "/etc/**", "action": "rebuild", "aspects": ["mode"]}"#).unwrap();
        let rule = policy::Rule::try_from(&words).unwrap();
        assert_eq!(policy::Rule::try_from(&Rule::from(&rule)).unwrap(), rule);
        for (action, unnamed) in [("allow", Aspects::ALL_BUT_PRIVILEGE), ("report", Aspects::ALL)] {
            let silent = Rule { action: action.into(), aspects: Vec::new(), ..words.clone() };
            let rule = policy::Rule::try_from(&silent).unwrap();
            assert_eq!(rule.aspects, unnamed, "{action}");
            for aspects in [Aspects::ALL, Aspects::ALL_BUT_PRIVILEGE] {
                let rule = policy::Rule { aspects, ..rule.clone() };
                assert_eq!(policy::Rule::try_from(&Rule::from(&rule)).unwrap(), rule);
            }
        }
        let wrong = Rule { action: "burn".into(), ..words.clone() };
        assert!(policy::Rule::try_from(&wrong).unwrap_err().to_string().contains("burn"));
        let wrong = Rule { pattern: PathText(b"etc".to_vec()), ..words };
        assert!(policy::Rule::try_from(&wrong).unwrap_err().to_string().contains("begin with /"));
    }
}
