// What is compared: each engine, loaded by its own documented way, as a function from raw pixels to logits. Of the browser
// and of node; one thread each.
const node = typeof process !== "undefined";
const place = (path) => (node ? new URL(`../${path}`, import.meta.url).href : `/${path}`);

async function bytes(path) {
  if (!node) return new Uint8Array(await (await fetch(place(path))).arrayBuffer());
  return new Uint8Array(await (await import("node:fs/promises")).readFile(new URL(place(path))));
}

async function ours({ folder }) {
  const network = await (await import(place(`${folder}/int8.web/index.js`))).load();
  return (image) => network.logits(image);
}

const onnxruntime = (precision) => async ({ folder, shape }) => {
  const file = node ? "ort.node.min.mjs" : "ort.wasm.min.mjs";
  const ort = await import(place(`node_modules/onnxruntime-web/dist/${file}`));
  ort.env.wasm.numThreads = 1;
  if (!node) ort.env.wasm.wasmPaths = place("node_modules/onnxruntime-web/dist/");
  const session = await ort.InferenceSession.create(await bytes(`${folder}/${precision}.onnx`), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
  });
  return async (image) => (await session.run({ image: new ort.Tensor("uint8", image, [1, ...shape]) })).logits.data;
};

async function litert({ folder, shape }) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import("@litertjs/core");
  globalThis.liteRt ??= loadLiteRt(place("node_modules/@litertjs/core/wasm/"));
  await globalThis.liteRt;
  const model = await loadAndCompile(place(`${folder}/int8.tflite`), { accelerator: "wasm", cpuOptions: { numThreads: 1 } });
  return async (image) => {
    const tensor = new Tensor(image, [1, ...shape]);
    const [output] = await model.run(tensor);
    const logits = output.toTypedArray().slice();
    tensor.delete();
    output.delete();
    return logits;
  };
}

// tfjs reads no file of ours: the same layers with random weights, in float, which is all it has.
async function tfjs({ layers, shape }) {
  if (!globalThis.tf) {
    for (const file of ["tfjs/dist/tf.min.js", "tfjs-backend-wasm/dist/tf-backend-wasm.min.js"])
      await new Promise((done) => {
        const script = document.createElement("script");
        script.src = place(`node_modules/@tensorflow/${file}`);
        script.onload = done;
        document.head.append(script);
      });
    tf.wasm.setWasmPaths(place("node_modules/@tensorflow/tfjs-backend-wasm/dist/"));
    tf.wasm.setThreadsCount(1);
    await tf.setBackend("wasm");
  }
  const model = tf.sequential();
  const common = { padding: "same", activation: "relu" };
  for (const [number, { kind, kernel, stride, outputs }] of layers.entries()) {
    const first = number ? {} : { inputShape: shape };
    if (kind === "depthwise")
      model.add(tf.layers.depthwiseConv2d({ kernelSize: kernel, strides: stride, ...common, ...first }));
    else if (kind === "pool") model.add(tf.layers.globalAveragePooling2d({}));
    else if (kind === "linear") model.add(tf.layers.dense({ units: outputs }));
    else model.add(tf.layers.conv2d({ filters: outputs, kernelSize: kernel, strides: stride, ...common, ...first }));
  }
  return async (image) => {
    const output = tf.tidy(() => model.predict(tf.tensor(image, [1, ...shape], "float32").sub(128).div(64)));
    const logits = await output.data();
    output.dispose();
    return logits;
  };
}

export const ENGINES = {
  mnv1deploy: ours,
  "onnxruntime-web int8": onnxruntime("int8"),
  "onnxruntime-web fp32": onnxruntime("fp32"),
  ...(node ? {} : { "LiteRT.js int8": litert, "tfjs-backend-wasm fp32": tfjs }),
};

const CALLS = 10; // of which a clock of 0.1 ms, a browser's, sees the mean

/** Milliseconds until an engine's first answer, nothing of it being there before. */
export async function first(name, network) {
  const start = performance.now();
  const run = await ENGINES[name](network);
  const logits = await run(pixels(network));
  return { milliseconds: performance.now() - start, logits: [...logits] };
}

/** Milliseconds a picture of every engine, in turns: the means of CALLS calls. */
export async function latencies(network, rounds) {
  const image = pixels(network);
  const runs = {};
  const found = {};
  for (const [name, make] of Object.entries(ENGINES)) {
    runs[name] = await make(network);
    found[name] = [];
    for (let call = 0; call < 200; call++) await runs[name](image);
  }
  for (let round = 0; round < rounds; round++)
    for (const [name, run] of Object.entries(runs)) {
      const start = performance.now();
      for (let call = 0; call < CALLS; call++) await run(image);
      found[name].push((performance.now() - start) / CALLS);
    }
  return found;
}

function pixels({ shape }) {
  let state = 1;
  const next = () => (state = (state * 1103515245 + 12345) % 2147483648) >> 16;
  return Uint8Array.from({ length: shape.reduce((a, b) => a * b) }, () => next() & 255);
}
