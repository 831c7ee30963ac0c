//! Bandwidth of image data: who waits for whom where a limit is in force (`decide::share` decides), and what was sent.
//!
//! Where neither the server nor the asker's group has a limit, nothing here is asked: no lock, no wait. Then it is TCP that
//! shares the line between connections, and the number of connections of one address is bounded (sources.rs).

use super::Shared;
use crate::clock;
use crate::decide::share::{Asker, Nanos, Shares, Ticket, slice_bytes};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};

/// Hands out turns to send.
#[derive(Debug)]
pub struct Pacer {
    /// Of all image data, bytes a second.
    limit: Option<u64>,
    waiting: Mutex<Waiting>,
    /// Somebody waits who did not before.
    changed: Notify,
    began: Instant,
    streams: AtomicUsize,
    sent_bytes: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    shares: Shares,
    /// An entry for each stream that waits: connections are bounded.
    turns: HashMap<Ticket, oneshot::Sender<()>>,
}

/// Under which limits somebody is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub group: String,
    /// Of the group, bytes a second.
    pub limit: Option<u64>,
}

impl Pacer {
    #[must_use]
    pub fn new(limit: Option<u64>) -> Arc<Pacer> {
        let waiting = Mutex::new(Waiting { shares: Shares::new(limit, 0), turns: HashMap::new() });
        let (streams, sent_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Pacer { limit, waiting, changed: Notify::new(), began: clock::instant(), streams, sent_bytes })
    }

    /// Wakes those whose turn comes with time, until `stop`.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let wakes_at = {
                let mut waiting = self.waiting();
                let now = self.now();
                waiting.grant(now);
                waiting.shares.wakes_at(now)
            };
            let time = async {
                match wakes_at {
                    Some(at) => tokio::time::sleep_until((self.began + Duration::from_nanos(at)).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time => {}
                () = self.changed.notified() => {}
                _ = stop.changed() => return,
            }
        }
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Numbers that are valid at every moment: a panic elsewhere cannot have spoilt them.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn to send the next piece, of at most `left` bytes.
    pub fn ask(self: &Arc<Self>, source: IpAddr, limits: &Limits, left: usize) -> Turn {
        let lowest = limits.limit.into_iter().chain(self.limit).min().unwrap_or(u64::MAX);
        let wanted = u32::try_from(left).unwrap_or(u32::MAX).min(slice_bytes(lowest, self.streams()));
        let (sender, granted) = oneshot::channel();
        let mut waiting = self.waiting();
        let now = self.now();
        let asker = Asker { source, group: &limits.group, limit: limits.limit };
        let (ticket, bytes) = waiting.shares.ask(asker, wanted, now);
        waiting.turns.insert(ticket, sender);
        waiting.grant(now);
        if waiting.turns.contains_key(&ticket) {
            self.changed.notify_one();
        }
        drop(waiting);
        Turn { pacer: self.clone(), source, ticket, bytes, granted, is_over: false }
    }

    pub fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Streams that are being sent now.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

impl Waiting {
    fn grant(&mut self, now: Nanos) {
        for ticket in self.shares.grant(now) {
            // Whoever went away meanwhile does not hear it.
            self.turns.remove(&ticket).map(|turn| turn.send(()));
        }
    }
}

/// Comes when the bytes may be sent.
#[derive(Debug)]
pub struct Turn {
    pacer: Arc<Pacer>,
    source: IpAddr,
    ticket: Ticket,
    bytes: u32,
    granted: oneshot::Receiver<()>,
    is_over: bool,
}

impl Future for Turn {
    /// How many.
    type Output = usize;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<usize> {
        // The sender is never dropped unheard while this ticket waits.
        let granted = Pin::new(&mut self.granted).poll(context);
        granted.map(|_| {
            self.is_over = true;
            self.bytes as usize
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = self.pacer.waiting();
            waiting.turns.remove(&self.ticket);
            waiting.shares.withdraw(self.source, self.ticket);
        }
    }
}

/// Counts one stream as long as it is there.
#[derive(Debug)]
pub struct Counted(Arc<Pacer>);

impl Counted {
    #[must_use]
    pub fn new(pacer: &Arc<Pacer>) -> Counted {
        pacer.streams.fetch_add(1, Ordering::Relaxed);
        Counted(pacer.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Under which limits this address is served: its lease says whose it is, and the host's record in which group. An
    /// address that is nobody's shares what the server has, and no group's. `None`: there is no limit.
    #[must_use]
    pub fn limits_of(&self, source: IpAddr) -> Option<Limits> {
        let of_group = self.registry.read(|view| {
            let IpAddr::V4(address) = source else { return None };
            let host = view.by_mac(view.lease_holder(address)?)?;
            let limit = view.groups().get(&host.host.group).and_then(|group| group.bandwidth);
            (limit.is_some() || self.pacer.limit.is_some()).then(|| Limits { group: host.host.group.clone(), limit })
        });
        of_group.or_else(|| self.pacer.limit.map(|_| Limits { group: String::new(), limit: None }))
    }
}

/// The answer to `GET /v1/serving`.
#[derive(Debug, Serialize)]
pub struct Serving {
    /// Answers with image data that are being sent now.
    pub streams: usize,
    /// Since the server started.
    pub sent_bytes: u64,
    /// Bytes a second; null: no limit.
    pub limit: Option<u64>,
    /// Those that a limit holds for, their own or the server's; hosts without a record are under the empty name.
    pub groups: Vec<ServingGroup>,
}

#[derive(Debug, Serialize)]
pub struct ServingGroup {
    pub group: String,
    pub limit: Option<u64>,
    pub granted_bytes: u64,
    pub hosts_waiting: usize,
}

/// `GET /v1/serving`: image data on its way to hosts.
pub async fn serving(State(shared): State<Arc<Shared>>) -> Json<Serving> {
    let pacer = &shared.pacer;
    let group = |count: crate::decide::share::LaneCount| ServingGroup {
        group: count.group,
        limit: count.limit,
        granted_bytes: count.granted_bytes,
        hosts_waiting: count.hosts_waiting,
    };
    Json(Serving {
        streams: pacer.streams(),
        sent_bytes: pacer.sent_bytes.load(Ordering::Relaxed),
        limit: pacer.limit,
        groups: pacer.waiting().shares.counts().into_iter().map(group).collect(),
    })
}
