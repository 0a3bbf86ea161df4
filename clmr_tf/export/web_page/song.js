// Songs: from a file or the microphone to windows.

import { MARGIN } from "./resampling.js";

// A browser decodes a song whole, so its length decides how much memory that takes: about 400 MB for 20 minutes.
const MAX_SECONDS = 20 * 60;
const MAX_BYTES = 400e6;
const MAX_RECORDING_SECONDS = 10 * 60;
const LENGTH_TIMEOUT_MS = 10_000;
// As in clmr_tf: -80 dB.
const SILENCE_PEAK = 1e-4;

export class Song {
  // Decodes a file, a File or Blob. Throws an Error with a sentence for the user.
  static async open(file, name, model) {
    const advice = "; use `python -m clmr_tf.tag` for it, or a shorter excerpt.";
    if (file.size > MAX_BYTES) {
      const size = Math.round(file.size / 1e6);
      throw new Error(`${name} has ${size} MB, and this page takes up to ${MAX_BYTES / 1e6}${advice}`);
    }
    const url = URL.createObjectURL(file);
    try {
      const undecodable = new Error(
        `${name} cannot be decoded: it is not audio, is damaged, or has a format that this browser does not know.`,
      );
      const seconds = await lengthOf(new Audio(), url).catch(() => Promise.reject(undecodable));
      if (!(seconds <= MAX_SECONDS)) {
        const length = Number.isFinite(seconds) ? `is ${clock(seconds)} long` : "does not say how long it is";
        throw new Error(`${name} ${length}, and this page takes songs of up to ${MAX_SECONDS / 60} minutes${advice}`);
      }
      const bytes = await file.arrayBuffer();
      const isDoubleRate = sampleRateOf(new DataView(bytes)) !== model.sample_rate_hz;
      // The audio is resampled to the rate of the context.
      const context = new OfflineAudioContext(1, 1, (isDoubleRate ? 2 : 1) * model.sample_rate_hz);
      const audio = await context.decodeAudioData(bytes).catch(() => Promise.reject(undecodable));
      return new Song(name, url, audio, isDoubleRate, model);
    } catch (error) {
      URL.revokeObjectURL(url);
      throw error;
    }
  }

  constructor(name, url, audio, isDoubleRate, model) {
    this.name = name;
    this.url = url;
    this.seconds = audio.duration;
    this.#isDoubleRate = isDoubleRate;
    const numChannels = audio.numberOfChannels;
    this.#channels = Array.from({ length: numChannels }, (_, channel) => audio.getChannelData(channel));
    this.#weights = model.mono_weights[numChannels - 1] ?? this.#channels.map(() => 1 / numChannels);
    this.#windowNumSamples = model.clip_num_samples;
    const numSamples = isDoubleRate ? Math.round(audio.length / 2) : audio.length;
    this.isPadded = numSamples < model.clip_num_samples;
    // As in clmr_tf: the remainder is dropped, and a song that is shorter than a window is padded with zeros.
    const numLater = Math.floor((numSamples - model.clip_num_samples) / model.hop_num_samples);
    const numWindows = this.isPadded ? 1 : 1 + numLater;
    this.startSamples = Array.from({ length: numWindows }, (_, index) => index * model.hop_num_samples);
  }

  #isDoubleRate;
  #channels;
  #weights;
  #windowNumSamples;
  #peak = 0;

  // Whether all windows so far are silent, so that their embedding means nothing.
  get isSilent() {
    return this.#peak <= SILENCE_PEAK;
  }

  // The samples of a window, mixed to mono; at double rate with the margins that `halveRate` needs.
  window(index) {
    const [factor, margin] = this.#isDoubleRate ? [2, MARGIN] : [1, 0];
    const start = factor * this.startSamples[index] - margin;
    const mono = new Float32Array(factor * this.#windowNumSamples + 2 * margin);
    const first = Math.max(start, 0);
    this.#channels.forEach((samples, channel) => {
      const weight = this.#weights[channel];
      const there = samples.subarray(first, start + mono.length);
      there.forEach((sample, place) => (mono[first - start + place] += weight * sample));
    });
    for (const sample of mono) this.#peak = Math.max(this.#peak, Math.abs(sample));
    return { samples: mono, isDoubleRate: this.#isDoubleRate };
  }
}

// The sample rate of a WAV, FLAC or Ogg Vorbis file by its header, which browsers do not tell; otherwise null.
function sampleRateOf(bytes) {
  const text = (start, length) =>
    start + length <= bytes.byteLength ? String.fromCharCode(...new Uint8Array(bytes.buffer, start, length)) : "";
  if (text(0, 4) === "RIFF" && text(12, 4) === "fmt " && text(24, 4)) return bytes.getUint32(24, true);
  if (text(0, 4) === "fLaC" && text(18, 4)) return bytes.getUint32(18) >>> 12;
  if (text(0, 4) === "OggS" && text(28, 7) === "\x01vorbis" && text(40, 4)) return bytes.getUint32(40, true);
  return null;
}

// Loads a URL into an audio element and returns its length in seconds; Infinity if that stays unknown.
export function lengthOf(audio, url) {
  return new Promise((resolve, reject) => {
    const done = () => {
      audio.ondurationchange = null;
      audio.currentTime = 0;
      resolve(audio.duration);
    };
    audio.onerror = reject;
    audio.onloadedmetadata = () => {
      if (Number.isFinite(audio.duration)) return done();
      // Recordings of a browser do not say how long they are; a jump beyond the end finds it.
      audio.ondurationchange = () => Number.isFinite(audio.duration) && done();
      audio.currentTime = Number.MAX_SAFE_INTEGER;
      setTimeout(() => resolve(Infinity), LENGTH_TIMEOUT_MS);
    };
    audio.preload = "metadata";
    audio.src = url;
  });
}

// Records from the microphone; `finished` is a promise of the recording, a Blob.
export class Recording {
  static isPossible = Boolean(navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder);

  static async start() {
    // Meant for speech, these change music.
    const unprocessed = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: unprocessed }).catch((error) => {
      throw new Error(`The microphone cannot be used (${error.message}); allow it for this page, or choose a file.`);
    });
    return new Recording(stream);
  }

  constructor(stream) {
    const parts = [];
    this.recorder = new MediaRecorder(stream);
    this.recorder.ondataavailable = ({ data }) => parts.push(data);
    this.finished = new Promise((resolve) => {
      this.recorder.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        resolve(new Blob(parts, { type: this.recorder.mimeType }));
      };
    });
    this.recorder.start();
    setTimeout(() => this.stop(), 1000 * MAX_RECORDING_SECONDS);
  }

  stop() {
    if (this.recorder.state !== "inactive") this.recorder.stop();
  }
}

// 75.4 as "1:15", 18000 as "5:00:00".
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const twoDigits = (number) => String(number).padStart(2, "0");
  return `${hours ? `${hours}:${twoDigits(minutes)}` : minutes}:${twoDigits(whole % 60)}`;
}
