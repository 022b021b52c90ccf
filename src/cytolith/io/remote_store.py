"""Zarr stores behind URLs, by fsspec: what fails for a moment is asked for again, and no outage is read as zeros."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from cytolith.errors import ConfigError, VolumeError
from cytolith.io.remote import UrlPath

T = TypeVar("T")

PAUSES = (0.25, 0.5, 1.0, 2.0)
"""Seconds before each further try of what failed for a reason that may pass."""
_CONNECT_SECONDS = 20.0
_SILENCE_SECONDS = 60.0
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_MAY_PASS = (408, 425, 429)
"""Answers below 500 after which a server may answer otherwise: time-outs and too many requests."""
_NO_KEY = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
_NETWORK_LIBRARIES = ("aiohttp", "botocore", "aiobotocore", "gcsfs", "google")
_PACKAGES = {
    "gs": "pip install 'cytolith[remote]' gcsfs",
    "gcs": "pip install 'cytolith[remote]' gcsfs",
    "az": "pip install 'cytolith[remote]' adlfs",
    "abfs": "pip install 'cytolith[remote]' adlfs",
}


class UnreachableError(OSError):
    """Something behind a URL that cannot be had now, or not by this user; the text names the URL."""


class RemoteStore(FsspecStore):
    """A read-only store that tells what is not there from what could not be fetched.

    Attributes
    ----------
    missing : int
        How many keys were asked for and not there, so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.missing = 0

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key, or a part of it; None where the server says that there is none."""
        address = f"{self.path.rstrip('/')}/{key}"
        content: bytes | None = await self._tried(address, lambda: self._fetched(address, byte_range))
        if content is None:
            self.missing += 1
            return None
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several at once; see `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether a key is there; fsspec says no to whatever goes wrong."""
        return await self.get(key, default_buffer_prototype()) is not None

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right inside a folder, as far as the server lists them."""
        address = "/".join(part for part in (self.path.rstrip("/"), prefix.strip("/")) if part)
        found = await self._tried(address, lambda: self.fs._ls(address, detail=False))
        for name in sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in found or ()}):
            if name:
                yield name

    async def _fetched(self, address: str, byte_range: ByteRequest | None) -> bytes:
        match byte_range:
            case None:
                part: tuple[int | None, int | None] = None, None
            case RangeByteRequest(start, end):
                part = start, end
            case OffsetByteRequest(offset):
                part = offset, None
            case SuffixByteRequest(suffix):
                part = -suffix, None
            case _:
                raise ValueError(f"a range that is not known: {byte_range}")
        content: bytes = await self.fs._cat_file(address, start=part[0], end=part[1])
        # Plain servers know no ranges and send all there is: what was asked for is cut out here.
        match byte_range:
            case RangeByteRequest(start, end) if len(content) > end - start:
                content = content[start:end]
            case SuffixByteRequest(suffix) if len(content) > suffix:
                content = content[-suffix:]
            case OffsetByteRequest(offset) if offset > 0:
                whole: bytes = await self.fs._cat_file(address)
                content = whole[offset:]
        return content

    async def _tried(self, address: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What a request gives; None where there is nothing, `UnreachableError` where that is not known."""
        for pause in (*PAUSES, None):
            try:
                return await ask()
            except _ABSENT:
                return None
            except Exception as error:
                if not _from_network(error):
                    raise
                if pause is None or not _may_pass(error):
                    url = address if "://" in address else f"{_scheme(self.fs)}://{address}"
                    raise UnreachableError(errno.EIO, f"{url}: {_reason(error)}") from error
            await asyncio.sleep(pause)
        raise AssertionError


