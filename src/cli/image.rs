//! `regild image`: golden images.

use super::Failure;
use super::baseline;
use super::client::{Client, segment};
use super::image_diff::{self, DiffArgs, PlanArgs};
use super::image_import::{self, ImportArgs, PushArgs};
use super::image_keep::{self, KeepCommand};
use super::image_show;
use super::output::{self, Output};
use crate::wire::operator::{Channel, ChannelMove, Export, Image, MarkImage, SetChannel};
use clap::Subcommand;
use std::path::PathBuf;

/// REF is NAME:VERSION.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Take a disk image as a new immutable version.
    Import(ImportArgs),
    /// Send a disk image to a server's upload listener, from a machine that is not the server; goes on where it was cut.
    Push(PushArgs),
    /// All versions.
    List {
        /// Only those with this label; of several all must hold.
        #[arg(short, long = "label", value_name = "KEY[=VALUE]")]
        labels: Vec<String>,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// One version: its partitions, distribution, kernels, what can start it, and where it came from.
    Show {
        image: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Movable pointers to versions, NAME@CHANNEL.
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Give no host this version any more; hosts on it ask for what their group should run.
    Deprecate {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// Refuse this version to every host; hosts on it ask for what their group should run.
    Block {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// End `preview`, `deprecate`, `block` or `retire`.
    Activate {
        image: String,
        #[arg(long)]
        reason: String,
    },
    /// How the file systems of a version are known, for finding drift; makes its list of files where there is none yet.
    Baseline {
        image: String,
        /// Forget it, and have it made anew, or asked of the next host: where a host told the image wrongly.
        #[arg(long)]
        forget: bool,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// The files of a version, as its system sees them. Bytes that a terminal must not see are shown as \xNN.
    Files {
        image: String,
        /// Only this path and what lies under it.
        #[arg(long, value_name = "PATH")]
        prefix: Option<String>,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    Diff(DiffArgs),
    Plan(PlanArgs),
    /// Write a version to a file on the server, byte for byte the disk that was imported.
    Export {
        image: String,
        file: PathBuf,
        #[arg(long, value_name = "raw|qcow2", default_value = "raw")]
        format: String,
        /// Put it in the place of a file that is there.
        #[arg(long)]
        force: bool,
    },
    #[command(flatten)]
    Keep(KeepCommand),
}

#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// All channels.
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Every move of NAME@CHANNEL: when, from which version to which, by whom, why.
    History {
        /// NAME@CHANNEL
        channel: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Point NAME@CHANNEL to a version of NAME.
    Set {
        /// NAME@CHANNEL
        channel: String,
        // Not `version`: that is clap's own name for --version.
        #[arg(value_name = "VERSION")]
        to: String,
        #[arg(long)]
        reason: String,
    },
}

fn channel(client: &Client, command: ChannelCommand) -> Result<(), Failure> {
    match command {
        ChannelCommand::List { output } => {
            let all: Vec<Channel> = client.get("/v1/channels")?;
            let row = |one: &Channel| {
                vec![one.name.clone(), one.image.clone(), output::time(one.at), one.by.clone(), one.reason.clone()]
            };
            output::print(output, &all, &["CHANNEL", "IMAGE", "SINCE", "BY", "REASON"], all.iter().map(row).collect())
        }
        ChannelCommand::History { channel, output } => {
            let moves: Vec<ChannelMove> = client.get(&format!("/v1/channels/{}/history", segment(&channel)))?;
            let row = |one: &ChannelMove| {
                let from = one.from.clone().unwrap_or_else(|| "-".to_string());
                vec![output::time(one.at), from, one.to.clone(), one.by.clone(), one.reason.clone()]
            };
            output::print(output, &moves, &["TIME", "FROM", "TO", "BY", "REASON"], moves.iter().map(row).collect())
        }
        ChannelCommand::Set { channel, to, reason } => {
            let body = SetChannel { version: to, by: super::operator(), reason };
            let set: Channel = client.put_json(&format!("/v1/channels/{}", segment(&channel)), &body)?;
            println!("{} points to {}; hosts of groups that follow it ask for it", set.name, set.image);
            Ok(())
        }
    }
}

pub fn run(command: ImageCommand, server: &str) -> Result<(), Failure> {
    let command = match command {
        // To another kind of server: its URL.
        ImageCommand::Push(args) => return image_import::push(server, args),
        other => other,
    };
    let client = Client::new(server)?;
    let path = |image: &str, verb: &str| format!("/v1/images/{}{verb}", segment(image));
    match command {
        ImageCommand::Import(args) => image_import::import(&client, &args),
        ImageCommand::Push(args) => image_import::push(server, args),
        ImageCommand::Keep(command) => image_keep::run(command, &client),
        ImageCommand::List { labels, output } => image_show::list(output, client.get("/v1/images")?, &labels),
        ImageCommand::Show { image, output } => image_show::show(output, &client.get(&path(&image, ""))?),
        ImageCommand::Channel(command) => channel(&client, command),
        ImageCommand::Deprecate { image, reason } => mark(&client, &path(&image, "/mark"), "deprecated", reason),
        ImageCommand::Block { image, reason } => mark(&client, &path(&image, "/mark"), "blocked", reason),
        ImageCommand::Activate { image, reason } => mark(&client, &path(&image, "/mark"), "active", reason),
        ImageCommand::Baseline { image, forget, output } => {
            let path = path(&image, "/baseline");
            if forget {
                client.delete(&path)?;
            }
            baseline::show(&client, &path, output)
        }
        ImageCommand::Files { image, prefix, output } => {
            let filter = prefix.map(|prefix| format!("?prefix={}", segment(&prefix))).unwrap_or_default();
            baseline::files(&client, &(path(&image, "/files") + &filter), output)
        }
        ImageCommand::Diff(args) => image_diff::diff(&client, &args),
        ImageCommand::Plan(args) => image_diff::plan(&client, &args),
        ImageCommand::Export { image, file, format, force } => {
            let body = Export { path: std::path::absolute(&file)?, format: Some(format), force };
            let written: Image = client.post(&path(&image, "/export"), &body)?;
            println!("{} written to {}: {}", written.image, file.display(), output::bytes(written.image_bytes));
            Ok(())
        }
    }
}

fn mark(client: &Client, path: &str, mark: &str, reason: String) -> Result<(), Failure> {
    client.order(path, &MarkImage { mark: mark.to_string(), by: super::operator(), reason })
}
