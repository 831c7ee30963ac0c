//! `regild apply`, `diff`, `export` and `inventory`: the fleet as documents.

use super::Failure;
use super::client::Client;
use super::output::{self, Output};
use crate::config::fleet::file::Document;
use crate::config::fleet::{Fleet, csv, diff, export, read};
use crate::http::operator_fleet::Apply;
use crate::wire::fleet::Diff;
use crate::wire::operator::ApplyDone;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Documents {
    /// A document (.toml, .yaml), a directory of them, or a table of new servers (.csv); may be given again.
    #[arg(short, long = "file", required = true)]
    files: Vec<PathBuf>,
    /// Remove groups, hosts and reservations that are not in the documents.
    #[arg(long)]
    prune: bool,
    /// How many of each that may be at most; 10 when not said.
    #[arg(long, requires = "prune")]
    prune_max: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Form {
    Toml,
    Yaml,
}

impl Documents {
    fn ask(&self, loosen: bool, confirm: Option<u64>) -> Result<Apply, Failure> {
        let document = export::document(&self.fleet()?);
        let (prune, prune_max) = (self.prune, self.prune_max);
        Ok(Apply { document, prune, prune_max, loosen, confirm, by: super::operator() })
    }

    /// Checked here first, so that a message names the file and the line.
    fn fleet(&self) -> Result<Fleet, Failure> {
        let is_table = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "csv");
        match self.files.as_slice() {
            [table] if is_table(&table) => Ok(csv::load(table)?),
            files if files.iter().any(|path| is_table(&path)) => Err("a table (.csv) is applied by itself".into()),
            files => Ok(read::load(files)?),
        }
    }
}

pub fn apply(documents: &Documents, loosen: bool, confirm: Option<u64>, server: &str) -> Result<(), Failure> {
    let done: ApplyDone = Client::new(server)?.post("/v1/fleet/apply", &documents.ask(loosen, confirm)?)?;
    print!("{}", done.text);
    if let Some(number) = done.proposal {
        println!(
            "nothing is changed yet: a second person must apply the same within a day, with --loosen --confirm {number}"
        );
        return Ok(());
    }
    println!("{} changes applied; no order was opened by it", done.changes);
    Ok(())
}

pub fn diff(documents: &Documents, output: Output, server: &str) -> Result<(), Failure> {
    let seen: Diff = Client::new(server)?.post("/v1/fleet/diff", &documents.ask(false, None)?)?;
    match output {
        Output::Json => output::print(output, &seen, &[], Vec::new())?,
        Output::Table => print!("{}", diff::text_of(&seen)),
    }
    if seen.refusals.is_empty() { Ok(()) } else { Err("this cannot be applied as it is".into()) }
}

pub fn export(form: Form, server: &str) -> Result<(), Failure> {
    let document: Document = Client::new(server)?.get("/v1/fleet")?;
    let fleet = read::of_document(Path::new("the server's answer"), document)?;
    let text = match form {
        Form::Toml => export::to_toml(&fleet)?,
        Form::Yaml => export::to_yaml(&fleet)?,
    };
    print!("{text}");
    Ok(())
}

/// As `ansible-inventory --list` wants it from a dynamic inventory.
pub fn inventory(server: &str) -> Result<(), Failure> {
    let inventory: serde_json::Value = Client::new(server)?.get("/v1/inventory/ansible")?;
    println!("{}", serde_json::to_string_pretty(&inventory)?);
    Ok(())
}
