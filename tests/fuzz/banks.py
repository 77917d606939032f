"""Any file is the bank that was saved or a BankError: the reader of bank files.

Each input is a right bank with bytes changed, inserted or cut off; a third of them has a manifest of the fuzzer's own.
Half of the banks have an index.
"""

import json
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edge_uad"]):
    from edge_uad.errors import BankError
    from edge_uad.inference.bank import PatchBank
from tests.banks import random_bank

TARGET = Path("build/fuzz/bank.safetensors")
TARGET.parent.mkdir(parents=True, exist_ok=True)
WHOLE = []
for indexed in (False, True):
    random_bank(n_patches=4, indexed=indexed).save(TARGET)
    WHOLE.append(TARGET.read_bytes())


def changed_bank(given: atheris.FuzzedDataProvider) -> bytes:
    """A bank file with something wrong."""
    content = bytearray(given.PickValueInList(WHOLE))
    if given.ConsumeIntInRange(0, 2) == 0:
        return bytes(_with_manifest(content, given))
    for _ in range(given.ConsumeIntInRange(0, 4)):
        place = given.ConsumeIntInRange(0, len(content))
        match given.ConsumeIntInRange(0, 2):
            case 0:
                content[place : place + 1] = given.ConsumeBytes(1)
            case 1:
                content[place:place] = given.ConsumeBytes(8)
            case _:
                del content[place:]
    return bytes(content)


def _with_manifest(content: bytearray, given: atheris.FuzzedDataProvider) -> bytearray:
    header_bytes = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + header_bytes])
    manifest = json.loads(header["__metadata__"]["edge_uad_manifest"])
    key = given.PickValueInList(sorted(manifest))
    manifest[key] = given.PickValueInList(
        [None, -1, 0, 2**70, 1e308, "", [], {}, [[]], True, given.ConsumeInt(8), given.ConsumeUnicodeNoSurrogates(50)]
    )
    header["__metadata__"]["edge_uad_manifest"] = json.dumps(manifest)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return bytearray(struct.pack("<Q", len(packed)) + packed + content[8 + header_bytes :])


def one_input(content: bytes) -> None:
    """What the fuzzer calls; any exception but BankError is a find, and so is a changed bank that is taken."""
    changed = changed_bank(atheris.FuzzedDataProvider(content))
    TARGET.write_bytes(changed)
    try:
        bank = PatchBank.load(TARGET)
    except BankError as error:
        if "\n" in str(error):
            raise AssertionError("an error is one line") from error
        return
    assert bank.manifest.n_patches == len(bank.patches) == 4


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
