// Masks in the browser: COCO run lengths to pixels, layers of colour, and a COCO file.

const TINTS = [
  [20, 184, 166], [249, 115, 22], [99, 102, 241], [236, 72, 153], [132, 204, 22], [14, 165, 233],
  [234, 179, 8], [168, 85, 247], [239, 68, 68], [34, 197, 94], [217, 70, 239], [161, 98, 7],
];
const LONGEST = 1600; // pixels of a layer's longer side

export const tint = (index) => TINTS[index % TINTS.length];
export const css = ([red, green, blue], alpha = 1) => `rgb(${red} ${green} ${blue} / ${alpha})`;

// Run lengths as numbers: five bits a character, lowest first; from the fourth number on each is
// the difference from the one two places before.
export function runLengths(text) {
  const runs = [];
  let at = 0;
  while (at < text.length) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// An HxW mask, one byte a pixel, column after column as COCO orders them.
export function decodeMask({ size: [height, width], counts }) {
  const pixels = new Uint8Array(height * width);
  let at = 0, inside = 0;
  for (const run of runLengths(counts)) {
    if (inside) pixels.fill(1, at, at + run);
    at += run;
    inside = 1 - inside;
  }
  return { pixels, height, width };
}

// A canvas with a mask in one colour, and its edge stronger; of at most LONGEST pixels a side.
export function paintLayer(mask, colour) {
  const scale = Math.min(1, LONGEST / Math.max(mask.width, mask.height));
  const width = Math.max(1, Math.round(mask.width * scale));
  const height = Math.max(1, Math.round(mask.height * scale));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const [red, green, blue] = colour;
  const fill = (190 << 24 | blue << 16 | green << 8 | red) >>> 0;
  const edge = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  const rows = Int32Array.from({ length: height }, (_, y) => Math.min(mask.height - 1, Math.floor((y + .5) / scale)));
  for (let x = 0; x < width; x++) {
    const column = Math.min(mask.width - 1, Math.floor((x + .5) / scale)) * mask.height;
    for (let y = 0; y < height; y++) {
      if (!mask.pixels[column + rows[y]]) continue;
      const at = column + rows[y];
      const isEdge = !mask.pixels[at - 1] || !mask.pixels[at + 1] ||
        !mask.pixels[at - mask.height] || !mask.pixels[at + mask.height];
      words[y * width + x] = isEdge ? edge : fill;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// A COCO file of one photo; `found` has `segmentation`, `box` XYXY, `area`, `score`, `name`.
export function cocoFile(fileName, [height, width], found) {
  const names = [...new Set(found.map((each) => each.name ?? "object"))];
  return {
    info: { description: "masks of samclip" },
    images: [{ id: 1, file_name: fileName, width, height }],
    annotations: found.map((each, index) => {
      const [x0, y0, x1, y1] = each.box;
      return {
        id: index + 1, image_id: 1, category_id: names.indexOf(each.name ?? "object") + 1,
        segmentation: each.segmentation, bbox: [x0, y0, x1 - x0, y1 - y0], area: each.area,
        iscrowd: 0, score: each.score,
      };
    }),
    categories: names.map((name, index) => ({ id: index + 1, name })),
  };
}
