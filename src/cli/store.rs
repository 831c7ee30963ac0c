//! `regild store`: the server's own records, worked on while the server is stopped.

use super::Failure;
use crate::clock;
use crate::config::Config;
use crate::db::sled::SledDb;
use crate::db::{Db, DbRead, Txn};
use crate::decide::boot::{BootPolicy, Halt};
use crate::decide::host::{Event, Outcome, transition};
use crate::registry::stop::{Stop, StopSwitch};
use crate::registry::{history, ledger, stored};
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Take a restored or damaged store as it is. Every host whose order was open is held: only a person
    /// can know whether its disk was finished meanwhile.
    Accept {
        #[arg(long)]
        config: PathBuf,
    },
}

pub fn run(command: StoreCommand) -> Result<(), Failure> {
    let StoreCommand::Accept { config } = command;
    let config = Config::load(&config)?;
    // Rollouts, schedules and waiting causes of a time that is over would go on by themselves: a person looks first.
    let stop = Stop {
        by: "regild store accept".to_string(),
        reason: "the store was restored; compare it with the machines, then `regild resume`".to_string(),
        at: clock::now(),
        running_too: false,
    };
    StopSwitch::new(&config.state_dir).press(&stop)?;
    let (mut db, what) = SledDb::accept(&config.state_dir, clock::now())?;
    println!("{what}");
    let hold = Event::Hold {
        by: "regild store accept".to_string(),
        reason: "the store was restored while this order was open; look at the machine, then release it".to_string(),
        until: None,
    };
    let policy = BootPolicy { attempts_max: config.deploy.attempts_max, halt: Halt::Everything };
    let mut txn = Txn::default();
    for item in db.scan("host/")? {
        let (host, inventory) = stored::decode(&item.value)?;
        if host.order.is_none() {
            continue;
        }
        let now = clock::now();
        if let Outcome::Moved(mut held, entries) = transition(&host, &hold, policy, now) {
            println!("{}: held, order {} closed", host.id, host.generation);
            for entry in &entries {
                let line = history::line(entry, held.history_length, held.generation, now);
                txn.writes.push((history::key(&held.id, line.number), Some(serde_json::to_vec(&line)?)));
                held.history_length += 1;
            }
            txn.writes.push((item.key, Some(stored::encode(&held, inventory.as_ref())?)));
        }
    }
    if let Some(tip) = ledger::mend(&db)? {
        println!("the ledger had lost its tip: it ends with the last entry that is there");
        txn.writes.push(tip);
    }
    db.commit(&[txn])?;
    println!("everything is stopped; `regild resume` ends that");
    Ok(())
}
