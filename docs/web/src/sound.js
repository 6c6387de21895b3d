// Files to samples, what the model changes to what is heard, and samples to WAV.
import { bessel } from "./stream.js";

const MOST_CHANNELS = 2;
// The crossover of keep-below, as apollo_plugin.restore has it.
const CROSSOVER_HZ = 200, CROSSOVER_DB = 100;
// Samples of the input, of the change and of the download lie in memory at once.
const BYTES = 3 * 4;
const FADE = 0.012;
const ADTS = [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];

export const time = (seconds) => {
  const s = Math.round(seconds), mm = Math.floor(s / 60) % 60, hh = Math.floor(s / 3600);
  const two = (n) => String(n).padStart(2, "0");
  return hh ? `${hh}:${two(mm)}:${two(s % 60)}` : `${mm}:${two(s % 60)}`;
};

// Decodes a file at its own rate, or says in a sentence why not.
export async function decode(file) {
  const most = (navigator.deviceMemory || 4) * 2 ** 30 / 4;
  if (file.size > most) {
    throw new Error(`${file.name} is larger than this browser can hold; apollo-restore has no such limit.`);
  }
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Error(`${file.name} cannot be read any more: it was moved, changed or removed.`);
  }
  if (!bytes.byteLength) throw new Error(`${file.name} is empty.`);
  const own = rateOf(new Uint8Array(bytes)), rate = Math.min(192000, Math.max(8000, own || 44100));
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name} cannot be decoded by this browser; WAV, FLAC, MP3, Ogg and M4A mostly can.`);
  }
  const { numberOfChannels: channels, length, duration } = buffer;
  if (!length) throw new Error(`${file.name} holds no sound.`);
  if (channels > MOST_CHANNELS) {
    throw new Error(`${file.name} has ${channels} channels; this page takes mono and stereo, apollo-restore takes all.`);
  }
  if (length * channels * BYTES > most) {
    const fits = most / BYTES / channels / rate;
    throw new Error(`${file.name} is ${time(duration)} long; this browser's memory is enough for ${time(fits)}, apollo-restore has no such limit.`);
  }
  if (!Number.isFinite(peak(buffer))) throw new Error(`${file.name} holds samples that are no numbers.`);
  const khz = (hertz) => `${hertz / 1000} kHz`;
  const note = !own ? ` Its rate is not told; the browser brings it to ${khz(rate)}.`
    : own !== rate ? ` The browser brings it from ${khz(own)} to ${khz(rate)}.` : "";
  return { buffer, note };
}

// The largest magnitude; NaN where there is one.
export function peak(buffer) {
  let most = 0;
  for (let c = 0; c < buffer.numberOfChannels; c += 1) {
    for (const sample of buffer.getChannelData(c)) {
      const size = Math.abs(sample);
      if (!(size <= most)) most = size;
      if (size !== size) return NaN;
    }
  }
  return most;
}

