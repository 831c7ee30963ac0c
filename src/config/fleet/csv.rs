//! CSV import: a rack of new servers, as a spreadsheet gives it, becomes hosts and reservations of a [`Fleet`], and
//! goes the same way as a document from there on. All or nothing; every mistake is told with its line and column.
//!
//! ```text
//! mac,name,address,group,labels,label.row
//! 52:54:00:12:00:01,web-1,10.20.0.11,web,rack=r12 feed=a,b
//! ```
//!
//! The header is required, `mac` is the only column that must be there, an empty cell says nothing. Labels stand in
//! `labels` (`KEY=VALUE`, parted by spaces or `;`) or in columns called `label.KEY`. Any other column is refused and
//! not taken for a label: a mistyped `adress` would otherwise become a label, and the machine get another address.

use super::file::{Document, Host, Reservation};
use super::read::{self, FleetError};
use super::words::{HostName, LabelTable, NicMac, Text, Word};
use super::{Fleet, settings::PowerSettings};
use crate::decide::labels::Labels;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

/// Mistakes that are told at once.
const SHOWN_MAX: usize = 20;

/// Why nothing of a CSV file was taken.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    #[error("{}: nothing was taken:{}", .0, shown(.1))]
    Mistakes(String, Vec<Mistake>),
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

/// One cell, row or header that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: u64,
    /// Number from 1, and name; `None`: the row as a whole.
    pub column: Option<(usize, String)>,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some((number, name)) => write!(f, "line {}, column {number} ({name}): {}", self.line, self.message),
            None => write!(f, "line {}: {}", self.line, self.message),
        }
    }
}

fn shown(mistakes: &[Mistake]) -> String {
    let mut text: String = mistakes.iter().take(SHOWN_MAX).map(|mistake| format!("\n  {mistake}")).collect();
    if mistakes.len() > SHOWN_MAX {
        text += &format!("\n  and {} more", mistakes.len() - SHOWN_MAX);
    }
    text
}

/// Reads a file.
///
/// # Errors
/// [`CsvError`]; nothing is taken then.
pub fn load(path: &Path) -> Result<Fleet, CsvError> {
    import(path, &read::text_of(path)?)
}

/// Reads a text; `path` is for messages only.
///
/// # Errors
/// [`CsvError`]; nothing is taken then.
pub fn import(path: &Path, text: &str) -> Result<Fleet, CsvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut rows = Rows::default();
    let failed = |mistakes| CsvError::Mistakes(path.display().to_string(), mistakes);
    let header = reader.headers().map_err(|error| failed(vec![of_reader(&error)]))?.clone();
    let columns = columns(&header).map_err(failed)?;
    for record in reader.records() {
        match record {
            Ok(record) => rows.add(&columns, &record),
            Err(error) => rows.mistakes.push(of_reader(&error)),
        }
    }
    if rows.document.hosts.is_empty() && rows.mistakes.is_empty() {
        rows.mistakes.push(Mistake { line: 1, column: None, message: "there is no row after the header".to_string() });
    }
    if rows.mistakes.is_empty() {
        return Ok(read::of_document(path, rows.document)?);
    }
    Err(failed(rows.mistakes))
}

fn of_reader(error: &csv::Error) -> Mistake {
    let line = error.position().map_or(1, csv::Position::line);
    Mistake { line, column: None, message: error.to_string() }
}

enum Column {
    Mac,
    Name,
    Address,
    Group,
    Labels,
    Label(String),
}

/// What each column is, with the name that the header gives it.
fn columns(header: &csv::StringRecord) -> Result<Vec<(String, Column)>, Vec<Mistake>> {
    let mut columns: Vec<(String, Column)> = Vec::new();
    let mut mistakes = Vec::new();
    for (at, name) in header.iter().enumerate() {
        let mut mistake = |message: String| {
            let name = name.chars().take(40).collect();
            mistakes.push(Mistake { line: 1, column: Some((at + 1, name)), message });
        };
        let column = match name {
            "mac" => Column::Mac,
            "name" => Column::Name,
            "address" => Column::Address,
            "group" => Column::Group,
            "labels" => Column::Labels,
            _ if header.len() == 1 && name.contains([';', '\t']) => {
                mistake("cells must be parted by commas".to_string());
                continue;
            }
            _ => match name.strip_prefix("label.") {
                Some(key) => Column::Label(key.to_string()),
                None => {
                    mistake("is none of mac, name, address, group, labels, label.KEY".to_string());
                    continue;
                }
            },
        };
        if columns.iter().any(|(known, _)| known == name) {
            mistake("is there twice".to_string());
        }
        columns.push((name.to_string(), column));
    }
    if mistakes.is_empty() && !columns.iter().any(|(_, column)| matches!(column, Column::Mac)) {
        let message = "the header has no column mac; the first line names the columns".to_string();
        mistakes.push(Mistake { line: 1, column: None, message });
    }
    if mistakes.is_empty() { Ok(columns) } else { Err(mistakes) }
}

