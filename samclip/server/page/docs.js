// The API page: /openapi.json as tables. Texts are set as text, never as HTML.

function element(tag, text = "", ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return [schema.format === "binary" ? "file" : schema.type ?? "any"].flat().join(" | ");
}

const aboutField = (schema) => schema.description ?? schema.anyOf?.find((each) => each.description)?.description ?? "";

function fields(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, each]) => element("tr", "",
    element("td", "", element("code", name)), element("td", typeOf(each)),
    element("td", required.has(name) ? "required" : JSON.stringify(each.default ?? null)),
    element("td", aboutField(each))));
  const head = element("tr", "", ...["field", "type", "default", "what"].map((text) => element("th", text)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

const document_ = await (await fetch("/openapi.json")).json();
const get = (id) => document.getElementById(id);
get("about").textContent = document_.info.description;
get("model").textContent = document_.info.version;
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const content = operation.requestBody?.content ?? {};
    const statuses = Object.keys(operation.responses ?? {}).sort().join(", ");
    const details = element("details", "",
      element("summary", "", element("code", `${method.toUpperCase()} ${path}`), ` ${operation.summary ?? ""}`));
    const kinds = Object.keys(content);
    if (kinds.length) details.append(element("p", `Body: ${kinds.join(" or ")}`), fields(content[kinds[0]].schema));
    details.append(element("p", `Statuses: ${statuses}`));
    get("paths").append(details);
  }
}
for (const { name, status, title } of document_["x-problems"] ?? []) {
  const row = element("tr", "", element("td", "", element("code", name)), element("td", String(status)), element("td", title));
  row.id = `problem-${name}`;
  get("problems").append(row);
}
if (location.hash) document.querySelector(location.hash)?.scrollIntoView();
