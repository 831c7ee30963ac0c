//! Power driver `agent` on a real machine: an order is all that an operator gives, and the installed system brings its
//! machine into the deploy environment by itself, once through the firmware and once past it by kexec.

mod lab;

use lab::road::{self, DEPLOY, HOST, MAC, NETBOOT, attempts, is_ready};
use lab::{Firmware, Lab, Machine, Server};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// The tiny image with the agent as a service under busybox init; its v2 uses kexec.
fn server_with_standby_images(lab: &Lab) -> Server {
    let server = Server::start(lab, Path::new(env!("CARGO_BIN_EXE_regild")));
    for version in ["v1", "v2"] {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/lab/standby-{version}.raw"));
        assert!(image.exists(), "no {}; do: make images-full", image.display());
        server.regild(&["image", "import", image.to_str().unwrap(), "--as", &format!("tiny:{version}")]);
    }
    server
}

/// From the order to the confirmed image. Says how long the machine took to its first write.
fn is_rebuilt_by_itself(server: &Server, node: &mut Machine, version: &'static str, generation: u64) {
    let image: &'static str = if version == "v1" { "tiny:v1" } else { "tiny:v2" };
    let said = server.regild(&["host", "reimage", HOST, "--image", image, "--reason", "new version"]);
    let began = Instant::now();
    assert!(said.contains("its installed agent reboots it when it next asks"), "{said}");
    node.expect_console("rebooting into the network", NETBOOT).unwrap();
    let told = began.elapsed();
    let writes = |host: &Value| host["detail"] == "clear_head" || host["detail"] == "write_body";
    server.wait_host(HOST, "writing", NETBOOT, writes).unwrap();
    let (first_write, came) = (began.elapsed().as_secs_f32(), (began.elapsed() - told).as_secs_f32());
    eprintln!("{image}: first write {first_write:.1} s after the order, {came:.1} s after the agent was told");
    node.expect_console(&format!("regild golden image {version} up"), DEPLOY).unwrap();
    let host = server.wait_host(HOST, "ready", NETBOOT, is_ready(image)).unwrap();
    assert_eq!((&host["generation"], &host["reported_generation"]), (&generation.into(), &generation.into()));
    eprintln!("{image}: ready {:.1} s after the order", began.elapsed().as_secs_f32());
}

/// Promises: nobody touches the power of the machine after it was first switched on. An order reboots it in an orderly
/// way, through the firmware or by kexec; each order costs one attempt and one reboot; the installed agent asks on
/// while the server is away and finds it again.
fn a_machine_comes_by_itself(firmware: Firmware) {
    let lab = Lab::new("standby");
    let mut server = server_with_standby_images(&lab);
    let fleet = lab.dir().join("fleet.toml");
    let host = format!("[[host]]\nmac = \"{MAC}\"\nname = \"{HOST}\"\nimage = \"tiny:v1\"\n");
    std::fs::write(&fleet, format!("[group.default]\npower = \"agent\"\n{host}")).unwrap();
    server.regild(&["apply", "-f", fleet.to_str().unwrap()]);
    server.regild(&["host", "reimage", HOST, "--reason", "first image"]);
    let mut node = road::node(&lab, firmware, vec![road::blank_disk(&lab, "target-1")]);
    node.power_on();
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.expect_console("no order is open for this machine", NETBOOT).unwrap();

    server.kill();
    node.expect_console("does not answer", NETBOOT).unwrap();
    server.start_again(&lab);
    let began = Instant::now();
    node.expect_console("no order is open for this machine", NETBOOT).unwrap();
    eprintln!("the agent found its server again after {:.1} s", began.elapsed().as_secs_f32());

    is_rebuilt_by_itself(&server, &mut node, "v2", 2);
    let console = node.console();
    assert!(console.contains("regild golden image shuts down in order"), "busybox init was not asked");
    assert!(!console.contains("no kexec"), "v1 was not asked to use it");
    let has_next = console.contains("next, over the network");
    assert_eq!(has_next, firmware == Firmware::Uefi, "BootNext is UEFI's, and there it is set");

    is_rebuilt_by_itself(&server, &mut node, "v1", 3);
    let console = node.console();
    assert!(!console.contains("no kexec"), "the kernel refused it");
    let after = console.rsplit("rebooting into the network").next().unwrap();
    let deploys = after.find("regild: deploy environment").expect("the deploy environment began");
    assert!(!after[..deploys].contains("iPXE"), "it came through the firmware: {}", &after[..deploys]);

    assert_eq!(attempts(&server), 3, "{:?}", road::states(&server));
    let lines: Vec<Value> = serde_json::from_str(&server.regild(&["host", "history", HOST, "-o", "json"])).unwrap();
    let causes = lines.iter().filter(|line| line["actor"] == "power").map(|line| line["cause"].as_str().unwrap());
    let told: Vec<_> = causes.filter(|cause| cause.starts_with("agent: boot to network")).collect();
    assert_eq!(told, ["agent: boot to network, for order 2", "agent: boot to network, for order 3"]);
    assert!(node.is_running());
}

#[test]
#[ignore = "minutes; make test-full"]
fn a_bios_machine_comes_by_itself_through_the_firmware_and_by_kexec() {
    a_machine_comes_by_itself(Firmware::Bios);
}

#[test]
#[ignore = "minutes; make test-full"]
fn a_uefi_machine_comes_by_itself_through_the_firmware_and_by_kexec() {
    a_machine_comes_by_itself(Firmware::Uefi);
}