#[derive(Default)]
struct Rows {
    document: Document,
    mistakes: Vec<Mistake>,
    /// Column and value of what may be there once, with its line.
    seen: BTreeMap<(&'static str, String), u64>,
}

impl Rows {
    fn add(&mut self, columns: &[(String, Column)], record: &csv::StringRecord) {
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != columns.len() {
            let message = format!("has {} cells, the header has {}", record.len(), columns.len());
            self.mistakes.push(Mistake { line, column: None, message });
            return;
        }
        let mut row = Row::default();
        for (at, ((name, column), cell)) in columns.iter().zip(record).enumerate() {
            if let Err(message) = row.take(column, cell).and_then(|once| self.once(once, line)) {
                self.mistakes.push(Mistake { line, column: Some((at + 1, name.clone())), message });
            }
        }
        let Some(mac) = row.mac else {
            // A cell that is wrong has been told already.
            if !self.mistakes.iter().any(|mistake| mistake.line == line) {
                self.mistakes.push(Mistake { line, column: None, message: "has no mac".to_string() });
            }
            return;
        };
        if let Some(address) = row.address {
            self.document.reservations.push(Reservation { mac: Text(mac), address: Text(address) });
        }
        self.document.hosts.push(Host {
            mac: Some(Text(mac)),
            id: None,
            name: row.name.map(Text),
            group: row.group.map(Text),
            labels: row.labels.map(LabelTable),
            image: None,
            power: None::<PowerSettings>,
            drift: None,
        });
    }

    fn once(&mut self, value: Option<(&'static str, String)>, line: u64) -> Result<(), String> {
        let Some((column, value)) = value else { return Ok(()) };
        match self.seen.insert((column, value.clone()), line) {
            None => Ok(()),
            Some(first) => Err(format!("{value} is on line {first} already")),
        }
    }
}

#[derive(Default)]
struct Row {
    mac: Option<NicMac>,
    name: Option<HostName>,
    address: Option<Ipv4Addr>,
    group: Option<Word>,
    /// `None`: no cell says anything about labels, so they stay as they are.
    labels: Option<Labels>,
}

impl Row {
    /// Takes one cell; gives back what must not be on another line too.
    fn take(&mut self, column: &Column, cell: &str) -> Result<Option<(&'static str, String)>, String> {
        if cell.is_empty() {
            return Ok(None);
        }
        match column {
            Column::Mac => {
                let mac = NicMac::from_str(cell)?;
                self.mac = Some(mac);
                return Ok(Some(("mac", mac.to_string())));
            }
            Column::Name => {
                self.name = Some(HostName::from_str(cell)?);
                return Ok(Some(("name", cell.to_string())));
            }
            Column::Address => {
                let address = cell.parse().ok().filter(|address| read::is_usable(*address));
                let address = address.ok_or_else(|| format!("{cell:?} is no IPv4 address of a machine"))?;
                self.address = Some(address);
                return Ok(Some(("address", address.to_string())));
            }
            Column::Group => self.group = Some(Word::from_str(cell)?),
            Column::Label(key) => self.label(key, cell)?,
            Column::Labels => {
                for label in cell.split([' ', ';']).filter(|label| !label.is_empty()) {
                    let (key, value) = label.split_once('=').ok_or_else(|| format!("{label:?} is no KEY=VALUE"))?;
                    self.label(key, value)?;
                }
            }
        }
        Ok(None)
    }

    fn label(&mut self, key: &str, value: &str) -> Result<(), String> {
        let labels = self.labels.get_or_insert_default();
        if labels.get(key).is_some() {
            return Err(format!("the label {key} is there twice"));
        }
        labels.set(key, value).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
