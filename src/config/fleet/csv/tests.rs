//! What a spreadsheet says, and the words in which its mistakes are told.

use super::*;
use crate::config::fleet::HostKey;

fn taken(text: &str) -> Fleet {
    import(Path::new("rack.csv"), text).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> String {
    import(Path::new("rack.csv"), text).expect_err(text).to_string()
}

#[test]
fn a_rack_of_new_servers_becomes_hosts_and_reservations() {
    let text = "\u{feff}mac, name ,address,group,labels,label.row\r\n\
                52:54:00:12:00:01,web-1,10.20.0.11,web,rack=r12 feed=a,b\r\n\
                \r\n\
                52-54-00-12-00-02,,,,\"rack=r12;feed=b\",\r\n\
                52:54:00:12:00:03,web-3,,,,\r\n";
    let fleet = taken(text);
    assert_eq!(fleet.hosts.len(), 3);
    let labels = |number: u8| {
        let key = HostKey::Mac(crate::decide::mac::Mac([0x52, 0x54, 0, 0x12, 0, number]));
        let labels = fleet.hosts[&key].labels.clone();
        labels.map(|labels| labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
    };
    assert_eq!(labels(1).as_deref(), Some("feed=a,rack=r12,row=b"));
    assert_eq!(labels(2).as_deref(), Some("feed=b,rack=r12"));
    assert_eq!(labels(3), None, "a row without labels takes none away");
    assert_eq!(fleet.reservations.len(), 1);
    assert!(fleet.groups.is_empty() && fleet.policy.is_none());
}

#[test]
fn every_mistake_is_told_with_line_and_column_and_nothing_is_taken() {
    let text = "mac,name,address,group,labels\n\
                52:54:00:12:00:01,web-1,10.20.0.11,web,rack=r12\n\
                52:54:00:12:00,web 2,10.20.0.300,w b,rack\n\
                52:54:00:12:00:01,web-1,10.20.0.11,web,group=x\n\
                ,web-4,127.0.0.1,,rack=1 rack=2\n\
                52:54:00:12:00:05,web-5\n\
                ,web-6,,,\n";
    assert_eq!(
        refused(text),
        "rack.csv: nothing was taken:\n  \
         line 3, column 1 (mac): \"52:54:00:12:00\" is not a MAC address; write it like 52:54:00:12:34:56\n  \
         line 3, column 2 (name): \"web 2\" is not a host name: 1 to 63 letters, digits, '-' or '.'\n  \
         line 3, column 3 (address): \"10.20.0.300\" is no IPv4 address of a machine\n  \
         line 3, column 4 (group): \"w b\" is no name: 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.'\n  \
         line 3, column 5 (labels): \"rack\" is no KEY=VALUE\n  \
         line 4, column 1 (mac): 52:54:00:12:00:01 is on line 2 already\n  \
         line 4, column 2 (name): web-1 is on line 2 already\n  \
         line 4, column 3 (address): 10.20.0.11 is on line 2 already\n  \
         line 4, column 5 (labels): \"group\" is a word of the host record itself; choose another label\n  \
         line 5, column 3 (address): \"127.0.0.1\" is no IPv4 address of a machine\n  \
         line 5, column 5 (labels): the label rack is there twice\n  \
         line 6: has 2 cells, the header has 5\n  \
         line 7: has no mac"
    );
}

/// A mistyped column must not become a label, nor its values be dropped.
#[test]
fn a_column_that_is_not_known_is_refused() {
    let row = "52:54:00:12:00:01,10.20.0.11\n";
    assert_eq!(
        refused(&format!("mac,adress\n{row}")),
        "rack.csv: nothing was taken:\n  \
         line 1, column 2 (adress): is none of mac, name, address, group, labels, label.KEY"
    );
    assert!(refused(&format!("mac,mac\n{row}")).contains("column 2 (mac): is there twice"));
    assert!(refused("name,address\nweb-1,10.20.0.11\n").contains("line 1: the header has no column mac"));
    assert!(refused(row).contains("line 1, column 1 (52:54:00:12:00:01): is none of"), "the header is missing");
    assert!(refused("mac;name\n52:54:00:12:00:01;web-1\n").contains("parted by commas"));
    assert!(refused("").contains("line 1: the header has no column mac"));
    assert!(refused("mac,name\n").contains("no row after the header"));
    assert!(refused("mac,label.group\n52:54:00:12:00:01,x\n").contains("line 2, column 2 (label.group): "));
}

#[test]
fn a_thousand_mistakes_are_counted_not_recited() {
    let text: String = std::iter::once("mac\n".to_string()).chain((0..1_000).map(|n| format!("x{n}\n"))).collect();
    let said = refused(&text);
    assert_eq!(said.lines().count(), 2 + SHOWN_MAX);
    assert!(said.ends_with("and 980 more"), "{said}");
}
