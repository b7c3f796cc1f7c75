// What grpc-js sees of calls that panic, in the copy of the server that panics.toml is planted in:
// panics.js ADDRESS ROUNDS. It tells how many calls have panicked.
"use strict";

const assert = require("node:assert");
const path = require("node:path");

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, rounds] = process.argv.slice(2);
const [READ, LISTED, TAILED] = [1, 2, 3].map((n) => `dead0000-0000-4000-8000-00000000000${n}`);
const WAITED_POSITION = 200;
const TIMEOUT_MS = 20_000;
const SERVING = Buffer.from([8, 1]);

const protos = path.join(__dirname, "../../proto");
const files = ["command_service", "query_service"].map((name) => `daybook/v1/${name}.proto`);
const definition = loader.loadSync(files, { includeDirs: [protos], longs: String });
const { v1 } = grpc.loadPackageDefinition(definition).daybook;
const insecure = grpc.credentials.createInsecure();
const options = { channelOverride: new grpc.Channel(address, insecure, {}) };
const commands = new v1.CommandService(address, insecure, options);
const queries = new v1.QueryService(address, insecure, options);

function call(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    const deadline = Date.now() + TIMEOUT_MS;
    const told = (error, answer) => resolve({ error, answer });
    client[method](request, metadata, { deadline }, told);
  });
}

async function answered(client, method, request) {
  const { error, answer } = await call(client, method, request);
  assert.ifError(error);
  return answer;
}

async function open(fields) {
  return (await answered(commands, "openAccount", { owner: "ada", ...fields })).accountId;
}

// The health of everything: whether it is what it should be, whenever it is told.
function watch() {
  const request = ["/grpc.health.v1.Health/Watch", () => Buffer.alloc(0), (bytes) => bytes];
  const stream = queries.makeServerStreamRequest(...request, {});
  const told = [];
  stream.on("data", (bytes) => told.push(bytes));
  stream.on("error", (error) => told.push(error));
  return told;
}

// All events, and why they end.
function tail(request) {
  const stream = queries.tailEvents(request, { deadline: Date.now() + 2 * TIMEOUT_MS });
  const told = { events: [] };
  told.error = new Promise((resolve) => {
    stream.on("error", resolve);
    stream.on("end", () => resolve(undefined));
  });
  told.until = (count) => new Promise((resolve) => {
    stream.on("data", ({ events }) => {
      told.events.push(...events);
      if (told.events.length >= count) resolve();
    });
  });
  return told;
}

// An internal error that says nothing of what has panicked, and where.
function expectInternal(error) {
  assert.strictEqual(error?.code, grpc.status.INTERNAL, `expected INTERNAL, found ${error}`);
  assert.strictEqual(error.details, "an internal error");
  const told = Object.values(error.metadata.getMap()).join("\n");
  assert.doesNotMatch(told, /PLANTED|panic|\.rs|src/i, "it discloses what panicked");
  assert.match(told, /google\.rpc\.ErrorInfo.*INTERNAL/s);
}

// A tail that has told something before it panics.
async function tailPanics() {
  const told = tail({ accountIds: [TAILED], afterPosition: "0" });
  await told.until(1);
  await answered(commands, "withdrawMoney", { accountId: TAILED, amountMinor: "1" });
  expectInternal(await told.error);
  assert.strictEqual(told.events[0].accountId, TAILED);
}

// A stream of batches that was answered before one of them panics.
async function streamPanics(deposit) {
  const stream = commands.executeStream({ deadline: Date.now() + TIMEOUT_MS });
  const answers = [];
  const error = new Promise((resolve) => {
    stream.on("error", resolve);
    stream.on("end", () => resolve(undefined));
  });
  stream.on("data", (answer) => answers.push(answer.acceptedCount));
  stream.write({ commands: [{ depositMoney: deposit }] });
  stream.write({ commands: [{ depositMoney: { ...deposit, reason: "doom" } }] });
  expectInternal(await error);
  assert.deepStrictEqual(answers, [1]);
}

async function main() {
  const accountId = await open({ initialBalanceMinor: "7" });
  await open({ accountId: LISTED });
  const deposit = { accountId, amountMinor: "1" };
  const doom = new grpc.Metadata();
  doom.set("x-doom", "doom");
  const doomed = { ...deposit, reason: "doom" };

  // What is under way beside: a watch of health, a tail of everything, a read that waits for a
  // position, and reads one after the other. None of it may end before it is to.
  const health = watch();
  const all = tail({ afterPosition: "0" });
  const allTold = all.until(WAITED_POSITION);
  const waits = answered(queries, "getAccount", { accountId, minPosition: `${WAITED_POSITION}` });
  let [reads, goesOn] = [0, true];
  async function readOn() {
    for (; goesOn; reads += 1) await answered(queries, "getAccount", { accountId });
  }
  const readers = Promise.all([readOn(), readOn()]);
  const ends = [];
  for (const other of [all.error, waits, readers]) {
    other.then((how) => ends.push(how), (error) => ends.push(error));
  }

  let [position, balance, panics] = [2, 7, 0];
  for (let round = 0; round < Number(rounds); round += 1) {
    const before = reads;
    expectInternal((await call(queries, "getAccount", { accountId: READ })).error);
    expectInternal((await call(queries, "listAccountEvents", { accountId: LISTED })).error);
    expectInternal((await call(commands, "depositMoney", doomed)).error);
    const batch = { commands: [{ depositMoney: deposit }, { depositMoney: doomed }] };
    expectInternal((await call(commands, "executeBatch", batch)).error);
    expectInternal((await call(queries, "getAccount", { accountId }, doom)).error);
    await streamPanics(deposit);
    panics += 6;
    balance += 2;
    const done = await answered(commands, "depositMoney", deposit);
    assert.strictEqual(done.balanceMinor, `${balance}`);
    position = Number(done.event.position);
    assert.ok(reads > before, "nobody was served meanwhile");
    assert.deepStrictEqual(ends, [], "something else has ended");
  }
  await open({ accountId: TAILED, initialBalanceMinor: "7" });
  await tailPanics();
  panics += 1;
  assert.deepStrictEqual(ends, [], "something else has ended");

  for (; position < WAITED_POSITION; balance += 1) {
    position = Number((await answered(commands, "depositMoney", deposit)).event.position);
  }
  assert.ok(Number((await waits).position) >= WAITED_POSITION);
  goesOn = false;
  await readers;
  await allTold;
  assert.deepStrictEqual(
    all.events.map((event) => Number(event.position)),
    all.events.map((_, index) => index + 1),
  );
  const { account } = await answered(queries, "getAccount", { accountId });
  assert.strictEqual(account.balanceMinor, `${balance}`);
  assert.deepStrictEqual(health, [SERVING], "the health has changed");
  console.log(panics);
}

// What waits for ever has failed as well.
process.exitCode = 1;
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
