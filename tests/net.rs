//! Real sockets: TFTP on loopback with foreign clients, DHCP in network namespaces with udhcpc, router solicitations
//! of the kernel.
//!
//! One test binary, so that it is linked once. Needs root (namespaces, port 67), and the packages `iproute2`,
//! `busybox` or `udhcpc`, `atftp`, `tftp-hpa`, `curl`; what is missing fails, it is never skipped in silence.

#[path = "net/cable.rs"]
mod cable;
#[path = "net/dhcp.rs"]
mod dhcp;
#[path = "net/dhcp_client.rs"]
mod dhcp_client;
#[path = "net/dhcp_raw.rs"]
mod dhcp_raw;
#[path = "net/lab.rs"]
mod lab;
#[path = "net/ndp.rs"]
mod ndp;
#[path = "net/tftp.rs"]
mod tftp;
