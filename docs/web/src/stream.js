// A signal through the exported step: hops in, what the model changes out. No page, no runtime.

// Hops a call: enough that a call's costs do not count, few enough that caches hold what lies between.
export const HOPS = 16;
const TAPS = 96; // of the resampler, to each side, at the lower of the two rates
const PASSED = 0.95; // of the lower Nyquist frequency
const BETA = 10; // of its Kaiser window, 100 dB

export class Fifo {
  constructor() { this.parts = []; this.length = 0; }
  push(part) {
    if (part.length) this.parts.push(part);
    this.length += part.length;
  }
  take(n) {
    const out = new Float32Array(n);
    for (let at = 0; at < n;) {
      const some = this.parts[0].subarray(0, n - at);
      out.set(some, at);
      at += some.length;
      if (some.length === this.parts[0].length) this.parts.shift();
      else this.parts[0] = this.parts[0].subarray(some.length);
    }
    this.length -= n;
    return out;
  }
}

export function bessel(x) {
  let sum = 1, term = 1;
  for (let k = 1; term > sum * 1e-17; k += 1) sum += (term *= (x / (2 * k)) ** 2);
  return sum;
}

// From one rate to another, piece by piece; sample 0 of both is the same moment.
export class Resampler {
  constructor(from, to) {
    let [a, b] = [from, to];
    while (b) [a, b] = [b, a % b];
    this.step = from / a;
    this.phases = to / a;
    this.cutoff = PASSED * Math.min(1, to / from);
    this.half = Math.ceil(TAPS * Math.max(1, from / to));
    this.tables = new Map();
    this.kept = new Float32Array(this.half); // zeros before the signal
    this.first = -this.half; // where the kept samples begin in the signal
    this.n = 0; // samples that came out
    this.seen = 0;
  }
  taps(phase) {
    let taps = this.tables.get(phase);
    if (taps) return taps;
    taps = new Float32Array(2 * this.half);
    for (let k = 0; k < taps.length; k += 1) {
      const t = k - this.half + 1 - phase / this.phases;
      const x = Math.PI * this.cutoff * t, edge = t / this.half;
      const window = edge * edge < 1 ? bessel(BETA * Math.sqrt(1 - edge * edge)) / bessel(BETA) : 0;
      taps[k] = this.cutoff * (t === 0 ? 1 : Math.sin(x) / x) * window;
    }
    this.tables.set(phase, taps);
    return taps;
  }
  push(samples, last) {
    this.seen += samples.length;
    const more = last ? this.half + 1 : 0;
    const all = new Float32Array(this.kept.length + samples.length + more);
    all.set(this.kept);
    all.set(samples, this.kept.length);
    const end = this.first + all.length, out = [];
    const total = last ? Math.ceil(this.seen * this.phases / this.step) : Infinity;
    for (; this.n < total; this.n += 1) {
      const at = this.n * this.step, whole = Math.floor(at / this.phases);
      if (whole + this.half >= end) break;
      const taps = this.taps(at % this.phases), start = whole - this.half + 1 - this.first;
      let sum = 0;
      for (let k = 0; k < taps.length; k += 1) sum += taps[k] * all[start + k];
      out.push(sum);
    }
    const next = Math.floor(this.n * this.step / this.phases) - this.half + 1 - this.first;
    const drop = Math.min(Math.max(0, next), all.length);
    this.kept = all.slice(drop);
    this.first += drop;
    return Float32Array.from(out);
  }
}

// Calls the exported step with the state that it left.
export class Step {
  constructor(model, channels) {
    const { Tensor } = model;
    Object.assign(this, { model, channels, hop: model.info.hop, delay: model.info.delay_hops });
    this.state = {};
    for (const [name, shape] of Object.entries(model.info.state)) {
      if (!shape.length) {
        this.state[name] = new Tensor("int64", new BigInt64Array(1), []);
        continue;
      }
      const dims = [channels, ...shape.slice(1)];
      const size = dims.reduce((a, b) => a * b, 1);
      this.state[name] = new Tensor("float32", new Float32Array(size), dims);
    }
  }
  // `data` holds one channel after the other; `end` is the number of the signal's frames.
  async run(data, end) {
    const { session, Tensor } = this.model;
    const hops = data.length / this.channels / this.hop;
    const out = await session.run({
      wav: new Tensor("float32", data, [this.channels, hops, this.hop]),
      end: new Tensor("int64", BigInt64Array.of(BigInt(end)), []),
      ...this.state,
    });
    for (const name of Object.keys(this.state)) this.state[name] = out[`next_${name}`];
    return out.restored.data;
  }
}

// What the model changes in a signal of known length and any rate, as apollo_plugin.restore has it:
// computed at the model's rate, to be added at the signal's. The model gets the signal divided by
// `level`.
export class Restoration {
  constructor(model, channels, rate, length, level) {
    const own = model.info.sample_rate;
    const each = (make) => Array.from({ length: channels }, make);
    this.step = new Step(model, channels);
    this.down = rate === own ? null : each(() => new Resampler(rate, own));
    this.up = rate === own ? null : each(() => new Resampler(own, rate));
    this.total = rate === own ? length : Math.ceil(length * own / rate);
    this.queue = each(() => new Fifo());
    this.came = each(() => new Fifo());
    this.tail = each(() => new Float32Array(0));
    Object.assign(this, { channels, level });
    this.left = { skip: this.step.delay * this.step.hop, source: this.total, out: length };
  }
  async push(block, last) {
    const { hop, delay } = this.step, end = 1 + Math.floor(this.total / hop);
    block.forEach((samples, c) => {
      const source = this.down ? this.down[c].push(samples, last) : samples;
      this.queue[c].push(source);
      this.came[c].push(source);
      const tail = new Float32Array(this.tail[c].length + source.length);
      tail.set(this.tail[c]);
      tail.set(source, this.tail[c].length);
      this.tail[c] = tail.slice(Math.max(0, tail.length - hop - 1));
      if (last) {
        this.queue[c].push(this.reflected(this.tail[c], end * hop - this.total));
        this.queue[c].push(new Float32Array(delay * hop));
      }
    });
    const out = block.map(() => new Fifo());
    while (this.queue[0].length >= (last ? hop : HOPS * hop)) {
      const n = hop * Math.min(HOPS, Math.floor(this.queue[0].length / hop));
      const data = new Float32Array(this.channels * n);
      this.queue.forEach((queue, c) => data.set(queue.take(n), c * n));
      data.forEach((sample, k) => { data[k] = sample / this.level; });
      const restored = await this.step.run(data, end);
      const skip = Math.min(n, this.left.skip), due = Math.min(n - skip, this.left.source);
      this.left.skip -= skip;
      this.left.source -= due;
      out.forEach((queue, c) => {
        const change = this.came[c].take(due);
        for (let k = 0; k < due; k += 1) change[k] = this.level * restored[c * n + skip + k] - change[k];
        queue.push(change);
      });
    }
    const changes = out.map((queue, c) => {
      const change = queue.take(queue.length);
      return this.up ? this.up[c].push(change, last) : change;
    });
    const n = Math.min(changes[0].length, this.left.out);
    this.left.out -= n;
    return changes.map((change) => change.subarray(0, n));
  }
  // The next samples of a signal that is reflected endlessly, of which this is the end.
  reflected(tail, n) {
    const period = Math.max(1, 2 * (this.total - 1)), begin = this.total - tail.length;
    return Float32Array.from({ length: n }, (_, k) => {
      const position = (this.total + k) % period;
      return tail[Math.min(position, period - position) - begin];
    });
  }
}
