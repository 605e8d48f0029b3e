// The page: a photo is encoded once, then points, boxes and names are asked about its scene.
import { cocoFile, css, decodeMask, paintLayer, tint } from "./masks.js";

const $ = (id) => document.getElementById(id);
const photo = $("photo"), overlay = $("overlay");
const DRAG = 6; // pixels of the screen from which a press is a box
const STEP = 10; // pixels of the photo that an arrow key moves
const TYPING = 400; // ms after the last letter of a name

const state = {
  file: null, scene: null, size: [0, 0], // (h, w)
  objects: [], // { points, labels, box, answer, layer }
  view: "objects", // or "everything", "map"
  found: [], // of everything or the map: { name, layer, colour, ... }
  drag: null, cross: null, corner: null, byKeys: false,
  encode: null, took: null, asked: "click", // ms of the pass, of the last answer, and what that was
  token: sessionStorage.getItem("samclip-token") ?? "",
};

// ---- the server

class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title ?? "The server refused.");
    this.status = problem.status;
    this.retryAfter = problem.retry_after;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (response.status === 401) {
    await askForToken();
    return call(path, options);
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({ status: response.status }));
  if (!response.ok) throw new Refused(answer);
  return answer;
}

async function askForToken() {
  const login = $("login");
  if (!login.open) login.showModal();
  await new Promise((done) => login.addEventListener("close", done, { once: true }));
  state.token = $("token").value.trim();
  sessionStorage.setItem("samclip-token", state.token);
}

async function ask(task, question) {
  const send = () => call(`/v1/${task}`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ scene: state.scene, ...question }),
  });
  try {
    return await send();
  } catch (error) {
    if (error.status === 404 && state.file) { // the scene gave way to others
      await encode();
      return send();
    }
    if (error.status === 429) {
      await new Promise((done) => setTimeout(done, 1000 * (error.retryAfter ?? 1)));
      return send();
    }
    throw error;
  }
}

async function encode() {
  const form = new FormData();
  form.append("image", state.file, "photo");
  const begun = performance.now();
  const scene = await call("/v1/scenes", { method: "POST", body: form });
  state.scene = scene.id;
  state.size = scene.size;
  state.encode = scene.timings.encode ?? performance.now() - begun;
  warn(scene.warnings);
}

// ---- what is shown

function complain(error) {
  $("alert").hidden = false;
  $("alert").firstElementChild.textContent = error.message ?? String(error);
}

function warn(warnings) {
  if (warnings?.length) complain({ message: warnings.map((each) => each.message).join(" ") });
}

const milliseconds = (number) => `${number < 10 ? number.toFixed(1) : Math.round(number)}\u00a0ms`;

function showTimes() {
  const parts = [];
  if (state.encode !== null) parts.push(`one encoder pass: ${milliseconds(state.encode)}`);
  if (state.took !== null) parts.push(`this ${state.asked}: ${milliseconds(state.took)}`);
  const whole = parts.map((part) => part.replaceAll(" ", "\u00a0")); // lines break between them
  $("timing").textContent = whole.join("; ") || "No photo yet.";
}

async function whileBusy(text, work) {
  $("busy").hidden = false;
  $("busy").textContent = text;
  $("alert").hidden = true;
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  } finally {
    $("busy").hidden = true;
  }
}

function shown() {
  if (state.view !== "objects") return state.found;
  return state.objects.filter((each) => each.layer).map((each) => ({ ...each.answer, ...each }));
}

function draw() {
  const context = overlay.getContext("2d");
  const [height, width] = [overlay.height, overlay.width];
  context.clearRect(0, 0, width, height);
  context.globalAlpha = $("opacity").value / 100;
  for (const each of shown()) context.drawImage(each.layer, 0, 0, width, height);
  context.globalAlpha = 1;
  const unit = Math.max(1, width / (overlay.clientWidth || width));
  for (const each of shown()) if (each.name && each.box && state.view !== "map") label(context, each, unit);
  if (state.view === "objects") for (const each of state.objects) drawPrompt(context, each, unit);
  if (state.drag?.moved) frame(context, boxOf(state.drag.from, state.drag.to), unit);
  if (state.corner && state.cross) frame(context, boxOf(state.corner, state.cross), unit);
  if (state.cross && state.byKeys && document.activeElement === overlay) drawCross(context, state.cross, unit);
}

