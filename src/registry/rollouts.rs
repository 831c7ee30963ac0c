//! Rollouts in the writer: plans get their number here, and each step's asks and progress are one commit.

use super::RegistryError;
use super::fleet::untrusted;
use super::rollout_form::{self, PREFIX};
use super::writer::{Batch, Writer};
use crate::db::DbError;
use crate::decide::brakes;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{Event, Host, ImageChoice};
use crate::decide::rollout::gate::HostFacts;
use crate::decide::rollout::plan::{Goal, Member, Plan};
use crate::decide::rollout::progress::{Action, Progress, Stepped};
use crate::decide::rollout::step;
use crate::decide::version::Stage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rollout as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    pub plan: Arc<Plan>,
    pub progress: Progress,
}

/// All rollouts, by number.
pub type Rollouts = BTreeMap<u64, Arc<Rollout>>;

/// What an operator may do to a running one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutCommand {
    Pause {
        by: String,
        reason: String,
    },
    Resume,
    Abort {
        by: String,
        reason: String,
    },
    /// What a health check said of a host; `Err` is its complaint.
    Checked {
        host: String,
        requested_at: u64,
        answer: Result<(), String>,
    },
}

/// A health check that a rollout asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckAsked {
    pub rollout: u64,
    pub host: String,
    pub requested_at: u64,
}

impl Writer {
    pub(super) fn load_rollouts(&mut self) -> Result<(), DbError> {
        let items = self.db.scan(PREFIX)?;
        let loaded = rollout_form::load(items);
        let loaded =
            loaded.map_err(|(key, why)| untrusted(&crate::db::Item { key, value: Vec::new(), revision: 0 }, &why))?;
        let rollout = |(number, (plan, progress))| (number, Arc::new(Rollout { plan: Arc::new(plan), progress }));
        self.rollouts = Arc::new(loaded.into_iter().map(rollout).collect());
        Ok(())
    }

    /// Gives a plan its number and begins it. Its first hosts are asked at the next tick.
    ///
    /// # Errors
    /// [`RegistryError::InRollout`] when a host of it is in another one that is not over.
    pub(super) fn start_rollout(&mut self, plan: Plan, batch: &mut Batch, now: u64) -> Result<u64, RegistryError> {
        for other in self.rollouts.values().filter(|other| !other.progress.stage.is_over()) {
            let members: std::collections::BTreeSet<&str> =
                other.plan.members().map(|member| member.id.as_str()).collect();
            if let Some(member) = plan.members().find(|member| members.contains(member.id.as_str())) {
                let host = member.name.clone().unwrap_or_else(|| member.id.clone());
                return Err(RegistryError::InRollout { host, rollout: other.plan.number });
            }
        }
        // It may have been planned before its version was retired.
        if let Some(member) = plan.members().find(|member| self.images.stage(&member.image.name) == Stage::Retired) {
            return Err(RegistryError::ImageRefused(self.images.refused(&member.image.name).unwrap_or_default()));
        }
        let number = self.rollouts.keys().next_back().map_or(1, |last| last + 1);
        let plan = Plan { number, made_at: now, ..plan };
        let progress = Progress::begin(&plan, now);
        for (key, value) in rollout_form::plan_writes(&plan) {
            batch.put(key, value);
        }
        self.put_rollout(Arc::new(plan), None, progress, batch);
        Ok(number)
    }

    pub(super) fn command_rollout(
        &mut self,
        number: u64,
        command: RolloutCommand,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let rollout = self.rollouts.get(&number).cloned().ok_or(RegistryError::NoRollout(number))?;
        let before = rollout.progress.clone();
        let refused = |refusal: crate::decide::rollout::progress::CommandRefusal| {
            RegistryError::RolloutCommand(refusal.to_string())
        };
        let stepped = match command {
            RolloutCommand::Pause { by, reason } => {
                Stepped { progress: before.pause(&by, &reason, now).map_err(refused)?, actions: Vec::new() }
            }
            RolloutCommand::Resume => Stepped { progress: before.resume().map_err(refused)?, actions: Vec::new() },
            RolloutCommand::Abort { by, reason } => before.abort(&rollout.plan, &by, &reason, now).map_err(refused)?,
            RolloutCommand::Checked { host, requested_at, answer } => {
                let answer = match &answer {
                    Ok(()) => Ok(()),
                    Err(complaint) => Err(complaint.as_str()),
                };
                Stepped { progress: before.checked(&host, requested_at, answer, now), actions: Vec::new() }
            }
        };
        self.take_actions(&rollout.plan, stepped.actions, batch, now);
        self.put_rollout(rollout.plan.clone(), Some(&rollout.progress), stepped.progress, batch);
        Ok(())
    }

