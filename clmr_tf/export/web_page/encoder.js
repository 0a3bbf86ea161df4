// The network, which runs in a worker so that the page stays responsive.

// The smallest module with a SIMD instruction, i8x16.splat.
const SIMD_MODULE = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
];

export class Encoder {
  #worker;
  #waiting = new Map();
  #count = 0;

  constructor() {
    // A worker that is made from a blob has the page's Content-Security-Policy; one made from a file has none.
    const source = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.#worker = new Worker(url, { type: "module" });
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(result);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message || "worker.js cannot be loaded";
      const error = new Error(`The worker stopped (${reason}); reload the page.`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
  }

  // Loads runtime and network, and compares the golden clips. Returns how they compare, and the time of a window.
  load(model) {
    if (!globalThis.WebAssembly?.validate(new Uint8Array(SIMD_MODULE))) {
      throw new Error("This browser lacks WebAssembly with SIMD, so it cannot run the model; use a newer one.");
    }
    return this.#ask({ model });
  }

  // Encodes a window of `Song.window`, which is given away: { embedding, tags }, Float32Arrays; no tags without a head.
  encode({ samples, isDoubleRate }) {
    return this.#ask({ samples, isDoubleRate }, [samples.buffer]);
  }

  #ask(question, given = []) {
    return new Promise((resolve, reject) => {
      const id = this.#count++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...question }, given);
    });
  }
}
