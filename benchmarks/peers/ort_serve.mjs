// Runs one ONNX model in ONNX Runtime for another program, one request after the other.
//
//   node ort_serve.mjs MODEL [THREADS [all|disabled]]
//
// `disabled` runs every node as it stands: no QuantizeLinear is absorbed into an integer kernel. First a line of JSON: what the model takes and gives. Then, for each request on stdin, an answer on stdout.
// Both are a line of JSON, [{"name", "type", "dims"}, ...], and then the little-endian elements of all those
// tensors, one after the other. A failed run answers {"error": text}.
import { readSync, writeSync } from 'node:fs';
import * as ort from 'onnxruntime-node';

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

function read(size) {  // exactly so many bytes, or null at the end of the input
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size;) {
    const count = readSync(0, bytes, at, size - at);
    if (count === 0) return null;
    at += count;
  }
  return bytes;
}

function readLine() {
  const line = [];
  for (;;) {
    const byte = read(1);
    if (byte === null) return null;
    if (byte[0] === 10) return Buffer.from(line).toString();
    line.push(byte[0]);
  }
}

function write(bytes) {
  for (let at = 0; at < bytes.length;) at += writeSync(1, bytes, at);
}

const answer = (object) => write(Buffer.from(JSON.stringify(object) + '\n'));

const session = await ort.InferenceSession.create(process.argv[2], {
  graphOptimizationLevel: process.argv[4] ?? 'all', executionMode: 'sequential',
  intraOpNumThreads: Number(process.argv[3] ?? 1), interOpNumThreads: 1, executionProviders: ['cpu'], logSeverityLevel: 3,
});
const plain = (list) => list.map(({ name, type, shape }) => ({ name, type, shape: [...shape] }));
answer({ inputs: plain(session.inputMetadata), outputs: plain(session.outputMetadata) });

for (let line; (line = readLine()) !== null;) {
  const feeds = {};
  for (const { name, type, dims } of JSON.parse(line)) {
    const size = dims.reduce((a, b) => a * b, 1) * ARRAYS[type].BYTES_PER_ELEMENT;
    const bytes = read(size);
    feeds[name] = new ort.Tensor(type, new ARRAYS[type](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + size)), dims);
  }
  try {
    const outputs = await session.run(feeds);
    answer(session.outputNames.map((name) => ({ name, type: outputs[name].type, dims: [...outputs[name].dims] })));
    for (const name of session.outputNames) {
      const { buffer, byteOffset, byteLength } = outputs[name].data;
      write(Buffer.from(buffer, byteOffset, byteLength));
    }
  } catch (error) {
    answer({ error: String(error.message ?? error) });
  }
}
