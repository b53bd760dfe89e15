"use strict";
// The original at work: calls of shm-typed-array, one JSON object a line, answers likewise.
//
// {"do": "create", "as": "a", "arguments": [8, "Float32Array", null]}  keeps the array as "a"
// {"do": "write", "as": "a", "at": 2, "values": [1, 2.5]}
// {"do": "read", "as": "a"}
// {"do": "detach", "arguments": ["/name", true]} and so on, every function of the module
//
// An answer is {"result": ...} or {"error": "RangeError: ..."}. An array is answered as
// {"class", "length", "key"}; numbers that JSON lacks travel as the strings "NaN", "Infinity", "-Infinity".

const path = require("path");
const shm = require(path.resolve(process.argv[2], "node_modules", "shm-typed-array"));

const arrays = new Map();

const fromJson = (value) => (typeof value === "string" ? Number(value) : value);
const toJson = (value) => (Number.isFinite(value) ? value : String(value));

function kept(name, array) {
  if (array === null) return null;
  arrays.set(name, array);
  return { class: array.constructor.name, length: array.length, key: array.key };
}

const verbs = {
  create: ({ as, arguments: given }) => kept(as, shm.create(...given)),
  get: ({ as, arguments: given }) => kept(as, shm.get(...given)),
  write({ as, at = 0, values }) {
    const array = arrays.get(as);
    values.forEach((value, i) => { array[at + i] = fromJson(value); });
    return values.length;
  },
  read: ({ as }) => Array.from(arrays.get(as), toJson),
  forget({ as }) { // the collector takes it, but typed arrays are never detached by that
    arrays.delete(as);
    return null;
  },
  totals: () => [shm.getTotalSize(), shm.getTotalCreatedSize()],
  constant: ({ name }) => shm[name],
};

for (const name of ["detach", "destroy", "detachAll"]) {
  verbs[name] = ({ arguments: given = [] }) => shm[name](...given);
}

function answer(line) {
  const request = JSON.parse(line);
  try {
    return { result: verbs[request.do](request) };
  } catch (error) {
    return { error: `${error.constructor.name}: ${error.message}` };
  }
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => process.stdout.write(JSON.stringify(answer(line)) + "\n"))
  .on("close", () => process.exit(0)); // runs the original's clean-up
