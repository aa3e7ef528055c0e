"""Pictures by URL: from public addresses only, within limits, and without a trace of secrets."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import make_image, picture_bytes, write_parquet
from web import Web, drips, gives, leads, pours, web

from svd_batch import cli as command_line
from svd_batch import download as module
from svd_batch.access import Access
from svd_batch.download import MAX_REDIRECTS, download, is_public
from svd_batch.errors import ItemError
from svd_batch.images import check_readable

PICTURE = picture_bytes()


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    """A server with a good picture and everything that a bad one does."""
    with web(
        rocket=gives(PICTURE),
        gone=gives(b"<script>", 404),
        secret=gives(b"no", 403),
        start=leads("/rocket"),
        full=leads("rocket", 307),
        round=leads("/round"),
        metadata=leads("http://169.254.169.254/latest/meta-data/"),
        home=leads("http://localhost:9/"),
        file=leads("file:///etc/passwd"),
        ftp=leads("ftp://example.org/a.png"),
        nonsense=leads("http://[::1"),
        away=leads("http://elsewhere.test/b.png"),
        large=gives(b"x" * 5000),
        declared=gives(b"", Content_Length="99999999999999999999999"),
        short=gives(b"abc", Content_Length="300"),
        endless=pours,
        drip=drips(),
        slow_head=drips(b"HTTP/1.0 200 OK\r\nX-A: "),
        garbage=drips(b"no HTTP\r\n", 0.1),
    ) as running:
        yield running


def access_to(server: Web, **changes: Any) -> Access:
    """Return what allows the server's private address."""
    return Access(**{"allow_urls": True, "allowed_hosts": (server.host,), "url_timeout_s": 20, **changes})


def refusal(url: str, access: Access) -> str:
    """Return why a picture isn't loaded."""
    with pytest.raises(ItemError) as caught:
        download(url, access)
    return str(caught.value)


