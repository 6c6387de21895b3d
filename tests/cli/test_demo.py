"""The page in a real browser with a real MP3, and what it must not let through."""

import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
from helpers import read, save, snr, tone

from apollo_plugin import Apollo, audio
from apollo_plugin.cli import demo, gradio_page, static
from apollo_plugin.cli.demo import main
from apollo_plugin.cli.guard import Room
from apollo_plugin.cli.upload import Limits, Restoration, restore_upload
from apollo_plugin.data import excerpt
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import SettingError, install
from apollo_plugin.restore import restore_audio

NAME = "a song <b>&amp; more.mp3"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command, with small limits; gives its address and its folder for temporary files."""
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "apollo_plugin.cli.demo", "--port", str(port)]
    command += ["--max-mb", "1", "--max-minutes", "0.1", "--max-total-mb", "30"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": root}
    said = (folder / "said").open("w")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
    )
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}" in line
    yield f"http://127.0.0.1:{port}", folder, process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list(folder.glob("apollo-demo-*"))
    said.close()
    assert "Traceback" not in (folder / "said").read_text()


def drop(page, path):
    page.set_input_files("#upload input[type=file]", path)


def test_an_mp3_in_a_browser(launch, server, tmp_path):
    address, _, _ = server
    song = tmp_path / NAME
    song.write_bytes(encode_mp3(torch.from_numpy(mixture(2.0, seed=5)), kbps=32))
    with launch() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(address)
        page.wait_for_selector("#restore")
        # Nothing is there yet, and nothing is dropped.
        assert not page.is_visible("#page") and not page.is_visible("#download")
        page.click("#restore")
        page.wait_for_selector("text=Drop a file first.")
        drop(page, song)
        page.wait_for_selector("#upload :text('a song')")
        page.fill("input[aria-label*='Keep below']", "3000")
        page.click("#restore")
        page.wait_for_selector("#download a", timeout=120_000)
        for player in ("#came", "#restored"):
            page.wait_for_selector(f"{player} button[aria-label*='Play' i]")
        assert "restored in" in page.inner_text("#line")
        # The listening page of it, in a frame that may do nothing but play it.
        frame = page.frame_locator("#page iframe")
        assert frame.locator("h1").inner_text() == re.sub("[<>]", "", NAME)  # gradio drops them
        frame.locator(".play").click()
        frame.locator("section.playing").wait_for()
        frame.locator(".play").click()
        with page.expect_download() as download:
            page.click("#download a")
        download.value.save_as(tmp_path / "got.wav")
        assert download.value.suggested_filename.endswith("_restored.wav")
        outside = [u for u in requests if re.match("(http|ws)", u) and not u.startswith(address)]
        assert outside == []
        # Nothing of it was denied by its own policy.
        assert [text for text in complaints if "Policy" in text] == []
        page.screenshot(path=tmp_path / "page.png")
        # Longer than the limit, and no music.
        soundfile.write(tmp_path / "long.wav", np.zeros(7 * 8000), 8000)
        (tmp_path / "none.wav").write_text("no music")
        for name, message in (
            ("long.wav", "'long.wav' is longer than 6 s"),
            ("none.wav", "'none.wav' is "),
        ):
            page.click(
                "#upload button[aria-label*='Clear' i], #upload button[aria-label*='Remove' i]"
            )
            drop(page, tmp_path / name)
            page.wait_for_selector(f"#upload :text('{name.split('.')[0]}')")
            page.click("#restore")
            page.wait_for_selector(f"text={message}")
        # Without a file of one's own.
        page.click("#example")
        page.wait_for_selector("#line:has-text('orchestra.mp3: 4.0 s')", timeout=120_000)
    wav, rate = read(song)
    expected = restore_audio(Apollo.from_pretrained("apollo-small"), wav, rate, keep_below=3000.0)
    got, got_rate = read(tmp_path / "got.wav")
    assert got_rate == rate and snr(got, expected) > 90
    assert (tmp_path / "page.png").stat().st_size > 10_000


def status_of(request):
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def upload(address, name, content):
    boundary = uuid.uuid4().hex
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    body = f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return urllib.request.Request(
        f"{address}/gradio_api/upload",
        body,
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def test_it_serves_nothing_but_the_page_and_its_sounds(server):
    address, folder, _ = server
    (folder / "secret.txt").write_text("a treasure")
    inside = next(folder.glob("apollo-demo-*"))
    for path in (
        "/etc/passwd",
        str(folder / "secret.txt"),
        f"{inside}/../secret.txt",
        f"{inside}/%2e%2e/secret.txt",
        __file__,
    ):
        status, _, content = status_of(f"{address}/gradio_api/file={path}")
        assert status in (403, 404) and b"a treasure" not in content and b"root:" not in content
    status, headers, content = status_of(address)
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    status, _, content = status_of(f"{address}/gradio_api/info")
    assert json.loads(content)["named_endpoints"] == {}


def test_pages_of_others_may_send_nothing(server):
    address, _, _ = server
    request = upload(address, "a.wav", b"x")
    request.add_header("Origin", "http://evil.example")
    assert status_of(request)[0] == 403
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    assert status_of(request)[0] == 403


def test_nonsense(server):
    """Nonsense is refused, in the answer, and in a line on the console."""
    address, folder, _ = server
    config = json.loads(status_of(f"{address}/config")[2])
    restoring = next(each["id"] for each in config["dependencies"] if len(each["inputs"]) == 4)
    for index, data in enumerate(([{"path": "/etc/passwd"}, "x", None, {}], [5] * 9, [])):
        join = {"data": data, "fn_index": restoring, "session_hash": f"s{index}", "trigger_id": 8}
        request = urllib.request.Request(
            f"{address}/gradio_api/queue/join",
            json.dumps(join).encode(),
            {"Content-Type": "application/json"},
        )
        assert status_of(request)[0] == 200
        source = f"{address}/gradio_api/queue/data?session_hash=s{index}"
        with urllib.request.urlopen(source, timeout=60) as answer:
            assert any(b'"success":false' in line for line in answer)
    lines = (folder / "said").read_text().splitlines()
    assert len(lines) == 3 and all("refused: " in line for line in lines)


def test_it_binds_to_this_machine_only(server):
    sockets = psutil.Process(server[2].pid).net_connections("inet")
    listening = [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_uploads_that_are_too_large(server):
    address, folder, _ = server
    status, _, _ = status_of(upload(address, "a.wav", bytes(3 << 20)))
    assert status == 413
    status, _, content = status_of(upload(address, "../../../a.wav", b"x"))
    assert status == 200
    stored = Path(json.loads(content)[0])
    assert stored.resolve().is_relative_to(next(folder.glob("apollo-demo-*")).resolve())


# ----------------------------------------------------------------------------- without a browser


@pytest.fixture(scope="module")
def model():
    return Apollo.from_pretrained("apollo-small")


def test_one_upload(model, tmp_path):
    wav, told = tone(30000, 2, 48000), []
    soundfile.write(tmp_path / "a.wav", wav.T.numpy(), 48000, "FLOAT")
    how = model, tmp_path / "a.wav", 2000.0, 0.5, Limits()
    done = restore_upload(*how, progress=lambda *step: told.append(step))
    names = [path.name for path in (done.came, done.heard, done.kept)]
    assert names == ["a.wav", "a_restored_16bit.wav", "a_restored.wav"]
    expected = restore_audio(model, wav, 48000, 2000.0, 0.5)
    assert snr(read(done.kept)[0], expected) > 100
    assert snr(read(done.came)[0], wav) > 60 and soundfile.info(done.heard).subtype == "PCM_16"
    assert told[-1][1] == told[-1][2] and told == sorted(told)
    (took,) = re.fullmatch(
        r"a\.wav: 0\.6 s at 48000 Hz, restored in ([\d.]+) s", done.line
    ).groups()
    assert float(took) < 1000 and "<title>a.wav</title>" in done.page
    # A restoration that comes once more is restored once more.
    shutil.copy(done.kept, tmp_path / "b.wav")
    assert restore_upload(model, tmp_path / "b.wav", 0, 1, Limits()).kept.exists()


def test_a_model_that_overflows(model, tmp_path):
    """One line without the folder, and no files of it."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.decoders.parameters()).fill_(float("nan"))
    soundfile.write(tmp_path / "a.wav", tone(30000).T.numpy(), 44100)
    with pytest.raises(audio.AudioError, match="^'a.wav' made the model overflow; its peak"):
        restore_upload(broken, tmp_path / "a.wav", 0, 1, Limits())
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_results_that_there_is_no_room_for(model, tmp_path):
    """Two of 16 bits, one of 32, and as many copies: sixteen bytes a sample."""
    soundfile.write(tmp_path / "a.wav", tone(44100).T.numpy(), 44100)
    least = (tmp_path / "a.wav").stat().st_size + 16 * 88200
    with pytest.raises(audio.AudioError, match="has no room for 1 MB more"):
        restore_upload(model, tmp_path / "a.wav", 0, 1, Limits(), room=Room(tmp_path, least - 1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert restore_upload(model, tmp_path / "a.wav", 0, 1, Limits(), room=Room(tmp_path, least))


@pytest.mark.parametrize(
    "n_channels, rate, message",
    [
        (3, 44100, "has 3 channels at 44100 Hz"),
        (1, 384000, "up to 2 at 192000 Hz"),
        (2, 192001, "has 2 channels at 192001 Hz; this page takes up to 2 at 192000 Hz"),
    ],
)
def test_sounds_that_would_fill_the_memory(model, tmp_path, n_channels, rate, message):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((5000, n_channels)), rate)
    with pytest.raises(audio.AudioError, match=message) as caught:
        restore_upload(model, path, 0, 1, Limits())
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [b"no music", b"", b"RIFF\0\0\0\0WAVE", None])
def test_what_is_no_sound_is_told_as_it_is_elsewhere(model, tmp_path, content):
    path = tmp_path / "a.wav"
    if content is None:
        path.write_bytes(save(path, tone(3000)).read_bytes()[:-99])
    else:
        path.write_bytes(content)
    with pytest.raises(audio.AudioError) as expected:
        audio.read(path)
    with pytest.raises(audio.AudioError) as caught:
        restore_upload(model, path, 0, 1, Limits())
    assert str(caught.value) == str(expected.value).replace(str(path), "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_sounds_that_are_too_long(model, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "wav":
        soundfile.write(path, np.zeros(80000), 8000)
    else:
        av = pytest.importorskip("av", reason="the extra `formats` is not installed")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000, layout="mono")
            for start in range(0, 80000, 1000):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
                frame.rate, frame.pts = 8000, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with pytest.raises(audio.AudioError, match="is longer than 6 s"):
        restore_upload(model, path, 0, 1, Limits(minutes=0.1))


