//! The power drivers against real controllers: the lab's Redfish service with the quirks of sold ones, sushy-tools'
//! emulator over TLS, Debian's ipmi_sim and pyghmi's BMC through ipmitool, packets on a wire, and a QEMU machine that is
//! switched.
//!
//! `make test-power` brings sushy-tools and pyghmi from PyPI (target/controllers); all else is Debian's.

mod lab;

#[path = "power/command.rs"]
mod command;
#[path = "power/desk.rs"]
mod desk;
#[path = "power/ipmi.rs"]
mod ipmi;
#[path = "power/pyghmi.rs"]
mod pyghmi;
#[path = "power/quirks.rs"]
mod quirks;
#[path = "power/redfish.rs"]
mod redfish;
#[path = "power/road.rs"]
mod road;
#[path = "power/sushy.rs"]
mod sushy;
#[path = "power/wol.rs"]
mod wol;
