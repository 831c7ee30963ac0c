//! The whole of it: a machine that never netboots by itself is rebuilt because its power is reached.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use regild::power::{Action, Override, PowerState, Report};

use crate::desk::Desk;
use crate::lab::redfish::{Redfish, Switch};
use crate::lab::{self, BootOrder, DiskSpec, Firmware, Lab, Machine, MachineSpec, Server};
use crate::redfish::settings;

/// The reservation of config/lab.toml.
const MAC: &str = "52:54:00:77:00:10";
const BOOT: Duration = Duration::from_secs(150);
const DEPLOY: Duration = Duration::from_secs(300);

/// Switches the machine, in the thread that it belongs to, while the driver acts in another.
fn act(
    desk: &Desk,
    service: &Redfish,
    wires: &mpsc::Receiver<(Switch, mpsc::Sender<()>)>,
    node: &mut Machine,
) -> Report {
    let settings = settings(desk, service);
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| desk.done(&settings, Action::BootToNetwork));
        while !acting.is_finished() {
            let Ok((switch, switched)) = wires.recv_timeout(Duration::from_millis(50)) else { continue };
            match switch {
                Switch::Off => node.power_off(),
                Switch::On { network } => {
                    node.spec_mut().boot_order =
                        if network { BootOrder::NetworkThenDisks } else { BootOrder::DisksOnly };
                    node.power_on();
                }
            }
            switched.send(()).unwrap();
        }
        acting.join().unwrap()
    })
}

/// Promises: with an open order and a power driver a running machine is rebuilt without a hand on it; its boot order
/// stays its own.
#[test]
#[ignore = "a QEMU machine, some minutes: make test-roads"]
fn a_machine_that_boots_its_disk_only_is_rebuilt_through_its_controller() {
    let lab = Lab::new("power");
    let server = Server::start(&lab, Path::new(env!("CARGO_BIN_EXE_regild")));
    let (v1, v2) = (lab::tiny_image("v1"), lab::tiny_image("v2"));
    server.regild(&["image", "import", v2.to_str().unwrap(), "--as", "tiny:v2"]);
    let disk = lab.dir().join("target.raw");
    std::fs::copy(&v1, &disk).unwrap();
    let mut node = lab.machine(MachineSpec {
        disks: vec![DiskSpec { serial: Some("target-1".into()), ..DiskSpec::new(&disk, 2 << 30) }],
        boot_order: BootOrder::DisksOnly,
        ..MachineSpec::new("node-1", Firmware::Bios, MAC)
    });
    let (wire, wires) = mpsc::channel();
    let service = Redfish::serve(lab.server_ip().into(), true, move |switch| {
        let (done, is_done) = mpsc::channel();
        wire.send((switch, done)).expect("the test takes what is switched");
        is_done.recv().expect("the test switches");
    });
    let desk = Desk::new();

    node.power_on();
    node.expect_console("regild golden image v1 up", BOOT).unwrap();

    // Unknown to the server: over the network it is sent to its disk, and is known from then on.
    let report = act(&desk, &service, &wires, &mut node);
    assert_eq!((report.boot_override, report.state), (Some(Override::Checked), PowerState::On));
    node.expect_console("regild golden image v1 up", BOOT).unwrap();
    assert_eq!(server.host(MAC)["state"], "discovered");

    server.regild(&["host", "approve", MAC, "--image", "tiny:v2", "--release-disk"]);
    act(&desk, &service, &wires, &mut node);
    node.expect_console("regild golden image v2 up", DEPLOY).unwrap();
    server.wait_host(MAC, "ready on v2", BOOT, |host| host["reported"] == "tiny:v2").unwrap();
    assert_eq!(service.bmc().enabled, "Disabled", "the override outlived its boot");
    let restart = [Switch::Off, Switch::On { network: true }];
    assert_eq!(service.bmc().switched, [restart, restart].concat());
}