def test_the_page_gives_what_the_work_gave(model, tmp_path, monkeypatch):
    """And hides the folders of uploads in what it says; every path leads out of it in one line."""
    gradio = pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    room = Room(tmp_path, 10**9)
    page = gradio_page.build({"a": "engine a", "b": "engine b"}, Limits(7, 2.5), room)
    functions = {each.fn.__name__: each.fn for each in page.fns.values()}
    found, steps, asked = {}, [], []
    for block in page.blocks.values():
        found.setdefault(block.__class__.__name__, []).append(block)
    assert found["File"][0].label == "Music, up to 7 MB and 2.5 minutes"
    assert (found["Dropdown"][0].value, found["Dropdown"][0].visible) == ("a", True)
    # As they are at first, everything is restored.
    sliders = [(each.minimum, each.maximum, each.value) for each in found["Slider"]]
    assert sliders == [(0, 16000, 0), (0, 1, 1)]
    alone = gradio_page.build({"a": "engine a"}, Limits(), room)
    assert not any(b.visible for b in alone.blocks.values() if isinstance(b, gradio.Dropdown))

    def progress(done, desc):
        steps.append((done, desc))

    def work(*given, progress, room):
        asked.append((*given, room))
        progress("a step", 1.0, 4.0)
        return Restoration(*map(Path, "xyz"), 'a "page"\nof <lines>', "a <line>")

    monkeypatch.setattr(gradio_page, "restore_upload", work)
    song = tmp_path / "song.mp3"
    column, frame, *rest = functions["restore"](str(song), "b", 100, 0.5, progress)
    assert column.visible and rest == ["x", "y", "z", "a &lt;line&gt;"]
    inside = "a &quot;page&quot;&#10;of &lt;lines&gt;"
    assert frame == f'<iframe sandbox="allow-scripts" srcdoc="{inside}"></iframe>'
    assert asked == [("engine b", song, 100, 0.5, Limits(7, 2.5), room)]
    assert steps == [(0, "reading"), (0.25, "a step")]
    example = Path(functions["example"]())
    assert example.name == "orchestra.mp3" and example.parents[1] == tmp_path
    assert example.read_bytes() == excerpt.coded()
    with pytest.raises(gradio.Error, match="Drop a file first"):
        functions["restore"](None, "a", 0, 1, progress)


