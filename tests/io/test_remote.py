"""zarr stores behind URLs, from small servers of our own that fail when they are told to."""

import json
import pickle
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
import zarr
from command_line import cytolith

from cytolith.axes import full_region
from cytolith.cells.pipeline import detect_cells
from cytolith.errors import ConfigError, VolumeError
from cytolith.io import remote_store
from cytolith.io.remote import UrlPath, is_url, place_of
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import cells_phantom

SHAPE = (6, 20, 30)
VOLUME = np.random.default_rng(6).integers(1, 60000, SHAPE, "uint16")  # no voxel is 0


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; `server.answers` has what to say instead, by the end of a path: a status or a function."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are sent apart: together they would wait 40 ms each time

    def do_GET(self):
        self.server.asked.append(unquote(self.path))
        for end, answer in self.server.answers.items():
            if unquote(self.path).endswith(end):
                answer = answer(self) if callable(answer) else answer
                if answer is None:
                    break
                if answer == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "100000")
                    self.end_headers()
                    self.wfile.write(b"abc")
                    self.close_connection = True
                    return
                self.send_error(answer)
                return
        super().do_GET()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # clients that have gone


@pytest.fixture
def serve():
    """Starts servers of a folder; each has `answers`, `asked` and `url`."""
    running = []

    def start(folder, handler=Handler):
        server = Server(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        server.answers, server.asked = {}, []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(remote_store, "PAUSES", (0.01, 0.02))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def everything(volume):
    return volume.read(full_region(volume.shape))


def write_image(path, array=VOLUME, version="0.5", **options):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    options = {"chunks": (4, 8, 16), **options}
    for number, level in enumerate((array, array[:, ::2, ::2])):
        group.create_array(f"s{number}", shape=level.shape, dtype=level.dtype, **options)[...] = level
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    datasets = [
        {"path": f"s{n}", "coordinateTransformations": [{"type": "scale", "scale": [6, 1.62 * 2**n, 1.62 * 2**n]}]}
        for n in range(2)
    ]
    image = {"axes": axes, "datasets": datasets}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": version, **image}]
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_is_that_of_the_local_copy(tmp_path, serve, version):
    path = write_image(tmp_path / "my brain ä.ome.zarr", version=version)
    server = serve(tmp_path)
    local, remote = open_volume(path), open_volume(f"{server.url}/my brain ä.ome.zarr/")
    assert (remote.shape, remote.voxel_size, remote.chunks) == (local.shape, local.voxel_size, local.chunks)
    assert remote.describe() == local.describe() | {"source": f"{server.url}/my brain ä.ome.zarr"}
    np.testing.assert_array_equal(everything(remote), VOLUME)
    region = (slice(1, 4), slice(3, 17), slice(2, 29))
    np.testing.assert_array_equal(remote.read(region), VOLUME[region])
    half = open_volume(f"{server.url}/my brain ä.ome.zarr", level=1)
    np.testing.assert_array_equal(everything(half), VOLUME[:, ::2, ::2])
    inside = open_volume(f"{server.url}/my brain ä.ome.zarr/s1")
    assert inside.voxel_size == half.voxel_size == (6, 3.24, 3.24)
    remote.check()


def test_file_urls_are_paths(tmp_path):
    np.save(tmp_path / "a b.npy", VOLUME)
    np.testing.assert_array_equal(everything(open_volume((tmp_path / "a b.npy").as_uri())), VOLUME)


def test_only_the_chunks_of_a_region_are_fetched(tmp_path, serve):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    volume = open_volume(f"{server.url}/a.zarr")
    server.asked.clear()
    volume.read((slice(0, 4), slice(8, 16), slice(16, 30)))
    assert server.asked == ["/a.zarr/s0/c/0/1/1"]


@pytest.mark.parametrize("ranges", [True, False])
def test_shards(tmp_path, serve, ranges):
    """Parts of a file, from a server that knows ranges and from one that sends everything."""
    write_image(tmp_path / "a.zarr", chunks=(2, 4, 8), shards=(4, 8, 16), compressors=None)

    class Ranges(Handler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            if wanted is None:
                super().do_GET()
                return
            content = Path(self.translate_path(self.path)).read_bytes()
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1] if first else content[-int(last) :]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

    server = serve(tmp_path, Ranges if ranges else Handler)
    np.testing.assert_array_equal(everything(open_volume(f"{server.url}/a.zarr")), VOLUME)
    region = (slice(3, 4), slice(7, 9), slice(15, 18))
    np.testing.assert_array_equal(open_volume(f"{server.url}/a.zarr").read(region), VOLUME[region])


def test_a_chunk_that_is_not_there_is_the_fill_value(tmp_path, serve):
    write_image(tmp_path / "a.zarr", fill_value=7)
    (tmp_path / "a.zarr/s0/c/0/1/1").unlink()
    server = serve(tmp_path)
    expected = VOLUME.copy()
    expected[0:4, 8:16, 16:32] = 7
    volume = open_volume(f"{server.url}/a.zarr")
    np.testing.assert_array_equal(everything(volume), expected)
    server.answers["/s0/zarr.json"] = 404  # everything is gone: then so is what that chunk was
    with pytest.raises(VolumeError, match=r"a\.zarr is no longer there") as caught:
        everything(volume)
    assert isinstance(caught.value.__cause__, OSError)
    del server.answers["/s0/zarr.json"]
    np.testing.assert_array_equal(everything(volume), expected)
    write_image(tmp_path / "a.zarr", VOLUME, fill_value=8)
    (tmp_path / "a.zarr/s0/c/0/1/1").unlink()
    with pytest.raises(VolumeError, match="has changed since it was opened"):
        everything(volume)


@pytest.mark.parametrize(
    ("answer", "text", "tries"),
    [
        (500, "error 500; run again later", 3),
        (503, "error 503; run again later", 3),
        (429, "error 429; run again later", 3),
        (403, r"refuses access \(403\)", 1),
        (401, r"refuses access \(401\)", 1),
        (400, "error 400; check the URL", 1),
        ("cut", "cannot be reached", 3),
    ],
)
def test_no_failure_is_read_as_zeros(tmp_path, serve, answer, text, tries):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    volume = open_volume(f"{server.url}/a.zarr")
    server.answers["/c/0/1/1"] = answer
    server.asked.clear()
    with pytest.raises(VolumeError, match=text) as caught:
        everything(volume)
    assert f"{server.url}/a.zarr/s0/c/0/1/1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)  # the engine tries such blocks again
    assert server.asked.count("/a.zarr/s0/c/0/1/1") == tries
    region = (slice(0, 4), slice(0, 8), slice(0, 30))
    np.testing.assert_array_equal(volume.read(region), VOLUME[region])  # the others can be read
    server.answers.clear()
    np.testing.assert_array_equal(everything(volume), VOLUME)


def test_what_fails_for_a_moment_is_tried_again(tmp_path, serve):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    seen = set()

    def once(handler):
        new = handler.path not in seen
        seen.add(handler.path)
        return 503 if new else None

    server.answers[""] = once
    np.testing.assert_array_equal(everything(open_volume(f"{server.url}/a.zarr")), VOLUME)
    assert len(seen) > 12


def test_a_server_that_dies_and_comes_back(tmp_path, serve):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    volume = open_volume(f"{server.url}/a.zarr")
    volume.read((slice(0, 1), slice(0, 1), slice(0, 1)))
    server.shutdown()
    server.server_close()
    server.answers[""] = "cut"  # connections that are still open
    for access in (
        lambda: everything(volume),
        volume.check,
        volume.stamps,
        lambda: open_volume(f"{server.url}/a.zarr"),
    ):
        with pytest.raises(VolumeError, match=f"{server.url}/a.zarr.*cannot be reached") as caught:
            access()
        assert "\n" not in str(caught.value)
    again = ThreadingHTTPServer(server.server_address, partial(Handler, directory=str(tmp_path)))
    again.answers, again.asked = {}, []
    threading.Thread(target=again.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    np.testing.assert_array_equal(everything(volume), VOLUME)
    again.shutdown()
    again.server_close()


@pytest.mark.parametrize(
    ("answers", "text"),
    [({"": 500}, "error 500"), ({"": 403}, "refuses access"), ({"": 404}, "no zarr array or group is there")],
)
def test_opening_what_cannot_be_had(tmp_path, serve, answers, text):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    server.answers.update(answers)
    with pytest.raises(VolumeError, match=text) as caught:
        open_volume(f"{server.url}/a.zarr")
    assert f"{server.url}/a.zarr" in str(caught.value)


def test_groups(tmp_path, serve):
    root = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write_image(tmp_path / "g.zarr/0", version="0.4")
    server = serve(tmp_path)
    np.testing.assert_array_equal(everything(open_volume(f"{server.url}/g.zarr")), VOLUME)  # the listing has one
    np.testing.assert_array_equal(everything(open_volume(f"{server.url}/g.zarr", dataset="0")), VOLUME)
    server.answers["/g.zarr/"] = server.answers["/g.zarr"] = 403  # no listing
    np.testing.assert_array_equal(everything(open_volume(f"{server.url}/g.zarr")), VOLUME)
    (tmp_path / "g.zarr/0").rename(tmp_path / "g.zarr/other")
    with pytest.raises(VolumeError, match="the server does not list: choose one with dataset="):
        open_volume(f"{server.url}/g.zarr")
    with pytest.raises(VolumeError, match=r"g\.zarr/nothing: nothing of that name in .*g\.zarr, which holds"):
        open_volume(f"{server.url}/g.zarr/nothing")


def test_stamps(tmp_path, serve):
    write_image(tmp_path / "a.zarr")
    server = serve(tmp_path)
    volume = open_volume(f"{server.url}/a.zarr")
    before = volume.stamps()
    assert before.names == [f"{server.url}/a.zarr/s0/zarr.json"]
    assert volume.stamps().to_arrays()["times"] == before.to_arrays()["times"]
    metadata = json.loads((tmp_path / "a.zarr/s0/zarr.json").read_text())
    (tmp_path / "a.zarr/s0/zarr.json").write_text(json.dumps(metadata | {"fill_value": 9}))
    assert volume.stamps().to_arrays()["times"] != before.to_arrays()["times"]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://host/a.zarr?token=1", r"what follows \? or # cannot be sent"),
        ("https://me:secret@host/a.zarr", r"me:\*\*\*@host.*netrc"),
        ("https:///a.zarr", "names no host"),
        ("nothing://host/a.zarr", "nothing:// is not known"),
        ("https://[::1/a.zarr", "is no URL"),
    ],
)
def test_urls_that_cannot_be_used(url, text):
    with pytest.raises(VolumeError, match=text):
        open_volume(url)


