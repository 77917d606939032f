"""What a processor can do is read from its flags, and may be hidden."""

import pytest

from edge_uad.inference.backbones import processor
from edge_uad.inference.backbones.processor import HIDDEN_VARIABLE, cpu_features, cpu_flags


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse avx avx2 fma", set()),
        ("avx2 avx_vnni", {"int8_dot"}),
        ("avx512f avx512_vnni", {"int8_dot"}),
        ("avx512f avx512_vnni avx512_bf16", {"int8_dot", "bf16"}),
        ("amx_bf16 amx_int8", {"int8_dot", "bf16"}),
        ("asimd asimddp bf16", {"int8_dot", "bf16"}),
        ("", set()),
    ],
)
def test_features_follow_from_the_flags(flags: str, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HIDDEN_VARIABLE, raising=False)
    for key in ("flags", "Features"):
        monkeypatch.setattr(processor, "cpu_info", lambda key=key: {key: flags})
        assert cpu_flags() == set(flags.split())
        assert cpu_features() == expected


def test_a_hidden_feature_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "cpu_info", lambda: {"flags": "avx512_vnni avx512_bf16"})
    monkeypatch.setenv(HIDDEN_VARIABLE, " bf16")
    assert cpu_features() == {"int8_dot"}
    monkeypatch.setenv(HIDDEN_VARIABLE, "int8_dot,bf16")
    assert cpu_features() == set()
