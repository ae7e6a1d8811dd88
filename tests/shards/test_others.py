"""Other people's readers: HF `datasets` streams our shards with the same keys and bytes.

It is no dependency of ours: it is looked for in this environment and in those of the folder that
IMITATE_PEERS names, one virtual environment a sub-folder.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imitate.contract import Folders
from imitate.files import canonical_json

STREAM = """
import hashlib, json, sys
from datasets import Features, Image, Json, Value, load_dataset

text = {"__key__": Value("string"), "__url__": Value("string"), "json": Json()}
pictures = {"png": Image(decode=False), "mask.png": Image(decode=False)}
samples = load_dataset(
    "webdataset", data_files={"all": sys.argv[1:]}, split="all", streaming=True,
    features=Features(text | pictures),
)
for sample in samples:
    hashes = {name: hashlib.sha256(sample[name]["bytes"]).hexdigest()
              for name in pictures if sample[name]}
    print(json.dumps([sample["__key__"], sample["json"], hashes]))
"""


def python_with(module: str) -> str:
    """A Python that can import the module; the test is skipped where there is none."""
    if importlib.util.find_spec(module):
        return sys.executable
    peers = os.environ.get("IMITATE_PEERS")
    for python in sorted(Path(peers).glob("*/bin/python")) if peers else []:
        if not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            return str(python)
    pytest.skip(f"`{module}` is in no environment here (IMITATE_PEERS names a folder of them)")


def test_hf_datasets_streams_the_same_keys_and_bytes(originals: Path, tmp_path: Path) -> None:
    python = python_with("datasets")
    tars = sorted((Folders(originals / "short").shards("phantom") / "shards").glob("*.tar"))
    quiet = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", STREAM, *map(str, tars)],
        capture_output=True,
        text=True,
        env=os.environ | quiet,
        check=True,
    )
    found: dict[str, bytes | str] = {}
    for line in done.stdout.splitlines():
        key, document, hashes = json.loads(line)
        found[f"{key}.json"] = canonical_json(document)
        found |= {f"{key}.{name}": value for name, value in hashes.items()}
    expected: dict[str, bytes | str] = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member)
                assert handle is not None
                data = handle.read()
                is_text = member.name.endswith(".json")
                expected[member.name] = data if is_text else hashlib.sha256(data).hexdigest()
    assert found == expected and any(name.endswith(".mask.png") for name in found)
