//! A simulated machine: firmware, iPXE, the agent's road through a deploy, and the installed system, with disks that
//! keep what was written. It does only what real ones do: it sends requests, waits for answers, and may hang, lose
//! power or fail at any step.

use crate::dice::Dice;
use regild::decide::boot::BootDecision;
use regild::decide::disk::{self, ForeignContent, Needs};
use regild::decide::host::{AgentWord, DiskId, Event, Identity, ImageChoice, Step};
use regild::decide::mac::Mac;
use regild::registry::Script;

/// How long the agent waits for a server that does not answer (`agent::deploy`).
const PATIENCE_SECONDS: u64 = 300;
pub const IMAGE_BYTES: u64 = 1 << 30;
const SECRETS_KEPT: usize = 4;

#[derive(Debug, Clone)]
pub enum Request {
    Netboot {
        mac: Mac,
    },
    Script {
        mac: Mac,
    },
    CheckIn {
        host: String,
        generation: u64,
        token: String,
        session: String,
        identity: Identity,
    },
    Report {
        host: String,
        generation: u64,
        session: String,
        said: Said,
    },
    Installed {
        mac: Mac,
        image: String,
    },
    /// What no honest machine says.
    Claim {
        host: String,
        event: Event,
    },
}

#[derive(Debug, Clone)]
pub enum Said {
    Progress { step: Step, done_bytes: u64 },
    Word(AgentWord),
}

#[derive(Debug, Clone)]
pub enum Answer {
    Netboot(BootDecision),
    Script(Script),
    Job(Job),
    Report {
        go_on: bool,
    },
    Noted,
    /// The server does not know the speaker, or does not believe it.
    Refused,
    /// Say it again later.
    Unavailable,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub image: ImageChoice,
    pub rule: disk::Rule,
    pub own_disk: Option<DiskId>,
    pub foreign_released: bool,
}

/// What the world does for a machine.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send what the machine waits for the answer of.
    Send,
    /// Wake it up in so many seconds, whatever it was to be woken up for before.
    Timer(u64),
    /// It wrote to a disk.
    Wrote { host: String, generation: u64 },
    /// A disk holds the whole image now.
    Finished { host: String, generation: u64, image: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Blank,
    Foreign,
    Half,
    Image { image: ImageChoice, generation: u64 },
}

#[derive(Debug, Clone)]
pub struct Disk {
    pub id: DiskId,
    pub content: Content,
}

/// Faults in a thousand, at each step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Temper {
    pub hangs: u64,
    pub loses_power: u64,
    pub fails: u64,
    pub never_confirms: u64,
    pub lies: u64,
}

#[derive(Debug, Clone)]
pub enum Phase {
    Off,
    Post,
    Dhcp,
    Ipxe,
    Agent(Box<Agent>),
    BootsDisk,
    System,
    /// Nothing on the disk boots.
    NoSystem,
    Hung,
}

#[derive(Debug, Clone)]
pub struct Agent {
    pub host: String,
    pub generation: u64,
    pub token: String,
    pub session: String,
    stage: Stage,
    job: Option<Job>,
    target: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    CheckIn,
    ChooseDisk,
    Target,
    Survey,
    Clear,
    Body { left: u64 },
    Verify,
    Head,
    Verified,
    GaveUp,
}

#[derive(Debug, Clone)]
pub struct Waiting {
    pub request: Request,
    since: u64,
    tries: u32,
}

#[derive(Debug)]
pub struct Machine {
    pub macs: Vec<Mac>,
    pub uuid: Option<String>,
    pub disks: Vec<Disk>,
    pub has_controller: bool,
    pub temper: Temper,
    /// Counts up with each reset: what belongs to an earlier boot does not reach this one.
    pub boot: u64,
    pub phase: Phase,
    pub waits: Option<Waiting>,
    /// Number of the call that it waits for.
    pub call: u64,
    pub timer: u64,
    /// Tokens and sessions of earlier attempts, for lies.
    pub secrets: Vec<Agent>,
    /// Its disks were changed by hand, or it lied about them: its record says nothing of them any more.
    pub tainted: bool,
}

