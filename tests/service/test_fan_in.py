"""The load test of one subscriber for many stations, in small: everything published arrives, however it comes."""

import pytest

from benchmarks.fan_in import Load, followed

LOAD = Load(n_stations=6, rate_hz=20, seconds=1)


@pytest.mark.parametrize("n_daemons", [1, 3], ids=["one daemon", "a forwarder"])
def test_every_verdict_of_every_station_is_counted(n_daemons: int) -> None:
    found = followed(LOAD, n_daemons)
    assert found["published"] == found["received"] == 120
    assert found["missed"] == found["gaps"] == 0
    assert 0 < found["p50_ms"] <= found["p999_ms"] <= found["max_ms"]