function label(context, { name, box: [x0, y0, x1, y1], colour }, unit) {
  context.font = `${14 * unit}px system-ui, sans-serif`;
  const text = name.length > 30 ? `${name.slice(0, 29)}…` : name;
  const width = context.measureText(text).width + 10 * unit;
  const left = Math.min(Math.max(0, (x0 + x1 - width) / 2), overlay.width - width);
  const top = Math.min(Math.max(0, (y0 + y1) / 2 - 10 * unit), overlay.height - 20 * unit);
  context.fillStyle = css(colour);
  context.fillRect(left, top, width, 20 * unit);
  context.fillStyle = "#0b1220";
  context.fillText(text, left + 5 * unit, top + 15 * unit);
}

function drawPrompt(context, { points, labels, box }, unit) {
  if (box) frame(context, box, unit);
  points.forEach(([x, y], index) => {
    context.beginPath();
    context.arc(x, y, 6 * unit, 0, 7);
    context.fillStyle = labels[index] ? "#22c55e" : "#ef4444";
    context.fill();
    context.lineWidth = 2 * unit;
    context.strokeStyle = "#fff";
    context.stroke();
  });
}

function frame(context, [x0, y0, x1, y1], unit) {
  context.lineWidth = 4 * unit;
  context.strokeStyle = "#fff";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.lineWidth = 2 * unit;
  context.strokeStyle = "#16a34a";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

function drawCross(context, [x, y], unit) {
  for (const [width, colour] of [[4, "#fff"], [2, "#0b1220"]]) {
    context.lineWidth = width * unit;
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(x - 14 * unit, y); context.lineTo(x + 14 * unit, y);
    context.moveTo(x, y - 14 * unit); context.lineTo(x, y + 14 * unit);
    context.stroke();
  }
}

function listAnswer(title, rows) {
  $("answer-title").textContent = title;
  $("legend").replaceChildren(...rows.map(({ name, share, colour, current }) => {
    const row = document.createElement("li");
    const chip = document.createElement("span");
    chip.className = "chip";
    chip.style.background = css(colour);
    const text = document.createElement("span");
    text.textContent = name;
    if (current) text.className = "current";
    const number = document.createElement("span");
    number.className = "share";
    number.textContent = share;
    row.append(chip, text, number);
    return row;
  }));
}

const percent = (share) => `${(100 * share).toFixed(share < .1 ? 1 : 0)} %`;

function listObjects() {
  const last = state.objects.length - 1;
  listAnswer("Objects", state.objects.map((each, index) => ({
    name: each.answer?.name ?? `object ${index + 1}`,
    share: each.answer ? percent(each.answer.probability ?? each.answer.score ?? 0) : "",
    colour: each.colour, current: index === last,
  })));
}

function refresh() {
  const ready = state.scene !== null;
  $("prompting").disabled = $("asking").disabled = !ready;
  $("another").disabled = $("png").disabled = !ready;
  $("coco").disabled = !shown().some((each) => each.segmentation);
  $("undo").disabled = $("clear").disabled = !state.objects.length && !state.found.length;
  showTimes();
  draw();
}

// ---- photos

async function open(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    complain({ message: `The browser cannot show ${file.name ?? "this file"}. Choose a JPEG, PNG or WebP.` });
    return;
  }
  await whileBusy("encoding …", async () => {
    const before = state.scene;
    state.file = file;
    Object.assign(state, { scene: null, took: null, objects: [], found: [], view: "objects", cross: null, corner: null });
    await encode();
    if (before) call(`/v1/scenes/${before}`, { method: "DELETE" }).catch(() => {});
    const [height, width] = state.size;
    for (const canvas of [photo, overlay]) Object.assign(canvas, { width, height });
    $("view").style.setProperty("--ratio", width / height);
    photo.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    $("welcome").hidden = true;
    $("view").hidden = false;
    delete $("stage").dataset.empty;
    state.cross = [Math.round(width / 2), Math.round(height / 2)];
    listAnswer("Answer", []);
  });
  refresh();
}

async function openCamera() {
  const dialog = $("webcam"), video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const secure = window.isSecureContext ? "" : " Browsers give it to https and localhost only.";
    complain({ message: `The camera cannot be used: ${error?.message ?? "there is none"}.${secure}` });
    return;
  }
  video.srcObject = stream;
  await video.play();
  dialog.showModal();
  dialog.onclick = ({ target }) => {
    if (target.value === "take") {
      const still = document.createElement("canvas");
      still.width = video.videoWidth;
      still.height = video.videoHeight;
      still.getContext("2d").drawImage(video, 0, 0);
      still.toBlob((blob) => open(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", .95);
    }
    if (target.value) dialog.close();
  };
  dialog.onclose = () => stream.getTracks().forEach((track) => track.stop());
}

// ---- prompts

const names = () => $("names").value.split(",").map((name) => name.trim()).filter(Boolean);
const boxOf = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];

