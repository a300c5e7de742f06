"""The checksum in the header of a token file (runtime/data.h, runtime/checksum.h), written from its definition."""
import struct

PRIME = 0x9E3779B185EBCA87


def checksum(data):
    lanes = [1, 2, 3, 4]
    padded = data + bytes(32 - len(data) % 32)  # the last block is there even when nothing is left for it
    for i, (word,) in enumerate(struct.iter_unpack("<Q", padded)):
        lane = (lanes[i % 4] ^ word) * PRIME % 2**64
        lanes[i % 4] = ((lane << 31 | lane >> 33) + word) % 2**64
    total = len(data)
    for lane in lanes:
        total = (total ^ lane) * PRIME % 2**64
        total ^= total >> 32
    return total


def checksummed(data):
    """The token file `data` with the checksum that belongs to the rest of it."""
    return data[:40] + struct.pack("<Q", checksum(data[:40] + bytes(8) + data[48:])) + data[48:]
