// The page: pictures from files, drops, the clipboard or the camera, and what the network says of them.
import { decode, load } from "./index.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 5; // bars

let network;
let filming = 0; // the number of the camera's run that is on; 0 if it is off
let runs = 0;

function tell(text, wrong = false) {
  $("status").className = wrong ? "wrong" : "";
  $("status").textContent = text;
}

/** A picture to what the network sees of it and says, and how long both took. */
async function ask(picture) {
  const start = performance.now();
  const pixels = await network.pixels(picture);
  const fitted = performance.now();
  const answers = await network.classify(pixels, SHOWN);
  return { pixels, answers, fitting: fitted - start, running: performance.now() - fitted };
}

function show(picture, name, { pixels, answers, fitting, running }) {
  draw($("shown"), picture);
  const here = pixels instanceof Uint8Array; // and not on a server
  if (here) drawPixels($("seen"), pixels);
  $("seen").closest("figure").hidden = !here;
  $("name").textContent = name;
  const [first] = answers;
  const text = `${first.label}, ${percent(first.probability)}`;
  if ($("label").textContent !== text) $("label").textContent = text;
  $("bars").replaceChildren(...answers.map(bar));
  $("time").textContent = here
    ? `${running.toFixed(1)} ms for the network, ${fitting.toFixed(1)} ms for its picture`
    : `${(fitting + running).toFixed(1)} ms until the server's answer`;
  $("answer").hidden = false;
}

const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`; // which no line ends in

function bar({ label, probability }) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  const share = document.createElement("span");
  const meter = document.createElement("meter");
  name.textContent = label;
  share.textContent = percent(probability);
  meter.value = probability;
  meter.setAttribute("aria-label", label);
  item.append(name, share, meter);
  return item;
}

/** Not larger than a screen needs. */
function draw(canvas, picture) {
  const width = picture.videoWidth ?? picture.width;
  const height = picture.videoHeight ?? picture.height;
  const scale = Math.min(1, 640 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
}

function drawPixels(canvas, pixels) {
  const { size, colours } = network;
  const image = new ImageData(size, size);
  for (let at = 0; at < size * size; at++) {
    for (let k = 0; k < 3; k++) image.data[4 * at + k] = pixels[colours * at + (colours === 3 ? k : 0)];
    image.data[4 * at + 3] = 255;
  }
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** One after another, so that a thousand pictures need the memory of one. */
async function classifyFiles(files) {
  if (!files.length || !network) return;
  stopCamera();
  const run = ++runs;
  const wrong = [];
  $("list").replaceChildren();
  $("many").hidden = files.length < 2;
  $("progress").hidden = files.length < 2;
  $("progress").max = files.length;
  let shown = false;
  for (const [number, file] of files.entries()) {
    $("progress").value = number;
    if (files.length > 1) tell(`${number} of ${files.length} pictures.`);
    try {
      const picture = await decode(file);
      const answer = await ask(picture);
      if (run !== runs) return; // others came
      if (!shown) show(picture, file.name, answer);
      if (files.length > 1) list(file, answer, !shown);
      shown = true;
      picture.close();
    } catch (error) {
      wrong.push(error.message);
    }
    if (number % 8 === 7) await new Promise((done) => setTimeout(done)); // the page stays awake
  }
  $("progress").hidden = true;
  $("answer").hidden = !shown;
  const done = files.length > 1 ? [`${files.length - wrong.length} of ${files.length} pictures.`] : [];
  tell([...done, ...wrong].join("\n"), wrong.length > 0);
}

function list(file, answer, current) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const label = document.createElement("strong");
  button.type = "button";
  label.textContent = `${answer.answers[0].label}, ${percent(answer.answers[0].probability)}`;
  button.append(label, file.name);
  button.setAttribute("aria-current", String(current));
  button.addEventListener("click", async () => {
    for (const other of $("list").querySelectorAll("button")) other.setAttribute("aria-current", String(other === button));
    const picture = await decode(file);
    show(picture, file.name, answer);
    picture.close();
  });
  item.append(button);
  $("list").append(item);
}

async function startCamera() {
  const run = (filming = ++runs);
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (run !== filming) return stream.getTracks().forEach((track) => track.stop());
    $("video").srcObject = stream;
    await $("video").play();
  } catch (error) {
    if (run === filming) stopCamera();
    return tell(navigator.mediaDevices ? `The camera cannot be had: ${error.message}.`
      : "The camera cannot be had: browsers give it to pages from https:// and localhost alone.", true);
  }
  for (const part of ["many", "progress"]) $(part).hidden = true;
  $("camera").textContent = "Stop the camera";
  $("camera").setAttribute("aria-pressed", "true");
  tell("");
  const next = async () => {
    if (run !== filming) return;
    try {
      const answer = $("video").videoWidth ? await ask($("video")) : null;
      if (run !== filming) return;
      if (answer) show($("video"), "The camera", answer);
    } catch (error) {
      stopCamera();
      return tell(error.message, true);
    }
    requestAnimationFrame(next);
  };
  next();
}

function stopCamera() {
  filming = 0;
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("camera").textContent = "Start the camera";
  $("camera").setAttribute("aria-pressed", "false");
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => classifyFiles([...$("files").files]).then(() => ($("files").value = "")));
$("camera").addEventListener("click", () => (filming ? stopCamera() : startCamera()));
addEventListener("paste", (event) => classifyFiles([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") classifyFiles([...event.dataTransfer.files]);
  });

try {
  network = await load();
  tell("");
} catch (error) {
  tell(`The network cannot be loaded: ${error.message}`, true);
}
