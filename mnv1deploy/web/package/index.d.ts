/** A picture: decoded, of any size. Raw pixels are [size][size][colours], uint8, of the network's own size. */
export type Picture =
  | ImageData
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | ImageBitmap
  | { readonly data: Uint8Array | Uint8ClampedArray; readonly width: number; readonly height: number };

export interface Answer {
  readonly label: string;
  readonly probability: number;
}

export interface Classifier {
  /** Height and width of the network's picture, in pixels. */
  readonly size: number;
  /** 3, which is RGB, or 1, which is grey. */
  readonly colours: 1 | 3;
  /** Class names, in the order of the logits. */
  readonly labels: readonly string[];
  /** That logits are divided by before they become probabilities, so that these are calibrated. */
  readonly temperature: number;
  /** The `top` likeliest classes of one picture, the likeliest first; all of them by default. */
  classify(picture: Picture | Uint8Array, top?: number): Answer[];
  /** What classify() says of many pictures. */
  classifyAll(pictures: Iterable<Picture | Uint8Array>, top?: number): Answer[][];
  /** float32 [pictures * classes]; a Uint8Array may hold the raw pixels of several pictures. */
  logits(picture: Picture | Uint8Array): Float32Array;
  /** What the network sees of a picture: uint8 [size * size * colours]. */
  pixels(picture: Picture): Uint8Array;
}

/** Whether this engine has SIMD; without it a slower module with the same answers is taken. */
export const simd: boolean;

/** The network, ready to run. `source`: the .wasm as bytes or its address; by default the one beside the module. */
export function load(source?: string | URL | ArrayBuffer | Uint8Array): Promise<Classifier>;

/** A file's picture as it is: turned as its EXIF says, its colours not converted. Rejects with a sentence. */
export function decode(file: Blob): Promise<ImageBitmap>;
