// Sound that is going on: microphone or tab -> worklet -> worker -> worklet -> loudspeaker.

const REFUSED = {
  NotAllowedError: "It was not allowed.",
  NotFoundError: "There is no such source here.",
  NotSupportedError: "This browser cannot bring that source to 44.1 kHz.",
};

export async function live(worker, source, tell, ended) {
  let stream, context;
  const channel = new MessageChannel();
  const session = {
    stop() {
      worker.postMessage({ kind: "quiet" });
      stream?.getTracks().forEach((track) => track.stop());
      context?.close();
      context = null;
      if (session.running !== false) tell("");
      session.running = false;
      ended();
    },
    started: () => {},
  };
  try {
    if (!navigator.mediaDevices || (source === "tab" && !navigator.mediaDevices.getDisplayMedia)) {
      throw new Error("This browser gives pages no such sound.");
    }
    tell("Waiting for your permission.");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await (source === "tab"
      ? navigator.mediaDevices.getDisplayMedia({ video: true, audio: { ...plain, suppressLocalAudioPlayback: true } })
      : navigator.mediaDevices.getUserMedia({ audio: plain }));
    const [track] = stream.getAudioTracks();
    if (!track) throw new Error("No sound came with it: choose a tab, and “also share tab audio”.");
    track.addEventListener("ended", () => session.stop());
    const channels = Math.min(2, track.getSettings().channelCount || 1);
    context = new AudioContext({ sampleRate: 44100, latencyHint: "interactive" });
    await context.audioWorklet.addModule("worklet.js");
    session.started = (info) => {
      if (!context) return;
      const node = new AudioWorkletNode(context, "apollo-live", {
        outputChannelCount: [channels],
        channelCount: channels,
        channelCountMode: "explicit",
        processorOptions: { channels, hop: info.hop },
      });
      node.port.postMessage(channel.port2, [channel.port2]);
      node.port.onmessage = ({ data }) => say(data, info);
      context.createMediaStreamSource(stream).connect(node).connect(context.destination);
    };
    const say = ({ waiting, load, gaps, seconds }, info) => {
      if (!context) return; // stopped meanwhile
      const own = info.latency / info.sample_rate;
      const all = own + waiting / info.sample_rate + context.baseLatency + (context.outputLatency || 0);
      const ms = (time) => `${Math.round(1000 * time)} ms`;
      const slow = load > 0.9 || gaps > seconds
        ? " This machine is too slow for it." : "";
      tell(`Latency ${ms(all)}, of it the model’s ${ms(own)}. Load ${Math.round(100 * load)} %. `
        + `${gaps || "No"} gap${gaps === 1 ? "" : "s"} in ${Math.round(seconds)} s.${slow}`);
    };
    tell("Loading the model.");
    worker.postMessage({ kind: "live", port: channel.port1, channels }, [channel.port1]);
    await context.resume();
  } catch (error) {
    session.running = false;
    session.stop();
    tell(REFUSED[error.name] || error.message);
  }
  return session;
}
