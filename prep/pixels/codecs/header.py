"""How a DICOM header describes its pixels, and what is true of each transfer syntax."""

from __future__ import annotations

from dataclasses import dataclass

from ....contract import Reject

PREFIX = "1.2.840.10008.1.2"
NATIVE = frozenset((PREFIX, f"{PREFIX}.1", f"{PREFIX}.1.99", f"{PREFIX}.2"))
BIG_ENDIAN, RLE = f"{PREFIX}.2", f"{PREFIX}.5"
BASELINE = f"{PREFIX}.4.50"
JPEG_LOSSLESS = frozenset((f"{PREFIX}.4.57", f"{PREFIX}.4.70"))
JPEG_LS, JPEG_LS_NEAR = f"{PREFIX}.4.80", f"{PREFIX}.4.81"
HTJ2K_LOSSLESS = frozenset((f"{PREFIX}.4.201", f"{PREFIX}.4.202"))
JPEG_2000 = frozenset((f"{PREFIX}.4.90", f"{PREFIX}.4.91", f"{PREFIX}.4.203")) | HTJ2K_LOSSLESS
# lossy decoders overshoot the stored range and are clipped to it; elsewhere bits above it are
# not part of the picture and are masked
LOSSY = frozenset(f"{PREFIX}.4.{end}" for end in ("50", "51", "81", "91", "203"))
GRAY = frozenset(("MONOCHROME1", "MONOCHROME2"))
COLORS = frozenset(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"))
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True, kw_only=True)
class PixelHeader:
    """How the header describes the pixels."""

    syntax: str
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    planar: int

    @property
    def is_color(self) -> bool:
        """RGB, YBR or palette."""
        return self.photometric not in GRAY

    @property
    def lowest(self) -> int:
        """The smallest value the stored bits can have, which is code 0."""
        return -(1 << (self.stored - 1)) if self.signed else 0

    def code_of(self, value: int) -> int:
        """Return the code of a stored value, whatever sign its element's VR gave it."""
        value %= 1 << self.allocated
        if self.signed and value >> (self.allocated - 1):
            value -= 1 << self.allocated
        return value - self.lowest

    def check(self, *, high_bit: object, representation: int) -> None:
        """Refuse bit depths, signs and colours that are no picture of ours: Reject bad_bits."""
        if self.allocated not in (8, 16) or not 1 <= self.stored <= self.allocated:
            raise Reject("bad_bits", "bits allocated or stored")
        if representation not in (0, 1) or (self.signed and self.is_color):
            raise Reject("bad_bits", "pixel representation")
        single = self.photometric in GRAY or self.photometric == PALETTE
        if self.samples != (1 if single else 3) or not (single or self.photometric in COLORS):
            raise Reject("bad_bits", "samples a pixel or photometric interpretation")
        if self.planar not in (0, 1):
            raise Reject("bad_bits", "planar configuration")
        # left-aligned native pixels are read wrongly by every reader that takes the low bits
        if self.syntax in NATIVE and high_bit not in (None, self.stored - 1):
            raise Reject("bad_bits", "high bit")
