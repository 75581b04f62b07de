// What the programs share; see common.py.
export const [URL, MODEL] = process.argv.slice(2, 4);
export const ASK = [{ role: "user", content: "go" }];
export const [BEFORE, SAID] = ["Sum:", "Sum:-done!"];
const object = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
export const SCHEMA = object({ to: { enum: ["Oslo", "Rome"] }, boxes: { type: "integer", minimum: 1, maximum: 9 } });
const tool = (name, parameters) => ({ type: "function", function: { name, description: name, parameters } });
export const [CALCULATOR, SHIP] = [tool("calculator", object({ expression: { type: "string" } })), tool("ship", SCHEMA)];
export const isShipment = (value) => ["Oslo", "Rome"].includes(value.to) && value.boxes >= 1 && value.boxes <= 9;

export function works(feature, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    console.error(`${feature}: found ${JSON.stringify(found)}; expected ${JSON.stringify(expected)}`);
    process.exit(1);
  }
  console.log(feature);
}
