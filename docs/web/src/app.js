// The page: what is chosen, what is shown, what is saved.
import { live } from "./live.js";
import { Pictures } from "./picture.js";
import { LEAST_PEAK, PEAK } from "./shared.js";
import { Mixer, decode, mixed, peak, time, wav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const { Deck, contextFor, show } = globalThis.apollo;
// Samples that go to the worker at once: three of its calls at the model's rate.
const BLOCK = 3 * 16 * 441;
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

function tell(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// What the browser lacks, in a sentence.
function lacking() {
  if (typeof Worker === "undefined") return "This browser has no workers, which restoring needs; a newer one has.";
  if (typeof WebAssembly === "undefined" || !WebAssembly.validate(Uint8Array.from(SIMD))) {
    return "This browser has no WebAssembly with SIMD, which restoring needs; a newer one has.";
  }
  if (typeof OfflineAudioContext === "undefined") return "This browser has no Web Audio, which restoring needs; a newer one has.";
  return "";
}

let worker = null, job = null, opened = 0, speaking = null;

function startWorker() {
  const threads = new URLSearchParams(location.search).get("threads");
  worker = new Worker(`worker.js${threads ? `?threads=${Number(threads)}` : ""}`, { type: "module" });
  worker.onerror = (event) => {
    event.preventDefault();
    failed(event.message || "its worker did not start");
  };
  worker.onmessage = ({ data }) => {
    if (data.kind === "failed") failed(data.message);
    else if (data.kind === "live") speaking?.started(data.info);
    else if (job && data.id === job.id) job[data.kind](data);
  };
}

function failed(reason) {
  giveUp();
  speaking?.stop();
  tell(`Restoring failed: ${reason}. Reload the page and try again.`, true);
}

function giveUp() {
  if (job) worker.postMessage({ kind: "cancel" });
  job = null;
  $("work").hidden = true;
}

// One file: asked for block by block, so that memory holds it once.
class Job {
  constructor(id, file, input) {
    Object.assign(this, { id, file, input, sent: 0, done: 0, threads: 1 });
    const loudest = peak(input);
    this.item = new Item(file, input, loudest === 0);
    const { numberOfChannels: channels, sampleRate: rate, length } = input;
    const level = Math.max(loudest, LEAST_PEAK) / PEAK;
    worker.postMessage({ kind: "start", id, channels, rate, length, level });
  }
  feed() {
    const { input, sent } = this, n = Math.min(BLOCK, input.length - sent);
    if (n <= 0) return;
    this.sent += n;
    const block = Array.from({ length: input.numberOfChannels }, (_, c) => input.getChannelData(c).slice(sent, sent + n));
    const last = this.sent === input.length;
    worker.postMessage({ kind: "block", id: this.id, block, last }, block.map((part) => part.buffer));
  }
  ready({ threads }) {
    this.threads = threads;
    this.began = performance.now();
    tell(`Restoring ${this.file.name}.`);
    $("work").hidden = false;
    this.progress();
    this.feed();
    this.feed();
  }
  change({ change, last }) {
    change.forEach((part, c) => this.item.change.copyToChannel(part, c, this.done));
    this.done += change[0].length;
    this.item.pictures.grow(this.done);
    this.progress();
    if (!last) { this.feed(); return; }
    const { duration } = this.input, took = (performance.now() - this.began) / 1000;
    const threads = this.threads === 1 ? "one thread" : `${this.threads} threads`;
    tell(`${this.file.name} is restored: ${time(duration)} in ${took.toFixed(1)} s, ${(duration / took).toFixed(1)} times as fast as it plays, with ${threads}.`);
    this.item.finish();
    job = null;
    $("work").hidden = true;
  }
  progress() {
    const { duration, length, sampleRate } = this.input, share = this.done / length;
    const took = (performance.now() - this.began) / 1000, speed = this.done / sampleRate / took;
    $("bar").value = share;
    const rest = share > 0.02 ? `, ${speed.toFixed(1)} times as fast as it plays, ${time((duration - this.done / sampleRate) / speed)} to go` : "";
    $("eta").textContent = `${time(this.done / sampleRate)} of ${time(duration)}${rest}`;
  }
}

// What is shown of a file, and what is done with it.
class Item {
  constructor(file, input, silent) {
    const { numberOfChannels, length, sampleRate, duration } = input;
    Object.assign(this, { file, input, settings: { keepBelow: 0, mix: 1 }, mixer: null });
    this.change = new AudioBuffer({ numberOfChannels, length, sampleRate });
    const section = this.section = $("item").content.firstElementChild.cloneNode(true);
    const find = (selector) => section.querySelector(selector);
    find("h2").textContent = file.name;
    const kind = numberOfChannels === 1 ? "mono" : "stereo";
    find(".about").textContent = `${sampleRate / 1000} kHz ${kind}, ${time(duration)} long.${silent ? " It is silent, and stays so." : ""}`;
    find(".seek").max = duration.toFixed(3);
    $("place").replaceChildren(section);
    section.querySelectorAll(".plot").forEach((plot) => {
      ticks(plot.querySelector(".y"), sampleRate / 2000, 5, "kHz", "bottom");
      ticks(plot.querySelector(".x"), duration, 6, "s", "left");
    });
    this.pictures = new Pictures([...section.querySelectorAll("canvas")], input, this.change);
    show(section, { labels: ["Input", "Restored"], seconds: duration, open: () => this.deck() });
    find(".keep").max = Math.min(16000, Math.floor(sampleRate / 200) * 100);
    find(".keep").addEventListener("input", () => this.set(find));
    find(".mix").addEventListener("input", () => this.set(find));
    find(".download").addEventListener("click", () => this.save(Number(find(".bits").value)));
  }
  deck() {
    const context = contextFor(this.input.sampleRate);
    const through = this.mixer = new Mixer(context, this.settings);
    return new Deck(context, [
      [{ buffer: this.input }],
      [{ buffer: this.input }, { buffer: this.change, through, lead: through.lead }],
    ]);
  }
  set(find) {
    this.settings = { keepBelow: Number(find(".keep").value), mix: Number(find(".mix").value) };
    const { keepBelow, mix } = this.settings, says = keepBelow ? `${keepBelow / 1000} kHz` : "nothing";
    find(".keep-says").textContent = says;
    find(".keep").setAttribute("aria-valuetext", says);
    find(".mix-says").textContent = `${Math.round(100 * mix)} %`;
    this.mixer?.set(this.settings);
    this.pictures.set(this.settings);
  }
  finish() { this.section.querySelector(".download").disabled = false; }
  async save(bits) {
    const button = this.section.querySelector(".download");
    button.disabled = true;
    try {
      const { blob, clipped } = wav(await mixed(this.input, this.change, this.settings), this.input.sampleRate, bits);
      const link = document.createElement("a");
      link.download = `${this.file.name.replace(/\.[^.]*$/, "")}_restored.wav`;
      link.href = URL.createObjectURL(blob);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      tell(`${link.download} is saved${clipped ? `; ${clipped} samples lay beyond full scale and were clipped, floating point keeps them` : ""}.`);
    } catch (error) {
      tell(`${this.file.name} cannot be saved: ${error.message}.`, true);
    }
    button.disabled = false;
  }
}

function ticks(axis, end, most, unit, side) {
  const power = 10 ** Math.floor(Math.log10(end / most));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => end / size <= most);
  const n = Math.floor(end / step + 1e-9);
  for (let k = 0; k <= n; k += 1) {
    const label = document.createElement("span"), place = 100 * k * step / end;
    label.style[side] = `${place}%`;
    if (place < 3) label.className = "begin";
    if (place > 97) label.className = "end";
    label.textContent = `${Number((k * step).toPrecision(3))}${k === n ? ` ${unit}` : ""}`;
    axis.append(label);
  }
}

async function open(file) {
  const mine = opened += 1, before = job?.file.name;
  giveUp();
  tell(`Decoding ${file.name}.${before ? ` ${before} was given up for it.` : ""}`);
  try {
    const input = await decode(file);
    if (mine === opened) job = new Job(mine, file, input);
  } catch (error) {
    if (mine === opened) tell(error.message, true);
  }
}

function listen() {
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) open(file);
    $("file").value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) open(file);
    });
  }
  $("cancel").addEventListener("click", () => {
    giveUp();
    tell("Cancelled. What was restored by now can be heard; the rest is as it came.");
  });
  const buttons = (on) => {
    for (const id of ["microphone", "tab"]) $(id).hidden = on;
    $("quiet").hidden = !on;
  };
  for (const source of ["microphone", "tab"]) {
    $(source).addEventListener("click", async () => {
      buttons(true);
      speaking = await live(worker, source, (text) => { $("live").textContent = text; }, () => buttons(false));
    });
  }
  $("quiet").addEventListener("click", () => speaking?.stop());
}

// Offline from now on, and isolated, which threads need, on servers that do not say so.
async function keep() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    if (self.crossOriginIsolated || opened || speaking || sessionStorage.isolating) return;
    sessionStorage.isolating = "1";
    location.reload();
  } catch { /* private windows have none; the page works without */ }
}

const lacks = lacking();
if (lacks) {
  tell(lacks, true);
  for (const id of ["file", "microphone", "tab"]) $(id).disabled = true;
} else {
  startWorker();
  listen();
  tell("Ready.");
  keep();
}
