"""Ogg streams with a fixed serial number, so that the same audio gives the same bytes.

Encoders draw the serial number of a stream at random. Page layout and checksum: RFC 3533, section 6.
"""

import zlib

from clmr_tf.errors import ClmrError

_CAPTURE_PATTERN = b"OggS"
_SERIAL = slice(14, 18)
_CHECKSUM = slice(22, 26)
_NUM_SEGMENTS = 26
_HEADER_BYTES = 27
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_serial_number(stream: bytes, serial_number: int) -> bytes:
    """Gives all pages of an Ogg file another serial number and mends their checksums.

    Args:
        stream: A whole Ogg file of one logical stream.
        serial_number: The new one, 0 to 2**32 - 1.

    Raises:
        ClmrError: If `stream` is not a sequence of whole Ogg pages.
    """
    pages = []
    start = 0
    while start < len(stream):
        body = start + _HEADER_BYTES
        if stream[start : start + 4] != _CAPTURE_PATTERN or body > len(stream):
            raise ClmrError(f"No Ogg page at byte {start} of {len(stream)}; encode the audio again.")
        lacing = stream[body : body + stream[start + _NUM_SEGMENTS]]
        end = body + len(lacing) + sum(lacing)
        if end > len(stream):
            raise ClmrError(f"The Ogg page at byte {start} of {len(stream)} is cut off; encode again.")
        page = bytearray(stream[start:end])
        page[_SERIAL] = serial_number.to_bytes(4, "little")
        page[_CHECKSUM] = bytes(4)
        page[_CHECKSUM] = _checksum(page).to_bytes(4, "little")
        pages.append(page)
        start = end
    return b"".join(pages)


def _checksum(page: bytes) -> int:
    # Ogg's CRC-32 has zlib's polynomial, but takes the bits of a byte from the other end and inverts nothing.
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