    /// One step of every rollout that is not over; the health checks that they ask for are the caller's to run.
    pub(super) fn step_rollouts(&mut self, batch: &mut Batch, now: u64) -> Vec<CheckAsked> {
        let running: Vec<Arc<Rollout>> =
            self.rollouts.values().filter(|rollout| !rollout.progress.stage.is_over()).cloned().collect();
        let mut checks = Vec::new();
        for rollout in running {
            let number = rollout.plan.number;
            let denied = self.denied(&rollout.plan);
            let hosts = &self.hosts;
            let facts = |id: &str| {
                let denied = denied.get(id).map(String::as_str);
                hosts.get(id).map(|view| host_facts(&view.host, number, denied))
            };
            let stepped = step::step(&rollout.plan, rollout.progress.clone(), facts, now);
            checks.extend(self.take_actions(&rollout.plan, stepped.actions, batch, now));
            self.put_rollout(rollout.plan.clone(), Some(&rollout.progress), stepped.progress, batch);
        }
        checks
    }

    /// Why causes of a rollout must not become orders now, if they must not.
    pub(super) fn rollout_stands_still(&self, host: &Host) -> Option<String> {
        let mut waiting = None;
        for cause in &host.asks {
            let CauseKind::Rollout { number } = cause.kind else { return None };
            match self.rollouts.get(&number) {
                Some(rollout) if rollout.progress.admits() => return None,
                Some(rollout) => waiting = Some(format!("rollout {number} is {}", rollout.progress.stage.word())),
                None => waiting = Some(format!("rollout {number} is not known")),
            }
        }
        waiting
    }

    /// Members for which no order will be opened, and why: the deny list, or an image that was blocked since.
    fn denied(&self, plan: &Plan) -> BTreeMap<String, String> {
        let fleet = &self.brakes.fleet;
        let deny = |member: &Member| {
            let view = self.hosts.get(&member.id)?;
            let group = fleet.group(&view.host.group);
            let denied = brakes::allowed(&view.host, &group, &fleet.policy).err().map(|deny| deny.to_string());
            // Its own image, or one that a person wants of the host: that one would be ordered.
            let asked = Some(&view.host).filter(|host| !host.asks.is_empty()).and_then(Host::asked_image);
            let blocked = || asked.iter().chain([&member.image]).find_map(|image| self.images.refused(&image.name));
            denied.or_else(blocked).map(|why| (member.id.clone(), why))
        };
        plan.members().filter_map(deny).collect()
    }

    fn take_actions(&mut self, plan: &Plan, actions: Vec<Action>, batch: &mut Batch, now: u64) -> Vec<CheckAsked> {
        let mut checks = Vec::new();
        let kind = CauseKind::Rollout { number: plan.number };
        for action in actions {
            let (host, event) = match action {
                Action::Ask { host, image } => {
                    let cause = ask(plan, image, now);
                    (host, Event::Ask { cause })
                }
                Action::Withdraw { host } => (host, Event::Withdraw { kind, by: format!("rollout {}", plan.number) }),
                Action::Check { host, requested_at } => {
                    checks.push(CheckAsked { rollout: plan.number, host, requested_at });
                    continue;
                }
            };
            if let Err(error) = self.host_event(&host, &event, None, batch, now) {
                // The next step sees what became of the host and judges it.
                tracing::warn!(rollout = plan.number, host, %error, "a host of the rollout was not asked");
            }
        }
        checks
    }

    fn put_rollout(&mut self, plan: Arc<Plan>, old: Option<&Progress>, progress: Progress, batch: &mut Batch) {
        if old == Some(&progress) {
            return;
        }
        if old.is_some_and(|old| old.stage != progress.stage) {
            tracing::warn!(rollout = plan.number, stage = progress.stage.word(), "the rollout moved");
        }
        for (key, value) in rollout_form::progress_writes(old, &progress) {
            batch.put(key, value);
        }
        let number = plan.number;
        Arc::make_mut(&mut self.rollouts).insert(number, Arc::new(Rollout { plan, progress }));
    }
}

fn ask(plan: &Plan, image: ImageChoice, now: u64) -> Cause {
    let number = plan.number;
    let what = match plan.request.goal {
        Goal::Image(_) => format!("rollout {number}"),
        Goal::Former { of } => format!("rollout {number}, which undoes rollout {of}"),
    };
    let reason = format!("{what}: {}", plan.request.reason);
    Cause { image: Some(image), ..Cause::new(CauseKind::Rollout { number }, &reason, &plan.request.by, now) }
}

/// What a rollout sees of a host.
#[must_use]
pub fn host_facts<'a>(host: &'a Host, rollout: u64, denied: Option<&'a str>) -> HostFacts<'a> {
    let kind = CauseKind::Rollout { number: rollout };
    HostFacts {
        state: &host.state,
        since: host.since,
        reported: host.reported.as_ref(),
        reported_generation: host.reported_generation,
        whole: host.order.is_none() && host.reported_generation == host.generation,
        asking: host.causes().any(|cause| cause.kind == kind),
        denied,
    }
}
