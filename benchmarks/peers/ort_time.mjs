// Times one ONNX model in onnxruntime and prints JSON. Inputs are seeded random numbers or .npy files;
// outputs can be written as .npy, to compare them with lathe's.
//
//   node ort_time.mjs MODEL [--threads 1] [--batch 1] [--runs 50] [--warmup 5] [--seed 1]
//        [--input NAME=FILE.npy]... [--save-inputs FOLDER] [--outputs FOLDER] [--size NAME=1x3x224x224]...
import { readFileSync, writeFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import ort from 'onnxruntime-node';

// onnxruntime's name, NumPy's name and the array of each element type.
const TYPES = [
  ['float32', '<f4', Float32Array],
  ['float64', '<f8', Float64Array],
  ['float16', '<f2', Uint16Array],
  ['int8', '|i1', Int8Array],
  ['uint8', '|u1', Uint8Array],
  ['int16', '<i2', Int16Array],
  ['uint16', '<u2', Uint16Array],
  ['int32', '<i4', Int32Array],
  ['uint32', '<u4', Uint32Array],
  ['int64', '<i8', BigInt64Array],
  ['uint64', '<u8', BigUint64Array],
  ['bool', '|b1', Uint8Array],
];

function typeBy(column, value) {
  const type = TYPES.find((row) => row[column] === value);
  if (!type) throw new Error(`element type ${value} is not supported`);
  return type;
}

function readNpy(path) {
  const bytes = readFileSync(path);
  if (bytes.toString('latin1', 1, 6) !== 'NUMPY') throw new Error(`${path}: is not a .npy file`);
  const start = bytes[6] === 1 ? 10 : 12;
  const end = start + (bytes[6] === 1 ? bytes.readUInt16LE(8) : bytes.readUInt32LE(8));
  const header = bytes.toString('latin1', start, end);
  if (header.includes('True')) throw new Error(`${path}: is in Fortran order`);
  const dims = header.match(/'shape':\s*\(([^)]*)\)/)[1].split(',').filter((s) => s.trim()).map(Number);
  const [name, , ArrayType] = typeBy(1, header.match(/'descr':\s*'([^']+)'/)[1]);
  const body = bytes.buffer.slice(bytes.byteOffset + end, bytes.byteOffset + bytes.byteLength);
  return new ort.Tensor(name, new ArrayType(body), dims);
}

function writeNpy(path, tensor) {
  const descr = typeBy(0, tensor.type)[1];
  const shape = tensor.dims.map((d) => `${d}, `).join('');
  let header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`;
  header += ' '.repeat(63 - ((10 + header.length) % 64)) + '\n';
  const prefix = Buffer.from('\x93NUMPY\x01\x00\x00\x00' + header, 'latin1');
  prefix.writeUInt16LE(header.length, 8);
  const { buffer, byteOffset, byteLength } = tensor.data;
  writeFileSync(path, Buffer.concat([prefix, Buffer.from(buffer, byteOffset, byteLength)]));
}

// mulberry32: the same numbers on every machine.
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function randomTensor(type, dims, random) {
  const [name, , ArrayType] = typeBy(0, type);
  const count = dims.reduce((a, b) => a * b, 1);
  const data = new ArrayType(count);
  const make = {
    float16: () => 0x3800 + Math.floor(random() * 0x400), // 0.5 … 1
    int64: () => BigInt(Math.floor(random() * 10)),
    uint64: () => BigInt(Math.floor(random() * 10)),
    bool: () => (random() < 0.5 ? 0 : 1),
  }[type];
  const next = make ?? (type.startsWith('float') ? () => random() * 2 - 1 : () => Math.floor(random() * 10));
  for (let i = 0; i < count; ++i) data[i] = next();
  return new ort.Tensor(name, data, dims);
}

const pairs = (list) => new Map((list ?? []).map((s) => [s.slice(0, s.indexOf('=')), s.slice(s.indexOf('=') + 1)]));
const milliseconds = () => Number(process.hrtime.bigint()) / 1e6;
// The file names of outputs: whatever a file system might mind becomes '_'.
const fileName = (name) => name.replace(/[^A-Za-z0-9._-]/g, '_') + '.npy';

async function main() {
  const text = (fallback) => ({ type: 'string', default: fallback });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      threads: text('1'), batch: text('1'), runs: text('50'), warmup: text('5'), seed: text('1'),
      input: { type: 'string', multiple: true }, size: { type: 'string', multiple: true },
      'save-inputs': { type: 'string' }, outputs: { type: 'string' },
    },
  });
  if (positionals.length !== 1) throw new Error('expected one model; see the top of this file');
  const files = pairs(values.input), sizes = pairs(values.size);

  const beforeSession = milliseconds();
  const session = await ort.InferenceSession.create(positionals[0], {
    executionProviders: ['cpu'],
    intraOpNumThreads: Number(values.threads),
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const sessionMs = milliseconds() - beforeSession;

  const random = randomFrom(Number(values.seed));
  const feeds = {};
  for (const { name, type, shape } of session.inputMetadata) {
    if (files.has(name)) {
      feeds[name] = readNpy(files.get(name));
      continue;
    }
    const given = sizes.get(name)?.split('x').map(Number);
    const dims = given ?? shape.map((d, i) => (typeof d === 'number' && d > 0 ? d : i === 0 ? Number(values.batch) : NaN));
    if (dims.some(Number.isNaN)) throw new Error(`input ${name} has open sizes [${shape}]: give --size ${name}=…`);
    feeds[name] = randomTensor(type, dims, random);
  }
  const save = (folder, tensors) => {
    mkdirSync(folder, { recursive: true });
    for (const [name, tensor] of Object.entries(tensors)) writeNpy(join(folder, fileName(name)), tensor);
  };
  if (values['save-inputs']) save(values['save-inputs'], feeds);

  const beforeFirst = milliseconds();
  let outputs = await session.run(feeds);
  const firstMs = milliseconds() - beforeFirst;
  for (let i = 0; i < Number(values.warmup); ++i) await session.run(feeds);
  const times = [];
  for (let i = 0; i < Number(values.runs); ++i) {
    const before = milliseconds();
    outputs = await session.run(feeds);
    times.push(milliseconds() - before);
  }
  if (values.outputs) save(values.outputs, outputs);
  times.sort((a, b) => a - b);
  const at = (share) => (times.length ? times[Math.min(times.length - 1, Math.floor(share * times.length))] : null);
  console.log(JSON.stringify({
    runtime: 'onnxruntime', version: ort.env.versions.node ?? ort.env.versions.common,
    model: positionals[0], threads: Number(values.threads), runs: times.length,
    median_ms: at(0.5), min_ms: at(0), p95_ms: at(0.95), session_ms: sessionMs, first_run_ms: firstMs,
    peak_rss_mib: process.resourceUsage().maxRSS / 1024,
    inputs: Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, fileName(name)])),
    outputs: Object.keys(outputs).map(fileName),
  }));
}

main().catch((error) => {
  console.error(`ort_time: error: ${error.message}`);
  process.exit(1);
});
