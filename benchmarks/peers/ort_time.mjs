// Times one ONNX model in ONNX Runtime and prints one JSON object, for comparison with `lathe bench`.
//
//   node ort_time.mjs MODEL [--threads N] [--batch N] [--seconds S] [--runs N]
//                           [--shape NAME=1x3x224x224 ...] [--input [NAME=]x.npy ...]
//                           [--output out.npy] [--describe]
//
// All graph optimizations, sequential execution, one intra-operator pool of --threads. Inputs are
// random unless --input gives them. --output writes the first output. --describe only says what the
// model takes and gives.
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import * as ort from 'onnxruntime-node';

// ONNX Runtime's type name, the .npy type code and the array that holds it.
const TYPES = {
  float32: ['<f4', Float32Array], float64: ['<f8', Float64Array],
  int64: ['<i8', BigInt64Array], int32: ['<i4', Int32Array], int16: ['<i2', Int16Array],
  int8: ['|i1', Int8Array], uint8: ['|u1', Uint8Array], bool: ['|b1', Uint8Array],
};

function fail(message) {
  console.error(`ort_time: error: ${message}`);
  process.exit(1);
}

function readNpy(path) {
  const bytes = readFileSync(path);
  if (bytes.length < 12 || bytes.toString('latin1', 0, 6) !== '\x93NUMPY') fail(`'${path}' is not an .npy file`);
  const wide = bytes[6] > 1;  // version 1 has a 16-bit header length, later ones 32 bits
  const start = wide ? 12 : 10;
  const end = start + (wide ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8));
  const header = bytes.toString('latin1', start, end);
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  const type = Object.keys(TYPES).find((name) => TYPES[name][0] === descr);
  if (!type || shape === undefined) fail(`'${path}': type ${descr} is not supported`);
  if (/'fortran_order':\s*True/.test(header)) fail(`'${path}': expected C order, found Fortran order`);
  const dims = shape.split(',').map((s) => s.trim()).filter(Boolean).map(Number);
  const Store = TYPES[type][1];
  const count = dims.reduce((a, b) => a * b, 1);
  const size = count * Store.BYTES_PER_ELEMENT;
  if (bytes.length - end < size) fail(`'${path}': expected ${size} bytes of data, found ${bytes.length - end}`);
  // A copy, since the data need not be aligned inside the file.
  const data = bytes.buffer.slice(bytes.byteOffset + end, bytes.byteOffset + end + size);
  return new ort.Tensor(type, new Store(data), dims);
}