impl Machine {
    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Post | Phase::Dhcp | Phase::Ipxe | Phase::Agent(_) | Phase::BootsDisk)
    }

    /// The id of the record that its first NIC made.
    pub fn first_id(&self) -> String {
        format!("h-{}", self.macs[0].to_string().replace(':', ""))
    }

    fn identity(&self) -> Identity {
        Identity { macs: self.macs.clone(), system_uuid: self.uuid.clone(), serial: None }
    }

    /// Power on, or a reset.
    pub fn restart(&mut self, dice: &mut Dice) -> Vec<Effect> {
        self.boot += 1;
        self.phase = Phase::Post;
        self.waits = None;
        vec![Effect::Timer(dice.between(20, 180))]
    }

    pub fn lose_power(&mut self, back_after_seconds: u64) -> Vec<Effect> {
        self.boot += 1;
        self.phase = Phase::Off;
        self.waits = None;
        vec![Effect::Timer(back_after_seconds)]
    }

    fn call(&mut self, request: Request, now: u64) -> Vec<Effect> {
        self.call += 1;
        self.waits = Some(Waiting { request, since: now, tries: 1 });
        vec![Effect::Send, Effect::Timer(8)]
    }

    fn call_again(&mut self) -> Vec<Effect> {
        if let Some(waiting) = &mut self.waits {
            waiting.tries += 1;
        }
        vec![Effect::Send, Effect::Timer(10)]
    }

    /// The time that it waited for has come.
    pub fn woken(&mut self, now: u64, dice: &mut Dice) -> Vec<Effect> {
        let tries = self.waits.as_ref().map_or(0, |waiting| waiting.tries);
        match &self.phase {
            Phase::Off | Phase::NoSystem => self.restart(dice),
            Phase::Hung => Vec::new(),
            Phase::Post => {
                self.phase = Phase::Dhcp;
                let mac = *dice.pick(&self.macs);
                self.call(Request::Netboot { mac }, now)
            }
            Phase::Dhcp if tries < 4 => self.call_again(),
            Phase::Dhcp => self.boot_disk(dice),
            Phase::Ipxe if tries < 3 => self.call_again(),
            Phase::Ipxe => self.restart(dice),
            Phase::Agent(_) => match &self.waits {
                Some(waiting) if now - waiting.since > PATIENCE_SECONDS => self.restart(dice),
                Some(_) => self.call_again(),
                None => self.work(now, dice),
            },
            Phase::BootsDisk => {
                self.phase = Phase::System;
                match self.installed_image() {
                    Some(image) if !dice.chance(self.temper.never_confirms) => {
                        self.call(Request::Installed { mac: self.macs[0], image }, now)
                    }
                    _ => Vec::new(),
                }
            }
            Phase::System if self.waits.is_some() && tries < 5 => self.call_again(),
            Phase::System => Vec::new(),
        }
    }

    fn installed_image(&self) -> Option<String> {
        self.disks.iter().find_map(|disk| match &disk.content {
            Content::Image { image, .. } => Some(image.name.clone()),
            _ => None,
        })
    }

    fn boot_disk(&mut self, dice: &mut Dice) -> Vec<Effect> {
        self.waits = None;
        let boots = self.disks.iter().any(|disk| matches!(disk.content, Content::Image { .. } | Content::Foreign));
        if boots {
            self.phase = Phase::BootsDisk;
            return vec![Effect::Timer(dice.between(20, 120))];
        }
        self.phase = Phase::NoSystem;
        vec![Effect::Timer(dice.between(900, 1800))]
    }

    /// An answer to what it waits for.
    pub fn answered(&mut self, answer: Answer, now: u64, dice: &mut Dice) -> Vec<Effect> {
        if matches!(answer, Answer::Unavailable) {
            // It asks again when its timer ends.
            return Vec::new();
        }
        let answered = self.waits.take();
        if matches!(self.phase, Phase::Agent(_)) {
            if dice.chance(self.temper.hangs) {
                self.phase = Phase::Hung;
                return Vec::new();
            }
            if dice.chance(self.temper.loses_power) {
                let off_seconds = dice.between(5, 3000);
                return self.lose_power(off_seconds);
            }
        }
        match (&self.phase, answer) {
            (Phase::Dhcp, Answer::Netboot(BootDecision::Chainload { .. })) => {
                self.phase = Phase::Ipxe;
                let Some(Waiting { request: Request::Netboot { mac }, .. }) = answered else { return Vec::new() };
                self.call(Request::Script { mac }, now)
            }
            (Phase::Dhcp, _) => self.boot_disk(dice),
            (Phase::Ipxe, Answer::Script(Script::Agent { host, generation, token })) => {
                let session = format!("session-{:x}", dice.next());
                let (stage, job) = (Stage::CheckIn, None);
                let agent = Agent { host, generation, token, session, stage, job, target: 0 };
                self.secrets.push(agent.clone());
                if self.secrets.len() > SECRETS_KEPT {
                    self.secrets.remove(0);
                }
                self.phase = Phase::Agent(Box::new(agent));
                // Kernel and initramfs.
                vec![Effect::Timer(dice.between(15, 60))]
            }
            (Phase::Ipxe, _) => self.boot_disk(dice),
            (Phase::Agent(_), answer) => self.agent_answered(answer, now, dice),
            _ => Vec::new(),
        }
    }

    fn agent_answered(&mut self, answer: Answer, now: u64, dice: &mut Dice) -> Vec<Effect> {
        let Phase::Agent(agent) = &mut self.phase else { return Vec::new() };
        match answer {
            Answer::Job(job) => agent.job = Some(job),
            Answer::Report { go_on: true } if agent.stage != Stage::GaveUp => {}
            // The order is over, or somebody else's: it stops, and the deploy environment reboots.
            _ => return self.restart(dice),
        }
        match agent.stage {
            Stage::CheckIn => {
                agent.stage = Stage::ChooseDisk;
                self.say(AgentWord::Step(Step::ChooseDisk), now)
            }
            Stage::ChooseDisk => match self.choose() {
                Ok(disk) => {
                    self.set(Stage::Target, Some(disk));
                    self.say(AgentWord::Target(self.disks[disk].id.clone()), now)
                }
                Err(reason) => self.give_up(Step::ChooseDisk, &reason, now),
            },
            Stage::Target => {
                self.set(Stage::Survey, None);
                self.say(AgentWord::Step(Step::Survey), now)
            }
            Stage::Verified => self.restart(dice),
            _ => self.permitted(now, dice),
        }
    }

    /// The server said: go on. Now the disk may be written.
    fn permitted(&mut self, now: u64, dice: &mut Dice) -> Vec<Effect> {
        let Phase::Agent(agent) = &mut self.phase else { return Vec::new() };
        let (host, generation, target) = (agent.host.clone(), agent.generation, agent.target);
        let Some(job) = agent.job.clone() else { return Vec::new() };
        let wrote = Effect::Wrote { host: host.clone(), generation };
        match agent.stage {
            Stage::Survey => {
                let whole = matches!(&self.disks[target].content, Content::Image { image, .. } if *image == job.image);
                if whole {
                    self.disks[target].content = Content::Image { image: job.image.clone(), generation };
                    self.set(Stage::Verified, None);
                    let mut effects = vec![Effect::Finished { host, generation, image: job.image.name }];
                    effects.extend(self.say(AgentWord::Verified(self.disks[target].id.clone()), now));
                    return effects;
                }
                self.set(Stage::Clear, None);
                self.say(AgentWord::Step(Step::ClearHead), now)
            }
            Stage::Clear => {
                self.disks[target].content = Content::Half;
                self.set(Stage::Body { left: dice.between(1, 3) }, None);
                let mut effects = vec![wrote];
                effects.extend(self.say(AgentWord::Step(Step::WriteBody), now));
                effects
            }
            Stage::Body { .. } | Stage::Verify => vec![wrote, Effect::Timer(dice.between(20, 240))],
            Stage::Head => {
                self.disks[target].content = Content::Image { image: job.image.clone(), generation };
                self.set(Stage::Verified, None);
                let mut effects = vec![wrote, Effect::Finished { host, generation, image: job.image.name }];
                effects.extend(self.say(AgentWord::Verified(self.disks[target].id.clone()), now));
                effects
            }
            _ => Vec::new(),
        }
    }

    /// Work that took its time is done.
    fn work(&mut self, now: u64, dice: &mut Dice) -> Vec<Effect> {
        let fails = dice.chance(self.temper.fails);
        let identity = self.identity();
        let Phase::Agent(agent) = &mut self.phase else { return Vec::new() };
        match agent.stage {
            Stage::CheckIn => {
                let Agent { host, generation, token, session, .. } = (**agent).clone();
                self.call(Request::CheckIn { host, generation, token, session, identity }, now)
            }
            Stage::Body { .. } if fails => self.give_up(Step::WriteBody, "the disk does not take it", now),
            Stage::Body { left: 0 } => {
                self.set(Stage::Verify, None);
                self.say(AgentWord::Step(Step::VerifyBody), now)
            }
            Stage::Body { left } => {
                agent.stage = Stage::Body { left: left - 1 };
                let (host, generation, session) = (agent.host.clone(), agent.generation, agent.session.clone());
                let said = Said::Progress { step: Step::WriteBody, done_bytes: IMAGE_BYTES / (left + 1) };
                self.call(Request::Report { host, generation, session, said }, now)
            }
            Stage::Verify if fails => self.give_up(Step::VerifyBody, "what is read is not what was written", now),
            Stage::Verify => {
                self.set(Stage::Head, None);
                self.say(AgentWord::Step(Step::WriteHead), now)
            }
            _ => Vec::new(),
        }
    }

    fn set(&mut self, stage: Stage, target: Option<usize>) {
        if let Phase::Agent(agent) = &mut self.phase {
            agent.stage = stage;
            agent.target = target.unwrap_or(agent.target);
        }
    }

    fn say(&mut self, word: AgentWord, now: u64) -> Vec<Effect> {
        let Phase::Agent(agent) = &self.phase else { return Vec::new() };
        let (host, generation, session) = (agent.host.clone(), agent.generation, agent.session.clone());
        self.call(Request::Report { host, generation, session, said: Said::Word(word) }, now)
    }

    fn give_up(&mut self, step: Step, reason: &str, now: u64) -> Vec<Effect> {
        self.set(Stage::GaveUp, None);
        self.say(AgentWord::Failed { step, reason: reason.to_string() }, now)
    }

    fn choose(&self) -> Result<usize, String> {
        let Phase::Agent(agent) = &self.phase else { return Err("no agent".to_string()) };
        let job = agent.job.as_ref().ok_or("no job")?;
        let facts = |disk: &Disk| disk::Disk {
            serial: disk.id.serial.clone(),
            size_bytes: disk.id.size_bytes,
            sector_bytes: 512,
            transport: "nvme".to_string(),
            content: (disk.content != Content::Blank).then(|| "gpt".to_string()),
            ..disk::Disk::default()
        };
        let disks: Vec<disk::Disk> = self.disks.iter().map(facts).collect();
        let foreign = if job.foreign_released { ForeignContent::Released } else { ForeignContent::Kept };
        let needs = Needs { image_bytes: IMAGE_BYTES, sector_bytes: 512 };
        disk::choose(&disks, &job.rule, job.own_disk.as_ref(), foreign, needs).map_err(|refusal| refusal.to_string())
    }
}