def test_libraries_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"https:// needs .* pip install 'cytolith\[remote\]'"):
        open_volume("https://host/a.zarr")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"pip install 'cytolith\[remote\]' gcsfs"):
        open_volume("gs://bucket/a.zarr")


def test_url_paths():
    path = UrlPath("s3://bucket/a/b.zarr")
    assert str(path / "s0" / "/0/") == "s3://bucket/a/b.zarr/s0/0"
    assert [str(parent) for parent in path.parents] == ["s3://bucket/a", "s3://bucket"]
    assert path.name == "b.zarr"
    assert is_url("http://a/b")
    assert not is_url(r"C:\a")
    assert not is_url("a/b.zarr")
    assert str(place_of("https://h/a.zarr//")) == "https://h/a.zarr"


def test_cells_are_those_of_the_local_copy(tmp_path, serve):
    image, _ = cells_phantom((20, 60, 70), seed=1)
    path = write_image(tmp_path / "a.ome.zarr", image, chunks=(4, 32, 32))
    server = serve(tmp_path)
    options = {"block": (10, 60, 70), "workers": 2}
    expected = detect_cells(path, **options)
    assert len(expected["z"]) > 3
    for executor in ("threads", "processes"):
        table = detect_cells(f"{server.url}/a.ome.zarr", executor=executor, **options)
        for name, column in expected.items():
            np.testing.assert_array_equal(table[name], column)


