//! Answers as bytes: RFC 2131 table 3, RFC 2132, and what PXE ROMs want on top.

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};
use std::net::Ipv4Addr;

use super::Network;
use super::codec::Request;
use crate::decide::lease::LeaseAnswer;
use crate::decide::netboot::NetbootClient;

/// BOOTP's size; some relays and old ROMs drop anything shorter (RFC 1542 section 2.1).
const REPLY_BYTES_MIN: usize = 300;
/// What every client must take when it says nothing (RFC 2132 section 9.10), and the least it may say.
const MESSAGE_BYTES_DEFAULT: u16 = 576;
/// One Ethernet frame. A fragmented DHCP reply is lost on most ROMs, whatever option 57 says.
const MESSAGE_BYTES_MAX: u16 = 1500;
/// Option 57 counts the IP and UDP headers.
const IP_UDP_HEADER_BYTES: u16 = 28;
/// The `file` field less its NUL.
const FILE_BYTES_MAX: usize = 127;

/// PXE 2.1 table 2-1: vendor option 6, discovery control, bit 3: "use the boot file name of this offer, no
/// prompt, no menu, no discovery". Without it ROMs that see an option 60 `PXEClient` ask port 4011 for a boot
/// server first and lose seconds, or give up (pixiecore's README.booting tells of both).
const PXE_BOOT_FILE_AT_ONCE: [u8; 4] = [6, 1, 8, 255];

/// iPXE's own option space, and in it 176, `no-pxedhcp`, set: do not wait for offers of a proxyDHCP server. Without it
/// iPXE looks for one for at least two seconds before it sends its REQUEST (docs/benchmarks.md has what that cost).
const IPXE_OPTIONS: u8 = 175;
const IPXE_NO_PROXY: [u8; 3] = [176, 1, 1];

/// One reply, before it is bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// DHCPOFFER or DHCPACK with an address.
    Lease {
        kind: LeaseReply,
        ip: Ipv4Addr,
        lease_seconds: u32,
        boot_file: Option<String>,
        /// Option 12: what the installed system calls itself when nothing else names it (RFC 2132 section 3.14).
        host_name: Option<String>,
    },
    /// DHCPACK to DHCPINFORM: no address, no times.
    Parameters { boot_file: Option<String> },
    /// DHCPNAK with a message for whoever reads the client's log.
    Nak { message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseReply {
    Offer,
    Ack,
}

impl Reply {
    /// The reply that a lease answer asks for, and the address that it gives or speaks to; `None` where the answer
    /// is no packet. The boot file is still to be filled in.
    pub(super) fn to(answer: &LeaseAnswer, network: &Network) -> Option<(Reply, Option<Ipv4Addr>)> {
        let (kind, ip, lease_seconds) = match answer {
            LeaseAnswer::Offer { ip, .. } => (LeaseReply::Offer, *ip, network.lease_seconds),
            LeaseAnswer::Ack { lease, lease_seconds, .. } => (LeaseReply::Ack, lease.ip, *lease_seconds),
            LeaseAnswer::Nak { reason } => return Some((Reply::Nak { message: reason.to_string() }, None)),
            LeaseAnswer::Inform { ip } => return Some((Reply::Parameters { boot_file: None }, Some(*ip))),
            LeaseAnswer::Release { .. } | LeaseAnswer::Decline { .. } | LeaseAnswer::Silent { .. } => return None,
        };
        Some((Reply::Lease { kind, ip, lease_seconds, boot_file: None, host_name: None }, Some(ip)))
    }

    /// Only a reply that gives an address names the machine.
    pub(super) fn set_host_name(&mut self, name: Option<String>) {
        if let Reply::Lease { host_name, .. } = self {
            *host_name = name;
        }
    }

    /// Where the boot file goes; `None` in a reply that has no place for one.
    pub(super) fn boot_file_mut(&mut self) -> Option<&mut Option<String>> {
        match self {
            Reply::Lease { boot_file, .. } | Reply::Parameters { boot_file } => Some(boot_file),
            Reply::Nak { .. } => None,
        }
    }
}

/// Makes the packet. Its size stays within what the client takes (option 57).
///
/// # Errors
/// When dhcproto refuses; nothing here can make it.
pub(super) fn encode(
    network: &Network,
    request: &Request,
    reply: &Reply,
) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
    let mut message = head(request, reply);
    message.opts_mut().insert(DhcpOption::ServerIdentifier(network.server_ip));
    if let Some(client_id) = &request.client_id {
        message.opts_mut().insert(DhcpOption::ClientIdentifier(client_id.clone()));
    }
    match reply {
        Reply::Lease { kind, ip, lease_seconds, boot_file, host_name } => {
            message.set_yiaddr(*ip);
            if *kind == LeaseReply::Ack {
                message.set_ciaddr(request.ciaddr);
            }
            set_times(&mut message, *lease_seconds);
            if let Some(name) = host_name {
                message.opts_mut().insert(DhcpOption::Hostname(name.clone()));
            }
            set_parameters(&mut message, network);
            set_boot_file(&mut message, network, request, boot_file.as_deref());
        }
        Reply::Parameters { boot_file } => {
            message.set_ciaddr(request.ciaddr);
            set_parameters(&mut message, network);
            set_boot_file(&mut message, network, request, boot_file.as_deref());
        }
        Reply::Nak { message: text } => {
            message.opts_mut().insert(DhcpOption::Message(text.clone()));
        }
    }
    fit(&mut message, request.message_bytes_max)
}

