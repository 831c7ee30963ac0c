//! iPXE boot scripts: what `decide::boot` said, in the words of iPXE.
//!
//! Every script is made of fixed text, digits, hex, our own address and checked kernel words
//! (`config::kernel_word`): nothing that came from a machine gets in (faults.md R13).

use super::Shared;
use super::listen::Peer;
use super::log_gate::LogGate;
use super::problem::Problem;
use crate::decide::host::VerifyNumber;
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use crate::registry::Script;
use axum::Extension;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

/// `GET /boot/{mac}/{bios|uefi}`: the address comes from our own DHCP answer.
///
/// # Errors
/// 400 for a path that we never hand out. Everything else is a script: on doubt that of a local boot.
pub async fn script(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(log): Extension<Arc<LogGate>>,
    Path((mac, firmware)): Path<(String, String)>,
) -> Result<String, Problem> {
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, what);
    let mac: Mac = mac.parse().map_err(|error| bad(format!("{error}")))?;
    let uefi = match firmware.as_str() {
        "uefi" => true,
        "bios" => false,
        other => return Err(bad(format!("{other:?} is neither bios nor uefi"))),
    };
    let server = format!("http://{}", peer.local);
    // A script may open a disk to writing, so it goes only to the address that we leased to this MAC.
    let source = peer.remote.ip();
    if shared.lease_holder(peer) != Some(mac) {
        if log.may_log(source) {
            tracing::warn!(%mac, peer = %peer.remote, "a script was asked for from an address that is not leased to this MAC");
        }
        return Ok(local_script(&server, uefi, "the address of this machine is not leased to its MAC"));
    }
    let answer = shared.registry.script(mac, NetbootClient::Ipxe { uefi }).await;
    Ok(match answer {
        Ok(Script::Agent { host, generation, token }) => {
            // Bounded by the attempts of an order.
            tracing::info!(%mac, host, generation, "boot script of the deploy environment served");
            let args = shared.config.deploy.kernel_args.join(" ");
            agent_script(&server, mac, &host, generation, &token, &args)
        }
        Ok(Script::Verify { host, number, token }) => {
            // Bounded as well.
            tracing::info!(%mac, host, %number, "boot script of the deploy environment served, to look at the disk");
            let args = shared.config.deploy.kernel_args.join(" ");
            verify_script(&server, mac, &host, number, &token, &args)
        }
        Ok(Script::Local { reason }) => {
            if log.may_log(source) {
                tracing::info!(%mac, reason = reason.sentence(), "local boot served");
            }
            local_script(&server, uefi, reason.sentence())
        }
        Ok(Script::Nothing { reason }) => {
            if log.may_log(source) {
                tracing::warn!(%mac, ?reason, "iPXE was told to boot its disk");
            }
            local_script(&server, uefi, "there is nothing for this machine")
        }
        Err(error) => {
            if log.may_log(source) {
                tracing::error!(%mac, %error, "no decision could be made; local boot");
            }
            local_script(&server, uefi, "the server cannot decide now")
        }
    })
}

/// Boots the deploy environment. When a file cannot be had the machine reboots and asks again, which costs an
/// attempt: after the last one it boots its disk.
pub(super) fn agent_script(server: &str, mac: Mac, host: &str, generation: u64, token: &str, args: &str) -> String {
    let (what, orders) = (format!("order {generation} is open for {host}"), format!("regild.generation={generation}"));
    environment_script(server, mac, host, &what, &format!("{orders} regild.token={token}"), args)
}

/// The same environment, with another purpose: without a generation the agent has nothing that it could carry out.
pub(super) fn verify_script(
    server: &str,
    mac: Mac,
    host: &str,
    number: VerifyNumber,
    token: &str,
    args: &str,
) -> String {
    let what = format!("the disk of {host} is to be verified ({number})");
    environment_script(server, mac, host, &what, &format!("regild.verify={number} regild.token={token}"), args)
}

fn environment_script(server: &str, mac: Mac, host: &str, what: &str, purpose: &str, args: &str) -> String {
    let bootif = mac.to_string().replace(':', "-");
    format!(
        "#!ipxe\n\
         echo regild: {what}, booting the deploy environment\n\
         kernel {server}/assets/vmlinuz initrd=initrd.img regild.server={server} regild.host={host} \
         {purpose} BOOTIF=01-{bootif} panic=10 {args} || goto failed\n\
         initrd --name initrd.img {server}/assets/initrd.img || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo regild: the deploy environment could not be booted, next try in 10 s\n\
         sleep 10\n\
         reboot\n"
    )
}

/// Boots the machine's own disk. UEFI needs GRUB for it: iPXE's `exit` leads some firmware to its setup screen
/// or to the next network entry (design.md section 9). A blank disk ends in another try, so that a machine that
/// was just racked finds its order without a hand on the power button.
pub(super) fn local_script(server: &str, uefi: bool, reason: &str) -> String {
    let boot = if uefi {
        format!("chain {server}/assets/local-boot.efi || goto nothing\n")
    } else {
        "sanboot --no-describe --drive 0x80 || sanboot --no-describe --drive 0x81 || goto nothing\n".to_string()
    };
    format!(
        "#!ipxe\n\
         echo regild: {reason}, booting the local disk\n\
         {boot}\
         :nothing\n\
         echo regild: no bootable disk, next try in 30 s\n\
         sleep 30\n\
         reboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_word_for_word_these() {
        let mac = "52:54:00:00:00:01".parse().unwrap();
        let agent = agent_script("http://10.0.0.1:8080", mac, "h-525400000001", 4, "ab12", "console=ttyS0");
        assert_eq!(
            agent,
            "#!ipxe\n\
             echo regild: order 4 is open for h-525400000001, booting the deploy environment\n\
             kernel http://10.0.0.1:8080/assets/vmlinuz initrd=initrd.img regild.server=http://10.0.0.1:8080 \
             regild.host=h-525400000001 regild.generation=4 regild.token=ab12 BOOTIF=01-52-54-00-00-00-01 panic=10 \
             console=ttyS0 || goto failed\n\
             initrd --name initrd.img http://10.0.0.1:8080/assets/initrd.img || goto failed\n\
             boot || goto failed\n\
             :failed\n\
             echo regild: the deploy environment could not be booted, next try in 10 s\n\
             sleep 10\n\
             reboot\n"
        );
        let verify = verify_script("http://s", mac, "h-525400000001", VerifyNumber(7), "cd34", "console=ttyS0");
        let purpose = "regild.host=h-525400000001 regild.verify=7 regild.token=cd34 BOOTIF=01-52-54-00-00-00-01 ";
        assert!(verify.contains(purpose) && !verify.contains("regild.generation"), "{verify}");
        let bios = local_script("http://s", false, "no order");
        assert!(bios.contains("sanboot --no-describe --drive 0x80 ||"), "{bios}");
        let uefi = local_script("http://s", true, "no order");
        assert!(uefi.contains("chain http://s/assets/local-boot.efi ||") && !uefi.contains("sanboot"), "{uefi}");
    }
}
