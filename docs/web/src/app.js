// The page: what is chosen, what is shown, what is saved.
import { live } from "./live.js";
import { Pictures } from "./picture.js";
import { Mixer, decode, mixed, peak, time, wav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const { Deck, contextFor, show } = globalThis.apollo;
// Samples that go to the worker at once: three of its calls at the model's rate.
const BLOCK = 3 * 16 * 441;
const SOUNDS = /\.(mp3|m4a|m4b|mp4|aac|ogg|oga|opus|flac|wav|webm|mka|aiff?|caf)$/i;
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
  queue.drop();
  speaking?.stop();
  tell(`Restoring failed: ${reason}. Reload the page and try again.`, true);
}

function giveUp() {
  if (job) worker.postMessage({ kind: "cancel" });
  job = null;
  $("work").hidden = true;
}

// Files that wait, one after the other; of those that are done there is a list, where there are several.
class Queue {
  constructor() { Object.assign(this, { waiting: [], rows: new Map(), current: null, busy: false }); }
  get works() { return this.busy || this.waiting.length > 0; }
  add(files) {
    if (!this.works) { // what was saved stays on the list
      for (const [file, row] of this.rows) if (!row.querySelector("a")) { row.remove(); this.rows.delete(file); }
    }
    for (const file of files) {
      const row = document.createElement("li"), name = document.createElement("span");
      name.textContent = file.name;
      row.append(name, " ", document.createElement("span"));
      this.waiting.push(file);
      this.rows.set(file, row);
      $("queue").append(row);
      this.say(file, "waits");
    }
    $("queue").hidden = this.rows.size < 2;
    if (files.length) this.next();
  }
  say(file, text) { this.rows.get(file).lastChild.textContent = text; }
  async next() {
    if (this.busy || !this.waiting.length) return;
    this.busy = true;
    // Who listens to the one before is not interrupted.
    while (globalThis.apollo.players.some((player) => player.playing)) {
      tell(`${this.waiting[0].name} is next, once you pause.`);
      await new Promise((resolve) => { setTimeout(resolve, 300); });
    }
    if (this.waiting.length) await this.begin(this.waiting.shift());
    else this.busy = false;
  }
  async begin(file) {
    const mine = opened += 1;
    this.current = file;
    this.say(file, "is decoded");
    tell(`Decoding ${file.name}.`);
    try {
      const { buffer, note } = await decode(file);
      if (mine !== opened) return;
      this.say(file, "is restored now");
      job = new Job(mine, file, buffer, note);
    } catch (error) {
      if (mine === opened) this.end("failed", error.message);
    }
  }
  // The current one is done with, well or not.
  end(text, wrong = "") {
    const file = this.current;
    Object.assign(this, { current: null, busy: false });
    if (!file) return;
    this.say(file, wrong || text);
    if (wrong) tell(wrong, true);
    this.next();
  }
  async done(item) {
    const file = this.current;
    // Of the last one the page itself holds all; of others, what was saved of it.
    if (this.rows.size > 1) {
      const link = document.createElement("a"), row = this.rows.get(file);
      try {
        const { blob, name } = await item.wav(32);
        Object.assign(link, { href: URL.createObjectURL(blob), download: name, textContent: `Save ${name}` });
      } catch (error) {
        this.end("", `${file.name} cannot be saved: ${error.message}.`);
        return;
      }
      this.end("");
      row.lastChild.append(link);
    } else this.end("");
  }
  drop() {
    this.waiting = [];
    opened += 1;
    giveUp();
    this.end("was given up");
  }
}
const queue = new Queue();

// One file: asked for block by block, so that memory holds it once.
class Job {
  constructor(id, file, input, note) {
    Object.assign(this, { id, file, input, sent: 0, done: 0, threads: 1 });
    const loudest = peak(input);
    this.item = new Item(file, input, loudest === 0 ? `${note} It is silent, and stays so.` : note);
    const { numberOfChannels: channels, sampleRate: rate, length } = input;
    worker.postMessage({ kind: "start", id, channels, rate, length, loudest });
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
    queue.done(this.item);
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
  constructor(file, input, note) {
    const { numberOfChannels, length, sampleRate, duration } = input;
    Object.assign(this, { file, input, settings: { keepBelow: 0, mix: 1 }, mixer: null });
    this.change = new AudioBuffer({ numberOfChannels, length, sampleRate });
    const section = this.section = $("item").content.firstElementChild.cloneNode(true);
    const find = (selector) => section.querySelector(selector);
    find("h2").textContent = file.name;
    const kind = numberOfChannels === 1 ? "mono" : "stereo";
    find(".about").textContent = `${sampleRate / 1000} kHz ${kind}, ${time(duration)} long.${note}`;
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
  async wav(bits) {
    const made = wav(await mixed(this.input, this.change, this.settings), this.input.sampleRate, bits);
    return { ...made, name: `${this.file.name.replace(/\.[^.]*$/, "")}_restored.wav` };
  }
  async save(bits) {
    const button = this.section.querySelector(".download");
    button.disabled = true;
    try {
      const { blob, clipped, name } = await this.wav(bits);
      const link = document.createElement("a");
      link.download = name;
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

// The files of what was dropped, folders with all that is in them.
async function dropped(data) {
  // Entries have to be asked for before anything is waited for.
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return { files: [...data.files], folder: false };
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) files.push(await new Promise((...ends) => { entry.file(...ends); }));
    else {
      const reader = entry.createReader(), inside = [];
      for (;;) { // a hundred at a time
        const some = await new Promise((...ends) => { reader.readEntries(...ends); });
        if (!some.length) break;
        inside.push(...some);
      }
      inside.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
      for (const each of inside) await walk(each);
    }
  };
  for (const entry of entries) await walk(entry);
  return { files, folder: entries.some((entry) => entry.isDirectory) };
}

async function take(data) {
  try {
    const { files, folder } = await dropped(data);
    // In a folder covers and lists lie beside music.
    const music = folder ? files.filter(({ name, type }) => SOUNDS.test(name) || type.startsWith("audio/")) : files;
    if (music.length) queue.add(music);
    else if (folder) tell("No music lies in that folder.", true);
    else tell("That is no file: a link has to be saved first, and the file dropped here.", true);
  } catch (error) {
    tell(`That cannot be read: ${error.message}.`, true);
  }
}

function listen() {
  $("file").addEventListener("change", () => {
    queue.add([...$("file").files]);
    $("file").value = "";
  });
  $("example").addEventListener("click", async () => {
    try {
      const answer = await fetch("excerpt.mp3");
      if (!answer.ok) throw new Error(`it is missing (${answer.status})`);
      queue.add([new File([await answer.blob()], "orchestra.mp3")]);
    } catch (error) {
      tell(`The orchestra cannot be loaded: ${error.message}.`, true);
    }
  });
  window.addEventListener("beforeunload", (event) => { if (queue.works) event.preventDefault(); });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer);
    });
  }
  $("cancel").addEventListener("click", () => {
    opened += 1;
    giveUp();
    tell("Cancelled. What was restored by now can be heard; the rest is as it came.");
    queue.end("was cancelled");
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
    if (self.crossOriginIsolated || queue.works || opened || speaking || sessionStorage.isolating) return;
    sessionStorage.isolating = "1";
    location.reload();
  } catch { /* private windows have none; the page works without */ }
}

const lacks = lacking();
if (lacks) {
  tell(lacks, true);
  for (const id of ["file", "example", "microphone", "tab"]) $(id).disabled = true;
} else {
  startWorker();
  listen();
  tell("Ready.");
  keep();
}
