"""What H.264 packets show of loss before they are decoded, on packets of a real encoder."""

import io
from functools import cache

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.sources.ffmpeg.nal import FrameNumCheck, NalDamageError, NalReader, split_byte_stream
from tests.films import write_film

N_FRAMES = 40
OPTIONS = ["", "bframes=2:b-pyramid=normal", "bframes=3:b-pyramid=none:open-gop=1", "slices=3", "cqm=jvt:8x8dct=1"]


@cache
def packets(options: str, container: str) -> tuple[bytes | None, list[tuple[bytes, bool]]]:
    """The container's configuration, and each packet with whether others refer to it."""
    buffer = io.BytesIO()
    params = ":".join(filter(None, [options, "keyint=10"]))
    write_film(buffer, N_FRAMES, container=container, options={"x264-params": params}, b_frames=3)
    with av.open(io.BytesIO(buffer.getvalue())) as film:
        stream = film.streams.video[0]
        extradata = stream.codec_context.extradata
        reader = NalReader(extradata, hevc=False)
        found = []
        for packet in film.demux(stream):
            if packet.size:
                units = reader.units(bytes(packet))
                slices = [unit for unit in units if unit[0] & 31 in {1, 5}]
                found.append((bytes(packet), bool(slices[0][0] & 0x60)))
        return extradata, found


@pytest.mark.parametrize("container", ["matroska", "mpegts"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_whole_stream_has_no_gap(options: str, container: str) -> None:
    extradata, found = packets(options, container)
    assert len(found) == N_FRAMES
    reader, check = NalReader(extradata, hevc=False), FrameNumCheck(extradata)
    gaps = [check.gap(reader.units(packet)) for packet, _ in found]
    assert not any(gaps)


@given(options=st.sampled_from(OPTIONS), container=st.sampled_from(["matroska", "mpegts"]), data=st.data())
def test_a_reference_picture_that_is_missing_shows_before_the_next_idr(
    options: str, container: str, data: st.DataObject
) -> None:
    extradata, found = packets(options, container)
    references = [at for at, (_, is_reference) in enumerate(found) if is_reference]
    missing = data.draw(st.sampled_from(references[1:-1]))
    reader, check = NalReader(extradata, hevc=False), FrameNumCheck(extradata)
    gaps = [check.gap(reader.units(packet)) for at, (packet, _) in enumerate(found) if at != missing]
    following = reader.units(found[missing + 1][0])
    if any(unit[0] & 31 == 5 for unit in following):  # an IDR picture refers to none
        return
    assert gaps.index(True) == missing


@given(at_ratio=st.floats(0.1, 0.9), n_zeros=st.integers(4, 600), container=st.sampled_from(["matroska", "mpegts"]))
def test_a_region_of_zeros_is_no_video(at_ratio: float, n_zeros: int, container: str) -> None:
    extradata, found = packets("", container)
    packet = max((packet for packet, _ in found), key=len)
    at = int(len(packet) * at_ratio)
    zeroed = packet[:at] + bytes(n_zeros) + packet[at + n_zeros :]
    if len(zeroed) > len(packet) or packet[at + n_zeros : at + n_zeros + 1] in {b"", b"\0", b"\1"}:
        return  # to the end, where zeros may stand; or by chance a start code follows
    with pytest.raises(NalDamageError, match=r"overwritten|lengths"):
        NalReader(extradata, hevc=False).units(zeroed)


@given(st.integers(1, 2000))
def test_a_packet_cut_short_does_not_have_the_lengths_that_it_states(n_bytes: int) -> None:
    extradata, found = packets("", "matroska")
    packet = found[0][0]
    with pytest.raises(NalDamageError, match="lengths"):
        NalReader(extradata, hevc=False).units(packet[:-n_bytes])


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd_to_be_checked(payload: bytes) -> None:
    FrameNumCheck(payload)
    FrameNumCheck(b"\1" + payload)
    FrameNumCheck(None).gap([unit for unit in split_byte_stream(b"\0\0\1" + payload) if unit])
    for extradata in (None, b"\1\x64\0\x1f\xff\xe1\0\0\0"):
        try:
            NalReader(extradata, hevc=False).units(payload)
        except NalDamageError:
            continue
