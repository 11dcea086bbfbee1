// The network in the browser, in a worker, in node, deno and bun. It asks for no file but the WebAssembly beside it.

// () -> v128, the smallest module that only an engine with SIMD takes: i32.const 0, i8x16.splat
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

/** Whether this engine has the instructions of mobilenetv1.wasm; without them mobilenetv1-plain.wasm is taken. */
export const simd = WebAssembly.validate(new Uint8Array(SIMD));

/** The network, ready to run. `source`: the .wasm as bytes or its address; by default the one beside this file. */
export async function load(source) {
  source ??= simd
    ? new URL("./mobilenetv1.wasm", import.meta.url)
    : new URL("./mobilenetv1-plain.wasm", import.meta.url);
  const bytes = source instanceof URL || typeof source === "string" ? await read(source) : source;
  const { instance } = await WebAssembly.instantiate(bytes, {});
  return new Classifier(instance.exports);
}

async function read(address) {
  const url = new URL(address, import.meta.url);
  if (url.protocol === "file:" && globalThis.process?.versions?.node) {
    const files = "node:fs/promises"; // not for bundlers: a browser never comes here
    return (await import(/* @vite-ignore */ /* webpackIgnore: true */ files)).readFile(url);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.href} cannot be had: ${response.status} ${response.statusText}.`);
  return response.arrayBuffer();
}

class Classifier {
  #exports;
  #canvas;

  constructor(exports) {
    this.#exports = exports;
    /** Height and width of the network's picture, in pixels. */
    this.size = exports.image_size();
    /** 3, which is RGB, or 1, which is grey. */
    this.colours = exports.image_colours();
    /** Class names, in the order of the logits. */
    this.labels = Array.from({ length: exports.class_count() }, (_, number) => this.#text(exports.class_name(number)));
    Object.freeze(this.labels);
    /** That logits are divided by before they become probabilities, so that these are calibrated. */
    this.temperature = exports.temperature();
  }

  /** The `top` likeliest classes of one picture, the likeliest first. */
  classify(picture, top = this.labels.length) {
    const logits = this.logits(picture);
    if (logits.length !== this.labels.length) throw new TypeError("This is a batch; logits() takes it.");
    const largest = Math.max(...logits);
    const shares = Array.from(logits, (logit) => Math.exp((logit - largest) / this.temperature));
    const total = shares.reduce((sum, share) => sum + share);
    return this.labels
      .map((label, number) => ({ label, probability: shares[number] / total }))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, top);
  }

  /** What classify() says of many pictures. */
  classifyAll(pictures, top) {
    return Array.from(pictures, (picture) => this.classify(picture, top));
  }

  /** float32 [pictures * classes]; of a Uint8Array of several pictures one after another, else of one. */
  logits(picture) {
    if (!(picture instanceof Uint8Array)) {
      this.#fit(picture);
      return this.#run().slice();
    }
    const bytes = this.#image().length;
    if (!picture.length || picture.length % bytes)
      throw new TypeError(
        `Raw pixels are ${this.size} x ${this.size} x ${this.colours} bytes a picture; these are ${picture.length}.`,
      );
    const logits = new Float32Array((picture.length / bytes) * this.labels.length);
    for (let start = 0, at = 0; start < picture.length; start += bytes, at += this.labels.length) {
      this.#image().set(picture.subarray(start, start + bytes));
      logits.set(this.#run(), at);
    }
    return logits;
  }

  /** What the network sees of a picture: uint8 [size * size * colours]. */
  pixels(picture) {
    this.#fit(picture);
    return this.#image().slice();
  }

  #fit(picture) {
    const { data, width, height } = this.#rgba(picture);
    const address = this.#exports.picture_address(width, height);
    if (!address) throw new RangeError(`A picture of ${width} x ${height} pixels does not fit the memory.`);
    new Uint8Array(this.#exports.memory.buffer, address >>> 0, data.length).set(data);
    this.#exports.read_picture(width, height);
  }

  #rgba(picture) {
    if (picture?.data && picture.data.length === picture.width * picture.height * 4) return picture;
    const width = picture?.videoWidth ?? picture?.naturalWidth ?? picture?.width;
    const height = picture?.videoHeight ?? picture?.naturalHeight ?? picture?.height;
    if (!width || !height) throw new TypeError("This is no picture, or one that has not arrived yet.");
    this.#canvas ??= globalThis.OffscreenCanvas ? new OffscreenCanvas(1, 1) : document.createElement("canvas");
    this.#canvas.width = width; // which clears it, too
    this.#canvas.height = height;
    const context = this.#canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(picture, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }

  // views are made anew each time: they end when the memory grows
  #image() {
    const bytes = this.size * this.size * this.colours;
    return new Uint8Array(this.#exports.memory.buffer, this.#exports.image_address(), bytes);
  }

  #run() {
    this.#exports.run();
    return new Float32Array(this.#exports.memory.buffer, this.#exports.logits_address(), this.labels.length);
  }

  #text(start) {
    const memory = new Uint8Array(this.#exports.memory.buffer);
    return new TextDecoder().decode(memory.subarray(start, memory.indexOf(0, start)));
  }
}

/** A file's picture as it is: turned as its EXIF says, its colours not converted. Rejects with a sentence. */
export async function decode(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch (error) {
    throw new Error(`${file.name || "This"} cannot be decoded as a picture here.`, { cause: error });
  }
}