// The sample rate that a file's first bytes tell, 0 where they do not; decoders would resample to
// another unasked.
export function rateOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at, n) => String.fromCharCode(...bytes.subarray(at, at + n));
  const find = (word, from = 0, to = bytes.length) => {
    const codes = [...word].map((letter) => letter.charCodeAt(0));
    for (let at = bytes.indexOf(codes[0], from); at >= 0 && at < to; at = bytes.indexOf(codes[0], at + 1)) {
      if (codes.every((code, k) => bytes[at + k] === code)) return at;
    }
    return -1;
  };
  try {
    if (text(0, 4) === "RIFF") return view.getUint32(find("fmt ", 12) + 12, true);
    const id3 = text(0, 3) === "ID3"
      ? 10 + bytes.subarray(6, 10).reduce((size, byte) => size * 128 + byte, 0) : 0;
    if (text(id3, 4) === "fLaC") return view.getUint32(id3 + 18) >>> 12;
    if (text(0, 4) === "OggS") {
      const vorbis = find("\x01vorbis", 0, 4096);
      return vorbis < 0 ? 48000 : view.getUint32(vorbis + 12, true);
    }
    if (text(4, 4) === "ftyp") { // the high half of its box's 16.16; HE-AAC has twice of what it says
      const sample = find("mp4a");
      return sample < 0 ? 48000 : Math.max(44100, view.getUint16(sample + 28));
    }
    if (view.getUint32(0) === 0x1a45dfa3) { // Matroska and WebM: Opus, or what the track tells
      if (find("A_OPUS", 0, 65536) >= 0) return 48000;
      for (const [id, read] of [["\xb5\x84", "getFloat32"], ["\xb5\x88", "getFloat64"]]) {
        const at = find(id, 0, 65536), rate = at < 0 ? 0 : view[read](at + 2);
        if (rate >= 8000 && rate <= 192000) return rate;
      }
      return 0;
    }
    for (let at = id3; at < Math.min(bytes.length - 4, id3 + 65536); at += 1) {
      if (bytes[at] !== 0xff || (bytes[at + 1] & 0xe0) !== 0xe0) continue;
      const version = bytes[at + 1] >> 3 & 3, layer = bytes[at + 1] >> 1 & 3, rate = bytes[at + 2] >> 2 & 3;
      if (layer === 0 && version & 2) { // AAC in ADTS; HE-AAC has twice of what it says
        const told = ADTS[bytes[at + 2] >> 2 & 15];
        if (!told) continue;
        return told <= 24000 ? 2 * told : told;
      }
      if (layer === 0 || version === 1 || rate === 3) continue;
      return [44100, 48000, 32000][rate] >> [2, 0, 1, 0][version];
    }
  } catch { /* too short for what it says it is: the decoder will say so */ }
  return 0;
}

// Taps of the crossover's high-pass, of linear phase, odd in number.
export function highPass(cutoff, rate) {
  const width = Math.PI * CROSSOVER_HZ / (rate / 2);
  const n = Math.ceil((CROSSOVER_DB - 7.95) / (2.285 * width) + 1) | 1, half = (n - 1) / 2;
  const taps = new Float32Array(n);
  if (cutoff + CROSSOVER_HZ >= rate / 2) return taps;
  const beta = 0.1102 * (CROSSOVER_DB - 8.7), edge = 2 * (cutoff + CROSSOVER_HZ / 2) / rate;
  let scale = 0;
  const exact = Float64Array.from(taps, (_, k) => {
    const t = k - half, x = Math.PI * edge * t;
    const low = edge * (t === 0 ? 1 : Math.sin(x) / x);
    const tap = ((t === 0) - low) * bessel(beta * Math.sqrt(1 - (t / half) ** 2)) / bessel(beta);
    scale += t % 2 ? -tap : tap;
    return tap;
  });
  return taps.map((_, k) => exact[k] / scale);
}

// What the change goes through on its way to the sum: the crossover, and how much of it.
export class Mixer {
  constructor(context, { keepBelow, mix }) {
    Object.assign(this, { context, keepBelow, rate: context.sampleRate });
    [this.input, this.output] = [context.createGain(), context.createGain()];
    this.output.gain.value = mix;
    this.branch = this.through(keepBelow);
  }
  // Every crossover of a rate is late by as much.
  get lead() { return (highPass(this.rate / 2, this.rate).length - 1) / 2 / this.rate; }
  through(keepBelow) {
    const { context, rate } = this, taps = highPass(keepBelow, rate);
    if (!keepBelow) taps.fill(0)[(taps.length - 1) / 2] = 1;
    const convolver = context.createConvolver(), gain = context.createGain();
    const buffer = context.createBuffer(1, taps.length, rate);
    buffer.copyToChannel(taps, 0);
    convolver.normalize = false;
    convolver.buffer = buffer;
    this.input.connect(convolver).connect(gain).connect(this.output);
    return { convolver, gain, seconds: taps.length / rate };
  }
  set({ keepBelow, mix }) {
    const now = this.context.currentTime;
    this.output.gain.setTargetAtTime(mix, now, FADE / 3);
    if (keepBelow === this.keepBelow) return;
    this.keepBelow = keepBelow;
    // The new one fades in once it has heard as much as it is long.
    const old = this.branch, fresh = this.branch = this.through(keepBelow);
    const begin = now + fresh.seconds, end = begin + FADE;
    for (const [gain, from, to] of [[fresh.gain.gain, 0, 1], [old.gain.gain, 1, 0]]) {
      gain.setValueAtTime(from, now);
      gain.setValueAtTime(from, begin);
      gain.linearRampToValueAtTime(to, end);
    }
    setTimeout(() => { this.input.disconnect(old.convolver); old.gain.disconnect(); },
      1000 * (end - now) + 100);
  }
}

