// Reads {prompts: [[token ids]], tokens: n} as JSON lines, generates greedily for all prompts at once with llama.cpp,
// and answers {seconds, ttft_s: [...], outputs: [[token ids]]} as a line each.
//
//   node generate.js MODEL.gguf SEQUENCES THREADS

import { createInterface } from "node:readline";
import { performance } from "node:perf_hooks";
import { getLlama } from "node-llama-cpp";

const [modelPath, sequences, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences: Number(sequences), contextSize: 1024, flashAttention: true, threads: Number(threads),
});

async function answer(prompt, tokens, began) {
  const sequence = context.getSequence();
  const output = [];
  let first;
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    first ??= (performance.now() - began) / 1000;
    output.push(token);
    if (output.length === tokens) break;
  }
  await sequence.clearHistory();
  sequence.dispose();
  return { first, output };
}

console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const { prompts, tokens } = JSON.parse(line);
  const began = performance.now();
  const answers = await Promise.all(prompts.map((prompt) => answer(prompt, tokens, began)));
  console.log(JSON.stringify({
    seconds: (performance.now() - began) / 1000,
    ttft_s: answers.map((one) => one.first),
    outputs: answers.map((one) => one.output),
  }));
}
process.exit(0);
