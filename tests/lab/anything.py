"""Sends any frames with any virtio-net header from an interface; a stand-alone script.

`anything.py INTERFACE SOURCE_MAC TARGET_MAC COUNT SEED`: what a guest's root can send. Half of
the frames are superframes that are right but for a few octets, the others are of any length from
14 octets to 64 KiB with any content. The kernel refuses some; prints as JSON how many it took.
"""

import json
import random
import socket
import struct
import sys

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_NEEDS_CHECKSUM, _TCP4, _UDP, _TCP6 = 1, 1, 5, 4
_LONGEST = 65_535


def superframe(dice: random.Random, macs: bytes) -> tuple[list[int], bytearray]:
    """Return the fields of a header and a superframe that it describes."""
    payload = dice.randbytes(dice.choice((0, 1, 1399, 1400, 4001, dice.randrange(60_000))))
    is_v6, is_udp = dice.random() < 0.5, dice.random() < 0.5
    tags = b"".join(dice.choices((b"\x81\x00\x00\x05", b"\x88\xa8\x00\x09"), k=dice.randrange(3)))
    transport = dice.randbytes(4)
    if is_udp:
        transport += struct.pack("!HH", 8 + len(payload), 0)
    else:
        transport += dice.randbytes(8) + b"\x50" + dice.randbytes(1) + bytes(6)
    length = len(transport) + len(payload)
    protocol = 17 if is_udp else 6
    if is_v6:
        extra = bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) if dice.random() < 0.3 else b""
        network = struct.pack("!IHBB", 6 << 28, length + len(extra), 60 if extra else protocol, 64)
        network += dice.randbytes(32) + extra
    else:
        options = bytes(4 * dice.randrange(4))
        head = (0x45 + len(options) // 4, 0, 20 + len(options) + length, 1, 0x4000, 64, protocol, 0)
        network = struct.pack("!BBHHHBBH", *head) + dice.randbytes(8) + options
    frame = macs + tags + (b"\x86\xdd" if is_v6 else b"\x08\x00") + network
    start = len(frame)
    kind = _UDP if is_udp else _TCP6 if is_v6 else _TCP4
    size = dice.choice((1, 500, 1352, 1400, 9000))
    fields = [_NEEDS_CHECKSUM, kind, start + len(transport), size, start, 6 if is_udp else 16]
    return fields, bytearray(frame + transport + payload)


def main() -> None:
    """Send."""
    interface, source, target, count, seed = sys.argv[1:]
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    opened.bind((interface, 0))
    dice = random.Random(int(seed))
    macs = bytes.fromhex((target + source).replace(":", ""))
    sent = refused = 0
    for _ in range(int(count)):
        if dice.random() < 0.5:
            fields, frame = superframe(dice, macs)
            for _ in range(dice.randrange(3)):
                frame[dice.randrange(12, min(len(frame), 100))] = dice.randrange(256)
            if dice.random() < 0.3:
                fields[dice.randrange(6)] = dice.choice((0, 1, 3, 14, 40, 1400, 65_535))
        else:
            fields = [dice.choice((0, 1, 2, 255)), dice.choice((0, 1, 3, 4, 5, 0x81, 255))]
            fields += [dice.randrange(1 << dice.randrange(1, 17)) for _ in range(4)]
            frame = bytearray(macs + dice.randbytes(dice.choice((2, 3, 46, 1400, 9000, 65_000))))
        fields = [fields[0] & 255, fields[1] & 255, *fields[2:]]
        try:
            opened.send(struct.pack("<BBHHHH", *fields) + frame[:_LONGEST])
            sent += 1
        except OSError:
            refused += 1
    print(json.dumps({"sent": sent, "refused": refused}))


if __name__ == "__main__":
    main()
