//! IPv6 neighbour discovery, as much of it as netbooting needs: iPXE asks whether there is an IPv6 router, and we say
//! that we are none.
//!
//! iPXE goes on only when IPv4 and IPv6 are both settled, and where no IPv6 router answers it solicits one for 17 to
//! 20 seconds: the longest single wait of a netboot on a network without IPv6 (docs/benchmarks.md). A router
//! advertisement with a lifetime of zero, no prefix and no flags ends that wait and says nothing else (RFC 4861 section
//! 4.2: not a default router).
//!
//! What is absent: routing, prefixes, DHCPv6, and any word to a machine that we are not netbooting. Only a MAC that asked
//! us by DHCP as iPXE within the last minute is answered, by a frame to that MAC alone. The packet socket needs no IPv6
//! on the interface: the networks that have this problem are those where it is switched off.

mod packet;
mod recent;
mod server;

pub use recent::RecentMacs;
pub use server::{BindError, RouterAnswers};