def open_store(place: UrlPath) -> RemoteStore:
    """Store at a URL; nothing is asked for yet.

    Access to ``s3://`` and others follows the environment: ``AWS_PROFILE``, ``AWS_ENDPOINT_URL``,
    ``FSSPEC_S3_ANON=true`` and all that fsspec and its file systems document.

    Raises
    ------
    ConfigError
        A library for this kind of URL is not installed; says which.
    VolumeError
        There is no such kind of URL.
    """
    scheme = place.url.partition("://")[0].lower()
    try:
        import fsspec  # type: ignore[import-untyped, unused-ignore]
        from fsspec.core import url_to_fs  # type: ignore[import-untyped, unused-ignore]

        options = _http_options(fsspec) if scheme in ("http", "https") else {}
        if scheme in ("s3", "s3a"):
            # tried again here, and nowhere else
            given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options = {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 20, **given}}
        files, path = url_to_fs(place.url, asynchronous=True, **options)
        if not files.async_impl:
            from fsspec.implementations.asyn_wrapper import (  # type: ignore[import-untyped, unused-ignore]
                AsyncFileSystemWrapper,
            )

            files = AsyncFileSystemWrapper(files, asynchronous=True)
    except ImportError as error:
        how = _PACKAGES.get(scheme, "pip install 'cytolith[remote]'")
        raise ConfigError(f"{place}: {scheme}:// needs libraries that are not installed: {how}") from error
    except ValueError as error:
        raise VolumeError(f"{place}: {scheme}:// is not known; give https://, s3:// or a path") from error
    if scheme in ("s3", "s3a"):
        files.retries = 1
    return RemoteStore(files, read_only=True, path=path.rstrip("/"))


def read_content(place: UrlPath) -> bytes | None:
    """All bytes of a small object; None where there is none.

    Raises
    ------
    UnreachableError
        It cannot be said whether there is one.
    """
    store = open_store(UrlPath(place.url.rpartition("/")[0]))
    found = sync(store.get(place.name, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def _http_options(fsspec: Any) -> dict[str, Any]:
    import aiohttp

    given = fsspec.config.conf.get("https", {}) | fsspec.config.conf.get("http", {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    # trust_env: proxies of the environment, and names and passwords of ~/.netrc
    return {
        "get_client": _http_session,
        "client_kwargs": {"timeout": timeout, "trust_env": True, **given.get("client_kwargs", {})},
    }


async def _http_session(loop: Any = None, **options: Any) -> Any:  # noqa: ARG001 - as fsspec calls it
    """A session that is closed when the interpreter ends: aiohttp complains of those that are not."""
    import aiohttp

    session = aiohttp.ClientSession(**options)
    running = asyncio.get_running_loop()

    def close() -> None:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(session.close(), running).result(1)

    atexit.register(close)
    return session


def _scheme(files: Any) -> str:
    protocol = files.protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])


def _status(error: Exception) -> int | None:
    """The number that a server answered with; None where there was no answer."""
    found = getattr(error, "status", None)
    response = getattr(error if hasattr(error, "response") else error.__cause__, "response", None)
    if found is None and isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found if isinstance(found, int) and found > 0 else None


def _from_network(error: Exception) -> bool:
    """Whether it comes from a file system or its network, and is not a mistake in a program."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, EOFError, asyncio.TimeoutError)) or library in _NETWORK_LIBRARIES


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _MAY_PASS
    return not (isinstance(error, (PermissionError, ssl.SSLError, ssl.CertificateError, ValueError)) or _no_key(error))


def _no_key(error: Exception) -> bool:
    return type(error).__name__ in _NO_KEY


def _reason(error: Exception) -> str:
    """Why something could not be had, and what to do."""
    status = _status(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if _no_key(error):
        return f"no credentials ({text}); for a public bucket set FSSPEC_S3_ANON=true"
    if status in (401, 403) or isinstance(error, PermissionError):
        return f"the server refuses access ({status or text}); check the credentials, and whether it is there at all"
    if status is not None:
        again = "; run again later" if status >= 500 or status in _MAY_PASS else "; check the URL"
        return f"the server answers with error {status}{again}"
    return f"the server cannot be reached ({text}); check the network and run again"
