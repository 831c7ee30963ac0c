//! `regild drift`: what of running systems no longer is their image, and what may be so.

mod patch;
mod show;

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Output};
use crate::clock;
use crate::config::fleet::drift::Moment;
use crate::decide::drift::classes::CLASSES;
use crate::decide::drift::defaults::Family;
use crate::decide::drift::finding::Aspects;
use crate::scheduler::duration;
use crate::wire::operator_drift::{Accept, Exception, Explained, Line, Scope, Shown, Top};
use clap::{Args, Subcommand};
use patch::Which;
use serde::Serialize;
use show::plain;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// What is accepted or allowed where no ways to differ are named.
const ALL_BUT_PRIVILEGE: &str = "all but privilege";

/// HOST is a MAC, a host name or the host id. PATH is written as it is shown: a backslash is `\\`, and bytes that are no
/// text are `\xNN`.
#[derive(Debug, Subcommand)]
pub enum DriftCommand {
    /// Hosts, and whether each still is its image.
    List {
        #[command(flatten)]
        filter: Filter,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// What differs on a host: both sides, the rule that decided, a diff where content may leave the host.
    Show {
        host: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Let something be, for a while: it is no finding until then, and ends by itself.
    Accept(AcceptArgs),
    /// What is accepted, for whom, until when; what has ended is kept a while.
    Exceptions {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// End an exception now.
    Revoke { number: u64 },
    /// Which rule decides what at a path of a host, and whether it is looked at at all.
    Explain {
        host: String,
        path: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// The paths that drift on most hosts: what the next image should contain.
    Top {
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// The named sets of paths that a policy may use, and which defaults allow them.
    Classes {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Take the next key that the host's agent sends: after its state was lost without a rebuild.
    ForgetKey { host: String },
    /// A host's differences as a patch for the image builder (`patch -p1` or `git apply` in the image's root). What no
    /// patch can carry stands in its head, with the command that does the same.
    Export {
        host: String,
        /// What was accepted for it: the default.
        #[arg(long, conflicts_with = "all")]
        accepted: bool,
        /// Everything that differs.
        #[arg(long)]
        all: bool,
        /// Must not be there yet.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Filter {
    #[arg(long)]
    group: Option<String>,
    /// Hosts by what they are: `group=compute,rack=12`, or `all`.
    #[arg(long, visible_alias = "selector")]
    select: Option<String>,
    /// clean, drifted, silent, unwatched, no_baseline
    #[arg(long)]
    standing: Option<String>,
}

#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// A path, or a pattern: * and ? within a name, ** for any number of names, /dir/** the directory and all in it.
    path: String,
    #[command(flatten)]
    whom: Whom,
    /// When it ends: 30d, 2027-03-01 (the start of that day, UTC) or 2027-03-01T12:00:00Z.
    #[arg(long)]
    until: String,
    /// Kept, and told by `drift explain`.
    #[arg(long)]
    why: String,
    /// Only these ways to differ: added, removed, kind, content, mode, owner, xattrs, privilege (a set-uid or set-gid file,
    /// capabilities, a device). Left out: all but privilege.
    #[arg(long, value_delimiter = ',')]
    differs: Vec<String>,
}

/// For which hosts.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whom {
    #[arg(long)]
    group: Option<String>,
    #[arg(long)]
    host: Option<String>,
    /// Hosts that run it: NAME or NAME:VERSION.
    #[arg(long)]
    image: Option<String>,
}

pub fn run(command: DriftCommand, server: &str) -> Result<(), Failure> {
    if let DriftCommand::Classes { output } = command {
        return classes(output);
    }
    let client = Client::new(server)?;
    let of_host = |host: &str, verb: &str| format!("/v1/drift/hosts/{}{verb}", segment(host));
    match command {
        DriftCommand::List { filter, output } => list(output, &client.get(&filter.path())?),
        DriftCommand::Show { host, output } => {
            let shown: Shown = client.get(&of_host(&host, ""))?;
            one(output, &shown, || show::text(&shown))
        }
        DriftCommand::Accept(args) => {
            let exception: Exception = client.post("/v1/drift/exceptions", &args.ask(clock::now())?)?;
            let Accept { pattern, until, .. } = &exception.accepted;
            println!("exception {}: {} is accepted until {}", exception.number, plain(pattern), output::time(*until));
            Ok(())
        }
        DriftCommand::Exceptions { output } => exceptions(output, &client.get("/v1/drift/exceptions")?),
        DriftCommand::Revoke { number } => {
            client.delete(&format!("/v1/drift/exceptions/{number}"))?;
            println!("exception {number} has ended");
            Ok(())
        }
        DriftCommand::Explain { host, path, output } => {
            let query = format!("/explain?path={}", segment(&path));
            let explained: Explained = client.get(&of_host(&host, &query))?;
            one(output, &explained, || show::explained(&explained))
        }
        DriftCommand::Top { limit, output } => top(output, &client.get(&format!("/v1/drift/top?limit={limit}"))?),
        DriftCommand::Classes { .. } => Ok(()),
        DriftCommand::ForgetKey { host } => {
            client.order(&of_host(&host, "/forget-key"), &())?;
            println!("the next key that its agent sends is taken");
            Ok(())
        }
        DriftCommand::Export { host, accepted: _, all, file } => {
            let which = if all { Which::All } else { Which::Accepted };
            export(&client.get(&of_host(&host, ""))?, which, &file)
        }
    }
}

impl Filter {
    /// An empty value goes along, so that the server refuses it.
    fn path(&self) -> String {
        let texts = [("group", &self.group), ("select", &self.select), ("standing", &self.standing)];
        let given = texts.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", segment(value.as_ref()?))));
        let query: Vec<String> = given.collect();
        if query.is_empty() { "/v1/drift".to_string() } else { format!("/v1/drift?{}", query.join("&")) }
    }
}

impl AcceptArgs {
    fn ask(self, now: u64) -> Result<Accept, Failure> {
        let scope = match (self.whom.group, self.whom.host, self.whom.image) {
            (Some(group), None, None) => Scope::Group(group),
            (None, Some(host), None) => Scope::Host(host),
            (None, None, Some(image)) => Scope::Image(image),
            // clap takes exactly one.
            _ => return Err("give one of --group, --host and --image".into()),
        };
        let until = end(&self.until, now)?;
        Ok(Accept { pattern: self.path, aspects: self.differs, scope, until, why: self.why })
    }
}

/// A time, or so long from now on.
fn end(text: &str, now: u64) -> Result<u64, Failure> {
    if let Ok(Moment(until)) = text.parse() {
        return if until > now { Ok(until) } else { Err(format!("--until {text:?} has passed").into()) };
    }
    let seconds = duration::parse(text).map_err(|_| {
        format!(
            "--until {text:?} is no end: write 30d, 2027-03-01 (the start of that day, UTC) or 2027-03-01T12:00:00Z"
        )
    })?;
    Ok(now + seconds)
}

/// One thing: JSON for scripts, text for people.
fn one<T: Serialize>(output: Output, value: &T, text: impl Fn() -> String) -> Result<(), Failure> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Output::Table => print!("{}", text()),
    }
    Ok(())
}

fn dash(text: &Option<String>) -> String {
    text.as_ref().map_or_else(|| "-".to_string(), |text| plain(text))
}

fn list(output: Output, lines: &Vec<Line>) -> Result<(), Failure> {
    let time = |time: Option<u64>| time.map_or_else(|| "-".to_string(), output::time);
    let row = |line: &Line| {
        let (findings, asking, gaps) = (line.findings.to_string(), line.asking.to_string(), line.gaps.to_string());
        let (host, group, standing) = (plain(&line.host), plain(&line.group), plain(&line.standing));
        let (reported, content) = (time(line.reported_at), time(line.content_since));
        let (name, image, source) = (dash(&line.name), dash(&line.image), dash(&line.source));
        vec![host, name, group, image, standing, findings, asking, gaps, reported, content, source]
    };
    let head =
        ["HOST", "NAME", "GROUP", "IMAGE", "STANDING", "FINDINGS", "ASKING", "GAPS", "REPORTED", "CONTENT SINCE", "BY"];
    output::print(output, lines, &head, lines.iter().map(row).collect())
}

fn exceptions(output: Output, exceptions: &Vec<Exception>) -> Result<(), Failure> {
    let row = |exception: &Exception| {
        let Accept { pattern, aspects, scope, until, why } = &exception.accepted;
        let scope = match scope {
            Scope::Group(name) => format!("group {name}"),
            Scope::Host(id) => format!("host {id}"),
            Scope::Image(image) => format!("image {image}"),
        };
        let aspects = if aspects.is_empty() { ALL_BUT_PRIVILEGE.to_string() } else { aspects.join("+") };
        let until = format!("{}{}", output::time(*until), if exception.ended { " (ended)" } else { "" });
        let (number, at) = (exception.number.to_string(), output::time(exception.at));
        vec![number, plain(pattern), plain(&aspects), plain(&scope), until, plain(&exception.by), at, plain(why)]
    };
    let head = ["NUMBER", "PATH", "DIFFERS", "FOR", "UNTIL", "BY", "AT", "WHY"];
    output::print(output, exceptions, &head, exceptions.iter().map(row).collect())
}

fn top(output: Output, tops: &Vec<Top>) -> Result<(), Failure> {
    let row = |top: &Top| {
        let (hosts, same) = (top.hosts.to_string(), top.same_content.to_string());
        vec![hosts, same, plain(&top.path), plain(&top.aspects.join("+")), plain(&top.groups.join(", "))]
    };
    let head = ["HOSTS", "SAME CONTENT", "PATH", "DIFFERS", "GROUPS"];
    output::print(output, tops, &head, tops.iter().map(row).collect())
}

/// One class, as `drift classes` shows it.
#[derive(Debug, Serialize)]
struct ClassShown {
    name: &'static str,
    sentence: &'static str,
    /// Defaults that allow it.
    defaults: Vec<&'static str>,
    paths: Vec<PathShown>,
}

#[derive(Debug, Serialize)]
struct PathShown {
    pattern: &'static str,
    differs: String,
}

fn classes(output: Output) -> Result<(), Failure> {
    let shown = classes_shown();
    let row = |class: &ClassShown| {
        let defaults = if class.defaults.is_empty() { "-".to_string() } else { class.defaults.join(", ") };
        let paths: Vec<String> =
            class.paths.iter().map(|path| format!("{} ({})", path.pattern, path.differs)).collect();
        vec![class.name.to_string(), defaults, format!("{}\n{}", class.sentence, paths.join("\n"))]
    };
    output::print(output, &shown, &["CLASS", "DEFAULTS", "WHAT"], shown.iter().map(row).collect())
}

fn classes_shown() -> Vec<ClassShown> {
    let of = |class: &'static crate::decide::drift::classes::Class| {
        let allows = |family: &Family| family.classes().any(|allowed| allowed.name == class.name);
        let paths = class.members.iter().flat_map(|member| {
            let differs = match member.aspects {
                Aspects::ALL => "all".to_string(),
                Aspects::ALL_BUT_PRIVILEGE => ALL_BUT_PRIVILEGE.to_string(),
                some => some.to_string(),
            };
            member.patterns.iter().map(move |pattern| PathShown { pattern, differs: differs.clone() })
        });
        ClassShown {
            name: class.name,
            sentence: class.sentence,
            defaults: Family::ALL.into_iter().filter(allows).map(Family::word).collect(),
            paths: paths.collect(),
        }
    };
    CLASSES.iter().map(of).collect()
}

/// Into a new file: a patch of last week must not be overwritten by one of today that somebody reviews.
fn export(shown: &Shown, which: Which, file: &std::path::Path) -> Result<(), Failure> {
    let patch = patch::of(shown, which);
    if patch.is_empty() {
        let hint = match which {
            Which::Accepted => "nothing that differs on it is accepted; --all exports everything that differs",
            Which::All => "nothing differs on it",
        };
        return Err(format!("{}: {hint}", plain(&shown.line.host)).into());
    }
    let mut out = File::create_new(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let done = out.write_all(patch.text.as_bytes()).and_then(|()| out.sync_all());
    done.inspect_err(|_| {
        // Ours, and half of what was asked for; what went wrong is said by the error.
        let _ = std::fs::remove_file(file);
    })?;
    println!("{}: {} in it, {} only in its head", file.display(), patch.carried, patch.left);
    Ok(())
}

#[cfg(test)]
mod tests;
