"""SHA-256 of what is fetched."""

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """In hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
