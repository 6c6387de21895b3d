// Collects hops for the worker, and plays what comes back: in time, or silence and a gap counted.

const SPARE = 3; // hops that wait before they play; one more after each gap
const MOST = 24;

class Live extends AudioWorkletProcessor {
  constructor({ processorOptions: { channels, hop } }) {
    super();
    const rows = (n) => Array.from({ length: channels }, () => new Float32Array(n));
    Object.assign(this, { channels, hop, rows, size: 128 * hop, filled: 0, read: 0, written: 0 });
    this.collected = rows(hop);
    this.ring = rows(this.size);
    this.spare = SPARE;
    this.playing = false;
    Object.assign(this, { load: 0, gaps: 0, quanta: 0, frames: 0 });
    this.port.onmessage = ({ data }) => {
      this.link = data;
      this.link.onmessage = ({ data: { restored, load } }) => this.take(restored, load);
    };
  }
  take(restored, load) {
    this.load += 0.05 * (load - this.load);
    restored.forEach((samples, c) => samples.forEach((sample, k) => {
      this.ring[c][(this.written + k) % this.size] = sample;
    }));
    this.written += restored[0].length;
    // What came late stays late; a jump is better.
    if (this.written - this.read > 2 * MOST * this.hop) this.read = this.written - this.spare * this.hop;
  }
  process([input], [output]) {
    const n = output[0].length;
    for (let k = 0; k < n; k += 1) {
      for (let c = 0; c < this.channels; c += 1) this.collected[c][this.filled] = input[c] ? input[c][k] : 0;
      this.filled += 1;
      if (this.filled === this.hop) {
        this.filled = 0;
        this.link?.postMessage(this.collected, this.collected.map((part) => part.buffer));
        this.collected = this.rows(this.hop);
      }
    }
    const waiting = this.written - this.read;
    if (!this.playing && waiting >= this.spare * this.hop) this.playing = true;
    if (this.playing && waiting < n) {
      this.playing = false;
      this.gaps += 1;
      this.spare = Math.min(MOST, this.spare + 1);
    }
    if (this.playing) {
      output.forEach((samples, c) => {
        for (let k = 0; k < n; k += 1) samples[k] = this.ring[c][(this.read + k) % this.size];
      });
      this.read += n;
    }
    this.frames += this.playing || this.gaps ? n : 0;
    this.quanta += 1;
    if (this.quanta % 128 === 0) {
      const { load, gaps } = this, seconds = this.frames / sampleRate;
      this.port.postMessage({ waiting: Math.max(0, this.written - this.read), load, gaps, seconds });
    }
    return true;
  }
}
registerProcessor("apollo-live", Live);
