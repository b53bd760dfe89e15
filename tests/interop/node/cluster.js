"use strict";
// examples/shm_typed_array_cluster.py with the original: the two take turns by the same messages.
//
//   node cluster.js DIRECTORY master WORKER COMMAND ...
//   node cluster.js DIRECTORY worker

const path = require("path");
const readline = require("readline");
const shm = require(path.resolve(process.argv[2], "node_modules", "shm-typed-array"));

const kind = (array) => array.constructor.name;

async function master([command, ...rest]) {
  const buf = shm.create(4096);
  const arr = shm.create(1000000, "Float32Array");
  buf[0] = 1;
  arr[0] = 10.0;
  console.log("[Master] Typeof buf:", kind(buf), "Typeof arr:", kind(arr));

  const worker = require("child_process").spawn(command, rest, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => worker.on("exit", resolve));
  const lines = readline.createInterface({ input: worker.stdout })[Symbol.asyncIterator]();
  const ask = async (message) => {
    worker.stdin.write(JSON.stringify(message) + "\n");
    console.log((await lines.next()).value);
  };

  await ask({ msg: "shm", bufKey: buf.key, arrKey: arr.key });
  for (let i = 0; i < 5; i++) {
    buf[0] += 1;
    arr[0] /= 2;
    console.log(i + " [Master] Set buf[0]=", buf[0], " arr[0]=", arr[0]);
    if (i < 4) await ask({ msg: "turn" });
  }
  worker.stdin.end();
  await ended;
  process.exit(0); // its clean-up says "shm segments destroyed: 2"
}

function worker() {
  let buf, arr;
  let i = 0;
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const data = JSON.parse(line);
    if (data.msg === "shm") {
      buf = shm.get(data.bufKey);
      arr = shm.get(data.arrKey, "Float32Array");
      console.log("[Worker] Typeof buf:", kind(buf), "Typeof arr:", kind(arr));
      return;
    }
    console.log(i + " [Worker] Get buf[0]=", buf[0], " arr[0]=", arr ? arr[0] : null);
    i++;
    if (i === 2) {
      shm.detach(arr.key);
      arr = null;
    }
  }).on("close", () => process.exit(0));
}

if (process.argv[3] === "master") master(process.argv.slice(4));
else worker();
