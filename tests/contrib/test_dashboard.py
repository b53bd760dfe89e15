"""The dashboard: over HTTP, mounted in another app, and in a browser."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from browser import Browser
from rivals import Rival
from starlette.applications import Starlette
from starlette.routing import Mount

from shm_async import Region
from shm_async.contrib.dashboard import dashboard
from shm_async.contrib.prometheus import RegionCollector

pytestmark = pytest.mark.once

#: Seconds for an answer, or an end, that takes milliseconds on a machine that is not busy.
PATIENCE = 30


class Server:
    """The program, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shm_async.contrib.dashboard", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self.process.stdout.readline().strip()
        self.port = self.url.rstrip("/").rpartition(":")[2]
        httpx.get(self.url, timeout=PATIENCE)  # it is ready, also for Ctrl-C

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        told = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, *told) == (130, "", "")


@pytest.fixture
def server(name: str) -> Iterator[Server]:
    server = Server(f"{name}*")
    yield server
    server.end()


@pytest.fixture
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=PATIENCE)


def events(url: str) -> Iterator[tuple[str, object]]:
    with httpx.stream("GET", url, timeout=PATIENCE) as answer:
        kind = ""
        for line in answer.iter_lines():
            word, _, rest = line.partition(": ")
            if word == "event":
                kind = rest
            elif word == "data":
                yield kind, json.loads(rest)


def first(url: str, kind: str) -> object:
    return next(data for each, data in events(url) if each == kind)


