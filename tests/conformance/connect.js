// What the connect clients see of the server: connect.js ADDRESS PID CHECK. Which messages there
// are is read from a FileDescriptorSet on the standard input, so no code is generated. The check
// of a stop ends the server with that id by a signal.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");

const { createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const node = require("@connectrpc/connect-node");

const [address, pid, check] = process.argv.slice(2);
const RACES = 50;
// For a call that is answered, or refused, at once. Its end is another code than any expected.
const PROMPT_MS = 10_000;
// More than 32 bits hold, and all but 4 of what an account may have.
const LARGE_MINOR = 10n ** 15n - 4n;
const NOBODY = "00000000-0000-7000-8000-000000000000";

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, fs.readFileSync(0)));
const grpc = node.createGrpcTransport({ baseUrl: `http://${address}` });
const commands = client("CommandService", grpc);
const queries = client("QueryService", grpc);

function client(service, transport) {
  return createClient(registry.getService(`daybook.v1.${service}`), transport);
}

function detail(error, name) {
  return error.findDetails(registry.getMessage(`google.rpc.${name}`))[0];
}

// The code, and the reason of the ErrorInfo, with which a call has to end.
async function refused(call, code, reason) {
  const answered = () => assert.fail(`it was answered, expected ${Code[code]}`);
  const error = ConnectError.from(await call.then(answered, (failure) => failure));
  assert.strictEqual(error.code, code, `expected ${Code[code]}, found ${error}`);
  if (reason !== undefined) {
    assert.strictEqual(detail(error, "ErrorInfo")?.reason, reason, error.message);
  }
  return error;
}

async function ended(stream) {
  for await (const _ of stream);
}

async function opened(initialBalanceMinor = 0n) {
  const answer = await commands.openAccount({ owner: "ada", initialBalanceMinor });
  return answer.accountId;
}

// The positions that a tail tells, one after the other.
async function* positions(tail) {
  for await (const { events } of tail) {
    for (const event of events) yield event.position;
  }
}

async function callsAndStreams() {
  const accountId = await opened(LARGE_MINOR);
  const { account } = await queries.getAccount({ accountId });
  assert.deepStrictEqual([account.owner, account.balanceMinor], ["ada", LARGE_MINOR]);

  const stop = new AbortController();
  const tail = positions(queries.tailEvents({ afterPosition: 0n }, { signal: stop.signal }));
  assert.strictEqual((await tail.next()).value, 1n);
  // What happens while the tail is open is told as well.
  const { event } = await commands.depositMoney({ accountId, amountMinor: 2n });
  assert.deepStrictEqual([event.payload.case, event.position], ["moneyDeposited", 2n]);
  assert.strictEqual((await tail.next()).value, 2n);
  stop.abort();
  await refused(tail.next(), Code.Canceled);

  // The second batch is sent when the first is answered, so both directions are open at once.
  const deposit = { command: { case: "depositMoney", value: { accountId, amountMinor: 1n } } };
  let answered;
  const batches = async function* () {
    const first = new Promise((resolve) => (answered = resolve));
    yield { commands: [deposit] };
    await first;
    yield { commands: [deposit, { command: { case: "depositMoney", value: {} } }] };
  };
  const counts = [];
  for await (const answer of commands.executeStream(batches(), { timeoutMs: PROMPT_MS })) {
    counts.push([answer.acceptedCount, answer.failures.length]);
    answered();
  }
  assert.deepStrictEqual(counts, [[1, 0], [1, 1]]);
  const { account: later } = await queries.getAccount({ accountId, minPosition: 4n });
  assert.strictEqual(later.balanceMinor, LARGE_MINOR + 4n);
}