// The restoration as a whole, channel by channel, through the crossover that is heard.
export async function mixed(input, change, settings) {
  const { numberOfChannels, length, sampleRate } = input;
  let part = change, skip = 0, mix = settings.mix;
  if (settings.keepBelow) {
    skip = (highPass(settings.keepBelow, sampleRate).length - 1) / 2;
    const context = new OfflineAudioContext(numberOfChannels, length + skip, sampleRate);
    const source = context.createBufferSource(), mixer = new Mixer(context, settings);
    source.buffer = change;
    source.connect(mixer.input);
    mixer.output.connect(context.destination);
    source.start();
    part = await context.startRendering();
    mix = 1;
  }
  return Array.from({ length: numberOfChannels }, (_, c) => {
    const out = part.getChannelData(c).slice(skip, skip + length), came = input.getChannelData(c);
    for (let k = 0; k < length; k += 1) out[k] = came[k] + mix * out[k];
    return out;
  });
}

// A WAV file of 32-bit floating point, or of 24 or 16 bit, and how many samples those clipped.
export function wav(channels, rate, bits) {
  const bytes = bits / 8, frame = bytes * channels.length, n = channels[0].length, isFloat = bits === 32;
  const head = new DataView(new ArrayBuffer(isFloat ? 58 : 44));
  const text = (at, word) => [...word].forEach((letter, k) => head.setUint8(at + k, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, head.byteLength - 8 + n * frame + (n * frame & 1), true);
  text(8, "WAVEfmt ");
  head.setUint32(16, isFloat ? 18 : 16, true);
  head.setUint16(20, isFloat ? 3 : 1, true);
  head.setUint16(22, channels.length, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, rate * frame, true);
  head.setUint16(32, frame, true);
  head.setUint16(34, bits, true);
  if (isFloat) {
    text(38, "fact");
    head.setUint32(42, 4, true);
    head.setUint32(46, n, true);
  }
  text(head.byteLength - 8, "data");
  head.setUint32(head.byteLength - 4, n * frame, true);
  const parts = [head], top = 2 ** (bits - 1);
  let clipped = 0;
  for (let start = 0; start < n; start += 65536) {
    const stop = Math.min(n, start + 65536), view = new DataView(new ArrayBuffer((stop - start) * frame));
    for (let k = start, at = 0; k < stop; k += 1) {
      for (const channel of channels) {
        if (isFloat) view.setFloat32(at, channel[k], true);
        else {
          const rounded = Math.round(channel[k] * top), value = Math.min(top - 1, Math.max(-top, rounded));
          clipped += Number(value !== rounded);
          view.setInt16(at + bytes - 2, value >> bits - 16, true);
          if (bits === 24) view.setUint8(at, value & 255);
        }
        at += bytes;
      }
    }
    parts.push(view);
  }
  if (n * frame & 1) parts.push(new Uint8Array(1));
  return { blob: new Blob(parts, { type: "audio/wav" }), clipped };
}
