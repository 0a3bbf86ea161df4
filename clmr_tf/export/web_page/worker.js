// Loads LiteRT.js and the network, checks the golden clips, then encodes one window per message.

import { halveRate } from "./resampling.js";

let network;

self.onmessage = async ({ data: { id, model, samples, isDoubleRate } }) => {
  try {
    const result = model ? await load(model) : await network.encode(isDoubleRate ? halveRate(samples) : samples);
    self.postMessage({ id, result });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
};

async function load(model) {
  const files = Object.entries(model.files).map(([name, integrity]) => read(name, integrity));
  const [litert, weights, golden] = await Promise.all([loadRuntime(model.runtime), ...files]);
  const expected = goldenOutputs(golden, model);
  const reports = [];
  for (const accelerator of navigator.gpu ? ["wasm", "webgpu"] : ["wasm"]) {
    try {
      const candidate = await Network.compile(litert, new Uint8Array(weights), accelerator);
      const report = await compare(candidate, expected, model.golden);
      reports.push({ ...report, accelerator, candidate });
    } catch (error) {
      // A damaged network must be reported; a GPU that cannot run it is not needed.
      if (accelerator === "wasm") throw new Error(`The model cannot be run (${error.message || error}).`);
    }
  }
  const exact = reports.filter((report) => report.isExact).sort((one, other) => one.milliseconds - other.milliseconds);
  const { candidate, ...best } = exact[0] ?? reports[0];
  for (const report of reports) if (report.candidate !== candidate) report.candidate.delete();
  network = candidate;
  return best;
}

async function read(name, integrity) {
  const url = new URL(name, import.meta.url);
  const response = await fetch(url, { integrity }).catch(() => null);
  if (!response?.ok) {
    throw new Error(
      `${name} cannot be fetched, or is not the file of the export; check the connection, or export the page again.`,
    );
  }
  return response.arrayBuffer();
}

// LiteRT.js loads its parts with an import map and script elements, which workers do not have. Here its files are
// fetched, which also checks their hashes, and imported from memory.
async function loadRuntime({ base, library, loader, wasm }) {
  const fetched = [library, loader, wasm].map(({ name, integrity }) => read(base + name, integrity));
  const [librarySource, loaderSource, wasmBinary] = await Promise.all(fetched);
  const { default: createModule } = await importSource([loaderSource, "\nexport default ModuleFactory;"]);
  self.createLiteRtModule = () => createModule({ wasmBinary });
  const utilities = "export const createWasmLib = async (Library) => new Library(await self.createLiteRtModule());";
  const source = new TextDecoder().decode(librarySource);
  const litert = await importSource([source.replace('"@litertjs/wasm-utils"', JSON.stringify(urlOf([utilities])))]);
  await litert.loadLiteRt(base);
  return litert;
}

const urlOf = (parts) => URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
const importSource = (parts) => import(urlOf(parts));

class Network {
  static async compile(litert, weights, accelerator) {
    const compiled = await litert.loadAndCompile(weights, { accelerator, gpuOptions: { precision: "fp32" } });
    if (compiled.options.accelerator !== accelerator) {
      compiled.delete();
      throw new Error(`not all of it runs on ${accelerator}`);
    }
    return new Network(litert, compiled);
  }

  constructor(litert, compiled) {
    this.litert = litert;
    this.compiled = compiled;
  }

  async encode(samples) {
    const input = new this.litert.Tensor(samples, [1, samples.length]);
    const outputs = await this.compiled.run({ audio: input });
    input.delete();
    const arrays = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      arrays[name] = await tensor.data();
      tensor.delete();
    }
    return arrays;
  }

  delete() {
    this.compiled.delete();
  }
}

// golden.bin holds the audio of all clips, then their embeddings, then their tags.
function goldenOutputs(buffer, model) {
  const lengths = [model.clip_num_samples, model.embedding_dim, model.tag_names.length];
  let offset = 0;
  const [audio, embedding, tags] = lengths.map((length) =>
    Array.from({ length: model.golden.num_clips }, () => {
      const row = new Float32Array(buffer, 4 * offset, length);
      offset += length;
      return row;
    }),
  );
  return { audio, embedding, tags };
}

async function compare(candidate, golden, limits) {
  const report = { largestError: 0, leastCosine: 1, largestTagError: 0, milliseconds: Infinity };
  // The largest value of all clips, as in Python.
  const scale = Math.max(...golden.embedding.flatMap((row) => [...row].map(Math.abs)), 1e-12);
  for (const [clip, audio] of golden.audio.entries()) {
    const start = performance.now();
    const { embedding, tags = [] } = await candidate.encode(audio.slice());
    report.milliseconds = Math.min(report.milliseconds, performance.now() - start);
    report.largestError = Math.max(report.largestError, difference(embedding, golden.embedding[clip]) / scale);
    report.leastCosine = Math.min(report.leastCosine, cosine(embedding, golden.embedding[clip]));
    report.largestTagError = Math.max(report.largestTagError, difference(tags, golden.tags[clip]));
  }
  report.isExact =
    report.largestError <= limits.max_error &&
    report.leastCosine >= limits.min_cosine &&
    report.largestTagError <= limits.max_tag_error;
  return report;
}

// NaN if a value is, or if the lengths differ; Math.max keeps NaN.
function difference(received, expected) {
  if (received.length !== expected.length) return NaN;
  return expected.reduce((largest, value, index) => Math.max(largest, Math.abs(received[index] - value)), 0);
}

function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}