def die_inside(name: str) -> None:
    program = (
        f"import os, shm_async\nregion = shm_async.Region.attach({name!r})\n"
        "hold = region.write_lock()\nhold.acquire_blocking()\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)


# ---- over HTTP -------------------------------------------------------------------------


def test_every_answer_has_a_strict_policy(server: Server):
    for path in ("", "static/page.js", "static/uPlot.iife.min.js", "static/page.css"):
        answer = get(server.url + path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "uPlot" in get(server.url + "static/uPlot.iife.min.js").text  # unpacked
    assert get(server.url + "static/../__init__.py").status_code == 404
    assert httpx.post(server.url, timeout=PATIENCE).status_code == 405


def test_it_listens_on_this_machine_alone_and_knows_its_name(server: Server):
    assert server.url.startswith("http://127.0.0.1:")
    assert get(server.url, Host="evil.example").status_code == 400


def test_it_listens_on_ipv6(name: str):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")  # a container may have none, and then nobody can bind ::1
    server = Server(f"{name}*", "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert get(server.url).status_code == 200
    assert get(server.url, Host="evil.example").status_code == 400
    server.end()


def test_a_port_that_is_taken_is_told_in_a_line(server: Server):
    command = [sys.executable, "-m", "shm_async.contrib.dashboard", "--port", server.port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    where = f"127.0.0.1, port {server.port}"
    assert done.stderr == f"cannot listen on {where}: Address already in use; try --port 0\n"


def test_the_table_tells_what_there_is(region: Region, server: Server):
    with region.write_lock():
        (row,) = first(server.url + "events", "regions")
    assert (row["name"], row["type"], row["bytes"]) == (region.name, "8 uint64", 64)
    assert row["holder"].startswith("write: ")
    assert not row["died"]
    die_inside(region.name)
    (row,) = first(server.url + "events", "regions")
    assert row["died"]


def test_the_label_of_a_long_write_is_told(region: Region, name: str, server: Server):
    collector = RegionCollector([region], shared=f"{name}.table")
    label = None
    with region.write_lock(label="checkout"):
        found = events(f"{server.url}events?region={region.name}")
        while label is None:
            kind, data = next(found)
            if kind == "regions":
                label = data[0]["detail"]["people"][0]["label"]  # others: the page waits, too
        found.close()
    assert label == "checkout"
    collector.close()
    os.unlink(f"/dev/shm/{name}.table")


def test_only_the_regions_that_were_named_are_shown(region: Region, server: Server):
    with Region.temporary(4) as other:
        found = events(f"{server.url}events?region={other.name}")
        kinds = [next(found)[0] for _ in range(4)]
        found.close()
    assert set(kinds) == {"regions", "room"}


def test_values_keep_all_their_digits_and_come_with_each_write(region: Region, server: Server):
    with region.write_lock() as view:
        view[0] = 2**64 - 1
    found = (data for kind, data in events(f"{server.url}events?region={region.name}")
             if kind == "values")  # fmt: skip
    assert next(found)["values"] == [str(2**64 - 1), *["0"] * 7]
    with region.write_lock() as view:
        view[1] = 7
    while next(found)["values"][1] != "7":  # a copy may have been taken before the write
        pass
    found.close()


def test_a_region_that_is_not_there_is_a_text(name: str, server: Server):
    told = first(f"{server.url}events?region={name}", "values")
    assert "no region" in told["problem"].lower() or name in told["problem"]


async def test_it_can_be_mounted():
    app = Starlette(routes=[Mount("/shm", dashboard())])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        assert "<title>" in (await client.get("/shm/")).text
        moved = await client.get("/shm")
        assert moved.headers["location"].endswith("/shm/")
        assert (await client.get("/shm/static/page.js")).status_code == 200


async def test_a_file_that_a_wheel_has_packed_arrives_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "page.js.gz").write_bytes(gzip.compress(b"let one"))
    (tmp_path / "index.html.gz").write_bytes(gzip.compress(b"<title>"))
    (tmp_path / "icon.svg").write_bytes(b"<svg/>")
    monkeypatch.setattr("shm_async.contrib.dashboard.STATIC", tmp_path)
    transport = httpx.ASGITransport(dashboard())
    async with httpx.AsyncClient(transport=transport, base_url="http://here/static/") as client:
        script, icon = await client.get("page.js"), await client.get("icon.svg")
        page = await client.get("http://here/")
    assert (script.text, icon.text) == ("let one", "<svg/>")
    assert (page.text, page.headers["content-type"][:9]) == ("<title>", "text/html")
    assert "javascript" in script.headers["content-type"]


# ---- in a browser ----------------------------------------------------------------------


def picture(browser: Browser, file: str) -> None:
    """Keep a picture of the page where TEST_PICTURES says, for people to look at."""
    if folder := os.environ.get("TEST_PICTURES"):
        browser.picture(Path(folder, file))


def shows(index: int, text: object) -> str:
    return f"document.querySelectorAll('#values span')[{index}]?.textContent === '{text}'"


def test_a_browser_shows_a_write_within_200_ms(region: Region, server: Server, browser: Browser):
    browser.look(width=1000, dark=False)
    browser.ask("Page.navigate", url=server.url)
    browser.until(shows(0, 0))
    delays = []
    for value in range(1, 6):
        with region.write_lock() as view:
            view[0] = value
        delays.append(browser.until(shows(0, value)))
    assert sorted(delays)[2] < 0.2
    assert browser.run("document.querySelector('#chart canvas').width") > 100
    assert browser.errors == []


def rows(browser: Browser, selector: str) -> list[list[str]]:
    """The first four texts of each of these rows."""
    return browser.run(
        f"[...document.querySelectorAll('{selector}')]"
        ".map((row) => [...row.children].slice(0, 4).map((cell) => cell.textContent))"
    )


@pytest.mark.parametrize(
    "options", [lambda table: ["--shared", table], lambda _: []], ids=["named", "found"]
)
def test_a_browser_shows_how_long_all_processes_waited_and_for_what(
    region: Region, rival: Rival, name: str, browser: Browser, options: Callable[[str], list[str]]
):
    with region.write_lock(label="checkout"):
        pass
    assert rival.do("exclusive") == "done"
    with pytest.raises(TimeoutError):
        region.write_lock().acquire_blocking(0.03)
    assert rival.do("unlock") == "done"
    collector = RegionCollector([region], shared=f"{name}.table")
    list(collector.collect())
    server = Server(region.name, *options(f"{name}.table"))
    browser.look(width=1000, dark=False)
    browser.ask("Page.navigate", url=server.url)
    browser.until(
        r"/^1 wait up to \d+ m?s/.test(document.querySelector('#waits-text')?.textContent)"
    )
    assert browser.run("document.querySelectorAll('#bars div').length") == 17
    assert rows(browser, "#labels tr") == [
        ["all locks", "0", "1", "1"],
        ["checkout", "0", "1", "0"],
    ]
    for value in range(1, 6):
        with region.write_lock(label="refund") as view:
            view[0], view[1] = value, 6 - value
        browser.until(shows(0, value))
    browser.until("document.querySelectorAll('#labels tr').length === 3")
    picture(browser, "dashboard.png")
    assert browser.errors == []
    server.end()
    collector.close()
    os.unlink(f"/dev/shm/{name}.table")


def test_a_browser_shows_who_holds_the_lock_and_who_waits(
    region: Region, rival: Rival, server: Server, browser: Browser
):
    browser.look(width=1000, dark=False)
    browser.ask("Page.navigate", url=server.url)
    browser.until("/^No process was seen/.test(document.querySelector('#looks-text')?.textContent)")
    assert not browser.run("document.querySelector('#no-waits').hidden")
    assert browser.run("document.querySelector('#people').hidden")
    with region.write_lock():
        thread = threading.Thread(target=lambda: rival.do("exclusive"))
        thread.start()
        others = "[...document.querySelectorAll('#people tbody tr')].map((row) => row.textContent)"
        browser.until(
            f"{others}.some((text) => text.endsWith('writewaits'))"
        )  # the page waits, too
        holder, *_ = rows(browser, "#people tbody tr")
        assert browser.run("document.querySelector('#chart canvas').width") > 100
        picture(browser, "dashboard-waiting.png")
        browser.until("/waiting for a turn/.test(document.querySelector('#hint').textContent)")
        browser.until("/^Processes were/.test(document.querySelector('#looks-text')?.textContent)")
    thread.join()
    assert (holder[1], holder[2][:13]) == ("write", "holds it for ")
    assert rival.do("unlock") == "done"
    browser.until("/^Press/.test(document.querySelector('#hint').textContent)")
    assert browser.errors == []


def test_a_browser_shows_a_death_and_survives_a_restart(
    region: Region, name: str, browser: Browser
):
    server = Server(f"{name}*")
    browser.ask("Page.navigate", url=server.url)
    browser.until(shows(0, 0))
    assert browser.run("document.querySelector('#banner').hidden")
    die_inside(region.name)
    browser.until("!document.querySelector('#banner').hidden")
    assert region.name in browser.run("document.querySelector('#banner').textContent")
    server.end()
    browser.until("document.querySelector('#connection').className === 'lost'")
    server = Server(f"{name}*", "--port", server.port)
    browser.until("document.querySelector('#connection').textContent === 'live'", 15)
    with region.write_lock(recover=True) as view:
        view[0] = 5
    browser.until(shows(0, 5))
    browser.until("document.querySelector('#banner').hidden")
    assert browser.errors == []
    server.end()


def test_a_hundred_regions_of_odd_names_by_keyboard_at_any_width(
    name: str, server: Server, browser: Browser
):
    with ExitStack() as stack:
        for number in range(100):
            odd = f"{name}<b onload=x>&'\" {number:03}"
            region = stack.enter_context(Region.create(odd, 12, dtype="float64"))
            stack.callback(region.unlink)
            with region.write_lock() as view:
                view[0], view[1], view[2] = number, number / 3, -number
        browser.look(width=1000, dark=False)
        browser.ask("Page.navigate", url=server.url)
        browser.until("document.querySelectorAll('#regions tr').length === 100")
        browser.until(shows(0, "0.0"))
        assert browser.run("document.querySelectorAll('#regions b').length") == 0
        for key in (*["Tab"] * 6, "ArrowDown", "Enter"):  # past the filter and four headers
            browser.press(key)
        browser.until(shows(1, 1 / 3))
        for width, dark in ((1000, False), (1000, True), (360, False), (360, True)):
            browser.look(width=width, dark=dark)
            browser.until(f"document.querySelector('#chart canvas').clientWidth < {width}")
            assert browser.run("document.documentElement.scrollWidth") <= width
            picture(browser, f"dashboard-{width}-{'dark' if dark else 'light'}.png")
        # with the space: the number of this process may have these digits, too
        browser.run("document.querySelector('#filter').value = ' 042'")
        browser.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        assert browser.run("document.querySelectorAll('#regions tr:not([hidden])').length") == 1
        assert browser.errors == []


def test_the_table_is_sorted_by_the_header_that_was_pressed(
    name: str, server: Server, browser: Browser
):
    with ExitStack() as stack:
        for letter, length in (("a", 8), ("b", 24), ("c", 16)):
            region = stack.enter_context(Region.create(f"{name}.{letter}", length))
            stack.callback(region.unlink)
        browser.look(width=1000, dark=False)
        browser.ask("Page.navigate", url=server.url)
        browser.until("document.querySelectorAll('#regions tr').length === 3")

        def press(key: str) -> str:
            browser.run(f"document.querySelector('th button[data-key={key}]').click()")
            return "".join(row[0][-1] for row in rows(browser, "#regions tr"))

        assert press("bytes") == "bca"
        assert press("bytes") == "acb"
        assert browser.run("document.querySelectorAll('th[aria-sort=ascending]').length") == 1
        assert press("name") == "abc"
        assert press("name") == "cba"
        assert browser.run("document.querySelector('#room').textContent").startswith("/dev/shm: ")
        assert browser.errors == []
