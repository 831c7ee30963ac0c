"""Reads a capture of one machine's netboot: every request to the server, and when its answer began and ended.

Understands what tcpdump writes (Ethernet, IPv4) and DHCP, TFTP and HTTP/1.1 as far as needed: which packet answers
which. Retransmitted TCP segments count once. Nothing here knows what the requests should be; netboot.py checks that.
"""

import dataclasses
import struct

UDP, TCP = 17, 6
TFTP_NAMES = {1: "RRQ", 3: "DATA", 4: "ACK", 5: "ERROR", 6: "OACK"}
DHCP_NAMES = {1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 5: "ACK", 6: "NAK"}


@dataclasses.dataclass
class Packet:
    seconds: float
    protocol: int
    source: tuple
    target: tuple
    payload: bytes
    sequence: int = 0


@dataclasses.dataclass
class Answered:
    """One request: when the server had all of it, when the answer's first and last packets left. None: no answer."""
    protocol: str
    what: str
    asked: float
    first: float = None
    last: float = None
    body_bytes: int = 0
    request: bytes = b""
    head: bytes = b""

    def take(self, seconds, payload):
        """The next part of an HTTP answer."""
        if self.first is None:
            self.first = seconds
        self.last = seconds
        if b"\r\n\r\n" not in self.head:
            self.head += payload
            self.body_bytes = len(self.head.partition(b"\r\n\r\n")[2])
        else:
            self.body_bytes += len(payload)

    @property
    def wait(self):
        return self.first - self.asked if self.first is not None else 0.0

    @property
    def moving(self):
        return self.last - self.first if self.first is not None else 0.0


def packets(path):
    """The IPv4 UDP and TCP packets of a capture, in order."""
    data = open(path, "rb").read()
    magic, = struct.unpack_from("<I", data)
    if magic != 0xA1B2C3D4 or struct.unpack_from("<I", data, 20)[0] != 1:
        raise ValueError(f"{path} is not a little-endian Ethernet capture with microseconds")
    at = 24
    while at + 16 <= len(data):
        seconds, micros, length, _ = struct.unpack_from("<IIII", data, at)
        frame = data[at + 16:at + 16 + length]
        at += 16 + length
        packet = ipv4(seconds + micros / 1e6, frame)
        if packet:
            yield packet


def ipv4(seconds, frame):
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return None
    header = (frame[14] & 15) * 4
    length, protocol = struct.unpack_from(">H", frame, 16)[0], frame[23]
    address = lambda at: ".".join(str(byte) for byte in frame[at:at + 4])
    inner = frame[14 + header:14 + length]
    if protocol not in (UDP, TCP):
        return None
    source_port, target_port = struct.unpack_from(">HH", inner)
    payload, sequence = inner[8:], 0
    if protocol == TCP:
        payload, sequence = inner[(inner[12] >> 4) * 4:], struct.unpack_from(">I", inner, 4)[0]
    return Packet(seconds, protocol, (address(26), source_port), (address(30), target_port), payload, sequence)


def dhcp(found):
    """DISCOVERs and REQUESTs; an answer carries the xid of its request."""
    answered = []
    for packet in found:
        if packet.protocol != UDP or packet.target[1] not in (67, 68):
            continue
        xid, kind = packet.payload[4:8], DHCP_NAMES.get(dhcp_option(packet.payload, 53)[0])
        if packet.target[1] == 67:
            answered.append(Answered("DHCP", kind, packet.seconds, request=packet.payload))
            continue
        wanted = {"OFFER": "DISCOVER", "ACK": "REQUEST", "NAK": "REQUEST"}[kind]
        for request in reversed(answered):
            if request.what == wanted and request.request[4:8] == xid:
                if request.first is None:
                    request.first = request.last = packet.seconds
                break
    return answered


def dhcp_option(message, wanted):
    at = 240
    while at + 1 < len(message) and message[at] != 255:
        if message[at] == 0:
            at += 1
            continue
        value = message[at + 2:at + 2 + message[at + 1]]
        if message[at] == wanted:
            return value
        at += 2 + len(value)
    return b"\0"


def tftp(found, server):
    """Read requests and acknowledgements that ask for more. A transfer is known by the client's port."""
    answered, open_by_port = [], {}
    for packet in found:
        if packet.protocol != UDP or len(packet.payload) < 4:
            continue
        kind = TFTP_NAMES.get(struct.unpack_from(">H", packet.payload)[0])
        if packet.target == (server, 69) and kind == "RRQ":
            request = Answered("TFTP", "RRQ", packet.seconds, request=packet.payload)
            open_by_port[packet.source[1]] = request
            answered.append(request)
        elif packet.target[0] == server and packet.source[1] in open_by_port and kind == "ACK":
            request = Answered("TFTP", "ACK", packet.seconds)
            open_by_port[packet.source[1]] = request
            answered.append(request)
        elif packet.source[0] == server and packet.target[1] in open_by_port and kind in ("OACK", "DATA", "ERROR"):
            request = open_by_port[packet.target[1]]
            if request.first is None:
                request.first = request.last = packet.seconds
            if kind == "DATA":
                request.body_bytes += len(packet.payload) - 4
                request.last = packet.seconds
    return answered


def http(found, server, port):
    """Requests on all connections. One is complete, and the server's turn, with the last byte of its body."""
    answered, streams = [], {}
    for packet in found:
        if packet.protocol != TCP or (server, port) not in (packet.source, packet.target) or not packet.payload:
            continue
        from_client = packet.target == (server, port)
        stream = streams.setdefault(packet.source if from_client else packet.target, Stream())
        fresh = stream.fresh(packet, from_client)
        if from_client and fresh:
            stream.asked += fresh
            if complete(stream.asked):
                line = stream.asked.split(b"\r\n", 1)[0].decode()
                stream.current = Answered("HTTP", line, packet.seconds, request=stream.asked)
                answered.append(stream.current)
                stream.asked = b""
        elif fresh and stream.current:
            stream.current.take(packet.seconds, fresh)
    return answered


class Stream:
    def __init__(self):
        self.next = {}
        self.asked = b""
        self.current = None

    def fresh(self, packet, direction):
        """What of a segment was not there before. The bridge keeps order, so nothing is ever missing in between."""
        expected = self.next.get(direction, packet.sequence)
        seen = (expected - packet.sequence) % 2**32
        seen = 0 if seen >= 2**31 else seen
        self.next[direction] = max(packet.sequence + len(packet.payload), expected) % 2**32
        return packet.payload[seen:]


def complete(request):
    head, end, body = request.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= content_length(head)


def content_length(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
