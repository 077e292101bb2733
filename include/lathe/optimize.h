// Making a network fit, as `lathe quantize` and `lathe optimize` do: files in, files out, with what was measured.
//
//   lathe::QuantizeReport q = lathe::quantize_model("net.onnx", "int8.onnx", {.data = "pictures"});
//   lathe::OptimizeReport r = lathe::optimize_model("net.onnx", "out", {.data = "pictures", .budget = "drop<=1%"});
//   if (r.met) use("out/model.onnx");   // r.speedup times as fast
//
// Everything throws lathe::Error; nothing is written when it does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lathe/error.h"
#include "lathe/export.h"

namespace lathe {

// How pictures become inputs; empty: MODEL.preprocess.json beside the model, else ImageNet's customary steps.
struct PictureSteps {
  std::string file = {};         // JSON instead of the one beside the model
  std::vector<float> mean = {}, std = {};  // one for all colours, or three
  std::optional<float> scale = std::nullopt;  // before mean and deviation; 1/255 where nothing is said
  int resize = 0;                // shorter side before the crop; 0: 256/224 of the crop
  bool stretch = false;          // instead of cropping
};

struct QuantizeSettings {
  std::string scheme = {};  // docs/QUANTIZE.md; "": w:int8,gptq a:uint8,mse bias
  std::string data = {};    // a folder of pictures or arrays, or one .npy or .npz file; "" where the scheme needs none
  PictureSteps pictures = PictureSteps();
  int64_t samples = 64;     // at most, drawn by `seed`
  uint64_t seed = 1;
  int threads = 1;
  std::function<void(const std::string& stage, double part)> progress = nullptr;
};

struct QuantizedLayerReport {
  std::string name, op;
  std::string weights;         // "int8", "codebook:4"; "float": left as it was
  bool on_codes = false;       // its activations are codes too
  double weight_noise = 0;     // squared error of the weights over their squares
  int64_t storage_bits = 0;
};

struct QuantizeReport {
  std::string scheme;
  size_t samples = 0;
  std::vector<QuantizedLayerReport> layers;
  std::vector<std::string> notices;
};

// Reads an ONNX file and writes a standard ONNX file. kUsage: an unknown scheme, or one that needs samples where there are none;
// kModel: nothing to quantize, or values that are not finite.
LATHE_API QuantizeReport quantize_model(const std::string& model, const std::string& output, const QuantizeSettings& settings = {});

struct OptimizeSettings {
  std::string data = {};                           // as above
  std::string labels = {}, budget = {}, metric = {};  // docs/OPTIMIZE.md; "": as there
  PictureSteps pictures = PictureSteps();
  std::vector<std::string> techniques = {}, exclude = {};  // by key
  std::string store = {};                          // file of measurements, which a later search goes on from; "": none
  int threads = 1, trials = 40;
  double seconds = 600;                            // of the search
  uint64_t seed = 1;
  bool replace = false;                            // an earlier result in the folder
  std::function<void(const std::string& stage, double part)> progress = nullptr;
  std::function<bool()> stop = nullptr;            // true: end with what there is
};

struct OptimizeReport {
  bool met = false;                 // a candidate meets the budget; else the folder holds the report alone
  std::string techniques;           // of the best: "int8", "original"
  double speedup = 1, speedup_low = 1, speedup_high = 1;  // over the original in fp32, with its 95 % interval
  double latency_ms = 0, size_ratio = 1;
  std::optional<double> drop;       // of the metric, as a share
  std::string reason;               // why this one
  std::string json;                 // report.json
};

// Writes `folder` (model.onnx, model.lathe, report.html, report.json), which must not exist.
LATHE_API OptimizeReport optimize_model(const std::string& model, const std::string& folder, const OptimizeSettings& settings);

}  // namespace lathe
