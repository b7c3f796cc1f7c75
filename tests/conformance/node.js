// What grpc-js sees of the edges of calls: node.js ADDRESS PID. The server with that id is stopped
// at the end, by a signal, while a tail is open.
"use strict";

const assert = require("node:assert");
const path = require("node:path");

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, pid] = process.argv.slice(2);
const RACES = 50;

const protos = path.join(__dirname, "../../proto");
const files = ["command_service", "query_service"].map((name) => `daybook/v1/${name}.proto`);
const definition = loader.loadSync(files, { includeDirs: [protos], longs: String });
const { v1 } = grpc.loadPackageDefinition(definition).daybook;
const options = { "grpc.max_send_message_length": -1 };
const commands = new v1.CommandService(address, grpc.credentials.createInsecure(), options);
const queries = new v1.QueryService(address, grpc.credentials.createInsecure(), options);

function call(client, method, request, milliseconds = 20_000) {
  return new Promise((resolve) => {
    const deadline = Date.now() + milliseconds;
    client[method](request, { deadline }, (error, answer) => resolve({ error, answer }));
  });
}

// How a tail ends.
function ended(tail) {
  return new Promise((resolve) => {
    tail.on("data", () => {});
    tail.on("error", resolve);
    tail.on("end", () => resolve(undefined));
  });
}

async function main() {
  const opened = await call(commands, "openAccount", { owner: "ada", initialBalanceMinor: "7" });
  const accountId = opened.answer.accountId;

  for (let race = 0; race < RACES; race += 1) {
    const waits = await call(queries, "getAccount", { accountId, minPosition: "1000" }, 20);
    assert.strictEqual(waits.error.code, grpc.status.DEADLINE_EXCEEDED, waits.error.details);
    const error = await ended(queries.tailEvents({}, { deadline: Date.now() + 20 }));
    assert.strictEqual(error.code, grpc.status.DEADLINE_EXCEEDED, error.details);
  }

  const large = { accountId, amountMinor: "1", reason: "x".repeat(5 << 20) };
  const { error } = await call(commands, "depositMoney", large);
  assert.strictEqual(error.code, grpc.status.RESOURCE_EXHAUSTED, error.details);
  assert.match(error.details, /at most 4194304 bytes/);

  const wrong = await ended(queries.tailEvents({ accountIds: Array(1_000).fill("nobody") }));
  assert.strictEqual(wrong.code, grpc.status.INVALID_ARGUMENT, wrong.details);

  const tail = ended(queries.tailEvents({ afterPosition: "0" }));
  process.kill(Number(pid), "SIGTERM");
  const last = await call(queries, "getAccount", { accountId });
  assert.strictEqual(last.answer.account.balanceMinor, "7", "calls go on for a while");
  const stopped = await tail;
  assert.strictEqual(stopped.code, grpc.status.UNAVAILABLE, stopped.details);
}

// What waits for ever has failed as well.
process.exitCode = 1;
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
