//! What the listening socket takes at all: requests to read or write, in a mode that we can serve.
//!
//! async-tftp 0.4.2 serves mode "mail" as if it were "octet", and its `Handler` is told client and path only, so
//! nothing of ours that it calls can refuse. RFC 1350 section 5 calls "mail" obsolete, and a client that asks for it
//! does not want our bytes as they are. So the kernel drops such a packet before async-tftp sees it, with a classic
//! BPF program (linux/filter.h) on the socket; silence is what any other packet that is no request gets, too.
//!
//! Classic BPF jumps forward only: the search for the NUL behind the name is unrolled, four instructions a byte.
//! Loading from behind the end of the packet ends the program with "drop", so a request without its NULs is dropped.

use nix::libc;
use socket2::SockFilter;

/// Names up to this length have their mode looked at. A longer one is let through, since [`super::BootFiles`] has no
/// such name, whatever the mode: it gets its ERROR 1. The kernel keeps the program, translated to 17 KB, within
/// net.core.optmem_max, which is 20 KiB up to Linux 6.6 (tried with that limit on Linux 6.18).
pub(super) const NAME_BYTES_MAX: usize = 128;

/// A socket's filter sees the packet from its UDP header on.
const OPCODE_AT: u32 = 8;
const NAME_AT: u32 = OPCODE_AT + 2;
const READ_REQUEST: u32 = 1;
const WRITE_REQUEST: u32 = 2;
/// The bit in which upper and lower case differ in ASCII, in each byte of a word: modes are told in any case.
const LOWER_CASE: u32 = 0x2020_2020;
/// How many bytes of the packet to keep; more than there are is all.
const TAKE: u32 = u32::MAX;
const DROP: u32 = 0;

/// Takes RRQ and WRQ in mode "octet" or "netascii", and those whose name is too long to be one of ours.
pub(super) fn requests_in_known_modes() -> Vec<SockFilter> {
    let mut program = vec![
        load(libc::BPF_H | libc::BPF_ABS, OPCODE_AT),
        compare(READ_REQUEST, 2, 0),
        compare(WRITE_REQUEST, 1, 0),
        end(DROP),
    ];
    // The NUL behind a name of NAME_BYTES_MAX bytes is one place further.
    for place in 0..=NAME_BYTES_MAX as u32 {
        program.push(load(libc::BPF_B | libc::BPF_ABS, NAME_AT + place));
        program.push(compare(0, 0, 2));
        // X is where the mode begins.
        program.push(instruction(libc::BPF_LDX | libc::BPF_IMM, NAME_AT + place + 1));
        // Over the rest of the search, four instructions a place, and the "take" behind it.
        program.push(instruction(libc::BPF_JMP | libc::BPF_JA, 4 * (NAME_BYTES_MAX as u32 - place) + 1));
    }
    program.push(end(TAKE));
    program.extend(mode_at_x());
    program
}

/// Takes "octet" and "netascii" with their NUL, compared by up to four bytes at once.
fn mode_at_x() -> [SockFilter; 14] {
    let word = |text: &[u8; 4]| u32::from_be_bytes(*text);
    let from_x = |size: u32, at: u32| load(size | libc::BPF_IND, at);
    [
        from_x(libc::BPF_W, 0),
        lower_case(LOWER_CASE),
        compare(word(b"octe"), 0, 3),
        from_x(libc::BPF_H, 4),
        // The letter only: the NUL must be one.
        lower_case(LOWER_CASE & 0xff00),
        compare(u32::from(b't') << 8, 6, 7),
        compare(word(b"neta"), 0, 6),
        from_x(libc::BPF_W, 4),
        lower_case(LOWER_CASE),
        compare(word(b"scii"), 0, 3),
        from_x(libc::BPF_B, 8),
        compare(0, 0, 1),
        end(TAKE),
        end(DROP),
    ]
}

fn load(size_and_mode: u32, at: u32) -> SockFilter {
    instruction(libc::BPF_LD | size_and_mode, at)
}

fn lower_case(bits: u32) -> SockFilter {
    instruction(libc::BPF_ALU | libc::BPF_OR | libc::BPF_K, bits)
}

/// Compares what was loaded, and skips so many instructions in either case.
fn compare(value: u32, skip_if_equal: u8, skip_if_not: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, skip_if_equal, skip_if_not, value)
}

fn end(taken_bytes: u32) -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, taken_bytes)
}

/// Codes are eight bits wide in linux/bpf_common.h, although libc has them as u32.
fn instruction(code: u32, value: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, value)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A socket with the filter, and one that sends to it.
    fn filtered() -> (UdpSocket, UdpSocket) {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).attach_filter(&requests_in_known_modes()).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(listener.local_addr().unwrap()).unwrap();
        (listener, sender)
    }

    /// On loopback a packet is queued or dropped when `send` returns, and packets keep their order: what comes
    /// before the mark was let through.
    fn is_taken(sockets: &(UdpSocket, UdpSocket), packet: &[u8]) -> bool {
        const MARK: &[u8] = b"\0\x01mark\0octet\0";
        let (listener, sender) = sockets;
        sender.send(packet).unwrap();
        sender.send(MARK).unwrap();
        let mut buffer = vec![0; 70_000];
        let length = listener.recv(&mut buffer).unwrap();
        let taken = &buffer[..length] != MARK;
        if taken {
            assert!(&buffer[..length] == packet, "it was cut");
            assert_eq!(listener.recv(&mut buffer).unwrap(), MARK.len());
        }
        taken
    }

    fn request(opcode: u8, name: &[u8], mode: &str) -> Vec<u8> {
        [&[0, opcode], name, b"\0", mode.as_bytes(), b"\0"].concat()
    }

    /// T3: mode "mail" is dropped in any spelling, and the two modes of today are taken in any spelling, with options
    /// behind them or without; the name may have any length.
    #[test]
    fn requests_pass_in_octet_and_netascii_and_in_no_other_mode() {
        let sockets = filtered();
        for length in (0..=NAME_BYTES_MAX).chain([NAME_BYTES_MAX + 1, 200, 2000]) {
            let name = vec![b'n'; length];
            for opcode in [1, 2] {
                for mode in ["octet", "OCTET", "OcTeT", "netascii", "NETASCII", "netASCII"] {
                    assert!(is_taken(&sockets, &request(opcode, &name, mode)), "{length} {mode}");
                    let with_options = [&request(opcode, &name, mode)[..], b"blksize\x001468\0"].concat();
                    assert!(is_taken(&sockets, &with_options), "{length} {mode}");
                }
                let others =
                    ["mail", "MAIL", "mail\0octet", "", "octe", "octets", "octet ", "netasci", "netasciii", "0ctet"];
                for mode in others {
                    let taken = is_taken(&sockets, &request(opcode, &name, mode));
                    assert_eq!(taken, length > NAME_BYTES_MAX, "a name of {length} bytes, {mode:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_request_or_ends_too_early_does_not_pass() {
        let sockets = filtered();
        let whole = request(1, b"ipxe.efi", "netascii");
        for length in 0..whole.len() {
            assert!(!is_taken(&sockets, &whole[..length]), "{length} bytes of a request");
        }
        for opcode in [0u16, 3, 4, 5, 6, 7, 255, 256, 0x0101, 0xffff] {
            let mut packet = whole.clone();
            packet[..2].copy_from_slice(&opcode.to_be_bytes());
            assert!(!is_taken(&sockets, &packet), "opcode {opcode}");
        }
        assert!(is_taken(&sockets, &[&whole[..], &[0; 60_000]].concat()), "more than any TFTP packet has");
    }
}