function current() {
  state.view = "objects";
  state.found = [];
  if (!state.objects.length) startObject();
  return state.objects.at(-1);
}

function startObject() {
  const last = state.objects.at(-1);
  if (last && !last.points.length && !last.box) return;
  state.objects.push({ points: [], labels: [], box: null, steps: [], asked: 0, colour: tint(state.objects.length) });
}

function addPoint(place, positive) {
  const object = current();
  object.points.push(place);
  object.labels.push(positive ? 1 : 0);
  object.steps.push("point");
  segment(object);
}

function addBox(box) {
  let object = current();
  if (object.box) {
    startObject();
    object = current();
  }
  object.box = box;
  object.steps.push("box");
  segment(object);
}

function undo() {
  if (state.view !== "objects") {
    current();
    listObjects();
    refresh();
    return;
  }
  const object = state.objects.at(-1);
  if (!object) return;
  if (object.steps.pop() === "box") object.box = null;
  else {
    object.points.pop();
    object.labels.pop();
  }
  if (object.points.length || object.box) segment(object);
  else {
    object.asked++; // an answer under way comes too late
    state.objects.pop();
    listObjects();
    refresh();
  }
}

async function segment(object) {
  const number = ++object.asked;
  refresh();
  const begun = performance.now();
  const question = { names: names().length ? names() : null };
  if (object.points.length) Object.assign(question, { points: [object.points], labels: [object.labels] });
  if (object.box) question.boxes = [object.box];
  try {
    const answer = await ask("segment", question);
    if (number !== object.asked) return; // there is a newer question
    [object.answer] = answer.masks;
    object.layer = paintLayer(decodeMask(object.answer.segmentation), object.colour);
    Object.assign(state, { took: performance.now() - begun, asked: "click" });
    $("alert").hidden = true;
    warn(answer.warnings);
  } catch (error) {
    if (number === object.asked) complain(error);
  }
  listObjects();
  refresh();
}

// ---- tasks of the whole photo

async function task(name, text, question, show) {
  const begun = performance.now();
  const answer = await whileBusy(text, () => ask(name, question));
  if (!answer) return;
  show(answer);
  Object.assign(state, { took: performance.now() - begun, asked: "answer" });
  warn(answer.warnings);
  refresh();
}

function needNames() {
  if (names().length) return true;
  complain({ message: "Type names first, with commas between them: cup of coffee, table, cat." });
  $("names").focus();
  return false;
}

function classify() {
  if (!needNames()) return;
  task("classify", "classifying …", { names: names() }, (answer) => {
    listAnswer("This photo", answer.names.map((name, index) => ({
      name, share: percent(answer.probabilities[index]), colour: tint(answer.indices[index]), current: !index,
    })));
  });
}

function labelMap() {
  if (!needNames()) return;
  task("semantic", "labelling …", { names: names() }, (answer) => {
    state.view = "map";
    state.found = answer.classes.map((each) => {
      const colour = tint(each.index);
      return { ...each, box: null, colour, layer: paintLayer(decodeMask(each.segmentation), colour) };
    });
    listAnswer("Label map", state.found.map((each) => ({ name: each.name, share: percent(each.fraction), colour: each.colour })));
  });
}

function everything() {
  const question = { points_per_side: 16, names: names().length ? names() : null };
  task("everything", "finding everything …", question, (answer) => {
    state.view = "everything";
    const large = [...answer.masks].sort((a, b) => b.area - a.area);
    const known = answer.vocabulary ?? [];
    state.found = large.map((each, index) => {
      const colour = tint(each.name ? known.indexOf(each.name) : index);
      return { ...each, colour, layer: paintLayer(decodeMask(each.segmentation), colour) };
    });
    const rows = state.found.map((each, index) => ({
      name: each.name ?? `mask ${index + 1}`, share: percent(each.probability ?? each.score ?? 0), colour: each.colour,
    }));
    listAnswer(`${rows.length} masks`, rows);
  });
}

// ---- files

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function savePicture() {
  const canvas = document.createElement("canvas");
  canvas.width = photo.width;
  canvas.height = photo.height;
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0);
  const cross = state.cross;
  state.cross = null;
  draw();
  context.drawImage(overlay, 0, 0);
  state.cross = cross;
  draw();
  canvas.toBlob((blob) => save(blob, "samclip.png"), "image/png");
}