async function errorsHaveDetails() {
  const accountId = await opened(1n);
  const nobody = { accountId: NOBODY };
  const unknown = await refused(queries.getAccount(nobody), Code.NotFound, "ACCOUNT_NOT_FOUND");
  assert.strictEqual(detail(unknown, "ErrorInfo").metadata.account_id, NOBODY);
  assert.strictEqual(detail(unknown, "ResourceInfo").resourceName, NOBODY);
  const wrong = await refused(commands.openAccount({}), Code.InvalidArgument, "INVALID_FIELDS");
  assert.strictEqual(detail(wrong, "BadRequest").fieldViolations[0].field, "owner");
  const withdrawn = commands.withdrawMoney({ accountId, amountMinor: 2n });
  await refused(withdrawn, Code.FailedPrecondition, "INSUFFICIENT_FUNDS");
  // Those of streams, and of a thousand mistakes, are in trailers after no message at all.
  const beyond = ended(queries.tailEvents({ afterPosition: 1_000n }));
  await refused(beyond, Code.OutOfRange, "BEYOND_HEAD");
  const mistakes = ended(queries.tailEvents({ accountIds: Array(1_000).fill("nobody") }));
  await refused(mistakes, Code.InvalidArgument, "INVALID_FIELDS");
}

async function deadlines() {
  const waits = { accountId: await opened(), minPosition: 1_000n };
  // The client does not know of these two: the server ends them.
  const told = { headers: { "grpc-timeout": "20m" } };
  await refused(queries.getAccount(waits, told), Code.DeadlineExceeded);
  await refused(ended(queries.tailEvents({}, told)), Code.DeadlineExceeded);
  for (let race = 0; race < RACES; race += 1) {
    await refused(queries.getAccount(waits, { timeoutMs: 20 }), Code.DeadlineExceeded);
    await refused(ended(queries.tailEvents({}, { timeoutMs: 20 })), Code.DeadlineExceeded);
  }
}

async function sizesAndCompression() {
  const accountId = await opened();
  const large = { accountId, amountMinor: 1n, reason: "x".repeat(5 << 20) };
  await refused(commands.depositMoney(large), Code.ResourceExhausted, "MESSAGE_TOO_LARGE");
  // No compression is offered, so none is unpacked.
  const packing = { baseUrl: `http://${address}`, sendCompression: node.compressionGzip };
  const packed = client("CommandService", node.createGrpcTransport(packing));
  await refused(packed.depositMoney(large), Code.Unimplemented);
  // The connection is as good as before.
  const { balanceMinor } = await commands.depositMoney({ accountId, amountMinor: 3n });
  assert.strictEqual(balanceMinor, 3n);
}

async function stop() {
  const accountId = await opened(7n);
  const tail = positions(queries.tailEvents({ afterPosition: 0n }));
  assert.strictEqual((await tail.next()).value, 1n);
  process.kill(Number(pid), "SIGTERM");
  const { account } = await queries.getAccount({ accountId });
  assert.strictEqual(account.balanceMinor, 7n, "calls go on for a while");
  await refused(tail.next(), Code.Unavailable, "STOPPING");
}

// The server does not speak gRPC-Web. Whoever does hears so at once, and does not wait.
async function grpcWebIsRefused() {
  const soon = { timeoutMs: PROMPT_MS };
  // Without TLS this is what a browser speaks: it is told that HTTP/1 is not spoken here.
  const told = await refused(web("1.1").getStats({}, soon), Code.Unknown);
  assert.match(told.message, /505/);
  await refused(ended(web("1.1").tailEvents({ afterPosition: 0n }, soon)), Code.Unknown);
  // Over HTTP/2 its content type is refused, as HTTP does it, and nothing is done.
  await refused(web("2", "CommandService").openAccount({ owner: "eve" }, soon), Code.Unknown);
  await refused(ended(web("2").tailEvents({ afterPosition: 0n }, soon)), Code.Unknown);
  assert.strictEqual((await queries.getStats({})).eventCount, 0n);
}

function web(httpVersion, service = "QueryService") {
  const options = { baseUrl: `http://${address}`, httpVersion };
  return client(service, node.createGrpcWebTransport(options));
}

const checks = {
  callsAndStreams, errorsHaveDetails, deadlines, sizesAndCompression, stop, grpcWebIsRefused,
};

// What waits for ever has failed as well.
process.exitCode = 1;
checks[check]().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
