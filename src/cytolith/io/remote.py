"""URLs of zarr stores, as paths: what is a URL, its parts, and what of it cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cytolith.errors import VolumeError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SQUEEZED = re.compile(r"(https?|s3|gs|gcs|file):/[^/]")


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path; a Windows drive is none."""
    return _URL.match(text) is not None


@dataclass(frozen=True)
class UrlPath:
    """A URL that is walked like a `pathlib.Path`, which would make one slash of two."""

    url: str

    def __truediv__(self, name: str) -> UrlPath:
        inner = name.strip("/")
        return UrlPath(f"{self.url}/{inner}") if inner else self

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parents(self) -> tuple[UrlPath, ...]:
        """What it lies in, the nearest first, up to the host or bucket."""
        root = self.url.index("://") + 3
        cuts = [place for place, letter in enumerate(self.url) if letter == "/" and place > root]
        return tuple(UrlPath(self.url[:cut]) for cut in reversed(cuts))

    def absolute(self) -> UrlPath:
        """Itself."""
        return self


Place: TypeAlias = Path | UrlPath
"""Where a zarr store, or something in one, is."""


def place_of(source: str) -> Place | None:
    """What a URL leads to: a local path for ``file://``; None for a text that is no URL.

    Raises
    ------
    VolumeError
        A URL that cannot be used as it is, and what to do.
    """
    if not is_url(source):
        return None
    try:
        parts = urlsplit(source)
        password, host = parts.password, parts.netloc
    except ValueError as error:
        raise VolumeError(f"{source} is no URL ({error}); check it") from None
    if password is not None:  # it would be written into the record of every run
        raise VolumeError(
            f"{source.replace(password, '***')}: a password in a URL would end up in logs; put it into ~/.netrc"
        )
    if parts.scheme.lower() == "file":
        return Path(url2pathname(parts.path))
    if parts.query or parts.fragment:
        raise VolumeError(
            f"{source}: what follows ? or # cannot be sent for each chunk; give the plain URL of the zarr store"
        )
    if not host:
        raise VolumeError(f"{source} names no host or bucket; check the URL")
    return UrlPath(source.rstrip("/"))


def squeezed_hint(path: Path) -> str:
    """What to say of a path that was made from a URL: two slashes have become one."""
    return "; give a URL as text, not as a Path" if _SQUEEZED.match(str(path)) else ""
