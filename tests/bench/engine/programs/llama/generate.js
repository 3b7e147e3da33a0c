// llama.cpp as a side, through its Node binding. The protocol is told in ../answering.py.
//
//   node generate.js MODEL.gguf SEQUENCES THREADS

import { createInterface } from "node:readline";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";

const say = (message) => console.log(JSON.stringify(message));
const [modelPath, sequences, threads] = process.argv.slice(2);

say({ state: "starting" });
const { getLlama } = await import("node-llama-cpp");
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences: Number(sequences), contextSize: 1024, flashAttention: true, threads: Number(threads),
});
say({ state: "ready" });

async function answer({ prompt, tokens, at_s }, began) {
  if (at_s > 0) await sleep(Math.max(0, at_s * 1000 - (performance.now() - began)));
  const sequence = context.getSequence();
  const output = [], times_s = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times_s.push((performance.now() - began) / 1000);
    output.push(token);
    if (output.length === tokens) break;
  }
  await sequence.clearHistory();
  sequence.dispose();
  return { times_s, output };
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.memory) {
    say({ device_bytes: null });
    continue;
  }
  const began = performance.now();
  const requests = await Promise.all(message.requests.map((request) => answer(request, began)));
  say({ seconds: (performance.now() - began) / 1000, requests });
}
process.exit(0);
