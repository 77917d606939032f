"""Any file is the bank that was saved or a BankError: the reader of bank files.

Each input is a right bank with bytes changed, inserted or cut off; a third of them has a manifest of the fuzzer's own,
its certificates included. A bank that is taken can be asked for its precision. Half of the banks have an index.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["edge_uad"]):
    from edge_uad.errors import BankError
    from edge_uad.inference.bank import _MANIFEST, PatchBank, content_id
    from edge_uad.runtime.backbones import choose_precision
from tests.banks import certified, random_bank

TARGET = Path("build/fuzz/bank.safetensors")
TARGET.parent.mkdir(parents=True, exist_ok=True)
PRECISIONS = (certified("int8", "int8_dot", "bf16"), certified("bf16", "bf16"))
BANKS: list[PatchBank] = []
WHOLE: list[bytes] = []
for indexed in (False, True):
    random_bank(n_patches=4, indexed=indexed, precisions=PRECISIONS).save(TARGET)
    BANKS.append(PatchBank.load(TARGET))
    WHOLE.append(TARGET.read_bytes())
MOST_REASON_CHARS = 2000


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
    place = manifest
    while True:
        key = given.PickValueInList(sorted(place) if isinstance(place, dict) else list(range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or given.ConsumeBool():
            break
        place = place[key]
    numbers = [-1, 0, 2**70, 10**400, 1e308, float("nan"), float("inf"), given.ConsumeInt(8), given.ConsumeFloat()]
    others = [None, "", [], {}, [[]], True, [manifest["precisions"][0]] * 3, given.ConsumeUnicodeNoSurrogates(50)]
    place[key] = given.PickValueInList(numbers + others)
    manifest["bank_id"] = given.PickValueInList([manifest["bank_id"], _id_of(manifest)])
    header["__metadata__"]["edge_uad_manifest"] = json.dumps(manifest)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return bytearray(struct.pack("<Q", len(packed)) + packed + content[8 + header_bytes :])


def _id_of(manifest: dict[str, Any]) -> Any:
    """The right id of a changed manifest, as far as it can be read: what is wrong with it is then found by itself."""
    bank = BANKS[bool(manifest.get("index"))]
    try:
        read = _MANIFEST.validate_json(json.dumps(manifest))
        return content_id(read, bank.patches, bank.patch_image, bank.calibration, bank.index)
    except ValueError:
        return manifest["bank_id"]


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
    reason = choose_precision(bank.manifest, "auto", "cpu").reason or ""
    assert reason.isprintable()
    assert len(reason) < MOST_REASON_CHARS


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