def resolves(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """Let names with _ for . stand for addresses, and return the list of names that were looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        if host[0].isdigit():
            return real(host, port, *more, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in hosts[host.replace(".", "_")]]

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    return asked


# --- which addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_an_address_that_not_everybody_reaches_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_that_everybody_reaches_is_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "0"]
)
def test_this_machine_is_refused_however_it_is_written(host: str, server: Web):
    assert "is not public; allowed_hosts may name the host" in refusal(
        f"http://{host}:{server.port}/rocket", Access(allow_urls=True)
    )


def test_one_private_address_among_several_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch):
    resolves(monkeypatch, mixed_test=["8.8.8.8", "10.0.0.1"])
    assert "mixed.test has the address 10.0.0.1" in refusal("http://mixed.test/a.png", Access(allow_urls=True))


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch, server: Web):
    asked = resolves(monkeypatch, pictures_test=["127.0.0.1"])
    url = f"http://pictures.test:{server.port}/rocket"
    assert download(url, access_to(server, allowed_hosts=("pictures.test",))) == PICTURE
    assert asked == ["pictures.test"]  # a second look-up might have had another answer
    assert server.seen[-1][1]["host"] == f"pictures.test:{server.port}"


@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.1:{port}",), ("other", "127.0.0.1")])
def test_an_allowed_host_may_be_private_with_or_without_its_port(hosts: tuple[str, ...], server: Web):
    named = tuple(host.format(port=server.port) for host in hosts)
    assert download(f"{server.url}/rocket", access_to(server, allowed_hosts=named)) == PICTURE


@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0", "0.0.1", "localhost"])
def test_another_host_or_port_is_not_allowed_with_it(host: str, server: Web):
    assert "not public" in refusal(f"{server.url}/rocket", access_to(server, allowed_hosts=(host,)))


# --- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["start", "full"])
def test_a_redirect_is_followed(name: str, server: Web):
    assert download(f"{server.url}/{name}", access_to(server)) == PICTURE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("metadata", "169.254.169.254, which is not public"),
        ("home", "localhost has the address"),
        ("file", "only http and https are loaded"),
        ("ftp", "only http and https are loaded"),
        ("nonsense", "leads to no address"),
        ("round", f"more than {MAX_REDIRECTS} redirects"),
    ],
)
def test_a_redirect_is_checked_as_the_first_address_was(name: str, reason: str, server: Web):
    with pytest.raises(ItemError, match=reason):
        download(f"{server.url}/{name}", access_to(server))


def test_a_password_goes_to_its_own_host_and_not_where_that_leads(monkeypatch: pytest.MonkeyPatch, server: Web):
    hosts = {"pictures_test": ["127.0.0.1"], "elsewhere_test": ["127.0.0.1"]}
    resolves(monkeypatch, **hosts)
    server.answers["/away"] = leads(f"http://elsewhere.test:{server.port}/rocket")
    allowed = access_to(server, allowed_hosts=("pictures.test", "elsewhere.test"))
    assert download(f"http://me:p%40w@pictures.test:{server.port}/away", allowed) == PICTURE
    first, second = server.seen[-2:]
    assert first[1]["authorization"] == "Basic bWU6cEB3"
    assert "authorization" not in second[1]


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["large", "declared", "endless"])
def test_more_bytes_than_the_limit_are_refused(name: str, server: Web):
    assert "the file is larger than 0 MiB" in refusal(f"{server.url}/{name}", access_to(server, max_bytes=4000))


@pytest.mark.parametrize("name", ["drip", "slow_head"])
def test_a_server_that_takes_its_time_is_left_at_the_limit(name: str, server: Web):
    start = time.monotonic()
    found = refusal(f"{server.url}/{name}", access_to(server, url_timeout_s=0.4))
    assert "took longer than url_timeout_s=0.4" in found
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "answered 404"),
        ("secret", "answered 403"),
        ("short", "IncompleteRead"),
        ("garbage", "127.0.0.1"),
        ("nothing", "answered 404"),
    ],
)
def test_an_answer_that_is_no_picture_is_told_in_a_line(name: str, reason: str, server: Web):
    assert reason in refusal(f"{server.url}/{name}", access_to(server))


def test_a_server_that_is_not_there_and_a_host_that_is_not_known_are_told_apart(server: Web):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "no connection to 127.0.0.1" in refusal(
        f"http://127.0.0.1:{port}/a.png", access_to(server, allowed_hosts=("127.0.0.1",))
    )
    assert "is not known" in refusal("http://a..b/a.png", access_to(server))


def test_https_is_refused_without_a_certificate_for_the_hosts_name(server: Web):
    found = refusal(f"https://{server.host}/rocket", access_to(server))
    assert ssl.SSLError.__name__ in found or "SSL" in found


def test_slow_pictures_are_checked_side_by_side_and_named(server: Web):
    urls = [f"{server.url}/{'rocket' if i == 3 else 'drip'}?{i}" for i in range(8)]
    images = [make_image(str(i), image_path=url, source=url) for i, url in enumerate(urls)]
    start = time.monotonic()
    found = check_readable(images, access_to(server, url_timeout_s=1))
    assert time.monotonic() - start < 6
    assert [image.image_id for image, _ in found] == [str(i) for i in range(8) if i != 3]


# --- a run ----------------------------------------------------------------------------------------------------------


def test_the_guides_rocket_is_made_into_a_video_and_no_secret_is_left_anywhere(
    tmp_path: Path, tiny: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Web
):
    monkeypatch.chdir(tmp_path)
    rocket = "/datasets/huggingface/documentation-images/resolve/main/diffusers/svd/rocket.png"
    server.answers[rocket] = gives(PICTURE)
    address = f"http://me:PASSWORD@{server.host}{rocket}"
    urls = [f"{address}?download=true&sig=SIGNATURE", f"http://me:PASSWORD@{server.host}/gone?sig=SIGNATURE"]
    manifest = write_parquet(tmp_path / "m.parquet", {"image_path": urls})
    allowed = ["allow_urls=true", f"allowed_hosts='{server.host}'", "generation.num_inference_steps=1"]
    command = ["run", "backend=serial", *tiny, f"manifest={manifest}", "output=out", *allowed]
    assert command_line.main(command) == 0
    assert server.seen[-1][1]["user-agent"].startswith("svd_batch/")
    (video,) = pq.read_table(tmp_path / "out/metadata.parquet").to_pylist()
    (failure,) = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert video["image_path"] == f"http://{server.host}{rocket}?…"
    assert failure["error_message"] == f"http://{server.host}/gone?… answered 404"
    said = "".join(capfd.readouterr())
    files = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    for secret in ("PASSWORD", "SIGNATURE"):
        assert secret not in said
        assert secret.encode() not in files
