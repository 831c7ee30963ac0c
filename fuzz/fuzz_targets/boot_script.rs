//! Boot scripts from hostile words: none of them ever makes a second line or a second command, and the agent reads
//! from its kernel command line what the server wrote.
#![no_main]

use std::net::SocketAddr;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::agent::orders::Orders;
use regild::config::Config;
use regild::decide::host::Host;
use regild::decide::mac::Mac;
use regild::http::fuzzing::{agent_script, local_script};

#[derive(Debug, Arbitrary)]
struct Input {
    mac_text: String,
    mac: [u8; 6],
    host_name: String,
    words: Vec<String>,
    generation: u64,
    token: [u8; 32],
    local: SocketAddr,
    command_line: String,
}

fuzz_target!(|input: Input| {
    let _ = Orders::parse(&input.command_line);
    let mac = input.mac_text.parse().unwrap_or(Mac(input.mac));
    let Ok(config) = configured(&input, mac) else { return };
    for name in config.names.values() {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)), "{name:?}");
    }
    let host = Host::discovered(mac, "default", 0).id;
    let token = input.token.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let server = format!("http://{}", input.local);
    let args = config.deploy.kernel_args.join(" ");
    let script = agent_script(&server, mac, &host, input.generation, &token, &args);

    let lines: Vec<&str> = script.split('\n').collect();
    let starts = [
        "#!ipxe",
        "echo regild: order ",
        "kernel http://",
        "initrd --name initrd.img http://",
        "boot || goto failed",
        ":failed",
        "echo regild: ",
        "sleep 10",
        "reboot",
        "",
    ];
    assert_eq!(lines.len(), starts.len(), "{script}");
    assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{script}");
    let kernel = lines[2].strip_suffix(" || goto failed").expect("one way out");
    // iPXE expands `${...}` and parts commands at `||`, `&&` and `;`; a carriage return or NUL ends a line for some.
    assert!(kernel.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" =,.:_-/+@[]%".contains(&byte)), "{kernel:?}");
    let orders = Orders::parse(kernel).expect("the agent finds its orders");
    let wanted = Orders { server: server.clone(), host, generation: input.generation, token };
    assert_eq!(orders, wanted, "no word of the configuration stands before the server's own");
    for (uefi, reason) in [(true, "this machine is not known yet"), (false, "no order is open for this machine")] {
        let local = local_script(&server, uefi, reason);
        assert_eq!(local.lines().count(), 7, "{local}");
        assert!(!local.contains("kernel") && !local.contains("initrd"), "{local}");
    }
});

/// The words as an operator may write them: each a TOML string, whatever it holds.
fn configured(input: &Input, mac: Mac) -> Result<Config, regild::config::ConfigError> {
    let quoted = |text: &String| serde_json::to_string(text).expect("a string").replace('\u{7f}', "\\u007f");
    let words: Vec<String> = input.words.iter().map(quoted).collect();
    let reservation = match input.host_name.as_str() {
        "" => String::new(),
        _ => {
            format!("[[reservation]]\nmac = \"{mac}\"\naddress = \"10.9.0.10\"\nname = {}\n", quoted(&input.host_name))
        }
    };
    let text = format!(
        "state_dir = \"/s\"\nboot_assets = \"/b\"\n[[network]]\ninterface = \"lo\"\naddress = \"10.9.0.1/24\"\n\
         [deploy]\nkernel_args = [{}]\n{reservation}",
        words.join(", ")
    );
    Config::parse(&text, Path::new("fuzz.toml"))
}
