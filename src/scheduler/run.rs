//! The scheduler's loop: a tick each second, health checks, and power. What it does, `tick` decided.

use super::tick::Scheduler;
use super::turns::Turns;
use crate::clock;
use crate::decide::group::Check;
use crate::decide::host::{Event, Host};
use crate::decide::schedule::clock::Now;
use crate::power::{self, Action, Outcome, Power};
use crate::registry::rollouts::{CheckAsked, RolloutCommand};
use crate::registry::{HostView, Registry};
use jiff::tz::TimeZoneDatabase;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};

const TICK: Duration = Duration::from_secs(1);
/// Controllers that are spoken to at once: each action takes minutes at most, and they share one management network.
const POWER_MAX: usize = 16;
const CHECKS_MAX: usize = 32;
const CHECK_SECONDS: u64 = 30;

/// What an operator may ask of the loop.
#[derive(Debug)]
pub enum Ask {
    /// The time is right: schedules go on from now.
    AcceptClock,
}

/// What the rest of the server knows of the loop.
#[derive(Debug, Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    held: Arc<Mutex<Option<i64>>>,
}

impl Handle {
    /// The jump of the clock that nobody accepted yet, in seconds.
    #[must_use]
    pub fn clock_held(&self) -> Option<i64> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets schedules go on from now. Answered by the next tick.
    pub async fn accept_clock(&self) {
        // The loop ends with the server, and then nobody asks.
        let _ = self.asks.send(Ask::AcceptClock).await;
    }
}

/// The loop, ready to run.
#[derive(Debug)]
pub struct Loop {
    registry: Registry,
    power: Arc<Power>,
    asks: mpsc::Receiver<Ask>,
    held: Arc<Mutex<Option<i64>>>,
    began: Instant,
    /// Hosts whose controller is being spoken to: one action at a time each.
    switching: Arc<Mutex<BTreeSet<String>>>,
    turns: Turns,
    places: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

impl Loop {
    #[must_use]
    pub fn new(registry: Registry, power: Power) -> (Loop, Handle) {
        let (asks_in, asks) = mpsc::channel(8);
        let held = Arc::new(Mutex::new(None));
        let handle = Handle { asks: asks_in, held: held.clone() };
        let (places, checks) = (Arc::new(Semaphore::new(POWER_MAX)), Arc::new(Semaphore::new(CHECKS_MAX)));
        let began = clock::instant();
        let switching = Arc::default();
        (
            Loop {
                registry,
                power: Arc::new(power),
                asks,
                held,
                began,
                switching,
                turns: Turns::default(),
                places,
                checks,
            },
            handle,
        )
    }

    /// Until the server stops.
    pub async fn run(mut self) {
        let mut scheduler = Scheduler::new(TimeZoneDatabase::from_env(), self.registry.stored_clock());
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let now = Now { wall: clock::now(), monotonic: self.began.elapsed().as_secs() };
            while let Ok(Ask::AcceptClock) = self.asks.try_recv() {
                let stored = scheduler.accept_clock(now);
                if let Err(error) = self.registry.accept_clock(stored).await {
                    tracing::error!(%error, "the accepted clock was not stored");
                }
            }
            let began = clock::instant();
            let registry = &self.registry;
            let steps = registry.read(|view| scheduler.tick(view, now, |id| registry.progress(id)));
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.held();
            let (asks, late, found) = (steps.asks.len(), steps.late.len(), began.elapsed());
            match registry.tick(steps).await {
                Ok(checks) => checks.into_iter().for_each(|check| self.check(check)),
                Err(error) => tracing::debug!(%error, "this tick was not taken"),
            }
            self.switch_power();
            // What `make bench-fleet` reads: until the steps were found, and until they were on stable storage.
            let (found_micros, done_micros) = (found.as_micros(), began.elapsed().as_micros());
            tracing::debug!(asks, late, found_micros, done_micros, "tick");
        }
    }

    fn switch_power(&mut self) {
        let stopped = self.registry.stop_switch().pressed().is_some();
        let registry = &self.registry;
        let due = registry.read(|view| self.turns.due(view, stopped, clock::now()));
        due.into_iter().for_each(|view| self.switch(view));
    }

