//! The registry in this very process: what the guest of the power cuts runs.

use regild::decide::cause::{Cause, CauseKind};
use regild::decide::host::{AgentWord, DiskId, Event, Identity, ImageChoice, Step};
use regild::decide::lease::{LeaseAnswer, LeaseRequest, MessageKind};
use regild::decide::netboot::NetbootClient;
use regild::registry::fleet::Images;
use regild::registry::{Registry, RegistryError, Script};
use regild::wire::agent::{Disk, Inventory};
use std::net::Ipv4Addr;

use crate::brakes;
use crate::client::{Answer, Attempt, Broken, Door};
use crate::life::{IMAGE, Life, Op, why};

pub struct Direct {
    registry: Registry,
    runtime: tokio::runtime::Runtime,
}

impl Direct {
    pub fn new(registry: Registry) -> Direct {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of this thread");
        Direct { registry, runtime }
    }

    /// Sets the brakes of the load.
    pub fn apply_brakes(&self) {
        let applied = self.registry.apply(brakes::writes(), Images::new(), "ann".to_string());
        self.runtime.block_on(applied).unwrap_or_else(|error| panic!("the brakes cannot be set: {error}"));
    }

    async fn ask(&self, life: &Life, op: Op, attempt: Option<&Attempt>) -> Result<Answer, RegistryError> {
        match op {
            Op::Lease(number) => {
                let answer = self.registry.lease(0, lease_request(life, number)).await?;
                assert!(matches!(answer, LeaseAnswer::Ack { .. }), "{answer:?}");
            }
            Op::Script => {
                let script = self.registry.script(life.mac(), NetbootClient::Ipxe { uefi: false }).await?;
                return Ok(match script {
                    Script::Agent { generation, token, .. } => Answer::Agent(Attempt::new(generation, token)),
                    _ => Answer::Local,
                });
            }
            Op::History => {
                let lines = self.registry.history(&life.id()).await?;
                return Ok(Answer::History(lines.into_iter().map(|line| (line.to, line.cause)).collect()));
            }
            Op::CheckIn => {
                let event = event(op, attempt);
                self.registry.check_in(&life.id(), event, inventory(life)).await?;
            }
            _ => {
                let view = self.registry.host_event(&life.id(), event(op, attempt)).await?;
                let opens = matches!(op, Op::Approve | Op::Reimage(_));
                assert!(!opens || view.host.order.is_some(), "the brakes hold {op:?}: {:?}", view.waits);
            }
        }
        Ok(Answer::Done)
    }
}

impl Door for Direct {
    fn perform(&mut self, life: &Life, op: Op, attempt: Option<&Attempt>) -> Result<Answer, Broken> {
        let answer = self.runtime.block_on(self.ask(life, op, attempt));
        answer.map_err(|error| Broken::Refused(error.to_string()))
    }
}

fn lease_request(life: &Life, number: u32) -> LeaseRequest {
    LeaseRequest {
        kind: MessageKind::Request,
        mac: life.mac(),
        ciaddr: life.ip(),
        requested: None,
        server_id: None,
        giaddr: Ipv4Addr::UNSPECIFIED,
        hostname: Some(format!("n-{number}")),
    }
}

fn event(op: Op, attempt: Option<&Attempt>) -> Event {
    let digest = |secret: &str| blake3::hash(secret.as_bytes()).to_hex().to_string();
    let by = "ann".to_string();
    let agent = |word| {
        let attempt = attempt.expect("agents have a token");
        Event::Agent { generation: attempt.generation, session_digest: digest(&attempt.session), word }
    };
    let disk = || DiskId { serial: Some("s-0".into()), wwn: None, size_bytes: 1 << 40 };
    match op {
        Op::Approve => {
            let image = ImageChoice { name: IMAGE.into(), manifest: "m".into() };
            let cause = Cause { image: Some(image), ..Cause::new(CauseKind::Operator, "first image", &by, 1) };
            Event::Approve { cause }
        }
        Op::Reimage(number) => Event::Ask { cause: Cause::new(CauseKind::Operator, &why(number), &by, 1) },
        Op::Hold(number) => Event::Hold { by, reason: why(number), until: None },
        Op::Release => Event::Release { by },
        Op::CheckIn => {
            let attempt = attempt.expect("agents have a token");
            Event::CheckedIn {
                generation: attempt.generation,
                token_digest: digest(&attempt.token),
                session_digest: digest(&attempt.session),
                identity: Identity::default(),
            }
        }
        Op::Target => agent(AgentWord::Target(disk())),
        Op::WriteBody => agent(AgentWord::Step(Step::WriteBody)),
        Op::VerifyBody => agent(AgentWord::Step(Step::VerifyBody)),
        Op::Verified => agent(AgentWord::Verified(disk())),
        Op::Failed(number) => agent(AgentWord::Failed { step: Step::WriteBody, reason: why(number) }),
        Op::Installed => Event::Installed { image: IMAGE.into() },
        Op::Lease(_) | Op::Script | Op::History => unreachable!("{op:?} is no event of a host"),
    }
}

/// What a machine consists of. Machines with many disks make large records.
pub fn inventory(life: &Life) -> Inventory {
    let disk = |number: usize| Disk {
        name: format!("sd{number}"),
        serial: Some(format!("s-{number}")),
        wwn: Some(format!("0x5000c500a1b2{number:04x}")),
        model: Some("SEAGATE ST16000NM002G 16 TB, 12 Gb/s SAS".to_string()),
        size_bytes: 1 << 40,
        sector_bytes: 4096,
        transport: "scsi".to_string(),
        removable: false,
        read_only: false,
        content: Some("gpt, ext4 with the label data".to_string()),
    };
    let disks = (0..life.disks_in_machine()).map(disk).collect();
    Inventory { macs: vec![life.mac().to_string()], disks, ..Inventory::default() }
}
