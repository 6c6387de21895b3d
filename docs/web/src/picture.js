// Spectrograms that grow, over the colours and decibels of the listening page.
import { RANGE_DB, STOPS } from "./shared.js";

const SIZE = 2048, COLUMNS = 720, ROWS = 256;
const palette = (() => {
  const stops = STOPS.split(" ").map((s) => [0, 2, 4].map((i) => parseInt(s.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, k) => {
    const place = k / 255 * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(place));
    return stops[low].map((a, c) => Math.round(a + (stops[low + 1][c] - a) * (place - low)));
  });
})();
const hann = Float64Array.from({ length: SIZE }, (_, k) => 0.5 - 0.5 * Math.cos(2 * Math.PI * k / SIZE));

function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i += 1) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k += 1) {
      const c = Math.cos(2 * Math.PI * k / size), s = -Math.sin(2 * Math.PI * k / size);
      for (let a = k; a < n; a += size) {
        const b = a + size / 2, x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y; re[a] += x; im[a] += y;
      }
    }
  }
}

// Both channels at once, as real and imaginary part.
function spectrum(buffer, start) {
  const parts = [0, 1].map((c) => {
    const part = new Float64Array(SIZE);
    if (c >= buffer.numberOfChannels) return part;
    const samples = buffer.getChannelData(c);
    for (let k = Math.max(0, -start); k < SIZE && start + k < samples.length; k += 1) {
      part[k] = samples[start + k] * hann[k];
    }
    return part;
  });
  fft(...parts);
  return parts;
}

export class Pictures {
  // Canvases of the input and of the restoration.
  constructor(canvases, input, change) {
    Object.assign(this, { input, change, done: 0, drawn: 0, settings: { keepBelow: 0, mix: 1 } });
    this.columns = Math.min(COLUMNS, Math.max(1, Math.floor(input.length / 256)));
    this.contexts = canvases.map((canvas) => {
      canvas.width = this.columns;
      canvas.height = ROWS;
      return canvas.getContext("2d");
    });
    let loudest = -Infinity;
    for (let column = 0; column < this.columns; column += 1) {
      this.spectra(column, [0]).forEach((levels) => { loudest = Math.max(loudest, ...levels); });
    }
    this.top = 5 * Math.ceil((Number.isFinite(loudest) ? loudest : 0) / 5);
    for (let column = 0; column < this.columns; column += 1) this.draw(column, 0);
  }
  at(column) { return Math.floor((column + 0.5) * this.input.length / this.columns); }
  // Decibels of a column's rows, re a full-scale sine, of the versions that are asked for.
  spectra(column, versions) {
    const start = this.at(column) - SIZE / 2, came = spectrum(this.input, start);
    const { keepBelow, mix } = this.settings, hz = this.input.sampleRate / SIZE;
    const norm = (4 / SIZE) ** 2 / 2 / this.input.numberOfChannels;
    return versions.map((version) => {
      const [re, im] = version ? came.map((part) => part.slice()) : came;
      if (version) {
        spectrum(this.change, start).forEach((part, c) => {
          const sum = c ? im : re;
          for (let k = 0; k < SIZE; k += 1) {
            const f = Math.min(k, SIZE - k) * hz;
            const passed = keepBelow ? Math.min(1, Math.max(0, (f - keepBelow) / 200)) : 1;
            sum[k] += mix * passed * part[k];
          }
        });
      }
      const bins = SIZE / 2 / ROWS;
      return Array.from({ length: ROWS }, (_, row) => {
        let power = 0;
        for (let k = row * bins; k < (row + 1) * bins; k += 1) {
          const other = (SIZE - k) % SIZE;
          power = Math.max(power, re[k] ** 2 + im[k] ** 2 + re[other] ** 2 + im[other] ** 2);
        }
        return 10 * Math.log10(norm * power + 1e-20);
      });
    });
  }
  draw(column, version) {
    const [levels] = this.spectra(column, [version]), image = new ImageData(1, ROWS);
    levels.forEach((level, row) => {
      const share = Math.min(1, Math.max(0, (level - this.top + RANGE_DB) / RANGE_DB));
      image.data.set([...palette[Math.round(255 * share)], 255], 4 * (ROWS - 1 - row));
    });
    this.contexts[version].putImageData(image, column, 0);
  }
  // The restoration up to a sample that is done.
  grow(done) {
    this.done = done;
    const whole = done >= this.input.length;
    for (; this.drawn < this.columns && (whole || this.at(this.drawn) + SIZE / 2 <= done); this.drawn += 1) {
      this.draw(this.drawn, 1);
    }
  }
  set(settings) {
    this.settings = settings;
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.drawn = 0;
      this.grow(this.done);
    });
  }
}
