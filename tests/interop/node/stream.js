// Streams one generation and writes each event as a line of JSON; a failed call is a line with its status.
// Usage: node stream.js <folder of protos> <host:port> <GenerationSpec as JSON>
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, target, spec] = process.argv.slice(2);
const definition = loader.loadSync("qwire/v1/generate.proto", {
  includeDirs: [protos],
  longs: String,
  enums: String,
  oneofs: true,
});
const { GenerateService } = grpc.loadPackageDefinition(definition).qwire.v1;
const client = new GenerateService(target, grpc.credentials.createInsecure());
const call = client.StreamGenerate({ spec: JSON.parse(spec) }, { deadline: Date.now() + 300_000 });

const write = (value) => process.stdout.write(JSON.stringify(value) + "\n");
call.on("data", write);
call.on("error", (error) => {
  const details = error.metadata.get("grpc-status-details-bin");
  write({ code: error.code, message: error.details, hasDetails: details.length === 1 });
  process.exitCode = 1;
});
