// In place of the exported folder's index.js: the same two functions, for a network that is on the server.

/** The network, as page.js knows it. What the network sees of a picture is not sent back. */
export async function load() {
  return { pixels: encode, classify };
}

/** A file's picture to look at; the file itself is what is sent. Rejects with a sentence. */
export async function decode(file) {
  try {
    return Object.assign(await createImageBitmap(file), { file });
  } catch (error) {
    throw new Error(`${file.name || "This"} cannot be decoded as a picture here.`, { cause: error });
  }
}

/** What is sent of a picture: its file, or the frame of a camera as PNG, which loses nothing. */
async function encode(picture) {
  if (picture.file) return picture.file;
  const canvas = new OffscreenCanvas(picture.videoWidth, picture.videoHeight);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.convertToBlob();
}

async function classify(body, top) {
  const response = await fetch(`classify?top=${top}`, { method: "POST", body });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer.top;
}