@pytest.mark.parametrize(
    "error, line, is_defect",
    [
        (audio.AudioError("'{}/a<b>.mp3' is none"), "&#x27;a&lt;b&gt;.mp3&#x27; is none", False),
        (KeyError("k"), "failed by a defect of apollo-plugin: KeyError: &#x27;k&#x27;", True),
    ],
)
def test_a_file_that_fails_does_not_end_the_page(
    tmp_path, monkeypatch, capsys, error, line, is_defect
):
    gradio = pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    page = gradio_page.build({"a": None}, Limits(), Room(tmp_path, 1))
    restore = next(each.fn for each in page.fns.values() if each.fn.__name__ == "restore")
    error.args = (error.args[0].format(tmp_path),)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(gradio_page, "restore_upload", fail)
    with pytest.raises(gradio.Error) as caught:
        restore(str(tmp_path / "a<b>.mp3"), "a", 0, 1, lambda *_, **__: None)
    assert caught.value.message == line and not caught.value.print_exception
    assert ("Traceback" in capsys.readouterr().err) == is_defect


class Ended:
    """A server that serves until an interrupt."""

    server_port = 1234

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def serve_forever(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("opened", [True, False])
def test_a_folder_is_served_until_an_interrupt(monkeypatch, capsys, tmp_path, opened):
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.setattr(static, "server", lambda *given: Ended())
    options = ["--static", str(tmp_path), "--port", "77", *["--open"] * opened]
    assert main(options) == 0
    assert capsys.readouterr().out == "apollo-demo: http://127.0.0.1:1234 (Ctrl-C ends it)\n"
    assert shown == ["http://127.0.0.1:1234"] * opened


@pytest.mark.parametrize(
    "error, reason", [(OSError(98, "in use"), "[Errno 98] in use"), (OSError(), "no address")]
)
def test_addresses_that_cannot_be_had(monkeypatch, capsys, tmp_path, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(static, "server", fail)
    monkeypatch.setattr(demo, "serve", fail)
    monkeypatch.setattr(demo, "load", lambda *_, **__: None)
    for options in (["--static", str(tmp_path)], []):
        assert main([*options, "--host", "a", "--port", "77"]) == 1
        assert capsys.readouterr().err == f"apollo-demo: a:77: {reason}\n"


def test_what_the_page_is_served_with(monkeypatch):
    """Each checkpoint once, on the CPU; an interrupt is its usual end."""
    served = []

    def serve(*given):
        served.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "serve", serve)
    monkeypatch.setattr(demo, "load", lambda choice: (choice.checkpoint, choice.device))
    options = "--checkpoint b --checkpoint a --checkpoint b --max-mb 2 --max-total-mb 3 --host h"
    assert main([*options.split(), *"--max-minutes 4 --port 5 --open --allow-host n".split()]) == 0
    engines = {name: (name, "cpu") for name in "ba"}
    assert served == [(engines, Limits(2, 4.0, 3), "h", 5, True, ["n"])]
    assert main([]) == 0 and served[1][0] == {"apollo-small": ("apollo-small", "cpu")}


def test_requests_without_sense_are_a_line(capsys):
    queueing = pytest.importorskip("gradio.queueing", reason="the extra `demo` is not installed")
    before = queueing.traceback
    with demo._errors_in_one_line():
        try:
            raise ValueError("no\nsense")
        except ValueError:
            queueing.traceback.print_exc()
        queueing.traceback.print_exc()
    said = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["refused: ValueError: no sense", "refused: NoneType: "]
    assert queueing.traceback is before


@pytest.mark.parametrize(
    "limits",
    [dict(megabytes=0), dict(minutes=0), dict(minutes=float("inf")), dict(total_megabytes=99)],
)
def test_limits_that_permit_nothing(limits):
    with pytest.raises(SettingError):
        Limits(**limits)
    assert Limits(1, 1e-9, 1)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--port", "65536"], 2, "port 65536 is none"),
        (["--static", "x", "--max-mb", "3"], 2, "--static takes no --max-mb; leave it out"),
        (["--port", "0"], 2, "port 0 is none"),
        (["--max-mb", "0"], 2, "limits of 0 MB"),
        (["--max-total-mb", "99"], 2, "99 MB in all are less than the 100 MB of a file"),
        (["--max-minutes", "nan"], 2, "nan min are none"),
        (["--checkpoint", "nothing"], 1, "apollo-demo: no checkpoint 'nothing'"),
    ],
)
def test_arguments_that_are_refused(arguments, status, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    error = capsys.readouterr().err
    assert code == status and message in error and "Traceback" not in error


def test_a_port_that_is_taken(capsys):
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert f"apollo-demo: 127.0.0.1:{port}: " in error and error.count("\n") == 1


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    begin = time.monotonic()
    assert main([]) == 1
    error = capsys.readouterr().err
    assert install("demo") in error and error.count("\n") == 1
    assert time.monotonic() - begin < 60


def test_uploads_have_room_by_the_megabyte(monkeypatch):
    def room(folder, most):
        raise RuntimeError(f"{os.path.basename(folder)} {most}")

    monkeypatch.setattr(demo, "Room", room)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(RuntimeError, match="^apollo-demo-.* 3000000$"):
        demo.serve({}, Limits(megabytes=1, total_megabytes=3))