fn head(request: &Request, reply: &Reply) -> Message {
    let kind = match reply {
        Reply::Lease { kind: LeaseReply::Offer, .. } => MessageType::Offer,
        Reply::Lease { kind: LeaseReply::Ack, .. } | Reply::Parameters { .. } => MessageType::Ack,
        Reply::Nak { .. } => MessageType::Nak,
    };
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(request.xid, none, none, none, request.giaddr, &request.mac.0);
    message.set_opcode(Opcode::BootReply);
    message.set_flags(Flags::from(request.flags));
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

/// Options 51, 58, 59; T1 and T2 as RFC 2131 section 4.4.5 has them (a half, seven eighths).
fn set_times(message: &mut Message, lease_seconds: u32) {
    let options = message.opts_mut();
    options.insert(DhcpOption::AddressLeaseTime(lease_seconds));
    options.insert(DhcpOption::Renewal(lease_seconds / 2));
    options.insert(DhcpOption::Rebinding(lease_seconds - lease_seconds / 8));
}

fn set_parameters(message: &mut Message, network: &Network) {
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.netmask()));
    if let Some(router) = network.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !network.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(network.dns.clone()));
    }
}

/// The boot file, in every place where a client may look: `siaddr` and option 66 for the server, `file` and
/// option 67 for the name. Some ROMs read only the fields, UEFI HTTP boot only the options.
fn set_boot_file(message: &mut Message, network: &Network, request: &Request, name: Option<&str>) {
    if let Some(machine_id) = request.machine_id {
        message.opts_mut().insert(DhcpOption::ClientMachineIdentifier(machine_id.to_vec()));
    }
    let Some(name) = name else {
        return;
    };
    message.set_siaddr(network.server_ip);
    if name.len() <= FILE_BYTES_MAX {
        message.set_fname(name.as_bytes());
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::TFTPServerName(network.server_ip.to_string().into_bytes()));
    // With a NUL: ROMs exist that read on until they meet one and then ask for a file whose name ends in the
    // next option's code (netboot.xyz #1198: a trailing 0xff).
    options.insert(DhcpOption::BootfileName([name.as_bytes(), b"\0"].concat()));
    match request.netboot_client() {
        NetbootClient::Firmware { .. } if is_pxe_class(request) => {
            options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
            options.insert(DhcpOption::VendorExtensions(PXE_BOOT_FILE_AT_ONCE.to_vec()));
        }
        NetbootClient::UefiHttp => {
            // UEFI takes an offer without this class for no HTTP boot offer (seen with OVMF).
            options.insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
        }
        // iPXE would take an option 60 as a promise of PXE menus.
        NetbootClient::Ipxe { .. } => {
            let code = OptionCode::from(IPXE_OPTIONS);
            options.insert(DhcpOption::Unknown(UnknownOption::new(code, IPXE_NO_PROXY.to_vec())));
        }
        _ => {}
    }
}

fn is_pxe_class(request: &Request) -> bool {
    request.vendor_class.as_ref().is_some_and(|class| class.starts_with(b"PXEClient"))
}

/// Leaves out, one after the other, what stands elsewhere in the packet or can be done without.
fn fit(message: &mut Message, asked: Option<u16>) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
    let asked = asked.unwrap_or(MESSAGE_BYTES_DEFAULT);
    let limit = asked.clamp(MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_MAX) - IP_UDP_HEADER_BYTES;
    let mut spare = vec![OptionCode::ClientIdentifier, OptionCode::DomainNameServer, OptionCode::TFTPServerName];
    if message.fname().is_some() {
        spare.push(OptionCode::BootfileName);
    }
    spare.push(OptionCode::Hostname);
    loop {
        let mut bytes = Vec::with_capacity(usize::from(limit));
        message.encode(&mut Encoder::new(&mut bytes))?;
        let too_long = bytes.len() > usize::from(limit);
        match spare.pop() {
            Some(code) if too_long => {
                message.opts_mut().remove(code);
            }
            _ => {
                bytes.resize(bytes.len().max(REPLY_BYTES_MIN), 0);
                return Ok(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests;
