//! Random sequences of packets against what the machines themselves believe.

use super::*;

/// xorshift64*: good enough to shuffle packets, and the seed says it all.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// The promise: whatever packets come in whatever order, no address is ever bound to two MACs at once. The model
/// is what the machines themselves believe: who was told "yours until T" and has not given it up.
#[test]
fn d9_no_sequence_of_packets_binds_an_address_to_two_machines() {
    for seed in 1..=200u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut table = LeaseTable::new(subnet());
        let mut stored: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
        let mut believed: BTreeMap<Ipv4Addr, (Mac, u64)> = BTreeMap::new();
        let mut now = NOW;
        for step in 0..500 {
            now += if dice.roll(40) == 0 { dice.roll(5000) } else { dice.roll(8) };
            let from = mac(1 + u8::try_from(dice.roll(16)).unwrap());
            let some_ip = ip(9 + u8::try_from(dice.roll(13)).unwrap());
            let own = table.bound_to(from).or(table.offered_to(from)).map_or(some_ip, |lease| lease.ip);
            let ip_asked = if dice.roll(3) == 0 { some_ip } else { own };
            let request = match dice.roll(12) {
                0..=3 => LeaseRequest { requested: Some(ip_asked), ..discover_from(from) },
                4..=6 => select(from, ip_asked),
                7 => init_reboot(from, ip_asked),
                8..=9 => renew(from, ip_asked),
                10 => decline_of(from, ip_asked),
                _ => release_of(from, ip_asked),
            };
            let answer = say(&mut table, &request, now);
            store(&answer, &mut stored);
            check_against_model(&answer, from, &mut believed, now)
                .unwrap_or_else(|why| panic!("seed {seed} step {step}: {why}\n{request:?}\n{answer:?}"));
            check_table(&table).unwrap_or_else(|why| panic!("seed {seed} step {step}: {why}"));
            if dice.roll(60) == 0 {
                // A crash: what was only in memory is lost.
                table = LeaseTable::load(subnet(), stored.values().cloned());
            }
        }
    }
}

/// Stable storage as the registry keeps it: a record for each address.
fn store(answer: &LeaseAnswer, stored: &mut BTreeMap<Ipv4Addr, Lease>) {
    if let Some(change) = answer.change()
        && change.is_durable()
    {
        if let Some(ip) = change.frees {
            stored.remove(&ip);
        }
        stored.insert(change.put.ip, change.put);
    }
}

fn check_against_model(
    answer: &LeaseAnswer,
    from: Mac,
    believed: &mut BTreeMap<Ipv4Addr, (Mac, u64)>,
    now: u64,
) -> Result<(), String> {
    match answer {
        LeaseAnswer::Ack { lease, lease_seconds, frees, .. } => {
            if let Some((other, until)) = believed.get(&lease.ip)
                && *other != from
                && *until > now
            {
                return Err(format!("{} is {other}'s until {until}, now {now}", lease.ip));
            }
            if now + u64::from(*lease_seconds) > lease.expires_at {
                return Err("the client was told more than was written down".into());
            }
            if let Some(freed) = frees {
                believed.remove(freed);
            }
            believed.insert(lease.ip, (from, now + u64::from(*lease_seconds)));
        }
        LeaseAnswer::Offer { ip, .. } => {
            if believed.get(ip).is_some_and(|(other, until)| *other != from && *until > now) {
                return Err(format!("{ip} was offered while another machine has it"));
            }
        }
        LeaseAnswer::Release { lease } | LeaseAnswer::Decline { lease, .. } => {
            if believed.get(&lease.ip).is_some_and(|(owner, until)| *owner != from && *until > now) {
                return Err(format!("{} was taken from its owner", lease.ip));
            }
            believed.remove(&lease.ip);
        }
        LeaseAnswer::Nak { .. } | LeaseAnswer::Inform { .. } | LeaseAnswer::Silent { .. } => {}
    }
    Ok(())
}

/// The table's own promises, by a full walk.
fn check_table(table: &LeaseTable) -> Result<(), String> {
    let mut bound: BTreeMap<Mac, Ipv4Addr> = BTreeMap::new();
    for lease in table.iter() {
        if !table.subnet().contains(lease.ip) || table.lookup(lease.ip) != Some(lease) {
            return Err(format!("{lease:?} is not where it belongs"));
        }
        if lease.state == LeaseState::Bound {
            if let Some(twice) = bound.insert(lease.mac, lease.ip) {
                return Err(format!("{} has both {twice} and {}", lease.mac, lease.ip));
            }
            if table.bound_to(lease.mac) != Some(lease) {
                return Err(format!("{lease:?} is not found by its MAC"));
            }
        }
    }
    Ok(())
}
