//! The strict colleague: layers, sizes, banned calls and left-over marks, checked on the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file that is still one thing; unit tests move to `x/tests.rs` first.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The part before the unit tests.
    fn shipped(&self) -> &str {
        if self.is_test() { "" } else { self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("") }
    }

    fn is_test(&self) -> bool {
        let in_tests = self.path.components().any(|part| part.as_os_str() == "tests");
        in_tests || self.path.ends_with("tests.rs") || !self.path.starts_with("src")
    }
}

fn sources(under: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(under)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("the sources are beside the test").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(Source { text: fs::read_to_string(&path).expect("a source is text"), path });
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {under}: the test runs in the wrong directory");
    found
}

/// Every line of shipped code under `dir` (comments left out) that contains one of `banned`.
fn offences(dir: &str, banned: &[&str], except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources(dir) {
        if except.iter().any(|path| source.path.starts_with(path)) {
            continue;
        }
        for (at, line) in source.shipped().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if banned.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", source.path.display(), at + 1, line.trim()));
            }
        }
    }
    found
}

fn none(offences: Vec<String>, rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

#[test]
fn the_pure_core_imports_nothing_but_std_and_itself() {
    let mut found = offences(
        "src/decide",
        &[
            "serde",
            "tokio",
            "tracing",
            "std::fs",
            "std::net::Udp",
            "std::net::Tcp",
            "std::time",
            "std::env",
            "std::thread",
            "rand::",
            "HashMap",
            "async ",
            "println!",
            "unsafe",
            "crate::clock",
            "crate::wire",
            "crate::registry",
            "crate::db",
            "crate::http",
            "crate::dhcp",
            "crate::image",
            "crate::agent",
            "crate::config",
        ],
        &[],
    );
    for source in sources("src/decide") {
        for line in source.shipped().lines().filter(|line| line.trim_start().starts_with("use ")) {
            let inside = ["use std::", "use super::", "use crate::decide::", "use core::"];
            if !inside.iter().any(|start| line.trim_start().starts_with(start)) {
                found.push(format!("{}: {line}", source.path.display()));
            }
        }
    }
    none(found, "decide/ is pure: facts and now in, a value out");
}

#[test]
fn the_agent_never_sees_the_servers_state() {
    let server = ["crate::db", "crate::registry", "crate::image", "crate::http", "crate::config", "crate::dhcp"];
    none(offences("src/agent", &server, &[]), "the agent knows wire and decide only");
}

#[test]
fn power_knows_no_orders_and_no_store() {
    let callers = ["crate::registry", "crate::scheduler", "crate::db", "crate::http", "crate::dhcp", "crate::config"];
    none(offences("src/power", &callers, &[]), "power is called, and calls nobody");
}

#[test]
fn only_the_registry_writes_to_the_store() {
    let found = offences("src", &[".commit("], &["src/registry", "src/db", "src/cli/store.rs"]);
    none(found, "one writer for each state");
}

#[test]
fn only_clock_reads_time_and_randomness() {
    let banned =
        ["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now", "getrandom::", "rand::", "thread::sleep"];
    none(offences("src", &banned, &["src/clock.rs"]), "time and randomness come from clock.rs");
}

#[test]
fn no_left_over_marks_and_no_unexplained_unwraps() {
    // Built in parts, so that this file does not offend itself.
    let marks = ["TO", "FIX", "XX"].map(|start| {
        format!(
            "{start}{}",
            if start == "TO" {
                "DO"
            } else if start == "FIX" {
                "ME"
            } else {
                "X"
            }
        )
    });
    let mut found = Vec::new();
    let fuzzing = [sources("fuzz/src"), sources("fuzz/fuzz_targets")].into_iter().flatten();
    for source in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")).chain(fuzzing) {
        for (at, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                found.push(format!("{}:{}: {}", source.path.display(), at + 1, line.trim()));
            }
        }
    }
    found.extend(offences("src", &[".unwrap()"], &[]));
    none(found, "finish it, or say why it cannot fail with expect");
}

#[test]
fn unsafe_says_why_it_is_safe() {
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")).chain(&sources("benches")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let used = ["{", "fn ", "impl"].iter().any(|what| code.contains(&["unsafe", what].join(" ")));
            let said = lines[at.saturating_sub(6)..at].iter().any(|before| before.contains("SAFETY:"));
            if used && !said {
                found.push(format!("{}:{}: {}", source.path.display(), at + 1, line.trim()));
            }
        }
    }
    none(found, "unsafe needs a SAFETY line");
}

#[test]
fn files_and_functions_stay_small() {
    let mut found = Vec::new();
    let fuzzing = [sources("fuzz/src"), sources("fuzz/fuzz_targets")].into_iter().flatten();
    for source in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")).chain(fuzzing) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path.display()));
        }
        let mut open: Option<(usize, usize, String)> = None;
        for (at, line) in source.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let starts =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(super) fn ", "pub(crate) fn ", "const fn "];
            if open.is_none() && starts.iter().any(|start| code.starts_with(start)) && !code.ends_with(';') {
                open = Some((at, indent, code.to_string()));
            }
            if let Some((first, depth, name)) = &open
                && indent == *depth
                && (code == "}" || (at > *first && code.ends_with(';')) || (at == *first && code.ends_with('}')))
            {
                let length = at - first + 1;
                if length > FUNCTION_LINES_MAX {
                    found.push(format!("{}:{}: {length} lines: {name}", source.path.display(), first + 1));
                }
                open = None;
            }
        }
    }
    none(found, "split it");
}

#[test]
fn no_module_is_named_after_nothing() {
    let vague = ["utils", "util", "helpers", "helper", "manager", "common", "misc"];
    let named = |path: &Path| {
        path.components().any(|part| vague.contains(&part.as_os_str().to_string_lossy().trim_end_matches(".rs")))
    };
    let found = sources("src")
        .iter()
        .filter(|source| named(&source.path))
        .map(|source| source.path.display().to_string())
        .collect();
    none(found, "name it by what it does");
}

/// tests/rules.toml says where each rule is held; the list must not outlive the code (`make rules` takes them out).
#[test]
fn every_rule_of_the_list_is_found_where_it_says() {
    let list: toml::Table = std::fs::read_to_string("tests/rules.toml").unwrap().parse().unwrap();
    let mut missing = Vec::new();
    for rule in list["rule"].as_array().unwrap() {
        let text = |key: &str| rule[key].as_str().unwrap();
        let source = std::fs::read_to_string(text("file")).unwrap_or_default();
        let times = source.matches(text("find")).count();
        if times != 1 {
            missing.push(format!("{} ({}): {} has it {times} times", text("id"), text("says"), text("file")));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The agent's hook ends it with a panic anywhere but in the reader of FAT; that one must be able to unwind.
#[test]
fn no_profile_ends_the_program_before_a_panic_can_be_caught() {
    let profiles = fs::read_to_string("Cargo.toml").expect("the manifest is beside the test");
    let settings = profiles.lines().filter(|line| !line.trim_start().starts_with('#'));
    none(settings.filter(|line| line.contains("abort")).map(str::to_owned).collect(), "panic = \"unwind\"");
}
