"""Which archives public encoders have been trained on (`eval/exposure.yaml`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

import yaml

TEST = "test"
SAYS = {
    TEST: "has been trained on pictures of this test split",
    "train": "has been trained on this archive's training pictures",
    "some": "has been trained on pictures of this archive; which of them is not told",
}


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What a public encoder is known to have seen of an archive: test, train or some pictures."""

    encoder: str
    seen: str
    source: str

    def __str__(self) -> str:
        return f"{self.encoder} {SAYS[self.seen]} ({self.source})"


def exposure_of(name: str, archive: str) -> Exposure | None:
    """Return what the encoder of this name has seen of an archive; None where that is not known.

    The first entry of the data file counts whose words stand in the name of a file or folder.
    """
    words = f"-{re.sub(r'[^a-z0-9]+', '-', name.lower())}-"
    package = str(__package__).rpartition(".")[0]
    text = resources.files(package).joinpath("exposure.yaml").read_text(encoding="utf-8")
    for entry in yaml.safe_load(text):
        if any(f"-{known}-" in words for known in entry["names"]):
            if archive not in entry["seen"]:
                return None
            seen = entry["seen"][archive]
            return Exposure(encoder=entry["encoder"], seen=seen, source=entry["source"])
    return None
