"""The page that restores in the browser (docs/web): in a real browser, with a real MP3."""

import base64
import http.client
import importlib.util
import json
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from helpers import read, small_model, snr, tone

from apollo_plugin import audio
from apollo_plugin.cli.demo import main
from apollo_plugin.cli.static import HEADERS, server
from apollo_plugin.data import excerpt
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import ApolloError
from apollo_plugin.export import export
from apollo_plugin.restore import Job, Settings, restore_audio, restore_file

WEB = Path(__file__).parent.parent / "docs" / "web"
MODEL = dict(n_layers=1, residual=True, band_gain=True, tcn_blocks=1, input_peak=0.02)


def builder():
    spec = importlib.util.spec_from_file_location("web_build", WEB / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(launch, tmp_path_factory):
    """The page with a small model for both of its uses, where there is a browser to look at it."""
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    build = builder()
    try:
        build.install()
    except ApolloError as error:
        pytest.skip(f"the page's runtime is out of reach: {error}")
    folder = tmp_path_factory.mktemp("web")
    step = folder / "step.onnx"
    export(small_model(**MODEL), step, "stream")
    size = build.build(folder / "site", {"restore": step, "live": step})
    assert size == sum(p.stat().st_size for p in (folder / "site").rglob("*") if p.is_file())
    assert size < build.MOST_BYTES
    return folder / "site"


@pytest.fixture(scope="module")
def address(site):
    with server(site, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="module")
def browser(launch):
    browser = launch(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def loaded(browser, address):
    """The page once it is ready, and all that it asked for and complained of."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(120000)
    page.problems, page.requests = [], []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    context.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    says(page, "Ready.")
    yield page
    context.close()


@pytest.fixture
def page(loaded, address):
    loaded.goto(address)
    says(loaded, "Ready.")
    yield loaded
    assert loaded.problems == []
    assert all(url.startswith((address, "blob:" + address)) for url in loaded.requests)


def says(page, words):
    page.wait_for_function(
        "words => document.getElementById('status').textContent.includes(words)", arg=words
    )


def download(page, path):
    with page.expect_download() as waiting:
        page.click(".download")
    waiting.value.save_as(path)
    return waiting.value.suggested_filename


def slide(page, name, value):
    page.eval_on_selector(
        name,
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def test_an_mp3_is_restored_as_by_the_command(page, tmp_path):
    model = small_model(**MODEL)
    song = tmp_path / "a <b>song & more.mp3"
    song.write_bytes(encode_mp3(torch.from_numpy(mixture(2.5, seed=5)), kbps=32))
    assert page.evaluate("crossOriginIsolated")
    page.evaluate("""() => { window.shares = []; const bar = document.getElementById('bar');
        new MutationObserver(() => shares.push(bar.value)).observe(bar, {attributes: true}); }""")
    page.set_input_files("#file", song)
    says(page, f"{song.name} is restored")
    shares = page.evaluate("shares")
    assert len(set(shares)) > 3 and shares == sorted(shares) and shares[-1] == 1
    expected = tmp_path / "expected.wav"
    restore_file(model, Job(song, expected), Settings())
    assert download(page, tmp_path / "out.wav") == "a _b_song & more_restored.wav"
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"
    ours, rate = soundfile.read(expected, dtype="float32")
    theirs, their_rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    # Chromium decodes MP3 without a length tag to the samples that FFmpeg does, its delay in them.
    assert rate == their_rate == 44100 and ours.shape == theirs.shape
    assert snr(torch.from_numpy(theirs), torch.from_numpy(ours)) > 60
    # Of what was changed, too. Decoders differ in the last bits, which is much where a codec left
    # nothing: the command gets what the page decoded, as it saves it where it changes nothing.
    slide(page, ".mix", 0)
    download(page, tmp_path / "came.wav")
    restore_file(model, Job(tmp_path / "came.wav", expected), Settings(overwrite=True))
    came, ours = (read(path)[0] for path in (tmp_path / "came.wav", expected))
    assert snr(torch.from_numpy(theirs.T) - came, ours - came) > 30

    # The sliders act on what is saved, and are told to those who do not see them.
    slide(page, ".keep", 5000)
    slide(page, ".mix", 0.5)
    assert page.inner_text(".keep-says") == "5 kHz" and page.inner_text(".mix-says") == "50 %"
    page.select_option(".bits", "24")
    download(page, tmp_path / "mixed.wav")
    assert soundfile.info(tmp_path / "mixed.wav").subtype == "PCM_24"
    theirs, _ = soundfile.read(tmp_path / "mixed.wav", dtype="float32")
    ours = restore_audio(model, came, 44100, keep_below=5000, mix=0.5)
    assert snr(torch.from_numpy(theirs.T), ours.clamp(-1, 1)) > 60
    # Both versions are seen, and heard from one clock.
    for version in (0, 1):
        seen = page.eval_on_selector_all(
            "canvas",
            "(all, k) => { const c = all[k]; const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return new Set(d).size; }",
            version,
        )
        assert seen > 20
    page.keyboard.press("2")
    page.keyboard.press(" ")
    page.wait_for_function("() => apollo.players[0].playing && apollo.players[0].position > 0.1")
    assert page.evaluate("apollo.players[0].deck.gains.length") == 2
    slide(page, ".keep", 8000)
    page.keyboard.press(" ")
    page.wait_for_function("() => !apollo.players[0].playing")


def test_what_is_heard_is_what_is_saved(page, tmp_path):
    """The deck's nodes, played into a buffer, against the download's sum."""
    wav = tone(9000)
    audio.write(tmp_path / "tone.wav", wav, 44100)
    page.set_input_files("#file", tmp_path / "tone.wav")
    says(page, "is restored")
    error = page.evaluate("""async () => {
          const { Mixer, mixed } = await import("./sound.js");
          const settings = { keepBelow: 3000, mix: 0.7 }, rate = 44100, n = 30000;
          const buffer = (seed) => {
            const made = new AudioBuffer({ numberOfChannels: 1, length: n, sampleRate: rate });
            made.getChannelData(0).forEach((_, k, all) => { all[k] = Math.sin(seed * k * k); });
            return made;
          };
          const input = buffer(1e-5), change = buffer(3e-5);
          const [expected] = await mixed(input, change, settings);
          const context = new OfflineAudioContext(1, n, rate);
          const mixer = new Mixer(context, settings);
          const deck = new apollo.Deck(context,
            [[{ buffer: input }],
             [{ buffer: input }, { buffer: change, through: mixer, lead: mixer.lead }]]);
          deck.gains[0].gain.value = 0; deck.gains[1].gain.value = 1;
          deck.start(0);
          const heard = (await context.startRendering()).getChannelData(0);
          let most = 0;
          for (let k = 3000; k < n - 3000; k += 1) {
            most = Math.max(most, Math.abs(heard[k] - expected[k]));
          }
          return most;
        }""")
    assert error < 1e-4


@pytest.mark.parametrize(
    "rate, n_channels, n_samples", [(96000, 1, 30000), (22050, 2, 9001), (44100, 1, 100)]
)
def test_other_rates_and_lengths(page, tmp_path, rate, n_channels, n_samples):
    wav = tone(n_samples, n_channels, rate)
    audio.write(tmp_path / "a.wav", wav, rate)
    page.set_input_files("#file", tmp_path / "a.wav")
    says(page, "a.wav is restored")
    download(page, tmp_path / "out.wav")
    theirs, their_rate = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert their_rate == rate and theirs.shape == (n_samples, n_channels)
    ours = restore_audio(small_model(**MODEL), wav, rate)
    assert snr(torch.from_numpy(theirs.T), ours) > (60 if rate == 44100 else 40)


def rows(page):
    return page.locator("#queue li").all_inner_texts()


def test_cancelling_and_the_next_file(page, tmp_path):
    wav = tone(44100).repeat(1, 60)
    audio.write(tmp_path / "long.wav", wav, 44100)
    audio.write(tmp_path / "silence.wav", torch.zeros(1, 5000), 44100)
    page.set_input_files("#file", tmp_path / "long.wav")
    page.wait_for_function("() => document.getElementById('bar').value > 0")
    assert page.is_hidden("#queue")  # of one file
    page.click("#cancel")
    says(page, "Cancelled")
    assert page.is_hidden("#work") and page.is_disabled(".download")
    page.set_input_files("#file", [tmp_path / "long.wav", tmp_path / "silence.wav"])
    page.wait_for_selector("#queue :text('is restored now')")
    assert rows(page) == ["long.wav is restored now", "silence.wav waits"]
    page.click("#cancel")
    says(page, "silence.wav is restored")
    page.wait_for_selector("#queue a")
    assert rows(page) == ["long.wav was cancelled", "silence.wav Save silence_restored.wav"]
    assert "It is silent" in page.inner_text(".about") and page.locator("section.item").count() == 1
    download(page, tmp_path / "out.wav")
    assert not soundfile.read(tmp_path / "out.wav")[0].any()


def save_from_list(page, name, path):
    link = page.locator("#queue a", has_text=name)
    link.wait_for()
    with page.expect_download() as waiting:
        link.click()
    waiting.value.save_as(path)
    return read(path)


def test_several_files_one_after_the_other(page, tmp_path):
    wavs = {"one.wav": tone(9000), "two.wav": 0.5 * tone(7000, 1)}
    for name, wav in wavs.items():
        audio.write(tmp_path / name, wav, 44100)
    (tmp_path / "text.mp3").write_text("no sound at all")
    paths = [tmp_path / name for name in ("one.wav", "text.mp3", "two.wav")]
    page.set_input_files("#file", paths)
    for name, wav in wavs.items():
        got, rate = save_from_list(page, name.replace(".", "_restored."), tmp_path / "out.wav")
        assert rate == 44100 and snr(got, restore_audio(small_model(**MODEL), wav, rate)) > 60
    # What failed is named, and the others come all the same.
    assert "text.mp3 cannot be decoded by this browser" in rows(page)[1]
    # A new song begins a new list; what can be saved stays on it.
    audio.write(tmp_path / "three.wav", tone(500), 44100)
    page.set_input_files("#file", tmp_path / "three.wav")
    says(page, "three.wav is restored")
    page.wait_for_selector("#queue a >> nth=2")
    assert [row.split()[0] for row in rows(page)] == ["one.wav", "two.wav", "three.wav"]


def test_who_listens_is_not_interrupted(page, tmp_path):
    for name in ("one.wav", "two.wav"):
        audio.write(tmp_path / name, tone(44100), 44100)
    page.set_input_files("#file", tmp_path / "one.wav")
    says(page, "one.wav is restored")
    page.click(".play")
    page.wait_for_function("() => apollo.players[0].playing")
    page.set_input_files("#file", tmp_path / "two.wav")
    says(page, "two.wav is next, once you pause.")
    assert page.inner_text("#place h2") == "one.wav"
    page.click(".play")
    says(page, "two.wav is restored")


def test_a_file_that_vanished(page, tmp_path):
    audio.write(tmp_path / "long.wav", tone(44100).repeat(1, 60), 44100)
    audio.write(tmp_path / "gone.wav", tone(5000), 44100)
    page.set_input_files("#file", [tmp_path / "long.wav", tmp_path / "gone.wav"])
    page.wait_for_function("() => document.getElementById('bar').value > 0")
    (tmp_path / "gone.wav").unlink()
    page.click("#cancel")
    says(page, "gone.wav cannot be read any more: it was moved, changed or removed.")
    page.problems.clear()  # the browser says so too


def leaving_asks(page):
    return page.evaluate("""() => { const event = new Event("beforeunload", { cancelable: true });
        window.dispatchEvent(event); return event.defaultPrevented; }""")


def test_leaving_in_the_middle_asks(page, tmp_path):
    audio.write(tmp_path / "long.wav", tone(44100).repeat(1, 60), 44100)
    assert not leaving_asks(page)
    page.set_input_files("#file", tmp_path / "long.wav")
    page.wait_for_function("() => document.getElementById('bar').value > 0")
    assert leaving_asks(page)
    page.click("#cancel")
    says(page, "Cancelled")
    assert not leaving_asks(page)


# What a browser hands over when something is dropped; a folder gives its entries in parts.
DROP = """([files, folder]) => {
  const made = files.map((name) => new File([Uint8Array.from(atob(globalThis.song), (l) => l.charCodeAt(0))], name));
  const entry = (file) => ({ isFile: true, name: file.name, file: (done) => done(file) });
  const parts = [made.slice(0, 1).map(entry), made.slice(1).map(entry), []];
  const inside = { isDirectory: true, name: "album", createReader: () => ({ readEntries: (done) => done(parts.shift()) }) };
  const entries = folder ? [inside] : made.map(entry);
  const event = new Event("drop", { bubbles: true, cancelable: true });
  const items = entries.length ? entries.map((each) => ({ webkitGetAsEntry: () => each })) : [{ webkitGetAsEntry: () => null }];
  event.dataTransfer = { items, files: [] };
  document.body.dispatchEvent(event);
}"""  # noqa: E501


def test_what_may_be_dropped(page, tmp_path):
    audio.write(tmp_path / "a.wav", tone(3000), 44100)
    song = base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()
    page.evaluate("song => { globalThis.song = song; }", song)
    page.evaluate(DROP, [["10.wav", "cover.jpg", "9.wav"], True])
    page.wait_for_selector("#queue a:has-text('10_restored')")
    names = [row.split()[0] for row in rows(page)]
    assert names[-2:] == ["9.wav", "10.wav"] and "cover.jpg" not in names
    page.evaluate(DROP, [["cover.jpg"], True])
    says(page, "No music lies in that folder.")
    page.evaluate(DROP, [[], False])
    says(page, "a link has to be saved first")
    page.evaluate(DROP, [["alone.wav"], False])
    says(page, "alone.wav is restored")


def test_the_orchestra(page, tmp_path):
    """Needs no file; whose it is stands beside it."""
    assert excerpt.CREDIT in page.inner_text("#drop")
    page.click("#example")
    says(page, "orchestra.mp3 is restored")
    download(page, tmp_path / "out.wav")
    assert audio.probe(tmp_path / "out.wav")[1:] == (44100, 2)


def coded(path, codec, rate, n_channels=2):
    """A file as FFmpeg writes it, which has Vorbis from libvorbis."""
    wav = tone(rate, n_channels, rate)
    if codec == "vorbis":
        soundfile.write(path.with_suffix(".ogg"), wav.T.numpy(), rate)
        with av.open(str(path.with_suffix(".ogg"))) as source, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(source.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        for start in range(0, rate, 1000):
            part = np.ascontiguousarray(wav[:, start : start + 1000].numpy())
            frame = av.AudioFrame.from_ndarray(part, "fltp", "stereo")
            frame.rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "name, codec, rate, saved, said",
    [
        ("a.aac", "aac", 48000, 48000, ""),
        ("a.aac", "aac", 44100, 44100, ""),
        ("a.webm", "vorbis", 44100, 44100, ""),
        ("a.mka", "vorbis", 32000, 32000, ""),
        ("a.webm", "libopus", 48000, 48000, ""),
        ("a.wav", None, 4000, 8000, "brings it from 4 kHz to 8 kHz"),
    ],
)
def test_rates_are_kept_or_told(page, tmp_path, name, codec, rate, saved, said):
    path = tmp_path / name
    if codec:
        coded(path, codec, rate)
    else:
        audio.write(path, tone(rate, 2, rate), rate)
    page.set_input_files("#file", path)
    says(page, f"{name} is restored")
    download(page, tmp_path / "out.wav")
    assert audio.probe(tmp_path / "out.wav")[1] == saved
    about = page.inner_text(".about")
    assert said in about and ("brings it" in about) == bool(said)


def test_a_rate_that_is_not_told(page):
    """By bytes that name no format; the page says that the browser decides."""
    assert (
        page.evaluate("""async () => (await import("./sound.js")).rateOf(new Uint8Array(64))""")
        == 0
    )


def test_licences_lie_beside_the_runtime(site):
    text = (site / "ort" / "LICENCES.txt").read_text("utf-8")
    assert "Copyright (c) Microsoft Corporation" in text and "MIT License" in text
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    for name, entry in lock.items():
        if name:
            assert f"{name.rpartition('node_modules/')[2]} {entry['version']}: " in text


def test_files_that_are_none(page, tmp_path):
    six = torch.zeros(6, 4410) + 0.1
    audio.write(tmp_path / "six.wav", six, 44100)
    audio.write(tmp_path / "nan.wav", torch.full((1, 4410), float("nan")), 44100)
    (tmp_path / "text.mp3").write_text("no sound at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name, words in {
        "text.mp3": "cannot be decoded by this browser",
        "empty.wav": "empty.wav is empty",
        "six.wav": "has 6 channels; this page takes mono and stereo",
        "nan.wav": "holds samples that are no numbers",
    }.items():
        page.set_input_files("#file", tmp_path / name)
        says(page, words)
    # Half an hour of stereo, in a browser with little memory.
    page.evaluate("""() => { Object.defineProperty(navigator, "deviceMemory", { value: 0.25 });
        OfflineAudioContext.prototype.decodeAudioData = async () =>
          new AudioBuffer({ numberOfChannels: 2, length: 1800 * 44100, sampleRate: 44100 }); }""")
    page.set_input_files("#file", tmp_path / "six.wav")
    says(page, "six.wav is 30:00 long; this browser's memory is enough for 1:03")
    assert page.is_enabled("#file")
    page.reload()
    says(page, "Ready.")


def test_live(page):
    page.click("#microphone")
    page.wait_for_function("() => document.getElementById('live').textContent.includes('Latency')")
    assert "the model\N{RIGHT SINGLE QUOTATION MARK}s 50 ms" in page.inner_text("#live")
    page.click("#quiet")
    page.wait_for_function("() => document.getElementById('live').textContent === ''")
    assert page.is_visible("#microphone") and page.is_hidden("#quiet")


@pytest.mark.parametrize("lack", ["Worker", "WebAssembly", "OfflineAudioContext"])
def test_browsers_that_lack_something(browser, address, lack):
    page = browser.new_page()
    page.add_init_script(f"delete globalThis.{lack}")
    page.goto(address)
    says(page, "which restoring needs; a newer one has.")
    assert page.is_disabled("#file")
    page.close()


def test_it_goes_on_without_a_network(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("() => navigator.serviceWorker.ready.then(() => true)")
    context.set_offline(True)
    page.reload()
    says(page, "Ready.")
    assert page.evaluate("crossOriginIsolated")
    context.close()


def test_addresses_that_are_no_file(tmp_path, capfd):
    """Answered, and nothing said on the console; the next one is answered too."""
    (tmp_path / "index.html").write_text("<p>here</p>")
    (tmp_path / "folder").mkdir()
    with server(tmp_path, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        paths = ["/%00", "/index.html%00", "/a%00/b", "/%00/", "/folder/", "/%ff", "/" + "a" * 5000]
        paths += ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/none"]
        for path, status in [*((path, 404) for path in paths), ("/index.html", 200)]:
            connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["X-Content-Type-Options"]) == (status, "nosniff")
            connection.close()
        running.shutdown()
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_no_page(tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    assert main(["--static", str(tmp_path)]) == 1
    assert "holds no page; python docs/web/build.py" in capsys.readouterr().err
    with pytest.raises(ApolloError, match="is there already and no page of before"):
        builder().build(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    # The built page has its model, and takes no uploads.
    for options in (["--checkpoint", "x"], ["--max-mb", "5"], ["--allow-host", "name"]):
        with pytest.raises(SystemExit):
            main(["--static", str(tmp_path), *options])
        assert f"--static takes no {options[0]}" in capsys.readouterr().err


def test_the_server_gives_files_and_nothing_else(tmp_path):
    import urllib.error
    import urllib.request

    shutil.copytree(WEB / "src", tmp_path / "site")
    (tmp_path / "secret").write_text("secret")
    with server(tmp_path / "site", "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        with urllib.request.urlopen(f"{address}/stream.js") as answer:
            assert answer.headers["Content-Type"].startswith("text/javascript")
            for name, value in HEADERS.items():
                assert answer.headers[name] == value
        (tmp_path / "site" / "empty").mkdir()
        for path in ("/empty/", "/../secret", "/%2e%2e/secret", "/nothing"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + path)
        running.shutdown()


def test_the_lock_is_of_what_is_asked_for():
    asked = json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert lock["node_modules/onnxruntime-web"]["version"] == asked
    assert all(entry["integrity"].startswith("sha512-") for name, entry in lock.items() if name)