function saveCoco() {
  const found = shown().filter((each) => each.segmentation).map((each) => ({ ...each, box: each.box ?? boxAround(each) }));
  const text = JSON.stringify(cocoFile(state.file.name || "photo", state.size, found));
  save(new Blob([text], { type: "application/json" }), "samclip.coco.json");
}

function boxAround({ segmentation }) {
  const { pixels, height, width } = decodeMask(segmentation);
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  for (let at = pixels.indexOf(1); at >= 0; at = pixels.indexOf(1, at + 1)) {
    const x = Math.floor(at / height), y = at % height;
    [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), Math.max(y1, y + 1)];
  }
  return x1 ? [x0, y0, x1, y1] : [0, 0, 0, 0];
}

// ---- events

function place(event) {
  const frame = overlay.getBoundingClientRect();
  const inside = (value, most) => Math.min(Math.max(0, value), most);
  return [
    inside((event.clientX - frame.left) * overlay.width / frame.width, overlay.width),
    inside((event.clientY - frame.top) * overlay.height / frame.height, overlay.height),
  ];
}

overlay.addEventListener("pointerdown", (event) => {
  if (event.button > 0) return;
  overlay.setPointerCapture(event.pointerId);
  state.byKeys = false;
  state.drag = { from: place(event), to: place(event), x: event.clientX, y: event.clientY, moved: false };
});
overlay.addEventListener("pointermove", (event) => {
  if (!state.drag) return;
  state.drag.to = place(event);
  state.drag.moved ||= Math.hypot(event.clientX - state.drag.x, event.clientY - state.drag.y) > DRAG;
  if (state.drag.moved) draw();
});
overlay.addEventListener("pointerup", (event) => {
  const drag = state.drag;
  state.drag = null;
  if (!drag) return;
  const box = boxOf(drag.from, drag.to);
  if (drag.moved && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) addBox(box);
  else addPoint(drag.from, !event.shiftKey && document.querySelector("[name=sign]:checked").value === "1");
});
overlay.addEventListener("pointercancel", () => { state.drag = null; draw(); });
overlay.addEventListener("focus", draw);
overlay.addEventListener("blur", draw);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
overlay.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in ARROWS) {
    state.byKeys = true;
    const step = event.shiftKey ? 1 : STEP;
    const [x, y] = state.cross;
    state.cross = [
      Math.min(Math.max(0, x + ARROWS[key][0] * step), overlay.width),
      Math.min(Math.max(0, y + ARROWS[key][1] * step), overlay.height),
    ];
    draw();
  } else if (key === "Enter" || key === " ") addPoint(state.cross, true);
  else if (key === "x") addPoint(state.cross, false);
  else if (key === "b") {
    const corner = state.corner;
    state.corner = corner ? null : state.cross;
    if (corner && corner[0] !== state.cross[0] && corner[1] !== state.cross[1]) addBox(boxOf(corner, state.cross));
    draw();
  } else if (key === "n") startObject();
  else if (key === "u") undo();
  else return;
  event.preventDefault();
});

let typing;
$("names").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    if (state.view === "objects") state.objects.filter((each) => each.answer).forEach(segment);
  }, TYPING);
});
$("opacity").addEventListener("input", draw);
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]);
  target.value = "";
});
for (const [id, action] of Object.entries({
  choose: () => $("file").click(), another: () => $("file").click(), camera: openCamera,
  example: async () => {
    const response = await fetch("/static/coffee.jpg");
    open(new File([await response.blob()], "coffee.jpg", { type: "image/jpeg" }));
  },
  next: () => { current(); startObject(); listObjects(); refresh(); },
  undo,
  clear: () => { Object.assign(state, { objects: [], found: [], view: "objects" }); listObjects(); refresh(); },
  classify, map: labelMap, everything, png: savePicture, coco: saveCoco,
})) $(id).addEventListener("click", action);
$("alert").querySelector("button").addEventListener("click", () => { $("alert").hidden = true; });

const stage = $("stage");
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
window.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) open(file);
});

call("/v1/models").then(({ models: [model] }) => {
  $("model").textContent = `${model.name} on ${model.backend}`;
  if (!model.names) $("asking").title = "This bundle has no names.";
  if (model.trained_head === false) complain({ message: "The CLIP head of this bundle was never trained: names mean nothing." });
}).catch(complain);
refresh();
