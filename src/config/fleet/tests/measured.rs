//! Figures, not promises: the documents of a large fleet. Run by hand:
//! `cargo test --release --lib fleet::tests::measured -- --ignored --nocapture`

use super::super::diff::{Now, PRUNE_MAX, Prune, diff};
use super::super::*;
use super::fleet;
use super::laws::{apply, default_groups};
use crate::clock;
use crate::config::fleet::export;

const HOSTS: u32 = 100_000;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = clock::instant();
    let done = work();
    println!("{what}: {:.3} s", clock::instant().duration_since(begin).as_secs_f64());
    done
}

fn large() -> Fleet {
    let mut wanted = Fleet { groups: default_groups(), ..Fleet::default() };
    for number in 0..HOSTS {
        let [_, a, b, c] = number.to_be_bytes();
        let mac = Mac([0x52, 0x54, 0, a, b, c]);
        let mut labels = Labels::default();
        for (key, value) in [("rack", format!("r{}", number / 40)), ("feed", format!("f{}", number % 2))] {
            labels.set(key, &value).unwrap();
        }
        let entry = HostEntry {
            name: Some(format!("node-{number}")),
            group: Some("web".to_string()),
            labels: Some(labels),
            image: Some("debian:12.4".parse().unwrap()),
            power: None,
            drift: None,
        };
        wanted.hosts.insert(HostKey::Mac(mac), entry);
        wanted.reservations.insert(mac, Ipv4Addr::new(10, a, b, c));
    }
    wanted
}

#[test]
#[ignore = "takes a while; prints figures"]
fn the_documents_of_a_hundred_thousand_hosts() {
    let wanted = large();
    let toml = timed("write TOML", || export::to_toml(&wanted).unwrap());
    let yaml = timed("write YAML", || export::to_yaml(&wanted).unwrap());
    println!("TOML {} bytes, YAML {} bytes", toml.len(), yaml.len());
    assert_eq!(timed("read and check TOML", || fleet("a.toml", &toml)), wanted);
    assert_eq!(timed("read and check YAML", || fleet("a.yaml", &yaml)), wanted);
    let mut now = Now { groups: default_groups(), ..Now::default() };
    let first = timed("diff against nothing", || diff(&now, &wanted, Prune::No));
    apply(&mut now, first.accept().unwrap());
    let again = timed("diff against the same", || diff(&now, &wanted, Prune::UpTo(PRUNE_MAX)));
    assert!(again.is_empty());
}