def test_the_command_line_takes_urls(tmp_path, serve):
    image, _ = cells_phantom((20, 60, 70), seed=1)
    path = write_image(tmp_path / "a.ome.zarr", image, chunks=(4, 32, 32))
    url = f"{serve(tmp_path).url}/a.ome.zarr"
    for source, output in ((path, "local"), (url, "remote"), (url, "remote")):
        done = cytolith("cells", source, "-o", tmp_path / output, "--resume", "--no-report")
    assert "the run was finished before" in done.stdout  # it knows the URL again
    assert (tmp_path / "remote/cells.csv").read_bytes() == (tmp_path / "local/cells.csv").read_bytes()
    assert f'input = "{url}"' in (tmp_path / "remote/config.toml").read_text()


def test_a_script_ends_quietly(tmp_path, serve):
    """Open connections are closed when the interpreter ends; and a volume travels as its URL."""
    write_image(tmp_path / "a.zarr")
    volume = open_volume(f"{serve(tmp_path).url}/a.zarr")
    code = (
        "import pickle, sys; print(pickle.load(sys.stdin.buffer).read((slice(0, 6), slice(0, 20), slice(0, 30))).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(volume), capture_output=True, check=True)
    assert (int(done.stdout), done.stderr) == (VOLUME.sum(), b"")


class S3(Handler):
    """What of S3's protocol reading needs: GET, HEAD and ListObjectsV2 of one bucket, a folder."""

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" not in query:
            self.path = urlsplit(self.path).path
            super().do_GET()
            return
        bucket = self.path.strip("/").partition("?")[0].partition("/")[0]
        prefix, folder = query.get("prefix", [""])[0], self.directory
        keys, commons = [], []
        for path in sorted((Path(folder) / bucket / prefix).glob("*")):
            (commons if path.is_dir() else keys).append(path.relative_to(Path(folder) / bucket).as_posix())
        text = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
        text += "".join(f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>" for key in commons)
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>false</IsTruncated>{text}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_s3(tmp_path, serve, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    (tmp_path / "bucket").mkdir()
    zarr.open_group(tmp_path / "bucket/g.zarr", mode="w")
    write_image(tmp_path / "bucket/g.zarr/a")
    server = serve(tmp_path, S3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})  # what FSSPEC_S3_ANON=true does
    volume = open_volume("s3://bucket/g.zarr/a")
    assert volume.voxel_size == (6, 1.62, 1.62)
    np.testing.assert_array_equal(everything(volume), VOLUME)
    np.testing.assert_array_equal(everything(open_volume("s3://bucket/g.zarr")), VOLUME)  # by the listing
    server.answers["/c/0/1/1"] = 404
    assert (everything(volume)[0:4, 8:16, 16:32] == 0).all()
    for answer, text, tries in ((500, "error 500", 3), (403, "refuses access", 1)):
        server.answers["/c/0/1/1"] = answer
        server.asked.clear()
        with pytest.raises(VolumeError, match=text) as caught:
            everything(volume)
        assert "s3://bucket/g.zarr/a/s0/c/0/1/1" in str(caught.value)
        assert server.asked.count("/bucket/g.zarr/a/s0/c/0/1/1") == tries
    with pytest.raises(VolumeError, match="no zarr array or group is there"):
        open_volume("s3://other/a.zarr")
