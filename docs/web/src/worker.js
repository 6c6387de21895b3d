// Runs the models, so that the page never waits: one file at a time, or live sound.
import * as ort from "./ort/ort.wasm.min.mjs";
import { INPUT_PEAK, LEAST_PEAK } from "./shared.js";
import { Restoration, Step } from "./stream.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
const asked = Number(new URL(import.meta.url).searchParams.get("threads"));
// A step this small keeps no more of them busy.
ort.env.wasm.numThreads = self.crossOriginIsolated
  ? asked || Math.min(4, Math.max(1, (navigator.hardwareConcurrency || 2) - 1)) : 1;

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing (${answer.status})`);
  return answer;
}
// The runtime's program, packed by gzip in the folder so that it is small on any host.
const program = fetched("ort/ort-wasm-simd-threaded.wasm.packed").then(({ body }) =>
  new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
program.catch(() => {}); // whoever waits for it says so

const models = {};
async function load(name) {
  const [bytes, info] = await Promise.all([
    fetched(`models/${name}.onnx`).then((answer) => answer.arrayBuffer()),
    fetched(`models/${name}.json`).then((answer) => answer.json()),
  ]);
  ort.env.wasm.wasmBinary ||= await program;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { session, info, Tensor: ort.Tensor };
}
const model = (name) => (models[name] ||= load(name));
// The peak that a model is given recordings at; null where it takes them as they are.
const inputPeak = ({ info: { model_args: args } }) =>
  args.input_peak === undefined ? INPUT_PEAK : args.input_peak;

let job = null, live = null;
const handlers = {
  async start({ id, channels, rate, length, loudest }) {
    job = { id, restoration: null };
    const loaded = await model("restore");
    if (job?.id !== id) return;
    const peak = inputPeak(loaded), level = peak === null ? 1 : Math.max(loudest, LEAST_PEAK) / peak;
    job.restoration = new Restoration(loaded, channels, rate, length, level);
    self.postMessage({ kind: "ready", id, threads: ort.env.wasm.numThreads });
  },
  async block({ id, block, last }) {
    if (job?.id !== id) return; // of a file that was given up
    const change = await job.restoration.push(block, last);
    self.postMessage({ kind: "change", id, change, last }, change.map((c) => c.buffer));
  },
  cancel() { job = null; },
  // From now on hops come through the port, and go back through it.
  async live({ port, channels }) {
    const loaded = await model("live");
    const step = live = new Step(loaded, channels);
    // The peak of what is to come is not known: full scale is brought to the model's.
    const scale = inputPeak(loaded) ?? 1;
    const hops = [];
    let busy = false;
    const work = async () => {
      if (busy) return;
      busy = true;
      while (hops.length && live === step) {
        const taken = hops.splice(0);
        const n = taken.length * step.hop, data = new Float32Array(channels * n);
        taken.forEach((hop, k) => hop.forEach((samples, c) => data.set(samples.map((x) => x * scale), c * n + k * step.hop)));
        const begin = performance.now();
        const out = await step.run(data, 2 ** 40);
        const load = (performance.now() - begin) / 1000 * loaded.info.sample_rate / n;
        const restored = Array.from({ length: channels }, (_, c) => out.slice(c * n, (c + 1) * n).map((x) => x / scale));
        port.postMessage({ restored, load }, restored.map((c) => c.buffer));
        // What has come meanwhile is a message that waits.
        await new Promise((resolve) => { setTimeout(resolve); });
      }
      busy = false;
    };
    port.onmessage = ({ data }) => { hops.push(data); work().catch(failed); };
    self.postMessage({ kind: "live", info: loaded.info });
  },
  quiet() { live = null; },
};

function failed(error) {
  self.postMessage({ kind: "failed", id: job?.id, message: String(error?.message || error) });
}
// One message after the other: a block has to be done before the next begins.
let turn = Promise.resolve();
self.onmessage = ({ data }) => {
  if (data.kind === "cancel" || data.kind === "quiet") { handlers[data.kind](); return; }
  turn = turn.then(() => handlers[data.kind](data)).catch(failed);
};