function writeNpy(path, tensor) {
  const entry = TYPES[tensor.type] ?? fail(`cannot write an output of type ${tensor.type}`);
  const dims = tensor.dims.join(', ') + (tensor.dims.length === 1 ? ',' : '');
  let header = `{'descr': '${entry[0]}', 'fortran_order': False, 'shape': (${dims}), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n';
  const preamble = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  const { buffer, byteOffset, byteLength } = tensor.data;
  writeFileSync(path, Buffer.concat([preamble, Buffer.from(header, 'latin1'), Buffer.from(buffer, byteOffset, byteLength)]));
}

function inputShape(meta, options) {
  const given = options.shape.map((s) => s.split('=')).find(([name]) => name === meta.name);
  if (given) return given[1].split('x').map(Number);
  return meta.shape.map((size, axis) => {
    const batch = Number(options.batch);
    if (typeof size === 'number' && size >= 0) {
      // Silently timing another batch than asked would make the comparison wrong.
      if (axis === 0 && batch !== 1 && batch !== size) fail(`input '${meta.name}' has a fixed batch of ${size}, not ${batch}`);
      return size;
    }
    if (axis === 0) return batch;
    return fail(`input '${meta.name}' has an open size on axis ${axis}: give it with --shape ${meta.name}=...`);
  });
}

function randomTensor(type, dims) {
  const entry = TYPES[type] ?? fail(`cannot make a random input of type ${type}: give it with --input`);
  const data = new entry[1](dims.reduce((a, b) => a * b, 1));
  let state = 1;  // xorshift: the same numbers on every run
  for (let i = 0; i < data.length; ++i) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    const unit = (state >>> 0) / 2 ** 32;
    // Small numbers for integers, which are mostly indices and masks.
    data[i] = type.startsWith('float') ? 2 * unit - 1 : type === 'int64' ? BigInt(unit < 0.5 ? 0 : 1) : unit < 0.5 ? 0 : 1;
  }
  return new ort.Tensor(type, data, dims);
}

function memory(field) {
  const line = new RegExp(`${field}:\\s*(\\d+) kB`).exec(readFileSync('/proc/self/status', 'latin1'));
  return line ? Number(line[1]) * 1024 : 0;
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' }, batch: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '1' }, runs: { type: 'string', default: '20' },
    shape: { type: 'string', multiple: true, default: [] }, input: { type: 'string', multiple: true, default: [] },
    output: { type: 'string' }, describe: { type: 'boolean', default: false },
  },
});
if (positionals.length !== 1) fail('expected one MODEL');

// Node itself takes tens of megabytes that are not ONNX Runtime's, so they are reported apart.
const baseline = memory('VmRSS');
// Processor time tells more than the clock where a machine is shared.
const cpuMs = (since) => { const { user, system } = process.cpuUsage(since); return (user + system) / 1e3; };
const cpuBegan = process.cpuUsage();
const began = performance.now();
const session = await ort.InferenceSession.create(positionals[0], {
  graphOptimizationLevel: 'all', executionMode: 'sequential',
  intraOpNumThreads: Number(options.threads), interOpNumThreads: 1, executionProviders: ['cpu'],
});
const sessionMs = performance.now() - began;
const sessionCpuMs = cpuMs(cpuBegan);
if (options.describe) {
  const plain = (list) => list.map(({ name, type, shape }) => ({ name, type, shape }));
  console.log(JSON.stringify({ inputs: plain(session.inputMetadata), outputs: plain(session.outputMetadata) }));
  process.exit(0);
}

const feeds = {};
for (const given of options.input) {
  const cut = given.indexOf('=');
  feeds[cut < 0 ? session.inputNames[0] : given.slice(0, cut)] = readNpy(given.slice(cut + 1));
}
for (const meta of session.inputMetadata) feeds[meta.name] ??= randomTensor(meta.type, inputShape(meta, options));

const firstCpuBegan = process.cpuUsage();
const firstBegan = performance.now();
const outputs = await session.run(feeds);
const firstMs = performance.now() - firstBegan;
const startCpuMs = sessionCpuMs + cpuMs(firstCpuBegan);
if (options.output) writeNpy(options.output, outputs[session.outputNames[0]]);

// As `lathe bench`: warm up for 3 to 20 runs, then at least so many runs and at least so long.
const seconds = Number(options.seconds), least = Number(options.runs);
const warm = performance.now();
for (let i = 0; i < 3 || (i < 20 && performance.now() - warm < 200 * seconds); ++i) await session.run(feeds);
const times = [];
let runCpuMs = Infinity;
const end = performance.now() + 1e3 * seconds;
while (times.length < least || performance.now() < end) {
  const cpu = process.cpuUsage();
  const start = performance.now();
  await session.run(feeds);
  times.push(performance.now() - start);
  runCpuMs = Math.min(runCpuMs, cpuMs(cpu));
}
times.sort((a, b) => a - b);
const quantile = (q) => times[Math.floor(q * (times.length - 1) + 0.5)];
console.log(JSON.stringify({
  model: positionals[0], threads: Number(options.threads), runs: times.length,
  version: ort.env.versions?.node ?? '', session_ms: sessionMs, first_ms: firstMs, start_cpu_ms: startCpuMs, run_cpu_ms: runCpuMs, median_ms: quantile(0.5),
  min_ms: times[0], p95_ms: quantile(0.95), peak_rss_bytes: memory('VmHWM'), node_rss_bytes: baseline,
}));
