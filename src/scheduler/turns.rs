//! Whose power is to be switched now, so that the machine netboots. A view in, hosts out: a simulation asks it, too.

use crate::decide::brakes::UnderWay;
use crate::decide::host::{Host, State};
use crate::registry::{HostView, View};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is remembered from tick to tick: generation and power cycles of each open order, as last seen. A cycle that is
/// new is carried out. What was there when the server started was begun by the one before it.
#[derive(Debug, Default)]
pub struct Turns {
    cycles: BTreeMap<String, (u64, u32)>,
}

impl Turns {
    /// Machines whose order waits for them and that can be switched: each once for each order and each power cycle; and
    /// those whose disk is to be looked at without waiting for their next boot, once for each time that was asked.
    /// No more of the latter than may be away at once.
    /// While everything is stopped it is nobody's turn; what came due meanwhile is carried out afterwards.
    pub fn due(&mut self, all: &View, stopped: bool, now: u64) -> Vec<Arc<HostView>> {
        if stopped {
            return Vec::new();
        }
        let (mut seen, mut due) = (BTreeMap::new(), Vec::new());
        let mut under_way = None;
        for view in all.hosts().filter(|view| view.can_be_switched()) {
            let Some(order) = &view.host.order else {
                if is_verified_now(&view.host) && all.allowed(&view.host).is_ok() {
                    // Counted only where somebody asks, and each one that goes counts for the next.
                    let counted = || UnderWay::count(all.hosts().map(|view| &view.host), now);
                    let under_way: &mut UnderWay = under_way.get_or_insert_with(counted);
                    if under_way.look_waits(&view.host, &all.group(&view.host.group), all.policy(), now).is_none() {
                        under_way.add(&view.host);
                        due.push(view.clone());
                    }
                }
                continue;
            };
            // Under protection since the order was opened: it boots its disk, whoever switches it.
            if all.allowed(&view.host).is_err() {
                continue;
            }
            let begins = view.host.state == State::Queued && order.attempts == 0 && order.powered_at.is_none();
            let cycle = (order.generation, order.power_cycles);
            let is_new = |&(generation, cycles): &(u64, u32)| generation == cycle.0 && cycles < cycle.1;
            if begins || self.cycles.get(&view.host.id).is_some_and(is_new) {
                due.push(view.clone());
            }
            seen.insert(view.host.id.clone(), cycle);
        }
        self.cycles = seen;
        due
    }
}

fn is_verified_now(host: &Host) -> bool {
    let wish = host.verify.wish.as_ref();
    wish.is_some_and(|wish| wish.power && wish.attempts == 0 && wish.powered_at.is_none())
}
