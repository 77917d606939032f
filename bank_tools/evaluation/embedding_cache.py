"""Embeddings on disk, so that the same images are read instead of passed through the ViT again."""

import threading
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_uad.errors import UsageError
from edge_uad.files import write_atomically
from edge_uad.records import Embedding

LEFT_AFTER_EVICTION_RATIO = 0.9
_SUFFIX = ".safetensors"


class EmbeddingCache:
    """A folder of embeddings by key, bounded in size; what was written first goes first.

    Values are float32, bit for bit those that the backbone gave: a number from the cache is the number itself.
    Several processes and threads may use one folder; a file appears whole or not at all.

    Args:
        root: created where it is missing.
        max_bytes: how much it may hold.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._counting = threading.Lock()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the cache {root} cannot be made: {error.strerror}; set EDGE_UAD_CACHE") from error
        self._n_bytes = sum(size for _, size, _ in self._files())

    @property
    def n_bytes(self) -> int:
        """What it holds, as far as this process knows."""
        return self._n_bytes

    def get(self, key: str) -> Embedding | None:
        """The embedding kept under a key; None where there is none, or none that can be read."""
        try:
            tensors = load(self._path(key).read_bytes())
            grid_h, grid_w = tensors["grid_hw"].tolist()
            return Embedding(tokens=tensors["tokens"], attention=tensors["attention"], grid_hw=(grid_h, grid_w))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def put(self, key: str, embedding: Embedding) -> None:
        """Keep an embedding, letting the oldest go where there is no room; one that cannot be kept is no error."""
        content = save(
            {
                "tokens": np.ascontiguousarray(embedding.tokens),
                "attention": np.ascontiguousarray(embedding.attention),
                "grid_hw": np.asarray(embedding.grid_hw, np.int64),
            }
        )
        with self._counting:
            if self._n_bytes + len(content) > self._max_bytes:
                self._evict(len(content))
        if len(content) > self._max_bytes:
            return
        try:
            self._write(self._path(key), content)
        except OSError:
            return
        with self._counting:
            self._n_bytes += len(content)

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / f"{key}{_SUFFIX}"

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content, durable=False)

    def _evict(self, needed_bytes: int) -> None:
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        allowed = LEFT_AFTER_EVICTION_RATIO * self._max_bytes - needed_bytes
        for _, size, path in files:
            if held <= allowed:
                break
            path.unlink(missing_ok=True)
            held -= size
        self._n_bytes = held

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of writing, size and path of each file, unfinished ones of a killed process among them."""
        found = []
        for path in self._root.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # another process let it go
            found.append((status.st_mtime_ns, status.st_size, path))
        return found