    fn switch(&self, view: Arc<HostView>) {
        let id = view.host.id.clone();
        if !self.switching.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return;
        }
        let (registry, power) = (self.registry.clone(), self.power.clone());
        let (places, switching) = (self.places.clone(), self.switching.clone());
        tokio::spawn(async move {
            // Closed only with the server.
            let _place = places.acquire_owned().await;
            boot_to_network(&registry, &power, &view).await;
            switching.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    fn check(&self, asked: CheckAsked) {
        let (registry, places) = (self.registry.clone(), self.checks.clone());
        tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            let answer = check(&registry, &asked).await;
            let CheckAsked { rollout, host, requested_at } = asked;
            let said = RolloutCommand::Checked { host, requested_at, answer };
            if let Err(error) = registry.command_rollout(rollout, said).await {
                tracing::warn!(rollout, %error, "what a health check said was not taken");
            }
        });
    }
}

async fn boot_to_network(registry: &Registry, power: &Power, view: &HostView) {
    let host = &view.host;
    let Some(settings) = view.power.clone() else { return };
    let how = format!("{}: boot to network", settings.driver());
    // Its turn was found before it waited for its place among the others.
    let waits_still = registry.find(&host.id).is_some_and(|now| {
        let purpose = |host: &Host| {
            let wish = host.verify.wish.as_ref();
            (host.order.as_ref().map(|order| order.generation), wish.map(|wish| wish.number))
        };
        purpose(&now.host) == purpose(host) && now.host.state == host.state
    });
    if !waits_still || registry.stop_switch().pressed().is_some() {
        tracing::info!(host = host.id, "the machine moved meanwhile, or everything is stopped; it is not switched");
        return;
    }
    // Written down first: a server that dies now does not switch the machine again and again.
    if let Err(error) = registry.host_event(&host.id, Event::Powered { how }).await {
        tracing::info!(host = host.id, %error, "it is not written down that the machine is switched, so it is not");
        return;
    }
    let address = registry.read(|view| host.macs.iter().find_map(|mac| view.address_of(*mac)));
    let about =
        power::Host { id: &host.id, name: host.name.as_deref(), address: address.map(Into::into), macs: &host.macs };
    let said = match power.act(&about, &settings, Action::BootToNetwork).await {
        Ok(Outcome::Done(report)) => match report.boot_override {
            Some(seen) => format!("power {}: {seen}", report.state),
            None => format!("power {}", report.state),
        },
        Ok(Outcome::LeftToAgent) => "left to the installed agent: it is told to reboot when it next asks".to_string(),
        Ok(Outcome::LeftToPerson(sentence)) => sentence,
        Err(failed) => format!("power failed: {}", crate::causes::in_one_line(&failed)),
    };
    let said = said.chars().filter(|c| !c.is_control()).take(500).collect();
    if let Err(error) = registry.host_event(&host.id, Event::PowerReported { said }).await {
        tracing::warn!(host = host.id, %error, "what came of the power was not noted");
    }
}

async fn check(registry: &Registry, asked: &CheckAsked) -> Result<(), String> {
    let found = registry.read(|view| {
        let rollout = view.rollouts().get(&asked.rollout)?.clone();
        let host = view.find(&asked.host)?;
        let address = host.host.macs.iter().find_map(|mac| view.address_of(*mac));
        Some((rollout, host, address))
    });
    let (rollout, host, address) = found.ok_or("the host is gone")?;
    let address = address.ok_or("the host has no address that the server knows")?;
    let Some(check) = &rollout.plan.request.gate.check else { return Ok(()) };
    let limit = Duration::from_secs(CHECK_SECONDS);
    let done = tokio::time::timeout(limit, run_check(check, &host, address)).await;
    done.unwrap_or_else(|_| Err(format!("no answer within {CHECK_SECONDS} s")))
}

async fn run_check(check: &Check, host: &HostView, address: Ipv4Addr) -> Result<(), String> {
    let name = host.host.name.as_deref().unwrap_or(&host.host.id);
    let mut command = match check {
        Check::Http { url } => {
            let url = url.replace("{address}", &address.to_string()).replace("{name}", name);
            return crate::http::probe::get(&url).await;
        }
        Check::Command { program } => Command::new(program),
    };
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("REGILD_HOST", &host.host.id).env("REGILD_NAME", name).env("REGILD_ADDRESS", address.to_string());
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("the check cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
    let last: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(format!("the check failed ({}): {last}", output.status))
}
