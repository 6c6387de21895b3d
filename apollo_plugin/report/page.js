"use strict";
(() => {
  // Gains cross in this many seconds: too short to hear, too long to click.
  const RAMP = 0.012;
  const SEEK_SECONDS = 1;
  const say = (text) => { document.getElementById("says").textContent = text; };
  const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

  // All versions play at once from one clock, looped; only their gains change. A version is the sum
  // of parts: a buffer, and what it goes through ({input, output}), ahead of time by `lead` seconds.
  class Deck {
    constructor(context, versions) {
      this.context = context;
      this.versions = versions;
      this.duration = versions[0][0].buffer.duration;
      this.selected = 0;
      this.sources = null;
      this.offset = 0;
      this.gains = versions.map((parts, index) => {
        const gain = context.createGain();
        gain.gain.value = index === 0 ? 1 : 0;
        gain.connect(context.destination);
        for (const { through } of parts) if (through) through.output.connect(gain);
        return gain;
      });
    }
    get playing() { return this.sources !== null; }
    get position() {
      if (!this.playing) return this.offset;
      const run = Math.max(0, this.context.currentTime - this.began);
      return (this.offset + run) % this.duration;
    }
    start(delay = 0.02) {
      this.began = this.context.currentTime + delay;
      this.sources = this.versions.flatMap((parts, index) => parts.map((part) => {
        const source = this.context.createBufferSource();
        source.buffer = part.buffer;
        source.loop = true;
        source.connect(part.through ? part.through.input : this.gains[index]);
        source.start(this.began, (this.offset + (part.lead || 0)) % this.duration);
        return source;
      }));
    }
    stop() {
      if (!this.playing) return;
      this.offset = this.position;
      for (const source of this.sources) { source.stop(); source.disconnect(); }
      this.sources = null;
    }
    seek(seconds) {
      const playing = this.playing;
      this.stop();
      this.offset = Math.min(Math.max(0, seconds), Math.max(0, this.duration - 0.001));
      if (playing) this.start();
    }
    select(index) {
      const now = this.context.currentTime;
      this.selected = index;
      this.gains.forEach((node, other) => {
        const gain = node.gain;
        // A switch may come while the one before still fades.
        const value = gain.value;
        gain.cancelScheduledValues(now);
        gain.setValueAtTime(value, now);
        gain.linearRampToValueAtTime(other === index ? 1 : 0, now + RAMP);
      });
    }
  }

  // The sound that lies in a section of the page: its labels, its length, and how its deck is opened.
  function embedded(section) {
    const data = JSON.parse(section.querySelector("script").textContent);
    const open = async () => {
      const context = contextFor(data.rate);
      const buffers = await Promise.all(data.audio.map((text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return context.decodeAudioData(bytes.buffer);
      }));
      return new Deck(context, buffers.map((buffer) => [{ buffer }]));
    };
    return { labels: data.labels, seconds: data.seconds, open };
  }

  class Player {
    constructor(section, sound) {
      this.section = section;
      this.data = sound;
      this.deck = null;
      this.selected = 0;
      this.offset = 0;
      // What buttons 1, 2 and 3 play; a blind test deals them anew.
      this.order = this.data.labels.map((_, index) => index);
      this.buttons = [...section.querySelectorAll(".versions button")];
      this.slider = section.querySelector(".seek");
      this.time = section.querySelector(".clock");
      this.heads = [...section.querySelectorAll(".head")];
      this.figures = [...section.querySelectorAll("[data-version]")];
      this.buttons.forEach((button, index) => button.addEventListener("click", (event) => {
        this.select(index);
        // After the mouse, space plays and pauses; from the keyboard it is the button's.
        if (event.detail) button.blur();
      }));
      section.querySelector(".play").addEventListener("click", () => this.toggle());
      this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
      for (const head of this.heads) {
        const field = head.parentElement, version = head.closest("figure").dataset.version;
        field.addEventListener("click", (event) => {
          const box = field.getBoundingClientRect();
          this.seek((event.clientX - box.left) / box.width * this.duration);
          if (!this.blind && version !== undefined) this.select(Number(version));
        });
      }
      for (const kind of ["pointerdown", "focusin"]) section.addEventListener(kind, () => makeCurrent(this));
      this.prepareTrial();
      this.draw();
    }
    get duration() { return this.data.seconds; }
    get playing() { return this.deck !== null && this.deck.playing; }
    get position() { return this.deck ? this.deck.position : this.offset; }

    async load() {
      if (this.deck) return;
      if (!this.loading) {
        say("Decoding");
        this.loading = (async () => {
          this.deck = await this.data.open();
          this.deck.offset = this.offset;
          if (this.order[this.selected]) this.deck.select(this.order[this.selected]);
        })();
      }
      try { await this.loading; } finally { this.loading = null; }
    }
    async toggle() {
      makeCurrent(this);
      if (this.playing) return this.pause();
      try {
        await this.load();
        await this.deck.context.resume();
      } catch (error) {
        say("This browser cannot play the sound: " + error.message);
        return;
      }
      if (this.playing) return;
      for (const player of players) if (player !== this) { player.pause(true); player.release(); }
      this.deck.start();
      this.section.classList.add("playing");
      this.section.querySelector(".play").setAttribute("aria-label", "Pause");
      say("Playing " + this.name(this.selected));
      this.tick();
    }
    pause(quietly) {
      if (!this.playing) return;
      this.deck.stop();
      this.section.classList.remove("playing");
      this.section.querySelector(".play").setAttribute("aria-label", "Play");
      if (!quietly) say("Paused at " + clock(this.position));
      this.draw();
    }
    release() {
      // Decoded sound is large; another item's is not kept.
      if (this.deck) { this.offset = this.deck.position; this.deck = null; }
    }
    seek(seconds) {
      makeCurrent(this);
      if (this.deck) this.deck.seek(seconds);
      else this.offset = Math.min(Math.max(0, seconds), this.duration);
      this.draw();
    }
    select(index) {
      if (index >= this.order.length) return;
      makeCurrent(this);
      this.selected = index;
      if (this.deck) this.deck.select(this.order[index]);
      say(this.name(index));
      this.draw();
    }
    name(index) { return this.blind ? "ABX"[index] : this.data.labels[index]; }
    draw() {
      const position = Math.min(this.position, this.duration);
      this.slider.value = position;
      this.slider.setAttribute("aria-valuetext", `${position.toFixed(1)} of ${this.duration.toFixed(1)} seconds`);
      this.time.textContent = clock(position) + " / " + clock(this.duration);
      for (const head of this.heads) head.style.left = 100 * position / this.duration + "%";
      this.buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === this.selected));
      for (const figure of this.figures) {
        figure.classList.toggle("hears", !this.blind && Number(figure.dataset.version) === this.order[this.selected]);
      }
    }
    tick() {
      if (!this.playing) return;
      this.draw();
      requestAnimationFrame(() => this.tick());
    }

    // A/B/X: X is A or B by chance; the third button plays it.
    prepareTrial() {
      const trial = this.section.querySelector("details");
      const [isA, isB] = trial.querySelectorAll("[data-answer]");
      const output = trial.querySelector("output");
      let right = 0, total = 0;
      const deal = () => {
        this.order = [0, 1, crypto.getRandomValues(new Uint8Array(1))[0] & 1];
        this.select(this.selected);
      };
      const answer = (guess) => {
        const truth = this.order[2];
        total += 1;
        right += Number(guess === truth);
        const text = `X was ${"AB"[truth]} (${this.data.labels[truth]}). ${right} of ${total} right; `
          + `guessing does as well with a chance of ${(100 * chance(right, total)).toFixed(0)} %.`;
        output.textContent = text;
        deal();
        say(text);
      };
      isA.addEventListener("click", () => answer(0));
      isB.addEventListener("click", () => answer(1));
      trial.addEventListener("toggle", () => {
        this.blind = trial.open;
        right = total = 0;
        output.textContent = "";
        const extra = this.buttons[2];
        extra.hidden = !this.blind && this.data.labels.length < 3;
        this.buttons.forEach((button, index) => {
          button.querySelector("span").textContent = this.blind ? "ABX"[index] : this.data.labels[index];
        });
        this.selected = 0;
        if (this.blind) deal();
        else {
          this.order = this.data.labels.map((_, index) => index);
          this.select(0);
        }
      });
    }
  }

  // Probability of at least so many right answers by tossing a coin.
  function chance(right, total) {
    let sum = 0, ways = 1;
    for (let k = 0; k <= total; k += 1) {
      if (k >= right) sum += ways;
      ways = ways * (total - k) / (k + 1);
    }
    return sum / 2 ** total;
  }

  const contexts = new Map();
  function contextFor(rate) {
    if (!contexts.has(rate)) {
      let context;
      // At the file's own rate nothing is resampled; not every browser takes every rate.
      try { context = new AudioContext({ sampleRate: rate }); } catch { context = new AudioContext(); }
      contexts.set(rate, context);
    }
    return contexts.get(rate);
  }

  let current = null;
  function makeCurrent(player) {
    if (current === player) return;
    if (current) current.section.classList.remove("current");
    current = player;
    if (players.length > 1) player.section.classList.add("current");
  }

  const players = [];
  for (const section of document.querySelectorAll("section.item")) players.push(new Player(section, embedded(section)));
  if (players.length) makeCurrent(players[0]);

  // A page that makes its sounds itself has one player at a time.
  function show(section, sound) {
    for (const player of players.splice(0)) { player.pause(true); player.release(); }
    current = null;
    const player = new Player(section, sound);
    players.push(player);
    makeCurrent(player);
    return player;
  }

  document.addEventListener("keydown", (event) => {
    if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
    // Other sliders and choices keep their keys.
    if (event.target.closest("input:not(.seek), select")) return;
    const onButton = event.target.closest("button, summary, a");
    const keys = {
      "1": () => current.select(0),
      "2": () => current.select(1),
      "3": () => current.select(2),
      ArrowLeft: () => current.seek(current.position - SEEK_SECONDS),
      ArrowRight: () => current.seek(current.position + SEEK_SECONDS),
      Home: () => current.seek(0),
    };
    // On a button, space is that button's.
    if (!onButton) keys[" "] = () => current.toggle();
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  globalThis.apollo = { Deck, players, show, contextFor, say, clock };
})();
